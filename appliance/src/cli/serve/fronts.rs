//! Where a box is asked: its sockets, what it shows there, and whom it lets in.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::super::exit::{self, Failure};
use super::super::keys;
use crate::config::{AccessConfig, Config};
use crate::io::access::Door;
use crate::io::gateway::Gateway;
use crate::io::systemd::Sockets;
use crate::io::tls::{self, Clients, Identity};
use crate::io::{http, quic};

/// Sockets that are bound, with credentials that were read.
pub(super) struct Fronts {
    udp: UdpSocket,
    tcp: TcpListener,
    identity: Identity,
    door: Door,
}

/// Both protocols, served.
pub(super) struct OpenFronts {
    pub(super) quic_address: SocketAddr,
    pub(super) http_address: SocketAddr,
    quic: quic::Server,
    http: http::Server,
    /// Where the certificate lies that was made for this machine.
    pub(super) certificate: Option<PathBuf>,
}

impl Fronts {
    /// Takes the sockets of systemd, or else binds those of the configuration, and reads the credentials.
    pub(super) async fn bind(config: &Config) -> Result<Self, Failure> {
        let (udp, tcp) = bind(config).await?;
        let (identity, door) = credentials(config, &udp, &tcp)?;
        Ok(Self {
            udp,
            tcp,
            identity,
            door,
        })
    }

    /// Serves both protocols.
    pub(super) fn open(self, config: &Config, gateway: &Gateway) -> Result<OpenFronts, Failure> {
        let Self {
            udp,
            tcp,
            identity,
            door,
        } = self;
        let quic_address = udp.local_addr().map_err(|e| Failure::io("UDP", e))?;
        let http_address = tcp.local_addr().map_err(|e| Failure::io("TCP", e))?;
        let failed = |e: String| Failure::new(exit::IO, e);
        let pem = identity.certificate_pem.as_ref();
        let certificate =
            pem.map(|pem| tls::publish_loopback_certificate(pem, quic_address.port()));
        let certificate = certificate.transpose().map_err(|e| failed(e.to_string()))?;
        let limits = quic::Limits {
            connections_max: config.serving.connections_max,
        };
        let quic = quic::Server::start(udp, &identity, gateway.clone(), limits)
            .map_err(|e| failed(e.to_string()))?;
        let tls = tcp_tls(config, &identity)?;
        let http = http::Server::start(tcp, gateway.clone(), door.clone(), tls);
        tokio::spawn(door.watch());
        Ok(OpenFronts {
            quic_address,
            http_address,
            quic,
            http,
            certificate,
        })
    }
}

impl OpenFronts {
    /// Reads certificate, key and authorities again.
    pub(super) fn reload(&self, config: &Config) -> Result<(), Failure> {
        if config.access.certificate.is_none() {
            return Ok(());
        }
        let wrong = |e: String| Failure::new(exit::CONFIG, e);
        let identity = Identity::read(&config.access).map_err(|e| wrong(e.to_string()))?;
        self.quic
            .reload(&identity)
            .map_err(|e| wrong(e.to_string()))?;
        self.http.reload(tcp_tls(config, &identity)?);
        Ok(())
    }

    /// Takes no new connections over QUIC, and says so to those that are there.
    pub(super) fn drain(&self, limit: Duration) {
        self.quic.drain(limit);
    }

    /// Closes what is left.
    pub(super) async fn close(self) {
        self.quic.close().await;
        self.http.close().await;
        if let Some(certificate) = self.certificate {
            let _ = std::fs::remove_file(certificate);
        }
    }
}

/// Sockets that systemd opened, or else those of the configuration.
async fn bind(config: &Config) -> Result<(UdpSocket, TcpListener), Failure> {
    let inherited = Sockets::inherited().map_err(|e| Failure::new(exit::IO, e.to_string()))?;
    let inherited_tcp = inherited.tcp.map(TcpListener::from_std).transpose();
    let inherited_tcp = inherited_tcp.map_err(|e| Failure::io("TCP socket of systemd", e))?;
    let help = |key: &str, flag: &str, address: SocketAddr| {
        format!(
            "cannot listen on {address} ({key}, {flag}): choose another address, or end who has it"
        )
    };
    let udp = match inherited.udp {
        Some(udp) => udp,
        None => UdpSocket::bind(config.listen.quic)
            .map_err(|e| Failure::io(help("listen.quic", "--listen", config.listen.quic), e))?,
    };
    let tcp = match inherited_tcp {
        Some(tcp) => tcp,
        None => TcpListener::bind(config.listen.http)
            .await
            .map_err(|e| Failure::io(help("listen.http", "--http", config.listen.http), e))?,
    };
    Ok((udp, tcp))
}

/// What the box shows and whom it lets in. Where others can reach it, both must be there.
fn credentials(
    config: &Config,
    udp: &UdpSocket,
    tcp: &TcpListener,
) -> Result<(Identity, Door), Failure> {
    let address = |found: std::io::Result<SocketAddr>| {
        found.map_err(|e| Failure::io("a socket has no address", e))
    };
    let (quic, http) = (address(udp.local_addr())?, address(tcp.local_addr())?);
    let door = match Door::open(keys::file(config)) {
        Ok(door) => door,
        // Somebody tries the program on a box whose service has another user: its keys are not theirs.
        Err(error) if error.is_foreign() && config.access.keys.is_none() => Door::default(),
        Err(error) => return Err(Failure::new(exit::CONFIG, error.to_string())),
    };
    // Sockets of systemd may listen elsewhere than the configuration says.
    config.access.check_quic(quic)?;
    config.access.check_http(http)?;
    if !door.is_locked() {
        AccessConfig::check_unlocked(http)?;
    }
    let identity =
        Identity::read(&config.access).map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?;
    Ok((identity, door))
}

/// TLS over TCP, where the box has a certificate that others believe.
fn tcp_tls(
    config: &Config,
    identity: &Identity,
) -> Result<Option<Arc<rustls::ServerConfig>>, Failure> {
    if config.access.certificate.is_none() {
        return Ok(None);
    }
    let made = identity.server_config(b"http/1.1", Clients::Unknown);
    let made = made.map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?;
    Ok(Some(Arc::new(made)))
}
