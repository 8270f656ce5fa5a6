//! From logits to the next token.
//!
//! Greedy needs one pass over the vocabulary, another cut two: what survives top-k, top-p or min-p is bounded from
//! maxima or weights of the whole, so that only a few hundred candidates are ever sorted.

use outstation_kernels::isa::{self, Isa};
use outstation_kernels::ops::softmax_weights;
use rand_core::Rng;
use rand_pcg::Pcg64Mcg;

use crate::request::Sampling;

/// Working memory of sampling, shared by all sequences.
///
/// Memory: 13 bytes per token of the vocabulary and 4 per block of them.
#[derive(Debug)]
pub struct SamplerSpace {
    isa: Isa,
    /// Softmax weights: 1 for the likeliest token.
    weights: Box<[f32]>,
    /// Maxima of blocks of logits, or sums of blocks of weights.
    blocks: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Whether a token was met while walking a history. All false between calls.
    seen: Box<[bool]>,
}

/// Tokens whose maximum or sum is kept.
const BLOCK: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// What the sampler knows of one sequence when it draws.
#[derive(Debug, Clone, Copy)]
pub struct Drawing<'a> {
    /// The request's parameters.
    pub sampling: &'a Sampling,
    /// Prompt and answer so far.
    pub history: &'a [u32],
    /// Where the answer begins in `history`.
    pub prompt_tokens: usize,
    /// Tokens that may not be drawn yet: the ends of sequence, before `min_tokens`.
    pub forbidden: &'a [u32],
    /// Where the answer has a form, a bit for each token that may be drawn, 32 in a word, the first in the lowest.
    pub allowed: Option<&'a [u32]>,
}

impl Drawing<'_> {
    /// Whether the likeliest token of the logits as they are is drawn.
    pub fn is_plainly_greedy(&self) -> bool {
        self.sampling.temperature == 0.0 && self.leaves_logits() && self.allowed.is_none()
    }

    /// Whether no logit is changed before the draw, unless to forbid what is not `allowed`.
    pub fn leaves_logits(&self) -> bool {
        let sampling = self.sampling;
        sampling.logit_bias.is_empty()
            && sampling.repetition_penalty == 1.0
            && sampling.presence_penalty == 0.0
            && sampling.frequency_penalty == 0.0
            && self.forbidden.is_empty()
    }

    /// The random number that a draw takes, in 2⁻⁵³; greedy ones take none.
    pub fn unit(&self, rng: &mut Generator) -> u64 {
        if self.sampling.temperature == 0.0 {
            return 0;
        }
        rng.bits()
    }

    /// A token's logit before bias and penalties, from what `draw` left.
    pub fn logit_before(&self, logit: f32, token: u32) -> f32 {
        let sampling = self.sampling;
        let mut logit = logit;
        let answer = &self.history[self.prompt_tokens..];
        if sampling.presence_penalty != 0.0 && answer.contains(&token) {
            logit += sampling.presence_penalty;
        }
        if sampling.frequency_penalty != 0.0 {
            let times = answer.iter().filter(|&&other| other == token).count();
            logit += sampling.frequency_penalty * times as f32;
        }
        if sampling.repetition_penalty != 1.0 && self.history.contains(&token) {
            logit *= if logit > 0.0 {
                sampling.repetition_penalty
            } else {
                sampling.repetition_penalty.recip()
            };
        }
        let biases = sampling.logit_bias.iter();
        let bias: f32 = biases
            .filter(|bias| bias.0 == token)
            .map(|bias| bias.1)
            .sum();
        logit - bias
    }
}

impl SamplerSpace {
    /// Working memory for a vocabulary.
    pub fn new(vocabulary: u32) -> Self {
        let vocabulary = vocabulary as usize;
        assert!(vocabulary > 0, "a vocabulary has tokens");
        Self {
            isa: isa::detect(),
            weights: vec![0.0; vocabulary].into_boxed_slice(),
            blocks: Vec::with_capacity(vocabulary.div_ceil(BLOCK)),
            candidates: Vec::with_capacity(vocabulary),
            seen: vec![false; vocabulary].into_boxed_slice(),
        }
    }

    /// Bytes that `new` takes.
    pub fn bytes(vocabulary: u32) -> u64 {
        let tokens = u64::from(vocabulary);
        tokens * (size_of::<Candidate>() as u64 + 4 + 1) + tokens.div_ceil(BLOCK as u64) * 4
    }

