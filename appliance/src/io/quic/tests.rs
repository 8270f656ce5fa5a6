//! The server against `outstation-client`, and against peers that break the rules. The engine is simulated: it draws
//! `a`, and with a gate it takes a step only when the test says so.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_util::FutureExt as _;
use outstation_client::{
    ClientError, ClientOptions, ErrorCode, Event, FinishReason, Generate, Prompt, Session, Trust,
};
use outstation_wire::frame::{
    Done, Frame, FrameReader, Hello, IdListing, StreamRole, write_tokens,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, ReadToEndError};

use super::*;
use crate::adapter::AdapterPool;
use crate::engine::{Engine, StepPlan};
use crate::io::engine_thread::{self, RingSizes, WantsWork};
use crate::io::exchange::Exchange;
use crate::io::gateway::{ServedModel, TextModel, Watchers};
use crate::kv::BlockTables;
use crate::request::RequestLimits;
use crate::scheduler::SchedulerLimits;
use crate::scheduler::pace::Targets;
use crate::station::{Station, WARM_UP_STEPS};
use crate::tokenizer::{Tokenizer, Vocabulary};

const VOCABULARY: u32 = 256;

/// Draws one letter. With a gate each step waits for one permit, and for none once the permits' sender is gone.
struct Letters {
    letter: u8,
    gate: Option<mpsc::Receiver<()>>,
    logits: Vec<f32>,
}

impl Engine for Letters {
    fn vocabulary(&self) -> u32 {
        VOCABULARY
    }

    fn step(&mut self, _: &StepPlan, _: BlockTables<'_>) {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
    }

    fn logits(&mut self, _: usize) -> &mut [f32] {
        self.logits.fill(0.0);
        self.logits[usize::from(self.letter)] = 1000.0; // certain at any temperature
        &mut self.logits
    }
}

/// A tokenizer that knows single bytes alone, as byte-level BPE writes them.
fn bytes_tokenizer() -> Tokenizer {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100u32..;
    let letter = |b: u8| {
        if printable(&b) {
            return char::from(b).to_string();
        }
        let other = char::from_u32(others.next().expect("endless"));
        other.expect("a letter").to_string()
    };
    let tokens = (0..=255).map(letter).collect();
    let vocabulary = Vocabulary {
        pre: "gpt-2".into(),
        tokens,
        ..Vocabulary::default()
    };
    Tokenizer::new(&vocabulary).expect("bytes are enough")
}

const CONTEXT: u32 = 64;

fn letters(letter: u8, gate: Option<mpsc::Receiver<()>>) -> Station<Letters> {
    let scheduler = SchedulerLimits {
        sequences_max: 4,
        queue_requests_max: 4,
        queue_tokens_max: 4 * CONTEXT,
        context_tokens_max: CONTEXT,
        step_columns_max: 64,
        kv_blocks: 8,
        end_tokens: Box::new([]),
        targets: [Targets::UNHURRIED; 3],
    };
    let engine = Letters {
        letter,
        gate,
        logits: vec![0.0; VOCABULARY as usize],
    };
    Station::new(scheduler, engine)
}

fn text(name: &str) -> TextModel {
    TextModel {
        digest: [0; 32],
        served: ServedModel {
            id: name.into(),
            created_unix_s: 0,
            context_tokens_max: CONTEXT,
            parent: None,
        },
        adapters: Mutex::new(AdapterPool::none()),
        default_adapter: None,
        tokenizer: bytes_tokenizer(),
        template: Err("no template".into()),
        grammars: Err("no forms".into()),
        limits: RequestLimits {
            context_tokens_max: CONTEXT,
            vocabulary: VOCABULARY,
        },
        planned_bytes: 0,
        planned_gpu_bytes: 0,
        shared_bytes: 0,
    }
}

struct Rig {
    server: Server,
    gateway: Gateway,
    exchange: Exchange<Letters>,
    address: SocketAddr,
    trust: Trust,
}

impl Rig {
    fn start() -> Self {
        Self::with_gate(None)
    }

    /// Each permit in the sender lets one step go.
    fn gated() -> (Self, mpsc::Sender<()>) {
        let (permits, gate) = mpsc::channel();
        for _ in 0..WARM_UP_STEPS {
            permits.send(()).expect("the engine warms up first");
        }
        (Self::with_gate(Some(gate)), permits)
    }

