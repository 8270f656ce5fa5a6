//! Our logits beside llama.cpp's and beside exact arithmetic, for every architecture and quant type.
//!
//! `../shared/golden` has 22 models; the three smallest files that cover most also live here, so that a stranger's run
//! checks something real. The table that `every_golden_model_agrees` prints stands in docs/kernels.md.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests read files, print tables, and fail by panicking"
)]

mod adapters;
mod quantizer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use outstation::engine::cpu::{self, CpuEngine, EngineSize};
use outstation::engine::{Engine, PlanColumn, StepPlan};
use outstation::kv::{KvPool, blocks_for};
use outstation::model::Model;
use outstation::request::{RequestId, Submission};
use outstation::scheduler::pace::Targets;
use outstation::scheduler::{Event, SchedulerLimits, logits_rows_max};
use outstation::station::{Station, StepOutcome};
use outstation_kernels::Isa;
use outstation_kernels::KvFormat;
use outstation_kernels::team::Team;
use outstation_tests::{Matrix, nmse, repository, shared};
use outstation_wire::gguf::Gguf;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    model: String,
    logits: String,
    prompt_tokens: Vec<u32>,
    greedy_32: Vec<u32>,
    #[serde(skip)]
    folder: PathBuf,
}

impl Golden {
    fn read_index(folder: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(folder.join("index.json")).unwrap();
        let mut all: Vec<Self> = serde_json::from_str(&text).unwrap();
        for golden in &mut all {
            folder.clone_into(&mut golden.folder);
        }
        all
    }

    fn engine(&self, (isa, kv): (Isa, KvFormat), threads: usize, columns_max: usize) -> CpuEngine {
        let bytes = std::fs::read(self.folder.join(&self.model)).unwrap();
        let model = Model::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
        let size = EngineSize {
            columns_max,
            logits_rows_max: columns_max,
            kv_blocks: 16,
            kv,
        };
        let mut team = Team::new(threads);
        let mut weights = vec![0; model.packed_bytes];
        cpu::pack(&model, &bytes, &mut team, &mut weights, |_| ());
        let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
        CpuEngine::new(model, Box::new(weights), Box::new(cache), isa, team, size)
    }

    /// Logits of every prompt token, run in chunks.
    fn logits(&self, on: (Isa, KvFormat), threads: usize, chunk: usize) -> Vec<f32> {
        let mut engine = self.engine(on, threads, chunk);
        let positions = u32::try_from(self.prompt_tokens.len()).unwrap();
        let mut pool = KvPool::new(blocks_for(positions), 1, positions);
        assert_eq!(pool.reserve(0, positions, &[], 0), Some(0));
        self.run(&mut engine, &pool, (0, 0), chunk)
    }

    /// Logits of the prompt's tokens from `first` on, run in chunks as one sequence of a pool.
    fn run(
        &self,
        engine: &mut CpuEngine,
        pool: &KvPool,
        (sequence, first): (u32, u32),
        chunk: usize,
    ) -> Vec<f32> {
        let mut plan = StepPlan::new(chunk);
        let mut all = Vec::new();
        let columns: Vec<_> = (0..)
            .zip(&self.prompt_tokens)
            .skip(first as usize)
            .collect();
        for part in columns.chunks(chunk) {
            plan.clear();
            for &(position, &token) in part {
                plan.push(PlanColumn {
                    sequence,
                    token,
                    position,
                    logits: true,
                });
            }
            engine.step(&plan, pool.tables());
            for row in 0..part.len() {
                all.extend_from_slice(engine.logits(row));
            }
        }
        all
    }

    fn greedy(&self, on: (Isa, KvFormat), tokens_max: u32) -> Vec<u32> {
        let limits = SchedulerLimits {
            sequences_max: 1,
            queue_requests_max: 1,
            queue_tokens_max: 256,
            step_columns_max: 64,
            context_tokens_max: 256,
            kv_blocks: 16,
            end_tokens: Box::new([]),
            targets: [Targets::UNHURRIED; 3],
        };
        let mut station = Station::new(limits, self.engine(on, logits_rows_max(1), 64));
        let submission = Submission {
            ignore_eos: true,
            ..Submission::new(RequestId(1), self.prompt_tokens.clone(), tokens_max)
        };
        station.handle_submit(Duration::ZERO, Duration::ZERO, Box::new(submission));
        while station.step(&mut || Duration::ZERO) == StepOutcome::Worked {}
        std::iter::from_fn(|| station.poll_event())
            .filter_map(|event| match event {
                Event::Token { token, .. } => Some(token),
                _ => None,
            })
            .collect()
    }

    /// NMSE that our logits may have beside llama.cpp's: its own rounding of activations and ours.
    fn bound(&self) -> f64 {
        match self.kind() {
            "F16" => 1e-5,
            "BF16" => 3e-4,
            _ => 4e-3,
        }
    }

    fn kind(&self) -> &str {
        self.model.split('.').nth(1).unwrap()
    }
}

