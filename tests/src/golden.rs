//! Golden models: files, prompts, and the logits that llama.cpp gave for them.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "tests read files, and fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use outstation::engine::cpu::{self, CpuEngine, EngineSize};
use outstation::engine::{Engine, PlanColumn, StepPlan};
use outstation::kv::{KvPool, blocks_for};
use outstation::model::Model;
use outstation::request::{RequestId, Submission};
use outstation::scheduler::pace::Targets;
use outstation::scheduler::{Event, SchedulerLimits};
use outstation::station::{Station, StepOutcome};
use outstation_kernels::{Isa, KvFormat, Team};
use outstation_wire::gguf::Gguf;
use serde::Deserialize;

use crate::Matrix;

/// Blocks of the pools that golden prompts run in.
pub const KV_BLOCKS: u32 = 16;

/// A model with what llama.cpp makes of a prompt.
#[derive(Deserialize)]
pub struct Golden {
    /// Its file.
    pub model: String,
    logits: String,
    /// The prompt.
    pub prompt_tokens: Vec<u32>,
    /// What follows, by the greatest logit.
    pub greedy_32: Vec<u32>,
    #[serde(skip)]
    folder: PathBuf,
}

impl Golden {
    /// All that a folder has.
    pub fn read_index(folder: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(folder.join("index.json")).unwrap();
        let mut all: Vec<Self> = serde_json::from_str(&text).unwrap();
        for golden in &mut all {
            folder.clone_into(&mut golden.folder);
        }
        all
    }

    /// The model's file.
    pub fn file(&self) -> Vec<u8> {
        std::fs::read(self.folder.join(&self.model)).unwrap()
    }

    /// llama.cpp's logits of every prompt token.
    pub fn theirs(&self) -> Matrix {
        let theirs = Matrix::read_npy(&self.folder.join(&self.logits)).unwrap();
        assert_eq!(theirs.rows, self.prompt_tokens.len());
        theirs
    }

    /// Its engine on the processor, for steps of so many columns and rows of logits.
    pub fn cpu_engine(
        &self,
        (isa, kv): (Isa, KvFormat),
        threads: usize,
        (columns_max, logits_rows_max): (usize, usize),
    ) -> CpuEngine {
        let bytes = self.file();
        let model = Model::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
        let size = EngineSize {
            columns_max,
            logits_rows_max,
            kv_blocks: KV_BLOCKS,
            kv,
        };
        let mut team = Team::new(threads);
        let mut weights = vec![0; model.packed_bytes];
        cpu::pack(&model, &bytes, &mut team, &mut weights, |_| ());
        let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
        CpuEngine::new(model, Box::new(weights), Box::new(cache), isa, team, size)
    }

    /// Logits of every prompt token, run in chunks.
    pub fn logits(&self, engine: &mut impl Engine, chunk: usize) -> Vec<f32> {
        let positions = u32::try_from(self.prompt_tokens.len()).unwrap();
        let mut pool = KvPool::new(blocks_for(positions), 1, positions);
        assert_eq!(pool.reserve(0, positions, &[], 0), Some(0));
        self.run(engine, &pool, (0, 0), chunk)
    }

    /// Logits of the prompt's tokens from `first` on, run in chunks as one sequence of a pool.
    pub fn run(
        &self,
        engine: &mut impl Engine,
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

    /// The tokens that follow the prompt, by the greatest logit. The engine takes steps of 64 columns.
    pub fn greedy(&self, engine: impl Engine, tokens_max: u32) -> Vec<u32> {
        let limits = SchedulerLimits {
            sequences_max: 1,
            queue_requests_max: 1,
            queue_tokens_max: 256,
            step_columns_max: 64,
            context_tokens_max: 256,
            kv_blocks: KV_BLOCKS,
            end_tokens: Box::new([]),
            targets: [Targets::UNHURRIED; 3],
        };
        let mut station = Station::new(limits, engine);
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
    pub fn bound(&self) -> f64 {
        match self.kind() {
            "F16" => 1e-5,
            "BF16" => 3e-4,
            _ => 4e-3,
        }
    }

    /// The file type of its weights.
    pub fn kind(&self) -> &str {
        self.model.split('.').nth(1).unwrap()
    }
}
