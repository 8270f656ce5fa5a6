//! Log-probabilities in OpenAI's shapes.
//!
//! Source: OpenAI's API reference, chat completions `logprobs.content` and completions `logprobs`.

use serde_json::{Map, Value, json};

use super::openai::Endpoint;
use crate::io::gateway::{TokenLogprob, TokenLogprobs};

/// What is impossible; JSON has no infinity. Source: OpenAI's API reference.
const IMPOSSIBLE: f32 = -9999.0;

/// What came of one answer and is not sent yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    tokens: Vec<TokenLogprobs>,
    /// Characters of the answer before them.
    chars_before: usize,
    /// Whether they were asked for.
    wanted: bool,
}

impl Gathered {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, tokens: Vec<TokenLogprobs>) {
        self.tokens.extend(tokens);
    }

    /// Whether something is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// All of it as JSON; `null` where it was not asked for.
    pub(super) fn take(&mut self, endpoint: Endpoint) -> Value {
        if !self.wanted {
            return Value::Null;
        }
        let tokens = std::mem::take(&mut self.tokens);
        match endpoint {
            Endpoint::Chat => {
                let content: Vec<Value> = tokens.iter().map(entry).collect();
                json!({"content": content, "refusal": null})
            }
            Endpoint::Completions => self.lists(&tokens),
        }
    }

    /// One list for each property.
    fn lists(&mut self, tokens: &[TokenLogprobs]) -> Value {
        let offsets: Vec<usize> = tokens
            .iter()
            .map(|token| {
                let begins = |byte: &&u8| !matches!(**byte, 0x80..=0xBF);
                let before = self.chars_before;
                self.chars_before += token.drawn.bytes.iter().filter(begins).count();
                before
            })
            .collect();
        let top = tokens.iter().map(|token| {
            let likeliest = token.top.iter().map(|it| (text(it), number(it)));
            Value::Object(likeliest.collect::<Map<_, _>>())
        });
        json!({
            "tokens": tokens.iter().map(|token| text(&token.drawn)).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|token| number(&token.drawn)).collect::<Vec<_>>(),
            "top_logprobs": top.collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

fn entry(token: &TokenLogprobs) -> Value {
    let mut entry = one(&token.drawn);
    entry["top_logprobs"] = token.top.iter().map(one).collect();
    entry
}

fn one(token: &TokenLogprob) -> Value {
    json!({"token": text(token), "logprob": number(token), "bytes": &*token.bytes})
}

/// A part of a character is shown as a replacement; `bytes` have it.
fn text(token: &TokenLogprob) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

fn number(token: &TokenLogprob) -> Value {
    // The sum turns a negative zero into one.
    json!(token.logprob.max(IMPOSSIBLE) + 0.0)
}
