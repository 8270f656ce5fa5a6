//! Boxes whose spools are written here: segments as a real one seals them.

use object_store::path::Path;
use outstation_factory::store::SegmentId;
use outstation_wire::record::{
    Body, Content, ContentMessage, Event, Feedback, Gap, GapReason, Inference, Parameters, Record,
    Redaction, Signals, Time,
};
use outstation_wire::seal::{FactoryKey, SegmentKey};
use outstation_wire::segment::{Class, Footer, FrameHead, Header, TAG_BYTES};
use prost::Message as _;

use super::random::Random;

/// 2026-03-01.
pub(crate) const START_MS: u64 = 1_772_323_200_000;
pub(crate) const DAY_MS: u64 = 86_400_000;

/// A class of one spool of a box.
pub(crate) struct Spool {
    pub(crate) appliance: [u8; 16],
    pub(crate) epoch: [u8; 16],
    pub(crate) class: Class,
    factory: [u8; 32],
    segment_seq: u64,
    record_seq: u64,
}

impl Spool {
    pub(crate) fn new(number: u8, class: Class, factory: &FactoryKey) -> Self {
        Self {
            appliance: [number; 16],
            epoch: [number ^ 0xF0; 16],
            class,
            factory: factory.public(),
            segment_seq: 0,
            record_seq: 0,
        }
    }

    /// The next segment, with these records. Its key, its bytes.
    pub(crate) fn seal(&mut self, records: &[Record]) -> (Path, Vec<u8>) {
        let first = self.record_seq + 1;
        self.record_seq += records.len() as u64;
        self.seal_as(first, records)
    }

    /// A segment whose records have numbers that other segments have, too: what a box writes after an fsync failed.
    pub(crate) fn seal_as(&mut self, first: u64, records: &[Record]) -> (Path, Vec<u8>) {
        self.segment_seq += 1;
        // The key is secret in earnest; here the same file must come out each time.
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&self.appliance);
        secret[16..24].copy_from_slice(&self.segment_seq.to_le_bytes());
        secret[24] = self.class.number();
        let (key, wrapped) =
            SegmentKey::wrap(secret, &self.appliance, &self.epoch, &self.factory).unwrap();
        let header = Header {
            appliance: self.appliance,
            epoch: self.epoch,
            class: self.class,
            seq: self.segment_seq,
            record_seq: first,
            boot: 1,
            created_unix_ms: START_MS,
            key: wrapped,
        };
        let mut bytes = header.encode().to_vec();
        for (record_seq, record) in (first..).zip(records) {
            let mut buffer = record.encode_to_vec();
            buffer.resize(buffer.len() + TAG_BYTES, 0);
            let head = FrameHead {
                ciphertext_bytes: u32::try_from(buffer.len()).unwrap(),
                record_seq,
            };
            key.seal(&head, &mut buffer);
            bytes.extend(head.encode(header.checksum(), &buffer));
            bytes.extend(buffer);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let footer = Footer {
            frames: u32::try_from(records.len()).unwrap(),
            record_seq_first: first,
            record_seq_last: first + records.len() as u64 - 1,
            bytes: bytes.len() as u64,
            digest: *blake3::hash(&bytes).as_bytes(),
        };
        bytes.extend(footer.encode(header.checksum()));
        (self.key(&bytes), bytes)
    }

    /// Where the last segment belongs.
    pub(crate) fn key(&self, bytes: &[u8]) -> Path {
        let id = SegmentId {
            appliance: self.appliance,
            epoch: self.epoch,
            class: self.class,
            seq: self.segment_seq,
            digest: *blake3::hash(bytes).as_bytes(),
        };
        id.key()
    }
}

pub(crate) const TENANTS: [&str; 3] = ["acme", "bolt & co", ""];
pub(crate) const WORKLOADS: [&str; 2] = ["support", "plant/7 Störung"];

/// At this time, by a clock that the box trusts.
pub(crate) fn at(unix_ms: u64, mut record: Record) -> Record {
    record.time = Some(Time {
        unix_ms,
        unix_untrusted: false,
        boot: 1,
        since_boot_ms: 5,
    });
    record
}

