//! Who runs in the next step, and who may come at all.
//!
//! Continuous batching with promises. A request is taken when its first token will come by the time that its class
//! allows ([`Targets`]), and nobody who was taken before is made late by it; otherwise it is refused at once, with the
//! time at which it would have fitted. [`forecast`] plays that forward from what steps were measured to cost
//! ([`cost`]).
//!
//! Who was taken has a *turn*: the time by which its first token is due. Everything goes by turn, earliest first:
//! places, blocks, the tokens of prompts in a step. A turn stays what it was on arrival, so whoever waits comes to be
//! first: classes differ in how far off their turns are, and nobody starves. Batch requests lend their places to
//! earlier turns of the other classes, and go on later from the blocks that they had computed.
//!
//! Each step carries one token of every sequence that draws, and then prompts, as many columns as leave every stream
//! inside its target between tokens ([`pace`]). A request starts when a place and the blocks for its whole worst case
//! (prompt and `tokens_max`) are free, so one that started never fails for memory.
//!
//! Calling order: `handle_submit` and `handle_cancel` at any time between steps; `plan` before a step; `sampled` and
//! `handle_token` for each row of logits after it, in order, then `handle_step`; `poll_event` until `None` after each
//! of them.

mod admission;
pub mod cost;
pub mod draft;
pub mod forecast;
pub mod pace;
mod steps;
pub mod tenants;

use std::collections::VecDeque;
use std::time::Duration;

use draft::{DRAFT_TOKENS_MAX, Drafter};
use forecast::Outlook;
use pace::{Pace, Targets};
use tenants::Tenants;

use crate::energy::Carried;
use crate::flag::Drawn;
use crate::kv::{BlockTables, KvPool, blocks_for};
use crate::logprobs::Logprobs;
use crate::request::{RequestId, Submission, Timings, Usage};
use crate::sampler::{Drawing, Generator};

/// What the scheduler was given at start.
#[derive(Debug, Clone)]
pub struct SchedulerLimits {
    /// Sequences that run at once.
    pub sequences_max: u32,
    /// Requests that wait, beyond free places.
    pub queue_requests_max: u32,
    /// Prompt tokens of the requests that wait; one request alone may have more.
    pub queue_tokens_max: u32,
    /// Positions of one sequence.
    pub context_tokens_max: u32,
    /// Columns of one step.
    pub step_columns_max: usize,
    /// KV blocks in the pool.
    pub kv_blocks: u32,
    /// Tokens that end a sequence.
    pub end_tokens: Box<[u32]>,
    /// What each [`Class`](crate::request::Class) expects.
    pub targets: [Targets; 3],
}

/// Rows of logits that a step may ask for, with this many sequences: guesses are checked in steps that carry fewer.
pub const fn logits_rows_max(sequences_max: u32) -> usize {
    let rows = sequences_max as usize;
    if rows > SPECULATIVE_COLUMNS_MAX {
        rows
    } else {
        SPECULATIVE_COLUMNS_MAX
    }
}

/// Columns of a step that carries guesses: as many as the kernels multiply at once.
pub const SPECULATIVE_COLUMNS_MAX: usize = DRAFT_TOKENS_MAX + 1;

/// What happened to a request. The caller polls these and passes them on.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// It will be served.
    Accepted {
        /// Whose.
        id: RequestId,
        /// Requests whose turn comes before, and that wait.
        queued_before: u32,
        /// Time until its first token, as forecast.
        first_token_in: Duration,
        /// When its first token is due.
        due: Duration,
        /// By what it is ordered: `due`, or somewhat later for a tenant over its share.
        turn: Duration,
    },
    /// The first step that carries a token of it is planned.
    Started {
        /// Whose.
        id: RequestId,
        /// How long it waited.
        queue: Duration,
    },
    /// A token was drawn.
    Token {
        /// Whose.
        id: RequestId,
        /// Which.
        token: u32,
        /// What the model made of it, where that was asked for.
        logprobs: Option<Logprobs>,
    },
    /// It is over, once; the submission goes back to the thread that made it.
    Ended {
        /// Why.
        outcome: Outcome,
        /// What it cost.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
        /// The request itself, with its answer.
        submission: Box<Submission>,
    },
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The end of the sequence was drawn, or the form that was asked for is complete.
    Stop,
    /// `tokens_max` were generated.
    Length,
    /// Its client left, or had enough.
    Cancelled,
    /// It could not be served in time, or only by making others late.
    Overloaded {
        /// When it would have fitted, from what is under way.
        retry_after_ms: u64,
    },
    /// Its own deadline could not be met, or has passed.
    Deadline,
    /// The form that it asked for could not be followed within the limits.
    Form,
}

