//! What makes a box a member of a fleet: files under `uplink/` of the state folder, each private, whole or absent.
//!
//! ```text
//! uplink/key.pem           the box's key. It is there before the factory is asked, so that a retry is the same box
//! uplink/certificate.der   authority.der
//! uplink/factory.json      written last: with it the box is enrolled
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use outstation_wire::hex::unhex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::io::private;

/// A member.
pub struct Membership {
    /// What `factory.json` says.
    pub factory: Factory,
    /// This box's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Whom it believes.
    pub authority: CertificateDer<'static>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Membership").field(&self.factory).finish()
    }
}

/// `factory.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factory {
    /// `host:port` at which the box was enrolled.
    pub factory: String,
    /// This box's identity, 32 hexadecimal digits.
    pub appliance: String,
    /// What the operator calls it.
    pub name: String,
    /// What segments are encrypted to: an X25519 public key, 64 hexadecimal digits.
    pub segment_key: String,
}

impl Factory {
    /// This box's identity.
    pub fn appliance(&self) -> Option<[u8; 16]> {
        unhex(&self.appliance)
    }

    /// What segments are encrypted to.
    pub fn segment_key(&self) -> Option<[u8; 32]> {
        unhex(&self.segment_key)
    }
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Reading or writing failed.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged ({what}): remove the folder, and enrol the box anew", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
}

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.der";
const AUTHORITY: &str = "authority.der";
const FACTORY: &str = "factory.json";

/// Where the files lie.
fn folder(state: &Path) -> PathBuf {
    state.join("uplink")
}

impl Membership {
    /// Of this state folder. `None`: the box is not enrolled.
    pub fn read(state: &Path) -> Result<Option<Self>, MembershipError> {
        let folder = folder(state);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| MembershipError::File { path, source })
        };
        let damaged = |name: &str, what: String| MembershipError::Damaged {
            path: folder.join(name),
            what,
        };
        let text = match read(FACTORY) {
            Err(MembershipError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            text => text?,
        };
        let factory: Factory =
            serde_json::from_slice(&text).map_err(|e| damaged(FACTORY, e.to_string()))?;
        if factory.appliance().is_none() || factory.segment_key().is_none() {
            return Err(damaged(
                FACTORY,
                "its identity or key has another length".to_owned(),
            ));
        }
        Ok(Some(Self {
            factory,
            certificate: read(CERTIFICATE)?.into(),
            authority: read(AUTHORITY)?.into(),
            key: PrivateKeyDer::from_pem_slice(&read(KEY)?)
                .map_err(|e| damaged(KEY, e.to_string()))?,
        }))
    }

    /// Writes all of it; the box is enrolled with the last byte.
    pub fn write(&self, state: &Path) -> Result<(), MembershipError> {
        let folder = folder(state);
        let json = serde_json::to_string_pretty(&self.factory).expect("strings");
        write(&folder, CERTIFICATE, &self.certificate)?;
        write(&folder, AUTHORITY, &self.authority)?;
        write(&folder, FACTORY, json.as_bytes())
    }
}

/// The key that this box enrols with: the one of an earlier try, or a new one.
pub fn key(state: &Path) -> Result<KeyPair, MembershipError> {
    let folder = folder(state);
    let path = folder.join(KEY);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(KeyPair::from_pem(&text)?),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let failed = |source| MembershipError::File {
                path: folder.clone(),
                source,
            };
            private::make_folder(&folder).map_err(failed)?;
            write(&folder, KEY, key.serialize_pem().as_bytes())?;
            Ok(key)
        }
        Err(source) => Err(MembershipError::File { path, source }),
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), MembershipError> {
    let path = folder.join(name);
    private::write(&path, bytes).map_err(|source| MembershipError::File { path, source })
}
