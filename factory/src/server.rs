//! The QUIC side of a replica.
//!
//! ```text
//! endpoint ─ accept ─▶ handshake (5 s) ─┬─ outstation-uplink/1, certificate of ours ─▶ uplink: Hello, Offer …
//!                                       └─ outstation-enrol/1 ─▶ enrol: one stream
//! ```
//!
//! Memory: `connections_max` × [`RECEIVE_WINDOW_BYTES`] and `fetches_max` × [`SEND_WINDOW_BYTES`], beside what `ingest`
//! bounds.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outstation_wire::uplink::{ALPN_ENROL, ALPN_UPLINK};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::contacts::{Contacts, Due};
use crate::ingest::{Ingest, IngestLimits, staging};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::Store;

mod enrol;
mod identity;
#[cfg(test)]
pub(crate) mod tests;
mod uplink;

/// Ceilings of a replica.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once, those in handshake included. Default 4096.
    pub connections_max: usize,
    /// What segments may take.
    pub ingest: IngestLimits,
    /// When boxes say Hello again. Default 60 s.
    pub hello_interval: Duration,
    /// Bytes a second that one box may send; 0 is no limit. Default 0.
    pub upload_bytes_per_s_max: u64,
    /// Bytes a second of released files that one box gets; 0 is no limit. Default 0.
    pub download_bytes_per_s_max: u64,
    /// Ranges of released files on their way at once, to boxes and over HTTP. Default 256.
    pub fetches_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            ingest: IngestLimits::default(),
            hello_interval: Duration::from_mins(1),
            upload_bytes_per_s_max: 0,
            download_bytes_per_s_max: 0,
            fetches_max: 256,
        }
    }
}

/// Streams of a connection at once.
const STREAMS_MAX: u32 = 8;
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 512 << 10;
/// What one connection can make this side store.
pub const RECEIVE_WINDOW_BYTES: u32 = 768 << 10;
/// What one connection has under way towards a box: 1 MiB, which is 80 Mbit/s over 100 ms.
pub const SEND_WINDOW_BYTES: u32 = 1 << 20;
/// A handshake that takes longer is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at once before addresses must prove themselves.
const HANDSHAKES_TRUSTED: usize = 64;
/// Silence after which a connection is given up.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What `close` gives boxes to hear of it.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// How often the registry is brought up to date.
const CONTACTS_EVERY: Duration = Duration::from_secs(1);
/// How often pieces that nobody came back for are looked for.
const SWEEP_EVERY: Duration = Duration::from_hours(1);
/// Age at which they go.
const STAGING_KEPT: Duration = Duration::from_hours(24);

/// Codes of closed connections.
const CLOSE_NO_ERROR: VarInt = VarInt::from_u32(0);
const CLOSE_PROTOCOL: VarInt = VarInt::from_u32(1);
const CLOSE_REVOKED: VarInt = VarInt::from_u32(2);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Certificate and key cannot be used.
    #[error("the factory's certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority cannot be used.
    #[error("the factory's authority cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The socket cannot be used.
    #[error("the UDP socket cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// What all connections of a replica share.
#[derive(Debug)]
pub struct Factory {
    /// Its keys.
    pub keys: Keys,
    /// Its store's registry.
    pub registry: Registry,
    /// Its store.
    pub store: Store,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Boxes as it heard of them.
    pub contacts: Contacts,
    pub(crate) ingest: Ingest,
    pub(crate) limits: Limits,
    /// Ranges of released files that may begin.
    pub(crate) fetches: Arc<Semaphore>,
}

impl Factory {
    /// A replica over a store.
    pub fn new(store: Store, keys: Keys, limits: Limits) -> Arc<Self> {
        let metrics = Arc::new(Metrics::new());
        Arc::new(Self {
            keys,
            registry: Registry::new(store.clone()),
            ingest: Ingest::new(store.clone(), metrics.clone(), limits.ingest),
            store,
            metrics,
            contacts: Contacts::default(),
            fetches: Arc::new(Semaphore::new(limits.fetches_max)),
            limits,
        })
    }
}

