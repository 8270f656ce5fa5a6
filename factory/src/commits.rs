//! The list of what counts. A file is read only if a commit names it, and commits are numbered without a gap.
//!
//! ```text
//! commits/00000000000000000001.json ◀─ 2 ◀─ 3 ◀─ …      each put if absent: of two writers one wins, the other reads
//! checkpoints/00000000000000000032.json                  what they say together, so that a reader begins here
//! ```
//!
//! `docs/factory.md` has the argument why no row is lost or doubled, whoever is killed and whatever the store answers.
//! In short: what a writer assumed when it began is checked against every commit that came before its own, since the
//! place of its own is taken only after all before it are read.

use std::collections::{BTreeMap, BTreeSet};

use object_store::PutPayload;
use object_store::path::Path;
use outstation_wire::record::NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::store::{Store, StoreError};

pub use ranges::Ranges;
pub use state::{Pending, State};

mod ranges;
mod state;
#[cfg(test)]
mod tests;

/// Commits between two checkpoints: what a reader gets one by one at most, if all checkpoints were written.
pub const CHECKPOINT_COMMITS: u64 = 32;

/// The format of commits and checkpoints.
const FORMAT: u32 = 1;

/// Names of tenants that a file or segment lists. One with more, or with longer ones than boxes write, says nothing and
/// is looked into. So a box cannot make commits large.
pub const TENANTS_MAX: usize = 256;

/// Adds a tenant to a list, or gives the list up.
pub(crate) fn list_tenant(tenants: &mut Option<BTreeSet<String>>, tenant: &str) {
    let Some(known) = tenants else { return };
    if !known.contains(tenant) {
        known.insert(tenant.to_owned());
        if known.len() > TENANTS_MAX || tenant.len() > NAME_BYTES_MAX {
            *tenants = None;
        }
    }
}

/// One step of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The format, 1.
    pub format: u32,
    /// Its place, from 1.
    pub number: u64,
    /// When it was made, by the clock of the writer.
    pub unix_ms: u64,
    /// Who made it: drawn by each process, so that no two commits are the same bytes.
    pub writer: String,
    /// Segments whose records are in files from here on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Files that count from here on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// Numbers of the records of the inputs, as far as they were not there before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streams: BTreeMap<String, Ranges>,
    /// Segments that could not be read, or not all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<Bad>,
    /// Files that do not count any more, and objects that never did: all about to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// When what is removed may be deleted, milliseconds since 1970; 0: at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delete_after_ms: u64,
    /// What was removed, or was an input, and is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<String>,
    /// Tenants whose records are taken from here on by nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased: Vec<String>,
    /// Erased tenants of whom no file has a row any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<String>,
    /// Tenants that may come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readmitted: Vec<String>,
    /// Sums of the gaps that boxes told of in the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<GapSum>,
}

/// A segment whose records were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The object.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its records.
    pub records: u64,
    /// Records that other segments had brought before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicates: u64,
    /// Records of erased tenants, which were dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased: u64,
    /// Whose records it has; `None` if they are too many to list.
    pub tenants: Option<BTreeSet<String>>,
}

/// A file that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The object.
    pub key: String,
    /// `inference`, `feedback`, `gap` or `event`.
    pub table: String,
    /// Day of its rows, `YYYY-MM-DD`, UTC.
    pub day: String,
    /// Workload of its rows; empty where the table has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// Whose rows it has, the empty name for rows of nobody; `None` if they are too many to list.
    pub tenants: Option<BTreeSet<String>>,
}

/// A segment that could not be read, or not all of it. It stays where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The object.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// Records that were read nevertheless.
    pub records: u64,
}

/// Records that a box knows it lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GapSum {
    /// Which box.
    pub appliance: String,
    /// What the records were worth: 0, 1 or 2.
    pub class: u32,
    /// Why, as in [`GapReason`](outstation_wire::record::GapReason), in lower case.
    pub reason: String,
    /// How many.
    pub records: u64,
    /// Their bytes, as far as known.
    pub bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why the list cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A commit is no commit.
    #[error("{key} is not what this program writes ({reason}): restore it, or use a later program")]
    Broken {
        /// The object.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Others were faster every time.
    #[error("other writers took the next place of the list {tries} times: run fewer of them")]
    Crowded {
        /// How often.
        tries: u32,
    },
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// It counts.
    Won,
    /// Another has its place: read it, see whether yours still holds, and try anew.
    Lost,
}

