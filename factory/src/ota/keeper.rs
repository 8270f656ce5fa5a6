//! What replicas with keys do by themselves: keep the timestamp fresh, and stop a rollout that fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::pending::Pending;
use super::repository::Repository;
use super::rollout::{self, Progress};
use super::signing::SigningKey;
use super::{OtaError, Role};
use crate::clock::unix_ms;
use crate::registry::{Device, Objects};
use crate::server::Factory;

/// How often both are looked at.
const EVERY: Duration = Duration::from_mins(1);

/// A replica's keys, and what they are for.
#[derive(Debug)]
pub struct Keeper {
    /// Snapshot and timestamp.
    pub online: Vec<SigningKey>,
    /// Rollouts.
    pub rollout: Vec<SigningKey>,
}

impl Keeper {
    /// Whether there is anything to do.
    pub fn is_idle(&self) -> bool {
        self.online.is_empty() && self.rollout.is_empty()
    }

    /// Does it until it is dropped. A failure is said and tried again.
    pub async fn run(self, factory: Arc<Factory>) {
        let repository = Repository::new(factory.store.clone());
        let mut objects = Objects::default();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !self.rollout.is_empty() {
                let devices = devices(&factory, &mut objects).await;
                let watched = match devices {
                    Ok(devices) => self.watch(&repository, &devices, unix_ms() / 1000).await,
                    Err(error) => Err(error),
                };
                match watched {
                    Ok(stopped) => stopped.iter().for_each(|ring| {
                        tracing::warn!(ring, "too many trials failed: the rollout is stopped");
                    }),
                    Err(OtaError::NoRoot) => {}
                    Err(error) => {
                        tracing::warn!("cannot watch rollouts: {error}; it is tried again");
                    }
                }
            }
            if !self.online.is_empty() {
                match repository.refresh(&self.online, unix_ms() / 1000).await {
                    Ok(done) if done.changed => {
                        tracing::info!(
                            snapshot = done.snapshot,
                            timestamp = done.timestamp,
                            "signed"
                        );
                    }
                    Ok(_) | Err(OtaError::NoRoot) => {}
                    Err(error) => {
                        tracing::warn!("cannot sign the timestamp: {error}; it is tried again");
                    }
                }
            }
        }
    }

    /// Stops each rollout that fails too often. The rings.
    pub async fn watch(
        &self,
        repository: &Repository,
        devices: &[Device],
        now_unix_s: u64,
    ) -> Result<Vec<String>, OtaError> {
        let state = repository.read().await?;
        let mut stopped = Vec::new();
        for ring in rollout::rings(&state) {
            let Some(rollout) = rollout::read(repository, &state, &ring).await? else {
                continue;
            };
            let progress = Progress::new(&rollout, devices, now_unix_s);
            if rollout.stop || !progress.too_many_fail(&rollout) {
                continue;
            }
            let holders = state.holders(Role::Rollout)?;
            let held = |key: &&SigningKey| holders.keys.contains_key(&key.public().keyid);
            let mine = self.rollout.iter().filter(held).count();
            if mine < holders.threshold {
                let why = format!(
                    "too many trials failed, and {} keys must sign a stop, of which this replica has {mine}: stop it by hand",
                    holders.threshold
                );
                return Err(OtaError::input(format!("ring {ring}"), why));
            }
            let pending = Pending::new(std::path::Path::new("factory-pending"));
            match rollout::stop(repository, &pending, &ring, &self.rollout, now_unix_s).await {
                Ok(Some(_)) => stopped.push(ring),
                // Another replica was faster.
                Ok(None) | Err(OtaError::Raced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stopped)
    }
}

/// All boxes as the registry has them, or as this replica knows better.
async fn devices(factory: &Factory, objects: &mut Objects) -> Result<Vec<Device>, OtaError> {
    let mut devices = factory.registry.devices(objects).await?;
    for (id, contact, _) in factory.contacts.snapshot() {
        let id = crate::store::hex(&id);
        if let Some(device) = devices.iter_mut().find(|device| device.appliance == id)
            && contact.unix_ms > 0
        {
            device.contact = Some(contact);
        }
    }
    Ok(devices)
}
