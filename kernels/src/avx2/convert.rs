//! Float weights to f32.

use std::arch::x86_64::{
    _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

use super::load_16;
use crate::quant::{Format, dequantize_row};

/// A row of float weights as f32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn convert_row(format: Format, row: &[u8], out: &mut [f32]) {
    let (bytes, tail_bytes) = row.as_chunks::<16>();
    let (eights, tail) = out.as_chunks_mut::<8>();
    match format {
        Format::F16 => {
            for (bytes, y) in bytes.iter().zip(eights) {
                store_ps(y, _mm256_cvtph_ps(load_16(bytes)));
            }
        }
        Format::Bf16 => {
            for (bytes, y) in bytes.iter().zip(eights) {
                let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_16(bytes)));
                store_ps(y, _mm256_castsi256_ps(bits));
            }
        }
        _ => return dequantize_row(format, row, out),
    }
    dequantize_row(format, tail_bytes, tail);
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_ps(y: &mut [f32; 8], x: std::arch::x86_64::__m256) {
    // SAFETY: 32 writable bytes; the store is unaligned.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), x) };
}
