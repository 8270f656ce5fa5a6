//! The integer dot product for AVX-512 with VNNI, and what expands weights for it. Everything else on such machines is
//! the AVX2 code.

#![allow(unsafe_code, reason = "SIMD loads go through pointers")]
#![allow(
    clippy::needless_range_loop,
    reason = "one index walks several arrays of accumulators, which must be unrolled into registers"
)]

mod attention;

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi32, _mm512_sllv_epi32, _mm512_srav_epi32, _mm512_srlv_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_xor_si512,
};
use std::ops::Range;

use crate::avx2;
use crate::ops::{CHUNKS_AHEAD, SCALE_GROUP, SUM_GROUP, Tile, TileSums};
use crate::panel::chunk::{self, CHUNK_COLS, Chunk, Codes, Lanes, Shape, with_codes};
use crate::panel::{HALVES, LANES, PANEL_ROWS, panel_bytes};
use crate::quant::Format;

pub(crate) use attention::attend_span;

/// Vectors of 16 lanes. Only `expand` uses them, which is what each unsafe call rests on: it runs on machines with
/// AVX-512.
struct Wide;

/// One intrinsic for each operation.
macro_rules! wide {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            fn $name($($arg: $ty),*) -> $out {
                // SAFETY: the machine has AVX-512, and loads and stores stay inside the arrays that they are given.
                unsafe { $body }
            }
        )*
    };
}

impl Lanes for Wide {
    type Words = __m512i;
    type Floats = __m512;

    wide! {
        load(words: &[u8; 64]) -> __m512i = _mm512_loadu_si512(words.as_ptr().cast());
        store(words: __m512i, out: &mut [u32; 16]) -> () =
            _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
        splat(word: u32) -> __m512i = _mm512_set1_epi32(word.cast_signed());
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        mul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        shift_left(a: __m512i, by: u32) -> __m512i = _mm512_sllv_epi32(a, Self::splat(by));
        shift_right(a: __m512i, by: u32) -> __m512i = _mm512_srlv_epi32(a, Self::splat(by));
        shift_right_signed(a: __m512i, by: u32) -> __m512i = _mm512_srav_epi32(a, Self::splat(by));
        look_up(table: &[u8; 16], words: __m512i) -> __m512i = {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), words)
        };
        widen(halves: &[u8; 32]) -> __m512i =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves.as_ptr().cast()));
        floats(halves: &[u8; 32]) -> __m512 =
            _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
        convert(words: __m512i) -> __m512 = _mm512_cvtepi32_ps(words);
        times(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        store_floats(floats: __m512, out: &mut [f32; 16]) -> () =
            _mm512_storeu_ps(out.as_mut_ptr(), floats);
    }
}

/// See `panel::chunk::expand`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn expand(
    format: Format,
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    chunk::expand::<Wide>(format, cols, panel, index, out);
}

