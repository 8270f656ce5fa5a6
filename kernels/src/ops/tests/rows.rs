//! Operations on rows against the oracle, and their formulas against numbers worked out by hand.

use super::*;

/// Asserts `|a − b| ≤ relative · |b| + absolute`.
fn assert_near(a: &[f32], b: &[f32], relative: f32, absolute: f32, what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let close = (a - b).abs() <= relative * b.abs() + absolute;
        assert!(close, "{what} at {i}: {a} for {b}");
    }
}

/// Values from tiny to where exp leaves f32, and plenty in between.
fn gates() -> Vec<f32> {
    let mut x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.025).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4, 3e38]);
    x
}

/// Rounding: f32 sums of n squares in 16 lanes are off by at most `(n/16 + 1) · 2⁻²⁴` in relative terms, the root
/// halves that, and three more roundings follow.
#[test]
fn rms_norm_is_near_the_oracle() {
    let mut oracle = kernels(Isa::Portable, 1).unwrap();
    for isa in FAST {
        let Some(mut fast) = kernels(isa, 2) else {
            continue;
        };
        for dim in [1, 3, 8, 17, 64, 4096] {
            let (mut x, weight) = (noise(1, dim * 5), noise(2, dim));
            x[..dim].fill(0.0);
            let (mut ours, mut exact) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            fast.rms_norm(&x, &weight, 1e-5, &mut ours);
            oracle.rms_norm(&x, &weight, 1e-5, &mut exact);
            let relative = (dim as f32 / 32.0 + 5.0) * 2_f32.powi(-24);
            assert_near(&ours, &exact, relative, 0.0, "rms_norm");
            fast.rms_norm_in_place(&mut x, &weight, 1e-5);
            assert_eq!(bits(&x), bits(&ours), "in place is the same");
        }
    }
}

#[test]
fn rms_norm_by_hand() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let mut y = [0.0; 4];
        // Mean square (9 + 16) / 2 = 12.5; eps makes it 16.
        kernels.rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 3.5, &mut y);
        assert_eq!(bits(&y), bits(&[0.75, 2.0, 0.0, 0.0]));
    }
}

/// exp is good to 3 units, and an addition, a division and a product follow: 6 · 2⁻²³ in relative terms. GELU's
/// argument has four roundings, which exp multiplies with its size; below −87 both give numbers too small to matter.
#[test]
fn gates_are_near_the_oracle() {
    let mut oracle = kernels(Isa::Portable, 1).unwrap();
    let gate = gates();
    let up = noise(5, gate.len());
    for isa in FAST {
        let Some(mut fast) = kernels(isa, 2) else {
            continue;
        };
        let (mut ours, mut exact) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
        let split = GateUp::Split {
            gate: &gate,
            up: &up,
        };
        fast.silu_mul(split, &mut ours);
        oracle.silu_mul(split, &mut exact);
        assert_near(&ours, &exact, 6.0 * 2_f32.powi(-23), 1e-35, "silu");
        fast.gelu_tanh_mul(split, &mut ours);
        oracle.gelu_tanh_mul(split, &mut exact);
        for ((ours, exact), x) in ours.iter().zip(&exact).zip(&gate) {
            let inner = (1.6 * (x + 0.0447 * x.powi(3))).abs().min(90.0);
            let relative = (6.0 + 4.0 * inner) * 2_f32.powi(-23);
            // The oracle's `1 + tanh` cancels down to half a unit of f64.
            let absolute = 2_f32.powi(-52) * x.abs() + 1e-30;
            assert_near(&[*ours], &[*exact], relative, absolute, "gelu");
        }
    }
}

#[test]
fn fused_and_split_gates_are_the_same() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 2) else {
            continue;
        };
        let (columns, half) = (5, 37);
        let x = noise(6, columns * 2 * half);
        let part = |first: usize| -> Vec<f32> {
            x.chunks(2 * half)
                .flat_map(|row| row[first..first + half].to_vec())
                .collect()
        };
        let (gate, up) = (part(0), part(half));
        let (mut a, mut b) = (vec![0.0; columns * half], vec![0.0; columns * half]);
        kernels.silu_mul(GateUp::Fused { x: &x, half }, &mut a);
        kernels.silu_mul(
            GateUp::Split {
                gate: &gate,
                up: &up,
            },
            &mut b,
        );
        assert_eq!(bits(&a), bits(&b));
        kernels.gelu_tanh_mul(GateUp::Fused { x: &x, half }, &mut a);
        kernels.gelu_tanh_mul(
            GateUp::Split {
                gate: &gate,
                up: &up,
            },
            &mut b,
        );
        assert_eq!(bits(&a), bits(&b));
    }
}

