//! Files without the rows of some tenants in the place of files that have them.

use std::collections::BTreeSet;

use arrow_array::{Array as _, BooleanArray, RecordBatch};
use bytes::Bytes;
use object_store::path::Path;
use parquet::errors::ParquetError;

use crate::commits::{Append, Commit, CommitError, Log, Output, State};
use crate::compact::{CompactError, LOST_MAX, blocking, store_file};
use crate::rows::{Partition, Table, Written, read_batches, write_batches};
use crate::store::StoreError;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewriteSummary {
    /// Files that have successors or are gone.
    pub files: u64,
    /// Rows that are gone.
    pub rows: u64,
}

/// Files of one commit.
const FILES_AT_ONCE: usize = 16;

/// Replaces each file in which `drops` is true for a tenant by one without their rows.
///
/// Memory: one file, and its successor.
pub(crate) async fn rewrite(
    log: &Log,
    state: &mut State,
    now_unix_ms: u64,
    drops: impl Fn(&Output, &str) -> bool + Sync,
) -> Result<RewriteSummary, CompactError> {
    let mut summary = RewriteSummary::default();
    let mut looked_at = BTreeSet::new();
    let mut lost = 0;
    loop {
        let generation = state.generation();
        let mut commit = Commit {
            unix_ms: now_unix_ms,
            ..Commit::default()
        };
        let mut rows = 0;
        let open = state
            .files()
            .values()
            .filter(|file| !looked_at.contains(&file.key));
        let open = open.filter(|file| has_any(file, &drops));
        let open: Vec<Output> = open.take(FILES_AT_ONCE).cloned().collect();
        if open.is_empty() {
            return Ok(summary);
        }
        for file in &open {
            if all(file, &drops) {
                commit.removed.push(file.key.clone());
                rows += file.rows;
                continue;
            }
            let Some(written) = without(log, file, &drops).await? else {
                continue;
            };
            let (partition, written) = written;
            if written.rows == file.rows {
                looked_at.insert(file.key.clone());
                continue;
            }
            rows += file.rows - written.rows;
            commit.removed.push(file.key.clone());
            if written.rows > 0 {
                let output = store_file(log, generation, &partition, written).await?;
                // It has none of them: that its tenants are too many to list is no reason to read it again.
                looked_at.insert(output.key.clone());
                commit.outputs.push(output);
            }
        }
        if commit.removed.is_empty() {
            // Either nothing was found in these, or somebody was faster.
            log.catch_up(state).await?;
            lost += 1;
            if lost > LOST_MAX && open.iter().any(|file| !looked_at.contains(&file.key)) {
                return Err(CommitError::Crowded { tries: lost }.into());
            }
            continue;
        }
        let files = commit.removed.len() as u64;
        if append(log, state, generation, commit).await? {
            summary.files += files;
            summary.rows += rows;
            lost = 0;
        } else {
            lost += 1;
            if lost > LOST_MAX {
                return Err(CommitError::Crowded { tries: lost }.into());
            }
        }
    }
}

/// Adds a commit wherever there is a place, as long as what it assumes holds. False: it does not hold any more.
pub(crate) async fn append(
    log: &Log,
    state: &mut State,
    generation: u64,
    commit: Commit,
) -> Result<bool, CommitError> {
    for _ in 0..LOST_MAX {
        match log.append(state, commit.clone()).await? {
            Append::Won => return Ok(true),
            Append::Lost => log.catch_up(state).await?,
        }
        if !state.admits(generation, &commit) {
            return Ok(false);
        }
    }
    Err(CommitError::Crowded { tries: LOST_MAX })
}

fn has_any(file: &Output, drops: &(impl Fn(&Output, &str) -> bool + Sync)) -> bool {
    let tenants = file.tenants.as_ref();
    tenants.is_none_or(|tenants| tenants.iter().any(|tenant| drops(file, tenant)))
}

fn all(file: &Output, drops: &(impl Fn(&Output, &str) -> bool + Sync)) -> bool {
    let tenants = file.tenants.as_ref();
    tenants.is_some_and(|tenants| tenants.iter().all(|tenant| drops(file, tenant)))
}

/// A file and where it belongs. `None`: it is gone, for somebody else replaced it.
pub(crate) async fn load(
    log: &Log,
    file: &Output,
) -> Result<Option<(Partition, Bytes)>, CompactError> {
    let broken = |reason: &str| CommitError::Broken {
        key: file.key.clone(),
        reason: reason.to_owned(),
    };
    let path = Path::parse(&file.key).map_err(|_| broken("its name cannot be"))?;
    let Some(bytes) = log.store().get_if_there(&path).await? else {
        return Ok(None);
    };
    if blake3::hash(&bytes).to_hex().as_str() != file.blake3 {
        return Err(broken("its digest is not that of its commit").into());
    }
    let partition = Partition {
        table: Table::from_name(&file.table).ok_or_else(|| broken("its table is unknown"))?,
        day: file.day.parse().map_err(|_| broken("its day is none"))?,
        workload: file.workload.clone(),
    };
    Ok(Some((partition, bytes)))
}

/// The file without the rows. `None`: it is gone.
async fn without(
    log: &Log,
    file: &Output,
    drops: &(impl Fn(&Output, &str) -> bool + Sync),
) -> Result<Option<(Partition, Written)>, CompactError> {
    let Some((partition, bytes)) = load(log, file).await? else {
        return Ok(None);
    };
    // Which tenants there are is known from the file alone: it decides before the long work, where it may not borrow.
    let names = {
        let bytes = bytes.clone();
        blocking(move || tenants(bytes)).await?
    };
    let dropped: BTreeSet<String> = names
        .into_iter()
        .filter(|tenant| drops(file, tenant))
        .collect();
    let written = blocking(move || {
        let batches = read_batches(bytes)?.map(|batch| keep(&batch?, &dropped));
        Ok((write_batches(&partition, batches)?, partition))
    });
    let (written, partition) = written.await?;
    Ok(Some((partition, written)))
}

/// Whose rows a file has, all of them.
fn tenants(bytes: Bytes) -> Result<BTreeSet<String>, ParquetError> {
    let mut names = BTreeSet::new();
    for batch in read_batches(bytes)? {
        let batch = batch?;
        for n in 0..batch.num_rows() {
            let name = tenant(&batch, n);
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn tenant(batch: &RecordBatch, n: usize) -> &str {
    let column = batch
        .column_by_name("tenant")
        .map(arrow_array::cast::AsArray::as_string::<i32>);
    match column {
        Some(column) if column.is_valid(n) => column.value(n),
        _ => "",
    }
}

fn keep(batch: &RecordBatch, dropped: &BTreeSet<String>) -> Result<RecordBatch, ParquetError> {
    let keep = (0..batch.num_rows()).map(|n| Some(!dropped.contains(tenant(batch, n))));
    let keep: BooleanArray = keep.collect();
    Ok(arrow_select::filter::filter_record_batch(batch, &keep)?)
}

/// A tenant's or other name as a part of a key.
pub(crate) fn key_of_tenant(tenant: &str) -> Result<Path, StoreError> {
    let name = crate::rows::encoded(tenant);
    Path::parse(format!("erasures/{name}.json")).map_err(|error| StoreError::Address {
        url: tenant.to_owned(),
        reason: error.to_string(),
    })
}
