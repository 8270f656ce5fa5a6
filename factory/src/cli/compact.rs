//! `compact`: segments become files, once or again and again.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use outstation_wire::seal::FactoryKey;

use crate::clean::{CleanOptions, clean};
use crate::commits::Log;
use crate::compact::{BadSegments, CompactError, CompactOptions, Compactor, Shard};
use crate::merge::{MergeOptions, merge};
use crate::retain::retain;
use crate::store::Store;

/// What `compact` does.
#[derive(Debug, Clone, Args)]
pub struct CompactArgs {
    /// MiB of segments in one commit; memory is about five times as much.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch_mib: u64,
    /// Fewer MiB than these wait for more, for a quarter of an hour at most.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    wait_for_mib: u64,
    /// Serve only part I of N of the boxes, from 0: compactors with different parts never do the same work.
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = shard)]
    shard: Shard,
    /// Read segments again that could not be read before, since a key or a later program came.
    #[arg(long)]
    retry_bad: bool,
    /// Days that segments stay after their records are in files.
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    grace_days: u64,
    /// Do not merge small files, and delete nothing: neither segments after their grace, nor what retention takes away.
    #[arg(long)]
    keep_all: bool,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/');
    let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match numbers {
        Some((index, count)) if index < count => Ok(Shard { index, count }),
        _ => Err("write it like 0/4: the part, from 0, and how many parts there are".to_owned()),
    }
}

/// Takes what there is and tidies up. Gives a line for people.
pub async fn run(
    args: &CompactArgs,
    store: &Store,
    keys: Arc<[FactoryKey]>,
    now_unix_ms: u64,
) -> Result<String, CompactError> {
    let log = Log::new(store.clone(), Log::any_writer());
    let options = CompactOptions {
        batch_bytes_max: args.batch_mib << 20,
        batch_bytes_min: args.wait_for_mib << 20,
        shard: args.shard,
        bad: if args.retry_bad {
            BadSegments::TriedAgain
        } else {
            BadSegments::LeftAlone
        },
        ..CompactOptions::default()
    };
    let done = Compactor::new(log.clone(), keys, options)
        .run(now_unix_ms)
        .await?;
    let mut line = format!(
        "{} segments ({} bytes) became {} rows in {} files ({} bytes); {} records were there before, {} of erased \
         tenants were dropped",
        done.segments,
        done.segment_bytes,
        done.rows,
        done.files,
        done.file_bytes,
        done.duplicates,
        done.erased
    );
    if done.bad > 0 {
        let bad = done.bad;
        line = format!(
            "{line}{}",
            format_args!("\n{bad} segments cannot be read: `files --bad` says why")
        );
    }
    if !args.keep_all {
        let options = CleanOptions {
            segment_grace: Duration::from_hours(24 * args.grace_days),
            ..CleanOptions::default()
        };
        let retained = retain(&log, now_unix_ms).await?;
        let merged = merge(&log, MergeOptions::default(), now_unix_ms).await?;
        let (_, cleaned) = clean(&log, options, now_unix_ms).await?;
        let rows = retained.rewritten.rows;
        let objects = retained.deleted.objects + cleaned.objects;
        let (before, after) = (merged.before, merged.after);
        line = format!(
            "{line}{}",
            format_args!(
                "\n{rows} rows were old enough to go, {before} small files became {after}, {objects} objects were deleted"
            )
        );
    }
    Ok(line)
}
