//! The life of releases on a box: looks what is released, fetches it, tries it, keeps it or takes it back.
//!
//! One thread with a runtime of its own, since it reads and writes files at length. It decides nothing about requests:
//! that is [`Host`]'s. Everything that must outlive it is in [`Slots`], before it is done.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use outstation_wire::hex::hex;
use outstation_wire::release::{Index, Kind, Manifest, Rollout, draw};
use outstation_wire::uplink::ReleasePhase;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::client::{ClientError, Releases, Shared};
use super::download::{DownloadError, Fetcher, Progress, RETRY_MAX, index_name, manifest_name};
use super::host::{Host, Unfit};
use super::metadata::MetadataFolder;
use super::opening::Opening;
use super::view::{CandidateView, Rate, View, for_factory};
use crate::disk::{self, Disk, DiskError};
use crate::fetch::{Download, names};
use crate::io::disk::Folder;
use crate::io::uplink::ReleaseState;
use crate::slot::{
    Candidate, Declined, Forget, Phase, Pinned, Reason, Release, Resume, SlotError, Slots,
};
use crate::upload::{Backoff, Pace};

/// What does not change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where models lie.
    pub folder: PathBuf,
    /// The ring that this box belongs to.
    pub ring: String,
    /// The root that the factory gave out, where there is one.
    pub root: Option<Vec<u8>>,
    /// Whose draw it is.
    pub appliance: [u8; 16],
    /// What this machine is.
    pub hardware: Vec<String>,
    /// Bytes a second, at most.
    pub bytes_per_s_max: Option<u64>,
    /// Hours in which bytes may be fetched.
    pub window: Option<crate::upload::Window>,
    /// Time between two looks.
    pub interval: Duration,
    /// Bytes of the disk that stay free.
    pub reserve_bytes: u64,
}

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Look now, and begin the trial of what is there, whatever the window.
    Trial,
    /// Keep the model that is on trial without waiting longer.
    Commit,
    /// Take back what is on trial, or go back to the model before.
    Rollback,
    /// Let nothing come in.
    Pin,
    /// Let releases come in again.
    Unpin,
    /// What serves is right, after the state was lost; what was rejected may come again.
    Confirm,
}

/// Both ends of a running one.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<(Order, oneshot::Sender<Result<(), String>>)>,
    view: watch::Receiver<View>,
}

impl Handle {
    /// What is known.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// For the factory.
    pub fn for_hello(&self) -> ReleaseState {
        let view = self.view.borrow();
        let rejected = view.phase == i32::from(ReleasePhase::Rejected);
        let reason = view.rejected.last().filter(|_| rejected);
        ReleaseState {
            ring: view.ring.clone(),
            rollout: view.rollout,
            manifest: view.manifest.clone(),
            phase: view.phase,
            reason: reason.map(|(_, why)| why.clone()).unwrap_or_default(),
        }
    }

