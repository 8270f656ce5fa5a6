//! Frames: the native protocol `outstation/1`, as bytes.
//!
//! `docs/protocol.md` is the specification; its requirement ids (`P-7`) stand in the code that meets them. The codec
//! owns no socket and no clock: bytes go in with [`FrameReader::push`], frames come out of [`FrameReader::poll_frame`],
//! and a [`StreamRole`] says which frames may come in which order.
//!
//! ```text
//! control, one uni stream each way   Hello, (Ping | Pong | GoAway)*                never ends
//! request, one bidi stream each      client: Generate, FIN
//!                                    server: Accepted?, Tokens*, (Done | Error), FIN
//! ```

mod code;
mod fault;
mod kind;
mod message;
mod order;
mod reader;
mod tokens;
pub mod varint;

use prost::Message;

pub use code::{CloseCode, ErrorCode};
pub use fault::{EncodeError, GenerateFault, ProtocolError};
pub use kind::{FrameType, GENERATE_BYTES_MAX, UNKNOWN_BYTES_MAX};
pub use message::{
    Accepted, CHAT_MESSAGES_MAX, Chat, ChatMessage, Class, DETAIL_BYTES_MAX, Done, ErrorFrame,
    FinishReason, Generate, GoAway, Hello, LOGIT_BIAS_MAX, LogitBias, Prompt, REQUEST_ID_BYTES,
    STOP_STRINGS_MAX, Sampling, TimingsMicros, TokenIds, Usage,
};
pub use order::StreamRole;
pub use reader::FrameReader;
pub use tokens::{IdListing, TOKENS_PER_FRAME_MAX, Tokens, write_tokens};

/// The name under which both ends agree on this protocol in the TLS handshake (P-1).
pub const ALPN: &[u8] = b"outstation/1";

/// One message of the protocol.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a frame is met one at a time and taken apart at once"
)]
pub enum Frame {
    /// First frame of a control stream: who is there, and what it can take.
    Hello(Hello),
    /// The one frame of a request.
    Generate(Generate),
    /// The request has its place and the first step that carries it has begun.
    Accepted(Accepted),
    /// A piece of the answer.
    Tokens(Tokens),
    /// The answer is complete.
    Done(Done),
    /// There will be no (more) answer.
    Error(ErrorFrame),
    /// The server is going down.
    GoAway(GoAway),
    /// Asks for a [`Frame::Pong`] with the same eight bytes.
    Ping([u8; 8]),
    /// The answer to a [`Frame::Ping`].
    Pong([u8; 8]),
}

impl Frame {
    /// The type that stands before this frame's body.
    pub fn kind(&self) -> FrameType {
        match self {
            Self::Hello(_) => FrameType::Hello,
            Self::Generate(_) => FrameType::Generate,
            Self::Accepted(_) => FrameType::Accepted,
            Self::Tokens(_) => FrameType::Tokens,
            Self::Done(_) => FrameType::Done,
            Self::Error(_) => FrameType::Error,
            Self::GoAway(_) => FrameType::GoAway,
            Self::Ping(_) => FrameType::Ping,
            Self::Pong(_) => FrameType::Pong,
        }
    }

    /// Appends the frame to `out`: type, length, body (P-5).
    ///
    /// **Errors**: a body over the maximum of its type (P-7); `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let kind = self.kind();
        let bytes = self.body_bytes();
        let bytes_max = kind.bytes_max();
        if bytes as u64 > bytes_max {
            return Err(EncodeError::TooBig {
                kind,
                bytes: bytes as u64,
                bytes_max,
            });
        }
        varint::write(kind.id(), out);
        varint::write(bytes as u64, out);
        let start = out.len();
        out.reserve(bytes);
        self.write_body(out);
        assert_eq!(out.len() - start, bytes, "a body has the length it said");
        Ok(())
    }

    /// The frame's bytes in a vector of their own.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode(&mut out)?;
        Ok(out)
    }

    fn body_bytes(&self) -> usize {
        match self {
            Self::Hello(body) => body.encoded_len(),
            Self::Generate(body) => body.encoded_len(),
            Self::Accepted(body) => body.encoded_len(),
            Self::Tokens(body) => body.body_bytes(),
            Self::Done(body) => body.encoded_len(),
            Self::Error(body) => body.encoded_len(),
            Self::GoAway(body) => body.encoded_len(),
            Self::Ping(body) | Self::Pong(body) => body.len(),
        }
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(body) => body.encode_raw(out),
            Self::Generate(body) => body.encode_raw(out),
            Self::Accepted(body) => body.encode_raw(out),
            Self::Tokens(body) => body.write_body(out),
            Self::Done(body) => body.encode_raw(out),
            Self::Error(body) => body.encode_raw(out),
            Self::GoAway(body) => body.encode_raw(out),
            Self::Ping(body) | Self::Pong(body) => out.extend_from_slice(body),
        }
    }

    /// Reads the body of a frame of a known type (P-8).
    pub(crate) fn decode_body(kind: FrameType, body: &[u8]) -> Result<Self, ProtocolError> {
        fn message<M: Message + Default>(kind: FrameType, body: &[u8]) -> Result<M, ProtocolError> {
            M::decode(body).map_err(|error| ProtocolError::Malformed {
                kind,
                what: error.to_string(),
            })
        }
        let eight = || {
            <[u8; 8]>::try_from(body).map_err(|_| ProtocolError::Malformed {
                kind,
                what: format!("{} bytes, it has 8", body.len()),
            })
        };
        Ok(match kind {
            FrameType::Hello => Self::Hello(message(kind, body)?),
            FrameType::Generate => Self::Generate(message(kind, body)?),
            FrameType::Accepted => Self::Accepted(message(kind, body)?),
            FrameType::Tokens => Self::Tokens(Tokens::decode_body(body)?),
            FrameType::Done => Self::Done(message(kind, body)?),
            FrameType::Error => Self::Error(message(kind, body)?),
            FrameType::GoAway => Self::GoAway(message(kind, body)?),
            FrameType::Ping => Self::Ping(eight()?),
            FrameType::Pong => Self::Pong(eight()?),
        })
    }
}

#[cfg(test)]
mod tests;
