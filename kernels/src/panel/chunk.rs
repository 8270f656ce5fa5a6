//! A chunk: 256 columns of half a panel, expanded to what a dot-product instruction takes.
//!
//! ```text
//!  codes   [column / 4][row][column % 4]   unsigned bytes: weight = scale · (code − offset) − min
//!  scales  [column / 32 or / 16][row]      f32
//!  mins    [column / 32 or / 16][row]      f32, where the format has them
//! ```
//!
//! The expansion is written once, on 16 lanes of u32, and compiled for each instruction set; it costs as much as the
//! product with one column or two, and happens once for all columns of a step.

#[cfg(test)]
use half::f16;

use super::{HALVES, LANES, group_blocks};
use crate::quant::{Format, IQ4_TABLE};

/// Columns of a chunk.
pub(crate) const CHUNK_COLS: usize = 256;

/// Four codes of each row.
type Words = [u32; LANES];
/// A number for each row.
type Floats = [f32; LANES];

/// See the module's picture.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Chunk {
    pub(crate) codes: [Words; CHUNK_COLS / 4],
    pub(crate) scales: [Floats; CHUNK_COLS / 16],
    pub(crate) mins: [Floats; CHUNK_COLS / 16],
}

impl Chunk {
    pub(crate) const ZERO: Chunk = Chunk {
        codes: [[0; LANES]; CHUNK_COLS / 4],
        scales: [[0.0; LANES]; CHUNK_COLS / 16],
        mins: [[0.0; LANES]; CHUNK_COLS / 16],
    };
}

/// What a kernel must know of a format once it is expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// A scale for each 16 columns rather than 32.
    pub(crate) sixteens: bool,
    /// Mins beside the scales.
    pub(crate) mins: bool,
    /// What to subtract from each code.
    pub(crate) offset: i32,
    /// The largest code.
    pub(crate) code_max: u8,
}

/// The shape of a block format's chunks.
pub(crate) const fn shape(format: Format) -> Shape {
    let (sixteens, mins, offset, code_max) = match format {
        Format::Q4_0 => (false, false, 8, 15),
        Format::Q4_1 | Format::Q4K => (false, true, 0, 15),
        Format::Q5_0 => (false, false, 16, 31),
        Format::Q5_1 | Format::Q5K => (false, true, 0, 31),
        Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => (false, false, 128, 255),
        Format::Q2K => (true, true, 0, 3),
        Format::Q3K => (true, false, 4, 7),
        Format::Q6K => (true, false, 32, 63),
        Format::F32 | Format::F16 | Format::Bf16 => panic!("floats have no codes"),
    };
    Shape {
        sixteens,
        mins,
        offset,
        code_max,
    }
}

/// The order in which a kernel adds the groups of a chunk that share a scale: block and half of it. Groups of 32 come
/// one after the other. Of groups of 16, the first halves of four blocks come before their second halves, since formats
/// with such groups have the codes of four blocks in the same bytes.
#[inline(always)]
pub(crate) const fn step<const SIXTEENS: bool>(step: usize) -> (usize, usize) {
    if SIXTEENS {
        (step / 8 * 4 + step % 4, step / 4 % 2)
    } else {
        (step, 0)
    }
}

