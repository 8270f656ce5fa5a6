//! Attention over the KV cache: rows are gathered into pieces, and spans shared between threads.

#![allow(unsafe_code, reason = "workers write disjoint heads of the result")]

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::kv::{KvLayer, KvLayerMut, KvSlot};
use super::{KernelLimits, Kernels, SHARED_PRODUCTS_MIN, run, take};
use crate::attention::{Job, Join, ROWS, Row, SPAN, Scratch};
use crate::disjoint::Disjoint;
use crate::{Isa, dispatch, portable};

/// Dimensions of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`. Query head *h* reads KV head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// What scores are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Positions that a query sees, its own included; `None` means all.
    pub window: Option<u32>,
}

impl AttentionShape {
    /// Positions that `query` sees.
    pub(crate) fn visible(&self, query: &Query) -> Range<usize> {
        let end = query.position as usize + 1;
        let start = self
            .window
            .map_or(0, |window| end.saturating_sub(window as usize));
        start..end
    }
}

/// One column's query: where it stands, and which KV blocks hold its sequence.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Its position in the sequence, whose key and value are stored already.
    pub position: u32,
    /// Start of its block table in `tables`.
    pub table_start: u32,
    /// Entries of its block table.
    pub table_len: u32,
}

/// Columns of one sequence that are attended together.
#[derive(Clone, Copy, Debug, Default)]
struct Tile {
    first: u32,
    columns: u32,
}

/// What attention needs beside its arguments.
pub(super) struct Space {
    /// One for each worker.
    workers: Box<[Scratch]>,
    /// `[columns_max]`
    tiles: Box<[Tile]>,
    /// Maximum, total and sums over a span, for each span of the longest sequence and each head.
    partials: Box<[f32]>,
}

impl Space {
    pub(super) fn new(limits: KernelLimits, threads: usize) -> Space {
        Space {
            workers: (0..threads)
                .map(|_| Scratch::new(limits.head_dim_max))
                .collect(),
            tiles: vec![Tile::default(); limits.columns_max].into(),
            partials: vec![0.0; partials(limits)].into(),
        }
    }

    pub(super) fn bytes(limits: KernelLimits, threads: usize) -> usize {
        threads * Scratch::bytes(limits.head_dim_max)
            + limits.columns_max * size_of::<Tile>()
            + partials(limits) * size_of::<f32>()
    }

    #[cfg(test)]
    pub(super) fn real_bytes(&self) -> usize {
        let workers: usize = self.workers.iter().map(Scratch::real_bytes).sum();
        workers + size_of_val(&*self.tiles) + size_of_val(&*self.partials)
    }
}

/// Floats that one column of the longest sequence leaves between spans and their join.
fn partials(limits: KernelLimits) -> usize {
    limits.positions_max.div_ceil(SPAN) * limits.heads_max * partial(limits.head_dim_max)
}

/// Floats of one partial: maximum, total, sums.
fn partial(head_dim: usize) -> usize {
    2 + head_dim
}

/// Pieces for each thread from which on whole sequences keep all threads busy, so that spans need not be shared.
const PIECES_PER_THREAD: usize = 4;

impl Kernels {
    /// Stores the step's keys and values, rounded to the format of the cache.
    ///
    /// **Shapes** `k`, `v`: `[slots.len(), kv_heads · head_dim]`.
    pub fn store_kv(&mut self, k: &[f32], v: &[f32], slots: &[KvSlot], mut kv: KvLayerMut<'_>) {
        let shape = kv.shape;
        let width = shape.kv_heads * shape.head_dim;
        shape.check();
        assert_eq!(k.len(), slots.len() * width);
        assert_eq!(v.len(), k.len());
        assert_eq!(kv.k.len(), kv.v.len());
        for (column, slot) in slots.iter().enumerate() {
            assert!(
                (slot.offset as usize) < shape.block_positions,
                "offset lies inside a block"
            );
            for head in 0..shape.kv_heads {
                let from = column * width + head * shape.head_dim;
                let from = from..from + shape.head_dim;
                kv.store(*slot, head, &k[from.clone()], &v[from]);
            }
        }
    }