/// Checks one model on every instruction set of this machine, and prints its rows of the table.
fn check(golden: &Golden) {
    let theirs = Matrix::read_npy(&golden.folder.join(&golden.logits)).unwrap();
    assert_eq!(theirs.rows, golden.prompt_tokens.len());
    let exact = golden.logits(EXACT, 2, 128);
    assert_eq!(exact.len(), theirs.values.len());
    let theirs_from_exact = nmse(&theirs.values, &exact);
    let kind = golden.model.trim_end_matches(".gguf");
    for (isa, kv) in fast() {
        let ours = golden.logits((isa, kv), 2, 128);
        let beside_theirs = nmse(&ours, &theirs.values);
        let ours_from_exact = nmse(&ours, &exact);
        let tokens = golden.greedy((isa, kv), 32);
        let both = tokens.iter().zip(&golden.greedy_32);
        let same = both.take_while(|(ours, theirs)| ours == theirs).count();
        println!(
            "| {kind} | {isa} | {kv} | {beside_theirs:.1e} | {ours_from_exact:.1e} | {theirs_from_exact:.1e} | {same} |"
        );
        assert!(
            beside_theirs <= golden.bound(),
            "{kind} on {isa} {kv}: {beside_theirs:.2e} from llama.cpp"
        );
        assert!(
            ours_from_exact <= theirs_from_exact,
            "{kind} on {isa} {kv}: {ours_from_exact:.2e} from exact, llama.cpp {theirs_from_exact:.2e}"
        );
    }
}

/// Exact arithmetic, on keys and values as llama.cpp stores them.
const EXACT: (Isa, KvFormat) = (Isa::Portable, KvFormat::F16);

/// What this machine has beside the portable path, fastest last, with keys and values in f16 and as they are served.
fn fast() -> impl Iterator<Item = (Isa, KvFormat)> {
    let all = Isa::ALL.into_iter();
    let all = all.filter(|isa| *isa != Isa::Portable && isa.available());
    all.flat_map(|isa| {
        let served = KvFormat::of(isa, 64);
        let other = (served != KvFormat::F16).then_some((isa, served));
        std::iter::once((isa, KvFormat::F16)).chain(other)
    })
}

fn print_table(goldens: &[Golden]) {
    println!(
        "| model | on | keys and values | from llama.cpp | from exact | llama.cpp from exact | equal greedy tokens |"
    );
    println!("|---|---|---|---|---|---|---|");
    for golden in goldens {
        check(golden);
    }
}

#[test]
fn every_golden_model_agrees() {
    let Some(folder) = shared("golden") else {
        return;
    };
    let goldens = Golden::read_index(&folder);
    assert_eq!(goldens.len(), 22);
    print_table(&goldens);
}

#[test]
fn the_models_in_the_repository_agree() {
    let goldens = Golden::read_index(&repository().join("tests/golden"));
    assert_eq!(goldens.len(), 3);
    print_table(&goldens);
}

/// The same sequence in chunks of any width, on any number of threads: the same bits.
#[test]
fn logits_do_not_depend_on_batch_or_threads() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        for (isa, kv) in fast() {
            let whole = golden.logits((isa, kv), 2, 128);
            for (threads, chunk) in [(1, 128), (2, 1), (1, 5), (2, 12), (2, 33)] {
                let cut = golden.logits((isa, kv), threads, chunk);
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(
                    bits(&whole) == bits(&cut),
                    "{} on {isa} {kv}: {threads} threads, chunks of {chunk}",
                    golden.model
                );
            }
        }
    }
}

/// A prompt that takes over the blocks of another with the same beginning, in a cache that both hold.
#[test]
fn a_known_beginning_changes_no_bit() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        for (isa, kv) in fast() {
            let prompt = &golden.prompt_tokens;
            let positions = u32::try_from(prompt.len()).unwrap();
            let mut engine = golden.engine((isa, kv), 2, 64);
            let mut pool = KvPool::new(2 * blocks_for(positions), 2, positions);
            assert_eq!(pool.reserve(0, positions, prompt, 0), Some(0));
            let whole = golden.run(&mut engine, &pool, (0, 0), 64);
            pool.tell(0, prompt, positions);
            let cached = pool.reserve(1, positions, prompt, 0).unwrap();
            assert!(cached >= 32, "{cached} of {positions}");
            let rest = golden.run(&mut engine, &pool, (1, cached), 7);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(
                bits(&whole[whole.len() - rest.len()..]) == bits(&rest),
                "{} on {isa} {kv}, {cached} positions taken over",
                golden.model
            );
        }
    }
}

/// On the portable path arithmetic is exact, so a first token that differs from llama.cpp's is a near-tie of its own.
#[test]
fn greedy_tokens_are_those_of_llama_cpp_or_a_near_tie() {
    for golden in Golden::read_index(&repository().join("tests/golden")) {
        let ours = golden.greedy(EXACT, 8);
        let theirs = Matrix::read_npy(&golden.folder.join(&golden.logits)).unwrap();
        let last = &theirs.values[(theirs.rows - 1) * theirs.cols..];
        let gap = last[golden.greedy_32[0] as usize] - last[ours[0] as usize];
        assert!(gap.abs() <= 0.5, "{}: {gap} nats", golden.model);
    }
}
