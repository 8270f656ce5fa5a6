//! The native protocol over QUIC: `docs/protocol.md`, server side.
//!
//! ```text
//! endpoint ─ accept ─▶ ladder ─▶ handshake (5 s) ─▶ connection task ─┬─ control streams: Hello, Ping, GoAway
//!                                                                    └─ a task per request ─▶ Gateway
//! ```
//!
//! One task owns each connection and all of its requests: when it ends, for whatever reason, its requests are dropped,
//! and a dropped request leaves the engine within one step. What one connection can make this side store is bounded by
//! its windows, [`UPLOADS_MAX`] requests that are being read, and 4 KiB for each answer.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outstation_wire::frame::{ALPN, CloseCode};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::ladder::{Ladder, Step};
use super::gateway::Gateway;
use super::tls::{self, Clients, Identity};
use crate::request::Tenant;

mod answer;
mod connection;
mod control;
mod convert;
mod ladder;
#[cfg(test)]
mod tests;
mod upload;

/// Ceilings of the listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once, those in handshake included.
    pub connections_max: u32,
}

/// Requests open at once on a connection (P-23).
pub(crate) const REQUESTS_MAX: u32 = 32;
/// Requests of a connection that are read and submitted at once, each at most `GENERATE_BYTES_MAX`; others wait in the
/// connection's receive window.
pub(crate) const UPLOADS_MAX: usize = 2;
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 256 << 10;
const RECEIVE_WINDOW_BYTES: u32 = 512 << 10;
const SEND_WINDOW_BYTES: u64 = 256 << 10;
/// A handshake that takes longer is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Silence after which a connection is given up (P-20).
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What `close` gives the last packets of answers to be acknowledged.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// Certificate and key cannot be used.
    #[error("the certificate cannot be used: {0}; check that key and certificate belong together")]
    Identity(#[from] rustls::Error),
    /// The socket cannot be used.
    #[error("the UDP socket cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// A running listener.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    drain: watch::Sender<Drain>,
    accepting: JoinHandle<()>,
}

/// Whether the box is going down: `None`, or the time that running requests have.
type Drain = Option<Duration>;

impl Server {
    /// Listens on `socket`, on the current tokio runtime.
    ///
    /// For IPv4 and IPv6 start two servers on sockets of their own: on one dual-stack socket quinn takes an IPv4 client
    /// that changes its port for one that changed its address, and starts its round-trip time anew.
    pub fn start(
        socket: UdpSocket,
        identity: &Identity,
        gateway: Gateway,
        limits: Limits,
    ) -> Result<Self, QuicError> {
        let config = server_config(identity)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        let (drain, drain_seen) = watch::channel(None);
        let accept = Accept {
            endpoint: endpoint.clone(),
            gateway,
            ladder: Ladder::new(limits.connections_max),
            drain: drain_seen,
            handshakes: Arc::default(),
        };
        let accepting = tokio::spawn(accept.run());
        Ok(Self {
            endpoint,
            drain,
            accepting,
        })
    }

    /// Where it listens.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Shows another certificate, and believes other authorities, from the next connection on.
    pub fn reload(&self, identity: &Identity) -> Result<(), QuicError> {
        self.endpoint
            .set_server_config(Some(server_config(identity)?));
        Ok(())
    }

    /// Takes no new connections or requests, and says so to those that are there (P-19). Each connection closes when
    /// its last request has ended. `limit` is what clients are told that running requests have.
    pub fn drain(&self, limit: Duration) {
        self.drain.send_replace(Some(limit));
    }

    /// Closes what is left. After [`Server::drain`] it first waits, at most 2 s, for the last answers to arrive.
    pub async fn close(mut self) {
        if self.drain.borrow().is_some() {
            let _ = tokio::time::timeout(CLOSE_MAX, &mut self.accepting).await;
        }
        self.accepting.abort();
        self.endpoint
            .close(code(CloseCode::NoError), b"the server is going down");
        let _ = tokio::time::timeout(CLOSE_MAX, self.endpoint.wait_idle()).await;
    }
}

