//! Requests as an export sees them: what was said, what people thought of it, and where it came from.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, RecordBatch};
use bytes::Bytes;
use outstation_wire::record::ContentMessage;
use parquet::errors::ParquetError;

use super::query::Subject;
use crate::chat::asked_digest;
use crate::commits::Output;
use crate::days::Day;
use crate::rows::read_columns;

/// A request with its content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) id: String,
    pub(super) time_us: i64,
    pub(super) day: Day,
    pub(super) workload: String,
    pub(super) tenant: String,
    pub(super) response_id: String,
    pub(super) model: String,
    pub(super) model_digest: String,
    pub(super) appliance: String,
    pub(super) finish: String,
    pub(super) flags: Vec<String>,
    pub(super) inclusion_probability: f64,
    pub(super) messages: Vec<ContentMessage>,
    pub(super) output: String,
    pub(super) opinion: Opinion,
}

/// What people think of an answer: the last word on each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Opinion {
    score: Option<(i64, f64)>,
    correction: Option<(i64, String)>,
    /// What it is about, where the box kept that only when somebody complained.
    content: Option<(Vec<ContentMessage>, String)>,
}

impl Opinion {
    pub(super) fn score(&self) -> Option<f64> {
        self.score.map(|(_, score)| score)
    }

    pub(super) fn correction(&self) -> Option<&str> {
        self.correction.as_ref().map(|(_, text)| text.as_str())
    }
}

impl Sample {
    /// Takes what people think of it, and what it was about where only they brought that.
    pub(super) fn hear(&mut self, mut opinion: Opinion) {
        if let Some((messages, output)) = opinion.content.take()
            && self.messages.is_empty()
        {
            self.messages = messages;
            self.output = output;
        }
        self.opinion = opinion;
    }

    /// The answer that one should learn.
    pub(super) fn answer(&self) -> &str {
        self.opinion.correction().unwrap_or(&self.output)
    }

    /// What two requests have in common that ask the same.
    pub(super) fn prompt_digest(&self) -> [u8; 16] {
        let messages = self.messages.iter();
        asked_digest(messages.map(|message| (&*message.role, &*message.content)))
    }
}

impl Subject for Sample {
    fn flags(&self) -> &[String] {
        &self.flags
    }
    fn workload(&self) -> &str {
        &self.workload
    }
    fn tenant(&self) -> &str {
        &self.tenant
    }
    fn model(&self) -> &str {
        &self.model
    }
    fn model_digest(&self) -> &str {
        &self.model_digest
    }
    fn appliance(&self) -> &str {
        &self.appliance
    }
    fn finish(&self) -> &str {
        &self.finish
    }
    fn day(&self) -> Day {
        self.day
    }
    fn score(&self) -> Option<f64> {
        self.opinion.score()
    }
    fn is_corrected(&self) -> bool {
        self.opinion.correction().is_some()
    }
}

const COLUMNS: [&str; 13] = [
    "time",
    "id",
    "gen_ai_response_id",
    "gen_ai_response_model",
    "model_digest",
    "tenant",
    "gen_ai_response_finish_reason",
    "flags",
    "inclusion_probability",
    "messages",
    "output",
    "appliance",
    "record_seq",
];

/// The requests of a file, those without content with no messages.
pub(super) fn samples(file: &Output, bytes: Bytes) -> Result<Vec<Sample>, ParquetError> {
    let day = file
        .day
        .parse()
        .map_err(|_| ParquetError::General(format!("{}: no day", file.key)))?;
    let mut samples = Vec::new();
    for batch in read_columns(bytes, &COLUMNS)? {
        let batch = Batch(batch?);
        for n in 0..batch.0.num_rows() {
            samples.push(Sample {
                id: batch.text("id", n)?,
                time_us: batch.time(n)?,
                day,
                workload: file.workload.clone(),
                tenant: batch.text("tenant", n)?,
                response_id: batch.text("gen_ai_response_id", n)?,
                model: batch.text("gen_ai_response_model", n)?,
                model_digest: batch.text("model_digest", n)?,
                appliance: batch.text("appliance", n)?,
                finish: batch.text("gen_ai_response_finish_reason", n)?,
                flags: batch.texts("flags", n)?,
                inclusion_probability: batch.double("inclusion_probability", n)?.unwrap_or(0.0),
                messages: batch.messages(n)?.unwrap_or_default(),
                output: batch.text("output", n)?,
                opinion: Opinion::default(),
            });
        }
    }
    Ok(samples)
}

