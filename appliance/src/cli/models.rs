//! `outstation models`, and what a serving box needs to follow a ring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::exit::{self, Failure};
use super::station::{self, Wants};
use super::trial::{self, No, Said};
use super::{ServeArgs, load, status};
use crate::config::Config;
use crate::engine::cpu::CpuEngine;
use crate::io::exchange::Exchange;
use crate::io::gateway::{CaseWatch, Gateway, Paused, TextModel, WeakGateway};
use crate::io::ota::client::Shared;
use crate::io::ota::host::{Host, Tested, Unfit};
use crate::io::ota::opening::Opening;
use crate::io::ota::runner::{Handle, Runner, Settings};
use crate::io::ota::source::Source;
use crate::io::ota::view::View;
use crate::io::ota::web::Web;
use crate::io::uplink::Membership;
use crate::slot::Reason;
use crate::station::Station;
use crate::trial::Window;

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
            hardware: vec!["cpu", std::env::consts::ARCH],
            bytes_per_s_max: models.bytes_per_s_max.map(|size| size.0),
            window: models.window()?,
            interval: Duration::from_secs(models.interval_s.into()),
            reserve_bytes: models.reserve.0,
            folder,
        };
        if let Some((file, name)) = opening.serves(&settings.folder) {
            config.model.file = Some(file);
            config.model.name.get_or_insert(name);
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
        let host = ServeHost {
            serving,
            observer: self.observer,
            paused: None,
        };
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

/// What serves, for who changes it.
pub(super) struct Serving {
    pub(super) args: ServeArgs,
    /// As configured, before a release took the model's place.
    pub(super) config: Config,
    pub(super) gateway: WeakGateway,
    pub(super) exchange: Exchange<CpuEngine>,
    pub(super) wants: Wants,
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

/// `outstation serve`, as a trial sees it.
struct ServeHost {
    serving: Serving,
    observer: CaseWatch,
    paused: Option<Paused<CpuEngine>>,
}

fn unfit(reason: Reason) -> impl Fn(Failure) -> Unfit {
    move |failure| Unfit {
        reason,
        text: failure.message,
    }
}

impl ServeHost {
    fn gateway(&self) -> Result<Gateway, Unfit> {
        self.serving.gateway.upgrade().ok_or_else(|| Unfit {
            reason: Reason::Unknown,
            text: "the box is going down".to_owned(),
        })
    }

    /// Requests wait, and the memory of the model is given back.
    async fn pause(&mut self) -> Result<(), Unfit> {
        if self.paused.is_some() {
            return Ok(());
        }
        let gateway = self.gateway()?;
        let paused = gateway.pause(self.serving.exchange.clone()).await;
        let (paused, station) = paused.ok_or_else(|| Unfit {
            reason: Reason::Unknown,
            text: "the engine has stopped".to_owned(),
        })?;
        drop(station);
        self.paused = Some(paused);
        Ok(())
    }

    fn config_for(&self, file: Option<&Path>, name: Option<&str>) -> Config {
        let mut config = self.serving.config.clone();
        if let Some(file) = file {
            config.model.file = Some(file.to_owned());
            config.model.name = config.model.name.or_else(|| name.map(str::to_owned));
            // They were named for the configured model.
            let places = config.adapters.named_files().map_or(0, |files| files.len());
            let count = u32::try_from(places).unwrap_or(u32::MAX);
            config.adapters.count_max.get_or_insert(count);
            config.adapters.files.clear();
            config.adapters.folder = None;
        }
        config
    }
}

impl Host for ServeHost {
    async fn fits(&mut self, file: &Path) -> Result<(), Unfit> {
        let config = self.config_for(Some(file), None);
        let loaded = load::model(&config.model).map_err(unfit(Reason::Load))?;
        load::budget(&config, &loaded).map_err(unfit(Reason::Memory))?;
        Ok(())
    }

    async fn test(&mut self, file: &Path, within: Duration) -> Result<Tested, Unfit> {
        self.pause().await?;
        let manifest = file.with_extension("json");
        let flags = trial::flags(&self.serving.args, file, &manifest);
        let program = std::env::current_exe();
        let started = program.and_then(|program| {
            Command::new(program)
                .args(flags)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
        });
        let child = started.map_err(|e| Unfit {
            reason: Reason::Load,
            text: format!("cannot start the self-test: {e}"),
        })?;
        outcome(child, within).await
    }

    async fn serve(&mut self, file: Option<&Path>, name: Option<&str>) -> Result<(), Unfit> {
        self.pause().await?;
        let config = self.config_for(file, name);
        let wants = self.serving.wants;
        let load = move || -> Result<(Station<CpuEngine>, TextModel), Unfit> {
            let loaded = load::model(&config.model).map_err(unfit(Reason::Load))?;
            let budget = load::budget(&config, &loaded).map_err(unfit(Reason::Memory))?;
            station::station(&config, loaded, &budget, wants).map_err(unfit(Reason::Load))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (station, text) = loaded.expect("loading does not panic")?;
        let paused = self.paused.take().expect("it was paused");
        paused.resume(Box::new(station), text);
        self.observer.begin();
        Ok(())
    }

    fn window(&self) -> Window {
        self.observer.window()
    }

    fn report(&self, event: &str, attributes: String) {
        if let Ok(gateway) = self.gateway()
            && let Some(log) = gateway.log()
        {
            log.event(event, attributes);
        }
    }
}

/// How a self-test ended: it said so, it died, or its time was up and it was ended.
async fn outcome(mut child: Child, within: Duration) -> Result<Tested, Unfit> {
    let deadline = Instant::now() + within;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Unfit {
                    reason: Reason::Slow,
                    text: format!("it was not loaded and tested within {within:?}"),
                });
            }
        }
    };
    let mut said = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = std::io::Read::read_to_string(&mut out, &mut said);
    }
    match serde_json::from_str(&said) {
        Ok(Said::Fits(tested)) if status.success() => Ok(tested),
        Ok(Said::Unfit(No { reason, text })) => Err(Unfit {
            reason: Reason::try_from(reason).unwrap_or(Reason::Unknown),
            text,
        }),
        _ => Err(Unfit {
            reason: Reason::Crashed,
            text: format!("the self-test ended with {status} and without an answer"),
        }),
    }
}

/// How often a self-test is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
