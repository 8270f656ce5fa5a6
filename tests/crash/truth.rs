//! What was said to the spool, what came out of it, and whether the two agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outstation::spool::{Sealed, sealed_name};
use outstation_wire::record::{Body, Record};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::{Class, Found, Frames, Header};
use prost::Message as _;

use crate::disk::SimDisk;

/// A record's place: epoch, class, number.
type Place = ([u8; 16], Class, u64);

/// The oracle: a factory that remembers everything.
#[derive(Clone)]
pub(crate) struct Truth {
    key: Arc<FactoryKey>,
    /// Records whose commit returned.
    acknowledged: BTreeSet<u64>,
    /// Every record that was appended.
    issued: u64,
    /// What arrived: which record, at which place.
    arrived: BTreeMap<u64, Place>,
    places: BTreeMap<Place, u64>,
    gaps: Vec<(Class, u64, u64, u64)>,
    /// Digests of segments: a second delivery must be the same.
    segments: BTreeMap<([u8; 16], Class, u64), blake3::Hash>,
    /// Order of arrival within a class.
    last_seq: [u64; 3],
    /// Segments that came before an older one of their class.
    pub(crate) out_of_order: u64,
}

/// A record that says no more than its number.
pub(crate) fn record(number: u64, padding: usize) -> Vec<u8> {
    let mut id = vec![0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let event = outstation_wire::record::Event {
        name: "x".repeat(padding),
        attributes: String::new(),
    };
    let record = Record {
        id,
        time: None,
        body: Some(Body::Event(event)),
    };
    record.encode_to_vec()
}

impl Truth {
    pub(crate) fn new(key: FactoryKey) -> Self {
        Self {
            key: Arc::new(key),
            acknowledged: BTreeSet::new(),
            issued: 0,
            arrived: BTreeMap::new(),
            places: BTreeMap::new(),
            gaps: Vec::new(),
            segments: BTreeMap::new(),
            last_seq: [0; 3],
            out_of_order: 0,
        }
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.key.public()
    }

    /// The number of a new record.
    pub(crate) fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    pub(crate) fn arrived(&self) -> usize {
        self.arrived.len()
    }

    /// The commit of everything up to here returned.
    pub(crate) fn acknowledge(&mut self, records: impl IntoIterator<Item = u64>) {
        self.acknowledged.extend(records);
    }

    /// A segment is sent.
    pub(crate) fn deliver(&mut self, disk: &SimDisk, sealed: Sealed) {
        let name = sealed_name(sealed.class, sealed.seq);
        let bytes = disk.bytes(&name).expect("what is sealed is there");
        assert_eq!(
            bytes.len() as u64,
            sealed.bytes,
            "{name} has the length that is said"
        );
        let header = Header::decode(bytes).expect("a sealed segment has a header");
        assert_eq!((header.class, header.seq), (sealed.class, sealed.seq));
        assert_eq!(header.epoch, sealed.epoch);
        let digest = blake3::hash(bytes);
        let id = (header.epoch, header.class, header.seq);
        if let Some(before) = self.segments.insert(id, digest) {
            assert_eq!(before, digest, "a segment that is sent again is the same");
            return;
        }
        let last = &mut self.last_seq[sealed.class.index()];
        self.out_of_order += u64::from(sealed.seq < *last);
        *last = sealed.seq.max(*last);
        let key = self
            .key
            .unwrap(&header.key, &header.appliance, &header.epoch);
        let key = key.expect("it was wrapped for this factory");
        let mut frames = 0;
        for found in Frames::new(bytes, &header) {
            match found {
                Found::Frame {
                    head, ciphertext, ..
                } => {
                    frames += 1;
                    let mut plain = ciphertext.to_vec();
                    let plain = key.open(&head, &mut plain).expect("a whole frame decrypts");
                    let record = Record::decode(plain).expect("a record decodes");
                    self.arrive((header.epoch, header.class, head.record_seq), &record);
                }
                Found::Footer(footer) => {
                    assert_eq!(footer.frames, frames, "the footer counts");
                    assert_eq!(footer.frames, sealed.records);
                }
                Found::Damage(_) => {}
                Found::Tail(range) => panic!("{name} has a tail of {} bytes", range.len()),
            }
        }
    }

    fn arrive(&mut self, place: Place, record: &Record) {
        match record.body.as_ref().expect("a record has a body") {
            Body::Gap(gap) => {
                let class = Class::from_number(gap.class.into()).expect("a gap has a class");
                let range = (gap.record_seq_first, gap.record_seq_last);
                self.gaps.push((class, range.0, range.1, gap.records));
                assert!(self.places.insert(place, 0).is_none(), "{place:?} twice");
            }
            Body::Event(_) => {
                let number = u64::from_le_bytes(*record.id.first_chunk().expect("16 bytes"));
                assert!(number <= self.issued, "record {number} was never made");
                let before = self.arrived.insert(number, place);
                assert!(
                    before.is_none(),
                    "record {number} at {place:?} and {before:?}"
                );
                let other = self.places.insert(place, number);
                assert!(other.is_none(), "{place:?} is {number} and {other:?}");
            }
            other => panic!("nobody wrote {other:?}"),
        }
    }

    /// No record whose commit returned is missing.
    pub(crate) fn check_nothing_acknowledged_is_lost(&self) {
        let lost: Vec<_> = self
            .acknowledged
            .iter()
            .filter(|number| !self.arrived.contains_key(number))
            .collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    /// Every number of an epoch that was used arrived, or a gap says that it will not.
    pub(crate) fn check_nothing_is_silent(&self) {
        let mut upto: BTreeMap<([u8; 16], Class), u64> = BTreeMap::new();
        for &(epoch, class, seq) in self.places.keys() {
            let last = upto.entry((epoch, class)).or_default();
            *last = seq.max(*last);
        }
        for ((epoch, class), last) in upto {
            for seq in 1..=last {
                let arrived = self.places.contains_key(&(epoch, class, seq));
                let told = self
                    .gaps
                    .iter()
                    .any(|gap| gap.0 == class && (gap.1..=gap.2).contains(&seq));
                assert!(
                    arrived || told,
                    "{} {seq} of {last} is missing, and nobody says so",
                    class.name()
                );
            }
        }
        let missing = self.issued - self.arrived.len() as u64;
        let told: u64 = self.gaps.iter().map(|gap| gap.3).sum();
        assert!(
            told >= missing,
            "{missing} records are missing, gaps tell of {told}"
        );
    }
}
