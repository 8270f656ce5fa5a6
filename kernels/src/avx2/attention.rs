//! Attention with vectors of eight lanes: `crate::attention` on AVX2.

#![allow(
    unsafe_code,
    reason = "intrinsics run on machines that `Isa::Avx2` names"
)]

use std::arch::x86_64::{
    __m256, _CMP_UNORD_Q, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cmpeq_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_ps, _mm256_mul_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_storeu_ps,
    _mm256_sub_ps,
};

use super::sum_lanes;
use crate::attention::{self, Floats, Job, Scratch};

/// See `attention::span`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    attention::span::<Eight, 2>(job, rows, span, scratch);
}

/// Eight lanes. Only `attend_span` uses them.
#[derive(Clone, Copy)]
struct Eight(__m256);

impl Floats for Eight {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 32 readable bytes by the caller's promise; the machine has AVX2.
        Eight(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 32 writable bytes by the caller's promise; the machine has AVX2.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Self {
        // SAFETY: 16 readable bytes by the caller's promise; the machine has F16C.
        Eight(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: 8 readable bytes by the caller's promise; the machine has AVX2.
        unsafe {
            let words = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()));
            Eight(_mm256_cvtepi32_ps(words))
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the machine has FMA.
        Eight(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2.
        Eight(unsafe { _mm256_min_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the machine has AVX2. 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        unsafe {
            let n = _mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_set1_epi32(127));
            Eight(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }

    #[inline(always)]
    fn select(self, mask: u32, other: Self) -> Self {
        // SAFETY: the machine has AVX2.
        unsafe {
            let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let mask = _mm256_and_si256(_mm256_set1_epi32(mask.cast_signed()), lanes);
            let mask = _mm256_castsi256_ps(_mm256_cmpeq_epi32(mask, lanes));
            Eight(_mm256_blendv_ps(other.0, self.0, mask))
        }
    }

    #[inline(always)]
    fn nans(self) -> u32 {
        // SAFETY: the machine has AVX2.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)) }.cast_unsigned()
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the machine has AVX2.
        unsafe { sum_lanes(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        let mut lanes = [0.0; 8];
        // SAFETY: 32 writable bytes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
