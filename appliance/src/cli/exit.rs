//! From errors to exit codes, so that systemd can tell "fix the configuration" from "try again". Source: sysexits.h.

use crate::adapter::{AdapterError, PoolError};
use crate::budget::BudgetError;
use crate::config::ConfigError;
use crate::io::adapters::AdapterFileError;
use crate::io::uplink::enrol::EnrolError;
use crate::io::uplink::membership::MembershipError;
use crate::io::weights::WeightsError;
use crate::model::ModelError;
use crate::request::{Refusal, RefusalKind};
use crate::template::TemplateError;
use crate::tokenizer::VocabularyError;

/// `doctor` found something that does not work; no other command ends so.
pub(super) const BAD_FINDING: u8 = 1;
/// Wrong arguments.
pub(super) const USAGE: u8 = 64;
/// A file or prompt that is no good.
pub(super) const BAD_INPUT: u8 = 65;
/// A service that does not answer.
pub(super) const UNAVAILABLE: u8 = 69;
/// Reading or writing failed.
pub(super) const IO: u8 = 74;
/// Configuration or budget.
pub(super) const CONFIG: u8 = 78;

/// Why a command ended, for people and for systemd.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// One sentence.
    pub message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn io(what: impl std::fmt::Display, source: std::io::Error) -> Self {
        Self::new(IO, format!("{what}: {source}"))
    }

    /// Puts a place in front of the message.
    pub(super) fn at(self, place: impl std::fmt::Display) -> Self {
        Self {
            message: format!("{place}: {}", self.message),
            ..self
        }
    }
}

macro_rules! exit_codes {
    ($($error:ty => $code:expr;)*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new($code, error.to_string())
            }
        })*
    };
}

exit_codes! {
    AdapterError => BAD_INPUT;
    BudgetError => CONFIG;
    ConfigError => CONFIG;
    ModelError => BAD_INPUT;
    PoolError => CONFIG;
    TemplateError => BAD_INPUT;
    VocabularyError => BAD_INPUT;
    outstation_wire::gguf::GgufError => BAD_INPUT;
}

impl From<AdapterFileError> for Failure {
    fn from(error: AdapterFileError) -> Self {
        let code = match &error {
            AdapterFileError::Map(WeightsError::Open { .. }) | AdapterFileError::Read { .. } => IO,
            AdapterFileError::Adapter {
                source: AdapterError::Rank { .. },
                ..
            } => CONFIG,
            _ => BAD_INPUT,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        let code = match error {
            MembershipError::File { .. } | MembershipError::Key(_) => IO,
            MembershipError::Damaged { .. } => CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        let code = match error {
            EnrolError::Already { .. } => CONFIG,
            EnrolError::Code(_) => USAGE,
            EnrolError::Stranger { .. } | EnrolError::Refused { later: false, .. } => BAD_INPUT,
            EnrolError::Refused { later: true, .. }
            | EnrolError::Answer(_)
            | EnrolError::Dial(_) => UNAVAILABLE,
            EnrolError::Files(error) => return error.into(),
            EnrolError::Request(_) => IO,
        };
        Self::new(code, error.to_string())
    }
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        let code = match error {
            WeightsError::Open { .. } => IO,
            WeightsError::Empty { .. } => BAD_INPUT,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::BadRequest | RefusalKind::NoModel | RefusalKind::ContextOverflow => {
                BAD_INPUT
            }
            _ => UNAVAILABLE,
        };
        Self::new(code, refusal.message)
    }
}
