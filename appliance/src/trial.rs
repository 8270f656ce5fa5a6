//! Whether a model on trial may stay: what its requests saw, against what those of the model before it saw.
//!
//! ```text
//! request ends ─▶ Case ─▶ Window (of the model that answered) ─┐
//!                         Window (of the one before)  ──────────┴─▶ judge ─▶ Pass · Wait · Fail, with numbers
//! ```
//!
//! A bound is looked at when both windows have enough requests for it, so that one slow answer condemns nobody, and a
//! model that nobody asks is judged by its self-test alone.

use std::time::Duration;

use outstation_wire::release::Gates;

#[cfg(test)]
mod tests;

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// From the first step that carried it to its first token, in steps of its own model.
    pub prefill: Option<Duration>,
    /// Between two tokens, in the mean, in steps of its own model.
    pub itl: Option<Duration>,
    /// How it ended.
    pub end: CaseEnd,
    /// Its prompt, in tokens that were read.
    pub prompt_tokens: u32,
    /// Mean entropy of its tokens, nats, where that is measured.
    pub entropy: Option<f32>,
    /// Whether its form is broken: a call or JSON that does not parse.
    pub invalid: bool,
}

/// How a request ended, as far as a model is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseEnd {
    /// The model said that it was done.
    Stop,
    /// It was cut at its length.
    Length,
    /// The box did not do what it had promised.
    Failed,
}

/// What requests of one model saw.
#[derive(Debug, Clone)]
pub struct Window {
    requests: u64,
    failed: u64,
    length: u64,
    invalid: u64,
    prefill: Times,
    itl: Times,
    entropy: [u64; ENTROPY_BINS],
    energy: Energy,
}

/// What the requests of a window took of which that is known.
#[derive(Debug, Clone, Copy, Default)]
struct Energy {
    requests: u64,
    mj: u64,
    tokens: u64,
}

impl Energy {
    fn mj_per_token(&self) -> f64 {
        self.mj as f64 / self.tokens.max(1) as f64
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            requests: 0,
            failed: 0,
            length: 0,
            invalid: 0,
            prefill: Times::default(),
            itl: Times::default(),
            entropy: [0; ENTROPY_BINS],
            energy: Energy::default(),
        }
    }
}

/// Bins of the entropy of answers: 0.25 nats each, the last one open.
const ENTROPY_BINS: usize = 24;
const ENTROPY_BIN_NATS: f32 = 0.25;

/// A histogram of times, eight bins an octave from 1 µs on: what it says is right to 9 %.
#[derive(Debug, Clone)]
struct Times {
    bins: [u64; TIME_BINS],
    count: u64,
}

const TIME_BINS: usize = 8 * 30;

impl Default for Times {
    fn default() -> Self {
        Self {
            bins: [0; TIME_BINS],
            count: 0,
        }
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        let micros = time.as_secs_f64() * 1e6;
        let octaves = micros.max(1.0).log2() * 8.0;
        let bin = (0..TIME_BINS - 1).find(|&bin| octaves < (bin + 1) as f64);
        self.bins[bin.unwrap_or(TIME_BINS - 1)] += 1;
        self.count += 1;
    }

    /// The time that 95 of 100 do not exceed, seconds: the upper edge of its bin.
    fn p95(&self) -> f64 {
        let wanted = (self.count * 95).div_ceil(100);
        let mut seen = 0;
        let bin = self.bins.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        2_f64.powf((bin.unwrap_or(0) + 1) as f64 / 8.0) * 1e-6
    }
}

impl Window {
    /// Takes in how a request went.
    pub fn add(&mut self, case: &Case) {
        self.requests += 1;
        match case.end {
            CaseEnd::Stop => {}
            CaseEnd::Length => self.length += 1,
            CaseEnd::Failed => self.failed += 1,
        }
        self.invalid += u64::from(case.invalid);
        if let Some(prefill) = case.prefill {
            // Long prompts take long with any model.
            self.prefill.add(prefill / case.prompt_tokens.max(1));
        }
        if let Some(itl) = case.itl {
            self.itl.add(itl);
        }
        if let Some(entropy) = case.entropy {
            let bin = (1..ENTROPY_BINS).find(|&bin| entropy < bin as f32 * ENTROPY_BIN_NATS);
            self.entropy[bin.unwrap_or(ENTROPY_BINS) - 1] += 1;
        }
    }

    /// Takes in what a request took, and for how many tokens. It may have ended a while ago.
    pub fn add_energy(&mut self, mj: u64, tokens: u32) {
        self.energy.requests += 1;
        self.energy.mj += mj;
        self.energy.tokens += u64::from(tokens);
    }

