//! A hundred streams, half of them over QUIC and half over HTTP, while the model under them is changed.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outstation::generate;
use outstation_client::{ClientOptions, Event, Session, Trust};
use outstation_wire::frame::{Generate, Prompt, Sampling};
use serde_json::Value;

use crate::rig::{Box, Factory, Setup};

const STREAMS: usize = 100;
const TOKENS: u32 = 24;

/// What somebody asks.
fn prompt(stream: usize) -> String {
    format!(
        "stream {stream} asks for the antenna of mast {}",
        stream * 7
    )
}

/// An answer, and how long it took until it was promised, before its first token.
struct Answer {
    text: String,
    accepted_after: Duration,
}

fn over_http(address: SocketAddr, stream: usize) -> Answer {
    let body = format!(
        r#"{{"prompt":"{}","max_tokens":{TOKENS},"ignore_eos":true,"temperature":0,"stream":true}}"#,
        prompt(stream)
    );
    let asked = Instant::now();
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    let status = lines.next().unwrap();
    let accepted_after = asked.elapsed();
    assert!(status.contains(" 200 "), "{status}");
    let mut text = String::new();
    for line in lines {
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Answer {
                text,
                accepted_after,
            };
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert!(chunk["error"].is_null(), "{chunk}");
        text.push_str(chunk["choices"][0]["text"].as_str().unwrap_or_default());
    }
    panic!("the stream broke off after `{text}`");
}

async fn over_quic(session: &Session, stream: usize) -> Answer {
    let request = Generate {
        request_id: (stream as u128).to_be_bytes().to_vec(),
        prompt: Some(Prompt::Text(prompt(stream))),
        max_tokens: Some(TOKENS),
        ignore_eos: true,
        sampling: Some(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        }),
        ..Generate::default()
    };
    let asked = Instant::now();
    let mut generation = session.generate(request).await.unwrap();
    let (mut text, mut accepted_after) = (String::new(), None);
    loop {
        match generation.next().await.unwrap() {
            Some(Event::Accepted(_)) => accepted_after = Some(asked.elapsed()),
            Some(Event::Tokens { text: more, .. }) => text.push_str(&more),
            Some(Event::Done(_)) => break,
            None => panic!("the stream broke off after `{text}`"),
        }
    }
    Answer {
        text,
        accepted_after: accepted_after.expect("it comes first"),
    }
}

/// Everybody's answers, one after the other, until they are told to stop.
struct Streams {
    stop: Arc<AtomicBool>,
    people: Vec<JoinHandle<Vec<(usize, Answer)>>>,
}

impl Streams {
    fn start(running: &Box) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let trust = Trust::from_pem(&running.certificate()).unwrap();
        let (http, quic) = (running.http, running.quic);
        let mut people: Vec<_> = (0..STREAMS / 2)
            .map(|stream| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        answers.push((stream, over_http(http, stream)));
                    }
                    answers
                })
            })
            .collect();
        let stopped = stop.clone();
        people.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                // A connection carries so many streams; five apps share them.
                let mut all = tokio::task::JoinSet::new();
                for app in 0..5 {
                    let session = Session::connect(
                        quic,
                        "localhost",
                        trust.clone(),
                        ClientOptions::default(),
                    );
                    let session = Arc::new(session.await.unwrap());
                    for number in 0..STREAMS / 10 {
                        let (session, stop) = (session.clone(), stopped.clone());
                        let stream = STREAMS / 2 + app * STREAMS / 10 + number;
                        all.spawn(async move {
                            let mut answers = Vec::new();
                            while !stop.load(Ordering::Relaxed) {
                                answers.push((stream, over_quic(&session, stream).await));
                            }
                            answers
                        });
                    }
                }
                all.join_all().await.into_iter().flatten().collect()
            })
        }));
        Self { stop, people }
    }

    fn end(self) -> Vec<(usize, Answer)> {
        self.stop.store(true, Ordering::Relaxed);
        let people = self.people.into_iter();
        people.flat_map(|person| person.join().unwrap()).collect()
    }
}

/// What each stream is answered by the model that serves.
fn alone(running: &Box) -> HashMap<usize, String> {
    let streams = Streams::start(running);
    std::thread::park_timeout(Duration::from_secs(1));
    streams
        .end()
        .into_iter()
        .map(|(stream, answer)| (stream, answer.text))
        .collect()
}

/// The longest that anybody waited until the answer was promised, in milliseconds.
fn longest(answers: &[(usize, Answer)]) -> u128 {
    let waits = answers.iter().map(|(_, a)| a.accepted_after.as_millis());
    waits.max().unwrap_or(0)
}

fn change_under_streams(limit: &str, how: &str) {
    let setup = Setup {
        limit,
        sequences: STREAMS,
        ..Setup::default()
    };
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    let lenient = "--soak 2s --canary 50 --gate-requests-min 20 --gate-entropy-psi-max 1000 \
                   --gate-itl-ratio-max 100 --gate-ttft-ratio-max 100";
    factory.rollout(1, lenient);
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), &setup);
    running.until_committed("site@1");
    let before = alone(&running);
    factory.publish(&generate::demo(3), None);
    let quiet = Streams::start(&running);
    std::thread::park_timeout(Duration::from_secs(3));
    let quiet = quiet.end();
    let streams = Streams::start(&running);
    factory.rollout(2, lenient);
    let took = running.until_committed("site@2");
    let during = streams.end();
    let after = alone(&running);
    assert_eq!((before.len(), after.len()), (STREAMS, STREAMS));
    let (mut old, mut new) = (0, 0);
    for (stream, answer) in &during {
        if answer.text == before[stream] {
            old += 1;
        } else if answer.text == after[stream] {
            new += 1;
        } else {
            panic!("stream {stream} is of neither model: {}", answer.text);
        }
    }
    assert!(
        old > 0 && new > 0,
        "{old} by the old model, {new} by the new"
    );
    println!(
        "{how}: committed after {took:.1?}; {old} answers by the old model and {new} by the new one, none failed, each \
         of one model; promised after at most {} ms, without a change {} ms",
        longest(&during),
        longest(&quiet)
    );
}

#[test]
fn a_hundred_streams_do_not_notice_a_model_that_comes_beside() {
    change_under_streams("8GiB", "beside");
}

#[test]
fn a_hundred_streams_wait_for_a_model_that_comes_instead() {
    change_under_streams("2GiB", "instead");
}
