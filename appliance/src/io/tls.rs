//! Certificates. On loopback the box makes its own at each start, and leaves the public half where `ask` finds it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::AccessConfig;

/// A certificate chain and its key.
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The leaf in PEM, for clients to trust; nothing where it came from files.
    pub certificate_pem: Option<String>,
    /// Authorities of clients, where those need a certificate.
    pub clients: Option<Vec<CertificateDer<'static>>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Making it failed.
    #[error("cannot make the loopback certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A file that has not what it should.
    #[error("{}: {why}: it must be PEM, as openssl writes it", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something that systemd should have loaded.
    #[error(
        "{}: systemd loaded no such credential: the unit needs LoadCredential= or LoadCredentialEncrypted= with this name",
        path.display()
    )]
    Credential {
        /// As configured.
        path: PathBuf,
    },
    /// Writing it failed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Reading it failed.
    #[error(
        "cannot read the certificate {} ({source}): start `outstation serve` on this machine, or say --ca FILE",
        path.display()
    )]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder belongs to somebody else, who could swap the certificate.
    #[error("{} belongs to another user: remove it, or set XDG_RUNTIME_DIR to a folder of your own", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
}

impl Identity {
    /// A self-signed certificate for names and addresses of this machine alone.
    pub fn loopback() -> Result<Self, IdentityError> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        Ok(Self {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            certificate_pem: Some(certificate.pem()),
            clients: None,
        })
    }

    /// What the configuration names, or a certificate of this machine's own.
    pub fn read(access: &AccessConfig) -> Result<Self, IdentityError> {
        let mut identity = match (&access.certificate, &access.private_key) {
            (Some(certificate), Some(key)) => Self {
                chain: certificates(certificate)?,
                key: PrivateKeyDer::from_pem_file(place(key)?).map_err(|e| IdentityError::Pem {
                    path: key.clone(),
                    why: e.to_string(),
                })?,
                certificate_pem: None,
                clients: None,
            },
            _ => Self::loopback()?,
        };
        let clients = access.client_authority.as_deref().map(certificates);
        identity.clients = clients.transpose()?;
        Ok(identity)
    }

    /// TLS 1.3 with this certificate, for one protocol; clients need one of theirs where `self` names authorities and
    /// they are `asked`.
    pub fn server_config(
        &self,
        protocol: &[u8],
        asked: Clients,
    ) -> Result<rustls::ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &self.clients {
            Some(authorities) if asked == Clients::Certified => {
                let mut roots = rustls::RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority.clone())?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|e| rustls::Error::General(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// They have one, if the box names authorities.
    Certified,
    /// They have something else: a key.
    Unknown,
}

/// The name in a certificate's subject.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// A file, or what systemd loaded for the service: `credential:box.key`.
pub(super) fn place(path: &Path) -> Result<PathBuf, IdentityError> {
    let Some(name) = path
        .to_str()
        .and_then(|path| path.strip_prefix("credential:"))
    else {
        return Ok(path.to_owned());
    };
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let file = folder.map(|folder| folder.join(name));
    file.filter(|file| file.is_file())
        .ok_or_else(|| IdentityError::Credential {
            path: path.to_owned(),
        })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bad = |why: String| IdentityError::Pem {
        path: path.to_owned(),
        why,
    };
    let all = CertificateDer::pem_file_iter(place(path)?).map_err(|e| bad(e.to_string()))?;
    let all: Vec<_> = all
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if all.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    Ok(all)
}

/// Where the certificate of a loopback server on this UDP port lies.
pub fn loopback_certificate_path(port: u16) -> PathBuf {
    runtime_folder().join(format!("loopback-{port}.pem"))
}

/// The certificate of a loopback server on this UDP port: this user's own, or the system service's.
pub fn read_loopback_certificate(port: u16) -> Result<Vec<u8>, IdentityError> {
    let own = loopback_certificate_path(port);
    let system = Path::new(SYSTEM_FOLDER).join(format!("loopback-{port}.pem"));
    // Only root can put something below /run, but anybody could have made our folder in /tmp.
    let path = if own.exists() || !system.exists() {
        own
    } else {
        system.clone()
    };
    let read = |source| IdentityError::Read {
        path: path.clone(),
        source,
    };
    let owner = fs::metadata(&path).map_err(read)?.uid();
    if path != system && owner != user().map_err(read)? {
        return Err(IdentityError::Foreign { path });
    }
    fs::read(&path).map_err(read)
}

/// systemd's `RuntimeDirectory=outstation`.
const SYSTEM_FOLDER: &str = "/run/outstation";

/// Puts the certificate in its place, atomically, in a folder that only this user can change.
pub fn publish_loopback_certificate(pem: &str, port: u16) -> Result<PathBuf, IdentityError> {
    let path = loopback_certificate_path(port);
    let folder = runtime_folder();
    let failed = |source| IdentityError::Write {
        path: path.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(failed)?;
    if fs::metadata(&folder).map_err(failed)?.uid() != user().map_err(failed)? {
        return Err(IdentityError::Foreign { path: folder });
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let write = |at: &Path| options.open(at)?.write_all(pem.as_bytes());
    write(&fresh)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(failed)?;
    Ok(path)
}

/// systemd's folder of the service, the session's, or one in /tmp that carries the user's number.
fn runtime_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("RUNTIME_DIRECTORY") {
        return folder.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("outstation"),
        None => PathBuf::from(format!("/tmp/outstation-{}", user().unwrap_or_default())),
    }
}

fn user() -> std::io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}
