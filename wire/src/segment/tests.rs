use super::*;

fn header() -> Header {
    Header {
        appliance: [1; 16],
        epoch: [2; 16],
        class: Class::P1,
        seq: 7,
        record_seq: 100,
        boot: 3,
        created_unix_ms: 1_700_000_000_000,
        key: WrappedKey {
            recipient: [4; 8],
            encapsulated: [5; 32],
            ciphertext: [6; 48],
        },
    }
}

/// A file of frames whose ciphertexts are bytes of their number, complete or not.
fn file(lengths: &[usize], complete: bool) -> Vec<u8> {
    let header = header();
    let mut bytes = header.encode().to_vec();
    for (number, &length) in (100..).zip(lengths) {
        let ciphertext = vec![u8::try_from(number).unwrap(); length + TAG_BYTES];
        let head = FrameHead {
            ciphertext_bytes: u32::try_from(ciphertext.len()).unwrap(),
            record_seq: number,
        };
        bytes.extend(head.encode(header.checksum(), &ciphertext));
        bytes.extend(ciphertext);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    if complete {
        let footer = Footer {
            frames: u32::try_from(lengths.len()).unwrap(),
            record_seq_first: 100,
            record_seq_last: 99 + lengths.len() as u64,
            bytes: bytes.len() as u64,
            digest: *blake3::hash(&bytes).as_bytes(),
        };
        bytes.extend(footer.encode(header.checksum()));
    }
    bytes
}

/// What a reader finds, in a word each.
fn found(bytes: &[u8]) -> String {
    let word = |found| match found {
        Found::Frame { head, .. } => head.record_seq.to_string(),
        Found::Damage(range) => format!("damage of {}", range.len()),
        Found::Footer(footer) => format!("end:{}", footer.frames),
        Found::Tail(_) => "tail".to_owned(),
    };
    let words: Vec<_> = Frames::new(bytes, &header()).map(word).collect();
    words.join(" ")
}

#[test]
fn what_was_written_is_found() {
    let bytes = file(&[0, 1, 7, 8, 300], true);
    assert_eq!(Header::decode(&bytes), Ok(header()));
    assert_eq!(found(&bytes), "100 101 102 103 104 end:5");
    assert_eq!(found(&file(&[], true)), "end:0");
    let mut preallocated = file(&[5, 5], false);
    preallocated.resize(4096, 0);
    assert_eq!(found(&preallocated), "100 101");
}

#[test]
fn a_damaged_frame_costs_itself_and_nothing_after_it() {
    let whole = file(&[10, 20, 30], true);
    let first = HEADER_BYTES..HEADER_BYTES + frame_bytes(10);
    for at in first.clone() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let padding = at >= HEADER_BYTES + FRAME_HEAD_BYTES + 10 + TAG_BYTES;
        let expected = if padding {
            "100 101 102 end:3".to_owned()
        } else {
            format!("damage of {} 101 102 end:3", first.len())
        };
        assert_eq!(found(&bytes), expected, "byte {at}");
    }
}

#[test]
fn every_cut_leaves_the_frames_before_it() {
    let whole = file(&[10, 20, 30], true);
    for cut in HEADER_BYTES..whole.len() {
        let mut bytes = whole[..cut].to_vec();
        bytes.resize(whole.len(), 0);
        let words = found(&bytes);
        let frames = words.split(' ').filter(|word| word.parse::<u64>().is_ok());
        let ends = [10, 20, 30].into_iter().scan(HEADER_BYTES, |at, length| {
            let end = *at + FRAME_HEAD_BYTES + length + TAG_BYTES;
            *at += frame_bytes(length);
            Some(end)
        });
        assert_eq!(
            frames.count(),
            ends.filter(|&end| end <= cut).count(),
            "cut at {cut}: {words}"
        );
    }
}

#[test]
fn frames_of_another_segment_are_none_of_this_one() {
    let other = Header { seq: 8, ..header() };
    let bytes = file(&[10, 20], true);
    assert_eq!(Frames::new(&bytes, &other).count(), 1, "a tail");
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let good = header().encode();
    let with = |at: usize, byte: u8, mends: bool| {
        let mut bytes = good;
        bytes[at] = byte;
        if mends {
            let crc = crc32c::crc32c(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        }
        Header::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, b'X', false), SegmentError::Magic);
    assert_eq!(with(8, 2, false), SegmentError::Version { version: 2 });
    assert_eq!(with(50, 1, false), SegmentError::Damaged);
    assert_eq!(with(10, 3, true), SegmentError::Field { field: "class" });
    assert_eq!(with(11, 9, true), SegmentError::Field { field: "cipher" });
    assert_eq!(
        with(12, 9, true),
        SegmentError::Field {
            field: "header length"
        }
    );
    assert_eq!(
        Header::decode(&good[..255]),
        Err(SegmentError::Short { bytes: 255 })
    );
}

#[test]
fn the_format_stays_what_it_is() {
    let digest = blake3::hash(&file(&[0, 1, 7, 8, 300], true));
    expect_test::expect!["0dddc1dc9cca249f63a54561e11a86dccb6c0fe7835b5359d2f564d09373ecee"]
        .assert_eq(digest.to_hex().as_str());
}

#[cfg(feature = "seal")]
mod sealed {
    use crate::seal::{FactoryKey, SealError, SegmentKey};
    use crate::segment::{FrameHead, TAG_BYTES};

    const APPLIANCE: [u8; 16] = [1; 16];
    const EPOCH: [u8; 16] = [2; 16];

    #[test]
    fn only_its_factory_reads_a_segment() {
        let (factory, other) = (FactoryKey::generate(), FactoryKey::generate());
        let (key, wrapped) =
            SegmentKey::wrap([9; 32], &APPLIANCE, &EPOCH, &factory.public()).unwrap();
        let mut buffer = b"a record".to_vec();
        buffer.resize(8 + TAG_BYTES, 0);
        let head = FrameHead {
            ciphertext_bytes: 24,
            record_seq: 5,
        };
        key.seal(&head, &mut buffer);
        assert!(!buffer.starts_with(b"a record"));
        let saved =
            FactoryKey::from_bytes(factory.secret_bytes().try_into().unwrap(), factory.public());
        assert!(saved.is_recipient(&wrapped));
        assert!(!other.is_recipient(&wrapped));
        let opened = saved.unwrap(&wrapped, &APPLIANCE, &EPOCH).unwrap();
        assert_eq!(
            opened.open(&head, &mut buffer.clone()),
            Ok(&b"a record"[..])
        );
        let moved = FrameHead {
            record_seq: 6,
            ..head
        };
        assert_eq!(
            opened.open(&moved, &mut buffer),
            Err(SealError::Frame { record_seq: 6 })
        );
        assert_eq!(
            other.unwrap(&wrapped, &APPLIANCE, &EPOCH).unwrap_err(),
            SealError::Unwrap
        );
        assert_eq!(
            factory.unwrap(&wrapped, &EPOCH, &EPOCH).unwrap_err(),
            SealError::Unwrap
        );
    }
}
