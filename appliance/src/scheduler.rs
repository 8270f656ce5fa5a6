//! Who runs in the next step.
//!
//! First come, first served, with continuous batching: each step carries one token of every sequence that decodes,
//! and then prompt chunks in order of admission, as many columns as leave every running stream inside its target
//! between tokens ([`cost`] says how many those are). A request is admitted when a place and the blocks for its whole
//! worst case (prompt and `tokens_max`) are free, so an admitted request never fails for memory. What an earlier
//! sequence computed of the same beginning is taken as it is.
//!
//! Calling order: `handle_submit` and `handle_cancel` at any time between steps; `plan` before a step; `handle_token`
//! for each row of logits after it, then `handle_step`; `poll_event` until `None` after each of them.

pub mod cost;

use std::collections::VecDeque;
use std::time::Duration;

use cost::StepCost;

use crate::engine::{PlanColumn, StepPlan};
use crate::kv::{BlockTables, KvPool, blocks_for};
use crate::request::{RequestId, Submission, Timings, Usage};

/// What the scheduler was given at start.
#[derive(Debug, Clone)]
pub struct SchedulerLimits {
    /// Sequences that run at once.
    pub sequences_max: u32,
    /// Requests that wait.
    pub queue_requests_max: u32,
    /// Positions of one sequence.
    pub context_tokens_max: u32,
    /// KV blocks in the pool.
    pub kv_blocks: u32,
    /// Tokens that end a sequence.
    pub end_tokens: Box<[u32]>,
    /// Longest time between two tokens of a stream that prompts of others should cause.
    pub inter_token_target: Duration,
}

/// What happened to a request. The caller polls these and passes them on.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// It has a place in the queue.
    Accepted {
        /// Whose.
        id: RequestId,
        /// Requests that wait before it.
        queued_before: u32,
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
    },
    /// It is over, once; the submission goes back to the thread that made it.
    Ended {
        /// Why.
        outcome: Outcome,
        /// What it cost.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
        /// The request itself.
        submission: Box<Submission>,
    },
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The end of the sequence was drawn.
    Stop,
    /// `tokens_max` were generated.
    Length,
    /// Its client left, or had enough.
    Cancelled,
    /// The queue was full.
    Overloaded {
        /// When a place is expected, from the measured drain.
        retry_after_ms: u64,
    },
}

/// Numbers of the moment, for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that run.
    pub sequences: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Free KV blocks.
    pub kv_blocks_free: u32,
    /// All KV blocks.
    pub kv_blocks: u32,
}

/// A sequence whose logits the last step made.
#[derive(Debug, Clone, Copy)]
pub struct Sampled<'a> {
    /// The request.
    pub submission: &'a Submission,
    /// Prompt and answer so far.
    pub history: &'a [u32],
    /// Ends of sequence that may not be drawn yet.
    pub forbidden: &'a [u32],
}

/// The queue, the running sequences and their KV blocks. All memory is taken in `new`.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    queue: VecDeque<Queued>,
    running: Box<[Option<Running>]>,
    /// Token ids of each sequence, prompt and answer; capacity is the whole context.
    histories: Box<[Vec<u32>]>,
    /// Running sequences, oldest admission first.
    order: Vec<u32>,
    /// Sequences of the rows of logits of the planned step.
    rows: Vec<u32>,
    kv: KvPool,
    events: VecDeque<Event>,
    drain: Drain,
    cost: StepCost,
}

/// Columns of prompts that a step carries even where its time is up, so that no prompt waits for ever: as many as the
/// kernels multiply at once.
pub const PROMPT_COLUMNS_LEAST: usize = 8;

/// Who shares beginnings of prompts: until there are tenants, all who may come in.
const EVERYBODY: u64 = 0;

#[derive(Debug)]
struct Queued {
    submission: Box<Submission>,
    arrived: Duration,
}

#[derive(Debug)]
struct Running {
    submission: Box<Submission>,
    /// Positions whose keys and values are in the cache, or will be after the planned step.
    fed: u32,
    /// Positions that were there before it came.
    cached: u32,
    arrived: Duration,
    started: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Duration,
}