/// Sixteen lanes of 32 bits, one for each row of half a panel.
///
/// Plain loops over arrays would say the same, but whether they become vectors is then up to the compiler, and it is
/// moody about it. Every method must be inlined into a function that was compiled for the instruction set.
pub(crate) trait Lanes {
    /// Integers.
    type Words: Copy;
    /// Single precision.
    type Floats: Copy;
    fn load(words: &[u8; 64]) -> Self::Words;
    fn store(words: Self::Words, out: &mut Words);
    fn splat(word: u32) -> Self::Words;
    fn and(a: Self::Words, b: Self::Words) -> Self::Words;
    fn or(a: Self::Words, b: Self::Words) -> Self::Words;
    fn xor(a: Self::Words, b: Self::Words) -> Self::Words;
    fn add(a: Self::Words, b: Self::Words) -> Self::Words;
    /// The low 32 bits of the product.
    fn mul(a: Self::Words, b: Self::Words) -> Self::Words;
    fn shift_left(a: Self::Words, by: u32) -> Self::Words;
    /// Zeros come in at the top.
    fn shift_right(a: Self::Words, by: u32) -> Self::Words;
    /// The sign comes in at the top.
    fn shift_right_signed(a: Self::Words, by: u32) -> Self::Words;
    /// Each byte, below 16, replaced by its entry in the table.
    fn look_up(table: &[u8; 16], words: Self::Words) -> Self::Words;
    /// Each 16-bit number as a word.
    fn widen(halves: &[u8; 32]) -> Self::Words;
    /// Half precision to single.
    fn floats(halves: &[u8; 32]) -> Self::Floats;
    /// Signed integers to floats.
    fn convert(words: Self::Words) -> Self::Floats;
    fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn store_floats(floats: Self::Floats, out: &mut Floats);
}

/// [`Lanes`] in plain Rust, to test the others by.
#[cfg(test)]
pub(crate) struct PlainLanes;

#[cfg(test)]
impl Lanes for PlainLanes {
    type Words = Words;
    type Floats = Floats;

    fn load(words: &[u8; 64]) -> Words {
        let words = words.as_chunks::<4>().0;
        std::array::from_fn(|row| u32::from_le_bytes(words[row]))
    }

    fn store(words: Words, out: &mut Words) {
        *out = words;
    }

    fn splat(word: u32) -> Words {
        [word; LANES]
    }

    fn and(a: Words, b: Words) -> Words {
        std::array::from_fn(|row| a[row] & b[row])
    }

    fn or(a: Words, b: Words) -> Words {
        std::array::from_fn(|row| a[row] | b[row])
    }

    fn xor(a: Words, b: Words) -> Words {
        std::array::from_fn(|row| a[row] ^ b[row])
    }

    fn add(a: Words, b: Words) -> Words {
        std::array::from_fn(|row| a[row].wrapping_add(b[row]))
    }

    fn mul(a: Words, b: Words) -> Words {
        std::array::from_fn(|row| a[row].wrapping_mul(b[row]))
    }

    fn shift_left(a: Words, by: u32) -> Words {
        a.map(|a| a << by)
    }

    fn shift_right(a: Words, by: u32) -> Words {
        a.map(|a| a >> by)
    }

    fn shift_right_signed(a: Words, by: u32) -> Words {
        a.map(|a| (a.cast_signed() >> by).cast_unsigned())
    }

    fn look_up(table: &[u8; 16], words: Words) -> Words {
        words.map(|word| u32::from_le_bytes(word.to_le_bytes().map(|byte| table[byte as usize])))
    }

    fn widen(halves: &[u8; 32]) -> Words {
        let halves = halves.as_chunks::<2>().0;
        std::array::from_fn(|row| u32::from(u16::from_le_bytes(halves[row])))
    }

    fn floats(halves: &[u8; 32]) -> Floats {
        let halves = halves.as_chunks::<2>().0;
        std::array::from_fn(|row| f16::from_le_bytes(halves[row]).to_f32())
    }

    fn convert(words: Words) -> Floats {
        words.map(|word| word.cast_signed() as f32)
    }

    fn times(a: Floats, b: Floats) -> Floats {
        std::array::from_fn(|row| a[row] * b[row])
    }

    fn store_floats(floats: Floats, out: &mut Floats) {
        *out = floats;
    }
}

/// The place of one chunk in half a panel.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Its group of blocks.
    group: &'a [u8],
    /// Blocks in the group.
    blocks: usize,
    /// Its first block there.
    first: usize,
}

