//! Reading a request.

use std::time::Duration;

use outstation_wire::frame::{CloseCode, Frame, FrameReader, Generate, ProtocolError, StreamRole};
use quinn::{ReadError, RecvStream};
use tokio::time::{Instant, timeout_at};

use super::code;

/// The first byte of a request is due (P-11).
const FIRST_BYTE_MAX: Duration = Duration::from_secs(5);
/// All of it is due (P-11).
const WHOLE_MAX: Duration = Duration::from_secs(30);
const READ_BYTES_MAX: usize = 64 * 1024;

/// What became of a request that was being read.
pub(super) enum Upload {
    /// It is here.
    Whole(Box<Generate>),
    /// The client reset it (P-17), or is gone.
    Cancelled,
    /// It did not come in time (P-11).
    Overdue,
}

/// Reads one Generate and the end of the stream (P-9).
pub(super) async fn read(mut receive: RecvStream) -> Result<Upload, ProtocolError> {
    let started = Instant::now();
    let mut due = started + FIRST_BYTE_MAX;
    let mut reader = FrameReader::new(StreamRole::Request);
    let mut generate = None;
    loop {
        match timeout_at(due, receive.read_chunk(READ_BYTES_MAX, true)).await {
            Ok(Ok(Some(chunk))) => {
                due = started + WHOLE_MAX;
                reader.push(&chunk.bytes);
                while let Some(frame) = reader.poll_frame()? {
                    let Frame::Generate(frame) = frame else {
                        unreachable!("{frame:?} is not permitted in a request");
                    };
                    generate = Some(Box::new(frame));
                }
            }
            Ok(Ok(None)) => {
                reader.finish()?;
                return Ok(Upload::Whole(generate.expect("finish says that it came")));
            }
            Ok(Err(ReadError::Reset(_) | ReadError::ConnectionLost(_))) => {
                return Ok(Upload::Cancelled);
            }
            Ok(Err(_)) => unreachable!("the stream is read in order, and not early data"),
            Err(_) => {
                let _ = receive.stop(code(CloseCode::Timeout));
                return Ok(Upload::Overdue);
            }
        }
    }
}
