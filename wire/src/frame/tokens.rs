//! The Tokens frame: the hot one, so its bytes are laid out by hand.
//!
//! ```text
//! seq varint │ n varint │ flags varint │ n × id varint, if flags & 1 │ text_bytes varint │ text UTF-8 │ ignored
//! ```

use super::{FrameType, ProtocolError, varint};

/// Most tokens that one frame may count.
pub const TOKENS_PER_FRAME_MAX: u64 = 256;

const FLAG_IDS: u8 = 0x01;
/// Body bytes that [`write_tokens`] fills before it begins another frame; leaves room for the numbers before the text.
const IDS_BYTES_TARGET: usize = 512;
const TEXT_BYTES_TARGET: usize = 480;

/// A piece of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of the answer before this frame (P-14).
    pub seq: u64,
    /// Tokens in this frame; text may lag behind its tokens, so 0 with text and 1 without are both good.
    pub n: u64,
    /// Their ids, if the request asked for them (P-16): `n` of them.
    pub ids: Option<Vec<u32>>,
    /// The text, whole characters only (P-15).
    pub text: String,
}

/// Whether frames list their tokens' ids or only count them (P-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdListing {
    /// The request asked for ids.
    Listed,
    /// It did not.
    Counted,
}

impl Tokens {
    pub(super) fn body_bytes(&self) -> usize {
        let ids: usize = self
            .ids
            .iter()
            .flatten()
            .map(|&id| varint::encoded_bytes(u64::from(id)))
            .sum();
        varint::encoded_bytes(self.seq)
            + varint::encoded_bytes(self.n)
            + 1
            + ids
            + varint::encoded_bytes(self.text.len() as u64)
            + self.text.len()
    }

    pub(super) fn write_body(&self, out: &mut Vec<u8>) {
        write_parts(self.seq, self.n, self.ids.as_deref(), &self.text, out);
    }

    pub(super) fn decode_body(body: &[u8]) -> Result<Self, ProtocolError> {
        let malformed = |what: String| ProtocolError::Malformed {
            kind: FrameType::Tokens,
            what,
        };
        let mut rest = body;
        let mut number = |name: &str| {
            let (value, bytes) = varint::read(rest)
                .ok_or_else(|| malformed(format!("it ends before its {name} does")))?;
            rest = &rest[bytes..];
            Ok(value)
        };
        let seq = number("seq")?;
        let n = number("n")?;
        if n > TOKENS_PER_FRAME_MAX {
            return Err(malformed(format!(
                "it counts {n} tokens, at most {TOKENS_PER_FRAME_MAX} are allowed"
            )));
        }
        // Flags are defined up to 0x3f, where a varint is one byte.
        let flags = number("flags")?;
        let ids = if flags & u64::from(FLAG_IDS) == 0 {
            None
        } else {
            let id = |_| {
                u32::try_from(number("token ids")?)
                    .map_err(|_| malformed("a token id above 2^32 - 1".to_owned()))
            };
            Some((0..n).map(id).collect::<Result<Vec<u32>, _>>()?)
        };
        let text_bytes = number("text_bytes")?;
        let text = usize::try_from(text_bytes)
            .ok()
            .and_then(|bytes| rest.get(..bytes))
            .ok_or_else(|| {
                malformed(format!(
                    "it ends before its text of {text_bytes} bytes does"
                ))
            })?;
        let text = std::str::from_utf8(text)
            .map_err(|error| malformed(format!("its text is not UTF-8: {error}")))?;
        Ok(Self {
            seq,
            n,
            ids,
            text: text.to_owned(),
        })
    }
}

/// Appends Tokens frames for `ids` and `text`, as many as their maximum asks for, and moves `seq` past them.
///
/// Nothing to say writes nothing.
pub fn write_tokens(seq: &mut u64, ids: &[u32], listing: IdListing, text: &str, out: &mut Vec<u8>) {
    let (mut ids, mut text) = (ids, text);
    while !ids.is_empty() || !text.is_empty() {
        let (ids_now, ids_later) = ids.split_at(ids_that_fit(ids));
        let (text_now, text_later) = text.split_at(text.floor_char_boundary(TEXT_BYTES_TARGET));
        let n = ids_now.len() as u64;
        let listed = match listing {
            IdListing::Listed => Some(ids_now),
            IdListing::Counted => None,
        };
        let mut frame = Vec::new();
        write_parts(*seq, n, listed, text_now, &mut frame);
        assert!(
            frame.len() as u64 <= FrameType::Tokens.bytes_max(),
            "the targets leave room for the numbers"
        );
        varint::write(FrameType::Tokens.id(), out);
        varint::write(frame.len() as u64, out);
        out.extend_from_slice(&frame);
        *seq += n;
        (ids, text) = (ids_later, text_later);
    }
}

fn ids_that_fit(ids: &[u32]) -> usize {
    let mut bytes = 0;
    ids.iter()
        .take(128)
        .take_while(|&&id| {
            bytes += varint::encoded_bytes(u64::from(id));
            bytes <= IDS_BYTES_TARGET
        })
        .count()
}

fn write_parts(seq: u64, n: u64, ids: Option<&[u32]>, text: &str, out: &mut Vec<u8>) {
    varint::write(seq, out);
    varint::write(n, out);
    out.push(if ids.is_some() { FLAG_IDS } else { 0 });
    for &id in ids.into_iter().flatten() {
        varint::write(u64::from(id), out);
    }
    varint::write(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}
