//! Numbers that say why: codes of Error frames, and codes with which streams and connections end.

use std::fmt;

/// Why a request was not served: the `code` of an [`ErrorFrame`](super::ErrorFrame) (P-21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// No place now; `retry_after_ms` says when.
    Overloaded = 0x01,
    /// The deadline cannot be or was not met.
    Deadline = 0x02,
    /// Not in early data: send it again after the handshake.
    TooEarly = 0x03,
    /// The sender has used up its share.
    Quota = 0x04,
    /// The request is wrong and will stay wrong.
    BadRequest = 0x05,
    /// No such model here.
    NoModel = 0x06,
    /// No such request here.
    UnknownRequest = 0x07,
    /// The reader did not keep up with its answer.
    SlowConsumer = 0x08,
    /// The sender's credentials were revoked.
    Revoked = 0x09,
    /// The server is going down: go elsewhere, or come back.
    Draining = 0x0a,
    /// The server's own fault.
    Internal = 0x0b,
}

impl ErrorCode {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Overloaded,
        Self::Deadline,
        Self::TooEarly,
        Self::Quota,
        Self::BadRequest,
        Self::NoModel,
        Self::UnknownRequest,
        Self::SlowConsumer,
        Self::Revoked,
        Self::Draining,
        Self::Internal,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The code with this number; `None` is one that a newer server knows.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// The name in `docs/protocol.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overloaded => "OVERLOADED",
            Self::Deadline => "DEADLINE",
            Self::TooEarly => "TOO_EARLY",
            Self::Quota => "QUOTA",
            Self::BadRequest => "BAD_REQUEST",
            Self::NoModel => "NO_MODEL",
            Self::UnknownRequest => "UNKNOWN_REQ",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::Revoked => "REVOKED",
            Self::Draining => "DRAINING",
            Self::Internal => "INTERNAL",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The application code of RESET_STREAM, STOP_SENDING and CONNECTION_CLOSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// Connection: all is said.
    NoError = 0x00,
    /// Connection: no place for another one now.
    Overloaded = 0x01,
    /// Stream: the reader did not keep up.
    SlowConsumer = 0x08,
    /// Stream: the server failed; the answer is not complete.
    Internal = 0x0b,
    /// Stream: the client wants no (more) answer.
    Cancelled = 0x10,
    /// Connection: a frame is over the maximum of its type.
    FrameTooBig = 0x11,
    /// Connection: the peer broke a rule.
    Protocol = 0x12,
    /// Stream or connection: what was due did not come in time.
    Timeout = 0x13,
}

impl CloseCode {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::NoError,
        Self::Overloaded,
        Self::SlowConsumer,
        Self::Internal,
        Self::Cancelled,
        Self::FrameTooBig,
        Self::Protocol,
        Self::Timeout,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The code with this number, if this version knows it.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| u64::from(known.code()) == code)
    }

    /// The name in `docs/protocol.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoError => "NO_ERROR",
            Self::Overloaded => "OVERLOADED",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::Internal => "INTERNAL",
            Self::Cancelled => "CANCELLED",
            Self::FrameTooBig => "FRAME_TOO_BIG",
            Self::Protocol => "PROTOCOL",
            Self::Timeout => "TIMEOUT",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
