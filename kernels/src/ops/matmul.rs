//! Weights times activations, and what both look like.

#![allow(
    unsafe_code,
    reason = "workers write disjoint rows of the result, which slices cannot express"
)]

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Kernels, SHARED_ELEMENTS_MIN, SHARED_PRODUCTS_MIN, run, take};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;
use crate::quant::{Format, GROUP, Plane, dequantize_row};

/// A matrix of weights in the bytes of a model file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// How rows are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows · format.row_bytes(cols)` bytes, any alignment; row *r* starts at `r · row_bytes`.
    pub data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Panics when the bytes do not fit the shape.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Matrix<'a> {
        assert!(rows > 0);
        assert!(cols > 0);
        assert_eq!(
            data.len(),
            rows * format.row_bytes(cols),
            "bytes fit {rows} rows of {cols}"
        );
        Matrix {
            format,
            rows,
            cols,
            data,
        }
    }

    /// The bytes of row `index`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let bytes = self.format.row_bytes(self.cols);
        &self.data[index * bytes..][..bytes]
    }
}

/// Rows of a plane and columns of codes are padded with zeros to a multiple of this, so that SIMD loops have no tails.
const PAD: usize = 128;

/// Activations that share a scale. With 16-bit codes this could be the whole column, but for the few huge values that
/// real models have: they blunt their neighbours only.
pub(crate) const COLUMN_GROUP: usize = PAD;

/// The activations that a matmul multiplies with: loaded once, used by every matrix with the same input.
///
/// On SIMD instruction sets they are held twice: as f32 for float weights, and as 16-bit codes with one scale per 128.
/// Eight bits, as other engines have it, would cost AVX2 as many instructions: see `docs/kernels.md`.
pub struct Activations {
    columns_max: usize,
    cols_max: usize,
    columns: usize,
    cols: usize,
    /// `[columns, cols]`
    x: Box<[f32]>,
    /// `[columns, padded cols]`
    codes: Box<[i16]>,
    /// `[columns, padded cols / 128]`
    scales: Box<[f32]>,
    /// `[columns, padded cols / 16]`: scale times the sum of the codes, what a min multiplies with.
    sums: Box<[f32]>,
}

/// One column as codes.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    /// `[padded cols]`, each in −32767..=32767
    pub(crate) codes: &'a [i16],
    /// `[padded cols / 128]`
    pub(crate) scales: &'a [f32],
    /// `[padded cols / 16]`
    pub(crate) sums: &'a [f32],
}

impl Activations {
    /// Takes the memory for `columns_max` columns of at most `cols_max` values.
    pub fn new(columns_max: usize, cols_max: usize) -> Activations {
        let padded = columns_max * cols_max.next_multiple_of(PAD);
        Activations {
            columns_max,
            cols_max,
            columns: 0,
            cols: 0,
            x: vec![0.0; columns_max * cols_max].into(),
            codes: vec![0; padded].into(),
            scales: vec![0.0; padded / COLUMN_GROUP].into(),
            sums: vec![0.0; padded / GROUP].into(),
        }
    }

    /// Bytes that [`Activations::new`] takes.
    pub fn bytes(columns_max: usize, cols_max: usize) -> usize {
        let padded = columns_max * cols_max.next_multiple_of(PAD);
        columns_max * cols_max * 4 + padded * 2 + padded / COLUMN_GROUP * 4 + padded / GROUP * 4
    }

    /// Columns loaded.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Values in each column.
    pub fn cols(&self) -> usize {
        self.cols
    }

    fn floats(&self, column: usize) -> &[f32] {
        &self.x[column * self.cols..][..self.cols]
    }

    pub(crate) fn column(&self, column: usize) -> Column<'_> {
        let cols = self.cols.next_multiple_of(PAD);
        Column {
            codes: &self.codes[column * cols..][..cols],
            scales: &self.scales[column * cols / COLUMN_GROUP..][..cols / COLUMN_GROUP],
            sums: &self.sums[column * cols / GROUP..][..cols / GROUP],
        }
    }
}