/// Numbers of the moment, for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that run.
    pub sequences: u32,
    /// How many could.
    pub sequences_max: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Free KV blocks.
    pub kv_blocks_free: u32,
    /// All KV blocks.
    pub kv_blocks: u32,
    /// Those that hold what the operator pinned.
    pub kv_blocks_pinned: u32,
    /// What the last refusal said.
    pub retry_after_ms: u64,
}

impl Occupancy {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.sequences_max += other.sequences_max;
        self.queued += other.queued;
        self.kv_blocks_free += other.kv_blocks_free;
        self.kv_blocks += other.kv_blocks;
        self.kv_blocks_pinned += other.kv_blocks_pinned;
        self.retry_after_ms = self.retry_after_ms.max(other.retry_after_ms);
    }
}

/// What happened since start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Batch sequences that made room.
    pub preempted: u64,
    /// Guessed tokens that were run.
    pub guessed: u64,
    /// Those that were right.
    pub guessed_right: u64,
    /// First tokens that came when they were due.
    pub first_tokens_in_time: u64,
    /// First tokens that came later.
    pub first_tokens_late: u64,
}

impl Totals {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.preempted += other.preempted;
        self.guessed += other.guessed;
        self.guessed_right += other.guessed_right;
        self.first_tokens_in_time += other.first_tokens_in_time;
        self.first_tokens_late += other.first_tokens_late;
    }
}

/// A token that was drawn, and what was measured of it.
#[derive(Debug)]
pub struct Picked {
    /// Which.
    pub token: u32,
    /// How sure the model was, where that is measured.
    pub drawn: Option<Drawn>,
    /// What the model made of it, where that was asked for.
    pub logprobs: Option<Logprobs>,
}

impl From<u32> for Picked {
    /// Nothing was measured.
    fn from(token: u32) -> Self {
        Self {
            token,
            drawn: None,
            logprobs: None,
        }
    }
}

/// A sequence whose logits the last step made.
#[derive(Debug)]
pub struct Sampled<'a> {
    /// The request, with prompt and answer so far.
    pub submission: &'a Submission,
    /// Its random numbers; they go back with the token.
    pub generator: Generator,
    /// Ends of sequence that may not be drawn yet.
    pub forbidden: &'a [u32],
}

impl Sampled<'_> {
    /// What the sampler knows of it.
    pub fn drawing(&self) -> Drawing<'_> {
        Drawing {
            sampling: &self.submission.sampling,
            history: &self.submission.tokens,
            prompt_tokens: self.submission.prompt_tokens as usize,
            forbidden: self.forbidden,
            allowed: self.submission.grammar.as_ref().map(|g| g.allowed()),
        }
    }
}

/// The queue, the running sequences and their KV blocks. All memory is taken in `new`.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    pace: Pace,
    /// By turn, earliest first.
    queue: VecDeque<Request>,
    queue_tokens: u64,
    running: Box<[Option<Request>]>,
    drafters: Box<[Drafter]>,
    /// Running sequences by turn, earliest first.
    order: Vec<u32>,
    /// Where each row of logits of the planned step belongs.
    rows: Vec<Row>,
    /// Whose columns the planned step has.
    carried: Vec<Carried>,
    kv: KvPool,
    events: VecDeque<Event>,
    tenants: Tenants,
    answers: AnswerLength,
    outlooks: Vec<Outlook>,
    /// The earliest deadline there may be.
    next_deadline: Option<Duration>,
    /// The head of the queue that found too few blocks, and how many were free then.
    short: Option<(RequestId, u32)>,
    retry_after_ms: u64,
    totals: Totals,
    /// Time in steps, and when the last one was planned.
    busy: Duration,
    planned: Duration,
}

/// A request that was taken.
#[derive(Debug)]
struct Request {
    submission: Box<Submission>,
    generator: Generator,
    turn: Duration,
    due: Duration,
    deadline: Option<Duration>,
    arrived: Duration,
    started: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Duration,
    /// What [`Scheduler::busy_at`] said when it was started, at its first token and at its last.
    busy: [Duration; 3],
    /// Positions that were there when it was begun.
    cached: u32,
    /// While it waits: positions that were there when it came, or when it made room.
    known: u32,
    /// While it runs: positions whose keys and values are in the cache, or will be after the planned step.
    fed: u32,
    /// While it runs: tokens that it had when it got its place, which are run as a prompt.
    prompt_end: u32,
    /// While it runs: whether a step carried it since it got its place.
    begun: bool,
    /// Guesses of the planned step, and how many of them proved right.
    guesses: heapless::Vec<u32, DRAFT_TOKENS_MAX>,
    right: usize,
}

