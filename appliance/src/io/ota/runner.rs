//! The life of releases on a box: looks what is released, fetches it, tries it, keeps it or takes it back.
//!
//! One thread with a runtime of its own, since it reads and writes files at length. It decides nothing about requests:
//! that is [`Host`]'s. Everything that must outlive it is in [`Slots`], before it is done.

use std::path::{Path, PathBuf};
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
use crate::disk::{self, Disk, DiskError};
use crate::fetch::{Download, discard, names};
use crate::io::disk::Folder;
use crate::io::uplink::ReleaseState;
use crate::slot::{
    Declined, Forget, Opened, Phase, Pinned, Reason, Release, Resume, SlotError, Slots, State,
};
use crate::superblock::SuperblockError;
use crate::trial::{Verdict, Window, judge};
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
    pub hardware: Vec<&'static str>,
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

/// What is known of the models, for people and for the factory.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct View {
    /// What serves. None: the model of the configuration.
    pub committed: Option<String>,
    /// What could be gone back to.
    pub previous: Option<String>,
    /// What is under way.
    pub candidate: Option<CandidateView>,
    /// What was taken back, and why.
    pub rejected: Vec<(String, String)>,
    /// Whether nothing may come in.
    pub pinned: bool,
    /// Whether both copies of the state were lost, and nobody has looked.
    pub unconfirmed: bool,
    /// The ring, and its counter that was seen last.
    pub ring: String,
    /// See `ring`.
    pub rollout: u64,
    /// Why nothing new comes in, if something keeps it.
    pub trouble: Option<String>,
    /// For the factory.
    #[serde(skip)]
    pub manifest: String,
    /// For the factory.
    #[serde(skip)]
    pub phase: i32,
}

/// A release under way, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CandidateView {
    /// Name and number.
    pub release: String,
    /// How far it is.
    pub phase: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Of them there.
    pub bytes_there: u64,
    /// Of them from files that were here already.
    pub bytes_reused: u64,
    /// Bytes that came over the wire.
    pub bytes_fetched: u64,
    /// Bytes a second, lately.
    pub bytes_per_s: u64,
    /// Seconds to the end at this rate.
    pub seconds_left: Option<u64>,
    /// Requests that the trial has seen.
    pub requests: u64,
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
    settings: Settings,
    host: H,
    source: Shared,
    store: MetadataFolder<Folder>,
    disk: Folder,
    slots: Slots<Folder>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<Result<(), String>>)>,
    view: watch::Sender<View>,
    /// The time that the factory told last, and when.
    factory_time: watch::Receiver<Option<(u64, Instant)>>,
    pace: Pace,
    started: Instant,
    /// An operator does not want to wait for the window.
    hurry: bool,
    rollout: Option<Rollout>,
}

/// The models' folder, opened: what serves after this start is decided here.
pub(crate) struct Opening {
    pub(crate) disk: Folder,
    pub(crate) slots: Slots<Folder>,
    pub(crate) resume: Resume,
}

impl Opening {
    /// Opens the folder and says how to go on.
    pub(crate) fn new(folder: &Path) -> Result<Self, OpenError> {
        let mut disk = Folder::open(folder)?;
        let (mut slots, opened) = Slots::open(&mut disk)?;
        if opened == Opened::Lost {
            tracing::error!(
                "both copies of the models' state are damaged: nothing is installed until `outstation models confirm`"
            );
            if let Some(release) = newest_verified(&mut disk) {
                slots.adopt(&mut disk, release)?;
            }
        }
        let resume = slots.restart(&mut disk)?;
        Ok(Self {
            disk,
            slots,
            resume,
        })
    }

    /// The file that serves. None: the model of the configuration.
    pub(crate) fn serves(&self, folder: &Path) -> Option<(PathBuf, String)> {
        let release = self.slots.state().committed.as_ref()?;
        Some((file(folder, release), release.name.clone()))
    }
}

