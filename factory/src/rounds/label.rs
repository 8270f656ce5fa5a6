//! The right answers of cases, one line each as soon as it is known: what was labelled is not asked again after a kill.
#![expect(
    clippy::disallowed_methods,
    reason = "labels are appended to a file of the round"
)]

use std::collections::HashMap;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::folder::{chats, write_chats};
use super::settings::Labels;
use super::{Folder, Labeller, RoundError, cases};
use crate::api::{Api, ApiError, Asking};
use crate::chat::{Chat, Message};
use crate::task::Phrases;

pub(super) const LABELS: &str = "labels.jsonl";

/// What is known of the right answer to a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The request's id.
    pub id: String,
    /// The right answer. `None`: nobody knows, or it is nothing to learn from.
    pub answer: Option<String>,
    /// Who says so.
    pub by: String,
}

/// The labels of a file, by the ids of requests; the last of each counts. A line that a kill cut is none.
pub fn labels(file: &Path) -> Result<HashMap<String, Label>, RoundError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(RoundError::file(file)(error)),
    };
    let mut labels = HashMap::new();
    for line in text.split_inclusive('\n') {
        let Some(whole) = line.strip_suffix('\n') else {
            break;
        };
        if let Ok(label) = serde_json::from_str::<Label>(whole) {
            labels.insert(label.id.clone(), label);
        }
    }
    Ok(labels)
}

/// Appends labels. A line that a kill cut ends before them.
pub(super) fn append(file: &Path, labels: &[Label]) -> Result<(), RoundError> {
    let mut text = String::new();
    for label in labels {
        text += &serde_json::to_string(label).expect("it is plain data");
        text.push('\n');
    }
    let mut write = || {
        let is_cut = match std::fs::read(file) {
            Ok(bytes) => bytes.last().is_some_and(|byte| *byte != b'\n'),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if is_cut {
            text.insert(0, '\n');
        }
        let mut out = std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)?;
        out.write_all(text.as_bytes())?;
        out.sync_data()
    };
    write().map_err(RoundError::file(file))
}

/// The id of a case.
pub(super) fn id(case: &Chat) -> &str {
    let id = case.metadata.get("id");
    id.and_then(|id| id.as_str()).unwrap_or_default()
}

/// Cases labelled between two writes.
const AT_ONCE: usize = 64;

/// Labels what has no label yet. How many still have none: a person is to give them.
pub(super) async fn label(
    settings: &Labels,
    folder: &Folder,
    round: u32,
    tell: &mut dyn FnMut(&str),
) -> Result<usize, RoundError> {
    let all = chats(&folder.of(round, cases::CASES))?.unwrap_or_default();
    let file = folder.of(round, LABELS);
    let known = labels(&file)?;
    let open: Vec<Chat> = all
        .into_iter()
        .filter(|case| !known.contains_key(id(case)))
        .collect();
    let (corrected, open): (Vec<Chat>, Vec<Chat>) = open
        .into_iter()
        .partition(|case| case.metadata.get("corrected") == Some(&true.into()));
    if !corrected.is_empty() {
        let label = |case: &Chat| Label {
            id: id(case).to_owned(),
            answer: Some(case.split().1.to_owned()),
            by: "user".to_owned(),
        };
        append(&file, &corrected.iter().map(label).collect::<Vec<_>>())?;
    }
    if open.is_empty() {
        return Ok(0);
    }
    match settings.by {
        Labeller::Review => return Ok(open.len()),
        Labeller::Oracle => {
            let phrases = Phrases::new();
            let label = |case: &Chat| Label {
                id: id(case).to_owned(),
                answer: phrases.read(asked(case)).map(|reading| reading.answer),
                by: "oracle".to_owned(),
            };
            append(&file, &open.iter().map(label).collect::<Vec<_>>())?;
        }
        Labeller::Api => {
            let ask = Asked::new(settings)?;
            for (done, cases) in (0..).step_by(AT_ONCE).zip(open.chunks(AT_ONCE)) {
                tell(&format!("{done} of {} labelled", open.len()));
                append(&file, &ask.label(cases, settings.parallel).await?)?;
            }
        }
    }
    Ok(0)
}

