//! Frames and the footer.

use super::{Header, field};

/// Bytes before a frame's ciphertext.
pub const FRAME_HEAD_BYTES: usize = 24;

/// Bytes of the tag at a ciphertext's end.
pub const TAG_BYTES: usize = 16;

/// Bytes of a footer.
pub const FOOTER_BYTES: usize = 80;

const FRAME_MAGIC: [u8; 4] = *b"OFRM";
const FOOTER_MAGIC: [u8; 4] = *b"OEND";

/// Bytes of a frame in the file, from the bytes of its record.
pub const fn frame_bytes(record_bytes: usize) -> usize {
    (FRAME_HEAD_BYTES + record_bytes + TAG_BYTES).next_multiple_of(8)
}

/// What stands before a ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the ciphertext, its tag included.
    pub ciphertext_bytes: u32,
    /// The record's number in its class and epoch. Grows; a number is never used twice.
    pub record_seq: u64,
}

impl FrameHead {
    /// What the cipher protects along with the record.
    pub fn associated_data(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&self.ciphertext_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.record_seq.to_le_bytes());
        bytes
    }

    /// The cipher's nonce: a key belongs to one segment, and a number to one record of it.
    pub fn nonce(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&self.record_seq.to_le_bytes());
        bytes
    }

    /// As it stands before `ciphertext`. `checksum` is the segment's.
    pub fn encode(&self, checksum: u32, ciphertext: &[u8]) -> [u8; FRAME_HEAD_BYTES] {
        let head = self.associated_data();
        let mut bytes = [0; FRAME_HEAD_BYTES];
        bytes[..16].copy_from_slice(&head);
        let crc = crc(checksum, &head, ciphertext);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The frame at the beginning of `bytes` and its ciphertext, if there is one and it is whole.
    pub(super) fn decode(bytes: &[u8], checksum: u32) -> Option<(Self, &[u8])> {
        let fixed = bytes.first_chunk::<FRAME_HEAD_BYTES>()?;
        if fixed[..4] != FRAME_MAGIC {
            return None;
        }
        let head = Self {
            ciphertext_bytes: u32::from_le_bytes(field(fixed, 4)),
            record_seq: u64::from_le_bytes(field(fixed, 8)),
        };
        let length = head.ciphertext_bytes as usize;
        if length < TAG_BYTES {
            return None;
        }
        let ciphertext = bytes.get(FRAME_HEAD_BYTES..)?.get(..length)?;
        let crc = crc(checksum, &head.associated_data(), ciphertext);
        let whole = fixed[16..20] == crc.to_le_bytes() && fixed[20..] == [0; 4];
        whole.then_some((head, ciphertext))
    }
}

fn crc(checksum: u32, head: &[u8; 16], ciphertext: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&checksum.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, head), ciphertext)
}

/// The end of a segment that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Frames before it.
    pub frames: u32,
    /// Number of the first record; 0 if there is none.
    pub record_seq_first: u64,
    /// Number of the last.
    pub record_seq_last: u64,
    /// Bytes before it.
    pub bytes: u64,
    /// BLAKE3 of these.
    pub digest: [u8; 32],
}

impl Footer {
    /// As it stands in the file.
    pub fn encode(&self, checksum: u32) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..4].copy_from_slice(&FOOTER_MAGIC);
        bytes[4..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.record_seq_first.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.record_seq_last.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.digest);
        bytes[64..68].copy_from_slice(&checksum.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..68]);
        bytes[68..72].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The footer of a segment with this header, if these are its bytes.
    pub fn read(bytes: &[u8; FOOTER_BYTES], header: &Header) -> Option<Self> {
        Self::decode(bytes, header.checksum())
    }

    /// The footer at the beginning of `bytes`, if there is one and it is whole.
    pub(super) fn decode(bytes: &[u8], checksum: u32) -> Option<Self> {
        let bytes = bytes.first_chunk::<FOOTER_BYTES>()?;
        let footer = Self {
            frames: u32::from_le_bytes(field(bytes, 4)),
            record_seq_first: u64::from_le_bytes(field(bytes, 8)),
            record_seq_last: u64::from_le_bytes(field(bytes, 16)),
            bytes: u64::from_le_bytes(field(bytes, 24)),
            digest: field(bytes, 32),
        };
        (footer.encode(checksum) == *bytes).then_some(footer)
    }
}