fn record(random: &mut Random, body: Body) -> Record {
    Record {
        id: random.bytes().to_vec(),
        time: Some(Time {
            unix_ms: START_MS + random.below(DAY_MS),
            unix_untrusted: random.below(10) == 0,
            boot: 1,
            since_boot_ms: random.below(1 << 30),
        }),
        body: Some(body),
    }
}

/// A request whose text is `bytes` long, about.
pub(crate) fn inference(random: &mut Random, bytes: usize) -> Record {
    let id = random.below(u64::MAX);
    let mut text = format!(
        "The pump says E{} again, and the valve sticks. ",
        random.below(1000)
    );
    while text.len() < bytes {
        text.push_str(WORDS[usize::try_from(random.below(WORDS.len() as u64)).unwrap()]);
        text.push(' ');
    }
    let flags = ["low_confidence", "truncated", "random"];
    let flags = flags.into_iter().filter(|_| random.below(3) == 0);
    let flags: Vec<_> = flags.map(str::to_owned).collect();
    let body = Inference {
        operation: "chat".to_owned(),
        response_id: format!("chatcmpl-{id:016x}"),
        request_model: String::new(),
        response_model: "demo".to_owned(),
        model_digest: vec![7; 32],
        adapters: vec!["plant-7".to_owned()],
        tenant: random.one_of(&TENANTS).to_owned(),
        workload: random.one_of(&WORKLOADS).to_owned(),
        conversation_id: String::new(),
        transport: "quic".to_owned(),
        class: "interactive".to_owned(),
        parameters: Some(Parameters {
            temperature: 0.5,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            max_tokens: Some(256),
            seed: Some(u64::MAX),
            stream: true,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }),
        input_tokens: u32::try_from(random.below(2000)).unwrap(),
        output_tokens: u32::try_from(random.below(200)).unwrap(),
        cached_tokens: 0,
        queue_us: random.below(5000),
        prefill_us: random.below(100_000),
        decode_us: random.below(1_000_000),
        first_chunk_us: random.below(100_000),
        energy_mj: None,
        finish_reason: "stop".to_owned(),
        error_type: String::new(),
        signals: Some(Signals {
            mean_nll: 0.25,
            entropy_mean: 0.5,
            entropy_max: 2.0,
            window_confidence_min: -1.5,
            tail_confidence: -0.25,
            margin_p05: 0.125,
            repetition: 0.0,
        }),
        flags,
        inclusion_probability: 0.25,
        content: Some(Content {
            input: vec![message("system", "Be brief."), message("user", &text)],
            output: format!("Close valve {}.", random.below(100)),
            redaction_version: 1,
            redactions: vec![Redaction {
                kind: "email".to_owned(),
                count: 2,
            }],
            bytes_left_out: 0,
        }),
        content_withheld: String::new(),
    };
    record(random, Body::Inference(Box::new(body)))
}

pub(crate) fn message(role: &str, content: &str) -> ContentMessage {
    ContentMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

/// What somebody thinks of an answer.
pub(crate) fn feedback(random: &mut Random, about: &Record, correction: &str) -> Record {
    let Some(Body::Inference(inference)) = &about.body else {
        panic!("feedback is about a request");
    };
    let body = Feedback {
        response_id: inference.response_id.clone(),
        score: Some(if correction.is_empty() { 1.0 } else { -1.0 }),
        label: String::new(),
        comment: String::new(),
        correction: correction.to_owned(),
        tenant: inference.tenant.clone(),
        workload: inference.workload.clone(),
        content: None,
    };
    record(random, Body::Feedback(Box::new(body)))
}

pub(crate) fn gap(random: &mut Random) -> Record {
    let body = Gap {
        class: 2,
        record_seq_first: 10,
        record_seq_last: 19,
        records: 10,
        bytes: 1000,
        reason: GapReason::Evicted.into(),
    };
    record(random, Body::Gap(body))
}

pub(crate) fn event(random: &mut Random) -> Record {
    let body = Event {
        name: "model.changed".to_owned(),
        attributes: r#"{"to":"demo"}"#.to_owned(),
    };
    record(random, Body::Event(body))
}

const WORDS: [&str; 16] = [
    "pressure",
    "valve",
    "restart",
    "the",
    "controller",
    "reads",
    "zero",
    "after",
    "shift",
    "and",
    "operator",
    "asks",
    "whether",
    "line",
    "four",
    "holds",
];
