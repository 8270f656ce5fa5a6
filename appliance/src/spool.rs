//! The spool: records wait here for the factory, on a disk that may be cut off at any instant.
//!
//! ```text
//! append ─▶ pending (plain, in memory) ─commit─▶ p1.<seq>.open ─full or old─▶ p1.<seq>.seg ─acknowledged─▶ gone
//!                                        └ encrypted, written, synced           └ or it made room: a gap
//! ```
//!
//! Calling order: [`open`](Spool::open), keys by [`give_key`](Spool::give_key), then [`append`](Spool::append) while
//! there is [`room`](Spool::has_room), [`commit`](Spool::commit) when [`commit_due`](Spool::commit_due),
//! [`handle_time`](Spool::handle_time) now and then; [`poll_event`](Spool::poll_event) until `None` after each. After
//! `open` nothing here uses the heap.
//!
//! What `commit` leaves behind is durable or lost, and what is lost is in a gap: a record of class P0 that says what
//! will never arrive. `docs/spool-format.md` has the files, `docs/spool.md` the argument for each fault.

mod ledger;
mod quota;
mod recover;
mod segment;
mod state;

use std::time::Duration;

use outstation_wire::record::{GapReason, RECORD_BYTES_MAX};
use outstation_wire::seal::SegmentKey;
use outstation_wire::segment::{Class, WrappedKey, frame_bytes};

use crate::disk::{Disk, DiskError};
use crate::superblock::Superblock;

pub use quota::Quotas;
pub use recover::OpenError;
pub use segment::{Sealed, sealed_name};

use ledger::Ledger;
use quota::Index;
use segment::{Open, Pending};
use state::State;

/// Sizes and waits of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes of a segment's file.
    pub segment_bytes: u64,
    /// How much of the disk it may take.
    pub quotas: Quotas,
    /// Bytes of records of a class that wait for a commit.
    pub pending_bytes: usize,
    /// How long a record waits for others to be committed with it.
    pub commit_after: Duration,
    /// How long a segment stays open while records are in it and nothing else waits to be sent, by class.
    pub seal_after: [Duration; 3],
    /// How long a disk that failed is left alone.
    pub retry_after: Duration,
}

/// The time, as a box knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Since the program started.
    pub since_start: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// That is a guess.
    pub unix_untrusted: bool,
}

/// Whose spool it is, and what makes this start different from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The box.
    pub appliance: [u8; 16],
    /// The epoch of a spool that is made anew: random.
    pub epoch_if_new: [u8; 16],
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolEvent {
    /// A segment can be sent.
    Sealed(Sealed),
    /// A segment is gone: acknowledged, or it made room.
    Removed {
        /// Its class.
        class: Class,
        /// Its place.
        seq: u64,
    },
    /// The disk did not do something; the spool goes on as well as it can.
    Trouble(DiskError),
}

/// Numbers of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolNumbers {
    /// Starts of the program since the spool was made.
    pub boot: u64,
    /// Bytes of its files, by class.
    pub bytes: [u64; 3],
    /// What all of them together may be.
    pub bytes_max: u64,
    /// Segments that wait to be sent, by class.
    pub segments: [u64; 3],
    /// Records that became durable since start.
    pub records_durable: u64,
    /// Records that were lost since the spool was made.
    pub records_lost: u64,
    /// Syncs of data since start.
    pub commits: u64,
    /// The disk does not take records now.
    pub degraded: bool,
}

/// The core; see the module.
pub struct Spool<D: Disk> {
    disk: D,
    limits: SpoolLimits,
    appliance: [u8; 16],
    superblock: Superblock<D>,
    state: State,
    /// The state in memory is not the stored one.
    state_dirty: bool,
    /// A cut is not stored: until it is, what was written behind it may not be written again.
    cut_unstored: bool,
    ledger: Ledger,
    open: [Option<Open<D>>; 3],
    pending: [Pending; 3],
    index: [Index; 3],
    /// Segments that are complete but for a disk that did not do it.
    stuck: heapless::Vec<(Class, Open<D>), STUCK_MAX>,
    /// Where frames are encrypted.
    buffer: Box<[u8]>,
    keys: heapless::Vec<(SegmentKey, WrappedKey), KEYS_MAX>,
    events: heapless::Deque<SpoolEvent, EVENTS_MAX>,
    /// Until when the disk is left alone, and why.
    rests_until: Option<(Duration, DiskError)>,
    numbers: SpoolNumbers,
}

/// Keys in stock: one for each class, and one more for a segment that fails at once.
pub const KEYS_MAX: usize = 8;

