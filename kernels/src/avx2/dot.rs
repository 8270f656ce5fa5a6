//! Dot products of a tile: `R` rows of weights with `C` columns.
//!
//! Every (row, column) has its own accumulators and its own fixed order of operations, so a tile of any size gives the
//! same bits as one row with one column.

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_add_ps, _mm256_broadcast_ss, _mm256_cvtepi8_epi16,
    _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_sub_ps,
};

use super::{load_ps, sum_lanes};
use crate::ops::{COLUMN_GROUP, Column, PlaneRow};
use crate::quant::GROUP;

/// Codes in one step: what a weight's scale covers.
const STEP: usize = GROUP;

/// Steps that share a column's scale.
const STEPS: usize = COLUMN_GROUP / STEP;

/// `Σ scale_w · scale_x · (code_w · code_x) − Σ min · sum_x`, as `[C][R]`.
///
/// A step multiplies 16 codes: int8 weights widened to 16 bits, times 16-bit activations, added in pairs to 32 bits
/// (at most 2 · 128 · 32767, far from the limit), so the integer part is exact.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn dot_codes<const R: usize, const C: usize>(
    w: &[PlaneRow<'_>; R],
    x: &[Column<'_>; C],
) -> [[f32; R]; C] {
    let groups = x[0].scales.len();
    for w in w {
        assert!(w.codes.len() >= groups * COLUMN_GROUP);
        assert!(w.scales.len() >= groups * STEPS);
    }
    for x in x {
        assert!(x.codes.len() >= groups * COLUMN_GROUP);
        assert!(x.scales.len() >= groups);
    }
    let mut sums = [[_mm256_setzero_ps(); R]; C];
    for group in 0..groups {
        let mut parts = [[_mm256_setzero_ps(); R]; C];
        for step in group * STEPS..(group + 1) * STEPS {
            for r in 0..R {
                // SAFETY: `step < groups · STEPS`, and each row holds 16 codes and a scale for each, as asserted above.
                let (codes, scale) = unsafe {
                    let codes = w[r].codes.as_ptr().add(step * STEP);
                    (
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.cast())),
                        _mm256_broadcast_ss(w[r].scales.get_unchecked(step)),
                    )
                };
                for c in 0..C {
                    // SAFETY: as above: 16 codes of a column.
                    let x_codes =
                        unsafe { _mm256_loadu_si256(x[c].codes.as_ptr().add(step * STEP).cast()) };
                    let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(codes, x_codes));
                    parts[c][r] = _mm256_fmadd_ps(products, scale, parts[c][r]);
                }
            }
        }
        for c in 0..C {
            let scale = _mm256_set1_ps(x[c].scales[group]);
            for r in 0..R {
                sums[c][r] = _mm256_fmadd_ps(parts[c][r], scale, sums[c][r]);
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
