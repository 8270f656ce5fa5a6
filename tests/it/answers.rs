//! What comes out: over QUIC and HTTP, alone and in a crowd, whole or left in the middle.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use outstation_client::{ClientOptions, Event, Session, Trust};
use outstation_wire::frame::{Class, Generate, Prompt, Sampling};
use serde_json::{Value, json};

use crate::server::{Server, exchange, get, post, post_text};

/// Clients in the crowd, and tokens that each asks for.
const CLIENTS: usize = 16;
const TOKENS: u32 = 300;

fn prompt(client: usize) -> String {
    format!(
        " site number {client} lost power in sector {}",
        client * 7 % 5
    )
}

fn completion(client: usize) -> Value {
    json!({
        "model": "demo", "prompt": prompt(client), "max_tokens": TOKENS, "temperature": 0, "ignore_eos": true, "stream": true,
        // A crowd that waits: nobody is refused for being late.
        "service_tier": "flex"
    })
}

/// Reads a completion's stream; leaves after some chunks if told to.
fn read_http(address: SocketAddr, client: usize, leave_after: Option<usize>) -> Option<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(post_text("/v1/completions", &completion(client)).as_bytes())
        .unwrap();
    let mut text = String::new();
    let mut chunks = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Some(text);
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        text.push_str(chunk["choices"][0]["text"].as_str().unwrap());
        chunks += 1;
        if leave_after.is_some_and(|after| chunks >= after) {
            return None;
        }
    }
    panic!("the stream of client {client} broke off after {text:?}");
}

fn generate(client: usize) -> Generate {
    Generate {
        request_id: vec![u8::try_from(client).unwrap(); 16],
        prompt: Some(Prompt::Text(prompt(client))),
        class: Some(Class::Batch.into()),
        max_tokens: Some(TOKENS),
        ignore_eos: true,
        sampling: Some(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        }),
        ..Generate::default()
    }
}

async fn session(server: &Server) -> Session {
    let pem = std::fs::read(server.certificate()).unwrap();
    let trust = Trust::from_pem(&pem).unwrap();
    Session::connect(server.quic, "localhost", trust, ClientOptions::default())
        .await
        .unwrap()
}

/// The same over QUIC.
async fn read_quic(session: Session, client: usize, leave_after: Option<usize>) -> Option<String> {
    let mut generation = session.generate(generate(client)).await.unwrap();
    let mut text = String::new();
    let mut pieces = 0;
    while let Some(event) = generation.next().await.unwrap() {
        match event {
            Event::Accepted(_) => {}
            Event::Tokens { text: piece, .. } => {
                text.push_str(&piece);
                pieces += 1;
                if leave_after.is_some_and(|after| pieces >= after) {
                    return None;
                }
            }
            Event::Done(_) => return Some(text),
        }
    }
    panic!("the stream of client {client} ended without Done");
}

