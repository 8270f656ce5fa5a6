//! `outstation models`, and what a serving box needs to follow a ring.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::exit::{self, Failure};
use super::{load, status};
use crate::config::Config;
use crate::io::gateway::CaseWatch;
use crate::io::ota::client::Shared;
use crate::io::ota::opening::{self, Opening};
use crate::io::ota::runner::{Handle, Runner, Settings};
use crate::io::ota::source::Source;
use crate::io::ota::view::View;
use crate::io::ota::web::Web;
use crate::io::uplink::Membership;

mod host;

use host::ServeHost;
pub(super) use host::Serving;

/// Arguments of `models`.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
    /// The box's HTTP address.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080"
    )]
    http: SocketAddr,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ModelsCommand {
    /// What serves, what is under way and how far, what was taken back and why.
    List {
        /// The JSON object as it came.
        #[arg(long)]
        json: bool,
    },
    /// Look now what is released, and try it whatever the windows say.
    Trial,
    /// Keep the release that is on trial, without waiting longer.
    Commit,
    /// Take back the release that is on trial, or go back to the model before.
    Rollback,
    /// Let nothing come in.
    Pin,
    /// Let releases come in again.
    Unpin,
    /// What serves is right, after the state was lost; and what was rejected may come again.
    Confirm,
}

pub(super) fn models(args: &ModelsArgs) -> Result<(), Failure> {
    let order = match args.command {
        ModelsCommand::List { json } => {
            let text = status::ask(args.http, "GET", "/models")?;
            return list(&text, json, args.http);
        }
        ModelsCommand::Trial => "trial",
        ModelsCommand::Commit => "commit",
        ModelsCommand::Rollback => "rollback",
        ModelsCommand::Pin => "pin",
        ModelsCommand::Unpin => "unpin",
        ModelsCommand::Confirm => "confirm",
    };
    status::ask(args.http, "POST", &format!("/models/{order}"))?;
    super::show("done\n")
}

fn list(text: &str, json: bool, box_address: SocketAddr) -> Result<(), Failure> {
    if json {
        return super::show(&format!("{text}\n"));
    }
    let bad = |_| {
        let message = format!("{box_address} does not answer like an outstation");
        Failure::new(exit::UNAVAILABLE, message)
    };
    let view: View = serde_json::from_str(text).map_err(bad)?;
    super::show(&view.to_string())
}

/// A box that follows a ring.
pub(super) struct Follows {
    settings: Settings,
    opening: Opening,
    observer: CaseWatch,
}

impl Follows {
    /// Opens the models of a box, and says in `config` what serves. `None`: it follows no ring.
    pub(super) fn open(config: &mut Config) -> Result<Option<Self>, Failure> {
        let Some(ring) = config.models.ring.clone() else {
            return Ok(None);
        };
        let state = super::enrol::state_folder(config);
        let models = &config.models;
        let folder = models
            .folder
            .clone()
            .unwrap_or_else(|| state.join("models"));
        let root = match &models.root {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|e| {
                Failure::io(format!("cannot read models.root {}", path.display()), e)
            })?),
        };
        let member = Membership::read(&state)?;
        let appliance = member.and_then(|member| member.factory.appliance());
        let opening = Opening::new(&folder).map_err(|e| Failure::new(exit::IO, e.to_string()))?;
        let settings = Settings {
            ring,
            root,
            // A box that belongs to nobody is a box all the same: its machine's own number.
            appliance: appliance.unwrap_or_else(machine),
            hardware: load::hardware(config)?,
            bytes_per_s_max: models.bytes_per_s_max.map(|size| size.0),
            window: models.window()?,
            interval: Duration::from_secs(models.interval_s.into()),
            reserve_bytes: models.reserve.0,
            folder,
        };
        if let Some((file, name)) = opening.serves(&settings.folder) {
            let adapters = opening::adapters(&settings.folder, opening.slots.state());
            host::serves(config, &file, Some(&name), &adapters);
        }
        Ok(Some(Self {
            settings,
            opening,
            observer: CaseWatch::default(),
        }))
    }

    /// Who watches requests.
    pub(super) fn observer(&self) -> CaseWatch {
        self.observer.clone()
    }

    /// Begins to follow, on a thread of its own.
    pub(super) fn start(self, serving: Serving, uplink: Option<Link>) -> Result<Handle, Failure> {
        let models = &serving.config.models;
        let (_, never) = watch::channel(None);
        let (_, no_time) = watch::channel(None);
        let (connection, factory_time) = match uplink {
            Some(link) => (link.connection, link.factory_time),
            None => (never, no_time),
        };
        let source = match models.source.as_str() {
            "uplink" => Source::Uplink(connection),
            web if web.starts_with("http://") || web.starts_with("https://") => {
                let authority = models.authority.as_ref().map(|path| {
                    CertificateDer::from_pem_file(path)
                        .map_err(|e| Failure::new(exit::CONFIG, e.to_string()).at(path.display()))
                });
                let web = Web::new(web, authority.transpose()?);
                Source::Web(web.map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?)
            }
            folder => Source::Folder(PathBuf::from(folder)),
        };
        let host = ServeHost::new(serving, self.observer);
        let resume = self.opening.resume;
        let made = Runner::new(
            self.settings,
            self.opening,
            host,
            Shared::new(source),
            factory_time,
        );
        let (runner, handle) =
            made.map_err(|e| Failure::io("cannot open the metadata folder", e))?;
        let runtime = super::runtime()?;
        std::thread::Builder::new()
            .name("models".into())
            .spawn(move || runtime.block_on(runner.run(resume)))
            .map_err(|e| Failure::io("cannot start the models thread", e))?;
        Ok(handle)
    }
}

/// What an uplink gives to who follows a ring.
pub(super) struct Link {
    pub(super) connection: watch::Receiver<Option<quinn::Connection>>,
    pub(super) factory_time: watch::Receiver<Option<(u64, Instant)>>,
}

/// A number that stays with this machine.
fn machine() -> [u8; 16] {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let digest = blake3::derive_key(
        "outstation 2026-11 the draw of a box without a factory",
        id.trim().as_bytes(),
    );
    *digest.first_chunk().expect("a digest is longer")
}
