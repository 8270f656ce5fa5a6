//! What can go wrong between an app and its outstation, and what to do about it.

use std::net::SocketAddr;
use std::time::Duration;

use outstation_wire::frame::{CloseCode, EncodeError, ErrorCode, ErrorFrame, ProtocolError};
use quinn::{ConnectionError, VarInt};

/// Errors of a session and its answers.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates to trust could not be used.
    #[error("cannot trust {what}: give the PEM file that `outstation serve` names at its start")]
    Trust {
        /// What is wrong.
        what: String,
    },
    /// The client's own certificate could not be used.
    #[error(
        "cannot show this certificate with this key ({0}): they must go together, and the certificate be of X.509 version 3"
    )]
    Identity(String),
    /// No socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The address or the name cannot be connected to.
    #[error("cannot connect to {address} as {server_name:?}: {reason}")]
    Address {
        /// Where to.
        address: SocketAddr,
        /// The name the certificate is checked against.
        server_name: String,
        /// Why not.
        reason: quinn::ConnectError,
    },
    /// Nobody answered.
    #[error(
        "no answer from {address} within {} ms: is the box up, and UDP to it open?",
        after.as_millis()
    )]
    Silent {
        /// Where to.
        address: SocketAddr,
        /// How long it was given.
        after: Duration,
    },
    /// Something that speaks QUIC, but not `outstation/1`.
    #[error("{address} does not speak outstation/1: check the port, and the versions of both ends")]
    OtherProtocol {
        /// Where to.
        address: SocketAddr,
    },
    /// TLS failed; most often a certificate that is not trusted or has another name.
    #[error(
        "no secure connection to {address}: {reason}; check the trusted certificate and the server's name"
    )]
    Insecure {
        /// Where to.
        address: SocketAddr,
        /// What TLS says.
        reason: String,
    },
    /// The server wants to know who asks.
    #[error(
        "the box does not know this client ({reason}): show it a certificate that its authority signed \
         (`ask --certificate FILE --key FILE`)"
    )]
    Unknown {
        /// What TLS says.
        reason: String,
    },
    /// The connection ended; every request on it ends with this.
    #[error("the connection is lost: {0}; connect again")]
    Lost(ConnectionError),
    /// The server closed the connection.
    #[error("the server closed the connection with {code}: {reason}")]
    Closed {
        /// A [`CloseCode`] by name, or a number.
        code: String,
        /// The server's words.
        reason: String,
    },
    /// The server is going down and takes no new requests on this connection.
    #[error(
        "the server is going down, running requests have {drain_ms} ms: send this one elsewhere, or connect again later"
    )]
    Draining {
        /// Milliseconds.
        drain_ms: u32,
    },
    /// The server will not, or no longer, serve the request.
    #[error("{}: {}{}", code_name(.0), .0.detail, retry_hint(.0))]
    Refused(ErrorFrame),
    /// The server broke the answer off without a word.
    #[error("the answer was broken off with {code}: it is not complete; send the request again")]
    BrokenOff {
        /// A [`CloseCode`] by name, or a number.
        code: String,
    },
    /// The stream ended without Done or Error (P-13).
    #[error(
        "the answer ended without saying that it is done: it is not complete; send the request again"
    )]
    Truncated,
    /// The request is larger than a frame may be.
    #[error("the request has {bytes} bytes, the server takes {bytes_max}: shorten the prompt")]
    TooBig {
        /// Its size.
        bytes: u64,
        /// The most that the server takes.
        bytes_max: u64,
    },
    /// The server broke a rule of the protocol; the connection is closed.
    #[error("the server broke the protocol: {0}; check the versions of both ends")]
    Protocol(#[from] ProtocolError),
}

impl From<EncodeError> for ClientError {
    fn from(error: EncodeError) -> Self {
        let EncodeError::TooBig {
            bytes, bytes_max, ..
        } = error;
        Self::TooBig { bytes, bytes_max }
    }
}

impl ClientError {
    /// The refusal's code, if this is one and the code is known.
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => error.error_code(),
            Self::Draining { .. } => Some(ErrorCode::Draining),
            _ => None,
        }
    }

    /// Names a connection's end that came before the handshake was done.
    pub(crate) fn from_handshake(error: ConnectionError, address: SocketAddr) -> Self {
        let (code, reason) = match &error {
            ConnectionError::TransportError(error) => (u64::from(error.code), error.to_string()),
            ConnectionError::ConnectionClosed(close) => {
                (u64::from(close.error_code), close.to_string())
            }
            ConnectionError::TimedOut => {
                let after = super::session::IDLE_TIMEOUT;
                return Self::Silent { address, after };
            }
            _ => return Self::from_connection(error),
        };
        match code {
            NO_APPLICATION_PROTOCOL => Self::OtherProtocol { address },
            TLS_ALERTS_START..TLS_ALERTS_END => Self::Insecure { address, reason },
            _ => Self::Lost(error),
        }
    }

    /// Names a connection's end.
    pub(crate) fn from_connection(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: close_code_name(close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            // In TLS 1.3 the client is done before the server has looked at its certificate.
            ConnectionError::ConnectionClosed(close)
                if (TLS_ALERTS_START..TLS_ALERTS_END).contains(&u64::from(close.error_code)) =>
            {
                Self::Unknown {
                    reason: String::from_utf8_lossy(&close.reason).into_owned(),
                }
            }
            other => Self::Lost(other),
        }
    }
}

// Source: RFC 9001, section 4.8: a TLS alert is the transport error 0x100 + alert; RFC 7301: alert 120.
const TLS_ALERTS_START: u64 = 0x100;
const TLS_ALERTS_END: u64 = 0x200;
const NO_APPLICATION_PROTOCOL: u64 = TLS_ALERTS_START + 120;

pub(crate) fn close_code_name(code: VarInt) -> String {
    let code = code.into_inner();
    CloseCode::from_code(code).map_or_else(|| format!("code {code:#x}"), |code| code.to_string())
}

fn code_name(error: &ErrorFrame) -> String {
    error.error_code().map_or_else(
        || format!("code {:#x}", error.code),
        |code| code.to_string(),
    )
}

fn retry_hint(error: &ErrorFrame) -> String {
    match (error.retryable, error.retry_after_ms) {
        (_, Some(ms)) => format!(" (try again in {ms} ms)"),
        (true, None) => " (try again)".to_owned(),
        (false, None) => String::new(),
    }
}
