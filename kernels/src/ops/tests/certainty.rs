//! Certainty against sums in f64, within the bounds that its doc states.

use super::*;

/// `(log_sum, entropy, p₁, p₂)` as the formulas read.
fn exact(logits: &[f32]) -> [f64; 4] {
    let possible = || {
        let possible = logits.iter().filter(|x| **x > f32::NEG_INFINITY);
        possible.map(|x| f64::from(*x))
    };
    let max = possible().fold(f64::NEG_INFINITY, f64::max);
    let z: f64 = possible().map(|x| (x - max).exp()).sum();
    let mut p: Vec<f64> = possible().map(|x| (x - max).exp() / z).collect();
    let entropy = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    p.sort_by(f64::total_cmp);
    let p2 = p.iter().rev().nth(1).copied().unwrap_or(0.0);
    [z.ln(), entropy, z.recip(), p2]
}

/// Checks a row on every instruction set; returns the largest share of the bound that an error took.
///
/// Sums of a block of 1024 run in at least 8 lanes, so at most 128 + 6 roundings of 2⁻²⁴ add up: 8e-6 of a sum of one
/// sign. A weight is off by 3e-6 for the polynomial, 2⁻²³ for its roundings, and |y| · 2⁻²⁴ since y was rounded; what a
/// large |y| adds is weighed with its eʸ. Entropy is `ln Σ + Σ p · |x − max|`, both at least 0, the second at most the
fn check(logits: &[f32], what: &str) -> f64 {
    let [log_sum, entropy, p1, p2] = exact(logits);
    let mut worst = 0.0_f64;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let ours = super::certainty(isa, logits);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(ours.max, max, "{isa}, {what}");
        let first = logits.iter().position(|x| *x == max).unwrap();
        assert_eq!(ours.top as usize, first, "{isa}, {what}");
        let mut near = |name: &str, ours: f32, exact: f64, bound: f64| {
            let error = (f64::from(ours) - exact).abs();
            assert!(
                error <= bound,
                "{isa}, {what}: {name} is {ours} for {exact}"
            );
            worst = worst.max(error / bound);
        };
        near("log_sum", ours.log_sum, log_sum, 1.5e-5);
        near("entropy", ours.entropy, entropy, 3e-5 * (1.0 + entropy));
        near("top1", ours.top1, p1, 1.5e-5 * p1);
        near("top2", ours.top2, p2, 1.5e-5 * p2 + 1e-38);
        assert_eq!(ours.logprob(max), -ours.log_sum);
        let again = super::certainty(isa, logits);
        assert_eq!(ours.entropy.to_bits(), again.entropy.to_bits());
        assert_eq!(ours.log_sum.to_bits(), again.log_sum.to_bits());
    }
    worst
}

#[test]
fn seeded_noise_of_every_length_and_width_is_within_the_bound() {
    let mut worst = 0.0_f64;
    let lengths = (1..70).chain([1023, 1024, 1025, 2048, 4097, 32_000, 151_936, 262_144]);
    for len in lengths {
        for (seed, width) in [(1, 0.01), (2, 1.0), (3, 3.0), (4, 12.0), (5, 80.0)] {
            let x: Vec<f32> = noise(seed, len).iter().map(|x| x * width).collect();
            worst = worst.max(check(&x, &format!("{len} of width {width}")));
        }
    }
    println!("the worst error is {worst:.3} of its bound");
    assert!(worst > 0.0);
}

#[test]
fn extremes_are_within_the_bound() {
    let inf = f32::INFINITY;
    let mut rising: Vec<f32> = (0..9000).map(|i| i as f32 * 0.01).collect();
    check(&rising, "each block has a new maximum");
    rising.reverse();
    check(&rising, "the first is the greatest");
    check(&vec![0.0; 5000], "all alike");
    check(&[-3e38, 3e38, 0.0], "differences that leave f32");
    check(&[1e30, 1e30, -1e30], "two that are certain");
    check(&[f32::MIN_POSITIVE, -f32::MIN_POSITIVE], "tiny");
    check(&[7.0], "one");
    check(&[-inf, 2.0, -inf, 1.0], "the impossible");
    let mut x = noise(9, 5000);
    x[4999] = 40.0;
    x[0] = 40.0;
    check(&x, "two that lead, at the ends");
    x[0] = -inf;
    check(&x, "one that leads, at the end");
}

/// NaN counts as −∞: the same bits.
#[test]
fn nan_is_impossible_wherever_it_stands() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for len in [1, 2, 15, 17, 100, 2049, 6000] {
            let mut x = noise(len as u64, len);
            let mut y = x.clone();
            for at in (0..len).step_by(3) {
                (x[at], y[at]) = (f32::NAN, f32::NEG_INFINITY);
            }
            let (x, y) = (super::certainty(isa, &x), super::certainty(isa, &y));
            assert_eq!(format!("{x:?}"), format!("{y:?}"), "{isa}, {len}");
        }
    }
}

#[test]
fn where_nothing_is_possible_or_one_is_certain_there_is_no_entropy() {
    let inf = f32::INFINITY;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for row in [
            vec![f32::NAN; 3000],
            vec![-inf; 17],
            vec![-inf, f32::NAN],
            vec![0.0, inf, 3.0, inf],
        ] {
            let ours = super::certainty(isa, &row);
            assert_eq!(
                (ours.entropy, ours.top1, ours.top2, ours.log_sum),
                (0.0, 1.0, 0.0, 0.0)
            );
            assert_eq!(ours.top, u32::from(row[0] == 0.0));
            assert_eq!(ours.logprob(ours.max), 0.0);
            assert_eq!(ours.margin(), 1.0);
        }
        let ours = super::certainty(isa, &[0.0, inf]);
        assert_eq!(ours.logprob(0.0), -inf);
        assert_eq!(ours.logprob(f32::NAN), -inf);
    }
}

#[test]
fn numbers_by_hand() {
    // Weights 1, 1, 2 of 4: entropy 2 · ¼ ln 4 + ½ ln 2 = 1.5 ln 2.
    let ln_2 = std::f32::consts::LN_2;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let ours = super::certainty(isa, &[5.0, 5.0 + ln_2, 5.0]);
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{isa}: {a} for {b}");
        near(ours.entropy, 1.5 * ln_2);
        near(ours.top1, 0.5);
        near(ours.top2, 0.25);
        near(ours.margin(), 0.25);
        near(ours.logprob(5.0), -2.0 * ln_2);
        near(ours.log_z(), 5.0 + 2.0 * ln_2);
    }
}
