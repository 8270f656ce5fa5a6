//! `outstation serve`, as a trial sees it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outstation_wire::release::Golden;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::load::Loaded;
use super::super::station::{self, Wants};
use super::super::trial::{self, No, Said};
use super::super::{ServeArgs, load};
use crate::budget::Budget;
use crate::cli::exit::Failure;
use crate::config::Config;
use crate::engine::AnyEngine;
use crate::io::exchange::Exchange;
use crate::io::gateway::{CaseWatch, Gateway, Leaving, Paused, TextModel, WeakGateway};
use crate::io::ota::adding;
use crate::io::ota::host::{Host, Seen, Tested, Unfit, Way};
use crate::request::{Class, GenerateRequest, Lane, Prompt, RefusalKind, Sampling, Tenant};
use crate::slot::Reason;
use crate::station::Station;

/// What serves, for who changes it.
pub(in crate::cli) struct Serving {
    pub(in crate::cli) args: ServeArgs,
    /// As configured, before a release took the model's place, with the limit of memory that was found at start.
    pub(in crate::cli) config: Config,
    pub(in crate::cli) gateway: WeakGateway,
    pub(in crate::cli) exchange: Exchange<AnyEngine>,
    pub(in crate::cli) wants: Wants,
}

/// The program that serves.
pub(super) struct ServeHost {
    serving: Serving,
    observer: CaseWatch,
    /// Where the model that serves is, and the one beside it.
    main: Lane,
    beside: Option<Lane>,
    paused: Option<Paused<AnyEngine>>,
    /// A model that finishes what it has.
    leaving: Option<JoinHandle<()>>,
}

fn unfit(reason: Reason) -> impl Fn(Failure) -> Unfit {
    move |failure| Unfit {
        reason,
        text: failure.message,
    }
}

/// A model's head, and what it would take.
struct Planned {
    config: Config,
    loaded: Loaded,
    budget: Budget,
}

impl Planned {
    fn new(config: Config) -> Result<Self, Unfit> {
        let loaded = load::model(&config.model).map_err(unfit(Reason::Load))?;
        let budget = load::budget(&config, &loaded).map_err(unfit(Reason::Memory))?;
        Ok(Self {
            config,
            loaded,
            budget,
        })
    }

    fn load(self, wants: Wants) -> Result<(Box<Station<AnyEngine>>, TextModel), Unfit> {
        let made = station::station(&self.config, self.loaded, &self.budget, wants);
        let (station, text) = made.map_err(unfit(Reason::Load))?;
        Ok((Box::new(station), text))
    }
}

impl ServeHost {
    pub(super) fn new(serving: Serving, observer: CaseWatch) -> Self {
        Self {
            serving,
            observer,
            main: Lane::First,
            beside: None,
            paused: None,
            leaving: None,
        }
    }

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
        self.left().await;
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

