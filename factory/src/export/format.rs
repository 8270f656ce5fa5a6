//! Lines for those who train.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use outstation_wire::record::ContentMessage;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::sample::Sample;
use crate::rows::columns::{messages, text_lists, times};

/// What an export looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `{"messages": [{"role", "content"}, …]}` with the answer as the last message: OpenAI, TRL, axolotl, Unsloth.
    ChatJsonl,
    /// `{"prompt": […], "chosen": [answer], "rejected": [answer]}` of answers that somebody corrected: TRL's DPO.
    Preference,
    /// `{"prompt": […], "completion": [answer], "label": true}` of answers with a score: TRL's KTO.
    Unpaired,
    /// `{"prompt": […], "completion": [answer]}`; of a request that is no chat, both are texts: TRL's SFT.
    Completion,
    /// `{"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`: axolotl, LLaMA-Factory.
    Sharegpt,
    /// A Parquet file with `messages` as in chat-jsonl, and a column for each part of the metadata.
    Parquet,
}

impl Format {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatJsonl => "chat-jsonl",
            Self::Preference => "preference",
            Self::Unpaired => "unpaired",
            Self::Completion => "completion",
            Self::Sharegpt => "sharegpt",
            Self::Parquet => "parquet",
        }
    }

    /// Whether a request can be written so.
    pub(super) fn takes(self, sample: &Sample) -> bool {
        let asked = !sample.messages.is_empty();
        asked
            && match self {
                Self::Preference => {
                    let correction = sample.opinion.correction();
                    correction.is_some_and(|correction| correction != sample.output)
                        && !sample.output.is_empty()
                }
                Self::Unpaired => {
                    sample.opinion.score().is_some_and(|score| score != 0.0)
                        && !sample.output.is_empty()
                }
                _ => !sample.answer().is_empty(),
            }
    }

    /// A request in this form, its metadata included. Panics for Parquet, which has no lines.
    pub(super) fn line(self, sample: &Sample) -> Value {
        let answer = |text: &str| json!([{ "role": "assistant", "content": text }]);
        let prompt = || chat(sample).collect::<Value>();
        let mut line = match self {
            Self::ChatJsonl => {
                let answer = entry("assistant", sample.answer());
                json!({ "messages": chat(sample).chain([answer]).collect::<Value>() })
            }
            Self::Preference => json!({
                "prompt": prompt(),
                "chosen": answer(sample.answer()),
                "rejected": answer(&sample.output),
            }),
            Self::Unpaired => json!({
                "prompt": prompt(),
                "completion": answer(&sample.output),
                "label": sample.opinion.score().is_some_and(|score| score > 0.0),
            }),
            Self::Completion => match &sample.messages[..] {
                [plain] if plain.role == PLAIN => json!({
                    "prompt": plain.content,
                    "completion": sample.answer(),
                }),
                _ => json!({ "prompt": prompt(), "completion": answer(sample.answer()) }),
            },
            Self::Sharegpt => {
                let said = |message: &ContentMessage| json!({ "from": sharegpt_name(&message.role), "value": message.content });
                let answer = json!({ "from": "gpt", "value": sample.answer() });
                let all = sample.messages.iter().map(said).chain([answer]);
                json!({ "conversations": all.collect::<Value>() })
            }
            Self::Parquet => unreachable!("it has no lines"),
        };
        line["metadata"] = metadata(sample);
        line
    }
}

/// The role of a prompt that is no chat.
const PLAIN: &str = "prompt";

