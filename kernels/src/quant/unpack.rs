//! From blocks to the plane: int8 codes, and an f32 scale and min for each group of 16.
//!
//! Written on fixed-size arrays so that the compiler vectorizes it with the instruction set of whoever inlines it. The
//! same functions define `dequantize_row` and feed the integer kernels.

#![allow(
    clippy::needless_pass_by_value,
    reason = "a plane is a bundle of borrows, handed on like one"
)]

use half::f16;

use super::block::{
    Block, BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Half, blocks,
};
use super::{Format, GROUP};

/// A row in unpacked form: `weight[i] = scales[i / 16] · codes[i] − mins[i / 16]`.
///
/// Formats without mins leave `mins` as they are; `Format::has_mins` says which.
pub(crate) struct Plane<'a> {
    /// `[cols]`
    pub(crate) codes: &'a mut [i8],
    /// `[cols / 16]`
    pub(crate) scales: &'a mut [f32],
    /// `[cols / 16]`
    pub(crate) mins: &'a mut [f32],
}

/// The values of IQ4_NL and IQ4_XS codes. Source: `kvalues_iq4nl`, ggml-common.h.
pub(crate) const IQ4_TABLE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Unpacks a row of any format with blocks.
#[inline(always)]
pub(crate) fn unpack_row(format: Format, row: &[u8], plane: Plane<'_>) {
    match format {
        Format::Q4_0 => unpack::<BlockQ4_0>(row, plane),
        Format::Q4_1 => unpack::<BlockQ4_1>(row, plane),
        Format::Q5_0 => unpack::<BlockQ5_0>(row, plane),
        Format::Q5_1 => unpack::<BlockQ5_1>(row, plane),
        Format::Q8_0 => unpack::<BlockQ8_0>(row, plane),
        Format::Q2K => unpack::<BlockQ2K>(row, plane),
        Format::Q3K => unpack::<BlockQ3K>(row, plane),
        Format::Q4K => unpack::<BlockQ4K>(row, plane),
        Format::Q5K => unpack::<BlockQ5K>(row, plane),
        Format::Q6K => unpack::<BlockQ6K>(row, plane),
        Format::Iq4Nl => unpack::<BlockIq4Nl>(row, plane),
        Format::Iq4Xs => unpack::<BlockIq4Xs>(row, plane),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no codes"),
    }
}

#[inline(always)]
fn unpack<B: Unpack>(row: &[u8], plane: Plane<'_>) {
    let codes = plane.codes.chunks_exact_mut(B::ELEMENTS);
    let scales = plane.scales.chunks_exact_mut(B::ELEMENTS / GROUP);
    let mins = plane.mins.chunks_exact_mut(B::ELEMENTS / GROUP);
    for (((block, codes), scales), mins) in blocks::<B>(row).iter().zip(codes).zip(scales).zip(mins)
    {
        block.unpack(codes, scales, mins);
    }
}

trait Unpack: Block {
    /// Writes `ELEMENTS` codes and `ELEMENTS / 16` scales, and as many mins if the format has them.
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]);
}

#[inline(always)]
pub(crate) fn float(half: Half) -> f32 {
    f16::from_le_bytes(half).to_f32()
}

/// Low nibbles, then high nibbles: 16 bytes become 32 codes.
#[inline(always)]
fn nibbles(bytes: &[u8], codes: &mut [i8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = (byte & 15) as i8;
        *high = (byte >> 4) as i8;
    }
}

#[inline(always)]
fn offset(codes: &mut [i8], by: i8) {
    for code in codes {
        *code -= by;
    }
}

/// Adds `value` to code *i* where bit *i* of `high` is set.
#[inline(always)]
fn add_high_bits(high: [u8; 4], codes: &mut [i8], value: i8) {
    let high = u32::from_le_bytes(high);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= value * ((high >> i) & 1) as i8;
    }
}

impl Unpack for BlockQ4_0 {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        nibbles(&self.codes, codes);
        offset(codes, 8);
        scales.fill(float(self.d));
    }
}

impl Unpack for BlockQ4_1 {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        nibbles(&self.codes, codes);
        scales.fill(float(self.d));
        mins.fill(-float(self.m));
    }
}

impl Unpack for BlockQ5_0 {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        nibbles(&self.codes, codes);
        add_high_bits(self.high, codes, 16);
        offset(codes, 16);
        scales.fill(float(self.d));
    }
}

impl Unpack for BlockQ5_1 {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        nibbles(&self.codes, codes);
        add_high_bits(self.high, codes, 16);
        scales.fill(float(self.d));
        mins.fill(-float(self.m));
    }
}

impl Unpack for BlockQ8_0 {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        codes.copy_from_slice(&self.codes);
        scales.fill(float(self.d));
    }
}

