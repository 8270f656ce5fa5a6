//! From f32 to blocks: a scale (and min) for each group by a short search, then every weight to its nearest code.
//!
//! Formats with two levels of scales go through the same steps: search each group in f32, store the group scales as
//! multiples of the block's, and choose codes against the scales as stored.

use half::f16;

use super::Format;
use super::block::{
    Block, BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Half, LARGE, SMALL, blocks_mut,
};
use super::unpack::{IQ4_TABLE, float};

pub(super) fn pack_row(format: Format, row: &[f32], out: &mut [u8]) {
    match format {
        Format::Q4_0 => pack(row, out, |x, b: &mut BlockQ4_0| {
            let d = store(symmetric_scale(x, -8, 7));
            b.d = d;
            pack_nibbles(
                &codes::<SMALL>(x, |_| (float(d), 0.0), (-8, 7)).map(|c| c + 8),
                &mut b.codes,
            );
        }),
        Format::Q4_1 => pack(row, out, |x, b: &mut BlockQ4_1| {
            let (d, min) = affine_scale(x, 15, Min::Any);
            (b.d, b.m) = (store(d), store(-min));
            let stored = (float(b.d), -float(b.m));
            pack_nibbles(&codes::<SMALL>(x, |_| stored, (0, 15)), &mut b.codes);
        }),
        Format::Q5_0 => pack(row, out, |x, b: &mut BlockQ5_0| {
            b.d = store(symmetric_scale(x, -16, 15));
            let stored = (float(b.d), 0.0);
            let codes = codes::<SMALL>(x, |_| stored, (-16, 15)).map(|c| c + 16);
            pack_nibbles(&codes, &mut b.codes);
            b.high = high_bits(&codes);
        }),
        Format::Q5_1 => pack(row, out, |x, b: &mut BlockQ5_1| {
            let (d, min) = affine_scale(x, 31, Min::Any);
            (b.d, b.m) = (store(d), store(-min));
            let stored = (float(b.d), -float(b.m));
            let codes = codes::<SMALL>(x, |_| stored, (0, 31));
            pack_nibbles(&codes, &mut b.codes);
            b.high = high_bits(&codes);
        }),
        Format::Q8_0 => pack(row, out, |x, b: &mut BlockQ8_0| {
            b.d = store(largest(x).abs() / 127.0);
            let d = float(b.d);
            b.codes = codes::<SMALL>(x, |_| (d, 0.0), (-127, 127)).map(|c| c as i8);
        }),
        Format::Q2K => pack(row, out, pack_q2_k),
        Format::Q3K => pack(row, out, pack_q3_k),
        Format::Q4K => pack(row, out, |x, b: &mut BlockQ4K| {
            let codes = pack_scales_6bit(x, 15, (&mut b.d, &mut b.dmin, &mut b.scales));
            pack_nibble_pairs::<64>(&codes, &mut b.codes);
        }),
        Format::Q5K => pack(row, out, |x, b: &mut BlockQ5K| {
            let codes = pack_scales_6bit(x, 31, (&mut b.d, &mut b.dmin, &mut b.scales));
            pack_nibble_pairs::<64>(&codes, &mut b.codes);
            b.high = [0; 32];
            for (i, code) in codes.iter().enumerate() {
                b.high[i % 32] |= ((code >> 4) as u8) << (i / 32);
            }
        }),
        Format::Q6K => pack(row, out, pack_q6_k),
        Format::Iq4Nl => pack(row, out, |x, b: &mut BlockIq4Nl| {
            b.d = store(table_scale(x));
            let d = float(b.d);
            let codes: [i32; SMALL] = std::array::from_fn(|i| nearest_in_table(x[i], d));
            pack_nibbles(&codes, &mut b.codes);
        }),
        Format::Iq4Xs => pack(row, out, pack_iq4_xs),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no blocks"),
    }
}

fn pack<B: Block>(row: &[f32], out: &mut [u8], block: impl Fn(&[f32], &mut B)) {
    for (x, b) in row.chunks_exact(B::ELEMENTS).zip(blocks_mut(out)) {
        block(x, b);
    }
}

