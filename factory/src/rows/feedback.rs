//! What people think of answers: to be joined with requests by `appliance` and `gen_ai_response_id`.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use outstation_wire::record::{Body, Feedback};

use super::Row;
use super::columns::{
    Column, batch, doubles, first, last, messages, schema as schema_of, some, texts,
};

pub(super) fn schema() -> SchemaRef {
    schema_of(columns(&[]))
}

pub(super) fn rows(rows: &[Row]) -> RecordBatch {
    batch(columns(rows))
}

fn of(row: &Row) -> &Feedback {
    match &row.body {
        Body::Feedback(feedback) => feedback,
        _ => unreachable!("a file has rows of one table"),
    }
}

fn columns(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(of);
    let mut columns = first(rows);
    columns.extend([
        (
            "gen_ai_response_id",
            texts(all().map(|r| some(&r.response_id))),
        ),
        (
            "gen_ai_evaluation_score_value",
            doubles(all().map(|r| r.score)),
        ),
        (
            "gen_ai_evaluation_score_label",
            texts(all().map(|r| some(&r.label))),
        ),
        (
            "gen_ai_evaluation_explanation",
            texts(all().map(|r| some(&r.comment))),
        ),
        ("correction", texts(all().map(|r| some(&r.correction)))),
        ("tenant", texts(all().map(|r| Some(&r.tenant)))),
        (
            "messages",
            messages(all().map(|r| r.content.as_ref().map(|c| &c.input[..]))),
        ),
        (
            "output",
            texts(all().map(|r| Some(&r.content.as_ref()?.output))),
        ),
    ]);
    columns.extend(last(rows));
    columns
}
