//! `outstation-factory keys`: who may sign what is released. None of these is a key of `serve --keys`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Failure, StoreArgs, USAGE};
use crate::clock::unix_ms;
use crate::ota::document::Holders;
use crate::ota::pending::{self, Pending};
use crate::ota::repository::{Refreshed, Repository, handover};
use crate::ota::signing::{PublicKey, SigningKey, beside, load_all};
use crate::ota::{OtaError, Role};

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub(super) struct KeysCommandArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key: FILE, which only its owner reads, and FILE.pub.
    Make {
        /// What it will sign.
        #[arg(long, value_parser = role)]
        role: Role,
        /// Where it goes. Nothing is written over.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make the root, or the next one. It waits for signatures in --pending.
    Root(Box<RootArgs>),
    /// Sign a document that waits.
    Sign {
        /// The document, like factory-pending/2.root.json.
        document: PathBuf,
        /// A key that signs it; again for more.
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// A copy that others signed: their signatures are taken over; again for more.
        #[arg(long, value_name = "FILE")]
        from: Vec<PathBuf>,
    },
    /// Store what waits and has its signatures, and make boxes see it.
    Commit {
        #[command(flatten)]
        pending: PendingArgs,
        #[command(flatten)]
        store: StoreArgs,
        /// A key; each signs what it may. Those of snapshot and timestamp are needed here, unless a replica has them.
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Say who may sign what, and until when documents are good.
    Show {
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Where documents wait for signatures.
#[derive(Debug, Clone, Args)]
pub(super) struct PendingArgs {
    /// Folder of documents that wait for signatures.
    #[arg(long, value_name = "DIR", default_value = "factory-pending")]
    pub(super) pending: PathBuf,
}

#[derive(Debug, Args)]
struct RootArgs {
    /// Public key of the root; again for each. Roles that are not named stay as they are.
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
    /// How many root keys must sign. Default: more than half.
    #[arg(long, value_name = "K")]
    threshold: Option<usize>,
    /// Public key that may say who signs models and rollouts.
    #[arg(long, value_name = "FILE")]
    targets: Vec<PathBuf>,
    /// How many must sign. Default: more than half.
    #[arg(long, value_name = "K")]
    targets_threshold: Option<usize>,
    /// Public key that may sign models.
    #[arg(long, value_name = "FILE")]
    models: Vec<PathBuf>,
    /// How many must sign. Default: more than half.
    #[arg(long, value_name = "K")]
    models_threshold: Option<usize>,
    /// Public key that may sign rollouts.
    #[arg(long, value_name = "FILE")]
    rollout: Vec<PathBuf>,
    /// How many must sign: a stop is for one hand.
    #[arg(long, value_name = "K", default_value_t = 1)]
    rollout_threshold: usize,
    /// Public key of the snapshot.
    #[arg(long, value_name = "FILE")]
    snapshot: Vec<PathBuf>,
    /// Public key of the timestamp.
    #[arg(long, value_name = "FILE")]
    timestamp: Vec<PathBuf>,
    /// How long root and targets are good.
    #[arg(long, value_name = "TIME", default_value = "1825d", value_parser = super::devices::time)]
    expires: Duration,
    /// A key that signs at once what it may; again for more.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    pending: PendingArgs,
    #[command(flatten)]
    store: StoreArgs,
}

fn role(name: &str) -> Result<Role, String> {
    let all: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
    Role::named(name).ok_or_else(|| format!("`{name}` is none of {}", all.join(", ")))
}

pub(super) fn run(args: &KeysCommandArgs) -> Result<(), Failure> {
    match &args.command {
        KeysCommand::Make { role, out } => {
            let key = SigningKey::make(out, *role)?;
            super::show(&format!(
                "{}: a key of role {role}, {}: keep it away from the others; {} is for `keys root`\n",
                out.display(),
                key.public().keyid,
                beside(out).display()
            ))
        }
        KeysCommand::Root(args) => super::runtime(1)?.block_on(make_root(args)),
        KeysCommand::Sign {
            document,
            keys,
            from,
        } => sign(document, keys, from),
        KeysCommand::Commit {
            pending,
            store,
            keys,
        } => super::runtime(1)?.block_on(commit(pending, store, keys)),
        KeysCommand::Show { store } => super::runtime(1)?.block_on(show(store)),
    }
}

async fn make_root(args: &RootArgs) -> Result<(), Failure> {
    let repository = Repository::new(super::open_store(&args.store)?);
    let state = match repository.read().await {
        Ok(state) => Some(state),
        Err(OtaError::NoRoot) => None,
        Err(error) => return Err(error.into()),
    };
    let old = |role| state.as_ref().and_then(|state| state.holders(role).ok());
    let mut holders = BTreeMap::new();
    for (role, given, threshold) in args.given() {
        let now = match (given.is_empty(), old(role)) {
            (true, Some(old)) => old,
            (true, None) => {
                let message = format!(
                    "say with --{role} whose keys may sign {role}: `keys make --role {role}` makes one"
                );
                return Err(Failure::new(USAGE, message));
            }
            (false, _) => read_holders(role, given, threshold)?,
        };
        holders.insert(role, now);
    }
    let expires = unix_ms() / 1000 + args.expires.as_secs();
    let keys = load_all(&args.keys)?;
    let pending = Pending::new(&args.pending.pending);
    let mut made = Vec::new();
    for (role, mut document) in handover(state.as_ref(), &holders, expires) {
        document.sign(&keys, &holders[&role]);
        if let (Role::Root, Some(before)) = (role, old(Role::Root)) {
            document.sign(&keys, &before);
        }
        let path = pending.write(role, &document)?;
        let needs = holders[&role].threshold;
        let has = document.signatures.len();
        made.push(format!(
            "{}: {has} signatures, {needs} of role {role} are needed",
            path.display()
        ));
    }
    if made.is_empty() {
        return super::show("nothing changes\n");
    }
    super::show(&format!(
        "{}\nsign each with `outstation-factory keys sign FILE --key KEY`, then `outstation-factory keys commit`\n",
        made.join("\n")
    ))
}

impl RootArgs {
    fn given(&self) -> [(Role, &[PathBuf], Option<usize>); 6] {
        [
            (Role::Root, &self.root, self.threshold),
            (Role::Targets, &self.targets, self.targets_threshold),
            (Role::Models, &self.models, self.models_threshold),
            (Role::Rollout, &self.rollout, Some(self.rollout_threshold)),
            (Role::Snapshot, &self.snapshot, Some(1)),
            (Role::Timestamp, &self.timestamp, Some(1)),
        ]
    }
}

fn read_holders(
    role: Role,
    files: &[PathBuf],
    threshold: Option<usize>,
) -> Result<Holders, Failure> {
    let mut keys = Vec::new();
    for file in files {
        let key = PublicKey::load(file)?;
        if !key.role.is_empty() && key.role != role.name() {
            let message = format!(
                "{} was made for role {}, not for {role}: make one with `keys make`",
                file.display(),
                key.role
            );
            return Err(Failure::new(USAGE, message));
        }
        keys.push(key);
    }
    let threshold = threshold.unwrap_or(files.len() / 2 + 1);
    let holders = Holders::new(&keys, threshold);
    if threshold == 0 || threshold > holders.keys.len() {
        let message = format!(
            "{threshold} of {} different keys of role {role} cannot sign",
            holders.keys.len()
        );
        return Err(Failure::new(USAGE, message));
    }
    Ok(holders)
}

fn sign(path: &std::path::Path, keys: &[PathBuf], from: &[PathBuf]) -> Result<(), Failure> {
    let mut document = pending::read(path)?;
    for copy in from {
        if document.merge(&pending::read(copy)?).is_none() {
            let message = format!(
                "{} is not a copy of {}: it says something else",
                copy.display(),
                path.display()
            );
            return Err(Failure::new(USAGE, message));
        }
    }
    for key in load_all(keys)? {
        document.sign_with(&key);
    }
    pending::write(path, &document)?;
    let mut text = format!(
        "{}: version {}, good until {}, signatures: {}\n",
        path.display(),
        document.version(),
        document.signed["expires"].as_str().unwrap_or("?"),
        document.signatures.len(),
    );
    for target in document
        .targets()
        .keys()
        .filter(|target| !target.starts_with("index/"))
    {
        let _ = writeln!(text, "  {target}");
    }
    super::show(&text)
}

async fn commit(pending: &PendingArgs, store: &StoreArgs, keys: &[PathBuf]) -> Result<(), Failure> {
    let repository = Repository::new(super::open_store(store)?);
    super::show(&commit_pending(&repository, pending, keys).await?)
}

/// Stores what waits. A line for people.
pub(super) async fn commit_pending(
    repository: &Repository,
    pending: &PendingArgs,
    keys: &[PathBuf],
) -> Result<String, Failure> {
    let keys = load_all(keys)?;
    let pending = Pending::new(&pending.pending);
    let (stored, refreshed) = pending.commit(repository, &keys, unix_ms() / 1000).await?;
    let stored = if stored.is_empty() {
        "nothing waited".to_owned()
    } else {
        format!("stored {}", stored.join(", "))
    };
    Ok(format!("{stored}; {}\n", seen(&refreshed)))
}

/// What boxes see, for people.
pub(super) fn seen(refreshed: &Refreshed) -> String {
    format!(
        "boxes see snapshot {}, timestamp {} good until {}",
        refreshed.snapshot,
        refreshed.timestamp,
        date(refreshed.expires_unix_s)
    )
}

/// Seconds since 1970, for people.
pub(super) fn date(unix_s: u64) -> String {
    let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "the end of time".to_owned(), |time| time.to_string())
}

/// Makes boxes see what was stored. Without the keys a replica that has them does it: a line for people either way.
pub(super) async fn refresh(
    repository: &Repository,
    keys: &[SigningKey],
) -> Result<String, Failure> {
    match repository.refresh(keys, unix_ms() / 1000).await {
        Ok(refreshed) => Ok(seen(&refreshed)),
        Err(OtaError::Threshold {
            role: role @ (Role::Snapshot | Role::Timestamp),
            ..
        }) => Ok(format!(
            "boxes see it when {role} is signed: by a replica with `serve --snapshot-key --timestamp-key`, or by \
             `outstation-factory keys commit --key SNAPSHOT --key TIMESTAMP`"
        )),
        Err(error) => Err(error.into()),
    }
}

async fn show(store: &StoreArgs) -> Result<(), Failure> {
    let repository = Repository::new(super::open_store(store)?);
    let state = repository.read().await?;
    let mut text = String::new();
    for role in Role::ALL {
        let document = match state.of(role) {
            Some(held) => format!(
                "version {}, good until {}{}",
                held.version,
                date(held.document.expires_unix_s()),
                if held.trusted {
                    ""
                } else {
                    ", NOT SIGNED by those who may"
                }
            ),
            None => "no document yet".to_owned(),
        };
        let _ = writeln!(text, "{role:<10} {document}");
        if let Ok(holders) = state.holders(role) {
            let _ = writeln!(
                text,
                "           {} of {} keys sign:",
                holders.threshold,
                holders.keys.len()
            );
            for id in holders.keys.keys() {
                let _ = writeln!(text, "           {id}");
            }
        }
    }
    super::show(&text)
}
