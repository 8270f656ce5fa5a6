//! Sequences of one prompt beside each other, each with an adapter of its own or none, on any engine.

use std::sync::Arc;

use outstation::adapter::{Adapter, Base, PackedAdapter};
use outstation::engine::{Engine, PlanColumn, StepPlan};
use outstation::kv::{KvPool, blocks_for};

/// The highest rank of the adapters here.
pub const RANK: usize = 8;

/// What all sequences read.
pub const PROMPT: [u32; 24] = [
    5, 300, 7, 1999, 42, 42, 8, 1000, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 500, 600, 700, 800,
];

/// Logits of every token of the prompt.
pub fn logits(engine: &mut impl Engine, adapter: Option<&Arc<PackedAdapter>>) -> Vec<f32> {
    let mut runs = [Run::new(0, adapter, 24)];
    run(engine, &mut runs, 1);
    let [run] = runs;
    run.logits
}

/// A sequence of the prompt, with its adapter.
pub struct Run {
    /// Row of the block table.
    pub sequence: u32,
    /// What is added to the base.
    pub adapter: Option<Arc<PackedAdapter>>,
    /// Tokens in one step.
    pub chunk: usize,
    /// Of every token so far.
    pub logits: Vec<f32>,
}

impl Run {
    /// One that has read nothing.
    pub fn new(sequence: u32, adapter: Option<&Arc<PackedAdapter>>, chunk: usize) -> Self {
        Self {
            sequence,
            adapter: adapter.cloned(),
            chunk,
            logits: Vec::new(),
        }
    }
}

/// Runs sequences side by side until all have read the prompt.
pub fn run(engine: &mut impl Engine, runs: &mut [Run], sequences: u32) {
    let positions = u32::try_from(PROMPT.len()).expect("few");
    let mut pool = KvPool::new(sequences * blocks_for(positions), sequences, positions);
    for sequence in 0..sequences {
        assert_eq!(pool.reserve(sequence, positions, &[], 0), Some(0));
    }
    let vocabulary = engine.vocabulary() as usize;
    let mut plan = StepPlan::new(64);
    loop {
        plan.clear();
        let mut owners = Vec::new();
        for (owner, run) in runs.iter().enumerate() {
            let done = run.logits.len() / vocabulary;
            let left = &PROMPT[done..];
            let chunk = &left[..left.len().min(run.chunk)];
            if let Some(adapter) = run.adapter.as_ref().filter(|_| !chunk.is_empty()) {
                plan.adapt(run.sequence, adapter);
            }
            for (index, &token) in chunk.iter().enumerate() {
                plan.push(PlanColumn {
                    sequence: run.sequence,
                    token,
                    position: u32::try_from(done + index).expect("few"),
                    logits: true,
                });
                owners.push(owner);
            }
        }
        if owners.is_empty() {
            return;
        }
        engine.step(&plan, pool.tables());
        for (row, owner) in owners.into_iter().enumerate() {
            runs[owner].logits.extend_from_slice(engine.logits(row));
        }
    }
}

/// An adapter in memory of its own, by a name.
pub fn packed(targets: &Base, adapter: &Adapter<'_>, name: u8) -> Arc<PackedAdapter> {
    let memory = vec![0; targets.bytes(RANK)];
    let mut packed = PackedAdapter::new(targets, RANK, Box::new(memory));
    let filled = packed.fill(targets, adapter, [name; 32]);
    filled.expect("a place for this rank");
    Arc::new(packed)
}
