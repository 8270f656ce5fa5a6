//! The KV cache's layout: how keys and values of one layer lie in bytes.
//!
//! A *plane* holds the positions of one KV head in one KV block, `P` of them. Keys are transposed, so that one vector
//! load brings the same element of consecutive positions:
//!
//! ```text
//!  f16   keys    [head_dim][P] f16                values  [P][head_dim] f16
//!  q8_0  keys    [head_dim][P] i8                 values  [P][head_dim] i8
//!        scales  [head_dim / 32][P] f16           scales  [head_dim / 32][P] f16
//!  i16   keys    [head_dim / 2][P][2] i16         values  [P / 2][head_dim][2] i16
//!        scales  [P] bf16                         scales  [P] bf16
//! ```
//!
//! In i16 two numbers that one product of pairs takes lie together: two elements of a key, or one element of two
//! values.
//!
//! The plane of head *h* in block *b* has index `b · kv_heads + h`. Numbers are little-endian.

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::attention::Query;
use crate::Isa;

/// Values that share a scale in [`KvFormat::Q8_0`].
pub const KV_SCALE_GROUP: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// Half precision.
    #[default]
    F16,
    /// Eight bits, and an f16 scale for each 32 elements of a head: a little more than half the bytes.
    Q8_0,
    /// Sixteen bits, and a bf16 scale for each head, for integer products. Up to 256 elements what rounding moves a
    /// head by is less than in halves, by its norm; `docs/kernels.md` has the sum.
    I16,
}

impl KvFormat {
    /// Bytes of the keys (or values) of `positions` of one head.
    pub const fn plane_bytes(self, head_dim: usize, positions: usize) -> usize {
        match self {
            KvFormat::F16 => head_dim * positions * 2,
            KvFormat::Q8_0 => (head_dim + head_dim / KV_SCALE_GROUP * 2) * positions,
            KvFormat::I16 => (head_dim + 1) * positions * 2,
        }
    }

    /// The one that an instruction set attends fastest in 16 bits: [`KvFormat::I16`] where there are products of pairs
    /// of words, and where heads fit it.
    pub fn of(isa: Isa, head_dim: usize) -> KvFormat {
        match isa {
            Isa::Avx512 if KvFormat::I16.fits(head_dim) => KvFormat::I16,
            _ => KvFormat::F16,
        }
    }

    /// What the width of a head must be a multiple of.
    pub const fn head_multiple(self) -> usize {
        match self {
            KvFormat::F16 => 1,
            KvFormat::Q8_0 => KV_SCALE_GROUP,
            KvFormat::I16 => 2,
        }
    }

    /// Whether heads of this width can be stored.
    pub const fn fits(self, head_dim: usize) -> bool {
        head_dim.is_multiple_of(self.head_multiple())
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
            KvFormat::I16 => "i16",
        })
    }
}

impl FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(name: &str) -> Result<KvFormat, UnknownKvFormat> {
        match name {
            "f16" => Ok(KvFormat::F16),
            "q8_0" => Ok(KvFormat::Q8_0),
            "i16" => Ok(KvFormat::I16),
            _ => Err(UnknownKvFormat),
        }
    }
}

/// A name that is no format of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKvFormat;

impl fmt::Display for UnknownKvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown format of keys and values: use f16, q8_0 or i16")
    }
}

impl std::error::Error for UnknownKvFormat {}

/// A place for one position in a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// KV block.
    pub block: u32,
    /// Position within it.
    pub offset: u32,
}

/// Dimensions of a layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How numbers are stored.
    pub format: KvFormat,
    /// KV heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Positions in a KV block.
    pub block_positions: usize,
}

impl KvShape {
    /// Bytes of the keys (or values) of one head in one block.
    pub const fn plane_bytes(&self) -> usize {
        self.format.plane_bytes(self.head_dim, self.block_positions)
    }

    /// Where a plane of q8_0 has the scale of element `d` of the position at `offset`.
    const fn scale_at(&self, offset: usize, d: usize) -> usize {
        let (codes, group) = (self.head_dim * self.block_positions, d / KV_SCALE_GROUP);
        codes + (group * self.block_positions + offset) * 2
    }

    /// Where a plane of keys has element `d` of the position at `offset`, in numbers.
    const fn key_at(&self, offset: usize, d: usize) -> usize {
        match self.format {
            KvFormat::F16 | KvFormat::Q8_0 => d * self.block_positions + offset,
            KvFormat::I16 => (d / 2 * self.block_positions + offset) * 2 + d % 2,
        }
    }

