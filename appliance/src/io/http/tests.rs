//! The API over real sockets, with a script in place of the engine.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::io::access::Door;
use crate::io::gateway::{Forecast, Piece, ServedModel, TokenLogprob, TokenLogprobs};
use crate::io::log::Feedback;
use crate::request::{
    FinishReason, GenerateRequest, Prompt, Refusal, RefusalKind, Tenant, Timings, Usage,
};

/// Answers by what the prompt says.
#[derive(Clone)]
struct Script(Arc<State>);

struct State {
    served: ServedModel,
    under_way: AtomicUsize,
    gone: Notify,
}

struct ScriptedAnswer {
    pieces: std::vec::IntoIter<Piece>,
    /// After the pieces: wait forever instead of ending.
    hangs: bool,
    state: Arc<State>,
}

impl Script {
    fn new() -> Script {
        let served = ServedModel {
            id: "org/tiny".to_owned(),
            created_unix_s: 7,
            context_tokens_max: 512,
            parent: None,
        };
        Script(Arc::new(State {
            served,
            under_way: AtomicUsize::new(0),
            gone: Notify::new(),
        }))
    }
}

/// As if a text were one token, and each of the next ones half as likely as the one before.
fn odds(text: &str, top: u32) -> TokenLogprobs {
    let likely = |bytes: &[u8], halvings: u32| TokenLogprob {
        bytes: bytes.into(),
        logprob: match halvings {
            2 => f32::NEG_INFINITY,
            halvings => -0.5 * halvings as f32,
        },
    };
    TokenLogprobs {
        drawn: likely(text.as_bytes(), 0),
        // The first byte of a character has no text of its own.
        top: (0..top).map(|it| likely(b"\xc3", it)).collect(),
    }
}

#[derive(Serialize)]
struct Numbers {
    sequences: u32,
}

impl Backend for Script {
    type Answer = ScriptedAnswer;

    fn models(&self) -> Vec<ServedModel> {
        let base = &self.0.served;
        let with_adapter = ServedModel {
            id: format!("{}:plant-7", base.id),
            parent: Some(base.id.clone()),
            ..base.clone()
        };
        vec![base.clone(), with_adapter]
    }

    fn ready(&self) -> bool {
        false
    }

    fn status(&self) -> impl Serialize {
        Numbers { sequences: 3 }
    }

    fn releases(&self) -> Option<crate::io::ota::runner::Handle> {
        None
    }

    fn feedback(&self, _: Tenant, feedback: Feedback) -> Heard {
        match &*feedback.response_id {
            "known" => Heard::Recorded,
            "unknown" => Heard::Unknown,
            _ => Heard::NoLog,
        }
    }

    async fn submit(&self, request: GenerateRequest) -> Result<ScriptedAnswer, Refusal> {
        let prompt = match request.prompt {
            Prompt::Text(text) => text,
            Prompt::Ids(ids) => format!("{ids:?}"),
            Prompt::Chat(messages) => messages
                .into_iter()
                .map(|message| message.content)
                .collect(),
        };
        let refusal = |kind, retry_after_ms| Refusal {
            retry_after_ms,
            ..Refusal::plain(kind, "as the script says")
        };
        let text = |text: &str| Piece::Text {
            text: text.to_owned(),
            token_ids: vec![1],
            logprobs: match request.logprobs {
                None => Vec::new(),
                Some(top) => vec![odds(text, top)],
            },
        };
        let usage = Usage {
            prompt_tokens: 5,
            completion_tokens: 2,
            cached_tokens: 1,
        };
        let done = |finish| Piece::Done {
            finish,
            usage,
            timings: Timings::default(),
        };
        let pieces = match prompt.as_str() {
            "full" => return Err(refusal(RefusalKind::Overloaded, Some(1500))),
            "draining" => return Err(refusal(RefusalKind::Draining, Some(60_000))),
            "deadline" => {
                let left = request.deadline.expect("it came with one").as_secs();
                let kind = RefusalKind::Deadline;
                return Err(Refusal::plain(kind, format!("{left} s are left")));
            }
            "long" => return Err(Refusal::context_overflow(600, 1, 512)),
            "fail" => vec![
                text("He"),
                Piece::Failed(refusal(RefusalKind::SlowConsumer, None)),
            ],
            "nothing" => vec![done(FinishReason::Length)],
            "torn" | "hang" => vec![text("He")],
            _ => vec![
                text("He"),
                text(""),
                text("llo\n\"é\""),
                done(FinishReason::Stop),
            ],
        };
        self.0.under_way.fetch_add(1, Ordering::SeqCst);
        let hangs = prompt == "hang";
        Ok(ScriptedAnswer {
            pieces: pieces.into_iter(),
            hangs,
            state: self.0.clone(),
        })
    }
}

