//! The command line around the box. `main` maps every error to one exit code, in `exit`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a command line has a clock, files, and somebody who reads its errors"
)]

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::ByteSize;

mod ask;
mod bench;
mod doctor;
mod enrol;
mod exit;
mod keys;
mod load;
mod logging;
mod models;
mod npy;
mod progress;
mod run;
mod serve;
mod settings;
mod station;
mod status;
mod tokenize;
mod trial;

pub use exit::Failure;

/// Serves quantized language models to edge apps over QUIC, out of a memory budget fixed at start.
#[derive(Debug, Parser)]
#[command(name = "outstation", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model; without arguments a demo model on loopback.
    Serve(ServeArgs),
    /// Print the memory budget as a table; exit 78 when it does not fit, with what to change.
    Check(CheckArgs),
    /// Generate from a prompt in this process, without a server.
    Run(run::RunArgs),
    /// Turn lines of text into lines of token ids, or back.
    Tokenize(tokenize::TokenizeArgs),
    /// Measure prompt and decode speed, and the share of the machine's read bandwidth that decode reaches.
    Bench(bench::BenchArgs),
    /// Ask a running outstation, over QUIC.
    Ask(ask::AskArgs),
    /// Join the fleet of a factory, with the one-time code that it gave out.
    Enrol(enrol::EnrolArgs),
    /// What a running box is doing.
    Status(status::StatusArgs),
    /// What is wrong with this box, and how to mend it; exit 1 when something is.
    Doctor(doctor::DoctorArgs),
    /// The models of a running box: what serves, what is on its way, and what to do with it.
    Models(models::ModelsArgs),
    /// The keys of apps that may ask a box over HTTP.
    Keys(keys::KeysArgs),
    /// Write down what a model says of prompts, for its manifest.
    Golden(trial::GoldenArgs),
    /// Write the demo model, a GGUF file, to standard output: to publish it, or to train it further.
    DemoModel,
    /// Load and test a model as a serving box does before it tries it.
    #[command(hide = true)]
    Try(trial::TryArgs),
}

/// Settings that flags override.
#[derive(Debug, Clone, Default, Args)]
struct ServeArgs {
    /// TOML configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// GGUF file [model.file].
    #[arg(long, value_name = "FILE.gguf")]
    model: Option<PathBuf>,
    /// A LoRA adapter to serve as `<model>:NAME`, GGUF or PEFT's folder; can be repeated [adapters.files].
    #[arg(long, value_name = "NAME=FILE")]
    adapter: Vec<String>,
    /// UDP address of the native protocol [listen.quic].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// TCP address of HTTP/1.1 [listen.http].
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Ceiling of all memory, like 6GiB [memory.limit].
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Ceiling of what is taken of a GPU's own memory [memory.gpu_limit].
    #[arg(long, value_name = "SIZE")]
    gpu_memory: Option<ByteSize>,
    /// Tokens of one sequence, prompt and answer [serving.context_tokens_max].
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Sequences that run at once [serving.sequences_max].
    #[arg(long, value_name = "N")]
    sequences: Option<u32>,
    /// What computes: cpu, cuda, or cuda:1 for the second GPU [engine.device].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads of the kernel team [engine.threads].
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    /// Format of keys and values, f16, q8_0 or i16 [engine.kv].
    #[arg(long, value_name = "FORMAT")]
    kv: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// The command line, for its manual page.
pub fn command() -> clap::Command {
    Cli::command()
}

fn demo_model() -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        let message = "a model is no text: `outstation demo-model > demo.gguf`";
        return Err(Failure::new(exit::USAGE, message));
    }
    let written = out
        .write_all(crate::demo::model())
        .and_then(|()| out.flush());
    written.map_err(|e| Failure::io("cannot write", e))
}

/// Parses arguments, runs the command, and says what went wrong in one sentence.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Check(args) => check(&args),
        Command::Run(args) => run::run(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Ask(args) => ask::ask(&args),
        Command::Enrol(args) => enrol::enrol(&args),
        Command::Status(args) => status::status(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Models(args) => models::models(&args),
        Command::Keys(args) => keys::keys(&args),
        Command::Golden(args) => trial::golden(&args),
        Command::DemoModel => demo_model(),
        Command::Try(args) => trial::try_model(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("outstation: {}", failure.message);
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

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = settings::read(&args.serve)?;
    let loaded = load::model(&config.model)?;
    let budget = load::budget(&config, &loaded)?;
    if args.json {
        show(&format!(
            "{}\n",
            serde_json::to_string(&budget).expect("numbers and strings")
        ))?;
    } else {
        show(&format!("{budget}\n"))?;
    }
    Ok(())
}

/// The io thread's runtime: everything but the engine runs on the calling thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Long prompts are tokenized there, beside an engine that wants the cores.
        .max_blocking_threads(2)
        .build()
        .map_err(|e| Failure::io("cannot start the io thread", e))
}
