//! `outstation-factory bundle`: what a ring needs, on a stick.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::publish::{Bar, name};
use super::{Failure, StoreArgs};
use crate::clock::unix_ms;
use crate::fleet::size;
use crate::ota::bundle::bundle;
use crate::ota::repository::Repository;
use crate::ota::signing::load_all;

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// The ring whose rollout is copied.
    #[arg(long, value_parser = name)]
    ring: String,
    /// Where to; what is there already is kept.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is good, with --timestamp-key. Without, as long as the factory's own timestamp.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = super::devices::time)]
    expires: Duration,
    /// Key of the timestamp; again for more.
    #[arg(long = "timestamp-key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &BundleArgs) -> Result<(), Failure> {
    super::runtime(1)?.block_on(async {
        let repository = Repository::new(super::open_store(&args.store)?);
        let keys = load_all(&args.keys)?;
        let now = unix_ms() / 1000;
        let mut bar = Bar::default();
        let expires = now + args.expires.as_secs();
        let done = bundle(
            &repository,
            &args.ring,
            &args.out,
            (&keys, expires),
            (now, &mut bar),
        );
        let done = done.await;
        bar.end();
        let done = done?;
        super::show(&format!(
            "{}: {} files with {} written, {} were there; boxes take it until {}\n",
            args.out.display(),
            done.files,
            size(done.bytes),
            done.kept,
            super::keys::date(done.expires_unix_s)
        ))
    })
}
