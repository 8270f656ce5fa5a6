//! The object store: a local folder, or what others run. Each object is written once.
//!
//! ```text
//! seg/v1/<appliance>/<epoch>/<class>/<seq20>-<digest32>.seg     what boxes sent, encrypted
//! staging/<appliance>/<epoch>/<class>/<seq20>-<digest32>/<offset20>   pieces of a segment whose upload broke off
//! quarantine/v1/…                                                as seg/, of epochs that two machines write
//! parquet/dt=<day>/workload=<name>/<digest64>.parquet            what they said; only committed ones count
//! commits/<number20>.json                                        what counts: an append-only list
//! devices/<appliance>/…  enrol/…  boots/<appliance>/<epoch>/<boot20>   who is in the fleet
//! erasures/<tenant>.json                                         whose records are gone
//! ```

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use outstation_wire::segment::Class;

/// A store that replicas share.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
}

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else stands under this name.
    #[error("{key} holds other bytes than those that belong there: two writers use one name")]
    Conflict {
        /// The object.
        key: String,
    },
    /// The store does not answer, or says no.
    #[error("the store fails at {key}: {source}")]
    Store {
        /// The object.
        key: String,
        /// Why.
        source: object_store::Error,
    },
    /// The folder cannot be used.
    #[error("cannot use the folder {folder}: {source}")]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What [`Store::put_once`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Nothing was there.
    Created,
    /// The same bytes were there.
    Present,
}

/// Tries of a request whose outcome is unknown.
const TRIES: u32 = 6;

impl Store {
    /// A folder of this machine, made if it is missing. What is acknowledged is on its disk.
    pub fn folder(folder: &FilePath) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Folder {
            folder: folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let objects = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| failed(std::io::Error::other(source)))?
            .with_fsync(true);
        Ok(Self::new(Arc::new(objects)))
    }

    /// Any other.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }

    /// The store itself, for reading and listing.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Stores bytes under a name that belongs to them alone. Safe to repeat, from any replica, after any error.
    ///
    /// What a store says to a write is not believed where it may be wrong: S3 answers 409 although nothing was written,
    /// and a reply may be lost after everything was. So whatever is not a plain success is settled by a look at what
    /// is there.
    pub async fn put_once(&self, key: &Path, bytes: PutPayload) -> Result<Put, StoreError> {
        let failed = |source| StoreError::Store {
            key: key.to_string(),
            source,
        };
        let mut last = None;
        for _ in 0..TRIES {
            match self
                .objects
                .put_opts(key, bytes.clone(), PutMode::Create.into())
                .await
            {
                Ok(_) => return Ok(Put::Created),
                Err(error) => last = Some(error),
            }
            match self.objects.get(key).await {
                Ok(found) => {
                    let found = found.bytes().await.map_err(failed)?;
                    let same = found.len() == bytes.content_length()
                        && blake3::hash(&found) == digest(&bytes);
                    if same {
                        return Ok(Put::Present);
                    }
                    return Err(StoreError::Conflict {
                        key: key.to_string(),
                    });
                }
                // Nothing is there: whatever the store said, the write did not happen.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(failed(last.expect("there was a try, and it failed")))
    }
}

/// BLAKE3 of a payload.
fn digest(payload: &PutPayload) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Where a segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// Which box.
    pub appliance: [u8; 16],
    /// Which of its spools.
    pub epoch: [u8; 16],
    /// What its records are worth.
    pub class: Class,
    /// Its place in its class.
    pub seq: u64,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
}

impl SegmentId {
    /// `seg/v1/<appliance>/<epoch>/<class>/<seq20>-<digest32>.seg`
    pub fn key(&self) -> Path {
        self.under("seg/v1")
    }

    /// The same where segments of epochs with two writers are kept.
    pub fn quarantine_key(&self) -> Path {
        self.under("quarantine/v1")
    }

    fn under(&self, folder: &str) -> Path {
        Path::from(format!(
            "{folder}/{}/{}/{}/{:020}-{}.seg",
            hex(&self.appliance),
            hex(&self.epoch),
            self.class.name(),
            self.seq,
            hex(&self.digest[..16])
        ))
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes it");
    }
    text
}
