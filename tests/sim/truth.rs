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
use outstation::limits::KV_BLOCK_POSITIONS;
use outstation::request::Submission;
use outstation::scheduler::{Occupancy, Outcome, PROMPT_COLUMNS_LEAST, SchedulerLimits};

use crate::random::Random;

/// Most of what a step takes beyond [`step_time`].
const NOISE_US: u32 = 500;

/// What a step takes at least.
fn step_time(columns: usize) -> Duration {
    Duration::from_micros(1000 + 150 * u64::try_from(columns).expect("few"))
}

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
    /// Steps that carried less of a prompt than fits, for the time it takes.
    pub(crate) steps_cut_short: u64,
    /// Steps that ran.
    steps: u64,
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
    /// A step carried it.
    pub(crate) begun: bool,
    /// Positions that were in the cache when it began.
    pub(crate) cached: u32,
    /// Positions that were run, or in the cache.
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
            steps_cut_short: 0,
            steps: 0,
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
        let noise = u64::from(self.noise.between(0, NOISE_US));
        self.now += step_time(columns) + Duration::from_micros(noise);
    }

    /// The admitted are the oldest, each holds its worst case, a block is the same part of all who hold it, and nobody
    /// waits who could run.
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
        let mut places = vec![None; self.limits.kv_blocks as usize];
        for (row, &held) in tables.held.iter().enumerate() {
            let start = row * tables.stride as usize;
            for (index, &block) in tables.blocks[start..start + held as usize]
                .iter()
                .enumerate()
            {
                let place = places[block as usize].get_or_insert(index);
                assert_eq!(*place, index, "block {block} is shared as the same part");
            }
        }
        let distinct = places.iter().flatten().count();
        if let Some(&head) = self.live.get(admitted)
            && admitted < self.limits.sequences_max as usize
        {
            let free = self.limits.kv_blocks - u32::try_from(distinct).expect("few");
            assert!(
                self.requests[head].worst_blocks() > free,
                "request {head} waits with a place and {free} blocks free"
            );
            self.waits_for_blocks += 1;
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
                self.begin(column.sequence, column.position);
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
        for &(id, fed) in &decodes {
            assert_eq!(
                self.requests[id].fed,
                fed + 1,
                "request {id} decodes in every step"
            );
        }
        self.check_time(plan, decodes.len());
        self.check_prompts_in_order(plan, decodes.len());
        self.steps += 1;
    }

    /// Where streams run, a step is over within their target, or carries no more than it must.
    fn check_time(&self, plan: &StepPlan, decodes: usize) {
        let columns = plan.columns().len();
        let least = columns <= decodes + PROMPT_COLUMNS_LEAST;
        // The scheduler has to see some steps first, of this size too.
        if decodes > 0 && !least && self.steps > 50 {
            let target = self.limits.inter_token_target;
            assert!(
                step_time(columns) <= target * 5 / 4,
                "{columns} columns take {:?}, the target is {target:?}",
                step_time(columns)
            );
        }
    }

    /// A row without a request begins the oldest one that was not begun, after what the cache has of its prompt.
    fn begin(&mut self, row: u32, position: u32) {
        let fresh = |&&id: &&usize| !self.requests[id].begun;
        let id = *self.live.iter().find(fresh).expect("somebody to begin");
        let request = &mut self.requests[id];
        assert!(request.admitted, "request {id} begins after admission");
        assert!(
            position.is_multiple_of(KV_BLOCK_POSITIONS) && position < request.prompt_tokens(),
            "request {id} begins at {position}, after whole blocks and before its prompt ends"
        );
        (request.begun, request.cached, request.fed) = (true, position, position);
        self.rows[row as usize] = Some(id);
        self.starts_due.push_back(id);
    }

    fn check_prompts_in_order(&mut self, plan: &StepPlan, decodes: usize) {
        let mut unfinished = None;
        for &id in &self.live {
            let request = &self.requests[id];
            if let Some(before) = unfinished {
                assert!(!request.begun, "request {id} begins after {before} is fed");
            } else if request.admitted && !request.decodes() {
                unfinished = Some(id);
            }
        }
        if unfinished.is_none() || plan.room() == 0 {
            return;
        }
        self.steps_cut_short += 1;
        let prompts = plan.columns().len() - decodes;
        assert!(
            prompts >= PROMPT_COLUMNS_LEAST,
            "a prompt waits while {} columns are empty and {prompts} taken",
            plan.room()
        );
        let room = step_time(plan.columns().len() * 4) + Duration::from_millis(2);
        let target = self.limits.inter_token_target;
        assert!(
            self.steps_cut_short < 50 || room >= target / 2,
            "a prompt waits although a step of four times as much takes {room:?} of {target:?}"
        );
    }

    /// The station counts as we do.
    pub(crate) fn check_occupancy(&self, seen: Occupancy) {
        let expected = Occupancy {
            sequences: u32::try_from(self.admitted()).expect("few"),
            queued: u32::try_from(self.waiting()).expect("few"),
            // Beginnings that several hold count once.
            kv_blocks_free: seen.kv_blocks_free,
            kv_blocks: self.limits.kv_blocks,
        };
        assert_eq!(seen, expected, "occupancy");
        let held = self.limits.kv_blocks - seen.kv_blocks_free;
        let admitted = self.live.iter().map(|&id| &self.requests[id]);
        let largest = admitted
            .filter(|r| r.admitted)
            .map(Request::worst_blocks)
            .max();
        let possible = largest.unwrap_or(0)..=self.blocks_held();
        assert!(
            possible.contains(&held),
            "{held} blocks held, of {possible:?}"
        );
    }
}
