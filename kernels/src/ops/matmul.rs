//! Weights times activations.

#![allow(
    unsafe_code,
    reason = "workers write disjoint rows of the result, which slices cannot express"
)]

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{
    Activations, GroupSpace, Kernels, SHARED_ELEMENTS_MIN, SHARED_PRODUCTS_MIN, run, take,
};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;
use crate::panel::chunk::{CHUNK_COLS, Chunk, shape};
use crate::panel::{self, HALVES, LANES, PANEL_ROWS};
use crate::quant::{Format, dequantize_row};
use crate::team::Team;

/// A matrix of weights as the kernels read it: formats with blocks in panels, floats row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// How weights are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// [`Matrix::bytes`] bytes, any alignment; 64 is fastest.
    pub data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Bytes of a matrix.
    ///
    /// Panics when `cols` is no whole number of blocks.
    pub const fn bytes(format: Format, rows: usize, cols: usize) -> usize {
        if format.is_float() {
            rows * format.row_bytes(cols)
        } else {
            panel::panels_bytes(format, rows, cols)
        }
    }

    /// Panics when the bytes do not fit the shape.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Matrix<'a> {
        assert!(rows > 0);
        assert!(cols > 0);
        assert_eq!(
            data.len(),
            Matrix::bytes(format, rows, cols),
            "bytes fit {rows} rows of {cols}"
        );
        Matrix {
            format,
            rows,
            cols,
            data,
        }
    }

    /// Panel `index`, of a format with blocks.
    pub(crate) fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = panel::panel_bytes(self.format, self.cols);
        &self.data[index * bytes..][..bytes]
    }

    /// Row `index` of a float format.
    fn float_row(&self, index: usize) -> &'a [u8] {
        let bytes = self.format.row_bytes(self.cols);
        &self.data[index * bytes..][..bytes]
    }

    /// Row `index` as f32.
    ///
    /// **Shapes** `bytes`: at least a row as a file has it, to work in; `out`: `cols`.
    fn dequantize_row(&self, index: usize, bytes: &mut [u8], out: &mut [f32]) {
        if self.format.is_float() {
            return dequantize_row(self.format, self.float_row(index), out);
        }
        let (panel, row) = (self.panel(index / PANEL_ROWS), index % PANEL_ROWS);
        let bytes = &mut bytes[..self.format.row_bytes(self.cols)];
        panel::unpack_row(self.format, self.cols, panel, row, bytes);
        dequantize_row(self.format, bytes, out);
    }
}

/// One part in so many of a matrix is handed out step by step.
const SPARE_SHARE: usize = 8;

/// Float rows that a worker multiplies together.
const ROWS: usize = 4;

/// Columns that are multiplied with these rows together: 4 × 2 accumulators fill half of AVX2's registers.
const COLUMNS: usize = 2;

/// Sums of one column with the rows of a panel.
pub(crate) type TileSums = [[f32; LANES]; HALVES];

/// A worker's memory.
pub(super) struct Scratch {
    chunks: Box<[Chunk; HALVES]>,
    groups: Box<GroupSpace>,
    /// `[columns_max]`
    sums: Box<[TileSums]>,
    /// Rows of a float format, or one row of another.
    floats: Box<[f32]>,
    /// One row as a file has it.
    bytes: Box<[u8]>,
}

impl Scratch {
    pub(super) fn new(limits: super::KernelLimits) -> Scratch {
        Scratch {
            chunks: Box::new([Chunk::ZERO; HALVES]),
            groups: Box::new(GroupSpace::ZERO),
            sums: vec![[[0.0; LANES]; HALVES]; limits.columns_max].into(),
            floats: vec![0.0; ROWS * limits.cols_max].into(),
            bytes: vec![0; row_bytes_max(limits.cols_max)].into(),
        }
    }

    pub(super) fn bytes(limits: super::KernelLimits) -> usize {
        size_of::<[Chunk; HALVES]>()
            + size_of::<GroupSpace>()
            + limits.columns_max * size_of::<TileSums>()
            + ROWS * limits.cols_max * 4
            + row_bytes_max(limits.cols_max)
    }

