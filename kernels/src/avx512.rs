//! The integer dot product for AVX-512 with VNNI. Everything else on such machines is the AVX2 code.
//!
//! Line by line the counterpart of `avx2::dot_codes`, on 64 codes a step instead of 32.

#![allow(unsafe_code, reason = "SIMD loads go through pointers")]

use std::arch::x86_64::{
    _mm_loadu_ps, _mm256_add_ps, _mm256_sub_ps, _mm512_abs_epi8, _mm512_castps128_ps512,
    _mm512_castps512_ps256, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_extractf32x8_ps,
    _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mask_sub_epi8, _mm512_movepi8_mask, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
};

use crate::avx2::{dot_mins, sum_lanes};
use crate::ops::{Column, PlaneRow};

/// Codes in one step.
const STEP: usize = 64;

/// See `avx2::dot_codes`.
///
/// `dpbusd` multiplies |w| (unsigned, at most 128) with x, negated where w is negative, and adds four products to 32
/// bits without saturation. Lanes 4g to 4g+3 then hold group *g* of 16, of four in a step.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn dot_codes<const R: usize, const C: usize>(
    w: &[PlaneRow<'_>; R],
    x: &[Column<'_>; C],
) -> [[f32; R]; C] {
    let steps = x[0].codes.len() / STEP;
    assert!(x[0].codes.len().is_multiple_of(STEP));
    for w in w {
        assert!(w.codes.len() >= steps * STEP);
        assert!(w.scales.len() >= steps * 4);
    }
    for x in x {
        assert!(x.codes.len() >= steps * STEP);
        assert!(x.scales.len() >= steps * 4);
    }
    let zero = _mm512_setzero_si512();
    let by_16 = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sums = [[_mm512_setzero_ps(); R]; C];
    for step in 0..steps {
        for r in 0..R {
            // SAFETY: `step < steps`, and each array holds a step's share for all steps, as asserted above: 64 codes
            // and four scales of a row.
            let (codes, scales) = unsafe {
                let codes = w[r].codes.as_ptr().add(step * STEP);
                let scales = w[r].scales.as_ptr().add(step * 4);
                (_mm512_loadu_si512(codes.cast()), _mm_loadu_ps(scales))
            };
            let magnitudes = _mm512_abs_epi8(codes);
            let negative = _mm512_movepi8_mask(codes);
            let scales = _mm512_permutexvar_ps(by_16, _mm512_castps128_ps512(scales));
            for c in 0..C {
                // SAFETY: as above: 64 codes and four scales of a column.
                let (x_codes, x_scales) = unsafe {
                    let codes = x[c].codes.as_ptr().add(step * STEP);
                    let scales = x[c].scales.as_ptr().add(step * 4);
                    (_mm512_loadu_si512(codes.cast()), _mm_loadu_ps(scales))
                };
                let x_codes = _mm512_mask_sub_epi8(x_codes, negative, zero, x_codes);
                let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(zero, magnitudes, x_codes));
                let x_scales = _mm512_permutexvar_ps(by_16, _mm512_castps128_ps512(x_scales));
                let scale = _mm512_mul_ps(scales, x_scales);
                sums[c][r] = _mm512_fmadd_ps(products, scale, sums[c][r]);
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for c in 0..C {
        for r in 0..R {
            let (low, high) = (
                _mm512_castps512_ps256(sums[c][r]),
                _mm512_extractf32x8_ps::<1>(sums[c][r]),
            );
            let sum = _mm256_sub_ps(_mm256_add_ps(low, high), dot_mins(&w[r], &x[c]));
            out[c][r] = sum_lanes(sum);
        }
    }
    out
}
