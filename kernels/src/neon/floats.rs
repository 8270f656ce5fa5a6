//! Float weights: to f32, and their dot products.
//!
//! Every (row, column) has its own accumulators and its own fixed order of operations, so a tile of any size gives the
//! same bits as one row with one column.

use std::arch::aarch64::{
    vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32, vld1_u16, vmovl_u16, vreinterpretq_f32_u32,
    vshlq_n_u32,
};

use super::{load_halves, load_ps, store_ps};
use crate::quant::{Format, dequantize_row};

/// A row of float weights as f32.
#[target_feature(enable = "neon")]
pub(crate) fn convert_row(format: Format, row: &[u8], out: &mut [f32]) {
    let (bytes, tail_bytes) = row.as_chunks::<8>();
    let (fours, tail) = out.as_chunks_mut::<4>();
    match format {
        Format::F16 => {
            for (bytes, y) in bytes.iter().zip(fours) {
                store_ps(y, load_halves(bytes));
            }
        }
        Format::Bf16 => {
            for (bytes, y) in bytes.iter().zip(fours) {
                // SAFETY: 8 readable bytes; the load is unaligned.
                let halves = unsafe { vld1_u16(bytes.as_ptr().cast()) };
                // They are the upper halves of f32.
                let bits = vshlq_n_u32::<16>(vmovl_u16(halves));
                store_ps(y, vreinterpretq_f32_u32(bits));
            }
        }
        _ => return dequantize_row(format, row, out),
    }
    dequantize_row(format, tail_bytes, tail);
}

/// `Σ w · x` for floats, as `[C][R]`: four accumulators of four lanes each, then the tail one by one.
#[target_feature(enable = "neon")]
pub(crate) fn dot_floats<const R: usize, const C: usize>(
    w: &[&[f32]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    let mut out = [[0.0; R]; C];
    for c in 0..C {
        let mut sums = [[vdupq_n_f32(0.0); 4]; R];
        let (x_runs, x_tail) = x[c].as_chunks::<16>();
        for (i, x) in x_runs.iter().enumerate() {
            let x = x.as_chunks::<4>().0;
            for r in 0..R {
                let w = w[r].as_chunks::<16>().0[i].as_chunks::<4>().0;
                for (sum, (w, x)) in sums[r].iter_mut().zip(w.iter().zip(x)) {
                    *sum = vfmaq_f32(*sum, load_ps(w), load_ps(x));
                }
            }
        }
        for r in 0..R {
            let tail = w[r].as_chunks::<16>().1.iter().zip(x_tail);
            let [a0, a1, a2, a3] = sums[r];
            let sum = vaddvq_f32(vaddq_f32(vaddq_f32(a0, a2), vaddq_f32(a1, a3)));
            out[c][r] = tail.fold(sum, |sum, (w, x)| w.mul_add(*x, sum));
        }
    }
    out
}
