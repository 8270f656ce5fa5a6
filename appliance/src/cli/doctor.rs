//! `outstation doctor`: what is wrong with this box, and how to mend it.
//!
//! Gathers facts and prints what `doctor::examine` makes of them. It changes nothing, and needs no running box.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::enrol::state_folder;
use super::exit::{self, Failure};
use super::{ServeArgs, keys, load, settings, status};
use crate::access::Keys;
use crate::config::{AccessConfig, Config};
use crate::doctor::facts::{Access, Answer, Configuration, Facts, Gpu, Link, Read};
use crate::doctor::{Mark, examine, worst};
use crate::io::probe::{self, Probe};
use crate::io::uplink::Membership;
use crate::io::uplink::membership::MembershipError;
use crate::status::{Releases, Status};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// TOML configuration of the box. Default: that of the system service, if there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where a running box is asked. Default: listen.http of the configuration, on this machine.
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// One JSON object for each finding.
    #[arg(long)]
    json: bool,
    /// Where the files of the machine lie: /sys, /proc, /run and so on.
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Where the unit's configuration is.
const SYSTEM_CONFIG: &str = "etc/outstation/outstation.toml";
/// How long a name server may take.
const RESOLVE_MAX: Duration = Duration::from_secs(3);

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = examine(&gather(args));
    for finding in &findings {
        let line = if args.json {
            serde_json::to_string(finding).expect("strings and numbers")
        } else {
            finding.to_string()
        };
        super::show(&format!("{line}\n"))?;
    }
    if worst(&findings) < Mark::Bad {
        return Ok(());
    }
    let bad = findings.iter().filter(|finding| finding.mark == Mark::Bad);
    let message = format!("{} of {} findings are BAD", bad.count(), findings.len());
    Err(Failure::new(exit::BAD_FINDING, message))
}

fn gather(args: &DoctorArgs) -> Facts {
    let probe = Probe::new(args.root.clone());
    let (config, configuration) = configured(args);
    let state = state_folder(&config);
    let membership = Membership::read(&state);
    let answer = answer(args.http.unwrap_or_else(|| here(config.listen.http)));
    let mut facts = Facts {
        now_unix_s: probe::now_unix_s(),
        configuration,
        link: link(&config, &membership),
        access: access(&config),
        clock: probe.clock(&state),
        memory: probe.memory(),
        spool: probe::spool(&state.join("spool"), config.spool.bytes_max.0),
        gpu: gpu(&config),
        power: probe.power(),
        heat: probe.heat(),
        meter: probe.meter(&config.energy),
        journal: probe.journal(),
        ..Facts::default()
    };
    let files = &config.access;
    if let Some(certificate) = &files.certificate {
        let key = files.private_key.as_deref();
        facts.certificates.push(probe::identity(certificate, key));
    }
    let authority = files.client_authority.as_deref();
    facts.certificates.extend(authority.map(probe::authority));
    if let Ok(Some(member)) = &membership {
        facts.certificates.push(probe::member(&state, member));
    }
    disks(
        &mut facts,
        &config,
        &state,
        matches!(membership, Ok(Some(_))),
    );
    // A box that answers has its plan and its model; one that follows a ring may serve another than the configured.
    if answer.status().is_none() && config.models.ring.is_none() {
        match load::model(&config.model) {
            Err(failure) => facts.model_trouble = Some(failure.message),
            Ok(loaded) => {
                let plan = load::budget(&config, &loaded);
                let plan = plan.map(|plan| (plan.total_bytes, plan.limit_bytes));
                facts.memory.plan = Some(plan.map_err(|failure| failure.message));
            }
        }
    }
    facts.answer = answer;
    facts
}

/// What the driver of the configured GPU says, or of the first one.
fn gpu(config: &Config) -> Gpu {
    let on = load::on(config).ok().and_then(|on| on.gpu);
    Gpu {
        wanted: on.is_some(),
        found: probe::gpu(on.unwrap_or(0)),
    }
}

/// What is configured. A configuration that is refused is a finding, and the rest is looked at as well as may be.
fn configured(args: &DoctorArgs) -> (Config, Configuration) {
    let system = args.root.join(SYSTEM_CONFIG);
    let file = args
        .config
        .clone()
        .or_else(|| system.exists().then_some(system));
    let place = file.as_ref().map(|file| file.display().to_string());
    let place = place.unwrap_or_else(|| "the default configuration".to_owned());
    let arguments = ServeArgs {
        config: file,
        ..ServeArgs::default()
    };
    let (config, trouble) = match settings::read_unchecked(&arguments) {
        Err(failure) => (Config::default(), Some(failure.message)),
        Ok(config) => {
            let trouble = config.check().err().map(|error| error.to_string());
            (config, trouble)
        }
    };
    (config, Configuration { place, trouble })
}

