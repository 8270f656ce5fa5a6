//! The state as it is stored: protobuf, so that a later version may add to it.

use std::fmt;

use outstation_wire::hex::hex;
use outstation_wire::release::Manifest;

use super::{NAMES_MAX, REJECTED_MAX};

/// All that a box knows of its models.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// What serves. None: the model of the configuration.
    #[prost(message, optional, tag = "1")]
    pub committed: Option<Release>,
    /// What served before.
    #[prost(message, optional, tag = "2")]
    pub previous: Option<Release>,
    /// Whether there is a way back: to `previous`, or where that is none to the model of the configuration.
    #[prost(bool, tag = "3")]
    pub has_previous: bool,
    /// What wants to serve.
    #[prost(message, optional, tag = "4")]
    pub candidate: Option<Candidate>,
    /// What was taken back, the newest last.
    #[prost(message, repeated, tag = "5")]
    pub rejected: Vec<Rejected>,
    /// The highest release of each name that was ever committed.
    #[prost(message, repeated, tag = "6")]
    pub highest: Vec<Highest>,
    /// What metadata must not go below.
    #[prost(message, optional, tag = "7")]
    pub floors: Option<Floors>,
    /// An operator holds what serves.
    #[prost(bool, tag = "8")]
    pub pinned: bool,
    /// Both copies were lost, and nobody has looked since.
    #[prost(bool, tag = "9")]
    pub unconfirmed: bool,
    /// Adapters that serve.
    #[prost(message, repeated, tag = "10")]
    pub adapters: Vec<Adapter>,
}

/// A file of the factory's, as this box had it verified.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Release {
    /// Of the model or adapter.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number.
    #[prost(uint64, tag = "2")]
    pub release: u64,
    /// BLAKE3 of the file.
    #[prost(bytes = "vec", tag = "3")]
    pub digest: Vec<u8>,
    /// Its length.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}

/// A release under way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Candidate {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub release: Option<Release>,
    /// The adapter that it is to be; empty if it is a model.
    #[prost(string, tag = "2")]
    pub adapter: String,
    /// How far it is.
    #[prost(enumeration = "Phase", tag = "3")]
    pub phase: i32,
    /// Times that it may be loaded.
    #[prost(uint32, tag = "4")]
    pub tries_left: u32,
    /// Share of new requests, percent.
    #[prost(uint32, tag = "5")]
    pub percent: u32,
    /// Changes of its phase.
    #[prost(uint32, tag = "6")]
    pub transitions: u32,
    /// The counter of the rollout that brought it.
    #[prost(uint64, tag = "7")]
    pub rollout: u64,
    /// Why it is taken back.
    #[prost(enumeration = "Reason", tag = "8")]
    pub reason: i32,
    /// The same, for people.
    #[prost(string, tag = "9")]
    pub text: String,
}

/// How far a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Written by a later version.
    Unknown = 0,
    /// Its bytes come in.
    Fetching = 1,
    /// They are all there, as signed; it waits for its time.
    Verified = 2,
    /// It is being loaded.
    Loading = 3,
    /// It is asked what it must know.
    SelfTest = 4,
    /// It gets a share of new requests.
    Canary = 5,
    /// It gets all of them.
    Soak = 6,
    /// It failed, and the committed model comes back.
    RollingBack = 7,
}

/// Why a release was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// Written by a later version.
    Unknown = 0,
    /// Its bytes are not what was signed, whoever is asked for them.
    Bytes = 1,
    /// It is made for other machines or another engine.
    Unfit = 2,
    /// It needs more memory than there is.
    Memory = 3,
    /// It could not be loaded.
    Load = 4,
    /// It was not loaded or tested in time.
    Slow = 5,
    /// It answered golden prompts otherwise than it should.
    Golden = 6,
    /// It computed no numbers.
    NotFinite = 7,
    /// A gate of its trial was shut.
    Gate = 8,
    /// The program ended again and again.
    Crashed = 9,
    /// It went through phases without an end.
    Restless = 10,
    /// Somebody did it by hand.
    Operator = 11,
    /// The factory stopped its rollout.
    Stopped = 12,
}

