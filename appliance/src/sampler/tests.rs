use super::*;

fn draw_many(sampling: &Sampling, logits: &[f32], draws: u32) -> Vec<u32> {
    let vocabulary = u32::try_from(logits.len()).unwrap();
    let mut space = SamplerSpace::new(vocabulary);
    let mut rng = Generator::new(5);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        let drawing = Drawing {
            sampling,
            history: &[],
            prompt_tokens: 0,
            forbidden: &[],
            allowed: None,
        };
        counts[space.draw(&mut logits.to_vec(), &drawing, &mut rng) as usize] += 1;
    }
    counts
}

/// Softmax weights of 1, 2, 4, 8, 16 over 31.
fn doubling() -> Vec<f32> {
    (0..5u8)
        .map(|i| f32::from(i) * std::f32::consts::LN_2)
        .collect()
}

#[test]
fn greedy_takes_the_first_of_equals_and_never_nan() {
    assert_eq!(argmax(&[1.0, 3.0, f32::NAN, 3.0]), 1);
    assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 0);
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
}

#[test]
fn frequencies_follow_the_softmax() {
    let counts = draw_many(&Sampling::default(), &doubling(), 31_000);
    for (token, &count) in (0u32..).zip(&counts) {
        let expected = 1000.0 * f64::from(1u32 << token);
        // Binomial: five standard deviations.
        let bound = 5.0 * (expected * (1.0 - expected / 31_000.0)).sqrt();
        assert!(
            (f64::from(count) - expected).abs() < bound,
            "token {token}: {count}, expected {expected}"
        );
    }
}

#[test]
fn temperature_sharpens() {
    let sharp = Sampling {
        temperature: 0.25,
        ..Sampling::default()
    };
    // Weights 1, 16, 256, 4096, 65536: the last has 15/16 of the mass.
    let counts = draw_many(&sharp, &doubling(), 10_000);
    assert!((9_200..9_550).contains(&counts[4]), "{counts:?}");
}

#[test]
fn the_smallest_temperature_is_greedy() {
    let cold = Sampling {
        temperature: 1e-40,
        ..Sampling::default()
    };
    assert_eq!(draw_many(&cold, &doubling(), 50)[4], 50);
}

#[test]
fn cuts_keep_exactly_the_likeliest() {
    let kept = |sampling: &Sampling| -> Vec<usize> {
        let counts = draw_many(sampling, &doubling(), 5_000);
        (0..5).filter(|&i| counts[i] > 0).collect()
    };
    let base = Sampling::default;
    assert_eq!(kept(&Sampling { top_k: 2, ..base() }), [3, 4]);
    assert_eq!(
        kept(&Sampling {
            top_p: 0.5,
            ..base()
        }),
        [4],
        "16 of 31 is past one half"
    );
    assert_eq!(
        kept(&Sampling {
            top_p: 0.6,
            ..base()
        }),
        [3, 4]
    );
    assert_eq!(
        kept(&Sampling {
            min_p: 0.2,
            ..base()
        }),
        [2, 3, 4],
        "4/16 stays, 2/16 goes"
    );
    assert_eq!(
        kept(&Sampling {
            top_k: 3,
            top_p: 0.5,
            ..base()
        }),
        [4],
        "16 of the 28 that top-k left"
    );
    assert_eq!(
        kept(&Sampling {
            top_p: 0.0,
            ..base()
        }),
        [4],
        "one is always left"
    );
}

#[test]
fn a_wide_nucleus_widens_the_window() {
    let logits: Vec<f32> = (0..1000u16).map(|i| f32::from(i) * 1e-4).collect();
    let sampling = Sampling {
        top_p: 0.9,
        ..Sampling::default()
    };
    let counts = draw_many(&sampling, &logits, 20_000);
    let drawn = counts.iter().filter(|&&c| c > 0).count();
    // Of nearly equal weights the likeliest ~895 make nine tenths.
    assert!((880..=905).contains(&drawn), "{drawn}");
    assert_eq!(
        counts[..90].iter().sum::<u32>(),
        0,
        "the unlikely tail is cut"
    );
}

