//! Attention in integers: keys and values of [`KvFormat::I16`](crate::ops::KvFormat), two products a lane and
//! instruction.
//!
//! ```text
//!  queries   codes of 16 bits, once for a span and row
//!  scores    a lane is a position; Σ over pairs of elements in i32, exact; in units that make weights powers of two
//!  softmax   of the whole span: its maximum first, then weights, times the scales of their values, then codes, with a
//!            step for each tile
//!  values    a lane is an element; Σ over pairs of positions in i32, exact; a tile's sum times its step in f32
//! ```
//!
//! Sums of integers have no order, so rows share a tile as it suits. What is rounded, is rounded for one row (and, of
//! weights, one tile) from what that row sees.
//!
//! No sum leaves i32: a key's codes have a norm of 32767 and a query's of 65000, before rounding moves each by 8 at
//! most (16 for 1024 elements); codes of a tile's weights have a sum of 32767 and 16, those of values are 32767.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers index several arrays alike"
)]

use std::arch::x86_64::{
    __m128, __m512, _mm_add_ps, _mm_div_ps, _mm_max_ps, _mm_mul_ps, _mm_set1_ps, _mm_storeu_ps,
    _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_loadu_si256,
    _mm256_storeu_si256, _mm512_abs_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtps_epi32, _mm512_dpwssd_epi32, _mm512_extractf32x8_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_max_ps,
    _mm512_maskz_loadu_ps, _mm512_maskz_mul_ps, _mm512_maskz_scalef_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};
use std::ops::Range;

use crate::attention::{Job, PAD, ROWS, Row, SCORES, SPAN, Scratch, TILE, Words};
use crate::avx2::prefetch_line;
use crate::ops::{WORD_MAX, WORD_SIZE_MIN};

/// Lanes of a vector.
const LANES: usize = 16;
const _: () = assert!(TILE == 2 * LANES && PAD == LANES);

/// Tiles of a span.
const TILES: usize = SPAN / TILE;

/// Rows that are in registers together, for scores and for values.
const SCORE_ROWS: usize = 4;
const VALUE_ROWS: usize = 4;

/// Norm of a query's codes.
const QUERY_NORM: f32 = 65_000.0;

/// One operation on a span.
struct Pass<'a> {
    job: &'a Job<'a>,
    rows: usize,
    /// First position of the span.
    start: usize,
    /// Tiles of the span that some row sees.
    tiles: Range<usize>,
    /// Positions that some row sees.
    seen: Range<usize>,
    /// Elements of a head, and the same with padding.
    dim: usize,
    padded: usize,
    /// Whether planes lie as the loops read them.
    whole: bool,
}

/// See `attention::span`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn span(job: &Job<'_>, rows: usize, span: usize, scratch: &mut Scratch) {
    let dim = job.kv.shape.head_dim;
    let padded = dim.next_multiple_of(PAD);
    assert!(rows <= ROWS);
    assert!(scratch.sums.len() >= rows * padded);
    assert!(scratch.words.q.len() >= rows * padded);
    assert!(scratch.words.k.len() >= TILE * padded);
    assert!(scratch.words.v.len() >= TILE * padded);
    scratch.maxima[..rows].fill(f32::NEG_INFINITY);
    scratch.totals[..rows].fill(0.0);
    scratch.sums[..rows * padded].fill(0.0);
    let start = span * SPAN;
    let seen = &scratch.rows[..rows];
    let first = seen.iter().map(|row| row.visible.start).min().unwrap_or(0);
    let last = seen.iter().map(|row| row.visible.end).max().unwrap_or(0);
    let within = within(&(first..last), start, SPAN);
    let pass = Pass {
        job,
        rows,
        start,
        tiles: within.start / TILE..within.end.div_ceil(TILE),
        seen: first..last,
        dim,
        padded,
        whole: job.kv.shape.block_positions == TILE && dim == padded,
    };
    for row in 0..rows {
        let q = &job.q[scratch.rows[row].q..][..dim];
        let codes = &mut scratch.words.q[row * padded..][..padded];
        let unit = query(q, codes);
        // Scores in units of log₂.
        scratch.words.q_scales[row] = unit * job.scale * std::f32::consts::LOG2_E;
    }
    for tile in pass.tiles.clone() {
        pass.score(tile, scratch);
    }
    for row in 0..rows {
        let seen = pass.visible(&scratch.rows[row]);
        if !seen.is_empty() {
            let (maximum, total) = weigh(row, seen, &mut scratch.words);
            scratch.maxima[row] = maximum * std::f32::consts::LN_2;
            scratch.totals[row] = total;
        }
    }
    for tile in pass.tiles.clone() {
        pass.add_values(tile, scratch);
    }
}

