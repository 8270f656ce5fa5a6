//! What the factory releases to its boxes: static files under `ota/` of the store, signed as The Update Framework says.
//!
//! ```text
//! ota/metadata/N.root.json                      whose keys count
//!              N.targets.json                   whose keys count for models and rollouts
//!              N.models.json  N.rollout.json    what is released; who is to have it
//!              N.snapshot.json  timestamp.json  which versions belong together; which of these is the newest
//! ota/targets/manifest/SHA256.NAME@RELEASE.json   index/SHA256.BLAKE3.bin   rollout/SHA256.RING.json
//! ota/packs/BLAKE3.pack                         the bytes of models, in pieces
//! ```
//!
//! All but `timestamp.json` is written once under a name that has its version or digest in it, so whoever dies in the
//! middle of a release leaves the one before it as it was, and of two who release at once one is told. `docs/ota.md`.

use object_store::path::Path;

use crate::store::StoreError;

pub mod bundle;
pub mod document;
pub mod files;
pub mod keeper;
pub mod pack;
pub mod peft;
pub mod pending;
pub mod publish;
pub mod repository;
pub mod rollout;
pub mod signing;
pub mod source;

/// The folder of all of it.
pub const BASE: &str = "ota";

/// Who signs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Whose keys count.
    Root,
    /// Whose keys count for models and rollouts.
    Targets,
    /// What models and adapters are.
    Models,
    /// Who is to have them.
    Rollout,
    /// Which versions belong together.
    Snapshot,
    /// Which snapshot is the newest.
    Timestamp,
}

impl Role {
    /// All of them, in the order in which their documents are stored.
    pub const ALL: [Self; 6] = [
        Self::Root,
        Self::Targets,
        Self::Models,
        Self::Rollout,
        Self::Snapshot,
        Self::Timestamp,
    ];

    /// Those that a snapshot lists.
    pub const LISTED: [Self; 3] = [Self::Targets, Self::Models, Self::Rollout];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Models => outstation_wire::release::ROLE_MODELS,
            Self::Rollout => outstation_wire::release::ROLE_ROLLOUT,
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    /// The role of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The file of a version.
    pub fn file(self, version: u64) -> String {
        match self {
            Self::Timestamp => "timestamp.json".to_owned(),
            _ => format!("{version}.{}.json", self.name()),
        }
    }

    /// Role and version of a file's name.
    pub fn of_file(name: &str) -> Option<(Self, u64)> {
        let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
        Some((Self::named(role)?, version.parse().ok()?))
    }

    /// How long its documents are good, seconds.
    pub const fn life_s(self) -> u64 {
        match self {
            Self::Timestamp => 7 * DAY_S,
            Self::Snapshot => 365 * DAY_S,
            // The timestamp says that they are the newest; these are signed by hands that are rarely together.
            _ => 5 * 365 * DAY_S,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Seconds of a day.
pub const DAY_S: u64 = 86_400;

/// Why something cannot be released.
#[derive(Debug, thiserror::Error)]
pub enum OtaError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no root.
    #[error(
        "nothing can be released yet, there is no root: make keys with `outstation-factory keys make`, and the root \
             with `outstation-factory keys root`"
    )]
    NoRoot,
    /// Signed documents are not what they should be.
    #[error("{file}: {why}")]
    Document {
        /// Which.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too few signatures.
    #[error(
        "{file} has {found} of {needed} signatures of role {role}: sign it with `outstation-factory keys sign` and \
             other keys of that role, then commit"
    )]
    Threshold {
        /// Which.
        file: String,
        /// Whose.
        role: Role,
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Somebody was faster.
    #[error(
        "somebody else made {file} at the same time: run the command again, it goes on from what they did"
    )]
    Raced {
        /// The file that both made.
        file: String,
    },
    /// A file of this machine.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was given cannot be released.
    #[error("{what}: {why}")]
    Input {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
}

impl OtaError {
    pub(crate) fn input(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Input {
            what: what.into(),
            why: why.to_string(),
        }
    }

    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            source,
        }
    }

    pub(crate) fn document(file: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Document {
            file: file.into(),
            why: why.to_string(),
        }
    }
}

/// Where a file of metadata is.
pub fn metadata_key(file: &str) -> Path {
    Path::from(format!("{BASE}/metadata/{file}"))
}

/// Where a target is, below the base: its digest stands before its name, so that no version is written over another.
pub fn target_path(target: &str, sha256: &str) -> String {
    match target.rsplit_once('/') {
        Some((folder, name)) => format!("targets/{folder}/{sha256}.{name}"),
        None => format!("targets/{sha256}.{target}"),
    }
}

/// Where a pack is, below the base.
pub fn pack_path(digest: &[u8; 32]) -> String {
    format!("packs/{}.pack", crate::store::hex(digest))
}

/// The object of a path below the base, as boxes ask for it. `None`: no such path is ever released.
pub fn object(path: &str) -> Option<Path> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fits);
    let mut parts = path.split('/');
    let folder = parts.next()?;
    let known = ["metadata", "targets", "packs"].contains(&folder);
    if !known || path.len() > PATH_BYTES_MAX || path == folder || !parts.all(good) {
        return None;
    }
    Some(Path::from(format!("{BASE}/{path}")))
}

/// Bytes of a path that is asked for.
const PATH_BYTES_MAX: usize = 512;

/// Small hexadecimal digits of SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    crate::store::hex(digest.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_released_has_a_path() {
        for good in [
            "metadata/timestamp.json",
            "metadata/12.models.json",
            "targets/manifest/ab12.site-3b@7.json",
            "packs/00ff.pack",
        ] {
            assert_eq!(object(good).unwrap().as_ref(), format!("ota/{good}"));
        }
        for bad in [
            "",
            "metadata",
            "metadata/",
            "/metadata/timestamp.json",
            "metadata//timestamp.json",
            "metadata/../../seg/v1/x",
            "metadata/..",
            "metadata/.hidden",
            "metadata/%2e%2e/x",
            "metadata/a\\b",
            "seg/v1/x",
            "packs/ä.pack",
            "packs/a\0b",
        ] {
            assert_eq!(object(bad), None, "{bad}");
        }
        assert_eq!(object(&format!("packs/{}", "a".repeat(600))), None);
    }

    #[test]
    fn files_and_roles_are_read_from_each_other() {
        for role in Role::ALL
            .into_iter()
            .filter(|role| *role != Role::Timestamp)
        {
            assert_eq!(Role::of_file(&role.file(7)), Some((role, 7)));
        }
        for other in [
            "timestamp.json",
            "x.root.json",
            "1.other.json",
            "1.root.pem",
        ] {
            assert_eq!(Role::of_file(other), None);
        }
    }
}
