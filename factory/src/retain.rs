//! Retention: how long records stay, by tenant.

use std::collections::BTreeMap;

use object_store::PutPayload;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::clean::{CleanSummary, delete_what_is_due, forget};
use crate::commits::{CommitError, Log, Output};
use crate::compact::CompactError;
use crate::days::Day;
use crate::rewrite::{RewriteSummary, rewrite};

/// How long records stay after their day. `retention.json`, the one object that is overwritten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Days of tenants that are not listed, and of records of nobody. `None`: for good.
    #[serde(default)]
    pub default_days: Option<u32>,
    /// Days of tenants.
    #[serde(default)]
    pub tenants: BTreeMap<String, u32>,
}

impl Retention {
    /// What the store says; without the object everything stays.
    pub async fn read(log: &Log) -> Result<Self, CommitError> {
        let key = key();
        let Some(bytes) = log.store().get_if_there(&key).await? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| CommitError::Broken {
            key: key.to_string(),
            reason: error.to_string(),
        })
    }

    /// Puts it into the store.
    pub async fn write(&self, log: &Log) -> Result<(), CommitError> {
        let bytes = serde_json::to_vec_pretty(self).expect("its map has names as keys");
        Ok(log
            .store()
            .overwrite(&key(), PutPayload::from(bytes))
            .await?)
    }

    /// Days of a tenant.
    pub fn days(&self, tenant: &str) -> Option<u32> {
        self.tenants.get(tenant).copied().or(self.default_days)
    }

    fn is_over(&self, file: &Output, tenant: &str, today: Day) -> bool {
        let day: Result<Day, _> = file.day.parse();
        let days = self.days(tenant);
        day.is_ok_and(|day| days.is_some_and(|days| day.plus(days) < today))
    }
}

fn key() -> Path {
    Path::from("retention.json")
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetainSummary {
    /// Files and their rows.
    pub rewritten: RewriteSummary,
    /// Objects that were deleted.
    pub deleted: CleanSummary,
    /// Segments that could not be read and are as old as the default allows, deleted.
    pub bad: u64,
}

/// Takes away what has stayed long enough.
pub async fn retain(log: &Log, now_unix_ms: u64) -> Result<RetainSummary, CompactError> {
    let retention = Retention::read(log).await?;
    let today = Day::of_unix_ms(now_unix_ms);
    let mut state = log.read().await?;
    let drops = |file: &Output, tenant: &str| retention.is_over(file, tenant, today);
    let mut summary = RetainSummary {
        rewritten: rewrite(log, &mut state, now_unix_ms, drops).await?,
        ..RetainSummary::default()
    };
    let mut over = Vec::new();
    if let Some(days) = retention.default_days {
        for key in state.bad().keys() {
            if arrived(log, key)
                .await?
                .is_none_or(|day| day.plus(days) < today)
            {
                log.store().delete(&Path::from(key.as_str())).await?;
                over.push(key.clone());
            }
        }
    }
    summary.bad = over.len() as u64;
    forget(log, &mut state, now_unix_ms, over).await?;
    summary.deleted = delete_what_is_due(log, &mut state, now_unix_ms, None).await?;
    Ok(summary)
}

/// The day on which a segment arrived; `None`: it is gone.
async fn arrived(log: &Log, key: &str) -> Result<Option<Day>, CompactError> {
    let meta = log.store().head_if_there(&Path::from(key)).await?;
    Ok(meta.map(|meta| {
        let unix_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        Day::of_unix_ms(unix_ms)
    }))
}
