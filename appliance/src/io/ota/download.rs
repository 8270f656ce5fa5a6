//! Fetching a release: from what is on the disk already, then from the source, at the rate that is allowed.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::time::Duration;

use outstation_wire::release::{CHUNK_BYTES_MAX, Index, Stored};
use tokio::time::Instant;

use super::client::Shared;
use super::source::{SourceError, Want};
use crate::disk::{self, Disk, DiskError};
use crate::fetch::{ChunkError, Download, Finish, Piece, Range, names};
use crate::slot::stem;
use crate::upload::Pace;

/// Bytes of a pack that are asked for at once. They come as fast as the line is, and a cut loses what is of them.
const RANGE_BYTES_MAX: u32 = 8 << 20;

/// A limited rate is kept over this time: long beside a round trip, short beside a line that others use, too.
const RANGE_SECONDS: u64 = 4;

/// How far a download is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file.
    pub bytes: u64,
    /// Of them there.
    pub there: u64,
    /// Taken from files that were on the disk.
    pub reused: u64,
    /// Bytes that came over the wire.
    pub fetched: u64,
}

/// Why a download stopped.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The source.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The disk.
    #[error("the disk of the models: {0}")]
    Disk(#[from] DiskError),
    /// Bytes that are not those that were signed.
    #[error("{pack}: {why}")]
    Bytes {
        /// The file that they came from.
        pack: String,
        /// What is wrong.
        why: String,
    },
    /// The index and the manifest are about different files.
    #[error(
        "the index is not of the file that the manifest names: the release is broken, publish it again"
    )]
    Contradiction,
}

/// What a download needs besides its index.
pub struct Fetcher<'a, D: Disk> {
    /// Where it comes from.
    pub source: &'a Shared,
    /// Where it goes.
    pub disk: &'a mut D,
    /// How fast it may come.
    pub pace: &'a mut Pace,
    /// What the pace counts from.
    pub started: Instant,
    /// Hears of every range.
    pub tell: &'a mut dyn FnMut(Progress),
}

