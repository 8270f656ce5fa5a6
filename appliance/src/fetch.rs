//! A file that comes in as chunks: what is there, what to ask for next, and when it is whole.
//!
//! ```text
//! STEM.part   the file at its full length from the beginning, so that a full disk is met before the first byte
//! STEM.map    a byte for each chunk, 1 once the chunk is durable: a hint, the digest of the whole decides
//! STEM.gguf   the file, when its digest was seen to be right: only by a rename, and never written again
//! ```
//!
//! Chunks are checked before they are written, and durable before the map says so: a cut costs the chunk that was on
//! its way. What is read back wrong when the whole is checked is asked for again.

use outstation_wire::release::{CHUNK_BYTES_MAX, Index, Place};

use crate::disk::{Disk, DiskError};
use crate::slot::stem;

/// A file under way.
pub struct Download<D: Disk> {
    index: Index,
    offsets: Vec<u64>,
    part: D::File,
    map: D::File,
    have: Vec<bool>,
    /// Written since the last sync, and not yet in the map.
    unsynced: Vec<usize>,
    buffer: Box<[u8]>,
}

/// Bytes of a pack to ask for at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Of the index.
    pub pack: u32,
    /// Where in the pack.
    pub offset: u32,
    /// How many.
    pub bytes: u32,
    /// What they hold, in the order of their offsets.
    pub pieces: Vec<Piece>,
}

/// A chunk in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which chunk.
    pub chunk: usize,
    /// The patch by which it comes, if by one.
    pub patch: Option<usize>,
    /// Where.
    pub place: Place,
}

/// What [`Download::finish`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The file has its name.
    Whole,
    /// These many chunks were bad on the disk, and are asked for again.
    Again(usize),
    /// All chunks are right, and the whole is not what was signed: the index is not of this file.
    Contradiction,
}

/// Why a chunk was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not the bytes that were signed.
    #[error("chunk {chunk} has other bytes than those that were signed")]
    Digest {
        /// Which.
        chunk: usize,
    },
}

/// Bytes of a pack that are fetched though nobody wants them, to save a request.
const GAP_BYTES_MAX: u32 = 64 << 10;

/// The names of a file: under way, its map, and whole.
pub fn names(digest: &[u8; 32]) -> [String; 3] {
    let stem = stem(digest);
    ["part", "map", "gguf"].map(|end| format!("{stem}.{end}"))
}

impl<D: Disk> Download<D> {
    /// Goes on with a file, or begins it. Safe to repeat after any cut.
    pub fn open(disk: &mut D, index: Index) -> Result<Self, DiskError> {
        let [part_name, map_name, _] = names(&index.digest);
        let chunks = index.chunks.len();
        let part = if let Some(part) = sized(disk, &part_name, index.bytes())? {
            part
        } else {
            // A map that outlived its part would say of zeros that they are there.
            discard(disk, &index.digest)?;
            disk.create(&part_name, index.bytes())?
        };
        let map = if let Some(map) = sized(disk, &map_name, chunks as u64)? {
            map
        } else {
            remove(disk, &map_name)?;
            disk.create(&map_name, chunks as u64)?
        };
        disk.sync(&part)?;
        disk.sync(&map)?;
        disk.sync_folder()?;
        let mut bits = vec![0; chunks];
        disk.read(&map, 0, &mut bits)?;
        Ok(Self {
            offsets: index.offsets().collect(),
            have: bits.iter().map(|&bit| bit == 1).collect(),
            index,
            part,
            map,
            unsynced: Vec::new(),
            buffer: vec![0; CHUNK_BYTES_MAX as usize].into_boxed_slice(),
        })
    }

    /// Of which file.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether all chunks are there.
    pub fn is_complete(&self) -> bool {
        self.have.iter().all(|&have| have)
    }

    /// Bytes of the file that are there.
    pub fn bytes_there(&self) -> u64 {
        let there = self
            .index
            .chunks
            .iter()
            .zip(&self.have)
            .filter(|(_, have)| **have);
        there.map(|(chunk, _)| u64::from(chunk.bytes)).sum()
    }

    /// How far the file is there without a gap, from its beginning.
    pub fn reaches(&self) -> u64 {
        let missing = self.missing().next();
        missing.map_or_else(|| self.index.bytes(), |chunk| self.offsets[chunk])
    }

    /// Chunks that are missing, in order.
    pub fn missing(&self) -> impl Iterator<Item = usize> {
        self.have
            .iter()
            .enumerate()
            .filter(|(_, have)| !**have)
            .map(|(chunk, _)| chunk)
    }

