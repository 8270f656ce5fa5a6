//! One request from its first byte to the last of its answer.
//!
//! The client may leave at any time (P-17): every wait here is raced with `SendStream::stopped`, so that a cancellation
//! is seen before the first token, too.

use std::time::Duration;

use futures_util::FutureExt as _;
use outstation_wire::frame::{
    CloseCode, ErrorFrame, Frame, IdListing, ProtocolError, write_tokens,
};
use quinn::{RecvStream, SendStream, WriteError};

use super::connection::Shared;
use super::upload::{self, Upload};
use super::{code, convert};
use crate::io::gateway::{Generation, Piece};
use crate::request::{GenerateRequest, Refusal, RefusalKind};

/// A write without progress for this long drops the client (P-18).
const WRITE_MAX: Duration = Duration::from_secs(30);
/// Pieces that wait are put into one write up to this.
const WRITE_BYTES_TARGET: usize = 2048;

/// Serves one request. `Err` closes the connection (P-22).
pub(super) async fn serve(
    shared: Shared,
    send: SendStream,
    receive: RecvStream,
) -> Result<(), ProtocolError> {
    let stopped = send.stopped();
    let mut answer = Answer { send, open: true };
    let outcome = tokio::select! {
        biased;
        // Ok(Some) is STOP_SENDING; an error, the connection's end.
        _ = stopped => Ok(Outcome::Reset(CloseCode::Cancelled)),
        outcome = converse(&shared, &mut answer, receive) => outcome,
    };
    if let Outcome::Reset(why) = outcome? {
        answer.reset(why);
    }
    Ok(())
}

/// Answers a request that came after GoAway (P-19).
pub(super) async fn refuse_draining(send: SendStream) {
    let mut answer = Answer { send, open: true };
    let message = "the server is going down: send the request elsewhere, or connect again later";
    let refusal = Refusal::plain(RefusalKind::Draining, message);
    if let Outcome::Reset(why) = answer.refuse(&refusal).await {
        answer.reset(why);
    }
}

/// How a request's work ended.
enum Outcome {
    /// Done or Error were sent, and have arrived.
    Answered,
    /// There is no way to say more than a code (P-13).
    Reset(CloseCode),
}

async fn converse(
    shared: &Shared,
    answer: &mut Answer,
    receive: RecvStream,
) -> Result<Outcome, ProtocolError> {
    let upload_place = shared.uploads.acquire().await.expect("it is never closed");
    let generate = match upload::read(receive).await? {
        Upload::Whole(generate) => *generate,
        Upload::Cancelled => return Ok(Outcome::Reset(CloseCode::Cancelled)),
        Upload::Overdue => return Ok(Outcome::Reset(CloseCode::Timeout)),
    };
    let listing = if generate.want_token_ids {
        IdListing::Listed
    } else {
        IdListing::Counted
    };
    let submitted = match convert::request(generate) {
        Ok(request) => {
            let tenant = shared.tenant;
            let request = GenerateRequest { tenant, ..request };
            shared.gateway.submit(request).await
        }
        Err(refusal) => Err(refusal),
    };
    drop(upload_place);
    Ok(match submitted {
        Ok(generation) => answer.stream(generation, listing).await,
        Err(refusal) => answer.refuse(&refusal).await,
    })
}

/// The sending half. quinn ends a stream cleanly on drop, which would make a broken answer look whole, so this one
/// resets it.
struct Answer {
    send: SendStream,
    open: bool,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.reset(CloseCode::Internal);
    }
}

impl Answer {
    /// Sends pieces as they come; those that wait already share a write.
    async fn stream(&mut self, mut generation: Generation, listing: IdListing) -> Outcome {
        let mut out = Vec::with_capacity(2 * WRITE_BYTES_TARGET);
        let accepted = convert::accepted(generation.forecast());
        write_frame(&Frame::Accepted(accepted), &mut out);
        if let Err(outcome) = self.write(&out).await {
            return outcome;
        }
        out.clear();
        let mut seq = 0;
        loop {
            let mut next = generation.next().await;
            let mut last = false;
            while let Some(piece) = next {
                if let Piece::Failed(Refusal {
                    kind: RefusalKind::SlowConsumer,
                    ..
                }) = piece
                {
                    // It would not read the Error either.
                    return Outcome::Reset(CloseCode::SlowConsumer);
                }
                last = write_piece(piece, &mut seq, listing, &mut out);
                if last || out.len() >= WRITE_BYTES_TARGET {
                    break;
                }
                next = generation.next().now_or_never().flatten();
            }
            if out.is_empty() {
                // No piece, and no Done before it: the gateway is gone.
                return Outcome::Reset(CloseCode::Internal);
            }
            if let Err(outcome) = self.write(&out).await {
                return outcome;
            }
            out.clear();
            if last {
                // Its place is free while the client's acknowledgements are on their way.
                drop(generation);
                return self.finish().await;
            }
        }
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Outcome {
        let mut out = Vec::new();
        write_frame(&Frame::Error(convert::error(refusal)), &mut out);
        match self.write(&out).await {
            Ok(()) => self.finish().await,
            Err(outcome) => outcome,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        match tokio::time::timeout(WRITE_MAX, self.send.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_))) => {
                Err(Outcome::Reset(CloseCode::Cancelled))
            }
            Ok(Err(WriteError::ClosedStream | WriteError::ZeroRttRejected)) => {
                unreachable!("the stream is open, and not early data")
            }
            Err(_) => Err(Outcome::Reset(CloseCode::SlowConsumer)),
        }
    }

    /// Ends the stream cleanly and waits until all of it has arrived: a connection that closes before would lose the
    /// rest.
    async fn finish(&mut self) -> Outcome {
        let _ = self.send.finish();
        self.open = false;
        match tokio::time::timeout(WRITE_MAX, self.send.stopped()).await {
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Reset(CloseCode::SlowConsumer),
        }
    }

    fn reset(&mut self, why: CloseCode) {
        if self.open || why == CloseCode::SlowConsumer {
            self.open = false;
            let _ = self.send.reset(code(why));
        }
    }
}

/// `true`: it was the last.
fn write_piece(piece: Piece, seq: &mut u64, listing: IdListing, out: &mut Vec<u8>) -> bool {
    match piece {
        Piece::Text {
            text, token_ids, ..
        } => {
            write_tokens(seq, &token_ids, listing, &text, out);
            false
        }
        Piece::Done {
            finish,
            usage,
            timings,
        } => {
            write_frame(&Frame::Done(convert::done(finish, usage, timings)), out);
            true
        }
        Piece::Failed(refusal) => {
            let error: ErrorFrame = convert::error(&refusal);
            write_frame(&Frame::Error(error), out);
            true
        }
    }
}

fn write_frame(frame: &Frame, out: &mut Vec<u8>) {
    frame
        .encode(out)
        .expect("an answer's frames have a bound of their own");
}