/// Part of a range that lies in `len` positions from `start` on, counted from there.
fn within(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.clamp(start, start + len) - start..range.end.clamp(start, start + len) - start
}

/// Writes a query's codes, and returns what they are multiplied with. One that is not finite has NaN.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn query(q: &[f32], codes: &mut [i16]) -> f32 {
    let chunk = |at: usize| {
        let lanes = (q.len() - at).min(LANES);
        // SAFETY: `lanes` floats are readable there.
        unsafe { _mm512_maskz_loadu_ps((u32::MAX >> (32 - lanes)) as u16, q.as_ptr().add(at)) }
    };
    let (mut squares, mut greatest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for at in (0..q.len()).step_by(LANES) {
        let x = chunk(at);
        squares = _mm512_fmadd_ps(x, x, squares);
        greatest = _mm512_max_ps(_mm512_abs_ps(x), greatest);
    }
    let norm = _mm512_reduce_add_ps(squares).sqrt();
    let unit = if norm.is_finite() {
        (norm / QUERY_NORM).max(_mm512_reduce_max_ps(greatest) / f32::from(WORD_MAX))
    } else {
        f32::NAN
    };
    let inverse = if norm >= WORD_SIZE_MIN {
        unit.recip()
    } else {
        0.0
    };
    let inverse = _mm512_set1_ps(inverse);
    for (at, codes) in (0..q.len())
        .step_by(LANES)
        .zip(codes.chunks_exact_mut(LANES))
    {
        let words = _mm512_cvtps_epi32(_mm512_mul_ps(chunk(at), inverse));
        // SAFETY: a chunk has 16 words.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(words)) };
    }
    unit
}

