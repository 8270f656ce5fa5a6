//! The factory's keys: its authority, the server's certificate, and the key that segments are encrypted to.
//!
//! ```text
//! authority.pem  authority.key.pem    signs the server and every box
//! server.pem     server.key.pem       what boxes see; its name is the same whatever the address (U-2)
//! segment.key                         two lines: the secret half and the public half of the HPKE key, hexadecimal
//! ```
//!
//! All replicas have the same folder. A set is made whole or not at all: in a folder beside it, which then takes its
//! name. Certificates do not expire, since a box without a clock must still come back; who may come is in the registry,
//! and is asked at each connection (U-4).
#![expect(
    clippy::disallowed_methods,
    reason = "keys are files, read once at start"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use outstation_wire::seal::FactoryKey;
use outstation_wire::uplink::{FACTORY_NAME, IDENTITY_PREFIX};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

use crate::store::hex;

const AUTHORITY: &str = "authority.pem";
const AUTHORITY_KEY: &str = "authority.key.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key.pem";
const SEGMENT_KEY: &str = "segment.key";
const FILES: [&str; 5] = [AUTHORITY, AUTHORITY_KEY, SERVER, SERVER_KEY, SEGMENT_KEY];

/// What a factory is.
pub struct Keys {
    authority: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    server: CertificateDer<'static>,
    server_key: PrivateKeyDer<'static>,
    /// What segments are encrypted to.
    pub segment: FactoryKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Some are there, some are not.
    #[error(
        "{} has only a part of the keys, {missing} is missing: bring it back from a copy. New keys would lock out every \
         box and every segment that there is",
        folder.display()
    )]
    Half {
        /// Where.
        folder: PathBuf,
        /// The first that is missing.
        missing: &'static str,
    },
    /// A file is no key.
    #[error("{} is damaged ({what}): bring it back from a copy", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A file cannot be used.
    #[error("cannot use the keys in {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Making a certificate failed.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// There are none.
    #[error("there are no keys in {}: start `outstation-factory serve` there once, or say --keys DIR", folder.display())]
    None {
        /// Where.
        folder: PathBuf,
    },
}

/// Whether keys were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// They were read.
    Read,
    /// This start made them.
    Made,
}

/// A box's public key, as its request gives it: proof of possession was checked.
pub struct Request {
    request: CertificateSigningRequestParams,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Request {
    /// From PKCS #10 in DER. Nothing of it is used but the key.
    pub fn parse(der: &[u8]) -> Result<Self, rcgen::Error> {
        let der = CertificateSigningRequestDer::from(der);
        let request = CertificateSigningRequestParams::from_der(&der)?;
        Ok(Self { request })
    }

    /// BLAKE3 of the key.
    pub fn key_digest(&self) -> [u8; 32] {
        *blake3::hash(self.request.public_key.der_bytes()).as_bytes()
    }
}

impl Keys {
    /// Reads the keys, or makes them where none are.
    pub fn load_or_make(folder: &Path) -> Result<(Self, Origin), KeysError> {
        match Self::load(folder) {
            Err(KeysError::None { .. }) => {}
            loaded => return Ok((loaded?, Origin::Read)),
        }
        make(folder)?;
        Ok((Self::load(folder)?, Origin::Made))
    }

    /// Reads the keys.
    pub fn load(folder: &Path) -> Result<Self, KeysError> {
        let missing: Vec<_> = FILES
            .into_iter()
            .filter(|name| !folder.join(name).exists())
            .collect();
        if missing.len() == FILES.len() {
            let folder = folder.to_owned();
            return Err(KeysError::None { folder });
        }
        if let Some(&missing) = missing.first() {
            let folder = folder.to_owned();
            return Err(KeysError::Half { folder, missing });
        }
        let damaged = |name: &str, what: String| KeysError::Damaged {
            path: folder.join(name),
            what,
        };
        let read = |name| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| KeysError::File { path, source })
        };
        let certificate = |name| {
            let pem = read(name)?;
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(name, e.to_string()))
        };
        let authority = certificate(AUTHORITY)?;
        let key = KeyPair::from_pem(&read(AUTHORITY_KEY)?)
            .map_err(|e| damaged(AUTHORITY_KEY, e.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&authority, key)
            .map_err(|e| damaged(AUTHORITY, e.to_string()))?;
        let server = certificate(SERVER)?;
        let server_key = PrivateKeyDer::from_pem_slice(read(SERVER_KEY)?.as_bytes())
            .map_err(|e| damaged(SERVER_KEY, e.to_string()))?;
        let text = read(SEGMENT_KEY)?;
        let mut halves = text.lines().map(unhex::<32>);
        let (Some(Some(secret)), Some(Some(public))) = (halves.next(), halves.next()) else {
            return Err(damaged(
                SEGMENT_KEY,
                "it has two lines of 64 digits".to_owned(),
            ));
        };
        Ok(Self {
            authority,
            issuer,
            server,
            server_key,
            segment: FactoryKey::from_bytes(secret, public),
        })
    }

    /// The authority's certificate, DER.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The server's chain, the authority last, so that who enrols can compare its fingerprint (U-22); and its key.
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = vec![self.server.clone(), self.authority.clone()];
        (chain, self.server_key.clone_key())
    }

    /// A box's certificate (U-3).
    pub fn issue(
        &self,
        request: Request,
        appliance: &[u8; 16],
        name: &str,
    ) -> Result<CertificateDer<'static>, KeysError> {
        let mut request = request.request;
        // What a request asks for is for nobody but us to say.
        let mut params = undated(name);
        let uri = format!("{IDENTITY_PREFIX}{}", hex(appliance));
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.der().clone())
    }
}

