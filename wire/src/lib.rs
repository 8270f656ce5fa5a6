//! Bytes that two programs agree on.
#![forbid(unsafe_code)]

pub mod frame;
pub mod gguf;
