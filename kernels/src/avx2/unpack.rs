//! From blocks to the plane with intrinsics, for the formats that most models use. The others are the readable code of
//! `quant::unpack`, compiled for AVX2. Both give the same bits.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a plane is a bundle of borrows, handed on like one"
)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtsi64_si128, _mm_cvtss_f32,
    _mm_srli_epi16, _mm_srli_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cmpeq_epi8, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_or_si256,
    _mm256_permutevar8x32_ps, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setr_epi64x, _mm256_shuffle_epi8,
    _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_srlv_epi32, _mm256_storeu_ps,
    _mm256_storeu_si256, _mm256_sub_epi8, _mm256_sub_epi32,
};

use super::{load_16, load_32};
use crate::quant::{
    BlockIq4Nl, BlockIq4Xs, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K,
    BlockQ6K, BlockQ8_0, Format, GROUP, IQ4_TABLE, Plane, blocks, dequantize_row,
    scales_and_mins_6bit,
};

/// Unpacks a row of any format with blocks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn unpack_row(format: Format, row: &[u8], plane: Plane<'_>) {
    match format {
        Format::Q4_0 => unpack_q4_0(blocks(row), plane),
        Format::Q4_1 => unpack_q4_1(blocks(row), plane),
        Format::Q5_0 => unpack_q5_0(blocks(row), plane),
        Format::Q5_1 => unpack_q5_1(blocks(row), plane),
        Format::Iq4Nl => unpack_iq4_nl(blocks(row), plane),
        Format::Q8_0 => unpack_q8_0(blocks(row), plane),
        Format::Q4K => unpack_q4_k(blocks(row), plane),
        Format::Q5K => unpack_q5_k(blocks(row), plane),
        Format::Q6K => unpack_q6_k(blocks(row), plane),
        Format::Iq4Xs => unpack_iq4_xs(blocks(row), plane),
        _ => crate::quant::unpack_row(format, row, plane),
    }
}

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

#[inline]
#[target_feature(enable = "avx2")]
fn store_32(y: &mut [i8; 32], x: __m256i) {
    // SAFETY: 32 writable bytes; the store is unaligned.
    unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), x) };
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn float(half: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
        u16::from_le_bytes(half),
    ))))
}

/// `d · codes` for eight integers, each written twice: a group of 32 is two groups of 16.
#[inline]
#[target_feature(enable = "avx2")]
fn store_doubled(y: &mut [f32; 16], d: f32, codes: __m256i) {
    let scaled = _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(codes));
    let (halves, _) = y.as_chunks_mut::<8>();
    let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    store_ps(&mut halves[0], _mm256_permutevar8x32_ps(scaled, low));
    store_ps(&mut halves[1], _mm256_permutevar8x32_ps(scaled, high));
}