    /// What to ask for next: neighbours in a pack together, at most `bytes_max`. `has_base` says which patches this
    /// box can use; a patch is taken where it is shorter. `None`: nothing is missing.
    pub fn next(&self, bytes_max: u32, has_base: &dyn Fn(&[u8; 32]) -> bool) -> Option<Range> {
        let mut missing = self.missing();
        let first = self.piece(missing.next()?, has_base);
        let mut pieces: Vec<Piece> = missing
            .map(|chunk| self.piece(chunk, has_base))
            .filter(|piece| {
                piece.place.pack == first.place.pack && piece.place.offset >= first.place.offset
            })
            .collect();
        pieces.push(first);
        pieces.sort_by_key(|piece| piece.place.offset);
        let start = first.place.offset;
        let mut end = start + first.place.bytes;
        let mut taken = 0;
        for piece in &pieces {
            let piece_end = piece.place.offset + piece.place.bytes;
            let near = piece.place.offset <= end.saturating_add(GAP_BYTES_MAX);
            if !near || piece_end.max(end) - start > bytes_max.max(first.place.bytes) {
                break;
            }
            end = end.max(piece_end);
            taken += 1;
        }
        pieces.truncate(taken);
        Some(Range {
            pack: first.place.pack,
            offset: start,
            bytes: end - start,
            pieces,
        })
    }

    /// The shortest way to a chunk.
    fn piece(&self, chunk: usize, has_base: &dyn Fn(&[u8; 32]) -> bool) -> Piece {
        let plain = self.index.chunks[chunk].place;
        let number = u32::try_from(chunk).expect("an index counts in u32");
        let from = self
            .index
            .patches
            .partition_point(|patch| patch.chunk < number);
        let of_chunk = self.index.patches[from..]
            .iter()
            .take_while(|patch| patch.chunk == number);
        let usable = of_chunk.enumerate().filter(|(_, patch)| {
            patch.place.bytes < plain.bytes && has_base(&self.index.bases[patch.base as usize])
        });
        let best = usable.min_by_key(|(_, patch)| patch.place.bytes);
        Piece {
            chunk,
            patch: best.map(|(after, _)| from + after),
            place: best.map_or(plain, |(_, patch)| patch.place),
        }
    }

    /// Takes a chunk's bytes, as they stand in the file. They are durable when [`Download::commit`] returns.
    pub fn write(&mut self, disk: &mut D, chunk: usize, bytes: &[u8]) -> Result<(), ChunkError> {
        let wanted = &self.index.chunks[chunk];
        if bytes.len() != wanted.bytes as usize || blake3::hash(bytes) != wanted.digest {
            return Err(ChunkError::Digest { chunk });
        }
        disk.write(&self.part, self.offsets[chunk], bytes)?;
        self.unsynced.push(chunk);
        Ok(())
    }

    /// Makes what was written durable, and only then notes it.
    pub fn commit(&mut self, disk: &mut D) -> Result<(), DiskError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let synced = disk.sync(&self.part);
        let written = std::mem::take(&mut self.unsynced);
        // After a failed sync nothing is known of these bytes: they are asked for again.
        synced?;
        for &chunk in &written {
            disk.write(&self.map, chunk as u64, &[1])?;
        }
        disk.sync(&self.map)?;
        for chunk in written {
            self.have[chunk] = true;
        }
        Ok(())
    }

    /// Checks the whole file, and gives it its name. All chunks must be there.
    pub fn finish(mut self, disk: &mut D) -> Result<(Finish, Option<Self>), DiskError> {
        assert!(self.is_complete(), "nothing is missing");
        let mut whole = blake3::Hasher::new();
        let mut bad = Vec::new();
        for (chunk, wanted) in self.index.chunks.iter().enumerate() {
            let bytes = &mut self.buffer[..wanted.bytes as usize];
            let read = disk.read(&self.part, self.offsets[chunk], bytes)?;
            if read < bytes.len() || blake3::hash(bytes) != wanted.digest {
                bad.push(chunk);
            }
            whole.update(bytes);
        }
        if !bad.is_empty() {
            for &chunk in &bad {
                disk.write(&self.map, chunk as u64, &[0])?;
                self.have[chunk] = false;
            }
            disk.sync(&self.map)?;
            return Ok((Finish::Again(bad.len()), Some(self)));
        }
        let [part, map, named] = names(&self.index.digest);
        if whole.finalize() != self.index.digest {
            return Ok((Finish::Contradiction, None));
        }
        disk.sync(&self.part)?;
        disk.rename(&part, &named)?;
        disk.sync_folder()?;
        remove(disk, &map)?;
        Ok((Finish::Whole, None))
    }
}

/// Opens a file, if it has its length: a cut during its making may have left any part of it.
fn sized<D: Disk>(disk: &mut D, name: &str, bytes: u64) -> Result<Option<D::File>, DiskError> {
    match disk.open(name) {
        Ok(file) => Ok((disk.length(&file)? == bytes).then_some(file)),
        Err(DiskError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Forgets what there is of a file under way.
pub fn discard<D: Disk>(disk: &mut D, digest: &[u8; 32]) -> Result<(), DiskError> {
    let [part, map, _] = names(digest);
    remove(disk, &map)?;
    disk.sync_folder()?;
    remove(disk, &part)
}

/// Removes a file, if it is there.
fn remove<D: Disk>(disk: &mut D, name: &str) -> Result<(), DiskError> {
    match disk.remove(name) {
        Err(DiskError::Missing) => Ok(()),
        removed => removed,
    }
}
