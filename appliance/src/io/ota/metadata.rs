//! Trusted metadata on a disk: each file is replaced whole and durably, or not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sigstore_tuf::{Error, MetadataStore};

use crate::disk::{self, Disk, DiskError};

/// A folder of metadata under the names that TUF gives it, without versions: `root.json`, `timestamp.json` and so on.
///
/// Targets and old roots are not kept: the root that is there is the one from which to go on, and what targets say is
/// kept by who asked for them.
pub struct MetadataFolder<D>(Arc<Mutex<Inner<D>>>);

impl<D> Clone for MetadataFolder<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<D> {
    disk: D,
    /// The first write that did not happen: the library only logs it.
    failed: Option<DiskError>,
}

/// The largest metadata that the library fetches.
const METADATA_BYTES_MAX: usize = 8 << 20;

impl<D: Disk> MetadataFolder<D> {
    /// That keeps its files on a disk.
    pub fn new(disk: D) -> Self {
        Self(Arc::new(Mutex::new(Inner { disk, failed: None })))
    }

    /// A file, if it is there.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        disk::contents(&mut self.lock().disk, name, METADATA_BYTES_MAX)
    }

    /// Replaces a file.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        disk::replace(&mut self.lock().disk, name, bytes)
    }

    /// Whether everything was written since the last call.
    pub fn settle(&self) -> Result<(), DiskError> {
        self.lock().failed.take().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk + Send> MetadataStore for MetadataFolder<D> {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if !is_kept(name) {
            return Ok(None);
        }
        self.get(name)
            .map_err(|source| failure("read", name, source))
    }

    fn store(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        if !is_kept(name) {
            return Ok(());
        }
        let mut inner = self.lock();
        let stored = disk::replace(&mut inner.disk, name, bytes);
        if let Err(error) = stored {
            inner.failed.get_or_insert(error);
        }
        stored.map_err(|source| failure("write", name, source))
    }
}

fn failure(what: &str, name: &str, source: DiskError) -> Error {
    Error::Io {
        context: format!("cannot {what} {name}"),
        source: std::io::Error::other(source),
    }
}

/// Not what has a version in its name, and not what is in a folder of its own.
fn is_kept(name: &str) -> bool {
    let versioned = name.split_once('.').is_some_and(|(first, _)| {
        !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit())
    });
    !versioned && !name.contains('/')
}
