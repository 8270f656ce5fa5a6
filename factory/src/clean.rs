//! Tidying up: what is committed elsewhere, replaced or never committed is deleted.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;

use crate::commits::{Append, Commit, CommitError, Log, State};
use crate::compact::{CompactError, LOST_MAX};
use crate::erase::{EraseSummary, finish_erasures};

/// How long things stay that are not needed.
#[derive(Debug, Clone, Copy)]
pub struct CleanOptions {
    /// Segments after their records were committed. Default 7 days.
    pub segment_grace: Duration,
    /// Files that no commit names: of a compactor that died, or is at work. Default 1 day. Shorter ages are as safe: a
    /// compactor whose file is taken away makes it anew.
    pub orphan_age: Duration,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self {
            segment_grace: Duration::from_hours(7 * 24),
            orphan_age: Duration::from_hours(24),
        }
    }
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanSummary {
    /// Segments and files.
    pub objects: u64,
    /// Files that no commit named, among them.
    pub orphans: u64,
}

/// Finishes erasures, takes orphans away, and deletes what is due.
pub async fn clean(
    log: &Log,
    options: CleanOptions,
    now_unix_ms: u64,
) -> Result<(EraseSummary, CleanSummary), CompactError> {
    let erased = finish_erasures(log, now_unix_ms).await?;
    let mut state = log.read().await?;
    let orphans = condemn_orphans(log, &mut state, options.orphan_age, now_unix_ms).await?;
    let grace = Some(options.segment_grace);
    let mut summary = delete_what_is_due(log, &mut state, now_unix_ms, grace).await?;
    summary.orphans = orphans;
    log.delete_old_checkpoints().await?;
    Ok((erased, summary))
}

/// Commits that files which no commit names will be deleted.
///
/// From here on a compactor that was about to name one of them finds this commit before its own, and begins anew with
/// other names; so the files can be deleted afterwards, however slow that compactor is.
async fn condemn_orphans(
    log: &Log,
    state: &mut State,
    age: Duration,
    now_unix_ms: u64,
) -> Result<u64, CompactError> {
    let listed = log.store().list(&Path::from("parquet"), None).await?;
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let now_ms = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    for _ in 0..LOST_MAX {
        let old = listed
            .iter()
            .filter(|meta| meta.last_modified.timestamp_millis() <= now_ms.saturating_sub(age_ms));
        let keys = old.map(|meta| meta.location.as_ref());
        let orphans = keys.filter(|key| {
            !state.files().contains_key(*key) && !state.condemned().contains_key(*key)
        });
        let orphans: Vec<String> = orphans.map(str::to_owned).collect();
        if orphans.is_empty() {
            return Ok(0);
        }
        let count = orphans.len() as u64;
        let commit = Commit {
            unix_ms: now_unix_ms,
            removed: orphans,
            ..Commit::default()
        };
        match log.append(state, commit).await? {
            Append::Won => return Ok(count),
            // One of them may count by now.
            Append::Lost => log.catch_up(state).await?,
        }
    }
    Err(CommitError::Crowded { tries: LOST_MAX }.into())
}

/// Deletes what was removed, and segments whose grace is over; without a grace only those that may not stay.
pub(crate) async fn delete_what_is_due(
    log: &Log,
    state: &mut State,
    now_unix_ms: u64,
    grace: Option<Duration>,
) -> Result<CleanSummary, CompactError> {
    let over = |unix_ms: u64| {
        let grace = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        grace.is_some_and(|grace| unix_ms.saturating_add(grace) <= now_unix_ms)
    };
    let segments = state.pending().iter();
    let segments = segments.filter(|(_, pending)| pending.urgent || over(pending.unix_ms));
    let due = segments.map(|(key, _)| key.clone());
    let condemned = state.condemned().iter();
    let condemned = condemned.filter(|(_, due_ms)| **due_ms <= now_unix_ms);
    let due: Vec<String> = due.chain(condemned.map(|(key, _)| key.clone())).collect();
    futures_util::stream::iter(due.clone())
        .map(|key| async move {
            let path = Path::parse(&key).map_err(|_| CommitError::Broken {
                key: key.clone(),
                reason: "its name cannot be".to_owned(),
            })?;
            log.store().delete(&path).await?;
            Ok::<_, CompactError>(())
        })
        .buffer_unordered(DELETES_AT_ONCE)
        .try_collect::<()>()
        .await?;
    let objects = due.len() as u64;
    forget(log, state, now_unix_ms, due).await?;
    Ok(CleanSummary {
        objects,
        orphans: 0,
    })
}

const DELETES_AT_ONCE: usize = 16;

/// Commits that objects are deleted. Whatever else is committed meanwhile, they are.
pub(crate) async fn forget(
    log: &Log,
    state: &mut State,
    now_unix_ms: u64,
    forgotten: Vec<String>,
) -> Result<(), CommitError> {
    if forgotten.is_empty() {
        return Ok(());
    }
    let commit = Commit {
        unix_ms: now_unix_ms,
        forgotten,
        ..Commit::default()
    };
    for _ in 0..LOST_MAX {
        match log.append(state, commit.clone()).await? {
            Append::Won => return Ok(()),
            Append::Lost => log.catch_up(state).await?,
        }
    }
    Err(CommitError::Crowded { tries: LOST_MAX })
}
