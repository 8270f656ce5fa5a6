//! The signed documents of a store: read with every signature checked, and moved on by one version at a time.
//!
//! ```text
//! release   packs, targets ─▶ N+1.models.json ─▶ M+1.snapshot.json ─▶ timestamp.json
//! ```
//!
//! Each but the last is put where nothing is; until the timestamp is written, boxes see what was there before. Versions
//! are found by asking for the next one, never by a list, which may lag behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::document::{Document, Holders, delegations, listed, listing, targets};
use super::signing::SigningKey;
use super::{DAY_S, OtaError, Role, metadata_key, target_path};
use crate::store::{Put, Store, StoreError};

/// Documents of a store.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
}

/// A document as it is stored.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its version.
    pub version: u64,
    /// What it says.
    pub document: Document,
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether those who may sign it today did.
    pub trusted: bool,
}

/// The newest of each document.
#[derive(Debug, Clone)]
pub struct State {
    /// Whose keys count.
    pub root: Held,
    /// The others, as far as they are there.
    pub held: BTreeMap<Role, Held>,
}

/// What [`Repository::refresh`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// The snapshot that boxes see.
    pub snapshot: u64,
    /// The version of the timestamp.
    pub timestamp: u64,
    /// When the timestamp ends, seconds since 1970.
    pub expires_unix_s: u64,
    /// Whether anything was written.
    pub changed: bool,
}

/// Roots, one after the other: what boxes follow at once.
const ROOTS_MAX: u64 = 1024;
/// How often somebody else may be faster before this is given up.
const RACES_MAX: u32 = 16;

impl State {
    /// The newest document of a role.
    pub fn of(&self, role: Role) -> Option<&Held> {
        match role {
            Role::Root => Some(&self.root),
            _ => self.held.get(&role),
        }
    }

    /// The version that comes next.
    pub fn next(&self, role: Role) -> u64 {
        self.of(role).map_or(0, |held| held.version) + 1
    }

    /// Who may sign a role.
    pub fn holders(&self, role: Role) -> Result<Holders, OtaError> {
        let above = match role {
            Role::Models | Role::Rollout => self.of(Role::Targets),
            _ => Some(&self.root),
        };
        let holders = above.and_then(|held| held.document.holders(role));
        holders.ok_or_else(|| {
            let why = format!(
                "nobody may sign for {role} yet: commit the targets that `outstation-factory keys root` made"
            );
            OtaError::document(role.name(), why)
        })
    }

    /// The targets that a role lists.
    pub fn targets(&self, role: Role) -> Map<String, Value> {
        self.of(role)
            .map(|held| held.document.targets())
            .unwrap_or_default()
    }
}

impl Repository {
    /// Of a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest of each document.
    pub async fn read(&self) -> Result<State, OtaError> {
        let root = self.root().await?.ok_or(OtaError::NoRoot)?;
        let mut state = State {
            root,
            held: BTreeMap::new(),
        };
        if let Some(bytes) = self
            .store
            .get_if_there(&metadata_key("timestamp.json"))
            .await?
        {
            let held = held(&state, Role::Timestamp, bytes)?;
            state.held.insert(Role::Timestamp, held);
        }
        let pinned = |held: Option<&Held>, role: Role| {
            let file = format!("{role}.json");
            held.and_then(|held| held.document.signed["meta"].get(&file)?["version"].as_u64())
        };
        let first = pinned(state.of(Role::Timestamp), Role::Snapshot);
        self.newest(&mut state, Role::Snapshot, first).await?;
        for role in Role::LISTED {
            let first = pinned(state.of(Role::Snapshot), role);
            self.newest(&mut state, role, first).await?;
        }
        Ok(state)
    }

    /// Roots from the first to the newest, each signed by its own keys and by those before it.
    async fn root(&self) -> Result<Option<Held>, OtaError> {
        let mut newest: Option<Held> = None;
        for version in 1..=ROOTS_MAX {
            let file = Role::Root.file(version);
            let Some(bytes) = self.store.get_if_there(&metadata_key(&file)).await? else {
                break;
            };
            let document = Document::parse(&file, &bytes)?;
            check_root(newest.as_ref().map(|held| &held.document), &document)?;
            if document.version() != version {
                return Err(OtaError::document(file, "another version stands in it"));
            }
            newest = Some(Held {
                version,
                document,
                bytes,
                trusted: true,
            });
        }
        Ok(newest)
    }

    /// The newest document of a role, asked for one after the other from `first` on.
    async fn newest(
        &self,
        state: &mut State,
        role: Role,
        first: Option<u64>,
    ) -> Result<(), OtaError> {
        let mut version = first.unwrap_or(1);
        while let Some(bytes) = self
            .store
            .get_if_there(&metadata_key(&role.file(version)))
            .await?
        {
            let held = held(state, role, bytes)?;
            if held.version != version {
                let why = "another version stands in it";
                return Err(OtaError::document(role.file(version), why));
            }
            state.held.insert(role, held);
            version += 1;
        }
        Ok(())
    }

