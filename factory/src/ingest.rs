//! Taking a segment: offer, resume, bytes, checks, store, acknowledgement.
//!
//! ```text
//! Offer ─▶ there already? ─ yes ─▶ Stored            another digest in its place? ─▶ quarantine, Conflict
//!            │ no
//!            ▼ room in memory (waits, then Busy) ─▶ staged pieces ─▶ Resume ─▶ bytes ─▶ digest, header, frames
//!            ▼                                                          │ broke off
//!          put_once ─▶ looks again for another digest ─▶ Stored         ▼ ≥ 64 KiB more are kept in staging/
//! ```
//!
//! A segment is in memory whole while it is on its way: `memory_bytes_max` bounds all of them together, whatever the
//! number of boxes (U-11).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::PutPayload;
use object_store::path::Path;
use outstation_wire::segment::FOOTER_BYTES;
use outstation_wire::uplink::{FactoryMessage, Offer, Refused, RefusedCode, Resume, Stored};
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::channel::{self, ChannelError, later, never};
use crate::ingest::check::{Checked, check, identify};
use crate::ingest::staging::{PIECE_BYTES_MIN, Staging};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::{SegmentId, Store, StoreError};

pub mod check;
pub mod staging;

/// Ceilings of ingest.
#[derive(Debug, Clone, Copy)]
pub struct IngestLimits {
    /// Bytes of all segments on their way, in memory. Default 256 MiB.
    pub memory_bytes_max: u64,
    /// How long a segment waits for room in memory. Default 20 s.
    pub memory_wait: Duration,
    /// An upload must bring `rate_bytes_min` in each window of this length. Default 10 s.
    pub rate_window: Duration,
    /// See `rate_window`. Default 4 KiB: slower than any radio, faster than an attack.
    pub rate_bytes_min: u64,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 256 << 20,
            memory_wait: Duration::from_secs(20),
            rate_window: Duration::from_secs(10),
            rate_bytes_min: 4 << 10,
        }
    }
}

/// The part of a replica that takes segments.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    registry: Registry,
    metrics: Arc<Metrics>,
    memory: Arc<Semaphore>,
    limits: IngestLimits,
}

/// A segment that arrived, for the registry.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Which.
    pub id: SegmentId,
    /// Its bytes.
    pub bytes: u64,
    /// Whether it was there before.
    pub repeated: bool,
    /// Whether there is damage inside.
    pub damaged: bool,
}

/// What stands in a segment's place.
enum Place {
    Empty,
    /// The same, of this many bytes.
    Same(u64),
    /// Another digest.
    Other,
}

/// Memory is counted in units of this, so that a count of them is a u32.
const MEMORY_UNIT_BYTES: u64 = 1 << 10;
/// When a store may answer again.
const STORE_AGAIN: Duration = Duration::from_secs(10);
/// When there may be room again.
const ROOM_AGAIN: Duration = Duration::from_secs(5);
/// When a box may offer a segment again that turned out to be of two machines: it says Hello in between.
const CONFLICT_AGAIN: Duration = Duration::from_secs(1);

