//! Where the engine thread hands over its station for another: the model is changed without a lost request.
//!
//! ```text
//! io      ToEngine::HandOver ─▶ take() ─────────────▶ loads another ─▶ give() ──▶ goes on
//! engine  finishes what it has ─▶ gives its station out, waits ─────────────────▶ warms up, goes on
//! ```
//!
//! The station is out between the two, so the memory of one model is enough: what was taken can be dropped before the
//! other is loaded. A lock is taken here only while nothing is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::station::Station;

/// Both ends; whoever may change the model holds one.
pub struct Exchange<E>(Arc<Shared<E>>);

impl<E> Clone for Exchange<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<E> {
    place: Mutex<Place<E>>,
    changed: Condvar,
    stopped: AtomicBool,
}

enum Place<E> {
    /// The engine has its station.
    Empty,
    /// The engine gave it out.
    Out(Box<Station<E>>),
    /// It is being changed.
    Taken,
    /// The engine may have this one.
    In(Box<Station<E>>),
}

impl<E> Exchange<E> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            place: Mutex::new(Place::Empty),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        }))
    }

    /// Waits until the engine, which was asked to, has finished what it had, and takes its station. `None`: it stopped.
    pub fn take(&self) -> Option<Box<Station<E>>> {
        let mut place = self.lock();
        loop {
            match std::mem::replace(&mut *place, Place::Taken) {
                Place::Out(station) => return Some(station),
                other => *place = other,
            }
            if self.0.stopped.load(Ordering::Acquire) {
                return None;
            }
            place = self.wait(place);
        }
    }

    /// Gives the engine a station to go on with.
    ///
    /// Panics if none was taken.
    pub fn give(&self, station: Box<Station<E>>) {
        let mut place = self.lock();
        assert!(matches!(*place, Place::Taken), "a station was taken");
        *place = Place::In(station);
        self.0.changed.notify_all();
    }

    /// The engine's side: gives a station out and waits for another. `None`: stop.
    pub(super) fn hand_over(
        &self,
        station: Box<Station<E>>,
        stop: &AtomicBool,
    ) -> Option<Box<Station<E>>> {
        let mut place = self.lock();
        *place = Place::Out(station);
        self.0.changed.notify_all();
        while !stop.load(Ordering::Acquire) {
            match std::mem::replace(&mut *place, Place::Empty) {
                Place::In(station) => return Some(station),
                other => *place = other,
            }
            place = self.wait(place);
        }
        None
    }

    /// The engine's side: nothing will be given out any more.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Place<E>> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not for ever: the flags to stop are set without the lock.
    fn wait<'a>(&'a self, place: MutexGuard<'a, Place<E>>) -> MutexGuard<'a, Place<E>> {
        let look = Duration::from_millis(50);
        let waited = self.0.changed.wait_timeout(place, look);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
