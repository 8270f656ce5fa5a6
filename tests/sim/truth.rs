//! What the station must be doing, kept in the simplest way that could be right.
//!
//! Every accepted request that has not ended is `live`. Whoever has a row of the block table runs; the others wait, and
//! go by turn.

use std::collections::VecDeque;
use std::time::Duration;

use outstation::engine::{PlanColumn, StepPlan};
use outstation::kv::{BlockTables, blocks_for};
use outstation::limits::KV_BLOCK_POSITIONS;
use outstation::request::{Class, Submission};
use outstation::scheduler::pace::PROMPT_COLUMNS_LEAST;
use outstation::scheduler::{Occupancy, Outcome, SPECULATIVE_COLUMNS_MAX, SchedulerLimits};

use crate::random::Random;

/// Most of what a step takes beyond [`step_time`].
const NOISE_US: u32 = 500;

/// What a step takes at least.
pub(crate) fn step_time(columns: usize) -> Duration {
    Duration::from_micros(1000 + 150 * u64::try_from(columns).expect("few"))
}

/// The whole world as its checker knows it.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) limits: SchedulerLimits,
    /// Virtual time.
    pub(crate) now: Duration,
    /// When the last step began.
    pub(crate) step_began: Duration,
    /// Every request there ever was; a request's id is its index.
    pub(crate) requests: Vec<Request>,
    /// Accepted and not ended.
    pub(crate) live: Vec<usize>,
    /// The request that has a row of the block table, and the reservation that made it its own.
    pub(crate) rows: Vec<Option<(usize, u64)>>,
    /// Requests that the last plan began, and whose `Started` is due, in order.
    pub(crate) starts_due: VecDeque<usize>,
    /// Requests whose logits the last plan asked for, and whose token is due, in order; those after a guess only if the
    /// guess is what is drawn.
    pub(crate) tokens_due: VecDeque<(usize, Option<u32>)>,
    /// Columns of prompts since the start.
    pub(crate) prompt_columns: u64,
    /// Tokens drawn since the start, ends included.
    pub(crate) draws: u64,
    /// Steps in which the head of the queue had a place but no blocks.
    pub(crate) waits_for_blocks: u64,
    /// Steps that carried less of a prompt than fits, for the time it takes.
    pub(crate) steps_cut_short: u64,
    /// Times that a batch request lost its row.
    pub(crate) made_room: u64,
    /// Columns of guesses.
    pub(crate) guesses: u64,
    /// Steps that ran.
    pub(crate) steps: u64,
    noise: Random,
    /// Nobody is served yet.
    pub(crate) warms_up: bool,
    /// Seed of the model that is served.
    pub(crate) model: u64,
}

/// One request's life.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) submission: Submission,
    /// Seed of the model that answers it.
    pub(crate) model: u64,
    pub(crate) phase: Phase,
    pub(crate) arrived: Duration,
    pub(crate) queue: Duration,
    /// When its first token is due, and by what it is ordered.
    pub(crate) due: Duration,
    pub(crate) turn: Duration,
    pub(crate) first_token: Option<Duration>,
    pub(crate) last_token: Option<Duration>,
    /// It has a row.
    pub(crate) runs: bool,
    /// A step carried it since it got its row.
    pub(crate) begun: bool,
    /// Positions that were in the cache when it began for the first time.
    pub(crate) cached: u32,
    /// Positions that were run, or in the cache.
    pub(crate) fed: u32,
    /// Tokens that it had when it got its row.
    prompt_end: u32,
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
    pub(crate) fn new(arrived: Duration, model: u64, submission: Submission) -> Self {
        Self {
            submission,
            model,
            phase: Phase::Submitted,
            arrived,
            queue: Duration::ZERO,
            due: Duration::ZERO,
            turn: Duration::ZERO,
            first_token: None,
            last_token: None,
            runs: false,
            begun: false,
            cached: 0,
            fed: 0,
            prompt_end: 0,
            tokens: Vec::new(),
        }
    }

    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.submission.prompt_tokens
    }

    /// Prompt and answer so far.
    pub(crate) fn tokens_now(&self) -> u32 {
        self.prompt_tokens() + u32::try_from(self.tokens.len()).expect("few")
    }

    fn worst_blocks(&self) -> u32 {
        blocks_for(self.submission.positions_max())
    }

    fn decodes(&self) -> bool {
        self.runs && self.fed >= self.prompt_end
    }

    /// Most steps that it can need with the box to itself.
    pub(crate) fn steps_max(&self) -> u32 {
        self.submission.positions_max()
    }

    /// When it must be over.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        Some(self.arrived + self.submission.deadline?)
    }
}