impl Place<'_> {
    /// A field of block `block` of the chunk, for all rows; `before` is the sum of the fields in front of it.
    #[inline(always)]
    fn field(&self, before: usize, bytes: usize, block: usize) -> &[u8] {
        &self.group[LANES * (before * self.blocks + bytes * (self.first + block))..]
    }

    /// A field of `N` words.
    #[inline(always)]
    fn words<const N: usize>(&self, before: usize, block: usize) -> &[[u8; 64]; N] {
        let field = self.field(before, 4 * N, block).as_chunks().0;
        field.first_chunk().expect("a panel holds whole blocks")
    }

    /// A field of one 16-bit number.
    #[inline(always)]
    fn halves(&self, before: usize, block: usize) -> &[u8; 32] {
        let field = self.field(before, 2, block);
        field.first_chunk().expect("a panel holds whole blocks")
    }
}

/// A format's codes as vectors.
///
/// A word of a file often holds codes of several blocks of 32 columns, in different bits: such blocks are a *set*, and
/// are unpacked together.
pub(crate) trait Codes {
    const FORMAT: Format;
    /// Blocks of 32 columns in a set.
    const SET: usize = 1;
    /// Line `unit` (0 to 7: four columns) of each block of set `set` of the chunk.
    fn lines<L: Lanes>(place: &Place<'_>, set: usize, unit: usize) -> [L::Words; 4];
}

/// Evaluates an expression with `$codes` as the format's [`Codes`].
macro_rules! with_codes {
    ($format:expr, $codes:ident => $body:expr) => {
        match $format {
            Format::Q4_0 => with_codes!(@ chunk::Q4_0, $codes, $body),
            Format::Q4_1 => with_codes!(@ chunk::Q4_1, $codes, $body),
            Format::Q5_0 => with_codes!(@ chunk::Q5_0, $codes, $body),
            Format::Q5_1 => with_codes!(@ chunk::Q5_1, $codes, $body),
            Format::Q8_0 => with_codes!(@ chunk::Q8_0, $codes, $body),
            Format::Q2K => with_codes!(@ chunk::Q2K, $codes, $body),
            Format::Q3K => with_codes!(@ chunk::Q3K, $codes, $body),
            Format::Q4K => with_codes!(@ chunk::Q4K, $codes, $body),
            Format::Q5K => with_codes!(@ chunk::Q5K, $codes, $body),
            Format::Q6K => with_codes!(@ chunk::Q6K, $codes, $body),
            Format::Iq4Nl => with_codes!(@ chunk::Iq4Nl, $codes, $body),
            Format::Iq4Xs => with_codes!(@ chunk::Iq4Xs, $codes, $body),
            Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no panels"),
        }
    };
    (@ $name:path, $codes:ident, $body:expr) => {{
        type $codes = $name;
        $body
    }};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use with_codes;

/// Finds chunk `index` in one half of a panel.
///
/// **Shapes** `panel`: `panel_bytes(format, cols)`.
#[inline(always)]
pub(crate) fn place(
    format: Format,
    cols: usize,
    (panel, half): (&[u8], usize),
    index: usize,
) -> Place<'_> {
    let per_chunk = CHUNK_COLS / format.block_elements();
    let blocks = cols / format.block_elements();
    let group_size = group_blocks(format);
    let first = index * per_chunk;
    let group = first / group_size;
    let bytes = LANES * format.block_bytes();
    let in_group = group_size.min(blocks - group * group_size);
    Place {
        group: &panel[(group * group_size * HALVES + half * in_group) * bytes..],
        blocks: in_group,
        first: first % group_size,
    }
}

/// Expands chunk `index` of one half of a panel; a last chunk shorter than 256 columns fills the front of `out`.
///
/// **Shapes** `panel`: `panel_bytes(format, cols)`.
#[inline(always)]
pub(crate) fn expand<L: Lanes>(
    format: Format,
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    use super::chunk;
    with_codes!(format, C => expand_as::<L, C>(cols, panel, index, out));
}

#[inline(always)]
fn expand_as<L: Lanes, C: Codes>(
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    let place = place(C::FORMAT, cols, panel, index);
    let blocks = (cols - index * CHUNK_COLS).min(CHUNK_COLS) / 32;
    scales::<L>(C::FORMAT, &place, blocks, &mut out.scales, &mut out.mins);
    for (set, out) in out
        .codes
        .chunks_exact_mut(C::SET * 8)
        .enumerate()
        .take(blocks / C::SET)
    {
        for unit in 0..8 {
            let lines = C::lines::<L>(&place, set, unit);
            for (block, line) in lines.into_iter().enumerate().take(C::SET) {
                L::store(line, &mut out[block * 8 + unit]);
            }
        }
    }
}

/// Scales of a chunk, and its mins where the format has them.
#[inline(always)]
pub(crate) fn scales<L: Lanes>(
    format: Format,
    place: &Place<'_>,
    blocks: usize,
    scales: &mut [Floats; CHUNK_COLS / 16],
    mins: &mut [Floats; CHUNK_COLS / 16],
) {
    // Small blocks have their scale first, and some a min after it.
    let min_at = match format {
        Format::Q4_0 | Format::Iq4Nl | Format::Q5_0 | Format::Q8_0 => None,
        Format::Q4_1 | Format::Q5_1 => Some(2),
        Format::Q2K => return scales_q2_k::<L>(place, scales, mins),
        Format::Q3K => return scales_q3_k::<L>(place, scales),
        Format::Q4K | Format::Q5K => return scales_6_bits::<L>(place, scales, mins),
        Format::Q6K => return scales_q6_k::<L>(place, scales),
        Format::Iq4Xs => return scales_iq4_xs::<L>(place, scales),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no panels"),
    };
    for block in 0..blocks {
        L::store_floats(L::floats(place.halves(0, block)), &mut scales[block]);
        if let Some(at) = min_at {
            // A file stores what is added, a chunk what is subtracted.
            let mut flipped = *place.halves(at, block);
            for high in flipped.iter_mut().skip(1).step_by(2) {
                *high ^= 0x80;
            }
            L::store_floats(L::floats(&flipped), &mut mins[block]);
        }
    }
}

/// The lowest `bits` bits of each byte, after a shift.
#[inline(always)]
fn part<L: Lanes>(words: L::Words, shift: usize, bits: u32) -> L::Words {
    let mask = L::splat(((1 << bits) - 1) * 0x0101_0101);
    L::and(L::shift_right(words, shift as u32), mask)
}

/// `value` in bits `at` and up of each byte of `words`.
#[inline(always)]
fn with_top<L: Lanes>(words: L::Words, value: L::Words, at: u32) -> L::Words {
    L::or(words, L::shift_left(value, at))
}

/// One line, in a set of one.
#[inline(always)]
fn single<W: Copy>(line: W) -> [W; 4] {
    [line; 4]
}

/// Declares a format's codes.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, $set:literal, |$place:ident, $set_index:ident, $unit:ident| $body:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Codes for $name {
            const FORMAT: Format = Format::$name;
            const SET: usize = $set;