impl Answer for ScriptedAnswer {
    fn model(&self) -> &str {
        &self.state.served.id
    }

    fn forecast(&self) -> Forecast {
        Forecast {
            first_token_in: Duration::from_millis(120),
            queued_before: 3,
        }
    }

    async fn next(&mut self) -> Option<Piece> {
        match self.pieces.next() {
            None if self.hangs => std::future::pending().await,
            piece => piece,
        }
    }
}

impl Drop for ScriptedAnswer {
    fn drop(&mut self) {
        self.state.under_way.fetch_sub(1, Ordering::SeqCst);
        self.state.gone.notify_one();
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("it ends")
    })
}

async fn serve(script: &Script) -> (Server, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (
        Server::start(listener, script.clone(), Door::default(), None),
        address,
    )
}

/// Sends one request and shows all that comes back, without what differs from run to run.
async fn exchange(request: &str) -> String {
    let (server, address) = serve(&Script::new()).await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    server.close().await;
    let lines = answer.lines().filter(|line| {
        let volatile = ["date: ", "x-request-id: req-", "openai-processing-ms: "];
        // Lengths of chunks.
        let is_length = line.len() < 4 && u32::from_str_radix(line, 16).is_ok();
        !volatile.iter().any(|start| line.starts_with(start)) && !is_length
    });
    let mut shown: Vec<String> = lines.map(str::to_owned).collect();
    for line in &mut shown {
        hide(line, "\"id\":\"chatcmpl-", "\"");
        hide(line, "\"id\":\"cmpl-", "\"");
        if line.contains("cmpl-") {
            hide(line, "\"created\":", ",");
        }
    }
    shown.retain(|line| !line.is_empty());
    shown.join("\n")
}

