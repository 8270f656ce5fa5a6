//! Dot products of a tile: `R` rows of weights with `C` columns.
//!
//! Every (row, column) has its own accumulators and its own fixed order of operations, so a tile of any size gives the
//! same bits as one row with one column.

use std::arch::x86_64::{
    __m256, _mm_loadl_epi64, _mm256_abs_epi8, _mm256_add_ps, _mm256_broadcastq_epi64,
    _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_permutevar8x32_ps,
    _mm256_set1_epi16, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_sign_epi8, _mm256_sub_ps,
};

use super::{load_ps, sum_lanes};
use crate::ops::{Column, PlaneRow};

/// Codes in one step.
const STEP: usize = 32;

/// `Σ scale_w · scale_x · (code_w · code_x) − Σ min · sum_x`, as `[C][R]`.
///
/// A step multiplies 32 codes: |w| (unsigned, at most 128) times x with the sign of w (at most 127), added in pairs to
/// 16 bits (at most 2 · 128 · 127 = 32 512, so nothing saturates), then to 32 bits. Lanes 0 to 3 then hold the first
/// group of 16 and lanes 4 to 7 the second, which is where each group's scale is put.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn dot_codes<const R: usize, const C: usize>(
    w: &[PlaneRow<'_>; R],
    x: &[Column<'_>; C],
) -> [[f32; R]; C] {
    let steps = x[0].codes.len() / STEP;
    for w in w {
        assert!(w.codes.len() >= steps * STEP);
        assert!(w.scales.len() >= steps * 2);
    }
    for x in x {
        assert!(x.codes.len() >= steps * STEP);
        assert!(x.scales.len() >= steps * 2);
    }
    let ones = _mm256_set1_epi16(1);
    let first_and_second = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    let mut sums = [[_mm256_setzero_ps(); R]; C];
    for step in 0..steps {
        for r in 0..R {
            // SAFETY: `step < steps`, and each array holds a step's share for all steps, as asserted above: 32 codes
            // and two scales of a row.
            let (codes, scales) = unsafe {
                let codes = w[r].codes.as_ptr().add(step * STEP);
                let scales = w[r].scales.as_ptr().add(step * 2);
                (
                    _mm256_loadu_si256(codes.cast()),
                    _mm_loadl_epi64(scales.cast()),
                )
            };
            let magnitudes = _mm256_abs_epi8(codes);
            let pair = _mm256_castsi256_ps(_mm256_broadcastq_epi64(scales));
            let scales = _mm256_permutevar8x32_ps(pair, first_and_second);
            for c in 0..C {
                // SAFETY: as above: 32 codes and two scales of a column.
                let (x_codes, x_scales) = unsafe {
                    let codes = x[c].codes.as_ptr().add(step * STEP);
                    let scales = x[c].scales.as_ptr().add(step * 2);
                    (
                        _mm256_loadu_si256(codes.cast()),
                        _mm_loadl_epi64(scales.cast()),
                    )
                };
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x_codes, codes));
                let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
                let x_pair = _mm256_castsi256_ps(_mm256_broadcastq_epi64(x_scales));
                let x_scales = _mm256_permutevar8x32_ps(x_pair, first_and_second);
                let scale = _mm256_mul_ps(scales, x_scales);
                sums[c][r] = _mm256_fmadd_ps(products, scale, sums[c][r]);
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for c in 0..C {
        for r in 0..R {
            out[c][r] = sum_lanes(_mm256_sub_ps(sums[c][r], dot_mins(&w[r], &x[c])));
        }
    }
    out
}

/// `Σ min · sum_x` in eight lanes; zero for a format without mins.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn dot_mins(w: &PlaneRow<'_>, x: &Column<'_>) -> __m256 {
    let mut sum = _mm256_setzero_ps();
    for (mins, sums) in w
        .mins
        .as_chunks::<8>()
        .0
        .iter()
        .zip(x.sums.as_chunks::<8>().0)
    {
        sum = _mm256_fmadd_ps(load_ps(mins), load_ps(sums), sum);
    }
    sum
}

/// `Σ w · x` for floats, as `[C][R]`: two accumulators of eight lanes each, then the tail one by one.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn dot_floats<const R: usize, const C: usize>(
    w: &[&[f32]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    let mut out = [[0.0; R]; C];
    for c in 0..C {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        let (x_pairs, x_tail) = x[c].as_chunks::<16>();
        for (i, x) in x_pairs.iter().enumerate() {
            let [x0, x1] = halves(x);
            for r in 0..R {
                let [w0, w1] = halves(&w[r].as_chunks::<16>().0[i]);
                sums[r][0] = _mm256_fmadd_ps(load_ps(w0), load_ps(x0), sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(load_ps(w1), load_ps(x1), sums[r][1]);
            }
        }
        for r in 0..R {
            let tail = w[r].as_chunks::<16>().1.iter().zip(x_tail);
            let sum = sum_lanes(_mm256_add_ps(sums[r][0], sums[r][1]));
            out[c][r] = tail.fold(sum, |sum, (w, x)| w.mul_add(*x, sum));
        }
    }
    out
}

#[inline(always)]
fn halves(x: &[f32; 16]) -> [&[f32; 8]; 2] {
    let (halves, _) = x.as_chunks::<8>();
    [&halves[0], &halves[1]]
}