    fn with_gate(gate: Option<mpsc::Receiver<()>>) -> Self {
        let sizes = RingSizes {
            requests: 64,
            events: 4096,
            work: WantsWork::Nobody,
        };
        let (handle, exchange) =
            engine_thread::start(letters(b'a', gate), sizes).expect("a thread can be started");
        let (gateway, dispatcher) =
            Gateway::start(text("letters"), handle, 16, 1, Watchers::default());
        tokio::spawn(dispatcher.run());
        let identity = Identity::loopback().expect("a certificate can be made");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let limits = Limits { connections_max: 8 };
        let server = Server::start(socket, &identity, gateway.clone(), limits).expect("it starts");
        let address = server.local_address().expect("it is bound");
        Self {
            server,
            gateway,
            exchange,
            address,
            trust: Trust::Roots(identity.chain),
        }
    }

    async fn session(&self) -> Session {
        let options = ClientOptions::default();
        Session::connect(self.address, "localhost", self.trust.clone(), options)
            .await
            .expect("it connects")
    }

    /// A peer that can break rules: a bare connection.
    async fn bare(&self, alpn: &[u8]) -> Result<(Endpoint, Connection), ConnectionError> {
        let Trust::Roots(certificates) = self.trust.clone();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).expect("our own");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let tls = QuicClientConfig::try_from(tls).expect("the suite is there");
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let connecting = endpoint
            .connect_with(config, self.address, "localhost")
            .expect("an address");
        Ok((endpoint, connecting.await?))
    }
}

fn request(tokens: u32) -> Generate {
    Generate {
        request_id: vec![1; 16],
        prompt: Some(Prompt::Text("hi".into())),
        max_tokens: Some(tokens),
        ..Generate::default()
    }
}

fn bytes(frame: Frame) -> Vec<u8> {
    frame.to_bytes().expect("it fits")
}

/// The answer's text and its end.
async fn answer(session: &Session, request: Generate) -> Result<(String, Done), ClientError> {
    let mut generation = session.generate(request).await?;
    let mut whole = String::new();
    loop {
        match generation.next().await? {
            Some(Event::Tokens { text, .. }) => whole.push_str(&text),
            Some(Event::Done(done)) => return Ok((whole, done)),
            Some(Event::Accepted(_)) => {}
            None => panic!("Done comes first"),
        }
    }
}

/// The code with which the server closed the connection.
async fn close_code(connection: &Connection) -> u64 {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("the server was to close it: {other}"),
    }
}

/// Ends a test that waits for what does not come.
async fn within<F: Future>(wait: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it comes in time")
}

