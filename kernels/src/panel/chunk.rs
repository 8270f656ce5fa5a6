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

/// The place of one chunk in a panel.
struct Place<'a> {
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

/// Expands chunk `index` of one half of a panel; a last chunk shorter than 256 columns fills the front of `out`.
///
/// **Shapes** `panel`: `panel_bytes(format, cols)`.
#[inline(always)]
pub(crate) fn expand<L: Lanes>(
    format: Format,
    cols: usize,
    (panel, half): (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    let per_chunk = CHUNK_COLS / format.block_elements();
    let blocks = cols / format.block_elements();
    let group_size = group_blocks(format);
    let first = index * per_chunk;
    let group = first / group_size;
    let bytes = LANES * format.block_bytes();
    let in_group = group_size.min(blocks - group * group_size);
    let place = Place {
        group: &panel[(group * group_size * HALVES + half * in_group) * bytes..],
        blocks: in_group,
        first: first % group_size,
    };
    let blocks = 0..per_chunk.min(blocks - first);
    // Small blocks: codes, perhaps a fifth bit, a scale, perhaps a min.
    match format {
        Format::Q4_0 => {
            for block in blocks {
                nibbles::<L>(place.words(0, block), lines(out, block));
                scale::<L>(&place, block, 16, out);
            }
        }
        Format::Iq4Nl => {
            for block in blocks {
                iq4::<L>(place.words(0, block), lines(out, block));
                scale::<L>(&place, block, 16, out);
            }
        }
        Format::Q4_1 => {
            for block in blocks {
                nibbles::<L>(place.words(0, block), lines(out, block));
                scale::<L>(&place, block, 16, out);
                min::<L>(&place, block, 18, out);
            }
        }
        Format::Q5_0 => {
            for block in blocks {
                five_bits::<L>(&place, block, lines(out, block));
                scale::<L>(&place, block, 20, out);
            }
        }
        Format::Q5_1 => {
            for block in blocks {
                five_bits::<L>(&place, block, lines(out, block));
                scale::<L>(&place, block, 20, out);
                min::<L>(&place, block, 22, out);
            }
        }
        Format::Q8_0 => {
            for block in blocks {
                signed_bytes::<L>(place.words(0, block), lines(out, block));
                scale::<L>(&place, block, 32, out);
            }
        }
        Format::Q2K => q2_k::<L>(&place, out),
        Format::Q3K => q3_k::<L>(&place, out),
        Format::Q4K => q4_k::<L>(&place, out),
        Format::Q5K => q5_k::<L>(&place, out),
        Format::Q6K => q6_k::<L>(&place, out),
        Format::Iq4Xs => iq4_xs::<L>(&place, out),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no panels"),
    }
}

/// The lines of 32 columns.
#[inline(always)]
fn lines(out: &mut Chunk, block: usize) -> &mut [Words; 8] {
    &mut out.codes.as_chunks_mut::<8>().0[block]
}

#[inline(always)]
fn scale<L: Lanes>(place: &Place<'_>, block: usize, at: usize, out: &mut Chunk) {
    L::store_floats(L::floats(place.halves(at, block)), &mut out.scales[block]);
}

/// A file stores what is added, a chunk what is subtracted.
#[inline(always)]
fn min<L: Lanes>(place: &Place<'_>, block: usize, at: usize, out: &mut Chunk) {
    let halves = L::xor(L::widen(place.halves(at, block)), L::splat(0x8000));
    let mut words = [0; LANES];
    L::store(halves, &mut words);
    let mut bytes = [0; 32];
    for (bytes, word) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *bytes = (word as u16).to_le_bytes();
    }
    L::store_floats(L::floats(&bytes), &mut out.mins[block]);
}

/// The lowest `bits` bits of each byte, after a shift.
#[inline(always)]
fn part<L: Lanes>(words: L::Words, shift: u32, bits: u32) -> L::Words {
    let mask = L::splat(((1 << bits) - 1) * 0x0101_0101);
    L::and(L::shift_right(words, shift), mask)
}

#[inline(always)]
fn nibbles<L: Lanes>(codes: &[[u8; 64]; 4], out: &mut [Words; 8]) {
    for (unit, codes) in codes.iter().enumerate() {
        let words = L::load(codes);
        L::store(part::<L>(words, 0, 4), &mut out[unit]);
        L::store(part::<L>(words, 4, 4), &mut out[unit + 4]);
    }
}

