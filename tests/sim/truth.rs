//! What the station must be doing, kept in the simplest way that could be right.
//!
//! Every accepted request that has not ended is `live`, in order of arrival. Because admission is first come, first
//! served, the admitted ones are a prefix of it:
//!
//! ```text
//! live   [decodes][decodes][in its prompt][admitted, not begun] | [waits][waits]
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use outstation::engine::StepPlan;
use outstation::kv::{BlockTables, blocks_for};
use outstation::request::Submission;
use outstation::scheduler::{Occupancy, Outcome, SchedulerLimits};

use crate::random::Random;

/// The whole world as its checker knows it.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) limits: SchedulerLimits,
    pub(crate) step_columns_max: usize,
    /// Virtual time.
    pub(crate) now: Duration,
    /// When the last step began.
    pub(crate) step_began: Duration,
    /// Every request there ever was; a request's id is its index.
    pub(crate) requests: Vec<Request>,
    /// Accepted and not ended, in order of arrival.
    pub(crate) live: Vec<usize>,
    /// The request whose columns a row of the block table carries.
    pub(crate) rows: Vec<Option<usize>>,
    /// Requests that the last plan began, and whose `Started` is due, in order.
    pub(crate) starts_due: VecDeque<usize>,
    /// Requests whose logits the last plan asked for, and whose token is due, in order.
    pub(crate) tokens_due: VecDeque<usize>,
    /// Columns of prompts and rows of logits since the start.
    pub(crate) prompt_columns: u64,
    /// Tokens asked for since the start.
    pub(crate) logits_rows: u64,
    /// Steps in which the head of the queue had a place but no blocks.
    pub(crate) waits_for_blocks: u64,
    noise: Random,
}

/// One request's life.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) submission: Submission,
    pub(crate) phase: Phase,
    pub(crate) arrived: Duration,
    pub(crate) queue: Duration,
    /// Its blocks are held.
    pub(crate) admitted: bool,
    /// Positions that were run.
    pub(crate) fed: u32,
    pub(crate) tokens: Vec<u32>,
}

/// How far a request's events have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Submitted,
    Accepted,
    Started,
    Ended(Outcome),
}

impl Request {
    pub(crate) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.submission.prompt.len()).expect("prompts are short")
    }

    fn worst_blocks(&self) -> u32 {
        blocks_for(self.prompt_tokens() + self.submission.tokens_max)
    }

    fn decodes(&self) -> bool {
        self.fed >= self.prompt_tokens()
    }

    /// Most steps that it can need with the box to itself.
    pub(crate) fn steps_max(&self) -> u32 {
        self.prompt_tokens() + self.submission.tokens_max
    }
}

impl Truth {
    pub(crate) fn new(limits: SchedulerLimits, step_columns_max: usize, noise: Random) -> Self {
        Self {
            rows: vec![None; limits.sequences_max as usize],
            limits,
            step_columns_max,
            now: Duration::ZERO,
            step_began: Duration::ZERO,
            requests: Vec::new(),
            live: Vec::new(),
            starts_due: VecDeque::new(),
            tokens_due: VecDeque::new(),
            prompt_columns: 0,
            logits_rows: 0,
            waits_for_blocks: 0,
            noise,
        }
    }

    /// The request behind a row.
    pub(crate) fn request_in(&self, row: u32) -> usize {
        self.rows[row as usize].expect("a row that runs has its request")
    }

    /// The token that a request really has at a position.
    pub(crate) fn token_at(&self, request: usize, position: u32) -> u32 {
        let request = &self.requests[request];
        let prompt = &request.submission.prompt;
        let mut history = prompt.iter().chain(&request.tokens);
        *history
            .nth(position as usize)
            .expect("only tokens that were drawn are run")
    }

    /// Live requests without a place.
    pub(crate) fn waiting(&self) -> usize {
        self.live.len() - self.admitted()
    }

    fn admitted(&self) -> usize {
        let admitted = |&&id: &&usize| self.requests[id].admitted;
        self.live.iter().filter(admitted).count()
    }

    fn blocks_held(&self) -> u32 {
        let admitted = self.live.iter().map(|&id| &self.requests[id]);
        admitted
            .filter(|request| request.admitted)
            .map(Request::worst_blocks)
            .sum()
    }

    /// Passes the time that a step takes: a part for the step, a part for each column, and noise.
    pub(crate) fn spend_step(&mut self, columns: usize) {
        let columns = u64::try_from(columns).expect("few");
        let noise = u64::from(self.noise.between(0, 500));
        self.now += Duration::from_micros(1000 + 150 * columns + noise);
    }

