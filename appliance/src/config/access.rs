//! Who may come in.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, ListenConfig};

/// Credentials, of the box and of those who ask it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct AccessConfig {
    /// Digests of the apps' keys, as `outstation keys` writes them. With this file nobody asks over HTTP without a key.
    /// Default: `keys.json` in the state folder.
    pub keys: Option<PathBuf>,
    /// The box's certificate chain, PEM, leaf first. Default: one that it makes itself, for this machine alone. Here
    /// and in the next two, `credential:NAME` is what systemd loaded for the service under that name.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key: Option<PathBuf>,
    /// Authorities of clients, PEM: who asks over QUIC must have a certificate that one of them signed.
    pub client_authority: Option<PathBuf>,
}

/// Whether others can reach an address.
fn is_public(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

impl AccessConfig {
    pub(super) fn check(&self, listen: &ListenConfig) -> Result<(), ConfigError> {
        if self.certificate.is_some() != self.private_key.is_some() {
            return Err(ConfigError::Text {
                key: "access.certificate",
                what: "access.certificate and access.private_key go together: set both, or none"
                    .to_owned(),
            });
        }
        self.check_quic(listen.quic)?;
        self.check_http(listen.http)
    }

    /// Whether QUIC may be served here.
    pub fn check_quic(&self, address: SocketAddr) -> Result<(), ConfigError> {
        let missing = match (&self.certificate, &self.client_authority) {
            (Some(_), Some(_)) => return Ok(()),
            (None, _) => "set access.certificate and access.private_key",
            (Some(_), None) => "set access.client_authority, so that clients need a certificate",
        };
        refuse("listen.quic", address, missing)
    }

    /// Whether HTTP may be served here, as far as the configuration tells.
    pub fn check_http(&self, address: SocketAddr) -> Result<(), ConfigError> {
        if self.certificate.is_some() {
            return Ok(());
        }
        refuse(
            "listen.http",
            address,
            "set access.certificate and access.private_key, and add a key with `outstation keys add`",
        )
    }

    /// Whether HTTP may be served here, where there is no file of keys.
    pub fn check_unlocked(address: SocketAddr) -> Result<(), ConfigError> {
        refuse(
            "listen.http",
            address,
            "add a key with `outstation keys add`",
        )
    }
}

fn refuse(key: &'static str, address: SocketAddr, what: &'static str) -> Result<(), ConfigError> {
    if is_public(address) {
        return Err(ConfigError::OpenToAll { key, address, what });
    }
    Ok(())
}