impl Running {
    fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.submission.prompt.len()).expect("checked against the context")
    }
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: SchedulerLimits) -> Self {
        let sequences = limits.sequences_max as usize;
        let queue = limits.queue_requests_max as usize;
        assert!(sequences > 0, "at least one sequence runs");
        assert!(
            limits.kv_blocks >= blocks_for(limits.context_tokens_max),
            "one sequence of the whole context fits: the budget saw to it"
        );
        Self {
            queue: VecDeque::with_capacity(queue),
            running: (0..sequences).map(|_| None).collect(),
            histories: (0..sequences)
                .map(|_| Vec::with_capacity(limits.context_tokens_max as usize))
                .collect(),
            order: Vec::with_capacity(sequences),
            rows: Vec::with_capacity(sequences),
            kv: KvPool::new(
                limits.kv_blocks,
                limits.sequences_max,
                limits.context_tokens_max,
            ),
            // A step adds at most Started, Token and Ended for each sequence; a submit adds one.
            events: VecDeque::with_capacity(3 * sequences + 1),
            drain: Drain::default(),
            cost: StepCost::default(),
            limits,
        }
    }

    /// Most events that one call adds; the caller keeps this much room before each.
    pub fn events_per_call_max(&self) -> usize {
        3 * self.limits.sequences_max as usize + 1
    }

    /// Takes a request into the queue, or ends it at once when the queue is full.
    pub fn handle_submit(&mut self, now: Duration, submission: Box<Submission>) {
        let worst = submission.prompt.len() + submission.tokens_max as usize;
        assert!(
            !submission.prompt.is_empty(),
            "checked when the submission was made"
        );
        assert!(
            submission.tokens_max > 0,
            "checked when the submission was made"
        );
        assert!(
            worst <= self.limits.context_tokens_max as usize,
            "checked when the submission was made"
        );
        if self.queue.len() >= self.limits.queue_requests_max as usize {
            let retry_after_ms = self.drain.wait_ms(self.queue.len());
            let usage = usage_of(&submission, 0);
            self.events.push_back(Event::Ended {
                outcome: Outcome::Overloaded { retry_after_ms },
                usage,
                timings: Timings::default(),
                submission,
            });
            return;
        }
        self.events.push_back(Event::Accepted {
            id: submission.id,
            queued_before: u32::try_from(self.queue.len()).expect("at most queue_requests_max"),
        });
        self.queue.push_back(Queued {
            submission,
            arrived: now,
        });
    }

    /// Ends a request wherever it is; unknown ids are requests that ended on their own in the meantime.
    pub fn handle_cancel(&mut self, now: Duration, id: RequestId) {
        if let Some(index) = self.queue.iter().position(|q| q.submission.id == id) {
            let queued = self.queue.remove(index).expect("found above");
            let usage = usage_of(&queued.submission, 0);
            self.events.push_back(Event::Ended {
                outcome: Outcome::Cancelled,
                usage,
                timings: Timings {
                    queue: now.saturating_sub(queued.arrived),
                    ..Timings::default()
                },
                submission: queued.submission,
            });
            return;
        }
        let holds = |s: &Option<Running>| s.as_ref().is_some_and(|r| r.submission.id == id);
        if let Some(sequence) = self.running.iter().position(holds) {
            let sequence = u32::try_from(sequence).expect("at most sequences_max");
            self.end(now, sequence, Outcome::Cancelled);
        }
    }

    /// Writes the next step into `plan`; an empty plan means that there is nothing to do. Returns how many of its
    /// columns are of prompts.
    pub fn plan(&mut self, now: Duration, plan: &mut StepPlan) -> usize {
        plan.clear();
        self.rows.clear();
        self.admit();
        for index in 0..self.order.len() {
            self.plan_decode(self.order[index], plan);
        }
        let decodes = plan.columns().len();
        let mut room = self.prompt_room(now, decodes, plan.room());
        for index in 0..self.order.len() {
            if room == 0 {
                break;
            }
            room -= self.plan_prefill(now, self.order[index], room, plan);
        }
        assert_eq!(
            self.rows.len(),
            plan.logits_rows(),
            "each row has its sequence"
        );
        plan.columns().len() - decodes
    }

    /// What to draw from for a row of the last step's logits.
    pub fn sampled(&self, row: usize) -> (u32, Sampled<'_>) {
        let sequence = self.rows[row];
        let running = self.running[sequence as usize]
            .as_ref()
            .expect("it was planned");
        let history = &self.histories[sequence as usize];
        let generated = history.len() - running.submission.prompt.len();
        let early = generated < running.submission.tokens_min as usize;
        let forbidden = if early {
            &self.limits.end_tokens[..]
        } else {
            &[]
        };
        (
            sequence,
            Sampled {
                submission: &running.submission,
                history,
                forbidden,
            },
        )
    }

    /// Takes the token that was drawn for a sequence.
    pub fn handle_token(&mut self, now: Duration, sequence: u32, token: u32) {
        let running = self.running[sequence as usize]
            .as_mut()
            .expect("it was planned");
        let ends = self.limits.end_tokens.contains(&token) && !running.submission.ignore_eos;
        running.first_token.get_or_insert(now);
        running.last_token = now;
        self.kv
            .tell(sequence, &self.histories[sequence as usize], running.fed);
        if ends {
            self.end(now, sequence, Outcome::Stop);
            return;
        }
        let id = running.submission.id;
        let tokens_max = running.submission.tokens_max as usize;
        let prompt_tokens = running.submission.prompt.len();
        let history = &mut self.histories[sequence as usize];
        assert!(
            history.len() < history.capacity(),
            "the worst case was reserved"
        );
        history.push(token);
        self.events.push_back(Event::Token { id, token });
        if history.len() - prompt_tokens >= tokens_max {
            self.end(now, sequence, Outcome::Length);
        }
    }

    /// Takes how long the planned step took, draws included.
    pub fn handle_step(&mut self, columns: usize, took: Duration) {
        self.cost.handle_step(columns, took);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Block tables for the engine.
    pub fn tables(&self) -> BlockTables<'_> {
        self.kv.tables()
    }

    /// Numbers of the moment.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            sequences: u32::try_from(self.order.len()).expect("at most sequences_max"),
            queued: u32::try_from(self.queue.len()).expect("at most queue_requests_max"),
            kv_blocks_free: self.kv.blocks_free(),
            kv_blocks: self.kv.blocks(),
        }
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
        if self.order.is_empty() {
            assert_eq!(
                self.kv.blocks_free(),
                self.kv.blocks(),
                "nobody runs, nobody holds"
            );
        }
    }

    /// Moves requests from the head of the queue to free places, while their worst case fits.
    fn admit(&mut self) {
        if self.order.is_empty() && self.queue.is_empty() {
            self.drain.handle_idle();
        }
        while let Some(head) = self.queue.front() {
            let Some(sequence) = self.running.iter().position(Option::is_none) else {
                return;
            };
            let prompt_tokens = u32::try_from(head.submission.prompt.len()).expect("checked");
            let positions = prompt_tokens + head.submission.tokens_max;
            let row = u32::try_from(sequence).expect("at most sequences_max");
            let prompt = &head.submission.prompt;
            let Some(cached) = self.kv.reserve(row, positions, prompt, EVERYBODY) else {
                return;
            };
            let Queued {
                submission,
                arrived,
            } = self.queue.pop_front().expect("seen above");
            let history = &mut self.histories[sequence];
            history.clear();
            history.extend_from_slice(&submission.prompt);
            self.running[sequence] = Some(Running {
                submission,
                fed: cached,
                cached,
                arrived,
                started: None,
                first_token: None,
                last_token: Duration::ZERO,
            });
            self.order.push(row);
        }
    }

    fn plan_decode(&mut self, sequence: u32, plan: &mut StepPlan) {
        let running = self.running[sequence as usize]
            .as_mut()
            .expect("it is in the order");
        if running.fed < running.prompt_tokens() {
            return;
        }
        let history = &self.histories[sequence as usize];
        let position = running.fed;
        assert_eq!(position as usize + 1, history.len(), "one token is new");
        plan.push(PlanColumn {
            sequence,
            token: history[position as usize],
            position,
            logits: true,
        });
        self.rows.push(sequence);
        running.fed += 1;
    }

    /// Columns of prompts that this step should carry, of the `room` that it has.
    ///
    /// Where streams run, the step should be over when the one that waits longest is due, with a quarter of the time
    /// spared for what the cost does not know. Where none does, it lasts two targets: whoever comes or leaves
    /// meanwhile waits for its end.
    fn prompt_room(&self, now: Duration, decodes: usize, room: usize) -> usize {
        let target = self.limits.inter_token_target;
        let decoding = self
            .rows
            .iter()
            .filter_map(|&s| self.running[s as usize].as_ref());
        let time = match decoding.map(|running| running.last_token).min() {
            Some(last) => (last + target).saturating_sub(now) * 3 / 4,
            None => target * 2,
        };
        let fit = self.cost.columns_within(time, decodes + room);
        fit.saturating_sub(decodes)
            .max(PROMPT_COLUMNS_LEAST)
            .min(room)
    }

    /// Plans at most `room` columns of a sequence's prompt and returns how many.
    fn plan_prefill(
        &mut self,
        now: Duration,
        sequence: u32,
        room: usize,
        plan: &mut StepPlan,
    ) -> usize {
        let running = self.running[sequence as usize]
            .as_mut()
            .expect("it is in the order");
        let prompt_tokens = running.prompt_tokens();
        if running.fed >= prompt_tokens {
            return 0;
        }
        if running.started.is_none() {
            running.started = Some(now);
            let queue = now.saturating_sub(running.arrived);
            self.events.push_back(Event::Started {
                id: running.submission.id,
                queue,
            });
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let first = running.fed;
        let end = prompt_tokens.min(first.saturating_add(room));
        for position in first..end {
            let token = running.submission.prompt[position as usize];
            let logits = position + 1 == prompt_tokens;
            if plan
                .push(PlanColumn {
                    sequence,
                    token,
                    position,
                    logits,
                })
                .is_some()
            {
                self.rows.push(sequence);
            }
        }
        running.fed = end;
        (end - first) as usize
    }

    fn end(&mut self, now: Duration, sequence: u32, outcome: Outcome) {
        let running = self.running[sequence as usize].take().expect("it runs");
        self.kv
            .tell(sequence, &self.histories[sequence as usize], running.fed);
        let turn = self
            .order
            .iter()
            .position(|&s| s == sequence)
            .expect("it has a turn");
        self.order.remove(turn);
        self.kv.release(sequence);
        self.drain.handle_end(now);
        let generated = self.histories[sequence as usize].len() - running.submission.prompt.len();
        let usage = Usage {
            cached_tokens: running.cached,
            ..usage_of(&running.submission, generated)
        };
        self.events.push_back(Event::Ended {
            outcome,
            usage,
            timings: timings_of(&running, now),
            submission: running.submission,
        });
    }
}

