//! What the factory releases: any reader gets the bytes that were published, whoever dies while they are, and nothing
//! is signed by too few.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, read files and start programs"
)]

#[path = "../support/mod.rs"]
mod support;

mod adapters;
mod boxes;
mod bundles;
mod commands;
mod failures;
mod faults;
mod models;
mod publishing;
mod readers;
mod rig;
mod signatures;
mod stops;
mod streams;
mod world;