/// One row of weights in unpacked form, padded.
#[derive(Clone, Copy)]
pub(crate) struct PlaneRow<'a> {
    /// `[padded cols]`
    pub(crate) codes: &'a [i8],
    /// `[padded cols / 16]`
    pub(crate) scales: &'a [f32],
    /// `[padded cols / 16]`, or empty for a format without mins.
    pub(crate) mins: &'a [f32],
}

/// Rows that a worker unpacks together. Four rows of 4096 unpack to 24 KiB, which L1 holds.
const ROWS: usize = 4;

/// Columns that are multiplied with the unpacked rows together: 4 × 2 accumulators fill half of AVX2's registers.
const COLUMNS: usize = 2;

/// A worker's unpacked rows.
pub(super) struct Scratch {
    codes: Box<[i8]>,
    scales: Box<[f32]>,
    mins: Box<[f32]>,
    floats: Box<[f32]>,
}

impl Scratch {
    pub(super) fn new(cols_max: usize) -> Scratch {
        let padded = ROWS * cols_max.next_multiple_of(PAD);
        Scratch {
            codes: vec![0; padded].into(),
            scales: vec![0.0; padded / GROUP].into(),
            mins: vec![0.0; padded / GROUP].into(),
            floats: vec![0.0; ROWS * cols_max].into(),
        }
    }

    pub(super) fn bytes(cols_max: usize) -> usize {
        let padded = ROWS * cols_max.next_multiple_of(PAD);
        padded + padded / GROUP * 4 * 2 + ROWS * cols_max * 4
    }

    #[cfg(test)]
    pub(super) fn real_bytes(&self) -> usize {
        self.codes.len() + (self.scales.len() + self.mins.len() + self.floats.len()) * 4
    }

    /// Unpacks `rows` of `w` into places 0, 1, ….
    fn unpack(&mut self, isa: Isa, w: &Matrix<'_>, rows: Range<usize>) {
        let padded = w.cols.next_multiple_of(PAD);
        for (place, row) in rows.enumerate() {
            let codes = &mut self.codes[place * padded..][..padded];
            let scales = &mut self.scales[place * padded / GROUP..][..padded / GROUP];
            let mins = &mut self.mins[place * padded / GROUP..][..padded / GROUP];
            codes[w.cols..].fill(0);
            scales[w.cols / GROUP..].fill(0.0);
            mins[w.cols / GROUP..].fill(0.0);
            let plane = Plane {
                codes: &mut codes[..w.cols],
                scales: &mut scales[..w.cols / GROUP],
                mins: &mut mins[..w.cols / GROUP],
            };
            dispatch::unpack_row(isa, w.format, w.row(row), plane);
        }
    }

