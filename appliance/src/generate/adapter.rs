//! Adapters with random factors from a seed, in llama.cpp's format: for tests and benchmarks.

use outstation_kernels::quant::{Format, random_row};
use outstation_wire::gguf::{GgufWriter, OwnedValue, TensorType};

use crate::adapter::Base;

/// Everything that decides a generated adapter's bytes, besides its base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterSpec {
    /// Rank of every pair.
    pub rank: u32,
    /// Adapted products are `alpha / rank` times those of the factors.
    pub alpha: f32,
    /// Another seed, other factors.
    pub seed: u64,
    /// F32 or F16.
    pub kind: TensorType,
}

impl AdapterSpec {
    /// One in F16 that changes each product of its base by about a tenth.
    pub fn new(rank: u32, seed: u64) -> Self {
        Self {
            rank,
            alpha: rank as f32,
            seed,
            kind: TensorType::F16,
        }
    }
}

/// The GGUF of an adapter that adds to every matrix of a base that adapters may add to.
pub fn adapter(targets: &Base, spec: &AdapterSpec) -> Vec<u8> {
    let format = match spec.kind {
        TensorType::F32 => Format::F32,
        TensorType::F16 => Format::F16,
        other => panic!("adapters are generated in F32 and F16, not in {other}"),
    };
    let rank = u64::from(spec.rank);
    let mut writer = GgufWriter::new();
    writer
        .put("general.type", OwnedValue::str("adapter"))
        .put(
            "general.architecture",
            OwnedValue::str(targets.architecture()),
        )
        .put("adapter.type", OwnedValue::str("lora"))
        .put("adapter.lora.alpha", OwnedValue::F32(spec.alpha));
    let mut deviations = Vec::new();
    for (name, rows, cols) in targets.tensors() {
        let (rows, cols) = (rows as u64, cols as u64);
        writer.tensor(&format!("{name}.lora_a"), &[cols, rank], spec.kind);
        writer.tensor(&format!("{name}.lora_b"), &[rank, rows], spec.kind);
        deviations.push((cols as f32).sqrt().recip());
        deviations.push(0.1 * (rank as f32).sqrt().recip());
    }
    let header = writer.finish();
    let mut bytes = header.bytes;
    let whole = usize::try_from(header.file_bytes).expect("it is made in memory");
    bytes.resize(whole, 0);
    for ((index, place), deviation) in (0..).zip(&header.tensors).zip(deviations) {
        let start = usize::try_from(place.file_offset).expect("inside the file");
        let len = usize::try_from(place.bytes).expect("inside the file");
        let seed = crate::sampler::splitmix(spec.seed ^ crate::sampler::splitmix(index));
        random_row(format, seed, deviation, &mut bytes[start..start + len]);
    }
    bytes
}
