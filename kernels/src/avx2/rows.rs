//! Operations on rows, compiled for AVX2.

use crate::ops::{ColumnMut, ColumnScale, Precision};
use crate::{portable, rows};

/// Wrapping sum of 64-bit words, with what comes asked for ahead as the products do.
#[target_feature(enable = "avx2")]
pub(crate) fn sum_words(buffer: &[u8]) -> u64 {
    /// Bytes asked for at a time, and how far ahead.
    const PIECE: usize = 256;
    const AHEAD: usize = 2048;
    let mut total = 0_u64;
    for start in (0..buffer.len()).step_by(PIECE) {
        let end = (start + PIECE).min(buffer.len());
        super::prefetch(
            &buffer[(start + AHEAD).min(buffer.len())..(end + AHEAD).min(buffer.len())],
        );
        total = total.wrapping_add(portable::sum_words(&buffer[start..end]));
    }
    total
}

/// `y += x`
#[target_feature(enable = "avx2")]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    portable::add(y, x);
}

/// See `rows::rms_norm`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    rows::rms_norm(x, weight, eps, y);
}

/// See `rows::rms_norm_in_place`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    rows::rms_norm_in_place(x, weight, eps);
}

/// See `rows::silu_mul`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    rows::silu_mul(gate, up, y);
}

/// See `rows::gelu_tanh_mul`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    rows::gelu_tanh_mul(gate, up, y);
}

/// See `portable::rope_adjacent`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    portable::rope_adjacent(head, cos, sin);
}

/// See `portable::rope_halves`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn rope_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    portable::rope_halves(head, cos, sin);
}

/// See `portable::softmax_weights`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn softmax_weights(x: &[f32], max: f32, temperature: f32, y: &mut [f32]) {
    rows::softmax_weights(x, max, temperature, y);
}

/// See `ColumnScale::of`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn column_scale(x: &[f32], precision: Precision) -> ColumnScale {
    ColumnScale::of(x, precision)
}

/// See `ops::quantize`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn quantize(x: &[f32], rounding: &ColumnScale, column: ColumnMut<'_>) {
    crate::ops::quantize(x, rounding, column);
}
