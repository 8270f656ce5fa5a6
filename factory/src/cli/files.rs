//! `files`: which files count, for engines that are told what to read.

use clap::Args;

use crate::commits::{CommitError, Log};
use crate::store::Store;

/// What `files` shows.
#[derive(Debug, Clone, Args)]
pub struct FilesArgs {
    /// The table: inference, feedback, gap or event.
    #[arg(long, value_name = "NAME", default_value = "inference",
        value_parser = ["inference", "feedback", "gap", "event"])]
    table: String,
    /// Segments that cannot be read, and why, instead of files.
    #[arg(long)]
    bad: bool,
}

/// Keys of the files that count, one a line, below the store's address.
pub async fn run(args: &FilesArgs, store: &Store) -> Result<String, CommitError> {
    let state = Log::new(store.clone(), Log::any_writer()).read().await?;
    let lines: Vec<String> = if args.bad {
        let bad = state.bad().values();
        bad.map(|bad| {
            format!(
                "{}: {} ({} records were read)",
                bad.key, bad.reason, bad.records
            )
        })
        .collect()
    } else {
        let files = state
            .files()
            .values()
            .filter(|file| file.table == args.table);
        files.map(|file| file.key.clone()).collect()
    };
    Ok(lines.join("\n"))
}
