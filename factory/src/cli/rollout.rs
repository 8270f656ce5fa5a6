//! `outstation-factory rollout`: who is to have a release, and when; how far boxes are; stop.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use outstation_wire::release::{AdapterRelease, Gates, Manifest, Rollout, Wave, check_name};

use super::devices::time;
use super::keys::PendingArgs;
use super::publish::{name, waits};
use super::{Failure, StoreArgs, USAGE};
use crate::clock::unix_ms;
use crate::ota::pending::{Pending, Went};
use crate::ota::repository::Repository;
use crate::ota::rollout::{self, Progress};
use crate::ota::signing::load_all;
use crate::registry::{Objects, Registry};

/// Arguments of `rollout`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct RolloutArgs {
    #[command(subcommand)]
    command: Option<RolloutCommand>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// How far the boxes of a ring are.
    Status {
        /// The ring.
        #[arg(long, value_parser = name)]
        ring: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// The boxes that it is for say this name in their configuration.
    #[arg(long, value_parser = name, required = true)]
    ring: Option<String>,
    /// The model, NAME@RELEASE.
    #[arg(long, value_name = "NAME@RELEASE", value_parser = manifest, required_unless_present = "stop")]
    manifest: Option<String>,
    /// An adapter, as apps call it, and its release; again for more.
    #[arg(long = "adapter", value_name = "NAME=NAME@RELEASE", value_parser = adapter)]
    adapters: Vec<AdapterRelease>,
    /// Shares of the ring, each with the time from now on: 5%,25%@2h,100%@1d.
    #[arg(long, default_value = "100%", value_delimiter = ',', value_parser = wave)]
    waves: Vec<(u32, Duration)>,
    /// Shares of new requests that a trial gives the new model, percent.
    #[arg(long, default_value = "1,10,50", value_delimiter = ',')]
    canary: Vec<u32>,
    /// How long each share lasts, and the trial after them.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
    soak: Duration,
    /// When a trial ends at last.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = time)]
    deadline: Duration,
    #[command(flatten)]
    gates: GateArgs,
    /// Percent of trials that may fail before the factory stops it.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    failures_max: u32,
    /// When boxes may change over, like 22:00-04:00, UTC. Default: at any time.
    #[arg(long, value_name = "FROM-TO", default_value = "", value_parser = window)]
    window: String,
    /// Stop it: nobody begins, and who is on trial goes back.
    #[arg(long, conflicts_with_all = ["manifest", "adapters"])]
    stop: bool,
    /// A key; each signs what it may. Again for more.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    pending: PendingArgs,
    #[command(flatten)]
    store: StoreArgs,
}

#[expect(clippy::struct_field_names, reason = "they are the names of flags")]
/// What the new model must not do worse than the one before it. Defaults are those of docs/ota.md.
#[derive(Debug, Args)]
struct GateArgs {
    /// Requests of each model before they are compared.
    #[arg(long, value_name = "N")]
    gate_requests_min: Option<u64>,
    /// Seconds that loading and the self-test may take.
    #[arg(long, value_name = "SECONDS")]
    gate_load_s_max: Option<u64>,
    /// Times as long to the first token, at the 95th percentile.
    #[arg(long, value_name = "RATIO")]
    gate_ttft_ratio_max: Option<f64>,
    /// Times as long between tokens, at the 95th percentile.
    #[arg(long, value_name = "RATIO")]
    gate_itl_ratio_max: Option<f64>,
    /// Share of failed requests more, of 1.
    #[arg(long, value_name = "SHARE")]
    gate_errors_more_max: Option<f64>,
    /// Share of answers more that were cut at their length, of 1.
    #[arg(long, value_name = "SHARE")]
    gate_length_more_max: Option<f64>,
    /// Share of answers more whose form is broken, of 1.
    #[arg(long, value_name = "SHARE")]
    gate_invalid_more_max: Option<f64>,
    /// How far the entropy of answers may shift, PSI.
    #[arg(long, value_name = "PSI")]
    gate_entropy_psi_max: Option<f64>,
    /// Times the energy of a token.
    #[arg(long, value_name = "RATIO")]
    gate_joules_ratio_max: Option<f64>,
}

impl GateArgs {
    fn gates(&self) -> Gates {
        let default = Gates::default();
        Gates {
            requests_min: self.gate_requests_min.unwrap_or(default.requests_min),
            load_s_max: self.gate_load_s_max.unwrap_or(default.load_s_max),
            ttft_ratio_max: self.gate_ttft_ratio_max.unwrap_or(default.ttft_ratio_max),
            itl_ratio_max: self.gate_itl_ratio_max.unwrap_or(default.itl_ratio_max),
            errors_more_max: self.gate_errors_more_max.unwrap_or(default.errors_more_max),
            length_more_max: self.gate_length_more_max.unwrap_or(default.length_more_max),
            invalid_more_max: self
                .gate_invalid_more_max
                .unwrap_or(default.invalid_more_max),
            entropy_psi_max: self.gate_entropy_psi_max.unwrap_or(default.entropy_psi_max),
            joules_ratio_max: self
                .gate_joules_ratio_max
                .unwrap_or(default.joules_ratio_max),
        }
    }
}

pub(super) fn run(args: &RolloutArgs) -> Result<(), Failure> {
    super::runtime(2)?.block_on(async {
        match (&args.command, &args.change.ring) {
            (Some(RolloutCommand::Status { ring, json, store }), _) => {
                status(ring, *json, store).await
            }
            (None, Some(ring)) => change(&args.change, ring).await,
            (None, None) => unreachable!("a ring is required"),
        }
    })
}

