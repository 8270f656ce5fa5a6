//! The engine on a GPU beside the portable one and beside llama.cpp.
//!
//! On a machine without a GPU `tests/gpu/emulator/run` gives it a driver that runs the same kernels on the processor;
//! without that, each test says that it was skipped.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "tests print tables, and fail by panicking"
)]

mod adapters;
mod draws;
mod kernels;
mod station;

use std::io::Write as _;

use outstation::adapter::AdapterPlaces;
use outstation::engine::Engine;
use outstation::engine::cpu::EngineSize;
use outstation::engine::cuda::CudaEngine;
use outstation::kv::{KvPool, blocks_for};
use outstation::model::Model;
use outstation::scheduler::logits_rows_max;
use outstation_cuda::{Gpu, GpuError, GpuKernels};
use outstation_kernels::KvFormat;
use outstation_kernels::isa::Isa;
use outstation_kernels::team::Team;
use outstation_tests::golden::{Golden, KV_BLOCKS};
use outstation_tests::{nmse, repository, shared};
use outstation_wire::gguf::Gguf;

/// Set where there must be a GPU, emulated or real.
const REQUIRED: &str = "TEST_GPU";

/// Whether there is a device. That there is none is said aloud.
fn device() -> bool {
    match Gpu::facts_of(0) {
        Ok(_) => true,
        Err(error @ (GpuError::NoDriver | GpuError::NoDevice { .. })) => {
            assert!(std::env::var_os(REQUIRED).is_none(), "{error}");
            let _ = writeln!(
                std::io::stderr(),
                "SKIP: no GPU here, and no emulator (tests/gpu/emulator/run): its engine is not tested"
            );
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn size(columns_max: usize, logits_rows_max: usize, kv: KvFormat) -> EngineSize {
    EngineSize {
        columns_max,
        logits_rows_max,
        kv_blocks: KV_BLOCKS,
        kv,
    }
}

fn engine(golden: &Golden, size: EngineSize) -> CudaEngine {
    engine_of(&golden.file(), size, AdapterPlaces::default())
}

fn engine_of(file: &[u8], size: EngineSize, places: AdapterPlaces) -> CudaEngine {
    let model = Model::from_gguf(&Gguf::parse(file).unwrap()).unwrap();
    let kernels = GpuKernels::open(0).unwrap();
    let on = (kernels, &mut Team::new(2));
    CudaEngine::new(model, file, on, (size, 64), places, |_| ()).unwrap()
}

fn logits(golden: &Golden, kv: KvFormat, chunk: usize) -> Vec<f32> {
    golden.logits(&mut engine(golden, size(chunk, chunk, kv)), chunk)
}

/// What exact arithmetic makes of the prompt, on keys and values in f16.
fn exact(golden: &Golden) -> Vec<f32> {
    let on = (Isa::Portable, KvFormat::F16);
    golden.logits(&mut golden.cpu_engine(on, 2, (128, 128)), 128)
}

/// What keys and values in q8_0 may cost: their rounding, from exact arithmetic on f16.
const HALVED_NMSE_MAX: f64 = 1e-3;

/// One row of the table, and the bounds that the processor's kernels keep, too.
fn check(golden: &Golden) {
    let theirs = golden.theirs();
    let exact = exact(golden);
    let ours = logits(golden, KvFormat::F16, 128);
    let (beside_theirs, ours_from_exact) = (nmse(&ours, &theirs.values), nmse(&ours, &exact));
    let theirs_from_exact = nmse(&theirs.values, &exact);
    let halved = nmse(&logits(golden, KvFormat::Q8_0, 128), &exact);
    let greedy_size = size(64, logits_rows_max(1), KvFormat::F16);
    let tokens = golden.greedy(engine(golden, greedy_size), 32);
    let both = tokens.iter().zip(&golden.greedy_32);
    let same = both.take_while(|(ours, theirs)| ours == theirs).count();
    println!(
        "| {} | {beside_theirs:.1e} | {ours_from_exact:.1e} | {halved:.1e} | {theirs_from_exact:.1e} | {same} |",
        golden.model.trim_end_matches(".gguf")
    );
    assert!(beside_theirs <= golden.bound(), "{}", golden.model);
    assert!(ours_from_exact <= theirs_from_exact, "{}", golden.model);
    assert!(halved <= HALVED_NMSE_MAX, "{}", golden.model);
}

fn print_table(goldens: &[Golden]) {
    println!(
        "| model | from llama.cpp | from exact | the same, KV in q8_0 | llama.cpp from exact | equal greedy tokens |"
    );
    println!("|---|---|---|---|---|---|");
    for golden in goldens {
        check(golden);
    }
}

#[test]
fn the_models_in_the_repository_agree() {
    if device() {
        print_table(&Golden::read_index(&repository().join("tests/golden")));
    }
}

#[test]
fn every_golden_model_agrees() {
    let Some(folder) = shared("golden") else {
        return;
    };
    if device() {
        print_table(&Golden::read_index(&folder));
    }
}

/// The same sequence in chunks of any width: the same bits.
#[test]
fn logits_do_not_depend_on_the_batch() {
    if !device() {
        return;
    }
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        for kv in [KvFormat::F16, KvFormat::Q8_0] {
            let whole = logits(&golden, kv, 128);
            for chunk in [1, 5, 33] {
                let cut = logits(&golden, kv, chunk);
                let differ = whole
                    .iter()
                    .zip(&cut)
                    .filter(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(
                    differ.count(),
                    0,
                    "{} {kv}, chunks of {chunk}",
                    golden.model
                );
            }
        }
    }
}

/// A prompt that takes over the blocks of another with the same beginning.
#[test]
fn a_known_beginning_changes_no_bit() {
    if !device() {
        return;
    }
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        let prompt = &golden.prompt_tokens;
        let positions = u32::try_from(prompt.len()).unwrap();
        let mut engine = engine(&golden, size(64, 64, KvFormat::F16));
        let mut pool = KvPool::new(2 * blocks_for(positions), 2, positions);
        assert_eq!(pool.reserve(0, positions, prompt, 0), Some(0));
        let whole = golden.run(&mut engine, &pool, (0, 0), 64);
        pool.tell(0, prompt, positions);
        let cached = pool.reserve(1, positions, prompt, 0).unwrap();
        assert!(cached >= 32, "{cached} of {positions}");
        let rest = golden.run(&mut engine, &pool, (1, cached), 7);
        let tail = &whole[whole.len() - rest.len()..];
        let differ = tail
            .iter()
            .zip(&rest)
            .filter(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(
            differ.count(),
            0,
            "{}, {cached} positions taken over",
            golden.model
        );
        assert!(engine.vocabulary() > 0);
    }
}