    /// Stores the next version of a role other than timestamp, if enough keys signed it and nobody else was faster.
    pub async fn commit(
        &self,
        state: &State,
        role: Role,
        document: &Document,
    ) -> Result<(), OtaError> {
        let file = role.file(document.version());
        match role {
            Role::Root => check_root(Some(&state.root.document), document)?,
            _ => document.verify(role, &state.holders(role)?)?,
        }
        self.put(&file, document).await
    }

    /// Stores the first root.
    pub async fn begin(&self, document: &Document) -> Result<(), OtaError> {
        check_root(None, document)?;
        self.put(&Role::Root.file(document.version()), document)
            .await
    }

    async fn put(&self, file: &str, document: &Document) -> Result<(), OtaError> {
        let bytes = document.to_bytes().into();
        match self.store.put_once(&metadata_key(file), bytes).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(OtaError::Raced {
                file: file.to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a target under the name that has its digest in it. What targets say of it.
    pub async fn put_target(&self, target: &str, bytes: Vec<u8>) -> Result<Value, OtaError> {
        let entry = super::document::target(&bytes);
        let digest = entry["hashes"]["sha256"].as_str().expect("it is there");
        let key = super::object(&target_path(target, digest))
            .ok_or_else(|| OtaError::input(target, "it is no name of a target"))?;
        self.store.put_once(&key, bytes.into()).await?;
        Ok(entry)
    }

    /// A target that a role lists, its digest checked.
    pub async fn target(
        &self,
        state: &State,
        role: Role,
        target: &str,
    ) -> Result<Option<Bytes>, OtaError> {
        let Some(held) = state.of(role).filter(|held| held.trusted) else {
            return Ok(None);
        };
        let Some(digest) = held.document.target_sha256(target) else {
            return Ok(None);
        };
        let key = super::object(&target_path(target, digest))
            .ok_or_else(|| OtaError::input(target, "it is no name of a target"))?;
        let bytes = self.store.get(&key).await?;
        if super::sha256(&bytes) != digest {
            let why = "its bytes are not those that were signed: bring it back from a copy";
            return Err(OtaError::document(key.to_string(), why));
        }
        Ok(Some(bytes))
    }

    /// Makes boxes see the newest of each document: a snapshot of them, if there is none, and a timestamp, if the one
    /// that is there says something else or is older than a day.
    pub async fn refresh(
        &self,
        keys: &[SigningKey],
        now_unix_s: u64,
    ) -> Result<Refreshed, OtaError> {
        let mut changed = false;
        for _ in 0..RACES_MAX {
            let state = self.read().await?;
            let files = listed_files(&state)?;
            let snapshot = match good(&state, Role::Snapshot, &files, now_unix_s) {
                Some(held) => (held.version, held.bytes.clone()),
                None => match self.snapshot(&state, &files, keys, now_unix_s).await? {
                    Some(made) => {
                        changed = true;
                        made
                    }
                    None => continue,
                },
            };
            let file = format!("{}.json", Role::Snapshot);
            let entry = listed(snapshot.0, &snapshot.1);
            let files: Map<_, _> = [(file, entry)].into_iter().collect();
            let pinned = good(&state, Role::Timestamp, &files, now_unix_s);
            let (timestamp, expires_unix_s) = if let Some(held) = pinned {
                (held.version, held.document.expires_unix_s())
            } else {
                changed = true;
                let expires = now_unix_s + Role::Timestamp.life_s();
                let version = state.next(Role::Timestamp);
                let made = stamp(&state, version, files, keys, expires)?;
                let key = metadata_key("timestamp.json");
                self.store.overwrite(&key, made.to_bytes().into()).await?;
                (version, expires)
            };
            // Whoever made a later snapshot may have written its timestamp before this one, or not at all.
            let later = metadata_key(&Role::Snapshot.file(snapshot.0 + 1));
            if self.store.head_if_there(&later).await?.is_none() {
                return Ok(Refreshed {
                    snapshot: snapshot.0,
                    timestamp,
                    expires_unix_s,
                    changed,
                });
            }
        }
        Err(OtaError::Raced {
            file: "timestamp.json".to_owned(),
        })
    }

    /// Makes a snapshot. `None`: somebody else made one at the same time.
    async fn snapshot(
        &self,
        state: &State,
        files: &Map<String, Value>,
        keys: &[SigningKey],
        now_unix_s: u64,
    ) -> Result<Option<(u64, Bytes)>, OtaError> {
        let (role, version) = (Role::Snapshot, state.next(Role::Snapshot));
        let signed = listing(role, version, now_unix_s + role.life_s(), files.clone());
        let document = sign(state, role, signed, keys)?;
        let bytes = Bytes::from(document.to_bytes());
        let key = metadata_key(&role.file(version));
        match self.store.put_once(&key, bytes.clone().into()).await {
            Ok(Put::Created | Put::Present) => Ok(Some((version, bytes))),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn held(state: &State, role: Role, bytes: Bytes) -> Result<Held, OtaError> {
    let document = Document::parse(role.name(), &bytes)?;
    let trusted = state
        .holders(role)
        .and_then(|holders| document.verify(role, &holders));
    Ok(Held {
        version: document.version(),
        trusted: trusted.is_ok(),
        document,
        bytes,
    })
}

/// A timestamp of a snapshot.
pub fn stamp(
    state: &State,
    version: u64,
    files: Map<String, Value>,
    keys: &[SigningKey],
    expires_unix_s: u64,
) -> Result<Document, OtaError> {
    let signed = listing(Role::Timestamp, version, expires_unix_s, files);
    sign(state, Role::Timestamp, signed, keys)
}

fn sign(
    state: &State,
    role: Role,
    signed: Value,
    keys: &[SigningKey],
) -> Result<Document, OtaError> {
    let holders = state.holders(role)?;
    let mut document = Document::new(signed);
    document.sign(keys, &holders);
    document.verify(role, &holders)?;
    Ok(document)
}

/// What a snapshot of the newest documents lists. All of them must be signed as they should be.
fn listed_files(state: &State) -> Result<Map<String, Value>, OtaError> {
    let mut files = Map::new();
    for role in Role::LISTED {
        if let Some(held) = state.of(role) {
            held.document.verify(role, &state.holders(role)?)?;
            files.insert(format!("{role}.json"), listed(held.version, &held.bytes));
        }
    }
    Ok(files)
}

/// Whether boxes see the newest of each document.
pub fn is_settled(state: &State) -> bool {
    let meta = |role| {
        state
            .of(role)
            .and_then(|held| held.document.signed["meta"].as_object())
    };
    let Some(snapshot) = state.of(Role::Snapshot).filter(|held| held.trusted) else {
        return false;
    };
    let file = format!("{}.json", Role::Snapshot);
    let pin: Map<_, _> = [(file, listed(snapshot.version, &snapshot.bytes))]
        .into_iter()
        .collect();
    let files = listed_files(state);
    files.is_ok_and(|files| meta(Role::Snapshot) == Some(&files))
        && meta(Role::Timestamp) == Some(&pin)
}

/// A snapshot or timestamp that need not be made anew.
fn good<'s>(
    state: &'s State,
    role: Role,
    files: &Map<String, Value>,
    now_unix_s: u64,
) -> Option<&'s Held> {
    // A timestamp is made anew each day, a snapshot when half of its time is over.
    let least = match role {
        Role::Timestamp => role.life_s() - DAY_S,
        _ => role.life_s() / 2,
    };
    let fresh = |held: &&Held| {
        held.trusted
            && held.document.signed["meta"].as_object() == Some(files)
            && held.document.expires_unix_s() > now_unix_s + least
    };
    state.of(role).filter(fresh)
}

/// What must be signed so that these may sign from here on.
pub fn handover(
    state: Option<&State>,
    holders: &BTreeMap<Role, Holders>,
    expires: u64,
) -> Vec<(Role, Document)> {
    let next = |role| state.map_or(1, |state| state.next(role));
    let changed = |role: Role| {
        let old = state.and_then(|state| state.holders(role).ok());
        old.as_ref() != Some(&holders[&role])
    };
    let mut made = Vec::new();
    let in_root = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
    if in_root.into_iter().any(changed) {
        let named = in_root.map(|role| (role, holders[&role].clone()));
        let signed = super::document::root(next(Role::Root), expires, &named.into());
        made.push((Role::Root, Document::new(signed)));
    }
    if [Role::Targets, Role::Models, Role::Rollout]
        .into_iter()
        .any(changed)
    {
        let (models, rollout) = (&holders[&Role::Models], &holders[&Role::Rollout]);
        let signed = delegations(next(Role::Targets), expires, models, rollout);
        made.push((Role::Targets, Document::new(signed)));
    }
    for role in [Role::Models, Role::Rollout] {
        // What is released stays so under the hands of those who sign from here on.
        if changed(role) && state.is_some_and(|state| state.of(role).is_some()) {
            let listed = state.map(|state| state.targets(role)).unwrap_or_default();
            made.push((role, Document::new(targets(next(role), expires, listed))));
        }
    }
    made
}

/// Whether a root is signed by enough of its own keys, and of those of the root before it.
pub fn check_root(before: Option<&Document>, root: &Document) -> Result<(), OtaError> {
    let file = Role::Root.file(root.version());
    for authority in before.into_iter().chain([root]) {
        let holders = authority
            .holders(Role::Root)
            .ok_or_else(|| OtaError::document(&file, "it names no keys of role root"))?;
        root.verify(Role::Root, &holders)?;
    }
    Ok(())
}