/// Replaces what stands between two texts.
fn hide(line: &mut String, before: &str, after: &str) {
    if let Some(start) = line.find(before).map(|at| at + before.len())
        && let Some(length) = line[start..].find(after)
    {
        line.replace_range(start..start + length, "…");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn chat(said: &str, more: &str) -> String {
    let body = format!(r#"{{"messages": [{{"role": "user", "content": "{said}"}}]{more}}}"#);
    post("/v1/chat/completions", &body)
}

fn check(request: &str, expected: &Expect) {
    expected.assert_eq(&run(exchange(request)));
}

#[test]
fn a_whole_chat() {
    check(
        &chat("hi", ""),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            server-timing: queue;dur=0.000, prefill;dur=0.000, decode;dur=0.000
            x-forecast-ttft-ms: 120
            content-length: 398
            connection: close
            {"id":"chatcmpl-…","object":"chat.completion","created":…,"model":"org/tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello\n\"é\"","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}"#]],
    );
}

#[test]
fn two_answers_to_one_question() {
    check(
        &chat("hi", r#", "n": 2"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            server-timing: queue;dur=0.000, prefill;dur=0.000, decode;dur=0.000
            x-forecast-ttft-ms: 120
            content-length: 521
            connection: close
            {"id":"chatcmpl-…","object":"chat.completion","created":…,"model":"org/tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello\n\"é\"","refusal":null},"logprobs":null,"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":"Hello\n\"é\"","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}"#]],
    );
    check(
        &chat(
            "hi",
            r#", "n": 2, "stream": true, "stream_options": {"include_usage": true}"#,
        ),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":1,"delta":{"role":"assistant","content":"He"},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"content":"llo\n\"é\""},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":1,"delta":{"content":"llo\n\"é\""},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":1,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}
            data: [DONE]"#]],
    );
}

#[test]
fn log_probabilities_of_tokens() {
    for (request, expected) in [
        (
            chat("hi", r#", "logprobs": true, "top_logprobs": 3"#),
            expect![[r#"
                HTTP/1.1 200 OK
                content-type: application/json
                server-timing: queue;dur=0.000, prefill;dur=0.000, decode;dur=0.000
                x-forecast-ttft-ms: 120
                content-length: 1045
                connection: close
                {"id":"chatcmpl-…","object":"chat.completion","created":…,"model":"org/tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello\n\"é\"","refusal":null},"logprobs":{"content":[{"token":"He","logprob":0.0,"bytes":[72,101],"top_logprobs":[{"token":"�","logprob":0.0,"bytes":[195]},{"token":"�","logprob":-0.5,"bytes":[195]},{"token":"�","logprob":-9999.0,"bytes":[195]}]},{"token":"","logprob":0.0,"bytes":[],"top_logprobs":[{"token":"�","logprob":0.0,"bytes":[195]},{"token":"�","logprob":-0.5,"bytes":[195]},{"token":"�","logprob":-9999.0,"bytes":[195]}]},{"token":"llo\n\"é\"","logprob":0.0,"bytes":[108,108,111,10,34,195,169,34],"top_logprobs":[{"token":"�","logprob":0.0,"bytes":[195]},{"token":"�","logprob":-0.5,"bytes":[195]},{"token":"�","logprob":-9999.0,"bytes":[195]}]}],"refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}"#]],
        ),
        (
            chat("hi", r#", "logprobs": true, "stream": true"#),
            expect![[r#"
                HTTP/1.1 200 OK
                content-type: text/event-stream; charset=utf-8
                cache-control: no-cache
                x-forecast-ttft-ms: 120
                connection: close
                transfer-encoding: chunked
                data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"logprobs":{"content":[{"token":"He","logprob":0.0,"bytes":[72,101],"top_logprobs":[]}],"refusal":null},"finish_reason":null}]}
                data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"content":"llo\n\"é\""},"logprobs":{"content":[{"token":"","logprob":0.0,"bytes":[],"top_logprobs":[]},{"token":"llo\n\"é\"","logprob":0.0,"bytes":[108,108,111,10,34,195,169,34],"top_logprobs":[]}],"refusal":null},"finish_reason":null}]}
                data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
                data: [DONE]"#]],
        ),
        (
            post("/v1/completions", r#"{"prompt": "hi", "logprobs": 1}"#),
            expect![[r#"
                HTTP/1.1 200 OK
                content-type: application/json
                server-timing: queue;dur=0.000, prefill;dur=0.000, decode;dur=0.000
                x-forecast-ttft-ms: 120
                content-length: 481
                connection: close
                {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"Hello\n\"é\"","logprobs":{"tokens":["He","","llo\n\"é\""],"token_logprobs":[0.0,0.0,0.0],"top_logprobs":[{"�":0.0},{"�":0.0},{"�":0.0}],"text_offset":[0,2,2]},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}"#]],
        ),
        (
            post(
                "/v1/completions",
                r#"{"prompt": "hi", "logprobs": 0, "stream": true}"#,
            ),
            expect![[r#"
                HTTP/1.1 200 OK
                content-type: text/event-stream; charset=utf-8
                cache-control: no-cache
                x-forecast-ttft-ms: 120
                connection: close
                transfer-encoding: chunked
                data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"He","logprobs":{"tokens":["He"],"token_logprobs":[0.0],"top_logprobs":[{}],"text_offset":[0]},"finish_reason":null}]}
                data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"llo\n\"é\"","logprobs":{"tokens":["","llo\n\"é\""],"token_logprobs":[0.0,0.0],"top_logprobs":[{},{}],"text_offset":[2,2]},"finish_reason":null}]}
                data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}
                data: [DONE]"#]],
        ),
    ] {
        check(&request, &expected);
    }
}

/// The box hears of a deadline; one that is no number is refused.
#[test]
fn a_deadline_is_a_header() {
    let with = |value: &str| {
        let header = format!("host: localhost\r\nx-deadline-ms: {value}\r\n");
        chat("deadline", "").replacen("host: localhost\r\n", &header, 1)
    };
    check(
        &with("2500"),
        &expect![[r#"
            HTTP/1.1 504 Gateway Timeout
            content-type: application/json
            x-should-retry: false
            content-length: 98
            connection: close
            {"error":{"message":"2 s are left","type":"server_error","param":null,"code":"deadline_exceeded"}}"#]],
    );
    check(
        &with("soon"),
        &expect![[r#"
            HTTP/1.1 400 Bad Request
            content-type: application/json
            x-should-retry: false
            content-length: 136
            connection: close
            {"error":{"message":"x-deadline-ms must be milliseconds, like 2500","type":"invalid_request_error","param":"x-deadline-ms","code":null}}"#]],
    );
}

#[test]
fn a_streamed_chat() {
    check(
        &chat(
            "hi",
            r#", "stream": true, "stream_options": {"include_usage": true}"#,
        ),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"content":"llo\n\"é\""},"logprobs":null,"finish_reason":null}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}
            data: [DONE]"#]],
    );
    check(
        &chat("nothing", r#", "stream": true"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}
            data: [DONE]"#]],
    );
}

#[test]
fn a_stream_that_fails_has_no_finish_reason() {
    check(
        &chat("fail", r#", "stream": true"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"logprobs":null,"finish_reason":null}]}
            data: {"error":{"message":"as the script says","type":"server_error","param":null,"code":"slow_consumer"}}"#]],
    );
    check(
        &chat("torn", r#", "stream": true"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"org/tiny","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"logprobs":null,"finish_reason":null}]}
            data: {"error":{"message":"the answer broke off inside the box","type":"server_error","param":null,"code":"internal_error"}}"#]],
    );
    check(
        &chat("fail", ""),
        &expect![[r#"
            HTTP/1.1 503 Service Unavailable
            content-type: application/json
            content-length: 100
            connection: close
            {"error":{"message":"as the script says","type":"server_error","param":null,"code":"slow_consumer"}}"#]],
    );
}

#[test]
fn a_completion() {
    check(
        &post("/v1/completions", r#"{"prompt": [1, 2]}"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            server-timing: queue;dur=0.000, prefill;dur=0.000, decode;dur=0.000
            x-forecast-ttft-ms: 120
            content-length: 345
            connection: close
            {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"Hello\n\"é\"","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}}}"#]],
    );
    check(
        &post("/v1/completions", r#"{"prompt": "hi", "stream": true}"#),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/event-stream; charset=utf-8
            cache-control: no-cache
            x-forecast-ttft-ms: 120
            connection: close
            transfer-encoding: chunked
            data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"He","logprobs":null,"finish_reason":null}]}
            data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"llo\n\"é\"","logprobs":null,"finish_reason":null}]}
            data: {"id":"cmpl-…","object":"text_completion","created":…,"model":"org/tiny","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}
            data: [DONE]"#]],
    );
}

#[test]
fn refusals_say_when_to_come_back() {
    check(
        &chat("full", ""),
        &expect![[r#"
            HTTP/1.1 429 Too Many Requests
            content-type: application/json
            retry-after-ms: 1500
            retry-after: 2
            content-length: 110
            connection: close
            {"error":{"message":"as the script says","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#]],
    );
    check(
        &chat("draining", r#", "stream": true"#),
        &expect![[r#"
            HTTP/1.1 503 Service Unavailable
            content-type: application/json
            retry-after-ms: 60000
            retry-after: 60
            content-length: 95
            connection: close
            {"error":{"message":"as the script says","type":"server_error","param":null,"code":"draining"}}"#]],
    );
    check(
        &chat("long", ""),
        &expect![[r#"
            HTTP/1.1 400 Bad Request
            content-type: application/json
            x-should-retry: false
            content-length: 216
            connection: close
            {"error":{"message":"the prompt has 600 tokens and 1 more are asked for, the context has 512: shorten the prompt or lower max_tokens","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}}"#]],
    );
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check(
        &post("/v1/completions", "{\"prompt\":\n \"hi\",}"),
        &expect![[r#"
            HTTP/1.1 400 Bad Request
            content-type: application/json
            x-should-retry: false
            content-length: 159
            connection: close
            {"error":{"message":"the body is not the JSON object it should be: trailing comma at line 2 column 7","type":"invalid_request_error","param":null,"code":null}}"#]],
    );
    let form = post("/v1/completions", "{}").replace("application/json", "text/plain");
    check(
        &form,
        &expect![[r#"
            HTTP/1.1 415 Unsupported Media Type
            content-type: application/json
            x-should-retry: false
            content-length: 171
            connection: close
            {"error":{"message":"send the body as JSON, with the header `content-type: application/json`","type":"invalid_request_error","param":null,"code":"unsupported_media_type"}}"#]],
    );
    let huge = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        BODY_BYTES_MAX + 1
    );
    check(
        &huge,
        &expect![[r#"
            HTTP/1.1 413 Payload Too Large
            content-type: application/json
            x-should-retry: false
            content-length: 155
            connection: close
            {"error":{"message":"the body is larger than 8454144 bytes: send a shorter prompt","type":"invalid_request_error","param":null,"code":"request_too_large"}}"#]],
    );
}

#[test]
fn models_and_health() {
    check(
        &get("/v1/models"),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            content-length: 236
            connection: close
            {"object":"list","data":[{"id":"org/tiny","object":"model","created":7,"owned_by":"outstation","max_model_len":512},{"id":"org/tiny:plant-7","object":"model","created":7,"owned_by":"outstation","max_model_len":512,"parent":"org/tiny"}]}"#]],
    );
    check(
        &get("/v1/models/org/tiny"),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            content-length: 90
            connection: close
            {"id":"org/tiny","object":"model","created":7,"owned_by":"outstation","max_model_len":512}"#]],
    );
    check(
        &get("/v1/models/other"),
        &expect![[r#"
            HTTP/1.1 404 Not Found
            content-type: application/json
            x-should-retry: false
            content-length: 184
            connection: close
            {"error":{"message":"no model `other` here: this box serves `org/tiny`, `org/tiny:plant-7` (or say `default`)","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#]],
    );
    check(
        &get("/health"),
        &expect![[r#"
        HTTP/1.1 200 OK
        content-type: application/json
        content-length: 15
        connection: close
        {"status":"up"}"#]],
    );
    check(
        &get("/ready"),
        &expect![[r#"
        HTTP/1.1 503 Service Unavailable
        content-type: application/json
        retry-after: 1
        content-length: 15
        connection: close
        {"ready":false}"#]],
    );
    check(
        &get("/status"),
        &expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/json
            content-length: 114
            connection: close
            {"sequences":3,"model":{"id":"org/tiny","object":"model","created":7,"owned_by":"outstation","max_model_len":512}}"#]],
    );
    check(
        &get("/nowhere"),
        &expect![[r#"
            HTTP/1.1 404 Not Found
            content-type: application/json
            x-should-retry: false
            content-length: 243
            connection: close
            {"error":{"message":"nothing is at /nowhere: POST /v1/chat/completions, POST /v1/completions, POST /v1/feedback, GET /v1/models, GET /health, GET /ready and GET /status are here","type":"invalid_request_error","param":null,"code":"not_found"}}"#]],
    );
    check(
        &get("/v1/completions"),
        &expect![[r#"
            HTTP/1.1 405 Method Not Allowed
            content-type: application/json
            x-should-retry: false
            allow: POST
            content-length: 126
            connection: close
            {"error":{"message":"GET is not for /v1/completions","type":"invalid_request_error","param":null,"code":"method_not_allowed"}}"#]],
    );
}

#[test]
fn a_request_id_comes_back() {
    let id = |id: &str| {
        let request = get("/health").replace(
            "host: localhost",
            &format!("host: localhost\r\nx-request-id: {id}"),
        );
        run(exchange(&request))
            .lines()
            .find(|line| line.starts_with("x-request-id"))
            .map(str::to_owned)
    };
    assert_eq!(id("mine-7").as_deref(), Some("x-request-id: mine-7"));
    assert_eq!(
        id(&"x".repeat(129)),
        None,
        "replaced by one of ours, which is not shown"
    );
}

#[test]
fn a_client_that_goes_away_cancels() {
    run(async {
        let script = Script::new();
        let (server, address) = serve(&script).await;
        for more in ["", r#", "stream": true"#] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream
                .write_all(chat("hang", more).as_bytes())
                .await
                .expect("it reads");
            while script.0.under_way.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            if !more.is_empty() {
                let mut first = [0; 16];
                stream.read_exact(&mut first).await.expect("the head");
            }
            drop(stream);
            script.0.gone.notified().await;
            assert_eq!(script.0.under_way.load(Ordering::SeqCst), 0);
        }
        server.close().await;
    });
}
