//! Records on their way into a segment, and the segment that is being written.

use std::time::Duration;

use outstation_wire::record::GapReason;
use outstation_wire::seal::SegmentKey;
use outstation_wire::segment::{
    Class, FOOTER_BYTES, FRAME_HEAD_BYTES, Footer, FrameHead, HEADER_BYTES, Header, TAG_BYTES,
    frame_bytes,
};

use super::{Now, Spool, SpoolEvent};
use crate::disk::{Disk, DiskError, Name};

/// A segment that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Its class.
    pub class: Class,
    /// Its place in its class.
    pub seq: u64,
    /// The epoch it belongs to.
    pub epoch: [u8; 16],
    /// Bytes of its file.
    pub bytes: u64,
    /// Records in it.
    pub records: u32,
    /// Number of the first.
    pub record_seq_first: u64,
    /// Number of the last.
    pub record_seq_last: u64,
}

/// File of a segment that can be sent.
pub fn sealed_name(class: Class, seq: u64) -> Name {
    name(class, seq, "seg")
}

/// File of a segment that is written.
pub(super) fn open_name(class: Class, seq: u64) -> Name {
    name(class, seq, "open")
}

/// File of a segment that nothing can be made of.
pub(super) fn bad_name(class: Class, seq: u64) -> Name {
    name(class, seq, "bad")
}

fn name(class: Class, seq: u64, kind: &str) -> Name {
    use std::fmt::Write as _;
    let mut name = Name::new();
    write!(name, "{}.{seq:020}.{kind}", class.name()).expect("it has room");
    name
}

/// Class, place and kind of a file of the spool.
pub(super) fn parse_name(name: &str) -> Option<(Class, u64, &str)> {
    let (class, rest) = name.split_once('.')?;
    let (seq, kind) = rest.split_once('.')?;
    let class = Class::ALL.into_iter().find(|known| known.name() == class)?;
    if seq.len() != 20 {
        return None;
    }
    Some((class, seq.parse().ok()?, kind))
}

/// A segment that is being written. Everything before `bytes` is durable.
pub(super) struct Open<D: Disk> {
    file: D::File,
    key: SegmentKey,
    checksum: u32,
    epoch: [u8; 16],
    seq: u64,
    bytes: u64,
    pub(super) frames: u32,
    record_seq_first: u64,
    record_seq_last: u64,
    digest: blake3::Hasher,
    /// When its first record became durable.
    pub(super) begun: Duration,
}

/// Records that wait for a commit, one behind the other: number, length, bytes.
pub(super) struct Pending {
    bytes: Box<[u8]>,
    used: usize,
    records: u64,
    oldest: Option<Duration>,
}

const PENDING_HEAD_BYTES: usize = 12;

impl Pending {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            used: 0,
            records: 0,
            oldest: None,
        }
    }

    pub(super) fn has_room(&self, record_bytes: usize) -> bool {
        self.bytes.len() - self.used >= PENDING_HEAD_BYTES + record_bytes
    }

    pub(super) fn oldest(&self) -> Option<Duration> {
        self.oldest
    }

    pub(super) fn push(
        &mut self,
        record_seq: u64,
        record_bytes: usize,
        now: Duration,
        fill: impl FnOnce(&mut [u8]),
    ) {
        assert!(self.has_room(record_bytes), "room was asked for");
        let place = &mut self.bytes[self.used..];
        let length = u32::try_from(record_bytes).expect("a record has its bound");
        place[..8].copy_from_slice(&record_seq.to_le_bytes());
        place[8..12].copy_from_slice(&length.to_le_bytes());
        fill(&mut place[PENDING_HEAD_BYTES..PENDING_HEAD_BYTES + record_bytes]);
        self.used += PENDING_HEAD_BYTES + record_bytes;
        self.records += 1;
        self.oldest.get_or_insert(now);
    }

    /// The record at an offset: its number and its bytes.
    fn at(&self, offset: usize) -> Option<(u64, &[u8])> {
        let rest = &self.bytes[offset..self.used];
        let record_seq = u64::from_le_bytes(*rest.first_chunk()?);
        let length = u32::from_le_bytes(*rest[8..].first_chunk()?) as usize;
        Some((
            record_seq,
            &rest[PENDING_HEAD_BYTES..PENDING_HEAD_BYTES + length],
        ))
    }

    /// Lets go of what was written, and keeps the rest.
    fn keep_from(&mut self, done: Written) {
        self.bytes.copy_within(done.upto..self.used, 0);
        self.used -= done.upto;
        self.records -= done.records;
    }

    fn clear(&mut self) {
        self.used = 0;
        self.records = 0;
        self.oldest = None;
    }
}

