//! Requests: columns after the OpenTelemetry conventions for generative AI, with `_` for `.`.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use outstation_wire::record::{Body, Content, Inference, Parameters, Signals};

use super::Row;
use super::columns::{
    Column, batch, bools, doubles, first, floats, ints, last, longs, messages, redactions,
    schema as schema_of, some, text_lists, texts, unsigned,
};
use crate::store::hex;

pub(super) fn schema() -> SchemaRef {
    schema_of(columns(&[]))
}

pub(super) fn rows(rows: &[Row]) -> RecordBatch {
    batch(columns(rows))
}

fn of(row: &Row) -> &Inference {
    match &row.body {
        Body::Inference(inference) => inference,
        _ => unreachable!("a file has rows of one table"),
    }
}

fn columns(rows: &[Row]) -> Vec<Column> {
    let mut columns = first(rows);
    columns.extend(who_and_what(rows));
    columns.extend(asked(rows));
    columns.extend(done(rows));
    columns.extend(sure(rows));
    columns.extend(said(rows));
    columns.extend(last(rows));
    columns
}

fn who_and_what(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(of);
    vec![
        (
            "gen_ai_operation_name",
            texts(all().map(|r| some(&r.operation))),
        ),
        (
            "gen_ai_response_id",
            texts(all().map(|r| some(&r.response_id))),
        ),
        (
            "gen_ai_request_model",
            texts(all().map(|r| some(&r.request_model))),
        ),
        (
            "gen_ai_response_model",
            texts(all().map(|r| some(&r.response_model))),
        ),
        (
            "model_digest",
            texts(all().map(|r| (!r.model_digest.is_empty()).then(|| hex(&r.model_digest)))),
        ),
        ("adapters", text_lists(all().map(|r| &r.adapters[..]))),
        ("tenant", texts(all().map(|r| Some(&r.tenant)))),
        (
            "gen_ai_conversation_id",
            texts(all().map(|r| some(&r.conversation_id))),
        ),
        ("transport", texts(all().map(|r| some(&r.transport)))),
        ("service_class", texts(all().map(|r| some(&r.class)))),
    ]
}

fn asked(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(|row| of(row).parameters.as_ref());
    let number = |field: fn(&Parameters) -> f32| floats(all().map(|p| p.map(field)));
    vec![
        ("gen_ai_request_temperature", number(|p| p.temperature)),
        (
            "gen_ai_request_top_k",
            ints(all().map(|p| p.map(|p| p.top_k))),
        ),
        ("gen_ai_request_top_p", number(|p| p.top_p)),
        ("min_p", number(|p| p.min_p)),
        (
            "gen_ai_request_max_tokens",
            ints(all().map(|p| p?.max_tokens)),
        ),
        ("gen_ai_request_seed", unsigned(all().map(|p| p?.seed))),
        (
            "gen_ai_request_stream",
            bools(all().map(|p| Some(p?.stream))),
        ),
        ("repetition_penalty", number(|p| p.repetition_penalty)),
        (
            "gen_ai_request_presence_penalty",
            number(|p| p.presence_penalty),
        ),
        (
            "gen_ai_request_frequency_penalty",
            number(|p| p.frequency_penalty),
        ),
    ]
}

fn done(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(of);
    vec![
        (
            "gen_ai_usage_input_tokens",
            ints(all().map(|r| Some(r.input_tokens))),
        ),
        (
            "gen_ai_usage_output_tokens",
            ints(all().map(|r| Some(r.output_tokens))),
        ),
        (
            "gen_ai_usage_cache_read_input_tokens",
            ints(all().map(|r| Some(r.cached_tokens))),
        ),
        ("queue_us", longs(all().map(|r| Some(r.queue_us)))),
        ("prefill_us", longs(all().map(|r| Some(r.prefill_us)))),
        ("decode_us", longs(all().map(|r| Some(r.decode_us)))),
        (
            "time_to_first_chunk_us",
            longs(all().map(|r| (r.first_chunk_us > 0).then_some(r.first_chunk_us))),
        ),
        ("energy_mj", longs(all().map(|r| r.energy_mj))),
        (
            "gen_ai_response_finish_reason",
            texts(all().map(|r| some(&r.finish_reason))),
        ),
        ("error_type", texts(all().map(|r| some(&r.error_type)))),
    ]
}

fn sure(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(|row| of(row).signals.as_ref());
    let number = |field: fn(&Signals) -> f32| floats(all().map(|s| s.map(field)));
    vec![
        ("mean_nll", number(|s| s.mean_nll)),
        ("entropy_mean", number(|s| s.entropy_mean)),
        ("entropy_max", number(|s| s.entropy_max)),
        ("window_confidence_min", number(|s| s.window_confidence_min)),
        ("tail_confidence", number(|s| s.tail_confidence)),
        ("margin_p05", number(|s| s.margin_p05)),
        ("repetition", number(|s| s.repetition)),
        (
            "flags",
            text_lists(rows.iter().map(|row| &of(row).flags[..])),
        ),
        (
            "inclusion_probability",
            doubles(rows.iter().map(|row| Some(of(row).inclusion_probability))),
        ),
    ]
}

fn said(rows: &[Row]) -> Vec<Column> {
    let all = || rows.iter().map(|row| of(row).content.as_ref());
    let withheld = rows.iter().map(|row| some(&of(row).content_withheld));
    vec![
        (
            "messages",
            messages(all().map(|c| c.map(|c: &Content| &c.input[..]))),
        ),
        ("output", texts(all().map(|c| Some(&c?.output)))),
        (
            "redaction_version",
            ints(all().map(|c| Some(c?.redaction_version))),
        ),
        (
            "redactions",
            redactions(all().map(|c| c.map(|c| &c.redactions[..]))),
        ),
        (
            "content_bytes_left_out",
            longs(all().map(|c| Some(c?.bytes_left_out))),
        ),
        ("content_withheld", texts(withheld)),
    ]
}
