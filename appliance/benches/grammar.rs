//! What a form costs for each token, with the demo's vocabulary and with published ones of `../shared/tokenizers`:
//! `cargo bench -p outstation --bench grammar`.
//!
//! Tokens are drawn by lot from those that may come, which meets more of a schema than a model does.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench has files, a clock and a screen"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use outstation::grammar::{Grammars, Progress};
use outstation::request::Format;
use outstation::sampler::splitmix;
use outstation::tokenizer::{Tokenizer, Vocabulary};
use outstation_wire::gguf::Gguf;

/// What an operator of sites asks for.
const ALARMS: &str = r#"{"type": "object", "properties": {"site": {"type": "string", "maxLength": 20},
    "severity": {"enum": ["low", "middle", "high"]}, "tilt_deg": {"type": "number"}, "alarms": {"type": "array",
    "maxItems": 5, "items": {"type": "object", "properties": {"id": {"type": "integer"}, "text": {"type": "string"},
    "acked": {"type": "boolean"}}, "required": ["id", "text", "acked"], "additionalProperties": false}}},
    "required": ["site", "severity", "tilt_deg", "alarms"], "additionalProperties": false}"#;

fn main() {
    println!("vocabulary, form: prepared ms | compiled ms | a token µs: mean, 99 %, most");
    let demo = outstation::generate::demo(1);
    measure("demo", &demo);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tokenizers");
    for name in ["llama-spm", "llama-bpe", "qwen2"] {
        match std::fs::read(shared.join(format!("ggml-vocab-{name}.gguf"))) {
            Ok(file) => measure(name, &file),
            Err(_) => println!("SKIP {name}: not in {}", shared.display()),
        }
    }
}

fn measure(name: &str, file: &[u8]) {
    let gguf = Gguf::parse(file).expect("a model file");
    let vocabulary = Vocabulary::from_gguf(&gguf).expect("a vocabulary");
    let tokenizer = Tokenizer::new(&vocabulary).expect("a vocabulary");
    let started = Instant::now();
    let grammars = Grammars::new(&tokenizer, 1).expect("it has room");
    let prepared = started.elapsed();
    for (form, format) in [
        ("json_object", Format::Json),
        ("alarms", Format::Schema(ALARMS.into())),
    ] {
        let started = Instant::now();
        let grammar = grammars.compile(&format).expect("a good form");
        let compiled = started.elapsed();
        drop(grammar);
        let mut times: Vec<_> = (0..20)
            .flat_map(|seed| walk(&grammars, &format, seed))
            .collect();
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64 * 1e6;
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{name} {}, {form}: {:.0} | {:.1} | {mean:.1}, {:.0}, {:.0} of {} tokens",
            tokenizer.vocab_size(),
            prepared.as_secs_f64() * 1e3,
            compiled.as_secs_f64() * 1e3,
            us(times[times.len() * 99 / 100]),
            us(times[times.len() - 1]),
            times.len()
        );
    }
}

/// Times of the tokens of one answer.
fn walk(grammars: &Grammars, format: &Format, seed: u64) -> Vec<Duration> {
    let mut grammar = grammars.compile(format).expect("a good form").expect("one");
    let mut times = Vec::new();
    for step in 0..400 {
        let token = any_of(grammar.allowed(), splitmix(seed << 32 | step));
        let started = Instant::now();
        let progress = grammar.accept(token);
        times.push(started.elapsed());
        if progress != Progress::Open {
            break;
        }
    }
    times
}

fn any_of(allowed: &[u32], dice: u64) -> u32 {
    let count: u64 = allowed
        .iter()
        .map(|word| u64::from(word.count_ones()))
        .sum();
    let mut rest = dice % count;
    for (index, word) in (0..).zip(allowed) {
        for bit in (0..32).filter(|bit| word >> bit & 1 == 1) {
            if rest == 0 {
                return 32 * index + bit;
            }
            rest -= 1;
        }
    }
    unreachable!("it is below the count")
}