/// How far a write came.
#[derive(Clone, Copy)]
struct Written {
    /// Offset in the records that wait.
    upto: usize,
    records: u64,
}

/// Tries of a commit: the segment that is open, and a new one if that fails.
const TRIES: usize = 2;

impl<D: Disk> Spool<D> {
    /// Makes what waits in a class durable, or counts it lost.
    pub(super) fn commit_class(&mut self, class: Class, now: Now) {
        let mut done = Written {
            upto: 0,
            records: 0,
        };
        let mut failures = 0;
        while done.upto < self.pending[class.index()].used {
            if self.rests(now) {
                return self.pending[class.index()].keep_from(done);
            }
            if self.cut_unstored && self.store_state(now).is_err() {
                continue;
            }
            if self.state.is_full_of_cuts() {
                return self.drop_pending(class, done, GapReason::DiskError);
            }
            match self.ensure_open(class, now) {
                Ok(()) => {}
                Err(NoSegment::Rests) => continue,
                Err(NoSegment::Lost(reason)) => return self.drop_pending(class, done, reason),
            }
            match self.write_pending(class, done, now) {
                Ok(written) => {
                    self.numbers.records_durable += written.records - done.records;
                    done = written;
                }
                Err(error) => {
                    failures += 1;
                    self.abandon(class, error, now);
                    if failures == TRIES {
                        self.rest(now, error);
                    }
                }
            }
        }
        self.pending[class.index()].clear();
        if class == Class::P0 {
            let last = self.last_pending_seq(class);
            self.state_dirty |= self.ledger.durable(last);
        }
    }

    /// Number of the last record that waited.
    fn last_pending_seq(&self, class: Class) -> u64 {
        self.state.classes[class.index()].record_seq - 1
    }

    fn drop_pending(&mut self, class: Class, done: Written, reason: GapReason) {
        let pending = &self.pending[class.index()];
        let Some((first, _)) = pending.at(done.upto) else {
            return;
        };
        let (records, bytes) = (pending.records - done.records, pending.used - done.upto);
        let last = self.last_pending_seq(class);
        if class == Class::P0 {
            // Gaps among them are told again; those before them are durable.
            self.ledger.untold_from(first);
            self.state_dirty |= self.ledger.durable(first - 1);
        }
        self.lost(class, first..=last, records, bytes as u64, reason);
        self.pending[class.index()].clear();
    }