/// What people think of answers, by box and response.
#[derive(Debug, Default)]
pub(super) struct Opinions(HashMap<(String, String), Opinion>);

impl Opinions {
    /// Adds a file of feedback.
    pub(super) fn add(&mut self, bytes: Bytes) -> Result<(), ParquetError> {
        let columns = [
            "time",
            "gen_ai_response_id",
            "gen_ai_evaluation_score_value",
            "correction",
            "messages",
            "output",
            "appliance",
        ];
        for batch in read_columns(bytes, &columns)? {
            let batch = Batch(batch?);
            for n in 0..batch.0.num_rows() {
                let key = (
                    batch.text("appliance", n)?,
                    batch.text("gen_ai_response_id", n)?,
                );
                let time = batch.time(n)?;
                let opinion = self.0.entry(key).or_default();
                if let Some(score) = batch.double("gen_ai_evaluation_score_value", n)?
                    && opinion.score.is_none_or(|(at, _)| at <= time)
                {
                    opinion.score = Some((time, score));
                }
                if let Some(messages) = batch.messages(n)? {
                    opinion.content = Some((messages, batch.text("output", n)?));
                }
                let correction = batch.text("correction", n)?;
                let newer = opinion
                    .correction
                    .as_ref()
                    .is_none_or(|(at, _)| *at <= time);
                if !correction.is_empty() && newer {
                    opinion.correction = Some((time, correction));
                }
            }
        }
        Ok(())
    }

    /// Of a request.
    pub(super) fn of(&self, sample: &Sample) -> Opinion {
        let key = (sample.appliance.clone(), sample.response_id.clone());
        self.0.get(&key).cloned().unwrap_or_default()
    }

    /// Whether anybody corrected anything.
    pub(super) fn has_corrections(&self) -> bool {
        self.0.values().any(|opinion| opinion.correction.is_some())
    }
}

/// Values of a batch by column and row. A file that lacks a column was not written by this program.
struct Batch(RecordBatch);

impl Batch {
    fn column(&self, name: &str) -> Result<&arrow_array::ArrayRef, ParquetError> {
        let column = self.0.column_by_name(name);
        column.ok_or_else(|| ParquetError::General(format!("a file has no column {name}")))
    }

    fn text(&self, name: &str, n: usize) -> Result<String, ParquetError> {
        let column = self.column(name)?.as_string_opt::<i32>();
        let column = column.ok_or_else(|| wrong(name))?;
        Ok(if column.is_valid(n) {
            column.value(n).to_owned()
        } else {
            String::new()
        })
    }

    fn texts(&self, name: &str, n: usize) -> Result<Vec<String>, ParquetError> {
        let column = self.column(name)?.as_list_opt::<i32>();
        let list = column.ok_or_else(|| wrong(name))?.value(n);
        let list = list.as_string_opt::<i32>().ok_or_else(|| wrong(name))?;
        Ok(list.iter().flatten().map(str::to_owned).collect())
    }

    fn double(&self, name: &str, n: usize) -> Result<Option<f64>, ParquetError> {
        let column = self.column(name)?.as_primitive_opt::<Float64Type>();
        let column = column.ok_or_else(|| wrong(name))?;
        Ok(column.is_valid(n).then(|| column.value(n)))
    }

    fn time(&self, n: usize) -> Result<i64, ParquetError> {
        let column = self.column("time")?;
        let column = column.as_primitive_opt::<TimestampMicrosecondType>();
        Ok(column.ok_or_else(|| wrong("time"))?.value(n))
    }

    fn messages(&self, n: usize) -> Result<Option<Vec<ContentMessage>>, ParquetError> {
        let name = "messages";
        let column = self.column(name)?.as_list_opt::<i32>();
        let column = column.ok_or_else(|| wrong(name))?;
        if column.is_null(n) {
            return Ok(None);
        }
        let list = column.value(n);
        let list = list.as_struct_opt().ok_or_else(|| wrong(name))?;
        let texts = |part| {
            let texts = list
                .column_by_name(part)
                .and_then(|c| c.as_string_opt::<i32>());
            texts.ok_or_else(|| wrong(name))
        };
        let (roles, contents) = (texts("role")?, texts("content")?);
        let pairs = roles.iter().zip(contents.iter());
        let messages = pairs.map(|(role, content)| ContentMessage {
            role: role.unwrap_or_default().to_owned(),
            content: content.unwrap_or_default().to_owned(),
        });
        Ok(Some(messages.collect()))
    }
}

fn wrong(name: &str) -> ParquetError {
    ParquetError::General(format!("the column {name} is of another type"))
}
