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
use crate::attention::{self, Job, Scratch};
use crate::floats::{Floats, floats};

/// See `attention::span`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    attention::span::<Eight, 2>(job, rows, span, scratch);
}

floats! {
    /// Eight lanes. Only `attend_span`, `certainty` and `low_rank` use them.
    Eight(__m256), 8 lanes;
    load(from) => _mm256_loadu_ps(from);
    store(x, to) => _mm256_storeu_ps(to, x);
    load_halves(from) => _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
    load_bytes(from) => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())));
    prefetch(line) => super::prefetch_line(line);
    splat(x) => _mm256_set1_ps(x);
    add(a, b) => _mm256_add_ps(a, b);
    sub(a, b) => _mm256_sub_ps(a, b);
    mul(a, b) => _mm256_mul_ps(a, b);
    mul_add(a, b, c) => _mm256_fmadd_ps(a, b, c);
    max(a, b) => _mm256_max_ps(a, b);
    min(a, b) => _mm256_min_ps(a, b);
    power_of_two(x) => {
        // 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        let n = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
    };
    times_power_of_two(x, n) => {
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n))
    };
    select(x, mask, other) => {
        let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let mask = _mm256_and_si256(_mm256_set1_epi32(mask.cast_signed()), lanes);
        _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(mask, lanes)))
    };
    nans(x) => _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)).cast_unsigned();
    sum(x) => sum_lanes(x);
    greatest(x) => {
        let mut lanes = [0.0; 8];
        _mm256_storeu_ps(lanes.as_mut_ptr(), x);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    };
}