impl Truth {
    pub(crate) fn new(limits: SchedulerLimits, model: u64, noise: Random) -> Self {
        Self {
            rows: vec![None; limits.sequences_max as usize],
            limits,
            now: Duration::ZERO,
            step_began: Duration::ZERO,
            requests: Vec::new(),
            live: Vec::new(),
            starts_due: VecDeque::new(),
            tokens_due: VecDeque::new(),
            prompt_columns: 0,
            draws: 0,
            waits_for_blocks: 0,
            steps_cut_short: 0,
            made_room: 0,
            guesses: 0,
            steps: 0,
            noise,
            warms_up: true,
            model,
        }
    }

    /// The request behind a row.
    pub(crate) fn request_in(&self, row: u32) -> usize {
        self.rows[row as usize]
            .expect("a row that runs has its request")
            .0
    }

    /// The token that a request really has at a position, if it was drawn.
    pub(crate) fn token_at(&self, request: usize, position: u32) -> Option<u32> {
        let request = &self.requests[request];
        let prompt = request.submission.prompt();
        let mut history = prompt.iter().chain(&request.tokens);
        history.nth(position as usize).copied()
    }

    /// Live requests without a row.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.live
            .iter()
            .copied()
            .filter(|&id| !self.requests[id].runs)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Request> {
        self.rows
            .iter()
            .flatten()
            .map(|&(id, _)| &self.requests[id])
    }

    /// Whose turn is next.
    fn head(&self) -> Option<usize> {
        self.waiting()
            .min_by_key(|&id| (self.requests[id].turn, id))
    }

    fn blocks_held(&self) -> u32 {
        self.running().map(Request::worst_blocks).sum()
    }

    /// Time between tokens that a class may expect here.
    pub(crate) fn itl(&self, class: Class) -> Duration {
        self.limits.targets[class as usize]
            .itl
            .max(step_time(1) * 2)
    }

    /// The gap that a stream allows: a target, and half of one more if it is as far ahead.
    fn gap(&self, id: usize) -> Duration {
        let request = &self.requests[id];
        // The scheduler knows what a step takes from steps with noise.
        let noise = Duration::from_micros(NOISE_US.into());
        let itl = self
            .itl(request.submission.class)
            .max((step_time(1) + noise) * 2);
        let (Some(first), Some(last)) = (request.first_token, request.last_token) else {
            return itl;
        };
        let gaps = u32::try_from(request.tokens.len()).expect("few") - 1;
        let ahead = (first + itl * gaps).saturating_sub(last);
        itl + ahead.min(itl / 2)
    }

    /// Whether another request may run beside those that do, for certain (`sure` above 1), or at all (below).
    fn one_more(&self, class: Class, sure: f64) -> bool {
        let running = self.running().count();
        let all = self.running().map(|r| r.submission.class).chain([class]);
        let tightest = all
            .map(|class| self.itl(class))
            .min()
            .expect("one at least");
        let step = |sequences| step_time(sequences + PROMPT_COLUMNS_LEAST);
        step(running + 1).mul_f64(sure) <= tightest.max(step(1) * 2)
    }

    /// The scheduler has seen enough to know what steps cost.
    fn knows(&self) -> bool {
        self.steps > 50
    }

    /// Passes the time that a step takes: a part for the step, a part for each column, and noise.
    pub(crate) fn spend_step(&mut self, columns: usize) {
        let noise = u64::from(self.noise.between(0, NOISE_US));
        self.now += step_time(columns) + Duration::from_micros(noise);
    }

    /// Rows go to those whose turn is first, each holds its worst case, a block is the same part of all who hold it,
    /// only batch requests make room, and nobody waits who could run.
    pub(crate) fn check_tables(&mut self, tables: BlockTables<'_>) {
        let overdue = |&id: &usize| {
            self.requests[id]
                .deadline()
                .is_some_and(|deadline| deadline <= self.step_began)
        };
        let overdue: Vec<usize> = self.live.iter().copied().filter(overdue).collect();
        let mut victims = Vec::new();
        for (row, place) in self.rows.iter_mut().enumerate() {
            let stays = |&mut (_, reservation): &mut (usize, u64)| {
                tables.held[row] > 0 && tables.reservations[row] == reservation
            };
            if let Some((id, _)) = place.take_if(|it| !stays(it)) {
                let request = &mut self.requests[id];
                (request.runs, request.begun, request.fed) = (false, false, 0);
                if !overdue.contains(&id) {
                    victims.push(id);
                }
            }
        }
        // What has passed its deadline is as good as ended.
        self.live.retain(|id| !overdue.contains(id));
        self.check_new_rows(tables, &victims);
        let distinct = self.check_blocks(tables);
        self.check_head(self.limits.kv_blocks - distinct);
        self.live.extend(overdue);
    }

