//! `TokenSignals` against the same statistics computed from all tokens at once.

use super::*;
use crate::sampler::splitmix;

fn drawn(seed: u64, index: u64) -> Drawn {
    let unit = |n: u64| (splitmix(seed << 32 | index << 3 | n) >> 40) as f32 / (1 << 24) as f32;
    Drawn {
        token: u32::try_from(splitmix(seed ^ index) % 1000).unwrap(),
        logprob: unit(0).max(1e-6).ln(),
        entropy: 3.0 * unit(1),
        margin: unit(2),
    }
}

fn signals(tokens: impl IntoIterator<Item = Drawn>) -> Signals {
    let mut signals = TokenSignals::new();
    for drawn in tokens {
        signals.push(drawn);
    }
    signals.signals()
}

#[test]
fn sliding_numbers_equal_those_of_all_tokens_at_once() {
    for (seed, len) in [
        (1, 1),
        (2, 7),
        (3, 16),
        (4, 17),
        (5, 64),
        (6, 65),
        (7, 3000),
    ] {
        let tokens: Vec<_> = (0..len).map(|i| drawn(seed, i)).collect();
        let ours = signals(tokens.iter().copied());
        let mean = |tokens: &[Drawn], of: fn(&Drawn) -> f32| {
            tokens.iter().map(|t| f64::from(of(t))).sum::<f64>() / tokens.len() as f64
        };
        let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-4, "{len}: {a} for {b}");
        near(ours.mean_nll, -mean(&tokens, |t| t.logprob));
        near(ours.entropy_mean, mean(&tokens, |t| t.entropy));
        let most = tokens.iter().map(|t| t.entropy).fold(0.0, f32::max);
        assert_eq!(ours.entropy_max, most);
        let windows = tokens.windows(WINDOW_TOKENS.min(tokens.len()));
        let worst = windows.map(|w| mean(w, |t| t.logprob)).fold(0.0, f64::min);
        near(ours.window_logprob, worst);
        let tail = &tokens[tokens.len().saturating_sub(TAIL_TOKENS)..];
        near(ours.tail_logprob, mean(tail, |t| t.logprob));
        let mut margins: Vec<_> = tokens.iter().map(|t| t.margin).collect();
        margins.sort_by(f32::total_cmp);
        let exact = margins[margins.len().div_ceil(20) - 1];
        let octaves = (ours.margin_p05 / exact).log2().abs();
        assert!(octaves <= 0.126 || exact < 2e-5, "{len}: {octaves}");
        assert!((ours.perplexity().ln() - ours.mean_nll).abs() < 1e-4);
    }
    assert_eq!(signals([]), Signals::default());
}

#[test]
fn loops_are_seen_at_the_end_only() {
    let check = |tokens: &[u32], loop_tokens: u32| {
        let of = |token: &u32| Drawn {
            token: *token,
            ..drawn(1, 1)
        };
        let ours = signals(tokens.iter().map(of));
        assert_eq!(ours.loop_tokens, loop_tokens, "{tokens:?}");
        ours.repetition
    };
    let repeat = |period: u32, copies: usize| (0..period).collect::<Vec<_>>().repeat(copies);
    assert_eq!(check(&repeat(50, 1), 0), 0.0);
    check(&repeat(5, 2), 0);
    check(&repeat(5, 3), 15);
    check(&[9, 9, 9, 9], 4);
    assert!(check(&repeat(64, 10), 640) > 0.75);
    check(&repeat(65, 10), 0);
    let mut ended = repeat(5, 30);
    ended.extend(100..130);
    assert!(check(&ended, 0) > 0.7);
    let mut looped: Vec<u32> = (1000..1500).collect();
    looped.extend(repeat(7, 8));
    let share = check(&looped, 56);
    assert!((0.08..0.1).contains(&share), "{share}");
}

#[test]
fn fresh_text_hardly_repeats() {
    let ours = signals((0..4000).map(|i| drawn(9, i)));
    assert!(ours.repetition < 1e-3, "{}", ours.repetition);
    assert_eq!(ours.loop_tokens, 0);
}

#[test]
fn numbers_that_are_none_count_as_the_worst() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let ours = signals((0..100).map(|i| Drawn {
        token: u32::MAX,
        logprob: odd[i % 3],
        entropy: odd[i % 3],
        margin: odd[i % 3],
    }));
    assert_eq!(ours.mean_nll, 100.0);
    assert_eq!(ours.window_logprob, -100.0);
    assert!(ours.entropy_mean > 20.0);
    assert!(ours.margin_p05 < 2e-5);
    for value in ours.hardness() {
        assert!(value.is_finite());
    }
}

#[test]
fn sequences_are_small_and_of_one_size() {
    println!("{} bytes per sequence", size_of::<TokenSignals>());
    assert!(size_of::<Signals>() <= 40);
}
