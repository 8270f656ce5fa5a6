//! The command line around the factory. Exit codes are those of the box: 0 done; 64 usage; 65 bad input; 69 a needed
//! service is missing; 74 I/O; 78 configuration.
#![expect(
    clippy::print_stderr,
    reason = "a command line has somebody who reads its errors"
)]

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::keys::KeysError;
use crate::store::{Store, StoreError};

mod bench;
mod devices;
mod serve;

/// Takes what boxes saw into an object store, and makes of it what training reads.
#[derive(Debug, Parser)]
#[command(name = "outstation-factory", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take segments of boxes, over QUIC, and show the fleet, over HTTP.
    Serve(serve::ServeArgs),
    /// Add boxes to the fleet, look at them, send them away.
    Devices(devices::DevicesArgs),
    /// Send segments of many boxes to a running replica, as fast as it takes them.
    #[command(hide = true)]
    BenchIngest(bench::BenchArgs),
}

/// Where the store is.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// A folder, or the address of an object store like s3://bucket/prefix.
    #[arg(long, value_name = "DIR|URL", default_value = "factory-store")]
    pub(crate) store: String,
}

/// Where the keys are.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysArgs {
    /// Folder of the factory's keys. The first `serve` makes them.
    #[arg(long, value_name = "DIR", default_value = "factory-keys")]
    pub(crate) keys: PathBuf,
}

/// Wrong arguments.
pub(crate) const USAGE: u8 = 64;
/// A service that does not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Reading or writing failed.
pub(crate) const IO: u8 = 74;
/// Configuration.
pub(crate) const CONFIG: u8 = 78;

/// Why a command ended, for people and for systemd.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn io(what: impl std::fmt::Display, source: std::io::Error) -> Self {
        Self::new(IO, format!("{what}: {source}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Store { .. } => UNAVAILABLE,
            StoreError::Folder { .. } | StoreError::Conflict { .. } => IO,
        };
        Self::new(code, error.to_string())
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        let code = match &error {
            KeysError::File { .. } => IO,
            _ => CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

/// Parses arguments, runs the command, and says what went wrong in one sentence.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Devices(args) => devices::devices(&args),
        Command::BenchIngest(args) => bench::bench(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("outstation-factory: {}", failure.message);
            failure.code.into()
        }
    }
}

/// Prints at once. A reader that closed the pipe has had enough, which is no failure: the program ends.
fn show(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| Failure::io("cannot write", e)),
    }
}

/// Opens a folder, or what an address names. Credentials come from the environment, under the names of each provider.
fn open_store(args: &StoreArgs) -> Result<Store, Failure> {
    let place = &args.store;
    let Some((scheme, rest)) = place.split_once("://") else {
        return Ok(Store::folder(Path::new(place))?);
    };
    if scheme == "file" {
        return Ok(Store::folder(Path::new(rest))?);
    }
    let bad = |what: String| {
        let help = "write a folder, or s3://, gs:// or az:// with a factory that was built with this feature";
        Failure::new(CONFIG, format!("--store {place}: {what}; {help}"))
    };
    let url = url::Url::parse(place).map_err(|e| bad(e.to_string()))?;
    let settings = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let (objects, prefix) =
        object_store::parse_url_opts(&url, settings).map_err(|e| bad(e.to_string()))?;
    let objects = object_store::prefix::PrefixStore::new(objects, prefix);
    Ok(Store::new(std::sync::Arc::new(objects)))
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    built.map_err(|e| Failure::io("cannot start the runtime", e))
}