/// An address of this machine at which a box that listens at `address` is asked.
fn here(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        // A socket for all addresses hears IPv4, too, and some machines have no ::1.
        return (Ipv4Addr::LOCALHOST, address.port()).into();
    }
    address
}

fn answer(address: SocketAddr) -> Answer {
    let said = status::ask(address, "GET", "/status").map_err(|failure| failure.message);
    let status = said.and_then(|text| {
        let other = || format!("{address} does not answer like an outstation");
        Status::parse(&text).ok_or_else(other)
    });
    let mut releases = None;
    if status.is_ok() {
        // A box that follows no ring says no.
        let said = status::ask(address, "GET", "/models").ok();
        releases = said.and_then(|text| serde_json::from_str::<Releases>(&text).ok());
    }
    Answer {
        address: address.to_string(),
        status: Some(status),
        releases,
    }
}

fn link(config: &Config, membership: &Result<Option<Membership>, MembershipError>) -> Link {
    let member = match membership {
        Ok(None) => Read::Absent,
        Ok(Some(member)) => {
            let factory = &member.factory;
            Read::There((factory.factory.clone(), factory.name.clone()))
        }
        Err(MembershipError::File { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Read::Denied
        }
        Err(error) => Read::Broken(error.to_string()),
    };
    let configured = config.uplink.factory.clone();
    let enrolled = match &member {
        Read::There((factory, _)) => Some(factory.clone()),
        _ => None,
    };
    let addresses = configured.clone().or(enrolled).map(resolve);
    Link {
        configured,
        member,
        addresses,
    }
}

fn resolve(factory: String) -> Result<usize, String> {
    let runtime = super::runtime().map_err(|failure| failure.message)?;
    let looked_up = runtime.block_on(async {
        tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host(factory)).await
    });
    // The name server may still be waited for, and nobody waits for that.
    runtime.shutdown_background();
    match looked_up {
        Err(_) => Err(format!("no answer within {RESOLVE_MAX:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => Ok(addresses.count()),
    }
}

fn access(config: &Config) -> Access {
    let (listen, access) = (&config.listen, &config.access);
    let file = keys::file(config);
    let keys = match std::fs::read(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Read::Absent,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Read::Denied,
        Err(e) => Read::Broken(format!("{}: {e}", file.display())),
        Ok(json) => match Keys::parse(&json) {
            Ok(keys) => Read::There(keys.iter().count()),
            Err(error) => Read::Broken(format!("{}: {error}", file.display())),
        },
    };
    let unlocked = match &keys {
        Read::Absent => AccessConfig::check_unlocked(listen.http),
        _ => Ok(()),
    };
    let trouble = access.check_quic(listen.quic);
    let trouble = trouble.and_then(|()| access.check_http(listen.http));
    let trouble = trouble.and(unlocked).err();
    let named = [("QUIC", listen.quic), ("HTTP", listen.http)];
    let public = named
        .iter()
        .filter(|(_, address)| !address.ip().to_canonical().is_loopback());
    Access {
        public: public.map(|(name, at)| format!("{name} {at}")).collect(),
        trouble: trouble.map(|error| error.to_string()),
        keys,
        keys_file: file.display().to_string(),
    }
}

fn disks(facts: &mut Facts, config: &Config, state: &Path, is_member: bool) {
    let used = match &facts.spool.files {
        Read::There(files) => files.bytes,
        _ => 0,
    };
    let follows = config.models.ring.is_some();
    let spool = config.spool.bytes_max.0.saturating_sub(used);
    let spool = if is_member { spool } else { 0 };
    let reserve = if follows { config.models.reserve.0 } else { 0 };
    let folder = config.models.folder.as_deref();
    let elsewhere = folder.filter(|_| follows);
    let needs = if elsewhere.is_some() {
        spool
    } else {
        spool + reserve
    };
    let words = "spool.bytes_max and models.reserve";
    facts
        .disks
        .push(probe::disk("disk_state", state, (needs, words)));
    if let Some(folder) = elsewhere {
        let needs = (reserve, "models.reserve");
        facts.disks.push(probe::disk("disk_models", folder, needs));
    }
}