    /// Where a plane of values has it.
    const fn value_at(&self, offset: usize, d: usize) -> usize {
        match self.format {
            KvFormat::F16 | KvFormat::Q8_0 => offset * self.head_dim + d,
            KvFormat::I16 => (offset / 2 * self.head_dim + d) * 2 + offset % 2,
        }
    }

    /// Where a plane of i16 has the scale of the position at `offset`.
    const fn word_scale_at(&self, offset: usize) -> usize {
        (self.head_dim * self.block_positions + offset) * 2
    }

    /// Asserts that the format stores such planes.
    pub(crate) fn check(&self) {
        assert!(
            self.format.fits(self.head_dim),
            "the format stores such heads"
        );
        if self.format == KvFormat::I16 {
            assert!(
                self.block_positions.is_multiple_of(2),
                "values of two positions lie together"
            );
        }
    }
}

/// Keys and values of one layer: planes, as the module's picture has them.
#[derive(Clone, Copy, Debug)]
pub struct KvLayer<'a> {
    /// Keys.
    pub k: &'a [u8],
    /// Values.
    pub v: &'a [u8],
    /// Dimensions.
    pub shape: KvShape,
}

/// [`KvLayer`], to write.
#[derive(Debug)]
pub struct KvLayerMut<'a> {
    /// Keys.
    pub k: &'a mut [u8],
    /// Values.
    pub v: &'a mut [u8],
    /// Dimensions.
    pub shape: KvShape,
}

impl<'a> KvLayer<'a> {
    /// Planes of keys and values that hold `position` of a query's sequence, and where in them it lies.
    #[inline(always)]
    pub(crate) fn planes(
        &self,
        query: &Query,
        tables: &[u32],
        position: usize,
        kv_head: usize,
    ) -> (&'a [u8], &'a [u8], usize) {
        let shape = &self.shape;
        let entry = query.table_start as usize + position / shape.block_positions;
        let plane = tables[entry] as usize * shape.kv_heads + kv_head;
        let bytes = shape.plane_bytes();
        let at = plane * bytes..(plane + 1) * bytes;
        (
            &self.k[at.clone()],
            &self.v[at],
            position % shape.block_positions,
        )
    }

    /// Element `d` of the key at `offset` of a plane: the number that is stored, and what multiplies it. The product is
    /// exact in f32.
    #[inline]
    pub(crate) fn key(&self, plane: &[u8], offset: usize, d: usize) -> (f32, f32) {
        self.number(plane, self.shape.key_at(offset, d), offset, d)
    }

    /// Element `d` of the value at `offset` of a plane, likewise.
    #[inline]
    pub(crate) fn value(&self, plane: &[u8], offset: usize, d: usize) -> (f32, f32) {
        self.number(plane, self.shape.value_at(offset, d), offset, d)
    }

    #[inline]
    fn number(&self, plane: &[u8], at: usize, offset: usize, d: usize) -> (f32, f32) {
        match self.shape.format {
            KvFormat::F16 => (half_at(plane, at * 2), 1.0),
            KvFormat::Q8_0 => {
                let scale = half_at(plane, self.shape.scale_at(offset, d));
                (f32::from(plane[at].cast_signed()), scale)
            }
            KvFormat::I16 => {
                let code = i16::from_le_bytes([plane[at * 2], plane[at * 2 + 1]]);
                let scale_at = self.shape.word_scale_at(offset);
                let scale = bf16::from_le_bytes([plane[scale_at], plane[scale_at + 1]]);
                (f32::from(code), scale.to_f32())
            }
        }
    }
}

