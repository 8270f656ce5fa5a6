//! Activations: what a matmul multiplies with.

#![allow(unsafe_code, reason = "workers write disjoint columns")]

use std::ops::Range;

use super::{Kernels, SHARED_ELEMENTS_MIN, run};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;
use crate::panel::chunk::{CHUNK_COLS, Shape};
use crate::quant::Format;

/// Activations that share a unit: as many as weights of most formats share a scale.
pub(crate) const SCALE_GROUP: usize = 32;

/// Activations whose codes are summed, to multiply with a min or an offset.
pub(crate) const SUM_GROUP: usize = 16;

/// How finely activations are rounded before they meet weights in blocks.
///
/// Each digit of 8 bits costs one pass of the dot product. `docs/kernels.md` has what that gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// One digit: 127 steps to each side of zero.
    Eight,
    /// Two digits: 32639 steps. For layers whose errors many others multiply.
    Sixteen,
}

impl Precision {
    /// Passes of the dot product.
    pub const fn digits(self) -> usize {
        match self {
            Precision::Eight => 1,
            Precision::Sixteen => 2,
        }
    }

    /// The largest code: 127, or 127 · 256 + 127 so that the upper digit is at most 127.
    pub(crate) const fn code_max(self) -> f32 {
        match self {
            Precision::Eight => 127.0,
            Precision::Sixteen => 32_639.0,
        }
    }
}

/// Columns of a tile, at most.
const TILE_COLUMNS_MAX: usize = 8;

/// What the products with a set of weights take of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// f32, for float weights and for the portable kernels.
    pub floats: bool,
    /// Codes, for weights in blocks.
    pub codes: bool,
}

impl Inputs {
    /// All that any kernel takes.
    pub const ALL: Inputs = Inputs {
        floats: true,
        codes: true,
    };

    /// What `isa` takes for weights of these formats.
    pub fn of(isa: Isa, formats: impl IntoIterator<Item = Format>) -> Inputs {
        let mut inputs = Inputs {
            floats: false,
            codes: false,
        };
        for format in formats {
            let floats = format.is_float() || isa == Isa::Portable;
            inputs.floats |= floats;
            inputs.codes |= !floats;
        }
        inputs
    }
}

/// The activations that a matmul multiplies with: loaded once, used by every matrix with the same input.
///
/// A column has one f32 scale, and each 32 of its values a power of two beside it: `value = scale · 2⁻ᵉ · code`. So an
/// outlier coarsens its own group only, and a group costs the dot product nothing: its sum of integers begins as the
/// bits of a float of which one unit in the last place is 2⁻ᵉ (a *base*, 1.5 · 2²³⁻ᵉ), and is that float when done.
///
/// Codes lie chunk by chunk of weights, and there in *tiles* of a few columns, in the order in which the dot product
/// reads them:
///
/// ```text
///  codes        [chunk][tile][column of weights / 4][digit][column of the tile]   four codes in a word
///  bases        [chunk][tile][column of weights / 32][column of the tile]
///  scaled_sums  the same: 2⁻ᵉ · the sum of 32 codes
///  pair_sums    the same: the sum itself
///  sums         [chunk][tile][column of weights / 16][column of the tile]         of 16 codes
///  half_bases   the same: the base of the 32, once more
/// ```
pub struct Activations {
    inputs: Inputs,
    columns_max: usize,
    cols_max: usize,
    layout: Layout,
    /// `[columns, cols]`
    x: Box<[f32]>,
    /// `[columns]`
    scales: Box<[f32]>,
    codes: Box<[i32]>,
    bases: Box<[i32]>,
    scaled_sums: Box<[f32]>,
    half_bases: Box<[i32]>,
    sums: Box<[i32]>,
    pair_sums: Box<[i32]>,
}

/// What is loaded, and where its codes lie.
#[derive(Clone, Copy)]
struct Layout {
    columns: usize,
    cols: usize,
    precision: Precision,
    tiles: usize,
}

impl Layout {
    const NONE: Layout = Layout {
        columns: 0,
        cols: 0,
        precision: Precision::Eight,
        tiles: 0,
    };

    /// With at most `tile_digits` columns times digits in a tile.
    fn new(columns: usize, cols: usize, precision: Precision, tile_digits: usize) -> Layout {
        Layout {
            columns,
            cols,
            precision,
            tiles: columns.div_ceil(tile_digits / precision.digits()),
        }
    }