            #[inline(always)]
            fn lines<L: Lanes>($place: &Place<'_>, $set_index: usize, $unit: usize) -> [L::Words; 4] {
                $body
            }
        }
    };
}

/// A line of a small block: four words, low nibbles then high ones.
#[inline(always)]
fn nibbles<L: Lanes>(place: &Place<'_>, at: usize, block: usize, unit: usize) -> L::Words {
    let words = L::load(&place.words::<4>(at, block)[unit % 4]);
    part::<L>(words, unit / 4 * 4, 4)
}

/// The same, and a word with bit 4 of all 32 codes: bit *i* belongs to code *i*.
#[inline(always)]
fn five_bits<L: Lanes>(place: &Place<'_>, at: usize, block: usize, unit: usize) -> L::Words {
    let high = L::load(&place.words::<1>(at, block)[0]);
    // Four bits to the lowest bit of four bytes: the products b·2⁰, b·2⁷, b·2¹⁴ and b·2²¹ do not overlap there.
    let bits = L::and(L::shift_right(high, 4 * unit as u32), L::splat(15));
    let spread = L::and(L::mul(bits, L::splat(0x0020_4081)), L::splat(0x0101_0101));
    with_top::<L>(nibbles::<L>(place, at + 4, block, unit), spread, 4)
}

