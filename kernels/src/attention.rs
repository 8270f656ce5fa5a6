//! Attention over one span of positions, for vectors of any width.
//!
//! A *row* is one query head of one column. Rows that read the same KV head of the same sequence share the work of
//! bringing keys and values to f32: the heads of a group, and neighbouring columns of a prompt.
//!
//! ```text
//!  tile of 32 positions   k [head_dim][32]   v [32][head_dim]           converted once for all rows
//!  scores                 a lane is a position; Σ over head_dim in order, one fused step each
//!  softmax                running maximum and total of the row, new at each tile
//!  values                 a lane is an element; Σ over the row's positions in order, one fused step each
//! ```
//!
//! What a row computes depends on its own positions only: scores of positions that it does not see are replaced, and
//! their values are left out, whatever other rows of the job see.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers index several arrays alike"
)]

use std::ops::Range;

use crate::ops::{KV_SCALE_GROUP, KvFormat, KvLayer, Query};

/// Positions in a tile. Tiles start at multiples of it.
pub(crate) const TILE: usize = 32;

/// Positions in a span. Spans start at multiples of it; each has a softmax of its own, and these are joined in order.
pub(crate) const SPAN: usize = 512;
const _: () = assert!(SPAN.is_multiple_of(TILE));

/// Rows of a job at most.
pub(crate) const ROWS: usize = 64;

/// Rows that are in registers together.
const QUAD: usize = 4;

/// Padding of `head_dim` in the scratch: the widest vector.
pub(crate) const PAD: usize = 16;

/// One row: its query vector and the positions that it sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Its query, as an offset in `Job::q`.
    pub(crate) q: usize,
    /// What it sees.
    pub(crate) visible: Range<usize>,
}

/// Rows over one KV head of one sequence.
pub(crate) struct Job<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) scale: f32,
    pub(crate) kv: &'a KvLayer<'a>,
    pub(crate) kv_head: usize,
    /// Any query of the sequence.
    pub(crate) query: &'a Query,
    pub(crate) tables: &'a [u32],
}

/// A worker's memory.
pub(crate) struct Scratch {
    /// The job's rows.
    pub(crate) rows: Box<[Row]>,
    /// Maximum, total and weighted sum of values of each row, over the span.
    pub(crate) maxima: Box<[f32]>,
    pub(crate) totals: Box<[f32]>,
    /// `[ROWS][padded head_dim]`
    pub(crate) sums: Box<[f32]>,
    /// The same over the spans so far.
    pub(crate) joined: Box<[f32]>,
    /// `[head_dim][TILE]`
    k: Box<[f32]>,
    /// `[TILE][padded head_dim]`
    v: Box<[f32]>,
    /// `[ROWS][TILE]`: scores, then weights.
    weights: Box<[f32]>,
}

impl Scratch {
    pub(crate) fn new(head_dim_max: usize) -> Scratch {
        let dim = head_dim_max.next_multiple_of(PAD);
        let floats = |len: usize| vec![0.0; len].into_boxed_slice();
        Scratch {
            rows: vec![Row::default(); ROWS].into(),
            maxima: floats(ROWS),
            totals: floats(ROWS),
            sums: floats(ROWS * dim),
            joined: floats(ROWS * dim),
            k: floats(TILE * dim),
            v: floats(TILE * dim),
            weights: floats(ROWS * TILE),
        }
    }

    pub(crate) fn bytes(head_dim_max: usize) -> usize {
        let dim = head_dim_max.next_multiple_of(PAD);
        ROWS * size_of::<Row>() + 4 * (2 * ROWS + 2 * ROWS * dim + 2 * TILE * dim + ROWS * TILE)
    }

    #[cfg(test)]
    pub(crate) fn real_bytes(&self) -> usize {
        let floats = [
            &self.maxima,
            &self.totals,
            &self.sums,
            &self.joined,
            &self.k,
            &self.v,
            &self.weights,
        ];
        let floats: usize = floats.iter().map(|floats| size_of_val(&***floats)).sum();
        size_of_val(&*self.rows) + floats
    }
}

impl Scratch {
    /// Forgets what was joined of `rows`.
    pub(crate) fn clear(&mut self, rows: usize, head_dim: usize) {
        self.joined[..rows * head_dim.next_multiple_of(PAD)].fill(0.0);
    }

    /// The span's sums of a row.
    pub(crate) fn sum(&self, row: usize, head_dim: usize) -> &[f32] {
        &self.sums[row * head_dim.next_multiple_of(PAD)..][..head_dim]
    }

