//! The shells: sockets, files, threads. They move bytes and map errors; decisions live in the cores.
#![expect(
    clippy::disallowed_methods,
    reason = "the clock, files and threads that the cores may not touch are handled here"
)]

pub mod access;
pub mod adapters;
mod board;
pub mod disk;
pub mod energy;
pub mod engine_thread;
pub mod exchange;
pub mod gateway;
pub mod http;
pub mod last_errors;
pub mod log;
pub mod memory;
pub mod ota;
pub mod private;
pub mod probe;
pub mod quic;
pub mod spool_link;
pub mod spool_thread;
pub mod systemd;
pub mod tls;
pub mod uplink;
pub mod weights;
