//! The start of a spool, whatever the last end was like.
//!
//! Every step can be cut off and done again: a file is completed, synced, and only then renamed.

use outstation_wire::record::GapReason;
use outstation_wire::segment::{
    Class, FOOTER_BYTES, Footer, Found, Frames, HEADER_BYTES, Header, SegmentError,
};

use super::ledger::Ledger;
use super::quota::Index;
use super::segment::{Pending, Sealed, bad_name, open_name, parse_name, sealed_name};
use super::state::{self, State};
use super::{Identity, Now, Spool, SpoolLimits, SpoolNumbers, buffer_bytes};
use crate::disk::{Disk, DiskError, Name};
use crate::superblock::{Superblock, SuperblockError};

/// Why the spool cannot be used. Serving goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its state cannot.
    #[error("the spool cannot be opened: {0}")]
    State(#[from] SuperblockError),
    /// Its folder cannot.
    #[error("the spool cannot be opened: {0}")]
    Disk(#[from] DiskError),
}

/// A file that recovery looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    class: Class,
    seq: u64,
    kind: Kind,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Sealed,
    Open,
    Bad,
}

/// What became of a file that was open.
enum Outcome {
    /// It can be sent.
    Sealed(Sealed),
    /// It held nothing.
    Removed,
    /// It stays as it is.
    Left,
}

impl<D: Disk> Spool<D> {
    /// Opens the spool in a folder, or makes one. After an error the disk comes back, for another try later.
    pub fn open(
        mut disk: D,
        limits: SpoolLimits,
        identity: Identity,
        now: Now,
    ) -> Result<Self, (D, OpenError)> {
        match prepare(&mut disk, &limits, identity) {
            Ok(parts) => {
                let mut spool = parts.assemble(disk, limits, identity);
                spool.state.boot += 1;
                spool.state_dirty = true;
                match spool.recover(now) {
                    Ok(()) => Ok(spool),
                    Err(error) => Err((spool.disk, error.into())),
                }
            }
            Err(error) => Err((disk, error)),
        }
    }

    fn recover(&mut self, now: Now) -> Result<(), DiskError> {
        let mut files = Vec::new();
        self.disk.list(&mut |name, bytes| {
            if let Some((class, seq, kind)) = parse_name(name) {
                let kind = match kind {
                    "seg" => Kind::Sealed,
                    "open" => Kind::Open,
                    "bad" => Kind::Bad,
                    _ => return,
                };
                files.push(File {
                    class,
                    seq,
                    kind,
                    bytes,
                });
            }
        })?;
        files.sort_unstable();
        for class in Class::ALL {
            let count = files.iter().filter(|file| file.class == class).count();
            self.index[class.index()] = Index::new(&self.limits, count);
        }
        for file in &files {
            self.state.seen(file.class, file.seq, 0);
            match file.kind {
                Kind::Sealed => self.meet_sealed(file)?,
                Kind::Open => self.meet_open(file)?,
                Kind::Bad => self.index[file.class.index()].left(file.bytes),
            }
        }
        // The number of this start is known before anything of it is written.
        self.store_state(now)
    }

    /// A sealed segment is believed; its reader checks every byte.
    fn meet_sealed(&mut self, file: &File) -> Result<(), DiskError> {
        let name = sealed_name(file.class, file.seq);
        let handle = self.disk.open(&name)?;
        let mut head = [0; HEADER_BYTES];
        self.disk.read(&handle, 0, &mut head)?;
        let mut foot = [0; FOOTER_BYTES];
        let before = file.bytes.saturating_sub(FOOTER_BYTES as u64);
        self.disk.read(&handle, before, &mut foot)?;
        let footer = Header::decode(&head).map(|header| (header, Footer::read(&foot, &header)));
        match footer {
            Ok((header, Some(footer))) if footer.bytes == before => {
                self.state
                    .seen(file.class, file.seq, footer.record_seq_last);
                self.index[file.class.index()].push(Sealed {
                    class: file.class,
                    seq: file.seq,
                    epoch: header.epoch,
                    bytes: file.bytes,
                    records: footer.frames,
                    record_seq_first: footer.record_seq_first,
                    record_seq_last: footer.record_seq_last,
                });
                Ok(())
            }
            // From a later version: not ours to touch.
            Err(SegmentError::Version { .. }) => {
                self.index[file.class.index()].left(file.bytes);
                Ok(())
            }
            // Damaged since: what is whole in it is saved like after a cut.
            _ => {
                self.disk.rename(&name, &open_name(file.class, file.seq))?;
                self.disk.sync_folder()?;
                self.meet_open(file)
            }
        }
    }

    fn meet_open(&mut self, file: &File) -> Result<(), DiskError> {
        match self.complete_left(file)? {
            Outcome::Sealed(sealed) => self.index[file.class.index()].push(sealed),
            Outcome::Removed => {}
            Outcome::Left => self.index[file.class.index()].left(file.bytes),
        }
        self.state.uncut(file.class, file.seq);
        Ok(())
    }