#[inline(always)]
fn iq4<L: Lanes>(codes: &[[u8; 64]; 4], out: &mut [Words; 8]) {
    for (unit, codes) in codes.iter().enumerate() {
        let words = L::load(codes);
        let value = |shift| L::look_up(&IQ4_CODES, part::<L>(words, shift, 4));
        L::store(value(0), &mut out[unit]);
        L::store(value(4), &mut out[unit + 4]);
    }
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

/// Nibbles, and a word with bit 4 of all 32: bit *i* belongs to code *i*.
#[inline(always)]
fn five_bits<L: Lanes>(place: &Place<'_>, block: usize, out: &mut [Words; 8]) {
    let high = L::load(&place.words::<1>(16, block)[0]);
    // Four bits to the lowest bit of four bytes: the products b·2⁰, b·2⁷, b·2¹⁴ and b·2²¹ do not overlap there.
    let bit_4 = |line: u32| {
        let bits = L::and(L::shift_right(high, 4 * line), L::splat(15));
        let spread = L::mul(bits, L::splat(0x0020_4081));
        L::shift_left(L::and(spread, L::splat(0x0101_0101)), 4)
    };
    for (unit, codes) in place.words::<4>(0, block).iter().enumerate() {
        let words = L::load(codes);
        let line = unit as u32;
        L::store(L::or(part::<L>(words, 0, 4), bit_4(line)), &mut out[unit]);
        let upper = L::or(part::<L>(words, 4, 4), bit_4(line + 4));
        L::store(upper, &mut out[unit + 4]);
    }
}

#[inline(always)]
fn signed_bytes<L: Lanes>(codes: &[[u8; 64]; 8], out: &mut [Words; 8]) {
    for (codes, out) in codes.iter().zip(out) {
        L::store(L::xor(L::load(codes), L::splat(0x8080_8080)), out);
    }
}

/// `d` times byte `index` of a row's word.
#[inline(always)]
fn scaled<L: Lanes>(d: L::Floats, words: L::Words, index: u32, out: &mut Floats) {
    let byte = L::and(L::shift_right(words, 8 * index), L::splat(0xff));
    L::store_floats(L::times(d, L::convert(byte)), out);
}

#[inline(always)]
fn q2_k<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    let (d, dmin) = (
        L::floats(place.halves(80, 0)),
        L::floats(place.halves(82, 0)),
    );
    for (unit, packed) in place.words::<4>(64, 0).iter().enumerate() {
        let packed = L::load(packed);
        for i in 0..4 {
            let at = unit * 4 + i as usize;
            scaled::<L>(d, part::<L>(packed, 0, 4), i, &mut out.scales[at]);
            scaled::<L>(dmin, part::<L>(packed, 4, 4), i, &mut out.mins[at]);
        }
    }
    for (unit, codes) in place.words::<16>(0, 0).iter().enumerate() {
        let words = L::load(codes);
        for run in 0..4 {
            let line = two_bit_line(unit, run);
            L::store(part::<L>(words, 2 * run, 2), &mut out.codes[line]);
        }
    }
}

/// Each half of 128 columns has eight words whose pairs of bits are four runs of 32.
#[inline(always)]
fn two_bit_line(unit: usize, run: u32) -> usize {
    unit / 8 * 32 + run as usize * 8 + unit % 8
}

#[inline(always)]
fn q3_k<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    let high = place.words::<8>(64, 0);
    for (unit, codes) in place.words::<16>(0, 0).iter().enumerate() {
        let (words, high) = (L::load(codes), L::load(&high[unit % 8]));
        for run in 0..4 {
            let line = two_bit_line(unit, run);
            let bit = part::<L>(high, line as u32 / 8, 1);
            let code = L::or(part::<L>(words, 2 * run, 2), L::shift_left(bit, 2));
            L::store(code, &mut out.codes[line]);
        }
    }
    // Scale i: low nibble of byte i % 8 (high nibble from 8 on), bits 2·(i/4) of byte 8 + i % 4.
    let d = L::floats(place.halves(108, 0));
    let [a, b, c] = place.words::<3>(96, 0);
    let (a, b, c) = (L::load(a), L::load(b), L::load(c));
    for quad in 0..4 {
        let low = if quad % 2 == 0 { a } else { b };
        for i in 0..4 {
            let low = L::shift_right(low, 8 * i + quad / 2 * 4);
            let high = L::shift_right(c, 8 * i + 2 * quad);
            let low = L::and(low, L::splat(15));
            let high = L::shift_left(L::and(high, L::splat(3)), 4);
            six_bit_scale::<L>(
                d,
                L::or(low, high),
                &mut out.scales[(quad * 4 + i) as usize],
            );
        }
    }
}

/// `d` times a scale of six bits less 32.
#[inline(always)]
fn six_bit_scale<L: Lanes>(d: L::Floats, scale: L::Words, out: &mut Floats) {
    let scale = L::add(scale, L::splat((-32_i32).cast_unsigned()));
    L::store_floats(L::times(d, L::convert(scale)), out);
}

