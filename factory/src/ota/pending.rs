//! Documents that wait for signatures, as files of this machine: they travel to whoever has the keys, and come back.
//!
//! ```text
//! PENDING/N.root.json  N.targets.json  N.models.json  N.rollout.json
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "what waits for signatures is carried around as files"
)]

use std::path::{Path, PathBuf};

use super::document::Document;
use super::repository::{Refreshed, Repository, State};
use super::signing::SigningKey;
use super::{OtaError, Role};

/// A folder of documents that wait.
#[derive(Debug, Clone)]
pub struct Pending {
    folder: PathBuf,
}

/// Where a document went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// Into the store.
    Stored,
    /// It waits for more signatures.
    Waits {
        /// Where.
        path: PathBuf,
        /// Signatures that count.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
}

impl Pending {
    /// In a folder, which is made when something waits.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Puts a document there. One of the same name that waits already, with other content, is not written over: it may
    /// have signatures.
    pub fn write(&self, role: Role, document: &Document) -> Result<PathBuf, OtaError> {
        let path = self.folder.join(role.file(document.version()));
        std::fs::create_dir_all(&self.folder).map_err(|e| OtaError::file(&self.folder, e))?;
        if path.exists() {
            let why = "it waits for signatures already: sign and commit it, or delete it";
            return Err(OtaError::input(path.display().to_string(), why));
        }
        write(&path, document)?;
        Ok(path)
    }

    /// All of them, in the order in which they are stored.
    pub fn all(&self) -> Result<Vec<(Role, PathBuf, Document)>, OtaError> {
        let failed = |e| OtaError::file(&self.folder, e);
        let mut found = Vec::new();
        if !self.folder.exists() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((role, _)) = name.and_then(Role::of_file) {
                found.push((role, path.clone(), read(&path)?));
            }
        }
        found.sort_by_key(|(role, _, document)| (*role, document.version()));
        Ok(found)
    }

    /// Stores a document if enough of these keys may sign it, or lets it wait for others.
    pub async fn sign(
        &self,
        repository: &Repository,
        state: &State,
        role: Role,
        mut document: Document,
        keys: &[SigningKey],
    ) -> Result<Went, OtaError> {
        document.sign(keys, &state.holders(role)?);
        match repository.commit(state, role, &document).await {
            Ok(()) => Ok(Went::Stored),
            Err(OtaError::Threshold { found, needed, .. }) => Ok(Went::Waits {
                path: self.write(role, &document)?,
                found,
                needed,
            }),
            Err(error) => Err(error),
        }
    }

    /// Stores all that waits, and makes boxes see it. Keys sign what they may.
    pub async fn commit(
        &self,
        repository: &Repository,
        keys: &[SigningKey],
        now_unix_s: u64,
    ) -> Result<(Vec<String>, Refreshed), OtaError> {
        let mut stored = Vec::new();
        for (role, path, mut document) in self.all()? {
            let file = role.file(document.version());
            match repository.read().await {
                Ok(state) => {
                    if !is_stored(&state, role, &document)? {
                        sign_fitting(&state, role, &mut document, keys);
                        repository.commit(&state, role, &document).await?;
                    }
                }
                Err(OtaError::NoRoot) if role == Role::Root => {
                    if let Some(holders) = document.holders(Role::Root) {
                        document.sign(keys, &holders);
                    }
                    repository.begin(&document).await?;
                }
                Err(error) => return Err(error),
            }
            std::fs::remove_file(&path).map_err(|e| OtaError::file(&path, e))?;
            stored.push(file);
        }
        Ok((stored, repository.refresh(keys, now_unix_s).await?))
    }
}

/// A root may be signed by those before it and by its own.
fn sign_fitting(state: &State, role: Role, document: &mut Document, keys: &[SigningKey]) {
    let own = document.holders(role).filter(|_| role == Role::Root);
    for holders in state.holders(role).into_iter().chain(own) {
        document.sign(keys, &holders);
    }
}

/// Whether a document, or one with another content, has its place already.
fn is_stored(state: &State, role: Role, document: &Document) -> Result<bool, OtaError> {
    let Some(held) = state
        .of(role)
        .filter(|held| held.version >= document.version())
    else {
        return Ok(false);
    };
    if held.document.signed == document.signed {
        return Ok(true);
    }
    Err(OtaError::Raced {
        file: role.file(document.version()),
    })
}

/// Reads a document that waits.
pub fn read(path: &Path) -> Result<Document, OtaError> {
    let bytes = std::fs::read(path).map_err(|e| OtaError::file(path, e))?;
    Document::parse(&path.display().to_string(), &bytes)
}

/// Writes a document whole or not at all.
pub fn write(path: &Path, document: &Document) -> Result<(), OtaError> {
    let written = crate::whole::write(path, &document.to_bytes());
    written.map_err(|e| OtaError::file(path, e))
}