impl<D: Disk> Fetcher<'_, D> {
    /// Fetches what is missing of a file, so far that its first `until` bytes are there. Goes on where it was cut off.
    /// The file is whole only after [`Fetcher::finish`].
    pub async fn run(
        &mut self,
        download: &mut Download<D>,
        until: u64,
        progress: &mut Progress,
    ) -> Result<(), DownloadError> {
        let bases = self.local_bases(download.index());
        let has_base = |digest: &[u8; 32]| bases.contains(digest);
        loop {
            progress.there = download.bytes_there();
            progress.bytes = download.index().bytes();
            (self.tell)(*progress);
            if download.reaches() >= until {
                return Ok(());
            }
            let most = self.pace.bytes_in(RANGE_SECONDS, RANGE_BYTES_MAX.into());
            let most = u32::try_from(most).unwrap_or(RANGE_BYTES_MAX);
            let Some(range) = download.next(most, &has_base) else {
                return Ok(());
            };
            self.range(download, &range, progress).await?;
        }
    }

    /// Checks the whole, and gives it its name. True: it is there.
    pub fn finish(&mut self, download: Download<D>) -> Result<Option<Download<D>>, DownloadError> {
        match download.finish(self.disk)? {
            (Finish::Whole, _) => Ok(None),
            (Finish::Contradiction, _) => Err(DownloadError::Contradiction),
            (Finish::Again(chunks), again) => {
                tracing::warn!(chunks, "chunks went bad on the disk and are fetched again");
                Ok(again)
            }
        }
    }

    /// Takes chunks that other models on this disk have, too. Only what is missing is looked for.
    pub fn reuse(
        &mut self,
        download: &mut Download<D>,
        kept: &[[u8; 32]],
        progress: &mut Progress,
    ) -> Result<(), DownloadError> {
        let mut missing: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
        for chunk in download.missing() {
            let digest = download.index().chunks[chunk].digest;
            missing.entry(digest).or_default().push(chunk);
        }
        let mut buffer = vec![0; CHUNK_BYTES_MAX as usize];
        for digest in kept {
            let Some(index) = local_index(self.disk, digest)? else {
                continue;
            };
            let [_, _, name] = names(digest);
            let file = match self.disk.open(&name) {
                Err(DiskError::Missing) => continue,
                file => file?,
            };
            let offsets: Vec<u64> = index.offsets().collect();
            for (chunk, offset) in index.chunks.iter().zip(offsets) {
                let Some(wanted) = missing.get(&chunk.digest) else {
                    continue;
                };
                let bytes = &mut buffer[..chunk.bytes as usize];
                let read = self.disk.read(&file, offset, bytes)?;
                for &chunk in wanted {
                    match download.write(self.disk, chunk, &bytes[..read]) {
                        Ok(()) => progress.reused += read as u64,
                        // The old file is not what it was: the source has it.
                        Err(ChunkError::Digest { .. }) => {}
                        Err(ChunkError::Disk(error)) => return Err(error.into()),
                    }
                }
                missing.remove(&chunk.digest);
            }
            download.commit(self.disk)?;
        }
        Ok(())
    }

    async fn range(
        &mut self,
        download: &mut Download<D>,
        range: &Range,
        progress: &mut Progress,
    ) -> Result<(), DownloadError> {
        let pack = download.index().packs[range.pack as usize];
        let path = format!("packs/{}.pack", outstation_wire::hex::hex(&pack.digest));
        let now = self.started.elapsed();
        let at = self.pace.spend(range.bytes.into(), now);
        tokio::time::sleep(at.saturating_sub(now)).await;
        let want = Want::Part {
            offset: range.offset.into(),
            bytes: range.bytes.into(),
        };
        let mut bytes = Vec::with_capacity(range.bytes as usize);
        let came = self
            .source
            .fetch(&path, want, &mut |piece| bytes.extend_from_slice(piece))
            .await;
        progress.fetched += bytes.len() as u64;
        // What came before it broke off is worth keeping.
        for piece in &range.pieces {
            let start = (piece.place.offset - range.offset) as usize;
            let Some(stored) = bytes.get(start..start + piece.place.bytes as usize) else {
                break;
            };
            self.piece(download, piece, stored, &path)?;
        }
        Ok(came?)
    }

    fn piece(
        &mut self,
        download: &mut Download<D>,
        piece: &Piece,
        stored: &[u8],
        path: &str,
    ) -> Result<(), DownloadError> {
        let wrong = |why: String| DownloadError::Bytes {
            pack: path.to_owned(),
            why,
        };
        let chunk = download.index().chunks[piece.chunk];
        let bytes_max = chunk.bytes as usize;
        let unpacked;
        let plain = match piece.patch {
            Some(patch) => {
                let base = self.base(download.index(), patch)?;
                unpacked =
                    unpack(stored, &base, bytes_max).map_err(|error| wrong(error.to_string()))?;
                &unpacked
            }
            None if chunk.form == Stored::Zstd => {
                unpacked =
                    unpack(stored, &[], bytes_max).map_err(|error| wrong(error.to_string()))?;
                &unpacked
            }
            None => stored,
        };
        match download.write(self.disk, piece.chunk, plain) {
            Ok(()) => Ok(download.commit(self.disk)?),
            Err(ChunkError::Disk(error)) => Err(error.into()),
            Err(error @ ChunkError::Digest { .. }) => Err(wrong(error.to_string())),
        }
    }

    /// The part of a base that a patch needs.
    fn base(&mut self, index: &Index, patch: usize) -> Result<Vec<u8>, DiskError> {
        let patch = &index.patches[patch];
        let [_, _, name] = names(&index.bases[patch.base as usize]);
        let file = self.disk.open(&name)?;
        let mut bytes = vec![0; patch.base_bytes as usize];
        let read = self.disk.read(&file, patch.base_offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Bases of patches that are on this disk.
    fn local_bases(&mut self, index: &Index) -> HashSet<[u8; 32]> {
        let mut there = HashSet::new();
        for base in &index.bases {
            let [_, _, name] = names(base);
            if self.disk.open(&name).is_ok() {
                there.insert(*base);
            }
        }
        there
    }
}

/// The name of a model's index.
pub fn index_name(digest: &[u8]) -> String {
    format!("{}.index", stem(digest))
}

/// The name of a model's manifest.
pub fn manifest_name(digest: &[u8]) -> String {
    format!("{}.json", stem(digest))
}

fn local_index<D: Disk>(disk: &mut D, digest: &[u8; 32]) -> Result<Option<Index>, DiskError> {
    let bytes_max =
        usize::try_from(outstation_wire::release::INDEX_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = disk::contents(disk, &index_name(digest), bytes_max)?;
    Ok(bytes.and_then(|bytes| Index::parse(&bytes).ok()))
}

/// A zstd frame, whatever it says of itself: no more than `bytes_max` come out, and no more memory is taken than they
/// and the prefix need.
fn unpack(frame: &[u8], prefix: &[u8], bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(frame, prefix)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut bytes = Vec::with_capacity(bytes_max);
    decoder.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(std::io::Error::other("a frame that grows past its chunk"));
    }
    Ok(bytes)
}

/// A chunk and four of its base: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Time between two tries after a failure grows up to this.
pub const RETRY_MAX: Duration = Duration::from_mins(10);
