//! Attention with vectors of four lanes: `crate::attention` on NEON.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddq_f32, vaddq_s32, vaddvq_f32, vaddvq_u32, vbicq_u32, vbslq_f32,
    vceqq_f32, vcgtq_f32, vcltq_f32, vcreate_s8, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32,
    vdupq_n_u32, vfmaq_f32, vget_low_s16, vld1q_f32, vld1q_u32, vmaxvq_f32, vmovl_s8, vmovl_s16,
    vmulq_f32, vreinterpretq_f32_s32, vreinterpretq_s32_f32, vshlq_n_s32, vst1q_f32, vsubq_f32,
    vtstq_u32,
};

use super::load_halves;
use crate::attention::{self, Floats, Job, Scratch};

/// See `attention::span`.
#[target_feature(enable = "neon")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    attention::span::<Four, 4>(job, rows, span, scratch);
}

/// Four lanes. Only `attend_span` uses them.
#[derive(Clone, Copy)]
struct Four(float32x4_t);

/// A bit for each lane.
#[inline]
#[target_feature(enable = "neon")]
fn lane_bits() -> uint32x4_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) }
}

impl Floats for Four {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 readable bytes by the caller's promise; NEON is part of AArch64.
        Four(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 16 writable bytes by the caller's promise; NEON is part of AArch64.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Self {
        // SAFETY: 8 readable bytes by the caller's promise; NEON is part of AArch64.
        Four(unsafe { load_halves(&*from.cast()) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: 4 readable bytes by the caller's promise; NEON is part of AArch64.
        unsafe {
            let bytes = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            Four(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes)))))
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: NEON is part of AArch64.
        Four(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: NEON is part of AArch64.
        Four(unsafe { vaddq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: NEON is part of AArch64.
        Four(unsafe { vsubq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: NEON is part of AArch64.
        Four(unsafe { vmulq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: NEON is part of AArch64.
        Four(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: NEON is part of AArch64. Its own maximum is NaN where only `self` is.
        Four(unsafe { vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0) })
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        // SAFETY: NEON is part of AArch64. Its own minimum is NaN where only `self` is.
        Four(unsafe { vbslq_f32(vcltq_f32(self.0, b.0), self.0, b.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: NEON is part of AArch64. 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        unsafe {
            let n = vaddq_s32(vreinterpretq_s32_f32(self.0), vdupq_n_s32(127));
            Four(vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        }
    }

    #[inline(always)]
    fn select(self, mask: u32, other: Self) -> Self {
        // SAFETY: NEON is part of AArch64.
        unsafe {
            let mask = vtstq_u32(vdupq_n_u32(mask), lane_bits());
            Four(vbslq_f32(mask, self.0, other.0))
        }
    }

    #[inline(always)]
    fn nans(self) -> u32 {
        // SAFETY: NEON is part of AArch64.
        unsafe { vaddvq_u32(vbicq_u32(lane_bits(), vceqq_f32(self.0, self.0))) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: NEON is part of AArch64.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: NEON is part of AArch64.
        unsafe { vmaxvq_f32(self.0) }
    }
}
