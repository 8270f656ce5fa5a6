//! What was said, made fit for the disk.

use outstation_wire::record::{Content, ContentMessage, Redaction};
use serde::de::IgnoredAny;

use crate::flag::{Finish, Form, Outcome, begins_as_refusal};
use crate::io::gateway::TextModel;
use crate::redact::{RULES_VERSION, Redactor};
use crate::request::{Format, GenerateRequest, Prompt};

/// Bytes of a record's content: what is longer loses its middle.
const CONTENT_BYTES_MAX: usize = 256 << 10;

/// Messages of a record: of longer conversations the first and the last ones.
const MESSAGES_MAX: usize = 256;

/// Bytes of a prompt, for allowances.
pub(super) fn input_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Ids(ids) => 4 * ids.len(),
        Prompt::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
    }
}

/// Redacts a request and its answer, and shortens them.
pub(super) fn make(
    redactor: &Redactor,
    text: &TextModel,
    request: &GenerateRequest,
    output: &str,
) -> Content {
    let (mut roles, mut texts): (Vec<&str>, Vec<String>) = match &request.prompt {
        Prompt::Text(prompt) => (vec!["prompt"], vec![prompt.clone()]),
        Prompt::Ids(ids) => (vec!["prompt"], vec![text.answer_text(ids, &[], 0)]),
        Prompt::Chat(messages) => messages
            .iter()
            .map(|message| (&*message.role, message.content.clone()))
            .unzip(),
    };
    let mut left_out = 0;
    if texts.len() > MESSAGES_MAX {
        let middle = MESSAGES_MAX / 2..texts.len() - MESSAGES_MAX / 2;
        left_out += texts[middle.clone()].iter().map(String::len).sum::<usize>();
        texts.drain(middle.clone());
        roles.drain(middle);
    }
    texts.push(output.to_owned());
    // Before anything is cut: half an identifier would not be known as one.
    let redacted = redactor.redact_all(&texts);
    let mut texts = redacted.texts;
    left_out += fit(&mut texts, CONTENT_BYTES_MAX);
    let output = texts.pop().expect("the answer was put last");
    let input = roles.into_iter().zip(texts);
    Content {
        input: input
            .map(|(role, content)| ContentMessage {
                role: role.to_owned(),
                content,
            })
            .collect(),
        output,
        redaction_version: RULES_VERSION,
        redactions: redacted
            .counts
            .iter()
            .map(|(kind, count)| Redaction {
                kind: kind.name().to_owned(),
                count,
            })
            .collect(),
        bytes_left_out: left_out as u64,
    }
}

/// Shortens the longest texts until all fit. Bytes that were left out.
fn fit(texts: &mut [String], bytes_max: usize) -> usize {
    let before: usize = texts.iter().map(String::len).sum();
    let mut total = before;
    while total > bytes_max {
        let longest = texts
            .iter_mut()
            .max_by_key(|text| text.len())
            .expect("there are some");
        // At least half of it stays: then the next one may be longer.
        let target = (longest.len() / 2).max(longest.len().saturating_sub(total - bytes_max));
        let shorter = shorten(std::mem::take(longest), target);
        *longest = shorter;
        total = texts.iter().map(String::len).sum();
    }
    before.saturating_sub(total)
}

/// A text without its middle, if it is longer than that.
pub(super) fn shorten(text: String, bytes_max: usize) -> String {
    const MARK: &str = " […] ";
    if text.len() <= bytes_max {
        return text;
    }
    let keep = bytes_max.saturating_sub(MARK.len()) / 2;
    let head = prefix(&text, keep);
    let mut tail = text.len() - keep;
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{head}{MARK}{}", &text[tail..])
}

/// The beginning of a text, at most so many bytes of whole characters.
pub(super) fn prefix(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What can be seen of an answer, knowing of the question only which form was asked for.
pub(super) fn outcome(finish: Finish, format: &Format, output: &str) -> Outcome {
    let trimmed = output.trim();
    let call = trimmed
        .strip_prefix("<tool_call>")
        .map(|rest| rest.trim_end().trim_end_matches("</tool_call>"));
    let tool_call = match call {
        Some(call) => form(is_tool_call(call)),
        // Models that are not told to mark calls write them bare.
        None if trimmed.starts_with("{\"name\"") => form(is_tool_call(trimmed)),
        None => Form::Free,
    };
    Outcome {
        finish,
        json: match (format, finish) {
            (Format::Text, _) | (_, Finish::Cancelled | Finish::Failed) => Form::Free,
            _ => form(serde_json::from_str::<IgnoredAny>(output).is_ok()),
        },
        tool_call,
        refusal: begins_as_refusal(output),
    }
}

fn form(valid: bool) -> Form {
    if valid { Form::Valid } else { Form::Invalid }
}

fn is_tool_call(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text.trim()) else {
        return false;
    };
    let named = value.get("name").is_some_and(serde_json::Value::is_string);
    let arguments = value.get("arguments").or_else(|| value.get("parameters"));
    named && arguments.is_some_and(|arguments| arguments.is_object() || arguments.is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_lose_their_middle_and_nothing_else() {
        let text = format!("begin{}end", "ä".repeat(1000));
        let short = shorten(text.clone(), 100);
        assert!(short.len() <= 102, "{}", short.len());
        assert!(short.starts_with("begin") && short.ends_with("end") && short.contains("[…]"));
        assert_eq!(shorten("short".to_owned(), 100), "short");
        let mut texts = vec![text, "kept".to_owned(), "ö".repeat(300)];
        let left_out = fit(&mut texts, 400);
        let now: usize = texts.iter().map(String::len).sum();
        assert!(now <= 402 && left_out > 2000, "{now} {left_out}");
        assert_eq!(texts[1], "kept");
    }

    #[test]
    fn an_answer_that_should_be_json_is_flagged_where_it_is_none() {
        let form = |finish, format: &Format, text| outcome(finish, format, text).json;
        let cut = r#"{"tilt": 2, "name": "no"#;
        let whole = r#"{"tilt": 2}"#;
        let schema = Format::Schema("{}".into());
        assert_eq!(form(Finish::Length, &Format::Text, cut), Form::Free);
        assert_eq!(form(Finish::Length, &Format::Json, cut), Form::Invalid);
        assert_eq!(form(Finish::Length, &Format::Json, whole), Form::Valid);
        assert_eq!(form(Finish::Stop, &schema, whole), Form::Valid);
        // By a stop string.
        assert_eq!(form(Finish::Stop, &schema, cut), Form::Invalid);
        assert_eq!(form(Finish::Cancelled, &schema, cut), Form::Free);
    }

    #[test]
    fn tool_calls_are_seen_and_checked() {
        let form = |text| outcome(Finish::Stop, &Format::Text, text).tool_call;
        assert_eq!(form("The antenna is fine."), Form::Free);
        assert_eq!(
            form(r#"{"name": "tilt", "arguments": {"by": 2}}"#),
            Form::Valid
        );
        assert_eq!(
            form(r#"{"name": "tilt", "arguments": {"by": "#),
            Form::Invalid
        );
        let marked = "<tool_call>\n{\"name\": \"tilt\", \"arguments\": {}}\n</tool_call>";
        assert_eq!(form(marked), Form::Valid);
        assert_eq!(form("<tool_call>tilt it</tool_call>"), Form::Invalid);
    }
}
