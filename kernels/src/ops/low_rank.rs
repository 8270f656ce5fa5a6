//! What adapters add to products with weights: two factors of low rank, another pair for each group of columns.

#![allow(
    unsafe_code,
    reason = "workers write disjoint parts of the result, which slices cannot express"
)]

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Kernels, SHARED_PRODUCTS_MIN, run, take};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;

/// Outputs of a panel of the second factor.
pub(crate) const UP_ROWS: usize = 64;

/// Rows of the first factor that are multiplied together.
const DOWN_ROWS: usize = 4;

/// Columns of one group that a worker takes at a time: their inputs stay in its cache while it walks over the weights.
const COLUMNS: usize = 32;

/// Columns of a step at most, so that it can be checked on the stack that each has one group.
const COLUMNS_MAX: usize = 4096;

/// How many pieces ahead memory is asked for.
const PIECES_AHEAD: usize = 2;

/// One part in so many of the work is handed out piece by piece.
const SPARE_SHARE: usize = 8;

/// Factors of a matrix `[rows, cols]`: `y += scale · B (A x)`.
///
/// Weights are signed bytes with scales: one for each row of `A`, one for each 64 weights of a column of `B`.
///
/// **Shapes** `a`: `[rank]` f32, `[rank, cols]` bytes; `b`: panels of 64 outputs, each `[rank]` f32, `[rank, 64]`
/// bytes. Both as [`LowRank::put_a`] and [`LowRank::put_b`] write them, any alignment.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    rank: usize,
    cols: usize,
    rows: usize,
    scale: f32,
    a: &'a [u8],
    b: &'a [u8],
}

impl<'a> LowRank<'a> {
    /// Rows of a panel of the second factor.
    pub const PANEL_ROWS: usize = UP_ROWS;

    /// Bytes of the first factor.
    pub const fn a_bytes(rank: usize, cols: usize) -> usize {
        rank * (4 + cols)
    }

    /// Bytes of the second.
    pub const fn b_bytes(rank: usize, rows: usize) -> usize {
        rank * (4 + UP_ROWS) * rows.div_ceil(UP_ROWS)
    }

    /// Panics when the bytes do not fit the shape.
    pub fn new(
        rank: usize,
        (rows, cols): (usize, usize),
        scale: f32,
        a: &'a [u8],
        b: &'a [u8],
    ) -> Self {
        assert!(rank > 0);
        assert_eq!(a.len(), Self::a_bytes(rank, cols), "bytes fit the shape");
        assert_eq!(b.len(), Self::b_bytes(rank, rows), "bytes fit the shape");
        Self {
            rank,
            cols,
            rows,
            scale,
            a,
            b,
        }
    }

    /// Writes row `index` of the first factor, of `rank` in all.
    pub fn put_a(a: &mut [u8], rank: usize, index: usize, values: &[f32]) {
        let (scales, rows) = a.split_at_mut(4 * rank);
        let row = &mut rows[index * values.len()..][..values.len()];
        let scale = scale_of(values.iter());
        scales[4 * index..][..4].copy_from_slice(&scale.to_le_bytes());
        for (byte, value) in row.iter_mut().zip(values) {
            *byte = code(*value, scale);
        }
    }

    /// Writes panel `index` of the second factor.
    ///
    /// **Shapes** `values`: `[at most 64, rank]`, rows of the panel.
    pub fn put_b(b: &mut [u8], rank: usize, index: usize, values: &[f32]) {
        let bytes = rank * (4 + UP_ROWS);
        let (scales, rows) = b[index * bytes..][..bytes].split_at_mut(4 * rank);
        for r in 0..rank {
            let column = values.iter().skip(r).step_by(rank);
            let scale = scale_of(column.clone());
            scales[4 * r..][..4].copy_from_slice(&scale.to_le_bytes());
            let row = &mut rows[r * UP_ROWS..][..UP_ROWS];
            row.fill(0);
            for (byte, value) in row.iter_mut().zip(column) {
                *byte = code(*value, scale);
            }
        }
    }

    fn a_row(&self, index: usize) -> &'a [u8] {
        &self.a[4 * self.rank + index * self.cols..][..self.cols]
    }

    fn a_scale(&self, index: usize) -> f32 {
        let bytes = self.a.as_chunks().0[index];
        self.scale * f32::from_le_bytes(bytes)
    }

    fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = self.rank * (4 + UP_ROWS);
        &self.b[index * bytes..][..bytes]
    }
}

/// What the greatest of some values has as 127.
fn scale_of<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    values.fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0
}

/// The nearest multiple of a scale.
fn code(value: f32, scale: f32) -> u8 {
    if scale == 0.0 {
        return 0;
    }
    ((value / scale).round().clamp(-127.0, 127.0) as i8).cast_unsigned()
}