fn pack_q2_k(x: &[f32], b: &mut BlockQ2K) {
    let groups: [(f32, f32); 16] =
        std::array::from_fn(|g| affine_scale(&x[g * 16..][..16], 3, Min::NotNegative));
    let (d, scales) = share(&groups.map(|g| g.0), 15);
    let (dmin, mins) = share(&groups.map(|g| g.1), 15);
    (b.d, b.dmin) = (store(d), store(dmin));
    b.scales = std::array::from_fn(|g| (scales[g] | mins[g] << 4) as u8);
    let (d, dmin) = (float(b.d), float(b.dmin));
    let stored = |i: usize| (d * scales[i / 16] as f32, dmin * mins[i / 16] as f32);
    let codes = codes::<LARGE>(x, stored, (0, 3));
    b.codes = pack_pairs(&codes);
}

fn pack_q3_k(x: &[f32], b: &mut BlockQ3K) {
    let groups: [f32; 16] = std::array::from_fn(|g| symmetric_scale(&x[g * 16..][..16], -4, 3));
    let (d, scales) = share(&groups, 31);
    b.d = store(d);
    let d = float(b.d);
    let codes = codes::<LARGE>(x, |i| (d * scales[i / 16] as f32, 0.0), (-4, 3)).map(|c| c + 4);
    b.codes = pack_pairs(&codes);
    (b.high, b.scales) = ([0; 32], [0; 12]);
    for (i, code) in codes.iter().enumerate() {
        b.high[i % 32] |= ((code >> 2) as u8) << (i / 32);
    }
    for (i, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b.scales[i % 8] |= (scale & 15) << (i / 8 * 4);
        b.scales[8 + i % 4] |= (scale >> 4) << (i / 4 * 2);
    }
}

fn pack_q6_k(x: &[f32], b: &mut BlockQ6K) {
    let groups: [f32; 16] = std::array::from_fn(|g| symmetric_scale(&x[g * 16..][..16], -32, 31));
    let (d, scales) = share(&groups, 127);
    b.d = store(d);
    b.scales = scales.map(|s| s as i8);
    let d = float(b.d);
    let codes = codes::<LARGE>(x, |i| (d * scales[i / 16] as f32, 0.0), (-32, 31)).map(|c| c + 32);
    pack_nibble_pairs::<128>(&codes, &mut b.codes);
    b.high = [0; 64];
    for (i, code) in codes.iter().enumerate() {
        b.high[i / 128 * 32 + i % 32] |= ((code >> 4) as u8) << (i % 128 / 32 * 2);
    }
}

fn pack_iq4_xs(x: &[f32], b: &mut BlockIq4Xs) {
    let groups: [f32; 8] = std::array::from_fn(|g| table_scale(&x[g * 32..][..32]));
    let (d, scales) = share(&groups, 31);
    b.d = store(d);
    let d = float(b.d);
    let mut scales_high = 0;
    b.scales_low = [0; 4];
    for (i, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b.scales_low[i / 2] |= (scale & 15) << (i % 2 * 4);
        scales_high |= u16::from(scale >> 4) << (i * 2);
    }
    b.scales_high = scales_high.to_le_bytes();
    let codes: [i32; LARGE] =
        std::array::from_fn(|i| nearest_in_table(x[i], d * scales[i / 32] as f32));
    pack_nibble_pairs::<32>(&codes, &mut b.codes);
}

/// Scales and mins of Q4_K and Q5_K (the picture is at `unpack::scales_and_mins_6bit`), and the codes against them.
fn pack_scales_6bit(
    x: &[f32],
    code_max: i32,
    (d_out, dmin_out, packed): (&mut Half, &mut Half, &mut [u8; 12]),
) -> [i32; LARGE] {
    let groups: [(f32, f32); 8] =
        std::array::from_fn(|g| affine_scale(&x[g * 32..][..32], code_max, Min::NotNegative));
    let (d, mut scales) = share(&groups.map(|g| g.0), 63);
    let (dmin, mut mins) = share(&groups.map(|g| g.1), 63);
    (*d_out, *dmin_out) = (store(d), store(dmin));
    let (d, dmin) = (float(*d_out), float(*dmin_out));
    for (g, x) in x.chunks_exact(32).enumerate() {
        (scales[g], mins[g]) = nearby((scales[g], mins[g]), 63, |scale, min| {
            affine_error(x, (d * scale as f32, dmin * min as f32), code_max)
        });
    }
    for i in 0..4 {
        packed[i] = (scales[i] | (scales[i + 4] >> 4) << 6) as u8;
        packed[i + 4] = (mins[i] | (mins[i + 4] >> 4) << 6) as u8;
        packed[i + 8] = ((scales[i + 4] & 15) | (mins[i + 4] & 15) << 4) as u8;
    }
    codes(
        x,
        |i| (d * scales[i / 32] as f32, dmin * mins[i / 32] as f32),
        (0, code_max),
    )
}

