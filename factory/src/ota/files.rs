//! Released files as boxes get them: a range of one, read as fast as it is taken.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, GetRange, ObjectMeta};

use crate::store::{Store, StoreError};

/// Bytes that are handed on at once.
pub const PIECE_BYTES_MAX: usize = 64 << 10;

/// What is known of a file. `None`: there is none.
pub async fn look(store: &Store, path: &str) -> Result<Option<ObjectMeta>, StoreError> {
    match super::object(path) {
        Some(key) => store.head_if_there(&key).await,
        None => Ok(None),
    }
}

/// A range of a file that was looked at, in pieces. One try: who reads asks again from where it broke off.
pub async fn open(
    store: &Store,
    meta: &ObjectMeta,
    range: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    let key = meta.location.clone();
    let failed = move |source| StoreError::Store {
        key: key.to_string(),
        tries: 1,
        source,
    };
    if range.is_empty() {
        return Ok(futures_util::stream::empty().boxed());
    }
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        ..GetOptions::default()
    };
    let got = store.objects().get_opts(&meta.location, options).await;
    let stream = got.map_err(failed.clone())?.into_stream();
    let pieces = stream.map_ok(|bytes| {
        let cuts = (0..bytes.len()).step_by(PIECE_BYTES_MAX);
        let pieces: Vec<_> = cuts
            .map(|start| bytes.slice(start..bytes.len().min(start + PIECE_BYTES_MAX)))
            .collect();
        futures_util::stream::iter(pieces.into_iter().map(Ok))
    });
    Ok(pieces.try_flatten().map_err(failed).boxed())
}