/// Events of one call.
const EVENTS_MAX: usize = 64;

/// Segments that wait for a disk to work again.
const STUCK_MAX: usize = 8;

impl<D: Disk> Spool<D> {
    /// Bytes that a spool takes.
    pub fn bytes(limits: &SpoolLimits) -> u64 {
        let buffers = 3 * limits.pending_bytes + buffer_bytes(limits);
        buffers as u64 + Index::bytes(limits) + (64 << 10)
    }

    /// How many keys are wanted.
    pub fn keys_wanted(&self) -> usize {
        KEYS_MAX - self.keys.len()
    }

    /// A key for the next segment. More than are wanted are dropped.
    pub fn give_key(&mut self, key: SegmentKey, wrapped: WrappedKey) {
        let _ = self.keys.push((key, wrapped));
    }

    /// Whether records of so many bytes in all can be appended before a commit.
    pub fn has_room(&self, class: Class, record_bytes: usize) -> bool {
        self.pending[class.index()].has_room(record_bytes)
    }

    /// A record: `fill` writes its bytes. Panics without room, or if it is too long.
    pub fn append(
        &mut self,
        class: Class,
        record_bytes: usize,
        now: Now,
        fill: impl FnOnce(&mut [u8]),
    ) {
        assert!(record_bytes <= RECORD_BYTES_MAX, "a record has its bound");
        let record_seq = self.state.take_record_seqs(class, 1);
        self.pending[class.index()].push(record_seq, record_bytes, now.since_start, fill);
    }

    /// Records that never came this far, and why.
    pub fn append_lost(&mut self, class: Class, records: u64, bytes: u64, reason: GapReason) {
        if records == 0 {
            return;
        }
        let first = self.state.take_record_seqs(class, records);
        self.lost(class, first..=first + records - 1, records, bytes, reason);
    }

    /// When the records that wait must be committed.
    pub fn commit_due(&self) -> Option<Duration> {
        let oldest = self.pending.iter().filter_map(Pending::oldest).min()?;
        let due = oldest + self.limits.commit_after;
        Some(self.rests_until.map_or(due, |(until, _)| due.max(until)))
    }

    /// Makes everything that was appended durable, or counts it lost. While the disk rests, records stay as they are.
    pub fn commit(&mut self, now: Now) {
        for class in Class::ALL {
            self.commit_class(class, now);
        }
    }

    /// Seals what is old, tries again what failed, stores what is only in memory.
    pub fn handle_time(&mut self, now: Now) {
        if self.commit_due().is_some_and(|due| due <= now.since_start) {
            self.commit(now);
        }
        if self.rests(now) {
            return;
        }
        self.complete_stuck(now);
        for class in Class::ALL {
            let old = self.open[class.index()].as_ref().is_some_and(|open| {
                let age = now.since_start.saturating_sub(open.begun);
                open.frames > 0 && age >= self.limits.seal_after[class.index()]
            });
            // While others wait to be sent there is no hurry, and small files are a burden.
            if old && self.index[class.index()].is_empty() {
                self.seal(class, now);
            }
        }
        // Gaps that follow each other become one while they wait, and until P0 is sent nobody would hear of them.
        if self.index[0].is_empty() {
            self.tell_gaps(now);
        }
        if self.state_dirty {
            let _ = self.store_state(now);
        }
    }

    /// Seals all that is open: the box goes down, or somebody wants to see it now.
    pub fn seal_all(&mut self, now: Now) {
        self.commit(now);
        self.tell_gaps(now);
        for class in Class::ALL {
            if self.open[class.index()]
                .as_ref()
                .is_some_and(|open| open.frames > 0)
            {
                self.seal(class, now);
            }
        }
    }

    /// The factory has a segment: it goes, once it is certain that its numbers are not used again.
    pub fn handle_acked(&mut self, class: Class, seq: u64, now: Now) {
        if self.index[class.index()].find(seq).is_none() {
            return;
        }
        if self.store_state(now).is_ok() {
            self.remove_sealed(class, seq, now);
        }
    }

    /// The factory will never take a segment: its records are lost to it, and the file is kept for somebody to look at.
    pub fn handle_refused(&mut self, class: Class, seq: u64, now: Now) {
        let Some(sealed) = self.index[class.index()].find(seq) else {
            return;
        };
        let records = sealed.record_seq_first..=sealed.record_seq_last;
        let count = u64::from(sealed.records);
        self.lost(class, records, count, sealed.bytes, GapReason::Refused);
        if self.store_state(now).is_ok() {
            self.set_aside_sealed(sealed, now);
        }
    }

