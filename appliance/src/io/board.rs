//! What the engine thread says about itself: numbers that any thread may read, none of them a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::scheduler::Occupancy;
use crate::station::StepTotals;

/// Written by the engine thread after each step.
#[derive(Debug, Default)]
pub struct Board {
    ready: AtomicBool,
    beats: AtomicU64,
    sequences: AtomicU64,
    sequences_max: AtomicU64,
    queued: AtomicU64,
    kv_blocks_free: AtomicU64,
    kv_blocks: AtomicU64,
    kv_blocks_pinned: AtomicU64,
    retry_after_ms: AtomicU64,
    preempted: AtomicU64,
    guessed_tokens: AtomicU64,
    guessed_tokens_right: AtomicU64,
    first_tokens_in_time: AtomicU64,
    first_tokens_late: AtomicU64,
    steps: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    busy_us: AtomicU64,
}

/// A copy of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BoardReading {
    /// Tokens were really decoded with what is served.
    pub ready: bool,
    /// Sequences that run.
    pub sequences: u64,
    /// How many could, of each model that is loaded.
    pub sequences_max: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Free KV blocks.
    pub kv_blocks_free: u64,
    /// All KV blocks.
    pub kv_blocks: u64,
    /// Those that hold what the operator pinned.
    pub kv_blocks_pinned: u64,
    /// Milliseconds after which the last request that was refused should come back.
    pub retry_after_ms: u64,
    /// Batch sequences that made room for others since start.
    pub preempted: u64,
    /// Tokens guessed from what was said before, and run, since start.
    pub guessed_tokens: u64,
    /// Those of them that were right.
    pub guessed_tokens_right: u64,
    /// First tokens that came when they were due, since start.
    pub first_tokens_in_time: u64,
    /// First tokens that came later.
    pub first_tokens_late: u64,
    /// Steps since start.
    pub steps: u64,
    /// Prompt tokens run since start.
    pub prompt_tokens: u64,
    /// Tokens generated since start.
    pub generated_tokens: u64,
    /// Time spent in steps since start.
    pub busy_us: u64,
}

impl Board {
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// The engine's loop went round.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Release);
    }

    /// Rounds of the engine's loop: ten a second at least, unless a step takes longer.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    pub(super) fn publish(&self, occupancy: Occupancy, totals: StepTotals) {
        let put = |cell: &AtomicU64, value: u64| cell.store(value, Ordering::Release);
        put(&self.sequences_max, u64::from(occupancy.sequences_max));
        put(&self.kv_blocks_free, u64::from(occupancy.kv_blocks_free));
        put(&self.kv_blocks, u64::from(occupancy.kv_blocks));
        put(
            &self.kv_blocks_pinned,
            u64::from(occupancy.kv_blocks_pinned),
        );
        put(&self.retry_after_ms, occupancy.retry_after_ms);
        let scheduler = totals.scheduler;
        put(&self.preempted, scheduler.preempted);
        put(&self.guessed_tokens, scheduler.guessed);
        put(&self.guessed_tokens_right, scheduler.guessed_right);
        put(&self.first_tokens_in_time, scheduler.first_tokens_in_time);
        put(&self.first_tokens_late, scheduler.first_tokens_late);
        put(&self.steps, totals.steps);
        put(&self.prompt_tokens, totals.prompt_tokens);
        put(&self.generated_tokens, totals.generated_tokens);
        put(&self.busy_us, micros(totals.busy));
        // Last, and read first: who sees that nobody runs sees the blocks that came back.
        put(&self.queued, u64::from(occupancy.queued));
        put(&self.sequences, u64::from(occupancy.sequences));
    }

    /// Whether tokens were really decoded with what is served.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The numbers of the last step.
    pub fn read(&self) -> BoardReading {
        let get = |cell: &AtomicU64| cell.load(Ordering::Acquire);
        BoardReading {
            ready: self.ready(),
            sequences: get(&self.sequences),
            sequences_max: get(&self.sequences_max),
            queued: get(&self.queued),
            kv_blocks_free: get(&self.kv_blocks_free),
            kv_blocks: get(&self.kv_blocks),
            kv_blocks_pinned: get(&self.kv_blocks_pinned),
            retry_after_ms: get(&self.retry_after_ms),
            preempted: get(&self.preempted),
            guessed_tokens: get(&self.guessed_tokens),
            guessed_tokens_right: get(&self.guessed_tokens_right),
            first_tokens_in_time: get(&self.first_tokens_in_time),
            first_tokens_late: get(&self.first_tokens_late),
            steps: get(&self.steps),
            prompt_tokens: get(&self.prompt_tokens),
            generated_tokens: get(&self.generated_tokens),
            busy_us: get(&self.busy_us),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