async fn change(args: &ChangeArgs, ring: &str) -> Result<(), Failure> {
    let repository = Repository::new(super::open_store(&args.store)?);
    let keys = load_all(&args.keys)?;
    let pending = Pending::new(&args.pending.pending);
    let now = unix_ms() / 1000;
    let done = match &args.manifest {
        None => rollout::stop(&repository, &pending, ring, &keys, now).await?,
        Some(manifest) => {
            let rollout = args.rollout(ring, manifest, now);
            Some(rollout::write(&repository, &pending, rollout, &keys, now).await?)
        }
    };
    let Some((rollout, went)) = done else {
        return super::show(&format!("ring {ring} has no rollout that is not stopped\n"));
    };
    let what = if rollout.stop {
        "is stopped"
    } else {
        "is to run"
    };
    let mut line = format!(
        "ring {} {what}: {}, change {}\n",
        rollout.ring, rollout.manifest, rollout.counter
    );
    line.push_str(&waits(&went));
    if went == Went::Stored {
        line.push_str(&super::keys::refresh(&repository, &keys).await?);
        line.push('\n');
    }
    super::show(&line)
}

impl ChangeArgs {
    fn rollout(&self, ring: &str, manifest: &str, now_unix_s: u64) -> Rollout {
        let waves = self.waves.iter().map(|&(percent, after)| Wave {
            percent,
            not_before_unix_s: now_unix_s + after.as_secs(),
        });
        Rollout {
            format: 1,
            ring: ring.to_owned(),
            counter: 0,
            issued_unix_s: now_unix_s,
            manifest: manifest.to_owned(),
            adapters: self.adapters.clone(),
            waves: waves.collect(),
            stop: false,
            canary_percent: self.canary.clone(),
            soak_s: self.soak.as_secs(),
            deadline_s: self.deadline.as_secs(),
            gates: self.gates.gates(),
            failures_percent_max: self.failures_max,
            window: self.window.clone(),
        }
    }
}

async fn status(ring: &str, json: bool, store: &StoreArgs) -> Result<(), Failure> {
    let store = super::open_store(store)?;
    let repository = Repository::new(store.clone());
    let state = repository.read().await?;
    let Some(rollout) = rollout::read(&repository, &state, ring).await? else {
        return Err(Failure::new(
            USAGE,
            format!("ring {ring} has no rollout: `outstation-factory rollout` makes one"),
        ));
    };
    let devices = Registry::new(store)
        .devices(&mut Objects::default())
        .await?;
    let progress = Progress::new(&rollout, &devices, unix_ms() / 1000);
    if json {
        let line = serde_json::json!({ "rollout": rollout, "progress": progress });
        return super::show(&format!("{line}\n"));
    }
    let mut text = format!(
        "ring {ring}: {}, change {}{}\n{} boxes, {} may begin, {} know of it: {} fetch it, {} try it, {} serve it, {} took it back\n",
        rollout.manifest,
        rollout.counter,
        if rollout.stop { ", STOPPED" } else { "" },
        progress.boxes,
        progress.allowed,
        progress.informed,
        progress.fetching,
        progress.trial,
        progress.committed,
        progress.rejected,
    );
    for device in &devices {
        let contact = device.contact.as_ref();
        let mine = contact.filter(|contact| contact.ring == ring && contact.phase == "rejected");
        if let Some(contact) = mine {
            let _ = writeln!(
                text,
                "  {} took {} back: {}",
                device.appliance, contact.manifest, contact.reason
            );
        }
    }
    super::show(&text)
}

fn manifest(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no release: write NAME@RELEASE, like site-3b@7");
    let (name, release) = text.rsplit_once('@').ok_or_else(wrong)?;
    check_name(name)?;
    let release = release.parse().map_err(|_| wrong())?;
    Ok(Manifest::path_of(name, release))
}

fn adapter(text: &str) -> Result<AdapterRelease, String> {
    let (name, release) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is no adapter: write NAME=NAME@RELEASE"))?;
    check_name(name)?;
    Ok(AdapterRelease {
        name: name.to_owned(),
        manifest: manifest(release)?,
    })
}

fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|number| *number <= 100)
        .ok_or_else(|| format!("`{text}` is not 0% to 100%"))
}

fn wave(text: &str) -> Result<(u32, Duration), String> {
    match text.split_once('@') {
        Some((share, after)) => Ok((percent(share)?, time(after)?)),
        None => Ok((percent(text)?, Duration::ZERO)),
    }
}

fn window(text: &str) -> Result<String, String> {
    let is_time = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let digits = hours.len() == 2 && minutes.len() == 2;
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        (digits && hours < 24 && minutes < 60).then_some(())
    };
    let good = text
        .split_once('-')
        .and_then(|(from, to)| is_time(from).and(is_time(to)));
    if text.is_empty() || good.is_some() {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no window: write 22:00-04:00"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_windows_and_releases_are_read() {
        assert_eq!(wave("5%"), Ok((5, Duration::ZERO)));
        assert_eq!(wave("25%@2h"), Ok((25, Duration::from_hours(2))));
        assert_eq!(wave("100@1d"), Ok((100, Duration::from_hours(24))));
        assert_eq!(window("22:00-04:00"), Ok("22:00-04:00".to_owned()));
        assert_eq!(manifest("a@b@7"), Err("`a@b` is no name: use 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter or digit".to_owned()));
        assert_eq!(
            manifest("site-3b@7"),
            Ok("manifest/site-3b@7.json".to_owned())
        );
        for wrong in ["101%", "5%@", "x", "-1%"] {
            assert!(wave(wrong).is_err(), "{wrong}");
        }
        for wrong in ["22:00", "22-04", "24:00-01:00", "1:00-02:00"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
