//! Erasure: no record of a tenant is in any file or segment any more, and none comes in later.
//!
//! ```text
//! erasures/<tenant>.json   what was asked: from here on it is finished by whoever tidies up, if this program dies
//! commit  erased           from here on nobody's commit can bring a row of theirs
//! commit  removed, outputs each file without their rows in the place of one with them
//! delete                   the old files, and the segments that brought the rows
//! commit  finished
//! ```

use object_store::PutPayload;
use object_store::path::Path;

use crate::clean::{CleanSummary, delete_what_is_due};
use crate::commits::{Append, Commit, CommitError, Log, State};
use crate::compact::{CompactError, LOST_MAX};
use crate::rewrite::{RewriteSummary, append, key_of_tenant, rewrite};
use crate::store::StoreError;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EraseSummary {
    /// Files and their rows.
    pub rewritten: RewriteSummary,
    /// Objects that were deleted.
    pub deleted: CleanSummary,
}

/// Erases a tenant. Safe to repeat: after a failure it goes on where it was.
///
/// Segments that no compactor took yet stay until one does, and lose their rows of the tenant then; they are deleted
/// right after. Segments that cannot be decrypted stay, since nobody can know whose they are.
pub async fn erase(
    log: &Log,
    tenant: &str,
    now_unix_ms: u64,
) -> Result<EraseSummary, CompactError> {
    let key = key_of_tenant(tenant)?;
    let order = serde_json::json!({ "tenant": tenant, "unix_ms": now_unix_ms });
    let order = PutPayload::from(order.to_string());
    match log.store().put_once(&key, order).await {
        // It was asked before, at another time.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    finish_erasures(log, now_unix_ms).await
}

/// Takes a tenant back: records that come from here on are kept. Those that were dropped do not come back.
pub async fn readmit(log: &Log, tenant: &str, now_unix_ms: u64) -> Result<(), CompactError> {
    let key = key_of_tenant(tenant)?;
    // First, or whoever finishes erasures would begin it again.
    log.store().delete(&key).await?;
    let mut state = log.read().await?;
    while state.erased().contains_key(tenant) {
        let commit = Commit {
            unix_ms: now_unix_ms,
            readmitted: vec![tenant.to_owned()],
            ..Commit::default()
        };
        if log.append(&mut state, commit).await? == Append::Lost {
            log.catch_up(&mut state).await?;
        }
    }
    Ok(())
}

/// Does what is missing of all erasures that were asked for.
pub async fn finish_erasures(log: &Log, now_unix_ms: u64) -> Result<EraseSummary, CompactError> {
    let mut state = log.read().await?;
    for tenant in asked(log).await? {
        announce(log, &mut state, &tenant, now_unix_ms).await?;
    }
    let open: Vec<String> = state
        .erased()
        .iter()
        .filter(|(_, finished)| !**finished)
        .map(|(tenant, _)| tenant.clone())
        .collect();
    let mut summary = EraseSummary::default();
    if !open.is_empty() {
        let drops = |_: &_, tenant: &str| open.iter().any(|name| name == tenant);
        summary.rewritten = rewrite(log, &mut state, now_unix_ms, drops).await?;
    }
    summary.deleted = delete_what_is_due(log, &mut state, now_unix_ms, None).await?;
    if !open.is_empty() {
        let commit = Commit {
            unix_ms: now_unix_ms,
            finished: open,
            ..Commit::default()
        };
        // Whatever came in between brought no row of theirs.
        for _ in 0..LOST_MAX {
            match log.append(&mut state, commit.clone()).await? {
                Append::Won => return Ok(summary),
                Append::Lost => log.catch_up(&mut state).await?,
            }
        }
        return Err(CommitError::Crowded { tries: LOST_MAX }.into());
    }
    Ok(summary)
}

/// The tenants whose erasure was asked for.
async fn asked(log: &Log) -> Result<Vec<String>, CompactError> {
    let mut tenants = Vec::new();
    for meta in log.store().list(&Path::from("erasures"), None).await? {
        let Some(bytes) = log.store().get_if_there(&meta.location).await? else {
            continue;
        };
        let order: Order = serde_json::from_slice(&bytes).map_err(|error| CommitError::Broken {
            key: meta.location.to_string(),
            reason: error.to_string(),
        })?;
        tenants.push(order.tenant);
    }
    Ok(tenants)
}

#[derive(serde::Deserialize)]
struct Order {
    tenant: String,
}

/// Commits that nobody takes records of the tenant any more.
async fn announce(
    log: &Log,
    state: &mut State,
    tenant: &str,
    now_unix_ms: u64,
) -> Result<(), CompactError> {
    while !state.erased().contains_key(tenant) {
        let commit = Commit {
            unix_ms: now_unix_ms,
            erased: vec![tenant.to_owned()],
            ..Commit::default()
        };
        append(log, state, state.generation(), commit).await?;
    }
    Ok(())
}