    /// `out = softmax(scale · q · kᵀ) · v` over the positions that each query sees: `0..=position`, or the last
    /// `window` of these.
    ///
    /// Positions are cut into spans of 512 at multiples of 512, each with a softmax of its own; what they leave is
    /// joined in order. That is so for one thread and one column too, so bits depend neither on the batch nor on the
    /// threads: who computes a span, and which rows share its keys, does not enter the arithmetic.
    ///
    /// **Shapes** `q`, `out`: `[queries.len(), heads · head_dim]`; `tables`: KV block ids.
    pub fn attention(
        &mut self,
        shape: &AttentionShape,
        q: &[f32],
        kv: KvLayer<'_>,
        queries: &[Query],
        tables: &[u32],
        out: &mut [f32],
    ) {
        let products = check(shape, q, &kv, queries, tables, out);
        assert!(shape.head_dim <= self.limits.head_dim_max);
        assert!(queries.len() <= self.limits.columns_max);
        if self.isa == Isa::Portable {
            return self.attend_by_oracle(shape, q, &kv, (queries, tables), out);
        }
        let group = shape.heads / shape.kv_heads;
        // Heads of a group that one piece attends, and columns.
        let heads = group.min(ROWS);
        let parts = group.div_ceil(heads);
        let columns = (ROWS / heads).max(1);
        let tiles = cut(queries, columns, &mut self.attention.tiles);
        let pieces = tiles.len() * shape.kv_heads * parts;
        let spans = queries
            .iter()
            .map(|query| query.position as usize / SPAN + 1);
        let spans = spans.max().unwrap_or(0);
        let size = partial(shape.head_dim);
        let fits = queries.len() * shape.heads * spans * size <= self.attention.partials.len();
        let threads = self.team.threads();
        let share = threads > 1
            && products >= SHARED_PRODUCTS_MIN
            && spans > 1
            && fits
            && pieces < PIECES_PER_THREAD * threads;
        let work = Work {
            shape,
            q,
            kv: &kv,
            queries,
            tables,
            tiles,
            heads,
            parts,
        };
        let (isa, taken) = (self.isa, &self.taken);
        taken.store(0, Ordering::Relaxed);
        let workers = Disjoint::new(&mut self.attention.workers);
        let results = Disjoint::new(out);
        let partials = Disjoint::new(&mut self.attention.partials);
        let pieces_to_take = if share { pieces * spans } else { pieces };
        run(&mut self.team, products, SHARED_PRODUCTS_MIN, &|worker| {
            // SAFETY: each worker has an index of its own.
            let scratch = unsafe { workers.slice(worker.index..worker.index + 1) };
            let scratch = &mut scratch[0];
            while let Some(taken) = take(taken, pieces_to_take) {
                if share {
                    let (piece, span) = (taken / spans, taken % spans);
                    let (job, rows) = work.load(piece, scratch);
                    dispatch::attend_span(isa, &job, rows, span, scratch);
                    for (r, head) in work.rows(piece).enumerate() {
                        let at = (head * spans + span) * size;
                        // SAFETY: a head of a column belongs to one piece, and each span of it is taken once.
                        let to = unsafe { partials.slice(at..at + size) };
                        to[0] = scratch.maxima[r];
                        to[1] = scratch.totals[r];
                        to[2..].copy_from_slice(scratch.sum(r, shape.head_dim));
                    }
                } else {
                    let (job, rows) = work.load(taken, scratch);
                    let mut joins = [Join::NONE; ROWS];
                    for span in spans_of(&scratch.rows[..rows]) {
                        dispatch::attend_span(isa, &job, rows, span, scratch);
                        for (r, join) in joins[..rows].iter_mut().enumerate() {
                            scratch.join(r, shape.head_dim, join);
                        }
                    }
                    for (r, head) in work.rows(taken).enumerate() {
                        let at = head * shape.head_dim..(head + 1) * shape.head_dim;
                        // SAFETY: a head of a column belongs to one piece, which is taken once.
                        let out = unsafe { results.slice(at) };
                        out.copy_from_slice(scratch.joined(r, shape.head_dim));
                        joins[r].finish(out);
                    }
                }
            }
        });
        if share {
            for (head, out) in out.chunks_exact_mut(shape.head_dim).enumerate() {
                let mut join = Join::NONE;
                out.fill(0.0);
                let partials = &self.attention.partials[head * spans * size..][..spans * size];
                for partial in partials.chunks_exact(size) {
                    join.add(partial[0], partial[1], &partial[2..], out);
                }
                join.finish(out);
            }
        }
    }

    fn attend_by_oracle(
        &mut self,
        shape: &AttentionShape,
        q: &[f32],
        kv: &KvLayer<'_>,
        (queries, tables): (&[Query], &[u32]),
        out: &mut [f32],
    ) {
        let group = shape.heads / shape.kv_heads * shape.head_dim;
        let pieces = queries.len() * shape.kv_heads;
        let taken = &self.taken;
        taken.store(0, Ordering::Relaxed);
        let out = Disjoint::new(out);
        self.team.run(&|_| {
            while let Some(piece) = take(taken, pieces) {
                let (column, kv_head) = (piece / shape.kv_heads, piece % shape.kv_heads);
                let at = piece * group..(piece + 1) * group;
                // SAFETY: pieces are disjoint and each is taken by one worker.
                let out = unsafe { out.slice(at.clone()) };
                portable::attention(shape, &q[at], kv, kv_head, (&queries[column], tables), out);
            }
        });
    }
}

