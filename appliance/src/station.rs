//! The core of serving: scheduler, engine and samplers, driven by one synchronous thread.
//!
//! Calling order: `handle_submit` and `handle_cancel` with what came in, then `step` with a clock; `poll_event` until
//! `None` after each. The thread that owns a `Station` decides when to sleep: `step` says whether there was work.

use std::time::Duration;

use crate::engine::{Engine, StepPlan};
use crate::request::{RequestId, Submission};
use crate::sampler::{Drawing, Generator, SamplerSpace};
use crate::scheduler::{Event, Occupancy, Scheduler, SchedulerLimits};

/// What steps did since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Steps that ran.
    pub steps: u64,
    /// Prompt tokens run.
    pub prompt_tokens: u64,
    /// Tokens drawn.
    pub generated_tokens: u64,
    /// Time in steps.
    pub busy: Duration,
}

/// Whether a step had something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// Nothing runs and nothing waits.
    Idle,
    /// A step ran.
    Worked,
}

/// Scheduler, engine and samplers.
#[derive(Debug)]
pub struct Station<E> {
    scheduler: Scheduler,
    engine: E,
    plan: StepPlan,
    space: SamplerSpace,
    generators: Box<[Generator]>,
    totals: StepTotals,
}

impl<E: Engine> Station<E> {
    /// Takes all memory of serving but the engine's own.
    pub fn new(limits: SchedulerLimits, step_columns_max: usize, engine: E) -> Self {
        assert!(
            limits.sequences_max as usize <= step_columns_max,
            "a step carries a token of every sequence"
        );
        let generators = (0..limits.sequences_max)
            .map(|_| Generator::new(0))
            .collect();
        Self {
            scheduler: Scheduler::new(limits),
            space: SamplerSpace::new(engine.vocabulary()),
            plan: StepPlan::new(step_columns_max),
            engine,
            generators,
            totals: StepTotals::default(),
        }
    }

    /// A new request.
    pub fn handle_submit(&mut self, now: Duration, submission: Box<Submission>) {
        self.scheduler.handle_submit(now, submission);
    }

    /// A client left.
    pub fn handle_cancel(&mut self, now: Duration, id: RequestId) {
        self.scheduler.handle_cancel(now, id);
    }

    /// Plans and runs one step, draws tokens, and hands them to the scheduler.
    pub fn step(&mut self, clock: &mut dyn FnMut() -> Duration) -> StepOutcome {
        let started = clock();
        let prompt_columns = self.scheduler.plan(started, &mut self.plan);
        if self.plan.columns().is_empty() {
            return StepOutcome::Idle;
        }
        self.engine.step(&self.plan, self.scheduler.tables());
        let rows = self.plan.logits_rows();
        for row in 0..rows {
            let (sequence, token) = self.draw(row);
            self.scheduler.handle_token(clock(), sequence, token);
        }
        self.totals.steps += 1;
        self.totals.generated_tokens += rows as u64;
        self.totals.prompt_tokens += prompt_columns as u64;
        let took = clock().saturating_sub(started);
        self.scheduler.handle_step(self.plan.columns().len(), took);
        self.totals.busy += took;
        StepOutcome::Worked
    }

    fn draw(&mut self, row: usize) -> (u32, u32) {
        let (sequence, sampled) = self.scheduler.sampled(row);
        let generator = &mut self.generators[sequence as usize];
        let prompt_tokens = sampled.submission.prompt.len();
        if sampled.history.len() == prompt_tokens {
            *generator = Generator::new(sampled.submission.seed);
        }
        let drawing = Drawing {
            sampling: &sampled.submission.sampling,
            history: sampled.history,
            prompt_tokens,
            forbidden: sampled.forbidden,
        };
        (
            sequence,
            self.space
                .draw(self.engine.logits(row), &drawing, generator),
        )
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.scheduler.poll_event()
    }

    /// Most events that one call adds.
    pub fn events_per_call_max(&self) -> usize {
        self.scheduler.events_per_call_max()
    }

    /// Numbers of the moment.
    pub fn occupancy(&self) -> Occupancy {
        self.scheduler.occupancy()
    }

    /// What steps did since start.
    pub fn totals(&self) -> StepTotals {
        self.totals
    }

    /// Checks what must always hold. For tests and checkers.
    pub fn assert_whole(&self) {
        self.scheduler.assert_whole();
    }
}