/// Why the folder of models cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder.
    #[error("cannot open the folder of models: {0}")]
    Folder(#[from] std::io::Error),
    /// The state.
    #[error("the state of the models: {0}")]
    State(#[from] SuperblockError),
    /// It could not be written.
    #[error("{0}")]
    Slot(#[from] SlotError),
}

fn file(folder: &Path, release: &Release) -> PathBuf {
    folder.join(format!("{}.gguf", release.stem()))
}

/// The model with the highest release whose manifest and bytes fit together. Only what was verified has a manifest
/// beside it, and its bytes are looked at again.
fn newest_verified(disk: &mut Folder) -> Option<Release> {
    let mut stems = Vec::new();
    let listed = disk.list(&mut |name, _| {
        if let Some(stem) = name.strip_suffix(".gguf") {
            stems.push(stem.to_owned());
        }
    });
    listed.ok()?;
    let mut found: Vec<Manifest> = Vec::new();
    for stem in stems {
        let json = disk::contents(disk, &format!("{stem}.json"), 1 << 20)
            .ok()
            .flatten();
        let manifest = json.and_then(|json| Manifest::parse(&json).ok());
        found.extend(manifest.filter(|manifest| manifest.kind == Kind::Model));
    }
    found.sort_by_key(|manifest| std::cmp::Reverse((manifest.release, manifest.published_unix_ms)));
    let whole =
        |manifest: &Manifest| digest_of(disk, &manifest.digest()).ok() == Some(manifest.digest());
    found
        .into_iter()
        .find(whole)
        .map(|manifest| Release::of(&manifest))
}

/// BLAKE3 of a model's file.
fn digest_of(disk: &mut Folder, digest: &[u8; 32]) -> Result<[u8; 32], DiskError> {
    let [_, _, name] = names(digest);
    let file = disk.open(&name)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = disk.read(&file, offset, &mut buffer)?;
        if read == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
}

/// How a look ended.
enum Looked {
    /// There is nothing to do now.
    Nothing,
    /// A release is to be fetched or tried.
    Follow(Box<Manifest>),
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
        let metadata = Folder::open(&settings.folder.join("tuf"))?;
        let (send, orders) = mpsc::channel(4);
        let (view, seen) = watch::channel(View::default());
        let mut pace = Pace::default();
        pace.limit(settings.bytes_per_s_max, 0);
        let runner = Self {
            host,
            source,
            store: MetadataFolder::new(metadata),
            disk: opening.disk,
            slots: opening.slots,
            orders,
            view,
            factory_time,
            pace,
            started: Instant::now(),
            hurry: false,
            rollout: None,
            settings,
        };
        let handle = Handle {
            orders: send,
            view: seen,
        };
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
            let mut wait = self.settings.interval;
            match round {
                Ok(()) => {
                    backoff.succeed();
                    self.show(None, None);
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
    pub(crate) async fn round(&mut self) -> Result<(), RoundError> {
        self.tidy()?;
        let Looked::Follow(manifest) = self.look().await? else {
            return Ok(());
        };
        let release = Release::of(&manifest);
        if self.slots.state().candidate.is_none() {
            let rollout = self.rollout.clone().expect("a look leaves it");
            match self
                .slots
                .offer(&mut self.disk, release.clone(), None, &rollout)
            {
                Ok(()) => {}
                // What serves, or was taken back, is nothing to do.
                Err(SlotError::Declined(
                    Declined::Committed | Declined::Rejected(_) | Declined::Pinned,
                )) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            self.report("release.offered", &release, "");
        }
        if self.phase() == Some(Phase::Fetching) && self.may_fetch() {
            self.fetch(&manifest).await?;
        }
        if self.phase() == Some(Phase::Verified) && self.may_change_over() {
            self.trial(&manifest).await?;
        }
        Ok(())
    }

    fn phase(&self) -> Option<Phase> {
        self.slots
            .state()
            .candidate
            .as_ref()
            .map(|candidate| candidate.phase())
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

    /// Brings the metadata up to date, and says what to do.
    async fn look(&mut self) -> Result<Looked, RoundError> {
        let floors = self.slots.state().floors.unwrap_or_default();
        let now = self.now();
        let root = self.settings.root.as_deref();
        let refreshed =
            Releases::refresh(self.source.clone(), &self.store, root, &floors, now).await;
        let (mut releases, mut seen) = refreshed?;
        let told = *self.factory_time.borrow();
        seen.unix_ms = told.map_or(0, |(unix_ms, _)| unix_ms);
        let ring = Rollout::path_of(&self.settings.ring);
        let rollout = releases.target(&ring).await?;
        let rollout =
            Rollout::parse(&rollout).map_err(|error| RoundError::Document(error.to_string()))?;
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
        let manifest = releases.target(&rollout.manifest).await?;
        let manifest =
            Manifest::parse(&manifest).map_err(|error| RoundError::Document(error.to_string()))?;
        if manifest.path() != rollout.manifest {
            let why = format!(
                "{} is the manifest of {}",
                rollout.manifest,
                manifest.path()
            );
            return Err(RoundError::Document(why));
        }
        let stop = rollout.stop;
        let drawn = draw(&self.settings.appliance, &rollout.manifest);
        let not_before = rollout.not_before(drawn);
        self.rollout = Some(rollout);
        if self.displaces(&manifest, stop)? {
            return Ok(Looked::Nothing);
        }
        let due =
            not_before.is_some_and(|at| i64::try_from(at).is_ok_and(|at| at <= now.as_second()));
        if stop || (!due && !self.hurry) {
            return Ok(Looked::Nothing);
        }
        if let Err(unfit) = self.fits_here(&manifest) {
            // Nothing of it is fetched, and the factory hears of it once.
            return Err(RoundError::Document(unfit.text));
        }
        self.keep_documents(&manifest, &mut releases).await?;
        Ok(Looked::Follow(Box::new(manifest)))
    }

    /// A candidate that its ring does not want any more is given up.
    fn displaces(&mut self, manifest: &Manifest, stop: bool) -> Result<bool, RoundError> {
        let Some(candidate) = &self.slots.state().candidate else {
            return Ok(false);
        };
        let other = candidate.release().digest != manifest.digest();
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

    fn fits_here(&self, manifest: &Manifest) -> Result<(), Unfit> {
        let unfit = |text: String| {
            Err(Unfit {
                reason: Reason::Unfit,
                text,
            })
        };
        let name = manifest.path();
        if manifest.kind != Kind::Model {
            return unfit(format!(
                "{name} is an adapter, and the rollout says it is the model"
            ));
        }
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
        if let Err(unfit) = self.host.fits(&self.settings.folder.join(&part)).await {
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

    /// Digests of whole models on this disk.
    fn kept(&self) -> Vec<[u8; 32]> {
        let state = self.slots.state();
        let kept = state.committed.iter().chain(&state.previous);
        kept.filter_map(|release| release.digest.clone().try_into().ok())
            .collect()
    }

    /// Room for the file and the reserve: what could be gone back to is given up for it, if that is enough.
    fn make_room(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let [part, _, _] = names(&manifest.digest());
        if self.disk.open(&part).is_ok() {
            return Ok(());
        }
        let wanted = manifest.file.bytes + self.settings.reserve_bytes;
        if free_bytes(&self.settings.folder) >= wanted {
            return Ok(());
        }
        if let Some(previous) = self.slots.state().previous.clone() {
            let [_, _, name] = names(&previous.digest.clone().try_into().unwrap_or_default());
            self.slots.forget_previous(&mut self.disk)?;
            let _ = self.disk.remove(&name);
            self.disk.sync_folder()?;
        }
        if free_bytes(&self.settings.folder) >= wanted {
            return Ok(());
        }
        let why = format!(
            "{} needs {}, and {} must stay free: make room in {}",
            manifest.path(),
            crate::config::ByteSize(manifest.file.bytes),
            crate::config::ByteSize(self.settings.reserve_bytes),
            self.settings.folder.display()
        );
        Err(RoundError::Document(why))
    }

    /// Removes files that belong to nothing.
    fn tidy(&mut self) -> Result<(), RoundError> {
        let mut stale = Vec::new();
        let slots = &self.slots;
        let state = slots.state();
        let known: Vec<String> = state
            .committed
            .iter()
            .chain(&state.previous)
            .chain(state.candidate.iter().map(|candidate| candidate.release()))
            .map(Release::stem)
            .collect();
        self.disk.list(&mut |name, _| {
            if let Some((stem, end)) = name.split_once('.')
                && ["part", "map", "gguf", "index", "json"].contains(&end)
                && stem.len() == 32
                && !known.iter().any(|known| known == stem)
            {
                stale.push(name.to_owned());
            }
        })?;
        // Maps before parts, so that none outlives its part.
        stale.sort_by_key(|name| !name.ends_with(".map"));
        for name in &stale {
            self.disk.remove(name)?;
        }
        if !stale.is_empty() {
            self.disk.sync_folder()?;
        }
        Ok(())
    }

    /// The trial of a candidate that is whole: it serves at the end, or what served before does.
    async fn trial(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let release = Release::of(manifest);
        let rollout = self.rollout.clone().expect("a look leaves it");
        let file = file(&self.settings.folder, &release);
        // What lay on the disk since it was fetched is looked at again.
        if digest_of(&mut self.disk, &manifest.digest()).ok() != Some(manifest.digest()) {
            let [_, _, whole] = names(&manifest.digest());
            self.slots.fetch(&mut self.disk)?;
            let _ = self.disk.remove(&whole);
            discard(&mut self.disk, &manifest.digest())?;
            return Ok(());
        }
        let before = self.host.window();
        let began = Instant::now();
        self.slots.load(&mut self.disk)?;
        self.report("release.trial", &release, "");
        self.show(None, None);
        let within = Duration::from_secs(rollout.gates.load_s_max);
        let tested = match self.host.test(&file, &manifest.golden, within).await {
            Ok(tested) => tested,
            Err(unfit) => return self.take_back(&unfit, began).await,
        };
        self.slots.test(&mut self.disk)?;
        self.slots.soak(&mut self.disk)?;
        if let Err(unfit) = self.host.serve(Some(&file), Some(&manifest.name)).await {
            return self.take_back(&unfit, began).await;
        }
        tracing::info!(
            release = %release,
            load_s = tested.load_s,
            "a release is on trial: it serves, and may be taken back"
        );
        match self.soak(&rollout, &before).await? {
            Ended::Stays => {
                self.slots.commit(&mut self.disk)?;
                self.hurry = false;
                self.report("release.committed", &release, "");
                tracing::info!(release = %release, "a release is committed");
                Ok(())
            }
            Ended::Goes(unfit) => self.take_back(&unfit, began).await,
        }
    }

    /// Watches a model that serves until it is clear what becomes of it.
    async fn soak(&mut self, rollout: &Rollout, before: &Window) -> Result<Ended, RoundError> {
        let began = Instant::now();
        let (least, most) = (
            Duration::from_secs(rollout.soak_s),
            Duration::from_secs(rollout.deadline_s),
        );
        loop {
            let now = self.host.window();
            self.show(Some(now.requests()), None);
            let verdict = judge(before, &now, &rollout.gates);
            let elapsed = began.elapsed();
            match verdict {
                Verdict::Fail(text) => {
                    return Ok(Ended::Goes(Unfit {
                        reason: Reason::Gate,
                        text,
                    }));
                }
                Verdict::Pass if elapsed >= least => return Ok(Ended::Stays),
                // Nobody asks: the golden texts were its trial.
                Verdict::Wait if elapsed >= most || (elapsed >= least && now.requests() == 0) => {
                    return Ok(Ended::Stays);
                }
                Verdict::Pass | Verdict::Wait => {}
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_EVERY) => {}
                order = self.orders.recv() => {
                    let Some((order, answer)) = order else {
                        // The box goes down: after the next start the trial begins again.
                        std::future::pending::<()>().await;
                        continue;
                    };
                    let ended = match order {
                        Order::Commit => Some(Ended::Stays),
                        Order::Rollback => Some(Ended::Goes(Unfit {
                            reason: Reason::Operator,
                            text: "an operator took it back".to_owned(),
                        })),
                        _ => None,
                    };
                    let busy = || "a release is on trial: commit or roll it back first".to_owned();
                    let _ = answer.send(ended.as_ref().map(|_| ()).ok_or_else(busy));
                    if let Some(ended) = ended {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    /// The candidate failed: what served before serves again, and the factory hears of it.
    async fn take_back(&mut self, unfit: &Unfit, began: Instant) -> Result<(), RoundError> {
        self.reject(unfit)?;
        let committed = self.slots.state().committed.clone();
        let back = committed
            .as_ref()
            .map(|release| (file(&self.settings.folder, release), &release.name));
        let served = match &back {
            Some((file, name)) => self.host.serve(Some(file), Some(name)).await,
            None => self.host.serve(None, None).await,
        };
        self.slots.rolled_back(&mut self.disk)?;
        self.hurry = false;
        self.report_rejected();
        tracing::warn!(
            "a release was taken back after {:.1} s: {}",
            began.elapsed().as_secs_f64(),
            unfit.text
        );
        served.map_err(|unfit| RoundError::NoModel(unfit.text))
    }

    fn reject(&mut self, unfit: &Unfit) -> Result<(), SlotError> {
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
        let committed = self.slots.state().committed.clone();
        let served = match &committed {
            Some(release) => {
                let file = file(&self.settings.folder, release);
                self.host.serve(Some(&file), Some(&release.name)).await
            }
            None => self.host.serve(None, None).await,
        };
        self.show(None, None);
        self.report_rejected();
        served.map_err(|unfit| unfit.text)
    }

    fn report(&self, event: &str, release: &Release, why: &str) {
        let attributes = serde_json::json!({
            "release": release.to_string(),
            "digest": hex(&release.digest),
            "rollout": self.rollout.as_ref().map_or(0, |rollout| rollout.counter),
            "why": why,
        });
        self.host.report(event, attributes.to_string());
    }

    fn report_rejected(&self) {
        if let Some(rejected) = self.slots.state().rejected.last()
            && let Some(release) = &rejected.release
        {
            let why = format!("{:?}: {}", rejected.reason(), rejected.text);
            self.report("release.rejected", release, &why);
        }
    }

    /// Tells everybody how it stands.
    fn show(&self, requests: Option<u64>, trouble: Option<String>) {
        let state = self.slots.state();
        let rollout = self.rollout.as_ref();
        let (manifest, phase) = for_factory(state, rollout);
        self.view.send_modify(|view| {
            let old = view.candidate.take();
            view.candidate = state.candidate.as_ref().map(|candidate| CandidateView {
                release: candidate.release().to_string(),
                phase: format!("{:?}", candidate.phase()).to_lowercase(),
                bytes: candidate.release().bytes,
                requests: requests.unwrap_or(0),
                ..old.unwrap_or_default()
            });
            view.committed = state.committed.as_ref().map(Release::to_string);
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

/// What the factory hears in a Hello: the manifest that the ring is about, and how far this box is with it.
fn for_factory(state: &State, rollout: Option<&Rollout>) -> (String, ReleasePhase) {
    let Some(rollout) = rollout else {
        return (String::new(), ReleasePhase::Idle);
    };
    let is =
        |release: &Release| Manifest::path_of(&release.name, release.release) == rollout.manifest;
    let rejected = |release: &Option<Release>| release.as_ref().is_some_and(is);
    let phase = match &state.candidate {
        Some(candidate) if is(candidate.release()) => match candidate.phase() {
            Phase::Fetching | Phase::Verified | Phase::Unknown => ReleasePhase::Fetching,
            Phase::RollingBack => ReleasePhase::Rejected,
            _ => ReleasePhase::Trial,
        },
        _ if state.committed.as_ref().is_some_and(is) => ReleasePhase::Committed,
        _ if state.rejected.iter().any(|r| rejected(&r.release)) => ReleasePhase::Rejected,
        _ => ReleasePhase::Idle,
    };
    (rollout.manifest.clone(), phase)
}

/// What becomes of a model on trial.
enum Ended {
    Stays,
    Goes(Unfit),
}

/// How often a trial is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// No clock is right that is before this: 2026-11-01.
const BUILT_UNIX_MS: u64 = 1_793_491_200_000;

/// Bytes that are free for this user in a folder.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How fast a download goes.
struct Rate {
    since: Instant,
    fetched: u64,
    bytes_per_s: u64,
}

impl Rate {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            fetched: 0,
            bytes_per_s: 0,
        }
    }

    fn view(&mut self, release: &str, progress: &Progress) -> CandidateView {
        let elapsed = self.since.elapsed().as_secs_f64();
        if elapsed >= 1.0 {
            let bytes = (progress.fetched - self.fetched) as f64 / elapsed;
            self.bytes_per_s = format!("{bytes:.0}").parse().unwrap_or(0);
            (self.since, self.fetched) = (Instant::now(), progress.fetched);
        }
        let left = progress.bytes - progress.there;
        CandidateView {
            release: release.to_owned(),
            phase: "fetching".to_owned(),
            bytes: progress.bytes,
            bytes_there: progress.there,
            bytes_reused: progress.reused,
            bytes_fetched: progress.fetched,
            bytes_per_s: self.bytes_per_s,
            seconds_left: left.checked_div(self.bytes_per_s),
            requests: 0,
        }
    }
}
