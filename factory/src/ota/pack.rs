//! Pieces of files into packs, each piece once.

use std::collections::HashMap;
use std::io::Write as _;

use outstation_wire::release::{Index, PACK_BYTES_MAX, Pack, Place, Stored};

use super::{OtaError, object, pack_path};
use crate::store::Store;

/// Effort of zstd for pieces by themselves. Weights hardly shrink, and more effort does not help them.
const LEVEL: i32 = 6;
/// Effort for pieces against another file.
const PATCH_LEVEL: i32 = 15;
/// Both pieces lie within this window, 2^23 bytes.
const PATCH_WINDOW_LOG: u32 = 23;

/// Takes pieces, and gives them places.
#[derive(Debug)]
pub struct Packer<'s> {
    store: &'s Store,
    /// Those of the index, the one that is being filled included.
    packs: Vec<Pack>,
    numbers: HashMap<[u8; 32], u32>,
    /// Pieces that have a place, by digest: where, as what, and in which pack of which length if it is an earlier one.
    known: HashMap<[u8; 32], (Option<Pack>, Stored, Place)>,
    filling: Option<(u32, Vec<u8>)>,
    /// What was written.
    pub written: Written,
}

/// What packing came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Packs that are new.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the file that have a place in packs of earlier releases, or in one of its own.
    pub reused_bytes: u64,
}

impl<'s> Packer<'s> {
    /// With nothing in it.
    pub fn new(store: &'s Store) -> Self {
        Self {
            store,
            packs: Vec::new(),
            numbers: HashMap::new(),
            known: HashMap::new(),
            filling: None,
            written: Written::default(),
        }
    }

    /// Pieces of an earlier release need no place of their own.
    pub fn know(&mut self, index: &Index) {
        for chunk in &index.chunks {
            let pack = index.packs[chunk.place.pack as usize];
            let place = (Some(pack), chunk.form, chunk.place);
            self.known.entry(chunk.digest).or_insert(place);
        }
    }

    /// The place of a piece that is there already.
    pub fn find(&mut self, digest: &[u8; 32], bytes: u32) -> Option<(Stored, Place)> {
        let (pack, form, mut place) = *self.known.get(digest)?;
        if let Some(pack) = pack {
            place.pack = self.number(pack);
        }
        self.written.reused_bytes += u64::from(bytes);
        Some((form, place))
    }

    /// A place for a piece, shorter where that is worth a reader's work.
    pub async fn add(
        &mut self,
        digest: [u8; 32],
        piece: &[u8],
    ) -> Result<(Stored, Place), OtaError> {
        let short = zstd::bulk::compress(piece, LEVEL).expect("memory takes what is written");
        // 2 % at least.
        let shorter = short.len() * 50 < piece.len() * 49;
        let (form, stored) = if shorter {
            (Stored::Zstd, short.as_slice())
        } else {
            (Stored::Plain, piece)
        };
        let place = self.place(stored).await?;
        self.known.insert(digest, (None, form, place));
        Ok((form, place))
    }

    /// A place for bytes.
    pub async fn place(&mut self, bytes: &[u8]) -> Result<Place, OtaError> {
        let length = u32::try_from(bytes.len()).expect("pieces are short");
        let full = |(_, pack): &(u32, Vec<u8>)| {
            pack.len() as u64 + u64::from(length) > u64::from(PACK_BYTES_MAX)
        };
        if self.filling.as_ref().is_some_and(full) {
            self.flush().await?;
        }
        if self.filling.is_none() {
            // Its digest is known when it is full.
            let empty = Pack {
                digest: [0; 32],
                bytes: 0,
            };
            self.filling = Some((self.push(empty), Vec::new()));
        }
        let (pack, filling) = self.filling.as_mut().expect("it was put there");
        let offset = u32::try_from(filling.len()).expect("packs are short");
        filling.extend_from_slice(bytes);
        Ok(Place {
            pack: *pack,
            offset,
            bytes: length,
        })
    }

    /// Stores what is not full.
    pub async fn flush(&mut self) -> Result<(), OtaError> {
        let Some((number, bytes)) = self.filling.take() else {
            return Ok(());
        };
        let digest = *blake3::hash(&bytes).as_bytes();
        let length = u32::try_from(bytes.len()).expect("packs are short");
        self.packs[number as usize] = Pack {
            digest,
            bytes: length,
        };
        let key = object(&pack_path(&digest)).expect("digests make names");
        // What broke off before is not sent again: the name says what is in it.
        let there = self.store.head_if_there(&key).await?;
        if there.is_none_or(|meta| meta.size != u64::from(length)) {
            self.store.put_once(&key, bytes.into()).await?;
            self.written.packs += 1;
            self.written.bytes += u64::from(length);
        }
        Ok(())
    }

    /// The packs of the index, all of them stored.
    pub async fn finish(mut self) -> Result<(Vec<Pack>, Written), OtaError> {
        self.flush().await?;
        Ok((self.packs, self.written))
    }

    fn number(&mut self, pack: Pack) -> u32 {
        if let Some(&number) = self.numbers.get(&pack.digest) {
            return number;
        }
        let number = self.push(pack);
        self.numbers.insert(pack.digest, number);
        number
    }

    fn push(&mut self, pack: Pack) -> u32 {
        self.packs.push(pack);
        u32::try_from(self.packs.len() - 1).expect("few packs")
    }
}

/// A piece as what differs from a part of another file, if that is much shorter than `stored_bytes`.
pub fn patch(piece: &[u8], base: &[u8], stored_bytes: u32) -> Option<Vec<u8>> {
    let patched = compress_against(piece, base).expect("memory takes what is written");
    // 10 % at least: a patch needs the base at hand, and more work.
    let worth = patched.len() as u64 * 10 < u64::from(stored_bytes) * 9;
    worth.then_some(patched)
}

fn compress_against(piece: &[u8], base: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), PATCH_LEVEL, base)?;
    encoder.window_log(PATCH_WINDOW_LOG)?;
    encoder.set_pledged_src_size(Some(piece.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(piece)?;
    encoder.finish()
}
