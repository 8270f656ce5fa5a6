//! Records that are lost, as the boxes tell.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use outstation_wire::record::{Body, Gap, GapReason};

use super::Row;
use super::columns::{Column, batch, first, ints, last, longs, schema as schema_of, texts};

pub(super) fn schema() -> SchemaRef {
    schema_of(columns(&[]))
}

pub(super) fn rows(rows: &[Row]) -> RecordBatch {
    batch(columns(rows))
}

fn of(row: &Row) -> &Gap {
    match &row.body {
        Body::Gap(gap) => gap,
        _ => unreachable!("a file has rows of one table"),
    }
}

fn columns(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(of);
    let mut columns = first(rows);
    columns.extend([
        ("gap_class", ints(all().map(|r| Some(r.class)))),
        (
            "record_seq_first",
            longs(all().map(|r| Some(r.record_seq_first))),
        ),
        (
            "record_seq_last",
            longs(all().map(|r| Some(r.record_seq_last))),
        ),
        ("records", longs(all().map(|r| Some(r.records)))),
        ("bytes", longs(all().map(|r| Some(r.bytes)))),
        ("reason", texts(all().map(|r| Some(reason(r))))),
    ]);
    columns.extend(last(rows));
    columns
}

/// Why, in a word.
pub fn reason(gap: &Gap) -> &'static str {
    match gap.reason() {
        GapReason::Unknown => "unknown",
        GapReason::Evicted => "evicted",
        GapReason::Quota => "quota",
        GapReason::DiskFull => "disk_full",
        GapReason::DiskError => "disk_error",
        GapReason::Overrun => "overrun",
        GapReason::Damaged => "damaged",
        GapReason::Refused => "refused",
    }
}