/// A scale and a min that were rounded each for itself, or neighbours that do better together.
fn nearby(rounded: (i32, i32), max: i32, error: impl Fn(i32, i32) -> f32) -> (i32, i32) {
    let (mut best, mut least) = (rounded, error(rounded.0, rounded.1));
    for scale in (rounded.0 - 1).max(0)..=(rounded.0 + 1).min(max) {
        for min in (rounded.1 - 1).max(0)..=(rounded.1 + 1).min(max) {
            let error = error(scale, min);
            if error < least {
                (best, least) = ((scale, min), error);
            }
        }
    }
    best
}

fn store(x: f32) -> Half {
    f16::from_f32(x).to_le_bytes()
}

/// The value of largest magnitude, with its sign.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(
        0.0,
        |best: f32, &v| if v.abs() > best.abs() { v } else { best },
    )
}

/// The nearest code of each weight for its stored `(scale, min)`.
fn codes<const N: usize>(
    x: &[f32],
    stored: impl Fn(usize) -> (f32, f32),
    (low, high): (i32, i32),
) -> [i32; N] {
    std::array::from_fn(|i| {
        let (scale, min) = stored(i);
        nearest((x[i] + min) * inverse(scale), low, high)
    })
}

fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn nearest(x: f32, low: i32, high: i32) -> i32 {
    (x.round_ties_even() as i32).clamp(low, high)
}

/// Steps of the search on each side of the range that just covers the group.
const STEPS: i32 = 9;

/// The scale with the least squared error for codes `low..=high`, `-low > high`. Negative where the value of largest
/// magnitude is positive, so that this value gets the code `low`, which reaches further.
fn symmetric_scale(x: &[f32], low: i32, high: i32) -> f32 {
    let largest = largest(x);
    let error = |scale: f32| {
        let inverse = inverse(scale);
        let miss = |v: &f32| v - scale * nearest(v * inverse, low, high) as f32;
        x.iter().map(|v| miss(v).powi(2)).sum::<f32>()
    };
    let candidates = (-STEPS..=STEPS).map(|step| largest / (low as f32 + 0.1 * step as f32));
    least(candidates, error)
}

/// Which mins a format can store.
#[derive(Clone, Copy, PartialEq)]
enum Min {
    Any,
    NotNegative,
}

/// `(scale, min)` with the least squared error for `scale · code − min`, codes `0..=code_max`.
fn affine_scale(x: &[f32], code_max: i32, kind: Min) -> (f32, f32) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let low = if kind == Min::NotNegative {
        low.min(0.0)
    } else {
        low
    };
    // The range divided by some number of steps, and then the line through the codes that this gives.
    let range = (high - low).max(0.0);
    let spread = (-STEPS..=STEPS).map(|step| (range / (code_max as f32 + 0.1 * step as f32), -low));
    let candidates = spread.flat_map(|first| {
        let codes = x
            .iter()
            .map(|v| (*v, affine_code(*v, first, code_max) as f32));
        [Some(first), line(codes, kind)]
    });
    let mut best = ((0.0, -low), f32::INFINITY);
    for candidate in candidates.flatten() {
        let error = affine_error(x, candidate, code_max);
        if error < best.1 {
            best = (candidate, error);
        }
    }
    best.0
}

/// The nearest code of `scale · code − min`.
fn affine_code(v: f32, (scale, min): (f32, f32), code_max: i32) -> i32 {
    nearest((v + min) * inverse(scale), 0, code_max)
}

