//! Records as rows, and which file a row belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use outstation_wire::record::{Body, NAME_BYTES_MAX, Record, Time};

use crate::days::Day;

pub use gap::reason as gap_reason;
pub use parquet::{Written, read_batches, read_columns, write_batches, write_rows};

pub(crate) mod columns;
mod event;
mod feedback;
mod gap;
mod inference;
mod parquet;
#[cfg(test)]
mod tests;

/// A kind of file: each has its own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Requests.
    Inference,
    /// What people think of answers.
    Feedback,
    /// Records that are lost.
    Gap,
    /// What changed on boxes.
    Event,
}

impl Table {
    /// All.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Feedback, Self::Gap, Self::Event];

    /// Its name in paths and commits.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Feedback => "feedback",
            Self::Gap => "gap",
            Self::Event => "event",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its columns.
    pub fn schema(self) -> arrow_schema::SchemaRef {
        match self {
            Self::Inference => inference::schema(),
            Self::Feedback => feedback::schema(),
            Self::Gap => gap::schema(),
            Self::Event => event::schema(),
        }
    }

    const fn of(body: &Body) -> Self {
        match body {
            Body::Inference(_) => Self::Inference,
            Body::Feedback(_) => Self::Feedback,
            Body::Gap(_) => Self::Gap,
            Body::Event(_) => Self::Event,
        }
    }
}

/// Where rows lie together: files of one partition are in one folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Which table.
    pub table: Table,
    /// Which day, UTC.
    pub day: Day,
    /// Which workload; empty where the table has none.
    pub workload: String,
}

impl Partition {
    /// `parquet/<table>/dt=<day>/workload=<name>`, without the last part where the table has no workload.
    ///
    /// Letters and digits of ASCII, `-`, `_` and `.` stand as they are, others percent-encoded; no name is Hive's null.
    pub fn folder(&self) -> String {
        let folder = format!("parquet/{}/dt={}", self.table.name(), self.day);
        match self.table {
            Table::Inference | Table::Feedback => {
                format!("{folder}/workload={}", hive_name(&self.workload))
            }
            Table::Gap | Table::Event => folder,
        }
    }
}

fn hive_name(name: &str) -> String {
    if name.is_empty() {
        return "__HIVE_DEFAULT_PARTITION__".to_owned();
    }
    encoded(name)
}

/// A name, percent-encoded as a part of a key.
pub(crate) fn encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes it");
        }
    }
    encoded
}

/// A record, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `<appliance>/<epoch>/<class>`.
    pub stream: Arc<str>,
    /// Its number there.
    pub record_seq: u64,
    /// The object that brought it.
    pub segment: Arc<str>,
    /// When.
    pub time: Time,
    /// Its id.
    pub id: Vec<u8>,
    /// What it tells.
    pub body: Body,
}

impl Row {
    /// From a record. `None`: a later program made it, and this one cannot tell what it is.
    ///
    /// A record without a time has that of its segment, which is a guess.
    pub fn new(
        stream: &Arc<str>,
        record_seq: u64,
        segment: &Arc<str>,
        segment_unix_ms: u64,
        record: Record,
    ) -> Option<Self> {
        Some(Self {
            stream: Arc::clone(stream),
            record_seq,
            segment: Arc::clone(segment),
            time: record.time.unwrap_or(Time {
                unix_ms: segment_unix_ms,
                unix_untrusted: true,
                boot: 0,
                since_boot_ms: 0,
            }),
            id: record.id,
            body: record.body?,
        })
    }

    /// Whose it is; empty if nobody's.
    pub fn tenant(&self) -> &str {
        match &self.body {
            Body::Inference(inference) => &inference.tenant,
            Body::Feedback(feedback) => &feedback.tenant,
            Body::Gap(_) | Body::Event(_) => "",
        }
    }

    fn workload(&self) -> &str {
        match &self.body {
            Body::Inference(inference) => &inference.workload,
            Body::Feedback(feedback) => &feedback.workload,
            Body::Gap(_) | Body::Event(_) => "",
        }
    }

    /// Where it belongs. Its day is that of its time; where the box could not trust its clock, or was ahead of the
    /// factory's by more than a day, that of the segment's arrival.
    pub fn partition(&self, arrived_unix_ms: u64) -> Partition {
        let ahead = self.time.unix_ms > arrived_unix_ms.saturating_add(Day::MS);
        let unix_ms = if self.time.unix_untrusted || ahead {
            arrived_unix_ms
        } else {
            self.time.unix_ms
        };
        Partition {
            table: Table::of(&self.body),
            day: Day::of_unix_ms(unix_ms),
            workload: cut(self.workload(), NAME_BYTES_MAX).to_owned(),
        }
    }
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Rows by the place where they belong.
pub type Partitions = BTreeMap<Partition, Vec<Row>>;
