//! Gaps: what was lost and the factory does not know yet.

use std::ops::RangeInclusive;

use outstation_wire::record::{Gap as GapMessage, GapReason, Time};
use outstation_wire::segment::Class;

use super::Now;

/// Gaps at once. Losses of one class and reason that follow each other are one gap.
pub(super) const GAPS_MAX: usize = 64;

/// Bytes of an encoded record of a gap.
pub(super) const GAP_RECORD_BYTES_MAX: usize = 160;

/// Lost records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) class: Class,
    reason: GapReason,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Number of the record that tells it, once it is on its way.
    told: Option<u64>,
}

impl Gap {
    pub(super) fn reason_number(&self) -> u8 {
        u8::try_from(i32::from(self.reason)).expect("reasons are few")
    }
}

/// The gaps, until the records that tell them are durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    gaps: heapless::Vec<Gap, GAPS_MAX>,
}

impl Ledger {
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.gaps.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter()
    }

    pub(super) fn add(
        &mut self,
        class: Class,
        records: RangeInclusive<u64>,
        count: u64,
        bytes: u64,
        reason: GapReason,
    ) {
        let (first, last) = records.into_inner();
        let full = self.gaps.is_full();
        let alike = |gap: &&mut Gap| gap.class == class && gap.told.is_none();
        // When there is no room for another, the one of this class grows over what lies between, whatever its reason:
        // `records` still says how many are missing.
        let joins = |gap: &&mut Gap| full || (gap.reason == reason && gap.last + 1 == first);
        if let Some(gap) = self.gaps.iter_mut().filter(alike).find(joins) {
            gap.first = gap.first.min(first);
            gap.last = gap.last.max(last);
            gap.records += count;
            gap.bytes += bytes;
            return;
        }
        let gap = Gap {
            class,
            reason,
            first,
            last,
            records: count,
            bytes,
            told: None,
        };
        if let Err(gap) = self.gaps.push(gap) {
            // Every gap is of other classes, or on its way: one of those says it.
            let place = self
                .gaps
                .iter_mut()
                .rev()
                .find(|other| other.class == class);
            if let Some(place) = place {
                *place = Gap {
                    first: place.first.min(gap.first),
                    last: place.last.max(gap.last),
                    records: place.records + gap.records,
                    bytes: place.bytes + gap.bytes,
                    told: None,
                    ..*place
                };
            }
        }
    }

    pub(super) fn restore(
        &mut self,
        class: Class,
        reason: u8,
        records: RangeInclusive<u64>,
        count: u64,
        bytes: u64,
    ) -> Option<()> {
        let reason = GapReason::try_from(i32::from(reason)).unwrap_or(GapReason::Unknown);
        let (first, last) = records.into_inner();
        let gap = Gap {
            class,
            reason,
            first,
            last,
            records: count,
            bytes,
            told: None,
        };
        self.gaps.push(gap).ok()
    }

    /// The next gap that is not on its way.
    pub(super) fn next_untold(&self) -> Option<Gap> {
        self.gaps.iter().find(|gap| gap.told.is_none()).copied()
    }

    /// That gap is told by this record.
    pub(super) fn told(&mut self, record_seq: u64) {
        if let Some(gap) = self.gaps.iter_mut().find(|gap| gap.told.is_none()) {
            gap.told = Some(record_seq);
        }
    }

    /// Records from here on were lost: what they told is told again.
    pub(super) fn untold_from(&mut self, record_seq: u64) {
        for gap in &mut self.gaps {
            if gap.told.is_some_and(|told| told >= record_seq) {
                gap.told = None;
            }
        }
    }

    /// Records of P0 up to here are durable: what they told is known. Says whether that changed something.
    pub(super) fn durable(&mut self, record_seq: u64) -> bool {
        let before = self.gaps.len();
        self.gaps
            .retain(|gap| gap.told.is_none_or(|told| told > record_seq));
        self.gaps.len() < before
    }
}

/// Writes the record of a gap, and says how long it is. By hand, since the derived message of a whole record has a
/// vector, and who calls this may not use the heap.
pub(super) fn encode(
    id: &[u8; 16],
    gap: &Gap,
    boot: u64,
    now: Now,
    place: &mut [u8; GAP_RECORD_BYTES_MAX],
) -> usize {
    let time = Time {
        unix_ms: now.unix_ms,
        unix_untrusted: now.unix_untrusted,
        boot,
        since_boot_ms: u64::try_from(now.since_start.as_millis()).unwrap_or(u64::MAX),
    };
    let message = GapMessage {
        class: gap.class.number().into(),
        record_seq_first: gap.first,
        record_seq_last: gap.last,
        records: gap.records,
        bytes: gap.bytes,
        reason: gap.reason.into(),
    };
    let short = |length: usize| u8::try_from(length).expect("below 128");
    let mut at = 0;
    for byte in [FIELD_ID, 16].into_iter().chain(*id) {
        place[at] = byte;
        at += 1;
    }
    for (field, message) in [
        (FIELD_TIME, &time as &dyn Encode),
        (FIELD_GAP, &message as &dyn Encode),
    ] {
        let length = message.length();
        place[at..at + 2].copy_from_slice(&[field, short(length)]);
        message.write(&mut place[at + 2..]);
        at += 2 + length;
    }
    at
}

/// A message of no vectors.
trait Encode {
    fn length(&self) -> usize;
    fn write(&self, place: &mut [u8]);
}

impl<M: prost::Message> Encode for M {
    fn length(&self) -> usize {
        self.encoded_len()
    }

    fn write(&self, mut place: &mut [u8]) {
        self.encode(&mut place).expect("it has room");
    }
}

/// Field number and wire type 2 (length-delimited) of `record::Record`.
const FIELD_ID: u8 = 1 << 3 | 2;
const FIELD_TIME: u8 = 2 << 3 | 2;
const FIELD_GAP: u8 = 5 << 3 | 2;
