//! What changed on boxes.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use outstation_wire::record::{Body, Event};

use super::Row;
use super::columns::{Column, batch, first, last, schema as schema_of, texts};

pub(super) fn schema() -> SchemaRef {
    schema_of(columns(&[]))
}

pub(super) fn rows(rows: &[Row]) -> RecordBatch {
    batch(columns(rows))
}

fn of(row: &Row) -> &Event {
    match &row.body {
        Body::Event(event) => event,
        _ => unreachable!("a file has rows of one table"),
    }
}

fn columns(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(of);
    let mut columns = first(rows);
    columns.extend([
        ("name", texts(all().map(|r| Some(&r.name)))),
        ("attributes", texts(all().map(|r| Some(&r.attributes)))),
    ]);
    columns.extend(last(rows));
    columns
}
