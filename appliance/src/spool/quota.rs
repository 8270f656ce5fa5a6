//! How much of the disk the spool takes, and what goes when that is too little.
//!
//! A class has a ceiling, and all have one together. What has no room evicts the oldest sealed segment of what is worth
//! least: P2 evicts P2, P1 evicts P2 and then P1, P0 evicts P2 and then P1. P0 is never evicted: when it fills all,
//! records are refused.

use std::collections::VecDeque;

use outstation_wire::record::GapReason;
use outstation_wire::segment::Class;

use super::segment::{Sealed, bad_name, sealed_name};
use super::{Now, STUCK_MAX, Spool, SpoolEvent, SpoolLimits};
use crate::disk::{Disk, DiskError};

/// Ceilings in bytes. An open segment counts with its full size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Of all together.
    pub total: u64,
    /// Of each class; P0's should be the total.
    pub classes: [u64; 3],
}

impl Quotas {
    /// What classes get of a total: P0 may have all, P1 sixty percent, P2 thirty.
    pub fn of_total(total: u64) -> Self {
        Self {
            total,
            classes: [total, total / 10 * 6, total / 10 * 3],
        }
    }
}

/// Sealed segments of a class, oldest first.
pub(super) struct Index {
    sealed: VecDeque<Sealed>,
    capacity: usize,
    bytes: u64,
    /// Bytes of files that could not be sealed or removed: the next start looks at them.
    left: u64,
}

impl Index {
    /// For a class, with room for what recovery found.
    pub(super) fn new(limits: &SpoolLimits, found: usize) -> Self {
        let capacity = capacity(limits).max(found + 64);
        Self {
            sealed: VecDeque::with_capacity(capacity),
            capacity,
            bytes: 0,
            left: 0,
        }
    }

    pub(super) fn bytes(limits: &SpoolLimits) -> u64 {
        3 * (capacity(limits) * size_of::<Sealed>()) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        // Places stay for the segment that is open, and those that wait for the disk.
        self.sealed.len() + 1 + STUCK_MAX >= self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.sealed.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Sealed> + '_ {
        self.sealed.iter().copied()
    }

    pub(super) fn find(&self, seq: u64) -> Option<Sealed> {
        let place = self.sealed.binary_search_by_key(&seq, |sealed| sealed.seq);
        place.ok().map(|place| self.sealed[place])
    }

    pub(super) fn push(&mut self, sealed: Sealed) {
        assert!(
            self.sealed.len() < self.capacity,
            "room was made before it was begun"
        );
        // Mostly at the end; recovery may seal an older one late.
        let place = self.sealed.partition_point(|other| other.seq < sealed.seq);
        self.sealed.insert(place, sealed);
        self.bytes += sealed.bytes;
    }

    /// A file that nobody looks at until the next start.
    pub(super) fn left(&mut self, bytes: u64) {
        self.left += bytes;
    }

    fn remove(&mut self, seq: u64) -> Option<Sealed> {
        let place = self.sealed.binary_search_by_key(&seq, |sealed| sealed.seq);
        let sealed = self.sealed.remove(place.ok()?)?;
        self.bytes -= sealed.bytes;
        Some(sealed)
    }
}

/// Segments of a class: full ones, and some that were sealed for their age.
fn capacity(limits: &SpoolLimits) -> usize {
    let full = limits.quotas.total / limits.segment_bytes;
    usize::try_from(2 * full).expect("an address has 64 bits") + 64
}

impl<D: Disk> Spool<D> {
    pub(super) fn class_bytes(&self, class: Class) -> u64 {
        let index = &self.index[class.index()];
        let open = usize::from(self.open[class.index()].is_some());
        let stuck = self
            .stuck
            .iter()
            .filter(|(other, _)| *other == class)
            .count();
        index.bytes + index.left + (open + stuck) as u64 * self.limits.segment_bytes
    }

    fn total_bytes(&self) -> u64 {
        Class::ALL
            .into_iter()
            .map(|class| self.class_bytes(class))
            .sum()
    }

    /// Room for another segment of a class, whatever that costs those that are worth less. False: there is none.
    pub(super) fn make_room(&mut self, class: Class, now: Now) -> bool {
        let more = self.limits.segment_bytes;
        let quotas = self.limits.quotas;
        let index = class.index();
        // Each turn evicts a segment, and there are as many as their places.
        loop {
            let own = self.class_bytes(class) + more > quotas.classes[index];
            let own = own || self.index[index].is_full();
            if own {
                if class == Class::P0 || !self.evict(class, now) {
                    return false;
                }
            } else if self.total_bytes() + more > quotas.total {
                if !self.evict_for(class, now) {
                    return false;
                }
            } else {
                return true;
            }
        }
    }

    /// Evicts a segment that is worth less than a new one of this class, or as much and older.
    pub(super) fn evict_for(&mut self, class: Class, now: Now) -> bool {
        match class {
            Class::P2 => self.evict(Class::P2, now),
            Class::P1 | Class::P0 => self.evict(Class::P2, now) || self.evict(Class::P1, now),
        }
    }

    /// Evicts the oldest sealed segment of a class. It is known to be lost before it is.
    fn evict(&mut self, class: Class, now: Now) -> bool {
        let Some(oldest) = self.index[class.index()].iter().next() else {
            return false;
        };
        let records = oldest.record_seq_first..=oldest.record_seq_last;
        let count = u64::from(oldest.records);
        self.lost(class, records, count, oldest.bytes, GapReason::Evicted);
        self.store_state(now).is_ok() && self.remove_sealed(class, oldest.seq, now)
    }

    /// Renames a sealed segment so that it is not sent. It still counts.
    pub(super) fn set_aside_sealed(&mut self, sealed: Sealed, now: Now) {
        let Sealed { class, seq, .. } = sealed;
        let renamed = self
            .disk
            .rename(&sealed_name(class, seq), &bad_name(class, seq));
        if let Err(error) = renamed.and_then(|()| self.disk.sync_folder()) {
            return self.rest(now, error);
        }
        let index = &mut self.index[class.index()];
        index.remove(seq);
        index.left(sealed.bytes);
        self.tell(SpoolEvent::Removed { class, seq });
    }

    /// Removes a sealed segment.
    pub(super) fn remove_sealed(&mut self, class: Class, seq: u64, now: Now) -> bool {
        match self.disk.remove(&sealed_name(class, seq)) {
            Ok(()) | Err(DiskError::Missing) => {}
            Err(error) => {
                self.rest(now, error);
                return false;
            }
        }
        self.index[class.index()].remove(seq);
        self.tell(SpoolEvent::Removed { class, seq });
        true
    }
}
