//! Activations: what a matmul multiplies with.

#![allow(unsafe_code, reason = "workers write disjoint columns")]

use std::ops::Range;

use super::{Kernels, SHARED_ELEMENTS_MIN, run};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;

/// Activations that share a scale: as many as weights of most formats do.
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
    pub(crate) const fn digits(self) -> usize {
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

/// Columns of a tile times digits, at most: two panels of weights with as many accumulators fill 24 of 32 registers.
pub(crate) const TILE_DIGITS: usize = 6;

/// The activations that a matmul multiplies with: loaded once, used by every matrix with the same input.
///
/// They are held twice: as f32 for float weights, and as codes for weights in blocks. Codes lie in *tiles* of up to six
/// columns, in the order in which the dot product reads them:
///
/// ```text
///  codes    [tile][column of weights / 4][digit][column of the tile]   four codes in a word
///  scales   [tile][column of weights / 32][column of the tile]
///  sums     [tile][column of weights / 16][column of the tile]
/// ```
pub struct Activations {
    columns_max: usize,
    cols_max: usize,
    columns: usize,
    cols: usize,
    precision: Precision,
    /// `[columns, cols]`
    x: Box<[f32]>,
    codes: Box<[i32]>,
    scales: Box<[f32]>,
    sums: Box<[i32]>,
}

/// The columns of one tile, for all columns of weights.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Columns in it.
    pub(crate) width: usize,
    pub(crate) digits: usize,
    pub(crate) codes: &'a [i32],
    pub(crate) scales: &'a [f32],
    pub(crate) sums: &'a [i32],
}

/// One column's places in its tile, to write.
pub(crate) struct ColumnMut<'a> {
    pub(crate) precision: Precision,
    /// Distance between two values of the column, digits aside.
    pub(crate) stride: usize,
    /// From the column's first word.
    pub(crate) codes: &'a mut [i32],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [i32],
}

/// Values of a column of `cols`, padded with zeros to whole groups.
const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(SCALE_GROUP)
}

impl Activations {
    /// Takes the memory for `columns_max` columns of at most `cols_max` values.
    pub fn new(columns_max: usize, cols_max: usize) -> Activations {
        let values = columns_max * padded(cols_max);
        Activations {
            columns_max,
            cols_max,
            columns: 0,
            cols: 0,
            precision: Precision::Eight,
            x: vec![0.0; columns_max * cols_max].into(),
            codes: vec![0; values / 4 * Precision::Sixteen.digits()].into(),
            scales: vec![0.0; values / SCALE_GROUP].into(),
            sums: vec![0; values / SUM_GROUP].into(),
        }
    }

    /// Bytes that [`Activations::new`] takes.
    pub fn bytes(columns_max: usize, cols_max: usize) -> usize {
        let values = columns_max * padded(cols_max);
        let codes = values * Precision::Sixteen.digits();
        columns_max * cols_max * 4 + codes + values / SCALE_GROUP * 4 + values / SUM_GROUP * 4
    }

    /// Columns loaded.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Values in each column.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Digits of each value.
    pub(super) fn digits(&self) -> usize {
        self.precision.digits()
    }

    pub(super) fn floats(&self, column: usize) -> &[f32] {
        &self.x[column * self.cols..][..self.cols]
    }

    /// Tiles of the columns loaded.
    pub(super) fn tiles(&self) -> usize {
        tiles(self.columns, self.precision)
    }

    /// The columns of tile `index`.
    pub(super) fn tile_columns(&self, index: usize) -> Range<usize> {
        tile_columns(self.columns, self.precision, index)
    }

    pub(super) fn tile(&self, index: usize) -> Tile<'_> {
        let columns = self.tile_columns(index);
        let (cols, digits) = (padded(self.cols), self.precision.digits());
        let part = |per_column: usize| columns.start * per_column..columns.end * per_column;
        Tile {
            width: columns.len(),
            digits,
            codes: &self.codes[part(cols / 4 * digits)],
            scales: &self.scales[part(cols / SCALE_GROUP)],
            sums: &self.sums[part(cols / SUM_GROUP)],
        }
    }

    /// What the dot product takes for a value, for tests: code times scale.
    #[cfg(test)]
    pub(crate) fn rounded(&self, column: usize, k: usize) -> f64 {
        let index = (0..self.tiles())
            .find(|tile| self.tile_columns(*tile).contains(&column))
            .unwrap();
        let (tile, at) = (self.tile(index), column - self.tile_columns(index).start);
        let digit = |digit: usize| {
            let word = tile.codes[(k / 4 * tile.digits + digit) * tile.width + at];
            i32::from(word.to_le_bytes()[k % 4].cast_signed())
        };
        let code = (0..tile.digits).fold(0, |code, d| code * 256 + digit(d));
        f64::from(code) * f64::from(tile.scales[k / SCALE_GROUP * tile.width + at])
    }
}

/// As few tiles as hold the columns.
fn tiles(columns: usize, precision: Precision) -> usize {
    columns.div_ceil(TILE_DIGITS / precision.digits())
}

