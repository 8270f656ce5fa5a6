//! Reading what may be damaged.

use std::ops::Range;

use super::{FOOTER_BYTES, Footer, FrameHead, HEADER_BYTES, Header, frame_bytes};

/// The parts of a segment after its header, in order. Never fails: damage is a part like others.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    checksum: u32,
    at: usize,
}

/// A part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record, encrypted.
    Frame {
        /// Its head.
        head: FrameHead,
        /// Its bytes.
        ciphertext: &'a [u8],
        /// Where it stands.
        range: Range<usize>,
    },
    /// Bytes that are no frame, with a frame or footer after them.
    Damage(Range<usize>),
    /// The end of a complete segment.
    Footer(Footer),
    /// Bytes that are no frame, with nothing after them: what a power cut leaves.
    Tail(Range<usize>),
}

impl<'a> Frames<'a> {
    /// Of a whole file with this header.
    pub fn new(bytes: &'a [u8], header: &Header) -> Self {
        Self {
            bytes,
            checksum: header.checksum(),
            at: HEADER_BYTES.min(bytes.len()),
        }
    }

    fn part(&self, at: usize) -> Option<Found<'a>> {
        let rest = &self.bytes[at..];
        if let Some((head, ciphertext)) = FrameHead::decode(rest, self.checksum) {
            let record_bytes = ciphertext.len() - super::TAG_BYTES;
            let end = (at + frame_bytes(record_bytes)).min(self.bytes.len());
            return Some(Found::Frame {
                head,
                ciphertext,
                range: at..end,
            });
        }
        let footer = Footer::decode(rest, self.checksum)?;
        (footer.bytes == at as u64).then_some(Found::Footer(footer))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let from = self.at;
        if let Some(found) = self.part(from) {
            self.at = match &found {
                Found::Frame { range, .. } => range.end,
                _ => from + FOOTER_BYTES,
            };
            return Some(found);
        }
        let end = self.bytes.len();
        self.at = (from..end)
            .step_by(8)
            .find(|&at| self.part(at).is_some())
            .unwrap_or(end);
        if self.at < end {
            return Some(Found::Damage(from..self.at));
        }
        // A file is made at its full size: zeros are what was not written.
        let rest = &self.bytes[from..];
        rest.iter()
            .any(|&byte| byte != 0)
            .then_some(Found::Tail(from..end))
    }
}
