//! The KV cache's layout, and attention over it.

#![allow(unsafe_code, reason = "workers write disjoint heads of the result")]

use std::ops::Range;
use std::sync::atomic::Ordering;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Kernels, SHARED_PRODUCTS_MIN, run, take};
use crate::disjoint::Disjoint;
use crate::dispatch;

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

/// A place for one position in a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// KV block.
    pub block: u32,
    /// Position within it.
    pub offset: u32,
}

/// Keys and values of one layer.
///
/// Element *d* of head *h* at `(block, offset)` has index
/// `((block · kv_heads + h) · block_positions + offset) · head_dim + d`: the positions of a head in a block are one
/// run.
#[derive(Clone, Copy, Debug)]
pub struct KvLayer<'a> {
    /// Keys.
    pub k: &'a [f16],
    /// Values.
    pub v: &'a [f16],
    /// KV heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Positions in a KV block.
    pub block_positions: usize,
}

/// [`KvLayer`], to write.
#[derive(Debug)]
pub struct KvLayerMut<'a> {
    /// Keys.
    pub k: &'a mut [f16],
    /// Values.
    pub v: &'a mut [f16],
    /// KV heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Positions in a KV block.
    pub block_positions: usize,
}

impl KvLayer<'_> {
    /// Where `position` of a query's sequence lies, for one head.
    #[inline(always)]
    pub(crate) fn place(
        &self,
        query: &Query,
        tables: &[u32],
        position: usize,
        head: usize,
    ) -> Range<usize> {
        let entry = query.table_start as usize + position / self.block_positions;
        let block = tables[entry] as usize;
        let offset = position % self.block_positions;
        let run = (block * self.kv_heads + head) * self.block_positions + offset;
        run * self.head_dim..(run + 1) * self.head_dim
    }
}

impl Kernels {
    /// Stores the step's keys and values, rounded to half precision.
    ///
    /// **Shapes** `k`, `v`: `[slots.len(), kv_heads · head_dim]`.
    pub fn store_kv(&mut self, k: &[f32], v: &[f32], slots: &[KvSlot], kv: KvLayerMut<'_>) {
        let KvLayerMut {
            k: k_out,
            v: v_out,
            kv_heads,
            head_dim,
            block_positions,
        } = kv;
        let width = kv_heads * head_dim;
        assert_eq!(k.len(), slots.len() * width);
        assert_eq!(v.len(), k.len());
        assert_eq!(k_out.len(), v_out.len());
        for (column, slot) in slots.iter().enumerate() {
            assert!(
                (slot.offset as usize) < block_positions,
                "offset lies inside a block"
            );
            for head in 0..kv_heads {
                let run = (slot.block as usize * kv_heads + head) * block_positions;
                let to = (run + slot.offset as usize) * head_dim;
                let from = column * width + head * head_dim;
                k_out[to..to + head_dim].convert_from_f32_slice(&k[from..from + head_dim]);
                v_out[to..to + head_dim].convert_from_f32_slice(&v[from..from + head_dim]);
            }
        }
    }

    /// `out = softmax(scale · q · kᵀ) · v` over the positions that each query sees: `0..=position`, or the last
    /// `window` of these.
    ///
    /// One worker computes one (column, KV head) over the whole sequence, in tiles of fixed positions, so bits depend
    /// neither on the batch nor on the threads.
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
        assert!(shape.kv_heads > 0);
        assert!(
            shape.heads.is_multiple_of(shape.kv_heads),
            "query heads share KV heads evenly"
        );
        assert_eq!(shape.kv_heads, kv.kv_heads);
        assert_eq!(shape.head_dim, kv.head_dim);
        assert_ne!(shape.window, Some(0), "a query sees itself");
        assert_eq!(kv.k.len(), kv.v.len());
        let width = shape.heads * shape.head_dim;
        assert_eq!(q.len(), queries.len() * width);
        assert_eq!(out.len(), q.len());
        let mut products = 0;
        for query in queries {
            let entries = query.position as usize / kv.block_positions + 1;
            assert!(
                entries <= query.table_len as usize,
                "the table reaches the position"
            );
            assert!((query.table_start + query.table_len) as usize <= tables.len());
            products += 2 * width * shape.visible(query).len();
        }
        let group = shape.heads / shape.kv_heads * shape.head_dim;
        let pieces = queries.len() * shape.kv_heads;
        let isa = self.isa;
        let out = Disjoint::new(out);
        let taken = &self.taken;
        taken.store(0, Ordering::Relaxed);
        run(&mut self.team, products, SHARED_PRODUCTS_MIN, &|_| {
            while let Some(piece) = take(taken, pieces) {
                let (column, kv_head) = (piece / shape.kv_heads, piece % shape.kv_heads);
                let at = piece * group..(piece + 1) * group;
                // SAFETY: pieces are disjoint and each is taken by one worker.
                let out = unsafe { out.slice(at.clone()) };
                let query = (&queries[column], tables);
                dispatch::attention(isa, shape, &q[at], &kv, kv_head, query, out);
            }
        });
    }
}
