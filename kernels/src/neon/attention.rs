//! Attention with vectors of four lanes: `crate::attention` on NEON.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddq_f32, vaddq_s32, vaddvq_f32, vaddvq_u32, vbicq_u32, vbslq_f32,
    vceqq_f32, vcgtq_f32, vcltq_f32, vcreate_s8, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32,
    vdupq_n_u32, vfmaq_f32, vget_low_s16, vld1q_f32, vld1q_u32, vmaxvq_f32, vmovl_s8, vmovl_s16,
    vmulq_f32, vreinterpretq_f32_s32, vreinterpretq_s32_f32, vshlq_n_s32, vst1q_f32, vsubq_f32,
    vtstq_u32,
};

use super::load_halves;
use crate::attention::{self, Job, Scratch};
use crate::floats::{Floats, floats};

/// See `attention::span`.
#[target_feature(enable = "neon")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    attention::span::<Four, 4>(job, rows, span, scratch);
}

floats! {
    /// Four lanes. Only `attend_span`, `certainty` and `low_rank` use them.
    Four(float32x4_t), 4 lanes;
    load(from) => vld1q_f32(from);
    store(x, to) => vst1q_f32(to, x);
    load_halves(from) => load_halves(&*from.cast());
    load_bytes(from) => {
        let bytes = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
    };
    prefetch(line) => super::prefetch_line(line);
    splat(x) => vdupq_n_f32(x);
    add(a, b) => vaddq_f32(a, b);
    sub(a, b) => vsubq_f32(a, b);
    mul(a, b) => vmulq_f32(a, b);
    mul_add(a, b, c) => vfmaq_f32(c, a, b);
    // NEON's own maximum and minimum are NaN where only `a` is.
    max(a, b) => vbslq_f32(vcgtq_f32(a, b), a, b);
    min(a, b) => vbslq_f32(vcltq_f32(a, b), a, b);
    power_of_two(x) => {
        // 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        let n = vaddq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
    };
    times_power_of_two(x, n) => {
        let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(n));
        vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), n))
    };
    select(x, mask, other) => vbslq_f32(vtstq_u32(vdupq_n_u32(mask), lane_bits()), x, other);
    nans(x) => vaddvq_u32(vbicq_u32(lane_bits(), vceqq_f32(x, x)));
    sum(x) => vaddvq_f32(x);
    greatest(x) => vmaxvq_f32(x);
}

/// A bit for each lane.
#[inline]
#[target_feature(enable = "neon")]
fn lane_bits() -> uint32x4_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) }
}
