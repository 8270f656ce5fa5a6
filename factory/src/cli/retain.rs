//! `retain`: how long records stay.

use clap::Args;

use crate::commits::Log;
use crate::compact::CompactError;
use crate::retain::{Retention, retain};
use crate::store::Store;

/// What `retain` does. Without options: what the rules say.
#[derive(Debug, Clone, Args)]
pub struct RetainArgs {
    /// First change the rule: records stay so many days after their own.
    #[arg(long, value_name = "DAYS", conflicts_with = "forever")]
    days: Option<u32>,
    /// First change the rule: records stay for good, or, of a tenant, as long as those of the others.
    #[arg(long)]
    forever: bool,
    /// The rule of this tenant, not the one for all without a rule of their own.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// Changes the rule if asked to, and takes away what is over. Gives lines for people.
pub async fn run(
    args: &RetainArgs,
    store: &Store,
    now_unix_ms: u64,
) -> Result<String, CompactError> {
    let log = Log::new(store.clone(), Log::any_writer());
    let mut rules = Retention::read(&log).await?;
    if args.days.is_some() || args.forever {
        match (&args.tenant, args.days) {
            (None, days) => rules.default_days = days,
            (Some(tenant), Some(days)) => {
                rules.tenants.insert(tenant.clone(), days);
            }
            (Some(tenant), None) => {
                rules.tenants.remove(tenant);
            }
        }
        rules.write(&log).await?;
    }
    let done = retain(&log, now_unix_ms).await?;
    let days =
        |days: Option<u32>| days.map_or("for good".to_owned(), |days| format!("{days} days"));
    let mut lines = format!("records stay {}", days(rules.default_days));
    for (tenant, &own) in &rules.tenants {
        lines = format!(
            "{lines}{}",
            format_args!(", those of {tenant} {}", days(Some(own)))
        );
    }
    Ok(format!(
        "{lines}\n{} rows are gone from {} files, and {} objects were deleted",
        done.rewritten.rows,
        done.rewritten.files,
        done.deleted.objects + done.bad
    ))
}
