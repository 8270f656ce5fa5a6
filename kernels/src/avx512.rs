//! The integer dot product for AVX-512 with VNNI. Everything else on such machines is the AVX2 code.
//!
//! Line by line the counterpart of `avx2::dot_codes`, on 32 codes a step instead of 16.

#![allow(unsafe_code, reason = "SIMD loads go through pointers")]

use std::arch::x86_64::{
    _mm_castsi128_ps, _mm_loadl_epi64, _mm256_add_ps, _mm256_loadu_si256, _mm256_sub_ps,
    _mm512_castps128_ps512, _mm512_castps512_ps256, _mm512_cvtepi8_epi16, _mm512_cvtepi32_ps,
    _mm512_dpwssd_epi32, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_si512,
    _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512,
};

use crate::avx2::{dot_mins, sum_lanes};
use crate::ops::{COLUMN_GROUP, Column, PlaneRow};
use crate::quant::GROUP;

/// Codes in one step: two groups of weights.
const STEP: usize = 2 * GROUP;

/// Steps that share a column's scale.
const STEPS: usize = COLUMN_GROUP / STEP;

/// See `avx2::dot_codes`.
///
/// `dpwssd` multiplies 16-bit codes and adds pairs to 32 bits. Lanes 0 to 7 then hold the first group of 16 and lanes 8
/// to 15 the second, which is where each group's scale is put.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn dot_codes<const R: usize, const C: usize>(
    w: &[PlaneRow<'_>; R],
    x: &[Column<'_>; C],
) -> [[f32; R]; C] {
    let groups = x[0].scales.len();
    for w in w {
        assert!(w.codes.len() >= groups * COLUMN_GROUP);
        assert!(w.scales.len() >= groups * STEPS * 2);
    }
    for x in x {
        assert!(x.codes.len() >= groups * COLUMN_GROUP);
        assert!(x.scales.len() >= groups);
    }
    let zero = _mm512_setzero_si512();
    let first_and_second = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    let mut sums = [[_mm512_setzero_ps(); R]; C];
    for group in 0..groups {
        let mut parts = [[_mm512_setzero_ps(); R]; C];
        for step in group * STEPS..(group + 1) * STEPS {
            for r in 0..R {
                // SAFETY: `step < groups · STEPS`, and each row holds 32 codes and two scales (eight bytes) for each,
                // as asserted above.
                let (codes, scales) = unsafe {
                    let codes = w[r].codes.as_ptr().add(step * STEP);
                    let scales = w[r].scales.as_ptr().add(step * 2);
                    (
                        _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast())),
                        _mm_loadl_epi64(scales.cast()),
                    )
                };
                let scales = _mm512_castps128_ps512(_mm_castsi128_ps(scales));
                let scales = _mm512_permutexvar_ps(first_and_second, scales);
                for c in 0..C {
                    // SAFETY: as above: 32 codes of a column.
                    let x_codes =
                        unsafe { _mm512_loadu_si512(x[c].codes.as_ptr().add(step * STEP).cast()) };
                    let products = _mm512_cvtepi32_ps(_mm512_dpwssd_epi32(zero, codes, x_codes));
                    parts[c][r] = _mm512_fmadd_ps(products, scales, parts[c][r]);
                }
            }
        }
        for c in 0..C {
            let scale = _mm512_set1_ps(x[c].scales[group]);
            for r in 0..R {
                sums[c][r] = _mm512_fmadd_ps(parts[c][r], scale, sums[c][r]);
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
