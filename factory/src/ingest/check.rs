//! Whether bytes are the segment that was offered, as far as one can see without the key.

use outstation_wire::segment::{
    Class, FOOTER_BYTES, Found, Frames, HEADER_BYTES, Header, SEGMENT_BYTES_MAX,
};
use outstation_wire::uplink::{Offer, Refused, RefusedCode};

use crate::channel::never;
use crate::store::SegmentId;

/// What a segment holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Whole frames.
    pub frames: u64,
    /// Bytes that are neither a frame nor the footer.
    pub bytes_damaged: u64,
    /// Whether the footer is there and says what is before it.
    pub complete: bool,
}

/// What an offer names. Refuses what cannot be (U-6).
pub fn identify(offer: &Offer, appliance: [u8; 16]) -> Result<SegmentId, Refused> {
    let wrong = |what: String| never(RefusedCode::Malformed, format!("the offer has {what}"));
    let Ok(epoch) = offer.epoch.as_slice().try_into() else {
        return Err(wrong(format!(
            "an epoch of {} bytes instead of 16",
            offer.epoch.len()
        )));
    };
    let Ok(digest) = offer.digest.as_slice().try_into() else {
        return Err(wrong(format!(
            "a digest of {} bytes instead of 32",
            offer.digest.len()
        )));
    };
    let Some(class) = Class::from_number(offer.class.into()) else {
        return Err(wrong(format!(
            "class {}, there are 0, 1 and 2",
            offer.class
        )));
    };
    if offer.seq == 0 {
        return Err(wrong("seq 0, the first is 1".to_owned()));
    }
    if !(HEADER_BYTES as u64..=SEGMENT_BYTES_MAX).contains(&offer.bytes) {
        return Err(wrong(format!(
            "{} bytes, a segment has from {HEADER_BYTES} to {SEGMENT_BYTES_MAX}",
            offer.bytes
        )));
    }
    Ok(SegmentId {
        appliance,
        epoch,
        class,
        seq: offer.seq,
        digest,
    })
}

/// Looks through a segment whose digest was right. `body_digest` is of all but the last 80 bytes (U-9).
///
/// Damage inside is no reason to refuse: the box has nothing better, and the frames around it are worth something. A
/// header that is damaged, or of another segment, is.
pub fn check(bytes: &[u8], id: &SegmentId, body_digest: blake3::Hash) -> Result<Checked, Refused> {
    let malformed = |what: String| never(RefusedCode::Malformed, what);
    let header = Header::decode(bytes).map_err(|e| malformed(e.to_string()))?;
    if header.appliance != id.appliance {
        return Err(malformed(
            "the segment was written by another box".to_owned(),
        ));
    }
    for (what, same) in [
        ("epoch", header.epoch == id.epoch),
        ("class", header.class == id.class),
        ("seq", header.seq == id.seq),
    ] {
        if !same {
            return Err(malformed(format!(
                "the segment has another {what} than was offered"
            )));
        }
    }
    let mut checked = Checked::default();
    let mut end = bytes.len();
    for found in Frames::new(bytes, &header) {
        match found {
            Found::Frame { .. } => checked.frames += 1,
            Found::Damage(range) | Found::Tail(range) => {
                checked.bytes_damaged += range.len() as u64;
            }
            Found::Footer(footer) => {
                let before = usize::try_from(footer.bytes).expect("it was found there");
                let digest = if before + FOOTER_BYTES == bytes.len() {
                    body_digest
                } else {
                    blake3::hash(&bytes[..before])
                };
                checked.complete = footer.digest == *digest.as_bytes()
                    && u64::from(footer.frames) == checked.frames;
                end = before + FOOTER_BYTES;
                break;
            }
        }
    }
    // A file is made at its full size: zeros after the end are what was not written.
    checked.bytes_damaged += bytes[end..].iter().filter(|byte| **byte != 0).count() as u64;
    Ok(checked)
}
