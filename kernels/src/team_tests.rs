//! The team under repeated runs.

use super::*;

#[test]
fn shares_cover_everything_once() {
    for count in 1..=7 {
        for total in [0, 1, 3, 4, 5, 31, 32, 1000] {
            for multiple in [1, 4, 32] {
                let mut next = 0;
                for index in 0..count {
                    let share = Worker { index, count }.share(total, multiple);
                    assert_eq!(share.start, next);
                    assert!(share.is_empty() || share.start.is_multiple_of(multiple));
                    next = share.end;
                }
                assert_eq!(next, total);
            }
        }
    }
}

#[test]
fn every_worker_runs_every_job_once() {
    for threads in [1, 2, 3, 5] {
        let mut team = Team::new(threads);
        assert_eq!(team.threads(), threads);
        let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for round in 1..=2_000 {
            team.run(&|worker| {
                assert_eq!(worker.count, threads);
                counts[worker.index].fetch_add(1, Ordering::Relaxed);
            });
            for count in &counts {
                assert_eq!(count.load(Ordering::Relaxed), round);
            }
        }
    }
}

#[test]
fn workers_that_fell_asleep_wake_up() {
    let mut team = Team::new(3);
    let total = AtomicUsize::new(0);
    for _ in 0..20 {
        // Long enough on any core for workers to leave their spin loop, without asking a clock.
        while team.shared.sleepers.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        team.run(&|worker| {
            total.fetch_add(worker.index + 1, Ordering::Relaxed);
        });
    }
    assert_eq!(total.load(Ordering::Relaxed), 20 * 6);
}

#[test]
fn a_caller_that_falls_asleep_wakes_up() {
    let mut team = Team::new(2);
    let finished = AtomicBool::new(false);
    for _ in 0..20 {
        finished.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&team.shared);
        team.run(&|worker| {
            if worker.index == 1 {
                while !shared.caller_sleeps.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                finished.store(true, Ordering::SeqCst);
            }
        });
        assert!(
            finished.load(Ordering::SeqCst),
            "run returns after its workers"
        );
    }
}

#[test]
fn a_panic_of_the_caller_waits_for_the_others_and_the_team_lives_on() {
    let mut team = Team::new(2);
    let ran = AtomicUsize::new(0);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        team.run(&|worker| {
            assert_ne!(worker.index, 0, "the caller gives up");
            ran.fetch_add(1, Ordering::SeqCst);
        });
    }));
    assert!(caught.is_err());
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    team.run(&|_| {
        ran.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(ran.load(Ordering::SeqCst), 3);
}
