//! Bytes that two programs agree on.
#![forbid(unsafe_code)]

pub mod code;
pub mod frame;
pub mod gguf;
pub mod hex;
pub mod record;
#[cfg(feature = "release")]
pub mod release;
#[cfg(feature = "seal")]
pub mod seal;
pub mod segment;
pub mod uplink;