/// The squared error that a scale and a min leave.
fn affine_error(x: &[f32], stored: (f32, f32), code_max: i32) -> f32 {
    let miss = |v: &f32| v + stored.1 - stored.0 * affine_code(*v, stored, code_max) as f32;
    x.iter().map(|v| miss(v).powi(2)).sum()
}

/// `(scale, min)` of the line `scale · code − min` with the least squared error to the values; `None` where all codes
/// are one.
fn line(pairs: impl Iterator<Item = (f32, f32)>, kind: Min) -> Option<(f32, f32)> {
    let [mut n, mut v, mut c, mut vc, mut cc] = [0.0_f32; 5];
    for (value, code) in pairs {
        n += 1.0;
        v += value;
        c += code;
        vc += value * code;
        cc += code * code;
    }
    let determinant = n * cc - c * c;
    if determinant <= 0.0 {
        return None;
    }
    let (scale, min) = (
        (n * vc - v * c) / determinant,
        (c * vc - cc * v) / determinant,
    );
    if kind == Min::NotNegative && min < 0.0 {
        return Some((vc / cc, 0.0));
    }
    Some((scale, min))
}

/// The candidate with the least error; the first of equals.
fn least(candidates: impl Iterator<Item = f32>, error: impl Fn(f32) -> f32) -> f32 {
    let best = |best: (f32, f32), scale: f32| {
        let error = error(scale);
        if error < best.1 { (scale, error) } else { best }
    };
    candidates.fold((0.0, f32::INFINITY), best).0
}

/// Group scales as integers up to `max` times one block scale.
fn share<const N: usize>(scales: &[f32; N], max: i32) -> (f32, [i32; N]) {
    let d = largest(scales) / max as f32;
    let inverse = inverse(float(store(d)));
    (d, scales.map(|scale| nearest(scale * inverse, -max, max)))
}

/// A scale for the IQ4 table: its entry of largest magnitude is −127.
fn table_scale(x: &[f32]) -> f32 {
    let largest = largest(x);
    let error = |scale: f32| {
        let miss = |v: &f32| v - scale * f32::from(IQ4_TABLE[nearest_in_table(*v, scale) as usize]);
        x.iter().map(|v| miss(v).powi(2)).sum::<f32>()
    };
    least(
        (-STEPS..=STEPS).map(|step| largest / (-127.0 + 3.0 * step as f32)),
        error,
    )
}

/// Index of the table's entry nearest to `x / scale`.
fn nearest_in_table(x: f32, scale: f32) -> i32 {
    let x = x * inverse(scale);
    // The table ascends: count the midpoints below x.
    let midpoints = IQ4_TABLE
        .windows(2)
        .map(|w| 0.5 * (f32::from(w[0]) + f32::from(w[1])));
    midpoints.filter(|middle| x > *middle).count() as i32
}

/// Codes `0..half` in low nibbles, the rest in high ones. A fifth bit is dropped.
fn pack_nibbles(codes: &[i32], out: &mut [u8]) {
    let (low, high) = codes.split_at(out.len());
    for ((byte, low), high) in out.iter_mut().zip(low).zip(high) {
        *byte = ((low & 15) | (high & 15) << 4) as u8;
    }
}

/// As `pack_nibbles`, in pieces of `N` codes.
fn pack_nibble_pairs<const N: usize>(codes: &[i32; LARGE], out: &mut [u8; LARGE / 2]) {
    for (codes, out) in codes.chunks_exact(N).zip(out.chunks_exact_mut(N / 2)) {
        pack_nibbles(codes, out);
    }
}

/// Two low bits of each code: four runs of 32 codes share 32 bytes.
fn pack_pairs(codes: &[i32; LARGE]) -> [u8; LARGE / 4] {
    let mut out = [0; LARGE / 4];
    for (i, code) in codes.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= ((code & 3) as u8) << (i % 128 / 32 * 2);
    }
    out
}

fn high_bits(codes: &[i32; SMALL]) -> [u8; 4] {
    let bit = |word: u32, (i, code): (usize, &i32)| word | (((code >> 4) & 1) as u32) << i;
    codes.iter().enumerate().fold(0, bit).to_le_bytes()
}