impl Unpack for BlockQ2K {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, dmin) = (float(self.d), float(self.dmin));
        for ((packed, scale), min) in self.scales.iter().zip(scales).zip(mins) {
            *scale = d * f32::from(packed & 15);
            *min = dmin * f32::from(packed >> 4);
        }
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = &self.codes[i / 4 * 32..][..32];
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = ((byte >> (i % 4 * 2)) & 3) as i8;
            }
        }
    }
}

impl Unpack for BlockQ3K {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = float(self.d);
        for (i, scale) in scales.iter_mut().enumerate() {
            let low = (self.scales[i % 8] >> (i / 8 * 4)) & 15;
            let high = (self.scales[8 + i % 4] >> (i / 4 * 2)) & 3;
            *scale = d * f32::from((low | high << 4) as i8 - 32);
        }
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = &self.codes[i / 4 * 32..][..32];
            for ((code, byte), high) in codes.iter_mut().zip(bytes).zip(&self.high) {
                let low = (byte >> (i % 4 * 2)) & 3;
                *code = (low | ((high >> i) & 1) << 2) as i8 - 4;
            }
        }
    }
}

/// The eight scales and eight mins of 6 bits in Q4_K and Q5_K, one byte each, in the byte order of a little-endian u64.
///
/// ```text
///  bytes 0..4   h h s s s s s s    scale 0..4, and the high bits of scale 4..8
///  bytes 4..8   h h m m m m m m    min 0..4, and the high bits of min 4..8
///  bytes 8..12  m m m m s s s s    the low bits of min and scale 4..8
/// ```
#[inline(always)]
fn scales_and_mins_6bit(packed: &[u8; 12]) -> (u64, u64) {
    let word =
        |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let scales_low = a & 0x3f3f_3f3f;
    let mins_low = b & 0x3f3f_3f3f;
    let scales_high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let mins_high = ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030);
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    (join(scales_low, scales_high), join(mins_low, mins_high))
}

#[inline(always)]
fn unpack_scales_6bit(
    packed: &[u8; 12],
    (d, dmin): (f32, f32),
    scales: &mut [f32],
    mins: &mut [f32],
) {
    let (scale_bytes, min_bytes) = scales_and_mins_6bit(packed);
    let (scale_bytes, min_bytes) = (scale_bytes.to_le_bytes(), min_bytes.to_le_bytes());
    for (i, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        *scale = d * f32::from(scale_bytes[i / 2]);
        *min = dmin * f32::from(min_bytes[i / 2]);
    }
}

impl Unpack for BlockQ4K {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        unpack_scales_6bit(
            &self.scales,
            (float(self.d), float(self.dmin)),
            scales,
            mins,
        );
        let pairs = codes.as_chunks_mut::<64>().0;
        for (bytes, codes) in self.codes.as_chunks::<32>().0.iter().zip(pairs) {
            nibbles(bytes, codes);
        }
    }
}

impl Unpack for BlockQ5K {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        unpack_scales_6bit(
            &self.scales,
            (float(self.d), float(self.dmin)),
            scales,
            mins,
        );
        let pairs = codes.as_chunks_mut::<64>().0;
        for (bytes, codes) in self.codes.as_chunks::<32>().0.iter().zip(pairs) {
            nibbles(bytes, codes);
        }
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, high) in codes.iter_mut().zip(&self.high) {
                *code |= (((high >> i) & 1) << 4) as i8;
            }
        }
    }
}

impl Unpack for BlockQ6K {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = float(self.d);
        for (scale, packed) in scales.iter_mut().zip(&self.scales) {
            *scale = d * f32::from(*packed);
        }
        // Each half of 128: 64 bytes of low nibbles, then of high ones, and 32 bytes with four pairs of high bits.
        for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            nibbles(&self.codes[half * 64..][..64], codes);
            let high = &self.high[half * 32..][..32];
            for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (code, high) in codes.iter_mut().zip(high) {
                    *code = (*code | (((high >> (i * 2)) & 3) << 4) as i8) - 32;
                }
            }
        }
    }
}

#[inline(always)]
fn table_values(codes: &mut [i8]) {
    for code in codes {
        *code = IQ4_TABLE[(*code & 15) as usize];
    }
}

impl Unpack for BlockIq4Nl {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        nibbles(&self.codes, codes);
        table_values(codes);
        scales.fill(float(self.d));
    }
}

impl Unpack for BlockIq4Xs {
    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = float(self.d);
        let scales_high = u16::from_le_bytes(self.scales_high);
        for (i, scale) in scales.iter_mut().enumerate() {
            let i = i / 2;
            let low = (self.scales_low[i / 2] >> (i % 2 * 4)) & 15;
            let high = ((scales_high >> (i * 2)) & 3) as u8;
            *scale = d * f32::from((low | high << 4) as i8 - 32);
        }
        let groups = codes.as_chunks_mut::<32>().0;
        for (bytes, codes) in self.codes.as_chunks::<16>().0.iter().zip(groups) {
            nibbles(bytes, codes);
        }
        table_values(codes);
    }
}