    #[cfg(test)]
    pub(super) fn real_bytes(&self) -> usize {
        size_of_val(&*self.chunks)
            + size_of_val(&*self.groups)
            + size_of_val(&*self.sums)
            + size_of_val(&*self.floats)
            + self.bytes.len()
    }
}

/// Bytes of a row of the block format that needs most: Q8_0, 34 for 32.
fn row_bytes_max(cols: usize) -> usize {
    Format::Q8_0.row_bytes(cols.next_multiple_of(Format::Q8_0.block_elements()))
}

/// Makes the matrix that [`Kernels::matmul`] reads from the rows of a file.
///
/// **Shapes** `rows`: `[rows, format.row_bytes(cols)]` bytes; `out`: [`Matrix::bytes`].
pub fn pack(team: &mut Team, format: Format, rows: &[u8], cols: usize, out: &mut [u8]) {
    let row_bytes = format.row_bytes(cols);
    assert!(rows.len().is_multiple_of(row_bytes), "whole rows");
    let count = rows.len() / row_bytes;
    assert_eq!(out.len(), Matrix::bytes(format, count, cols));
    if format.is_float() {
        return out.copy_from_slice(rows);
    }
    let panel_bytes = panel::panel_bytes(format, cols);
    let panels = count.div_ceil(PANEL_ROWS);
    let out = Disjoint::new(out);
    run(team, rows.len(), SHARED_ELEMENTS_MIN, &|worker| {
        for index in worker.share(panels, 1) {
            let from = index * PANEL_ROWS..((index + 1) * PANEL_ROWS).min(count);
            let rows = &rows[from.start * row_bytes..from.end * row_bytes];
            // SAFETY: shares of panels are disjoint.
            let panel = unsafe { out.slice(index * panel_bytes..(index + 1) * panel_bytes) };
            panel::pack_panel(format, cols, rows, panel);
        }
    });
}

/// Rows that are computed together.
fn step(isa: Isa, format: Format) -> usize {
    if format.is_float() || isa == Isa::Portable {
        ROWS
    } else {
        PANEL_ROWS
    }
}

/// One matrix of a job, whose steps follow those of the matrices before it.
struct Product<'a> {
    w: &'a Matrix<'a>,
    y: Disjoint<'a, f32>,
    first_step: usize,
    /// Rows of a step.
    step: usize,
}

impl Product<'_> {
    /// Computes those of the job's steps that are this matrix's. Each step is computed by one worker.
    fn compute(&self, isa: Isa, steps: Range<usize>, x: &Activations, scratch: &mut Scratch) {
        let (w, step) = (self.w, self.step);
        let y = Output {
            y: &self.y,
            rows: w.rows,
        };
        let first = steps.start.max(self.first_step) - self.first_step;
        let end = steps.end.saturating_sub(self.first_step) * step;
        let end = w.rows.min(end);
        for start in (first * step..end).step_by(step) {
            let rows = start..(start + step).min(end);
            match isa {
                _ if step == PANEL_ROWS => panel_rows(isa, w, (rows, end), x, scratch, &y),
                Isa::Portable => portable_rows(w, rows, x, scratch, &y),
                _ => float_rows(isa, w, rows, x, scratch, &y),
            }
        }
    }
}

/// Where one worker puts the rows that it computes.
struct Output<'a> {
    /// `[columns, rows]`
    y: &'a Disjoint<'a, f32>,
    rows: usize,
}

impl Output<'_> {
    #[inline(always)]
    fn store(&self, column: usize, row: usize, values: &[f32]) {
        let at = column * self.rows + row;
        // SAFETY: each step of rows is computed by one worker.
        unsafe { self.y.slice(at..at + values.len()) }.copy_from_slice(values);
    }

    /// Where `store` would put the first value, to ask for.
    fn address(&self, column: usize, row: usize) -> *const f32 {
        self.y.address(column * self.rows + row)
    }
}