    /// Draws the next token. The logits are changed in place.
    ///
    /// Shapes: `logits` has one value for each token of the vocabulary. NaN counts as impossible; if nothing is
    /// possible, token 0.
    pub fn draw(&mut self, logits: &mut [f32], drawing: &Drawing<'_>, rng: &mut Generator) -> u32 {
        assert_eq!(logits.len(), self.seen.len(), "one logit for each token");
        let sampling = drawing.sampling;
        for &(token, bias) in &sampling.logit_bias {
            logits[token as usize] += bias;
        }
        self.penalize(logits, drawing);
        for &token in drawing.forbidden {
            logits[token as usize] = f32::NEG_INFINITY;
        }
        if let Some(allowed) = drawing.allowed {
            forbid_others(logits, allowed);
        }
        if sampling.temperature == 0.0 {
            return argmax(logits);
        }
        self.draw_random(logits, sampling, rng)
    }

    /// Repetition penalty on everything seen, presence and frequency penalty on the answer.
    ///
    /// Source: Keskar et al. 2019, section 4.1 (repetition); OpenAI API reference (presence, frequency).
    fn penalize(&mut self, logits: &mut [f32], drawing: &Drawing<'_>) {
        let Sampling {
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            ..
        } = *drawing.sampling;
        if repetition_penalty != 1.0 {
            self.once_each(drawing.history, |token| {
                let logit = &mut logits[token];
                *logit *= if *logit > 0.0 {
                    repetition_penalty.recip()
                } else {
                    repetition_penalty
                };
            });
        }
        let answer = &drawing.history[drawing.prompt_tokens..];
        if frequency_penalty != 0.0 {
            for &token in answer {
                logits[token as usize] -= frequency_penalty;
            }
        }
        if presence_penalty != 0.0 {
            self.once_each(answer, |token| logits[token] -= presence_penalty);
        }
    }

    fn once_each(&mut self, tokens: &[u32], mut act: impl FnMut(usize)) {
        for &token in tokens {
            let token = token as usize;
            if !self.seen[token] {
                self.seen[token] = true;
                act(token);
            }
        }
        for &token in tokens {
            self.seen[token as usize] = false;
        }
    }

    fn draw_random(&mut self, logits: &[f32], sampling: &Sampling, rng: &mut Generator) -> u32 {
        let max = largest(logits);
        if !max.is_finite() {
            return argmax(logits);
        }
        let top_k = match sampling.top_k as usize {
            0 => logits.len(),
            k => k.min(logits.len()),
        };
        if top_k < logits.len() {
            self.keep_largest(logits, top_k);
            // The likeliest k and those that are no less than the k-th: a few, whose weights are soon computed.
            return self.draw_of_candidates(max, top_k, None, sampling, rng);
        }
        // Divided by the temperature, not multiplied by the reciprocal, which is infinite for the smallest.
        softmax_weights(
            self.isa,
            logits,
            max,
            sampling.temperature,
            &mut self.weights,
        );
        self.blocks.clear();
        self.blocks.extend(self.weights.chunks(BLOCK).map(sum));
        let total: f64 = self.blocks.iter().map(|sum| f64::from(*sum)).sum();
        if sampling.top_p >= 1.0 && sampling.min_p <= 0.0 {
            return self.pick_of_all(total, rng);
        }
        // All tokens below this weight together have less than 1 − top-p of the mass, so those above hold what is kept.
        let tail = (1.0 - f64::from(sampling.top_p)) * total / logits.len() as f64;
        let least = tail.max(f64::from(sampling.min_p)).max(f64::MIN_POSITIVE);
        self.candidates.clear();
        for (token, (&logit, &weight)) in (0u32..).zip(logits.iter().zip(&self.weights)) {
            if f64::from(weight) >= least {
                self.candidates.push(Candidate { logit, token });
            }
        }
        self.draw_of_candidates(max, self.candidates.len(), Some(total), sampling, rng)
    }

    /// Makes candidates of the largest `count` logits, of their equals, and of few others.
    fn keep_largest(&mut self, logits: &[f32], count: usize) {
        self.blocks.clear();
        self.blocks.extend(logits.chunks(BLOCK).map(largest));
        // As many logits are no less than the count-th largest of the maxima.
        let least = if count <= self.blocks.len() {
            let descending = |a: &f32, b: &f32| b.total_cmp(a);
            *self.blocks.select_nth_unstable_by(count - 1, descending).1
        } else {
            f32::NEG_INFINITY
        };
        self.candidates.clear();
        for (token, &logit) in (0u32..).zip(logits) {
            if logit >= least && logit > f32::NEG_INFINITY {
                self.candidates.push(Candidate { logit, token });
            }
        }
    }

