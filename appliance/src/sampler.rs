//! From logits to the next token.
//!
//! Greedy needs one pass over the vocabulary. Otherwise the likeliest candidates are selected without sorting the rest:
//! the window of candidates doubles until it holds what top-p asks for.

use rand_core::Rng;
use rand_pcg::Pcg64Mcg;

use crate::request::Sampling;

/// Working memory of sampling, shared by all sequences: one vocabulary of candidates and marks.
///
/// Memory: 9 bytes per token of the vocabulary.
#[derive(Debug)]
pub struct SamplerSpace {
    candidates: Vec<Candidate>,
    /// Whether a token was met while walking a history. All false between calls.
    seen: Box<[bool]>,
}

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
}

impl SamplerSpace {
    /// Working memory for a vocabulary.
    pub fn new(vocabulary: u32) -> Self {
        let vocabulary = vocabulary as usize;
        assert!(vocabulary > 0, "a vocabulary has tokens");
        Self {
            candidates: Vec::with_capacity(vocabulary),
            seen: vec![false; vocabulary].into_boxed_slice(),
        }
    }

    /// Bytes that `new` takes.
    pub fn bytes(vocabulary: u32) -> u64 {
        u64::from(vocabulary) * (size_of::<Candidate>() as u64 + 1)
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
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !max.is_finite() {
            return argmax(logits);
        }
        // p ∝ exp((logit - max) / temperature); the likeliest has weight 1, so min-p is a bound on the weight itself.
        // Divided, not multiplied by the reciprocal, which is infinite for the smallest temperatures.
        let weight = |logit: f32| f64::from(((logit - max) / sampling.temperature).exp());
        self.candidates.clear();
        let mut total = 0.0;
        for (token, &logit) in (0u32..).zip(logits) {
            if logit > f32::NEG_INFINITY {
                total += weight(logit);
                self.candidates.push(Candidate { logit, token });
            }
        }
        let all = self.candidates.len();
        let top_k = match sampling.top_k as usize {
            0 => all,
            k => k.min(all),
        };
        let cut = top_k < all || sampling.top_p < 1.0 || sampling.min_p > 0.0;
        if !cut {
            return pick(&self.candidates, total, weight, rng);
        }
        let window = self.most_likely(top_k, total, sampling, weight);
        let kept = &self.candidates[..window];
        pick(
            kept,
            kept.iter().map(|c| weight(c.logit)).sum(),
            weight,
            rng,
        )
    }

    /// Brings the candidates that survive top-k, top-p and min-p to the front, likeliest first; returns how many they
    /// are.
    fn most_likely(
        &mut self,
        top_k: usize,
        total: f64,
        sampling: &Sampling,
        weight: impl Fn(f32) -> f64,
    ) -> usize {
        let descending =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let mut window = CANDIDATES_FIRST.min(top_k);
        // Top-p is a share of what top-k left; until the k are known their sum is not, so a cut by both sorts all k.
        if top_k < self.candidates.len() {
            window = top_k;
        }
        loop {
            if window < self.candidates.len() {
                self.candidates.select_nth_unstable_by(window, descending);
            }
            let front = &mut self.candidates[..window];
            front.sort_unstable_by(descending);
            let whole = if window == top_k {
                front.iter().map(|c| weight(c.logit)).sum()
            } else {
                total
            };
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

    /// Uniform in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Spreads a small seed over all bits. Source: Steele, Lea and Flood 2014, SplitMix.
pub fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn pick(kept: &[Candidate], total: f64, weight: impl Fn(f32) -> f64, rng: &mut Generator) -> u32 {
    let mut rest = rng.unit() * total;
    for candidate in kept {
        rest -= weight(candidate.logit);
        if rest < 0.0 {
            return candidate.token;
        }
    }
    kept.last().expect("at least the likeliest is kept").token
}

/// The index of the largest value, the first of equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut best_logit = f32::NEG_INFINITY;
    for (token, &logit) in (0u32..).zip(logits) {
        if logit > best_logit {
            best = token;
            best_logit = logit;
        }
    }
    best
}

#[cfg(test)]
mod tests;