    /// Tiles are of about equal width, wider ones first: nine columns are 5 and 4, not 6 and 3.
    fn tile_columns(&self, index: usize) -> Range<usize> {
        let (width, wider) = (self.columns / self.tiles, self.columns % self.tiles);
        let start = |index: usize| index * width + index.min(wider);
        start(index)..start(index + 1)
    }

    /// Where the values of some columns for a chunk lie, and how many of each column.
    fn place(&self, columns: &Range<usize>, chunk: usize) -> (Range<usize>, usize) {
        let start = chunk * CHUNK_COLS;
        let len = (padded(self.cols) - start).min(CHUNK_COLS);
        let at = start * self.columns + columns.start * len;
        (at..at + columns.len() * len, len)
    }
}

/// The columns of one tile, for one chunk of weights.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Columns in it.
    pub(crate) width: usize,
    pub(crate) digits: usize,
    /// Groups of 32 columns of weights.
    pub(crate) blocks: usize,
    pub(crate) codes: &'a [i32],
    pub(crate) bases: &'a [i32],
    pub(crate) scaled_sums: &'a [f32],
    pub(crate) half_bases: &'a [i32],
    pub(crate) sums: &'a [i32],
    pub(crate) pair_sums: &'a [i32],
}

/// Groups of a chunk that share a scale times columns of a tile, at most.
const GROUPS_MAX: usize = CHUNK_COLS / SUM_GROUP * TILE_COLUMNS_MAX;

/// Memory for [`Groups`].
pub(crate) struct GroupSpace {
    begins: [i32; GROUPS_MAX],
    scaled_halves: [f32; GROUPS_MAX],
}

impl GroupSpace {
    pub(crate) const ZERO: GroupSpace = GroupSpace {
        begins: [0; GROUPS_MAX],
        scaled_halves: [0.0; GROUPS_MAX],
    };
}

/// What a tile of `N` columns has for each group of weights that share a scale.
pub(crate) struct Groups<'a, const N: usize> {
    /// Where the sum of products of a group begins (16 columns of weights or 32): at minus the offset times the sum of
    /// codes. Where there is one digit, these are the low bits of the base: sums stay below 2²² (32 · 255 · 127 is the
    /// most), so its exponent does not change, and the sum as a float less the base is 2⁻ᵉ · the sum, exactly.
    pub(crate) begins: &'a [[i32; N]],
    /// Of each 32 columns.
    pub(crate) bases: &'a [[i32; N]],
    /// What mins are multiplied with: 2⁻ᵉ · the sum of codes of a group.
    pub(crate) scaled_sums: &'a [[f32; N]],
}

impl<'a, const N: usize> Groups<'a, N> {
    /// Must be inlined into a function that was compiled for the instruction set.
    #[inline(always)]
    pub(crate) fn of<const D: usize>(
        tile: &Tile<'a>,
        shape: Shape,
        space: &'a mut GroupSpace,
    ) -> Groups<'a, N> {
        let offset = if shape.mins { 0 } else { shape.offset };
        let (bases, sums) = if shape.sixteens {
            (tile.half_bases, tile.sums)
        } else {
            (tile.bases, tile.pair_sums)
        };
        let begins = if D == 1 && offset == 0 {
            bases
        } else {
            let begins = space.begins.iter_mut().zip(bases);
            for ((begin, base), sum) in begins.zip(sums) {
                let base = if D == 1 { *base } else { 0 };
                *begin = base - offset * sum;
            }
            &space.begins
        };
        let mut scaled_sums = tile.scaled_sums;
        if shape.sixteens && shape.mins {
            let scaled = space.scaled_halves.iter_mut().zip(bases);
            for ((scaled, base), sum) in scaled.zip(sums) {
                *scaled = *sum as f32 * unit_of(*base);
            }
            scaled_sums = &space.scaled_halves;
        }
        let groups = if shape.sixteens { 2 } else { 1 } * tile.blocks;
        Groups {
            begins: &begins.as_chunks().0[..groups],
            bases: &tile.bases.as_chunks().0[..tile.blocks],
            scaled_sums: scaled_sums.as_chunks().0,
        }
    }
}

/// One column's places in its tile for one chunk, to write.
pub(crate) struct ColumnMut<'a> {
    pub(crate) precision: Precision,
    /// Distance between two values of the column, digits aside.
    pub(crate) stride: usize,
    /// From the column's first word.
    pub(crate) codes: &'a mut [i32],
    pub(crate) bases: &'a mut [i32],
    pub(crate) scaled_sums: &'a mut [f32],
    pub(crate) half_bases: &'a mut [i32],
    pub(crate) sums: &'a mut [i32],
    pub(crate) pair_sums: &'a mut [i32],
}

