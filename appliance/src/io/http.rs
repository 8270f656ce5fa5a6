//! HTTP/1.1 on the TCP port: OpenAI's API over one router that other HTTP versions share.
//!
//! ```text
//! POST /v1/chat/completions   POST /v1/completions   GET /v1/models   GET /v1/models/{id}   POST /v1/feedback
//! GET  /health  the process is up      GET /ready  the engine decodes      GET /status  numbers as JSON
//! ```
//!
//! A client that goes away drops the body of its answer, that drops the generation, and that cancels the request.
//! Bodies must say `application/json`: a web page may not send that to another origin without asking first, and we
//! never agree.

mod answer;
mod api;
mod backend;
mod entry;
mod feedback;
mod logprobs;
pub mod openai;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use self::entry::Peer;
use super::access::Door;

pub use api::{BODIES_MAX, BODY_BYTES_MAX, router};
pub use backend::{Answer, Backend, Heard};

/// Connections at once; more wait in the kernel's backlog. Each may hold [`CONNECTION_BUFFER_BYTES`] and one body.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Read buffer of a connection, so also the longest head of a request.
pub const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;
/// A reader that takes nothing for this long is gone: its connection ends, and its request with it.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// A head that takes longer is an attack or a dead line.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// After [`Server::close`], answers under way may take this long before they are cut off.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(HTTP_CONNECTIONS_MAX as u64 == crate::budget::HTTP_CONNECTIONS);
const _: () = assert!(BODIES_MAX as u64 == crate::budget::HTTP_BODIES);
const _: () = assert!(BODY_BYTES_MAX as u64 == crate::budget::HTTP_BODY_BYTES);

/// The listening side: accepts until closed.
pub struct Server {
    closing: watch::Sender<bool>,
    tls: watch::Sender<Option<Arc<rustls::ServerConfig>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Serves `backend` on a socket that listens, on the current runtime, to those whom `door` lets in. With `tls`
    /// others than this machine must speak it.
    pub fn start<B: Backend>(
        listener: TcpListener,
        backend: B,
        door: Door,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Server {
        let (closing, closed) = watch::channel(false);
        let (tls, tls_now) = watch::channel(tls);
        let accept = Accept {
            router: router(backend, door),
            tls: tls_now,
            closed,
        };
        let accepting = tokio::spawn(accept.run(listener));
        Server {
            closing,
            tls,
            accepting,
        }
    }

    /// Shows another certificate from the next connection on.
    pub fn reload(&self, tls: Option<Arc<rustls::ServerConfig>>) {
        self.tls.send_replace(tls);
    }

    /// Takes no more connections, lets answers under way end, and returns when all are gone.
    pub async fn close(self) {
        let _ = self.closing.send(true);
        let _ = self.accepting.await;
    }
}

struct Accept {
    router: Router,
    tls: watch::Receiver<Option<Arc<rustls::ServerConfig>>>,
    closed: watch::Receiver<bool>,
}

impl Accept {
    async fn run(mut self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.expect("never closed");
                (place, listener.accept().await)
            };
            tokio::select! {
                _ = self.closed.changed() => break,
                Some(_) = connections.join_next() => {}
                (place, accepted) = next => match accepted {
                    Ok((stream, peer)) => {
                        let tls = self.tls.borrow().clone();
                        let (router, closed) = (self.router.clone(), self.closed.clone());
                        connections.spawn(connection(stream, Peer(peer), tls, router, closed, place));
                    }
                    Err(error) => {
                        // Out of file descriptors, mostly: others must end first.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_DEADLINE, all).await.is_err() {
            tracing::warn!("HTTP answers were cut off after {CLOSE_DEADLINE:?}");
        }
    }
}

/// The first byte of a TLS handshake; no method of HTTP begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

async fn connection(
    stream: TcpStream,
    peer: Peer,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    closed: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    // Tokens are small and each is wanted at once.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_DEADLINE));
    let Some(tls) = tls else {
        return converse(stream, peer, router, closed).await;
    };
    let mut first = [0];
    let Ok(Ok(_)) = tokio::time::timeout(HEAD_DEADLINE, stream.peek(&mut first)).await else {
        return;
    };
    if first[0] == TLS_HANDSHAKE {
        let handshake = TlsAcceptor::from(tls).accept(stream);
        match tokio::time::timeout(HEAD_DEADLINE, handshake).await {
            Ok(Ok(stream)) => converse(stream, peer, router, closed).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    } else if peer.is_here() {
        // `status` and `models` on this machine need no certificate.
        converse(stream, peer, router, closed).await;
    } else {
        let _ = tokio::time::timeout(UNREAD_DEADLINE, refuse_clear(stream)).await;
    }
}

/// Says that it must be TLS, and lets the other side finish, so that it reads that.
async fn refuse_clear(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(SPEAK_TLS).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(BODY_BYTES_MAX as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

/// To those who send a key in the clear.
const SPEAK_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 40\r\n\r\nthis port speaks TLS: write https://...\n";

async fn converse<S>(stream: S, peer: Peer, router: Router, mut closed: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        _ = closed.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP connection broke off");
    }
}