    /// Begins another epoch: another machine writes this one.
    pub fn begin_epoch(&mut self, epoch: [u8; 16], now: Now) {
        self.seal_all(now);
        self.state.epoch = epoch;
        // Keys are bound to their epoch.
        self.keys.clear();
        self.state_dirty = true;
        let _ = self.store_state(now);
    }

    /// Why records that found no room were lost.
    pub fn lost_reason(&self) -> GapReason {
        match self.rests_until {
            Some((_, DiskError::Full)) => GapReason::DiskFull,
            Some(_) => GapReason::DiskError,
            None => GapReason::Overrun,
        }
    }

    /// The epoch that is written.
    pub fn epoch(&self) -> [u8; 16] {
        self.state.epoch
    }

    /// Segments that can be sent, oldest first.
    pub fn sealed(&self, class: Class) -> impl Iterator<Item = Sealed> + '_ {
        self.index[class.index()].iter()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<SpoolEvent> {
        self.events.pop_front()
    }

    /// Numbers of the moment.
    pub fn numbers(&self) -> SpoolNumbers {
        let mut numbers = self.numbers;
        for class in Class::ALL {
            let index = class.index();
            numbers.bytes[index] = self.class_bytes(class);
            numbers.segments[index] = self.index[index].len() as u64;
        }
        numbers.bytes_max = self.limits.quotas.total;
        numbers.boot = self.state.boot;
        numbers.records_lost = self.state.records_lost;
        numbers.degraded = self.rests_until.is_some();
        numbers
    }

    /// Looks at the disk. For checkers.
    pub fn look<T>(&self, look: impl FnOnce(&D) -> T) -> T {
        look(&self.disk)
    }

    /// Changes the disk. For the fault injection of tests.
    pub fn mend(&mut self, mend: impl FnOnce(&mut D)) {
        mend(&mut self.disk);
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn lost(
        &mut self,
        class: Class,
        records: std::ops::RangeInclusive<u64>,
        count: u64,
        bytes: u64,
        reason: GapReason,
    ) {
        self.ledger.add(class, records, count, bytes, reason);
        self.state.records_lost += count;
        self.state_dirty = true;
    }

    /// Turns gaps into records of class P0.
    fn tell_gaps(&mut self, now: Now) {
        if self.ledger.is_empty() || self.rests(now) || self.ensure_open(Class::P0, now).is_err() {
            return;
        }
        // Those of this call only: what P0 itself loses here is told the next time.
        for _ in 0..self.ledger.len() {
            if !self.has_room(Class::P0, ledger::GAP_RECORD_BYTES_MAX) {
                break;
            }
            let Some(gap) = self.ledger.next_untold() else {
                break;
            };
            let mut record = [0; ledger::GAP_RECORD_BYTES_MAX];
            let id = self.state.gap_id();
            let length = ledger::encode(&id, &gap, self.state.boot, now, &mut record);
            let seq = self.state.take_record_seqs(Class::P0, 1);
            self.ledger.told(seq);
            self.pending[0].push(seq, length, now.since_start, |place| {
                place.copy_from_slice(&record[..length]);
            });
        }
        self.commit_class(Class::P0, now);
    }

    fn rests(&mut self, now: Now) -> bool {
        if self
            .rests_until
            .is_some_and(|(until, _)| until <= now.since_start)
        {
            self.rests_until = None;
        }
        self.rests_until.is_some()
    }

    /// The disk failed: it is left alone for a while.
    fn rest(&mut self, now: Now, error: DiskError) {
        self.rests_until = Some((now.since_start + self.limits.retry_after, error));
        self.tell(SpoolEvent::Trouble(error));
    }

    fn tell(&mut self, event: SpoolEvent) {
        // Troubles may repeat within a call; one of them says it.
        let full = self.events.push_back(event).is_err();
        let trouble = matches!(event, SpoolEvent::Trouble(_));
        assert!(!full || trouble, "the events of a call have a bound");
    }

    fn store_state(&mut self, now: Now) -> Result<(), DiskError> {
        let mut payload = [0; state::STATE_BYTES_MAX];
        let length = self.state.encode(&self.ledger, &mut payload);
        let stored = self.superblock.store(&mut self.disk, &payload[..length]);
        match stored {
            Ok(()) => {
                self.state_dirty = false;
                self.cut_unstored = false;
            }
            Err(error) => self.rest(now, error),
        }
        stored
    }
}

/// Bytes of the buffer: what waits is written in pieces of this size.
fn buffer_bytes(limits: &SpoolLimits) -> usize {
    limits.pending_bytes + frame_bytes(RECORD_BYTES_MAX)
}
