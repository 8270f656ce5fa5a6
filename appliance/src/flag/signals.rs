//! What decoding tells of one answer: gathered token by token on the engine thread, without the heap.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "statistics of values that are clamped first; a sum in f64 becomes a signal in f32"
)]

use crate::sampler::splitmix;

/// Tokens of the sliding window whose lowest confidence is kept.
pub const WINDOW_TOKENS: usize = 16;

/// Tokens at the end whose confidence is kept, and the longest period of a loop.
pub const TAIL_TOKENS: usize = 64;

/// One token as it was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the model, before penalties: `Certainty::logprob`.
    pub logprob: f32,
    /// Entropy of what it was drawn from, in nats.
    pub entropy: f32,
    /// p₁ − p₂ of what it was drawn from.
    pub margin: f32,
}

/// What the tokens of one running sequence said so far.
///
/// Calling order: `push` for each drawn token, `signals` at the end. Numbers that are not finite are taken for the
/// worst ones, so that a broken row makes a hard case and no panic.
///
/// Memory: 2,360 bytes. Cost: `docs/flagging.md`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSignals {
    tokens: u32,
    /// Log-probabilities in units of 2⁻¹⁶, so that what a window loses is exactly what it had gained.
    logprobs: [i32; TAIL_TOKENS],
    logprob_sum: i64,
    window_sum: i64,
    window_sum_min: i64,
    tail_sum: i64,
    entropy_sum: f64,
    entropy_max: f32,
    /// Margins by quarters of octaves below 1.
    margins: [u32; MARGIN_BINS],
    /// The last tokens twice, so that the last 64 always lie in one piece, oldest first.
    recent: [u32; 2 * TAIL_TOKENS],
    /// For each distance back, from 64 down to 1: how many of the last tokens equal the token that far before them.
    runs: [u32; TAIL_TOKENS],
    /// Fingerprints of n-grams, at the place that their hash names; a newer one replaces an older.
    grams: [u16; GRAMS],
    grams_repeated: u32,
}

/// Least log-probability that counts: e⁻¹⁰⁰ is as good as impossible.
const LOGPROB_MIN: f32 = -100.0;
/// Units of a log-probability of 1.
const UNIT: f32 = 65_536.0;
/// No entropy of a vocabulary is above: ln 2³².
const ENTROPY_MAX: f32 = 22.2;
/// 16 octaves in quarters: the last bin takes all margins below 2⁻¹⁶.
const MARGIN_BINS: usize = 64;
const GRAMS: usize = 512;
/// Tokens of an n-gram. Source: Holtzman et al. 2020, section 5 (repetition), with n as in fairseq's blocking of
/// 4-grams.
const GRAM_TOKENS: usize = 4;
const _: () = assert!(WINDOW_TOKENS <= TAIL_TOKENS && GRAM_TOKENS <= TAIL_TOKENS);
const _: () = assert!(size_of::<TokenSignals>() == 2360);

impl Default for TokenSignals {
    fn default() -> Self {
        Self::new()
    }
}

impl TokenSignals {
    /// Before the first token.
    pub const fn new() -> Self {
        Self {
            tokens: 0,
            logprobs: [0; TAIL_TOKENS],
            logprob_sum: 0,
            window_sum: 0,
            window_sum_min: i64::MAX,
            tail_sum: 0,
            entropy_sum: 0.0,
            entropy_max: 0.0,
            margins: [0; MARGIN_BINS],
            recent: [u32::MAX; 2 * TAIL_TOKENS],
            runs: [0; TAIL_TOKENS],
            grams: [0; GRAMS],
            grams_repeated: 0,
        }
    }

    /// Takes a drawn token.
    ///
    /// Cost: no allocation, no loop but over 64 distances.
    pub fn push(&mut self, drawn: Drawn) {
        let index = self.tokens as usize;
        let place = index % TAIL_TOKENS;
        self.push_logprob(index, drawn.logprob);
        let entropy = finite(drawn.entropy, ENTROPY_MAX).clamp(0.0, ENTROPY_MAX);
        self.entropy_sum += f64::from(entropy);
        self.entropy_max = self.entropy_max.max(entropy);
        self.margins[margin_bin(finite(drawn.margin, 0.0))] += 1;

        let before = &self.recent[place..place + TAIL_TOKENS];
        for (run, token) in self.runs.iter_mut().zip(before) {
            *run = if *token == drawn.token { *run + 1 } else { 0 };
        }
        self.recent[place] = drawn.token;
        self.recent[place + TAIL_TOKENS] = drawn.token;
        if index + 1 >= GRAM_TOKENS {
            self.push_gram(place + TAIL_TOKENS);
        }
        self.tokens = self.tokens.saturating_add(1);
    }

