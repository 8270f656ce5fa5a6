//! The control streams: Hello, Ping and GoAway.

use std::time::Duration;

use outstation_wire::frame::{Frame, FrameReader, GoAway, Hello, ProtocolError, StreamRole};
use quinn::{Connection, ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::End;

/// A client's Hello is due this long after the handshake (P-3).
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Above every answer, so that a GoAway or Pong does not wait behind text.
const PRIORITY: i32 = 100;
const READ_BYTES_MAX: usize = 4096;

/// Serves both control streams; returns only when the connection must end.
///
/// No write here is ever cut in two, as the loop waits for each to end. A client that does not read its control stream
/// gets no further Pong, and hurts itself alone.
pub(super) async fn run(
    connection: &Connection,
    hello: Hello,
    mut goaways: mpsc::Receiver<GoAway>,
) -> End {
    let due = Instant::now() + HELLO_MAX;
    let mut send = match timeout_at(due, connection.open_uni()).await {
        Ok(Ok(send)) => send,
        Ok(Err(error)) => return End::Lost(error),
        Err(_) => return End::Overdue("room for a control stream"),
    };
    let _ = send.set_priority(PRIORITY);
    let mut receive: Option<RecvStream> = None;
    let mut reader = FrameReader::new(StreamRole::ClientControl);
    let mut hello_seen = false;
    if let Err(error) = write(&mut send, &Frame::Hello(hello)).await {
        return ended(error);
    }
    loop {
        tokio::select! {
            accepted = connection.accept_uni(), if receive.is_none() => match accepted {
                Ok(stream) => receive = Some(stream),
                Err(error) => return End::Lost(error),
            },
            chunk = read(&mut receive), if receive.is_some() => match chunk {
                Ok(Some(chunk)) => {
                    reader.push(&chunk.bytes);
                    match handle_frames(&mut reader, &mut send).await {
                        Ok(any) => hello_seen |= any,
                        Err(end) => return end,
                    }
                }
                // P-4: both are the end of a stream that must not end.
                Ok(None) | Err(ReadError::Reset(_)) => return closed(&reader),
                Err(ReadError::ConnectionLost(error)) => return End::Lost(error),
                Err(_) => unreachable!("the stream is read in order, and not early data"),
            },
            Some(goaway) = goaways.recv() => {
                if let Err(error) = write(&mut send, &Frame::GoAway(goaway)).await {
                    return ended(error);
                }
            }
            () = sleep_until(due), if !hello_seen => return End::Overdue("Hello"),
        }
    }
}

/// `true`: there was a frame; the first can only be Hello (P-2).
async fn handle_frames(reader: &mut FrameReader, send: &mut SendStream) -> Result<bool, End> {
    let mut any = false;
    while let Some(frame) = reader.poll_frame()? {
        any = true;
        match frame {
            // P-20
            Frame::Ping(bytes) => write(send, &Frame::Pong(bytes)).await.map_err(ended)?,
            Frame::Hello(_) | Frame::Pong(_) => {}
            other => unreachable!("{other:?} is not permitted on a control stream"),
        }
    }
    Ok(any)
}

async fn read(stream: &mut Option<RecvStream>) -> Result<Option<quinn::Chunk>, ReadError> {
    let stream = stream.as_mut().expect("the branch is off without a stream");
    stream.read_chunk(READ_BYTES_MAX, true).await
}

async fn write(send: &mut SendStream, frame: &Frame) -> Result<(), WriteError> {
    let bytes = frame.to_bytes().expect("control frames are small");
    send.write_all(&bytes).await
}

fn closed(reader: &FrameReader) -> End {
    End::Violation(
        reader
            .finish()
            .expect_err("a control stream has no good end"),
    )
}

/// The client stopped our control stream, which is as if it had ended (P-4), or the connection is gone.
fn ended(error: WriteError) -> End {
    match error {
        WriteError::ConnectionLost(error) => End::Lost(error),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            End::Violation(ProtocolError::Cut {
                role: StreamRole::ServerControl,
                place: "because the client stopped it",
                wanted: "an open stream",
            })
        }
    }
}