/// One of two factors.
#[derive(Clone, Copy)]
enum Which {
    A,
    B,
}

impl Which {
    /// Pieces in which it is multiplied.
    fn steps(self, factor: &LowRank<'_>) -> usize {
        match self {
            Which::A => factor.rank.div_ceil(DOWN_ROWS),
            Which::B => factor.rows.div_ceil(UP_ROWS),
        }
    }

    fn bytes<'a>(self, factor: &LowRank<'a>) -> &'a [u8] {
        match self {
            Which::A => factor.a,
            Which::B => factor.b,
        }
    }
}

/// Columns of a step that have the same factors, for each of `K` products with one input.
#[derive(Clone, Copy, Debug)]
pub struct LowRankColumns<'a, const K: usize> {
    /// Which columns of the step; no column is in two groups.
    pub columns: &'a [u32],
    /// The factors of each product, `None` where nothing is added.
    pub factors: [Option<LowRank<'a>>; K],
}

/// The groups of a step, by index.
type Groups<'a, const K: usize> = dyn Fn(usize) -> LowRankColumns<'a, K> + Sync + 'a;

impl Kernels {
    /// `y[k][c] += scale · B (A x[c])` for each column of each of `groups`, with its own factors. Columns in no group
    /// stay as they are.
    ///
    /// `group` is asked for the same group several times. Each result is computed in one order, whatever the other
    /// columns are: sums are in f32, portable ones in f64.
    ///
    /// **Shapes** `x`: `[columns, cols]`; `y[k]`: `[columns, rows of k]`; `space`: at least `[columns, K, rank_max]`,
    /// to work in.
    pub fn add_low_rank<const K: usize>(
        &mut self,
        (x, cols): (&[f32], usize),
        groups: usize,
        group: &Groups<'_, K>,
        space: &mut [f32],
        mut y: [&mut [f32]; K],
    ) {
        let columns = x.len() / cols;
        let mut seen = Seen::none_of(columns);
        let mut products = 0;
        let mut rank_max = 0;
        for group in (0..groups).map(group) {
            seen.add(group.columns);
            for factor in group.factors.iter().flatten() {
                assert_eq!(factor.cols, cols, "inner dimensions agree");
                rank_max = rank_max.max(factor.rank);
                products += group.columns.len() * factor.rank * (cols + factor.rows);
            }
        }
        if products == 0 {
            return;
        }
        let space = &mut space[..columns * K * rank_max];
        let job = Job {
            isa: self.isa,
            groups,
            group,
            rank_max,
        };
        let h = Disjoint::new(&mut *space);
        self.share_steps(products, &job, Which::A, |piece| {
            job.down(piece, x, &h);
        });
        let h = &*space;
        let y = y.each_mut().map(|y| {
            let rows = y.len() / columns;
            (Disjoint::new(y), rows)
        });
        self.share_steps(products, &job, Which::B, |piece| {
            let (y, rows) = &y[piece.product];
            assert_eq!(piece.factor.rows, *rows, "outer dimensions agree");
            job.up(piece, h, y);
        });
    }

    /// Computes all pieces of a job, each by one worker.
    fn share_steps<const K: usize>(
        &mut self,
        products: usize,
        job: &Job<'_, '_, K>,
        which: Which,
        compute: impl Fn(&Piece<'_>) + Sync,
    ) {
        let total = job.steps(which);
        let taken = &self.taken;
        taken.store(0, Ordering::Relaxed);
        run(&mut self.team, products, SHARED_PRODUCTS_MIN, &|worker| {
            let shared = total - total / SPARE_SHARE;
            job.each(which, worker.share(shared, 1), &compute);
            while let Some(index) = take(taken, total - shared) {
                job.each(which, shared + index..shared + index + 1, &compute);
            }
        });
    }
}

/// Columns that some group has. Two groups with one column would be two workers with one result.
struct Seen {
    columns: usize,
    words: [u64; COLUMNS_MAX / 64],
}

impl Seen {
    fn none_of(columns: usize) -> Self {
        assert!(columns <= COLUMNS_MAX, "{columns} columns");
        Self {
            columns,
            words: [0; COLUMNS_MAX / 64],
        }
    }

    fn add(&mut self, columns: &[u32]) {
        for &column in columns {
            assert!((column as usize) < self.columns, "a column of the step");
            let word = &mut self.words[column as usize / 64];
            let bit = 1 << (column % 64);
            assert_eq!(*word & bit, 0, "a column is in one group, once");
            *word |= bit;
        }
    }
}

struct Job<'j, 'a, const K: usize> {
    isa: Isa,
    groups: usize,
    group: &'j Groups<'a, K>,
    /// Floats of one product of one column in between.
    rank_max: usize,
}

/// Some rows of one factor with some columns.
struct Piece<'a> {
    columns: &'a [u32],
    factor: LowRank<'a>,
    /// Which of the products.
    product: usize,
    /// Which rows.
    step: usize,
}

