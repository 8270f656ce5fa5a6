//! An engine without a model: it remembers what was written where, and answers from the whole history.
//!
//! ```text
//! cache   [block][offset] → which position, hash(token at 0, …, token there)
//! logits  hash(vocabulary entry, hash(token at 0, …, token at p)), read back through the block tables
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use outstation::adapter::PackedAdapter;
use outstation::engine::{Engine, PlanColumn, StepPlan};
use outstation::kv::{BlockTables, KvBlock};
use outstation::limits::KV_BLOCK_POSITIONS;
use outstation::sampler::splitmix;

use crate::truth::Truth;

/// The fake model. Two engines with one `model` give the same answers.
#[derive(Debug)]
pub(crate) struct SimEngine {
    truth: Rc<RefCell<Truth>>,
    model: u64,
    vocabulary: u32,
    cache: Box<[Option<Cell>]>,
    /// `[rows, vocabulary]`, row-major.
    logits: Vec<f32>,
}

/// What a column left in the cache. As in a real one it depends on everything before it, so whoever has the same
/// beginning may use it, and nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    position: u32,
    history: u64,
}

impl SimEngine {
    pub(crate) fn new(truth: Rc<RefCell<Truth>>, model: u64, vocabulary: u32) -> Self {
        let positions = truth.borrow().limits.kv_blocks * KV_BLOCK_POSITIONS;
        Self {
            truth,
            model,
            vocabulary,
            cache: vec![None; positions as usize].into_boxed_slice(),
            logits: Vec::new(),
        }
    }

    fn place(block: KvBlock, offset: u32) -> usize {
        (block * KV_BLOCK_POSITIONS + offset) as usize
    }

    /// What the first token's history follows from: the model, and the adapter that a sequence has.
    fn start(&self, plan: &StepPlan, sequence: u32) -> u64 {
        let adapted = plan.adapted().iter().find(|a| a.sequence == sequence);
        start(self.model, adapted.map(|a| &*a.adapter))
    }

    fn write(&mut self, plan: &StepPlan, column: &PlanColumn, tables: BlockTables<'_>) {
        let (block, offset) = tables.locate(column.sequence, column.position);
        for (row, &held) in tables.held.iter().enumerate() {
            let start = row * tables.stride as usize;
            let holds = tables.blocks[start..start + held as usize].contains(&block);
            assert!(
                !holds || row == column.sequence as usize,
                "row {} writes to block {block}, which row {row} reads",
                column.sequence
            );
        }
        let before = column.position.checked_sub(1).map(|position| {
            let (block, offset) = tables.locate(column.sequence, position);
            let cell = self.cache[Self::place(block, offset)];
            cell.expect("positions are written in order").history
        });
        let before = before.unwrap_or_else(|| self.start(plan, column.sequence));
        let history = splitmix(before ^ u64::from(column.token));
        self.cache[Self::place(block, offset)] = Some(Cell {
            position: column.position,
            history,
        });
    }

    /// Walks the sequence as attention does, and makes a row of logits from what lies there.
    fn attend(
        &mut self,
        truth: &Truth,
        plan: &StepPlan,
        column: &PlanColumn,
        tables: BlockTables<'_>,
    ) {
        let request = truth.request_in(column.sequence);
        let adapter = truth.requests[request].submission.adapter.as_deref();
        let mut hash = start(self.model, adapter);
        assert_eq!(
            self.start(plan, column.sequence),
            hash,
            "the step has the request's adapter"
        );
        for position in 0..=column.position {
            let (block, offset) = tables.locate(column.sequence, position);
            let cell = self.cache[Self::place(block, offset)];
            let token = truth.token_at(request, position);
            // What was not drawn yet is a guess of this step.
            let token = token.unwrap_or_else(|| guess_at(plan, column.sequence, position));
            hash = splitmix(hash ^ u64::from(token));
            let real = Cell {
                position,
                history: hash,
            };
            assert_eq!(
                cell,
                Some(real),
                "block {block} offset {offset} has what follows from the sequence's tokens"
            );
        }
        for token in 0..self.vocabulary {
            let bits = splitmix(hash ^ splitmix(u64::from(token))) >> 48;
            self.logits.push(bits as f32 / 8192.0 - 4.0);
        }
    }
}

fn start(model: u64, adapter: Option<&PackedAdapter>) -> u64 {
    adapter.map_or(model, |adapter| model ^ splitmix(adapter.salt()))
}

fn guess_at(plan: &StepPlan, sequence: u32, position: u32) -> u32 {
    let at = |c: &&PlanColumn| c.sequence == sequence && c.position == position;
    plan.columns()
        .iter()
        .find(at)
        .expect("it is in the step")
        .token
}

impl Engine for SimEngine {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        let shared = Rc::clone(&self.truth);
        let mut truth = shared.borrow_mut();
        self.logits.clear();
        if truth.warms_up {
            for column in plan.columns() {
                self.write(plan, column, tables);
            }
            self.logits
                .resize(self.vocabulary as usize * plan.logits_rows(), 0.0);
            truth.spend_step(plan.columns().len());
            return;
        }
        truth.check_tables(tables);
        truth.check_plan(plan);
        for column in plan.columns() {
            self.write(plan, column, tables);
        }
        for column in plan.columns().iter().filter(|column| column.logits) {
            self.attend(&truth, plan, column, tables);
        }
        truth.spend_step(plan.columns().len());
    }

    fn logits(&mut self, row: usize) -> &mut [f32] {
        let width = self.vocabulary as usize;
        &mut self.logits[row * width..(row + 1) * width]
    }
}
