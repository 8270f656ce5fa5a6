//! Products with matrices of low rank, for vectors of any width: what an adapter adds to a projection.
//!
//! ```text
//!  down   [rank, cols] bytes, row after row                     h = scale · A x    a dot product for each row
//!  up     panels of 64 outputs, each [rank] f32, [rank][64] bytes  y += B h        64 sums for each panel
//! ```
//!
//! Each sum has accumulators of its own and one order of operations, so a tile of any size gives the same bits as one
//! row with one column.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]

use crate::floats::Floats;
use crate::ops::UP_ROWS;

/// The widest vector.
const LANES_MAX: usize = 16;

/// Vectors of a panel that are summed together.
const VECTORS: usize = 4;

/// `Σ a · x` for rows of signed bytes, as `[C][R]`.
///
/// **Shapes** `a`: a byte for each element of `x`.
#[inline(always)]
pub(crate) fn down<F: Floats, const R: usize, const C: usize>(
    a: &[&[u8]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    const { assert!(F::LANES <= LANES_MAX) };
    let cols = x[0].len();
    for a in a {
        assert_eq!(a.len(), cols, "a row of bytes");
    }
    for x in x {
        assert_eq!(x.len(), cols, "columns of one width");
    }
    let mut sums = [[F::splat(0.0); R]; C];
    let whole = cols - cols % F::LANES;
    for at in (0..whole).step_by(F::LANES) {
        // SAFETY: `at + LANES` is at most `cols`, the length that was asserted of each.
        let xs = x.map(|x| unsafe { F::load(x.as_ptr().add(at)) });
        for (r, a) in a.iter().enumerate() {
            // SAFETY: as above.
            let a = unsafe { F::load_bytes(a.as_ptr().add(at)) };
            for (sums, x) in sums.iter_mut().zip(xs) {
                sums[r] = a.mul_add(x, sums[r]);
            }
        }
    }
    if whole < cols {
        let xs = x.map(|x| rest_of_floats::<F>(&x[whole..]));
        for (r, a) in a.iter().enumerate() {
            let a = rest_of_bytes::<F>(&a[whole..]);
            for (sums, x) in sums.iter_mut().zip(xs) {
                sums[r] = a.mul_add(x, sums[r]);
            }
        }
    }
    sums.map(|sums| sums.map(F::sum))
}

/// `y += B h` for one panel and `C` columns.
///
/// **Shapes** `panel`: `[rank]` scales in f32, then `[rank][UP_ROWS]` signed bytes; `h`: `rank` each; `y`: at most
/// `UP_ROWS` each, all of one length.
#[inline(always)]
pub(crate) fn up<F: Floats, const C: usize>(
    panel: &[u8],
    h: &[&[f32]; C],
    y: &mut [&mut [f32]; C],
) {
    const { assert!(UP_ROWS.is_multiple_of(VECTORS * LANES_MAX)) };
    const { assert!((VECTORS * LANES_MAX).is_multiple_of(F::LANES)) };
    let rank = h[0].len();
    assert_eq!(
        panel.len(),
        rank * (4 + UP_ROWS),
        "a panel of scales and bytes"
    );
    let (scales, bytes) = panel.split_at(4 * rank);
    let (scales, _) = scales.as_chunks::<4>();
    for h in h {
        assert_eq!(h.len(), rank, "columns of one rank");
    }
    let mut out = [[0.0_f32; UP_ROWS]; C];
    for part in (0..UP_ROWS).step_by(VECTORS * F::LANES) {
        let mut sums = [[F::splat(0.0); VECTORS]; C];
        for r in 0..rank {
            let weights: [F; VECTORS] = std::array::from_fn(|v| {
                let at = r * UP_ROWS + part + v * F::LANES;
                // SAFETY: `at + LANES` is at most `(r + 1) * UP_ROWS`, and there are `rank` such rows of bytes.
                unsafe { F::load_bytes(bytes.as_ptr().add(at)) }
            });
            let scale = f32::from_le_bytes(scales[r]);
            for (sums, h) in sums.iter_mut().zip(h) {
                let h = F::splat(scale * h[r]);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = weight.mul_add(h, *sum);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(&mut out) {
            for (v, sum) in sums.into_iter().enumerate() {
                let out = &mut out[part + v * F::LANES..][..F::LANES];
                // SAFETY: as many floats are writable.
                unsafe { sum.store(out.as_mut_ptr()) };
            }
        }
    }
    for (out, y) in out.iter().zip(y) {
        for (y, out) in y.iter_mut().zip(out) {
            *y += out;
        }
    }
}

/// The last floats of a row, and zeros up to a whole vector.
#[inline(always)]
fn rest_of_floats<F: Floats>(x: &[f32]) -> F {
    let mut whole = [0.0; LANES_MAX];
    whole[..x.len()].copy_from_slice(x);
    // SAFETY: LANES floats are readable.
    unsafe { F::load(whole.as_ptr()) }
}

/// The last bytes of a row, and zeros up to a whole vector.
#[inline(always)]
fn rest_of_bytes<F: Floats>(a: &[u8]) -> F {
    let mut whole = [0; LANES_MAX];
    whole[..a.len()].copy_from_slice(a);
    // SAFETY: LANES bytes are readable.
    unsafe { F::load_bytes(whole.as_ptr()) }
}
