//! A connection to one outstation.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use outstation_wire::frame::{ALPN, CloseCode, Frame, Generate, Hello};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, TransportConfig, VarInt};
use tokio::sync::{mpsc, watch};

use crate::control::{self, ServerState};
use crate::{ClientError, ClientIdentity, Generation, Trust};

/// Silence after which a connection is given up (P-20).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Knobs of a session.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Program and version, for the server's logs. Default: this library's.
    pub agent: String,
    /// How long the handshake may take. Default: 5 s.
    pub connect_timeout: Duration,
    /// Silence within an answer after which the server is pinged (P-20), which bounds the stall when a NAT forgets the
    /// way back. Default: 250 ms. Cost: one packet each way for each such silence of each open answer.
    pub ping_after: Duration,
    /// Who this is, for boxes that ask for a certificate. Default: nobody.
    pub identity: Option<ClientIdentity>,
    /// Default: off. A prompt is small, and some interfaces fail on their first batch.
    pub segmentation_offload: SegmentationOffload,
}

/// Whether the kernel may cut large batches into UDP datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentationOffload {
    /// Each datagram is sent by itself.
    Off,
    /// UDP GSO, where the interface has it.
    On,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            agent: concat!("outstation-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            ping_after: Duration::from_millis(250),
            identity: None,
            segmentation_offload: SegmentationOffload::Off,
        }
    }
}

/// A connection to one outstation, shared by its clones and by the answers that run on it.
///
/// Needs a tokio runtime. The connection closes when the last clone and the last [`Generation`] are gone; to be sure
/// that the server hears of it before the program ends, use [`Session::close`].
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) server: watch::Receiver<ServerState>,
    /// Asks the control task for a Ping; full means that one is due already.
    pub(crate) pings: mpsc::Sender<()>,
    pub(crate) ping_after: Duration,
}

impl Session {
    /// Connects, and checks that `server_name` is what the server's certificate says.
    ///
    /// Cost: one UDP socket, one task, one round trip.
    pub async fn connect(
        address: SocketAddr,
        server_name: &str,
        trust: Trust,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let config = client_config(trust, &options)?;
        let endpoint = Endpoint::client(any_address(address))?;
        let connecting = endpoint
            .connect_with(config, address, server_name)
            .map_err(|reason| ClientError::Address {
                address,
                server_name: server_name.to_owned(),
                reason,
            })?;
        let after = options.connect_timeout;
        let connection = tokio::time::timeout(after, connecting)
            .await
            .map_err(|_| ClientError::Silent { address, after })?
            .map_err(|error| ClientError::from_handshake(error, address))?;
        let (state, server) = watch::channel(ServerState::default());
        let (pings, ping_requests) = mpsc::channel(1);
        let hello = Hello {
            agent: options.agent,
            ..Hello::default()
        };
        tokio::spawn(control::run(
            connection.clone(),
            hello,
            state,
            ping_requests,
        ));
        let shared = Shared {
            endpoint,
            connection,
            server,
            pings,
            ping_after: options.ping_after,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Sends a request. Its answer comes out of [`Generation::next`]; a refusal comes out there, too.
    ///
    /// Waits while as many requests are open as the server allows. Dropping the future cancels the request.
    pub async fn generate(&self, request: Generate) -> Result<Generation, ClientError> {
        let bytes_max = {
            let server = self.shared.server.borrow();
            if let Some(goaway) = &server.goaway {
                let drain_ms = goaway.drain_ms;
                return Err(ClientError::Draining { drain_ms });
            }
            server
                .hello
                .as_ref()
                .map_or(0, |hello| hello.generate_bytes_max)
        };
        let frame = Frame::Generate(request);
        let bytes = frame.to_bytes()?;
        // The header's two varints are the few bytes that a frame is longer than its body.
        if bytes_max > 0 && bytes.len() as u64 > bytes_max + FRAME_HEADER_BYTES {
            let bytes = bytes.len() as u64;
            return Err(ClientError::TooBig { bytes, bytes_max });
        }
        let (send, receive) = self
            .shared
            .connection
            .open_bi()
            .await
            .map_err(|error| self.shared.lost(error))?;
        Generation::start(self.shared.clone(), send, receive, &bytes).await
    }

    /// The server's Hello; waits until it is there.
    pub async fn server_hello(&self) -> Result<Hello, ClientError> {
        let mut server = self.shared.server.clone();
        match server.wait_for(|state| state.hello.is_some()).await {
            Ok(state) => Ok(state.hello.clone().expect("waited for")),
            // The control task ended, and with it the connection.
            Err(_) => Err(self.shared.lost(self.shared.connection.closed().await)),
        }
    }

    /// Moves to another local socket: call it when the device changed its network. Answers go on.
    pub fn rebind(&self, socket: UdpSocket) -> Result<(), ClientError> {
        Ok(self.shared.endpoint.rebind(socket)?)
    }

    /// The connection's current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.shared.connection.rtt()
    }

    /// Closes the connection, open answers included, and waits until the server was told.
    pub async fn close(self) {
        self.shared.say_goodbye();
        self.shared.endpoint.wait_idle().await;
    }
}

impl Shared {
    /// Names a connection's end; a violation that this side saw is its cause.
    pub(crate) fn lost(&self, error: quinn::ConnectionError) -> ClientError {
        if let Some(violation) = &self.server.borrow().violation {
            return ClientError::Protocol(violation.clone());
        }
        ClientError::from_connection(error)
    }

    fn say_goodbye(&self) {
        let code = VarInt::from_u32(CloseCode::NoError.code());
        self.connection.close(code, b"");
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

const FRAME_HEADER_BYTES: u64 = 5;

fn any_address(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn client_config(
    trust: Trust,
    options: &ClientOptions,
) -> Result<quinn::ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .with_root_certificates(trust.into_roots()?);
    let mut tls = match &options.identity {
        None => tls.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.parts();
            tls.with_client_auth_cert(chain, key)
                .map_err(|error| ClientError::Identity(error.to_string()))?
        }
    };
    tls.alpn_protocols = vec![ALPN.to_vec()]; // P-1
    let tls =
        QuicClientConfig::try_from(tls).expect("aws-lc-rs has the suite of QUIC's first packets");
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(options)));
    Ok(config)
}

/// No `keep_alive_interval`: it would run with no request open, too, and keep a radio awake. The Ping frames of
/// [`Generation::next`] take its place (P-20).
fn transport(options: &ClientOptions) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0)) // P-23
        .max_concurrent_uni_streams(VarInt::from_u32(1)) // P-2
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(1 << 20))
        .send_window(1 << 20)
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(100))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("it is a small number")))
        .enable_segmentation_offload(options.segmentation_offload == SegmentationOffload::On);
    transport
}
