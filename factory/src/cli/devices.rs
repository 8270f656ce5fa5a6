//! `outstation-factory devices`: who is in the fleet.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use outstation_wire::code::{EnrolmentCode, SECRET_BYTES};

use super::{Failure, KeysArgs, StoreArgs, USAGE};
use crate::clock::unix_ms;
use crate::fleet::{Shown, age, size};
use crate::keys::Keys;
use crate::registry::{self, Code, Device, Objects, Registry, Revocation};

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    #[command(subcommand)]
    command: DevicesCommand,
}

#[derive(Debug, Subcommand)]
enum DevicesCommand {
    /// Make a one-time code by which a box joins.
    Add {
        /// What the box will be called.
        #[arg(long, value_parser = name)]
        name: String,
        /// How long the code is good, like 30m, 24h or 7d.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
        expires: Duration,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        keys: KeysArgs,
    },
    /// All boxes.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// All that is known of one box, as JSON.
    Show {
        /// Its identity, or its name.
        device: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Send a box away: nothing is taken from it any more, half a minute later at most.
    Revoke {
        /// Its identity, or its name.
        device: String,
        /// Why.
        #[arg(long, default_value = "revoked by the operator")]
        reason: String,
        #[command(flatten)]
        store: StoreArgs,
    },
}

pub(super) fn devices(args: &DevicesArgs) -> Result<(), Failure> {
    super::runtime(1)?.block_on(run(&args.command))
}

async fn run(command: &DevicesCommand) -> Result<(), Failure> {
    let open = |store| Ok::<_, Failure>(Registry::new(super::open_store(store)?));
    match command {
        DevicesCommand::Add {
            name,
            expires,
            store,
            keys,
        } => {
            let keys = Keys::load(&keys.keys)?;
            let mut secret = [0; SECRET_BYTES];
            aws_lc_rs::rand::fill(&mut secret).expect("the system has random bytes");
            let code = EnrolmentCode::new(secret, keys.authority());
            let expires = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
            let given = Code {
                name: name.clone(),
                expires_unix_ms: unix_ms().saturating_add(expires),
            };
            open(store)?.add_code(&code.lookup(), &given).await?;
            super::show(&format!("{code}\n"))
        }
        DevicesCommand::List { json, store } => {
            let devices = open(store)?.devices(&mut Objects::default()).await?;
            let now = unix_ms();
            let mut text = String::new();
            if !json && !devices.is_empty() {
                row(
                    &mut text,
                    &[
                        "identity",
                        "name",
                        "last contact",
                        "state",
                        "model",
                        "release",
                        "backlog",
                        "agent",
                    ],
                );
            }
            for device in devices {
                let shown = Shown::new(device, false, now);
                if *json {
                    let line = serde_json::to_string(&shown).expect("strings and numbers");
                    let _ = writeln!(text, "{line}");
                    continue;
                }
                let last = shown
                    .last_contact_ms_ago
                    .map_or_else(|| "never".to_owned(), age);
                let backlog = size(shown.spool_bytes);
                let release = shown.release();
                let cells = [
                    &shown.appliance,
                    &shown.name,
                    &last,
                    shown.state.word(),
                    &shown.model,
                    &release,
                    &backlog,
                    &shown.agent,
                ];
                row(&mut text, &cells);
            }
            super::show(&text)
        }
        DevicesCommand::Show { device, store } => {
            let device = find(&open(store)?, device).await?;
            let text = serde_json::to_string_pretty(&device).expect("strings and numbers");
            super::show(&format!("{text}\n"))
        }
        DevicesCommand::Revoke {
            device,
            reason,
            store,
        } => {
            let registry = open(store)?;
            let device = find(&registry, device).await?;
            let revocation = Revocation {
                unix_ms: unix_ms(),
                reason: reason.clone(),
            };
            registry.revoke(&device.appliance, &revocation).await?;
            super::show(&format!("{} is sent away\n", device.appliance))
        }
    }
}

fn row(text: &mut String, cells: &[impl AsRef<str>; 8]) {
    let [identity, name, last, state, model, release, backlog, agent] =
        cells.each_ref().map(AsRef::as_ref);
    let _ = writeln!(
        text,
        "{identity:<32}  {name:<20}  {last:>12}  {state:<8}  {model:<24}  {release:<32}  {backlog:>10}  {agent}"
    );
}

/// A box by its identity, or by a name that only one has.
async fn find(registry: &Registry, wanted: &str) -> Result<Device, Failure> {
    if let Some(appliance) = registry::appliance(wanted)
        && let Some(device) = registry.device(&crate::store::hex(&appliance)).await?
    {
        return Ok(device);
    }
    let mut devices = registry.devices(&mut Objects::default()).await?;
    devices.retain(|device| {
        device
            .enrolment
            .as_ref()
            .is_some_and(|enrolment| enrolment.name == wanted)
    });
    match devices.len() {
        1 => Ok(devices.remove(0)),
        0 => Err(Failure::new(
            USAGE,
            format!("no box is called {wanted}: `devices list` shows all"),
        )),
        several => {
            let all: Vec<_> = devices
                .iter()
                .map(|device| device.appliance.as_str())
                .collect();
            let message = format!(
                "{several} boxes are called {wanted}: say which, {}",
                all.join(" or ")
            );
            Err(Failure::new(USAGE, message))
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(good) {
        return Err("a name has up to 64 letters, digits, spaces, `-`, `_` and `.`".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with s, m, h or d, like 24h".to_owned();
    let split = text
        .len()
        .checked_sub(1)
        .filter(|at| text.is_char_boundary(*at))
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time("24h"), Ok(Duration::from_hours(24)));
        assert_eq!(time("7d"), Ok(Duration::from_hours(168)));
        for wrong in ["", "h", "24", "1w", "-1h", "é"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
