//! Connections to the factory, and messages on their streams.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outstation_wire::uplink::{
    self, ALPN_UPLINK, BoxMessage, FACTORY_NAME, FactoryMessage, FromBox, FromFactory, Hello,
    UplinkError,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::RootCertStore;

use super::Membership;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name means nothing here.
    #[error(
        "`{factory}` cannot be found ({source}): check the name, and that this box has a network"
    )]
    Name {
        /// As configured.
        factory: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error(
        "{factory} does not answer within {after:?}: check the address, and that UDP gets through"
    )]
    Silent {
        /// As configured.
        factory: String,
        /// How long it had.
        after: Duration,
    },
    /// The handshake failed, or the connection broke.
    #[error("the connection to the factory broke: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// A message broke off.
    #[error("the factory's answer broke off: {0}")]
    Read(#[from] quinn::ReadExactError),
    /// A message could not be sent.
    #[error("the factory hung up: {0}")]
    Write(#[from] quinn::WriteError),
    /// An answer is no message.
    #[error("the factory's answer cannot be read: {0}")]
    Message(#[from] UplinkError),
    /// An answer has nothing in it that this version knows.
    #[error("the factory gives an answer that this version does not know: update the box")]
    Unknown,
    /// No answer.
    #[error("the factory gave no answer within {0:?}")]
    NoAnswer(Duration),
    /// The files of the enrolment do not fit together.
    #[error("this box's certificate cannot be used ({0}): enrol it anew")]
    Tls(#[from] rustls::Error),
    /// No socket.
    #[error("no UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The address is impossible.
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
}

/// A connection and its socket.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    endpoint: Endpoint,
}

impl Dialled {
    /// Waits until the other side was told.
    pub(super) async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        let _ = tokio::time::timeout(CLOSE_MAX, self.endpoint.wait_idle()).await;
    }
}

const CLOSE_MAX: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Keeps the way back open through NATs while the connection is idle (U-34).
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connects with this box's certificate.
pub(super) async fn factory(
    factory: &str,
    membership: &Membership,
    patience: Duration,
) -> Result<Dialled, DialError> {
    let mut roots = RootCertStore::empty();
    roots.add(membership.authority.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![membership.certificate.clone()],
            membership.key.clone_key(),
        )?;
    tls.alpn_protocols = vec![ALPN_UPLINK.to_vec()];
    connect(factory, tls, patience).await
}

/// Connects to one of the addresses that a name has.
pub(super) async fn connect(
    factory: &str,
    tls: rustls::ClientConfig,
    patience: Duration,
) -> Result<Dialled, DialError> {
    let found = tokio::net::lookup_host(factory).await;
    let named = |source| DialError::Name {
        factory: factory.to_owned(),
        source,
    };
    let addresses: Vec<SocketAddr> = found.map_err(named)?.take(ADDRESSES_MAX).collect();
    let tls =
        QuicClientConfig::try_from(tls).expect("aws-lc-rs has the suite of QUIC's first packets");
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let mut last = DialError::Silent {
        factory: factory.to_owned(),
        after: patience.min(CONNECT_MAX),
    };
    for address in addresses {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(local)?;
        let connecting = endpoint.connect_with(config.clone(), address, FACTORY_NAME)?;
        match tokio::time::timeout(patience.min(CONNECT_MAX), connecting).await {
            Ok(Ok(connection)) => {
                return Ok(Dialled {
                    connection,
                    endpoint,
                });
            }
            Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => {}
            Ok(Err(error)) => last = error.into(),
        }
    }
    Err(last)
}

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
const CONNECT_MAX: Duration = Duration::from_secs(10);

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(64 << 10))
        .receive_window(VarInt::from_u32(256 << 10))
        .send_window(1 << 20)
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(100))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("it is a small number")))
        // Some interfaces of boxes lose their first batch.
        .enable_segmentation_offload(false);
    transport
}

/// Says Hello, and waits for the answer.
pub(super) async fn ask(
    send: &mut SendStream,
    receive: &mut RecvStream,
    hello: Hello,
    patience: Duration,
) -> Result<FactoryMessage, DialError> {
    write(send, BoxMessage::Hello(Box::new(hello))).await?;
    read(receive, patience).await
}

/// Sends a message.
pub(crate) async fn write(send: &mut SendStream, message: BoxMessage) -> Result<(), DialError> {
    let message = FromBox {
        message: Some(message),
    };
    Ok(send.write_all(&uplink::encode(&message)).await?)
}

/// The next message.
pub(crate) async fn read(
    receive: &mut RecvStream,
    patience: Duration,
) -> Result<FactoryMessage, DialError> {
    let read = async {
        let mut prefix = [0; 4];
        receive.read_exact(&mut prefix).await?;
        let mut body = vec![0; uplink::length(prefix)?];
        receive.read_exact(&mut body).await?;
        let message: FromFactory = uplink::decode(&body)?;
        message.message.ok_or(DialError::Unknown)
    };
    let silent = |_| DialError::NoAnswer(patience);
    tokio::time::timeout(patience, read).await.map_err(silent)?
}
