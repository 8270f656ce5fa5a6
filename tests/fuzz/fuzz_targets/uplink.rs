//! What a factory hears from a box, and a box from a factory: messages, segments, codes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outstation_wire::code::EnrolmentCode;
use outstation_wire::segment::{Found, Frames, Header};
use outstation_wire::uplink::{self, FromBox, FromFactory, MESSAGE_BYTES_MAX};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => message::<FromBox>(rest),
        1 => message::<FromFactory>(rest),
        2 => segment(rest),
        _ => code(rest),
    }
});

/// What is read is written and read again as the same.
fn message<M: uplink::Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Some((prefix, body)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let Ok(length) = uplink::length(*prefix) else {
        return;
    };
    assert!(length <= MESSAGE_BYTES_MAX);
    let Ok(message) = uplink::decode::<M>(&body[..length.min(body.len())]) else {
        return;
    };
    let again = uplink::encode(&message);
    assert_eq!(uplink::decode::<M>(&again[4..]).as_ref(), Ok(&message));
}

/// The parts of a segment cover it, in order.
fn segment(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else {
        return;
    };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    let mut end = 256;
    for found in Frames::new(bytes, &header) {
        match found {
            Found::Frame { range, ciphertext, .. } => {
                assert_eq!(range.start, end);
                assert!(ciphertext.len() <= range.len());
                end = range.end;
            }
            Found::Damage(range) | Found::Tail(range) => {
                assert_eq!(range.start, end);
                end = range.end;
            }
            Found::Footer(footer) => {
                assert_eq!(footer.bytes, end as u64);
                end += 80;
            }
        }
        assert!(end <= bytes.len());
    }
}

/// What is a code is shown, and read again as the same.
fn code(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(code) = EnrolmentCode::parse(text) {
        assert_eq!(EnrolmentCode::parse(&code.to_string()), Ok(code));
    }
}
