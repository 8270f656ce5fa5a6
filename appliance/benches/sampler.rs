//! Drawing one token of a vocabulary of 151,936: `cargo bench -p outstation --bench sampler`.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outstation::request::Sampling;
use outstation::sampler::{Drawing, Generator, SamplerSpace, splitmix};

const VOCABULARY: u32 = 151_936;

/// Logits of a normal distribution with deviation 3, and a few likely tokens above them.
fn logits() -> Vec<f32> {
    let uniform = |i: u64| (splitmix(i) >> 40) as f32 / (1 << 24) as f32;
    let normal = |token: u64| (0..12).map(|i| uniform(token * 12 + i)).sum::<f32>() - 6.0;
    let mut logits: Vec<f32> = (0..u64::from(VOCABULARY))
        .map(|t| 3.0 * normal(t))
        .collect();
    for (likely, logit) in logits.iter_mut().step_by(7000).enumerate() {
        *logit = 20.0 - 0.5 * likely as f32;
    }
    logits
}

fn draw(c: &mut Criterion) {
    let logits = logits();
    let mut space = SamplerSpace::new(VOCABULARY);
    let mut rng = Generator::new(1);
    let history: Vec<u32> = (0..2000).collect();
    let warm = Sampling {
        temperature: 0.8,
        ..Sampling::default()
    };
    let kinds = [
        (
            "greedy",
            Sampling {
                temperature: 0.0,
                ..warm.clone()
            },
        ),
        ("temperature", warm.clone()),
        (
            "top-p 0.9",
            Sampling {
                top_p: 0.9,
                ..warm.clone()
            },
        ),
        (
            "top-k 40",
            Sampling {
                top_k: 40,
                ..warm.clone()
            },
        ),
        (
            "top-k 40, top-p 0.9",
            Sampling {
                top_k: 40,
                top_p: 0.9,
                ..warm.clone()
            },
        ),
        (
            "repetition",
            Sampling {
                repetition_penalty: 1.1,
                top_p: 0.9,
                ..warm
            },
        ),
    ];
    let mut group = c.benchmark_group("draw");
    group.sample_size(20);
    for (name, sampling) in &kinds {
        group.bench_function(*name, |b| {
            b.iter_batched_ref(
                || logits.clone(),
                |logits| {
                    let drawing = Drawing {
                        sampling,
                        history: &history,
                        prompt_tokens: 1000,
                        forbidden: &[],
                        allowed: None,
                    };
                    space.draw(logits, &drawing, &mut rng)
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, draw);
criterion_main!(benches);