    fn push_logprob(&mut self, index: usize, logprob: f32) {
        let logprob = finite(logprob, LOGPROB_MIN).clamp(LOGPROB_MIN, 0.0);
        let units = (logprob * UNIT) as i32;
        let place = index % TAIL_TOKENS;
        if index >= WINDOW_TOKENS {
            let left = (place + TAIL_TOKENS - WINDOW_TOKENS) % TAIL_TOKENS;
            self.window_sum -= i64::from(self.logprobs[left]);
        }
        if index >= TAIL_TOKENS {
            self.tail_sum -= i64::from(self.logprobs[place]);
        }
        self.logprobs[place] = units;
        self.logprob_sum += i64::from(units);
        self.window_sum += i64::from(units);
        self.tail_sum += i64::from(units);
        if index + 1 >= WINDOW_TOKENS {
            self.window_sum_min = self.window_sum_min.min(self.window_sum);
        }
    }

    /// Looks the n-gram that ends at `last` up, and leaves it there.
    fn push_gram(&mut self, last: usize) {
        let gram = &self.recent[last + 1 - GRAM_TOKENS..=last];
        let hash = gram
            .iter()
            .fold(0, |hash, token| splitmix(hash ^ u64::from(*token)));
        // A place that was never used has 0, which no fingerprint is.
        let fingerprint = (hash >> 48) as u16 | 1;
        let kept = &mut self.grams[hash as usize % GRAMS];
        self.grams_repeated += u32::from(*kept == fingerprint);
        *kept = fingerprint;
    }

    /// What the tokens said.
    pub fn signals(&self) -> Signals {
        let tokens = self.tokens as usize;
        if tokens == 0 {
            return Signals::default();
        }
        let mean = |sum: i64, count: usize| (sum as f64 / f64::from(UNIT) / count as f64) as f32;
        let window_logprob = if tokens < WINDOW_TOKENS {
            mean(self.logprob_sum, tokens)
        } else {
            mean(self.window_sum_min, WINDOW_TOKENS)
        };
        let grams = (tokens + 1).saturating_sub(GRAM_TOKENS).max(1);
        Signals {
            tokens: self.tokens,
            mean_nll: -mean(self.logprob_sum, tokens),
            entropy_mean: (self.entropy_sum / tokens as f64) as f32,
            entropy_max: self.entropy_max,
            window_logprob,
            tail_logprob: mean(self.tail_sum, tokens.min(TAIL_TOKENS)),
            margin_p05: self.margin_p05(),
            repetition: self.grams_repeated as f32 / grams as f32,
            loop_tokens: self.loop_tokens(),
        }
    }

    /// The margin below which a twentieth of the tokens lie, from the middle of its bin.
    fn margin_p05(&self) -> f32 {
        let rank = self.tokens.div_ceil(20);
        let mut below = 0;
        for (bin, count) in self.margins.iter().enumerate().rev() {
            below += count;
            if below >= rank {
                return (-(bin as f32 + 0.5) / 4.0).exp2();
            }
        }
        1.0
    }

    /// Tokens at the end that are at least three copies of the same.
    fn loop_tokens(&self) -> u32 {
        let distances = (1..=TAIL_TOKENS as u32).rev();
        let loops = self.runs.iter().zip(distances);
        let loops = loops.filter(|(run, distance)| **run >= 2 * distance);
        loops
            .map(|(run, distance)| run + distance)
            .max()
            .unwrap_or(0)
    }
}

/// Quarters of an octave that a margin is below 1.
fn margin_bin(margin: f32) -> usize {
    // A cast from float saturates, so that a margin of 0 is in the last bin.
    ((-4.0 * margin.clamp(0.0, 1.0).log2()) as usize).min(MARGIN_BINS - 1)
}

/// The value, or the worst one in place of what is no number.
fn finite(value: f32, worst: f32) -> f32 {
    if value.is_finite() { value } else { worst }
}

/// What the tokens of an answer said, as it travels from the engine thread.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signals {
    /// Tokens drawn. With none of them, everything else is 0.
    pub tokens: u32,
    /// Mean negative log-likelihood of the drawn tokens, in nats.
    pub mean_nll: f32,
    /// Mean entropy, in nats.
    pub entropy_mean: f32,
    /// The greatest entropy.
    pub entropy_max: f32,
    /// Lowest mean log-probability of 16 tokens in a row; of all where there are fewer.
    pub window_logprob: f32,
    /// Mean log-probability of the last 64 tokens.
    pub tail_logprob: f32,
    /// Fifth percentile of p₁ − p₂, within an eighth of an octave; 2⁻¹⁶ is the least that is told apart.
    pub margin_p05: f32,
    /// Share of 4-grams that stood among the last few hundred before.
    pub repetition: f32,
    /// Tokens at the end that are at least three copies of the same, of a period up to 64; 0 without a loop.
    pub loop_tokens: u32,
}

impl Signals {
    /// `exp(mean_nll)`.
    pub fn perplexity(&self) -> f32 {
        self.mean_nll.exp()
    }

    /// The signals in the order of [`super::Flag::SIGNALS`], each so that more is harder.
    pub(super) fn hardness(&self) -> [f32; super::SIGNALS] {
        // 0 for an answer without tokens; f32::max takes NaN to the other side.
        let margin = if self.tokens == 0 {
            0.0
        } else {
            -self.margin_p05.max(f32::MIN_POSITIVE).ln()
        };
        [
            self.mean_nll,
            self.entropy_mean,
            self.entropy_max,
            -self.window_logprob,
            -self.tail_logprob,
            margin,
            self.repetition,
        ]
    }
}
