//! Rows of plausible random weights, written straight as blocks: gigabytes of benchmark model in seconds.

use half::{bf16, f16};

use super::Format;
use super::block::{
    Block, BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Half, blocks_mut,
};

/// Fills a row with random codes under fixed scales, so that weights have mean near 0 and standard deviation `std`. The
/// same seed gives the same bytes. Floats are uniform, codes are uniform over their range.
///
/// **Shapes** `out` is a whole number of blocks.
pub fn random_row(format: Format, seed: u64, std: f32, out: &mut [u8]) {
    assert!(
        out.len().is_multiple_of(format.block_bytes()),
        "a row is a whole number of blocks"
    );
    let mut random = SplitMix(seed);
    match format {
        Format::F32 => {
            for bytes in out.as_chunks_mut().0 {
                *bytes = (random.uniform() * std).to_le_bytes();
            }
        }
        Format::F16 => {
            for bytes in out.as_chunks_mut().0 {
                *bytes = f16::from_f32(random.uniform() * std).to_le_bytes();
            }
        }
        Format::Bf16 => {
            for bytes in out.as_chunks_mut().0 {
                *bytes = bf16::from_f32(random.uniform() * std).to_le_bytes();
            }
        }
        _ => random_blocks(format, &mut random, std, out),
    }
}

/// Random codes everywhere, then a fixed header in each block. The divisor of `std` is the deviation of a block's
/// weights at d = 1: sqrt((n² − 1) / 12) for n equally likely codes, times the fixed group scale.
fn random_blocks(format: Format, random: &mut SplitMix, std: f32, out: &mut [u8]) {
    random.fill(out);
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    // All eight scales 32 and all eight mins 32, in the packing of Q4_K: 32 is bit 5 of the low fields, and bits 4 and
    // 5 of the high fields sit in the two top bits of bytes 0..8.
    let packed_32 = [0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0, 0, 0, 0];
    match format {
        Format::Q4_0 => set(out, |b: &mut BlockQ4_0| b.d = half(std / 4.610)),
        Format::Q4_1 => {
            let (d, m) = affine(std / 4.610, 7.5);
            set(out, |b: &mut BlockQ4_1| (b.d, b.m) = (d, m));
        }
        Format::Q5_0 => set(out, |b: &mut BlockQ5_0| b.d = half(std / 9.233)),
        Format::Q5_1 => {
            let (d, m) = affine(std / 9.233, 15.5);
            set(out, |b: &mut BlockQ5_1| (b.d, b.m) = (d, m));
        }
        Format::Q8_0 => set(out, |b: &mut BlockQ8_0| b.d = half(std / 73.90)),
        Format::Q2K => set(out, |b: &mut BlockQ2K| {
            b.scales = [0x88; 16];
            b.d = half(std / (8.0 * 1.118));
            b.dmin = half(std / (8.0 * 1.118) * 1.5);
        }),
        Format::Q3K => set(out, |b: &mut BlockQ3K| {
            // Low bits 0, high bits 3: scale 48 − 32 = 16.
            b.scales[..8].fill(0);
            b.scales[8..].fill(0xff);
            b.d = half(std / (16.0 * 2.291));
        }),
        Format::Q4K => set(out, |b: &mut BlockQ4K| {
            b.scales = packed_32;
            b.d = half(std / (32.0 * 4.610));
            b.dmin = half(std / (32.0 * 4.610) * 7.5);
        }),
        Format::Q5K => set(out, |b: &mut BlockQ5K| {
            b.scales = packed_32;
            b.d = half(std / (32.0 * 9.233));
            b.dmin = half(std / (32.0 * 9.233) * 15.5);
        }),
        Format::Q6K => set(out, |b: &mut BlockQ6K| {
            b.scales = [64; 16];
            b.d = half(std / (64.0 * 18.47));
        }),
        Format::Iq4Nl => set(out, |b: &mut BlockIq4Nl| b.d = half(std / IQ4_DEVIATION)),
        Format::Iq4Xs => set(out, |b: &mut BlockIq4Xs| {
            // Low bits 0, high bits 3: scale 48 − 32 = 16.
            b.scales_low = [0; 4];
            b.scales_high = [0xff; 2];
            b.d = half(std / (16.0 * IQ4_DEVIATION));
        }),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no blocks"),
    }
}

/// Standard deviation of the IQ4 table under equally likely codes.
const IQ4_DEVIATION: f32 = 67.2;

/// `d` and `m` of `d · code + m` with mean zero, as stored.
fn affine(d: f32, mean_code: f32) -> (Half, Half) {
    (
        f16::from_f32(d).to_le_bytes(),
        f16::from_f32(-d * mean_code).to_le_bytes(),
    )
}

fn set<B: Block>(out: &mut [u8], header: impl Fn(&mut B)) {
    blocks_mut(out).iter_mut().for_each(header);
}

/// SplitMix64: fast, seedable, statistically sound for weights.
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform with mean 0 and deviation 1: in ±√3.
    fn uniform(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
        (unit - 0.5) * 3.464_101_6
    }

    fn fill(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        for (byte, random) in rest.iter_mut().zip(last) {
            *byte = random;
        }
    }
}