    /// What was joined of a row.
    pub(crate) fn joined(&self, row: usize, head_dim: usize) -> &[f32] {
        &self.joined[row * head_dim.next_multiple_of(PAD)..][..head_dim]
    }

    /// Joins the span's result of a row to what came before.
    pub(crate) fn join(&mut self, row: usize, head_dim: usize, join: &mut Join) {
        let at = row * head_dim.next_multiple_of(PAD);
        let (maximum, total) = (self.maxima[row], self.totals[row]);
        let out = &mut self.joined[at..at + head_dim];
        join.add(maximum, total, &self.sums[at..at + head_dim], out);
    }
}

/// The running softmax over spans. Plain f32 arithmetic, the same on every instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Join {
    maximum: f32,
    total: f32,
}

impl Join {
    /// Nothing yet.
    pub(crate) const NONE: Join = Join {
        maximum: f32::NEG_INFINITY,
        total: 0.0,
    };

    /// Adds a span: `out = out · exp(old − new) + sums · exp(maximum − new)`. One that the row does not see is left
    /// out.
    pub(crate) fn add(&mut self, maximum: f32, total: f32, sums: &[f32], out: &mut [f32]) {
        if maximum == f32::NEG_INFINITY && total == 0.0 {
            return;
        }
        // NaN must not hide behind a maximum that skips it.
        let greater = maximum > self.maximum || maximum.is_nan();
        let new = if greater { maximum } else { self.maximum };
        let (shrink, weight) = ((self.maximum - new).exp(), (maximum - new).exp());
        self.maximum = new;
        self.total = self.total * shrink + total * weight;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = *out * shrink + sum * weight;
        }
    }

    /// Divides by the total.
    pub(crate) fn finish(self, out: &mut [f32]) {
        for out in out {
            *out /= self.total;
        }
    }
}

/// Vectors of f32. Implementations run on machines that have the instructions, which is what each unsafe call in them
/// rests on.
pub(crate) trait Floats: Copy {
    /// Lanes in a vector.
    const LANES: usize;
    /// Loads `LANES` floats.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores `LANES` floats.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store(self, to: *mut f32);
    /// Loads `LANES` little-endian halves.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_halves(from: *const u8) -> Self;
    /// Loads `LANES` signed bytes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_bytes(from: *const u8) -> Self;
    fn splat(x: f32) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// `self · b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The greater; `b` where either is NaN.
    fn max(self, b: Self) -> Self;
    /// The lesser; `b` where either is NaN.
    fn min(self, b: Self) -> Self;
    /// `2ⁿ` where the low bits of each lane are n, as after adding 1.5 · 2²³.
    fn power_of_two(self) -> Self;
    /// Lanes of `self` where the mask has a bit, of `other` elsewhere.
    fn select(self, mask: u32, other: Self) -> Self;
    /// Lanes that are NaN.
    fn nans(self) -> u32;
    /// Σ of the lanes, in one order.
    fn sum(self) -> f32;
    /// The greatest lane, none being NaN.
    fn greatest(self) -> f32;
}

