//! The far end of the uplink: a stateless server over an object store, and the tools of who trains models.
//!
//! ```text
//! models ─▶ publish ─▶ ota/… ─▶ boxes
//! boxes ─▶ ingest ─▶ seg/…  ─▶ compact ─▶ parquet/… + commits/… ─▶ export, DuckDB, Spark, Ray, pandas
//! ```
//!
//! Replicas hold no state: whatever one of them knows is in the store, each object is written once under a name that
//! follows from its content, and who comes second finds it there.
#![forbid(unsafe_code)]

pub mod api;
pub mod channel;
pub mod chat;
pub mod clean;
pub mod cli;
pub mod clock;
pub mod commits;
pub mod compact;
pub mod contacts;
pub mod days;
pub mod erase;
pub mod eval;
pub mod export;
pub mod fleet;
pub mod ingest;
pub mod judge;
pub mod keys;
pub mod merge;
pub mod metrics;
pub mod ota;
pub mod registry;
pub mod retain;
mod rewrite;
pub mod rounds;
pub mod rows;
pub mod segments;
pub mod server;
pub mod store;
pub mod task;
pub mod train;
pub mod trial;
pub mod web;
mod whole;