    /// Requests that are in it.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.length += other.length;
        self.invalid += other.invalid;
        for (mine, theirs) in [
            (&mut self.prefill, &other.prefill),
            (&mut self.itl, &other.itl),
        ] {
            mine.count += theirs.count;
            for (mine, theirs) in mine.bins.iter_mut().zip(&theirs.bins) {
                *mine += theirs;
            }
        }
        for (mine, theirs) in self.entropy.iter_mut().zip(&other.entropy) {
            *mine += theirs;
        }
        self.energy.requests += other.energy.requests;
        self.energy.mj += other.energy.mj;
        self.energy.tokens += other.energy.tokens;
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.requests.max(1) as f64
    }
}

/// What is to become of a model on trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing speaks against it.
    Pass,
    /// Too few requests to say.
    Wait,
    /// It does this worse, with the numbers.
    Fail(String),
}

/// Judges a model by its window and that of the model before it.
pub fn judge(before: &Window, now: &Window, gates: &Gates) -> Verdict {
    let enough = now.requests >= gates.requests_min;
    // What fails at once need not fail for long: a tenth of the requests shows it.
    let some = now.requests >= gates.requests_min.div_ceil(10).max(3);
    let more = |count: fn(&Window) -> u64| now.share(count(now)) - before.share(count(before));
    let shares = [
        (
            "requests that failed",
            some,
            more(|w| w.failed),
            gates.errors_more_max,
        ),
        (
            "answers cut at their length",
            enough,
            more(|w| w.length),
            gates.length_more_max,
        ),
        (
            "answers of broken form",
            enough,
            more(|w| w.invalid),
            gates.invalid_more_max,
        ),
    ];
    for (what, looked_at, more, max) in shares {
        if looked_at && more > max {
            return Verdict::Fail(format!(
                "{:.1} % more {what} than before (at most {:.1} %)",
                more * 100.0,
                max * 100.0
            ));
        }
    }
    let times = [
        (
            "time to the first token",
            &before.prefill,
            &now.prefill,
            gates.ttft_ratio_max,
        ),
        (
            "time between tokens",
            &before.itl,
            &now.itl,
            gates.itl_ratio_max,
        ),
    ];
    for (what, before, now, max) in times {
        let counts = before.count.min(now.count);
        let ratio = now.p95() / before.p95();
        if counts >= gates.requests_min.max(1) && ratio > max {
            return Verdict::Fail(format!("{what} × {ratio:.2} (at most × {max})"));
        }
    }
    let measured = before.energy.requests.min(now.energy.requests);
    let ratio = now.energy.mj_per_token() / before.energy.mj_per_token();
    if measured >= gates.requests_min.max(1) && ratio > gates.joules_ratio_max {
        return Verdict::Fail(format!(
            "joules for a token × {ratio:.2} (at most × {})",
            gates.joules_ratio_max
        ));
    }
    let compared = before.requests.min(now.requests) >= gates.requests_min.max(1);
    let drift = psi(&before.entropy, &now.entropy);
    if compared && drift > gates.entropy_psi_max {
        return Verdict::Fail(format!(
            "the entropy of answers drifts by {drift:.2} (at most {})",
            gates.entropy_psi_max
        ));
    }
    if enough { Verdict::Pass } else { Verdict::Wait }
}

/// Population stability index of two histograms, Σ (q − p) ln(q / p), less what chance alone makes of so few cases:
/// of one distribution it is about (1/n + 1/m) times a χ² of K − 1 degrees, so its mean and two deviations are taken
/// off. 0 where either is empty.
fn psi(before: &[u64; ENTROPY_BINS], now: &[u64; ENTROPY_BINS]) -> f64 {
    let (all_before, all_now): (u64, u64) = (before.iter().sum(), now.iter().sum());
    if all_before == 0 || all_now == 0 {
        return 0.0;
    }
    let used = || {
        before
            .iter()
            .zip(now)
            .filter(|(before, now)| *before + *now > 0)
    };
    let bins = used().count() as f64;
    // Half a case for each bin keeps an empty one from being infinite.
    let share = |count: u64, all: u64| (count as f64 + 0.5) / (all as f64 + 0.5 * bins);
    let term = |(&before, &now): (&u64, &u64)| {
        let (p, q) = (share(before, all_before), share(now, all_now));
        (q - p) * (q / p).ln()
    };
    let chance = (1.0 / all_before as f64 + 1.0 / all_now as f64)
        * (bins - 1.0 + 2.0 * (2.0 * (bins - 1.0)).sqrt());
    (used().map(term).sum::<f64>() - chance).max(0.0)
}
