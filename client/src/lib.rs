//! The QUIC session an edge app holds with its outstation.
//!
//! ```no_run
//! # async fn example() -> Result<(), outstation_client::ClientError> {
//! use outstation_client::{ClientOptions, Event, Generate, Prompt, Session, Trust};
//!
//! let trust = Trust::from_pem(b"-----BEGIN CERTIFICATE-----...")?;
//! let address = "192.0.2.7:4433".parse().expect("an address");
//! let session = Session::connect(address, "box.example", trust, ClientOptions::default()).await?;
//! let mut answer = session
//!     .generate(Generate {
//!         request_id: vec![7; 16],
//!         prompt: Some(Prompt::Text("Once upon a time".into())),
//!         max_tokens: Some(32),
//!         ..Generate::default()
//!     })
//!     .await?;
//! while let Some(event) = answer.next().await? {
//!     if let Event::Tokens { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! session.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! An answer either ends with [`Event::Done`] or with an error: a stream that breaks off is never taken for a whole
//! answer. Dropping a [`Generation`] cancels it. The library reads no clock; callers measure TTFT and TPOT themselves.
#![forbid(unsafe_code)]

mod control;
mod error;
mod generation;
mod session;
mod trust;

pub use error::ClientError;
pub use generation::{Event, Generation};
pub use outstation_wire::frame::{
    Accepted, Chat, ChatMessage, Class, Done, ErrorCode, FinishReason, Generate, GoAway, Hello,
    LogitBias, Prompt, Sampling, TimingsMicros, TokenIds, Usage,
};
pub use session::{ClientOptions, SegmentationOffload, Session};
pub use trust::{ClientIdentity, Trust};
