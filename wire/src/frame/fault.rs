//! What can be wrong with bytes: the peer's, and ours.

use super::{CloseCode, FrameType, StreamRole};

/// The peer broke a rule of `docs/protocol.md`. The connection ends with [`ProtocolError::close_code`] (P-22).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// P-7
    #[error("a {kind} frame of {bytes} bytes, at most {bytes_max} are allowed: send less")]
    TooBig {
        /// Its type.
        kind: FrameType,
        /// The length it gives.
        bytes: u64,
        /// The most that is allowed here.
        bytes_max: u64,
    },
    /// P-6
    #[error(
        "{bytes} bytes of frames of unknown types in a row (the last is {id:#x}), at most {bytes_max} are skipped"
    )]
    TooMuchUnknown {
        /// Type of the last one.
        id: u64,
        /// Their bytes, headers included.
        bytes: u64,
        /// The most that is skipped.
        bytes_max: u64,
    },
    /// P-2, P-9, P-12
    #[error("a frame of type {id:#x} on a {role} stream {place}: {wanted} was due")]
    Unexpected {
        /// Its type.
        id: u64,
        /// The stream's role.
        role: StreamRole,
        /// How far the stream was.
        place: &'static str,
        /// What may come there.
        wanted: &'static str,
    },
    /// P-8
    #[error("a {kind} frame that cannot be read: {what}")]
    Malformed {
        /// Its type.
        kind: FrameType,
        /// What is wrong.
        what: String,
    },
    /// P-14
    #[error("a Tokens frame begins at token {actual}, the one before it ended at {expected}")]
    Gap {
        /// Tokens so far.
        expected: u64,
        /// The frame's `seq`.
        actual: u64,
    },
    /// P-4, P-9, P-13
    #[error("a {role} stream ended {place}: {wanted} was due")]
    Cut {
        /// The stream's role.
        role: StreamRole,
        /// How far the stream was.
        place: &'static str,
        /// What may come there.
        wanted: &'static str,
    },
}

impl ProtocolError {
    /// The code with which the connection is closed.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::TooBig { .. } | Self::TooMuchUnknown { .. } => CloseCode::FrameTooBig,
            Self::Unexpected { .. }
            | Self::Malformed { .. }
            | Self::Gap { .. }
            | Self::Cut { .. } => CloseCode::Protocol,
        }
    }
}

/// A frame that this side must not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// P-7
    #[error("a {kind} frame of {bytes} bytes, at most {bytes_max} are allowed: send less")]
    TooBig {
        /// Its type.
        kind: FrameType,
        /// Bytes of the body.
        bytes: u64,
        /// The most that is allowed.
        bytes_max: u64,
    },
}

/// A Generate frame that can be read but not served, whatever the model (P-10). The answer is BAD_REQUEST.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateFault {
    /// A class that this version does not know.
    #[error("class is {class}: it is 0 (interactive), 1 (standard) or 2 (batch)")]
    Class {
        /// As sent.
        class: i32,
    },
    /// The id is missing or has another length.
    #[error("request_id has {bytes} bytes: it must have 16")]
    RequestId {
        /// Its length.
        bytes: usize,
    },
    /// Neither text, token ids nor messages.
    #[error("the request has no prompt: send text, token_ids or chat")]
    NoPrompt,
    /// A list that is too long.
    #[error("{field} has {count} entries, at most {count_max} are allowed")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Its length.
        count: usize,
        /// The most that is allowed.
        count_max: usize,
    },
}
