//! Attention in tiles of positions: scores of a tile, one rescale, then its values.

use std::arch::x86_64::{
    _mm_loadu_si128, _mm256_add_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

use half::f16;

use super::rows::exp;
use super::{load_ps, sum_lanes};
use crate::ops::{AttentionShape, KvLayer, Query};

/// Positions in a tile. Tiles start at multiples of it, so a tile is the same for every query that sees it whole.
const TILE: usize = 32;

/// Query heads that read a tile of keys and values one after another, while it is in L1.
const HEADS: usize = 16;

/// See `portable::attention`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attention(
    shape: &AttentionShape,
    q: &[f32],
    kv: &KvLayer<'_>,
    kv_head: usize,
    (query, tables): (&Query, &[u32]),
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    let visible = shape.visible(query);
    out.fill(0.0);
    for (q, out) in q.chunks(HEADS * dim).zip(out.chunks_mut(HEADS * dim)) {
        // The running maximum and total of each head; `out` holds the running weighted sum of values.
        let (mut maxima, mut totals) = ([f32::NEG_INFINITY; HEADS], [0.0; HEADS]);
        let mut start = visible.start;
        while start < visible.end {
            let end = ((start / TILE + 1) * TILE).min(visible.end);
            let heads = q.chunks_exact(dim).zip(out.chunks_exact_mut(dim));
            for ((q, out), (maximum, total)) in heads.zip(maxima.iter_mut().zip(&mut totals)) {
                let mut weights = [0.0; TILE];
                let weights = &mut weights[..end - start];
                for (weight, position) in weights.iter_mut().zip(start..end) {
                    let place = kv.place(query, tables, position, kv_head);
                    *weight = dot_half(q, &kv.k[place]) * shape.scale;
                }
                let shrink = softmax_step(weights, maximum, total);
                for out in out.iter_mut() {
                    *out *= shrink;
                }
                for (weight, position) in weights.iter().zip(start..end) {
                    let place = kv.place(query, tables, position, kv_head);
                    add_scaled_half(out, *weight, &kv.v[place]);
                }
            }
            start = end;
        }
        for (out, total) in out.chunks_exact_mut(dim).zip(totals) {
            for out in out {
                *out /= total;
            }
        }
    }
}

/// Turns a tile's scores into weights relative to the new maximum, and returns what earlier weights shrink by.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn softmax_step(scores: &mut [f32], maximum: &mut f32, total: &mut f32) -> f32 {
    // NaN must not hide behind a maximum that skips it.
    let greatest = |a: f32, b: &f32| if *b > a || b.is_nan() { *b } else { a };
    let new_maximum = scores.iter().fold(*maximum, greatest);
    let shrink = exp(*maximum - new_maximum);
    *maximum = new_maximum;
    *total *= shrink;
    for score in &mut *scores {
        *score = exp(*score - new_maximum);
    }
    *total += scores.iter().sum::<f32>();
    shrink
}

/// `Σ a · b` in two accumulators of eight lanes, then the tail.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_half(a: &[f32], b: &[f16]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut sums = [_mm256_setzero_ps(); 2];
    let (a_eights, a_tail) = a.as_chunks::<8>();
    let (b_eights, b_tail) = b.as_chunks::<8>();
    for (i, (a, b)) in a_eights.iter().zip(b_eights).enumerate() {
        // SAFETY: `b` is 16 readable bytes; the load is unaligned.
        let b = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(b.as_ptr().cast())) };
        sums[i % 2] = _mm256_fmadd_ps(load_ps(a), b, sums[i % 2]);
    }
    let sum = sum_lanes(_mm256_add_ps(sums[0], sums[1]));
    a_tail
        .iter()
        .zip(b_tail)
        .fold(sum, |sum, (a, b)| a.mul_add(b.to_f32(), sum))
}

/// `y += weight · v`
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled_half(y: &mut [f32], weight: f32, v: &[f16]) {
    debug_assert_eq!(y.len(), v.len());
    let (y_eights, y_tail) = y.as_chunks_mut::<8>();
    let (v_eights, v_tail) = v.as_chunks::<8>();
    let weights = _mm256_set1_ps(weight);
    for (y, v) in y_eights.iter_mut().zip(v_eights) {
        // SAFETY: `v` is 16 readable bytes and `y` 32 writable ones; load and store are unaligned.
        unsafe {
            let v = _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().cast()));
            _mm256_storeu_ps(y.as_mut_ptr(), _mm256_fmadd_ps(weights, v, load_ps(y)));
        }
    }
    for (y, v) in y_tail.iter_mut().zip(v_tail) {
        *y = weight.mul_add(v.to_f32(), *y);
    }
}
