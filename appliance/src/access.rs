//! Who may come in: keys of apps. A box keeps their digests only, so a stolen file opens nothing.
//!
//! ```text
//! Authorization: Bearer osk-…  ─▶ digest ─▶ compared with every key's, each in constant time ─▶ Grant: tenant, class
//! ```

use std::sync::Arc;

use outstation_wire::hex::{hex, unhex};
use serde::{Deserialize, Serialize};

use crate::request::{Class, Tenant};

#[cfg(test)]
mod tests;

/// What a key begins with, so that people and scanners of secrets recognize it.
const PREFIX: &str = "osk-";
/// Bytes of chance in a key.
pub const SECRET_BYTES: usize = 32;
/// Keys of one box.
const KEYS_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 64;

/// The keys of a box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    keys: Vec<Key>,
}

/// A key, without what opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What its operator calls it.
    pub name: String,
    /// Whose requests it makes: several keys may be one tenant's.
    pub tenant: String,
    /// The least patient class that its requests have.
    #[serde(with = "class")]
    pub class: Class,
    /// BLAKE3 of the secret, keyed by this use, hexadecimal.
    digest: String,
    /// When it was added, seconds since 1970.
    pub added_unix_s: u64,
}

/// What a key allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The key's name.
    pub name: Arc<str>,
    /// Whose requests they are.
    pub tenant: Tenant,
    /// The least patient class.
    pub class: Class,
}

impl Grant {
    /// The class of a request: what it asks for, or the key's if that is more patient.
    pub fn class(&self, asked: Class) -> Class {
        asked.max(self.class)
    }
}

/// Why keys are not changed, or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// No file of keys.
    #[error("this is no file of keys ({0}): restore it, or remove it and add the keys anew")]
    Damaged(String),
    /// Two of a name.
    #[error("there is a key called `{0}`: revoke it first, or take another name")]
    Taken(String),
    /// None of this name.
    #[error("there is no key called `{0}`: `outstation keys list` shows them")]
    Unknown(String),
    /// A name that cannot be one.
    #[error(
        "`{0}` is no name of a key or tenant: 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`"
    )]
    Name(String),
    /// Too many.
    #[error("a box has at most {KEYS_MAX} keys: revoke some, or let apps of one tenant share one")]
    Full,
}

impl Keys {
    /// Reads a file of keys.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        let damaged = |why: String| KeysError::Damaged(why);
        let keys: Self = serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        for key in &keys.keys {
            check_name(&key.name)?;
            check_name(&key.tenant)?;
            if unhex::<32>(&key.digest).is_none() {
                return Err(damaged(format!("the digest of `{}` is none", key.name)));
            }
        }
        Ok(keys)
    }

    /// The file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings and numbers become JSON")
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Adds a key made of these random bytes, and says what opens: once, for it is not kept.
    pub fn add(
        &mut self,
        name: &str,
        tenant: &str,
        class: Class,
        random: &[u8; SECRET_BYTES],
        now_unix_s: u64,
    ) -> Result<String, KeysError> {
        check_name(name)?;
        check_name(tenant)?;
        if self.keys.iter().any(|key| key.name == name) {
            return Err(KeysError::Taken(name.to_owned()));
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeysError::Full);
        }
        let secret = format!("{PREFIX}{}", hex(random));
        self.keys.push(Key {
            name: name.to_owned(),
            tenant: tenant.to_owned(),
            class,
            digest: hex(digest(&secret).as_bytes()),
            added_unix_s: now_unix_s,
        });
        Ok(secret)
    }

    /// Takes a key away.
    pub fn revoke(&mut self, name: &str) -> Result<(), KeysError> {
        let before = self.keys.len();
        self.keys.retain(|key| key.name != name);
        if self.keys.len() == before {
            return Err(KeysError::Unknown(name.to_owned()));
        }
        Ok(())
    }

    /// What a secret opens. How long this takes tells nothing about the secret: it is hashed first, every key is looked
    /// at, and digests are compared in constant time.
    pub fn grant(&self, secret: &str) -> Option<Grant> {
        let presented = digest(secret);
        let mut found = None;
        for key in &self.keys {
            let Some(kept) = unhex::<32>(&key.digest) else {
                continue;
            };
            // `blake3::Hash` compares in constant time.
            if blake3::Hash::from(kept) == presented {
                found = Some(key);
            }
        }
        found.map(|key| Grant {
            name: (*key.name).into(),
            tenant: Tenant::named(&key.tenant),
            class: key.class,
        })
    }
}

fn digest(secret: &str) -> blake3::Hash {
    blake3::derive_key("outstation 2026-11 key of an app", secret.as_bytes()).into()
}

fn check_name(name: &str) -> Result<(), KeysError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(KeysError::Name(name.chars().take(NAME_BYTES_MAX).collect()))
}

mod class {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Class;

    pub(super) fn serialize<S: Serializer>(class: &Class, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(class.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Class, D::Error> {
        let name = String::deserialize(from)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}
