//! A small state that survives a power cut at any instant: two copies, of which the older one is written over.
//!
//! ```text
//! 0   8  OUTSTATE        16  8  generation            24..24+n  payload
//! 8   2  version         12  4  n                     then 32   BLAKE3 of everything before it
//! 10  2  kind
//! ```
//!
//! A copy with a wrong digest is none. Both files have their full size from the beginning, so that a full disk cannot
//! keep a state from being stored.

use crate::disk::{Disk, DiskError};

/// Whose state it is, and how large it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The two files.
    pub names: [&'static str; 2],
    /// So that one state is not taken for another.
    pub kind: u16,
    /// Of what is stored.
    pub version: u16,
    /// Of each file.
    pub bytes: usize,
}

impl Layout {
    /// Bytes of a payload.
    pub const fn payload_bytes_max(&self) -> usize {
        self.bytes - HEAD_BYTES - DIGEST_BYTES
    }
}

const HEAD_BYTES: usize = 24;
const DIGEST_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"OUTSTATE";

/// Two files with a state.
pub struct Superblock<D: Disk> {
    files: [D::File; 2],
    layout: Layout,
    generation: u64,
    /// Where the next state goes: over the older copy.
    next: usize,
    buffer: Box<[u8]>,
}

/// Why there is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The disk does not do it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A later version of the program wrote it.
    #[error(
        "the state was written by a later version ({version}): install that one, or remove the state to begin anew"
    )]
    Later {
        /// The version of the copy.
        version: u16,
    },
}

impl<D: Disk> Superblock<D> {
    /// Opens both files, or makes them, and gives the state that was stored last: `version` and bytes.
    ///
    /// None: there never was one, or both copies are damaged; [`is_new`](Found::is_new) tells which.
    pub fn open(disk: &mut D, layout: Layout) -> Result<(Self, Found), SuperblockError> {
        let mut is_new = true;
        let mut copies: [Option<(u64, Vec<u8>)>; 2] = [None, None];
        let Layout { names, bytes, .. } = layout;
        let mut buffer = vec![0; bytes].into_boxed_slice();
        let mut open = |index: usize| -> Result<D::File, SuperblockError> {
            let file = match disk.open(names[index]) {
                Err(DiskError::Missing) => {
                    let file = disk.create(names[index], bytes as u64)?;
                    disk.sync(&file)?;
                    return Ok(file);
                }
                file => file?,
            };
            // A cut during its making may have left any part of it.
            if disk.length(&file)? != bytes as u64 {
                disk.remove(names[index])?;
                let file = disk.create(names[index], bytes as u64)?;
                disk.sync(&file)?;
                return Ok(file);
            }
            disk.read(&file, 0, &mut buffer[..])?;
            is_new &= buffer.iter().all(|&byte| byte == 0);
            if let Some(copy) = decode(&buffer, layout.kind) {
                if copy.version > layout.version {
                    return Err(SuperblockError::Later {
                        version: copy.version,
                    });
                }
                copies[index] = Some((copy.generation, copy.payload.to_vec()));
            }
            Ok(file)
        };
        let files = [open(0)?, open(1)?];
        disk.sync_folder()?;
        let generations = copies
            .each_ref()
            .map(|copy| copy.as_ref().map(|copy| copy.0));
        let newest = usize::from(generations[1] > generations[0]);
        let superblock = Self {
            files,
            layout,
            generation: generations[newest].unwrap_or(0),
            next: 1 - newest,
            buffer,
        };
        let found = Found {
            payload: copies.into_iter().nth(newest).flatten().map(|copy| copy.1),
            is_new,
        };
        Ok((superblock, found))
    }

    /// Stores a state. After an error the last one stands, on the disk and for the next try.
    pub fn store(&mut self, disk: &mut D, payload: &[u8]) -> Result<(), DiskError> {
        assert!(
            payload.len() <= self.layout.payload_bytes_max(),
            "the payload fits its slot"
        );
        let length = u32::try_from(payload.len()).expect("checked");
        let end = HEAD_BYTES + payload.len();
        let bytes = &mut self.buffer[..];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.layout.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.layout.kind.to_le_bytes());
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.generation + 1).to_le_bytes());
        bytes[HEAD_BYTES..end].copy_from_slice(payload);
        let digest = blake3::hash(&bytes[..end]);
        bytes[end..end + DIGEST_BYTES].copy_from_slice(digest.as_bytes());
        bytes[end + DIGEST_BYTES..].fill(0);
        let file = &self.files[self.next];
        disk.write(file, 0, bytes)?;
        disk.sync(file)?;
        self.generation += 1;
        self.next = 1 - self.next;
        Ok(())
    }
}

/// What was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The state that was stored last.
    pub payload: Option<Vec<u8>>,
    /// Nothing was ever stored.
    pub is_new: bool,
}

struct Copy<'a> {
    version: u16,
    generation: u64,
    payload: &'a [u8],
}

fn decode(bytes: &[u8], kind: u16) -> Option<Copy<'_>> {
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if bytes[..8] != MAGIC || number(10) != kind {
        return None;
    }
    let length = u32::from_le_bytes(*bytes[12..].first_chunk()?) as usize;
    if length > bytes.len() - HEAD_BYTES - DIGEST_BYTES {
        return None;
    }
    let end = HEAD_BYTES + length;
    let digest: &[u8; DIGEST_BYTES] = bytes[end..].first_chunk()?;
    if blake3::hash(&bytes[..end]) != *digest {
        return None;
    }
    Some(Copy {
        version: number(8),
        generation: u64::from_le_bytes(*bytes[16..].first_chunk()?),
        payload: &bytes[HEAD_BYTES..end],
    })
}