/// The bits by which 1.5 · 2²³⁻ᵉ is above 2⁻ᵉ.
const BASE_BITS: u32 = 0x4b40_0000 - 0x3f80_0000;

/// The power of two of a base: what one unit of the sum is worth.
#[inline(always)]
pub(crate) fn unit_of(base: i32) -> f32 {
    f32::from_bits(base.cast_unsigned() - BASE_BITS)
}

/// The base of a power of two.
#[inline(always)]
pub(crate) fn base_of(unit: f32) -> i32 {
    (unit.to_bits() + BASE_BITS).cast_signed()
}

/// How a column is rounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnScale {
    /// What codes are multiplied with: 0 for a column so near zero that its products would vanish in f32, NaN for one
    /// with a value that is not finite, so that the fault shows in every product.
    scale: f32,
    /// The bits of the largest magnitude.
    largest: u32,
    /// 1 / scale, or 0 where there is none.
    inverse: f32,
    /// The largest `e` of a group.
    exponent_max: u32,
}

impl ColumnScale {
    /// Plain Rust, compiled for each instruction set.
    #[inline(always)]
    pub(crate) fn of(x: &[f32], precision: Precision) -> ColumnScale {
        let largest = largest_bits(x);
        let magnitude = f32::from_bits(largest);
        let inverse = precision.code_max() / magnitude;
        if magnitude.is_finite() && inverse.is_finite() {
            // `inverse · 2ᵉ` must stay finite.
            let exponent = (inverse.to_bits() >> 23).saturating_sub(127);
            ColumnScale {
                scale: magnitude / precision.code_max(),
                largest,
                inverse,
                exponent_max: 120_u32.saturating_sub(exponent).min(60),
            }
        } else {
            ColumnScale {
                scale: if magnitude.is_finite() { 0.0 } else { f32::NAN },
                largest,
                inverse: 0.0,
                exponent_max: 0,
            }
        }
    }

    /// Whether any value becomes a code other than zero.
    #[inline(always)]
    pub(crate) fn rounds(&self) -> bool {
        self.inverse > 0.0
    }

    /// What a group's values are multiplied with to become codes, and its unit 2⁻ᵉ, given the bits of its largest
    /// magnitude: `e` is the largest for which 2⁻ᵉ times the column's largest magnitude is no less. Magnitudes compare
    /// as integers, and a difference of 2²³ is a factor of two.
    #[inline(always)]
    pub(crate) fn group(&self, largest: u32) -> (f32, f32) {
        let exponent = ((self.largest - largest) >> 23).min(self.exponent_max);
        let inverse = self.inverse * f32::from_bits((127 + exponent) << 23);
        (inverse, f32::from_bits((127 - exponent) << 23))
    }
}

/// The bits of the largest magnitude; infinity and NaN are the greatest.
#[inline(always)]
fn largest_bits(x: &[f32]) -> u32 {
    x.iter()
        .fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff))
}

/// Values of a column of `cols`, padded with zeros to whole groups.
const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(SCALE_GROUP)
}

impl Activations {
    /// Takes the memory for `columns_max` columns of at most `cols_max` values.
    pub fn new(columns_max: usize, cols_max: usize, inputs: Inputs) -> Activations {
        let values = Activations::values(columns_max, cols_max, inputs);
        let floats = if inputs.floats {
            columns_max * cols_max
        } else {
            0
        };
        Activations {
            inputs,
            columns_max,
            cols_max,
            layout: Layout::NONE,
            x: vec![0.0; floats].into(),
            scales: vec![0.0; columns_max].into(),
            codes: vec![0; values / 4 * Precision::Sixteen.digits()].into(),
            bases: vec![0; values / SCALE_GROUP].into(),
            scaled_sums: vec![0.0; values / SCALE_GROUP].into(),
            half_bases: vec![0; values / SUM_GROUP].into(),
            sums: vec![0; values / SUM_GROUP].into(),
            pair_sums: vec![0; values / SCALE_GROUP].into(),
        }
    }

    /// Bytes that [`Activations::new`] takes.
    pub fn bytes(columns_max: usize, cols_max: usize, inputs: Inputs) -> usize {
        let values = Activations::values(columns_max, cols_max, inputs);
        let floats = if inputs.floats {
            columns_max * cols_max
        } else {
            0
        };
        let codes = values * Precision::Sixteen.digits();
        (floats + columns_max) * 4 + codes + values / SCALE_GROUP * 12 + values / SUM_GROUP * 8
    }

