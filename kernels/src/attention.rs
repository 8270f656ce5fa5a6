//! Attention over one span of positions, for vectors of any width.
//!
//! A *row* is one query head of one column. Rows that read the same KV head of the same sequence share a pass: the
//! heads of a group, and neighbouring columns of a prompt.
//!
//! ```text
//!  tile of 32 positions   k [head_dim][32]   v [32][head_dim]   few rows read it where it lies, many a copy in f32
//!  scores                 a lane is a position; Σ over head_dim in order, one fused step each
//!  softmax                running maximum and total of the row, new at each tile
//!  values                 a lane is an element; Σ over the row's positions in order, one fused step each
//! ```
//!
//! In q8_0 the sums run over codes: a scale of keys multiplies the sum over its 32 elements, and a scale of values the
//! weight of its position. So a code costs no multiplication of its own, and the copy computes what a direct read does.
//!
//! What a row computes depends on its own positions only: scores of positions that it does not see are replaced, and
//! their values are left out, whatever other rows of the job see.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers index several arrays alike"
)]

use std::ops::Range;

use half::bf16;

use crate::floats::{Floats, exp};
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

/// Rows up to which a tile is read where it lies, converted again for each quad: a store and a load of the copy cost
/// more than that.
const DIRECT_ROWS: usize = 2 * QUAD;

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
    /// `[head_dim][TILE]`: keys, or in q8_0 their codes.
    k: Box<[f32]>,
    /// `[TILE][padded head_dim]`: likewise values.
    v: Box<[f32]>,
    /// `[head_dim / 32][TILE]` of keys, then of values; q8_0 only.
    scales: Box<[f32]>,
    /// `[ROWS][TILE]`: scores, then weights.
    weights: Box<[f32]>,
    /// `[QUAD][head_dim / 32][TILE]`: weights times scales of values; q8_0 only.
    scaled: Box<[f32]>,
    /// What integer kernels of i16 need: see `words`.
    pub(crate) words: Words,
}

/// Memory of kernels that multiply integers.
pub(crate) struct Words {
    /// `[ROWS][padded head_dim]`: queries in codes, and what codes of each row are multiplied with.
    pub(crate) q: Box<[i16]>,
    pub(crate) q_scales: Box<[f32]>,
    /// `[padded head_dim / 2][TILE][2]`: keys of a tile that does not lie so.
    pub(crate) k: Box<[i16]>,
    /// `[TILE / 2][padded head_dim][2]`: values of such a tile.
    pub(crate) v: Box<[i16]>,
    /// `[ROWS][SCORES]`: scores over the span, then weights, then their codes in the first half.
    pub(crate) scores: Box<[f32]>,
    /// `[ROWS][SPAN / TILE]`: what codes of weights are multiplied with.
    pub(crate) steps: Box<[f32]>,
    /// `[SPAN]`: scales of values.
    pub(crate) value_scales: Box<[f32]>,
}

/// Floats between rows of scores: a span, and a line, so that one tile's scores of many rows lie in many sets of the
/// cache.
pub(crate) const SCORES: usize = SPAN + PAD;

impl Words {
    fn new(dim: usize) -> Words {
        let floats = |len: usize| vec![0.0; len].into_boxed_slice();
        let words = |len: usize| vec![0; len].into_boxed_slice();
        Words {
            q: words(ROWS * dim),
            q_scales: floats(ROWS),
            k: words(TILE * dim),
            v: words(TILE * dim),
            scores: floats(ROWS * SCORES),
            steps: floats(ROWS * (SPAN / TILE)),
            value_scales: floats(SPAN),
        }
    }

    fn bytes(dim: usize) -> usize {
        2 * (ROWS + 2 * TILE) * dim + 4 * (ROWS * (1 + SCORES + SPAN / TILE) + SPAN)
    }

