//! Keys that sign what is released: Ed25519, a PKCS #8 file in PEM for each, its public half beside it.
//!
//! ```text
//! FILE       the key, readable by its owner only
//! FILE.pub   { "role": "models", "keyid": "…", "key": { "keytype": "ed25519", "scheme": "ed25519", "keyval": … } }
//! ```
//!
//! They are none of the keys of `serve --keys`, which boxes and replicas have between them.
#![expect(clippy::disallowed_methods, reason = "keys are files")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;

use super::{OtaError, Role, sha256};
use crate::store::hex;

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey")
            .field(&self.public.keyid)
            .finish()
    }
}

/// Its public half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// What it was made for; empty where that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// SHA-256 of the key's canonical form.
    pub keyid: String,
    /// The key, as documents have it.
    pub key: Value,
}

impl PublicKey {
    /// Reads the public half from its own file, or from a key's.
    pub fn load(path: &Path) -> Result<Self, OtaError> {
        let text = std::fs::read_to_string(path).map_err(|e| OtaError::file(path, e))?;
        if text.starts_with("-----BEGIN") {
            return Ok(SigningKey::load(path)?.public);
        }
        let wrong = |why: String| OtaError::input(path.display().to_string(), why);
        let public: Self = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("it is no public key of `keys make`: {e}")))?;
        if public.keyid != keyid(&public.key) {
            return Err(wrong("its keyid is not that of its key".to_owned()));
        }
        Ok(public)
    }

    fn of(pair: &Ed25519KeyPair, role: &str) -> Self {
        let key = json!({
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": { "public": hex(pair.public_key().as_ref()) },
        });
        Self {
            role: role.to_owned(),
            keyid: keyid(&key),
            key,
        }
    }
}

impl SigningKey {
    /// Makes a key for a role, and writes it and its public half where no files are.
    pub fn make(path: &Path, role: Role) -> Result<Self, OtaError> {
        let pair = Ed25519KeyPair::generate().expect("the system has random bytes");
        // The older form, without the public half: every tool reads it.
        let der = pair.to_pkcs8v1().expect("a key has a form");
        let pem = rcgen::KeyPair::try_from(der.as_ref())
            .expect("it is a key")
            .serialize_pem();
        let key = Self {
            public: PublicKey::of(&pair, role.name()),
            pair,
        };
        write_new(path, pem.as_bytes(), 0o600)?;
        let public = serde_json::to_string_pretty(&key.public).expect("strings");
        write_new(&beside(path), format!("{public}\n").as_bytes(), 0o644)?;
        Ok(key)
    }

    /// Reads a key.
    pub fn load(path: &Path) -> Result<Self, OtaError> {
        let wrong = |why: String| OtaError::input(path.display().to_string(), why);
        let text = std::fs::read(path).map_err(|e| OtaError::file(path, e))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|e| {
            wrong(format!(
                "it is no key, PKCS #8 in PEM, as `keys make` writes: {e}"
            ))
        })?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|e| wrong(format!("it is no Ed25519 key: {e}")))?;
        Ok(Self {
            public: PublicKey::of(&pair, ""),
            pair,
        })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature of a document's canonical form, hexadecimal.
    pub fn sign(&self, canonical: &[u8]) -> String {
        hex(self.pair.sign(canonical).as_ref())
    }
}

/// Reads keys.
pub fn load_all(paths: &[PathBuf]) -> Result<Vec<SigningKey>, OtaError> {
    paths.iter().map(|path| SigningKey::load(path)).collect()
}

/// The file of the public half.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

fn keyid(key: &Value) -> String {
    sha256(&to_canonical_bytes(key).unwrap_or_default())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), OtaError> {
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| OtaError::file(path, e))
}
