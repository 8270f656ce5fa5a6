//! `outstation-factory publish`: a file becomes a release.
#![expect(clippy::disallowed_methods, reason = "golden texts come from a file")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use outstation_wire::gguf::Gguf;
use outstation_wire::hex::unhex;
use outstation_wire::release::{Golden, Manifest, check_name};

use super::keys::PendingArgs;
use super::{Failure, INPUT, StoreArgs, USAGE};
use crate::clock::unix_ms;
use crate::fleet::size;
use crate::ota::peft::{Shape, convert, is_peft};
use crate::ota::pending::{Pending, Went};
use crate::ota::publish::{Base, Facts, Progress, Released, manifest, publish};
use crate::ota::repository::{Repository, State};
use crate::ota::signing::load_all;
use crate::ota::source::Source;
use crate::ota::{OtaError, Role};

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// A model, GGUF, or an adapter, GGUF or a folder of PEFT's.
    #[arg(value_name = "FILE", required_unless_present = "commit")]
    file: Option<PathBuf>,
    /// What it is called: releases of a name follow each other.
    #[arg(long, value_parser = name, required_unless_present = "commit")]
    name: Option<String>,
    /// Its number. Default: the one after the last.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    release: Option<u64>,
    /// The model that an adapter belongs to: its file, its BLAKE3, or NAME@RELEASE.
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Classes of machines that it is for, like cpu,cuda. Default: any.
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    hardware: Vec<String>,
    /// Texts that it must find as likely on the box, as `outstation golden` writes them.
    #[arg(long, value_name = "FILE.json")]
    golden: Option<PathBuf>,
    /// A file that boxes have: what differs from it is offered, too. Again for more.
    #[arg(long, value_name = "OLD.gguf")]
    against: Vec<PathBuf>,
    /// SPDX expression or a name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    licence: String,
    /// A key; each signs what it may. Again for more.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Store what waited for signatures, and nothing else.
    #[arg(long, conflicts_with_all = ["file", "name"])]
    commit: bool,
    #[command(flatten)]
    pending: PendingArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

pub(super) fn run(args: &PublishArgs) -> Result<(), Failure> {
    super::runtime(2)?.block_on(async {
        let repository = Repository::new(super::open_store(&args.store)?);
        let line = match (&args.file, &args.name) {
            (Some(file), Some(name)) => release(args, &repository, file, name).await?,
            _ => super::keys::commit_pending(&repository, &args.pending, &args.keys).await?,
        };
        super::show(&line)
    })
}

async fn release(
    args: &PublishArgs,
    repository: &Repository,
    file: &Path,
    name: &str,
) -> Result<String, Failure> {
    let keys = load_all(&args.keys)?;
    let golden = args.golden.as_deref().map(golden).transpose()?;
    let source = match &args.base {
        Some(base) if is_peft(file) => peft(file, base)?,
        _ => Source::open(file)?,
    };
    let against = args.against.iter().map(|path| Source::open(path));
    let against: Vec<_> = against.collect::<Result<_, _>>()?;
    let base = match &args.base {
        Some(base) => Some(find_base(base, repository, &repository.read().await?).await?),
        None => None,
    };
    let facts = Facts {
        name: name.to_owned(),
        release: args.release,
        base,
        hardware: args.hardware.clone(),
        golden: golden.unwrap_or_default(),
        licence: args.licence.clone(),
    };
    let pending = Pending::new(&args.pending.pending);
    let mut bar = Bar::default();
    let files = (&source, against.as_slice());
    let released = publish(
        repository,
        &pending,
        files,
        &facts,
        &keys,
        (unix_ms(), &mut bar),
    )
    .await;
    bar.end();
    let released = released?;
    let mut line = said(&released);
    if !matches!(released.went, Some(Went::Waits { .. })) {
        line.push_str(&super::keys::refresh(repository, &keys).await?);
        line.push('\n');
    }
    Ok(line)
}

/// A folder of PEFT's, in the form of its base.
fn peft(folder: &Path, base: &str) -> Result<Source, Failure> {
    let path = Path::new(base);
    if !path.exists() {
        let message = format!(
            "--base {base}: name the model's file, its heads say how an adapter of PEFT's becomes GGUF"
        );
        return Err(Failure::new(USAGE, message));
    }
    let source = Source::open(path)?;
    let head = source.head()?;
    let gguf = Gguf::parse_head(&head, source.bytes()).map_err(|e| OtaError::input(base, e))?;
    Ok(convert(folder, &Shape::of(&gguf)?)?)
}

fn said(released: &Released) -> String {
    let target = &released.manifest;
    match &released.went {
        None => format!("{target} was released before; "),
        Some(went) => {
            let written = released.written;
            let mut line = format!(
                "{target}: {} new packs with {}, {} were there; a box fetches {}",
                written.packs,
                size(written.bytes),
                size(written.reused_bytes),
                size(released.fetch.full),
            );
            if released.patches > 0 {
                let against = size(released.fetch.against);
                let _ = write!(
                    line,
                    ", or {against} where it has what this was published against"
                );
            }
            line.push('\n');
            line.push_str(&waits(went));
            line
        }
    }
}

/// What is missing before boxes see it.
pub(super) fn waits(went: &Went) -> String {
    match went {
        Went::Stored => String::new(),
        Went::Waits {
            path,
            found,
            needed,
        } => format!(
            "{} has {found} of {needed} signatures: sign it with `outstation-factory keys sign {0} --key KEY`, then \
             `outstation-factory publish --commit`\n",
            path.display()
        ),
    }
}

fn golden(path: &Path) -> Result<Vec<Golden>, Failure> {
    let bytes = std::fs::read(path).map_err(|e| OtaError::file(path, e))?;
    let wrong = |e| {
        Failure::new(
            INPUT,
            format!(
                "{}: {e}: `outstation golden` writes such files",
                path.display()
            ),
        )
    };
    serde_json::from_slice(&bytes).map_err(wrong)
}

async fn find_base(base: &str, repository: &Repository, state: &State) -> Result<Base, Failure> {
    let of = |manifest: Manifest| Base {
        digest: manifest.file.blake3,
        tokenizer: manifest.tokenizer,
    };
    let wrong = |what: &str| Failure::new(USAGE, format!("--base {base}: {what}"));
    if let Some((name, release)) = base.rsplit_once('@')
        && let Ok(release) = release.parse()
    {
        let path = Manifest::path_of(name, release);
        let found = manifest(repository, state, &path).await?;
        return found.map(of).ok_or_else(|| wrong("it is not released"));
    }
    if let Some(digest) = unhex::<32>(base) {
        for path in state
            .targets(Role::Models)
            .keys()
            .filter(|path| path.starts_with("manifest/"))
        {
            let found = manifest(repository, state, path).await?;
            if let Some(found) =
                found.filter(|found| found.base().is_none() && found.digest() == digest)
            {
                return Ok(of(found));
            }
        }
        return Err(wrong(
            "no model of this digest is released: name its file instead",
        ));
    }
    let source = Source::open(Path::new(base))?;
    let mut bar = Bar::default();
    bar.begin("reading the base", source.bytes());
    let found = Base::of(&source, &mut |bytes| bar.done(bytes));
    bar.end();
    Ok(found?)
}

/// A bar with bytes a second and the time left, where somebody watches.
#[derive(Debug, Default)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn begin(&mut self, what: &str, bytes: u64) {
        self.end();
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        );
        let bar = ProgressBar::new(bytes).with_message(what.to_owned());
        bar.set_style(style.expect("the template has known keys"));
        self.0 = Some(bar);
    }

    fn done(&mut self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}