    fn plane(&self, place: usize, w: &Matrix<'_>) -> PlaneRow<'_> {
        let padded = w.cols.next_multiple_of(PAD);
        let groups = if w.format.has_mins() {
            padded / GROUP
        } else {
            0
        };
        PlaneRow {
            codes: &self.codes[place * padded..][..padded],
            scales: &self.scales[place * padded / GROUP..][..padded / GROUP],
            mins: &self.mins[place * padded / GROUP..][..groups],
        }
    }
}

impl Kernels {
    /// Loads activations for any number of [`Kernels::matmul`]s.
    ///
    /// **Shapes** `x`: `[columns, cols]`. A column with a value that is not finite makes every product with it NaN.
    pub fn load(&mut self, x: &[f32], columns: usize, cols: usize, activations: &mut Activations) {
        assert!(columns <= activations.columns_max, "{columns} columns fit");
        assert!(cols <= activations.cols_max, "{cols} cols fit");
        assert_eq!(x.len(), columns * cols);
        activations.columns = columns;
        activations.cols = cols;
        let padded = cols.next_multiple_of(PAD);
        let isa = self.isa;
        let floats = Disjoint::new(&mut activations.x);
        let codes = Disjoint::new(&mut activations.codes);
        let scales = Disjoint::new(&mut activations.scales);
        let sums = Disjoint::new(&mut activations.sums);
        run(&mut self.team, x.len(), SHARED_ELEMENTS_MIN, &|worker| {
            let share = worker.share(columns, 1);
            let of = |size: usize| share.start * size..share.end * size;
            let x = &x[of(cols)];
            // SAFETY: shares of columns are disjoint, and each array is cut at column borders.
            let (floats, codes, scales, sums) = unsafe {
                (
                    floats.slice(of(cols)),
                    codes.slice(of(padded)),
                    scales.slice(of(padded / COLUMN_GROUP)),
                    sums.slice(of(padded / GROUP)),
                )
            };
            floats.copy_from_slice(x);
            for column in 0..share.len() {
                dispatch::quantize_column(
                    isa,
                    &x[column * cols..][..cols],
                    &mut codes[column * padded..][..padded],
                    &mut scales[column * padded / COLUMN_GROUP..][..padded / COLUMN_GROUP],
                    &mut sums[column * padded / GROUP..][..padded / GROUP],
                );
            }
        });
    }

    /// `y[c, r] = Σ_k w[r, k] · x[c, k]`.
    ///
    /// Portable: exact weights, f32 activations, sum in f64. SIMD: block formats multiply integer codes exactly and sum
    /// scaled groups of 16 in f32; float formats multiply and sum in f32. `docs/kernels.md` derives the error bounds.
    ///
    /// **Shapes** `y`: `[columns, w.rows]`.
    pub fn matmul(&mut self, w: &Matrix<'_>, x: &Activations, y: &mut [f32]) {
        assert!(
            w.cols <= self.limits.cols_max,
            "scratch holds a row of {}",
            w.cols
        );
        assert_eq!(w.cols, x.cols, "inner dimensions agree");
        assert_eq!(y.len(), x.columns * w.rows);
        let isa = self.isa;
        // Some eight pieces a worker even out their speeds; the last worker then idles for an eighth of a share at
        // most.
        let piece = w
            .rows
            .div_ceil(8 * self.team.threads())
            .next_multiple_of(ROWS)
            .min(256);
        let pieces = w.rows.div_ceil(piece);
        let y = Disjoint::new(y);
        let scratch = Disjoint::new(&mut self.scratch);
        let taken = &self.taken;
        taken.store(0, Ordering::Relaxed);
        run(
            &mut self.team,
            x.columns * w.rows * w.cols,
            SHARED_PRODUCTS_MIN,
            &|worker| {
                // SAFETY: no two workers share an index.
                let scratch = &mut unsafe { scratch.slice(worker.index..worker.index + 1) }[0];
                while let Some(index) = take(taken, pieces) {
                    let rows = index * piece..((index + 1) * piece).min(w.rows);
                    for start in rows.clone().step_by(ROWS) {
                        let rows = start..(start + ROWS).min(rows.end);
                        let store = |column: usize, row: usize, values: &[f32]| {
                            let at = column * w.rows + row;
                            // SAFETY: each piece of rows is taken by one worker.
                            unsafe { y.slice(at..at + values.len()) }.copy_from_slice(values);
                        };
                        match isa {
                            Isa::Portable => portable_rows(w, rows, x, scratch, store),
                            _ if w.format.is_float() => float_rows(isa, w, rows, x, scratch, store),
                            _ => code_rows(isa, w, rows, x, scratch, store),
                        }
                    }
                }
            },
        );
    }

