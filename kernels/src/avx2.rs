//! Kernels for AVX2, FMA and F16C.
//!
//! `#[target_feature]` functions are safe to write and to call from each other; what stays unsafe is loads and stores
//! through pointers, which the two helpers here wrap. Bodies without intrinsics are plain loops that the compiler
//! vectorizes for these instruction sets.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]

mod attention;
mod certainty;
mod convert;
mod dot;
mod low_rank;
mod rows;
mod tile;

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, __m256, _MM_HINT_T1, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128,
    _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch, _mm256_castps256_ps128, _mm256_extractf128_ps,
    _mm256_loadu_ps,
};

pub(crate) use attention::attend_span;
pub(crate) use certainty::sums;
pub(crate) use convert::convert_row;
pub(crate) use dot::dot_floats;
pub(crate) use low_rank::{low_rank_down, low_rank_up};
pub(crate) use rows::{
    add, column_scale, gelu_tanh_mul, quantize, rms_norm, rms_norm_in_place, rope_adjacent,
    rope_halves, silu_mul, softmax_weights, sum_words,
};
pub(crate) use tile::{expand, multiply, peak};

/// Asks for bytes to be brought into L2.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        prefetch_line(line.as_ptr());
    }
}

#[inline(always)]
pub(crate) fn prefetch_line(line: *const u8) {
    // SAFETY: a hint, which faults at no address; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

#[inline(always)]
pub(crate) fn prefetch_for_write(line: *const u8) {
    // SAFETY: as above; a processor without `prefetchw` takes it for a `nop`.
    unsafe {
        asm!(
            "prefetchw byte ptr [{line}]",
            line = in(reg) line,
            options(nostack, preserves_flags, readonly)
        );
    };
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_ps(x: &[f32; 8]) -> __m256 {
    // SAFETY: 32 readable bytes; the load is unaligned.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_16(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load is unaligned.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

/// The sum of eight lanes, in one order: (0+4, 1+5, 2+6, 3+7), then halves again.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sum_lanes(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
