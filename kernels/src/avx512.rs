//! The integer dot product for AVX-512 with VNNI, and what expands weights for it. Everything else on such machines is
//! the AVX2 code.

#![allow(unsafe_code, reason = "SIMD loads go through pointers")]
#![allow(
    clippy::needless_range_loop,
    reason = "one index walks several arrays of accumulators, which must be unrolled into registers"
)]

mod attention;
mod certainty;
mod low_rank;
mod words;

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm256_loadu_si256, _mm512_abs_ps,
    _mm512_add_epi32, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_castsi512_ps,
    _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_mul_ps, _mm512_mullo_epi32,
    _mm512_or_si512, _mm512_reduce_add_epi32, _mm512_reduce_max_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi32, _mm512_sllv_epi32, _mm512_srav_epi32, _mm512_srlv_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps, _mm512_xor_si512,
};
use std::hint::black_box;
use std::marker::PhantomData;

use crate::avx2;
use crate::dispatch::PEAK_CHAINS;
use crate::ops::{
    Activations, CHUNKS_AHEAD, ColumnMut, ColumnScale, GroupSpace, Groups, Precision, SCALE_GROUP,
    Tile, TileSums, base_of, unit_of,
};
use crate::panel::chunk::{self, CHUNK_COLS, Chunk, Codes, Lanes, Place, Shape, with_codes};
use crate::panel::{HALVES, LANES, PANEL_ROWS, panel_bytes};
use crate::quant::Format;

pub(crate) use attention::attend_span;
pub(crate) use certainty::sums;
pub(crate) use low_rank::{low_rank_down, low_rank_up};

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

/// See `ColumnScale::of`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn column_scale(x: &[f32], precision: Precision) -> ColumnScale {
    ColumnScale::of(x, precision)
}

/// See `ops::quantize`, whose bits these are.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn quantize(x: &[f32], rounding: &ColumnScale, column: ColumnMut<'_>) {
    let (groups, rest) = x.as_chunks::<SCALE_GROUP>();
    if column.precision != Precision::Eight || !rest.is_empty() || !rounding.rounds() {
        return crate::ops::quantize(x, rounding, column);
    }
    let stride = column.stride;
    for (group, x) in groups.iter().enumerate() {
        let [a, b] = x.as_chunks::<LANES>().0 else {
            unreachable!("two vectors are a group")
        };
        let (a, b) = (load_ps(a), load_ps(b));
        let magnitude = _mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b));
        let largest = _mm512_reduce_max_ps(magnitude);
        let (inverse, unit) = rounding.group(largest.to_bits());
        let inverse = _mm512_set1_ps(inverse);
        let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
        let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        let sums = [_mm512_reduce_add_epi32(a), _mm512_reduce_add_epi32(b)];
        let base = base_of(unit);
        column.bases[group * stride] = base;
        column.scaled_sums[group * stride] = (sums[0] + sums[1]) as f32 * unit;
        column.pair_sums[group * stride] = sums[0] + sums[1];
        for (half, (sum, codes)) in sums.into_iter().zip([a, b]).enumerate() {
            column.half_bases[(group * 2 + half) * stride] = base;
            column.sums[(group * 2 + half) * stride] = sum;
            let mut words = [0_i32; 4];
            // SAFETY: 16 writable bytes.
            unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(codes)) };
            for (i, word) in words.into_iter().enumerate() {
                column.codes[((group * 2 + half) * 4 + i) * stride] = word;
            }
        }
    }
}

/// Where [`dot`] takes half a panel's codes of one chunk from.
trait Source {
    const SIXTEENS: bool;
    const MINS: bool;
    /// Blocks of 32 columns whose codes lie in the same words, or which come before their other halves.
    const SET: usize;

    fn shape(&self) -> Shape;

    /// Line `unit` (0 to 7: four columns) of each block of set `set`.
    fn lines(&self, set: usize, unit: usize) -> [__m512i; 4];

    /// Scales and mins.
    fn numbers(&self) -> &Chunk;
}

/// The panel itself, and its scales in a chunk without codes.
struct Packed<'a, C>(Place<'a>, &'a Chunk, PhantomData<C>);

impl<C: Codes> Source for Packed<'_, C> {
    const SIXTEENS: bool = chunk::shape(C::FORMAT).sixteens;
    const MINS: bool = chunk::shape(C::FORMAT).mins;
    const SET: usize = C::SET;

    #[inline(always)]
    fn shape(&self) -> Shape {
        const { chunk::shape(C::FORMAT) }
    }

    #[inline(always)]
    fn lines(&self, set: usize, unit: usize) -> [__m512i; 4] {
        C::lines::<Wide>(&self.0, set, unit)
    }

    #[inline(always)]
    fn numbers(&self) -> &Chunk {
        self.1
    }
}

