//! The closed loop: what boxes found hard becomes an adapter that does it better, in rounds, without hands.
//!
//! ```text
//!  export ─▶ cases ─▶ labels ─▶ split ─▶ train ─▶ gate ─▶ publish ─▶ canary ─▶ widen
//!           new ones   oracle,   learn,   LoRA    old and     │       ring      rings
//!                      a model,  judge            new data    │        │
//!                      a person                      └─ refused        └─ taken back
//! ```
//!
//! A round is a folder. Each step leaves a file there, whole or not at all, and is skipped where its file is; training
//! goes on from its checkpoint, labels from the last one, and what is released is found again by its digest. So a
//! round that was killed anywhere ends as if it had not been, and nothing is trained or released twice.
//! `docs/closed-loop.md`.

mod cases;
mod folder;
mod gate;
mod label;
mod learn;
mod release;
mod review;
mod run;
mod settings;

pub use folder::{Ended, Folder, Round};
pub use gate::{Limits, Verdict};
pub use label::{Label, labels};
pub use review::serve as review;
pub use run::{Outcome, once};
pub use settings::{Labeller, Settings};

use std::path::{Path, PathBuf};

use crate::api::ApiError;
use crate::export::ExportError;
use crate::judge::ServedError;
use crate::ota::OtaError;
use crate::store::StoreError;
use crate::train::TrainError;

/// Why a round cannot go on. What was done stays, and the next call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file whose content cannot be used.
    #[error("{path}: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The settings do not fit what is released.
    #[error("{0}")]
    Settings(String),
    /// Another loop works in the same folder.
    #[error("{0}: another loop works there")]
    Busy(PathBuf),
    /// Choosing cases.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Releasing.
    #[error(transparent)]
    Ota(#[from] OtaError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model that labels, or the box that is judged.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The box that is judged.
    #[error(transparent)]
    Served(#[from] ServedError),
}

impl RoundError {
    fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    fn content(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Content {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}