/// Tiles of about equal width: nine columns are 5 and 4, not 6 and 3.
fn tile_columns(columns: usize, precision: Precision, index: usize) -> Range<usize> {
    let tiles = tiles(columns, precision);
    index * columns / tiles..(index + 1) * columns / tiles
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
        activations.columns = columns;
        activations.cols = cols;
        activations.precision = precision;
        let tile_count = tiles(columns, precision);
        let isa = self.isa;
        let floats = Disjoint::new(&mut activations.x);
        let codes = Disjoint::new(&mut activations.codes);
        let scales = Disjoint::new(&mut activations.scales);
        let sums = Disjoint::new(&mut activations.sums);
        run(&mut self.team, x.len(), SHARED_ELEMENTS_MIN, &|worker| {
            for index in worker.share(tile_count, 1) {
                let tile = tile_columns(columns, precision, index);
                let of = |size: usize| tile.start * size..tile.end * size;
                // SAFETY: shares of tiles are disjoint, and each array is cut at the borders of tiles.
                let (floats, codes, scales, sums) = unsafe {
                    (
                        floats.slice(of(cols)),
                        codes.slice(of(padded(cols) / 4 * precision.digits())),
                        scales.slice(of(padded(cols) / SCALE_GROUP)),
                        sums.slice(of(padded(cols) / SUM_GROUP)),
                    )
                };
                let x = &x[of(cols)];
                floats.copy_from_slice(x);
                if isa == Isa::Portable {
                    continue;
                }
                for (at, x) in x.chunks_exact(cols).enumerate() {
                    let column = ColumnMut {
                        precision,
                        stride: tile.len(),
                        codes: &mut codes[at..],
                        scales: &mut scales[at..],
                        sums: &mut sums[at..],
                    };
                    dispatch::quantize_column(isa, x, column);
                }
            }
        });
    }
}

/// Rounds a column to codes: `scale = max|x| / code_max` for each 32 values, `code = round(x / scale)`.
///
/// A group with a value that is not finite gets the scale NaN, so that the fault shows in every product; a group so
/// near
/// zero that its products would vanish in f32 counts as zero.
///
/// Plain Rust, compiled for each instruction set.
#[inline(always)]
pub(crate) fn quantize_column(x: &[f32], column: ColumnMut<'_>) {
    let ColumnMut {
        precision,
        stride,
        codes,
        scales,
        sums,
    } = column;
    let digits = precision.digits();
    for group in 0..x.len().div_ceil(SCALE_GROUP) {
        let x = &x[group * SCALE_GROUP..];
        let mut values = [0.0; SCALE_GROUP];
        match x.first_chunk::<SCALE_GROUP>() {
            Some(x) => values = *x,
            None => values[..x.len()].copy_from_slice(x),
        }
        let (scale, q) = quantize_group(&values, precision.code_max());
        scales[group * stride] = scale;
        for half in 0..2 {
            let q = &q[half * SUM_GROUP..][..SUM_GROUP];
            sums[(group * 2 + half) * stride] = q.iter().sum();
        }
        let mut words = [[0; SCALE_GROUP / 4]; 2];
        if precision == Precision::Sixteen {
            let upper = q.map(|q| (q + 128) >> 8);
            let mut lower = [0; SCALE_GROUP];
            for ((lower, q), upper) in lower.iter_mut().zip(&q).zip(&upper) {
                *lower = q - (upper << 8);
            }
            words = [pack_words(&upper), pack_words(&lower)];
        } else {
            words[0] = pack_words(&q);
        }
        for (unit, at) in (group * SCALE_GROUP / 4..)
            .enumerate()
            .take(SCALE_GROUP / 4)
        {
            for (digit, words) in words.iter().enumerate().take(digits) {
                codes[(at * digits + digit) * stride] = words[unit];
            }
        }
    }
}

/// Scale and codes of one group.
#[inline(always)]
fn quantize_group(x: &[f32; SCALE_GROUP], code_max: f32) -> (f32, [i32; SCALE_GROUP]) {
    /// Adding it rounds to an integer, which is then in the low bits: 1.5 · 2²³.
    const ROUND: f32 = 12_582_912.0;
    // Magnitudes compare as integers, where infinity and NaN are the greatest.
    let largest = x
        .iter()
        .fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let inverse = code_max / largest;
    if !largest.is_finite() || !inverse.is_finite() {
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        return (scale, [0; SCALE_GROUP]);
    }
    let q = x.map(|x| ((x * inverse + ROUND).to_bits() as i32) - ROUND.to_bits() as i32);
    (largest / code_max, q)
}

/// The low bytes of 32 codes, four to a word.
#[inline(always)]
fn pack_words(codes: &[i32; SCALE_GROUP]) -> [i32; SCALE_GROUP / 4] {
    let quads = codes.as_chunks::<4>().0;
    std::array::from_fn(|unit| i32::from_le_bytes(quads[unit].map(|code| code as u8)))
}