/// An expanded chunk.
struct Expanded<'a, const SIXTEENS: bool, const MINS: bool>(&'a Chunk, Shape);

impl<const SIXTEENS: bool, const MINS: bool> Source for Expanded<'_, SIXTEENS, MINS> {
    const SIXTEENS: bool = SIXTEENS;
    const MINS: bool = MINS;
    /// So that groups come in the order of `chunk::step`.
    const SET: usize = if SIXTEENS { 4 } else { 1 };

    #[inline(always)]
    fn shape(&self) -> Shape {
        Shape {
            sixteens: SIXTEENS,
            mins: MINS,
            ..self.1
        }
    }

    #[inline(always)]
    fn lines(&self, set: usize, unit: usize) -> [__m512i; 4] {
        let line = |block: usize| {
            let words = &self.0.codes[(set * Self::SET + block) * 8 + unit];
            // SAFETY: 64 readable bytes at a multiple of 64; the machine has AVX-512.
            unsafe { _mm512_load_si512(words.as_ptr().cast()) }
        };
        if SIXTEENS {
            [line(0), line(1), line(2), line(3)]
        } else {
            [line(0); 4]
        }
    }

    #[inline(always)]
    fn numbers(&self) -> &Chunk {
        self.0
    }
}

/// Adds the products of a panel's expanded chunks with a tile to `sums`, which are zero where they are `fresh`.
///
/// **Shapes** `sums`: one for each column of the tile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn multiply(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    macro_rules! expanded {
        ($sixteens:literal, $mins:literal) => {{
            let halves = [&chunks[0], &chunks[1]];
            let halves = halves.map(|chunk| Expanded::<$sixteens, $mins>(chunk, shape));
            by_width(&halves, tile, space, &[], fresh, sums)
        }};
    }
    match (shape.sixteens, shape.mins) {
        (false, false) => expanded!(false, false),
        (false, true) => expanded!(false, true),
        (true, false) => expanded!(true, false),
        (true, true) => expanded!(true, true),
    }
}

/// Most columns times digits that go straight from the panel.
pub(crate) const FEW: usize = 16;

/// Most columns times digits of a tile: with two blocks of a set at a time, accumulators and totals fill 24 of 32
/// registers.
pub(crate) const TILE_DIGITS: usize = 8;

