//! The core of serving: scheduler, engine and samplers, driven by one synchronous thread.
//!
//! Calling order: `handle_submit` and `handle_cancel` with what came in, then `step` with a clock; `poll_event` until
//! `None` after each. The thread that owns a `Station` decides when to sleep: `step` says whether there was work.

use std::time::Duration;

use outstation_kernels::isa::{self, Isa};
use outstation_kernels::ops::certainty;

use crate::energy::Carried;
use crate::engine::{Engine, StepPlan};
use crate::flag::Drawn;
use crate::logprobs::Logprobs;
use crate::request::{RequestId, Submission, Tenant};
use crate::sampler::SamplerSpace;
use crate::scheduler::{Event, Occupancy, Outcome, Picked, Scheduler, SchedulerLimits, Totals};

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
    /// What the scheduler counted.
    pub scheduler: Totals,
}

impl StepTotals {
    /// Adds what another did.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.prompt_tokens += other.prompt_tokens;
        self.generated_tokens += other.generated_tokens;
        self.busy += other.busy;
        self.scheduler.add(&other.scheduler);
    }
}

/// Whether a step had something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// Nothing runs and nothing waits.
    Idle,
    /// A step ran.
    Worked,
}

/// Steps of the warm-up: of 1, 2, 4, … columns.
pub(crate) const WARM_UP_STEPS: u32 = 6;

/// Scheduler, engine and samplers.
#[derive(Debug)]
pub struct Station<E> {
    scheduler: Scheduler,
    engine: E,
    plan: StepPlan,
    space: SamplerSpace,
    measures: Measures,
    isa: Isa,
    totals: StepTotals,
    /// When the last step began and ended.
    last: (Duration, Duration),
}

/// Whether it is measured how sure the model is of each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measures {
    /// Into each submission's `signals`. Costs a walk over the logits, some 30 µs for the largest vocabularies.
    Certainty,
    /// Nobody asks.
    Nothing,
}

impl<E: Engine> Station<E> {
    /// Takes all memory of serving but the engine's own.
    pub fn new(limits: SchedulerLimits, engine: E) -> Self {
        Self {
            plan: StepPlan::new(limits.step_columns_max),
            scheduler: Scheduler::new(limits),
            space: SamplerSpace::new(engine.vocabulary()),
            engine,
            measures: Measures::Nothing,
            isa: isa::detect(),
            totals: StepTotals::default(),
            last: (Duration::ZERO, Duration::ZERO),
        }
    }

    /// Measures something from here on.
    pub fn measure(&mut self, measures: Measures) {
        self.measures = measures;
    }

    /// Decodes tokens for real, so that READY means what it says and the first user does not pay for cold pages, in
    /// steps of 1, 2, 4, … columns, so that what steps cost is known before anything is promised.
    pub fn warm_up(&mut self, clock: &mut dyn FnMut() -> Duration) {
        let columns_max = self.scheduler.prompt_columns_max();
        let widths = (0..WARM_UP_STEPS).map(|log2| 1 << log2);
        for columns in widths.take_while(|&columns| columns <= columns_max) {
            let submission = Submission {
                ignore_eos: true,
                ..Submission::new(RequestId(0), vec![0; columns], 1)
            };
            self.run_alone(submission, clock);
        }
    }

    /// Runs a request before anybody is served.
    fn run_alone(&mut self, submission: Submission, clock: &mut dyn FnMut() -> Duration) {
        let now = clock();
        self.handle_submit(now, now, Box::new(submission));
        while self.step(clock) == StepOutcome::Worked {}
        let ended = |event| match event {
            Event::Ended { outcome, .. } => Some(outcome),
            _ => None,
        };
        let outcome = std::iter::from_fn(|| self.poll_event()).find_map(ended);
        assert_eq!(
            outcome,
            Some(Outcome::Length),
            "one token was asked for and drawn"
        );
        while self.poll_event().is_some() {}
    }

    /// Runs a prompt once and keeps its blocks, for everybody and for good: whoever begins the same way starts after
    /// it. Before anybody else comes. Says how many of its tokens are kept: whole blocks, while the pool has room.
    pub fn pin(&mut self, prompt: &[u32], clock: &mut dyn FnMut() -> Duration) -> u32 {
        let submission = Submission {
            ignore_eos: true,
            tenant: Tenant::OPERATOR,
            ..Submission::new(RequestId(0), prompt.to_vec(), 1)
        };
        self.run_alone(submission, clock);
        self.scheduler.pin(prompt)
    }

