//! Attention with vectors of 16 lanes: `crate::attention` on AVX-512.

#![allow(
    unsafe_code,
    reason = "intrinsics run on machines that `Isa::Avx512` names"
)]

use std::arch::x86_64::{
    __m512, _CMP_UNORD_Q, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_epi32, _mm512_add_ps,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use crate::attention::{self, Floats, Job, Scratch};

/// See `attention::span`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    attention::span::<Sixteen, 4>(job, rows, span, scratch);
}

/// 16 lanes. Only `attend_span` uses them.
#[derive(Clone, Copy)]
struct Sixteen(__m512);

impl Floats for Sixteen {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 64 readable bytes by the caller's promise; the machine has AVX-512.
        Sixteen(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 64 writable bytes by the caller's promise; the machine has AVX-512.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Self {
        // SAFETY: 32 readable bytes by the caller's promise; the machine has AVX-512.
        Sixteen(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: 16 readable bytes by the caller's promise; the machine has AVX-512.
        unsafe {
            let words = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
            Sixteen(_mm512_cvtepi32_ps(words))
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_min_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the machine has AVX-512. 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        unsafe {
            let n = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            Sixteen(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }

    #[inline(always)]
    fn select(self, mask: u32, other: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        Sixteen(unsafe { _mm512_mask_blend_ps(mask as u16, other.0, self.0) })
    }

    #[inline(always)]
    fn nans(self) -> u32 {
        // SAFETY: the machine has AVX-512.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the machine has AVX-512.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: the machine has AVX-512.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}
