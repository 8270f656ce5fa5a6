//! What is released, as far as it is signed: TUF over a source, with its memory on a disk.
//!
//! The library verifies; this gives it a source, a store that tells when a write failed, a time, and floors that hold
//! though the store was lost.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use jiff::Timestamp;
use outstation_wire::hex::hex;
use outstation_wire::release::INDEX_BYTES_MAX;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{Error, Repository, TargetFile, Updater, UpdaterConfig};
use tokio::sync::Mutex;

use super::metadata::MetadataFolder;
use super::source::{Source, SourceError, Want};
use crate::disk::{Disk, DiskError};
use crate::slot::Floors;

/// Why nothing new is known.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What came is not what was signed, or old, or missing.
    #[error("{}", chain(.0))]
    Tuf(#[from] Error),
    /// The trusted metadata cannot be kept, so nothing is done by it.
    #[error("trusted metadata cannot be stored: {0}")]
    Disk(#[from] DiskError),
    /// There is nothing to begin from.
    #[error("there is no root to trust: say models.root, the root.json that the factory gave out")]
    NoRoot,
    /// Older than what this box has seen, though its own copy was lost.
    #[error(
        "{role} has version {offered}, this box has seen {seen}: an old copy, or somebody plays one back"
    )]
    Older {
        /// Of which role.
        role: &'static str,
        /// What came.
        offered: u64,
        /// The floor.
        seen: u64,
    },
    /// No such target.
    #[error("no role that may sign it lists {0}")]
    NoTarget(String),
}

/// The error and what caused it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A source that the library and the download share.
#[derive(Debug, Clone)]
pub struct Shared {
    source: Arc<Mutex<Source>>,
    metadata: String,
    targets: String,
}

impl Shared {
    /// The repository as it lies under `ota/` of a factory.
    pub fn new(source: Source) -> Self {
        Self {
            source: Arc::new(Mutex::new(source)),
            metadata: "metadata/".to_owned(),
            targets: "targets/".to_owned(),
        }
    }

    /// The same with other folders for metadata and targets.
    #[must_use]
    pub fn with_folders(mut self, metadata: &str, targets: &str) -> Self {
        metadata.clone_into(&mut self.metadata);
        targets.clone_into(&mut self.targets);
        self
    }

    /// Fetches a file or a part of it.
    pub async fn fetch(
        &self,
        path: &str,
        want: Want,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), SourceError> {
        self.source.lock().await.fetch(path, want, take).await
    }

    async fn small(&self, path: String, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let fetched = self.source.lock().await.whole(&path, bytes_max).await;
        match fetched {
            Ok(bytes) => Ok(Some(bytes)),
            Err(SourceError::Missing { .. }) => Ok(None),
            Err(error) => Err(Error::transport_with_source("fetching", error)),
        }
    }
}

impl Repository for Shared {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.small(format!("{}{name}", self.metadata), max_length))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(self.small(format!("{}{path}", self.targets), max_length))
    }
}

/// Verified metadata, from which targets can be asked for.
#[derive(Debug)]
pub struct Releases {
    updater: Updater,
    now: Timestamp,
}

/// The file of the root.
pub const ROOT: &str = "root.json";

