//! How sure a model is of its next token, read off a row of logits.

use crate::dispatch;
use crate::isa::Isa;

/// The softmax of a row of logits in a few numbers.
///
/// NaN and −∞ are impossible. If nothing is possible, token 0 counts as the only one that is: entropy 0. A logit of +∞
/// is certain: entropy 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)] // a GPU writes one, too
pub struct Certainty {
    /// Index of the greatest logit, the first of equals: what greedy draws.
    pub top: u32,
    /// The greatest logit.
    pub max: f32,
    /// `ln Σ exp(x − max)`: from 0 to the logarithm of the row's length. [`Certainty::log_z`] adds `max`.
    pub log_sum: f32,
    /// `−Σ p · ln p`, in nats.
    pub entropy: f32,
    /// Probability of the likeliest token.
    pub top1: f32,
    /// Probability of the one after it.
    pub top2: f32,
}

impl Certainty {
    /// `ln Σ exp(x)`.
    pub fn log_z(&self) -> f32 {
        self.max + self.log_sum
    }

    /// Log-probability of a token of this row, given its logit as it was then. −∞ for what is impossible.
    pub fn logprob(&self, logit: f32) -> f32 {
        if logit == self.max {
            // Also where both are infinite.
            return -self.log_sum;
        }
        let logprob = (logit - self.max) - self.log_sum;
        if logprob.is_nan() {
            return f32::NEG_INFINITY;
        }
        // Only a logit of another row can be above the greatest.
        logprob.min(0.0)
    }

    /// How far the likeliest token is ahead: p₁ − p₂, from 0 to 1.
    pub fn margin(&self) -> f32 {
        (self.top1 - self.top2).max(0.0)
    }
}

/// How sure a row of logits is. By the calling thread alone, in one walk over the row.
///
/// **Shapes** `logits`: at least one.
///
/// **Errors** `max`, `top` and the runner-up are exact; `entropy` is within `3e-5 · (1 + entropy)`, `log_sum` within
/// 1.5e-5. The same bits each time on the same instruction set.
///
/// **Cost** `docs/flagging.md` has the figures: 27 to 38 µs for 151,936 logits on AVX-512.
pub fn certainty(isa: Isa, logits: &[f32]) -> Certainty {
    assert!(isa.available(), "this machine has no {isa}");
    assert!(!logits.is_empty(), "a row has logits");
    let sums = dispatch::certainty_sums(isa, logits);
    let certain = Certainty {
        top: u32::try_from(sums.top).expect("a vocabulary fits 32 bits"),
        max: sums.max,
        log_sum: 0.0,
        entropy: 0.0,
        top1: 1.0,
        top2: 0.0,
    };
    if sums.max.is_infinite() {
        return certain;
    }
    // H = ln Σ − Σ p · (x − max).
    let log_sum = sums.sum.ln();
    let behind = f64::from(sums.runner_up) - f64::from(sums.max);
    Certainty {
        log_sum: log_sum.max(0.0) as f32,
        entropy: (log_sum - sums.weighted / sums.sum).max(0.0) as f32,
        top1: sums.sum.recip() as f32,
        top2: (behind.exp() / sums.sum) as f32,
        ..certain
    }
}
