//! Expanded panels times a tile of activations: what `avx512.rs` does with `dpbusd`, on eight lanes without it.
//!
//! `maddubs` multiplies unsigned codes with signed ones and adds pairs to 16 bits, saturating. So that it never
//! does, its results are added in 16 bits only as often as the largest code allows, and codes of 8 bits are split into
//! nibbles.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_broadcastsi128_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_load_si256, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_sllv_epi32,
    _mm256_srav_epi32, _mm256_srli_epi16, _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_ps, _mm256_xor_si256,
};
use std::hint::black_box;

use crate::dispatch::PEAK_CHAINS;
use crate::ops::{GroupSpace, Groups, Tile, TileSums, unit_of};
use crate::panel::chunk::{self, Chunk, Lanes, Shape};
use crate::panel::{self, HALVES};
use crate::quant::Format;

use super::load_ps;

/// Lanes of a vector: half of half a panel.
const LANES: usize = 8;

/// Two vectors of eight lanes. Only `expand` uses them, which is what each unsafe call rests on: it runs on machines
/// with
/// AVX2 and F16C.
struct Pair;

/// One intrinsic for each half.
macro_rules! pair {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = |$half:ident| $body:expr;)*) => {
        $(
            #[inline(always)]
            fn $name($($arg: $ty),*) -> $out {
                // SAFETY: the machine has AVX2 and F16C, and loads and stores stay inside the arrays that they are
                // given.
                unsafe { [{ let $half = 0; $body }, { let $half = 1; $body }] }
            }
        )*
    };
}

impl Lanes for Pair {
    type Words = [__m256i; 2];
    type Floats = [__m256; 2];

    pair! {
        load(words: &[u8; 64]) -> [__m256i; 2] =
            |half| _mm256_loadu_si256(words.as_ptr().add(32 * half).cast());
        splat(word: u32) -> [__m256i; 2] = |_half| _mm256_set1_epi32(word.cast_signed());
        and(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            |half| _mm256_and_si256(a[half], b[half]);
        or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            |half| _mm256_or_si256(a[half], b[half]);
        xor(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            |half| _mm256_xor_si256(a[half], b[half]);
        add(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            |half| _mm256_add_epi32(a[half], b[half]);
        mul(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
            |half| _mm256_mullo_epi32(a[half], b[half]);
        shift_left(a: [__m256i; 2], by: u32) -> [__m256i; 2] =
            |half| _mm256_sllv_epi32(a[half], _mm256_set1_epi32(by.cast_signed()));
        shift_right(a: [__m256i; 2], by: u32) -> [__m256i; 2] =
            |half| _mm256_srlv_epi32(a[half], _mm256_set1_epi32(by.cast_signed()));
        shift_right_signed(a: [__m256i; 2], by: u32) -> [__m256i; 2] =
            |half| _mm256_srav_epi32(a[half], _mm256_set1_epi32(by.cast_signed()));
        look_up(table: &[u8; 16], words: [__m256i; 2]) -> [__m256i; 2] = |half| {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), words[half])
        };
        widen(halves: &[u8; 32]) -> [__m256i; 2] =
            |half| _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.as_ptr().add(16 * half).cast()));
        floats(halves: &[u8; 32]) -> [__m256; 2] =
            |half| _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().add(16 * half).cast()));
        convert(words: [__m256i; 2]) -> [__m256; 2] = |half| _mm256_cvtepi32_ps(words[half]);
        times(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] =
            |half| _mm256_mul_ps(a[half], b[half]);
    }

    #[inline(always)]
    fn store(words: [__m256i; 2], out: &mut [u32; panel::LANES]) {
        for (out, words) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(words) {
            // SAFETY: 32 writable bytes, on a machine with AVX2.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), words) };
        }
    }

    #[inline(always)]
    fn store_floats(floats: [__m256; 2], out: &mut [f32; panel::LANES]) {
        for (out, floats) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(floats) {
            // SAFETY: 32 writable bytes, on a machine with AVX2.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), floats) };
        }
    }
}