    #[cfg(test)]
    fn real_bytes(&self) -> usize {
        let floats = [
            &self.q_scales,
            &self.scores,
            &self.steps,
            &self.value_scales,
        ];
        let floats: usize = floats.iter().map(|floats| size_of_val(&***floats)).sum();
        let words = [&self.q, &self.k, &self.v];
        floats
            + words
                .iter()
                .map(|words| size_of_val(&***words))
                .sum::<usize>()
    }
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
            scales: floats(2 * scales(dim)),
            weights: floats(ROWS * TILE),
            scaled: floats(QUAD * scales(dim)),
            words: Words::new(dim),
        }
    }

    pub(crate) fn bytes(head_dim_max: usize) -> usize {
        let dim = head_dim_max.next_multiple_of(PAD);
        let row = 2 + 2 * dim + TILE;
        ROWS * size_of::<Row>()
            + 4 * (ROWS * row + 2 * TILE * dim + (2 + QUAD) * scales(dim))
            + Words::bytes(dim)
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
            &self.scales,
            &self.weights,
            &self.scaled,
        ];
        let floats: usize = floats.iter().map(|floats| size_of_val(&***floats)).sum();
        size_of_val(&*self.rows) + floats + self.words.real_bytes()
    }
}

/// Scales of a tile's keys, or of its values.
fn scales(head_dim: usize) -> usize {
    head_dim.div_ceil(KV_SCALE_GROUP) * TILE
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

/// How the numbers of a tile lie in memory.
trait Numbers {
    /// Bytes of one.
    const BYTES: usize;
    /// Whether they are codes, which scales multiply.
    const SCALED: bool;
    /// Loads `F::LANES` of them.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load<F: Floats>(from: *const u8) -> F;
}

/// A copy in f32, of codes or of the numbers themselves.
struct Copied<const SCALED: bool>;

impl<const SCALED: bool> Numbers for Copied<SCALED> {
    const BYTES: usize = 4;
    const SCALED: bool = SCALED;
    #[inline(always)]
    unsafe fn load<F: Floats>(from: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { F::load(from.cast()) }
    }
}

/// [`KvFormat::F16`].
struct Halves;

impl Numbers for Halves {
    const BYTES: usize = 2;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<F: Floats>(from: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { F::load_halves(from) }
    }
}

/// Codes of [`KvFormat::Q8_0`].
struct Codes;

impl Numbers for Codes {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<F: Floats>(from: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { F::load_bytes(from) }
    }
}

/// A tile at work.
#[derive(Clone, Copy)]
struct Tile {
    /// Its first position.
    start: usize,
    /// `[head_dim][TILE]` and `[TILE][padded head_dim]` numbers.
    k: *const u8,
    v: *const u8,
    /// Keys and values of the next tile, to ask for: `ahead` bytes of each in every step over `head_dim`.
    next: (*const u8, *const u8),
    ahead: usize,
}

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
    let shape = &job.kv.shape;
    let dim = shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    assert!(rows <= ROWS);
    assert!(scratch.k.len() >= dim * TILE);
    assert!(scratch.v.len() >= TILE * padded);
    assert!(scratch.sums.len() >= rows * padded);
    assert!(scratch.scales.len() >= 2 * scales(dim));
    assert!(scratch.scaled.len() >= QUAD * scales(dim));
    for row in &scratch.rows[..rows] {
        assert!(row.q + dim <= job.q.len());
    }
    scratch.maxima[..rows].fill(f32::NEG_INFINITY);
    scratch.totals[..rows].fill(0.0);
    scratch.sums[..rows * padded].fill(0.0);
    let seen = &scratch.rows[..rows];
    let first = seen.iter().map(|row| row.visible.start).min().unwrap_or(0);
    let last = seen.iter().map(|row| row.visible.end).max().unwrap_or(0);
    let end = last.min((span + 1) * SPAN);
    // Whether a tile of a block is what the loops read.
    let whole = shape.block_positions == TILE && dim == padded;
    let planes = |position| job.kv.planes(job.query, job.tables, position, job.kv_head);
    for start in (first.max(span * SPAN) / TILE * TILE..end).step_by(TILE) {
        let (k, v, _) = planes(start);
        // The next span's first tile is likely this thread's too.
        let (next_k, next_v, _) = planes(if start + TILE < last {
            start + TILE
        } else {
            start
        });
        let mut tile = Tile {
            start,
            k: k.as_ptr(),
            v: v.as_ptr(),
            next: (next_k.as_ptr(), next_v.as_ptr()),
            ahead: shape.plane_bytes() / dim,
        };
        if shape.format == KvFormat::Q8_0 && whole {
            load_scales::<F>(dim, &tile, scratch);
        }
        if whole && rows <= DIRECT_ROWS && shape.format != KvFormat::I16 {
            match shape.format {
                KvFormat::F16 => quads::<F, Halves, WIDE>(job, rows, tile, scratch),
                KvFormat::Q8_0 => quads::<F, Codes, WIDE>(job, rows, tile, scratch),
                KvFormat::I16 => unreachable!("its pairs are copied"),
            }
            continue;
        }
        if whole && shape.format == KvFormat::I16 {
            copy_words(dim, (k, v), scratch);
        } else if whole {
            copy_tile::<F>(shape.format, dim, &tile, scratch);
        } else {
            copy_positions(job, first.max(start)..last.min(start + TILE), scratch);
        }
        (tile.k, tile.v) = (scratch.k.as_ptr().cast(), scratch.v.as_ptr().cast());
        match shape.format {
            KvFormat::F16 => quads::<F, Copied<false>, WIDE>(job, rows, tile, scratch),
            KvFormat::Q8_0 | KvFormat::I16 => {
                quads::<F, Copied<true>, WIDE>(job, rows, tile, scratch);
            }
        }
    }
}

