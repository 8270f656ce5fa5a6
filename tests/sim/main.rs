//! The real station in a made-up world: a fake engine, a virtual clock, and everything else out of one seed.
//!
//! A failure prints `SIM_SEED=…`; that variable runs the one seed again, and `SIM_SEEDS=10000` runs more of them, from
//! `SIM_FROM` on. The checkers live in `truth` (what a step may do) and `events` (what a request may hear);
//! `simulation` holds the answers against those of a station that serves one request alone.

#![expect(
    clippy::unchecked_time_subtraction,
    reason = "virtual time never runs backwards: a panic is a finding"
)]

use simulation::run;
use tally::Tally;

mod engine;
mod events;
mod random;
mod simulation;
mod tally;
mod traffic;
mod truth;

/// Seeds of a run that says nothing else.
const SEEDS: u64 = 2000;

/// Says how to come back here, if the test does not.
struct Replay(u64);

impl Drop for Replay {
    #[expect(clippy::print_stderr, reason = "it is what a failed run leaves")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("replay with: SIM_SEED={seed} cargo test -p outstation-tests --test sim");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no config file")]
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a whole number"))
}

#[test]
fn every_request_is_served_as_if_alone() {
    let mut tally = Tally::default();
    if let Some(seed) = variable("SIM_SEED") {
        let _replay = Replay(seed);
        run(seed, &mut tally);
        println!("{tally:#?}");
        return;
    }
    let first = variable("SIM_FROM").unwrap_or(0);
    for seed in first..first + variable("SIM_SEEDS").unwrap_or(SEEDS) {
        let _replay = Replay(seed);
        run(seed, &mut tally);
    }
    println!("{tally:#?}");
    tally.assert_all_happened();
}