/// The list, for reading and for adding to it.
#[derive(Debug, Clone)]
pub struct Log {
    store: Store,
    writer: String,
}

impl Log {
    /// The list of a store. `writer` names this process and differs from all others.
    pub fn new(store: Store, writer: impl Into<String>) -> Self {
        Self {
            store,
            writer: writer.into(),
        }
    }

    /// A name for [`new`](Self::new).
    pub fn any_writer() -> String {
        use std::hash::{BuildHasher as _, RandomState};
        let [a, b] = [0, 1].map(|n| RandomState::new().hash_one((n, std::process::id())));
        format!("{a:016x}{b:016x}")
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What counts, by all commits that there are.
    ///
    /// Cost: one list, one checkpoint, and one request for each commit since, plus one.
    pub async fn read(&self) -> Result<State, CommitError> {
        let checkpoints = self.store.list(&Path::from("checkpoints"), None).await?;
        let mut state = State::default();
        // A checkpoint may be gone since it was listed: an earlier one, or none, serves as well.
        for meta in checkpoints.iter().rev() {
            if let Some(bytes) = self.store.get_if_there(&meta.location).await? {
                state = State::from_checkpoint(&bytes)
                    .map_err(|reason| broken(&meta.location, reason))?;
                break;
            }
        }
        self.catch_up(&mut state).await?;
        Ok(state)
    }

    /// Adds what was committed since.
    pub async fn catch_up(&self, state: &mut State) -> Result<(), CommitError> {
        loop {
            let key = commit_key(state.number() + 1);
            let Some(bytes) = self.store.get_if_there(&key).await? else {
                return Ok(());
            };
            let commit: Commit =
                serde_json::from_slice(&bytes).map_err(|error| broken(&key, error.to_string()))?;
            state
                .apply(&commit)
                .map_err(|reason| broken(&key, reason))?;
            self.checkpoint(state).await;
        }
    }

    /// Adds a commit after all that `state` has, and applies it to `state`. Number, format and writer are filled in.
    ///
    /// After an error the commit may count nevertheless, from now or from later on: read before anything is assumed.
    pub async fn append(
        &self,
        state: &mut State,
        mut commit: Commit,
    ) -> Result<Append, CommitError> {
        commit.format = FORMAT;
        commit.number = state.number() + 1;
        commit.writer.clone_from(&self.writer);
        let key = commit_key(commit.number);
        // What cannot be applied must never be written: nobody could read the list any more.
        let mut next = state.clone();
        next.apply(&commit).map_err(|reason| broken(&key, reason))?;
        let bytes = serde_json::to_vec(&commit).expect("its maps have names as keys");
        match self.store.put_once(&key, PutPayload::from(bytes)).await {
            Ok(_) => {
                *state = next;
                self.checkpoint(state).await;
                Ok(Append::Won)
            }
            Err(StoreError::Conflict { .. }) => Ok(Append::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a checkpoint where one is due. Without it reading is slower, and nothing else: a failure is passed over.
    async fn checkpoint(&self, state: &State) {
        if !state.number().is_multiple_of(CHECKPOINT_COMMITS) {
            return;
        }
        let key = checkpoint_key(state.number());
        let bytes = PutPayload::from(state.to_checkpoint());
        if let Err(error) = self.store.put_once(&key, bytes).await {
            tracing::warn!(%error, "a checkpoint is not written");
        }
    }

    /// Deletes checkpoints that later ones replace, but for a few that a slow reader may be about to get.
    pub async fn delete_old_checkpoints(&self) -> Result<(), CommitError> {
        let all = self.store.list(&Path::from("checkpoints"), None).await?;
        let old = all.len().saturating_sub(CHECKPOINTS_KEPT);
        for meta in &all[..old] {
            self.store.delete(&meta.location).await?;
        }
        Ok(())
    }
}

const CHECKPOINTS_KEPT: usize = 4;

/// `commits/<number20>.json`
pub fn commit_key(number: u64) -> Path {
    Path::from(format!("commits/{number:020}.json"))
}

fn checkpoint_key(number: u64) -> Path {
    Path::from(format!("checkpoints/{number:020}.json"))
}

fn broken(key: &Path, reason: String) -> CommitError {
    CommitError::Broken {
        key: key.to_string(),
        reason,
    }
}