impl Ingest {
    /// Over a store.
    pub fn new(store: Store, metrics: Arc<Metrics>, limits: IngestLimits) -> Self {
        let units = limits.memory_bytes_max / MEMORY_UNIT_BYTES;
        let units = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            registry: Registry::new(store.clone()),
            store,
            metrics,
            memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            limits,
        }
    }

    /// Takes one segment, from its offer to the acknowledgement. `quarantined`: its epoch is known to have two writers.
    ///
    /// `Ok` with a refusal inside: it was said. `Err`: the box is gone.
    pub async fn take(
        &self,
        offer: &Offer,
        appliance: [u8; 16],
        quarantined: bool,
        (send, receive): (&mut SendStream, &mut RecvStream),
    ) -> Result<Result<Arrived, Refused>, ChannelError> {
        let outcome = match self.prepare(offer, appliance, quarantined).await {
            Ok(Prepared::Stored(arrived)) => Ok(arrived),
            Ok(Prepared::Send(mut upload)) => {
                let offset = upload.bytes.len() as u64;
                channel::send(send, FactoryMessage::Resume(Resume { offset })).await?;
                match self.receive(&mut upload, receive).await {
                    Ok(()) => self.finish(upload, quarantined).await,
                    Err(refused) => {
                        self.keep(upload, offset).await;
                        Err(refused)
                    }
                }
            }
            Err(refused) => Err(refused),
        };
        match &outcome {
            Ok(arrived) => {
                let key = if quarantined {
                    arrived.id.quarantine_key()
                } else {
                    arrived.id.key()
                };
                let stored = Stored {
                    digest: arrived.id.digest.to_vec(),
                    bytes: arrived.bytes,
                    key: key.to_string(),
                };
                channel::send(send, FactoryMessage::Stored(stored)).await?;
            }
            Err(refused) => {
                self.metrics.refused(refused.code);
                channel::send(send, FactoryMessage::Refused(refused.clone())).await?;
            }
        }
        Ok(outcome)
    }

    async fn prepare(
        &self,
        offer: &Offer,
        appliance: [u8; 16],
        quarantined: bool,
    ) -> Result<Prepared<'_>, Refused> {
        let id = identify(offer, appliance)?;
        match self.place(&id, quarantined).await? {
            // U-5
            Place::Same(bytes) if bytes == offer.bytes => {
                self.metrics.repeats.inc();
                return Ok(Prepared::Stored(Arrived {
                    id,
                    bytes,
                    repeated: true,
                    damaged: false,
                }));
            }
            Place::Same(bytes) => {
                let message = format!(
                    "{} bytes are stored with this digest, {} are offered",
                    bytes, offer.bytes
                );
                return Err(never(RefusedCode::Digest, message));
            }
            Place::Other => return Err(self.conflict(&id).await?),
            Place::Empty => {}
        }
        let room = self.room(offer.bytes).await?;
        let staging = Staging::new(self.store.clone(), &id);
        let staged = self.metrics.timed("load", staging.load(offer.bytes)).await;
        let staged = staged.map_err(unavailable)?;
        let mut upload = Upload::new(id, offer.bytes, staging, room);
        upload.resumed = !staged.is_empty();
        for piece in &staged {
            upload.push(piece);
        }
        self.metrics.resumed_bytes.inc_by(upload.bytes.len() as u64);
        Ok(Prepared::Send(upload))
    }

    /// Waits for room in memory, and holds it.
    async fn room(&self, bytes: u64) -> Result<Room<'_>, Refused> {
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).expect("a segment is small");
        let permit = self.memory.clone().acquire_many_owned(units);
        if let Ok(Ok(permit)) = tokio::time::timeout(self.limits.memory_wait, permit).await {
            let bytes = i64::from(units) << 10;
            let all = self.metrics.memory_bytes.inc_by(bytes) + bytes;
            if all > self.metrics.memory_bytes_peak.get() {
                self.metrics.memory_bytes_peak.set(all);
            }
            Ok(Room {
                metrics: &self.metrics,
                bytes,
                _permit: permit,
            })
        } else {
            let message = "as many segments as fit in memory are on their way: come back";
            Err(later(RefusedCode::Busy, message, ROOM_AGAIN))
        }
    }

    /// What stands in the place. Other digests are seen by their names.
    ///
    /// Cost: one listing from the place on; boxes send the oldest first, so little comes after it.
    async fn place(&self, id: &SegmentId, quarantined: bool) -> Result<Place, Refused> {
        let key = if quarantined {
            id.quarantine_key()
        } else {
            id.key()
        };
        let folder: Path = key.parts().take(key.parts_count() - 1).collect();
        let name = key.filename().expect("it has one").to_owned();
        let seq = format!("{:020}", id.seq);
        let from = folder.clone().join(seq.as_str());
        let look = self.store.objects().list_with_offset(Some(&folder), &from);
        let look = look.try_fold(Place::Empty, |place, meta| {
            let found = meta.location.filename().unwrap_or_default();
            let place = match place {
                Place::Other => Place::Other,
                _ if found == name => Place::Same(meta.size),
                // In quarantine, segments of all writers stand side by side.
                place if quarantined || !found.starts_with(&seq) => place,
                _ => Place::Other,
            };
            std::future::ready(Ok(place))
        });
        let look = self.metrics.timed("look", look).await;
        look.map_err(|source| {
            let key = folder.to_string();
            unavailable(StoreError::Store {
                key,
                tries: 1,
                source,
            })
        })
    }

    /// Two machines write this epoch (U-14).
    async fn conflict(&self, id: &SegmentId) -> Result<Refused, Refused> {
        let reason = format!(
            "two segments {} {} with different digests",
            id.class.name(),
            id.seq
        );
        let marked = self.registry.quarantine(&id.appliance, &id.epoch, &reason);
        self.metrics
            .timed("mark", marked)
            .await
            .map_err(unavailable)?;
        let message = "another segment stands in this place: two machines write this spool. Say Hello, begin a new \
                       spool, and offer this one again";
        Ok(later(RefusedCode::Conflict, message, CONFLICT_AGAIN))
    }

    /// Receives bytes until the segment is whole (U-7, U-12).
    async fn receive(
        &self,
        upload: &mut Upload<'_>,
        receive: &mut RecvStream,
    ) -> Result<(), Refused> {
        let broken = |what: String| {
            later(
                RefusedCode::Busy,
                format!("the upload broke off: {what}"),
                Duration::from_secs(1),
            )
        };
        let limits = self.limits;
        let mut window_end = Instant::now() + limits.rate_window;
        let mut window_bytes = 0;
        loop {
            let left = upload.total - upload.bytes.len();
            // One more than is due, to see an end that is none.
            let chunk = receive.read_chunk(left.max(1), true);
            let chunk = match tokio::time::timeout_at(window_end, chunk).await {
                Ok(Ok(Some(chunk))) => chunk.bytes,
                Ok(Ok(None)) if left == 0 => return Ok(()),
                Ok(Ok(None)) => return Err(broken(format!("{left} bytes are missing"))),
                Ok(Err(error)) => return Err(broken(error.to_string())),
                Err(_) if window_bytes >= limits.rate_bytes_min => {
                    window_end += limits.rate_window;
                    window_bytes = 0;
                    continue;
                }
                Err(_) => {
                    let message = format!(
                        "{window_bytes} bytes in {:?} are too few: come back",
                        limits.rate_window
                    );
                    return Err(later(RefusedCode::Busy, message, ROOM_AGAIN));
                }
            };
            if left == 0 {
                let message = format!(
                    "more bytes come than the {} that were offered",
                    upload.total
                );
                return Err(never(RefusedCode::Malformed, message));
            }
            window_bytes += chunk.len() as u64;
            self.metrics.received_bytes.inc_by(chunk.len() as u64);
            upload.push(&chunk);
        }
    }

    /// Keeps what an upload brought before it broke off.
    async fn keep(&self, mut upload: Upload<'_>, offset: u64) {
        let from = usize::try_from(offset).expect("it fits in memory");
        if upload.bytes.len() - from >= PIECE_BYTES_MIN {
            let piece = upload.bytes.split_off(from).freeze();
            let kept = self
                .metrics
                .timed("keep", upload.staging.keep(offset, piece))
                .await;
            if let Err(error) = kept {
                tracing::warn!(%error, "a broken upload is not kept");
            }
        }
    }

    /// Checks and stores what arrived.
    async fn finish(&self, mut upload: Upload<'_>, quarantined: bool) -> Result<Arrived, Refused> {
        let id = upload.id;
        let (checked, bytes) = match upload.verify() {
            Ok(verified) => verified,
            Err(refused) => {
                // Whatever was kept of it is as wrong.
                upload.staging.clear().await;
                return Err(refused);
            }
        };
        let key = if quarantined {
            id.quarantine_key()
        } else {
            id.key()
        };
        let length = bytes.len() as u64;
        let put = self.store.put_once(&key, PutPayload::from_bytes(bytes));
        match self.metrics.timed("put", put).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => return Err(self.conflict(&id).await?),
            Err(error) => return Err(unavailable(error)),
        }
        // Another replica may have taken another segment in this place in the meantime: who looks last sees both.
        if !quarantined && matches!(self.place(&id, false).await?, Place::Other) {
            return Err(self.conflict(&id).await?);
        }
        if upload.resumed {
            upload.staging.clear().await;
        }
        let damaged = checked.bytes_damaged > 0 || !checked.complete;
        self.metrics.stored(id.class, length);
        if damaged {
            self.metrics.damaged.inc();
            tracing::warn!(%key, ?checked, "stored with damage inside: it came so from the box");
        }
        Ok(Arrived {
            id,
            bytes: length,
            repeated: false,
            damaged,
        })
    }
}