/// See `panel::chunk::expand`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn expand(
    format: Format,
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    chunk::expand::<Pair>(format, cols, panel, index, out);
}

/// See `avx512::multiply`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn multiply(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    match (shape.code_max, shape.sixteens, shape.mins) {
        (..=15, false, false) => {
            by_width::<8, false, false, false>(shape, chunks, tile, space, fresh, sums);
        }
        (..=15, false, true) => {
            by_width::<8, false, false, true>(shape, chunks, tile, space, fresh, sums);
        }
        (..=15, true, false) => {
            by_width::<4, false, true, false>(shape, chunks, tile, space, fresh, sums);
        }
        (..=15, true, true) => {
            by_width::<4, false, true, true>(shape, chunks, tile, space, fresh, sums);
        }
        (..=31, false, false) => {
            by_width::<4, false, false, false>(shape, chunks, tile, space, fresh, sums);
        }
        (..=31, false, true) => {
            by_width::<4, false, false, true>(shape, chunks, tile, space, fresh, sums);
        }
        (..=63, true, false) => {
            by_width::<2, false, true, false>(shape, chunks, tile, space, fresh, sums);
        }
        (_, false, false) => {
            by_width::<8, true, false, false>(shape, chunks, tile, space, fresh, sums);
        }
        _ => unreachable!("no format is {shape:?}"),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_width<const LINES: usize, const WIDE: bool, const SIXTEENS: bool, const MINS: bool>(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    macro_rules! dot {
        ($n:literal, $d:literal) => {
            for (half, chunk) in chunks.iter().enumerate() {
                for lane in [0, LANES] {
                    dot::<$n, $d, LINES, WIDE, SIXTEENS, MINS>(
                        shape,
                        (chunk, lane),
                        tile,
                        space,
                        fresh,
                        sums,
                        half,
                    );
                }
            }
        };
    }
    match (tile.digits, tile.width) {
        (1, 1) => dot!(1, 1),
        (1, 2) => dot!(2, 1),
        (1, 3) => dot!(3, 1),
        (1, 4) => dot!(4, 1),
        (1, 5) => dot!(5, 1),
        (1, 6) => dot!(6, 1),
        (2, 1) => dot!(1, 2),
        (2, 2) => dot!(2, 2),
        (2, 3) => dot!(3, 2),
        (digits, width) => unreachable!("no tile has {width} columns of {digits} digits"),
    }
}

/// See `avx512::dot`. `LINES` is how many products of codes fit 16 bits: `LINES · 2 · code_max · 128 < 2¹⁵`; `WIDE`
/// splits codes into nibbles first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<
    const N: usize,
    const D: usize,
    const LINES: usize,
    const WIDE: bool,
    const SIXTEENS: bool,
    const MINS: bool,