/// A release that is not tried again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Rejected {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub release: Option<Release>,
    /// Why.
    #[prost(enumeration = "Reason", tag = "2")]
    pub reason: i32,
    /// The same, for people.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// The highest release of a name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Highest {
    /// Of models or adapters.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The number.
    #[prost(uint64, tag = "2")]
    pub release: u64,
}

/// An adapter that serves.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Adapter {
    /// What apps call it, after the model's name and a colon.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it is.
    #[prost(message, optional, tag = "2")]
    pub release: Option<Release>,
}

/// Versions of metadata, and a time, that a box never goes below, though its copies of the metadata were lost.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Floors {
    /// Of the root.
    #[prost(uint64, tag = "1")]
    pub root: u64,
    /// Of the timestamp.
    #[prost(uint64, tag = "2")]
    pub timestamp: u64,
    /// Of the snapshot.
    #[prost(uint64, tag = "3")]
    pub snapshot: u64,
    /// Of the top-level targets.
    #[prost(uint64, tag = "4")]
    pub targets: u64,
    /// Counter of the ring's rollout.
    #[prost(uint64, tag = "5")]
    pub rollout: u64,
    /// The latest time that the factory told, milliseconds since 1970. The box's own clock never raises it.
    #[prost(uint64, tag = "6")]
    pub unix_ms: u64,
}

impl Floors {
    pub(super) fn raise(&mut self, other: &Self) {
        if other.root > self.root {
            // A new root begins the others anew.
            (self.timestamp, self.snapshot, self.targets) = (0, 0, 0);
        }
        for (mine, theirs) in [
            (&mut self.root, other.root),
            (&mut self.timestamp, other.timestamp),
            (&mut self.snapshot, other.snapshot),
            (&mut self.targets, other.targets),
            (&mut self.rollout, other.rollout),
            (&mut self.unix_ms, other.unix_ms),
        ] {
            *mine = (*mine).max(theirs);
        }
    }
}

impl Release {
    /// What a manifest is about.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            name: manifest.name.clone(),
            release: manifest.release,
            digest: manifest.digest().to_vec(),
            bytes: manifest.file.bytes,
        }
    }

    /// The name of its file, without what comes after the point.
    pub fn stem(&self) -> String {
        stem(&self.digest)
    }
}

/// The name of a file by its digest: half of it, in hexadecimal.
pub(crate) fn stem(digest: &[u8]) -> String {
    hex(&digest[..digest.len().min(16)])
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.release)
    }
}

impl Candidate {
    /// Which release it is.
    pub fn release(&self) -> &Release {
        static NONE: Release = Release {
            name: String::new(),
            release: 0,
            digest: Vec::new(),
            bytes: 0,
        };
        self.release.as_ref().unwrap_or(&NONE)
    }
}

impl State {
    /// The adapter of a name that serves.
    pub fn adapter(&self, name: &str) -> Option<&Release> {
        let adapter = self.adapters.iter().find(|adapter| adapter.name == name);
        adapter.and_then(|adapter| adapter.release.as_ref())
    }

    /// Whether a release was taken back.
    pub fn rejection(&self, release: &Release) -> Option<&Rejected> {
        self.rejected.iter().find(|rejected| {
            rejected
                .release
                .as_ref()
                .is_some_and(|r| r.digest == release.digest)
        })
    }

    /// The highest release of a name that was ever committed; 0 if none was.
    pub fn highest(&self, name: &str) -> u64 {
        let known = self.highest.iter().find(|highest| highest.name == name);
        known.map_or(0, |highest| highest.release)
    }

    pub(super) fn note_highest(&mut self, release: &Release) {
        let highest = Highest {
            name: release.name.clone(),
            release: release.release.max(self.highest(&release.name)),
        };
        self.highest.retain(|known| known.name != release.name);
        if self.highest.len() >= NAMES_MAX {
            self.highest.remove(0);
        }
        self.highest.push(highest);
    }

    pub(super) fn note_rejected(&mut self, rejected: Rejected) {
        if self.rejected.len() >= REJECTED_MAX {
            self.rejected.remove(0);
        }
        self.rejected.push(rejected);
    }
}
