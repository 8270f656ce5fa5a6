//! What is known of a box's models, for people and for the factory.

use std::fmt;

use outstation_wire::release::{AdapterRelease, Manifest, Rollout};
use outstation_wire::uplink::ReleasePhase;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::download::Progress;
use crate::config::ByteSize;
use crate::slot::{Phase, Release, State};

/// All of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct View {
    /// What serves. None: the model of the configuration.
    pub committed: Option<String>,
    /// Adapters that serve: what apps call them, and their releases.
    #[serde(default)]
    pub adapters: Vec<(String, String)>,
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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Its share of new requests, while another model serves beside it.
    #[serde(default)]
    pub percent: u32,
    /// Requests that the trial has seen.
    pub requests: u64,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configured = "the model of the configuration";
        writeln!(
            f,
            "serves     {}",
            self.committed.as_deref().unwrap_or(configured)
        )?;
        for (name, release) in &self.adapters {
            writeln!(f, "adapter    {name}: {release}")?;
        }
        if let Some(previous) = &self.previous {
            writeln!(f, "before     {previous}")?;
        }
        if let Some(candidate) = &self.candidate {
            writeln!(f, "under way  {candidate}")?;
        }
        for (release, why) in &self.rejected {
            writeln!(f, "rejected   {release}: {why}")?;
        }
        writeln!(f, "ring       {}, rollout {}", self.ring, self.rollout)?;
        if self.pinned {
            writeln!(f, "pinned     nothing comes in: `outstation models unpin`")?;
        }
        if self.unconfirmed {
            let what = "the state was lost: `outstation models confirm` if what serves is right";
            writeln!(f, "unsure     {what}")?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "trouble    {trouble}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CandidateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.release, self.phase)?;
        if self.bytes_there < self.bytes {
            write!(
                f,
                ": {} of {}, {} of them from the disk, {}/s",
                ByteSize(self.bytes_there),
                ByteSize(self.bytes),
                ByteSize(self.bytes_reused),
                ByteSize(self.bytes_per_s)
            )?;
        }
        if let Some(seconds) = self.seconds_left.filter(|&seconds| seconds > 0) {
            write!(f, ", {seconds} s left")?;
        }
        if self.percent > 0 {
            write!(f, ", {} % of new requests", self.percent)?;
        }
        if self.requests > 0 {
            write!(f, ", {} requests seen", self.requests)?;
        }
        Ok(())
    }
}

/// What the factory hears in a Hello: the manifest that the ring is about, and how far this box is with it and its
/// adapters.
pub(super) fn for_factory(state: &State, rollout: Option<&Rollout>) -> (String, ReleasePhase) {
    let Some(rollout) = rollout else {
        return (String::new(), ReleasePhase::Idle);
    };
    let is =
        |release: &Release| Manifest::path_of(&release.name, release.release) == rollout.manifest;
    let path = |release: &Release| Manifest::path_of(&release.name, release.release);
    let wants = |release: &Release| rollout.wants(&path(release));
    let rejected = |release: &Option<Release>| release.as_ref().is_some_and(wants);
    let has = |adapter: &AdapterRelease| {
        let served = state.adapter(&adapter.name);
        served.is_some_and(|release| path(release) == adapter.manifest)
    };
    let phase = match &state.candidate {
        Some(candidate) if wants(candidate.release()) => match candidate.phase() {
            Phase::Fetching | Phase::Verified | Phase::Unknown => ReleasePhase::Fetching,
            Phase::RollingBack => ReleasePhase::Rejected,
            _ => ReleasePhase::Trial,
        },
        _ if state.rejected.iter().any(|r| rejected(&r.release)) => ReleasePhase::Rejected,
        _ if state.committed.as_ref().is_some_and(is) => {
            if rollout.adapters.iter().all(has) {
                ReleasePhase::Committed
            } else {
                ReleasePhase::Fetching
            }
        }
        _ => ReleasePhase::Idle,
    };
    (rollout.manifest.clone(), phase)
}

/// How fast a download goes.
pub(super) struct Rate {
    since: Instant,
    fetched: u64,
    bytes_per_s: u64,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            fetched: 0,
            bytes_per_s: 0,
        }
    }

    pub(super) fn view(&mut self, release: &str, progress: &Progress) -> CandidateView {
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
            percent: 0,
            requests: 0,
        }
    }
}