/// The accept loop: owns every connection's task.
struct Accept {
    endpoint: Endpoint,
    gateway: Gateway,
    ladder: Ladder,
    drain: watch::Receiver<Drain>,
    handshakes: Arc<AtomicU32>,
}

impl Accept {
    /// Runs until the endpoint closes, or the box drains and the last connection is gone.
    async fn run(mut self) {
        let mut connections = JoinSet::new();
        loop {
            let draining = self.drain.borrow_and_update().is_some();
            if draining && connections.is_empty() {
                return;
            }
            tokio::select! {
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.decide(incoming, draining, &mut connections),
                    None => return,
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                Ok(()) = self.drain.changed() => {}
            }
        }
    }

    fn decide(&self, incoming: Incoming, draining: bool, connections: &mut JoinSet<()>) {
        if draining {
            incoming.refuse();
            return;
        }
        let connected = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let handshakes = self.handshakes.load(Ordering::Relaxed);
        let step = self
            .ladder
            .decide(connected, handshakes, incoming.remote_address_validated());
        match step {
            Step::Accept => {
                let handshake = Handshake::begin(&self.handshakes);
                let gateway = self.gateway.clone();
                connections.spawn(serve(incoming, handshake, gateway, self.drain.clone()));
            }
            Step::Retry if incoming.may_retry() => {
                let _ = incoming.retry();
            }
            Step::Refuse => incoming.refuse(),
            Step::Retry | Step::Ignore => incoming.ignore(),
        }
    }
}

/// Counts itself among the handshakes in flight while it lives.
struct Handshake(Arc<AtomicU32>);

impl Handshake {
    fn begin(handshakes: &Arc<AtomicU32>) -> Self {
        handshakes.fetch_add(1, Ordering::Relaxed);
        Self(handshakes.clone())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(
    incoming: Incoming,
    handshake: Handshake,
    gateway: Gateway,
    drain: watch::Receiver<Drain>,
) {
    let remote = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake failed");
            return;
        }
    };
    let connection = match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%remote, "handshake took too long");
            return;
        }
    };
    drop(handshake);
    // P-1. rustls has refused other names already; with a second protocol on this port, here is the fork.
    if protocol(&connection).as_deref() != Some(ALPN) {
        connection.close(
            code(CloseCode::Protocol),
            b"the ALPN name must be outstation/1",
        );
        return;
    }
    let tenant = tenant(&connection);
    let reason = connection::run(connection, gateway, tenant, drain).await;
    tracing::debug!(%remote, %reason, "connection ended");
}

/// Who asks: the name in a client's certificate, which its authority vouches for.
fn tenant(connection: &quinn::Connection) -> Tenant {
    let name = || {
        let chain = connection.peer_identity()?;
        let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        tls::common_name(chain.first()?)
    };
    name().map_or(Tenant::default(), |name| Tenant::named(&name))
}

fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

fn code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}

fn server_config(identity: &Identity) -> Result<ServerConfig, QuicError> {
    let tls = identity.server_config(ALPN, Clients::Certified)?; // P-1
    let tls =
        QuicServerConfig::try_from(tls).expect("aws-lc-rs has the suite of QUIC's first packets");
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport()))
        .migration(true)
        .max_incoming(256)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(1 << 20);
    Ok(config)
}

/// quinn's defaults allow a client 125 MB of receive buffers; these windows are a line of the budget.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUESTS_MAX)) // P-23
        .max_concurrent_uni_streams(VarInt::from_u32(1)) // P-2
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(16 << 10)
        // After a change of address the round-trip time starts here; the default of 333 ms makes a lost packet cost 1
        // s.
        .initial_rtt(Duration::from_millis(100))
        // Small frames of many streams share packets.
        .send_fairness(false)
        // Tokens gain nothing from it, and some interfaces lose their first batch.
        .enable_segmentation_offload(false)
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("it is a small number")));
    transport
}
