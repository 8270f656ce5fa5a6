//! `export`: what training reads.

use clap::Args;

use crate::commits::Log;
use crate::export::{Duplicates, ExportError, ExportOptions, Format, Out, export};
use crate::store::Store;

/// What `export` does.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The form.
    #[arg(long, value_enum, default_value_t = Format::ChatJsonl)]
    format: Format,
    /// Which requests: words like `flagged`, `random`, `liked`, `disliked`, `corrected`, `flag=truncated`,
    /// `workload=support`, `tenant=acme`, `model=NAME`, `since=2026-03-01`, `until=2026-04-01`, with `and`, `or`, `not`
    /// and brackets. Given twice, both must hold.
    #[arg(long = "where", value_name = "QUERY")]
    queries: Vec<String>,
    /// Where to; `-` is standard output. A manifest is written beside a file.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: String,
    /// Take every request, even if another asks the same.
    #[arg(long)]
    duplicates: bool,
    /// Samples at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Exports. Gives a line for people.
pub async fn run(
    args: &ExportArgs,
    store: &Store,
    now_unix_ms: u64,
) -> Result<String, ExportError> {
    let query = match &args.queries[..] {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("({})", many.join(") and (")),
    };
    let options = ExportOptions {
        format: args.format,
        query,
        out: match args.out.as_str() {
            "-" => Out::Stdout,
            path => Out::File(path.into()),
        },
        duplicates: if args.duplicates {
            Duplicates::Kept
        } else {
            Duplicates::Dropped
        },
        limit: args.limit,
    };
    let log = Log::new(store.clone(), Log::any_writer());
    let made = export(&log, &options, now_unix_ms).await?;
    Ok(format!(
        "{} samples of {} requests as of commit {}: {} without content, {} not chosen, {} without what {} needs, \
         {} that ask the same",
        made.samples,
        made.requests,
        made.commit,
        made.without_content,
        made.not_chosen,
        made.unfit,
        made.format,
        made.duplicates
    ))
}
