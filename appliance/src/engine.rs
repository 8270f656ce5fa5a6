//! One pass over the model for any mix of prompt chunks and decodes.
//!
//! A step is a list of columns: a token at a position of a sequence. A prompt chunk is several columns of one sequence
//! in order, a decode is one column. The engine writes each column's keys and values into the sequence's KV blocks, and
//! makes logits for the columns that ask for them. The result of a column has the same bits whatever the other columns
//! are.

use std::sync::Arc;

use outstation_kernels::ops::Certainty;

use crate::adapter::PackedAdapter;
use crate::kv::BlockTables;
use crate::sampler::Drawing;

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;

/// One token to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanColumn {
    /// Row of the block table.
    pub sequence: u32,
    /// Token id.
    pub token: u32,
    /// Its position in the sequence.
    pub position: u32,
    /// Whether the distribution after this token is wanted.
    pub logits: bool,
}

/// A sequence whose columns run with an adapter.
#[derive(Debug, Clone)]
pub struct Adapted {
    /// Row of the block table.
    pub sequence: u32,
    /// What is added to the base.
    pub adapter: Arc<PackedAdapter>,
}

/// What the next step does. Columns of one sequence stand in order of position.
#[derive(Debug, Default)]
pub struct StepPlan {
    columns: Vec<PlanColumn>,
    /// Sequences of this step that have an adapter, in the order of their columns.
    adapted: Vec<Adapted>,
    columns_max: usize,
    logits_rows: usize,
}

impl StepPlan {
    /// A plan that can carry `columns_max` columns without allocating.
    pub fn new(columns_max: usize) -> Self {
        Self {
            columns: Vec::with_capacity(columns_max),
            adapted: Vec::with_capacity(columns_max),
            columns_max,
            logits_rows: 0,
        }
    }

    /// Forgets the last step.
    pub fn clear(&mut self) {
        self.columns.clear();
        self.adapted.clear();
        self.logits_rows = 0;
    }

    /// Runs the columns of a sequence, which come next, with an adapter.
    pub fn adapt(&mut self, sequence: u32, adapter: &Arc<PackedAdapter>) {
        assert!(
            self.adapted.len() < self.columns_max,
            "each sequence has columns"
        );
        self.adapted.push(Adapted {
            sequence,
            adapter: adapter.clone(),
        });
    }

    /// Lets go of the adapters, once the step is over: an idle engine keeps none.
    pub fn let_go(&mut self) {
        self.adapted.clear();
    }

    /// Sequences that have an adapter.
    pub fn adapted(&self) -> &[Adapted] {
        &self.adapted
    }

    /// Tells for each run of columns of one sequence how many they are, and which of the adapted sequences it is.
    pub fn each_run(&self, mut each: impl FnMut(usize, Option<usize>)) {
        let mut next = 0;
        for run in self.columns.chunk_by(|a, b| a.sequence == b.sequence) {
            let adapted = self.adapted.get(next);
            let own = adapted.filter(|adapted| adapted.sequence == run[0].sequence);
            let own = own.map(|_| next);
            next += usize::from(own.is_some());
            each(run.len(), own);
        }
        assert_eq!(
            next,
            self.adapted.len(),
            "sequences with adapters come in the order of their columns"
        );
    }

    /// Adds a column; returns the row of its logits, if it asked for them.
    pub fn push(&mut self, column: PlanColumn) -> Option<usize> {
        assert!(
            self.columns.len() < self.columns_max,
            "the planner counts columns"
        );
        self.columns.push(column);
        column.logits.then(|| {
            self.logits_rows += 1;
            self.logits_rows - 1
        })
    }

    /// The columns.
    pub fn columns(&self) -> &[PlanColumn] {
        &self.columns
    }

    /// Columns that still fit.
    pub fn room(&self) -> usize {
        self.columns_max - self.columns.len()
    }

    /// Columns that asked for logits.
    pub fn logits_rows(&self) -> usize {
        self.logits_rows
    }
}

/// Runs steps: on a processor, on a GPU, or by pretending in `tests/sim`.
pub trait Engine {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> u32;

    /// Runs the plan. Afterwards `logits` gives a row for each column that asked, in order.
    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>);

    /// Logits of the `row`-th column that asked for them in the last step. The sampler changes them in place.
    fn logits(&mut self, row: usize) -> &mut [f32];

    /// Before a step: how the token of its `row`-th column that asks is drawn. An engine that can draws it by itself;
    /// `unit`, in 2⁻⁵³, says where in the mass it lies.
    fn ask(&mut self, _row: usize, _drawing: &Drawing<'_>, _unit: u64) {}

    /// What the engine found of a row of the last step by itself, where its logits are far away.
    fn found(&mut self, _row: usize) -> Option<Found> {
        None
    }

    /// After a step: draws a row of it, of which [`Engine::ask`] could not know how. The same token as if it had.
    fn draw(&mut self, _row: usize, _drawing: &Drawing<'_>, _unit: u64) -> Option<(u32, f32)> {
        None
    }
}

/// What an engine finds of a row by itself.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// How sure the model is.
    pub certainty: Certainty,
    /// The token that was asked for, and its logit.
    pub drawn: Option<(u32, f32)>,
}

/// The engine of whatever device was chosen.
#[derive(Debug)]
pub enum AnyEngine {
    /// The processor.
    Cpu(Box<cpu::CpuEngine>),
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::CudaEngine>),
}

impl Engine for AnyEngine {
    fn vocabulary(&self) -> u32 {
        match self {
            AnyEngine::Cpu(engine) => engine.vocabulary(),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.vocabulary(),
        }
    }

    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        match self {
            AnyEngine::Cpu(engine) => engine.step(plan, tables),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.step(plan, tables),
        }
    }

    fn logits(&mut self, row: usize) -> &mut [f32] {
        match self {
            AnyEngine::Cpu(engine) => engine.logits(row),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.logits(row),
        }
    }

    fn ask(&mut self, row: usize, drawing: &Drawing<'_>, unit: u64) {
        match self {
            AnyEngine::Cpu(engine) => engine.ask(row, drawing, unit),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.ask(row, drawing, unit),
        }
    }

    fn found(&mut self, row: usize) -> Option<Found> {
        match self {
            AnyEngine::Cpu(engine) => engine.found(row),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.found(row),
        }
    }

    fn draw(&mut self, row: usize, drawing: &Drawing<'_>, unit: u64) -> Option<(u32, f32)> {
        match self {
            AnyEngine::Cpu(engine) => engine.draw(row, drawing, unit),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.draw(row, drawing, unit),
        }
    }
}
