//! A file that is to be released: read piece by piece, never as a whole.
#![expect(
    clippy::disallowed_methods,
    reason = "what is released comes from files"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use outstation_wire::gguf::{Gguf, GgufError};
use outstation_wire::release::{CHUNK_BYTES_MAX, cut};

use super::OtaError;
use crate::store::hex;

/// Bytes that may be before a file's tensors: a vocabulary of a few million words.
const HEAD_BYTES_MAX: u64 = 256 << 20;
/// The first look.
const HEAD_BYTES_FIRST: u64 = 1 << 20;

/// An open file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    body: Body,
    bytes: u64,
}

#[derive(Debug)]
enum Body {
    File(File),
    Memory(Vec<u8>),
}

/// What one pass over a file tells.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Length.
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
    /// BLAKE3.
    pub digest: [u8; 32],
    /// Its pieces, in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub bytes: u32,
    /// BLAKE3.
    pub digest: [u8; 32],
}

impl Source {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, OtaError> {
        let open = || {
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|e| OtaError::file(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            body: Body::File(file),
            bytes,
        })
    }

    /// Bytes that were made of a file, as if they were in it.
    pub fn made(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            body: Body::Memory(bytes),
        }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// A part of it.
    pub fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, OtaError> {
        let file = match &self.body {
            Body::File(file) => file,
            Body::Memory(all) => {
                let start = usize::try_from(offset).expect("it is in memory");
                return Ok(all[start..start + bytes].to_vec());
            }
        };
        let mut part = vec![0; bytes];
        let read = file.read_exact_at(&mut part, offset);
        read.map_err(|e| OtaError::file(&self.path, e))?;
        Ok(part)
    }

    /// Its first bytes, as many as a GGUF needs to be understood.
    pub fn head(&self) -> Result<Vec<u8>, OtaError> {
        let mut wanted = HEAD_BYTES_FIRST;
        loop {
            let bytes = wanted.min(self.bytes).min(HEAD_BYTES_MAX);
            let head = self.read(0, usize::try_from(bytes).expect("it is bounded"))?;
            match Gguf::parse_head(&head, self.bytes) {
                Err(GgufError::Truncated { .. }) if bytes == wanted => wanted *= 4,
                Err(error) => return Err(OtaError::input(self.name(), error)),
                Ok(gguf) => {
                    let enough = usize::try_from(gguf.head_bytes()).unwrap_or(usize::MAX);
                    let mut head = head;
                    head.truncate(enough);
                    return Ok(head);
                }
            }
        }
    }

    /// Reads all of it once, cut where tensors start. `progress` hears of each piece.
    pub fn survey(
        &self,
        starts: impl IntoIterator<Item = u64>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Survey, OtaError> {
        let mut all = blake3::Hasher::new();
        let mut sha256 = Context::new(&SHA256);
        let mut pieces = Vec::new();
        let mut offset = 0;
        for bytes in cut(starts, self.bytes) {
            assert!(bytes <= CHUNK_BYTES_MAX, "pieces are bounded");
            let part = self.read(offset, bytes as usize)?;
            all.update(&part);
            sha256.update(&part);
            let digest = *blake3::hash(&part).as_bytes();
            pieces.push(Piece {
                offset,
                bytes,
                digest,
            });
            offset += u64::from(bytes);
            progress(u64::from(bytes));
        }
        Ok(Survey {
            bytes: self.bytes,
            sha256: hex(sha256.finish().as_ref()),
            digest: *all.finalize().as_bytes(),
            pieces,
        })
    }

    /// BLAKE3 of all of it.
    pub fn digest(&self, progress: &mut dyn FnMut(u64)) -> Result<[u8; 32], OtaError> {
        Ok(self.survey([], progress)?.digest)
    }

    /// A piece again, which must be what it was.
    pub fn piece(&self, piece: &Piece) -> Result<Vec<u8>, OtaError> {
        let part = self.read(piece.offset, piece.bytes as usize)?;
        if *blake3::hash(&part).as_bytes() != piece.digest {
            let why = "it changed while it was read: publish a file that nobody writes to";
            return Err(OtaError::input(self.name(), why));
        }
        Ok(part)
    }
}
