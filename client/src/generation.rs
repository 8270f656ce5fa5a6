//! One answer.

use std::sync::Arc;

use outstation_wire::frame::{
    Accepted, CloseCode, Done, Frame, FrameReader, ProtocolError, StreamRole,
};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use crate::ClientError;
use crate::control::{READ_BYTES_MAX, close_for};
use crate::error::close_code_name;
use crate::session::Shared;

/// What comes out of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is being run.
    Accepted(Accepted),
    /// A piece of the answer.
    Tokens {
        /// Whole characters; may be empty.
        text: String,
        /// Tokens in this piece.
        count: u64,
        /// Their ids, if the request asked for them.
        ids: Option<Vec<u32>>,
    },
    /// The answer is complete; nothing comes after it.
    Done(Done),
}

/// An answer under way. Dropping it cancels the request (P-17).
#[derive(Debug)]
pub struct Generation {
    shared: Arc<Shared>,
    receive: RecvStream,
    reader: FrameReader,
    /// Done, Error or a failure was seen: there is nothing left to cancel.
    ended: bool,
}

/// A request that is being sent. quinn ends a stream cleanly on drop, which would make half a Generate a violation, so
/// a dropped upload is reset.
struct Upload {
    send: SendStream,
    whole: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.whole {
            let _ = self.send.reset(cancelled());
        }
    }
}

impl Generation {
    pub(crate) async fn start(
        shared: Arc<Shared>,
        send: SendStream,
        receive: RecvStream,
        request: &[u8],
    ) -> Result<Self, ClientError> {
        // Made first, so that whoever drops this future cancels both halves.
        let generation = Self {
            shared,
            receive,
            reader: FrameReader::new(StreamRole::Response),
            ended: false,
        };
        let mut upload = Upload { send, whole: false };
        match upload.send.write_all(request).await {
            Ok(()) => {
                upload.whole = true;
                let _ = upload.send.finish();
            }
            // The server wants no more of it: its answer says why.
            Err(WriteError::Stopped(_)) => upload.whole = true,
            Err(WriteError::ConnectionLost(error)) => return Err(generation.shared.lost(error)),
            Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                unreachable!("the stream is ours, open, and not early data")
            }
        }
        Ok(generation)
    }

    /// The next event; `None` after [`Event::Done`]. After an error there is nothing more.
    ///
    /// Dropping the future loses nothing. While it waits it keeps the way back open (P-20).
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let outcome = self.advance().await;
        if !matches!(outcome, Ok(Event::Accepted(_) | Event::Tokens { .. })) {
            self.ended = true;
        }
        outcome.map(Some)
    }

    /// Cancels the request; the same as dropping it.
    pub fn cancel(self) {
        drop(self);
    }

    async fn advance(&mut self) -> Result<Event, ClientError> {
        loop {
            match self.reader.poll_frame() {
                Ok(Some(frame)) => return event(frame),
                Ok(None) => {}
                Err(violation) => return Err(self.violation(violation)),
            }
            let chunk = self.receive.read_chunk(READ_BYTES_MAX, true);
            let Ok(chunk) = tokio::time::timeout(self.shared.ping_after, chunk).await else {
                // A full channel has a Ping to send already; a closed one has no connection, which the next read says.
                let _ = self.shared.pings.try_send(());
                continue;
            };
            match chunk {
                Ok(Some(chunk)) => self.reader.push(&chunk.bytes),
                Ok(None) => return Err(ClientError::Truncated), // P-13
                Err(ReadError::Reset(code)) => {
                    let code = close_code_name(code);
                    return Err(ClientError::BrokenOff { code });
                }
                Err(ReadError::ConnectionLost(error)) => return Err(self.shared.lost(error)),
                Err(
                    ReadError::ClosedStream
                    | ReadError::IllegalOrderedRead
                    | ReadError::ZeroRttRejected,
                ) => unreachable!("the stream is ours, read in order, and not early data"),
            }
        }
    }

    fn violation(&self, violation: ProtocolError) -> ClientError {
        close_for(&self.shared.connection, &violation);
        ClientError::Protocol(violation)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.receive.stop(cancelled());
        }
    }
}

fn cancelled() -> VarInt {
    VarInt::from_u32(CloseCode::Cancelled.code())
}

fn event(frame: Frame) -> Result<Event, ClientError> {
    match frame {
        Frame::Accepted(accepted) => Ok(Event::Accepted(accepted)),
        Frame::Tokens(tokens) => Ok(Event::Tokens {
            text: tokens.text,
            count: tokens.n,
            ids: tokens.ids,
        }),
        Frame::Done(done) => Ok(Event::Done(done)),
        Frame::Error(error) => Err(ClientError::Refused(error)),
        other => unreachable!("{other:?} is not permitted in an answer"),
    }
}
