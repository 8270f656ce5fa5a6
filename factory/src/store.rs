//! The object store: a local folder, or what others run. Each object is written once.
//!
//! ```text
//! seg/v1/<appliance>/<epoch>/<class>/<seq20>-<digest32>.seg     what boxes sent, encrypted
//! staging/<appliance>/<epoch>/<class>/<seq20>-<digest32>/<offset20>   pieces of a segment whose upload broke off
//! quarantine/v1/…                                                as seg/, of epochs that two machines write
//! parquet/<table>/dt=<day>/workload=<name>/<digest64>.parquet    what they said; only committed ones count
//! commits/<number20>.json                                        what counts: an append-only list
//! checkpoints/<number20>.json                                    the sum of all commits up to one, to begin reading at
//! devices/<appliance>/…  enrol/…  boots/<appliance>/<epoch>/<boot20>   who is in the fleet
//! ota/…                                                          what is released, see `ota`
//! erasures/<tenant>.json                                         whose records are gone
//! retention.json                                                 how long records stay; overwritten
//! ```

use std::hash::{BuildHasher as _, RandomState};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
pub use outstation_wire::hex::hex;
use outstation_wire::segment::Class;

mod open;
#[cfg(test)]
mod tests;

/// A store that replicas share.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Where this process begins in the sequence of its waits, so that replicas do not wait in step.
    jitter: u64,
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
    #[error("the store fails at {key}, {tries} times: {source}")]
    Store {
        /// The object.
        key: String,
        /// How often it was asked.
        tries: u32,
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
    /// The folder's file system has no hard links, by which a file appears whole or not at all, and once.
    #[error(
        "the folder {folder} cannot hold hard links ({source}), and without them two writers could overwrite each \
         other: use ext4, XFS, Btrfs or ZFS, not FAT, exFAT or a network share without links"
    )]
    Links {
        /// Which.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
    /// The address names no store that this program knows.
    #[error("{url} is no store: {reason}")]
    Address {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
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

/// Tries of a request before it is an error: about ten seconds of waits.
const TRIES: u32 = 8;
/// The wait after the first try; it doubles.
const WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// What a request without a body may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Slower than this is taken for a store that hangs.
const BYTES_PER_MS_MIN: u64 = 512;

impl Store {
    /// Any store.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            jitter: RandomState::new().hash_one(0),
        }
    }

    /// The store itself, for reading and listing.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Stores bytes under a name that belongs to them alone. Safe to repeat, from any replica, after any error.
    ///
    /// What a store says to a write is not believed where it may be wrong: S3 answers 409 although nothing was written,
    /// and a reply may be lost after everything was. So whatever is not a plain success is settled by a look at what
    /// is there: the same bytes are a success, other bytes a conflict, and nothing is a reason to try again.
    ///
    /// Cost: one request if all goes well. A repeated write reads what is there once.
    pub async fn put_once(&self, key: &Path, bytes: PutPayload) -> Result<Put, StoreError> {
        let length = bytes.content_length() as u64;
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(key, tried).await;
            let put = self
                .objects
                .put_opts(key, bytes.clone(), PutMode::Create.into());
            match timed(put, length).await {
                Ok(_) => return Ok(Put::Created),
                Err(error) => last = Some(error),
            }
            match self.is_there(key, &bytes).await {
                Ok(Some(true)) => return Ok(Put::Present),
                Ok(Some(false)) => {
                    return Err(StoreError::Conflict {
                        key: key.to_string(),
                    });
                }
                // Nothing is there: whatever the store said, the write did not happen.
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(failed(
            key,
            last.expect("there was a try, and it did not succeed"),
        ))
    }

    /// Whether an object is there, and whether it is these bytes. One try.
    async fn is_there(
        &self,
        key: &Path,
        bytes: &PutPayload,
    ) -> Result<Option<bool>, object_store::Error> {
        let length = bytes.content_length() as u64;
        match timed(self.objects.head(key), 0).await {
            Ok(meta) if meta.size != length => return Ok(Some(false)),
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let get = async { self.objects.get(key).await?.bytes().await };
        match timed(get, length).await {
            Ok(found) => Ok(Some(blake3::hash(&found) == digest(bytes))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An object, or `None` where there is none.
    pub async fn get_if_there(&self, key: &Path) -> Result<Option<Bytes>, StoreError> {
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(key, tried).await;
            // How long it is comes with the answer.
            let got = match timed(self.objects.get(key), 0).await {
                Ok(got) => {
                    let length = got.meta.size;
                    timed(got.bytes(), length).await
                }
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => last = Some(error),
            }
        }
        Err(failed(key, last.expect("each try failed")))
    }

    /// What the store knows of an object, or `None` where there is none.
    pub async fn head_if_there(&self, key: &Path) -> Result<Option<ObjectMeta>, StoreError> {
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(key, tried).await;
            match timed(self.objects.head(key), 0).await {
                Ok(meta) => return Ok(Some(meta)),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => last = Some(error),
            }
        }
        Err(failed(key, last.expect("each try failed")))
    }

    /// An object that must be there.
    pub async fn get(&self, key: &Path) -> Result<Bytes, StoreError> {
        let found = self.get_if_there(key).await?;
        found.ok_or_else(|| StoreError::Store {
            key: key.to_string(),
            tries: 1,
            source: object_store::Error::NotFound {
                path: key.to_string(),
                source: "it is part of the committed list, and gone".into(),
            },
        })
    }

    /// Writes an object over whatever is there.
    pub async fn overwrite(&self, key: &Path, bytes: PutPayload) -> Result<(), StoreError> {
        let length = bytes.content_length() as u64;
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(key, tried).await;
            match timed(self.objects.put(key, bytes.clone()), length).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(failed(key, last.expect("each try failed")))
    }

    /// Takes an object away. That it is gone is a success.
    pub async fn delete(&self, key: &Path) -> Result<(), StoreError> {
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(key, tried).await;
            match timed(self.objects.delete(key), 0).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(failed(key, last.expect("each try failed")))
    }

    /// All objects under a folder whose keys are greater than `after`, in the order of their keys. What was written a
    /// moment ago may be missing.
    ///
    /// Memory: about 200 bytes an object.
    pub async fn list(
        &self,
        folder: &Path,
        after: Option<&Path>,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut last = None;
        for tried in 0..TRIES {
            self.wait(folder, tried).await;
            let mut stream = match after {
                Some(after) => self.objects.list_with_offset(Some(folder), after),
                None => self.objects.list(Some(folder)),
            };
            let list = async {
                let mut found = Vec::new();
                while let Some(meta) = timed(stream.try_next(), 0).await? {
                    found.push(meta);
                }
                Ok(found)
            };
            match list.await {
                Ok(mut found) => {
                    found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
                    return Ok(found);
                }
                // A folder of this machine loses a file between its name and its size when another replica deletes it.
                Err(error) => last = Some(error),
            }
        }
        Err(failed(folder, last.expect("each try failed")))
    }

    /// Waits before a try: none before the first, then longer and longer, and never as long as another replica.
    async fn wait(&self, key: &Path, tried: u32) {
        let Some(doublings) = tried.checked_sub(1) else {
            return;
        };
        let longest = WAIT
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(WAIT_MAX);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.jitter.to_le_bytes());
        hasher.update(&tried.to_le_bytes());
        hasher.update(key.as_ref().as_bytes());
        let share = f64::from(hasher.finalize().as_bytes()[0]) / 255.0;
        tokio::time::sleep(longest.mul_f64(0.5 + 0.5 * share)).await;
    }
}

fn failed(key: &Path, source: object_store::Error) -> StoreError {
    StoreError::Store {
        key: key.to_string(),
        tries: TRIES,
        source,
    }
}

/// A request with an end: the store may hang.
async fn timed<T>(
    request: impl Future<Output = Result<T, object_store::Error>>,
    bytes: u64,
) -> Result<T, object_store::Error> {
    let limit = REQUEST_TIMEOUT + Duration::from_millis(bytes / BYTES_PER_MS_MIN);
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => Err(object_store::Error::Generic {
            store: "store",
            source: format!("no answer within {} s", limit.as_secs()).into(),
        }),
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
