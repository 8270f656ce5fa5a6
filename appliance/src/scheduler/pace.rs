//! How fast the box may go about its work: what a step may carry, and how many streams may share it, so that each keeps
//! its target between tokens. The planner and the forecast ask here, so that what is promised is what is done.

use std::time::Duration;

use super::cost::StepCost;
use crate::request::Class;

/// Columns of prompts that a step carries even where its time is up, so that no prompt waits for ever: as many as the
/// kernels multiply at once.
pub const PROMPT_COLUMNS_LEAST: usize = 8;

/// Part of the time to its first token that a request may have used up by forecast: the rest is for those that come
/// after it with earlier turns, and for what the forecast does not know.
pub const PROMISED: f64 = 0.87;

/// Part of the time between two tokens that a step may take by what is known of its cost.
const SURE: f64 = 0.85;

/// Longest gap between two tokens, in times of the target, for a stream that is ahead of it so far.
const GAP_MAX: f64 = 1.5;

/// What a class expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Arrival to first token, of a prompt that is short enough for it.
    pub ttft: Duration,
    /// Between two tokens.
    pub itl: Duration,
}

impl Targets {
    /// Where nobody waits: long answers in wide steps.
    pub const UNHURRIED: Self = Self {
        ttft: Duration::from_hours(24),
        itl: Duration::from_mins(1),
    };
}

/// Targets of all classes, and what steps cost.
#[derive(Debug, Clone)]
pub struct Pace {
    /// By [`Class`].
    targets: [Targets; 3],
    /// Columns of the widest step.
    columns_max: usize,
    cost: StepCost,
}

impl Pace {
    /// Before the first step.
    pub fn new(targets: [Targets; 3], columns_max: usize) -> Self {
        Self {
            targets,
            columns_max,
            cost: StepCost::default(),
        }
    }

    /// Takes what a step of some columns took.
    pub fn handle_step(&mut self, columns: usize, took: Duration) {
        self.cost.handle_step(columns, took);
    }

    /// What a step of some columns will take; nothing while none was seen.
    pub fn step(&self, columns: usize) -> Duration {
        let seconds = self.cost.seconds(columns).unwrap_or(0.0);
        Duration::from_secs_f64(seconds)
    }

    /// Whether any step was seen.
    pub fn knows(&self) -> bool {
        self.cost.seconds(1).is_some()
    }

    /// Columns of the widest step.
    pub fn columns_max(&self) -> usize {
        self.columns_max
    }

    /// Time between two tokens that a class gets: its target, or, where the box cannot keep it even for one stream,
    /// twice what that takes.
    pub fn itl(&self, class: Class) -> Duration {
        self.targets[class as usize].itl.max(self.step(1) * 2)
    }

    /// Time to the first token that a class gets for a prompt: its target, or, where the prompt cannot have it even
    /// with the box to itself, twice what it takes then.
    pub fn ttft(&self, class: Class, prompt_tokens: u32) -> Duration {
        let target = self.targets[class as usize].ttft;
        let alone = self.alone(class, prompt_tokens);
        if alone <= target.mul_f64(PROMISED) {
            target
        } else {
            target.max(alone * 2)
        }
    }

    /// What a prompt takes with the box to itself.
    fn alone(&self, class: Class, prompt_tokens: u32) -> Duration {
        let columns = self.columns_without_streams(class);
        let tokens = prompt_tokens as usize;
        let whole = u32::try_from(tokens / columns).expect("at most the tokens");
        let rest = tokens % columns;
        let last = if rest > 0 {
            self.step(rest)
        } else {
            Duration::ZERO
        };
        self.step(columns) * whole + last
    }

    /// Time that a stream of a class gives the next step, counted from its last token, when it is `ahead` of its target
    /// so far: a reader who takes a token in each target's time does not notice.
    pub fn gap(&self, class: Class, ahead: Duration) -> Duration {
        let itl = self.itl(class);
        itl + ahead.min(itl.mul_f64(GAP_MAX - 1.0))
    }

    /// Columns of prompts in a step beside `streams` that decode, of which the one that waits longest is due in `due`.
    ///
    /// The step should be over by then, with some of the time spared for what the cost does not know.
    pub fn columns_beside(&self, streams: usize, due: Duration) -> usize {
        assert!(streams > 0, "there are streams");
        let columns = self
            .cost
            .columns_within(due.mul_f64(SURE), self.columns_max);
        columns.saturating_sub(streams).max(PROMPT_COLUMNS_LEAST)
    }

    /// Columns of prompts in a step where no stream runs: it lasts no longer than the gap that a stream of the prompt
    /// that comes first could have, since whoever comes or leaves meanwhile waits for its end.
    pub fn columns_without_streams(&self, class: Class) -> usize {
        let gap = self.gap(class, Duration::MAX);
        let columns = self.cost.columns_within(gap, self.columns_max);
        columns.max(PROMPT_COLUMNS_LEAST.min(self.columns_max))
    }

    /// Whether one more sequence may run beside some, the tightest of all these having this time between tokens.
    ///
    /// They may while a step of all, with the fewest columns of prompts, keeps the target, or takes no more than twice
    /// what it takes for one: a slow box still serves several at a time.
    pub fn one_more(&self, sequences: usize, itl: Duration) -> bool {
        let step = |sequences| self.step(sequences + PROMPT_COLUMNS_LEAST);
        step(sequences + 1) <= itl.max(step(1) * 2)
    }
}