    /// A new request, which arrived some time ago.
    pub fn handle_submit(&mut self, now: Duration, arrived: Duration, submission: Box<Submission>) {
        self.scheduler.handle_submit(now, arrived, submission);
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
        for row in 0..self.plan.logits_rows() {
            if let Some(sampled) = self.scheduler.sampled(row) {
                let drawing = sampled.drawing();
                let unit = drawing.unit(&mut sampled.generator.clone());
                self.engine.ask(row, &drawing, unit);
            }
        }
        self.engine.step(&self.plan, self.scheduler.tables());
        for row in 0..self.plan.logits_rows() {
            self.draw(row, clock);
        }
        self.plan.let_go();
        let now = clock();
        let took = now.saturating_sub(started);
        self.scheduler
            .handle_step(now, self.plan.columns().len(), took);
        self.totals.steps += 1;
        self.totals.prompt_tokens += prompt_columns as u64;
        self.totals.busy += took;
        self.last = (started, now);
        StepOutcome::Worked
    }

    /// When the last step began and ended, and whose columns it had.
    pub fn last_step(&self) -> (Duration, Duration, &[Carried]) {
        (self.last.0, self.last.1, self.scheduler.carried())
    }

    /// Draws the token of a row, unless the row follows a wrong guess.
    fn draw(&mut self, row: usize, clock: &mut dyn FnMut() -> Duration) {
        let Some(sampled) = self.scheduler.sampled(row) else {
            return;
        };
        let drawing = sampled.drawing();
        let mut generator = sampled.generator.clone();
        let top = sampled.submission.logprobs;
        let found = self.engine.found(row);
        let measured = self.measures == Measures::Certainty;
        let certainty = match found {
            Some(found) => Some(found.certainty),
            None if measured || top.is_some() => Some(certainty(self.isa, self.engine.logits(row))),
            None => None,
        };
        let likeliest = top.zip(certainty).map(|(top, certainty)| match top {
            0 => Logprobs::new(&[], &certainty, 0),
            _ => Logprobs::new(self.engine.logits(row), &certainty, top),
        });
        let mut after = generator.clone();
        let unit = drawing.unit(&mut after);
        let engine = &mut self.engine;
        let drawn = found.and_then(|found| found.drawn).or_else(|| {
            let greedy = drawing.is_plainly_greedy();
            match certainty {
                Some(certainty) if greedy => Some((certainty.top, certainty.max)),
                _ => engine.draw(row, &drawing, unit),
            }
        });
        let (token, logit) = if let Some(drawn) = drawn {
            generator = after;
            drawn
        } else {
            let logits = self.engine.logits(row);
            let token = self.space.draw(logits, &drawing, &mut generator);
            (token, drawing.logit_before(logits[token as usize], token))
        };
        let drawn = certainty.map(|certainty| Drawn {
            token,
            logprob: certainty.logprob(logit),
            entropy: certainty.entropy,
            margin: certainty.margin(),
        });
        let picked = Picked {
            token,
            drawn: drawn.filter(|_| measured),
            logprobs: likeliest.map(|likeliest| Logprobs {
                drawn: drawn.map_or(0.0, |drawn| drawn.logprob),
                ..likeliest
            }),
        };
        self.totals.generated_tokens += 1;
        self.scheduler.handle_token(clock(), row, picked, generator);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.scheduler.poll_event()
    }

    /// Most events that one call adds.
    pub fn events_per_call_max(&self) -> usize {
        self.scheduler.events_per_call_max()
    }

    /// Whether nobody runs and nobody waits.
    pub fn is_idle(&self) -> bool {
        let occupancy = self.occupancy();
        occupancy.sequences == 0 && occupancy.queued == 0
    }

    /// Numbers of the moment.
    pub fn occupancy(&self) -> Occupancy {
        self.scheduler.occupancy()
    }

    /// What steps did since start.
    pub fn totals(&self) -> StepTotals {
        StepTotals {
            scheduler: self.scheduler.totals(),
            ..self.totals
        }
    }

    /// Checks what must always hold. For tests and checkers.
    pub fn assert_whole(&self) {
        self.scheduler.assert_whole();
    }
}
