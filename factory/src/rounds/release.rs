//! What passed the gate goes to the canary ring, and from there to the others, or back.

use std::path::Path;
use std::process::Stdio;

use outstation_wire::release::{AdapterRelease, Golden, Manifest, Rollout, Wave};

use super::folder::{chats, json, write};
use super::label::JUDGE;
use super::learn::ADAPTER;
use super::{Folder, Round, RoundError, Settings};
use crate::ota::pending::{Pending, Went};
use crate::ota::publish::{Base, Facts, Released, Silent, manifest, publish, releases};
use crate::ota::repository::{Repository, State};
use crate::ota::rollout::{self, Progress};
use crate::ota::signing::{SigningKey, load_all};
use crate::ota::source::Source;
use crate::ota::{OtaError, Role};
use crate::registry::{Objects, Registry};
use crate::store::hex;

/// Where releases are made.
pub(super) struct Desk<'a> {
    settings: &'a Settings,
    repository: Repository,
    pending: Pending,
    keys: Vec<SigningKey>,
}

/// What the rings run.
pub(super) struct Running {
    /// The target of the model's manifest.
    pub(super) model: String,
    /// The number of the adapter's release that the first of the fleet's rings has.
    pub(super) adapter: Option<u64>,
}

/// How the canary ring is.
pub(super) enum Canary {
    /// Somebody still tries, or has not heard of it.
    Trying(String),
    /// All have it.
    Well,
    /// Somebody took it back, or it was stopped.
    Bad(String),
}

