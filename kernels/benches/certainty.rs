//! Certainty of one row of logits, by instruction set: `cargo bench -p outstation-kernels --bench certainty`.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outstation_kernels::ops::certainty;
use outstation_kernels::quant::random_row;
use outstation_kernels::{Format, Isa};

/// Vocabularies of Llama 2, Qwen 2.5 and Gemma 3.
const VOCABULARIES: [usize; 3] = [32_000, 151_936, 262_144];

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("certainty");
    group.sample_size(30);
    for len in VOCABULARIES {
        let mut bytes = vec![0; len * 4];
        random_row(Format::F32, 1, 3.0, &mut bytes);
        let floats = bytes.as_chunks().0.iter();
        let logits: Vec<f32> = floats.map(|x| f32::from_le_bytes(*x)).collect();
        group.throughput(Throughput::Bytes(len as u64 * 4));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            group.bench_function(BenchmarkId::new(isa.to_string(), len), |b| {
                b.iter(|| certainty(isa, &logits));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
