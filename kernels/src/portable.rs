//! The oracle: each operation as its formula reads, with sums in f64.
//!
//! Every faster kernel is tested against this file, so nothing here is clever. Weights are exact, activations stay f32.

use crate::certainty::Sums;
use crate::ops::{AttentionShape, KvLayer, Query, UP_ROWS};

/// Σ a·b in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum::<f64>() as f32
}

/// Σ a·b in f64, with a in signed bytes.
pub(crate) fn dot_bytes(a: &[u8], b: &[f32]) -> f32 {
    let products = a.iter().zip(b);
    let products = products.map(|(a, b)| f64::from(a.cast_signed()) * f64::from(*b));
    products.sum::<f64>() as f32
}

/// `y += B h` for one panel: `[rank]` scales in f32, then `[rank][UP_ROWS]` signed bytes.
pub(crate) fn add_panel(panel: &[u8], h: &[f32], y: &mut [f32]) {
    let (scales, bytes) = panel.split_at(4 * h.len());
    let (scales, _) = scales.as_chunks::<4>();
    for (index, y) in y.iter_mut().enumerate() {
        let rows = bytes.chunks_exact(UP_ROWS).zip(scales).zip(h);
        let products = rows.map(|((row, scale), h)| {
            let weight =
                f64::from(row[index].cast_signed()) * f64::from(f32::from_le_bytes(*scale));
            weight * f64::from(*h)
        });
        *y += products.sum::<f64>() as f32;
    }
}

/// `y = x / sqrt(mean(x²) + eps) · weight`. Source: Zhang and Sennrich 2019, equation 4.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = rms_inverse(x, eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * weight;
    }
}

/// [`rms_norm`] with `y = x`.
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = rms_inverse(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * inverse * weight;
    }
}

fn rms_inverse(x: &[f32], eps: f32) -> f32 {
    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    (squares / x.len() as f64 + f64::from(eps)).sqrt().recip() as f32
}

/// `y += x`
#[inline(always)]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y = gate · sigmoid(gate) · up`
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        let x = f64::from(*gate);
        *y = (x / (1.0 + (-x).exp()) * f64::from(*up)) as f32;
    }
}

/// `y = gelu(gate) · up` with `gelu(x) = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
/// Source: Hendrycks and Gimpel 2016, section 2.
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        let x = f64::from(*gate);
        let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3));
        *y = (0.5 * x * (1.0 + inner.tanh()) * f64::from(*up)) as f32;
    }
}

/// Rotates one head: pairs `(2i, 2i+1)`. Source: Su et al. 2021, equation 34.
#[inline(always)]
pub(crate) fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// Rotates one head: pairs `(i, i + n)` for `n` angles.
#[inline(always)]
pub(crate) fn rope_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// Attention of the query heads of one column that share KV head `kv_head`.
///
/// Softmax over the visible positions by the running-maximum recurrence, one position at a time.
/// Source: Milakov and Gimelshein 2018, algorithm 3.
///
/// **Shapes** `q`, `out`: `[group, head_dim]`.
pub(crate) fn attention(
    shape: &AttentionShape,
    q: &[f32],
    kv: &KvLayer<'_>,
    kv_head: usize,
    (query, tables): (&Query, &[u32]),
    out: &mut [f32],
) {
    for (q, out) in q
        .chunks_exact(shape.head_dim)
        .zip(out.chunks_exact_mut(shape.head_dim))
    {
        let (mut maximum, mut total) = (f64::NEG_INFINITY, 0.0);
        out.fill(0.0);
        for position in shape.visible(query) {
            let (keys, values, offset) = kv.planes(query, tables, position, kv_head);
            let products = q.iter().enumerate().map(|(d, q)| {
                let (key, scale) = kv.key(keys, offset, d);
                f64::from(*q) * f64::from(key * scale)
            });
            let score = f64::from(products.sum::<f64>() as f32) * f64::from(shape.scale);
            let new_maximum = maximum.max(score);
            let shrink = (maximum - new_maximum).exp();
            let weight = (score - new_maximum).exp();
            total = total * shrink + weight;
            for (d, out) in out.iter_mut().enumerate() {
                let (value, scale) = kv.value(values, offset, d);
                *out = *out * shrink as f32 + weight as f32 * (value * scale);
            }
            maximum = new_maximum;
        }
        for out in out {
            *out /= total as f32;
        }
    }
}

/// Wrapping sum of the 64-bit words of a buffer; bytes past the last whole word are left out.
#[inline(always)]
pub(crate) fn sum_words(buffer: &[u8]) -> u64 {
    buffer
        .as_chunks()
        .0
        .iter()
        .fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// `y = exp((x − max) / temperature)`, or 0 where that is below e⁻⁸⁷ or x is NaN.
pub(crate) fn softmax_weights(x: &[f32], max: f32, temperature: f32, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        let x = (x - max) / temperature;
        *y = if x >= -87.0 { x.exp() } else { 0.0 };
    }
}

/// Σ eʸ and Σ y · eʸ with `y = x − max` over what is possible, the greatest logit and the one after it.
pub(crate) fn certainty_sums(logits: &[f32]) -> Sums {
    let mut sums = Sums::NONE;
    for (index, &x) in logits.iter().enumerate() {
        if x > sums.max {
            (sums.top, sums.runner_up, sums.max) = (index, sums.max, x);
        } else if x > sums.runner_up {
            sums.runner_up = x;
        }
    }
    for &x in logits {
        if x > f32::NEG_INFINITY {
            let y = f64::from(x) - f64::from(sums.max);
            sums.sum += y.exp();
            sums.weighted += y * y.exp();
        }
    }
    sums
}