/// Asserts shapes, and counts multiply-adds.
fn check(
    shape: &AttentionShape,
    q: &[f32],
    kv: &KvLayer<'_>,
    queries: &[Query],
    tables: &[u32],
    out: &[f32],
) -> usize {
    assert!(shape.kv_heads > 0);
    assert!(
        shape.heads.is_multiple_of(shape.kv_heads),
        "query heads share KV heads evenly"
    );
    assert_eq!(shape.kv_heads, kv.shape.kv_heads);
    assert_eq!(shape.head_dim, kv.shape.head_dim);
    kv.shape.check();
    assert_ne!(shape.window, Some(0), "a query sees itself");
    assert_eq!(kv.k.len(), kv.v.len());
    let width = shape.heads * shape.head_dim;
    assert_eq!(q.len(), queries.len() * width);
    assert_eq!(out.len(), q.len());
    let mut products = 0;
    for query in queries {
        let entries = query.position as usize / kv.shape.block_positions + 1;
        assert!(
            entries <= query.table_len as usize,
            "the table reaches the position"
        );
        assert!((query.table_start + query.table_len) as usize <= tables.len());
        products += 2 * width * shape.visible(query).len();
    }
    products
}

/// Cuts the columns into runs of one sequence, of at most `columns`.
fn cut<'a>(queries: &[Query], columns: usize, tiles: &'a mut [Tile]) -> &'a [Tile] {
    let mut len = 0;
    let mut first = 0;
    while first < queries.len() {
        let sequence = queries[first].table_start;
        let run = queries[first..].iter().take(columns);
        let run = run
            .take_while(|query| query.table_start == sequence)
            .count();
        tiles[len] = Tile {
            first: first as u32,
            columns: run as u32,
        };
        len += 1;
        first += run;
    }
    &tiles[..len]
}

/// One operation, cut into pieces: (tile of columns, KV head, part of the group).
struct Work<'a> {
    shape: &'a AttentionShape,
    q: &'a [f32],
    kv: &'a KvLayer<'a>,
    queries: &'a [Query],
    tables: &'a [u32],
    tiles: &'a [Tile],
    /// Heads of a group in one piece, and pieces that a group is cut into.
    heads: usize,
    parts: usize,
}

impl<'a> Work<'a> {
    fn locate(&self, piece: usize) -> (Tile, usize, Range<usize>) {
        let (rest, part) = (piece / self.parts, piece % self.parts);
        let (tile, kv_head) = (rest / self.shape.kv_heads, rest % self.shape.kv_heads);
        let group = self.shape.heads / self.shape.kv_heads;
        let heads = part * self.heads..((part + 1) * self.heads).min(group);
        let first = kv_head * group;
        (
            self.tiles[tile],
            kv_head,
            first + heads.start..first + heads.end,
        )
    }

    /// The rows of a piece, as indexes of (column, head).
    fn rows(&self, piece: usize) -> impl Iterator<Item = usize> + use<> {
        let (tile, _, heads) = self.locate(piece);
        let all = self.shape.heads;
        (tile.first as usize..(tile.first + tile.columns) as usize)
            .flat_map(move |column| heads.clone().map(move |head| column * all + head))
    }

    /// Writes a piece's rows to the scratch.
    fn load(&self, piece: usize, scratch: &mut Scratch) -> (Job<'a>, usize) {
        let (tile, kv_head, _) = self.locate(piece);
        let mut rows = 0;
        for index in self.rows(piece) {
            scratch.rows[rows] = Row {
                q: index * self.shape.head_dim,
                visible: self.shape.visible(&self.queries[index / self.shape.heads]),
            };
            rows += 1;
        }
        scratch.clear(rows, self.shape.head_dim);
        let job = Job {
            q: self.q,
            scale: self.shape.scale,
            kv: self.kv,
            kv_head,
            query: &self.queries[tile.first as usize],
            tables: self.tables,
        };
        (job, rows)
    }
}

/// Spans that some row sees.
fn spans_of(rows: &[Row]) -> Range<usize> {
    let first = rows.iter().map(|row| row.visible.start).min().unwrap_or(0);
    let last = rows.iter().map(|row| row.visible.end).max().unwrap_or(0);
    first / SPAN..last.div_ceil(SPAN)
}
