//! The API over real sockets, with a script in place of the engine.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::io::gateway::{Piece, ServedModel};
use crate::request::{FinishReason, GenerateRequest, Prompt, Refusal, RefusalKind, Timings, Usage};

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
        };
        Script(Arc::new(State {
            served,
            under_way: AtomicUsize::new(0),
            gone: Notify::new(),
        }))
    }
}

#[derive(Serialize)]
struct Numbers {
    sequences: u32,
}

impl Backend for Script {
    type Answer = ScriptedAnswer;

    fn served(&self) -> &ServedModel {
        &self.0.served
    }

    fn ready(&self) -> bool {
        false
    }

    fn status(&self) -> impl Serialize {
        Numbers { sequences: 3 }
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
        let started = Piece::Started {
            queue: Duration::ZERO,
        };
        let pieces = match prompt.as_str() {
            "full" => return Err(refusal(RefusalKind::Overloaded, Some(1500))),
            "draining" => return Err(refusal(RefusalKind::Draining, Some(60_000))),
            "long" => return Err(Refusal::context_overflow(600, 1, 512)),
            "fail" => vec![
                started,
                text("He"),
                Piece::Failed(refusal(RefusalKind::SlowConsumer, None)),
            ],
            "torn" => vec![started, text("He")],
            "nothing" => vec![started, done(FinishReason::Length)],
            "hang" => vec![started, text("He")],
            _ => vec![
                started,
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
    (Server::start(listener, script.clone()), address)
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
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
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
    check(&chat("hi", ""), &expect![[r#""#]]);
}

#[test]
fn a_streamed_chat() {
    check(
        &chat(
            "hi",
            r#", "stream": true, "stream_options": {"include_usage": true}"#,
        ),
        &expect![[r#""#]],
    );
    check(&chat("nothing", r#", "stream": true"#), &expect![[r#""#]]);
}

#[test]
fn a_stream_that_fails_has_no_finish_reason() {
    check(&chat("fail", r#", "stream": true"#), &expect![[r#""#]]);
    check(&chat("torn", r#", "stream": true"#), &expect![[r#""#]]);
    check(&chat("fail", ""), &expect![[r#""#]]);
}

#[test]
fn a_completion() {
    check(
        &post("/v1/completions", r#"{"prompt": [1, 2]}"#),
        &expect![[r#""#]],
    );
    check(
        &post("/v1/completions", r#"{"prompt": "hi", "stream": true}"#),
        &expect![[r#""#]],
    );
}

#[test]
fn refusals_say_when_to_come_back() {
    check(&chat("full", ""), &expect![[r#""#]]);
    check(&chat("draining", r#", "stream": true"#), &expect![[r#""#]]);
    check(&chat("long", ""), &expect![[r#""#]]);
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check(
        &post("/v1/completions", "{\"prompt\":\n \"hi\",}"),
        &expect![[r#""#]],
    );
    let form = post("/v1/completions", "{}").replace("application/json", "text/plain");
    check(&form, &expect![[r#""#]]);
    let huge = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        BODY_BYTES_MAX + 1
    );
    check(&huge, &expect![[r#""#]]);
}

#[test]
fn models_and_health() {
    check(&get("/v1/models"), &expect![[r#""#]]);
    check(&get("/v1/models/org/tiny"), &expect![[r#""#]]);
    check(&get("/v1/models/other"), &expect![[r#""#]]);
    check(&get("/health"), &expect![[r#""#]]);
    check(&get("/ready"), &expect![[r#""#]]);
    check(&get("/status"), &expect![[r#""#]]);
    check(&get("/nowhere"), &expect![[r#""#]]);
    check(&get("/v1/completions"), &expect![[r#""#]]);
}

#[test]
fn a_request_id_comes_back() {
    let id = |id: &str| {
        let request = get("/health").replace("host: a", &format!("host: a\r\nx-request-id: {id}"));
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