/// Adds the products of a panel's expanded chunks with a tile to `sums`.
///
/// **Shapes** `cols`: the chunk's columns in the tile; `sums`: one for each column of the tile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn multiply(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: Tile<'_>,
    cols: Range<usize>,
    sums: &mut [TileSums],
) {
    match (shape.sixteens, shape.mins) {
        (false, false) => by_width::<false, false>(shape, chunks, tile, cols, sums),
        (false, true) => by_width::<false, true>(shape, chunks, tile, cols, sums),
        (true, false) => by_width::<true, false>(shape, chunks, tile, cols, sums),
        (true, true) => by_width::<true, true>(shape, chunks, tile, cols, sums),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn by_width<const SIXTEENS: bool, const MINS: bool>(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: Tile<'_>,
    cols: Range<usize>,
    sums: &mut [TileSums],
) {
    let offset = shape.offset;
    match (tile.digits, tile.width) {
        (1, 1) => dot::<1, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (1, 2) => dot::<2, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (1, 3) => dot::<3, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (1, 4) => dot::<4, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (1, 5) => dot::<5, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (1, 6) => dot::<6, 1, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (2, 1) => dot::<1, 2, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (2, 2) => dot::<2, 2, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (2, 3) => dot::<3, 2, SIXTEENS, MINS>(offset, chunks, tile, cols, sums),
        (digits, width) => unreachable!("no tile has {width} columns of {digits} digits"),
    }
}

/// `sums += Σ scale_x · (Σ scale · (code − offset) · code_x − min · sum_x)`.
///
/// A lane is a row. For each 32 columns of weights, `dpbusd` multiplies four unsigned codes with four signed ones
/// and adds
/// them to 32 bits; the accumulator starts at `−offset · Σ code_x`, so an offset costs nothing. The integer part is
/// exact:
/// two digits stay below 32 · 255 · 32768 = 2²⁸. Scales, mins and the column's own scale are then applied in f32,
/// always
/// in this order, whatever the tile: a column's bits do not depend on its neighbours.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot<const N: usize, const D: usize, const SIXTEENS: bool, const MINS: bool>(
    offset: i32,
    chunks: &[Chunk; HALVES],
    tile: Tile<'_>,
    cols: Range<usize>,
    sums: &mut [TileSums],
) {
    let blocks = cols.len().div_ceil(SCALE_GROUP);
    let codes = &tile.codes[cols.start / 4 * D * N..][..blocks * 8 * D * N];
    let scales = &tile.scales[cols.start / SCALE_GROUP * N..][..blocks * N];
    let code_sums = &tile.sums[cols.start / SUM_GROUP * N..][..blocks * 2 * N];
    assert!(blocks * 8 <= chunks[0].codes.len());
    let sums: &mut [TileSums; N] = sums.try_into().expect("sums for each column of the tile");
    let parts = if SIXTEENS { 2 } else { 1 };
    let lines = 8 / parts;
    let mut totals = [[_mm512_setzero_ps(); N]; HALVES];
    for r in 0..HALVES {
        for n in 0..N {
            totals[r][n] = load_ps(&sums[n][r]);
        }
    }
    for block in 0..blocks {
        let mut terms = [[_mm512_setzero_ps(); N]; HALVES];
        for part in 0..parts {
            let mut products = [[[_mm512_setzero_si512(); D]; N]; HALVES];
            let sum_of = |n: usize| {
                let at = block * 2 * N + n;
                if SIXTEENS {
                    code_sums[at + part * N]
                } else {
                    code_sums[at] + code_sums[at + N]
                }
            };
            if !MINS {
                for n in 0..N {
                    let start = _mm512_set1_epi32(-offset * sum_of(n));
                    for r in 0..HALVES {
                        products[r][n][D - 1] = start;
                    }
                }
            }
            for line in 0..lines {
                let line = block * 8 + part * lines + line;
                let mut w = [_mm512_setzero_si512(); HALVES];
                for r in 0..HALVES {
                    w[r] = load_codes(&chunks[r], line);
                }
                for d in 0..D {
                    for n in 0..N {
                        // SAFETY: `line < blocks · 8`, and the tile holds D · N words for each, as cut above.
                        let x = unsafe { *codes.get_unchecked((line * D + d) * N + n) };
                        let x = _mm512_set1_epi32(x);
                        for r in 0..HALVES {
                            products[r][n][d] = _mm512_dpbusd_epi32(products[r][n][d], w[r], x);
                        }
                    }
                }
            }
            for r in 0..HALVES {
                let at = block * parts + part;
                let scale = load_ps(&chunks[r].scales[at]);
                for n in 0..N {
                    let product = join(products[r][n]);
                    terms[r][n] = if part == 0 {
                        _mm512_mul_ps(product, scale)
                    } else {
                        _mm512_fmadd_ps(product, scale, terms[r][n])
                    };
                    if MINS {
                        let min = load_ps(&chunks[r].mins[at]);
                        let sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(sum_of(n)));
                        terms[r][n] = _mm512_fnmadd_ps(min, sum, terms[r][n]);
                    }
                }
            }
        }
        for n in 0..N {
            let scale = _mm512_set1_ps(scales[block * N + n]);
            for r in 0..HALVES {
                totals[r][n] = _mm512_fmadd_ps(terms[r][n], scale, totals[r][n]);
            }
        }
    }
    for r in 0..HALVES {
        for n in 0..N {
            // SAFETY: 64 writable bytes.
            unsafe { _mm512_storeu_ps(sums[n][r].as_mut_ptr(), totals[r][n]) };
        }
    }
}

/// Most columns times digits that [`multiply_few`] takes: its accumulators then fit the registers for any format.
pub(crate) const FEW: usize = 2;