fn usage_of(submission: &Submission, generated: usize) -> Usage {
    Usage {
        prompt_tokens: u32::try_from(submission.prompt.len()).expect("checked"),
        completion_tokens: u32::try_from(generated).expect("at most tokens_max"),
        cached_tokens: 0,
    }
}

fn timings_of(running: &Running, now: Duration) -> Timings {
    let started = running.started.unwrap_or(now);
    let first = running.first_token.unwrap_or(now);
    Timings {
        queue: started.saturating_sub(running.arrived),
        prefill: first.saturating_sub(started),
        decode: running.last_token.saturating_sub(first),
    }
}

/// How fast places come free: a moving mean of the time between two ends.
#[derive(Debug, Default)]
struct Drain {
    last_end: Option<Duration>,
    interval: Option<Duration>,
}

impl Drain {
    /// Nobody runs: the time until the next end says nothing about how fast places come free.
    fn handle_idle(&mut self) {
        self.last_end = None;
    }

    fn handle_end(&mut self, now: Duration) {
        if let Some(last) = self.last_end {
            let seen = now.saturating_sub(last);
            let mean = self.interval.unwrap_or(seen);
            self.interval = Some((mean * 7 + seen) / 8);
        }
        self.last_end = Some(now);
    }

    /// Time until the queue of this length has moved up by its length; a second while nothing was measured.
    fn wait_ms(&self, queued: usize) -> u64 {
        let interval = self.interval.unwrap_or(Duration::from_secs(1));
        let wait = interval * u32::try_from(queued.max(1)).unwrap_or(u32::MAX);
        u64::try_from(wait.as_millis())
            .unwrap_or(u64::MAX)
            .clamp(1, RETRY_AFTER_MS_MAX)
    }
}

/// Longest wait that is suggested: past ten minutes the estimate says nothing.
const RETRY_AFTER_MS_MAX: u64 = 600_000;

#[cfg(test)]
mod tests;