/// Brings a whole tile's scales to f32.
#[inline(always)]
fn load_scales<F: Floats>(dim: usize, tile: &Tile, scratch: &mut Scratch) {
    let (keys, values) = scratch.scales.split_at_mut(scales(dim));
    for at in (0..scales(dim)).step_by(F::LANES) {
        // SAFETY: planes have `dim / 32 · TILE` scales behind their codes, and `span` asserted room for as many.
        unsafe {
            let behind = dim * TILE + at * 2;
            F::load_halves(tile.k.add(behind)).store(keys.as_mut_ptr().add(at));
            F::load_halves(tile.v.add(behind)).store(values.as_mut_ptr().add(at));
        }
    }
}

/// Copies a whole tile to f32.
#[inline(always)]
fn copy_tile<F: Floats>(format: KvFormat, dim: usize, tile: &Tile, scratch: &mut Scratch) {
    let (k, v) = (scratch.k.as_mut_ptr(), scratch.v.as_mut_ptr());
    for at in (0..dim * TILE).step_by(F::LANES) {
        // SAFETY: planes have `dim · TILE` numbers, and so have k and v, as `span` asserted.
        unsafe {
            match format {
                KvFormat::F16 => {
                    Halves::load::<F>(tile.k.add(at * 2)).store(k.add(at));
                    Halves::load::<F>(tile.v.add(at * 2)).store(v.add(at));
                }
                KvFormat::Q8_0 => {
                    Codes::load::<F>(tile.k.add(at)).store(k.add(at));
                    Codes::load::<F>(tile.v.add(at)).store(v.add(at));
                }
                KvFormat::I16 => unreachable!("its pairs are copied"),
            }
        }
    }
}

