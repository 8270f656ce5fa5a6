//! Which cases the factory should see: the ones that the model found hard, that went wrong, and some drawn by lot.
//!
//! ```text
//!  engine thread   certainty ─▶ TokenSignals::push … signals ─▶ [event]
//!  io thread       signals + outcome ─▶ Flagger::handle_case ─▶ Verdict ─▶ record, content or not
//! ```
//!
//! A threshold is never a number of nats, since quantization and training move them: each (model, workload) has its own
//! distribution of every signal, learned here, and a case is hard where it stands above nearly all of it.
//! `docs/flagging.md` has formulas, sources, memory and what was measured.

mod allowance;
mod rules;
mod signals;
mod similar;
mod sketch;
mod state;
mod verdict;
mod workload;

use std::time::Duration;

use allowance::Allowance;
use similar::{DUPLICATE_BITS, Last, RETRY_BITS, near, simhash};
use workload::{RECENT_CASES_MIN, REFERENCE_CASES, Workload};

pub use allowance::DayLimits;
pub use rules::begins_as_refusal;
pub use signals::{Drawn, Signals, TAIL_TOKENS, TokenSignals, WINDOW_TOKENS};
pub use state::StateError;
pub use verdict::{Content, Flag, Flags, Ranks, SIGNALS, Verdict};
pub use workload::WORKLOAD_BYTES_MAX;

/// Digest of a model's weights.
pub type ModelDigest = [u8; 32];

/// How cases are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagConfig {
    /// Rank from which a signal is flagged. Default 0.98.
    pub quantile: f32,
    /// Cases of a workload before ranks are believed. Default 200.
    pub cases_min: u32,
    /// Cases after which what a case taught weighs half. Default 2000.
    pub half_life_cases: u32,
    /// Cases that teach in an hour, once there were `half_life_cases`. Default 30.
    pub lessons_per_hour: u32,
    /// Share of all cases that is drawn by lot. Default 0.01.
    pub random_share: f32,
    /// What may be kept in 24 hours; a fifth of it is for the cases drawn by lot. Default 200 contents and 8 MiB.
    pub day: DayLimits,
    /// Population stability index from which entropy has drifted. Default 0.25.
    pub drift_psi: f32,
    /// Time within which the same question again is a retry. Default 10 minutes.
    pub retry_within: Duration,
    /// Workloads that are remembered, over all models; the least recently used goes. Default 64. Memory: 7 KB each.
    pub workloads_max: usize,
    /// Seed of the lots. Fresh at each start where request ids begin anew, or the same ids are drawn each time.
    pub seed: u64,
}

impl Default for FlagConfig {
    fn default() -> Self {
        Self {
            quantile: 0.98,
            cases_min: 200,
            half_life_cases: 2000,
            lessons_per_hour: 30,
            random_share: 0.01,
            day: DayLimits {
                contents: 200,
                bytes: 8 << 20,
            },
            drift_psi: 0.25,
            retry_within: Duration::from_mins(10),
            workloads_max: 64,
            seed: 0,
        }
    }
}

/// Part of the day's limits for cases drawn by lot, so that others cannot crowd them out.
const RANDOM_BUDGET: f64 = 0.2;

/// Cases that feedback can still find.
const FEEDBACK_CASES: usize = 512;

/// Prompts that a retry is looked for among.
const RETRY_PROMPTS: usize = 256;

/// How an answer ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Finish {
    /// By itself.
    #[default]
    Stop,
    /// By `max_tokens` or the end of the context.
    Length,
    /// The client left. What was drawn until then teaches nothing.
    Cancelled,
    /// By an error of ours. It teaches nothing.
    Failed,
}

/// Whether something has the form that it should have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// No form was asked for.
    #[default]
    Free,
    /// It has it.
    Valid,
    /// It has not.
    Invalid,
}

/// What is known of an answer beside its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub finish: Finish,
    /// Of an answer that should be JSON.
    pub json: Form,
    /// Of an answer that looks like a tool call.
    pub tool_call: Form,
    /// [`begins_as_refusal`] of its text.
    pub refusal: bool,
}

/// Whether whoever asked lets content leave the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Yes.
    Given,
    /// No: only numbers.
    Withheld,
}

/// A request that ended.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Its identity for feedback, retries and lots.
    pub id: u64,
    /// The model that answered.
    pub model: &'a ModelDigest,
    /// What it is for, by whoever asked; of the name, 64 bytes count.
    pub workload: &'a str,
    /// Who asked: a retry is of the same.
    pub asker: u64,
    /// When the request came, on the clock of `now`.
    pub arrived: Duration,
    /// When its answer was complete, on the same clock: earlier than `now`, by which its user may have asked again.
    pub ended: Duration,
    /// What the user said last: without template and system prompt, which would make all prompts alike.
    pub prompt: &'a [u32],
    /// The answer.
    pub answer: &'a [u32],
    /// What its tokens said.
    pub signals: Signals,
    /// What else is known.
    pub outcome: Outcome,
    /// Whether content may be kept.
    pub consent: Consent,
    /// Bytes that it takes to keep it.
    pub content_bytes: u64,
}