enum Prepared<'a> {
    Stored(Arrived),
    Send(Upload<'a>),
}

/// Room in memory.
struct Room<'a> {
    metrics: &'a Metrics,
    bytes: i64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.metrics.memory_bytes.dec_by(self.bytes);
    }
}

/// A segment on its way. Its digests are computed as it arrives.
struct Upload<'a> {
    id: SegmentId,
    total: usize,
    bytes: BytesMut,
    hasher: Box<blake3::Hasher>,
    /// The digest of all but the footer, once the footer begins.
    body_digest: Option<blake3::Hash>,
    staging: Staging,
    resumed: bool,
    _room: Room<'a>,
}

impl<'a> Upload<'a> {
    fn new(id: SegmentId, total: u64, staging: Staging, room: Room<'a>) -> Self {
        let total = usize::try_from(total).expect("a segment is small");
        Self {
            id,
            total,
            bytes: BytesMut::with_capacity(total),
            hasher: Box::new(blake3::Hasher::new()),
            body_digest: None,
            staging,
            resumed: false,
            _room: room,
        }
    }

    fn push(&mut self, piece: &[u8]) {
        let body = (self.total - FOOTER_BYTES).saturating_sub(self.bytes.len());
        let (before, after) = piece.split_at(body.min(piece.len()));
        self.hasher.update(before);
        if !after.is_empty() {
            self.body_digest
                .get_or_insert_with(|| self.hasher.finalize());
            self.hasher.update(after);
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Whether it is what was offered.
    fn verify(&mut self) -> Result<(Checked, Bytes), Refused> {
        if *self.hasher.finalize().as_bytes() != self.id.digest {
            let message =
                "the bytes that arrived are not those that were offered: offer them again";
            return Err(never(RefusedCode::Digest, message));
        }
        let body = self
            .body_digest
            .expect("a segment is longer than its footer");
        let checked = check(&self.bytes, &self.id, body)?;
        Ok((checked, std::mem::take(&mut self.bytes).freeze()))
    }
}

/// The store's failure, as a box hears of it.
pub fn unavailable(error: StoreError) -> Refused {
    tracing::warn!(%error, "the store fails");
    later(
        RefusedCode::Unavailable,
        "the factory's store does not answer: come back",
        STORE_AGAIN,
    )
}
