//! What is said of a case: flags with stable names, ranks, and whether its content is kept.

/// One reason to look at a case. Discriminants and names are stable: they stand in records and metrics, and fit
/// `gen_ai.evaluation.name` of OpenTelemetry's `gen_ai.evaluation.result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// Mean negative log-likelihood above its quantile.
    MeanNll = 0,
    /// Mean entropy above its quantile.
    EntropyMean = 1,
    /// Greatest entropy above its quantile.
    EntropyMax = 2,
    /// The least confident window is less confident than all but few.
    WindowConfidence = 3,
    /// The end is less confident than all but few.
    TailConfidence = 4,
    /// The fifth percentile of p₁ − p₂ is smaller than all but few.
    Margin = 5,
    /// More repeated n-grams than all but few.
    Repetition = 6,
    /// All signals together are above the quantile of what they usually are together.
    HardCase = 7,
    /// Ended by `max_tokens` or the context.
    Truncated = 8,
    /// JSON was asked for and did not come.
    InvalidJson = 9,
    /// What looks like a tool call is none.
    InvalidToolCall = 10,
    /// It ended in a loop.
    RepetitionLoop = 11,
    /// The same tenant asked nearly the same again.
    Retry = 12,
    /// The answer begins as refusals do.
    Refusal = 13,
    /// Somebody said that the answer was bad.
    NegativeFeedback = 14,
    /// The workload's entropy is not what it was under the committed model.
    EntropyDrift = 15,
    /// Drawn by lot.
    Random = 16,
}

/// Signals that have a quantile of their own.
pub const SIGNALS: usize = 7;

impl Flag {
    /// All flags, in the order of their discriminants.
    pub const ALL: [Flag; 17] = [
        Flag::MeanNll,
        Flag::EntropyMean,
        Flag::EntropyMax,
        Flag::WindowConfidence,
        Flag::TailConfidence,
        Flag::Margin,
        Flag::Repetition,
        Flag::HardCase,
        Flag::Truncated,
        Flag::InvalidJson,
        Flag::InvalidToolCall,
        Flag::RepetitionLoop,
        Flag::Retry,
        Flag::Refusal,
        Flag::NegativeFeedback,
        Flag::EntropyDrift,
        Flag::Random,
    ];

    /// The flags of single signals, in the order of `Ranks::signals`.
    pub const SIGNALS: [Flag; SIGNALS] = [
        Flag::MeanNll,
        Flag::EntropyMean,
        Flag::EntropyMax,
        Flag::WindowConfidence,
        Flag::TailConfidence,
        Flag::Margin,
        Flag::Repetition,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Flag::MeanNll => "mean_nll",
            Flag::EntropyMean => "entropy_mean",
            Flag::EntropyMax => "entropy_max",
            Flag::WindowConfidence => "window_confidence",
            Flag::TailConfidence => "tail_confidence",
            Flag::Margin => "margin",
            Flag::Repetition => "repetition",
            Flag::HardCase => "hard_case",
            Flag::Truncated => "truncated",
            Flag::InvalidJson => "invalid_json",
            Flag::InvalidToolCall => "invalid_tool_call",
            Flag::RepetitionLoop => "repetition_loop",
            Flag::Retry => "retry",
            Flag::Refusal => "refusal",
            Flag::NegativeFeedback => "negative_feedback",
            Flag::EntropyDrift => "entropy_drift",
            Flag::Random => "random",
        }
    }
}

/// A set of flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The set with the bits of [`Flags::bits`]; unknown ones are dropped.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Flag::ALL.len()) - 1))
    }

    /// A bit for each flag, at its discriminant.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Adds a flag.
    pub fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << (flag as u8);
    }

    /// Whether it has a flag.
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & 1 << (flag as u8) != 0
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its flags, in order.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL
            .into_iter()
            .filter(move |flag| self.contains(*flag))
    }
}

/// Where a case stands among those that its workload had before: shares from 0 to 1, where more is harder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranks {
    /// Of each signal, in the order of [`Flag::SIGNALS`].
    pub signals: [f32; SIGNALS],
    /// Of all together.
    pub combined: f32,
}

/// Whether the content of a case is kept, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Keep it: it was flagged.
    KeptFlagged,
    /// Keep it: the lot fell on it.
    KeptRandom,
    /// Nothing speaks for it.
    NotSelected,
    /// Who asked did not allow it.
    NoConsent,
    /// Much like one that was kept lately.
    Duplicate,
    /// The day's allowance is spent.
    OverBudget,
}

impl Content {
    /// Whether to keep it.
    pub fn is_kept(self) -> bool {
        matches!(self, Content::KeptFlagged | Content::KeptRandom)
    }

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Content::KeptFlagged => "kept_flagged",
            Content::KeptRandom => "kept_random",
            Content::NotSelected => "not_selected",
            Content::NoConsent => "no_consent",
            Content::Duplicate => "duplicate",
            Content::OverBudget => "over_budget",
        }
    }
}

/// What is said of a case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Why to look at it.
    pub flags: Flags,
    /// Where it stands; `None` while the box is still learning what is usual, and for an answer without tokens.
    pub ranks: Option<Ranks>,
    /// Whether to keep its content.
    pub content: Content,
    /// Chance that the content of such a case is kept, over the draw of lots: 1 where it is kept for its flags, the
    /// random share otherwise. The weight of a kept case in an estimate over all traffic is the reciprocal.
    pub inclusion_probability: f32,
    /// The earlier request that this one repeats.
    pub retry_of: Option<u64>,
    /// Population stability index of the workload's entropy against the committed model's, where both have been seen
    /// enough.
    pub drift: Option<f32>,
}
