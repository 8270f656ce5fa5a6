//! `outstation status`: what a running box is doing.

use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpStream;

use super::exit::{self, Failure};
use crate::status::{Releases, Status, summary};

mod screen;
mod terminal;
mod watch;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The box's HTTP address.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// The JSON object as it came.
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// A live view until q, Esc or Ctrl-C; where the output is no terminal, a line each second.
    #[arg(long)]
    watch: bool,
}

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    if args.watch {
        return terminal::watch(args.http);
    }
    if args.json {
        let text = ask(args.http, "GET", "/status")?;
        return super::show(&format!("{text}\n"));
    }
    let (status, releases) = super::runtime()?.block_on(look(args.http))?;
    super::show(&summary(&status, releases.as_ref(), None))
}

/// What a box says of itself and of its models; the latter is nothing where it follows no ring.
async fn look(address: SocketAddr) -> Result<(Status, Option<Releases>), Failure> {
    let text = ask_within(address, "GET", "/status").await?;
    let status = Status::parse(&text).ok_or_else(|| {
        let message = format!("{address} does not answer like an outstation");
        Failure::new(exit::UNAVAILABLE, message)
    })?;
    let models = ask_within(address, "GET", "/models").await.ok();
    let releases = models.and_then(|text| serde_json::from_str(&text).ok());
    Ok((status, releases))
}

/// A box that does not say how it is within this is not well.
const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Asks a box something over HTTP/1.1. The error is what it said, if it said no.
pub(super) fn ask(address: SocketAddr, method: &str, path: &str) -> Result<String, Failure> {
    super::runtime()?.block_on(ask_within(address, method, path))
}

async fn ask_within(address: SocketAddr, method: &str, path: &str) -> Result<String, Failure> {
    let silent = |_| {
        let message = format!("{address} did not answer within {ANSWER_MAX:?}");
        Failure::new(exit::UNAVAILABLE, message)
    };
    let asked = tokio::time::timeout(ANSWER_MAX, send(address, method, path));
    asked.await.map_err(silent)?
}

/// One request; the answer is a few hundred bytes.
async fn send(address: SocketAddr, method: &str, path: &str) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(
            exit::UNAVAILABLE,
            format!(
                "no outstation answers at {address} ({e}): start `outstation serve`, or say --http"
            ),
        )
    };
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .expect("a constant request");
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), 1 << 20);
    let body = limited.collect().await.map_err(|e| failed(&e))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        return Ok(text);
    }
    let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let message = said["error"]["message"].as_str().unwrap_or(&text);
    Err(Failure::new(exit::UNAVAILABLE, message))
}