#[test]
fn sums_are_exact_and_shared_work_is_the_same() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 3) else {
            continue;
        };
        let (x, bias) = (noise(7, 40_001), noise(8, 40_001));
        let expected: Vec<f32> = x.iter().zip(&bias).map(|(a, b)| a + b).collect();
        let mut y = x.clone();
        kernels.add(&mut y, &bias);
        assert_eq!(bits(&y), bits(&expected));
        let mut y = x.clone();
        kernels.add_bias(&mut y, &bias);
        assert_eq!(bits(&y), bits(&expected));
        let mut y = [1.0, 2.0, 3.0, 4.0];
        kernels.add_bias(&mut y, &[10.0, 20.0]);
        assert_eq!(bits(&y), bits(&[11.0, 22.0, 13.0, 24.0]));
    }
}

#[test]
fn rope_rotates_pairs_and_leaves_the_rest() {
    // A quarter turn for the first pair, none for the second; the last two dimensions do not rotate.
    let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut x = [head, head].concat();
        kernels.rope(&mut x, 2, 6, RopeStyle::Adjacent, &cos, &sin);
        assert_eq!(x, [[-2.0, 1.0, 3.0, 4.0, 5.0, 6.0]; 2].concat());
        let mut x = [head, head].concat();
        kernels.rope(&mut x, 2, 6, RopeStyle::Halves, &cos, &sin);
        assert_eq!(x, [[-3.0, 2.0, 1.0, 4.0, 5.0, 6.0]; 2].concat());
    }
}

/// The compiler may not fuse these products, so all instruction sets round alike.
#[test]
fn rope_has_the_same_bits_everywhere() {
    let inv_freq: Vec<f64> = (0..24)
        .map(|i| 10_000_f64.powf(f64::from(i) / -24.0))
        .collect();
    let positions: Vec<u32> = (0..9).map(|i| i * 1000).collect();
    let (mut cos, mut sin) = (vec![0.0; 9 * 24], vec![0.0; 9 * 24]);
    rope_table(&positions, &inv_freq, 1.0, &mut cos, &mut sin);
    for style in [RopeStyle::Adjacent, RopeStyle::Halves] {
        let rotated = |isa, threads| {
            kernels(isa, threads).map(|mut kernels| {
                let mut x = noise(9, 9 * 40 * 50);
                kernels.rope(&mut x, 40, 50, style, &cos, &sin);
                bits(&x)
            })
        };
        let expected = rotated(Isa::Portable, 1).unwrap();
        for isa in Isa::ALL {
            for threads in [1, 3] {
                if let Some(x) = rotated(isa, threads) {
                    assert!(x == expected, "{isa} {style:?}");
                }
            }
        }
    }
}

#[test]
fn rope_tables_are_computed_in_f64() {
    let (mut cos, mut sin) = ([0.0; 4], [0.0; 4]);
    rope_table(&[0, 100_003], &[1.0, 0.1], 2.0, &mut cos, &mut sin);
    let expected = |angle: f64| ((2.0 * angle.cos()) as f32, (2.0 * angle.sin()) as f32);
    for (i, angle) in [0.0, 0.0, 100_003.0, 100_003.0 * 0.1]
        .into_iter()
        .enumerate()
    {
        assert_eq!((cos[i], sin[i]), expected(angle));
    }
}

#[test]
fn softmax_weights_are_near_the_formula() {
    let mut x = noise(91, 1000);
    for x in &mut x {
        *x *= 40.0;
    }
    x[3] = f32::NEG_INFINITY;
    x[5] = f32::NAN;
    x[7] = -1e30;
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for temperature in [0.7, 1.0, 1e-30] {
            let mut y = vec![f32::NAN; x.len()];
            super::softmax_weights(isa, &x, max, temperature, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from((x - max) / temperature);
                let exact = if exact >= -87.0 { exact.exp() } else { 0.0 };
                assert!(
                    (f64::from(*y) - exact).abs() <= exact * 4e-7,
                    "{isa}: {y} for {exact}"
                );
            }
        }
    }
}
