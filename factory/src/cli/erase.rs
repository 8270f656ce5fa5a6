//! `erase`: a tenant's records are gone, and stay away.

use clap::Args;

use crate::commits::Log;
use crate::compact::CompactError;
use crate::erase::{erase, readmit};
use crate::store::Store;

/// What `erase` does.
#[derive(Debug, Clone, Args)]
pub struct EraseArgs {
    /// Whose records, as the column `tenant` has it.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    tenant: String,
    /// Take records of the tenant again from here on. What was erased does not come back.
    #[arg(long)]
    readmit: bool,
}

/// Erases. Gives a line for people.
pub async fn run(
    args: &EraseArgs,
    store: &Store,
    now_unix_ms: u64,
) -> Result<String, CompactError> {
    let log = Log::new(store.clone(), Log::any_writer());
    let tenant = &args.tenant;
    if args.readmit {
        readmit(&log, tenant, now_unix_ms).await?;
        return Ok(format!("records of {tenant} are taken again"));
    }
    let done = erase(&log, tenant, now_unix_ms).await?;
    Ok(format!(
        "{} rows of {tenant} are gone from {} files, and {} objects were deleted; segments that no compactor took yet \
         lose theirs when one does",
        done.rewritten.rows, done.rewritten.files, done.deleted.objects
    ))
}
