//! A box without a spool: it says Hello, and has nothing to send.

use std::path::PathBuf;

use tokio::sync::watch;

use super::{Outbox, OutboxState};
use crate::upload::Sealed;

/// No segments, in an epoch of its own.
#[derive(Debug)]
pub struct NoSpool {
    state: OutboxState,
    changed: watch::Sender<u64>,
}

impl NoSpool {
    /// With an epoch from these random numbers.
    pub fn new(random: [u64; 2]) -> Self {
        let mut epoch = [0; 16];
        epoch[..8].copy_from_slice(&random[0].to_le_bytes());
        epoch[8..].copy_from_slice(&random[1].to_le_bytes());
        let state = OutboxState {
            epoch,
            boot: 1,
            boot_nonce: epoch,
            records_lost: 0,
        };
        Self {
            state,
            changed: watch::Sender::new(0),
        }
    }
}

impl Outbox for NoSpool {
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn sealed(&self) -> Vec<Sealed> {
        Vec::new()
    }

    fn path(&self, _: &Sealed) -> PathBuf {
        PathBuf::new()
    }

    fn acked(&self, _: &Sealed) {}

    fn refused(&self, _: &Sealed, _: &str) {}

    fn new_epoch(&self) {}

    fn state(&self) -> OutboxState {
        self.state
    }
}
