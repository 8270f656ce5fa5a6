//! A part of a released file, as fast as the box takes it and may have it.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt as _;
use outstation_wire::uplink::{FactoryMessage, Fetch, File, Refused, RefusedCode};
use quinn::SendStream;
use tokio::time::Instant;

use super::Peer;
use crate::channel::{self, ChannelError, later, never};
use crate::ingest::unavailable;
use crate::metrics::WayLabel;
use crate::ota::files;

/// A box that takes nothing for this long has gone on to something else.
const STALLED: Duration = Duration::from_mins(1);
/// When to ask again where too many fetch at once.
const BUSY_FOR: Duration = Duration::from_secs(5);

impl Peer {
    /// Answers with the file's length and the bytes, or with a no.
    pub(super) async fn fetch(
        &self,
        fetch: &Fetch,
        send: &mut SendStream,
    ) -> Result<(), ChannelError> {
        let Ok(_turn) = self.factory.fetches.try_acquire() else {
            let refused = later(RefusedCode::Busy, "too many boxes fetch at once", BUSY_FOR);
            return self.answer(send, Err(refused)).await.map(drop);
        };
        match self.found(fetch).await {
            Ok((bytes, pieces)) => self.send(bytes, pieces, send).await,
            Err(refused) => self.answer(send, Err(refused)).await.map(drop),
        }
    }

    async fn found(&self, fetch: &Fetch) -> Result<(u64, Pieces), Refused> {
        self.admit().await?;
        let (store, metrics) = (&self.factory.store, &self.factory.metrics);
        let found = metrics.timed("look", files::look(store, &fetch.path)).await;
        let Some(meta) = found.map_err(unavailable)? else {
            let path: String = fetch.path.chars().take(200).collect();
            return Err(never(RefusedCode::Missing, format!("there is no {path}")));
        };
        let end = meta.size.min(fetch.offset.saturating_add(fetch.bytes_max));
        let range = fetch.offset.min(end)..end;
        let opened = metrics.timed("get", files::open(store, &meta, range)).await;
        Ok((meta.size, opened.map_err(unavailable)?))
    }

    async fn send(
        &self,
        bytes: u64,
        mut pieces: Pieces,
        send: &mut SendStream,
    ) -> Result<(), ChannelError> {
        channel::send(send, FactoryMessage::File(File { bytes })).await?;
        let way = WayLabel { way: "uplink" };
        let metrics = &self.factory.metrics;
        metrics.fetches.get_or_create(&way).inc();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            self.pace(piece.len()).await;
            let length = piece.len() as u64;
            let silent = |_| ChannelError::Silent(STALLED);
            let written = tokio::time::timeout(STALLED, send.write_chunk(piece)).await;
            written.map_err(silent)??;
            metrics.fetched_bytes.get_or_create(&way).inc_by(length);
        }
        Ok(())
    }

    /// Waits until the box may have so many bytes more, all its streams together.
    async fn pace(&self, bytes: usize) {
        let limit = self.factory.limits.download_bytes_per_s_max;
        if limit == 0 {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / limit as f64);
        let begins = {
            let mut next = self
                .next_byte
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let begins = (*next).max(Instant::now());
            *next = begins + takes;
            begins
        };
        tokio::time::sleep_until(begins).await;
    }
}

type Pieces =
    futures_util::stream::BoxStream<'static, Result<bytes::Bytes, crate::store::StoreError>>;
