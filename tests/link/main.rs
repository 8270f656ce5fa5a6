//! The two ends of the uplink against each other, over loopback: a box's uplink and a factory's replicas.
#![expect(
    clippy::disallowed_methods,
    reason = "segments are files, and a test makes them"
)]

mod enrol;
mod liar;
mod outbox;
mod site;
mod upload;