/// What happened since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlagTotals {
    /// Cases.
    pub cases: u64,
    /// Those that were selected for their flags.
    pub selected: u64,
    /// Those that were drawn by lot.
    pub random: u64,
    /// Contents kept.
    pub kept: u64,
    /// Contents not kept because much the same had been.
    pub duplicates: u64,
    /// Contents not kept because the day's allowance was spent.
    pub over_budget: u64,
    /// Contents not kept because nobody allowed it.
    pub no_consent: u64,
    /// Cases that taught what is usual.
    pub taught: u64,
    /// Workloads forgotten for others.
    pub forgotten: u64,
    /// Feedback that came for cases no longer known.
    pub feedback_too_late: u64,
}

/// Decides which cases the factory should see.
///
/// Calling order: `handle_case` when a request ends, `handle_negative_feedback` when somebody complains,
/// `handle_commit` when a model passed its trial; a model needs no announcement. `save` now and then, `load` at start.
/// `now` is monotonic.
///
/// Memory: [`Flagger::bytes`], taken at start.
#[derive(Debug)]
pub struct Flagger {
    config: FlagConfig,
    workloads: Vec<Workload>,
    /// Whose reference drift is measured against: the first model seen, until another is committed.
    committed: Option<ModelDigest>,
    flagged_budget: Allowance,
    random_budget: Allowance,
    prompts: Box<Last<Prompt, RETRY_PROMPTS>>,
    seen: Box<Last<Seen, FEEDBACK_CASES>>,
    totals: FlagTotals,
}

/// A prompt that a retry may repeat.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    id: u64,
    asker: u64,
    workload: u64,
    hash: u64,
    ended: Duration,
}

/// A case that feedback may come for.
#[derive(Debug, Clone, Copy)]
struct Seen {
    id: u64,
    verdict: Verdict,
    workload: usize,
    /// Cases before it, which tell whether its workload has been replaced since.
    tick: u64,
    content_hash: u64,
    content_bytes: u64,
    consent: Consent,
}

/// Flags that select a case; the others describe it.
const SELECTING: [Flag; 6] = [
    Flag::HardCase,
    Flag::InvalidJson,
    Flag::InvalidToolCall,
    Flag::RepetitionLoop,
    Flag::Refusal,
    Flag::NegativeFeedback,
];

impl Flagger {
    /// Nothing learned yet. Takes all its memory.
    pub fn new(config: FlagConfig) -> Self {
        assert!(config.workloads_max > 0, "a box has a workload");
        let limits = config.day;
        Self {
            workloads: Vec::with_capacity(config.workloads_max),
            committed: None,
            flagged_budget: Allowance::new(limits, 1.0 - RANDOM_BUDGET),
            random_budget: Allowance::new(limits, RANDOM_BUDGET),
            prompts: Box::new(Last::new()),
            seen: Box::new(Last::new()),
            totals: FlagTotals::default(),
            config,
        }
    }

    /// Bytes that `new` takes.
    pub fn bytes(config: &FlagConfig) -> u64 {
        let rings =
            size_of::<Last<Prompt, RETRY_PROMPTS>>() + size_of::<Last<Seen, FEEDBACK_CASES>>();
        (size_of::<Self>() + rings + config.workloads_max * size_of::<Workload>()) as u64
    }

    /// What happened since start.
    pub fn totals(&self) -> FlagTotals {
        self.totals
    }

