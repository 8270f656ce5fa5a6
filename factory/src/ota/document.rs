//! Signed documents of The Update Framework (specification 1.0.31, sections 4.2 to 4.7): made and read as JSON, their
//! signatures checked by `sigstore-tuf`, the library that boxes have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;
use sigstore_tuf::key::Key;
use sigstore_tuf::metadata::{Metadata, Root, Snapshot, Targets, Timestamp};

use super::signing::{PublicKey, SigningKey};
use super::{OtaError, Role, sha256};

const SPECIFICATION: &str = "1.0.31";

/// A document and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Who signed it.
    pub signatures: Vec<Signature>,
    /// What they signed.
    pub signed: Value,
}

/// Of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Which.
    pub keyid: String,
    /// 64 bytes, hexadecimal.
    pub sig: String,
}

/// Keys of a role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    /// Public keys by their ids.
    pub keys: BTreeMap<String, Value>,
    /// How many must sign.
    pub threshold: usize,
}

impl Holders {
    /// From public halves.
    pub fn new(keys: &[PublicKey], threshold: usize) -> Self {
        let keys = keys.iter().map(|key| (key.keyid.clone(), key.key.clone()));
        Self {
            keys: keys.collect(),
            threshold,
        }
    }

    fn ids(&self) -> Vec<&String> {
        self.keys.keys().collect()
    }
}

impl Document {
    /// Not signed yet.
    pub fn new(signed: Value) -> Self {
        Self {
            signatures: Vec::new(),
            signed,
        }
    }

