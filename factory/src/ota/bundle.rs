//! What a ring needs, as the same files in a folder: for a stick that is carried to boxes without an uplink.
//!
//! A folder that has some of it already is made complete. What is there is read and compared before it is believed.
#![expect(clippy::disallowed_methods, reason = "a stick has files")]

use std::collections::BTreeSet;
use std::path::Path;

use outstation_wire::release::Rollout;

use super::publish::{Progress, index_of, manifest};
use super::repository::{Repository, State, is_settled, stamp};
use super::signing::SigningKey;
use super::{OtaError, Role, metadata_key, object, pack_path, sha256, target_path};
use crate::store::hex;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bundled {
    /// Files that were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there.
    pub kept: u64,
    /// When the timestamp ends, seconds since 1970.
    pub expires_unix_s: u64,
}

/// How a file is known.
enum Proof {
    Sha256(String),
    Blake3([u8; 32], u64),
}

/// Writes what a ring needs. With a key of the timestamp, it is good until `expires_unix_s`.
pub async fn bundle(
    repository: &Repository,
    ring: &str,
    folder: &Path,
    (keys, expires_unix_s): (&[SigningKey], u64),
    (now_unix_s, progress): (u64, &mut dyn Progress),
) -> Result<Bundled, OtaError> {
    let state = repository.read().await?;
    if !is_settled(&state) {
        let why = "it does not show the newest documents: run `outstation-factory keys commit` with its key and that of \
                   the snapshot";
        return Err(OtaError::document("timestamp.json", why));
    }
    let needed = needed(repository, &state, ring).await?;
    let packs = needed.iter().filter_map(|(_, proof)| match proof {
        Proof::Blake3(_, bytes) => Some(bytes),
        Proof::Sha256(_) => None,
    });
    progress.begin("copying", packs.sum());
    let mut done = Bundled::default();
    for (path, proof) in &needed {
        let file = folder.join(path);
        if is_there(&file, proof)? {
            done.kept += 1;
        } else {
            let key =
                object(path).ok_or_else(|| OtaError::input(path, "it is no released file"))?;
            let bytes = repository.store().get(&key).await?;
            if !proof.holds(&bytes) {
                let why = "its bytes are not those that its name says: bring it back from a copy";
                return Err(OtaError::document(path, why));
            }
            write(&file, &bytes)?;
            done.files += 1;
            done.bytes += bytes.len() as u64;
        }
        if let Proof::Blake3(_, bytes) = proof {
            progress.done(*bytes);
        }
    }
    // The timestamp last: before it, the folder is what it was.
    let timestamp = timestamp(repository, &state, keys, expires_unix_s, now_unix_s).await?;
    let file = folder.join("metadata/timestamp.json");
    write(&file, &timestamp.to_bytes())?;
    done.files += 1;
    done.expires_unix_s = timestamp.expires_unix_s();
    Ok(done)
}

/// All files but the timestamp.
async fn needed(
    repository: &Repository,
    state: &State,
    ring: &str,
) -> Result<Vec<(String, Proof)>, OtaError> {
    let mut needed = Vec::new();
    for version in 1..=state.root.version {
        let file = Role::Root.file(version);
        let bytes = repository.store().get(&metadata_key(&file)).await?;
        needed.push((format!("metadata/{file}"), Proof::Sha256(sha256(&bytes))));
    }
    for role in [Role::Targets, Role::Models, Role::Rollout, Role::Snapshot] {
        if let Some(held) = state.of(role) {
            let path = format!("metadata/{}", role.file(held.version));
            needed.push((path, Proof::Sha256(sha256(&held.bytes))));
        }
    }
    let rollout = super::rollout::read(repository, state, ring).await?;
    let Some(rollout) = rollout else {
        return Err(OtaError::input(
            format!("ring {ring}"),
            "it has no rollout: `outstation-factory rollout` makes one",
        ));
    };
    let mut list = |role: Role, path: &str| {
        let held = state.of(role).filter(|held| held.trusted);
        let digest = held.and_then(|held| held.document.target_sha256(path));
        let digest = digest.ok_or_else(|| OtaError::input(path, "it is not released"))?;
        needed.push((target_path(path, digest), Proof::Sha256(digest.to_owned())));
        Ok::<_, OtaError>(())
    };
    list(Role::Rollout, &Rollout::path_of(ring))?;
    let mut packs = BTreeSet::new();
    let adapters = rollout.adapters.iter().map(|adapter| &adapter.manifest);
    for path in [&rollout.manifest].into_iter().chain(adapters) {
        let manifest = manifest(repository, state, path).await?;
        let manifest = manifest.ok_or_else(|| OtaError::input(path, "it is not released"))?;
        list(Role::Models, path)?;
        list(Role::Models, &manifest.index_path())?;
        let index = index_of(repository, state, &manifest).await?;
        packs.extend(index.packs.iter().map(|pack| (pack.digest, pack.bytes)));
    }
    let packs = packs
        .into_iter()
        .map(|(digest, bytes)| (pack_path(&digest), Proof::Blake3(digest, bytes.into())));
    needed.extend(packs);
    Ok(needed)
}

/// The timestamp of the bundle. One that is good for long has a version of its own, and the next one of the store comes
/// after it, so that a box that saw the bundle takes that, too.
async fn timestamp(
    repository: &Repository,
    state: &State,
    keys: &[SigningKey],
    expires_unix_s: u64,
    now_unix_s: u64,
) -> Result<super::document::Document, OtaError> {
    let held = state.of(Role::Timestamp).filter(|held| held.trusted);
    let held = held.ok_or_else(|| {
        OtaError::document(
            "timestamp.json",
            "there is none: run `outstation-factory keys commit` with its key",
        )
    })?;
    if keys.is_empty() {
        return Ok(held.document.clone());
    }
    let meta = held.document.signed["meta"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let version = held.version + 1;
    let long = stamp(state, version, meta.clone(), keys, expires_unix_s)?;
    let online = stamp(
        state,
        version + 1,
        meta,
        keys,
        now_unix_s + Role::Timestamp.life_s(),
    )?;
    let key = metadata_key("timestamp.json");
    repository
        .store()
        .overwrite(&key, online.to_bytes().into())
        .await?;
    Ok(long)
}

impl Proof {
    fn holds(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Sha256(digest) => sha256(bytes) == *digest,
            Self::Blake3(digest, length) => {
                bytes.len() as u64 == *length && hex(blake3::hash(bytes).as_bytes()) == hex(digest)
            }
        }
    }
}

fn is_there(file: &Path, proof: &Proof) -> Result<bool, OtaError> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(proof.holds(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OtaError::file(file, error)),
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), OtaError> {
    crate::whole::write(path, bytes).map_err(|e| OtaError::file(path, e))
}