    /// Rows of `w` as f32, times `scale`: the embedding of tokens.
    ///
    /// **Shapes** `y`: `[ids.len(), w.cols]`; each id below `w.rows`.
    pub fn embed(&mut self, w: &Matrix<'_>, ids: &[u32], scale: f32, y: &mut [f32]) {
        assert_eq!(y.len(), ids.len() * w.cols);
        for id in ids {
            assert!((*id as usize) < w.rows, "id {id} is a row of {}", w.rows);
        }
        let y = Disjoint::new(y);
        run(
            &mut self.team,
            ids.len() * w.cols,
            SHARED_ELEMENTS_MIN,
            &|worker| {
                for i in worker.share(ids.len(), 1) {
                    // SAFETY: shares of rows are disjoint.
                    let y = unsafe { y.slice(i * w.cols..(i + 1) * w.cols) };
                    dequantize_row(w.format, w.row(ids[i] as usize), y);
                    for y in y {
                        *y *= scale;
                    }
                }
            },
        );
    }
}

fn portable_rows(
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Activations,
    scratch: &mut Scratch,
    store: impl Fn(usize, usize, &[f32]),
) {
    let floats = &mut scratch.floats[..w.cols];
    for row in rows {
        dequantize_row(w.format, w.row(row), floats);
        for column in 0..x.columns {
            store(
                column,
                row,
                &[crate::portable::dot(floats, x.floats(column))],
            );
        }
    }
}

/// Float weights: converted once, then multiplied with f32 activations.
fn float_rows(
    isa: Isa,
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Activations,
    scratch: &mut Scratch,
    store: impl Fn(usize, usize, &[f32]),
) {
    for (place, row) in rows.clone().enumerate() {
        let floats = &mut scratch.floats[place * w.cols..][..w.cols];
        dispatch::convert_row(isa, w.format, w.row(row), floats);
    }
    let float = |place: usize| &scratch.floats[place * w.cols..][..w.cols];
    for column in (0..x.columns).step_by(COLUMNS) {
        let pair = column + 1 < x.columns;
        if rows.len() == ROWS && pair {
            let xs = [x.floats(column), x.floats(column + 1)];
            let products =
                dispatch::dot_floats(isa, &[float(0), float(1), float(2), float(3)], &xs);
            store(column, rows.start, &products[0]);
            store(column + 1, rows.start, &products[1]);
        } else if rows.len() == ROWS {
            let ws = [float(0), float(1), float(2), float(3)];
            let [products] = dispatch::dot_floats(isa, &ws, &[x.floats(column)]);
            store(column, rows.start, &products);
        } else {
            for column in column..(column + COLUMNS).min(x.columns) {
                for (place, row) in rows.clone().enumerate() {
                    let [product] = dispatch::dot_floats(isa, &[float(place)], &[x.floats(column)]);
                    store(column, row, &product);
                }
            }
        }
    }
}

/// Block formats: unpacked once, then multiplied as integers.
fn code_rows(
    isa: Isa,
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &Activations,
    scratch: &mut Scratch,
    store: impl Fn(usize, usize, &[f32]),
) {
    scratch.unpack(isa, w, rows.clone());
    let plane = |place: usize| scratch.plane(place, w);
    for column in (0..x.columns).step_by(COLUMNS) {
        let pair = column + 1 < x.columns;
        if rows.len() == ROWS && pair {
            let xs = [x.column(column), x.column(column + 1)];
            let products = dispatch::dot_codes(isa, &[plane(0), plane(1), plane(2), plane(3)], &xs);
            store(column, rows.start, &products[0]);
            store(column + 1, rows.start, &products[1]);
        } else if rows.len() == ROWS {
            let ws = [plane(0), plane(1), plane(2), plane(3)];
            let [products] = dispatch::dot_codes(isa, &ws, &[x.column(column)]);
            store(column, rows.start, &products);
        } else {
            for column in column..(column + COLUMNS).min(x.columns) {
                for (place, row) in rows.clone().enumerate() {
                    let [product] = dispatch::dot_codes(isa, &[plane(place)], &[x.column(column)]);
                    store(column, row, &product);
                }
            }
        }
    }
}
