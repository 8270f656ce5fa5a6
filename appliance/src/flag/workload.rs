//! What is usual for one workload under one model.

#![allow(
    clippy::cast_possible_truncation,
    reason = "rates and scores in f64 are kept as f32"
)]

use std::time::Duration;

use super::similar::Last;
use super::sketch::Sketch;
use super::verdict::{Flag, Ranks, SIGNALS};
use super::{FlagConfig, ModelDigest};

/// Bytes of a workload's name; the rest is cut off.
pub const WORKLOAD_BYTES_MAX: usize = 64;

/// Contents that a new one is compared with.
const DUPLICATES: usize = 64;

/// Cases after which the reference of a workload is complete.
pub(super) const REFERENCE_CASES: u32 = 500;

/// Cases after which the weight of a case in the recent entropy has halved.
const RECENT_HALF_LIFE: f32 = 300.0;

/// Cases before the recent entropy says something.
pub(super) const RECENT_CASES_MIN: u64 = 200;

/// Share of cases above which truncation and retries are how a workload works.
const HABIT: f32 = 0.2;

/// Weight of the newest case in the rate of a habit.
const HABIT_STEP: f32 = 0.02;

/// Lessons that can be taken at once after a quiet time.
const LESSONS_MAX: f64 = 10.0;

/// Distributions of the signals of a workload's cases, and what else is remembered of them.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) model: ModelDigest,
    pub(super) name: heapless::String<WORKLOAD_BYTES_MAX>,
    /// Cases that taught.
    pub(super) taught: u64,
    /// Of each signal, and of their combination.
    pub(super) usual: [Sketch; SIGNALS + 1],
    /// Cases in `recent` since the beginning.
    pub(super) recent_cases: u64,
    /// Mean entropy of all cases, lately.
    pub(super) recent: Sketch,
    pub(super) reference_cases: u32,
    /// Mean entropy of the first cases.
    pub(super) reference: Sketch,
    /// Rates of truncation and of retries.
    pub(super) habits: [f32; 2],
    /// Lessons that may be taken.
    pub(super) lessons: f64,
    pub(super) lessons_at: Option<Duration>,
    /// Hashes of contents that were kept for their flags.
    pub(super) kept: Last<u64, DUPLICATES>,
    /// When it came, in cases.
    pub(super) born: u64,
    /// When it was used last, in cases.
    pub(super) used: u64,
}

impl Workload {
    pub(super) fn new(model: ModelDigest, name: &str) -> Self {
        Self {
            model,
            name: cut(name).try_into().expect("cut to fit"),
            taught: 0,
            usual: [Sketch::EMPTY; SIGNALS + 1],
            recent_cases: 0,
            recent: Sketch::EMPTY,
            reference_cases: 0,
            reference: Sketch::EMPTY,
            habits: [0.0; 2],
            lessons: LESSONS_MAX,
            lessons_at: None,
            kept: Last::new(),
            born: 0,
            used: 0,
        }
    }

    pub(super) fn is(&self, model: &ModelDigest, name: &str) -> bool {
        self.name == cut(name) && self.model == *model
    }

    /// Ranks of a case, and what its signals amount to together: the mean of −ln(1 − rank), which is Fisher's
    /// combination of probabilities.
    ///
    /// Signals depend on each other, so nothing is read off its theoretical distribution: it has a sketch like the
    /// rest. Source: Fisher 1932, section 21.1.
    pub(super) fn ranks(&self, hardness: &[f32; SIGNALS]) -> (Ranks, f32) {
        let mut ranks = Ranks {
            signals: [0.0; SIGNALS],
            combined: 0.0,
        };
        let mut sum = 0.0_f64;
        for ((rank, sketch), value) in ranks.signals.iter_mut().zip(&self.usual).zip(hardness) {
            *rank = sketch.rank(*value);
            sum -= (1.0 - f64::from(*rank)).ln();
        }
        let combined = (sum / SIGNALS as f64) as f32;
        ranks.combined = self.usual[SIGNALS].rank(combined);
        (ranks, combined)
    }

    /// Takes a case into what is usual, if it is time for another.
    ///
    /// Until the sketches have the weight of one half-life every case teaches. After that so many an hour do, however
    /// many come, so that it takes a flood hours to become usual.
    pub(super) fn teach(
        &mut self,
        now: Duration,
        config: &FlagConfig,
        hardness: &[f32; SIGNALS],
        combined: f32,
    ) -> bool {
        let passed = now.saturating_sub(self.lessons_at.unwrap_or(now));
        self.lessons_at = Some(self.lessons_at.map_or(now, |at| at.max(now)));
        let earned = passed.as_secs_f64() / 3600.0 * f64::from(config.lessons_per_hour);
        self.lessons = (self.lessons + earned).min(LESSONS_MAX);
        if self.taught >= u64::from(config.half_life_cases) {
            if self.lessons < 1.0 {
                return false;
            }
            self.lessons -= 1.0;
        }
        let keep = (-1.0 / config.half_life_cases.max(1) as f32).exp2();
        for (sketch, value) in self.usual.iter_mut().zip(hardness) {
            sketch.add(*value, keep);
        }
        // Of ranks among few, little follows.
        if self.taught >= u64::from(config.cases_min / 2) {
            self.usual[SIGNALS].add(combined, keep);
        }
        self.taught += 1;
        true
    }

    /// Counts the entropy of a case, whatever it teaches.
    pub(super) fn count_entropy(&mut self, entropy: f32) {
        self.recent.add(entropy, (-1.0 / RECENT_HALF_LIFE).exp2());
        self.recent_cases += 1;
        if self.reference_cases < REFERENCE_CASES {
            self.reference.add(entropy, 1.0);
            self.reference_cases += 1;
        }
    }

    /// Whether truncation or a retry is news in this workload. Counts it.
    pub(super) fn is_news(&mut self, flag: Flag, fires: bool) -> bool {
        let habit = &mut self.habits[usize::from(flag == Flag::Retry)];
        let before = *habit;
        *habit += HABIT_STEP * (f32::from(u8::from(fires)) - before);
        fires && before < HABIT
    }
}

/// The beginning of a name that fits.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(WORKLOAD_BYTES_MAX)]
}