    fn check_new_rows(&mut self, tables: BlockTables<'_>, victims: &[usize]) {
        let fresh = |&row: &usize| tables.held[row] > 0 && self.rows[row].is_none();
        let mut fresh: Vec<usize> = (0..self.rows.len()).filter(fresh).collect();
        fresh.sort_by_key(|&row| tables.reservations[row]);
        let mut urgent = Vec::new();
        for row in fresh {
            let head = self.head().expect("somebody waits for a row");
            let class = self.requests[head].submission.class;
            assert!(
                !self.knows() || self.one_more(class, 0.7),
                "request {head} runs beside too many"
            );
            self.rows[row] = Some((head, tables.reservations[row]));
            let request = &mut self.requests[head];
            (request.runs, request.prompt_end) = (true, request.tokens_now());
            urgent.push(head);
        }
        urgent.extend(self.head());
        for &victim in victims {
            self.made_room += 1;
            let made_room = &self.requests[victim];
            assert_eq!(
                made_room.submission.class,
                Class::Batch,
                "request {victim} keeps its row"
            );
            let reason = urgent.iter().map(|&id| &self.requests[id]).any(|request| {
                request.submission.class != Class::Batch && request.turn < made_room.turn
            });
            assert!(reason, "request {victim} makes room for somebody");
        }
        for (row, place) in self.rows.iter().enumerate() {
            let needs = place.map_or(0, |(id, _)| self.requests[id].worst_blocks());
            assert_eq!(tables.held[row], needs, "row {row} holds a worst case");
        }
    }

    /// Says how many blocks are held.
    fn check_blocks(&self, tables: BlockTables<'_>) -> u32 {
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
        u32::try_from(places.iter().flatten().count()).expect("few")
    }

    /// The head waits for a reason.
    fn check_head(&mut self, free: u32) {
        let Some(head) = self.head() else {
            return;
        };
        let request = &self.requests[head];
        let class = request.submission.class;
        let (running, rows) = (self.running().count(), self.rows.len());
        assert!(running > 0, "request {head} waits for nobody");
        if !self.knows() || !self.one_more(class, 1.3) {
            return;
        }
        // Who begins in this step may have given back blocks for others' after the head was looked at.
        let could = request.worst_blocks() <= free && self.running().all(|r| r.begun);
        assert!(
            running == rows || !could,
            "request {head} waits with a row and {free} blocks free"
        );
        let lends = |r: &Request| r.submission.class == Class::Batch && r.turn > request.turn;
        assert!(
            class == Class::Batch || !could || !self.running().any(lends),
            "request {head} waits while a batch request with a later turn runs"
        );
        self.waits_for_blocks += u64::from(running < rows);
    }

    /// Each column is the next one of its sequence or a guess after it, every decode is there, and prompts fill the
    /// rest in order.
    pub(crate) fn check_plan(&mut self, plan: &StepPlan) {
        assert!(!plan.columns().is_empty(), "an empty plan is not run");
        assert!(
            plan.columns().len() <= self.limits.step_columns_max,
            "a step has at most {} columns",
            self.limits.step_columns_max
        );
        let decodes: Vec<(usize, u32)> = (0..self.requests.len())
            .filter(|&id| self.requests[id].decodes())
            .map(|id| (id, self.requests[id].fed))
            .collect();
        let mut guesses = 0;
        for column in plan.columns() {
            let id = self.request_in(column.sequence);
            let decoded = decodes.iter().find(|&&(decoding, _)| decoding == id);
            match decoded {
                Some(&(_, fed)) if column.position > fed => {
                    guesses += 1;
                    self.check_guess(id, column);
                }
                _ => self.check_column(id, column),
            }
        }
        for &(id, fed) in &decodes {
            assert_eq!(
                self.requests[id].fed,
                fed + 1,
                "request {id} decodes in every step"
            );
        }
        self.guesses += guesses as u64;
        let streams = decodes.len() + guesses;
        let reads = self.running().any(|r| !r.decodes());
        assert!(
            guesses == 0 || streams <= SPECULATIVE_COLUMNS_MAX && !reads,
            "{guesses} guesses in a step with something else to do"
        );
        let tightest = decodes.iter().map(|&(id, _)| self.gap(id)).min();
        self.check_time(plan.columns().len(), streams, tightest);
        self.check_prompts_in_order(plan, streams, tightest);
        self.steps += 1;
    }