fn entry(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// The input as a chat: a plain prompt is what a user says.
fn chat(sample: &Sample) -> impl Iterator<Item = Value> {
    let messages = sample.messages.iter();
    messages.map(|message| entry(chat_role(&message.role), &message.content))
}

fn chat_role(role: &str) -> &str {
    if role == PLAIN { "user" } else { role }
}

fn sharegpt_name(role: &str) -> &str {
    match role {
        "user" | PLAIN => "human",
        "assistant" => "gpt",
        "developer" => "system",
        other => other,
    }
}

fn metadata(sample: &Sample) -> Value {
    json!({
        "id": sample.id,
        "time_us": sample.time_us,
        "appliance": sample.appliance,
        "tenant": sample.tenant,
        "workload": sample.workload,
        "response_id": sample.response_id,
        "model": sample.model,
        "model_digest": sample.model_digest,
        "finish_reason": sample.finish,
        "flags": sample.flags,
        "inclusion_probability": sample.inclusion_probability,
        "score": sample.opinion.score(),
        "corrected": sample.opinion.correction().is_some(),
    })
}

/// Writes samples one after the other.
pub(super) enum Writer<W: Write + Send> {
    Lines(Format, W),
    Parquet {
        writer: Box<ArrowWriter<W>>,
        waiting: Vec<Sample>,
    },
}

/// Rows that are columns at the same time.
const ROWS_AT_ONCE: usize = 1024;

impl<W: Write + Send> Writer<W> {
    pub(super) fn new(format: Format, out: W) -> Result<Self, ParquetError> {
        if format != Format::Parquet {
            return Ok(Self::Lines(format, out));
        }
        let properties = WriterProperties::builder()
            .set_created_by("outstation-factory".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let schema = batch(&[]).schema();
        let writer = ArrowWriter::try_new(out, schema, Some(properties))?;
        Ok(Self::Parquet {
            writer: Box::new(writer),
            waiting: Vec::new(),
        })
    }

    pub(super) fn write(&mut self, sample: Sample) -> Result<(), ParquetError> {
        match self {
            Self::Lines(format, out) => {
                let mut line = format.line(&sample).to_string();
                line.push('\n');
                Ok(out.write_all(line.as_bytes())?)
            }
            Self::Parquet { writer, waiting } => {
                waiting.push(sample);
                if waiting.len() == ROWS_AT_ONCE {
                    writer.write(&batch(waiting))?;
                    waiting.clear();
                }
                Ok(())
            }
        }
    }

    /// What was written to, with all of it written.
    pub(super) fn finish(self) -> Result<W, ParquetError> {
        match self {
            Self::Lines(_, mut out) => {
                out.flush()?;
                Ok(out)
            }
            Self::Parquet {
                mut writer,
                waiting,
            } => {
                writer.write(&batch(&waiting))?;
                writer.into_inner()
            }
        }
    }
}

fn batch(samples: &[Sample]) -> RecordBatch {
    let chats: Vec<Vec<ContentMessage>> = samples.iter().map(whole_chat).collect();
    let text = |field: fn(&Sample) -> &str| -> ArrayRef {
        let values = samples.iter().map(|sample| Some(field(sample)));
        Arc::new(values.collect::<StringArray>())
    };
    let scores = samples.iter().map(|sample| sample.opinion.score());
    let corrected = samples
        .iter()
        .map(|sample| Some(sample.opinion.correction().is_some()));
    let chances = samples.iter().map(|sample| sample.inclusion_probability);
    let columns = [
        (
            "messages",
            messages(chats.iter().map(|chat| Some(&chat[..]))),
        ),
        ("id", text(|s| &s.id)),
        ("time", times(samples.iter().map(|s| s.time_us))),
        ("appliance", text(|s| &s.appliance)),
        ("tenant", text(|s| &s.tenant)),
        ("workload", text(|s| &s.workload)),
        ("response_id", text(|s| &s.response_id)),
        ("model", text(|s| &s.model)),
        ("model_digest", text(|s| &s.model_digest)),
        ("finish_reason", text(|s| &s.finish)),
        ("flags", text_lists(samples.iter().map(|s| &s.flags[..]))),
        (
            "inclusion_probability",
            Arc::new(chances.collect::<Float64Array>()) as ArrayRef,
        ),
        ("score", Arc::new(scores.collect::<Float64Array>())),
        ("corrected", Arc::new(corrected.collect::<BooleanArray>())),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, values, true));
    RecordBatch::try_from_iter_with_nullable(columns)
        .expect("a value for each sample in each column")
}

fn whole_chat(sample: &Sample) -> Vec<ContentMessage> {
    let asked = sample.messages.iter().map(|message| ContentMessage {
        role: chat_role(&message.role).to_owned(),
        content: message.content.clone(),
    });
    let answer = ContentMessage {
        role: "assistant".to_owned(),
        content: sample.answer().to_owned(),
    };
    asked.chain([answer]).collect()
}