/// Four runs of 32 columns in the pairs of bits of eight words.
#[inline(always)]
fn four_runs<L: Lanes>(place: &Place<'_>, at: usize, set: usize, unit: usize) -> [L::Words; 4] {
    let words = L::load(&place.words::<16>(at, 0)[set * 8 + unit]);
    [
        part::<L>(words, 0, 2),
        part::<L>(words, 2, 2),
        part::<L>(words, 4, 2),
        part::<L>(words, 6, 2),
    ]
}

/// Two runs of 32 columns in the nibbles of eight words.
#[inline(always)]
fn two_runs<L: Lanes>(
    place: &Place<'_>,
    at: usize,
    set: usize,
    unit: usize,
) -> (L::Words, L::Words) {
    let words = L::load(&place.words::<32>(at, 0)[set * 8 + unit]);
    (part::<L>(words, 0, 4), part::<L>(words, 4, 4))
}

/// [`IQ4_TABLE`] plus 128.
const IQ4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (IQ4_TABLE[i] as i16 + 128) as u8;
        i += 1;
    }
    codes
};

codes!(Q4_0, 1, |place, set, unit| single(nibbles::<L>(
    place, 2, set, unit
)));
codes!(Q4_1, 1, |place, set, unit| single(nibbles::<L>(
    place, 4, set, unit
)));
codes!(Q5_0, 1, |place, set, unit| single(five_bits::<L>(
    place, 2, set, unit
)));
codes!(Q5_1, 1, |place, set, unit| single(five_bits::<L>(
    place, 4, set, unit
)));
codes!(Iq4Nl, 1, |place, set, unit| {
    single(L::look_up(&IQ4_CODES, nibbles::<L>(place, 2, set, unit)))
});
codes!(
    /// Eight words of signed bytes; the offset takes 128 off again.
    Q8_0,
    1,
    |place, set, unit| {
        let words = L::load(&place.words::<8>(2, set)[unit]);
        single(L::xor(words, L::splat(0x8080_8080)))
    }
);
codes!(
    /// Eight words hold the four blocks of a half in their pairs of bits.
    Q2K,
    4,
    |place, set, unit| {
        four_runs::<L>(place, 20, set, unit)
    }
);
codes!(
    /// The same, and bit 2 of all eight blocks in the bits of eight words more.
    Q3K,
    4,
    |place, set, unit| {
        let [a, b, c, d] = four_runs::<L>(place, 46, set, unit);
        let high = L::load(&place.words::<8>(14, 0)[unit]);
        [
            with_top::<L>(a, part::<L>(high, 4 * set, 1), 2),
            with_top::<L>(b, part::<L>(high, 4 * set + 1, 1), 2),
            with_top::<L>(c, part::<L>(high, 4 * set + 2, 1), 2),
            with_top::<L>(d, part::<L>(high, 4 * set + 3, 1), 2),
        ]
    }
);
codes!(
    /// Eight words hold one block in their low nibbles and the next in their high ones.
    Q4K,
    2,
    |place, set, unit| {
        let (low, high) = two_runs::<L>(place, 16, set, unit);
        [low, high, low, high]
    }
);
codes!(
    /// The same, and bit 4 of all eight blocks in the bits of eight words more.
    Q5K,
    2,
    |place, set, unit| {
        let (low, high) = two_runs::<L>(place, 48, set, unit);
        let top = L::load(&place.words::<8>(16, 0)[unit]);
        let low = with_top::<L>(low, part::<L>(top, 2 * set, 1), 4);
        let high = with_top::<L>(high, part::<L>(top, 2 * set + 1, 1), 4);
        [low, high, low, high]
    }
);
codes!(
    /// Each half of 128 columns has 16 words of nibbles, low ones then high ones, and eight words with the upper
    /// pairs of bits of its four blocks.
    Q6K,
    4,
    |place, set, unit| {
        let codes = place.words::<32>(82, 0);
        let first = L::load(&codes[set * 16 + unit]);
        let second = L::load(&codes[set * 16 + 8 + unit]);
        let top = L::load(&place.words::<16>(18, 0)[set * 8 + unit]);
        [
            with_top::<L>(part::<L>(first, 0, 4), part::<L>(top, 0, 2), 4),
            with_top::<L>(part::<L>(second, 0, 4), part::<L>(top, 2, 2), 4),
            with_top::<L>(part::<L>(first, 4, 4), part::<L>(top, 4, 2), 4),
            with_top::<L>(part::<L>(second, 4, 4), part::<L>(top, 6, 2), 4),
        ]
    }
);
codes!(
    /// Four words a block, as IQ4_NL.
    Iq4Xs,
    1,
    |place, set, unit| {
        let words = L::load(&place.words::<32>(8, 0)[set * 4 + unit % 4]);
        single(L::look_up(&IQ4_CODES, part::<L>(words, unit / 4 * 4, 4)))
    }
);

