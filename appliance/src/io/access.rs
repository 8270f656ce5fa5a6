//! The door: the keys that count now, from a file that may change under a running box.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::access::{Grant, Keys, KeysError};

/// The keys that count now. Without a file of keys everybody on this machine may come in.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    file: PathBuf,
    seen: RwLock<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// None: there is no file.
    keys: Option<Keys>,
    stamp: Stamp,
}

/// What tells that a file is another one.
type Stamp = Option<(SystemTime, u64)>;

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The file.
    #[error("cannot read the keys {}: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{}: {source}", file.display())]
    Keys {
        /// Which.
        file: PathBuf,
        /// Why.
        source: KeysError,
    },
}

impl DoorError {
    /// Whether the file is another user's.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

impl Door {
    /// Reads the keys, if there is a file of them.
    pub fn open(file: PathBuf) -> Result<Self, DoorError> {
        let (keys, stamp) = read(&file)?;
        Ok(Self(Arc::new(Inner {
            file,
            seen: RwLock::new(Seen { keys, stamp }),
        })))
    }

    /// Whether nobody comes in without a key.
    pub fn is_locked(&self) -> bool {
        self.seen(|seen| seen.keys.is_some())
    }

    /// What a secret opens; nothing where nothing is locked.
    pub fn grant(&self, secret: &str) -> Option<Grant> {
        self.seen(|seen| seen.keys.as_ref()?.grant(secret))
    }

    fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.0.seen.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks once a second whether the file is another one, so that a revoked key opens nothing a second later. A file
    /// that cannot be read leaves the keys that were there.
    pub async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if stamp(&self.0.file) == self.seen(|seen| seen.stamp) {
                continue;
            }
            match read(&self.0.file) {
                // Who removes the file of a box that others reach must not open it to all.
                Ok((None, _)) if self.is_locked() => {}
                Ok((keys, stamp)) => {
                    let seen = self.0.seen.write();
                    *seen.unwrap_or_else(PoisonError::into_inner) = Seen { keys, stamp };
                    tracing::info!("the keys were read again");
                }
                Err(error) => tracing::error!("{error}; those that were read before stay"),
            }
        }
    }
}

fn read(file: &PathBuf) -> Result<(Option<Keys>, Stamp), DoorError> {
    let before = stamp(file);
    let json = match std::fs::read(file) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((None, None)),
        Err(source) => {
            let file = file.clone();
            return Err(DoorError::Read { file, source });
        }
    };
    let keys = Keys::parse(&json).map_err(|source| DoorError::Keys {
        file: file.clone(),
        source,
    })?;
    Ok((Some(keys), before))
}

fn stamp(file: &PathBuf) -> Stamp {
    let facts = std::fs::metadata(file).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