/// A whole panel times a few columns: codes go from memory to the product and never back, since with so few columns
/// the way through an expanded chunk would cost more than it saves.
///
/// **Shapes** `run`: the panel, and those after it that the worker goes on to; `scratch`: memory to put scales in;
/// `sums`: one for each column.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn multiply_few(
    format: Format,
    run: &[u8],
    x: &Activations,
    scratch: &mut [Chunk; HALVES],
    space: &mut GroupSpace,
    sums: &mut [TileSums],
) {
    with_codes!(format, C => panel_few::<C>(run, x, scratch, space, sums));
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn panel_few<C: Codes>(
    run: &[u8],
    x: &Activations,
    scratch: &mut [Chunk; HALVES],
    space: &mut GroupSpace,
    sums: &mut [TileSums],
) {
    let cols = x.cols();
    let panel = &run[..panel_bytes(C::FORMAT, cols)];
    let chunk_bytes = PANEL_ROWS * C::FORMAT.row_bytes(CHUNK_COLS);
    for index in 0..cols.div_ceil(CHUNK_COLS) {
        let ahead = ((index + CHUNKS_AHEAD) * chunk_bytes).min(run.len());
        let mut ahead = &run[ahead..(ahead + chunk_bytes).min(run.len())];
        let blocks = (cols - index * CHUNK_COLS).min(CHUNK_COLS) / SCALE_GROUP;
        let places = [0, 1].map(|half| chunk::place(C::FORMAT, cols, (panel, half), index));
        for (place, scratch) in places.iter().zip(&mut *scratch) {
            let Chunk { scales, mins, .. } = scratch;
            chunk::scales::<Wide>(C::FORMAT, place, blocks, scales, mins);
        }
        let [a, b] = &*scratch;
        let halves = [
            Packed::<C>(places[0], a, PhantomData),
            Packed(places[1], b, PhantomData),
        ];
        for tile in 0..x.tiles() {
            let (tile, columns) = x.tile(tile, index);
            let sums = &mut sums[columns];
            by_width(
                &halves,
                &tile,
                space,
                std::mem::take(&mut ahead),
                index == 0,
                sums,
            );
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn by_width<S: Source>(
    halves: &[S; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    ahead: &[u8],
    fresh: bool,
    sums: &mut [TileSums],
) {
    match (tile.digits, tile.width) {
        (1, 1) => dot::<S, 1, 1, 1>(halves, tile, space, ahead, fresh, sums),
        (1, 2) => dot::<S, 2, 1, 2>(halves, tile, space, ahead, fresh, sums),
        (1, 3) => dot::<S, 3, 1, 3>(halves, tile, space, ahead, fresh, sums),
        (1, 4) => dot::<S, 4, 1, 4>(halves, tile, space, ahead, fresh, sums),
        (1, 5) => dot::<S, 5, 1, 5>(halves, tile, space, ahead, fresh, sums),
        (1, 6) => dot::<S, 6, 1, 6>(halves, tile, space, ahead, fresh, sums),
        (1, 7) => dot::<S, 7, 1, 7>(halves, tile, space, ahead, fresh, sums),
        (1, 8) => dot::<S, 8, 1, 8>(halves, tile, space, ahead, fresh, sums),
        (2, 1) => dot::<S, 1, 2, 2>(halves, tile, space, ahead, fresh, sums),
        (2, 2) => dot::<S, 2, 2, 4>(halves, tile, space, ahead, fresh, sums),
        (2, 3) => dot::<S, 3, 2, 6>(halves, tile, space, ahead, fresh, sums),
        (2, 4) => dot::<S, 4, 2, 8>(halves, tile, space, ahead, fresh, sums),
        (digits, width) => unreachable!("no tile has {width} columns of {digits} digits"),
    }
}

/// Runs a block for each number below `$count`, which is at most two, four or eight, without a loop: arrays indexed by
/// it then live in registers, which is otherwise up to the compiler.
macro_rules! unrolled {
    ($i:ident < $count:expr, 2, $body:block) => { unrolled!(@ $i, $count, $body, 0 1) };
    ($i:ident < $count:expr, 4, $body:block) => { unrolled!(@ $i, $count, $body, 0 1 2 3) };
    ($i:ident < $count:expr, 8, $body:block) => { unrolled!(@ $i, $count, $body, 0 1 2 3 4 5 6 7) };
    (@ $i:ident, $count:expr, $body:block, $($number:literal)*) => {
        $(if $number < $count {
            let $i = $number;
            $body
        })*
    };
}

/// `sums += Σ scale · (2⁻ᵉ · Σ (code − offset) · code_x) − min · scaled_sum_x`, for `N` columns of `D` digits; `M` is
/// words a line.
///
/// A lane is a row. For each group of columns of weights that share a scale, `dpbusd` multiplies four unsigned codes
/// with four signed ones and adds them to 32 bits, exactly; [`Groups`] has how that is 2⁻ᵉ times the sum, and less the
/// offset, at no cost. Scales and mins follow in f32, always in this order (`chunk::step`), whatever the tile: a
/// column's bits do not depend on its neighbours.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot<S: Source, const N: usize, const D: usize, const M: usize>(
    halves: &[S; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    ahead: &[u8],
    fresh: bool,
    sums: &mut [TileSums],
) {
    // Blocks of a set whose accumulators fit the registers.
    let together = if S::SET * M <= 16 { S::SET } else { 2 };
    let parts = if S::SIXTEENS { 2 } else { 1 };
    let lines = 8 / parts;
    let codes = &tile.codes.as_chunks::<M>().0.as_chunks::<8>().0[..tile.blocks];
    let groups = Groups::<N>::of::<D>(tile, halves[0].shape(), space);
    let sums: &mut [TileSums; N] = sums.try_into().expect("sums for each column of the tile");
    // What is asked for ahead is spread over the work: a core has few requests under way, and waits with one more.
    let sets = HALVES * tile.blocks / S::SET;
    let mut ahead = ahead.chunks((ahead.len() / sets).next_multiple_of(64).max(64));
    for (half, source) in halves.iter().enumerate() {
        let numbers = source.numbers();
        let mut totals = [_mm512_setzero_ps(); N];
        if !fresh {
            unrolled!(n < N, 8, { totals[n] = load_ps(&sums[n][half]) });
        }
        for set in 0..tile.blocks / S::SET {
            avx2::prefetch(ahead.next().unwrap_or(&[]));
            for part in 0..parts {
                unrolled!(pass < S::SET / together, 2, {
                    let first = set * S::SET + pass * together;
                    let mut products = [[_mm512_setzero_si512(); M]; 4];
                    unrolled!(b < together, 4, {
                        let begins = &groups.begins[(first + b) * parts + part];
                        unrolled!(n < N, 8, {
                            products[b][M - N + n] = _mm512_set1_epi32(begins[n]);
                        });
                    });
                    let codes = &codes[first..first + together];
                    for line in 0..lines {
                        let unit = part * lines + line;
                        let w = source.lines(set, unit);
                        unrolled!(b < together, 4, {
                            let w = w[pass * together + b];
                            multiply_line(&mut products[b], w, &codes[b][unit]);
                        });
                    }
                    unrolled!(b < together, 4, {
                        let (bases, at) = (&groups.bases[first + b], (first + b) * parts + part);
                        let scale = load_ps(&numbers.scales[at]);
                        unrolled!(n < N, 8, {
                            let product = if D == 1 {
                                finish([products[b][n]], bases[n])
                            } else {
                                finish([products[b][n], products[b][M - N + n]], bases[n])
                            };
                            totals[n] = _mm512_fmadd_ps(product, scale, totals[n]);
                            if S::MINS {
                                let min = load_ps(&numbers.mins[at]);
                                let sum = _mm512_set1_ps(groups.scaled_sums[at][n]);
                                totals[n] = _mm512_fnmadd_ps(min, sum, totals[n]);
                            }
                        });
                    });
                });
            }
        }
        unrolled!(n < N, 8, { store_ps(&mut sums[n][half], totals[n]) });
    }
}

/// `sums[m] += Σ w · x[m]` over the four codes of each lane.
///
/// As instructions of its own, since compilers like to load all `x` long before they are used, and then run out of
/// registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply_line<const M: usize>(sums: &mut [__m512i; M], w: __m512i, x: &[i32; M]) {
    macro_rules! line {
        ($($m:literal: $name:ident),*) => {{
            asm!(
                $(concat!("vpdpbusd {", stringify!($name), "}, {w}, dword ptr [{x} + 4*", $m, "]{{1to16}}")),*,
                w = in(zmm_reg) w,
                x = in(reg) x.as_ptr(),
                $($name = inout(zmm_reg) sums[$m]),*,
                options(pure, readonly, nostack, preserves_flags)
            )
        }};
    }
    // SAFETY: the instructions read `M` words at `x`.
    unsafe {
        match M {
            1 => line!(0: a),
            2 => line!(0: a, 1: b),
            3 => line!(0: a, 1: b, 2: c),
            4 => line!(0: a, 1: b, 2: c, 3: d),
            5 => line!(0: a, 1: b, 2: c, 3: d, 4: e),
            6 => line!(0: a, 1: b, 2: c, 3: d, 4: e, 5: f),
            7 => line!(0: a, 1: b, 2: c, 3: d, 4: e, 5: f, 6: g),
            8 => line!(0: a, 1: b, 2: c, 3: d, 4: e, 5: f, 6: g, 7: h),
            _ => unreachable!("a line has up to eight words"),
        }
    }
}

/// Multiplies registers `rounds` times, as fast as the machine can, and counts the products.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn peak(rounds: u64) -> u64 {
    let mut sums = [_mm512_setzero_si512(); PEAK_CHAINS];
    let (w, x) = black_box((
        _mm512_set1_epi32(0x0102_0304),
        _mm512_set1_epi32(0x0201_0201),
    ));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, w, x);
        }
    }
    black_box(sums);
    rounds * PEAK_CHAINS as u64 * 64
}

/// 2⁻ᵉ times a sum of products, exactly: one digit, or an upper one of weight 256 and a lower one.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish<const D: usize>(digits: [__m512i; D], base: i32) -> __m512 {
    match digits[..] {
        [one] => _mm512_sub_ps(
            _mm512_castsi512_ps(one),
            _mm512_castsi512_ps(_mm512_set1_epi32(base)),
        ),
        [upper, lower] => {
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(unit_of(base)))
        }
        _ => unreachable!("one or two digits"),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_ps(x: &[f32; LANES]) -> __m512 {
    // SAFETY: 64 readable bytes; the load is unaligned.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_ps(to: &mut [f32; LANES], x: __m512) {
    // SAFETY: 64 writable bytes; the store is unaligned.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}
