//! The closed loop, from flagged records to the rings: it ends the same wherever it is killed, and what is worse stays
//! here.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, prepare files, and tell what they do"
)]

#[path = "../ota/world.rs"]
#[expect(dead_code, reason = "the tests of releases use all of it")]
mod releases;
#[path = "../support/mod.rs"]
mod support;

mod loops;
mod review;
mod site;