    fn check_column(&mut self, id: usize, column: &PlanColumn) {
        if !self.requests[id].begun {
            self.begin(id, column.position);
        }
        let token = self.token_at(id, column.position);
        let request = &mut self.requests[id];
        assert_eq!(column.position, request.fed, "request {id}: next position");
        assert_eq!(Some(column.token), token, "request {id}: its own token");
        let reads = request.fed < request.prompt_end;
        request.fed += 1;
        assert_eq!(
            column.logits,
            request.decodes(),
            "request {id}: logits where the prompt ends, and after"
        );
        self.prompt_columns += u64::from(reads);
        if column.logits {
            self.tokens_due.push_back((id, None));
        }
    }

    fn check_guess(&mut self, id: usize, column: &PlanColumn) {
        let request = &self.requests[id];
        assert!(
            column.logits && column.position < request.submission.positions_max(),
            "request {id}: a guess at a token that may come"
        );
        assert_eq!(
            self.token_at(id, column.position),
            None,
            "request {id}: a guess at what was not drawn"
        );
        self.tokens_due.push_back((id, Some(column.token)));
    }

    /// Where streams run, a step is over within their target, or carries no more than it must.
    fn check_time(&self, columns: usize, streams: usize, tightest: Option<Duration>) {
        let least = columns <= streams + PROMPT_COLUMNS_LEAST;
        if let Some(target) = tightest
            && !least
            && self.knows()
        {
            assert!(
                step_time(columns) <= target * 5 / 4,
                "{columns} columns take {:?}, the target is {target:?}",
                step_time(columns)
            );
        }
    }

    /// A row begins with what the cache has of its tokens.
    fn begin(&mut self, id: usize, position: u32) {
        let request = &mut self.requests[id];
        assert!(
            position.is_multiple_of(KV_BLOCK_POSITIONS) && position < request.prompt_end,
            "request {id} begins at {position}, after whole blocks and before its tokens end"
        );
        (request.begun, request.fed) = (true, position);
        if request.phase == Phase::Accepted && !self.starts_due.contains(&id) {
            request.cached = position;
            self.starts_due.push_back(id);
        }
    }

    fn check_prompts_in_order(
        &mut self,
        plan: &StepPlan,
        streams: usize,
        tightest: Option<Duration>,
    ) {
        let mut running: Vec<usize> = self.rows.iter().flatten().map(|&(id, _)| id).collect();
        running.sort_by_key(|&id| (self.requests[id].turn, id));
        let first = running.first().copied();
        let mut unfinished = None;
        let carried = |id: usize| {
            let row = |c: &PlanColumn| self.request_in(c.sequence) == id;
            plan.columns().iter().any(row)
        };
        for id in running {
            let request = &self.requests[id];
            let reads = request.fed < request.prompt_end;
            if let Some(before) = unfinished {
                assert!(
                    !reads || !carried(id),
                    "request {id} is read before {before}"
                );
            } else if reads {
                unfinished = Some(id);
            }
        }
        let (Some(_), Some(first)) = (unfinished, first) else {
            return;
        };
        if plan.room() == 0 {
            return;
        }
        self.steps_cut_short += 1;
        let prompts = plan.columns().len() - streams;
        assert!(
            prompts >= PROMPT_COLUMNS_LEAST,
            "a prompt waits while {} columns are empty and {prompts} taken",
            plan.room()
        );
        let room = step_time(plan.columns().len() * 4) + Duration::from_millis(2);
        let target = tightest.unwrap_or(self.itl(self.requests[first].submission.class));
        assert!(
            !self.knows() || self.steps_cut_short < 50 || room >= target / 2,
            "a prompt waits although a step of four times as much takes {room:?} of {target:?}"
        );
    }

    /// The station counts as we do.
    pub(crate) fn check_occupancy(&self, seen: Occupancy) {
        let expected = Occupancy {
            sequences: u32::try_from(self.running().count()).expect("few"),
            sequences_max: self.limits.sequences_max,
            queued: u32::try_from(self.waiting().count()).expect("few"),
            // Beginnings that several hold count once.
            kv_blocks_free: seen.kv_blocks_free,
            kv_blocks: self.limits.kv_blocks,
            kv_blocks_pinned: 0,
            retry_after_ms: seen.retry_after_ms,
        };
        assert_eq!(seen, expected, "occupancy");
        let held = self.limits.kv_blocks - seen.kv_blocks_free;
        let largest = self.running().map(Request::worst_blocks).max();
        let possible = largest.unwrap_or(0)..=self.blocks_held();
        assert!(
            possible.contains(&held),
            "{held} blocks held, of {possible:?}"
        );
    }
}