/// A whole panel times one or two columns: codes go from memory to the product and never back, since with so few
/// columns
/// the way through an expanded chunk would cost more than the products.
///
/// **Shapes** `run`: the panel, and those after it that the worker goes on to; `chunk`: memory to put scales in;
/// `sums`: one for each column, overwritten.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn multiply_few(
    format: Format,
    cols: usize,
    run: &[u8],
    tile: Tile<'_>,
    chunk: &mut Chunk,
    sums: &mut [TileSums],
) {
    match (tile.digits, tile.width) {
        (1, 1) => with_codes!(format, C => panel_few::<C, 1, 1>(cols, run, tile, chunk, sums)),
        (1, 2) => with_codes!(format, C => panel_few::<C, 2, 1>(cols, run, tile, chunk, sums)),
        (2, 1) => with_codes!(format, C => panel_few::<C, 1, 2>(cols, run, tile, chunk, sums)),
        (digits, width) => unreachable!("{width} columns of {digits} digits are not few"),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn panel_few<C: Codes, const N: usize, const D: usize>(
    cols: usize,
    run: &[u8],
    tile: Tile<'_>,
    chunk: &mut Chunk,
    sums: &mut [TileSums],
) {
    let panel = &run[..panel_bytes(C::FORMAT, cols)];
    let sums: &mut [TileSums; N] = sums.try_into().expect("sums for each column of the tile");
    let mut totals = [[_mm512_setzero_ps(); N]; HALVES];
    let chunk_bytes = PANEL_ROWS * C::FORMAT.row_bytes(CHUNK_COLS);
    for index in 0..cols.div_ceil(CHUNK_COLS) {
        let ahead = ((index + CHUNKS_AHEAD) * chunk_bytes).min(run.len());
        avx2::prefetch(&run[ahead..(ahead + chunk_bytes).min(run.len())]);
        let part = index * CHUNK_COLS..cols.min((index + 1) * CHUNK_COLS);
        let blocks = part.len() / SCALE_GROUP;
        for half in 0..HALVES {
            let place = chunk::place(C::FORMAT, cols, (panel, half), index);
            chunk::scales::<Wide>(
                C::FORMAT,
                &place,
                blocks,
                &mut chunk.scales,
                &mut chunk.mins,
            );
            totals[half] = dot_few::<C, N, D>(&place, chunk, tile, part.clone(), totals[half]);
        }
    }
    for half in 0..HALVES {
        for n in 0..N {
            // SAFETY: 64 writable bytes.
            unsafe { _mm512_storeu_ps(sums[n][half].as_mut_ptr(), totals[half][n]) };
        }
    }
}

/// The arithmetic of [`dot`], in its order, set by set of blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot_few<C: Codes, const N: usize, const D: usize>(
    place: &chunk::Place<'_>,
    chunk: &Chunk,
    tile: Tile<'_>,
    cols: Range<usize>,
    mut totals: [__m512; N],
) -> [__m512; N] {
    let blocks = cols.len() / SCALE_GROUP;
    let codes = &tile.codes[cols.start / 4 * D * N..][..blocks * 8 * D * N];
    let scales = &tile.scales[cols.start / SCALE_GROUP * N..][..blocks * N];
    let code_sums = &tile.sums[cols.start / SUM_GROUP * N..][..blocks * 2 * N];
    let parts = if C::SHAPE.sixteens { 2 } else { 1 };
    let lines = 8 / parts;
    for set in 0..blocks / C::SET {
        let mut terms = [[_mm512_setzero_ps(); N]; 4];
        for part in 0..parts {
            let mut products = [[[_mm512_setzero_si512(); D]; N]; 4];
            let sum_of = |block: usize, n: usize| {
                let at = block * 2 * N + n;
                if C::SHAPE.sixteens {
                    code_sums[at + part * N]
                } else {
                    code_sums[at] + code_sums[at + N]
                }
            };
            if !C::SHAPE.mins {
                for b in 0..C::SET {
                    for n in 0..N {
                        let sum = sum_of(set * C::SET + b, n);
                        products[b][n][D - 1] = _mm512_set1_epi32(-C::SHAPE.offset * sum);
                    }
                }
            }
            for line in 0..lines {
                let unit = part * lines + line;
                let w = C::lines::<Wide>(place, set, unit);
                for b in 0..C::SET {
                    let line = (set * C::SET + b) * 8 + unit;
                    for d in 0..D {
                        for n in 0..N {
                            // SAFETY: `line < blocks · 8`, and the tile holds D · N words for each, as cut above.
                            let x = unsafe { *codes.get_unchecked((line * D + d) * N + n) };
                            let x = _mm512_set1_epi32(x);
                            products[b][n][d] = _mm512_dpbusd_epi32(products[b][n][d], w[b], x);
                        }
                    }
                }
            }
            for b in 0..C::SET {
                let at = (set * C::SET + b) * parts + part;
                let scale = load_ps(&chunk.scales[at]);
                for n in 0..N {
                    let product = join(products[b][n]);
                    terms[b][n] = if part == 0 {
                        _mm512_mul_ps(product, scale)
                    } else {
                        _mm512_fmadd_ps(product, scale, terms[b][n])
                    };
                    if C::SHAPE.mins {
                        let min = load_ps(&chunk.mins[at]);
                        let sum = _mm512_set1_epi32(sum_of(set * C::SET + b, n));
                        let sum = _mm512_cvtepi32_ps(sum);
                        terms[b][n] = _mm512_fnmadd_ps(min, sum, terms[b][n]);
                    }
                }
            }
        }
        for b in 0..C::SET {
            for n in 0..N {
                let scale = _mm512_set1_ps(scales[(set * C::SET + b) * N + n]);
                totals[n] = _mm512_fmadd_ps(terms[b][n], scale, totals[n]);
            }
        }
    }
    totals
}

/// One digit, or an upper digit of weight 256 and a lower one, as f32.
#[inline]
#[target_feature(enable = "avx512f")]
fn join<const D: usize>(digits: [__m512i; D]) -> __m512 {
    match digits[..] {
        [one] => _mm512_cvtepi32_ps(one),
        [upper, lower] => {
            _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower))
        }
        _ => unreachable!("one or two digits"),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_codes(chunk: &Chunk, line: usize) -> __m512i {
    // SAFETY: 64 readable bytes at a multiple of 64; `line` is bounded by the number of blocks, asserted by the caller.
    unsafe { _mm512_load_si512(chunk.codes.as_ptr().add(line).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_ps(x: &[f32; LANES]) -> __m512 {
    // SAFETY: 64 readable bytes; the load is unaligned.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}
