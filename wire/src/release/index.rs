//! The pieces of a file: where each is to be had, and in which forms.
//!
//! ```text
//! 0   8  "OUTINDEX"        24  8  bytes of the file      then packs    36 B each   BLAKE3, u32 bytes
//! 8   4  version: 1        32 32  BLAKE3 of the file          bases    32 B each   BLAKE3 of a file that patches need
//! 12  4  chunks                                               chunks   52 B each   u32 bytes, BLAKE3, u32 form, place
//! 16  4  packs                                                patches  32 B each   u32 chunk, u32 base, u64 offset,
//! 20  4  bases             64  4  patches                                          u32 bytes there, place
//!                                                             place    12 B        u32 pack, u32 offset, u32 bytes
//! ```
//!
//! Numbers are little-endian. Chunks follow each other in the file without gaps; patches are in the order of their
//! chunks, at most one for each chunk and base.

/// Bytes of a chunk: what is fetched again at most after a cut.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Bytes of a pack.
pub const PACK_BYTES_MAX: u32 = 64 << 20;

const MAGIC: &[u8; 8] = b"OUTINDEX";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 68;
const PACK_ENTRY_BYTES: usize = 36;
const BASE_ENTRY_BYTES: usize = 32;
const CHUNK_ENTRY_BYTES: usize = 52;
const PATCH_ENTRY_BYTES: usize = 32;

/// A file in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
    /// Where bytes are to be had.
    pub packs: Vec<Pack>,
    /// Files that patches need, by BLAKE3.
    pub bases: Vec<[u8; 32]>,
    /// All of the file, in order.
    pub chunks: Vec<Chunk>,
    /// Shorter ways to some chunks, for who has a base.
    pub patches: Vec<Patch>,
}

/// A file of pieces: `packs/BLAKE3.pack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// Its digest.
    pub digest: [u8; 32],
    /// Its length.
    pub bytes: u32,
}

/// A piece of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in the file.
    pub bytes: u32,
    /// BLAKE3 of its bytes in the file.
    pub digest: [u8; 32],
    /// How it stands in its pack.
    pub form: Stored,
    /// Where.
    pub place: Place,
}

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As it is.
    Plain,
    /// A zstd frame.
    Zstd,
}

/// Bytes in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Index::packs`].
    pub pack: u32,
    /// From where on.
    pub offset: u32,
    /// How many.
    pub bytes: u32,
}

/// A chunk as what differs from a part of another file: a zstd frame that has that part as its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Index into [`Index::chunks`].
    pub chunk: u32,
    /// Index into [`Index::bases`].
    pub base: u32,
    /// Where in the base the part begins.
    pub base_offset: u64,
    /// How long it is, at most four chunks.
    pub base_bytes: u32,
    /// Where the frame is.
    pub place: Place,
}

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Another kind of file.
    #[error("it is no index of chunks: it does not begin with OUTINDEX")]
    Magic,
    /// Written for a later program.
    #[error("the index has version {0}, this program reads 1: update the program first")]
    Later(u32),
    /// Its length is not what its counts say.
    #[error("the index has {got} bytes where its counts make {wanted}")]
    Length {
        /// Bytes.
        got: usize,
        /// What it would be.
        wanted: u64,
    },
    /// An entry that makes no sense.
    #[error("the index: {what} {number}: {why}")]
    Entry {
        /// Of which table.
        what: &'static str,
        /// Which.
        number: usize,
        /// Why.
        why: String,
    },
}

