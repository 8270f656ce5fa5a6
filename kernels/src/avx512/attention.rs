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

use crate::attention::{self, Job, Scratch};
use crate::floats::{Floats, floats};
use crate::ops::KvFormat;

/// See `attention::span`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn attend_span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    match job.kv.shape.format {
        KvFormat::F16 | KvFormat::Q8_0 => attention::span::<Sixteen, 4>(job, rows, span, scratch),
        KvFormat::I16 => super::words::span(job, rows, span, scratch),
    }
}

floats! {
    /// 16 lanes. Only `attend_span`, `certainty` and `low_rank` use them.
    Sixteen(__m512), 16 lanes;
    load(from) => _mm512_loadu_ps(from);
    store(x, to) => _mm512_storeu_ps(to, x);
    load_halves(from) => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
    load_bytes(from) => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())));
    prefetch(line) => crate::avx2::prefetch_line(line);
    splat(x) => _mm512_set1_ps(x);
    add(a, b) => _mm512_add_ps(a, b);
    sub(a, b) => _mm512_sub_ps(a, b);
    mul(a, b) => _mm512_mul_ps(a, b);
    mul_add(a, b, c) => _mm512_fmadd_ps(a, b, c);
    max(a, b) => _mm512_max_ps(a, b);
    min(a, b) => _mm512_min_ps(a, b);
    power_of_two(x) => {
        // 1.5 · 2²³ has no low bits, so what is shifted in is n + 127.
        let n = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
    };
    times_power_of_two(x, n) => {
        let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
        _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n))
    };
    select(x, mask, other) => _mm512_mask_blend_ps(mask as u16, other, x);
    nans(x) => u32::from(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x));
    sum(x) => _mm512_reduce_add_ps(x);
    greatest(x) => _mm512_reduce_max_ps(x);
}