    /// Reads one. `file` is for messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, OtaError> {
        serde_json::from_slice(bytes)
            .map_err(|e| OtaError::document(file, format!("it is no signed document: {e}")))
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("it came from JSON")
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.signed["version"].as_u64().unwrap_or_default()
    }

    /// When it ends, seconds since 1970.
    pub fn expires_unix_s(&self) -> u64 {
        let text = self.signed["expires"].as_str().unwrap_or_default();
        let time: Result<jiff::Timestamp, _> = text.parse();
        time.map_or(0, |time| {
            u64::try_from(time.as_second()).unwrap_or_default()
        })
    }

    /// What it lists, if it is one of targets.
    pub fn targets(&self) -> Map<String, Value> {
        self.signed["targets"]
            .as_object()
            .cloned()
            .unwrap_or_default()
    }

    /// SHA-256 of a target that it lists.
    pub fn target_sha256(&self, path: &str) -> Option<&str> {
        self.signed["targets"].get(path)?["hashes"]["sha256"].as_str()
    }

    /// The keys of a role, as this root, or these targets, have them.
    pub fn holders(&self, role: Role) -> Option<Holders> {
        let (keys, entry) = match role {
            Role::Models | Role::Rollout => {
                let delegations = &self.signed["delegations"];
                let roles = delegations["roles"].as_array()?;
                let entry = roles.iter().find(|entry| entry["name"] == role.name())?;
                (&delegations["keys"], entry)
            }
            _ => (&self.signed["keys"], self.signed["roles"].get(role.name())?),
        };
        let ids = entry["keyids"].as_array()?.iter().filter_map(Value::as_str);
        let held = ids.filter_map(|id| Some((id.to_owned(), keys.get(id)?.clone())));
        Some(Holders {
            keys: held.collect(),
            threshold: usize::try_from(entry["threshold"].as_u64()?).ok()?,
        })
    }

    /// Signs with those of the keys that the role has. The number of them.
    pub fn sign(&mut self, keys: &[SigningKey], holders: &Holders) -> usize {
        let mine = |key: &&SigningKey| holders.keys.contains_key(&key.public().keyid);
        let mut signed = 0;
        for key in keys.iter().filter(mine) {
            self.sign_with(key);
            signed += 1;
        }
        signed
    }

    /// Signs, in place of a signature of the same key.
    pub fn sign_with(&mut self, key: &SigningKey) {
        let canonical = to_canonical_bytes(&self.signed).expect("documents have no fractions");
        let keyid = &key.public().keyid;
        self.signatures
            .retain(|signature| signature.keyid != *keyid);
        self.signatures.push(Signature {
            keyid: keyid.clone(),
            sig: key.sign(&canonical),
        });
    }

    /// Takes signatures over from a copy that others signed. The number of new ones.
    pub fn merge(&mut self, copy: &Self) -> Option<usize> {
        if copy.signed != self.signed {
            return None;
        }
        let before = self.signatures.len();
        for signature in &copy.signatures {
            if self
                .signatures
                .iter()
                .all(|have| have.keyid != signature.keyid)
            {
                self.signatures.push(signature.clone());
            }
        }
        Some(self.signatures.len() - before)
    }

    /// Whether enough of a role's keys signed it.
    pub fn verify(&self, role: Role, holders: &Holders) -> Result<(), OtaError> {
        let file = role.file(self.version());
        let keys: BTreeMap<String, Key> = holders
            .keys
            .iter()
            .map(|(id, key)| Ok((id.clone(), serde_json::from_value(key.clone())?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|e| OtaError::document(&file, e))?;
        let role_keys = json!({ "keyids": holders.ids(), "threshold": holders.threshold });
        let role_keys = serde_json::from_value(role_keys).expect("it has this form");
        let bytes = self.to_bytes();
        let name = role.name();
        let checked = match role {
            Role::Root => Metadata::<Root>::from_slice(&bytes)
                .and_then(|it| it.verify_threshold(&keys, &role_keys, name)),
            Role::Snapshot => Metadata::<Snapshot>::from_slice(&bytes)
                .and_then(|it| it.verify_threshold(&keys, &role_keys, name)),
            Role::Timestamp => Metadata::<Timestamp>::from_slice(&bytes)
                .and_then(|it| it.verify_threshold(&keys, &role_keys, name)),
            _ => Metadata::<Targets>::from_slice(&bytes)
                .and_then(|it| it.verify_threshold(&keys, &role_keys, name)),
        };
        checked.map_err(|error| match error {
            sigstore_tuf::Error::ThresholdNotMet { found, .. } => OtaError::Threshold {
                file,
                role,
                found,
                needed: holders.threshold,
            },
            error => OtaError::document(file, error),
        })
    }
}

fn head(kind: &str, version: u64, expires_unix_s: u64) -> Map<String, Value> {
    let seconds = i64::try_from(expires_unix_s).unwrap_or(i64::MAX);
    let expires = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let head = json!({
        "_type": kind,
        "spec_version": SPECIFICATION,
        "version": version,
        "expires": expires.to_string(),
    });
    head.as_object().cloned().expect("it is one")
}

/// A root.
pub fn root(version: u64, expires_unix_s: u64, holders: &BTreeMap<Role, Holders>) -> Value {
    let mut signed = head("root", version, expires_unix_s);
    let all = holders.values().flat_map(|holders| holders.keys.clone());
    let keys: Map<String, Value> = all.collect();
    let roles: Map<String, Value> = holders
        .iter()
        .map(|(role, holders)| {
            let entry = json!({ "keyids": holders.ids(), "threshold": holders.threshold });
            (role.name().to_owned(), entry)
        })
        .collect();
    signed.insert("consistent_snapshot".to_owned(), json!(true));
    signed.insert("keys".to_owned(), keys.into());
    signed.insert("roles".to_owned(), roles.into());
    signed.into()
}

/// The top of the targets: nothing but who may sign what below it.
pub fn delegations(
    version: u64,
    expires_unix_s: u64,
    models: &Holders,
    rollout: &Holders,
) -> Value {
    let mut signed = head("targets", version, expires_unix_s);
    let role = |role: Role, holders: &Holders, paths: &[&str]| {
        json!({
            "name": role.name(),
            "keyids": holders.ids(),
            "threshold": holders.threshold,
            "terminating": true,
            "paths": paths,
        })
    };
    let keys: Map<String, Value> = [models, rollout]
        .iter()
        .flat_map(|holders| holders.keys.clone())
        .collect();
    let delegations = json!({
        "keys": keys,
        "roles": [
            role(Role::Models, models, &["manifest/*", "index/*"]),
            role(Role::Rollout, rollout, &["rollout/*"]),
        ],
    });
    signed.insert("targets".to_owned(), json!({}));
    signed.insert("delegations".to_owned(), delegations);
    signed.into()
}

/// Targets of a role.
pub fn targets(version: u64, expires_unix_s: u64, targets: Map<String, Value>) -> Value {
    let mut signed = head("targets", version, expires_unix_s);
    signed.insert("targets".to_owned(), targets.into());
    signed.into()
}

/// A snapshot, or with the snapshot as the only file a timestamp.
pub fn listing(role: Role, version: u64, expires_unix_s: u64, files: Map<String, Value>) -> Value {
    let mut signed = head(role.name(), version, expires_unix_s);
    signed.insert("meta".to_owned(), files.into());
    signed.into()
}

/// What a listing says of a file.
pub fn listed(version: u64, bytes: &[u8]) -> Value {
    let mut entry = target(bytes);
    entry["version"] = json!(version);
    entry
}

/// What targets say of a file.
pub fn target(bytes: &[u8]) -> Value {
    json!({ "length": bytes.len(), "hashes": { "sha256": sha256(bytes) } })
}
