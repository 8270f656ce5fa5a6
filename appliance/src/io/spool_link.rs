//! Between the disk thread and the uplink: what can be sent, what was, and the keys that segments need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outstation_wire::seal::{self, SegmentKey};
use outstation_wire::segment::Class;
use ringbuf::traits::{Consumer, Producer};
use tokio::sync::{mpsc, watch};

use super::spool_thread::{FromSpool, Records, SpoolHandle, ToSpool};
use super::uplink::{Spool, SpoolState};
use crate::spool::{SpoolEvent, sealed_name};
use crate::upload::Sealed;

/// What the uplink sees of the spool.
pub struct SpoolLink {
    folder: PathBuf,
    sealed: Mutex<BTreeMap<(Class, u64), Sealed>>,
    changed: watch::Sender<u64>,
    orders: mpsc::UnboundedSender<Order>,
    state: Mutex<SpoolState>,
    records: Records,
}

/// What the uplink wants of the spool.
enum Order {
    /// One for each segment that is sent, so there are never more than segments.
    Tell(ToSpool),
    NewEpoch,
}

/// Moves what comes out of the disk thread to where it belongs.
pub struct Keeper {
    handle: SpoolHandle,
    link: Arc<SpoolLink>,
    orders: mpsc::UnboundedReceiver<Order>,
    appliance: [u8; 16],
    factory_key: [u8; 32],
}

impl SpoolLink {
    /// For a spool that was started in this folder; the keeper runs on the io thread.
    pub fn new(
        handle: SpoolHandle,
        folder: PathBuf,
        appliance: [u8; 16],
        factory_key: [u8; 32],
    ) -> (Arc<Self>, Keeper) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let state = SpoolState {
            boot_nonce: seal::random(),
            ..SpoolState::default()
        };
        let link = Arc::new(Self {
            folder,
            sealed: Mutex::default(),
            changed: watch::Sender::new(0),
            orders,
            state: Mutex::new(state),
            records: handle.records.clone(),
        });
        let keeper = Keeper {
            handle,
            link: link.clone(),
            orders: receiver,
            appliance,
            factory_key,
        };
        (link, keeper)
    }

    /// Waits until the spool is open, but not for long: a box whose disk is broken says so to its factory.
    pub async fn opened(&self) {
        let mut changed = self.changed.subscribe();
        let open = changed.wait_for(|_| self.lock_state().boot > 0);
        let _ = tokio::time::timeout(OPEN_MAX, open).await;
    }

    fn lock_state(&self) -> std::sync::MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_sealed(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Class, u64), Sealed>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }
}

/// How long the uplink waits for the spool.
const OPEN_MAX: Duration = Duration::from_secs(5);

impl Spool for SpoolLink {
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn sealed(&self) -> Vec<Sealed> {
        self.lock_sealed().values().copied().collect()
    }

    fn path(&self, segment: &Sealed) -> PathBuf {
        self.folder
            .join(sealed_name(segment.class, segment.seq).as_str())
    }

    fn acked(&self, segment: &Sealed) {
        let (class, seq) = (segment.class, segment.seq);
        let _ = self.orders.send(Order::Tell(ToSpool::Acked { class, seq }));
    }

    fn refused(&self, segment: &Sealed, reason: &str) {
        let name = sealed_name(segment.class, segment.seq);
        tracing::error!("the factory will never take {name}: {reason}; it is set aside");
        let (class, seq) = (segment.class, segment.seq);
        let _ = self
            .orders
            .send(Order::Tell(ToSpool::Refused { class, seq }));
    }

    fn new_epoch(&self) {
        let _ = self.orders.send(Order::NewEpoch);
    }

    fn state(&self) -> SpoolState {
        SpoolState {
            records_lost: self.records.numbers().0.records_lost,
            ..*self.lock_state()
        }
    }
}

impl Keeper {
    /// Runs until every link is gone or `stop` is rung; then seals what there is and ends the disk thread.
    pub async fn run(mut self, stop: Arc<tokio::sync::Notify>) {
        let bell = self.handle.bell.clone();
        loop {
            tokio::select! {
                () = bell.notified() => self.take_events(),
                order = self.orders.recv() => match order {
                    Some(order) => self.pass(order).await,
                    None => break,
                },
                () = stop.notified() => break,
            }
        }
        // The disk may take its time.
        let _ = tokio::task::spawn_blocking(move || self.handle.stop()).await;
    }

    async fn pass(&mut self, order: Order) {
        match order {
            Order::Tell(command) => self.tell(command).await,
            Order::NewEpoch => self.tell(ToSpool::NewEpoch(seal::random())).await,
        }
    }

    /// The ring is emptied at least once a second.
    async fn tell(&mut self, command: ToSpool) {
        let mut command = command;
        while let Err(back) = self.handle.commands.try_push(command) {
            command = back;
            self.handle.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.handle.wake();
    }

    fn take_events(&mut self) {
        let mut changed = false;
        while let Some(event) = self.handle.events.try_pop() {
            match event {
                FromSpool::Epoch { epoch, boot } => {
                    let mut state = self.link.lock_state();
                    state.epoch = epoch;
                    state.boot = boot;
                    changed = true;
                }
                FromSpool::KeysWanted(count) => self.make_keys(count),
                FromSpool::Spool(SpoolEvent::Sealed(sealed)) => {
                    let segment = Sealed {
                        class: sealed.class,
                        seq: sealed.seq,
                        bytes: sealed.bytes,
                        epoch: sealed.epoch,
                    };
                    let key = (sealed.class, sealed.seq);
                    self.link.lock_sealed().insert(key, segment);
                    changed = true;
                }
                FromSpool::Spool(SpoolEvent::Removed { class, seq }) => {
                    self.link.lock_sealed().remove(&(class, seq));
                    changed = true;
                }
                FromSpool::Spool(SpoolEvent::Trouble(error)) => {
                    tracing::warn!("the spool goes on without its disk for a while: {error}");
                }
                FromSpool::Closed(error) => tracing::error!("{error}; it is tried again"),
            }
        }
        if changed {
            self.link.notify();
        }
    }

    fn make_keys(&mut self, count: usize) {
        let epoch = self.link.lock_state().epoch;
        for _ in 0..count {
            let made = SegmentKey::wrap(seal::random(), &self.appliance, &epoch, &self.factory_key);
            match made {
                Ok((key, wrapped)) => {
                    let key = ToSpool::Key {
                        epoch,
                        key,
                        wrapped,
                    };
                    // A full ring has older keys in it.
                    let _ = self.handle.commands.try_push(key);
                }
                Err(error) => tracing::error!("nothing can be written down: {error}"),
            }
        }
        self.handle.wake();
    }
}
