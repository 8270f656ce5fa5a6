//! Pieces of an answer in OpenAI's shapes: one object, or server-sent events.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::api::error_json;
use super::backend::Answer;
use super::logprobs::Gathered;
use super::openai::Endpoint;
use crate::io::gateway::Piece;
use crate::request::{FinishReason, Refusal, RefusalKind, Timings, Usage};

/// Silence after which a comment shows proxies and clients that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What all chunks of one answer share.
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    /// Log-probabilities were asked for.
    pub(super) logprobs: bool,
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

    fn text_chunk(&self, index: usize, first: bool, text: &str, logprobs: Value) -> Value {
        self.chunk(match self.endpoint {
            Endpoint::Chat if first => {
                json!([{"index": index, "delta": {"role": "assistant", "content": text},
                "logprobs": logprobs, "finish_reason": null}])
            }
            Endpoint::Chat => json!([{"index": index, "delta": {"content": text},
                "logprobs": logprobs, "finish_reason": null}]),
            Endpoint::Completions => json!([{"index": index, "text": text,
                "logprobs": logprobs, "finish_reason": null}]),
        })
    }

    fn last_chunk(&self, index: usize, finish: FinishReason, logprobs: Value) -> Value {
        let finish = finish_name(finish);
        self.chunk(match self.endpoint {
            Endpoint::Chat => {
                json!([{"index": index, "delta": {}, "logprobs": logprobs, "finish_reason": finish}])
            }
            Endpoint::Completions => {
                json!([{"index": index, "text": "", "logprobs": logprobs, "finish_reason": finish}])
            }
        })
    }
}

/// The whole of each answer, and where the time of the slowest went.
pub(super) async fn whole<A: Answer>(
    head: &Head,
    answers: Vec<A>,
) -> Result<(Value, Timings), Refusal> {
    let mut texts = vec![String::new(); answers.len()];
    let mut gathered = vec![Gathered::new(head.logprobs); answers.len()];
    let mut choices = vec![Value::Null; answers.len()];
    let mut merged = Merged::new(answers);
    let mut all = Timings::default();
    while let Some((index, piece)) = merged.next().await {
        match piece {
            Some(Piece::Text { text, logprobs, .. }) => {
                texts[index].push_str(&text);
                gathered[index].add(logprobs);
            }
            Some(Piece::Failed(refusal)) => return Err(refusal),
            Some(Piece::Done {
                finish, timings, ..
            }) => {
                let (text, finish) = (&texts[index], finish_name(finish));
                let logprobs = gathered[index].take(head.endpoint);
                choices[index] = match head.endpoint {
                    Endpoint::Chat => {
                        json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null},
                            "logprobs": logprobs, "finish_reason": finish})
                    }
                    Endpoint::Completions => {
                        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
                    }
                };
                all.queue = all.queue.max(timings.queue);
                all.prefill = all.prefill.max(timings.prefill);
                all.decode = all.decode.max(timings.decode);
            }
            None => return Err(broken_off()),
        }
    }
    let kind = match head.endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completions => "text_completion",
    };
    let mut body = head.object(kind, Value::Array(choices));
    body["usage"] = usage_json(merged.usage);
    Ok((body, all))
}

/// Answers to one question, their pieces as they come.
struct Merged<A> {
    /// Those that go on.
    answers: Vec<Option<A>>,
    /// Whose piece is looked for first.
    turn: usize,
    /// What those that are done cost. The prompt is one, however many answers it has.
    usage: Usage,
}

impl<A: Answer> Merged<A> {
    fn new(answers: Vec<A>) -> Self {
        Self {
            answers: answers.into_iter().map(Some).collect(),
            turn: 0,
            usage: Usage::default(),
        }
    }

    /// The next piece and whose it is; `None` when all are done. Dropping the future loses none.
    async fn next(&mut self) -> Option<(usize, Option<Piece>)> {
        if self.is_over() {
            return None;
        }
        let count = self.answers.len();
        let (index, piece) = std::future::poll_fn(|context| {
            for index in (self.turn..count).chain(0..self.turn) {
                if let Some(answer) = &mut self.answers[index]
                    && let Poll::Ready(piece) = pin!(answer.next()).poll(context)
                {
                    return Poll::Ready((index, piece));
                }
            }
            Poll::Pending
        })
        .await;
        self.turn = (index + 1) % count;
        if let Some(Piece::Done { usage, .. }) = &piece {
            self.answers[index] = None;
            self.usage.prompt_tokens = usage.prompt_tokens;
            self.usage.completion_tokens += usage.completion_tokens;
            self.usage.cached_tokens = match self.usage.cached_tokens {
                0 => usage.cached_tokens,
                least => least.min(usage.cached_tokens),
            };
        }
        Some((index, piece))
    }

    fn is_over(&self) -> bool {
        self.answers.iter().all(Option::is_none)
    }
}

/// A body that sends each piece as it comes. hyper drops it when the client goes away.
pub(super) fn events<A: Answer>(head: Head, answers: Vec<A>, include_usage: bool) -> Body {
    let state = Events {
        role_sent: vec![false; answers.len()],
        gathered: vec![Gathered::new(head.logprobs); answers.len()],
        head,
        answers: Merged::new(answers),
        include_usage,
        ended: false,
    };
    Body::from_stream(stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    }))
}

struct Events<A> {
    head: Head,
    answers: Merged<A>,
    include_usage: bool,
    role_sent: Vec<bool>,
    /// What came with tokens that had no text yet.
    gathered: Vec<Gathered>,
    ended: bool,
}

impl<A: Answer> Events<A> {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let Ok(next) = tokio::time::timeout(KEEP_ALIVE, self.answers.next()).await else {
                return Some(Bytes::from_static(b": \n\n"));
            };
            let (index, piece) = next?;
            let mut events = String::new();
            match piece {
                // The role waits for the first text: a client that times the first chunk times the first token.
                Some(Piece::Text { text, logprobs, .. }) => {
                    self.gathered[index].add(logprobs);
                    if !text.is_empty() {
                        self.text(index, &text, &mut events);
                    }
                }
                Some(Piece::Done { finish, .. }) => self.done(index, finish, &mut events),
                Some(Piece::Failed(refusal)) => self.failed(&refusal, &mut events),
                None => self.failed(&broken_off(), &mut events),
            }
            if !events.is_empty() {
                return Some(Bytes::from(events));
            }
        }
        None
    }

    fn text(&mut self, index: usize, text: &str, events: &mut String) {
        let first = !std::mem::replace(&mut self.role_sent[index], true);
        let logprobs = self.gathered[index].take(self.head.endpoint);
        self.send(self.head.text_chunk(index, first, text, logprobs), events);
    }

    fn done(&mut self, index: usize, finish: FinishReason, events: &mut String) {
        if !self.role_sent[index] && self.head.endpoint == Endpoint::Chat {
            self.text(index, "", events);
        }
        let rest = if self.gathered[index].is_empty() {
            Value::Null
        } else {
            self.gathered[index].take(self.head.endpoint)
        };
        self.send(self.head.last_chunk(index, finish, rest), events);
        if !self.answers.is_over() {
            return;
        }
        if self.include_usage {
            let mut chunk = self.head.chunk(json!([]));
            chunk["usage"] = usage_json(self.answers.usage);
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
