//! Where the engine thread gets models, and gives them out: one is changed, or another comes beside it, without a lost
//! request.
//!
//! ```text
//! instead  io      ToEngine::HandOver ─▶ take() ────────▶ loads another ─▶ give() ─▶ goes on
//!          engine  finishes what it has ─▶ gives it out ─────────────────────────────▶ goes on
//! beside   io      loads another ─▶ give() ─▶ a share of requests for it ··· HandOver of either ─▶ take(), dropped
//!          engine  goes on ─────────────────▶ a step of each in turn     ··· goes on with the one that is left
//! ```
//!
//! Where one model fits, its station is out before the other is loaded. The engine looks here only when something was
//! put in, which it sees without the lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::request::Lane;
use crate::station::Station;

/// Both ends; whoever may change the models holds one.
pub struct Exchange<E>(Arc<Shared<E>>);

impl<E> Clone for Exchange<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<E> {
    places: Mutex<[Place<E>; 2]>,
    changed: Condvar,
    /// Something is there for the engine.
    given: AtomicBool,
    stopped: AtomicBool,
    engine: OnceLock<Thread>,
}

enum Place<E> {
    /// Nothing is on its way.
    Empty,
    /// The engine gave it out.
    Out(Box<Station<E>>),
    /// The engine may have it.
    In(Box<Station<E>>),
}

impl<E: Engine> Exchange<E> {
    /// Warms a station up on this thread, and gives it to the engine, which has none in this lane.
    pub fn give(&self, lane: Lane, mut station: Box<Station<E>>) {
        let begun = Instant::now();
        station.warm_up(&mut || begun.elapsed());
        let mut places = self.lock();
        let place = &mut places[lane.index()];
        assert!(matches!(place, Place::Empty), "nothing else is on its way");
        *place = Place::In(station);
        self.0.given.store(true, Ordering::Release);
        if let Some(engine) = self.0.engine.get() {
            engine.unpark();
        }
    }
}

impl<E> Exchange<E> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            places: Mutex::new([Place::Empty, Place::Empty]),
            changed: Condvar::new(),
            given: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            engine: OnceLock::new(),
        }))
    }

    /// Waits until the engine, which was asked to, has finished what it had in this lane, and takes its station.
    /// `None`: it stopped.
    pub fn take(&self, lane: Lane) -> Option<Box<Station<E>>> {
        let mut places = self.lock();
        loop {
            match std::mem::replace(&mut places[lane.index()], Place::Empty) {
                Place::Out(station) => return Some(station),
                other => places[lane.index()] = other,
            }
            if self.0.stopped.load(Ordering::Acquire) {
                return None;
            }
            // Not for ever: the flag is set without the lock.
            let look = Duration::from_millis(50);
            let waited = self.0.changed.wait_timeout(places, look);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The engine's side: it runs on this thread.
    pub(super) fn begin(&self, engine: Thread) {
        let _ = self.0.engine.set(engine);
    }

    /// The engine's side: what was put in, one after the other.
    pub(super) fn collect(&self) -> Option<(Lane, Box<Station<E>>)> {
        if !self.0.given.load(Ordering::Acquire) {
            return None;
        }
        let mut places = self.lock();
        for lane in Lane::ALL {
            match std::mem::replace(&mut places[lane.index()], Place::Empty) {
                Place::In(station) => return Some((lane, station)),
                other => places[lane.index()] = other,
            }
        }
        self.0.given.store(false, Ordering::Release);
        None
    }

    /// The engine's side: gives a station out.
    pub(super) fn hand_over(&self, lane: Lane, station: Box<Station<E>>) {
        self.lock()[lane.index()] = Place::Out(station);
        self.0.changed.notify_all();
    }

    /// The engine's side: nothing will be given out any more.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, [Place<E>; 2]> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