    /// A request ended: says what is remarkable about it, and takes it into what is usual.
    pub fn handle_case(&mut self, now: Duration, case: &Case<'_>) -> Verdict {
        self.totals.cases += 1;
        let tick = self.totals.cases;
        let index = self.workload(case.model, case.workload, tick);
        let content_hash = simhash(&[case.prompt, case.answer]);
        let retry_of = self.retry_of(case);
        let random = is_drawn(self.config.seed, case.id, self.config.random_share);
        let complete = matches!(case.outcome.finish, Finish::Stop | Finish::Length);
        let hardness = case.signals.hardness();

        let mut flags = rules::rules(&case.signals, &case.outcome);
        let workload = &mut self.workloads[index];
        let truncated = flags.contains(Flag::Truncated);
        let mut selected = workload.is_news(Flag::Truncated, truncated);
        selected |= workload.is_news(Flag::Retry, retry_of.is_some());
        let (ranks, combined) = workload.ranks(&hardness);
        let believed = workload.taught >= u64::from(self.config.cases_min);
        let ranks = (believed && case.signals.tokens > 0).then_some(ranks);
        if retry_of.is_some() {
            flags.insert(Flag::Retry);
        }
        if random {
            flags.insert(Flag::Random);
        }
        if let Some(ranks) = ranks {
            let each = Flag::SIGNALS.into_iter().zip(ranks.signals);
            for (flag, rank) in each.chain([(Flag::HardCase, ranks.combined)]) {
                if rank >= self.config.quantile {
                    flags.insert(flag);
                }
            }
        }
        if complete && case.signals.tokens > 0 {
            workload.count_entropy(case.signals.entropy_mean);
        }
        let drift = self.drift_of(index, tick);
        if drift.is_some_and(|psi| psi > self.config.drift_psi) {
            flags.insert(Flag::EntropyDrift);
        }

        selected |= SELECTING.into_iter().any(|flag| flags.contains(flag));
        self.totals.selected += u64::from(selected);
        self.totals.random += u64::from(random);
        let mut verdict = Verdict {
            flags,
            ranks,
            content: Content::NotSelected,
            inclusion_probability: self.config.random_share.clamp(0.0, 1.0),
            retry_of,
            drift,
        };
        let mut seen = Seen {
            id: case.id,
            verdict,
            workload: index,
            tick,
            content_hash,
            content_bytes: case.content_bytes,
            consent: case.consent,
        };
        if selected {
            self.choose_content(now, &seen, &mut verdict);
        }
        if random && !verdict.content.is_kept() {
            self.draw_content(now, case, &mut verdict);
        }
        seen.verdict = verdict;
        self.seen.push(seen);

        // What comes again and again teaches once.
        if complete && case.signals.tokens > 0 && verdict.content != Content::Duplicate {
            let taught = self.workloads[index].teach(now, &self.config, &hardness, combined);
            self.totals.taught += u64::from(taught);
        }
        verdict
    }

    /// Somebody said that an answer was bad. Returns the case's new verdict, or `None` if it is too long ago.
    ///
    /// The caller, who still has the content or has not, keeps it if the verdict says so and did not before.
    pub fn handle_negative_feedback(&mut self, now: Duration, id: u64) -> Option<Verdict> {
        let found = self.seen.iter().rev().find(|seen| seen.id == id).copied();
        let Some(mut seen) = found else {
            self.totals.feedback_too_late += 1;
            return None;
        };
        if seen.verdict.flags.contains(Flag::NegativeFeedback) {
            return Some(seen.verdict);
        }
        let mut verdict = seen.verdict;
        verdict.flags.insert(Flag::NegativeFeedback);
        if !verdict.content.is_kept() {
            self.totals.selected += 1;
            self.choose_content(now, &seen, &mut verdict);
        }
        // The newest of an id counts.
        seen.verdict = verdict;
        self.seen.push(seen);
        Some(verdict)
    }

    /// A model passed its trial: drift is measured against it from here on.
    pub fn handle_commit(&mut self, model: &ModelDigest) {
        self.committed = Some(*model);
    }

    /// Forgets what is usual for a workload under a model, which then learns anew: for a change that is meant to be.
    /// Whether there was something to forget.
    pub fn relearn(&mut self, model: &ModelDigest, name: &str) -> bool {
        let Some(workload) = self.workloads.iter_mut().find(|w| w.is(model, name)) else {
            return false;
        };
        *workload = Workload {
            kept: workload.kept.clone(),
            used: workload.used,
            born: workload.born,
            ..Workload::new(*model, name)
        };
        true
    }

    /// Population stability index of a workload's entropy under a model against the committed one, where both have been
    /// seen enough.
    pub fn drift(&self, model: &ModelDigest, name: &str) -> Option<f32> {
        let ours = self.workloads.iter().find(|w| w.is(model, name))?;
        let committed = self.committed?;
        let theirs = self.workloads.iter().find(|w| w.is(&committed, name))?;
        psi(ours, theirs)
    }

    /// The value above which a signal of a workload is flagged, in its own unit and with more being harder; `None`
    /// while ranks are not believed.
    pub fn threshold(&self, model: &ModelDigest, name: &str, signal: usize) -> Option<f32> {
        let workload = self.workloads.iter().find(|w| w.is(model, name))?;
        let believed = workload.taught >= u64::from(self.config.cases_min);
        let sketch = workload.usual[..SIGNALS].get(signal)?;
        believed.then(|| sketch.quantile(self.config.quantile))
    }

