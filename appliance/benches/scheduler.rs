//! What the scheduler adds to a step of 32 sequences: `cargo bench -p outstation --bench scheduler`.
//!
//! Prints the median and the 99th percentile of single steps, since a mean hides the ones that streams feel, then lets
//! criterion compare the mean with an earlier run.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use outstation::engine::StepPlan;
use outstation::request::{RequestId, Submission};
use outstation::scheduler::pace::Targets;
use outstation::scheduler::{Scheduler, SchedulerLimits};

const SEQUENCES: u32 = 32;
const CONTEXT: u32 = 8192;
/// Time of a step that the engine would take.
const STEP: Duration = Duration::from_millis(20);

/// A scheduler whose sequences come and go: prompts of 500 tokens with a common beginning, answers of 100.
struct Load {
    scheduler: Scheduler,
    plan: StepPlan,
    now: Duration,
    next: u64,
    /// Places in the queue that are due to be filled.
    due: u32,
}

impl Load {
    fn new() -> Self {
        let limits = SchedulerLimits {
            sequences_max: SEQUENCES,
            queue_requests_max: 64,
            queue_tokens_max: 64 * CONTEXT,
            step_columns_max: 512,
            context_tokens_max: CONTEXT,
            kv_blocks: SEQUENCES * CONTEXT / 32,
            end_tokens: Box::new([]),
            targets: [Targets {
                ttft: Duration::from_mins(1),
                itl: Duration::from_millis(50),
            }; 3],
        };
        Self {
            scheduler: Scheduler::new(limits),
            plan: StepPlan::new(512),
            now: Duration::ZERO,
            next: 0,
            due: SEQUENCES,
        }
    }

    /// Lets arrivals in, outside of what is measured: a submission is made on another thread.
    fn arrive(&mut self) {
        for _ in 0..std::mem::take(&mut self.due) {
            let own = u32::try_from(self.next).expect("few") * 1000;
            let prompt = (0..300).chain(own..own + 200).collect();
            self.next += 1;
            self.scheduler.handle_submit(
                self.now,
                self.now,
                Box::new(Submission {
                    ignore_eos: true,
                    ..Submission::new(RequestId(self.next), prompt, 100)
                }),
            );
        }
    }

    /// All that the scheduler does for one step.
    fn step(&mut self) {
        self.scheduler.plan(self.now, &mut self.plan);
        self.now += STEP;
        for row in 0..self.plan.logits_rows() {
            if let Some(sampled) = self.scheduler.sampled(row) {
                let generator = sampled.generator;
                self.scheduler.handle_token(self.now, row, 7, generator);
            }
        }
        self.scheduler
            .handle_step(self.now, self.plan.columns().len(), STEP);
    }

    fn hear(&mut self) {
        while let Some(event) = self.scheduler.poll_event() {
            self.due += u32::from(matches!(event, outstation::scheduler::Event::Ended { .. }));
        }
    }
}

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints what it measured"
)]
fn step(c: &mut Criterion) {
    let mut load = Load::new();
    let turn = |load: &mut Load| {
        load.arrive();
        let started = Instant::now();
        load.step();
        let took = started.elapsed();
        load.hear();
        took
    };
    for _ in 0..2_000 {
        turn(&mut load);
    }
    let mut times: Vec<Duration> = (0..20_000).map(|_| turn(&mut load)).collect();
    times.sort_unstable();
    println!(
        "a step of {SEQUENCES} sequences: median {:?}, 99th percentile {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    c.bench_function("a step of 32 sequences", |b| {
        b.iter_custom(|count| (0..count).map(|_| turn(&mut load)).sum());
    });
}

criterion_group!(benches, step);
criterion_main!(benches);
