//! Frames of any stream from any bytes: no panic, bounded memory, and what is read is read again from its own bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outstation_wire::frame::{Frame, FrameReader, Hello, StreamRole};

const ROLES: [StreamRole; 4] = [
    StreamRole::ClientControl,
    StreamRole::ServerControl,
    StreamRole::Request,
    StreamRole::Response,
];

fuzz_target!(|input: &[u8]| {
    // The first byte chooses the role, the second the size of the pieces in which the rest arrives.
    let [role, piece_bytes, stream @ ..] = input else {
        return;
    };
    let role = ROLES[usize::from(role % 4)];
    let mut reader = FrameReader::new(role);
    for piece in stream.chunks(usize::from(*piece_bytes).max(1)) {
        reader.push(piece);
        loop {
            match reader.poll_frame() {
                Ok(Some(frame)) => read_again(role, &frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.poll_frame(), Err(error), "an error stays");
                    return;
                }
            }
        }
        assert!(reader.buffered_bytes() <= stream.len());
    }
    let _ = reader.finish();
});

/// Compares bytes, as a NaN in a frame is not equal to itself.
fn read_again(role: StreamRole, frame: &Frame) {
    let mut reader = FrameReader::new(role);
    let hello = Frame::Hello(Hello::default());
    let control = matches!(role, StreamRole::ClientControl | StreamRole::ServerControl);
    if control && !matches!(frame, Frame::Hello(_)) {
        reader.push(&hello.to_bytes().expect("an empty Hello fits"));
        reader.poll_frame().expect("Hello comes first");
    }
    let mut frame = frame.clone();
    if let Frame::Tokens(tokens) = &mut frame {
        tokens.seq = 0; // this reader has seen none
    }
    let Ok(bytes) = frame.to_bytes() else {
        // Longer than allowed only where the input spent fewer bytes on the same: repeated or non-minimal fields do
        // not.
        panic!("a frame that was read is too big to write: {frame:?}");
    };
    reader.push(&bytes);
    let again = reader
        .poll_frame()
        .expect("our own bytes are good")
        .expect("they are whole");
    assert_eq!(again.to_bytes().expect("it fits"), bytes);
}
