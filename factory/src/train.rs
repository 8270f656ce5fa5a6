//! Training: a small decoder from scratch, all of it anew, or a low-rank change (LoRA) of it.
//!
//! ```text
//!  chat JSONL ─▶ examples ─ Stream ─▶ Batch ─▶ Net::loss ─ candle ─▶ gradients ─▶ Optimizer
//!                  (seed, place)                                                    │
//!  GGUF, LoRA GGUF, PEFT ◀─ export ◀──────────── Checkpoint ◀───────────────────────┘
//! ```
//!
//! candle computes products and gradients, on the CPU or with CUDA; what would take it many passes over memory is done
//! in one by `kernels::train`. A run is given by its data, its plan and its seed: killed at any time, it goes on from
//! its last checkpoint and ends with the same weights as if nothing had happened.

mod checkpoint;
mod curve;
mod data;
mod export;
mod load;
mod net;
mod ops;
mod optimizer;
mod run;
mod vocabulary;

pub use curve::{Curve, Point};
pub use data::Example;
pub use export::{QUANTIZATIONS, Quantization, adapter_gguf, adapter_peft, gguf};
pub use load::load;
pub use net::{Batch, Net, Shape};
pub use optimizer::Schedule;
pub use run::{LowRankPlan, Plan, Progress, Run};
pub use vocabulary::Vocabulary;

/// Why training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Of candle: memory, a device.
    #[error("the trainer: {0}")]
    Candle(#[from] candle_core::Error),
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What.
        error: std::io::Error,
    },
    /// A checkpoint of another run.
    #[error(
        "{0}: this checkpoint is of a run with another plan or other data; give another folder, or remove it"
    )]
    OtherRun(std::path::PathBuf),
    /// A checkpoint that cannot be read.
    #[error("{path}: no checkpoint: {reason}; remove it to begin anew")]
    Checkpoint {
        /// Which.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The loss is no number any more.
    #[error(
        "the loss is {loss} at step {step}: lower the learning rate, or look for rows of the data that are odd"
    )]
    Diverged {
        /// At which step.
        step: u32,
        /// What it is.
        loss: f32,
    },
    /// Of the tokenizer.
    #[error("the tokenizer: {0}")]
    Tokenizer(tokenizers::Error),
    /// A message of nobody that the template knows.
    #[error("a message of {0:?}: roles are system, user and assistant")]
    Role(String),
    /// A model that cannot be trained further.
    #[error("this base cannot be trained: {0}")]
    Base(String),
    /// Nothing to learn from.
    #[error("there is no example to learn from")]
    NoExamples,
}

impl TrainError {
    fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, error }
    }
}
