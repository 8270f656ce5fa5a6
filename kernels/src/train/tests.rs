//! Each gradient against differences of the function itself, in f64 where sums are long.

use super::*;
use crate::Format;
use crate::quant::random_row;

/// Uniform numbers of deviation 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut bytes = vec![0; len * 4];
    random_row(Format::F32, seed, 1.0, &mut bytes);
    let numbers = bytes.as_chunks().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Compares a gradient with (f(x + h) − f(x − h)) / 2h, where f is Σ weight · out.
fn check(what: &str, x: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> f64) {
    let h = 1e-2_f32;
    for at in 0..x.len() {
        let mut moved = x.to_vec();
        moved[at] = x[at] + h;
        let above = f(&moved);
        moved[at] = x[at] - h;
        let slope = (above - f(&moved)) / (2.0 * f64::from(h));
        let error = (slope - f64::from(gradient[at])).abs();
        // Of third order in h, and the rounding of f32 divided by h.
        assert!(
            error < 4e-3 * (1.0 + slope.abs()),
            "{what}[{at}]: {} is not {slope}",
            gradient[at]
        );
    }
}

fn weighted(out: &[f32], weights: &[f32]) -> f64 {
    out.iter()
        .zip(weights)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[test]
fn the_gradient_of_attention_is_its_slope() {
    let heads = Heads {
        queries: 4,
        keys: 2,
        dim: 6,
        rope_base: 100.0,
    };
    for len in [1, 2, 7] {
        let (q, k, v) = (noise(1, len * 24), noise(2, len * 12), noise(3, len * 12));
        let dout = noise(4, len * 24);
        let value = |q: &[f32], k: &[f32], v: &[f32]| {
            let mut out = vec![f32::NAN; len * 24];
            attention(&heads, q, k, v, &mut out);
            weighted(&out, &dout)
        };
        let [mut dq, mut dk, mut dv] = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
        attention_gradient(&heads, [&q, &k, &v], &dout, [&mut dq, &mut dk, &mut dv]);
        check("dq", &q, &dq, |q| value(q, &k, &v));
        check("dk", &k, &dk, |k| value(&q, k, &v));
        check("dv", &v, &dv, |v| value(&q, &k, v));
    }
}

#[test]
fn attention_sees_what_came_before_and_nothing_else() {
    let heads = Heads {
        queries: 1,
        keys: 1,
        dim: 4,
        rope_base: 1e4,
    };
    let (q, k, mut v) = (noise(1, 20), noise(2, 20), noise(3, 20));
    let run = |v: &[f32]| {
        let mut out = vec![f32::NAN; 20];
        attention(&heads, &q, &k, v, &mut out);
        out
    };
    let before = run(&v);
    assert_eq!(before[..4], v[..4], "the first token sees itself");
    v[12..16].fill(9.0);
    let after = run(&v);
    assert_eq!(before[..12], after[..12]);
    assert_ne!(before[12..], after[12..]);
}

#[test]
fn the_gradient_of_the_norm_is_its_slope() {
    let (x, weight, dout) = (noise(1, 40), noise(2, 8), noise(3, 40));
    let value = |x: &[f32], weight: &[f32]| {
        let mut out = vec![f32::NAN; 40];
        rms_norm(x, weight, 1e-5, &mut out);
        weighted(&out, &dout)
    };
    let (mut dx, mut dweight) = (vec![f32::NAN; 40], vec![0.0; 8]);
    rms_norm_gradient(&x, &weight, 1e-5, &dout, &mut dx, &mut dweight);
    check("dx", &x, &dx, |x| value(x, &weight));
    check("dweight", &weight, &dweight, |weight| value(&x, weight));
}

#[test]
fn the_gradient_of_the_gate_is_its_slope() {
    let (gate, up, dout) = (noise(1, 30), noise(2, 30), noise(3, 30));
    let value = |gate: &[f32], up: &[f32]| {
        let mut out = vec![f32::NAN; 30];
        swiglu(gate, up, &mut out);
        weighted(&out, &dout)
    };
    let (mut dgate, mut dup) = (vec![f32::NAN; 30], vec![f32::NAN; 30]);
    swiglu_gradient(&gate, &up, &dout, &mut dgate, &mut dup);
    check("dgate", &gate, &dgate, |gate| value(gate, &up));
    check("dup", &up, &dup, |up| value(&gate, up));
}

#[test]
fn the_gradient_of_the_loss_is_its_slope() {
    let logits = noise(1, 3 * 11);
    let (targets, weights) = ([4, 0, 10], [1.0, 0.0, 0.5]);
    let mut d = vec![f32::NAN; logits.len()];
    cross_entropy_gradient(&logits, &targets, &weights, 0.25, &mut d);
    check("dlogits", &logits, &d, |x| {
        0.25 * cross_entropy(x, &targets, &weights)
    });
    assert!(d[11..22].iter().all(|x| *x == 0.0), "a row without weight");
    let uniform = cross_entropy(&[0.0; 8], &[3], &[1.0]);
    assert!((uniform - 8_f64.ln()).abs() < 1e-6);
    assert_eq!(cross_entropy(&[], &[], &[]), 0.0);
}

/// By hand: at the first step both means are corrected to the gradient and its square, so a weight moves by the rate.
#[test]
fn the_first_step_is_the_rate_whatever_the_gradient() {
    let adam = AdamW::default();
    let (mut mean, mut square) = ([0.0; 3], [0.0; 3]);
    let mut weights = [1.0, 1.0, 1.0];
    let step = AdamWStep {
        number: 1,
        rate: 0.1,
        decay: 0.5,
        gradient_scale: 2.0,
    };
    adam.step(
        step,
        &mut weights,
        &[1e-3, -4.0, 0.0],
        &mut mean,
        &mut square,
    );
    let near = |a: f32, b: f32| (a - b).abs() < 1e-4;
    assert!(near(weights[0], 1.0 - 0.1 - 0.05) && near(weights[1], 1.0 + 0.1 - 0.05));
    assert!(near(weights[2], 0.95), "decay alone");
    assert!(near(mean[1], -0.8) && near(square[1], 0.05 * 64.0));
}