    /// Draws from the likeliest `top_k` candidates, less what top-p and min-p cut. `total` is the weight that top-p is
    /// a share of, where it is not that of these `top_k`.
    fn draw_of_candidates(
        &mut self,
        max: f32,
        top_k: usize,
        total: Option<f64>,
        sampling: &Sampling,
        rng: &mut Generator,
    ) -> u32 {
        // p ∝ exp((logit − max) / temperature); the likeliest has weight 1, so min-p is a bound on the weight itself.
        let weight = |logit: f32| f64::from(((logit - max) / sampling.temperature).exp());
        let kept = self.most_likely(top_k, total, sampling, weight);
        let kept = &self.candidates[..kept];
        let total: f64 = kept.iter().map(|c| weight(c.logit)).sum();
        let mut rest = rng.unit() * total;
        for candidate in kept {
            rest -= weight(candidate.logit);
            if rest < 0.0 {
                return candidate.token;
            }
        }
        kept.last().expect("at least the likeliest is kept").token
    }

    /// Draws by the weights of all tokens, given their blocks' sums.
    fn pick_of_all(&self, total: f64, rng: &mut Generator) -> u32 {
        let mut rest = rng.unit() * total;
        let mut last = 0;
        for (index, (weights, sum)) in self.weights.chunks(BLOCK).zip(&self.blocks).enumerate() {
            if rest >= f64::from(*sum) {
                rest -= f64::from(*sum);
                continue;
            }
            for (place, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                last = index * BLOCK + place;
                rest -= f64::from(*weight);
                if rest < 0.0 {
                    return token(last);
                }
            }
        }
        // Only by rounding: the sums of blocks are in f32.
        if self.weights[last] > 0.0 {
            return token(last);
        }
        let possible = self.weights.iter().rposition(|weight| *weight > 0.0);
        token(possible.expect("the likeliest has weight 1"))
    }

    /// Brings the candidates that survive top-k, top-p and min-p to the front, likeliest first; returns how many they
    /// are.
    fn most_likely(
        &mut self,
        top_k: usize,
        total: Option<f64>,
        sampling: &Sampling,
        weight: impl Fn(f32) -> f64,
    ) -> usize {
        let descending =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let top_k = top_k.min(self.candidates.len());
        // Top-p is a share of what top-k left; until the k are known their sum is not, so a cut by both sorts all k.
        let mut window = match total {
            Some(_) => CANDIDATES_FIRST.min(top_k),
            None => top_k,
        };
        loop {
            if window < self.candidates.len() {
                self.candidates.select_nth_unstable_by(window, descending);
            }
            let front = &mut self.candidates[..window];
            front.sort_unstable_by(descending);
            let whole = total.unwrap_or_else(|| front.iter().map(|c| weight(c.logit)).sum());
            let mut sum = 0.0;
            for (index, candidate) in front.iter().enumerate() {
                let w = weight(candidate.logit);
                if index > 0 && w < f64::from(sampling.min_p) {
                    return index;
                }
                sum += w;
                if sampling.top_p < 1.0 && sum >= f64::from(sampling.top_p) * whole {
                    return index + 1;
                }
            }
            if window == top_k {
                return top_k;
            }
            window = (window * 4).min(top_k);
        }
    }
}

/// Takes away what is not allowed; what is past the last word is not.
fn forbid_others(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn token(index: usize) -> u32 {
    u32::try_from(index).expect("a token of the vocabulary")
}

/// The largest value; NaN never counts. In lanes, so that it becomes vectors.
fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// The sum of a block's weights, in lanes.
fn sum(weights: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks, rest) = weights.as_chunks::<16>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().chain(rest).sum()
}

/// Candidates that are sorted first. Most cuts by top-p need fewer.
const CANDIDATES_FIRST: usize = 128;

/// The random numbers of one request.
#[derive(Debug, Clone)]
pub struct Generator(Pcg64Mcg);

impl Generator {
    /// A generator that gives the same numbers for the same seed, on every machine.
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::new(
            u128::from(splitmix(seed)) << 64 | u128::from(splitmix(!seed)),
        ))
    }

    /// Uniform below 2⁵³.
    fn bits(&mut self) -> u64 {
        self.0.next_u64() >> 11
    }

    /// Uniform in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.bits() as f64 / (1u64 << 53) as f64
    }
}

/// Spreads a small seed over all bits. Source: Steele, Lea and Flood 2014, SplitMix.
pub fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The index of the largest value, the first of equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let largest = largest(logits);
    let first = logits
        .iter()
        .position(|&logit| logit == largest && logit > f32::NEG_INFINITY);
    token(first.unwrap_or(0))
}

#[cfg(test)]
mod tests;