impl Kernels {
    /// `y[c, r] = Σ_k w[r, k] · x[c, k]`.
    ///
    /// Portable: exact weights, f32 activations, sum in f64. SIMD: block formats multiply integer codes exactly and sum
    /// scaled groups of 32 in f32; float formats multiply and sum in f32. `docs/kernels.md` derives the error bounds.
    ///
    /// **Shapes** `y`: `[columns, w.rows]`.
    pub fn matmul(&mut self, w: &Matrix<'_>, x: &Activations, y: &mut [f32]) {
        self.matmuls([(w, y)], x);
    }

    /// [`Kernels::matmul`] of several matrices with the same input, as one job: the threads meet once.
    pub fn matmuls<const K: usize>(
        &mut self,
        products: [(&Matrix<'_>, &mut [f32]); K],
        x: &Activations,
    ) {
        assert!(
            x.columns() <= self.limits.columns_max,
            "scratch holds {} columns",
            x.columns()
        );
        let isa = self.isa;
        let mut steps = 0;
        let products = products.map(|(w, y)| {
            assert!(
                w.cols <= self.limits.cols_max,
                "scratch holds a row of {}",
                w.cols
            );
            assert_eq!(w.cols, x.cols(), "inner dimensions agree");
            assert_eq!(y.len(), x.columns() * w.rows);
            let product = Product {
                w,
                y: Disjoint::new(y),
                first_step: steps,
                step: step(isa, w.format),
            };
            steps += w.rows.div_ceil(product.step);
            product
        });
        let rows: usize = products.iter().map(|product| product.w.rows).sum();
        let scratch = Disjoint::new(&mut self.scratch);
        let taken = &self.taken;
        taken.store(0, Ordering::Relaxed);
        run(
            &mut self.team,
            x.columns() * rows * x.cols(),
            SHARED_PRODUCTS_MIN,
            &|worker| {
                // SAFETY: no two workers share an index.
                let scratch = &mut unsafe { scratch.slice(worker.index..worker.index + 1) }[0];
                let mut compute = |steps: Range<usize>| {
                    for product in &products {
                        product.compute(isa, steps.clone(), x, scratch);
                    }
                };
                // Most of the rows are shared out beforehand, so that each worker reads memory straight on; the rest,
                // one step at a time, evens out their speeds.
                let shared = steps - steps / SPARE_SHARE;
                compute(worker.share(shared, 1));
                while let Some(index) = take(taken, steps - shared) {
                    compute(shared + index..shared + index + 1);
                }
            },
        );
    }

    /// Rows of `w` as f32, times `scale`: the embedding of tokens.
    ///
    /// **Shapes** `y`: `[ids.len(), w.cols]`; each id below `w.rows`.
    pub fn embed(&mut self, w: &Matrix<'_>, ids: &[u32], scale: f32, y: &mut [f32]) {
        assert!(w.cols <= self.limits.cols_max);
        assert_eq!(y.len(), ids.len() * w.cols);
        for id in ids {
            assert!((*id as usize) < w.rows, "id {id} is a row of {}", w.rows);
        }
        let y = Disjoint::new(y);
        let scratch = Disjoint::new(&mut self.scratch);
        run(
            &mut self.team,
            ids.len() * w.cols,
            SHARED_ELEMENTS_MIN,
            &|worker| {
                // SAFETY: no two workers share an index.
                let scratch = &mut unsafe { scratch.slice(worker.index..worker.index + 1) }[0];
                for i in worker.share(ids.len(), 1) {
                    // SAFETY: shares of rows are disjoint.
                    let y = unsafe { y.slice(i * w.cols..(i + 1) * w.cols) };
                    w.dequantize_row(ids[i] as usize, &mut scratch.bytes, y);
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
    y: &Output<'_>,
) {
    let floats = &mut scratch.floats[..w.cols];
    for row in rows {
        w.dequantize_row(row, &mut scratch.bytes, floats);
        for column in 0..x.columns() {
            y.store(
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
    y: &Output<'_>,
) {
    for (place, row) in rows.clone().enumerate() {
        let floats = &mut scratch.floats[place * w.cols..][..w.cols];
        dispatch::convert_row(isa, w.format, w.float_row(row), floats);
    }
    let float = |place: usize| &scratch.floats[place * w.cols..][..w.cols];
    for column in (0..x.columns()).step_by(COLUMNS) {
        let pair = column + 1 < x.columns();
        if rows.len() == ROWS && pair {
            let xs = [x.floats(column), x.floats(column + 1)];
            let products =
                dispatch::dot_floats(isa, &[float(0), float(1), float(2), float(3)], &xs);
            y.store(column, rows.start, &products[0]);
            y.store(column + 1, rows.start, &products[1]);
        } else if rows.len() == ROWS {
            let ws = [float(0), float(1), float(2), float(3)];
            let [products] = dispatch::dot_floats(isa, &ws, &[x.floats(column)]);
            y.store(column, rows.start, &products);
        } else {
            for column in column..(column + COLUMNS).min(x.columns()) {
                for (place, row) in rows.clone().enumerate() {
                    let [product] = dispatch::dot_floats(isa, &[float(place)], &[x.floats(column)]);
                    y.store(column, row, &product);
                }
            }
        }
    }
}

/// How many chunks ahead of the one that is multiplied memory is asked for, into L2: into L1 it would be slower, since
/// a core keeps few requests of L1 under way.
pub(crate) const CHUNKS_AHEAD: usize = 4;

/// One panel: each chunk is expanded once and multiplied with every tile.
///
/// The worker goes on to row `end`, which is how far it is worth to fetch ahead.
fn panel_rows(
    isa: Isa,
    w: &Matrix<'_>,
    (rows, end): (Range<usize>, usize),
    x: &Activations,
    scratch: &mut Scratch,
    y: &Output<'_>,
) {
    let index = rows.start / PANEL_ROWS;
    let panel = w.panel(index);
    let run = &w.data[index * panel.len()..end.div_ceil(PANEL_ROWS) * panel.len()];
    let sums = &mut scratch.sums[..x.columns()];
    let finish = |columns: Range<usize>, sums: &[TileSums]| {
        for (column, sums) in columns.zip(sums) {
            let scale = x.scale(column);
            let mut products = [0.0; PANEL_ROWS];
            for (product, sum) in products.iter_mut().zip(sums.as_flattened()) {
                *product = sum * scale;
            }
            // A copy of a known length is a few instructions.
            if rows.len() == PANEL_ROWS {
                y.store(column, rows.start, &products);
            } else {
                y.store(column, rows.start, &products[..rows.len()]);
            }
        }
    };
    let (chunks, groups) = (&mut scratch.chunks, &mut scratch.groups);
    if dispatch::takes_few(isa, x.columns() * x.digits()) {
        dispatch::multiply_few(isa, w.format, run, x, chunks, groups, sums);
        return finish(0..x.columns(), sums);
    }
    let shape = shape(w.format);
    let chunk_bytes = PANEL_ROWS * w.format.row_bytes(CHUNK_COLS);
    let last = w.cols.div_ceil(CHUNK_COLS) - 1;
    for chunk in 0..=last {
        let ahead = ((chunk + CHUNKS_AHEAD) * chunk_bytes).min(run.len());
        let ahead = &run[ahead..(ahead + chunk_bytes).min(run.len())];
        dispatch::prefetch(isa, ahead);
        for (half, expanded) in chunks.iter_mut().enumerate() {
            dispatch::expand(isa, w.format, w.cols, (panel, half), chunk, expanded);
        }
        for tile in 0..x.tiles() {
            let (tile, columns) = x.tile(tile, chunk);
            if chunk == last {
                // Results of each column go to a page of their own.
                for column in columns.clone() {
                    dispatch::prefetch_for_write(isa, y.address(column, rows.start), rows.len());
                }
            }
            let sums = &mut sums[columns.clone()];
            dispatch::multiply(isa, shape, chunks, &tile, groups, chunk == 0, sums);
            if chunk == last {
                finish(columns, sums);
            }
        }
    }
}
