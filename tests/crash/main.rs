//! The spool on a disk that loses power at every instant, fails, fills up and lies, and what the factory gets of it.
//!
//! `CRASH_SEEDS=500 cargo test --release -p outstation-tests --test crash` runs more histories than a commit does.
#![expect(
    clippy::disallowed_methods,
    reason = "how much is tested is told by the environment"
)]
#![expect(
    clippy::unwrap_used,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::result_large_err,
    reason = "a test may fail here, names are our own, and a disk comes back with its error"
)]

mod disk;
mod faults;
mod history;
mod models;
mod power;
mod random;
mod truth;

/// Seeds of a check: so many, or what `CRASH_SEEDS` says.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("CRASH_SEEDS").ok();
    0..asked.map_or(usual, |seeds| {
        seeds.parse().expect("CRASH_SEEDS is a number")
    })
}