/// Waits until the model is being changed.
async fn until_changing(gateway: &Gateway) {
    within(async {
        while !gateway.changes_model() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Waits until the gateway holds a request.
async fn until_taken(gateway: &Gateway) {
    within(async {
        while gateway.drained().now_or_never().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_comes_whole_p12() {
    let rig = Rig::start();
    let session = rig.session().await;
    let mut generation = session
        .generate(Generate {
            want_token_ids: true,
            ..request(5)
        })
        .await
        .expect("it is sent");
    let (mut text, mut token_ids, mut accepted) = (String::new(), Vec::new(), 0);
    let done = loop {
        match within(generation.next()).await.expect("it is served") {
            Some(Event::Accepted(_)) => accepted += 1,
            Some(Event::Tokens {
                text: piece,
                count,
                ids,
            }) => {
                let ids = ids.expect("they were asked for");
                assert_eq!(ids.len() as u64, count);
                token_ids.extend(ids);
                text.push_str(&piece);
            }
            Some(Event::Done(done)) => break done,
            None => panic!("Done comes first"),
        }
    };
    assert_eq!(text, "aaaaa");
    assert_eq!(token_ids, [u32::from(b'a'); 5]);
    assert_eq!(accepted, 1);
    assert_eq!(done.finish_reason(), FinishReason::Length);
    let usage = done.usage.expect("it is told");
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 5));
    assert_eq!(generation.next().await.expect("nothing more"), None);
    let hello = within(session.server_hello()).await.expect("it is sent");
    assert_eq!(
        (hello.model.as_str(), hello.context_tokens_max),
        ("letters", 64)
    );
    session.close().await;
}

#[tokio::test]
async fn many_answers_share_a_connection_p23() {
    let rig = Rig::start();
    let session = rig.session().await;
    let ask = |tokens| answer(&session, request(tokens));
    let (a, b, c) = within(async { tokio::join!(ask(3), ask(7), ask(1)) }).await;
    let text = |outcome: Result<(String, Done), ClientError>| outcome.expect("it is served").0;
    assert_eq!(
        (text(a), text(b), text(c)),
        ("aaa".into(), "aaaaaaa".into(), "a".into())
    );
}

/// Requests that were taken are finished with the model that they began with, those that come meanwhile wait for the
/// next one, and none is lost.
#[tokio::test]
async fn the_model_is_changed_without_a_lost_request() {
    let (rig, gate) = Rig::gated();
    let session = rig.session().await;
    let (before, after) = (answer(&session, request(9)), answer(&session, request(7)));
    let change = async {
        until_taken(&rig.gateway).await;
        let exchange = rig.exchange.clone();
        let changed = rig.gateway.change_model(exchange, |old| {
            drop(old);
            (Box::new(letters(b'b', None)), text("others"))
        });
        // The old engine is held at its gate until the change is under way.
        let opened = async {
            tokio::task::yield_now().await;
            drop(gate);
        };
        let (changed, ()) = tokio::join!(changed, opened);
        changed.expect("the engine goes on");
    };
    let after = async {
        until_changing(&rig.gateway).await;
        after.await
    };
    let (before, (), after) = within(Box::pin(async { tokio::join!(before, change, after) })).await;
    assert_eq!(before.expect("it is finished").0, "aaaaaaaaa");
    assert_eq!(after.expect("it waited").0, "bbbbbbb");
    assert_eq!(rig.gateway.served().id, "others");
    assert!(rig.gateway.ready());
}

/// A new model gets its share beside the one that serves, then everything; what runs is finished with the model that it
/// began with, and the one that leaves does so when its last answer has ended.
#[tokio::test]
async fn two_models_share_the_requests_until_one_leaves() {
    let (rig, gate) = Rig::gated();
    let session = rig.session().await;
    let count_others = async |of: usize| {
        let mut others = 0;
        for _ in 0..of {
            let answer = within(answer(&session, request(3))).await;
            match &*answer.expect("it is served").0 {
                "aaa" => {}
                "bbb" => others += 1,
                mixed => panic!("{mixed}: one model answers"),
            }
        }
        others
    };
    let held = async {
        let mut held = session.generate(request(9)).await.expect("it is sent");
        let mut text = String::new();
        while let Some(event) = held.next().await.expect("it goes on") {
            if let Event::Tokens { text: more, .. } = event {
                text.push_str(&more);
            }
        }
        text
    };
    let change = async {
        until_taken(&rig.gateway).await;
        // The first model is held at its gate, in the middle of a step; the engine has one thread.
        let exchange = rig.exchange.clone();
        let station = Box::new(letters(b'b', None));
        rig.gateway.add_beside(&exchange, station, text("letters"));
        drop(gate);
        assert_eq!(count_others(20).await, 0, "it has no share yet");
        rig.gateway.share(50);
        let others = count_others(40).await;
        assert!((18..=22).contains(&others), "{others} of 40 for 50 %");
        rig.gateway.share(100);
        assert_eq!(count_others(10).await, 10);
        let leaving = rig.gateway.promote();
        let left = rig.gateway.leave(leaving, exchange).await;
        assert!(left.expect("the engine goes on").is_idle());
        assert_eq!(count_others(10).await, 10);
        assert!(rig.gateway.ready());
    };
    let (held, ()) = within(async { tokio::join!(held, change) }).await;
    assert_eq!(held, "aaaaaaaaa");
    // Another one comes and goes: the place is free again.
    let station = Box::new(letters(b'c', None));
    rig.gateway
        .add_beside(&rig.exchange, station, text("letters"));
    rig.gateway.share(100);
    assert_eq!(
        within(answer(&session, request(2)))
            .await
            .expect("it is served")
            .0,
        "cc"
    );
    let leaving = rig.gateway.withdraw().expect("it is there");
    let exchange = rig.exchange.clone();
    drop(within(rig.gateway.leave(leaving, exchange)).await);
    assert_eq!(count_others(5).await, 5);
    assert!(rig.gateway.withdraw().is_none());
}

#[tokio::test]
async fn a_client_that_leaves_in_prefill_frees_its_place_p17() {
    let (rig, gate) = Rig::gated();
    let session = rig.session().await;
    let generation = session.generate(request(5)).await.expect("it is sent");
    until_taken(&rig.gateway).await;
    generation.cancel();
    // No step has run since: the engine is within the prompt's, or before it.
    within(rig.gateway.drained()).await;
    drop(gate);
    let (text, _) = within(answer(&session, request(2)))
        .await
        .expect("the session goes on");
    assert_eq!(text, "aa");
}

#[tokio::test]
async fn a_lost_connection_frees_its_places_p17() {
    let (rig, _gate) = Rig::gated();
    let session = rig.session().await;
    let _one = session.generate(request(5)).await.expect("it is sent");
    let _two = session.generate(request(5)).await.expect("it is sent");
    until_taken(&rig.gateway).await;
    session.close().await;
    within(rig.gateway.drained()).await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_and_the_session_goes_on_p10() {
    let rig = Rig::start();
    let session = rig.session().await;
    let mut seen = Vec::new();
    for bad in [
        Generate {
            deadline_ms: Some(0),
            ..request(1)
        },
        Generate {
            class: Some(9),
            ..request(1)
        },
        Generate {
            request_id: vec![1; 3],
            ..request(1)
        },
        Generate {
            prompt: None,
            ..request(1)
        },
        Generate {
            model: "other".into(),
            ..request(1)
        },
        request(63),
    ] {
        let error = within(answer(&session, bad))
            .await
            .expect_err("it is refused");
        seen.push(error.to_string());
    }
    expect_test::expect![[r"
        DEADLINE: its deadline cannot be met now: allow more time, or come back later
        BAD_REQUEST: class is 9: it is 0 (interactive), 1 (standard) or 2 (batch)
        BAD_REQUEST: request_id has 3 bytes: it must have 16
        BAD_REQUEST: the request has no prompt: send text, token_ids or chat
        NO_MODEL: no model `other` here: this box serves `letters` (or say `default`)
        BAD_REQUEST: the prompt has 2 tokens and 63 more are asked for, the context has 64: shorten the prompt or lower max_tokens
    "]]
    .assert_eq(&(seen.join("\n") + "\n"));
    assert!(within(answer(&session, request(1))).await.is_ok());
}

#[tokio::test]
async fn a_violation_ends_its_connection_and_no_other_p22() {
    let rig = Rig::start();
    let session = rig.session().await;
    let too_long = [0x02, 0x80, 0x04, 0x00, 0x01]; // Generate, 256 KiB + 1
    for (bad, code) in [
        (bytes(Frame::Done(Done::default())), CloseCode::Protocol),
        (
            bytes(Frame::Generate(request(1))).repeat(2),
            CloseCode::Protocol,
        ),
        (
            bytes(Frame::Generate(request(1)))[..9].to_vec(),
            CloseCode::Protocol,
        ),
        (too_long.to_vec(), CloseCode::FrameTooBig),
    ] {
        let (_endpoint, connection) = rig.bare(ALPN).await.expect("it connects");
        let (mut send, _receive) = connection.open_bi().await.expect("there is room");
        send.write_all(&bad).await.expect("it is taken");
        let _ = send.finish();
        assert_eq!(
            close_code(&connection).await,
            u64::from(code.code()),
            "{bad:x?}"
        );
    }
    assert!(within(answer(&session, request(1))).await.is_ok());
}

#[tokio::test]
async fn a_control_stream_begins_with_hello_and_does_not_end_p2_p4() {
    let rig = Rig::start();
    let hello = bytes(Frame::Hello(Hello::default()));
    for bad in [bytes(Frame::Ping([0; 8])), hello] {
        let (_endpoint, connection) = rig.bare(ALPN).await.expect("it connects");
        let mut control = connection.open_uni().await.expect("there is room");
        control.write_all(&bad).await.expect("it is taken");
        let _ = control.finish();
        assert_eq!(
            close_code(&connection).await,
            u64::from(CloseCode::Protocol.code())
        );
    }
}

#[tokio::test]
async fn a_ping_is_answered_p20() {
    let rig = Rig::start();
    let (_endpoint, connection) = rig.bare(ALPN).await.expect("it connects");
    let mut control = connection.open_uni().await.expect("there is room");
    let ping = Frame::Ping(*b"12345678");
    let both = [bytes(Frame::Hello(Hello::default())), bytes(ping)].concat();
    control.write_all(&both).await.expect("it is taken");
    let mut receive = within(connection.accept_uni())
        .await
        .expect("the server's control stream");
    let mut reader = FrameReader::new(StreamRole::ServerControl);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let chunk = within(receive.read_chunk(1024, true))
            .await
            .expect("it is open");
        reader.push(&chunk.expect("it does not end").bytes);
        while let Some(frame) = reader.poll_frame().expect("our own frames") {
            seen.push(frame);
        }
    }
    assert!(matches!(seen[0], Frame::Hello(_)));
    assert_eq!(seen[1], Frame::Pong(*b"12345678"));
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_no_violation_p17() {
    let rig = Rig::start();
    let (_endpoint, connection) = rig.bare(ALPN).await.expect("it connects");
    let (mut send, mut receive) = connection.open_bi().await.expect("there is room");
    send.write_all(&bytes(Frame::Generate(request(1)))[..9])
        .await
        .expect("it is taken");
    send.reset(code(CloseCode::Cancelled)).expect("it is open");
    let error = within(receive.read_to_end(100))
        .await
        .expect_err("it is reset");
    let ReadToEndError::Read(quinn::ReadError::Reset(why)) = error else {
        panic!("it is reset: {error}");
    };
    assert_eq!(why, code(CloseCode::Cancelled));
    // The same connection serves the next one, with a frame in front that nobody knows (P-6).
    let (mut send, mut receive) = connection.open_bi().await.expect("there is room");
    send.write_all(&[0x40, 0x5f, 2, 7, 7])
        .await
        .expect("it is taken");
    send.write_all(&bytes(Frame::Generate(request(1))))
        .await
        .expect("it is taken");
    let _ = send.finish();
    let answer = within(receive.read_to_end(1000))
        .await
        .expect("it ends well");
    let mut reader = FrameReader::new(StreamRole::Response);
    reader.push(&answer);
    while reader.poll_frame().expect("our own frames").is_some() {}
    assert_eq!(reader.finish(), Ok(()));
}

#[tokio::test]
async fn a_draining_server_ends_what_runs_p19() {
    let (rig, gate) = Rig::gated();
    let session = rig.session().await;
    let running = answer(&session, request(3));
    tokio::pin!(running);
    tokio::select! {
        _ = &mut running => panic!("the gate is closed"),
        () = until_taken(&rig.gateway) => {}
    }
    rig.server.drain(Duration::from_secs(9));
    // GoAway or not: the client learns it from its own state, or from the server's Error.
    let refused = within(answer(&session, request(1)))
        .await
        .expect_err("no new requests");
    assert_eq!(refused.error_code(), Some(ErrorCode::Draining), "{refused}");
    drop(gate);
    let (text, _) = within(running).await.expect("what runs ends well");
    assert_eq!(text, "aaa");
    within(rig.server.close()).await;
    let error = within(answer(&session, request(1)))
        .await
        .expect_err("it is closed");
    assert!(
        matches!(
            error,
            ClientError::Draining { .. } | ClientError::Closed { .. }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn other_protocols_and_strangers_are_refused_p1() {
    let rig = Rig::start();
    let error = within(rig.bare(b"h3"))
        .await
        .expect_err("it is another protocol");
    assert!(
        error.to_string().contains("120"),
        "TLS alert no_application_protocol: {error}"
    );
    let stranger = Identity::loopback().expect("a certificate can be made");
    let trust = Trust::Roots(stranger.chain);
    let options = ClientOptions::default();
    let session = Session::connect(rig.address, "localhost", trust, options).await;
    assert!(
        matches!(session, Err(ClientError::Insecure { .. })),
        "{session:?}"
    );
}

/// A server that speaks `outstation/1` and ends answers as it likes.
fn hostile_server(end: fn(&mut quinn::SendStream)) -> (Endpoint, SocketAddr, Trust) {
    let identity = Identity::loopback().expect("a certificate can be made");
    let config = server_config(&identity).expect("it is our own");
    let address = "127.0.0.1:0".parse().expect("an address");
    let endpoint = Endpoint::server(config, address).expect("it is bound");
    let address = endpoint.local_addr().expect("it is bound");
    let listening = endpoint.clone();
    tokio::spawn(async move {
        let incoming = listening.accept().await.expect("it is open");
        let connection = incoming.await.expect("it connects");
        while let Ok((mut send, _receive)) = connection.accept_bi().await {
            let mut out = Vec::new();
            write_tokens(&mut 0, &[1], IdListing::Counted, "half an ans", &mut out);
            let _ = send.write_all(&out).await;
            end(&mut send);
            let _ = send.stopped().await;
        }
    });
    (endpoint, address, Trust::Roots(identity.chain))
}

#[tokio::test]
async fn a_broken_answer_is_never_whole_p13() {
    for (end, wanted) in [
        (
            (|send| send.finish().expect("it is open")) as fn(&mut quinn::SendStream),
            "the answer ended without saying that it is done: it is not complete; send the request again",
        ),
        (
            |send| send.reset(code(CloseCode::Internal)).expect("it is open"),
            "the answer was broken off with INTERNAL: it is not complete; send the request again",
        ),
    ] {
        let (_endpoint, address, trust) = hostile_server(end);
        let options = ClientOptions::default();
        let session = within(Session::connect(address, "localhost", trust, options))
            .await
            .expect("it connects");
        let error = within(answer(&session, request(9)))
            .await
            .expect_err("it is not whole");
        assert_eq!(error.to_string(), wanted);
    }
}
