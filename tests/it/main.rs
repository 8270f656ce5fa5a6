//! The real binary, as its users meet it: started, asked, abused, and asked to stop.
//!
//! Part of the package `outstation`, so that cargo builds the program first and says where it is.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests have files, a clock and processes, and fail by panicking"
)]

mod access;
mod answers;
mod bad_input;
mod doctor;
mod energy;
mod privacy;
mod sdk;
mod server;
mod shutdown;
mod systemd;
mod units;
