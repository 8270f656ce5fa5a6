//! Operations on rows in f32: plain loops, each inlined into a function that is compiled for an instruction set, where
//! they become vectors. Reductions are in explicit lanes, so that they mean the same everywhere.

/// See `portable::rms_norm`. The sum of squares is in 16 lanes of f32.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = rms_inverse(x, eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * weight;
    }
}

/// See `portable::rms_norm_in_place`.
#[inline(always)]
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = rms_inverse(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * inverse * weight;
    }
}

#[inline(always)]
fn rms_inverse(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.mul_add(*x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = x.mul_add(*x, *lane);
    }
    let squares: f64 = lanes.iter().map(|lane| f64::from(*lane)).sum();
    (squares / x.len() as f64 + f64::from(eps)).sqrt().recip() as f32
}

/// `gate · sigmoid(gate) · up`
#[inline(always)]
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + exp(-gate)) * up;
    }
}

/// See `portable::gelu_tanh_mul`, rewritten by `(1 + tanh u) / 2 = 1 / (1 + exp(−2u))`.
#[inline(always)]
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    // 2 · sqrt(2 / π)
    const TWICE: f32 = 1.595_769;
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        let inner = TWICE * (gate + 0.044_715 * gate * gate * gate);
        *y = gate / (1.0 + exp(-inner)) * up;
    }
}

/// See `portable::softmax_weights`.
#[inline(always)]
pub(crate) fn softmax_weights(x: &[f32], max: f32, temperature: f32, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        let x = (x - max) / temperature;
        *y = if x >= -87.0 { exp(x) } else { 0.0 };
    }
}

/// eˣ without a branch, to some 3 units in the last place (an estimate; the gates' tests hold 6) for x in −87..=88;
/// beyond, the value at the nearer end. NaN stays.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; the Taylor polynomial of degree 7 leaves out `r⁸/8! < 6e-9`, and Horner's
/// scheme with fused steps rounds to about 1.5 units. Source: Muller, "Elementary Functions", section 11.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits: 1.5 · 2²³.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in 9 bits so that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN passes: both comparisons are false.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 5_040.0;
    for coefficient in crate::floats::EXP_SERIES {
        p = r.mul_add(p, coefficient);
    }
    let power = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(power)
}