#[test]
fn penalties_count_prompt_and_answer_as_documented() {
    let sampling = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        temperature: 0.0,
        ..Sampling::default()
    };
    let mut space = SamplerSpace::new(4);
    let mut logits = [4.0, -4.0, 4.0, 1.0];
    let drawing = Drawing {
        sampling: &sampling,
        history: &[1, 1, 2, 2, 2],
        prompt_tokens: 2,
        forbidden: &[0],
        allowed: None,
    };
    let token = space.draw(&mut logits, &drawing, &mut Generator::new(0));
    // Token 1 only in the prompt: -4 * 2. Token 2 three times in the answer: 4 / 2 - 3 * 0.25 - 0.5.
    assert_eq!(logits, [f32::NEG_INFINITY, -8.0, 0.75, 1.0]);
    assert_eq!(token, 3);
    assert!(space.seen.iter().all(|&s| !s), "marks are cleared");
}

#[test]
fn the_same_seed_draws_the_same() {
    let logits = doubling();
    let draw = |seed| {
        let mut rng = Generator::new(seed);
        let mut space = SamplerSpace::new(5);
        let sampling = Sampling::default();
        let drawing = Drawing {
            sampling: &sampling,
            history: &[],
            prompt_tokens: 0,
            forbidden: &[],
            allowed: None,
        };
        (0..64)
            .map(|_| space.draw(&mut logits.clone(), &drawing, &mut rng))
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

/// What survives the cuts, by sorting everything.
fn survivors(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len())
        .filter(|&token| logits[token] > f32::NEG_INFINITY)
        .collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let weight = |token: usize| {
        (f64::from(logits[token] - logits[order[0]]) / f64::from(sampling.temperature)).exp()
    };
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for &token in &order {
        if !kept.is_empty()
            && (weight(token) < f64::from(sampling.min_p)
                || (sampling.top_p < 1.0 && sum >= f64::from(sampling.top_p) * total))
        {
            break;
        }
        sum += weight(token);
        kept.push(token);
    }
    kept
}

#[test]
fn cuts_keep_what_sorting_keeps() {
    for (round, (top_k, top_p, min_p)) in (0_u64..).zip([
        (0, 1.0, 0.0),
        (0, 0.7, 0.0),
        (0, 1.0, 0.2),
        (0, 0.95, 0.05),
        (3, 1.0, 0.0),
        (40, 0.8, 0.0),
        (40, 1.0, 0.1),
        (999, 0.6, 0.0),
    ]) {
        let sampling = Sampling {
            temperature: 0.9,
            top_k,
            top_p,
            min_p,
            ..Sampling::default()
        };
        // Steps of a quarter give equals; some tokens are impossible.
        let mut logits: Vec<f32> = (0..1000_u64)
            .map(|i| (splitmix(round << 32 | i) % 40) as f32 / 4.0)
            .collect();
        logits[17] = f32::NAN;
        logits[18] = f32::NEG_INFINITY;
        let kept = survivors(&logits, &sampling);
        let counts = draw_many(&sampling, &logits, 20_000);
        for (token, count) in counts.iter().enumerate() {
            assert!(
                *count == 0 || kept.contains(&token),
                "token {token} of logit {} was drawn by {sampling:?}",
                logits[token]
            );
        }
        // The likeliest come more than two hundred times each where few are kept.
        let likely = kept
            .iter()
            .take(if kept.len() <= 40 { kept.len() / 2 } else { 0 });
        assert!(
            likely.clone().all(|token| counts[*token] > 0),
            "{sampling:?}"
        );
    }
}

#[test]
fn what_bias_and_penalties_did_can_be_undone() {
    let history = [1, 2, 3, 2, 4, 2];
    let mut rng = Generator::new(3);
    for (temperature, token) in [(0.0, 2), (1.0, 2)] {
        let sampling = Sampling {
            temperature,
            repetition_penalty: 1.3,
            presence_penalty: 0.4,
            frequency_penalty: 0.2,
            // Nothing else has a chance.
            logit_bias: vec![(token, 60.0)],
            ..Sampling::default()
        };
        let drawing = Drawing {
            sampling: &sampling,
            history: &history,
            prompt_tokens: 3,
            forbidden: &[0],
            allowed: None,
        };
        assert!(!drawing.is_plainly_greedy());
        let before = [0.5, -1.0, 2.5, 0.0, 1.0];
        let mut logits = before;
        let drawn = SamplerSpace::new(5).draw(&mut logits, &drawing, &mut rng);
        assert_eq!(drawn, token);
        let undone = drawing.logit_before(logits[2], drawn);
        assert!((undone - before[2]).abs() < 1e-4, "{undone}");
    }
}
