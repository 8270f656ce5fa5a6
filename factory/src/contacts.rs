//! How boxes are, as this replica heard it: written to the registry at most once a minute each, and less often where
//! many are connected (U-13).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::registry::{Contact, Registry};
use crate::store::StoreError;

/// Time between two writes of one box, at least.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// Writes a second that a replica makes in the mean, at most: what its store hears does not grow with the fleet.
const WRITES_PER_S: u32 = 10;
/// Writes at once.
const WRITES_AT_ONCE: usize = 16;

/// The boxes of this replica.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<HashMap<[u8; 16], Arc<Cell>>>);

/// One box.
#[derive(Debug, Default)]
pub struct Cell(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    contact: Contact,
    dirty: bool,
    written: Option<Instant>,
}

impl Cell {
    /// What is known, to read.
    pub fn read(&self) -> Contact {
        self.lock().contact.clone()
    }

    /// Changes what is known.
    pub fn update<T>(&self, change: impl FnOnce(&mut Contact) -> T) -> T {
        let mut state = self.lock();
        state.dirty = true;
        change(&mut state.contact)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contacts {
    /// The cell of a box that connects; what the registry has is its beginning.
    pub async fn open(
        &self,
        registry: &Registry,
        appliance: [u8; 16],
    ) -> Result<Arc<Cell>, StoreError> {
        if let Some(cell) = self.lock().get(&appliance) {
            return Ok(cell.clone());
        }
        let contact = registry.contact(&appliance).await?.unwrap_or_default();
        let fresh = Cell(Mutex::new(State {
            contact,
            ..State::default()
        }));
        let mut cells = self.lock();
        Ok(cells
            .entry(appliance)
            .or_insert_with(|| Arc::new(fresh))
            .clone())
    }

    /// All that this replica knows better than the registry.
    pub fn snapshot(&self) -> Vec<([u8; 16], Contact, bool)> {
        let cells = self.lock();
        let cell =
            |(id, cell): (&[u8; 16], &Arc<Cell>)| (*id, cell.read(), Arc::strong_count(cell) > 1);
        cells.iter().map(cell).collect()
    }

    /// Writes what is due, and forgets boxes that are gone. With `all`, writes what is not yet due, too.
    pub async fn write(&self, registry: &Registry, due: Due) {
        let now = Instant::now();
        let ready: Vec<_> = {
            let mut cells = self.lock();
            cells.retain(|_, cell| Arc::strong_count(cell) > 1 || cell.lock().dirty);
            let every = write_every(cells.len());
            let is_ready = |cell: &Cell| {
                let state = cell.lock();
                let waited = state.written.is_none_or(|at| now - at >= every);
                state.dirty && (waited || due == Due::All)
            };
            let ready = cells.iter().filter(|(_, cell)| is_ready(cell));
            ready.map(|(id, cell)| (*id, cell.clone())).collect()
        };
        let writes = futures_util::stream::iter(ready).map(|(appliance, cell)| async move {
            let contact = {
                let mut state = cell.lock();
                state.dirty = false;
                state.written = Some(now);
                state.contact.clone()
            };
            if let Err(error) = registry.contacted(&appliance, &contact).await {
                tracing::warn!(%error, "a contact was not written");
                cell.lock().dirty = true;
            }
        });
        writes
            .buffer_unordered(WRITES_AT_ONCE)
            .collect::<()>()
            .await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Arc<Cell>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time between two writes of one box where so many are known.
fn write_every(boxes: usize) -> Duration {
    let boxes = u32::try_from(boxes).unwrap_or(u32::MAX);
    WRITE_EVERY.max(Duration::from_secs(1) * boxes / WRITES_PER_S)
}

/// Which contacts to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those that were not written for a minute.
    Now,
    /// All: the replica goes down.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u13_a_large_fleet_does_not_write_more_often() {
        let seconds = [1, 600, 601, 10_000].map(|boxes| write_every(boxes).as_secs_f64());
        assert_eq!(seconds, [60.0, 60.0, 60.1, 1000.0]);
    }
}