    /// Waits until the last model that left has finished what it had.
    async fn left(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            leaving.await.expect("leaving does not panic");
        }
    }

    /// Nobody waits for a model that leaves; its memory is free when its last answer has ended.
    fn let_go(&mut self, gateway: Gateway, leaving: Leaving) {
        let exchange = self.serving.exchange.clone();
        self.leaving = Some(tokio::spawn(async move {
            drop(gateway.leave(leaving, exchange).await);
        }));
    }

    fn config_for(&self, file: &Path, name: Option<&str>) -> Config {
        let mut config = self.serving.config.clone();
        serves(&mut config, file, name, &[]);
        config
    }

    async fn load(&self, config: Config) -> Result<(Box<Station<AnyEngine>>, TextModel), Unfit> {
        let wants = self.serving.wants;
        let load = move || Planned::new(config)?.load(wants);
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.expect("loading does not panic")
    }

    /// Asks an adapter's golden texts, as an app would.
    async fn ask_golden(
        &self,
        gateway: &Gateway,
        name: &str,
        golden: &[Golden],
    ) -> Result<(), Unfit> {
        for (number, golden) in (1..).zip(golden) {
            let (prompt, answer) = golden.ids.split_at(golden.prompt_tokens as usize);
            let request = || GenerateRequest {
                model: Some(format!("default:{name}")),
                prompt: Prompt::Ids(prompt.to_vec()),
                max_tokens: Some(u32::try_from(answer.len()).unwrap_or(u32::MAX)),
                ignore_eos: true,
                sampling: Sampling::greedy(),
                class: Class::Batch,
                tenant: Tenant::OPERATOR,
                ..GenerateRequest::default()
            };
            let deadline = Instant::now() + GOLDEN_MAX;
            let mut generation = loop {
                match gateway.submit(request()).await {
                    Ok(generation) => break generation,
                    // The box is full: apps come first.
                    Err(refusal) if refusal.kind == RefusalKind::Overloaded => {
                        if Instant::now() >= deadline {
                            return Err(Unfit {
                                reason: Reason::Slow,
                                text: format!("the box was full for {GOLDEN_MAX:?}"),
                            });
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    Err(refusal) => {
                        return Err(Unfit {
                            reason: Reason::Golden,
                            text: format!("golden text {number}: {refusal}"),
                        });
                    }
                }
            };
            while generation.next().await.is_some() {}
            let nll = generation.mean_nll().map_or(f64::NAN, f64::from);
            adding::golden(number, nll, golden.nll, golden.tolerance)?;
        }
        Ok(())
    }
}

/// Makes a release what a configuration serves, with its adapters: as many as there are places for, if those are
/// counted.
pub(super) fn serves(
    config: &mut Config,
    file: &Path,
    name: Option<&str>,
    adapters: &[(String, PathBuf)],
) {
    config.model.file = Some(file.to_owned());
    if let Some(name) = name {
        config.model.name.get_or_insert_with(|| name.to_owned());
    }
    // Those of the configuration were named for its own model. Their places stay.
    let configured = config.adapters.named_files().map_or(0, |files| files.len());
    let places = configured.max(adapters.len());
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    let places = *config.adapters.count_max.get_or_insert(places) as usize;
    let files = adapters.iter().take(places);
    config.adapters.files = files
        .map(|(name, path)| format!("{name}={}", path.display()))
        .collect();
    config.adapters.folder = None;
}

impl Host for ServeHost {
    async fn fits(&mut self, file: &Path) -> Result<(), Unfit> {
        Planned::new(self.config_for(file, None)).map(drop)
    }

    async fn way(&mut self, file: &Path) -> Result<Way, Unfit> {
        self.left().await;
        let budget = Planned::new(self.config_for(file, None))?.budget;
        let gateway = self.gateway()?;
        let both = gateway.planned_bytes().saturating_add(budget.model_bytes);
        let fits_gpu = budget.gpu.is_none_or(|gpu| {
            let planned = gateway.planned_gpu_bytes();
            planned.saturating_add(gpu.model_bytes) <= gpu.limit_bytes
        });
        Ok(if both <= budget.limit_bytes && fits_gpu {
            Way::Beside
        } else {
            Way::Instead
        })
    }

    async fn test(&mut self, file: &Path, way: Way, within: Duration) -> Result<Tested, Unfit> {
        if way == Way::Instead {
            self.pause().await?;
        }
        let manifest = file.with_extension("json");
        let memory = &self.serving.config.memory;
        let flags = trial::flags(&self.serving.args, memory, file, &manifest, way);
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

    async fn serve(
        &mut self,
        model: Option<(&Path, &str)>,
        adapters: &[(String, PathBuf)],
    ) -> Result<(), Unfit> {
        self.pause().await?;
        let mut config = self.serving.config.clone();
        if let Some((file, name)) = model {
            serves(&mut config, file, Some(name), adapters);
        }
        let mut loaded = self.load(config.clone()).await;
        if let (Err(unfit), Some((file, name)), false) = (&loaded, model, adapters.is_empty()) {
            tracing::error!("without its adapters, since with them: {}", unfit.text);
            serves(&mut config, file, Some(name), &[]);
            loaded = self.load(config).await;
        }
        let (station, text) = loaded?;
        let paused = self.paused.take().expect("it was paused");
        self.main = paused.resume(station, text);
        self.observer.begin(self.main);
        Ok(())
    }

    async fn add(&mut self, file: &Path, name: &str) -> Result<(), Unfit> {
        let config = self.config_for(file, Some(name));
        let wants = self.serving.wants;
        let (gateway, exchange) = (self.gateway()?, self.serving.exchange.clone());
        let add = move || -> Result<Lane, Unfit> {
            let (station, text) = Planned::new(config)?.load(wants)?;
            Ok(gateway.add_beside(&exchange, station, text))
        };
        let added = tokio::task::spawn_blocking(add).await;
        self.beside = Some(added.expect("loading does not panic")?);
        Ok(())
    }

    fn share(&mut self, percent: u32) {
        let Some(lane) = self.beside else { return };
        if let Ok(gateway) = self.gateway() {
            gateway.share(percent);
        }
        for lane in [lane, self.main] {
            self.observer.begin(lane);
        }
    }

    fn keep(&mut self) {
        let Some(lane) = self.beside.take() else {
            return;
        };
        self.main = lane;
        if let Ok(gateway) = self.gateway() {
            let leaving = gateway.promote();
            self.let_go(gateway, leaving);
        }
    }

    fn withdraw(&mut self) {
        self.beside = None;
        if let Ok(gateway) = self.gateway()
            && let Some(leaving) = gateway.withdraw()
        {
            self.let_go(gateway, leaving);
        }
    }

    fn adapter_place(&self) -> Result<(), String> {
        let gateway = self.gateway().map_err(|unfit| unfit.text)?;
        gateway.adapter_place().map_err(|error| {
            format!("{error}: adapters.count_max is to be one more than the ring's adapters, since one is changed at a time")
        })
    }

    async fn test_adapter(
        &mut self,
        name: &str,
        file: &Path,
        golden: &[Golden],
    ) -> Result<(), Unfit> {
        self.load_adapter(name, file).await?;
        let gateway = self.gateway()?;
        let tested = self.ask_golden(&gateway, name, golden).await;
        let _ = gateway.unload_adapter(name).await;
        tested
    }

    async fn load_adapter(&mut self, name: &str, file: &Path) -> Result<(), Unfit> {
        let loaded = self.gateway()?.load_adapter(name, file.to_owned()).await;
        loaded.map_err(|error| Unfit {
            reason: Reason::Load,
            text: error.to_string(),
        })
    }

    async fn unload_adapter(&mut self, name: &str) {
        if let Ok(gateway) = self.gateway() {
            let _ = gateway.unload_adapter(name).await;
        }
    }

    fn seen(&self) -> Seen {
        let main = self.observer.window(self.main);
        match self.beside {
            None => Seen {
                candidate: main,
                beside: None,
            },
            Some(lane) => Seen {
                candidate: self.observer.window(lane),
                beside: Some(main),
            },
        }
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

/// How long golden texts of an adapter wait for their turn.
const GOLDEN_MAX: Duration = Duration::from_mins(5);

/// How often a self-test is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