impl Index {
    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    /// Where each chunk begins in the file, in order.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().scan(0, |end, chunk| {
            let start = *end;
            *end += u64::from(chunk.bytes);
            Some(start)
        })
    }

    /// The index as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let count = |n: usize| {
            u32::try_from(n)
                .expect("an index has few of each")
                .to_le_bytes()
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + self.chunks.len() * CHUNK_ENTRY_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(count(self.chunks.len()));
        out.extend(count(self.packs.len()));
        out.extend(count(self.bases.len()));
        out.extend(self.bytes().to_le_bytes());
        out.extend(self.digest);
        out.extend(count(self.patches.len()));
        for pack in &self.packs {
            out.extend(pack.digest);
            out.extend(pack.bytes.to_le_bytes());
        }
        out.extend(self.bases.iter().flatten());
        let place = |out: &mut Vec<u8>, place: Place| {
            for number in [place.pack, place.offset, place.bytes] {
                out.extend(number.to_le_bytes());
            }
        };
        for chunk in &self.chunks {
            out.extend(chunk.bytes.to_le_bytes());
            out.extend(chunk.digest);
            out.extend(u32::from(chunk.form == Stored::Zstd).to_le_bytes());
            place(&mut out, chunk.place);
        }
        for patch in &self.patches {
            out.extend(patch.chunk.to_le_bytes());
            out.extend(patch.base.to_le_bytes());
            out.extend(patch.base_offset.to_le_bytes());
            out.extend(patch.base_bytes.to_le_bytes());
            place(&mut out, patch.place);
        }
        out
    }

    /// Reads and checks an index. Whatever the bytes, an error and never a panic.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut rest = bytes;
        if take::<8>(&mut rest) != Some(*MAGIC) {
            return Err(IndexError::Magic);
        }
        let short = |wanted: u64| IndexError::Length {
            got: bytes.len(),
            wanted,
        };
        if bytes.len() < HEAD_BYTES {
            return Err(short(HEAD_BYTES as u64));
        }
        let version = number(&mut rest);
        if version != VERSION {
            return Err(IndexError::Later(version));
        }
        let [chunks, packs, bases] = [(); 3].map(|()| number(&mut rest));
        let file_bytes = long(&mut rest);
        let digest = take(&mut rest).expect("the head is there");
        let patches = number(&mut rest);
        let tables = [
            (packs, PACK_ENTRY_BYTES),
            (bases, BASE_ENTRY_BYTES),
            (chunks, CHUNK_ENTRY_BYTES),
            (patches, PATCH_ENTRY_BYTES),
        ];
        let table = |(count, bytes): (u32, usize)| u64::from(count) * bytes as u64;
        let wanted = HEAD_BYTES as u64 + tables.into_iter().map(table).sum::<u64>();
        if bytes.len() as u64 != wanted {
            return Err(short(wanted));
        }
        let index = Self {
            digest,
            packs: (0..packs).map(|_| pack(&mut rest)).collect(),
            bases: (0..bases)
                .map(|_| take(&mut rest).expect("counted"))
                .collect(),
            chunks: (0..chunks)
                .map(|n| chunk(&mut rest, n))
                .collect::<Result<_, _>>()?,
            patches: (0..patches).map(|_| patch(&mut rest)).collect(),
        };
        index.check()?;
        if index.bytes() != file_bytes {
            let why = format!(
                "its chunks have {} bytes, the file {file_bytes}",
                index.bytes()
            );
            return Err(entry("file", 0, why));
        }
        Ok(index)
    }

    fn check(&self) -> Result<(), IndexError> {
        for (number, pack) in self.packs.iter().enumerate() {
            if pack.bytes == 0 || pack.bytes > PACK_BYTES_MAX {
                return Err(entry("pack", number, format!("{} bytes", pack.bytes)));
            }
        }
        for (number, chunk) in self.chunks.iter().enumerate() {
            let plain = chunk.form == Stored::Plain;
            let fits = !plain || chunk.place.bytes == chunk.bytes;
            if chunk.bytes == 0 || chunk.bytes > CHUNK_BYTES_MAX || !fits {
                let why = format!("{} bytes, {} in its pack", chunk.bytes, chunk.place.bytes);
                return Err(entry("chunk", number, why));
            }
            self.check_place("chunk", number, chunk.place)?;
        }
        let mut last = None;
        for (number, patch) in self.patches.iter().enumerate() {
            let known = (patch.chunk as usize) < self.chunks.len()
                && (patch.base as usize) < self.bases.len();
            let in_order = last < Some((patch.chunk, patch.base));
            if !known || !in_order {
                let why = format!("of chunk {} against base {}", patch.chunk, patch.base);
                return Err(entry("patch", number, why));
            }
            last = Some((patch.chunk, patch.base));
            let ends = patch.base_offset.checked_add(u64::from(patch.base_bytes));
            if patch.base_bytes == 0 || patch.base_bytes > 4 * CHUNK_BYTES_MAX || ends.is_none() {
                let why = format!(
                    "{} bytes from {} of its base",
                    patch.base_bytes, patch.base_offset
                );
                return Err(entry("patch", number, why));
            }
            self.check_place("patch", number, patch.place)?;
        }
        Ok(())
    }

    fn check_place(
        &self,
        what: &'static str,
        number: usize,
        place: Place,
    ) -> Result<(), IndexError> {
        let pack = self.packs.get(place.pack as usize);
        let end = u64::from(place.offset) + u64::from(place.bytes);
        if place.bytes > 0 && pack.is_some_and(|pack| end <= u64::from(pack.bytes)) {
            return Ok(());
        }
        let why = format!(
            "{} bytes from {} of pack {}",
            place.bytes, place.offset, place.pack
        );
        Err(entry(what, number, why))
    }
}

/// Where a file of tensors is cut: at the beginning of each, and every [`CHUNK_BYTES_MAX`] after it. Weights never move
/// inside a tensor, so what stays the same in another version of a file is cut the same.
///
/// **Shapes**: `starts` are offsets of tensors in any order; the result are lengths that add up to `file_bytes`.
pub fn cut(starts: impl IntoIterator<Item = u64>, file_bytes: u64) -> Vec<u32> {
    let mut edges: Vec<u64> = starts
        .into_iter()
        .filter(|&start| start < file_bytes)
        .collect();
    edges.extend([0, file_bytes]);
    edges.sort_unstable();
    edges.dedup();
    let mut lengths = Vec::new();
    for part in edges.windows(2) {
        let mut left = part[1] - part[0];
        while left > 0 {
            let bytes = u32::try_from(left).unwrap_or(u32::MAX).min(CHUNK_BYTES_MAX);
            lengths.push(bytes);
            left -= u64::from(bytes);
        }
    }
    lengths
}

fn entry(what: &'static str, number: usize, why: String) -> IndexError {
    IndexError::Entry { what, number, why }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

/// The length was checked.
fn number(rest: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(rest).expect("counted"))
}

/// The length was checked.
fn long(rest: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(rest).expect("counted"))
}

fn pack(rest: &mut &[u8]) -> Pack {
    Pack {
        digest: take(rest).expect("counted"),
        bytes: number(rest),
    }
}

fn place(rest: &mut &[u8]) -> Place {
    let [pack, offset, bytes] = [(); 3].map(|()| number(rest));
    Place {
        pack,
        offset,
        bytes,
    }
}

fn chunk(rest: &mut &[u8], which: u32) -> Result<Chunk, IndexError> {
    let bytes = number(rest);
    let digest = take(rest).expect("counted");
    let form = match number(rest) {
        0 => Stored::Plain,
        1 => Stored::Zstd,
        form => return Err(entry("chunk", which as usize, format!("form {form}"))),
    };
    Ok(Chunk {
        bytes,
        digest,
        form,
        place: place(rest),
    })
}

fn patch(rest: &mut &[u8]) -> Patch {
    Patch {
        chunk: number(rest),
        base: number(rest),
        base_offset: long(rest),
        base_bytes: number(rest),
        place: place(rest),
    }
}
