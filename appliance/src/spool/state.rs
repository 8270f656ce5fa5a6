//! What the spool must know after a power cut and cannot read from its segments.
//!
//! ```text
//! 0   16  epoch                 16  8  boot            24  8  records lost
//! 32  3 × 16  next segment, next record of each class
//! 80  2  n cuts, each: 1 class, 8 segment, 8 bytes that count
//! ..  2  n gaps, each: 1 class, 1 reason, 8 first, 8 last, 8 records, 8 bytes
//! ```

use outstation_wire::segment::Class;

use super::ledger::{GAPS_MAX, Ledger};
use crate::superblock::Layout;

/// The superblock.
pub(super) const LAYOUT: Layout = Layout {
    names: ["spool.a", "spool.b"],
    kind: 1,
    version: 1,
    bytes: 4096,
};

/// Bytes of a payload.
pub(super) const STATE_BYTES_MAX: usize = 80 + 2 + CUTS_MAX * 17 + 2 + GAPS_MAX * 34;
const _: () = assert!(STATE_BYTES_MAX <= LAYOUT.payload_bytes_max());

/// Segments of which only a part counts, at once. More, and the disk is beyond help.
const CUTS_MAX: usize = 16;

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) epoch: [u8; 16],
    pub(super) boot: u64,
    pub(super) records_lost: u64,
    pub(super) classes: [Numbers; 3],
    cuts: heapless::Vec<Cut, CUTS_MAX>,
}

/// Numbers that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) segment: u64,
    pub(super) record_seq: u64,
}

/// A segment of which only the beginning counts: what follows was written again elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    class: Class,
    seq: u64,
    bytes: u64,
}

impl State {
    pub(super) fn new(epoch: [u8; 16]) -> Self {
        Self {
            epoch,
            boot: 0,
            records_lost: 0,
            classes: [Numbers {
                segment: 1,
                record_seq: 1,
            }; 3],
            cuts: heapless::Vec::new(),
        }
    }

    pub(super) fn take_record_seqs(&mut self, class: Class, count: u64) -> u64 {
        let next = &mut self.classes[class.index()].record_seq;
        let first = *next;
        *next += count;
        first
    }

    pub(super) fn take_segment_seq(&mut self, class: Class) -> u64 {
        let next = &mut self.classes[class.index()].segment;
        *next += 1;
        *next - 1
    }

    /// Numbers that were seen are not used again.
    pub(super) fn seen(&mut self, class: Class, segment: u64, record_seq: u64) {
        let next = &mut self.classes[class.index()];
        next.segment = next.segment.max(segment + 1);
        next.record_seq = next.record_seq.max(record_seq + 1);
    }

    /// Name of the next gap's record: nobody else has this epoch, and no other record this number.
    pub(super) fn gap_id(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.epoch);
        hasher.update(&self.classes[0].record_seq.to_le_bytes());
        *hasher
            .finalize()
            .as_bytes()
            .first_chunk()
            .expect("a digest has 32 bytes")
    }

    /// Panics when it is full of cuts.
    pub(super) fn cut(&mut self, class: Class, seq: u64, bytes: u64) {
        let cut = self.cuts.push(Cut { class, seq, bytes });
        assert!(
            cut.is_ok(),
            "nothing is written while there is no room for a cut"
        );
    }

    /// Whether another cut could not be remembered.
    pub(super) fn is_full_of_cuts(&self) -> bool {
        self.cuts.is_full()
    }

    pub(super) fn uncut(&mut self, class: Class, seq: u64) {
        self.cuts.retain(|cut| (cut.class, cut.seq) != (class, seq));
    }

    /// Bytes of a segment that count, if not all do.
    pub(super) fn counts(&self, class: Class, seq: u64) -> Option<u64> {
        let cut = self
            .cuts
            .iter()
            .find(|cut| (cut.class, cut.seq) == (class, seq))?;
        Some(cut.bytes)
    }

    pub(super) fn encode(&self, ledger: &Ledger, bytes: &mut [u8; STATE_BYTES_MAX]) -> usize {
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.epoch);
        put(&self.boot.to_le_bytes());
        put(&self.records_lost.to_le_bytes());
        for numbers in &self.classes {
            put(&numbers.segment.to_le_bytes());
            put(&numbers.record_seq.to_le_bytes());
        }
        put(&length(self.cuts.len()));
        for cut in &self.cuts {
            put(&[cut.class.number()]);
            put(&cut.seq.to_le_bytes());
            put(&cut.bytes.to_le_bytes());
        }
        put(&length(ledger.len()));
        for gap in ledger.iter() {
            put(&[gap.class.number(), gap.reason_number()]);
            for number in [gap.first, gap.last, gap.records, gap.bytes] {
                put(&number.to_le_bytes());
            }
        }
        at
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<(Self, Ledger)> {
        let bytes = &mut bytes;
        let mut state = Self::new(take(bytes)?);
        state.boot = number(bytes)?;
        state.records_lost = number(bytes)?;
        for class in &mut state.classes {
            class.segment = number(bytes)?;
            class.record_seq = number(bytes)?;
        }
        for _ in 0..u16::from_le_bytes(take(bytes)?) {
            let cut = Cut {
                class: class(bytes)?,
                seq: number(bytes)?,
                bytes: number(bytes)?,
            };
            state.cuts.push(cut).ok()?;
        }
        let mut ledger = Ledger::default();
        for _ in 0..u16::from_le_bytes(take(bytes)?) {
            let class = class(bytes)?;
            let [reason] = take(bytes)?;
            let (first, last) = (number(bytes)?, number(bytes)?);
            ledger.restore(class, reason, first..=last, number(bytes)?, number(bytes)?)?;
        }
        bytes.is_empty().then_some((state, ledger))
    }
}

fn length(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("lists are short").to_le_bytes()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn class(bytes: &mut &[u8]) -> Option<Class> {
    let [number] = take(bytes)?;
    Class::from_number(number.into())
}
