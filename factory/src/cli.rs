//! The command line around the factory. Exit codes are those of the box: 0 done; 64 usage; 65 bad input; 69 a needed
//! service is missing; 74 I/O; 78 configuration.
#![expect(
    clippy::print_stderr,
    reason = "a command line has somebody who reads its errors"
)]

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::chat::Chat;
use crate::export::ExportError;
use crate::keys::{Keys, KeysError};
use crate::ota::OtaError;
use crate::store::{Store, StoreError};

mod bench;
mod bundle;
pub mod compact;
mod demo;
mod devices;
pub mod erase;
mod eval;
pub mod export;
pub mod files;
mod keys;
mod publish;
pub mod retain;
mod rollout;
mod rounds;
mod serve;
mod train;

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
    /// Turn segments into files of records, and delete what has had its time.
    Compact {
        #[command(flatten)]
        args: compact::CompactArgs,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        keys: KeysArgs,
    },
    /// Write what training reads.
    Export {
        #[command(flatten)]
        args: export::ExportArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the files of records that count, for other programs.
    Files {
        #[command(flatten)]
        args: files::FilesArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Say how long records stay, and delete those that have been here longer.
    Retain {
        #[command(flatten)]
        args: retain::RetainArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Delete everything of a tenant, for good.
    Erase {
        #[command(flatten)]
        args: erase::EraseArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Train a model, or an adapter for one.
    Train(Box<train::TrainArgs>),
    /// Ask a served model, and say how many answers are right.
    Eval(eval::EvalArgs),
    /// Make an adapter of what boxes found hard, try it on a ring, and give it to the others.
    Loop(rounds::LoopArgs),
    /// Show cases of the loop to a person who knows the right answers.
    Review(rounds::ReviewArgs),
    /// Sentences of the demo's task, and the right answers to them.
    Demo(demo::DemoArgs),
    /// Make keys that sign what is released, and say which of them count.
    Keys(keys::KeysCommandArgs),
    /// Release a model or an adapter.
    Publish(publish::PublishArgs),
    /// Say which boxes are to run what is released, and when; see how far they are; stop.
    Rollout(Box<rollout::RolloutArgs>),
    /// Copy what a ring needs to a stick.
    Bundle(bundle::BundleArgs),
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
/// A file that cannot be used.
pub(crate) const INPUT: u8 = 65;
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
            StoreError::Address { .. } | StoreError::Links { .. } => CONFIG,
            StoreError::Folder { .. } | StoreError::Conflict { .. } => IO,
        };
        Self::new(code, error.to_string())
    }
}

impl From<OtaError> for Failure {
    fn from(error: OtaError) -> Self {
        let code = match error {
            OtaError::Store(error) => return error.into(),
            OtaError::NoRoot | OtaError::Threshold { .. } => CONFIG,
            OtaError::Raced { .. } => UNAVAILABLE,
            OtaError::Document { .. } | OtaError::Input { .. } => INPUT,
            OtaError::File { .. } => IO,
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

/// The command line, for its manual page.
pub fn command() -> clap::Command {
    Cli::command()
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
        Command::Keys(args) => keys::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Rollout(args) => rollout::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Loop(args) => rounds::run(&args),
        Command::Review(args) => rounds::label(&args),
        Command::Demo(args) => demo::run(&args),
        command => data(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("outstation-factory: {}", failure.message);
            failure.code.into()
        }
    }
}

/// The commands that work on what is stored.
fn data(command: &Command) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(IO, e.to_string());
    let now = crate::clock::unix_ms();
    runtime(2)?.block_on(async {
        let line = match command {
            Command::Compact { args, store, keys } => {
                let keys = [Keys::load(&keys.keys)?.segment].into();
                let store = open_store(store)?;
                let done = compact::run(args, &store, keys, now).await;
                done.map_err(|e| failed(&e))?
            }
            Command::Export { args, store } => {
                let done = export::run(args, &open_store(store)?, now).await;
                let done = done.map_err(|e| match e {
                    ExportError::Query(_) => Failure::new(USAGE, e.to_string()),
                    _ => failed(&e),
                });
                // What was asked for may be on standard output.
                eprintln!("{}", done?);
                return Ok(());
            }
            Command::Files { args, store } => {
                let done = files::run(args, &open_store(store)?).await;
                done.map_err(|e| failed(&e))?
            }
            Command::Retain { args, store } => {
                let done = retain::run(args, &open_store(store)?, now).await;
                done.map_err(|e| failed(&e))?
            }
            Command::Erase { args, store } => {
                let done = erase::run(args, &open_store(store)?, now).await;
                done.map_err(|e| failed(&e))?
            }
            _ => unreachable!("they are not about what boxes saw"),
        };
        show(&format!("{line}\n"))
    })
}

/// Prints at once. A reader that closed the pipe has had enough, which is no failure: the program ends.
fn show(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| Failure::io("cannot write", e)),
    }
}

/// Chats of a file, and its text.
#[expect(clippy::disallowed_methods, reason = "chats are a file")]
fn read_chats(file: &std::path::Path) -> Result<(Vec<Chat>, String), Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::io(file.display(), e))?;
    let chats = crate::chat::read(&text)
        .map_err(|(line, why)| Failure::new(INPUT, format!("{}:{line}: {why}", file.display())))?;
    Ok((chats, text))
}

/// Opens a folder, or what an address names. Credentials come from the environment, under the names of each provider.
fn open_store(args: &StoreArgs) -> Result<Store, Failure> {
    Ok(Store::open(&args.store)?)
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    built.map_err(|e| Failure::io("cannot start the runtime", e))
}
