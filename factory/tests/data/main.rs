//! From segments to rows, whoever dies and whatever the store says: each record is in one committed file, once.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, read files and start programs"
)]

#[path = "../support/mod.rs"]
mod support;

mod arguments;
mod damage;
mod export;
mod layout;
mod races;
mod readers;
mod world;