type Numbers = [Floats; CHUNK_COLS / 16];

/// `d` times byte `index` of a row's word.
#[inline(always)]
fn scaled<L: Lanes>(d: L::Floats, words: L::Words, index: u32, out: &mut Floats) {
    let byte = L::and(L::shift_right(words, 8 * index), L::splat(0xff));
    L::store_floats(L::times(d, L::convert(byte)), out);
}

/// `d` times a scale of six bits less 32.
#[inline(always)]
fn six_bit_scale<L: Lanes>(d: L::Floats, scale: L::Words, out: &mut Floats) {
    let scale = L::add(scale, L::splat((-32_i32).cast_unsigned()));
    L::store_floats(L::times(d, L::convert(scale)), out);
}

#[inline(always)]
fn scales_q2_k<L: Lanes>(place: &Place<'_>, scales: &mut Numbers, mins: &mut Numbers) {
    let (d, dmin) = (L::floats(place.halves(0, 0)), L::floats(place.halves(2, 0)));
    for (unit, packed) in place.words::<4>(4, 0).iter().enumerate() {
        let packed = L::load(packed);
        for i in 0..4 {
            let at = unit * 4 + i as usize;
            scaled::<L>(d, part::<L>(packed, 0, 4), i, &mut scales[at]);
            scaled::<L>(dmin, part::<L>(packed, 4, 4), i, &mut mins[at]);
        }
    }
}

/// Scale i: low nibble of byte i % 8 (high nibble from 8 on), bits 2·(i/4) of byte 8 + i % 4.
#[inline(always)]
fn scales_q3_k<L: Lanes>(place: &Place<'_>, scales: &mut Numbers) {
    let d = L::floats(place.halves(0, 0));
    let [a, b, c] = place.words::<3>(2, 0);
    let (a, b, c) = (L::load(a), L::load(b), L::load(c));
    for quad in 0..4 {
        let low = if quad % 2 == 0 { a } else { b };
        for i in 0..4 {
            let low = L::shift_right(low, 8 * i + quad / 2 * 4);
            let high = L::shift_right(c, 8 * i + 2 * quad);
            let low = L::and(low, L::splat(15));
            let high = L::shift_left(L::and(high, L::splat(3)), 4);
            six_bit_scale::<L>(d, L::or(low, high), &mut scales[(quad * 4 + i) as usize]);
        }
    }
}