    /// Does what an operator asks for. The error says why not.
    pub async fn order(&self, order: Order) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "the box is going down".to_owned();
        self.orders
            .send((order, answer))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// Nothing new is known.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// A signed document that cannot be followed.
    #[error("{0}")]
    Document(String),
    /// The download.
    #[error("{0}")]
    Download(#[from] DownloadError),
    /// The state.
    #[error("{0}")]
    Slot(#[from] SlotError),
    /// The disk.
    #[error("the disk of the models: {0}")]
    Disk(#[from] DiskError),
    /// Neither the new model nor the old one can be loaded.
    #[error("no model serves: {0}")]
    NoModel(String),
}

/// The life of releases on this box.
pub(crate) struct Runner<H> {
    pub(super) settings: Settings,
    pub(super) host: H,
    pub(super) source: Shared,
    pub(super) store: MetadataFolder<Folder>,
    pub(super) disk: Folder,
    pub(super) slots: Slots<Folder>,
    pub(super) orders: mpsc::Receiver<(Order, oneshot::Sender<Result<(), String>>)>,
    pub(super) view: watch::Sender<View>,
    /// The time that the factory told last, and when.
    pub(super) factory_time: watch::Receiver<Option<(u64, Instant)>>,
    pub(super) pace: Pace,
    pub(super) started: Instant,
    /// An operator does not want to wait for the window.
    pub(super) hurry: bool,
    pub(super) rollout: Option<Rollout>,
    /// When this change of the rollout was seen first.
    pub(super) seen: Instant,
}

/// How a look ended.
enum Looked {
    /// There is nothing to do now.
    Nothing,
    /// A release is to be fetched or tried; an adapter by the name that apps call it.
    Follow(Box<Manifest>, Option<String>),
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    /// Something came in: others may come after it.
    AtOnce,
    /// Not before the next look.
    Later,
}

impl<H: Host> Runner<H> {
    /// Everything but the thread.
    pub(crate) fn new(
        settings: Settings,
        opening: Opening,
        host: H,
        source: Shared,
        factory_time: watch::Receiver<Option<(u64, Instant)>>,
    ) -> std::io::Result<(Self, Handle)> {
        let Opening {
            mut disk, slots, ..
        } = opening;
        let metadata = Folder::open(&settings.folder.join("tuf"))?;
        // What the ring was to run when it was asked last.
        let json = disk::contents(&mut disk, ROLLOUT, 1 << 20).ok().flatten();
        let rollout = json.and_then(|json| Rollout::parse(&json).ok());
        let rollout = rollout.filter(|rollout| rollout.ring == settings.ring);
        let (send, orders) = mpsc::channel(4);
        let (view, seen) = watch::channel(View::default());
        let mut pace = Pace::default();
        pace.limit(settings.bytes_per_s_max, 0);
        let runner = Self {
            host,
            source,
            store: MetadataFolder::new(metadata),
            disk,
            slots,
            orders,
            view,
            factory_time,
            pace,
            started: Instant::now(),
            hurry: false,
            rollout,
            seen: Instant::now(),
            settings,
        };
        let handle = Handle {
            orders: send,
            view: seen,
        };
        runner.show(None, None);
        Ok((runner, handle))
    }

    /// Runs until all handles are gone.
    pub(crate) async fn run(mut self, resume: Resume) {
        if resume == Resume::Rejected {
            self.report_rejected();
        }
        let mut backoff = Backoff::default();
        loop {
            let round = self.round().await;
            if !matches!(round, Ok(More::AtOnce)) {
                // Who was in a hurry had this round.
                self.hurry = false;
            }
            let mut wait = self.settings.interval;
            match round {
                Ok(more) => {
                    backoff.succeed();
                    self.show(None, None);
                    if more == More::AtOnce {
                        wait = Duration::ZERO;
                    }
                }
                Err(error) => {
                    let random = u64::from(self.started.elapsed().subsec_nanos()) << 32;
                    wait = backoff.fail(random).min(RETRY_MAX).min(wait);
                    tracing::warn!("models: {error}; it is tried again in {wait:?}");
                    self.show(None, Some(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                order = self.orders.recv() => match order {
                    Some((order, answer)) => {
                        let _ = answer.send(self.obey(order).await);
                    }
                    None => return,
                },
            }
        }
    }

    /// One look, and all that follows from it.
    pub(crate) async fn round(&mut self) -> Result<More, RoundError> {
        if !matches!(self.phase(), None | Some(Phase::Fetching | Phase::Verified)) {
            // A trial ended because its state could not be stored.
            self.slots.restart(&mut self.disk)?;
        }
        self.tidy()?;
        let mut alone = None;
        let looked = match self.look().await {
            Ok(looked) => looked,
            // What is whole needs nobody any more: a box that lost its line goes on.
            Err(RoundError::Client(error)) => match self.waits() {
                Some(waiting) => {
                    alone = Some(error);
                    waiting
                }
                None => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        let Looked::Follow(manifest, adapter) = looked else {
            return Ok(More::Later);
        };
        if self.slots.state().pinned {
            // What is under way waits where it is.
            return Ok(More::Later);
        }
        let adapter = adapter.as_deref();
        let release = Release::of(&manifest);
        if self.slots.state().candidate.is_none() {
            let rollout = self.rollout.as_ref().map_or(0, |rollout| rollout.counter);
            match self
                .slots
                .offer(&mut self.disk, release.clone(), adapter, rollout)
            {
                Ok(()) => {}
                // What serves, or was taken back, is nothing to do.
                Err(SlotError::Declined(
                    Declined::Committed | Declined::Rejected(_) | Declined::Pinned,
                )) => {
                    return Ok(More::Later);
                }
                Err(error) => return Err(error.into()),
            }
            self.report("release.offered", &release, "");
        }
        if self.phase() == Some(Phase::Fetching) && self.may_fetch() {
            let mut orders = std::mem::replace(&mut self.orders, mpsc::channel(1).1);
            // Who orders something does not wait for a download: it goes on after that, from the last chunk.
            let ordered = tokio::select! {
                fetched = self.fetch(&manifest) => fetched.map(|()| None),
                Some(ordered) = orders.recv() => Ok(Some(ordered)),
            };
            self.orders = orders;
            if let Some((order, answer)) = ordered? {
                let _ = answer.send(self.obey(order).await);
                return Ok(More::AtOnce);
            }
        }
        if self.phase() == Some(Phase::Verified) && self.may_change_over() {
            match adapter {
                None => self.trial(&manifest).await?,
                Some(name) => self.add_adapter(name, &manifest).await?,
            }
            if self.slots.state().candidate.is_none() {
                return Ok(More::AtOnce);
            }
        }
        alone.map_or(Ok(More::Later), |error| Err(error.into()))
    }

    /// A release that is whole and waits for its trial, if its ring still wanted it when it was asked last.
    fn waits(&mut self) -> Option<Looked> {
        let candidate = self.slots.state().candidate.as_ref()?;
        let rollout = self.rollout.as_ref()?;
        if candidate.phase() != Phase::Verified || rollout.stop {
            return None;
        }
        let digest: [u8; 32] = candidate.release().digest.clone().try_into().ok()?;
        let json = disk::contents(&mut self.disk, &manifest_name(&digest), 1 << 20);
        let manifest = Manifest::parse(&json.ok()??).ok()?;
        let wanted = rollout.wants(&manifest.path()) && manifest.digest() == digest;
        let adapter = Some(candidate.adapter.clone()).filter(|name| !name.is_empty());
        wanted.then(|| Looked::Follow(Box::new(manifest), adapter))
    }

    fn phase(&self) -> Option<Phase> {
        self.slots.state().candidate.as_ref().map(Candidate::phase)
    }

    /// The time to judge expiry by: the factory's where it is known, else the box's, but never before the floor.
    fn now(&self) -> Timestamp {
        let floor = self
            .slots
            .state()
            .floors
            .unwrap_or_default()
            .unix_ms
            .max(BUILT_UNIX_MS);
        let told = *self.factory_time.borrow();
        let own = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let ms = match told {
            Some((unix_ms, at)) => {
                unix_ms + u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX / 4)
            }
            None if own >= floor => own,
            None => {
                floor + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 4)
            }
        };
        let ms = i64::try_from(ms.max(floor)).unwrap_or(i64::MAX / 1000);
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }

    /// Brings the metadata up to date, and says what the ring is to run.
    pub(super) async fn rollout_now(&mut self) -> Result<(Rollout, Releases), RoundError> {
        let floors = self.slots.state().floors.unwrap_or_default();
        let now = self.now();
        let root = self.settings.root.as_deref();
        let refreshed =
            Releases::refresh(self.source.clone(), &self.store, root, &floors, now).await;
        let (mut releases, mut seen) = refreshed?;
        let told = *self.factory_time.borrow();
        seen.unix_ms = told.map_or(0, |(unix_ms, _)| unix_ms);
        let ring = Rollout::path_of(&self.settings.ring);
        let json = releases.target(&ring).await?;
        let rollout =
            Rollout::parse(&json).map_err(|error| RoundError::Document(error.to_string()))?;
        if rollout.ring != self.settings.ring {
            let why = format!("{ring} is about ring `{}`", rollout.ring);
            return Err(RoundError::Document(why));
        }
        if rollout.counter < floors.rollout {
            let why = format!(
                "{ring} has counter {}, this box has seen {}: an old copy, or somebody plays one back",
                rollout.counter, floors.rollout
            );
            return Err(RoundError::Document(why));
        }
        seen.rollout = rollout.counter;
        self.slots.raise(&mut self.disk, &seen)?;
        if self.rollout.as_ref() != Some(&rollout) {
            disk::replace(&mut self.disk, ROLLOUT, &json)?;
            self.seen = Instant::now();
            self.rollout = Some(rollout.clone());
        }
        Ok((rollout, releases))
    }

    /// Brings the metadata up to date, and says what to do.
    async fn look(&mut self) -> Result<Looked, RoundError> {
        let (rollout, mut releases) = self.rollout_now().await?;
        let manifest = Self::manifest(&rollout.manifest, &mut releases).await?;
        let stop = rollout.stop;
        let drawn = draw(&self.settings.appliance, &rollout.manifest);
        let not_before = rollout.not_before(drawn);
        if self.displaces(&rollout)? {
            return Ok(Looked::Nothing);
        }
        // A clock that is behind the signature is wrong. This time counts for nothing else: who signs rollouts must not
        // be able to make everything expire.
        let signed = Duration::from_secs(rollout.issued_unix_s) + self.seen.elapsed();
        let now = self
            .now()
            .as_second()
            .max(i64::try_from(signed.as_secs()).unwrap_or(0));
        let due = not_before.is_some_and(|at| i64::try_from(at).is_ok_and(|at| at <= now));
        if stop || (!due && !self.hurry) {
            return Ok(Looked::Nothing);
        }
        let serves = self.slots.state().committed.as_ref();
        if serves.is_some_and(|serves| serves.digest == manifest.digest()) {
            let base = manifest.digest();
            let next = self.next_adapter(&base, &rollout, &mut releases).await?;
            let Some((name, manifest)) = next else {
                return Ok(Looked::Nothing);
            };
            self.keep_documents(&manifest, &mut releases).await?;
            return Ok(Looked::Follow(Box::new(manifest), Some(name)));
        }
        if manifest.kind != Kind::Model {
            let name = manifest.path();
            let why = format!("{name} is an adapter, and the rollout says it is the model");
            return Err(RoundError::Document(why));
        }
        if let Err(unfit) = self.fits_here(&manifest) {
            // Nothing of it is fetched.
            return Err(RoundError::Document(unfit.text));
        }
        // What serves, was rejected, or is whole needs no index: a look every ten minutes must not bring one each time.
        let comes = self.slots.may(&Release::of(&manifest), None).is_ok();
        if comes || self.phase() == Some(Phase::Fetching) {
            self.keep_documents(&manifest, &mut releases).await?;
        }
        Ok(Looked::Follow(Box::new(manifest), None))
    }

    /// A candidate that its ring does not want any more is given up.
    fn displaces(&mut self, rollout: &Rollout) -> Result<bool, RoundError> {
        let Some(candidate) = &self.slots.state().candidate else {
            return Ok(false);
        };
        let stop = rollout.stop;
        let release = candidate.release();
        let other = !rollout.wants(&Manifest::path_of(&release.name, release.release));
        if !other && !stop {
            return Ok(false);
        }
        if matches!(candidate.phase(), Phase::Fetching | Phase::Verified) {
            let release = candidate.release().clone();
            self.slots.abandon(&mut self.disk)?;
            self.report(
                "release.abandoned",
                &release,
                if stop { "stopped" } else { "another one came" },
            );
        }
        Ok(stop)
    }

    pub(super) fn fits_here(&self, manifest: &Manifest) -> Result<(), Unfit> {
        let unfit = |text: String| {
            Err(Unfit {
                reason: Reason::Unfit,
                text,
            })
        };
        let name = manifest.path();
        if !manifest.runs_here() {
            return unfit(format!(
                "{name} needs another engine: update the program first"
            ));
        }
        if !manifest.is_for(&self.settings.hardware) {
            return unfit(format!(
                "{name} is for machines of class {}, this is {}",
                manifest.hardware.join(", "),
                self.settings.hardware.join(", ")
            ));
        }
        Ok(())
    }

    /// A manifest, as it was signed.
    pub(super) async fn manifest(
        path: &str,
        releases: &mut Releases,
    ) -> Result<Manifest, RoundError> {
        let json = releases.target(path).await?;
        let manifest =
            Manifest::parse(&json).map_err(|error| RoundError::Document(error.to_string()))?;
        if manifest.path() != path {
            let why = format!("{path} is the manifest of {}", manifest.path());
            return Err(RoundError::Document(why));
        }
        Ok(manifest)
    }

    /// Stores manifest and index beside where the file will be.
    async fn keep_documents(
        &mut self,
        manifest: &Manifest,
        releases: &mut Releases,
    ) -> Result<(), RoundError> {
        let digest = manifest.digest();
        let index = releases.target(&manifest.index_path()).await?;
        let parsed =
            Index::parse(&index).map_err(|error| RoundError::Document(error.to_string()))?;
        if parsed.digest != digest || parsed.bytes() != manifest.file.bytes {
            return Err(DownloadError::Contradiction.into());
        }
        disk::replace(&mut self.disk, &index_name(&digest), &index)?;
        disk::replace(&mut self.disk, &manifest_name(&digest), &manifest.to_json())?;
        Ok(())
    }

    fn may_fetch(&self) -> bool {
        let unix_ms = u64::try_from(self.now().as_millisecond()).unwrap_or(0);
        self.hurry
            || self
                .settings
                .window
                .is_none_or(|window| window.is_open(unix_ms))
    }

    fn may_change_over(&self) -> bool {
        let rollout = self.rollout.as_ref();
        let window = rollout
            .map(|rollout| rollout.window.clone())
            .unwrap_or_default();
        let window: Option<crate::upload::Window> = window.parse().ok();
        let unix_ms = u64::try_from(self.now().as_millisecond()).unwrap_or(0);
        self.hurry || window.is_none_or(|window| window.is_open(unix_ms))
    }

    /// Fetches the candidate until it is whole.
    async fn fetch(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let digest = manifest.digest();
        let [part, _, whole] = names(&digest);
        if self.disk.open(&whole).is_ok() {
            return Ok(self.slots.verified(&mut self.disk)?);
        }
        let index =
            disk::contents(&mut self.disk, &index_name(&digest), 8 << 20)?.unwrap_or_default();
        let index =
            Index::parse(&index).map_err(|error| RoundError::Document(error.to_string()))?;
        self.make_room(manifest)?;
        let mut download = Download::open(&mut self.disk, index)?;
        let mut progress = Progress::default();
        let kept = self.kept();
        let mut rate = Rate::new();
        let view = &self.view;
        let release = Release::of(manifest).to_string();
        let mut tell = |progress: Progress| {
            let candidate = rate.view(&release, &progress);
            view.send_modify(|view| view.candidate = Some(candidate));
        };
        let mut fetcher = Fetcher {
            source: &self.source,
            disk: &mut self.disk,
            pace: &mut self.pace,
            started: self.started,
            tell: &mut tell,
        };
        fetcher.reuse(&mut download, &kept, &mut progress)?;
        // The head first: what cannot run here is not worth its weights.
        fetcher
            .run(&mut download, manifest.header_bytes, &mut progress)
            .await?;
        if manifest.kind == Kind::Model
            && let Err(unfit) = self.host.fits(&self.settings.folder.join(&part)).await
        {
            self.reject(&unfit)?;
            self.slots.rolled_back(&mut self.disk)?;
            self.report_rejected();
            return Ok(());
        }
        let mut download = Some(download);
        while let Some(mut under_way) = download.take() {
            fetcher.run(&mut under_way, u64::MAX, &mut progress).await?;
            download = match fetcher.finish(under_way) {
                Err(DownloadError::Contradiction) => {
                    let unfit = Unfit {
                        reason: Reason::Bytes,
                        text: DownloadError::Contradiction.to_string(),
                    };
                    self.reject(&unfit)?;
                    self.slots.rolled_back(&mut self.disk)?;
                    self.report_rejected();
                    return Ok(());
                }
                finished => finished?,
            };
        }
        let attributes = serde_json::json!({
            "release": release,
            "bytes": progress.bytes,
            "bytes_fetched": progress.fetched,
            "bytes_reused": progress.reused,
        });
        self.slots.verified(&mut self.disk)?;
        self.host.report("release.fetched", attributes.to_string());
        Ok(())
    }

    pub(super) fn reject(&mut self, unfit: &Unfit) -> Result<(), SlotError> {
        self.slots.reject(&mut self.disk, unfit.reason, &unfit.text)
    }

    /// Does what an operator asks for, between two rounds.
    async fn obey(&mut self, order: Order) -> Result<(), String> {
        let done = match order {
            Order::Trial => {
                self.hurry = true;
                Ok(())
            }
            Order::Commit => return Err("nothing is on trial".to_owned()),
            Order::Rollback => return self.go_back().await,
            Order::Pin => self.slots.pin(&mut self.disk, Pinned::Yes),
            Order::Unpin => self.slots.pin(&mut self.disk, Pinned::No),
            Order::Confirm => self.slots.confirm(&mut self.disk, Forget::Rejections),
        };
        self.show(None, None);
        done.map_err(|error| error.to_string())
    }

    async fn go_back(&mut self) -> Result<(), String> {
        if matches!(self.phase(), Some(Phase::Fetching | Phase::Verified)) {
            self.slots
                .abandon(&mut self.disk)
                .map_err(|error| error.to_string())?;
        }
        self.slots
            .back(&mut self.disk)
            .map_err(|error| error.to_string())?;
        let served = self.serve_committed().await;
        self.show(None, None);
        self.report_rejected();
        served.map_err(|unfit| unfit.text)
    }

    pub(super) fn report(&self, event: &str, release: &Release, why: &str) {
        let attributes = serde_json::json!({
            "release": release.to_string(),
            "digest": hex(&release.digest),
            "rollout": self.rollout.as_ref().map_or(0, |rollout| rollout.counter),
            "why": why,
        });
        self.host.report(event, attributes.to_string());
    }

    pub(super) fn report_rejected(&self) {
        if let Some(rejected) = self.slots.state().rejected.last()
            && let Some(release) = &rejected.release
        {
            let why = format!("{:?}: {}", rejected.reason(), rejected.text);
            self.report("release.rejected", release, &why);
        }
    }

    /// Tells everybody how it stands.
    pub(super) fn show(&self, requests: Option<u64>, trouble: Option<String>) {
        let state = self.slots.state();
        let rollout = self.rollout.as_ref();
        let (manifest, phase) = for_factory(state, rollout);
        self.view.send_modify(|view| {
            let old = view.candidate.take();
            view.candidate = state.candidate.as_ref().map(|candidate| CandidateView {
                release: candidate.release().to_string(),
                phase: format!("{:?}", candidate.phase()).to_lowercase(),
                bytes: candidate.release().bytes,
                percent: candidate.percent,
                requests: requests.unwrap_or(0),
                ..old.unwrap_or_default()
            });
            view.committed = state.committed.as_ref().map(Release::to_string);
            let adapters = state.adapters.iter().filter_map(|adapter| {
                let release = adapter.release.as_ref()?;
                Some((adapter.name.clone(), release.to_string()))
            });
            view.adapters = adapters.collect();
            view.previous = state.previous.as_ref().map(Release::to_string);
            let rejected = state.rejected.iter().filter_map(|rejected| {
                let release = rejected.release.as_ref()?;
                Some((release.to_string(), rejected.text.clone()))
            });
            view.rejected = rejected.collect();
            view.pinned = state.pinned;
            view.unconfirmed = state.unconfirmed;
            view.ring.clone_from(&self.settings.ring);
            view.rollout = state.floors.unwrap_or_default().rollout;
            view.trouble = trouble;
            view.manifest = manifest;
            view.phase = phase.into();
        });
    }
}

/// The ring's rollout as it was verified last.
const ROLLOUT: &str = "rollout.json";

/// No clock is right that is before this: 2026-11-01.
const BUILT_UNIX_MS: u64 = 1_793_491_200_000;