impl Pass<'_> {
    /// Positions of the span that a row sees, counted from its start.
    fn visible(&self, row: &Row) -> Range<usize> {
        within(&row.visible, self.start, SPAN)
    }

    /// Whether a row sees something of a tile.
    fn sees(&self, row: &Row, tile: usize) -> bool {
        let start = self.start + tile * TILE;
        row.visible.start < start + TILE && start < row.visible.end
    }

    /// Planes of keys and values of a tile, where one lies whole in a block.
    fn planes(&self, tile: usize) -> (&[u8], &[u8]) {
        let (job, position) = (self.job, self.start + tile * TILE);
        let (k, v, _) = job.kv.planes(job.query, job.tables, position, job.kv_head);
        (k, v)
    }

    /// The plane after that of a tile, or the same: what is read next.
    fn planes_ahead(&self, tile: usize) -> (&[u8], &[u8]) {
        let ahead = self.start + (tile + 1) * TILE < self.seen.end;
        self.planes(tile + usize::from(ahead))
    }

    /// Positions of a tile that some row sees.
    fn positions(&self, tile: usize) -> Range<usize> {
        let start = self.start + tile * TILE;
        self.seen.start.max(start)..self.seen.end.min(start + TILE)
    }

    /// Copies keys of a tile from blocks of any size, as a plane of 32 positions has them, and scales of keys and
    /// values. What no row sees may stay as it is: nothing reads it but scores that are replaced.
    fn copy_keys(&self, tile: usize, words: &mut Words) -> [f32; TILE] {
        let (job, mut scales) = (self.job, [0.0; TILE]);
        let zeros = &mut words.k[self.dim * TILE..self.padded * TILE];
        zeros.fill(0);
        for position in self.positions(tile) {
            let (keys, values, offset) =
                job.kv.planes(job.query, job.tables, position, job.kv_head);
            let at = position % TILE;
            for d in 0..self.dim {
                let (code, scale) = job.kv.key(keys, offset, d);
                words.k[(d / 2 * TILE + at) * 2 + d % 2] = code as i16;
                scales[at] = scale;
            }
            words.value_scales[tile * TILE + at] = job.kv.value(values, offset, 0).1;
        }
        scales
    }

    /// Likewise values.
    fn copy_values(&self, tile: usize, words: &mut Words) {
        let job = self.job;
        for position in self.positions(tile) {
            let (_, values, offset) = job.kv.planes(job.query, job.tables, position, job.kv_head);
            let at = position % TILE;
            for d in 0..self.dim {
                words.v[(at / 2 * self.padded + d) * 2 + at % 2] =
                    job.kv.value(values, offset, d).0 as i16;
            }
        }
    }

    /// Scores of one tile for all rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn score(&self, tile: usize, scratch: &mut Scratch) {
        let words = &mut scratch.words;
        let (k, scales) = if self.whole {
            let (k, v) = self.planes(tile);
            let behind = self.dim * TILE * 2;
            let to = &mut words.value_scales[tile * TILE..][..TILE];
            let (low, high) = scales(&v[behind..]);
            // SAFETY: 32 floats.
            unsafe {
                _mm512_storeu_ps(to.as_mut_ptr(), low);
                _mm512_storeu_ps(to.as_mut_ptr().add(LANES), high);
            }
            (k.as_ptr(), scales(&k[behind..]))
        } else {
            let scales = self.copy_keys(tile, words);
            // SAFETY: 32 floats.
            let vectors = unsafe {
                (
                    _mm512_loadu_ps(scales.as_ptr()),
                    _mm512_loadu_ps(scales.as_ptr().add(LANES)),
                )
            };
            (words.k.as_ptr().cast(), vectors)
        };
        let mut next = if self.whole {
            self.planes_ahead(tile).0
        } else {
            &[]
        };
        for first in (0..self.rows).step_by(SCORE_ROWS) {
            let last = (first + SCORE_ROWS).min(self.rows);
            if !scratch.rows[first..last]
                .iter()
                .any(|row| self.sees(row, tile))
            {
                continue;
            }
            let to = (first, tile);
            // SAFETY: k has `padded · TILE` words, and `span` asserted what rows need.
            unsafe {
                match last - first {
                    1 => self.score_rows::<1>(to, (k, scales), next, words),
                    2 => self.score_rows::<2>(to, (k, scales), next, words),
                    3 => self.score_rows::<3>(to, (k, scales), next, words),
                    _ => self.score_rows::<SCORE_ROWS>(to, (k, scales), next, words),
                }
            }
            next = &[]; // once is enough
        }
    }

    /// Scores of `R` rows from `first` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn score_rows<const R: usize>(
        &self,
        (first, tile): (usize, usize),
        (k, scales): (*const u8, (__m512, __m512)),
        next: &[u8],
        words: &mut Words,
    ) {
        let q = words.q[first * self.padded..][..R * self.padded].as_ptr();
        let pairs = self.padded / 2;
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        for pair in 0..pairs {
            // SAFETY: k has `pairs` times two vectors, and each row of q `pairs` times two words.
            unsafe {
                let low = _mm512_loadu_si512(k.add(pair * TILE * 4).cast());
                let high = _mm512_loadu_si512(k.add(pair * TILE * 4 + 64).cast());
                for r in 0..R {
                    let q = q.add(r * self.padded + pair * 2);
                    let q = _mm512_set1_epi32(q.cast::<i32>().read_unaligned());
                    sums[r][0] = _mm512_dpwssd_epi32(sums[r][0], low, q);
                    sums[r][1] = _mm512_dpwssd_epi32(sums[r][1], high, q);
                }
            }
            if !next.is_empty() {
                let line = next.as_ptr().wrapping_add(pair * TILE * 4);
                prefetch_line(line);
                prefetch_line(line.wrapping_add(64));
            }
        }
        for r in 0..R {
            let scale = _mm512_set1_ps(words.q_scales[first + r]);
            let to = words.scores[(first + r) * SCORES + tile * TILE..][..TILE].as_mut_ptr();
            let low = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][0]), scales.0);
            let high = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][1]), scales.1);
            // SAFETY: a tile of scores.
            unsafe {
                _mm512_storeu_ps(to, _mm512_mul_ps(low, scale));
                _mm512_storeu_ps(to.add(LANES), _mm512_mul_ps(high, scale));
            }
        }
    }

    /// Adds the weighted values of one tile to the sums of all rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn add_values(&self, tile: usize, scratch: &mut Scratch) {
        let v = if self.whole {
            self.planes(tile).1.as_ptr()
        } else {
            self.copy_values(tile, &mut scratch.words);
            scratch.words.v.as_ptr().cast()
        };
        let mut next = if self.whole {
            self.planes_ahead(tile).1
        } else {
            &[]
        };
        for first in (0..self.rows).step_by(VALUE_ROWS) {
            let last = (first + VALUE_ROWS).min(self.rows);
            let rows = &scratch.rows[first..last];
            let mut seeing = [false; VALUE_ROWS];
            for (sees, row) in seeing.iter_mut().zip(rows) {
                *sees = self.sees(row, tile);
            }
            if seeing == [false; VALUE_ROWS] {
                continue;
            }
            let mut d = 0;
            while d < self.padded {
                let wide = d + 4 * LANES <= self.padded;
                let at = (first, tile, d);
                // SAFETY: v has `padded · TILE` words, and `span` asserted what rows need.
                unsafe {
                    match (last - first, wide) {
                        (1, true) => self.add_rows::<1, 4>(at, (v, next), &seeing, scratch),
                        (2, true) => self.add_rows::<2, 4>(at, (v, next), &seeing, scratch),
                        (3, true) => self.add_rows::<3, 4>(at, (v, next), &seeing, scratch),
                        (_, true) => {
                            self.add_rows::<VALUE_ROWS, 4>(at, (v, next), &seeing, scratch);
                        }
                        (1, false) => self.add_rows::<1, 1>(at, (v, next), &seeing, scratch),
                        (2, false) => self.add_rows::<2, 1>(at, (v, next), &seeing, scratch),
                        (3, false) => self.add_rows::<3, 1>(at, (v, next), &seeing, scratch),
                        (_, false) => {
                            self.add_rows::<VALUE_ROWS, 1>(at, (v, next), &seeing, scratch);
                        }
                    }
                }
                d += if wide { 4 * LANES } else { LANES };
            }
            next = &[]; // once is enough
        }
    }

    /// [`Self::add_values`] for `R` rows and `W` vectors of elements. Rows that see nothing of the tile keep theirs.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add_rows<const R: usize, const W: usize>(
        &self,
        (first, tile, d): (usize, usize, usize),
        (v, next): (*const u8, &[u8]),
        seeing: &[bool; VALUE_ROWS],
        scratch: &mut Scratch,
    ) {
        let codes = scratch.words.scores[first * SCORES..][..R * SCORES].as_ptr();
        let mut sums = [[_mm512_setzero_si512(); W]; R];
        for pair in 0..TILE / 2 {
            let mut values = [_mm512_setzero_si512(); W];
            // SAFETY: v has `TILE / 2` times `padded` pairs of words, and a row of scores begins with SPAN words.
            unsafe {
                for w in 0..W {
                    let at = (pair * self.padded + d + w * LANES) * 4;
                    values[w] = _mm512_loadu_si512(v.add(at).cast());
                }
                for r in 0..R {
                    let codes = codes.add(r * SCORES).cast::<i32>();
                    let code = _mm512_set1_epi32(*codes.add(tile * TILE / 2 + pair));
                    for w in 0..W {
                        sums[r][w] = _mm512_dpwssd_epi32(sums[r][w], values[w], code);
                    }
                }
            }
            if !next.is_empty() {
                for w in 0..W {
                    let at = (pair * self.padded + d + w * LANES) * 4;
                    prefetch_line(next.as_ptr().wrapping_add(at));
                }
            }
        }
        for r in 0..R {
            if !seeing[r] {
                continue;
            }
            let step = _mm512_set1_ps(scratch.words.steps[(first + r) * TILES + tile]);
            let to = scratch.sums[(first + r) * self.padded + d..][..W * LANES].as_mut_ptr();
            for w in 0..W {
                // SAFETY: W vectors of sums.
                unsafe {
                    let to = to.add(w * LANES);
                    let sum = _mm512_cvtepi32_ps(sums[r][w]);
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, step, _mm512_loadu_ps(to)));
                }
            }
        }
    }
}