    /// Codes, at most.
    fn values(columns_max: usize, cols_max: usize, inputs: Inputs) -> usize {
        if inputs.codes {
            columns_max * padded(cols_max)
        } else {
            0
        }
    }

    /// Columns loaded.
    pub fn columns(&self) -> usize {
        self.layout.columns
    }

    /// Values in each column.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Digits of each value.
    pub(super) fn digits(&self) -> usize {
        self.layout.precision.digits()
    }

    pub(super) fn floats(&self, column: usize) -> &[f32] {
        assert!(self.inputs.floats, "memory for floats was taken");
        &self.x[column * self.cols()..][..self.cols()]
    }

    /// What every sum of products with a column is multiplied with.
    pub(super) fn scale(&self, column: usize) -> f32 {
        self.scales[column]
    }

    pub(crate) fn tiles(&self) -> usize {
        self.layout.tiles
    }

    /// Tile `index` for a chunk of weights, and its columns.
    #[inline(always)]
    pub(crate) fn tile(&self, index: usize, chunk: usize) -> (Tile<'_>, Range<usize>) {
        assert!(self.inputs.codes, "memory for codes was taken");
        let columns = self.layout.tile_columns(index);
        let (at, len) = self.layout.place(&columns, chunk);
        let digits = self.digits();
        let every = |size: usize| at.start / size..at.end / size;
        let tile = Tile {
            width: columns.len(),
            digits,
            blocks: len / SCALE_GROUP,
            codes: &self.codes[at.start / 4 * digits..at.end / 4 * digits],
            bases: &self.bases[every(SCALE_GROUP)],
            scaled_sums: &self.scaled_sums[every(SCALE_GROUP)],
            half_bases: &self.half_bases[every(SUM_GROUP)],
            sums: &self.sums[every(SUM_GROUP)],
            pair_sums: &self.pair_sums[every(SCALE_GROUP)],
        };
        (tile, columns)
    }

    /// What the dot product takes for a value, for tests.
    #[cfg(test)]
    pub(crate) fn rounded(&self, column: usize, k: usize) -> f64 {
        let mut tiles = (0..self.tiles()).map(|index| self.tile(index, k / CHUNK_COLS));
        let (tile, columns) = tiles
            .find(|(_, columns)| columns.contains(&column))
            .unwrap();
        let (at, k) = (column - columns.start, k % CHUNK_COLS);
        let digit = |digit: usize| {
            let word = tile.codes[(k / 4 * tile.digits + digit) * tile.width + at];
            i32::from(word.to_le_bytes()[k % 4].cast_signed())
        };
        let code = (0..tile.digits).fold(0, |code, d| code * 256 + digit(d));
        let unit = unit_of(tile.bases[k / SCALE_GROUP * tile.width + at]);
        f64::from(code) * f64::from(unit) * f64::from(self.scales[column])
    }
}

impl Kernels {
    /// Loads activations for any number of [`Kernels::matmul`]s.
    ///
    /// **Shapes** `x`: `[columns, cols]`. A column with a value that is not finite makes every product with it NaN.
    pub fn load(
        &mut self,
        x: &[f32],
        columns: usize,
        cols: usize,
        precision: Precision,
        activations: &mut Activations,
    ) {
        assert!(columns <= activations.columns_max, "{columns} columns fit");
        assert!(cols <= activations.cols_max, "{cols} cols fit");
        assert_eq!(x.len(), columns * cols);
        let isa = self.isa;
        let tile_digits = dispatch::tile_digits(isa);
        let layout = Layout::new(columns, cols, precision, tile_digits);
        activations.layout = layout;
        if activations.inputs.floats {
            activations.x[..x.len()].copy_from_slice(x);
        }
        if !activations.inputs.codes || isa == Isa::Portable {
            return;
        }
        let digits = precision.digits();
        let scales = Disjoint::new(&mut activations.scales);
        let codes = Disjoint::new(&mut activations.codes);
        let bases = Disjoint::new(&mut activations.bases);
        let scaled_sums = Disjoint::new(&mut activations.scaled_sums);
        let half_bases = Disjoint::new(&mut activations.half_bases);
        let sums = Disjoint::new(&mut activations.sums);
        let pair_sums = Disjoint::new(&mut activations.pair_sums);
        let chunks = padded(cols).div_ceil(CHUNK_COLS);
        run(&mut self.team, x.len(), SHARED_ELEMENTS_MIN, &|worker| {
            // Few tiles are cut by chunks, for which each worker looks for the scales of all columns itself.
            let by_tile = layout.tiles >= worker.count;
            let (tiles, chunks) = if by_tile {
                (worker.share(layout.tiles, 1), 0..chunks)
            } else {
                (0..layout.tiles, worker.share(chunks, 1))
            };
            for tile in tiles {
                let tile = layout.tile_columns(tile);
                for (at_column, column) in tile.clone().enumerate() {
                    let x = &x[column * cols..][..cols];
                    let rounding = dispatch::column_scale(isa, x, precision);
                    if by_tile || worker.index == 0 {
                        // SAFETY: a tile is one worker's, or all scales are the first one's.
                        let scale = unsafe { scales.slice(column..column + 1) };
                        scale[0] = rounding.scale;
                    }
                    for chunk in chunks.clone() {
                        let (at, _) = layout.place(&tile, chunk);
                        let every = |size: usize| at.start / size + at_column..at.end / size;
                        // SAFETY: a tile, or a chunk, is one worker's, who has these slices once at a time.
                        let column = unsafe {
                            ColumnMut {
                                precision,
                                stride: tile.len(),
                                codes: codes
                                    .slice(at.start / 4 * digits + at_column..at.end / 4 * digits),
                                bases: bases.slice(every(SCALE_GROUP)),
                                scaled_sums: scaled_sums.slice(every(SCALE_GROUP)),
                                half_bases: half_bases.slice(every(SUM_GROUP)),
                                sums: sums.slice(every(SUM_GROUP)),
                                pair_sums: pair_sums.slice(every(SCALE_GROUP)),
                            }
                        };
                        let start = chunk * CHUNK_COLS;
                        let x = &x[start..cols.min(start + CHUNK_COLS)];
                        dispatch::quantize(isa, x, &rounding, column);
                    }
                }
            }
        });
    }
}