/// The scales and mins of Q4_K and Q5_K.
///
/// ```text
///  bytes 0..4   h h s s s s s s    scale 0..4, and the high bits of scale 4..8
///  bytes 4..8   h h m m m m m m    min 0..4, and the high bits of min 4..8
///  bytes 8..12  m m m m s s s s    the low bits of min and scale 4..8
/// ```
#[inline(always)]
fn scales_6_bits<L: Lanes>(place: &Place<'_>, scales: &mut Numbers, mins: &mut Numbers) {
    let d = L::floats(place.halves(0, 0));
    let dmin = L::floats(place.halves(2, 0));
    let [a, b, c] = place.words::<3>(4, 0);
    let (a, b, c) = (L::load(a), L::load(b), L::load(c));
    let (top_a, top_b) = (part::<L>(a, 6, 2), part::<L>(b, 6, 2));
    let packed = [
        (part::<L>(a, 0, 6), part::<L>(b, 0, 6)),
        (
            with_top::<L>(part::<L>(c, 0, 4), top_a, 4),
            with_top::<L>(part::<L>(c, 4, 4), top_b, 4),
        ),
    ];
    for i in 0..8 {
        let (scale, min) = packed[i as usize / 4];
        scaled::<L>(d, scale, i % 4, &mut scales[i as usize]);
        scaled::<L>(dmin, min, i % 4, &mut mins[i as usize]);
    }
}

#[inline(always)]
fn scales_q6_k<L: Lanes>(place: &Place<'_>, scales: &mut Numbers) {
    let d = L::floats(place.halves(0, 0));
    for (unit, packed) in place.words::<4>(2, 0).iter().enumerate() {
        let packed = L::load(packed);
        for i in 0..4 {
            let byte = L::shift_right_signed(L::shift_left(packed, 24 - 8 * i), 24);
            let at = unit * 4 + i as usize;
            L::store_floats(L::times(d, L::convert(byte)), &mut scales[at]);
        }
    }
}

#[inline(always)]
fn scales_iq4_xs<L: Lanes>(place: &Place<'_>, scales: &mut Numbers) {
    let d = L::floats(place.halves(0, 0));
    let high = L::widen(place.halves(2, 0));
    let low = L::load(&place.words::<1>(4, 0)[0]);
    for i in 0..8 {
        let low = L::and(L::shift_right(low, 4 * i), L::splat(15));
        let high = L::and(L::shift_right(high, 2 * i), L::splat(3));
        let scale = L::or(low, L::shift_left(high, 4));
        six_bit_scale::<L>(d, scale, &mut scales[i as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::{PANEL_ROWS, pack_panel, panel_bytes};
    use crate::quant::{dequantize_row, random_row};

    /// The weights of a chunk by its definition, against `dequantize_row`. Scales are products of the same two numbers,
    /// so all but the last subtraction is the same arithmetic.
    #[test]
    fn a_chunk_means_what_the_row_means() {
        for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
            let shape = shape(format);
            let group = if shape.sixteens { 16 } else { 32 };
            for cols in [256_usize, 3 * 256, 256 + 7 * 32] {
                if !cols.is_multiple_of(format.block_elements()) {
                    continue;
                }
                let row_bytes = format.row_bytes(cols);
                let mut rows = vec![0; PANEL_ROWS * row_bytes];
                random_row(format, 5, 1.0, &mut rows);
                let mut panel = vec![0; panel_bytes(format, cols)];
                pack_panel(format, cols, &rows, &mut panel);
                let mut weights = vec![0.0; cols];
                for (index, start) in (0..cols).step_by(CHUNK_COLS).enumerate() {
                    let mut chunks = [Chunk::ZERO; HALVES];
                    for (half, chunk) in chunks.iter_mut().enumerate() {
                        expand::<PlainLanes>(format, cols, (&panel, half), index, chunk);
                    }
                    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                        let (chunk, row) = (&chunks[row / LANES], row % LANES);
                        dequantize_row(format, bytes, &mut weights);
                        for (k, weight) in weights[start..].iter().enumerate().take(CHUNK_COLS) {
                            let code = chunk.codes[k / 4][row].to_le_bytes()[k % 4];
                            assert!(code <= shape.code_max, "{format}");
                            let scale = chunk.scales[k / group][row];
                            let min = if shape.mins {
                                chunk.mins[k / group][row]
                            } else {
                                0.0
                            };
                            let value = scale * (i32::from(code) - shape.offset) as f32 - min;
                            assert_eq!(value, *weight, "{format} row {row} column {}", start + k);
                        }
                    }
                }
            }
        }
    }
}
