//! Columns of Arrow from values of rows.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder, UInt32Builder};
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use outstation_wire::record::{ContentMessage, Redaction};

use super::Row;
use crate::store::hex;

/// A column: its name, and its values for some rows.
pub(super) type Column = (&'static str, ArrayRef);

/// The columns as a batch. Every column may hold nulls, so that files of earlier and later programs read as one table.
pub(super) fn batch(columns: Vec<Column>) -> RecordBatch {
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, values, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("a value for each row in each column")
}

/// The schema of columns.
pub(super) fn schema(columns: Vec<Column>) -> SchemaRef {
    batch(columns).schema()
}

/// What every row of every table begins with: when, and what it is.
pub(super) fn first(rows: &[Row]) -> Vec<Column> {
    let time = rows
        .iter()
        .map(|row| signed(row.time.unix_ms.saturating_mul(1000)));
    vec![
        ("time", times(time)),
        (
            "time_untrusted",
            bools(rows.iter().map(|row| Some(row.time.unix_untrusted))),
        ),
        ("boot", longs(rows.iter().map(|row| Some(row.time.boot)))),
        (
            "since_boot_ms",
            longs(rows.iter().map(|row| Some(row.time.since_boot_ms))),
        ),
        ("id", texts(rows.iter().map(|row| Some(hex(&row.id))))),
    ]
}

/// What every row of every table ends with: where it came from.
pub(super) fn last(rows: &[Row]) -> Vec<Column> {
    let part = |n: usize| {
        let part = move |row: &Row| row.stream.split('/').nth(n).map(str::to_owned);
        texts(rows.iter().map(part))
    };
    vec![
        ("appliance", part(0)),
        ("epoch", part(1)),
        ("class", part(2)),
        (
            "record_seq",
            longs(rows.iter().map(|row| Some(row.record_seq))),
        ),
        (
            "segment",
            texts(rows.iter().map(|row| Some(row.segment.to_string()))),
        ),
    ]
}

/// Moments from microseconds since 1970.
pub(crate) fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    let values: PrimitiveArray<TimestampMicrosecondType> = values.map(Some).collect();
    Arc::new(values.with_timezone("UTC"))
}

/// A text, null where it is empty.
pub(super) fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub(super) fn bools(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<arrow_array::BooleanArray>())
}

pub(super) fn ints(values: impl Iterator<Item = Option<u32>>) -> ArrayRef {
    let values = values.map(|value| value.map(i64::from));
    Arc::new(values.collect::<arrow_array::Int64Array>())
}

/// Engines differ about unsigned numbers of 64 bits; no count, duration or sequence number needs the last of them.
pub(super) fn longs(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let values = values.map(|value| value.map(signed));
    Arc::new(values.collect::<arrow_array::Int64Array>())
}

/// A seed is any number of 64 bits.
pub(super) fn unsigned(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.collect::<arrow_array::UInt64Array>())
}

pub(super) fn floats(values: impl Iterator<Item = Option<f32>>) -> ArrayRef {
    Arc::new(values.collect::<arrow_array::Float32Array>())
}

pub(super) fn doubles(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<arrow_array::Float64Array>())
}

pub(crate) fn text_lists<'a>(values: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for value in values {
        for text in value {
            lists.values().append_value(text);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// `list<struct<role, content>>`
pub(crate) fn messages<'a>(values: impl Iterator<Item = Option<&'a [ContentMessage]>>) -> ArrayRef {
    let texts = |name| Field::new(name, DataType::Utf8, true);
    let fields = Fields::from(vec![texts("role"), texts("content")]);
    let columns = [(); 2].map(|()| Box::new(StringBuilder::new()) as _);
    let structs = StructBuilder::new(fields, columns.into());
    let mut lists = ListBuilder::new(structs);
    for value in values {
        for message in value.unwrap_or_default() {
            let place = lists.values();
            for (n, text) in [&message.role, &message.content].into_iter().enumerate() {
                let column = place.field_builder::<StringBuilder>(n);
                column.expect("made above").append_value(text);
            }
            place.append(true);
        }
        lists.append(value.is_some());
    }
    Arc::new(lists.finish())
}

/// `list<struct<kind, count>>`
pub(super) fn redactions<'a>(values: impl Iterator<Item = Option<&'a [Redaction]>>) -> ArrayRef {
    let fields = Fields::from(vec![
        Field::new("kind", DataType::Utf8, true),
        Field::new("count", DataType::UInt32, true),
    ]);
    let columns: Vec<Box<dyn arrow_array::builder::ArrayBuilder>> = vec![
        Box::new(StringBuilder::new()),
        Box::new(UInt32Builder::new()),
    ];
    let mut lists = ListBuilder::new(StructBuilder::new(fields, columns));
    for value in values {
        for redaction in value.unwrap_or_default() {
            let place = lists.values();
            let kinds = place.field_builder::<StringBuilder>(0);
            kinds.expect("made above").append_value(&redaction.kind);
            let counts = place.field_builder::<UInt32Builder>(1);
            counts.expect("made above").append_value(redaction.count);
            place.append(true);
        }
        lists.append(value.is_some());
    }
    Arc::new(lists.finish())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
