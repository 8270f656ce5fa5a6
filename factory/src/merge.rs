//! One file for many small ones of a partition, since engines read few large files faster than many small ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::commits::{Commit, CommitError, Log, Output, State};
use crate::compact::{CompactError, LOST_MAX, blocking, store_file};
use crate::rewrite::{append, load};
use crate::rows::{Partition, read_batches, write_batches};

/// When files are merged.
#[derive(Debug, Clone, Copy)]
pub struct MergeOptions {
    /// So many small files of a partition become one. Default 8: a row is written about once more for each factor of 8
    /// between the first files and the last.
    pub files_min: usize,
    /// Bytes of a file that is made. Files of half of it are small no more. Default 32 MiB.
    pub file_bytes_max: u64,
    /// How long the small files stay, for readers who listed them before. Default one hour.
    pub grace: Duration,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            files_min: 8,
            file_bytes_max: 32 << 20,
            grace: Duration::from_hours(1),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeSummary {
    /// Files that were merged.
    pub before: u64,
    /// Files that came of it.
    pub after: u64,
}

/// Merges what there is to merge.
///
/// Memory: twice [`MergeOptions::file_bytes_max`], and a row group.
pub async fn merge(
    log: &Log,
    options: MergeOptions,
    now_unix_ms: u64,
) -> Result<MergeSummary, CompactError> {
    let grace_ms = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
    let mut state = log.read().await?;
    let mut summary = MergeSummary::default();
    // Files with other columns than this program writes stay as they are.
    let mut foreign = BTreeSet::new();
    let mut lost = 0;
    while let Some(small) = pick(&state, options, &foreign) {
        let generation = state.generation();
        let known = foreign.len();
        let mut commit = Commit {
            unix_ms: now_unix_ms,
            delete_after_ms: now_unix_ms.saturating_add(grace_ms),
            removed: small.iter().map(|file| file.key.clone()).collect(),
            ..Commit::default()
        };
        if let Some((partition, merged)) = one_of(log, &small, &mut foreign).await? {
            let rows: u64 = small.iter().map(|file| file.rows).sum();
            assert_eq!(merged.rows, rows, "no row is lost in a merge");
            let output = store_file(log, generation, &partition, merged).await?;
            commit.outputs.push(output);
            if append(log, &mut state, generation, commit).await? {
                summary.before += small.len() as u64;
                summary.after += 1;
                lost = 0;
                continue;
            }
        } else {
            log.catch_up(&mut state).await?;
            if foreign.len() > known {
                continue;
            }
        }
        lost += 1;
        if lost > LOST_MAX {
            return Err(CommitError::Crowded { tries: lost }.into());
        }
    }
    Ok(summary)
}

/// Small files of a partition that has many.
fn pick(state: &State, options: MergeOptions, foreign: &BTreeSet<String>) -> Option<Vec<Output>> {
    let mut partitions: BTreeMap<_, Vec<&Output>> = BTreeMap::new();
    for file in state.files().values() {
        if file.bytes < options.file_bytes_max / 2 && !foreign.contains(&file.key) {
            let partition = (&file.table, &file.day, &file.workload);
            partitions.entry(partition).or_default().push(file);
        }
    }
    let many = partitions
        .into_values()
        .find(|files| files.len() >= options.files_min.max(2))?;
    let mut bytes = 0;
    let fits = many.into_iter().take_while(|file| {
        bytes += file.bytes;
        bytes <= options.file_bytes_max
    });
    Some(fits.cloned().collect())
}

/// The rows of files in one. `None`: one of them is gone, or is foreign.
async fn one_of(
    log: &Log,
    small: &[Output],
    foreign: &mut BTreeSet<String>,
) -> Result<Option<(Partition, crate::rows::Written)>, CompactError> {
    let mut all = Vec::new();
    let mut place = None;
    for file in small {
        let Some((partition, bytes)) = load(log, file).await? else {
            return Ok(None);
        };
        let ours = partition.table.schema();
        let copy = bytes.clone();
        let columns = blocking(move || {
            let first = read_batches(copy)?.next().transpose()?;
            Ok(first.map(|batch| batch.schema()))
        });
        let is_ours = columns
            .await?
            .is_none_or(|columns| columns.fields() == ours.fields());
        if !is_ours {
            foreign.insert(file.key.clone());
            return Ok(None);
        }
        place = Some(partition);
        all.push(bytes);
    }
    let Some(partition) = place else {
        return Ok(None);
    };
    let merged = blocking(move || {
        let mut readers = Vec::new();
        for bytes in all {
            readers.push(read_batches(bytes)?);
        }
        let merged = write_batches(&partition, readers.into_iter().flatten())?;
        Ok((partition, merged))
    });
    Ok(Some(merged.await?))
}