>(
    shape: Shape,
    (chunk, lane): (&Chunk, usize),
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
    half: usize,
) {
    let blocks = tile.blocks;
    let codes = &tile.codes[..blocks * 8 * D * N];
    let groups = Groups::<N>::of::<D>(tile, shape, space);
    let parts = if SIXTEENS { 2 } else { 1 };
    let lines = 8 / parts;
    let mut totals = [_mm256_setzero_ps(); N];
    for (total, sums) in totals.iter_mut().zip(sums.iter()) {
        if !fresh {
            *total = lanes(&sums[half], lane);
        }
    }
    for step in 0..blocks * parts {
        let (block, part) = chunk::step::<SIXTEENS>(step);
        let at = block * parts + part;
        let scale = lanes(&chunk.scales[at], lane);
        let mut products = [[_mm256_setzero_si256(); D]; N];
        for run in (0..lines).step_by(LINES) {
            let first = block * 8 + part * lines + run;
            add_products::<N, D, LINES, WIDE>(chunk, lane, first, codes, &mut products);
        }
        for n in 0..N {
            let product = finish(products[n], groups.begins[at][n], groups.bases[block][n]);
            totals[n] = _mm256_fmadd_ps(product, scale, totals[n]);
            if MINS {
                let sum = _mm256_set1_ps(groups.scaled_sums[at][n]);
                totals[n] = _mm256_fnmadd_ps(lanes(&chunk.mins[at], lane), sum, totals[n]);
            }
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: eight floats from lane 0 or 8 of sixteen.
        unsafe { _mm256_storeu_ps(sums[half].as_mut_ptr().add(lane), *total) };
    }
}

/// 2⁻ᵉ times a sum of products; see `avx512::finish`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish<const D: usize>(digits: [__m256i; D], begin: i32, base: i32) -> __m256 {
    let begin = _mm256_set1_epi32(begin);
    match digits[..] {
        [one] => {
            let sum = _mm256_castsi256_ps(_mm256_add_epi32(one, begin));
            _mm256_sub_ps(sum, _mm256_castsi256_ps(_mm256_set1_epi32(base)))
        }
        [upper, lower] => {
            let sum = _mm256_add_epi32(_mm256_slli_epi32::<8>(upper), lower);
            let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(sum, begin));
            _mm256_mul_ps(sum, _mm256_set1_ps(unit_of(base)))
        }
        _ => unreachable!("one or two digits"),
    }
}

/// Products of `LINES` lines of codes, added in 16 bits and then to `products`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_products<const N: usize, const D: usize, const LINES: usize, const WIDE: bool>(
    chunk: &Chunk,
    lane: usize,
    first: usize,
    codes: &[i32],
    products: &mut [[__m256i; D]; N],
) {
    let ones = _mm256_set1_epi16(1);
    let low_nibbles = _mm256_set1_epi8(15);
    for nibble in 0..if WIDE { 2 } else { 1 } {
        let mut short = [[_mm256_setzero_si256(); D]; N];
        for line in first..first + LINES {
            let words = &chunk.codes[line].as_chunks::<LANES>().0[lane / LANES];
            // SAFETY: 32 readable bytes at a multiple of 32.
            let mut w = unsafe { _mm256_load_si256(words.as_ptr().cast()) };
            if WIDE {
                w = if nibble == 0 {
                    w
                } else {
                    _mm256_srli_epi16::<4>(w)
                };
                w = _mm256_and_si256(w, low_nibbles);
            }
            for n in 0..N {
                for d in 0..D {
                    let x = _mm256_set1_epi32(codes[(line * D + d) * N + n]);
                    short[n][d] = _mm256_add_epi16(short[n][d], _mm256_maddubs_epi16(w, x));
                }
            }
        }
        for n in 0..N {
            for d in 0..D {
                let mut sum = _mm256_madd_epi16(short[n][d], ones);
                if nibble == 1 {
                    sum = _mm256_slli_epi32::<4>(sum);
                }
                products[n][d] = _mm256_add_epi32(products[n][d], sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(x: &[f32; panel::LANES], lane: usize) -> __m256 {
    load_ps(&x.as_chunks::<LANES>().0[lane / LANES])
}

/// See `avx512::peak`: the two instructions that multiply and add codes here.
#[target_feature(enable = "avx2")]
pub(crate) fn peak(rounds: u64) -> u64 {
    let mut sums = [_mm256_setzero_si256(); PEAK_CHAINS];
    let (w, x) = black_box((_mm256_set1_epi8(1), _mm256_set1_epi8(2)));
    for _ in 0..rounds {
        for sum in &mut sums {
            // With the sum as a factor, the compiler cannot multiply once for all rounds.
            *sum = _mm256_add_epi16(w, _mm256_maddubs_epi16(*sum, x));
        }
    }
    black_box(sums);
    rounds * PEAK_CHAINS as u64 * 32
}
