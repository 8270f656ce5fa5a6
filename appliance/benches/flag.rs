//! What flagging costs: `cargo bench -p outstation --bench flag`.
//!
//! `push` is per token on the engine thread; `greedy` and `certainty` there are per token for a vocabulary of 151,936;
//! `case` is per request on the io thread.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use outstation::flag::{Case, Consent, Drawn, FlagConfig, Flagger, Outcome, TokenSignals};
use outstation::sampler::{argmax, splitmix};
use outstation_kernels::isa;
use outstation_kernels::ops::certainty;

const VOCABULARY: u64 = 151_936;

fn unit(seed: u64) -> f32 {
    (splitmix(seed) >> 40) as f32 / (1 << 24) as f32
}

fn tokens(c: &mut Criterion) {
    let mut group = c.benchmark_group("token");
    let logits: Vec<f32> = (0..VOCABULARY).map(|i| 10.0 * unit(i)).collect();
    group.bench_function("greedy", |b| b.iter(|| argmax(&logits)));
    group.bench_function("certainty", |b| {
        b.iter(|| certainty(isa::detect(), &logits));
    });
    let mut signals = TokenSignals::new();
    let mut index = 0;
    group.bench_function("push", |b| {
        b.iter(|| {
            index += 1;
            signals.push(Drawn {
                token: u32::try_from(splitmix(index) % 1000).unwrap_or(0),
                logprob: -unit(index),
                entropy: unit(index),
                margin: unit(index),
            });
        });
    });
    group.finish();
}

fn cases(c: &mut Criterion) {
    let mut group = c.benchmark_group("case");
    for len in [100, 4000] {
        let text: Vec<u32> = (0..len).collect();
        let mut signals = TokenSignals::new();
        for token in &text {
            signals.push(Drawn {
                token: *token,
                logprob: -unit(u64::from(*token)),
                entropy: 1.0,
                margin: 0.5,
            });
        }
        let mut flagger = Flagger::new(FlagConfig::default());
        let mut id = 0;
        group.bench_function(format!("{len} tokens each"), |b| {
            b.iter(|| {
                id += 1;
                let now = Duration::from_mins(id);
                let case = Case {
                    id,
                    model: &[1; 32],
                    workload: "chat",
                    asker: id,
                    arrived: now,
                    ended: now,
                    prompt: &text,
                    answer: &text,
                    signals: signals.signals(),
                    outcome: Outcome::default(),
                    consent: Consent::Given,
                    content_bytes: 1000,
                };
                flagger.handle_case(now, &case)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tokens, cases);
criterion_main!(benches);
