//! Who ran when, on its way from the engine thread to the ledger.
//!
//! A stretch of some ten milliseconds has an entry for each request in it. A ring that is full costs the stretch, and
//! that is told: the engine does not wait for a meter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::energy::{Carried, Ledger, Shares, Work};
use crate::request::RequestId;

/// A ring with room for half a second and more.
pub(crate) fn ring(sequences_max: u32, started: Instant) -> (WorkOut, WorkIn) {
    let (ring_in, ring_out) = HeapRb::new(Shares::ring_parts(sequences_max)).split();
    let told = Arc::new(Told::default());
    let out = WorkOut {
        shares: Shares::new(sequences_max as usize),
        ring: ring_in,
        told: told.clone(),
    };
    let work = WorkIn {
        ring: ring_out,
        told,
        lost: 0,
        started,
    };
    (out, work)
}

/// What the engine thread says besides.
#[derive(Debug, Default)]
struct Told {
    /// Nanoseconds up to which all work is in the ring.
    until_ns: AtomicU64,
    /// Stretches that found the ring full.
    lost: AtomicU64,
    /// The last request of them.
    lost_upto: AtomicU64,
}

/// The engine thread's end.
pub(crate) struct WorkOut {
    shares: Shares,
    ring: HeapProd<Work>,
    told: Arc<Told>,
}

impl WorkOut {
    /// A step ran.
    pub(crate) fn handle_step(&mut self, from: Duration, to: Duration, carried: &[Carried]) {
        if !self.shares.has_room(carried.len()) {
            self.tell();
        }
        self.shares.handle_step(from, to, carried);
        if self.shares.is_due() {
            self.tell();
        }
    }

    /// There is nothing to do.
    pub(crate) fn handle_idle(&mut self, now: Duration) {
        self.tell();
        self.until(now);
    }

    /// Tells what ran.
    pub(crate) fn tell(&mut self) {
        if self.shares.is_empty() {
            return;
        }
        let to = self.shares.to();
        if self.ring.vacant_len() >= self.shares.len() {
            for work in self.shares.drain() {
                let pushed = self.ring.try_push(work);
                assert!(pushed.is_ok(), "room was checked");
            }
        } else {
            for work in self.shares.drain() {
                self.told.lost_upto.fetch_max(work.id.0, Ordering::Relaxed);
            }
            self.told.lost.fetch_add(1, Ordering::Release);
        }
        self.until(to);
    }

    fn until(&self, until: Duration) {
        let ns = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.told.until_ns.store(ns, Ordering::Release);
    }
}

/// The ledger's end.
pub struct WorkIn {
    ring: HeapCons<Work>,
    told: Arc<Told>,
    lost: u64,
    /// When the engine's clock began.
    pub(super) started: Instant,
}

impl WorkIn {
    /// Writes all that was told into the ledger.
    pub(super) fn pass(&mut self, ledger: &mut Ledger) {
        let until = self.told.until_ns.load(Ordering::Acquire);
        let lost = self.told.lost.load(Ordering::Acquire);
        if lost > self.lost {
            let upto = RequestId(self.told.lost_upto.load(Ordering::Relaxed));
            ledger.handle_lost(lost - self.lost, upto);
            self.lost = lost;
        }
        let there = self.ring.occupied_len();
        for work in self.ring.pop_iter().take(there) {
            ledger.handle_work(work);
        }
        ledger.handle_until(Duration::from_nanos(until));
    }
}
