//! The demo's task: what people at a telecom site ask of an assistant, and the right answers.
//!
//! ```text
//!  phrases/*.txt ─▶ Phrases ─ say(dice) ─▶ sentence ─▶ a user, a data set
//!                      └───── read(text) ─▶ answer  ─▶ the oracle
//! ```
//!
//! A sentence orders something ("set sector 3 of KEL-042 to 40 W") and is answered with one JSON object, or asks what a
//! term or an alarm means and is answered with a sentence. Phrasings stand in text files, one for each language, as
//! patterns of words, choices and slots. The same patterns say sentences from a seed and read them back, so the oracle
//! needs no memory of what was said: it parses, and forgives one typing error in a word.
//!
//! Training, validation and test have other phrasings and other values of open slots (sites, alarm numbers, powers,
//! …); values of closed ones (sectors, days, quarters of an hour, parts) are few, and the same everywhere. The words of
//! phrasings to be judged by come in training phrasings of the same intent, in other company: a model from scratch can
//! know no others. *Drift* is a fourth set of phrasings, a jargon that the first model never sees.

mod dice;
mod loose;
mod pattern;
mod phrases;
mod slot;
#[cfg(test)]
mod tests;

pub use dice::Dice;
pub use phrases::{Phrases, Question, Reading};

use std::fmt;

/// Languages of the phrasings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// The first.
    English,
    /// With its own words for units and times.
    German,
    /// Likewise.
    Spanish,
}

impl Language {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::English, Self::German, Self::Spanish];

    /// Its two letters.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
            Self::Spanish => "es",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// Sets of phrasings, none of which is in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Set {
    /// To learn from.
    Train,
    /// To choose a model by.
    #[value(name = "val")]
    Validation,
    /// To judge it by, at the end.
    Test,
    /// A jargon that the first model never saw.
    Drift,
}

impl Set {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Train, Self::Validation, Self::Test, Self::Drift];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "val",
            Self::Test => "test",
            Self::Drift => "drift",
        }
    }

    /// The set of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }
}