/// What a user said last.
fn asked(case: &Chat) -> &str {
    case.split().0.last().map_or("", |message| &message.content)
}

/// A stronger model.
struct Asked {
    api: Api,
    system: Option<Message>,
    asking: Asking,
}

impl Asked {
    fn new(settings: &Labels) -> Result<Self, RoundError> {
        let read = |file: &Path| std::fs::read_to_string(file).map_err(RoundError::file(file));
        let key = settings.key_file.as_deref().map(read).transpose()?;
        let key = key.map(|text| text.lines().next().unwrap_or_default().trim().to_owned());
        let system = settings.system_file.as_deref().map(read).transpose()?;
        Ok(Self {
            api: Api::new(&settings.url, &settings.model, key)?,
            system: system.map(|content| Message {
                role: "system".to_owned(),
                content,
            }),
            asking: Asking {
                max_tokens: settings.max_tokens,
                patience: Duration::from_mins(2),
                logprobs: false,
            },
        })
    }

    async fn label(&self, cases: &[Chat], parallel: usize) -> Result<Vec<Label>, RoundError> {
        let asked = stream::iter(cases).map(|case| self.ask(case));
        let answers = asked.buffered(parallel.max(1)).collect::<Vec<_>>().await;
        answers.into_iter().collect()
    }

    async fn ask(&self, case: &Chat) -> Result<Label, RoundError> {
        let messages: Vec<Message> = self.system.iter().chain(case.split().0).cloned().collect();
        let answer = match self.api.chat(&messages, self.asking).await {
            Ok(said) => Some(said.text.trim().to_owned()).filter(|answer| !answer.is_empty()),
            // It cannot answer this one; others it can.
            Err(ApiError::Refused {
                status: 400 | 413 | 422,
                ..
            }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Label {
            id: id(case).to_owned(),
            answer,
            by: self.api.model.clone(),
        })
    }
}

/// Labelled cases: those to learn from and those to judge with, drawn by what was asked.
pub(super) fn split(
    folder: &Folder,
    round: u32,
    judge_percent: u8,
) -> Result<(usize, usize), RoundError> {
    let labels = labels(&folder.of(round, LABELS))?;
    let cases = chats(&folder.of(round, cases::CASES))?.unwrap_or_default();
    let (mut learn, mut judge) = (Vec::new(), Vec::new());
    for mut case in cases {
        let Some(answer) = labels.get(id(&case)).and_then(|label| label.answer.clone()) else {
            continue;
        };
        case.messages
            .last_mut()
            .expect("it ends with an answer")
            .content = answer;
        let drawn = u32::from(case.digest()[0]) * 100 / 256;
        if drawn < u32::from(judge_percent) {
            judge.push(case);
        } else {
            learn.push(case);
        }
    }
    write_chats(&folder.of(round, LEARN), &learn)?;
    write_chats(&folder.of(round, JUDGE), &judge)?;
    Ok((learn.len(), judge.len()))
}

pub(super) const LEARN: &str = "learn.jsonl";
pub(super) const JUDGE: &str = "judge.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    fn label(id: &str, answer: Option<&str>) -> Label {
        Label {
            id: id.to_owned(),
            answer: answer.map(str::to_owned),
            by: "somebody".to_owned(),
        }
    }

    #[test]
    fn a_line_that_a_kill_cut_is_no_label_and_hurts_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels.jsonl");
        assert!(labels(&file).unwrap().is_empty());
        append(&file, &[label("a", Some("1")), label("b", None)]).unwrap();
        let whole = std::fs::read_to_string(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            append(&file, &[label("c", Some("3"))]).unwrap();
            let read = labels(&file).unwrap();
            let complete = whole[..cut].matches('\n').count();
            assert!(read.len() > complete, "{cut}: {read:?}");
            assert_eq!(read["c"], label("c", Some("3")));
        }
        append(&file, &[label("c", Some("4"))]).unwrap();
        assert_eq!(labels(&file).unwrap()["c"].answer.as_deref(), Some("4"));
    }
}