/// 32 scales in bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn scales(from: &[u8]) -> (__m512, __m512) {
    let from: &[u8; 2 * TILE] = from.first_chunk().expect("a plane has 32 scales");
    let vector = |half: usize| {
        // SAFETY: 64 bytes.
        let words = unsafe { _mm256_loadu_si256(from.as_ptr().add(half * 32).cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
    };
    (vector(0), vector(1))
}

/// Turns a row's scores into codes of weights times scales of values, and writes their steps. Returns the maximum of
/// the scores, in units of log₂, and the sum of weights relative to it.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn weigh(row: usize, seen: Range<usize>, words: &mut Words) -> (f32, f32) {
    let tiles = seen.start / TILE..seen.end.div_ceil(TILE);
    // Bits of the positions of a tile that the row sees.
    let mask = |tile: usize| {
        let seen = within(&seen, tile * TILE, TILE);
        let mask = (u32::MAX >> (TILE - seen.len())) << seen.start;
        (mask as u16, (mask >> LANES) as u16)
    };
    let scores = words.scores[row * SCORES..][..SCORES].as_mut_ptr();
    let mut greatest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for tile in tiles.clone() {
        let (low, high) = mask(tile);
        // SAFETY: a span of scores.
        unsafe {
            let at = scores.add(tile * TILE);
            let [a, b] = greatest;
            greatest[0] = _mm512_mask_max_ps(a, low, _mm512_loadu_ps(at), a);
            greatest[1] = _mm512_mask_max_ps(b, high, _mm512_loadu_ps(at.add(LANES)), b);
        }
    }
    // NaN hides from it, but not from the weights.
    let maximum = _mm512_reduce_max_ps(_mm512_max_ps(greatest[0], greatest[1]));
    let shift = _mm512_set1_ps(maximum);
    let mut totals = [_mm512_setzero_ps(); 2];
    let mut of_tiles = [_mm512_setzero_ps(); TILES];
    for tile in tiles.clone() {
        let (low, high) = mask(tile);
        // SAFETY: a span of scores, and of scales.
        unsafe {
            let at = scores.add(tile * TILE);
            let scales = words.value_scales.as_ptr().add(tile * TILE);
            let a = exp2(low, _mm512_sub_ps(_mm512_loadu_ps(at), shift));
            let b = exp2(high, _mm512_sub_ps(_mm512_loadu_ps(at.add(LANES)), shift));
            totals[0] = _mm512_add_ps(totals[0], a);
            totals[1] = _mm512_add_ps(totals[1], b);
            let a = _mm512_maskz_mul_ps(low, a, _mm512_loadu_ps(scales));
            let b = _mm512_maskz_mul_ps(high, b, _mm512_loadu_ps(scales.add(LANES)));
            _mm512_storeu_ps(at, a);
            _mm512_storeu_ps(at.add(LANES), b);
            of_tiles[tile] = _mm512_add_ps(a, b);
        }
    }
    let total = _mm512_reduce_add_ps(_mm512_add_ps(totals[0], totals[1]));
    let mut inverses = [0.0; TILES];
    let steps = &mut words.steps[row * TILES..][..TILES];
    for first in (0..TILES).step_by(4) {
        let [a, b, c, d] = *of_tiles[first..].first_chunk().expect("16 tiles");
        // NaN passes, being the second operand. Weights whose sum is less are zero.
        let sums = _mm_max_ps(_mm_set1_ps(1e-30), sums_of([a, b, c, d]));
        let most = _mm_set1_ps(f32::from(WORD_MAX));
        // SAFETY: four of 16 floats.
        unsafe {
            let step = _mm_mul_ps(sums, _mm_set1_ps(1.0 / f32::from(WORD_MAX)));
            _mm_storeu_ps(steps[first..first + 4].as_mut_ptr(), step);
            _mm_storeu_ps(
                inverses[first..first + 4].as_mut_ptr(),
                _mm_div_ps(most, sums),
            );
        }
    }
    for tile in tiles {
        let inverse = _mm512_set1_ps(inverses[tile]);
        // SAFETY: codes of a tile are written over scores of tiles before it, or of itself once these are read.
        unsafe {
            let at = scores.add(tile * TILE);
            let codes = scores.cast::<i16>().add(tile * TILE);
            let a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at), inverse));
            let b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at.add(LANES)), inverse));
            _mm256_storeu_si256(codes.cast(), _mm512_cvtepi32_epi16(a));
            _mm256_storeu_si256(codes.add(LANES).cast(), _mm512_cvtepi32_epi16(b));
        }
    }
    (maximum, total)
}

/// 2ˣ where the mask has a bit, to 2⁻²² of it: Taylor's series within ½ of an integer. Zero elsewhere.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(mask: u16, x: __m512) -> __m512 {
    /// (ln 2)ⁿ / n!, from 6 to 0.
    const SERIES: [f32; 7] = [
        1.540_353e-4,
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        2.402_265e-1,
        6.931_472e-1,
        1.0,
    ];
    const NEAREST: i32 = 0;
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let x = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(SERIES[0]);
    for coefficient in &SERIES[1..] {
        p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(*coefficient));
    }
    _mm512_maskz_scalef_ps(mask, p, n)
}

/// The sum of each of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sums_of([a, b, c, d]: [__m512; 4]) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    let sums = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let sums = _mm256_add_ps(
        _mm512_castps512_ps256(sums),
        _mm512_extractf32x8_ps::<1>(sums),
    );
    _mm_add_ps(
        _mm256_castps256_ps128(sums),
        _mm256_extractf128_ps::<1>(sums),
    )
}
