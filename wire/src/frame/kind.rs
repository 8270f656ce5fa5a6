//! Types of frames and the most bytes that each may have.

use std::fmt;

/// The frame types that this version writes. Numbers: `docs/protocol.md`, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// 0x01
    Hello,
    /// 0x02
    Generate,
    /// 0x10
    Accepted,
    /// 0x11
    Tokens,
    /// 0x12
    Done,
    /// 0x1f
    Error,
    /// 0x20
    GoAway,
    /// 0x22
    Ping,
    /// 0x23
    Pong,
}

/// Most bytes of a Generate body: 32 Ki tokens of context at 8 bytes each. A server may announce less in its Hello.
///
/// Memory: the reader buffers one body; decoding it takes at most 48 bytes for each two of the body (an empty chat
/// message), which is refused right after.
pub const GENERATE_BYTES_MAX: u64 = 256 * 1024;

/// Most bytes of unknown frames, headers included, between two known ones (P-6).
pub const UNKNOWN_BYTES_MAX: u64 = 64 * 1024;

impl FrameType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Hello,
        Self::Generate,
        Self::Accepted,
        Self::Tokens,
        Self::Done,
        Self::Error,
        Self::GoAway,
        Self::Ping,
        Self::Pong,
    ];

    /// The number on the wire.
    pub fn id(self) -> u64 {
        match self {
            Self::Hello => 0x01,
            Self::Generate => 0x02,
            Self::Accepted => 0x10,
            Self::Tokens => 0x11,
            Self::Done => 0x12,
            Self::Error => 0x1f,
            Self::GoAway => 0x20,
            Self::Ping => 0x22,
            Self::Pong => 0x23,
        }
    }

    /// The type with this number; `None` is one to skip (P-6).
    pub fn from_id(id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Most bytes of a body of this type (P-7).
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::Hello => 4096,
            Self::Generate => GENERATE_BYTES_MAX,
            Self::Accepted => 256,
            Self::Tokens | Self::Done | Self::Error => 1024,
            Self::GoAway => 64,
            Self::Ping | Self::Pong => 8,
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