impl Request {
    /// By what requests are ordered: who came first goes first where turns are the same.
    fn key(&self) -> (Duration, RequestId) {
        (self.turn, self.submission.id)
    }

    fn reads(&self) -> bool {
        self.fed < self.prompt_end
    }

    fn tokens(&self) -> u32 {
        u32::try_from(self.submission.tokens.len()).expect("checked against the context")
    }

    /// Tokens that it may still draw.
    fn answer_left_max(&self) -> u32 {
        self.submission.positions_max() - self.tokens()
    }
}

/// A row of logits.
#[derive(Debug, Clone, Copy)]
struct Row {
    sequence: u32,
    /// Guesses before it in the step, all of which must be right for it to count.
    guesses_before: usize,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: SchedulerLimits) -> Self {
        let sequences = limits.sequences_max as usize;
        // Free places let as many more wait for the next step, and who made room waits again.
        let queue = limits.queue_requests_max as usize + 2 * sequences;
        assert!(sequences > 0, "at least one sequence runs");
        assert!(
            sequences <= limits.step_columns_max,
            "a step carries a token of every sequence"
        );
        assert!(
            limits.kv_blocks >= blocks_for(limits.context_tokens_max),
            "one sequence of the whole context fits: the budget saw to it"
        );
        Self {
            pace: Pace::new(limits.targets, limits.step_columns_max),
            queue: VecDeque::with_capacity(queue),
            queue_tokens: 0,
            running: (0..sequences).map(|_| None).collect(),
            drafters: (0..sequences).map(|_| Drafter::default()).collect(),
            order: Vec::with_capacity(sequences),
            rows: Vec::with_capacity(logits_rows_max(limits.sequences_max)),
            carried: Vec::with_capacity(sequences),
            kv: KvPool::new(
                limits.kv_blocks,
                limits.sequences_max,
                limits.context_tokens_max,
            ),
            events: VecDeque::with_capacity(events_per_call_max(
                limits.sequences_max,
                limits.queue_requests_max,
            )),
            tenants: Tenants::default(),
            answers: AnswerLength::default(),
            outlooks: Vec::with_capacity(queue + sequences + 1),
            next_deadline: None,
            short: None,
            retry_after_ms: 0,
            totals: Totals::default(),
            busy: Duration::ZERO,
            planned: Duration::ZERO,
            limits,
        }
    }

    /// Bytes that `new` takes for each sequence and each request that waits, KV lists aside, at most.
    pub fn bytes(sequences_max: u32, queue_requests_max: u32) -> u64 {
        let sequences = u64::from(sequences_max);
        let waiting = u64::from(queue_requests_max) + 2 * sequences;
        let size = |bytes: usize| bytes as u64;
        sequences * size(Drafter::BYTES + size_of::<Request>() + size_of::<Carried>() + 16)
            + waiting * size(size_of::<Request>() + size_of::<Outlook>())
            + (waiting + 16 * sequences) * size(size_of::<Event>())
    }

    /// Longest prompt that one step could carry.
    pub fn prompt_columns_max(&self) -> usize {
        let context = self.limits.context_tokens_max as usize;
        self.limits.step_columns_max.min(context - 1)
    }

    /// Most events that one call adds; the caller keeps this much room before each.
    pub fn events_per_call_max(&self) -> usize {
        events_per_call_max(self.limits.sequences_max, self.limits.queue_requests_max)
    }

    /// Ends a request wherever it is; unknown ids are requests that ended on their own in the meantime.
    pub fn handle_cancel(&mut self, now: Duration, id: RequestId) {
        if let Some(index) = self.queue.iter().position(|q| q.submission.id == id) {
            self.end_queued(now, index, Outcome::Cancelled);
            return;
        }
        let holds = |s: &Option<Request>| s.as_ref().is_some_and(|r| r.submission.id == id);
        if let Some(sequence) = self.running.iter().position(holds) {
            let sequence = u32::try_from(sequence).expect("at most sequences_max");
            self.end(now, sequence, Outcome::Cancelled);
        }
    }

    /// Keeps the beginning of a prompt that [`Tenant::OPERATOR`](crate::request::Tenant::OPERATOR) has run, for
    /// everybody and for good. Says how many of its tokens are kept.
    pub fn pin(&mut self, prompt: &[u32]) -> u32 {
        self.kv.pin(prompt)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Block tables for the engine.
    pub fn tables(&self) -> BlockTables<'_> {
        self.kv.tables()
    }

    /// Whose columns the last planned step had, each request once.
    pub fn carried(&self) -> &[Carried] {
        &self.carried
    }

    /// Numbers of the moment.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            sequences: u32::try_from(self.order.len()).expect("at most sequences_max"),
            sequences_max: self.limits.sequences_max,
            queued: u32::try_from(self.queue.len()).expect("bounded"),
            kv_blocks_free: self.kv.blocks_free(),
            kv_blocks: self.kv.blocks(),
            kv_blocks_pinned: self.kv.blocks_pinned(),
            retry_after_ms: self.retry_after_ms,
        }
    }

    /// What happened since start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Checks what must always hold. For tests and checkers.
    pub fn assert_whole(&self) {
        self.kv.assert_whole();
        let running = self.running.iter().filter(|r| r.is_some()).count();
        assert_eq!(
            running,
            self.order.len(),
            "every running sequence has its turn"
        );
        let turns = self.order.iter().map(|&s| self.runs(s).key());
        assert!(turns.is_sorted(), "those that run go by turn");
        let waits = self.queue.iter().map(Request::key);
        assert!(waits.is_sorted(), "those that wait go by turn");
        let tokens: u64 = self.queue.iter().map(|r| u64::from(r.tokens())).sum();
        assert_eq!(tokens, self.queue_tokens, "tokens that wait are counted");
        if self.order.is_empty() {
            assert_eq!(
                self.kv.blocks_free() + self.kv.blocks_pinned(),
                self.kv.blocks(),
                "nobody runs, nobody holds"
            );
        }
    }

    /// Time in steps up to a moment in the planned step.
    fn busy_at(&self, now: Duration) -> Duration {
        self.busy + now.saturating_sub(self.planned)
    }

    fn runs(&self, sequence: u32) -> &Request {
        self.running[sequence as usize].as_ref().expect("it runs")
    }

    /// Takes a sequence's place and blocks.
    fn take_place(&mut self, sequence: u32) -> Request {
        let request = self.running[sequence as usize].take().expect("it runs");
        self.kv
            .tell(sequence, &request.submission.tokens, request.fed);
        let turn = self.order.iter().position(|&s| s == sequence);
        self.order.remove(turn.expect("it has a turn"));
        self.kv.release(sequence);
        request
    }

    fn end(&mut self, now: Duration, sequence: u32, outcome: Outcome) {
        let request = self.take_place(sequence);
        self.tell_end(now, request, outcome);
    }

    fn end_queued(&mut self, now: Duration, index: usize, outcome: Outcome) {
        let request = self.queue.remove(index).expect("it was found there");
        self.queue_tokens -= u64::from(request.tokens());
        self.tell_end(now, request, outcome);
    }

    fn tell_end(&mut self, now: Duration, request: Request, outcome: Outcome) {
        let generated = request.submission.answer().len();
        if matches!(outcome, Outcome::Stop | Outcome::Length) {
            self.answers
                .handle_end(generated, request.submission.tokens_max);
        }
        self.events.push_back(Event::Ended {
            outcome,
            usage: Usage {
                prompt_tokens: request.submission.prompt_tokens,
                completion_tokens: u32::try_from(generated).expect("at most tokens_max"),
                cached_tokens: request.cached,
            },
            timings: timings_of(&request, now),
            submission: request.submission,
        });
    }
}

