//! Which frame may come when, by the role of the stream that carries it.

use std::fmt;

use super::{Frame, FrameType, ProtocolError};

/// What a stream is for, and who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamRole {
    /// The client's uni stream: Hello, then Ping and Pong.
    ClientControl,
    /// The server's uni stream: Hello, then Ping, Pong and GoAway.
    ServerControl,
    /// The client's half of a bidi stream: Generate.
    Request,
    /// The server's half of a bidi stream: the answer.
    Response,
}

impl fmt::Display for StreamRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientControl => "client control",
            Self::ServerControl => "server control",
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Middle,
    End,
}

/// The rules of order for one stream, as a state machine.
#[derive(Debug)]
pub(super) struct Order {
    role: StreamRole,
    place: Place,
    tokens: u64,
}

impl Order {
    pub(super) fn new(role: StreamRole) -> Self {
        Self {
            role,
            place: Place::Start,
            tokens: 0,
        }
    }

    /// May a frame of this type come here? Asked as soon as the type is known, before its body is.
    pub(super) fn permit(&self, id: u64) -> Result<(), ProtocolError> {
        use FrameType::{Accepted, Done, Error, Generate, GoAway, Hello, Ping, Pong, Tokens};
        let kind = FrameType::from_id(id);
        let good = match (self.role, self.place, kind) {
            // P-2: nothing comes before Hello, not even what would be skipped.
            (StreamRole::ClientControl | StreamRole::ServerControl, Place::Start, kind) => {
                kind == Some(Hello)
            }
            // P-6
            (_, _, None) => true,
            (StreamRole::ClientControl, _, Some(kind)) => matches!(kind, Ping | Pong),
            (StreamRole::ServerControl, _, Some(kind)) => matches!(kind, Ping | Pong | GoAway),
            // P-9
            (StreamRole::Request, Place::Start, Some(kind)) => kind == Generate,
            // P-12
            (StreamRole::Response, Place::Start, Some(kind)) => {
                matches!(kind, Accepted | Tokens | Done | Error)
            }
            (StreamRole::Response, Place::Middle, Some(kind)) => {
                matches!(kind, Tokens | Done | Error)
            }
            (StreamRole::Request, Place::Middle | Place::End, Some(_))
            | (StreamRole::Response, Place::End, Some(_)) => false,
        };
        if good {
            return Ok(());
        }
        let (place, wanted) = self.describe();
        Err(ProtocolError::Unexpected {
            id,
            role: self.role,
            place,
            wanted,
        })
    }

    /// Takes note of a frame that was permitted and read.
    pub(super) fn note(&mut self, frame: &Frame) -> Result<(), ProtocolError> {
        if let Frame::Tokens(tokens) = frame {
            // P-14
            if tokens.seq != self.tokens {
                return Err(ProtocolError::Gap {
                    expected: self.tokens,
                    actual: tokens.seq,
                });
            }
            self.tokens += tokens.n;
        }
        self.place = match frame {
            Frame::Generate(_) | Frame::Done(_) | Frame::Error(_) => Place::End,
            _ => Place::Middle,
        };
        Ok(())
    }

    /// May the stream end here? `frame_open` says that it would cut a frame in two.
    pub(super) fn finish(&self, frame_open: bool) -> Result<(), ProtocolError> {
        let (place, wanted) = self.describe();
        let cut = |place, wanted| {
            Err(ProtocolError::Cut {
                role: self.role,
                place,
                wanted,
            })
        };
        if frame_open {
            return cut("within a frame", "the rest of the frame");
        }
        match self.place {
            Place::End => Ok(()),
            // P-4, P-9, P-13
            Place::Start | Place::Middle => cut(place, wanted),
        }
    }

    fn describe(&self) -> (&'static str, &'static str) {
        match (self.role, self.place) {
            (StreamRole::ClientControl | StreamRole::ServerControl, Place::Start) => {
                ("before its first frame", "Hello")
            }
            (StreamRole::ClientControl, _) => ("after Hello", "Ping or Pong"),
            (StreamRole::ServerControl, _) => ("after Hello", "Ping, Pong or GoAway"),
            (StreamRole::Request, Place::Start) => ("before its first frame", "Generate"),
            (StreamRole::Request, _) => ("after Generate", "the end of the stream"),
            (StreamRole::Response, Place::Start) => {
                ("before its first frame", "Accepted, Tokens, Done or Error")
            }
            (StreamRole::Response, Place::Middle) => ("within the answer", "Tokens, Done or Error"),
            (StreamRole::Response, Place::End) => ("after Done or Error", "the end of the stream"),
        }
    }
}