/// Implements [`Floats`] for one vector: of each method, the intrinsics that it is, on bare vectors.
macro_rules! floats {
    (
        $(#[$doc:meta])*
        $name:ident($vector:ty), $lanes:literal lanes;
        $($method:ident($($arg:ident),+) => $body:expr;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $name($vector);

        impl Floats for $name {
            const LANES: usize = $lanes;

            $(floats!(@ $method($($arg),+) $body);)+
        }
    };
    (@ load($from:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn load($from: *const f32) -> Self {
            // SAFETY: they are readable by the caller's promise; the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ store($x:ident, $to:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn store(self, $to: *mut f32) {
            let $x = self.0;
            // SAFETY: they are writable by the caller's promise; the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ load_halves($from:ident) $body:expr) => { floats!(@@ load_halves($from) $body); };
    (@ load_bytes($from:ident) $body:expr) => { floats!(@@ load_bytes($from) $body); };
    (@@ $load:ident($from:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn $load($from: *const u8) -> Self {
            // SAFETY: they are readable by the caller's promise; the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ splat($x:ident) $body:expr) => {
        #[inline(always)]
        fn splat($x: f32) -> Self {
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ power_of_two($x:ident) $body:expr) => {
        #[inline(always)]
        fn power_of_two(self) -> Self {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ select($x:ident, $mask:ident, $other:ident) $body:expr) => {
        #[inline(always)]
        fn select(self, $mask: u32, other: Self) -> Self {
            let ($x, $other) = (self.0, other.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ nans($x:ident) $body:expr) => {
        #[inline(always)]
        fn nans(self) -> u32 {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ $reduce:ident($x:ident) $body:expr) => {
        #[inline(always)]
        fn $reduce(self) -> f32 {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ $combine:ident($a:ident, $b:ident) $body:expr) => {
        #[inline(always)]
        fn $combine(self, b: Self) -> Self {
            let ($a, $b) = (self.0, b.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ $combine:ident($a:ident, $b:ident, $c:ident) $body:expr) => {
        #[inline(always)]
        fn $combine(self, b: Self, c: Self) -> Self {
            let ($a, $b, $c) = (self.0, b.0, c.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
}
pub(crate) use floats;

/// Attends the first `rows` of the scratch to the positions of a span: fills `maxima`, `totals` and `sums`.
///
/// A row that sees nothing of the span keeps a maximum of −∞ and a total of zero.
#[inline(always)]
pub(crate) fn span<F: Floats, const WIDE: usize>(
    job: &Job<'_>,
    rows: usize,
    span: usize,
    scratch: &mut Scratch,
) {
    let dim = job.kv.shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    assert!(rows <= ROWS);
    assert!(scratch.k.len() >= dim * TILE);
    assert!(scratch.v.len() >= TILE * padded);
    assert!(scratch.sums.len() >= rows * padded);
    for row in &scratch.rows[..rows] {
        assert!(row.q + dim <= job.q.len());
    }
    scratch.maxima[..rows].fill(f32::NEG_INFINITY);
    scratch.totals[..rows].fill(0.0);
    scratch.sums[..rows * padded].fill(0.0);
    let seen = &scratch.rows[..rows];
    let first = seen.iter().map(|row| row.visible.start).min();
    let last = seen.iter().map(|row| row.visible.end).max();
    let start = first.unwrap_or(0).max(span * SPAN) / TILE * TILE;
    let end = last.unwrap_or(0).min((span + 1) * SPAN);
    let mut tile = start;
    while tile < end {
        load_tile::<F>(job, rows, tile, scratch);
        let mut row = 0;
        while row < rows {
            match rows - row {
                1 => quad::<F, 1, WIDE>(job, row, tile, scratch),
                2 => quad::<F, 2, WIDE>(job, row, tile, scratch),
                3 => quad::<F, 3, WIDE>(job, row, tile, scratch),
                _ => quad::<F, QUAD, WIDE>(job, row, tile, scratch),
            }
            row += QUAD;
        }
        tile += TILE;
    }
}

/// Brings keys and values of a tile to f32. Places that no row sees may be left as they are: nothing reads them but
/// scores that are replaced.
#[inline(always)]
fn load_tile<F: Floats>(job: &Job<'_>, rows: usize, tile: usize, scratch: &mut Scratch) {
    let shape = &job.kv.shape;
    let dim = shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    let (k, v) = (scratch.k.as_mut_ptr(), scratch.v.as_mut_ptr());
    if shape.block_positions != TILE || dim != padded {
        let seen = &scratch.rows[..rows];
        let first = seen.iter().map(|row| row.visible.start).min().unwrap_or(0);
        let last = seen.iter().map(|row| row.visible.end).max().unwrap_or(0);
        for position in first.max(tile)..last.min(tile + TILE) {
            let planes = job.kv.planes(job.query, job.tables, position, job.kv_head);
            let (keys, values, offset) = planes;
            for d in 0..dim {
                scratch.k[d * TILE + position - tile] = job.kv.key(keys, offset, d);
                scratch.v[(position - tile) * padded + d] = job.kv.value(values, offset, d);
            }
            scratch.v[(position - tile) * padded..][dim..padded].fill(0.0);
        }
        return;
    }
    let (keys, values, _) = job.kv.planes(job.query, job.tables, tile, job.kv_head);
    let (keys, values) = (keys.as_ptr(), values.as_ptr());
    let vectors = dim * TILE / F::LANES;
    // SAFETY: planes have `dim · TILE` codes and, in q8_0, `dim / 32 · TILE` scales behind them; k and v have as many
    // floats, as `span` asserted.
    unsafe {
        match shape.format {
            KvFormat::F16 => {
                for i in 0..vectors {
                    let at = i * F::LANES;
                    F::load_halves(keys.add(at * 2)).store(k.add(at));
                    F::load_halves(values.add(at * 2)).store(v.add(at));
                }
            }
            KvFormat::Q8_0 => {
                let (key_scales, value_scales) = (keys.add(dim * TILE), values.add(dim * TILE));
                for group in 0..dim / KV_SCALE_GROUP {
                    for lane in (0..TILE).step_by(F::LANES) {
                        let scale = F::load_halves(key_scales.add((group * TILE + lane) * 2));
                        for d in group * KV_SCALE_GROUP..(group + 1) * KV_SCALE_GROUP {
                            let at = d * TILE + lane;
                            F::load_bytes(keys.add(at)).mul(scale).store(k.add(at));
                        }
                    }
                }
                let mut scales = [0.0; PAD];
                let groups = dim * TILE / KV_SCALE_GROUP;
                for group in 0..groups {
                    if group % F::LANES == 0 {
                        F::load_halves(value_scales.add(group * 2)).store(scales.as_mut_ptr());
                    }
                    let scale = F::splat(scales[group % F::LANES]);
                    for lane in (0..KV_SCALE_GROUP).step_by(F::LANES) {
                        let at = group * KV_SCALE_GROUP + lane;
                        F::load_bytes(values.add(at)).mul(scale).store(v.add(at));
                    }
                }
            }
        }
    }
}

/// Scores, weights and values of `R` rows from `first` on, over one tile.
#[inline(always)]
fn quad<F: Floats, const R: usize, const WIDE: usize>(
    job: &Job<'_>,
    first: usize,
    tile: usize,
    scratch: &mut Scratch,
) {
    // What each row sees of the tile.
    let mut seen: [Range<usize>; R] = std::array::from_fn(|_| 0..0);
    let mut any = false;
    for (seen, row) in seen.iter_mut().zip(&scratch.rows[first..first + R]) {
        let start = row.visible.start.clamp(tile, tile + TILE) - tile;
        let end = row.visible.end.clamp(tile, tile + TILE) - tile;
        *seen = start..end;
        any |= start < end;
    }
    if !any {
        return;
    }
    scores::<F, R>(job, first, scratch);
    let mut shrinks = [1.0; R];
    for r in 0..R {
        if !seen[r].is_empty() {
            shrinks[r] = softmax::<F>(first + r, &seen[r], scratch);
        }
    }
    if seen.iter().all(|other| *other == seen[0]) {
        let range = seen[0].clone();
        values::<F, R, WIDE>(job, first, range, &shrinks, scratch);
    } else {
        for r in 0..R {
            if !seen[r].is_empty() {
                values::<F, 1, WIDE>(job, first + r, seen[r].clone(), &[shrinks[r]], scratch);
            }
        }
    }
}

/// `weights = scale · q · k`, two vectors of positions at a time.
#[inline(always)]
fn scores<F: Floats, const R: usize>(job: &Job<'_>, first: usize, scratch: &mut Scratch) {
    let dim = job.kv.shape.head_dim;
    let mut q = [job.q.as_ptr(); R];
    for (q, row) in q.iter_mut().zip(&scratch.rows[first..first + R]) {
        // SAFETY: `span` asserted that the row's query lies inside `job.q`.
        *q = unsafe { job.q.as_ptr().add(row.q) };
    }
    let weights = scratch.weights[first * TILE..][..R * TILE].as_mut_ptr();
    let scale = F::splat(job.scale);
    for lane in (0..TILE).step_by(2 * F::LANES) {
        let mut sums = [[F::splat(0.0); 2]; R];
        // SAFETY: k has `dim · TILE` floats and each q `dim`, as `span` asserted; weights have R · TILE.
        unsafe {
            let k = scratch.k.as_ptr().add(lane);
            for d in 0..dim {
                let low = F::load(k.add(d * TILE));
                let high = F::load(k.add(d * TILE + F::LANES));
                for r in 0..R {
                    let q = F::splat(*q[r].add(d));
                    sums[r][0] = q.mul_add(low, sums[r][0]);
                    sums[r][1] = q.mul_add(high, sums[r][1]);
                }
            }
            for r in 0..R {
                let to = weights.add(r * TILE + lane);
                sums[r][0].mul(scale).store(to);
                sums[r][1].mul(scale).store(to.add(F::LANES));
            }
        }
    }
}

/// Turns a row's scores into weights relative to the new maximum, and returns what earlier weights shrink by.
#[inline(always)]
fn softmax<F: Floats>(row: usize, seen: &Range<usize>, scratch: &mut Scratch) -> f32 {
    // Bits of the positions that the row sees.
    let mask = (u32::MAX >> (TILE - seen.len())) << seen.start;
    let lanes = |lane: usize| mask >> lane & (u32::MAX >> (32 - F::LANES));
    let weights = scratch.weights[row * TILE..][..TILE].as_mut_ptr();
    let none = F::splat(f32::NEG_INFINITY);
    let mut greatest = none;
    let mut nans = 0;
    for lane in (0..TILE).step_by(F::LANES) {
        // SAFETY: a tile of weights.
        let scores = unsafe { F::load(weights.add(lane)) }.select(lanes(lane), none);
        nans |= scores.nans();
        greatest = scores.max(greatest);
    }
    let old = scratch.maxima[row];
    // NaN must not hide behind a maximum that skips it.
    let new = if nans != 0 || old.is_nan() {
        f32::NAN
    } else {
        old.max(greatest.greatest())
    };
    let mut total = F::splat(0.0);
    for lane in (0..TILE).step_by(F::LANES) {
        // SAFETY: a tile of weights.
        unsafe {
            let weight = exp(F::load(weights.add(lane)).sub(F::splat(new)));
            let weight = weight.select(lanes(lane), F::splat(0.0));
            weight.store(weights.add(lane));
            total = total.add(weight);
        }
    }
    // Nothing came before the first tile that a row sees, and then there is nothing to shrink.
    let shrink = if old == f32::NEG_INFINITY && scratch.totals[row] == 0.0 {
        0.0
    } else if old == new {
        1.0
    } else {
        let mut lanes = [0.0; PAD];
        // SAFETY: no vector is wider than PAD.
        unsafe { exp(F::splat(old - new)).store(lanes.as_mut_ptr()) };
        lanes[0]
    };
    scratch.maxima[row] = new;
    scratch.totals[row] = scratch.totals[row] * shrink + total.sum();
    shrink
}

/// `sums = shrink · sums + Σ weight · v` over the positions that all of `R` rows see.
#[inline(always)]
fn values<F: Floats, const R: usize, const WIDE: usize>(
    job: &Job<'_>,
    first: usize,
    seen: Range<usize>,
    shrinks: &[f32; R],
    scratch: &mut Scratch,
) {
    let padded = job.kv.shape.head_dim.next_multiple_of(PAD);
    let mut d = 0;
    while d < padded {
        if d + WIDE * F::LANES <= padded {
            columns::<F, R, WIDE>(padded, d, first, seen.clone(), shrinks, scratch);
            d += WIDE * F::LANES;
        } else {
            columns::<F, R, 1>(padded, d, first, seen.clone(), shrinks, scratch);
            d += F::LANES;
        }
    }
}

/// [`values`] for `W` vectors of elements from `d` on.
#[inline(always)]
fn columns<F: Floats, const R: usize, const W: usize>(
    padded: usize,
    d: usize,
    first: usize,
    seen: Range<usize>,
    shrinks: &[f32; R],
    scratch: &mut Scratch,
) {
    let sums_at = scratch.sums[first * padded..][..R * padded].as_mut_ptr();
    let weights = scratch.weights[first * TILE..][..R * TILE].as_ptr();
    let v = scratch.v.as_ptr();
    debug_assert!(d + W * F::LANES <= padded);
    // SAFETY: sums have R · padded floats and v has TILE · padded, `d + W · LANES` is at most `padded`, and `seen` ends
    // at TILE.
    unsafe {
        let mut sums = [[F::splat(0.0); W]; R];
        for r in 0..R {
            for w in 0..W {
                let sum = F::load(sums_at.add(r * padded + d + w * F::LANES));
                sums[r][w] = sum.mul(F::splat(shrinks[r]));
            }
        }
        for position in seen {
            let mut value = [F::splat(0.0); W];
            for w in 0..W {
                value[w] = F::load(v.add(position * padded + d + w * F::LANES));
            }
            for r in 0..R {
                let weight = F::splat(*weights.add(r * TILE + position));
                for w in 0..W {
                    sums[r][w] = weight.mul_add(value[w], sums[r][w]);
                }
            }
        }
        for r in 0..R {
            for w in 0..W {
                sums[r][w].store(sums_at.add(r * padded + d + w * F::LANES));
            }
        }
    }
}

/// eˣ as `avx2::rows` computes it, which says why and how exactly.
#[inline(always)]
fn exp<F: Floats>(x: F) -> F {
    const ROUND: f32 = 12_582_912.0;
    // NaN passes, being the second operand.
    let x = F::splat(88.0).min(F::splat(-87.0).max(x));
    let rounded = x.mul_add(F::splat(std::f32::consts::LOG2_E), F::splat(ROUND));
    let n = rounded.sub(F::splat(ROUND));
    let r = n.mul_add(F::splat(-0.693_359_4), x);
    let r = n.mul_add(F::splat(2.121_944_4e-4), r);
    let mut p = F::splat(1.0 / 5_040.0);
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, F::splat(coefficient));
    }
    p.mul(rounded.power_of_two())
}
