//! Who is to have a release, how far the boxes are with it, and when it is stopped.

use outstation_wire::release::{Rollout, draw};
use serde_json::Map;

use super::document::{Document, targets};
use super::pending::{Pending, Went};
use super::publish::manifest;
use super::repository::{Repository, State};
use super::signing::SigningKey;
use super::{OtaError, Role};
use crate::registry::{Contact, Device, appliance};

/// Failures below which nothing is stopped, where a wave has more than one box.
const FAILURES_MIN: u64 = 2;

/// The rollout of a ring.
pub async fn read(
    repository: &Repository,
    state: &State,
    ring: &str,
) -> Result<Option<Rollout>, OtaError> {
    let path = Rollout::path_of(ring);
    let bytes = repository.target(state, Role::Rollout, &path).await?;
    let parsed = bytes.map(|bytes| Rollout::parse(&bytes));
    parsed.transpose().map_err(|e| OtaError::document(path, e))
}

/// Rings that have a rollout.
pub fn rings(state: &State) -> Vec<String> {
    let name = |path: &String| {
        let name = path.strip_prefix("rollout/")?.strip_suffix(".json")?;
        Some(name.to_owned())
    };
    state
        .targets(Role::Rollout)
        .keys()
        .filter_map(name)
        .collect()
}

/// Gives a ring a rollout. Its counter and time are set here.
pub async fn write(
    repository: &Repository,
    pending: &Pending,
    mut rollout: Rollout,
    keys: &[SigningKey],
    now_unix_s: u64,
) -> Result<(Rollout, Went), OtaError> {
    let state = repository.read().await?;
    let before = read(repository, &state, &rollout.ring).await?;
    rollout.counter = before.map_or(0, |before| before.counter) + 1;
    rollout.issued_unix_s = now_unix_s;
    check(repository, &state, &rollout).await?;
    let mut listed: Map<_, _> = state.targets(Role::Rollout);
    let path = Rollout::path_of(&rollout.ring);
    let entry = repository.put_target(&path, rollout.to_json()).await?;
    listed.insert(path, entry);
    let expires = now_unix_s + Role::Rollout.life_s();
    let document = Document::new(targets(state.next(Role::Rollout), expires, listed));
    let went = pending
        .sign(repository, &state, Role::Rollout, document, keys)
        .await?;
    Ok((rollout, went))
}

/// That it names only what is released, and what belongs together.
async fn check(repository: &Repository, state: &State, rollout: &Rollout) -> Result<(), OtaError> {
    let wrong = |why: String| OtaError::input(format!("ring {}", rollout.ring), why);
    rollout.check().map_err(|e| wrong(e.to_string()))?;
    let missing = |target: &str| {
        wrong(format!(
            "{target} is not released: publish and commit it first"
        ))
    };
    let model = manifest(repository, state, &rollout.manifest).await?;
    let model = model.ok_or_else(|| missing(&rollout.manifest))?;
    if model.base().is_some() {
        return Err(wrong(format!(
            "{} is an adapter: roll out its model with --adapter",
            rollout.manifest
        )));
    }
    for adapter in &rollout.adapters {
        let found = manifest(repository, state, &adapter.manifest).await?;
        let found = found.ok_or_else(|| missing(&adapter.manifest))?;
        if found.base() != Some(model.digest()) {
            let why = format!(
                "{} does not belong to {}",
                adapter.manifest, rollout.manifest
            );
            return Err(wrong(why));
        }
    }
    Ok(())
}

/// How far the boxes of a ring are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Boxes of the ring.
    pub boxes: u64,
    /// Of them in a wave that has begun.
    pub allowed: u64,
    /// That know the rollout, as they say.
    pub informed: u64,
    /// That fetch it, or have it and wait.
    pub fetching: u64,
    /// That try it.
    pub trial: u64,
    /// That serve it.
    pub committed: u64,
    /// That took it back.
    pub rejected: u64,
}

impl Progress {
    /// Of these boxes.
    pub fn new<'d>(
        rollout: &Rollout,
        devices: impl IntoIterator<Item = &'d Device>,
        now_unix_s: u64,
    ) -> Self {
        let mut progress = Self::default();
        for device in devices
            .into_iter()
            .filter(|device| device.revocation.is_none())
        {
            let Some(contact) = device.contact.as_ref() else {
                continue;
            };
            if contact.ring != rollout.ring {
                continue;
            }
            progress.boxes += 1;
            let drawn = appliance(&device.appliance).map(|id| draw(&id, &rollout.manifest));
            let begins = drawn.and_then(|drawn| rollout.not_before(drawn));
            progress.allowed += u64::from(begins.is_some_and(|begins| begins <= now_unix_s));
            progress.count(rollout, contact);
        }
        progress
    }

    fn count(&mut self, rollout: &Rollout, contact: &Contact) {
        if contact.rollout != rollout.counter {
            return;
        }
        self.informed += 1;
        if contact.manifest != rollout.manifest {
            return;
        }
        match contact.phase.as_str() {
            "fetching" => self.fetching += 1,
            "trial" => self.trial += 1,
            "committed" => self.committed += 1,
            "rejected" => self.rejected += 1,
            _ => {}
        }
    }

    /// Whether more trials failed than may. One failure says little, unless there is only one box to fail.
    pub fn too_many_fail(&self, rollout: &Rollout) -> bool {
        let ended = self.rejected + self.committed;
        let share = self.rejected * 100 > u64::from(rollout.failures_percent_max) * ended;
        share && (self.rejected >= FAILURES_MIN || self.allowed <= 1)
    }
}

/// Stops a rollout. `None`: there is none, or it is stopped.
pub async fn stop(
    repository: &Repository,
    pending: &Pending,
    ring: &str,
    keys: &[SigningKey],
    now_unix_s: u64,
) -> Result<Option<(Rollout, Went)>, OtaError> {
    let state = repository.read().await?;
    let Some(rollout) = read(repository, &state, ring)
        .await?
        .filter(|rollout| !rollout.stop)
    else {
        return Ok(None);
    };
    let stopped = Rollout {
        stop: true,
        ..rollout
    };
    write(repository, pending, stopped, keys, now_unix_s)
        .await
        .map(Some)
}
