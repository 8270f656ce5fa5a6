//! The box: everything an outstation does, as a library.
//!
//! Pure cores know no clock, socket, file, thread, async or logging: time and randomness are arguments. The shells
//! around them live in `io` and `cli`, behind the feature `io`.
//!
//! ```text
//! prompt   io/* ─▶ request ─▶ tokenizer ─▶ [ring] ─▶ scheduler.plan(now) ─▶ engine.step(plan) ─▶ kernels
//! tokens   io/* ◀─ detokenize ◀─ [ring] ◀─ sampler ◀───────────────────────────┘  kv, model
//! ```
#![deny(unsafe_code)]

pub mod access;
pub mod adapter;
pub mod budget;
#[cfg(feature = "io")]
pub mod cli;
pub mod config;
pub mod demo;
pub mod disk;
pub mod doctor;
pub mod energy;
pub mod engine;
pub mod fetch;
pub mod flag;
pub mod generate;
pub mod grammar;
#[cfg(feature = "io")]
pub mod io;
pub mod kv;
pub mod limits;
pub mod logprobs;
pub mod model;
pub mod redact;
pub mod request;
pub mod sampler;
pub mod scheduler;
pub mod slot;
pub mod spool;
pub mod station;
pub mod status;
pub mod superblock;
pub mod template;
pub mod tokenizer;
pub mod trial;
pub mod upload;
