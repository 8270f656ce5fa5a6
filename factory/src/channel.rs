//! Messages on a QUIC stream, each with its length before it.

use std::time::Duration;

use outstation_wire::uplink::{
    self, BoxMessage, FactoryMessage, FromBox, FromFactory, Refused, RefusedCode, UplinkError,
};
use quinn::{ReadExactError, RecvStream, SendStream};

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// It is no message.
    #[error("{0}")]
    Uplink(#[from] UplinkError),
    /// The stream broke off.
    #[error("the stream broke off: {0}")]
    Read(#[from] ReadExactError),
    /// The answer could not be sent.
    #[error("the answer could not be sent: {0}")]
    Write(#[from] quinn::WriteError),
    /// Nothing came, or nothing was taken.
    #[error("nothing came, or was taken, within {0:?}")]
    Silent(Duration),
    /// A file ended before its end.
    #[error("the file broke off: {0}")]
    File(#[from] crate::store::StoreError),
}

/// The next message. `None` at the end of the stream, and for a message that a later version made.
pub async fn read(
    stream: &mut RecvStream,
    wait: Duration,
) -> Result<Option<BoxMessage>, ChannelError> {
    let read = async {
        let mut prefix = [0; 4];
        match stream.read_exact(&mut prefix).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut body = vec![0; uplink::length(prefix)?];
        stream.read_exact(&mut body).await?;
        let message: FromBox = uplink::decode(&body)?;
        Ok(message.message)
    };
    let silent = |_| ChannelError::Silent(wait);
    tokio::time::timeout(wait, read).await.map_err(silent)?
}

/// Sends an answer.
pub async fn send(stream: &mut SendStream, message: FactoryMessage) -> Result<(), ChannelError> {
    let message = FromFactory {
        message: Some(message),
    };
    Ok(stream.write_all(&uplink::encode(&message)).await?)
}

/// A no that another try does not change.
pub fn never(code: RefusedCode, message: impl Into<String>) -> Refused {
    Refused {
        code: code.into(),
        message: message.into(),
        retry_after_ms: 0,
    }
}

/// A no for now.
pub fn later(code: RefusedCode, message: impl Into<String>, after: Duration) -> Refused {
    let retry_after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    Refused {
        code: code.into(),
        message: message.into(),
        retry_after_ms,
    }
}