impl KvLayerMut<'_> {
    /// Stores one head of one position.
    pub(crate) fn store(&mut self, slot: KvSlot, kv_head: usize, k: &[f32], v: &[f32]) {
        let shape = self.shape;
        let (dim, positions, offset) =
            (shape.head_dim, shape.block_positions, slot.offset as usize);
        let plane = slot.block as usize * shape.kv_heads + kv_head;
        let bytes = shape.plane_bytes();
        let at = plane * bytes..(plane + 1) * bytes;
        let (keys, values) = (&mut self.k[at.clone()], &mut self.v[at]);
        if shape.format == KvFormat::I16 {
            let at = |d| shape.key_at(offset, d) * 2;
            store_words(
                k,
                word_scale(k, norm(k)),
                shape.word_scale_at(offset),
                at,
                keys,
            );
            let at = |d| shape.value_at(offset, d) * 2;
            let greatest = greatest(v);
            store_words(
                v,
                word_scale(v, greatest),
                shape.word_scale_at(offset),
                at,
                values,
            );
            return;
        }
        let groups = k.chunks(KV_SCALE_GROUP).zip(v.chunks(KV_SCALE_GROUP));
        for (group, (k, v)) in groups.enumerate() {
            let start = group * KV_SCALE_GROUP;
            match shape.format {
                KvFormat::F16 => {
                    let mut halves = [f16::ZERO; KV_SCALE_GROUP];
                    halves[..k.len()].convert_from_f32_slice(k);
                    for (d, half) in (start..).zip(&halves[..k.len()]) {
                        let at = (d * positions + offset) * 2;
                        keys[at..at + 2].copy_from_slice(&half.to_le_bytes());
                    }
                    halves[..v.len()].convert_from_f32_slice(v);
                    let at = (offset * dim + start) * 2;
                    let out = values[at..at + v.len() * 2].as_chunks_mut::<2>().0;
                    for (out, half) in out.iter_mut().zip(&halves) {
                        *out = half.to_le_bytes();
                    }
                }
                KvFormat::Q8_0 => {
                    let scale_at = shape.scale_at(offset, start);
                    let scale_at = scale_at..scale_at + 2;
                    let (scale, codes) = quantize(k);
                    for (d, code) in (start..).zip(codes) {
                        keys[d * positions + offset] = code.cast_unsigned();
                    }
                    keys[scale_at.clone()].copy_from_slice(&scale.to_le_bytes());
                    let (scale, codes) = quantize(v);
                    for (out, code) in values[offset * dim + start..].iter_mut().zip(codes) {
                        *out = code.cast_unsigned();
                    }
                    values[scale_at].copy_from_slice(&scale.to_le_bytes());
                }
                KvFormat::I16 => unreachable!("stored above"),
            }
        }
    }
}

/// A scale and codes. Where the scale is a normal f16, `code · scale` is within 0.54 of a scale of each value: half a
/// code, and what rounding the scale to 11 bits moves 127 codes by. A value that is not finite makes the scale NaN.
pub(crate) fn quantize(x: &[f32]) -> (f16, [i8; KV_SCALE_GROUP]) {
    let mut codes = [0; KV_SCALE_GROUP];
    let greatest = greatest(x);
    if x.iter().any(|x| !x.is_finite()) {
        return (f16::NAN, codes);
    }
    let scale = f16::from_f32(greatest / 127.0);
    if scale > f16::ZERO {
        let inverse = scale.to_f32().recip();
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
    (scale, codes)
}

/// Writes codes of `x` to where `at` says, and their scale.
fn store_words(
    x: &[f32],
    scale: bf16,
    scale_at: usize,
    at: impl Fn(usize) -> usize,
    plane: &mut [u8],
) {
    // 1.5 · 2²³: in a sum with it the low bits are the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let inverse = if scale.is_finite() && scale > bf16::ZERO {
        scale.to_f32().recip()
    } else {
        0.0
    };
    for (d, x) in x.iter().enumerate() {
        let code = (x * inverse + ROUND).to_bits() as u16;
        plane[at(d)..at(d) + 2].copy_from_slice(&code.to_le_bytes());
    }
    plane[scale_at..scale_at + 2].copy_from_slice(&scale.to_le_bytes());
}

/// What codes of i16 are multiplied with: so much that `size`, which no magnitude of `x` exceeds, becomes at most
/// [`WORD_MAX`]. Eight bits, so that a code times it is exact in f32. What is too small for halves is zero, and a value
/// that is not finite, or too large for its square, makes the scale NaN.
fn word_scale(x: &[f32], size: f32) -> bf16 {
    let finite = x.iter().all(|x| x.is_finite());
    if !finite || !size.is_finite() {
        bf16::NAN
    } else if size < WORD_SIZE_MIN {
        bf16::ZERO
    } else {
        // Rounded up. No carry reaches the sign, since `size` is finite.
        let bits = (size / f32::from(WORD_MAX)).to_bits();
        bf16::from_bits(((bits + 0xffff) >> 16) as u16)
    }
}

/// The greatest code of i16, and the norm of a key's codes before they are rounded.
pub(crate) const WORD_MAX: i16 = 32_767;

/// What is smaller is zero in i16. Its square is far from where f32 loses bits.
pub(crate) const WORD_SIZE_MIN: f32 = 1e-12;

/// The Euclidean norm, in 16 sums.
fn norm(x: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    for x in x.chunks(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    sums.iter().sum::<f32>().sqrt()
}

fn greatest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |greatest, x| greatest.max(x.abs()))
}

#[inline]
fn half_at(plane: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([plane[at], plane[at + 1]]).to_f32()
}