/// A step adds at most Started and Ended for each sequence and a Token for each row of logits; deadlines may end all at
/// once.
pub fn events_per_call_max(sequences_max: u32, queue_requests_max: u32) -> usize {
    let sequences = sequences_max as usize;
    let waiting = queue_requests_max as usize + 2 * sequences;
    2 * sequences + waiting + logits_rows_max(sequences_max)
}

fn timings_of(request: &Request, now: Duration) -> Timings {
    let started = request.started.unwrap_or(now);
    let first = request.first_token.unwrap_or(now);
    Timings {
        queue: started.saturating_sub(request.arrived),
        prefill: first.saturating_sub(started),
        decode: request.last_token.saturating_sub(first),
        prefill_busy: request.busy[1].saturating_sub(request.busy[0]),
        decode_busy: request.busy[2].saturating_sub(request.busy[1]),
    }
}

/// How long answers are against what was asked for, lately.
#[derive(Debug)]
struct AnswerLength {
    share: f64,
}

impl Default for AnswerLength {
    fn default() -> Self {
        // Nothing is promised on the hope that answers are short.
        Self { share: 1.0 }
    }
}

impl AnswerLength {
    fn handle_end(&mut self, tokens: usize, tokens_max: u32) {
        self.share += (tokens as f64 / f64::from(tokens_max) - self.share) / 16.0;
    }

    /// Tokens that are expected of some that are possible; at least one.
    fn expected(&self, tokens_max: u32) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and tokens_max"
        )]
        let expected = (f64::from(tokens_max) * self.share).ceil() as u32;
        expected.clamp(1, tokens_max.max(1))
    }
}

#[cfg(test)]
mod tests;