/// A running listener.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    factory: Arc<Factory>,
    closing: watch::Sender<bool>,
    tasks: JoinSet<()>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on `socket`, on the current tokio runtime.
    pub fn start(socket: UdpSocket, factory: Arc<Factory>) -> Result<Self, ServerError> {
        let config = server_config(&factory.keys)?;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(config),
            socket,
            Arc::new(TokioRuntime),
        )?;
        let (closing, closing_seen) = watch::channel(false);
        let accepting = tokio::spawn(accept(endpoint.clone(), factory.clone(), closing_seen));
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_contacts(factory.clone()));
        tasks.spawn(sweep(factory.store.clone()));
        Ok(Self {
            endpoint,
            factory,
            closing,
            tasks,
            accepting,
        })
    }

    /// Where it listens.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Ends: keeps what is half uploaded, writes down how the boxes are, and closes.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        // Uploads that are cut here keep what they have in staging/.
        self.endpoint
            .close(CLOSE_NO_ERROR, b"the factory is going down");
        let _ = tokio::time::timeout(CLOSE_MAX, &mut self.accepting).await;
        self.accepting.abort();
        self.tasks.shutdown().await;
        self.factory
            .contacts
            .write(&self.factory.registry, Due::All)
            .await;
        let _ = tokio::time::timeout(CLOSE_MAX, self.endpoint.wait_idle()).await;
    }
}

async fn keep_contacts(factory: Arc<Factory>) {
    let mut tick = tokio::time::interval(CONTACTS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        factory.contacts.write(&factory.registry, Due::Now).await;
    }
}

async fn sweep(store: Store) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        let kept = u64::try_from(STAGING_KEPT.as_millis()).expect("a day is short");
        match staging::sweep(&store, crate::clock::unix_ms().saturating_sub(kept)).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "pieces of uploads that nobody came back for"),
            Err(error) => tracing::warn!(%error, "old pieces of uploads stay"),
        }
    }
}

/// Runs until the endpoint closes and the last connection is gone.
async fn accept(endpoint: Endpoint, factory: Arc<Factory>, closing: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => {
                    let waiting = handshakes.load(Ordering::Relaxed);
                    if connections.len() >= factory.limits.connections_max {
                        incoming.refuse();
                    } else if waiting >= HANDSHAKES_TRUSTED && incoming.may_retry() {
                        let _ = incoming.retry();
                    } else {
                        let handshake = Handshake::begin(&handshakes);
                        connections.spawn(serve(incoming, handshake, factory.clone(), closing.clone()));
                    }
                }
                None => break,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Counts itself among the handshakes in flight while it lives.
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn begin(handshakes: &Arc<AtomicUsize>) -> Self {
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
    factory: Arc<Factory>,
    closing: watch::Receiver<bool>,
) {
    let remote = incoming.remote_address();
    let shaken = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(HANDSHAKE_MAX, shaken).await {
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
    match protocol(&connection).as_deref() {
        Some(ALPN_ENROL) => enrol::run(&connection, &factory).await,
        // U-1: TLS asks for a certificate and takes none, too; here it must be there.
        Some(ALPN_UPLINK) => match identity::of(&connection) {
            Some(appliance) => uplink::run(&connection, appliance, &factory, closing).await,
            None => connection.close(
                CLOSE_PROTOCOL,
                b"a box must show its certificate: enrol it first",
            ),
        },
        _ => connection.close(CLOSE_PROTOCOL, b"unknown protocol"),
    }
}

fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

fn server_config(keys: &Keys) -> Result<ServerConfig, ServerError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(keys.authority().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let (chain, key) = keys.server();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN_UPLINK.to_vec(), ALPN_ENROL.to_vec()];
    // A resumed session would skip the look at the certificate; boxes call rarely, and stay.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
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

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(16 << 10)
        .initial_rtt(Duration::from_millis(100))
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("it is a small number")));
    transport
}
