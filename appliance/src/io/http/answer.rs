//! Pieces of an answer in OpenAI's shapes: one object, or server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::api::error_json;
use super::backend::Answer;
use super::openai::Endpoint;
use crate::io::gateway::Piece;
use crate::request::{FinishReason, Refusal, RefusalKind, Timings, Usage};

/// Silence after which a comment shows proxies and clients that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What all chunks of one answer share.
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }

    fn chunk(&self, choice: Value) -> Value {
        let kind = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        };
        self.object(kind, choice)
    }

    fn text_chunk(&self, first: bool, text: &str) -> Value {
        self.chunk(match self.endpoint {
            Endpoint::Chat if first => {
                json!([{"index": 0, "delta": {"role": "assistant", "content": text},
                "logprobs": null, "finish_reason": null}])
            }
            Endpoint::Chat => json!([{"index": 0, "delta": {"content": text},
                "logprobs": null, "finish_reason": null}]),
            Endpoint::Completions => json!([{"index": 0, "text": text,
                "logprobs": null, "finish_reason": null}]),
        })
    }

    fn last_chunk(&self, finish: FinishReason) -> Value {
        let finish = finish_name(finish);
        self.chunk(match self.endpoint {
            Endpoint::Chat => {
                json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish}])
            }
            Endpoint::Completions => {
                json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": finish}])
            }
        })
    }
}

/// A whole answer, and where its time went.
pub(super) async fn whole(
    head: &Head,
    mut answer: impl Answer,
) -> Result<(Value, Timings), Refusal> {
    let mut text = String::new();
    loop {
        match answer.next().await {
            Some(Piece::Text { text: piece, .. }) => text.push_str(&piece),
            Some(Piece::Failed(refusal)) => return Err(refusal),
            Some(Piece::Done {
                finish,
                usage,
                timings,
            }) => {
                let finish = finish_name(finish);
                let mut body = match head.endpoint {
                    Endpoint::Chat => head.object(
                        "chat.completion",
                        json!([{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                            "logprobs": null, "finish_reason": finish}]),
                    ),
                    Endpoint::Completions => head.object(
                        "text_completion",
                        json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}]),
                    ),
                };
                body["usage"] = usage_json(usage);
                return Ok((body, timings));
            }
            None => return Err(broken_off()),
        }
    }
}

/// A body that sends each piece as it comes. hyper drops it when the client goes away.
pub(super) fn events<A: Answer>(head: Head, answer: A, include_usage: bool) -> Body {
    let state = Events {
        head,
        answer,
        include_usage,
        role_sent: false,
        ended: false,
    };
    Body::from_stream(stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    }))
}

struct Events<A> {
    head: Head,
    answer: A,
    include_usage: bool,
    role_sent: bool,
    ended: bool,
}

impl<A: Answer> Events<A> {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let Ok(piece) = tokio::time::timeout(KEEP_ALIVE, self.answer.next()).await else {
                return Some(Bytes::from_static(b": \n\n"));
            };
            let mut events = String::new();
            match piece {
                // The role waits for the first text: a client that times the first chunk times the first token.
                Some(Piece::Text { text, .. }) if text.is_empty() => {}
                Some(Piece::Text { text, .. }) => self.text(&text, &mut events),
                Some(Piece::Done { finish, usage, .. }) => self.done(finish, usage, &mut events),
                Some(Piece::Failed(refusal)) => self.failed(&refusal, &mut events),
                None => self.failed(&broken_off(), &mut events),
            }
            if !events.is_empty() {
                return Some(Bytes::from(events));
            }
        }
        None
    }

    fn text(&mut self, text: &str, events: &mut String) {
        let first = !std::mem::replace(&mut self.role_sent, true);
        self.send(self.head.text_chunk(first, text), events);
    }

    fn done(&mut self, finish: FinishReason, usage: Usage, events: &mut String) {
        if !self.role_sent && self.head.endpoint == Endpoint::Chat {
            self.text("", events);
        }
        self.send(self.head.last_chunk(finish), events);
        if self.include_usage {
            let mut chunk = self.head.chunk(json!([]));
            chunk["usage"] = usage_json(usage);
            event(&chunk, events);
        }
        events.push_str("data: [DONE]\n\n");
        self.ended = true;
    }

    /// Neither a finish reason nor `[DONE]`: nobody may take a torn answer for a whole one.
    fn failed(&mut self, refusal: &Refusal, events: &mut String) {
        event(&error_json(refusal), events);
        self.ended = true;
    }

    fn send(&self, mut chunk: Value, events: &mut String) {
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        event(&chunk, events);
    }
}

/// JSON has no line ends outside of strings and escapes them inside, so one `data:` line holds it.
fn event(json: &Value, events: &mut String) {
    events.push_str("data: ");
    events.push_str(&json.to_string());
    events.push_str("\n\n");
}

fn broken_off() -> Refusal {
    Refusal::plain(RefusalKind::Internal, "the answer broke off inside the box")
}

fn finish_name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}