    /// Completes a segment that was left open: up to its last whole frame that counts.
    fn complete_left(&mut self, file: &File) -> Result<Outcome, DiskError> {
        let (class, seq) = (file.class, file.seq);
        let name = open_name(class, seq);
        let handle = self.disk.open(&name)?;
        let length = usize::try_from(file.bytes).expect("an address has 64 bits");
        let mut buffer = vec![0; length];
        let read = self.disk.read(&handle, 0, &mut buffer)?;
        let bytes = &buffer[..read];
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(SegmentError::Version { .. }) => return Ok(Outcome::Left),
            Err(_) => return self.set_aside(file, bytes.iter().any(|&byte| byte != 0)),
        };
        let counts = self.state.counts(class, seq).unwrap_or(u64::MAX);
        let counts = usize::try_from(counts).unwrap_or(usize::MAX);
        let bytes = &bytes[..read.min(counts)];
        let left = Left::read(bytes, &header);
        self.state.seen(class, seq, left.last);
        if left.frames == 0 {
            self.disk.remove(&name)?;
            return Ok(Outcome::Removed);
        }
        let footer = Footer {
            frames: left.frames,
            record_seq_first: left.first,
            record_seq_last: left.last,
            bytes: left.end as u64,
            digest: *blake3::hash(&bytes[..left.end]).as_bytes(),
        };
        let length = left.end as u64 + FOOTER_BYTES as u64;
        let footer = footer.encode(header.checksum());
        self.disk.write(&handle, left.end as u64, &footer)?;
        self.disk.cut(&handle, length)?;
        self.disk.sync(&handle)?;
        self.disk.rename(&name, &sealed_name(class, seq))?;
        self.disk.sync_folder()?;
        // Numbers are also missing where records were lost before they came here, and gaps say that.
        if left.damaged > 0 {
            let records = left.first..=left.last;
            self.lost(
                class,
                records,
                left.missing,
                left.damaged,
                GapReason::Damaged,
            );
        }
        Ok(Outcome::Sealed(Sealed {
            class,
            seq,
            epoch: header.epoch,
            bytes: length,
            records: left.frames,
            record_seq_first: left.first,
            record_seq_last: left.last,
        }))
    }

    /// A file without a header: nothing was promised of it if it was never completed, but somebody may want to look.
    fn set_aside(&mut self, file: &File, has_bytes: bool) -> Result<Outcome, DiskError> {
        let name = open_name(file.class, file.seq);
        if !has_bytes {
            self.disk.remove(&name)?;
            return Ok(Outcome::Removed);
        }
        let bad: Name = bad_name(file.class, file.seq);
        self.disk.rename(&name, &bad)?;
        self.disk.sync_folder()?;
        self.lost(file.class, 0..=0, 0, file.bytes, GapReason::Damaged);
        Ok(Outcome::Left)
    }
}

/// What a file that was left open holds.
#[derive(Default)]
struct Left {
    frames: u32,
    first: u64,
    last: u64,
    /// Where its last whole frame ends.
    end: usize,
    /// Numbers between its frames that are missing, and the bytes there.
    missing: u64,
    damaged: u64,
}

impl Left {
    fn read(bytes: &[u8], header: &Header) -> Self {
        let mut left = Self::default();
        for found in Frames::new(bytes, header) {
            match found {
                Found::Frame { head, range, .. } => {
                    if left.frames == 0 {
                        left.first = head.record_seq;
                    } else {
                        left.missing += head.record_seq.saturating_sub(left.last + 1);
                    }
                    left.frames += 1;
                    left.last = head.record_seq;
                    left.end = range.end;
                }
                Found::Damage(range) => left.damaged += range.len() as u64,
                Found::Footer(_) | Found::Tail(_) => break,
            }
        }
        left
    }
}

/// What is known before the disk is taken.
struct Parts<D: Disk> {
    superblock: Superblock<D>,
    state: State,
    ledger: Ledger,
}

fn prepare<D: Disk>(
    disk: &mut D,
    limits: &SpoolLimits,
    identity: Identity,
) -> Result<Parts<D>, OpenError> {
    assert!(
        limits.segment_bytes <= outstation_wire::segment::SEGMENT_BYTES_MAX,
        "both ends hold a segment in memory"
    );
    let (superblock, found) = Superblock::open(disk, state::LAYOUT)?;
    // Without a state numbers may have been used before: another epoch makes them new.
    let stored = found.payload.as_deref().and_then(State::decode);
    let (state, ledger) =
        stored.unwrap_or_else(|| (State::new(identity.epoch_if_new), Ledger::default()));
    Ok(Parts {
        superblock,
        state,
        ledger,
    })
}

impl<D: Disk> Parts<D> {
    fn assemble(self, disk: D, limits: SpoolLimits, identity: Identity) -> Spool<D> {
        Spool {
            disk,
            appliance: identity.appliance,
            superblock: self.superblock,
            state: self.state,
            state_dirty: false,
            cut_unstored: false,
            ledger: self.ledger,
            open: [None, None, None],
            pending: std::array::from_fn(|_| Pending::new(limits.pending_bytes)),
            index: std::array::from_fn(|_| Index::new(&limits, 0)),
            stuck: heapless::Vec::new(),
            buffer: vec![0; buffer_bytes(&limits)].into_boxed_slice(),
            keys: heapless::Vec::new(),
            events: heapless::Deque::new(),
            rests_until: None,
            numbers: SpoolNumbers::default(),
            limits,
        }
    }
}
