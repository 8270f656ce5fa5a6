//! Arithmetic of training on the CPU: what is no matrix product, forwards and backwards, in one pass each.
//!
//! A decoder is trained on a flat matrix of tokens, one text after the other without padding; [`Span`] says which rows
//! are one text. Everything is f32 and written as loops that the compiler turns into vectors. The order of each sum is
//! fixed, so a run is repeated to the bit.

mod attention;
mod optimizer;
mod rows;

pub use attention::{Heads, Span, attention, attention_gradient};
pub use optimizer::{AdamW, AdamWStep};
pub use rows::{
    cross_entropy, cross_entropy_gradient, rms_norm, rms_norm_gradient, swiglu, swiglu_gradient,
};

/// Sums in flight, so that the compiler may keep them in vectors.
const LANES: usize = 16;

/// Σ a·b.
#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// y += s·x.
#[inline]
fn add_scaled(y: &mut [f32], s: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

#[cfg(test)]
mod tests;
