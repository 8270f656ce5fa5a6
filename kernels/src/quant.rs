//! Formats of weights, and what a block of each means.
//!
//! A row is a run of blocks; a block holds 32 or 256 weights as small integer codes with scales. Every format unpacks
//! to one form, the *plane*: `weight = scale · code − min`, with an int8 code for each weight and an f32 scale and min
//! for each group of 16. `scale` and `min` are exact products of what the block stores, so nothing is lost on the way.
//!
//! Layouts are those of GGUF files. Source: ggml-common.h and gguf-py/gguf/quants.py of llama.cpp.

mod block;
mod pack;
mod random;
mod unpack;

use std::fmt;

use half::{bf16, f16};

pub(crate) use unpack::IQ4_TABLE;
use unpack::{Plane, unpack_row};

/// Weights that share a scale in the unpacked form.
pub const GROUP: usize = 16;

/// How the weights of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 32 codes of 4 bits, a scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and a min.
    Q4_1,
    /// 32 codes of 5 bits, a scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and a min.
    Q5_1,
    /// 32 codes of 8 bits, a scale.
    Q8_0,
    /// 256 codes of 2 bits, scales and mins of 4 bits per 16.
    Q2K,
    /// 256 codes of 3 bits, scales of 6 bits per 16.
    Q3K,
    /// 256 codes of 4 bits, scales and mins of 6 bits per 32.
    Q4K,
    /// 256 codes of 5 bits, scales and mins of 6 bits per 32.
    Q5K,
    /// 256 codes of 6 bits, scales of 8 bits per 16.
    Q6K,
    /// 32 codes of 4 bits into a table of 16 values, a scale.
    Iq4Nl,
    /// 256 codes of 4 bits into the same table, scales of 6 bits per 32.
    Iq4Xs,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 15] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq4Nl,
        Format::Iq4Xs,
    ];

    /// Weights in a block. A row is a whole number of blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Q4_0
            | Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q8_0
            | Format::Iq4Nl => 32,
            Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::Iq4Xs => {
                256
            }
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
            Format::Q4_0 => size_of::<block::BlockQ4_0>(),
            Format::Q4_1 => size_of::<block::BlockQ4_1>(),
            Format::Q5_0 => size_of::<block::BlockQ5_0>(),
            Format::Q5_1 => size_of::<block::BlockQ5_1>(),
            Format::Q8_0 => size_of::<block::BlockQ8_0>(),
            Format::Q2K => size_of::<block::BlockQ2K>(),
            Format::Q3K => size_of::<block::BlockQ3K>(),
            Format::Q4K => size_of::<block::BlockQ4K>(),
            Format::Q5K => size_of::<block::BlockQ5K>(),
            Format::Q6K => size_of::<block::BlockQ6K>(),
            Format::Iq4Nl => size_of::<block::BlockIq4Nl>(),
            Format::Iq4Xs => size_of::<block::BlockIq4Xs>(),
        }
    }

    /// Bytes of a row of `cols` weights.
    ///
    /// Panics when `cols` is no whole number of blocks.
    pub const fn row_bytes(self, cols: usize) -> usize {
        assert!(
            cols.is_multiple_of(self.block_elements()),
            "a row is a whole number of blocks"
        );
        cols / self.block_elements() * self.block_bytes()
    }

    /// Bits per weight, scales included.
    pub const fn bits_per_weight(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_elements() as f64
    }

    /// Whether [`quantize_row`] can write it. True of every format here; a format that we only read would say no.
    pub const fn can_quantize(self) -> bool {
        true
    }

    /// Whether weights are floats, one by one, rather than codes in blocks.
    pub const fn is_float(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::Bf16)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::Bf16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q2K => "Q2_K",
            Format::Q3K => "Q3_K",
            Format::Q4K => "Q4_K",
            Format::Q5K => "Q5_K",
            Format::Q6K => "Q6_K",
            Format::Iq4Nl => "IQ4_NL",
            Format::Iq4Xs => "IQ4_XS",
        })
    }
}

/// Weights of a row as f32: the definition of what a block means. Equal to gguf-py's `dequantize` to the last bit.
///
/// **Shapes** `row`: `format.row_bytes(out.len())` bytes, any alignment.
pub fn dequantize_row(format: Format, row: &[u8], out: &mut [f32]) {
    assert_eq!(
        row.len(),
        format.row_bytes(out.len()),
        "row bytes fit the columns"
    );
    match format {
        Format::F32 => {
            for (bytes, y) in row.as_chunks().0.iter().zip(out) {
                *y = f32::from_le_bytes(*bytes);
            }
        }
        Format::F16 => {
            for (bytes, y) in row.as_chunks().0.iter().zip(out) {
                *y = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Format::Bf16 => {
            for (bytes, y) in row.as_chunks().0.iter().zip(out) {
                *y = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => dequantize_blocks(format, row, out),
    }
}

fn dequantize_blocks(format: Format, row: &[u8], out: &mut [f32]) {
    let elements = format.block_elements();
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 256 / GROUP], [0.0; 256 / GROUP]);
    let blocks = row.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(elements)) {
        let plane = Plane {
            codes: &mut codes[..elements],
            scales: &mut scales[..elements / GROUP],
            mins: &mut mins[..elements / GROUP],
        };
        unpack_row(format, block, plane);
        for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
            let codes = &codes[group * GROUP..][..GROUP];
            for (y, code) in out.iter_mut().zip(codes) {
                *y = scales[group] * f32::from(*code) - mins[group];
            }
        }
    }
}

/// Unpacks whole blocks: `weight[i] = scales[i / 16] · codes[i] − mins[i / 16]`. Formats without mins leave `mins`
/// as it is.
///
/// **Shapes** `codes`: a whole number of blocks; `scales`, `mins`: one for each 16. `format` is none of floats.
pub fn unpack_blocks(
    format: Format,
    blocks: &[u8],
    codes: &mut [i8],
    scales: &mut [f32],
    mins: &mut [f32],
) {
    assert_eq!(
        blocks.len(),
        format.row_bytes(codes.len()),
        "bytes fit the codes"
    );
    assert!(scales.len() == codes.len() / GROUP && mins.len() == scales.len());
    let plane = Plane {
        codes,
        scales,
        mins,
    };
    unpack_row(format, blocks, plane);
}

/// Writes a row of weights in `format`, rounding to nearest after a short search for each group's scale. Good enough
/// for demo models and tests; it knows nothing of importance matrices.
///
/// **Shapes** `out`: `format.row_bytes(row.len())` bytes. Weights must be finite.
pub fn quantize_row(format: Format, row: &[f32], out: &mut [u8]) {
    assert_eq!(
        out.len(),
        format.row_bytes(row.len()),
        "row bytes fit the columns"
    );
    match format {
        Format::F32 => {
            for (bytes, x) in out.as_chunks_mut().0.iter_mut().zip(row) {
                *bytes = x.to_le_bytes();
            }
        }
        Format::F16 => {
            for (bytes, x) in out.as_chunks_mut().0.iter_mut().zip(row) {
                *bytes = f16::from_f32(*x).to_le_bytes();
            }
        }
        Format::Bf16 => {
            for (bytes, x) in out.as_chunks_mut().0.iter_mut().zip(row) {
                *bytes = bf16::from_f32(*x).to_le_bytes();
            }
        }
        _ => pack::pack_row(format, row, out),
    }
}

pub use random::random_row;

#[cfg(test)]
#[path = "quant_tests.rs"]
mod tests;
