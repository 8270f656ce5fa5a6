//! Pieces of a segment whose upload broke off: any replica goes on from there (U-8).
//!
//! A piece is a help, never a proof: the digest of the whole decides. Two replicas may have cut differently; then the
//! pieces that fit together from the beginning are used.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::store::{SegmentId, Store, StoreError, hex};

/// Less than this is not worth a request.
pub const PIECE_BYTES_MIN: usize = 64 << 10;

/// What is kept of a segment, in its pieces.
#[derive(Debug, Clone)]
pub struct Staging {
    store: Store,
    folder: Path,
}

/// Piece of a segment: where it begins, and its bytes.
type Piece = (u64, u64, Path);

impl Staging {
    /// Of one segment.
    pub fn new(store: Store, id: &SegmentId) -> Self {
        let folder = Path::from(format!(
            "staging/{}/{}/{}/{:020}-{}",
            hex(&id.appliance),
            hex(&id.epoch),
            id.class.name(),
            id.seq,
            hex(&id.digest[..16])
        ));
        Self { store, folder }
    }

    /// What is there from the beginning, at most `bytes_max`.
    pub async fn load(&self, bytes_max: u64) -> Result<Vec<Bytes>, StoreError> {
        let mut pieces = self.pieces().await?;
        pieces.sort_unstable();
        let mut parts = Vec::new();
        let mut end = 0;
        for (offset, bytes, key) in pieces {
            if offset != end || end + bytes > bytes_max {
                continue;
            }
            let failed = |source| self.failed(source);
            let got = match self.store.objects().get(&key).await {
                Ok(got) => got,
                // Another replica has finished and cleaned up.
                Err(object_store::Error::NotFound { .. }) => break,
                Err(source) => return Err(failed(source)),
            };
            let part = got.bytes().await.map_err(failed)?;
            if part.len() as u64 != bytes {
                break;
            }
            end += bytes;
            parts.push(part);
        }
        Ok(parts)
    }

    /// Keeps what arrived from `offset` on.
    pub async fn keep(&self, offset: u64, piece: Bytes) -> Result<(), StoreError> {
        let key = self.folder.clone().join(format!("{offset:020}"));
        match self
            .store
            .put_once(&key, PutPayload::from_bytes(piece))
            .await
        {
            // Another replica kept a piece of another length from here.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all pieces. What fails is removed after a day.
    pub async fn clear(&self) {
        let Ok(pieces) = self.pieces().await else {
            return;
        };
        for (_, _, key) in pieces {
            let _ = self.store.objects().delete(&key).await;
        }
    }

    async fn pieces(&self) -> Result<Vec<Piece>, StoreError> {
        let listed: Vec<_> = self
            .store
            .objects()
            .list(Some(&self.folder))
            .try_collect()
            .await
            .map_err(|source| self.failed(source))?;
        let piece = |meta: object_store::ObjectMeta| {
            let offset = meta.location.filename()?.parse().ok()?;
            Some((offset, meta.size, meta.location))
        };
        Ok(listed.into_iter().filter_map(piece).collect())
    }

    fn failed(&self, source: object_store::Error) -> StoreError {
        StoreError::Store {
            key: self.folder.to_string(),
            tries: 1,
            source,
        }
    }
}

/// Removes pieces that nobody came back for.
///
/// Cost: one listing of `staging/`.
pub async fn sweep(store: &Store, older_than_unix_ms: u64) -> Result<u64, StoreError> {
    let folder = Path::from("staging");
    let failed = |source| StoreError::Store {
        key: folder.to_string(),
        tries: 1,
        source,
    };
    let mut removed = 0;
    let mut listed = store.objects().list(Some(&folder));
    while let Some(meta) = listed.try_next().await.map_err(failed)? {
        let written = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        if written < older_than_unix_ms {
            store
                .objects()
                .delete(&meta.location)
                .await
                .map_err(failed)?;
            removed += 1;
        }
    }
    Ok(removed)
}