impl<const K: usize> Job<'_, '_, K> {
    fn steps(&self, which: Which) -> usize {
        let all = (0..self.groups).map(|index| {
            let LowRankColumns { columns, factors } = (self.group)(index);
            let of_all: usize = factors.iter().flatten().map(|f| which.steps(f)).sum();
            columns.len().div_ceil(COLUMNS) * of_all
        });
        all.sum()
    }

    /// Those pieces of the job that are in `range`.
    fn each(&self, which: Which, range: Range<usize>, compute: &impl Fn(&Piece<'_>)) {
        let mut first = 0;
        for index in 0..self.groups {
            let LowRankColumns { columns, factors } = (self.group)(index);
            for columns in columns.chunks(COLUMNS) {
                for (product, factor) in factors.iter().enumerate() {
                    let Some(factor) = *factor else { continue };
                    let end = first + which.steps(&factor);
                    for step in range.start.max(first)..range.end.min(end) {
                        self.prefetch(which, &factor, step - first);
                        compute(&Piece {
                            columns,
                            factor,
                            product,
                            step: step - first,
                        });
                    }
                    first = end;
                    if first >= range.end {
                        return;
                    }
                }
            }
        }
    }

    /// Asks for what comes some pieces later: a core that waits for each line reads memory at half its speed.
    fn prefetch(&self, which: Which, factor: &LowRank<'_>, step: usize) {
        let all = which.bytes(factor);
        let bytes = all.len() / which.steps(factor);
        let ahead = ((step + PIECES_AHEAD) * bytes).min(all.len());
        dispatch::prefetch(self.isa, &all[ahead..(ahead + bytes).min(all.len())]);
    }

    fn down(&self, piece: &Piece<'_>, x: &[f32], h: &Disjoint<'_, f32>) {
        let factor = &piece.factor;
        let start = piece.step * DOWN_ROWS;
        let rows = start..(start + DOWN_ROWS).min(factor.rank);
        let x = |column: u32| &x[column as usize * factor.cols..][..factor.cols];
        let store = |column: u32, row: usize, products: &[f32]| {
            let at = (column as usize * K + piece.product) * self.rank_max + row;
            // SAFETY: rows of a product of a column are one piece's, since a column is in one group; each piece is one
            // worker's.
            let h = unsafe { h.slice(at..at + products.len()) };
            for (index, (h, product)) in h.iter_mut().zip(products).enumerate() {
                *h = factor.a_scale(row + index) * product;
            }
        };
        if rows.len() < DOWN_ROWS {
            for &column in piece.columns {
                for row in rows.clone() {
                    let [product] =
                        dispatch::low_rank_down(self.isa, &[factor.a_row(row)], &[x(column)]);
                    store(column, row, &product);
                }
            }
            return;
        }
        let a: [&[u8]; DOWN_ROWS] = std::array::from_fn(|row| factor.a_row(start + row));
        let (pairs, last) = piece.columns.as_chunks::<2>();
        for &[one, two] in pairs {
            let products = dispatch::low_rank_down(self.isa, &a, &[x(one), x(two)]);
            store(one, start, &products[0]);
            store(two, start, &products[1]);
        }
        for &column in last {
            let [products] = dispatch::low_rank_down(self.isa, &a, &[x(column)]);
            store(column, start, &products);
        }
    }

    fn up(&self, piece: &Piece<'_>, h: &[f32], y: &Disjoint<'_, f32>) {
        let factor = &piece.factor;
        let panel = factor.panel(piece.step);
        let start = piece.step * UP_ROWS;
        let rows = (start + UP_ROWS).min(factor.rows) - start;
        let h = |column: u32| {
            let at = (column as usize * K + piece.product) * self.rank_max;
            &h[at..at + factor.rank]
        };
        let y = |column: u32| {
            let at = column as usize * factor.rows + start;
            // SAFETY: a panel of a column is one piece's, since a column is in one group, once; each piece is one
            // worker's.
            unsafe { y.slice(at..at + rows) }
        };
        let (pairs, last) = piece.columns.as_chunks::<2>();
        for &[one, two] in pairs {
            dispatch::low_rank_up(self.isa, panel, &[h(one), h(two)], &mut [y(one), y(two)]);
        }
        for &column in last {
            dispatch::low_rank_up(self.isa, panel, &[h(column)], &mut [y(column)]);
        }
    }
}
