//! The updater of a box behind the command line of the TUF project's conformance suite (its CLIENT-CLI.md):
//!
//! ```text
//! tuf-client --metadata-dir D init ROOT
//! tuf-client --metadata-dir D --metadata-url U refresh
//! tuf-client --metadata-dir D --metadata-url U --target-name N --target-base-url B --target-dir T download
//! ```
//!
//! Exit code 0 or 1; the trusted metadata lies in D under its names without versions. What fetches, verifies and stores
//! is the box's own; only the command line is not.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a program of a few files and the clock"
)]

use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use outstation::io::disk::Folder;
use outstation::io::ota::client::{ROOT, Releases, Shared};
use outstation::io::ota::metadata::MetadataFolder;
use outstation::io::ota::source::{Source, Want};
use outstation::io::ota::web::Web;
use outstation::slot::Floors;

/// The suite's command line.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long, short)]
    verbose: bool,
    /// Where the trusted metadata lies.
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long)]
    metadata_url: Option<String>,
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[arg(long)]
    target_base_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Begins with a root.
    Init {
        /// Its file.
        root: PathBuf,
    },
    /// Brings the metadata up to date.
    Refresh,
    /// The same, and fetches targets.
    Download,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuf-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let store = MetadataFolder::new(Folder::open(&args.metadata_dir)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match &args.command {
        Command::Init { root } => Ok(store.put(ROOT, &std::fs::read(root)?)?),
        Command::Refresh => runtime.block_on(refresh(args, &store)).map(drop),
        Command::Download => runtime.block_on(download(args, &store)),
    }
}

async fn refresh(args: &Args, store: &MetadataFolder<Folder>) -> anyhow::Result<Releases> {
    let url = args
        .metadata_url
        .as_deref()
        .context("--metadata-url is missing")?;
    let web = Web::new(url, None)?;
    let source = Shared::new(Source::Web(web)).with_folders("", "");
    let now = jiff::Timestamp::now();
    let (releases, _) = Releases::refresh(source, store, None, &Floors::default(), now).await?;
    Ok(releases)
}

async fn download(args: &Args, store: &MetadataFolder<Folder>) -> anyhow::Result<()> {
    let mut releases = refresh(args, store).await?;
    let folder = args
        .target_dir
        .as_deref()
        .context("--target-dir is missing")?;
    let url = args
        .target_base_url
        .as_deref()
        .context("--target-base-url is missing")?;
    let source = Shared::new(Source::Web(Web::new(url, None)?));
    for name in &args.target_name {
        let place = releases.place(name).await?;
        let file = folder.join(below(name));
        if std::fs::read(&file).is_ok_and(|bytes| place.is(&bytes)) {
            continue;
        }
        let mut bytes = Vec::new();
        let want = Want::Whole {
            bytes_max: place.bytes(),
        };
        source
            .fetch(place.path(), want, &mut |piece| {
                bytes.extend_from_slice(piece);
            })
            .await?;
        if !place.is(&bytes) {
            bail!("{name} has other bytes than those that were signed");
        }
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, bytes)?;
    }
    Ok(())
}

/// A target's name as a path that cannot leave the folder.
fn below(name: &str) -> PathBuf {
    let path = Path::new(name);
    let plain = |part: Component<'_>| match part {
        Component::Normal(part) => Some(PathBuf::from(part)),
        _ => None,
    };
    path.components().filter_map(plain).collect()
}
