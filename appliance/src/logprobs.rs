//! What the model made of the tokens that were drawn, for requests that ask for it.

use std::cmp::Ordering;

use heapless::Vec;
use outstation_kernels::ops::Certainty;

use crate::limits::TOP_LOGPROBS_MAX;

/// Log-probabilities where a token was drawn, natural, of the model's own distribution: before bias, penalties,
/// temperature and what a form allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was drawn.
    pub drawn: f32,
    /// The likeliest tokens with theirs, the likeliest first, of equals the lowest id; as many as were asked for.
    pub top: Vec<(u32, f32), TOP_LOGPROBS_MAX>,
}

impl Logprobs {
    /// The likeliest `top` of a row of logits; the one that is drawn comes later.
    ///
    /// Cost: a walk over the row, if `top` is above 0.
    pub fn new(logits: &[f32], certainty: &Certainty, top: u32) -> Self {
        let wanted = (top as usize).min(TOP_LOGPROBS_MAX).min(logits.len());
        let mut likeliest: Vec<(u32, f32), TOP_LOGPROBS_MAX> = Vec::new();
        for (token, &logit) in (0_u32..).zip(if wanted > 0 { logits } else { &[] }) {
            let is_full = likeliest.len() == wanted;
            if logit.is_nan() || is_full && logit <= likeliest[wanted - 1].1 {
                continue;
            }
            if is_full {
                likeliest.pop();
            }
            let before = |other: &(u32, f32)| logit.total_cmp(&other.1) == Ordering::Greater;
            let at = likeliest.iter().position(before).unwrap_or(likeliest.len());
            let put = likeliest.insert(at, (token, logit));
            assert!(put.is_ok(), "one was taken out");
        }
        for (_, value) in &mut likeliest {
            *value = certainty.logprob(*value);
        }
        Self {
            drawn: 0.0,
            top: likeliest,
        }
    }
}

#[cfg(test)]
mod tests {
    use outstation_kernels::isa;
    use outstation_kernels::ops::certainty;

    use super::*;

    fn top(logits: &[f32], count: u32) -> std::vec::Vec<(u32, f32)> {
        let certainty = certainty(isa::detect(), logits);
        Logprobs::new(logits, &certainty, count).top.to_vec()
    }

    #[test]
    fn the_likeliest_first() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, -2.0, 2.0];
        let ids = |count| {
            let top = top(&logits, count);
            top.iter().map(|it| it.0).collect::<std::vec::Vec<_>>()
        };
        assert!(ids(0).is_empty());
        assert_eq!(ids(1), [1]);
        assert_eq!(ids(3), [1, 3, 5]);
        // Of six one is impossible.
        assert_eq!(ids(6), [1, 3, 5, 0, 4]);
        assert_eq!(ids(u32::MAX), [1, 3, 5, 0, 4]);
        let sum: f32 = top(&logits, 6).iter().map(|it| it.1.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn as_sorted() {
        let mut state = 1_u64;
        let logits: std::vec::Vec<f32> = (0..5000)
            .map(|_| {
                state = crate::sampler::splitmix(state);
                (state % 997) as f32 / 50.0
            })
            .collect();
        let mut sorted: std::vec::Vec<u32> = (0..5000).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let found = top(&logits, 20);
        assert!(found.iter().map(|it| &it.0).eq(&sorted[..20]));
    }
}
