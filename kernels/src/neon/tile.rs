//! Expanded panels times a tile of activations: what `avx512.rs` does, on four vectors of four lanes.
//!
//! Both factors are signed bytes here: the offset of a format is taken off its codes as they are loaded, so sums
//! start at zero. Two instructions multiply them, chosen when the machine is known:
//!
//! ```text
//!  sdot    4 rows of 4 codes, times 4 codes of one column:            4 sums
//!  smmla   2 rows of 8 codes, times 8 codes of each of 2 columns:     4 sums, twice the products
//! ```
//!
//! Integer sums are exact, so both give the same bits.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, uint32x4_t, vaddq_s32, vaddq_u32, vandq_u32,
    vcombine_s32, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vdupq_n_u32, veorq_u32,
    vfmaq_f32, vfmsq_f32, vld1_s32, vld1_u16, vld1q_s8, vld1q_u8, vmovl_u16, vmulq_f32, vmulq_u32,
    vnegq_s32, vorrq_u32, vqtbl1q_u8, vreinterpretq_f32_s32, vreinterpretq_s8_s32,
    vreinterpretq_s32_s8, vreinterpretq_s32_u32, vreinterpretq_u8_u32, vreinterpretq_u32_s32,
    vreinterpretq_u32_u8, vshlq_n_s32, vshlq_s32, vshlq_u32, vst1q_u32, vsubq_f32, vsubq_s8,
    vuzp1q_s32, vuzp2q_s32, vzip1_s32, vzip1q_s32, vzip2_s32, vzip2q_s32,
};
use std::arch::asm;
use std::hint::black_box;

use super::{load_halves, load_ps, store_ps};
use crate::dispatch::PEAK_CHAINS;
use crate::ops::{GroupSpace, Groups, Tile, TileSums, unit_of};
use crate::panel::chunk::{self, Chunk, Lanes, Shape};
use crate::panel::{HALVES, LANES};
use crate::quant::Format;

/// Vectors for the rows of half a panel.
const QUADS: usize = LANES / 4;

/// Four vectors of four lanes.
struct Quads;

/// One intrinsic for each quarter.
macro_rules! quads {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = |$quad:ident| $body:expr;)*) => {
        $(
            #[inline(always)]
            fn $name($($arg: $ty),*) -> $out {
                // SAFETY: NEON is part of AArch64.
                std::array::from_fn(|$quad| unsafe { $body })
            }
        )*
    };
}

type Words = [uint32x4_t; QUADS];
type Floats = [float32x4_t; QUADS];

impl Lanes for Quads {
    type Words = Words;
    type Floats = Floats;

    quads! {
        splat(word: u32) -> Words = |_quad| vdupq_n_u32(word);
        and(a: Words, b: Words) -> Words = |quad| vandq_u32(a[quad], b[quad]);
        or(a: Words, b: Words) -> Words = |quad| vorrq_u32(a[quad], b[quad]);
        xor(a: Words, b: Words) -> Words = |quad| veorq_u32(a[quad], b[quad]);
        add(a: Words, b: Words) -> Words = |quad| vaddq_u32(a[quad], b[quad]);
        mul(a: Words, b: Words) -> Words = |quad| vmulq_u32(a[quad], b[quad]);
        shift_left(a: Words, by: u32) -> Words = |quad| vshlq_u32(a[quad], shift(by));
        shift_right(a: Words, by: u32) -> Words = |quad| vshlq_u32(a[quad], vnegq_s32(shift(by)));
        shift_right_signed(a: Words, by: u32) -> Words = |quad| {
            let a = vreinterpretq_s32_u32(a[quad]);
            vreinterpretq_u32_s32(vshlq_s32(a, vnegq_s32(shift(by))))
        };
        look_up(table: &[u8; 16], words: Words) -> Words = |quad| {
            vreinterpretq_u32_u8(vqtbl1q_u8(load_16(table), vreinterpretq_u8_u32(words[quad])))
        };
        load(words: &[u8; 64]) -> Words =
            |quad| vreinterpretq_u32_u8(load_16(&words.as_chunks().0[quad]));
        floats(halves: &[u8; 32]) -> Floats = |quad| load_halves(&halves.as_chunks().0[quad]);
        convert(words: Words) -> Floats = |quad| vcvtq_f32_s32(vreinterpretq_s32_u32(words[quad]));
        times(a: Floats, b: Floats) -> Floats = |quad| vmulq_f32(a[quad], b[quad]);
    }

