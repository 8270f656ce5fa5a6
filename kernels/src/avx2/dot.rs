//! Dot products of floats: `R` rows of weights with `C` columns.
//!
//! Every (row, column) has its own accumulators and its own fixed order of operations, so a tile of any size gives the
//! same bits as one row with one column.

use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_setzero_ps};

use super::{load_ps, sum_lanes};
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