/// What became of something that is signed.
pub(super) enum Signed<T> {
    /// It is in the store.
    Done(T),
    /// Others have to sign it, too.
    Waits(String),
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        store: crate::store::Store,
    ) -> Result<Self, RoundError> {
        Ok(Self {
            settings,
            repository: Repository::new(store),
            pending: Pending::new(&settings.pending),
            keys: load_all(&settings.keys)?,
        })
    }

    async fn rollout(&self, state: &State, ring: &str) -> Result<Rollout, RoundError> {
        let found = rollout::read(&self.repository, state, ring).await?;
        found.ok_or_else(|| {
            RoundError::Settings(format!(
                "ring {ring} has no rollout: `outstation-factory rollout` gives it the model that is to be improved"
            ))
        })
    }

    /// What the rings run: one model, which is the file of the settings.
    pub(super) async fn running(&self) -> Result<Running, RoundError> {
        let state = self.repository.read().await?;
        let rings = &self.settings.rings;
        let canary = self.rollout(&state, &rings.canary).await?;
        let mut fleet = Vec::new();
        for ring in &rings.fleet {
            fleet.push(self.rollout(&state, ring).await?);
        }
        let other = fleet.iter().find(|it| it.manifest != canary.manifest);
        if let Some(other) = other {
            return Err(RoundError::Settings(format!(
                "ring {} runs {}, ring {} {}: an adapter is for one of them",
                canary.ring, canary.manifest, other.ring, other.manifest
            )));
        }
        let model = manifest(&self.repository, &state, &canary.manifest).await?;
        let model = model.ok_or_else(|| {
            OtaError::input(
                &*canary.manifest,
                "the rollout names it, and it is not released",
            )
        })?;
        let file = &self.settings.model.file;
        let digest = Source::open(file)?.digest(&mut |_| {})?;
        if model.digest() != digest {
            return Err(RoundError::Settings(format!(
                "{} is not what the rings run, {}: name the file that was published",
                file.display(),
                canary.manifest
            )));
        }
        let first = fleet.first().unwrap_or(&canary);
        let adapter = first
            .adapters
            .iter()
            .find(|a| a.name == self.settings.model.adapter);
        let number = match adapter {
            None => None,
            Some(adapter) => {
                let found = manifest(&self.repository, &state, &adapter.manifest).await?;
                let ours = found.filter(|found| found.name == self.settings.model.release);
                let ours = ours.ok_or_else(|| {
                    RoundError::Settings(format!(
                        "adapter {} of ring {} is {}, which is no release of {}: take another name",
                        adapter.name, first.ring, adapter.manifest, self.settings.model.release
                    ))
                })?;
                Some(ours.release)
            }
        };
        Ok(Running {
            model: canary.manifest,
            adapter: number,
        })
    }

    /// Releases the adapter of a round, or finds it released. Its number.
    pub(super) async fn publish(
        &self,
        folder: &Folder,
        round: &Round,
        now_unix_ms: u64,
    ) -> Result<Signed<u64>, RoundError> {
        let file = folder.of(round.number, ADAPTER);
        let source = Source::open(&file)?;
        let digest = source.digest(&mut |_| {})?;
        let state = self.repository.read().await?;
        let earlier = releases(&self.repository, &state, &self.settings.model.release).await?;
        if let Some((number, _)) = earlier.iter().find(|(_, it)| it.digest() == digest) {
            return Ok(Signed::Done(*number));
        }
        if round.signing {
            return Ok(Signed::Waits(round.waits.clone()));
        }
        let base = Source::open(&self.settings.model.file)?;
        let facts = Facts {
            name: self.settings.model.release.clone(),
            base: Some(Base::of(&base, &mut |_| {})?),
            golden: self.golden(folder, round.number).await?,
            ..Facts::default()
        };
        let released = self.put(&source, &facts, now_unix_ms).await?;
        if let Some(Went::Waits {
            path,
            found,
            needed,
        }) = released.went
        {
            return Ok(Signed::Waits(waits(&path, found, needed)));
        }
        Ok(Signed::Done(self.number(&released.manifest).await?))
    }

    /// Publishes, and makes boxes see it.
    async fn put(
        &self,
        source: &Source,
        facts: &Facts,
        now_unix_ms: u64,
    ) -> Result<Released, RoundError> {
        let (files, told) = ((source, &[][..]), (now_unix_ms, &mut Silent as &mut _));
        let (repository, pending) = (&self.repository, &self.pending);
        let released = publish(repository, pending, files, facts, &self.keys, told).await?;
        if !matches!(released.went, Some(Went::Waits { .. })) {
            self.show(now_unix_ms).await?;
        }
        Ok(released)
    }

    /// Texts that a box must find as likely as the box that judged did.
    async fn golden(&self, folder: &Folder, round: u32) -> Result<Vec<Golden>, RoundError> {
        let made = folder.of(round, "golden.json");
        if let Some(golden) = json(&made)? {
            return Ok(golden);
        }
        let asked = chats(&folder.of(round, JUDGE))?.unwrap_or_default();
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let prompts: Vec<String> = asked
            .iter()
            .filter_map(|case| Some(line(&case.split().0.last()?.content)))
            .take(GOLDEN_TEXTS)
            .collect();
        let file = folder.of(round, "golden.txt");
        write(&file, (prompts.join("\n") + "\n").as_bytes())?;
        let program = &self.settings.outstation;
        let mut command = tokio::process::Command::new(program);
        command
            .arg("golden")
            .arg("--model")
            .arg(&self.settings.model.file);
        command.arg("--adapter").arg(folder.of(round, ADAPTER));
        command.arg("--prompts").arg(&file);
        command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let output = command.output().await.map_err(RoundError::file(program))?;
        if !output.status.success() {
            let why = format!("`golden` of the new adapter failed: {}", output.status);
            return Err(RoundError::content(program, why));
        }
        write(&made, &output.stdout)?;
        let golden = json(&made)?;
        golden.ok_or_else(|| RoundError::content(&made, "it is gone"))
    }

    /// Gives a ring the adapter, as a change of what it has. The counter of the rollout that says so.
    pub(super) async fn give(
        &self,
        ring: &str,
        release: Option<u64>,
        round: &Round,
        now_unix_ms: u64,
    ) -> Result<Signed<u64>, RoundError> {
        let state = self.repository.read().await?;
        let current = self.rollout(&state, ring).await?;
        let name = &self.settings.model.adapter;
        let wanted = release.map(|number| self.settings.manifest(number));
        let has = current
            .adapters
            .iter()
            .find(|adapter| adapter.name == *name);
        if has.map(|adapter| &adapter.manifest) == wanted.as_ref() {
            // Who wrote it may have been killed before boxes could see it.
            self.show(now_unix_ms).await?;
            return Ok(Signed::Done(current.counter));
        }
        if round.signing {
            return Ok(Signed::Waits(round.waits.clone()));
        }
        let mut adapters = current.adapters.clone();
        adapters.retain(|adapter| adapter.name != *name);
        adapters.extend(wanted.map(|manifest| AdapterRelease {
            name: name.clone(),
            manifest,
        }));
        let now_unix_s = now_unix_ms / 1000;
        let changed = Rollout {
            adapters,
            stop: false,
            waves: vec![Wave {
                percent: 100,
                not_before_unix_s: now_unix_s,
            }],
            ..current
        };
        let written = rollout::write(
            &self.repository,
            &self.pending,
            changed,
            &self.keys,
            now_unix_s,
        );
        let (rollout, went) = written.await?;
        if let Went::Waits {
            path,
            found,
            needed,
        } = went
        {
            return Ok(Signed::Waits(waits(&path, found, needed)));
        }
        self.show(now_unix_ms).await?;
        Ok(Signed::Done(rollout.counter))
    }

    /// How the canary ring is with a rollout.
    pub(super) async fn canary(
        &self,
        counter: u64,
        now_unix_ms: u64,
    ) -> Result<Canary, RoundError> {
        let state = self.repository.read().await?;
        let ring = &self.settings.rings.canary;
        let rollout = self.rollout(&state, ring).await?;
        if rollout.counter != counter {
            let now = if rollout.stop {
                "it was stopped"
            } else {
                "somebody gave it another rollout"
            };
            return Ok(Canary::Bad(format!("ring {ring}: {now}")));
        }
        let registry = Registry::new(self.repository.store().clone());
        let mut devices = registry.devices(&mut Objects::default()).await?;
        // Who is away for long does not hold the others up.
        devices.retain(|device| {
            let contact = device.contact.as_ref();
            contact.is_some_and(|it| now_unix_ms.saturating_sub(it.unix_ms) < AWAY_AFTER_MS)
        });
        let progress = Progress::new(&rollout, &devices, now_unix_ms / 1000);
        if progress.rejected > 0 {
            let contacts = devices.iter().filter_map(|device| device.contact.as_ref());
            let mut took = contacts.filter(|it| it.ring == *ring && it.phase == "rejected");
            let why = took.next().map_or("", |contact| &contact.reason);
            return Ok(Canary::Bad(format!(
                "ring {ring}: {} of {} boxes took it back: {why}",
                progress.rejected, progress.boxes
            )));
        }
        if progress.boxes > 0 && progress.committed == progress.boxes {
            return Ok(Canary::Well);
        }
        Ok(Canary::Trying(format!(
            "ring {ring}: {} of {} boxes that called within the hour serve it",
            progress.committed, progress.boxes
        )))
    }

    /// Makes boxes see it, if the keys for that are here; else a replica does.
    async fn show(&self, now_unix_ms: u64) -> Result<(), RoundError> {
        match self
            .repository
            .refresh(&self.keys, now_unix_ms / 1000)
            .await
        {
            Ok(_)
            | Err(OtaError::Threshold {
                role: Role::Snapshot | Role::Timestamp,
                ..
            }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What was released in place of something bad: the file of a round again, under the next number.
    pub(super) async fn republish(
        &self,
        folder: &Folder,
        (round, bad): (u32, u64),
        now_unix_ms: u64,
    ) -> Result<u64, RoundError> {
        let file = folder.of(round, ADAPTER);
        let source = Source::open(&file)?;
        let digest = source.digest(&mut |_| {})?;
        let state = self.repository.read().await?;
        let earlier = releases(&self.repository, &state, &self.settings.model.release).await?;
        let after = earlier
            .range(bad + 1..)
            .find(|(_, it)| it.digest() == digest);
        if let Some((number, _)) = after {
            return Ok(*number);
        }
        let before = earlier.values().rev().find(|it| it.digest() == digest);
        let before = before.ok_or_else(|| OtaError::input(source.name(), "it was not released"))?;
        let released = self.put(&source, &facts_of(before), now_unix_ms).await?;
        self.number(&released.manifest).await
    }

    /// The number of a release, by its target.
    async fn number(&self, target: &str) -> Result<u64, RoundError> {
        let state = self.repository.read().await?;
        let made = manifest(&self.repository, &state, target).await?;
        let made = made.ok_or_else(|| OtaError::input(target, "it waits for signatures"))?;
        Ok(made.release)
    }
}

/// What was said of a release, for the next one.
fn facts_of(manifest: &Manifest) -> Facts {
    Facts {
        name: manifest.name.clone(),
        release: None,
        base: manifest.base().map(|digest| Base {
            digest: hex(&digest),
            tokenizer: manifest.tokenizer.clone(),
        }),
        hardware: manifest.hardware.clone(),
        golden: manifest.golden.clone(),
        licence: manifest.licence.clone(),
    }
}

/// A box that did not call for this long is not waited for.
const AWAY_AFTER_MS: u64 = 3_600_000;
/// Texts that go with an adapter.
const GOLDEN_TEXTS: usize = 8;

fn waits(path: &Path, found: usize, needed: usize) -> String {
    format!(
        "{} has {found} of {needed} signatures: sign it with `outstation-factory keys sign {0} --key KEY`, then \
         `outstation-factory keys commit`",
        path.display()
    )
}
