//! `loop` and `review`: rounds of improvement, and the page on which a person labels.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::{CONFIG, Failure, INPUT, IO, StoreArgs, UNAVAILABLE, show};
use crate::rounds::{Outcome, RoundError, Settings, once, review};

/// What `loop` does.
#[derive(Debug, Args)]
pub(super) struct LoopArgs {
    /// Its settings, TOML: docs/closed-loop.md.
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// Go as far as it goes now, and end. A timer calls again.
    #[arg(long, required = true)]
    once: bool,
}

/// What `review` does.
#[derive(Debug, Args)]
pub(super) struct ReviewArgs {
    /// Settings of the loop.
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// Who labels, as labels have it.
    #[arg(long, default_value = "a person")]
    name: String,
    /// TCP address of the page; whoever reaches it reads what was asked.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8091")]
    http: SocketAddr,
}

impl From<RoundError> for Failure {
    fn from(error: RoundError) -> Self {
        let code = match error {
            RoundError::Store(error) => return error.into(),
            RoundError::Ota(error) => return error.into(),
            RoundError::Train(error) => return error.into(),
            RoundError::Api(error) => return error.into(),
            RoundError::Served(error) => return error.into(),
            RoundError::Content { .. } => INPUT,
            RoundError::Settings(_) => CONFIG,
            RoundError::Busy(_) => UNAVAILABLE,
            RoundError::File { .. } | RoundError::Export(_) => IO,
        };
        Self::new(code, error.to_string())
    }
}

pub(super) fn run(args: &LoopArgs) -> Result<(), Failure> {
    let settings = Settings::read(&args.config)?;
    let store = super::open_store(&StoreArgs {
        store: settings.store.clone(),
    })?;
    let mut tell = |line: &str| drop(show(&format!("{line}\n")));
    let outcome = super::runtime(2)?.block_on(once(&settings, store, &mut tell))?;
    show(&match outcome {
        Outcome::TooFew { found, needed } => {
            format!("{found} new cases, {needed} make a round: nothing to do yet\n")
        }
        Outcome::Waits { round, what } => format!("round {round} waits: {what}\n"),
        Outcome::Ended { round } => {
            let how = serde_json::to_value(round.ended).expect("it is a word");
            let how = how.as_str().unwrap_or_default().replace('_', " ");
            let why = if round.reason.is_empty() { "" } else { ": " };
            format!("round {} is {how}{why}{}\n", round.number, round.reason)
        }
    })
}

pub(super) fn label(args: &ReviewArgs) -> Result<(), Failure> {
    let settings = Settings::read(&args.config)?;
    if !args.http.ip().to_canonical().is_loopback() {
        let message = format!(
            "--http {}: others could read what was asked, and label; listen on 127.0.0.1 behind a proxy that knows people",
            args.http
        );
        return Err(Failure::new(CONFIG, message));
    }
    super::runtime(1)?.block_on(async {
        let listener = TcpListener::bind(args.http).await;
        let listener = listener.map_err(|e| Failure::io(args.http, e))?;
        let address = listener
            .local_addr()
            .map_err(|e| Failure::io("the socket", e))?;
        show(&format!("cases are shown at http://{address}\n"))?;
        let serving = review(settings.work, args.name.clone(), listener).await;
        serving.map_err(|e| Failure::io("the page", e))
    })
}