    /// Encrypts what waits from `done` on into the open segment, as much as fits, and syncs it.
    fn write_pending(
        &mut self,
        class: Class,
        done: Written,
        now: Now,
    ) -> Result<Written, DiskError> {
        let index = class.index();
        let room = self.limits.segment_bytes - FOOTER_BYTES as u64;
        let open = self.open[index].as_mut().expect("it was made sure of");
        let pending = &self.pending[index];
        let (mut end, mut used, mut last) = (done, 0, 0);
        while let Some((record_seq, record)) = pending.at(end.upto) {
            let frame = frame_bytes(record.len());
            let fits = open.bytes + (used + frame) as u64 <= room;
            if !fits || used + frame > self.buffer.len() {
                break;
            }
            let place = &mut self.buffer[used..used + frame];
            let sealed = FRAME_HEAD_BYTES + record.len() + TAG_BYTES;
            let (head_place, ciphertext) = place[..sealed].split_at_mut(FRAME_HEAD_BYTES);
            ciphertext[..record.len()].copy_from_slice(record);
            let head = FrameHead {
                ciphertext_bytes: u32::try_from(ciphertext.len()).expect("a record is short"),
                record_seq,
            };
            open.key.seal(&head, ciphertext);
            head_place.copy_from_slice(&head.encode(open.checksum, ciphertext));
            place[sealed..].fill(0);
            if open.frames == 0 && end.upto == done.upto {
                open.record_seq_first = record_seq;
            }
            last = record_seq;
            used += frame;
            end = Written {
                upto: end.upto + PENDING_HEAD_BYTES + record.len(),
                records: end.records + 1,
            };
        }
        if end.upto == done.upto {
            // The next record needs a segment of its own.
            assert!(open.frames > 0, "a record fits an empty segment");
            self.seal(class, now);
            return Ok(done);
        }
        let bytes = &self.buffer[..used];
        self.disk.write(&open.file, open.bytes, bytes)?;
        self.disk.sync(&open.file)?;
        self.numbers.commits += 1;
        if open.frames == 0 {
            open.begun = now.since_start;
        }
        open.digest.update(bytes);
        open.bytes += used as u64;
        open.frames += u32::try_from(end.records - done.records).expect("a segment is short");
        open.record_seq_last = last;
        Ok(end)
    }

    /// A segment to write into, or why there is none.
    pub(super) fn ensure_open(&mut self, class: Class, now: Now) -> Result<(), NoSegment> {
        if self.open[class.index()].is_some() {
            return Ok(());
        }
        if self.keys.is_empty() {
            return Err(NoSegment::Lost(GapReason::Overrun));
        }
        if !self.make_room(class, now) {
            let lost = NoSegment::Lost(GapReason::Quota);
            return Err(if self.rests(now) {
                NoSegment::Rests
            } else {
                lost
            });
        }
        let made = match self.create(class, now) {
            // Others fill the disk: what is worth less makes room.
            Err(DiskError::Full) if self.evict_for(class, now) => self.create(class, now),
            made => made,
        };
        made.map_err(|error| {
            self.rest(now, error);
            NoSegment::Rests
        })
    }

    fn create(&mut self, class: Class, now: Now) -> Result<(), DiskError> {
        let seq = self.state.take_segment_seq(class);
        let name = open_name(class, seq);
        let file = self.disk.create(&name, self.limits.segment_bytes)?;
        let (key, wrapped) = self.keys.pop().expect("there is one");
        let header = Header {
            appliance: self.appliance,
            epoch: self.state.epoch,
            class,
            seq,
            record_seq: self.pending[class.index()]
                .at(0)
                .map_or(0, |(record_seq, _)| record_seq),
            boot: self.state.boot,
            created_unix_ms: now.unix_ms,
            key: wrapped,
        };
        let bytes = header.encode();
        let disk = &mut self.disk;
        let written = disk
            .write(&file, 0, &bytes)
            .and_then(|()| disk.sync(&file))
            .and_then(|()| disk.sync_folder());
        if let Err(error) = written {
            // Nothing in it was promised to anybody.
            let _ = disk.remove(&name);
            return Err(error);
        }
        let mut digest = blake3::Hasher::new();
        digest.update(&bytes);
        self.open[class.index()] = Some(Open {
            file,
            key,
            checksum: header.checksum(),
            epoch: header.epoch,
            seq,
            bytes: HEADER_BYTES as u64,
            frames: 0,
            record_seq_first: 0,
            record_seq_last: 0,
            digest,
            begun: now.since_start,
        });
        Ok(())
    }

