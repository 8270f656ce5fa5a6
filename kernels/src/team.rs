//! A team of threads, started once, that runs one job at a time together with its caller.
//!
//! A step of a small model is a few hundred jobs of 10 to 500 µs, so starting one should cost a microsecond, not a
//! wake-up: idle workers spin for a while before they sleep.
//!
//! ```text
//!  caller    job := …; epoch += 1; wake sleepers; run its own share; wait until running = 0
//!  worker    spin, then sleep, until epoch moves; run its share; running -= 1
//! ```

#![allow(
    unsafe_code,
    reason = "a borrowed job crosses threads; `run` outlives every use of it"
)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Threads in a team at most, the caller included.
pub const THREADS_MAX: usize = 64;

/// Turns of the spin loop before sleeping: meant as about 50 µs at 20 ns a `pause`; the length of a `pause` differs
/// between processors and has not been measured. Longer burns power between tokens; shorter pays a wake-up for every
/// job.
const SPINS: u32 = 2_500;

/// One member of the team during a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Which one, from 0 (the caller).
    pub index: usize,
    /// How many run this job.
    pub count: usize,
}

impl Worker {
    /// The caller alone, for work too small to share.
    pub const ALONE: Worker = Worker { index: 0, count: 1 };

    /// This worker's part of `0..total`: contiguous, starting at a multiple of `multiple_of`, sizes within one multiple
    /// of each other. The parts of all workers cover the whole once.
    pub fn share(self, total: usize, multiple_of: usize) -> Range<usize> {
        assert!(multiple_of > 0);
        assert!(self.index < self.count);
        let pieces = total.div_ceil(multiple_of);
        let edge = |index: usize| (pieces * index / self.count * multiple_of).min(total);
        edge(self.index)..edge(self.index + 1)
    }
}

/// A job whose borrow is forgotten: see `Team::run`.
type Job = dyn Fn(Worker) + Sync + 'static;

/// A fixed team of threads. The thread that calls [`Team::run`] is worker 0; the others are named `kernel-1` and so on.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts jobs. A change is the signal to start (or, with `quit`, to end).
    epoch: AtomicU32,
    quit: AtomicBool,
    /// Workers that have not finished the present job.
    running: AtomicUsize,
    /// Written by the caller while nobody runs, read by workers between the change of `epoch` and their decrement of
    /// `running`.
    job: UnsafeCell<Option<*const Job>>,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    start: Condvar,
    done: Condvar,
}

// SAFETY: all fields but `job` are Sync. `job` is written only by `Team::run` (which has `&mut Team`) while `running`
// is zero, and read by workers only after they acquired the `epoch` that was released after that write. The job is
// `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is dereferenced only while `Team::run` keeps the job borrowed.
unsafe impl Send for Shared {}

impl Team {
    /// Starts `threads - 1` threads.
    ///
    /// Panics when `threads` is not in 1..=64, or when the system refuses a thread: at start that is fatal anyway.
    pub fn new(threads: usize) -> Team {
        assert!(
            (1..=THREADS_MAX).contains(&threads),
            "a team has 1 to {THREADS_MAX} threads"
        );
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            quit: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            start: Condvar::new(),
            done: Condvar::new(),
        });
        let workers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("kernel-{index}"))
                    .spawn(move || {
                        shared.serve(Worker {
                            index,
                            count: threads,
                        });
                    })
                    .expect("the system has room for a thread at start")
            })
            .collect();
        Team { shared, workers }
    }

    /// Threads in the team, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` once on each worker and returns when all are done. A panic on a worker thread aborts the process,
    /// since half a result is no result; a panic on the caller is re-raised after the others finished.
    ///
    /// Cost: two handshakes through a cache line while workers spin, a futex wake-up each when they sleep. No
    /// allocation.
    pub fn run(&mut self, job: &(dyn Fn(Worker) + Sync)) {
        let count = self.threads();
        if count == 1 {
            return job(Worker::ALONE);
        }
        let shared = &*self.shared;
        assert_eq!(
            shared.running.load(Ordering::Acquire),
            0,
            "the previous job is over"
        );
        // SAFETY: only the lifetime changes. No worker uses the pointer after `Finish` has seen `running` reach zero,
        // which happens before this function returns or unwinds, while `job` is still borrowed.
        let job_static = unsafe {
            std::mem::transmute::<&(dyn Fn(Worker) + Sync), &'static (dyn Fn(Worker) + Sync)>(job)
        };
        // SAFETY: `running` is zero, so no worker reads `job`, and `&mut self` excludes another caller.
        unsafe { *shared.job.get() = Some(std::ptr::from_ref(job_static)) };
        shared.running.store(count - 1, Ordering::Relaxed);
        shared.announce();
        let finish = Finish(shared);
        job(Worker { index: 0, count });
        drop(finish);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        self.shared.announce();
        for worker in self.workers.drain(..) {
            worker
                .join()
                .expect("a worker that panics aborts the process");
        }
    }
}

/// Waits for the workers, also when the caller's own share panics.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        for _ in 0..SPINS {
            if shared.running.load(Ordering::Acquire) == 0 {
                return;
            }
            spin_loop();
        }
        // Sleep. SeqCst on `caller_sleeps` and `running` here and in `serve`: either the last worker sees the flag, or
        // we see its zero. A swap, not a store: QEMU 7 lets a load-acquire pass an earlier store-release (no fence
        // between its `stlr` and `ldar`), and the emulated tests slept for ever.
        let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        shared.caller_sleeps.swap(true, Ordering::SeqCst);
        while shared.running.load(Ordering::SeqCst) != 0 {
            guard = shared
                .done
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        shared.caller_sleeps.store(false, Ordering::SeqCst);
    }
}

/// Ends the process when a worker unwinds.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Shared {
    /// Moves the epoch and wakes whoever sleeps. SeqCst on `epoch` and `sleepers` here and in `wait_past`: either we
    /// see the sleeper, or it sees the new epoch.
    fn announce(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.start.notify_all();
        }
    }

    fn serve(&self, worker: Worker) {
        let _abort = AbortOnPanic;
        let _guard = crate::heap::guard();
        let mut epoch = 0;
        loop {
            epoch = self.wait_past(epoch);
            if self.quit.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: `run` wrote the job before it moved the epoch that we acquired, keeps it borrowed and does not
            // write again until our decrement below.
            let job = unsafe { &*(*self.job.get()).expect("a new epoch comes with a job") };
            job(worker);
            if self.running.fetch_sub(1, Ordering::SeqCst) == 1
                && self.caller_sleeps.load(Ordering::SeqCst)
            {
                drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
                self.done.notify_one();
            }
        }
    }

    fn wait_past(&self, epoch: u32) -> u32 {
        for _ in 0..SPINS {
            let now = self.epoch.load(Ordering::Acquire);
            if now != epoch {
                return now;
            }
            spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let now = loop {
            let now = self.epoch.load(Ordering::SeqCst);
            if now != epoch {
                break now;
            }
            guard = self
                .start
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        now
    }
}

#[cfg(test)]
#[path = "team_tests.rs"]
mod tests;