#[test]
fn a_crowd_gets_what_each_gets_alone() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let alone: Vec<_> = (0..CLIENTS)
        .map(|client| read_http(server.http, client, None).unwrap())
        .collect();
    assert!(
        alone.iter().all(|text| text.len() > 300),
        "answers are long: {alone:?}"
    );
    let alone = Arc::new(alone);

    // Every third client leaves, each after a different number of pieces. Even ones speak HTTP, odd ones QUIC.
    let leave_after = |client: usize| client.is_multiple_of(3).then_some(1 + client);
    let http: Vec<_> = (0..CLIENTS)
        .step_by(2)
        .map(|client| {
            let (address, alone) = (server.http, alone.clone());
            thread::Builder::new()
                .spawn(
                    move || match read_http(address, client, leave_after(client)) {
                        Some(text) => assert_eq!(text, alone[client], "client {client} over HTTP"),
                        None => assert!(leave_after(client).is_some()),
                    },
                )
                .unwrap()
        })
        .collect();
    runtime.block_on(async {
        let session = session(&server).await;
        let mut tasks = tokio::task::JoinSet::new();
        for client in (1..CLIENTS).step_by(2) {
            let (session, alone) = (session.clone(), alone.clone());
            tasks.spawn(async move {
                match read_quic(session, client, leave_after(client)).await {
                    Some(text) => assert_eq!(text, alone[client], "client {client} over QUIC"),
                    None => assert!(leave_after(client).is_some()),
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        session.close().await;
    });
    for client in http {
        client.join().unwrap();
    }
    server.assert_idle_and_whole();
}

#[test]
fn ask_streams_an_answer_over_quic() {
    let server = Server::start(&[]);
    let answer = server.ask(&["hello", "--tokens", "12", "--temperature", "0", "--stats"]);
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(text.split_whitespace().count() > 3, "{text}");
    let stats = String::from_utf8(answer.stderr).unwrap();
    assert!(stats.contains("TTFT"), "{stats}");
    assert!(stats.contains("TPOT"), "{stats}");

    let chat = json!({
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0
    });
    let (code, body) = post(server.http, "/v1/chat/completions", &chat);
    assert_eq!(code, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let over_http = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(over_http.trim(), text.trim(), "one engine behind both");
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_part_of_it() {
    let server = Server::start(&[]);
    let mut request = completion(1);
    request["stream"] = false.into();
    let (_, body) = post(server.http, "/v1/completions", &request);
    let whole: Value = serde_json::from_str(&body).unwrap();
    let whole = whole["choices"][0]["text"].as_str().unwrap();
    let words: Vec<_> = whole.split(' ').collect();
    // Across a border of tokens: the end of one word and the beginning of the next.
    let stop = format!("{} {}", &words[5][words[5].len() / 2..], &words[6][..1]);
    request["stop"] = json!([stop]);
    let (code, body) = post(server.http, "/v1/completions", &request);
    assert_eq!(code, 200, "{body}");
    let stopped: Value = serde_json::from_str(&body).unwrap();
    let text = stopped["choices"][0]["text"].as_str().unwrap();
    let end = whole.find(&stop).unwrap();
    assert_eq!(text, &whole[..end]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    server.assert_idle_and_whole();
}

#[test]
fn a_prompt_past_the_context_is_refused_with_both_numbers() {
    let server = Server::start(&[]);
    let request = json!({"prompt": vec![1; 5000], "max_tokens": 10});
    let (code, body) = post(server.http, "/v1/completions", &request);
    assert_eq!(code, 400, "{body}");
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["error"]["code"], "context_length_exceeded", "{body}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("5000") && message.contains("1024"),
        "{message}"
    );
    server.assert_idle_and_whole();
}

#[test]
fn a_page_that_pretends_to_be_this_machine_is_refused() {
    let server = Server::start(&[]);
    let rebound = "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(server.http, rebound).0, 421);
    let port = server.http.port();
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        &format!("LOCALHOST:{port}"),
        "box",
    ] {
        let ours = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(exchange(server.http, &ours).0, 200, "{host}");
    }
}

#[test]
fn ready_health_and_status_answer() {
    let server = Server::start(&[]);
    assert_eq!(get(server.http, "/health").0, 200);
    assert_eq!(get(server.http, "/ready").0, 200);
    let status = server.status();
    assert_eq!(status["ready"], true);
    assert!(
        status["steps"].as_u64().unwrap() >= 1,
        "a token was decoded before READY: {status}"
    );
}

/// An adapter that is named at start is in the list, answers by its name over HTTP, and is none that nobody knows.
#[test]
fn adapters_are_models_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plant-7.gguf");
    let demo = outstation::generate::demo(1);
    let gguf = outstation_wire::gguf::Gguf::parse(&demo).unwrap();
    let model = outstation::model::Model::from_gguf(&gguf).unwrap();
    let spec = outstation::generate::AdapterSpec::new(16, 1);
    let base = outstation::adapter::Base::of(&model);
    std::fs::write(&path, outstation::generate::adapter(&base, &spec)).unwrap();
    let named = format!("plant-7={}", path.display());
    let server = Server::start(&["--adapter", &named]);
    let (code, body) = get(server.http, "/v1/models");
    assert_eq!(code, 200, "{body}");
    let list: Value = serde_json::from_str(&body).unwrap();
    let ids: Vec<_> = [0, 1]
        .map(|i| (&list["data"][i]["id"], &list["data"][i]["parent"]))
        .into();
    assert_eq!(
        ids,
        [
            (&json!("demo"), &Value::Null),
            (&json!("demo:plant-7"), &json!("demo"))
        ]
    );
    let ask = |model: &str| {
        let mut request = completion(1);
        request["model"] = json!(model);
        request["stream"] = json!(false);
        request["max_tokens"] = json!(40);
        let (code, body) = post(server.http, "/v1/completions", &request);
        (code, serde_json::from_str::<Value>(&body).unwrap())
    };
    let ((_, alone), (_, adapted)) = (ask("demo"), ask("demo:plant-7"));
    assert_eq!(alone["model"], "demo");
    assert_eq!(adapted["model"], "demo:plant-7");
    assert_ne!(alone["choices"][0]["text"], adapted["choices"][0]["text"]);
    assert_eq!(ask("plant-7").1["choices"], adapted["choices"]);
    let (code, refused) = ask("demo:plant-8");
    assert_eq!(
        (code, &refused["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("this box serves `demo`, `demo:plant-7`"),
        "{message}"
    );
    assert_eq!(ask("default").1["model"], "demo");
    server.assert_idle_and_whole();

    // Whoever asks for no model gets the adapter that the configuration says, and the base where it is not there.
    for (default, answers) in [("plant-7", "demo:plant-7"), ("plant-8", "demo")] {
        let config = folder.path().join("box.toml");
        std::fs::write(&config, format!("[adapters]\ndefault = '{default}'\n")).unwrap();
        let config = config.to_str().unwrap();
        let server = Server::start(&["--adapter", &named, "--config", config]);
        for (asked, answers) in [("default", answers), ("", answers), ("demo", "demo")] {
            let mut request = completion(1);
            request["model"] = json!(asked);
            request["stream"] = json!(false);
            let (_, body) = post(server.http, "/v1/completions", &request);
            let answer: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(answer["model"], answers, "{asked} of {default}");
        }
    }
}