    /// Completes the open segment, so that it can be sent.
    pub(super) fn seal(&mut self, class: Class, now: Now) {
        let Some(open) = self.open[class.index()].take() else {
            return;
        };
        match self.complete(class, &open) {
            Ok(sealed) => self.sealed_now(sealed),
            Err(error) => {
                self.set_stuck(class, open);
                self.rest(now, error);
            }
        }
    }

    /// Its file stays as it is until the disk works again, or the next start.
    fn set_stuck(&mut self, class: Class, open: Open<D>) {
        if self.stuck.push((class, open)).is_err() {
            self.index[class.index()].left(self.limits.segment_bytes);
        }
    }

    /// Tries again to complete what could not be.
    pub(super) fn complete_stuck(&mut self, now: Now) {
        for _ in 0..self.stuck.len() {
            let Some((class, open)) = self.stuck.pop() else {
                return;
            };
            if open.frames == 0 {
                match self.disk.remove(&open_name(class, open.seq)) {
                    Ok(()) | Err(DiskError::Missing) => self.state.uncut(class, open.seq),
                    Err(error) => {
                        self.set_stuck(class, open);
                        return self.rest(now, error);
                    }
                }
                continue;
            }
            // Through another handle: after a failed sync the old one proves nothing. Only the last step may have
            // failed, after the file got its name.
            let names = [open_name(class, open.seq), sealed_name(class, open.seq)];
            let file = self
                .disk
                .open(&names[0])
                .or_else(|_| self.disk.open(&names[1]));
            let open = match file {
                Ok(file) => Open { file, ..open },
                Err(error) => {
                    self.set_stuck(class, open);
                    return self.rest(now, error);
                }
            };
            match self.complete(class, &open) {
                Ok(sealed) => {
                    self.state.uncut(class, open.seq);
                    self.sealed_now(sealed);
                }
                Err(error) => {
                    self.set_stuck(class, open);
                    return self.rest(now, error);
                }
            }
        }
    }

    fn complete(&mut self, class: Class, open: &Open<D>) -> Result<Sealed, DiskError> {
        let footer = Footer {
            frames: open.frames,
            record_seq_first: open.record_seq_first,
            record_seq_last: open.record_seq_last,
            bytes: open.bytes,
            digest: *open.digest.finalize().as_bytes(),
        };
        let bytes = open.bytes + FOOTER_BYTES as u64;
        let footer = footer.encode(open.checksum);
        self.disk.write(&open.file, open.bytes, &footer)?;
        self.disk.cut(&open.file, bytes)?;
        self.disk.sync(&open.file)?;
        let names = [open_name(class, open.seq), sealed_name(class, open.seq)];
        match self.disk.rename(&names[0], &names[1]) {
            Ok(()) | Err(DiskError::Missing) => {}
            Err(error) => return Err(error),
        }
        self.disk.sync_folder()?;
        Ok(Sealed {
            class,
            seq: open.seq,
            epoch: open.epoch,
            bytes,
            records: open.frames,
            record_seq_first: open.record_seq_first,
            record_seq_last: open.record_seq_last,
        })
    }

    pub(super) fn sealed_now(&mut self, sealed: Sealed) {
        self.index[sealed.class.index()].push(sealed);
        self.tell(SpoolEvent::Sealed(sealed));
    }

    /// A write or sync of the open segment failed. What it holds from before is durable; what was written last may or
    /// may not be, and goes into another segment: so it must not count in this one, and that is made certain first.
    fn abandon(&mut self, class: Class, error: DiskError, now: Now) {
        self.tell(SpoolEvent::Trouble(error));
        let open = self.open[class.index()].take().expect("it failed");
        self.state.cut(class, open.seq, open.bytes);
        self.cut_unstored = true;
        self.set_stuck(class, open);
        if self.store_state(now).is_err() {
            return self.rest(now, error);
        }
        self.complete_stuck(now);
    }
}

/// Why there is no segment to write into.
pub(super) enum NoSegment {
    /// The disk rests: records can wait.
    Rests,
    /// Records are lost.
    Lost(GapReason),
}