    /// The admitted are the oldest, each holds its worst case in blocks of its own, and nobody waits who could run.
    pub(crate) fn check_tables(&mut self, tables: BlockTables<'_>) {
        let admitted = tables.held.iter().filter(|&&held| held > 0).count();
        assert!(admitted <= self.live.len(), "only the living hold blocks");
        for (index, &id) in self.live.iter().enumerate() {
            let request = &mut self.requests[id];
            assert!(
                index < admitted || !request.admitted,
                "request {id} keeps its place, first come first served"
            );
            request.admitted = index < admitted;
        }
        let held: u32 = tables.held.iter().sum();
        assert_eq!(
            held,
            self.blocks_held(),
            "the oldest requests hold their worst case"
        );
        if let Some(&head) = self.live.get(admitted)
            && admitted < self.limits.sequences_max as usize
        {
            let free = self.limits.kv_blocks - held;
            assert!(
                self.requests[head].worst_blocks() > free,
                "request {head} waits with a place and {free} blocks free"
            );
            self.waits_for_blocks += 1;
        }
        let mut taken = vec![false; self.limits.kv_blocks as usize];
        for (row, &held) in tables.held.iter().enumerate() {
            let start = row * tables.stride as usize;
            for &block in &tables.blocks[start..start + held as usize] {
                assert!(!taken[block as usize], "block {block} has one holder");
                taken[block as usize] = true;
            }
        }
    }

    /// Each column is the next one of its sequence, every decode is there, and prompts fill the rest in order.
    pub(crate) fn check_plan(&mut self, plan: &StepPlan) {
        assert!(!plan.columns().is_empty(), "an empty plan is not run");
        assert!(
            plan.columns().len() <= self.step_columns_max,
            "a step has at most {} columns",
            self.step_columns_max
        );
        let running = self.rows.iter().flatten();
        let decodes: Vec<(usize, u32)> = running
            .filter(|&&id| self.requests[id].decodes())
            .map(|&id| (id, self.requests[id].fed))
            .collect();
        for column in plan.columns() {
            if self.rows[column.sequence as usize].is_none() {
                self.begin(column.sequence);
            }
            let id = self.request_in(column.sequence);
            let token = self.token_at(id, column.position);
            let request = &mut self.requests[id];
            assert_eq!(column.position, request.fed, "request {id}: next position");
            assert_eq!(column.token, token, "request {id}: its own token");
            request.fed += 1;
            assert_eq!(
                column.logits,
                request.decodes(),
                "request {id}: logits where the prompt ends, and after"
            );
            self.prompt_columns += u64::from(request.fed <= request.prompt_tokens());
            if column.logits {
                self.logits_rows += 1;
                self.tokens_due.push_back(id);
            }
        }
        for (id, fed) in decodes {
            assert_eq!(
                self.requests[id].fed,
                fed + 1,
                "request {id} decodes in every step"
            );
        }
        self.check_prompts_in_order(plan.room());
    }

    /// A row without a request begins the oldest one that was not begun.
    fn begin(&mut self, row: u32) {
        let fresh = |&&id: &&usize| self.requests[id].fed == 0;
        let id = *self.live.iter().find(fresh).expect("somebody to begin");
        assert!(
            self.requests[id].admitted,
            "request {id} begins after admission"
        );
        self.rows[row as usize] = Some(id);
        self.starts_due.push_back(id);
    }

    fn check_prompts_in_order(&self, room: usize) {
        let mut unfinished = None;
        for &id in &self.live {
            let request = &self.requests[id];
            if let Some(before) = unfinished {
                assert_eq!(request.fed, 0, "request {id} begins after {before} is fed");
            } else if request.admitted && !request.decodes() {
                unfinished = Some(id);
            }
        }
        assert!(
            unfinished.is_none() || room == 0,
            "a prompt waits while {room} columns are empty"
        );
    }

    /// The station counts as we do.
    pub(crate) fn check_occupancy(&self, seen: Occupancy) {
        let expected = Occupancy {
            sequences: u32::try_from(self.admitted()).expect("few"),
            queued: u32::try_from(self.waiting()).expect("few"),
            kv_blocks_free: self.limits.kv_blocks - self.blocks_held(),
            kv_blocks: self.limits.kv_blocks,
        };
        assert_eq!(seen, expected, "occupancy");
    }
}