/// The scales and mins of Q4_K and Q5_K.
///
/// ```text
///  bytes 0..4   h h s s s s s s    scale 0..4, and the high bits of scale 4..8
///  bytes 4..8   h h m m m m m m    min 0..4, and the high bits of min 4..8
///  bytes 8..12  m m m m s s s s    the low bits of min and scale 4..8
/// ```
#[inline(always)]
fn six_bits<L: Lanes>(place: &Place<'_>, at: usize, out: &mut Chunk) {
    let d = L::floats(place.halves(at + 12, 0));
    let dmin = L::floats(place.halves(at + 14, 0));
    let [a, b, c] = place.words::<3>(at, 0);
    let (a, b, c) = (L::load(a), L::load(b), L::load(c));
    let top = |words| L::shift_left(part::<L>(words, 6, 2), 4);
    let scales = [part::<L>(a, 0, 6), L::or(part::<L>(c, 0, 4), top(a))];
    let mins = [part::<L>(b, 0, 6), L::or(part::<L>(c, 4, 4), top(b))];
    for i in 0..8 {
        let (word, byte) = (i as usize / 4, i % 4);
        scaled::<L>(d, scales[word], byte, &mut out.scales[i as usize]);
        scaled::<L>(dmin, mins[word], byte, &mut out.mins[i as usize]);
    }
}

/// Where word `unit` of 32 has its low nibbles; its high ones are eight lines further. 32 bytes hold one run of 32
/// columns in their low nibbles and the next in their high ones.
#[inline(always)]
fn nibble_line(unit: usize) -> usize {
    unit / 8 * 16 + unit % 8
}

#[inline(always)]
fn q4_k<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    six_bits::<L>(place, 128, out);
    for (unit, codes) in place.words::<32>(0, 0).iter().enumerate() {
        let (words, line) = (L::load(codes), nibble_line(unit));
        L::store(part::<L>(words, 0, 4), &mut out.codes[line]);
        L::store(part::<L>(words, 4, 4), &mut out.codes[line + 8]);
    }
}

#[inline(always)]
fn q5_k<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    six_bits::<L>(place, 160, out);
    let high = place.words::<8>(128, 0);
    for (unit, codes) in place.words::<32>(0, 0).iter().enumerate() {
        let (words, line) = (L::load(codes), nibble_line(unit));
        let high = L::load(&high[unit % 8]);
        let bit = |run: usize| L::shift_left(part::<L>(high, run as u32, 1), 4);
        let code = L::or(part::<L>(words, 0, 4), bit(line / 8));
        L::store(code, &mut out.codes[line]);
        let code = L::or(part::<L>(words, 4, 4), bit(line / 8 + 1));
        L::store(code, &mut out.codes[line + 8]);
    }
}

#[inline(always)]
fn q6_k<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    let d = L::floats(place.halves(208, 0));
    for (unit, packed) in place.words::<4>(192, 0).iter().enumerate() {
        let packed = L::load(packed);
        for i in 0..4 {
            let byte = L::shift_right_signed(L::shift_left(packed, 24 - 8 * i), 24);
            let at = unit * 4 + i as usize;
            L::store_floats(L::times(d, L::convert(byte)), &mut out.scales[at]);
        }
    }
    // Each half of 128: 16 words of nibbles, low then high, and 8 words with four pairs of high bits.
    let (codes, high) = (place.words::<32>(0, 0), place.words::<16>(128, 0));
    for (unit, high) in high.iter().enumerate() {
        let (half, unit, high) = (unit / 8, unit % 8, L::load(high));
        for run in 0..2 {
            let words = L::load(&codes[half * 16 + run * 8 + unit]);
            let top = |shift| L::shift_left(part::<L>(high, shift, 2), 4);
            let (line, shift) = (half * 32 + run * 8 + unit, 2 * run as u32);
            let code = L::or(part::<L>(words, 0, 4), top(shift));
            L::store(code, &mut out.codes[line]);
            let code = L::or(part::<L>(words, 4, 4), top(shift + 4));
            L::store(code, &mut out.codes[line + 16]);
        }
    }
}

#[inline(always)]
fn iq4_xs<L: Lanes>(place: &Place<'_>, out: &mut Chunk) {
    let d = L::floats(place.halves(132, 0));
    let high = L::widen(place.halves(134, 0));
    let low = L::load(&place.words::<1>(128, 0)[0]);
    for i in 0..8 {
        let low = L::and(L::shift_right(low, 4 * i), L::splat(15));
        let high = L::and(L::shift_right(high, 2 * i), L::splat(3));
        let scale = L::or(low, L::shift_left(high, 4));
        six_bit_scale::<L>(d, scale, &mut out.scales[i as usize]);
    }
    let codes = place.words::<32>(0, 0).as_chunks::<4>().0;
    for (run, codes) in codes.iter().enumerate() {
        iq4::<L>(codes, lines(out, run));
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
