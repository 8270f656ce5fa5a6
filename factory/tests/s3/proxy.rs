//! An HTTP proxy that answers some requests itself, and loses some replies.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::random::Random;

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) conflict: u64,
    pub(crate) precondition: u64,
    pub(crate) unavailable: u64,
    pub(crate) lost: u64,
}

pub(crate) struct Proxy {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    upstream: String,
    random: Mutex<Random>,
    tally: Mutex<Tally>,
    /// moto looks whether an object is there and then writes it; S3 does both at once. One request at a time does, too.
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// Of 100 requests so many meet each fault.
const PERCENT: u64 = 7;

impl Proxy {
    pub(crate) async fn start(upstream: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            upstream,
            random: Mutex::new(Random(seed)),
            tally: Mutex::new(Tally::default()),
            one_at_a_time: tokio::sync::Mutex::new(()),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    // A client that hangs up is no failure of the test.
                    state.serve(client).await.ok();
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn tally(&self) -> Tally {
        *self.state.tally.lock().unwrap()
    }
}

impl State {
    /// One request of a connection; the answer ends it.
    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some((head, body)) = request(&mut client).await? else {
            return Ok(());
        };
        let put = head.starts_with("PUT ");
        let fault = self.random.lock().unwrap().below(100) / PERCENT;
        let answer = {
            let mut tally = self.tally.lock().unwrap();
            tally.requests += 1;
            match fault {
                0 => {
                    tally.unavailable += 1;
                    Some(("503 Slow Down", "SlowDown"))
                }
                1 if put => {
                    tally.conflict += 1;
                    Some(("409 Conflict", "ConditionalRequestConflict"))
                }
                2 if put => {
                    tally.precondition += 1;
                    Some(("412 Precondition Failed", "PreconditionFailed"))
                }
                3 => {
                    tally.lost += 1;
                    None
                }
                _ => None,
            }
        };
        if let Some((status, code)) = answer {
            let body = format!("<Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
            let length = body.len();
            let mut answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            if !head.starts_with("HEAD ") {
                answer.push_str(&body);
            }
            client.write_all(answer.as_bytes()).await?;
            return client.shutdown().await;
        }
        let reply = self.pass_on(&head, &body).await?;
        if fault != 3 {
            client.write_all(&reply).await?;
        }
        client.shutdown().await
    }

    async fn pass_on(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let _turn = self.one_at_a_time.lock().await;
        let mut server = TcpStream::connect(&self.upstream).await?;
        let lines = head.trim_end().split("\r\n");
        let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head: Vec<_> = kept.chain(["Connection: close", "", ""]).collect();
        server.write_all(head.join("\r\n").as_bytes()).await?;
        server.write_all(body).await?;
        let mut reply = Vec::new();
        server.read_to_end(&mut reply).await?;
        Ok(reply)
    }
}

/// The head of a request, its empty line included, and its body.
async fn request(client: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).expect("heads are ASCII");
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.trim().parse().expect("a number"))
    });
    let length: usize = length.unwrap_or(0);
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, body)))
}
