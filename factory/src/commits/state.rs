//! What the commits say together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Bad, Commit, FORMAT, GapSum, Output, Ranges};

/// What counts after a number of commits.
///
/// Memory: about 400 bytes a file, 150 a box, epoch and class, 200 a segment that was taken and not yet deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    format: u32,
    number: u64,
    generation: u64,
    files: BTreeMap<String, Output>,
    pending: BTreeMap<String, Pending>,
    bad: BTreeMap<String, Bad>,
    condemned: BTreeMap<String, u64>,
    erased: BTreeMap<String, bool>,
    streams: BTreeMap<String, Ranges>,
    gaps: BTreeMap<String, GapSum>,
}

/// A segment that was taken, and is not deleted yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When it was taken.
    pub unix_ms: u64,
    /// It has records of erased tenants: no grace.
    pub urgent: bool,
    /// Whose records it has; `None` if they are too many to list.
    pub tenants: Option<BTreeSet<String>>,
}

impl State {
    /// The number of the last commit, 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of the last commit that took something away. Names of files follow from it, so that a name that was
    /// removed is never used again, and whoever began before it begins anew.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The files that count, by their keys.
    pub fn files(&self) -> &BTreeMap<String, Output> {
        &self.files
    }

    /// Segments that were taken, and are not deleted yet.
    pub fn pending(&self) -> &BTreeMap<String, Pending> {
        &self.pending
    }

    /// Segments that could not be read.
    pub fn bad(&self) -> &BTreeMap<String, Bad> {
        &self.bad
    }

    /// Objects that must be deleted, and when: milliseconds since 1970.
    pub fn condemned(&self) -> &BTreeMap<String, u64> {
        &self.condemned
    }

    /// Tenants whose records nobody takes, and of each whether no file has a row of theirs any more.
    pub fn erased(&self) -> &BTreeMap<String, bool> {
        &self.erased
    }

    /// Numbers of the records that were taken, by `<appliance>/<epoch>/<class>`.
    pub fn streams(&self) -> &BTreeMap<String, Ranges> {
        &self.streams
    }

    /// Records that boxes know they lost.
    pub fn gaps(&self) -> impl Iterator<Item = &GapSum> {
        self.gaps.values()
    }

    /// Whether records with these numbers, from these segments, may be added as they were prepared when the generation
    /// was this one.
    pub(crate) fn admits(&self, generation: u64, commit: &Commit) -> bool {
        let apart = |(stream, ranges): (&String, &Ranges)| {
            let taken = self.streams.get(stream);
            taken.is_none_or(|taken| !taken.overlaps(ranges))
        };
        generation == self.generation
            && commit.streams.iter().all(apart)
            && !commit
                .inputs
                .iter()
                .any(|input| self.pending.contains_key(&input.key))
            && commit
                .removed
                .iter()
                .all(|key| self.files.contains_key(key))
    }

    /// Adds a commit. An error says why it cannot follow.
    pub(super) fn apply(&mut self, commit: &Commit) -> Result<(), String> {
        if commit.format != FORMAT {
            return Err(format!("its format is {}, not {FORMAT}", commit.format));
        }
        if commit.number != self.number + 1 {
            return Err(format!(
                "it says {}, not {}",
                commit.number,
                self.number + 1
            ));
        }
        for (stream, ranges) in &commit.streams {
            if !ranges.is_sound() {
                return Err(format!("the numbers of {stream} are in disorder"));
            }
            let taken = self.streams.entry(stream.clone()).or_default();
            if taken.overlaps(ranges) {
                return Err(format!("it takes records of {stream} a second time"));
            }
            taken.extend(ranges);
        }
        for key in &commit.removed {
            self.files.remove(key);
            self.condemned.insert(key.clone(), commit.delete_after_ms);
        }
        for output in &commit.outputs {
            if self.condemned.contains_key(&output.key) {
                return Err(format!("it adds {}, which was removed", output.key));
            }
            let before = self.files.insert(output.key.clone(), output.clone());
            if before.is_some() {
                return Err(format!("it adds {} a second time", output.key));
            }
        }
        for input in &commit.inputs {
            self.bad.remove(&input.key);
            let pending = Pending {
                unix_ms: commit.unix_ms,
                urgent: input.erased > 0,
                tenants: input.tenants.clone(),
            };
            self.pending.insert(input.key.clone(), pending);
        }
        for bad in &commit.bad {
            // It stays, for people and for later keys.
            self.pending.remove(&bad.key);
            self.bad.insert(bad.key.clone(), bad.clone());
        }
        if !commit.erased.is_empty() {
            // What waits for slow readers may have their rows.
            self.condemned.values_mut().for_each(|due_ms| *due_ms = 0);
        }
        for tenant in &commit.erased {
            self.erased.entry(tenant.clone()).or_default();
            for pending in self.pending.values_mut() {
                let listed = pending.tenants.as_ref();
                pending.urgent |= listed.is_none_or(|tenants| tenants.contains(tenant));
            }
        }
        for tenant in &commit.finished {
            if let Some(finished) = self.erased.get_mut(tenant) {
                *finished = true;
            }
        }
        for tenant in &commit.readmitted {
            self.erased.remove(tenant);
        }
        for key in &commit.forgotten {
            self.pending.remove(key);
            self.bad.remove(key);
            self.condemned.remove(key);
        }
        for gap in &commit.gaps {
            self.add_gap(gap);
        }
        if !(commit.removed.is_empty() && commit.erased.is_empty() && commit.readmitted.is_empty())
        {
            self.generation = commit.number;
        }
        self.format = FORMAT;
        self.number = commit.number;
        Ok(())
    }

    fn add_gap(&mut self, gap: &GapSum) {
        let key = format!("{}/{}/{}", gap.appliance, gap.class, gap.reason);
        let sum = self.gaps.entry(key).or_insert_with(|| GapSum {
            records: 0,
            bytes: 0,
            ..gap.clone()
        });
        sum.records = sum.records.saturating_add(gap.records);
        sum.bytes = sum.bytes.saturating_add(gap.bytes);
    }

    /// The same bytes from whoever read the same commits.
    pub(super) fn to_checkpoint(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its maps have names as keys")
    }

    pub(super) fn from_checkpoint(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.format != FORMAT {
            return Err(format!("its format is {}, not {FORMAT}", state.format));
        }
        Ok(state)
    }
}
