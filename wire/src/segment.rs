//! Segments: files of encrypted records, written once from front to back and sent to the factory as they are.
//!
//! `docs/spool-format.md` is the specification, good enough to write a reader from. Integers are little-endian.
//!
//! ```text
//! header 256 B │ frame │ frame │ … │ footer 80 B      each part begins at a multiple of 8
//!                └ 24 B head, ciphertext of a Record, zeros up to a multiple of 8
//! ```
//!
//! The key of a segment is in its header, encrypted to the factory: who holds the file alone can count and check its
//! frames, and read none. See [`seal`](crate::seal), behind the feature of this name.

mod frame;
mod scan;
#[cfg(test)]
mod tests;

pub use frame::{FOOTER_BYTES, FRAME_HEAD_BYTES, Footer, FrameHead, TAG_BYTES, frame_bytes};
pub use scan::{Found, Frames};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 256;

/// Bytes of a segment at most, so that both ends can hold one in memory.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"OUTSPOOL";
const VERSION: u16 = 1;
const CIPHER: u8 = 1;

/// How much a record is worth: what is dropped last, and sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Flagged cases, feedback, gaps, changes.
    P0,
    /// Content of sampled requests.
    P1,
    /// What requests were, without content.
    P2,
}

impl Class {
    /// All, the most valuable first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P1, Self::P2];

    /// Its number.
    pub const fn index(self) -> usize {
        match self {
            Self::P0 => 0,
            Self::P1 => 1,
            Self::P2 => 2,
        }
    }

    /// Its number, as it stands in files.
    pub const fn number(self) -> u8 {
        match self {
            Self::P0 => 0,
            Self::P1 => 1,
            Self::P2 => 2,
        }
    }

    /// From its number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|class| u64::from(class.number()) == number)
    }

    /// Its name in file names and object keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P0 => "p0",
            Self::P1 => "p1",
            Self::P2 => "p2",
        }
    }
}

/// What a segment is, and the key to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which box wrote it.
    pub appliance: [u8; 16],
    /// Which spool of the box: drawn at random when it was made.
    pub epoch: [u8; 16],
    /// What its records are worth.
    pub class: Class,
    /// Its place among the segments of its class, from 1.
    pub seq: u64,
    /// The number that its first record has, if it has any.
    pub record_seq: u64,
    /// Starts of the program since the spool was made.
    pub boot: u64,
    /// When it was begun, milliseconds since 1970, by the clock of the box.
    pub created_unix_ms: u64,
    /// The key to its frames, for the factory.
    pub key: WrappedKey,
}

/// The key of a segment, encrypted to the factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which of the factory's keys: the first bytes of the BLAKE3 of its public half.
    pub recipient: [u8; 8],
    /// HPKE's encapsulated key.
    pub encapsulated: [u8; 32],
    /// HPKE's ciphertext of the key.
    pub ciphertext: [u8; 48],
}

/// Why bytes are no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Too short for a header.
    #[error("{bytes} bytes are no segment: its header alone has {HEADER_BYTES}")]
    Short {
        /// How many there are.
        bytes: usize,
    },
    /// Something else.
    #[error("this is no segment of a spool: it does not begin with OUTSPOOL")]
    Magic,
    /// From the future.
    #[error("segment format {version}, this program reads {VERSION}: use a later one")]
    Version {
        /// What it says.
        version: u16,
    },
    /// The checksum is wrong.
    #[error("the segment's header is damaged")]
    Damaged,
    /// A field has a value that it cannot have.
    #[error("the segment's header has an impossible {field}")]
    Field {
        /// Which.
        field: &'static str,
    },
}

impl Header {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&[self.class.number(), CIPHER]);
        put(&256_u32.to_le_bytes());
        put(&self.appliance);
        put(&self.epoch);
        for number in [self.seq, self.record_seq, self.boot, self.created_unix_ms] {
            put(&number.to_le_bytes());
        }
        put(&self.key.recipient);
        put(&self.key.encapsulated);
        put(&self.key.ciphertext);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From the beginning of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(SegmentError::Short { bytes: bytes.len() });
        };
        if bytes[..8] != MAGIC {
            return Err(SegmentError::Magic);
        }
        let version = u16::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(SegmentError::Version { version });
        }
        if crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(SegmentError::Damaged);
        }
        let impossible = |field| SegmentError::Field { field };
        let class = Class::from_number(bytes[10].into()).ok_or(impossible("class"))?;
        if bytes[11] != CIPHER {
            return Err(impossible("cipher"));
        }
        if u32::from_le_bytes(field(bytes, 12)) != 256 {
            return Err(impossible("header length"));
        }
        let number = |at| u64::from_le_bytes(field(bytes, at));
        Ok(Self {
            appliance: field(bytes, 16),
            epoch: field(bytes, 32),
            class,
            seq: number(48),
            record_seq: number(56),
            boot: number(64),
            created_unix_ms: number(72),
            key: WrappedKey {
                recipient: field(bytes, 80),
                encapsulated: field(bytes, 88),
                ciphertext: field(bytes, 120),
            },
        })
    }

    /// What checksums of its frames begin with, so that a frame of another segment is none of this one.
    pub fn checksum(&self) -> u32 {
        let bytes = self.encode();
        u32::from_le_bytes(field(&bytes, CRC_AT))
    }
}

const CRC_AT: usize = HEADER_BYTES - 4;

/// Bytes of a fixed place. Panics outside of `bytes`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as long as it is")
}