/// Makes all of them in a folder beside, and gives it the name.
fn make(folder: &Path) -> Result<(), KeysError> {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let fresh = folder.with_file_name(name);
    let failed = |source| KeysError::File {
        path: folder.to_owned(),
        source,
    };
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let files = generate()?;
    fs::create_dir_all(parent).map_err(failed)?;
    match fs::remove_dir_all(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let made = fs::DirBuilder::new().mode(0o700).create(&fresh);
    made.map_err(failed)?;
    for (name, text) in files {
        write_private(&fresh.join(name), text.as_bytes()).map_err(failed)?;
    }
    let sync = |path: &Path| File::open(path)?.sync_all();
    sync(&fresh).map_err(failed)?;
    let named = fs::rename(&fresh, folder);
    if let Err(source) = named {
        let _ = fs::remove_dir_all(&fresh);
        // Another replica on this folder may have been first.
        return match source.kind() {
            ErrorKind::DirectoryNotEmpty if folder.join(SEGMENT_KEY).exists() => Ok(()),
            _ => Err(failed(source)),
        };
    }
    sync(parent).map_err(failed)
}

fn generate() -> Result<[(&'static str, String); 5], KeysError> {
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = undated("outstation factory");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&authority_key)?;
    let authority_key_pem = authority_key.serialize_pem();
    let issuer = Issuer::from_ca_cert_der(authority.der(), authority_key)?;

    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = undated(FACTORY_NAME);
    params.subject_alt_names = vec![SanType::DnsName(FACTORY_NAME.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = params.signed_by(&server_key, &issuer)?;

    let segment = FactoryKey::generate();
    let halves = format!(
        "{}\n{}\n",
        hex(segment.secret_bytes()),
        hex(&segment.public())
    );
    Ok([
        (AUTHORITY, authority.pem()),
        (AUTHORITY_KEY, authority_key_pem),
        (SERVER, server.pem()),
        (SERVER_KEY, server_key.serialize_pem()),
        (SEGMENT_KEY, halves),
    ])
}

/// A certificate for somebody, from the first day to the last (RFC 5280, section 4.1.2.5).
fn undated(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params
}

/// A file that only its owner reads; it is on the disk afterwards. Its folder is not yet.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Bytes from hexadecimal digits, with white space around them.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    outstation_wire::hex::unhex(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("deep/keys");
        let (first, origin) = Keys::load_or_make(&keys).unwrap();
        assert_eq!(origin, Origin::Made);
        let (second, origin) = Keys::load_or_make(&keys).unwrap();
        assert_eq!(origin, Origin::Read);
        assert_eq!(first.authority, second.authority);
        assert_eq!(first.segment.public(), second.segment.public());
        for name in FILES {
            let mode = fs::metadata(keys.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let left: Vec<_> = fs::read_dir(folder.path().join("deep")).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing but the keys is left");
    }

    #[test]
    fn half_a_set_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        Keys::load_or_make(&keys).unwrap();
        for name in FILES {
            let away = folder.path().join("away");
            fs::rename(keys.join(name), &away).unwrap();
            let error = Keys::load_or_make(&keys).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            fs::rename(&away, keys.join(name)).unwrap();
        }
        Keys::load_or_make(&keys).unwrap();
    }
}