/// Codes of 16 bytes: the low nibbles, then the high ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let bytes = load_16(bytes);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// 16 in byte *i* where bit *i* is set: each byte of the word is spread over eight, and each of these tests its own
/// bit.
#[inline]
#[target_feature(enable = "avx2")]
fn high_bits(high: [u8; 4]) -> __m256i {
    let spread = _mm256_setr_epi64x(
        0,
        0x0101_0101_0101_0101,
        0x0202_0202_0202_0202,
        0x0303_0303_0303_0303,
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let word = _mm256_set1_epi32(i32::from_le_bytes(high));
    let own = _mm256_and_si256(_mm256_shuffle_epi8(word, spread), bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(own, bit), _mm256_set1_epi8(16))
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q4_0(blocks: &[BlockQ4_0], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        store_32(
            codes,
            _mm256_sub_epi8(nibbles(&block.codes), _mm256_set1_epi8(8)),
        );
        *scales = [float(block.d); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q4_1(blocks: &[BlockQ4_1], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0.iter_mut();
    let mins = plane.mins.as_chunks_mut::<{ 32 / GROUP }>().0;
    for (((block, codes), scales), mins) in blocks.iter().zip(codes).zip(scales).zip(mins) {
        store_32(codes, nibbles(&block.codes));
        *scales = [float(block.d); 2];
        *mins = [-float(block.m); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q5_0(blocks: &[BlockQ5_0], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        let unsigned = _mm256_or_si256(nibbles(&block.codes), high_bits(block.high));
        store_32(codes, _mm256_sub_epi8(unsigned, _mm256_set1_epi8(16)));
        *scales = [float(block.d); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q5_1(blocks: &[BlockQ5_1], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0.iter_mut();
    let mins = plane.mins.as_chunks_mut::<{ 32 / GROUP }>().0;
    for (((block, codes), scales), mins) in blocks.iter().zip(codes).zip(scales).zip(mins) {
        store_32(
            codes,
            _mm256_or_si256(nibbles(&block.codes), high_bits(block.high)),
        );
        *scales = [float(block.d); 2];
        *mins = [-float(block.m); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_iq4_nl(blocks: &[BlockIq4Nl], plane: Plane<'_>) {
    let table = load_16(&IQ4_TABLE.map(i8::cast_unsigned));
    let table = _mm256_set_m128i(table, table);
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        store_32(codes, _mm256_shuffle_epi8(table, nibbles(&block.codes)));
        *scales = [float(block.d); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q8_0(blocks: &[BlockQ8_0], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<32>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 32 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        *codes = block.codes;
        *scales = [float(block.d); 2];
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q4_k(blocks: &[BlockQ4K], plane: Plane<'_>) {
    let nibble = _mm256_set1_epi8(15);
    let codes = plane.codes.as_chunks_mut::<256>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 256 / GROUP }>().0.iter_mut();
    let mins = plane.mins.as_chunks_mut::<{ 256 / GROUP }>().0;
    for (((block, codes), scales), mins) in blocks.iter().zip(codes).zip(scales).zip(mins) {
        let (scale_bytes, min_bytes) = scales_and_mins_6bit(&block.scales);
        let bytes = |word: u64| _mm_cvtsi64_si128(word.cast_signed());
        store_doubled(
            scales,
            float(block.d),
            _mm256_cvtepu8_epi32(bytes(scale_bytes)),
        );
        store_doubled(
            mins,
            float(block.dmin),
            _mm256_cvtepu8_epi32(bytes(min_bytes)),
        );
        let pairs = codes.as_chunks_mut::<64>().0.iter_mut();
        for (bytes, codes) in block.codes.as_chunks::<32>().0.iter().zip(pairs) {
            let bytes = load_32(bytes);
            let (halves, _) = codes.as_chunks_mut::<32>();
            store_32(&mut halves[0], _mm256_and_si256(bytes, nibble));
            store_32(
                &mut halves[1],
                _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
            );
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q5_k(blocks: &[BlockQ5K], plane: Plane<'_>) {
    let nibble = _mm256_set1_epi8(15);
    let codes = plane.codes.as_chunks_mut::<256>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 256 / GROUP }>().0.iter_mut();
    let mins = plane.mins.as_chunks_mut::<{ 256 / GROUP }>().0;
    for (((block, codes), scales), mins) in blocks.iter().zip(codes).zip(scales).zip(mins) {
        let (scale_bytes, min_bytes) = scales_and_mins_6bit(&block.scales);
        let bytes = |word: u64| _mm_cvtsi64_si128(word.cast_signed());
        store_doubled(
            scales,
            float(block.d),
            _mm256_cvtepu8_epi32(bytes(scale_bytes)),
        );
        store_doubled(
            mins,
            float(block.dmin),
            _mm256_cvtepu8_epi32(bytes(min_bytes)),
        );
        let high = load_32(&block.high);
        // Bit i of `high` belongs to the i-th 32 codes; the mask tests the bit where it lies.
        let mut bit = _mm256_set1_epi8(1);
        let pairs = codes.as_chunks_mut::<64>().0.iter_mut();
        for (bytes, codes) in block.codes.as_chunks::<32>().0.iter().zip(pairs) {
            let bytes = load_32(bytes);
            let (halves, _) = codes.as_chunks_mut::<32>();
            for (half, low) in halves
                .iter_mut()
                .zip([bytes, _mm256_srli_epi16::<4>(bytes)])
            {
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
                let fifth = _mm256_and_si256(set, _mm256_set1_epi8(16));
                store_32(half, _mm256_or_si256(_mm256_and_si256(low, nibble), fifth));
                bit = _mm256_add_epi8(bit, bit);
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_iq4_xs(blocks: &[BlockIq4Xs], plane: Plane<'_>) {
    let table = load_16(&IQ4_TABLE.map(i8::cast_unsigned));
    let table = _mm256_set_m128i(table, table);
    let codes = plane.codes.as_chunks_mut::<256>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 256 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        // Lane i takes nibble i of one word and bit pair i of the other.
        let low = _mm256_set1_epi32(i32::from_le_bytes(block.scales_low));
        let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
        let high = _mm256_set1_epi32(i32::from(u16::from_le_bytes(block.scales_high)));
        let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
        let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
        let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
        let scale = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
        store_doubled(scales, float(block.d), scale);
        let groups = codes.as_chunks_mut::<32>().0.iter_mut();
        for (bytes, codes) in block.codes.as_chunks::<16>().0.iter().zip(groups) {
            store_32(codes, _mm256_shuffle_epi8(table, nibbles(bytes)));
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_q6_k(blocks: &[BlockQ6K], plane: Plane<'_>) {
    let codes = plane.codes.as_chunks_mut::<256>().0.iter_mut();
    let scales = plane.scales.as_chunks_mut::<{ 256 / GROUP }>().0;
    for ((block, codes), scales) in blocks.iter().zip(codes).zip(scales) {
        let d = _mm256_set1_ps(float(block.d));
        let packed = load_16(&block.scales.map(i8::cast_unsigned));
        let (scale_halves, _) = scales.as_chunks_mut::<8>();
        let widen = |eight: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
        store_ps(&mut scale_halves[0], _mm256_mul_ps(d, widen(packed)));
        store_ps(
            &mut scale_halves[1],
            _mm256_mul_ps(d, widen(_mm_srli_si128::<8>(packed))),
        );
        let low = block.codes.as_chunks::<64>().0;
        let high = block.high.as_chunks::<32>().0;
        for ((low, high), codes) in low.iter().zip(high).zip(codes.as_chunks_mut::<128>().0) {
            unpack_q6_k_half(low, load_32(high), codes);
        }
    }
}

/// 128 codes: nibbles from 64 bytes, and two more bits each from the four pairs in 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack_q6_k_half(low: &[u8; 64], high: __m256i, codes: &mut [i8; 128]) {
    let nibble = _mm256_set1_epi8(15);
    let pair = _mm256_set1_epi8(0x30);
    let middle = _mm256_set1_epi8(32);
    let (low, _) = low.as_chunks::<32>();
    let (first, second) = (load_32(&low[0]), load_32(&low[1]));
    let (quarters, _) = codes.as_chunks_mut::<32>();
    // Bits 0-1, 2-3, 4-5 and 6-7 of `high`, each moved to bits 4-5.
    let join = |low: __m256i, high: __m256i| {
        let code = _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, pair));
        _mm256_sub_epi8(code, middle)
    };
    store_32(&mut quarters[0], join(first, _mm256_slli_epi16::<4>(high)));
    store_32(&mut quarters[1], join(second, _mm256_slli_epi16::<2>(high)));
    store_32(&mut quarters[2], join(_mm256_srli_epi16::<4>(first), high));
    store_32(
        &mut quarters[3],
        join(_mm256_srli_epi16::<4>(second), _mm256_srli_epi16::<2>(high)),
    );
}
