//! Operations on rows: plain loops that the compiler vectorizes, with reductions in explicit lanes.

use std::arch::x86_64::{
    __m256, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_max_epu32, _mm_shuffle_epi32,
    _mm256_add_epi32, _mm256_and_ps, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_max_epu32,
    _mm256_mul_ps, _mm256_packs_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::load_ps;

/// Wrapping sum of 64-bit words.
#[target_feature(enable = "avx2")]
pub(crate) fn sum_words(buffer: &[u8]) -> u64 {
    crate::portable::sum_words(buffer)
}

/// `y += x`
#[target_feature(enable = "avx2")]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// See `portable::rms_norm`. The sum of squares is in 16 lanes of f32.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = rms_inverse(x, eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * weight;
    }
}

/// See `portable::rms_norm_in_place`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = rms_inverse(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * inverse * weight;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + exp(-gate)) * up;
    }
}

/// See `portable::gelu_tanh_mul`, rewritten by `(1 + tanh u) / 2 = 1 / (1 + exp(−2u))`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    // 2 · sqrt(2 / π)
    const TWICE: f32 = 1.595_769;
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        let inner = TWICE * (gate + 0.044_715 * gate * gate * gate);
        *y = gate / (1.0 + exp(-inner)) * up;
    }
}

/// See `portable::rope_adjacent`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// See `portable::rope_halves`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rope_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// eˣ without a branch, to some 3 units in the last place (an estimate; the gates' tests hold 6) for x in −87..=88;
/// beyond, the value at the nearer end. NaN stays.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; the Taylor polynomial of degree 7 leaves out `r⁸/8! < 6e-9`, and Horner's
/// scheme with fused steps rounds to about 1.5 units. Source: Muller, "Elementary Functions", section 11.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
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
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, coefficient);
    }
    let power = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(power)
}

/// A column as 16-bit codes: `scale = max|x| / 32767` per 128 values, `code = round(x / scale)`, and `scale · Σ code`
/// per 16.
///
/// A group with a value that is not finite gets the scale NaN, so that the fault shows in every product.
/// **Shapes** `codes`: padded to whole groups, which are zero past the end of `x`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn quantize_column(x: &[f32], codes: &mut [i16], scales: &mut [f32], sums: &mut [f32]) {
    let (codes, _) = codes.as_chunks_mut::<128>();
    let (sums, _) = sums.as_chunks_mut::<8>();
    for (i, ((codes, scale), sums)) in codes.iter_mut().zip(scales).zip(sums).enumerate() {
        let x = &x[(i * 128).min(x.len())..];
        let mut padded = [0.0; 128];
        let x = x.first_chunk::<128>().unwrap_or_else(|| {
            padded[..x.len()].copy_from_slice(x);
            &padded
        });
        *scale = quantize_group(x, codes, sums);
    }
}

/// One group of 128; returns its scale.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn quantize_group(x: &[f32; 128], codes: &mut [i16; 128], sums: &mut [f32; 8]) -> f32 {
    // Magnitudes compare as integers, where infinity and NaN are the greatest.
    let sign_off = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    let mut largest = _mm256_setzero_si256();
    for x in x.as_chunks::<8>().0 {
        let magnitude = _mm256_castps_si256(_mm256_and_ps(load_ps(x), sign_off));
        largest = _mm256_max_epu32(largest, magnitude);
    }
    let largest = f32::from_bits(max_lane(largest));
    let inverse = 32767.0 / largest;
    if !largest.is_finite() || !inverse.is_finite() {
        // Not a number; or all zeros, or so near that their products vanish in f32.
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        *codes = [0; 128];
        *sums = [scale; 8];
        return scale;
    }
    let inverse = _mm256_set1_ps(inverse);
    let scale = largest / 32767.0;
    let groups = x
        .as_chunks::<16>()
        .0
        .iter()
        .zip(codes.as_chunks_mut::<16>().0);
    for ((x, codes), sum) in groups.zip(sums) {
        let (x, _) = x.as_chunks::<8>();
        let round = |x: __m256| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
        let q: [__m256i; 2] = [round(load_ps(&x[0])), round(load_ps(&x[1]))];
        *sum = scale * sum_lanes_i32(_mm256_add_epi32(q[0], q[1])) as f32;
        // Packing works within 128-bit halves: the quarters are put back in order. 32767.002 rounds to 32767.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(q[0], q[1]));
        // SAFETY: 32 writable bytes; the store is unaligned.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), words) };
    }
    scale
}

#[inline]
#[target_feature(enable = "avx2")]
fn max_lane(x: __m256i) -> u32 {
    let x = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    _mm_cvtsi128_si32(x).cast_unsigned()
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes_i32(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    _mm_cvtsi128_si32(x)
}
