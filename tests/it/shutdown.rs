//! SIGTERM: what runs ends as it would have, what is new is refused, and the exit code is 0.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::server::{Server, post_text};

#[test]
fn a_stream_that_runs_is_finished_before_the_end() {
    let server = Server::start(&[]);
    let request = json!({
        "prompt": " the tower", "max_tokens": 1000, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true}
    });
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream
        .write_all(post_text("/v1/completions", &request).as_bytes())
        .unwrap();
    let mut usage = Value::Null;
    let mut done = false;
    let mut asked_to_stop = false;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if !asked_to_stop {
            asked_to_stop = true;
            server.terminate();
        }
        if data == "[DONE]" {
            done = true;
            break;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
    }
    assert!(done, "the stream came to its end");
    assert_eq!(usage["completion_tokens"], 1000, "with every token");
    let (code, _) = server.wait();
    assert_eq!(code, Some(0));
}

#[test]
fn an_idle_server_stops_at_once_and_takes_its_certificate_along() {
    let server = Server::start(&[]);
    let certificate = server.certificate();
    assert!(certificate.exists());
    server.terminate();
    let (code, _) = server.wait();
    assert_eq!(code, Some(0));
    assert!(!certificate.exists());
}
