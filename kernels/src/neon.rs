//! Kernels for AArch64 with the dot product of bytes, and with products of matrices of bytes where the machine has
//! them.
//!
//! NEON itself is part of AArch64, so plain loops become vectors without being compiled for it. The instructions
//! that not every machine has stand in `tile`.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]

mod attention;
mod certainty;
mod floats;
mod low_rank;
mod tile;

use std::arch::aarch64::{
    float32x4_t, vcvt_f32_f16, vld1_u16, vld1q_f32, vreinterpret_f16_u16, vst1q_f32,
};
use std::arch::asm;

pub(crate) use attention::attend_span;
pub(crate) use certainty::sums;
pub(crate) use floats::{convert_row, dot_floats};
pub(crate) use low_rank::{low_rank_down, low_rank_up};
pub(crate) use tile::{expand, multiply, multiply_i8mm, peak};

/// Asks for bytes to be brought into L1.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        prefetch_line(line.as_ptr());
    }
}

#[inline(always)]
fn prefetch_line(line: *const u8) {
    // SAFETY: a hint, which faults at no address and changes no register and no memory.
    unsafe {
        asm!(
            "prfm pldl1keep, [{line}]",
            line = in(reg) line,
            options(nostack, preserves_flags, readonly)
        );
    };
}

#[inline(always)]
pub(crate) fn prefetch_for_write(line: *const u8) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "prfm pstl1keep, [{line}]",
            line = in(reg) line,
            options(nostack, preserves_flags, readonly)
        );
    };
}

#[inline]
#[target_feature(enable = "neon")]
fn load_ps(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: 16 readable bytes; the load is unaligned.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_ps(y: &mut [f32; 4], x: float32x4_t) {
    // SAFETY: 16 writable bytes; the store is unaligned.
    unsafe { vst1q_f32(y.as_mut_ptr(), x) };
}

/// Half precision to single.
#[inline]
#[target_feature(enable = "neon")]
fn load_halves(x: &[u8; 8]) -> float32x4_t {
    // SAFETY: 8 readable bytes; the load is unaligned.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(x.as_ptr().cast()) }))
}