    #[inline(always)]
    fn widen(halves: &[u8; 32]) -> Words {
        let eights = halves.as_chunks::<8>().0;
        // SAFETY: 8 readable bytes; the load is unaligned. NEON is part of AArch64.
        std::array::from_fn(|quad| unsafe { vmovl_u16(vld1_u16(eights[quad].as_ptr().cast())) })
    }

    #[inline(always)]
    fn store(words: Words, out: &mut [u32; LANES]) {
        for (out, words) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            // SAFETY: 16 writable bytes. NEON is part of AArch64.
            unsafe { vst1q_u32(out.as_mut_ptr(), words) };
        }
    }

    #[inline(always)]
    fn store_floats(floats: Floats, out: &mut [f32; LANES]) {
        for (out, floats) in out.as_chunks_mut().0.iter_mut().zip(floats) {
            // SAFETY: NEON is part of AArch64.
            unsafe { store_ps(out, floats) };
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn shift(by: u32) -> int32x4_t {
    vdupq_n_s32(by.cast_signed())
}

#[inline]
#[target_feature(enable = "neon")]
fn load_16(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// See `panel::chunk::expand`.
pub(crate) fn expand(
    format: Format,
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    chunk::expand::<Quads>(format, cols, panel, index, out);
}

/// See `avx512::multiply`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn multiply(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    by_shape::<Dot>(shape, chunks, tile, space, fresh, sums);
}

/// See `avx512::multiply`.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn multiply_i8mm(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    by_shape::<Matrices>(shape, chunks, tile, space, fresh, sums);
}

/// Sums of products of codes: for each word of activations in a line, one for each of 16 rows.
type Products<const M: usize> = [[int32x4_t; QUADS]; M];

/// Four codes of each of 16 rows.
type Line = [int8x16_t; QUADS];

/// An instruction that multiplies codes. Every method must be inlined into a function that was compiled for it.
trait Multiplier {
    /// Adds the products of two lines of weights with the same lines of activations, in an order of its own.
    fn add<const M: usize>(sums: &mut Products<M>, w: &[Line; 2], x: &[[i32; M]; 2]);

    /// Brings sums into the order of [`Products`].
    fn finish<const M: usize>(sums: &mut Products<M>);
}

/// By `sdot`.
struct Dot;

impl Multiplier for Dot {
    #[inline(always)]
    fn add<const M: usize>(sums: &mut Products<M>, w: &[Line; 2], x: &[[i32; M]; 2]) {
        for (w, x) in w.iter().zip(x) {
            for (sums, x) in sums.iter_mut().zip(x) {
                // SAFETY: inlined into a function that runs on machines with `dotprod`.
                unsafe {
                    let x = vreinterpretq_s8_s32(vdupq_n_s32(*x));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = sdot(*sum, *w, x);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn finish<const M: usize>(_sums: &mut Products<M>) {}
}

/// By `smmla` for each two words of activations in a line, and by `sdot` for an odd last one. The sums of words 2p and
/// 2p + 1 are, until they are finished, in `sums[2p]` for rows 0 and 1 of each four and in `sums[2p + 1]` for rows 2
/// and 3:
/// `[row][word]`.
struct Matrices;

impl Multiplier for Matrices {
    #[inline(always)]
    fn add<const M: usize>(sums: &mut Products<M>, w: &[Line; 2], x: &[[i32; M]; 2]) {
        let (pairs, rest) = sums.as_chunks_mut::<2>();
        let (x_0, x_1) = (x[0].as_chunks::<2>().0, x[1].as_chunks::<2>().0);
        for (sums, (x_0, x_1)) in pairs.iter_mut().zip(x_0.iter().zip(x_1)) {
            // SAFETY: inlined into a function that runs on machines with `i8mm`.
            unsafe {
                let x = zip_words(x_0, x_1);
                for quad in 0..QUADS {
                    let [w_01, w_23] = zip_rows(w[0][quad], w[1][quad]);
                    sums[0][quad] = smmla(sums[0][quad], w_01, x);
                    sums[1][quad] = smmla(sums[1][quad], w_23, x);
                }
            }
        }
        if let [rest] = rest {
            Dot::add::<1>(
                std::array::from_mut(rest),
                w,
                &[[x[0][M - 1]], [x[1][M - 1]]],
            );
        }
    }

    #[inline(always)]
    fn finish<const M: usize>(sums: &mut Products<M>) {
        for [a, b] in sums.as_chunks_mut::<2>().0 {
            for (a, b) in a.iter_mut().zip(b) {
                // SAFETY: NEON is part of AArch64.
                (*a, *b) = unsafe { (vuzp1q_s32(*a, *b), vuzp2q_s32(*a, *b)) };
            }
        }
    }
}

/// Four rows of two lines to eight codes of rows 0 and 1, and of rows 2 and 3.
#[inline]
#[target_feature(enable = "neon")]
fn zip_rows(line_0: int8x16_t, line_1: int8x16_t) -> [int8x16_t; 2] {
    let (line_0, line_1) = (vreinterpretq_s32_s8(line_0), vreinterpretq_s32_s8(line_1));
    [
        vreinterpretq_s8_s32(vzip1q_s32(line_0, line_1)),
        vreinterpretq_s8_s32(vzip2q_s32(line_0, line_1)),
    ]
}

/// Two words of two lines to eight codes of the first, then of the second.
#[inline]
#[target_feature(enable = "neon")]
fn zip_words(line_0: &[i32; 2], line_1: &[i32; 2]) -> int8x16_t {
    // SAFETY: 8 readable bytes each.
    let (line_0, line_1) = unsafe { (vld1_s32(line_0.as_ptr()), vld1_s32(line_1.as_ptr())) };
    vreinterpretq_s8_s32(vcombine_s32(
        vzip1_s32(line_0, line_1),
        vzip2_s32(line_0, line_1),
    ))
}

/// To each lane the products of its four bytes. The intrinsic is not stable.
///
/// # Safety
/// The machine must have `dotprod`. (The assembler is told so here, for the callers are compiled for either
/// instruction.)
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller answers for `dotprod`; the instruction touches only the registers named.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// To lane `2i + j` the products of eight bytes, half `i` of `a` and half `j` of `b`. The intrinsic is not stable.
///
/// # Safety
/// The machine must have `i8mm`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller answers for `i8mm`; the instruction touches only the registers named.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[inline]
#[target_feature(enable = "neon")]
fn by_shape<P: Multiplier>(
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    match (shape.sixteens, shape.mins) {
        (false, false) => by_width::<P, false, false>(shape, chunks, tile, space, fresh, sums),
        (false, true) => by_width::<P, false, true>(shape, chunks, tile, space, fresh, sums),
        (true, false) => by_width::<P, true, false>(shape, chunks, tile, space, fresh, sums),
        (true, true) => by_width::<P, true, true>(shape, chunks, tile, space, fresh, sums),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn by_width<P: Multiplier, const SIXTEENS: bool, const MINS: bool>(
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
                dot::<P, $n, $d, { $n * $d }, SIXTEENS, MINS>(
                    shape,
                    (chunk, half),
                    tile,
                    space,
                    fresh,
                    sums,
                );
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

/// See `avx512::dot`: the same operations in f32, in the same order. A line has `M = N · D` words of activations.
#[inline]
#[target_feature(enable = "neon")]
fn dot<
    P: Multiplier,
    const N: usize,
    const D: usize,
    const M: usize,
    const SIXTEENS: bool,
    const MINS: bool,
>(
    shape: Shape,
    (chunk, half): (&Chunk, usize),
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    const { assert!(M == N * D) };
    let blocks = tile.blocks;
    let codes = tile.codes.as_chunks::<M>().0.as_chunks::<8>().0;
    let codes = &codes[..blocks];
    let weights = &chunk.codes.as_chunks::<8>().0[..blocks];
    // The offset is taken off the codes here, not off their sum.
    let signed = Shape { offset: 0, ..shape };
    let groups = Groups::<N>::of::<D>(tile, signed, space);
    let parts = if SIXTEENS { 2 } else { 1 };
    let lines = 8 / parts;
    // A code less its offset fits a signed byte, and so does what is left of the subtraction modulo 256.
    let offset = vdupq_n_s8(shape.offset as i8);
    let mut totals = [[vdupq_n_f32(0.0); QUADS]; N];
    for (totals, sums) in totals.iter_mut().zip(sums.iter()) {
        if !fresh {
            *totals = load_rows(&sums[half]);
        }
    }
    for step in 0..blocks * parts {
        let (block, part) = chunk::step::<SIXTEENS>(step);
        let (weights, codes) = (&weights[block], &codes[block]);
        let mut products = [[vdupq_n_s32(0); QUADS]; M];
        for line in (part * lines..(part + 1) * lines).step_by(2) {
            let w = [0, 1].map(|i| load_line::<MINS>(&weights[line + i], offset));
            P::add(&mut products, &w, &[codes[line], codes[line + 1]]);
        }
        P::finish(&mut products);
        let at = block * parts + part;
        let scale = load_rows(&chunk.scales[at]);
        for n in 0..N {
            let base = groups.bases[block][n];
            let begin = vdupq_n_s32(groups.begins[at][n]);
            for quad in 0..QUADS {
                let product = vaddq_s32(products[M - N + n][quad], begin);
                let product = if D == 1 {
                    vsubq_f32(
                        vreinterpretq_f32_s32(product),
                        vreinterpretq_f32_s32(vdupq_n_s32(base)),
                    )
                } else {
                    let sum = vaddq_s32(vshlq_n_s32::<8>(products[n][quad]), product);
                    vmulq_f32(vcvtq_f32_s32(sum), vdupq_n_f32(unit_of(base)))
                };
                totals[n][quad] = vfmaq_f32(totals[n][quad], product, scale[quad]);
            }
            if MINS {
                let sum = vdupq_n_f32(groups.scaled_sums[at][n]);
                let min = load_rows(&chunk.mins[at]);
                for quad in 0..QUADS {
                    totals[n][quad] = vfmsq_f32(totals[n][quad], min[quad], sum);
                }
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (sums, total) in sums[half].as_chunks_mut().0.iter_mut().zip(totals) {
            store_ps(sums, *total);
        }
    }
}

/// Formats with mins have no offset.
#[inline]
#[target_feature(enable = "neon")]
fn load_line<const MINS: bool>(words: &[u32; LANES], offset: int8x16_t) -> Line {
    let quads = words.as_chunks::<4>().0;
    std::array::from_fn(|quad| {
        // SAFETY: 16 readable bytes.
        let codes = unsafe { vld1q_s8(quads[quad].as_ptr().cast()) };
        if MINS { codes } else { vsubq_s8(codes, offset) }
    })
}

#[inline]
#[target_feature(enable = "neon")]
fn load_rows(x: &[f32; LANES]) -> Floats {
    let quads = x.as_chunks().0;
    std::array::from_fn(|quad| load_ps(&quads[quad]))
}

/// See `avx512::peak`.
///
/// # Safety
/// The machine must have `dotprod`, and `i8mm` for `MATRICES`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn peak<const MATRICES: bool>(rounds: u64) -> u64 {
    let mut sums = [vdupq_n_s32(0); PEAK_CHAINS];
    let (w, x) = black_box((vdupq_n_s8(1), vdupq_n_s8(2)));
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: the caller answers for the instruction.
            *sum = unsafe {
                if MATRICES {
                    smmla(*sum, w, x)
                } else {
                    sdot(*sum, w, x)
                }
            };
        }
    }
    black_box(sums);
    rounds * PEAK_CHAINS as u64 * if MATRICES { 32 } else { 16 }
}
