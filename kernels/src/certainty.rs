//! Sums over a row of logits from which entropy and log-probabilities follow, for vectors of any width.
//!
//! ```text
//!  block of 1024   its maximum, then Σ eʸ and Σ y·eʸ with y = x − maximum so far, while it is in L1
//!  block to block  sums in f64; a new maximum shifts those of the blocks before
//! ```
//!
//! Every row is read once from where it lies. The order of operations depends on length and vector only, so a row gives
//! the same bits each time on the same instruction set. Source of the running maximum: Milakov and Gimelshein 2018,
//! algorithm 3, by blocks.

#![allow(unsafe_code, reason = "SIMD loads go through pointers")]

use crate::floats::Floats;

/// Logits in a block. Longer ones would leave L1, and add roundings to the sums; shorter ones cost more reductions.
const BLOCK: usize = 1024;

/// Independent maxima: latency times throughput of an instruction.
const CHAINS: usize = 4;

/// Independent sums. A weight takes long enough that two hide the latency, and with constants they fit 16 registers.
const SUMS: usize = 2;

/// The widest vector.
const LANES_MAX: usize = 16;

/// What one walk over a row yields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    /// Index of the greatest logit, the first of equals.
    pub(crate) top: usize,
    /// The greatest logit; −∞ where nothing is possible.
    pub(crate) max: f32,
    /// The greatest of the others.
    pub(crate) runner_up: f32,
    /// Σ eʸ with y = x − max: at least 1.
    pub(crate) sum: f64,
    /// Σ y · eʸ.
    pub(crate) weighted: f64,
}

impl Sums {
    pub(crate) const NONE: Sums = Sums {
        top: 0,
        max: f32::NEG_INFINITY,
        runner_up: f32::NEG_INFINITY,
        sum: 0.0,
        weighted: 0.0,
    };

    /// Takes a greater maximum: y of everything so far falls.
    fn raise(&mut self, max: f32) {
        if self.sum > 0.0 {
            let shift = f64::from(self.max) - f64::from(max);
            let scale = shift.exp();
            self.weighted = (self.weighted + shift * self.sum) * scale;
            self.sum *= scale;
        }
        self.runner_up = self.max;
        self.max = max;
    }
}

/// The sums of a row. NaN and −∞ count as impossible; after a +∞ nothing else matters, and the sums are left.
#[inline(always)]
pub(crate) fn sums<F: Floats>(logits: &[f32]) -> Sums {
    let mut sums = Sums::NONE;
    let mut best: &[f32] = &[];
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let max = greatest::<F>(block);
        if max > sums.max {
            sums.raise(max);
            sums.top = index * BLOCK;
            best = block;
        } else if max > sums.runner_up {
            sums.runner_up = max;
        }
        if max == f32::INFINITY {
            break;
        }
        if max > f32::NEG_INFINITY {
            let (sum, weighted) = add_up::<F>(block, sums.max);
            sums.sum += sum;
            sums.weighted += weighted;
        }
    }
    let Some(place) = best.iter().position(|x| *x == sums.max) else {
        return sums;
    };
    sums.top += place;
    let (before, after) = (&best[..place], &best[place + 1..]);
    for others in [before, after] {
        sums.runner_up = sums.runner_up.max(greatest::<F>(others));
    }
    sums
}

/// The greatest of a block, which NaN never is.
#[inline(always)]
fn greatest<F: Floats>(block: &[f32]) -> f32 {
    let mut lanes = [F::splat(f32::NEG_INFINITY); CHAINS];
    let chunks = block.chunks_exact(CHAINS * F::LANES);
    for (index, rest) in chunks.remainder().chunks(F::LANES).enumerate() {
        lanes[index] = load_part::<F>(rest).max(lanes[index]);
    }
    for chunk in chunks {
        for (chain, lane) in lanes.iter_mut().enumerate() {
            *lane = load::<F>(chunk, chain).max(*lane);
        }
    }
    let [a, b, c, d] = lanes;
    a.max(b).max(c.max(d)).greatest()
}

/// Σ eʸ and Σ y · eʸ of a block. What is impossible counts as 2⁻¹²⁴, which no sum that holds a 1 can tell from 0.
#[inline(always)]
fn add_up<F: Floats>(block: &[f32], max: f32) -> (f64, f64) {
    let max = F::splat(max);
    let mut sums = [[F::splat(0.0); 2]; SUMS];
    let chunks = block.chunks_exact(SUMS * F::LANES);
    for (index, rest) in chunks.remainder().chunks(F::LANES).enumerate() {
        sums[index] = add_one(load_part::<F>(rest), max, sums[index]);
    }
    for chunk in chunks {
        for (chain, sums) in sums.iter_mut().enumerate() {
            *sums = add_one(load(chunk, chain), max, *sums);
        }
    }
    let total = |which: usize| {
        let sums = sums.iter().map(|sums| f64::from(sums[which].sum()));
        sums.sum::<f64>()
    };
    (total(0), total(1))
}

/// One vector's eʸ and y · eʸ with `y = x − max`, added.
///
/// `y · log₂ e = n + f` with `|f| ≤ 1/2`; the polynomial of degree 4 is 2ᶠ within 3e-6 (least greatest relative error
/// with the constant 1, so that the greatest weighs exactly 1). Source: Muller, "Elementary Functions", sections 3 and
/// 11.
#[inline(always)]
fn add_one<F: Floats>(x: F, max: F, [sum, weighted]: [F; 2]) -> [F; 2] {
    /// Adding it rounds to an integer, which is then in the low bits: 1.5 · 2²³.
    const ROUND: f32 = 12_582_912.0;
    // NaN becomes LEAST, being the first operand.
    let y = x.sub(max).max(F::splat(LEAST));
    let log2_e = F::splat(std::f32::consts::LOG2_E);
    let rounded = y.mul_add(log2_e, F::splat(ROUND));
    let f = y.mul_add(log2_e, F::splat(ROUND).sub(rounded));
    let mut p = F::splat(EXP2[0]);
    for coefficient in &EXP2[1..] {
        p = f.mul_add(p, F::splat(*coefficient));
    }
    let weight = p.times_power_of_two(rounded);
    [sum.add(weight), y.mul_add(weight, weighted)]
}

/// 2ᶠ on −1/2..=1/2, the highest power first.
const EXP2: [f32; 5] = [9.582_87e-3, 5.590_646_8e-2, 0.240_240_99, 0.693_124_2, 1.0];

/// What is farther below the greatest counts as this far: its weight is 2⁻¹²⁴.
const LEAST: f32 = -86.0;

/// Vector `index` of a chunk.
#[inline(always)]
fn load<F: Floats>(chunk: &[f32], index: usize) -> F {
    let x = &chunk[index * F::LANES..][..F::LANES];
    // SAFETY: as many floats are readable.
    unsafe { F::load(x.as_ptr()) }
}

/// The last floats, and impossible ones up to a whole vector.
#[inline(always)]
fn load_part<F: Floats>(x: &[f32]) -> F {
    const { assert!(F::LANES <= LANES_MAX) };
    let mut whole = [f32::NEG_INFINITY; LANES_MAX];
    whole[..x.len()].copy_from_slice(x);
    load(&whole, 0)
}