impl Releases {
    /// Brings the metadata up to date. `pinned` is the root to begin with where the store has none that is whole;
    /// `floors` is what this box has seen. What it has seen then must be stored before anything is done by it.
    pub async fn refresh<D: Disk + Send + 'static>(
        source: Shared,
        store: &MetadataFolder<D>,
        pinned: Option<&[u8]>,
        floors: &Floors,
        now: Timestamp,
    ) -> Result<(Self, Floors), ClientError> {
        let mut config = UpdaterConfig::default();
        config.target_max_length = INDEX_BYTES_MAX;
        let begin = |root: &[u8]| Updater::new(source.clone(), root);
        let kept = store.get(ROOT)?;
        let updater = match (kept.as_deref().map(begin), pinned) {
            (Some(Ok(updater)), _) => updater,
            // A root that went bad on the disk: the chain is walked again from the one that was given out.
            (_, Some(pinned)) => begin(pinned)?,
            (Some(Err(error)), None) => return Err(error.into()),
            (None, None) => return Err(ClientError::NoRoot),
        };
        let mut updater = updater.with_config(config).with_store(store.clone());
        let refreshed = updater.refresh(now).await;
        // A write that did not happen would be forgotten progress: an attacker could play the old one back.
        store.settle()?;
        refreshed?;
        let seen = seen(&updater);
        check(floors, &seen)?;
        Ok((Self { updater, now }, seen))
    }

    /// The bytes of a target.
    pub async fn target(&mut self, path: &str) -> Result<Vec<u8>, ClientError> {
        let info = self.info(path).await?;
        Ok(self.updater.download_target(&info, path).await?)
    }

    /// Where a target is, and what it must be.
    pub async fn place(&mut self, path: &str) -> Result<TargetPlace, ClientError> {
        let info = self.info(path).await?;
        let prefixed = self.updater.trusted().root().consistent_snapshot;
        TargetPlace::new(path, info, prefixed).ok_or_else(|| ClientError::NoTarget(path.to_owned()))
    }

    async fn info(&mut self, path: &str) -> Result<TargetFile, ClientError> {
        let info = self.updater.get_target_info(path, self.now).await?;
        info.ok_or_else(|| ClientError::NoTarget(path.to_owned()))
    }
}

/// A target that somebody else fetches.
#[derive(Debug)]
pub struct TargetPlace {
    path: String,
    info: TargetFile,
}

impl TargetPlace {
    /// `None`: it has no digest that is known here.
    fn new(path: &str, info: TargetFile, prefixed: bool) -> Option<Self> {
        let known = ["sha256", "sha512"]
            .into_iter()
            .find_map(|name| info.hashes.get(name));
        let hash = known?;
        let path = match path.rsplit_once('/') {
            _ if !prefixed => path.to_owned(),
            Some((folder, name)) => format!("{folder}/{hash}.{name}"),
            None => format!("{hash}.{path}"),
        };
        Some(Self { path, info })
    }

    /// The path of its file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.info.length
    }

    /// Whether these are its bytes, by every digest that is known here.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let is = |name: &str, algorithm| {
            let is = hex(digest(algorithm, bytes).as_ref());
            let wanted = self.info.hashes.get(name)?;
            Some(wanted.eq_ignore_ascii_case(&is))
        };
        let judged = [is("sha256", &SHA256), is("sha512", &SHA512)];
        let mut judged = judged.into_iter().flatten().peekable();
        bytes.len() as u64 == self.info.length
            && judged.peek().is_some()
            && judged.all(|right| right)
    }
}

fn seen(updater: &Updater) -> Floors {
    let trusted = updater.trusted();
    Floors {
        root: trusted.root().version,
        timestamp: trusted.timestamp().map_or(0, |role| role.version),
        snapshot: trusted.snapshot().map_or(0, |role| role.version),
        targets: trusted
            .targets_role("targets")
            .map_or(0, |role| role.version),
        ..Floors::default()
    }
}

/// A new root begins the others anew: that is how a factory recovers from a stolen key that signed huge versions.
fn check(floors: &Floors, seen: &Floors) -> Result<(), ClientError> {
    let pairs = [
        ("root", seen.root, floors.root),
        ("timestamp", seen.timestamp, floors.timestamp),
        ("snapshot", seen.snapshot, floors.snapshot),
        ("targets", seen.targets, floors.targets),
    ];
    let compared = if seen.root > floors.root {
        1
    } else {
        pairs.len()
    };
    let older = pairs[..compared]
        .iter()
        .find(|(_, offered, seen)| offered < seen);
    older.map_or(Ok(()), |&(role, offered, seen)| {
        Err(ClientError::Older {
            role,
            offered,
            seen,
        })
    })
}