/// Rounds one chunk of a column to codes.
///
/// Plain Rust, compiled for each instruction set.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], rounding: &ColumnScale, column: ColumnMut<'_>) {
    /// Adding it rounds to an integer, which is then in the low bits: 1.5 · 2²³.
    const ROUND: f32 = 12_582_912.0;
    let ColumnMut {
        precision,
        stride,
        codes,
        bases,
        scaled_sums,
        half_bases,
        sums,
        pair_sums,
    } = column;
    for group in 0..x.len().div_ceil(SCALE_GROUP) {
        let x = &x[group * SCALE_GROUP..];
        let mut values = [0.0; SCALE_GROUP];
        if rounding.rounds() {
            match x.first_chunk::<SCALE_GROUP>() {
                Some(x) => values = *x,
                None => values[..x.len()].copy_from_slice(x),
            }
        }
        let (inverse, unit) = rounding.group(largest_bits(&values));
        let mut q = [0_i32; SCALE_GROUP];
        for (q, x) in q.iter_mut().zip(&values) {
            *q = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        }
        let halves = q.as_chunks::<SUM_GROUP>().0;
        let sum: [i32; 2] = [halves[0].iter().sum(), halves[1].iter().sum()];
        let base = base_of(unit);
        bases[group * stride] = base;
        half_bases[group * 2 * stride] = base;
        half_bases[(group * 2 + 1) * stride] = base;
        scaled_sums[group * stride] = (sum[0] + sum[1]) as f32 * unit;
        pair_sums[group * stride] = sum[0] + sum[1];
        sums[group * 2 * stride] = sum[0];
        sums[(group * 2 + 1) * stride] = sum[1];
        let at = group * SCALE_GROUP / 4;
        match precision {
            Precision::Eight => {
                for (i, word) in pack_words(&q).into_iter().enumerate() {
                    codes[(at + i) * stride] = word;
                }
            }
            Precision::Sixteen => {
                let mut upper = [0; SCALE_GROUP];
                for (upper, q) in upper.iter_mut().zip(&mut q) {
                    *upper = (*q + 128) >> 8;
                    *q -= *upper << 8;
                }
                let words = pack_words(&upper).into_iter().zip(pack_words(&q));
                for (i, (upper, lower)) in words.enumerate() {
                    codes[(at + i) * 2 * stride] = upper;
                    codes[((at + i) * 2 + 1) * stride] = lower;
                }
            }
        }
    }
}

/// The low bytes of 32 codes, four to a word.
#[inline(always)]
fn pack_words(codes: &[i32; SCALE_GROUP]) -> [i32; SCALE_GROUP / 4] {
    let mut bytes = [0; SCALE_GROUP];
    for (byte, code) in bytes.iter_mut().zip(codes) {
        *byte = *code as u8;
    }
    let mut words = [0; SCALE_GROUP / 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    words
}