/// Copies a whole tile of i16, whose pairs lie apart in the copy, and its scales. A head has one scale, which the
/// copy repeats for each 32 elements.
#[inline(always)]
fn copy_words(dim: usize, (keys, values): (&[u8], &[u8]), scratch: &mut Scratch) {
    let word = |bytes: [u8; 2]| f32::from(i16::from_le_bytes(bytes));
    for (from, to, len) in [(keys, &mut scratch.k, TILE), (values, &mut scratch.v, dim)] {
        let pairs = from[..2 * dim * TILE].chunks_exact(4 * len);
        for (pairs, to) in pairs.zip(to.chunks_exact_mut(2 * len)) {
            let (even, odd) = to.split_at_mut(len);
            for (([a, b, c, d], even), odd) in pairs.as_chunks().0.iter().zip(even).zip(odd) {
                (*even, *odd) = (word([*a, *b]), word([*c, *d]));
            }
        }
    }
    let len = scales(dim);
    let (key_scales, value_scales) = scratch.scales.split_at_mut(len);
    for (plane, scales) in [(keys, key_scales), (values, value_scales)] {
        let from = plane[2 * dim * TILE..].as_chunks().0;
        for scales in scales[..len].chunks_exact_mut(TILE) {
            for (scale, bytes) in scales.iter_mut().zip(from) {
                *scale = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
    }
}

/// Copies the positions of a tile that some row sees, from blocks of any size. Others may stay as they are: nothing
/// reads them but scores that are replaced.
fn copy_positions(job: &Job<'_>, positions: Range<usize>, scratch: &mut Scratch) {
    let dim = job.kv.shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    let (key_scales, value_scales) = scratch.scales.split_at_mut(scales(dim));
    for position in positions {
        let (keys, values, offset) = job.kv.planes(job.query, job.tables, position, job.kv_head);
        let at = position % TILE;
        for d in 0..dim {
            let group = d / KV_SCALE_GROUP * TILE + at;
            (scratch.k[d * TILE + at], key_scales[group]) = job.kv.key(keys, offset, d);
            (scratch.v[at * padded + d], value_scales[group]) = job.kv.value(values, offset, d);
        }
        scratch.v[at * padded..][dim..padded].fill(0.0);
    }
}

/// A tile for all rows.
#[inline(always)]
fn quads<F: Floats, N: Numbers, const WIDE: usize>(
    job: &Job<'_>,
    rows: usize,
    mut tile: Tile,
    scratch: &mut Scratch,
) {
    for row in (0..rows).step_by(QUAD) {
        match rows - row {
            1 => quad::<F, N, 1, WIDE>(job, row, &tile, scratch),
            2 => quad::<F, N, 2, WIDE>(job, row, &tile, scratch),
            3 => quad::<F, N, 3, WIDE>(job, row, &tile, scratch),
            _ => quad::<F, N, QUAD, WIDE>(job, row, &tile, scratch),
        }
        tile.ahead = 0; // once is enough
    }
}

/// Scores, weights and values of `R` rows from `first` on, over one tile.
#[inline(always)]
fn quad<F: Floats, N: Numbers, const R: usize, const WIDE: usize>(
    job: &Job<'_>,
    first: usize,
    tile: &Tile,
    scratch: &mut Scratch,
) {
    // What each row sees of the tile.
    let mut seen: [Range<usize>; R] = std::array::from_fn(|_| 0..0);
    let mut any = false;
    for (seen, row) in seen.iter_mut().zip(&scratch.rows[first..first + R]) {
        let start = row.visible.start.clamp(tile.start, tile.start + TILE) - tile.start;
        let end = row.visible.end.clamp(tile.start, tile.start + TILE) - tile.start;
        *seen = start..end;
        any |= start < end;
    }
    if !any {
        return;
    }
    scores::<F, N, R>(job, first, tile, scratch);
    let mut shrinks = [1.0; R];
    for r in 0..R {
        if !seen[r].is_empty() {
            shrinks[r] = softmax::<F>(first + r, &seen[r], scratch);
        }
    }
    if seen.iter().all(|other| *other == seen[0]) {
        let range = seen[0].clone();
        values::<F, N, R, WIDE>(job, first, range, &shrinks, tile, scratch);
    } else {
        for r in 0..R {
            if !seen[r].is_empty() {
                let range = seen[r].clone();
                values::<F, N, 1, WIDE>(job, first + r, range, &[shrinks[r]], tile, scratch);
            }
        }
    }
}

/// `weights = scale · q · k`, two vectors of positions at a time.
#[inline(always)]
fn scores<F: Floats, N: Numbers, const R: usize>(
    job: &Job<'_>,
    first: usize,
    tile: &Tile,
    scratch: &mut Scratch,
) {
    let dim = job.kv.shape.head_dim;
    let mut q = [job.q.as_ptr(); R];
    for (q, row) in q.iter_mut().zip(&scratch.rows[first..first + R]) {
        // SAFETY: `span` asserted that the row's query lies inside `job.q`.
        *q = unsafe { job.q.as_ptr().add(row.q) };
    }
    let weights = scratch.weights[first * TILE..][..R * TILE].as_mut_ptr();
    let scale = F::splat(job.scale);
    let group = if N::SCALED { KV_SCALE_GROUP } else { dim };
    for lane in (0..TILE).step_by(2 * F::LANES) {
        let mut sums = [[F::splat(0.0); 2]; R];
        // SAFETY: k has `dim · TILE` numbers and each q `dim`, as `span` asserted; there are `dim / group · TILE`
        // scales, and R · TILE weights.
        unsafe {
            let k = tile.k.add(lane * N::BYTES);
            let scales = scratch.scales.as_ptr().add(lane);
            for start in (0..dim).step_by(group) {
                let mut products = [[F::splat(0.0); 2]; R];
                for d in start..(start + group).min(dim) {
                    let at = k.add(d * TILE * N::BYTES);
                    let low = N::load::<F>(at);
                    let high = N::load::<F>(at.add(F::LANES * N::BYTES));
                    for r in 0..R {
                        let q = F::splat(*q[r].add(d));
                        products[r][0] = q.mul_add(low, products[r][0]);
                        products[r][1] = q.mul_add(high, products[r][1]);
                    }
                    if lane == 0 {
                        F::prefetch(tile.next.0.wrapping_add(d * tile.ahead));
                        F::prefetch(tile.next.1.wrapping_add(d * tile.ahead));
                    }
                }
                if N::SCALED {
                    let low = F::load(scales.add(start / group * TILE));
                    let high = F::load(scales.add(start / group * TILE + F::LANES));
                    for r in 0..R {
                        sums[r][0] = products[r][0].mul_add(low, sums[r][0]);
                        sums[r][1] = products[r][1].mul_add(high, sums[r][1]);
                    }
                } else {
                    sums = products;
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
fn values<F: Floats, N: Numbers, const R: usize, const WIDE: usize>(
    job: &Job<'_>,
    first: usize,
    seen: Range<usize>,
    shrinks: &[f32; R],
    tile: &Tile,
    scratch: &mut Scratch,
) {
    let dim = job.kv.shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    let len = scales(dim);
    if N::SCALED {
        let (weights, values) = (&scratch.weights[first * TILE..], &scratch.scales[len..]);
        for r in 0..R {
            for at in (0..len).step_by(F::LANES) {
                // SAFETY: a row has TILE weights, and there are `len` scales and R · len products of the two.
                unsafe {
                    let weights = F::load(weights.as_ptr().add(r * TILE + at % TILE));
                    let scales = F::load(values.as_ptr().add(at));
                    weights
                        .mul(scales)
                        .store(scratch.scaled.as_mut_ptr().add(r * len + at));
                }
            }
        }
    }
    let weights = if N::SCALED {
        (scratch.scaled.as_ptr(), len)
    } else {
        (scratch.weights[first * TILE..][..R * TILE].as_ptr(), TILE)
    };
    let sums = scratch.sums[first * padded..][..R * padded].as_mut_ptr();
    let mut d = 0;
    while d < padded {
        let (v, sums) = (tile.v, sums);
        // SAFETY: sums have R · padded floats and v has TILE · padded numbers, `d + W · LANES` is at most `padded`,
        // and `seen` ends at TILE; weights as above.
        unsafe {
            if d + WIDE * F::LANES <= padded {
                columns::<F, N, R, WIDE>(padded, d, seen.clone(), shrinks, weights, v, sums);
                d += WIDE * F::LANES;
            } else {
                columns::<F, N, R, 1>(padded, d, seen.clone(), shrinks, weights, v, sums);
                d += F::LANES;
            }
        }
    }
}

/// [`values`] for `W` vectors of elements from `d` on.
#[inline(always)]
unsafe fn columns<F: Floats, N: Numbers, const R: usize, const W: usize>(
    padded: usize,
    d: usize,
    seen: Range<usize>,
    shrinks: &[f32; R],
    (weights, stride): (*const f32, usize),
    v: *const u8,
    sums_at: *mut f32,
) {
    debug_assert!(d + W * F::LANES <= padded);
    // SAFETY: the caller's promise.
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
                value[w] = N::load(v.add((position * padded + d + w * F::LANES) * N::BYTES));
            }
            for r in 0..R {
                let weights = weights.add(r * stride + position);
                for w in 0..W {
                    let group = if N::SCALED {
                        (d + w * F::LANES) / KV_SCALE_GROUP
                    } else {
                        0
                    };
                    let weight = F::splat(*weights.add(group * TILE));
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