    /// Index of a workload, which takes the place of the least recently used if there is none left.
    fn workload(&mut self, model: &ModelDigest, name: &str, tick: u64) -> usize {
        self.committed.get_or_insert(*model);
        let found = self.workloads.iter().position(|w| w.is(model, name));
        let index = found.unwrap_or_else(|| {
            let fresh = Workload {
                born: tick,
                ..Workload::new(*model, name)
            };
            if self.workloads.len() < self.config.workloads_max {
                self.workloads.push(fresh);
                return self.workloads.len() - 1;
            }
            let all = self.workloads.iter().enumerate();
            let (oldest, _) = all.min_by_key(|(_, w)| w.used).expect("at least one");
            self.workloads[oldest] = fresh;
            self.totals.forgotten += 1;
            oldest
        });
        self.workloads[index].used = tick;
        index
    }

    /// Drift of a workload. Its reference under the committed model stays as long as it does.
    fn drift_of(&mut self, index: usize, tick: u64) -> Option<f32> {
        let committed = self.committed?;
        let name = &self.workloads[index].name;
        let found = self.workloads.iter().position(|w| w.is(&committed, name));
        let reference = found?;
        self.workloads[reference].used = tick;
        psi(&self.workloads[index], &self.workloads[reference])
    }

    /// The request that this one repeats: of the same asker and workload, nearly the same, and ended before this came.
    fn retry_of(&mut self, case: &Case<'_>) -> Option<u64> {
        let prompt = Prompt {
            id: case.id,
            asker: case.asker,
            workload: name_hash(case.workload),
            hash: simhash(&[case.prompt]),
            ended: case.ended,
        };
        let same = |earlier: &&Prompt| {
            earlier.asker == prompt.asker
                && earlier.workload == prompt.workload
                && near(earlier.hash, prompt.hash, RETRY_BITS)
                && earlier.ended <= case.arrived
                && case.arrived.saturating_sub(earlier.ended) <= self.config.retry_within
        };
        let found = self.prompts.iter().rev().find(same).map(|p| p.id);
        self.prompts.push(prompt);
        found
    }

    /// Decides on the content of a case that was selected for its flags.
    fn choose_content(&mut self, now: Duration, seen: &Seen, verdict: &mut Verdict) {
        let totals = &mut self.totals;
        if seen.consent == Consent::Withheld {
            totals.no_consent += 1;
            verdict.content = Content::NoConsent;
            return;
        }
        // A workload that was forgotten has left its place to another, whose contents are not compared.
        let workload = &mut self.workloads[seen.workload];
        let known = workload.born <= seen.tick;
        let same = |hash: &u64| near(*hash, seen.content_hash, DUPLICATE_BITS);
        if known && workload.kept.iter().any(same) {
            totals.duplicates += 1;
            verdict.content = Content::Duplicate;
            return;
        }
        if !self.flagged_budget.take(now, seen.content_bytes) {
            totals.over_budget += 1;
            verdict.content = Content::OverBudget;
            return;
        }
        if known {
            workload.kept.push(seen.content_hash);
        }
        totals.kept += 1;
        verdict.content = Content::KeptFlagged;
        verdict.inclusion_probability = 1.0;
    }

    /// Decides on the content of a case that was drawn by lot.
    fn draw_content(&mut self, now: Duration, case: &Case<'_>, verdict: &mut Verdict) {
        let totals = &mut self.totals;
        // A case that was selected, too, has been counted where that failed.
        let first = verdict.content == Content::NotSelected;
        if case.consent == Consent::Withheld {
            totals.no_consent += u64::from(first);
            verdict.content = Content::NoConsent;
        } else if self.random_budget.take(now, case.content_bytes) {
            totals.kept += 1;
            verdict.content = Content::KeptRandom;
        } else {
            totals.over_budget += u64::from(first);
            verdict.content = Content::OverBudget;
        }
    }
}

/// Drift of what a workload has been lately against a reference, where both have been seen enough.
fn psi(ours: &Workload, theirs: &Workload) -> Option<f32> {
    let enough = theirs.reference_cases >= REFERENCE_CASES && ours.recent_cases >= RECENT_CASES_MIN;
    enough.then(|| ours.recent.psi(&theirs.reference))
}

/// Whether the lot falls on a request: the same for the same seed and id, and independent of everything else.
fn is_drawn(seed: u64, id: u64, share: f32) -> bool {
    let hash = crate::sampler::splitmix(crate::sampler::splitmix(seed) ^ id);
    let unit = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    unit < f64::from(share)
}

/// A name in 64 bits. Source: Fowler, Noll and Vo, FNV-1a.
pub fn name_hash(name: &str) -> u64 {
    state::fnv1a(name.as_bytes())
}

#[cfg(test)]
mod tests;
