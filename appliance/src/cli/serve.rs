//! `outstation serve`: configuration → budget → sockets → memory → threads → READY → serve → drain.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::ServeArgs;
use super::exit::{self, Failure};
use super::load::{self, Loaded};
use super::logging::{Logging, Running};
use super::models::{Follows, Serving};
use super::settings;
use super::station::{self, Wants};
use crate::budget::{self, Budget};
use crate::config::Config;
use crate::engine::AnyEngine;
use crate::io::energy::{Energy, Sensor, WorkIn};
use crate::io::engine_thread::{self, EngineHandle, RingSizes, WantsWork};
use crate::io::exchange::Exchange;
use crate::io::gateway::{self, Gateway, TextModel, Watchers};
use crate::io::last_errors::LastErrors;
use crate::io::memory;
use crate::io::systemd;
use crate::limits;

mod fronts;

use fronts::Fronts;

/// How long running requests may take to end after SIGTERM. systemd's own limit is longer.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What the io thread's heap grows by under load, taken at start: 1.4 MiB were measured in half an hour of overload.
/// Part of the budget's reserve.
const IO_HEAP_BYTES: usize = 6 << 20;

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = settings::read(args)?;
    let errors = LastErrors::default();
    let journal = systemd::journal();
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(tracing_subscriber::EnvFilter::new("info"))
        .with(journal.is_none().then_some(text))
        .with(journal)
        .with(errors.clone())
        .init();
    super::runtime()?.block_on(serve_with(args, config, errors))
}

async fn serve_with(
    args: &ServeArgs,
    mut config: Config,
    errors: LastErrors,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut configured = config.clone();
    // An address in use is found before the model is loaded.
    let fronts = Fronts::bind(&config).await?;
    let follows = Follows::open(&mut config)?;
    let loaded = load::model(&config.model)?;
    let budget = load::budget(&config, &loaded)?;
    budget.fix_limits(&mut configured.memory);
    let demo = config.model.file.is_none();
    let serving = &config.serving;
    let under_way =
        limits::requests_under_way_max(serving.sequences_max, serving.queue_requests_max);
    let under_way = under_way as usize;
    let name = loaded.name.clone();
    let logging = Logging::start(&config, started)?;
    let log = logging.as_ref().map(|logging| logging.log.clone());
    let sensor = Sensor::find(&config.energy);
    let loaded_max = if follows.is_some() { 2 } else { 1 };
    let wants = Wants {
        certainty: log.is_some() || follows.is_some(),
        work: match sensor {
            Some(_) => WantsWork::Of(loaded_max * serving.sequences_max),
            None => WantsWork::Nobody,
        },
    };
    let (text, mut engine, exchange) = start_engine(&config, loaded, &budget, under_way, wants)?;
    let energy = start_energy(sensor.zip(engine.work.take()))?;
    let seed = RandomState::new().build_hasher().finish();
    let trial = follows.as_ref().map(Follows::observer);
    let watchers = Watchers {
        log,
        energy,
        trial,
        errors,
    };
    let (gateway, dispatcher) = Gateway::start(text, engine, under_way, seed, watchers);
    let dispatching = tokio::spawn(dispatcher.run());

    let fronts = fronts.open(&config, &gateway)?;
    // Until here a signal ends the process as it always does; who reads that we are ready may stop us in the same
    // instant.
    let mut signals = Signals::catch()?;
    if until_ready(&gateway, &dispatching, &mut signals).await? == Woken::BySignal {
        return Ok(());
    }
    memory::touch_heap(IO_HEAP_BYTES);
    announce(
        &name,
        demo,
        &budget,
        fronts.quic_address,
        fronts.http_address,
        started.elapsed(),
    );
    let certificate = fronts.certificate.as_deref().map(Path::display);
    tracing::info!(
        certificate = certificate.map(tracing::field::display),
        "ready"
    );
    systemd::ready(&name);
    tokio::spawn(systemd::watch(gateway.downgrade()));
    let logging = match logging {
        Some(logging) => Some(logging.run(&config, &gateway).await?),
        None => None,
    };
    if let Some(follows) = follows {
        let serving = Serving {
            args: args.clone(),
            config: configured,
            gateway: gateway.downgrade(),
            exchange,
            wants,
        };
        gateway.follow(follows.start(serving, logging.as_ref().map(Running::link))?);
    }

    while signals.wait().await == Asked::ToReload {
        systemd::reloading();
        match fronts.reload(&config) {
            Ok(()) => tracing::info!("certificates were read again, for new connections"),
            Err(failure) => tracing::error!("{}; what was there before stays", failure.message),
        }
        systemd::ready(&name);
    }
    systemd::stopping();
    tracing::info!("draining: no new requests, {DRAIN_MAX:?} for those that run");
    gateway.drain();
    fronts.drain(DRAIN_MAX);
    if tokio::time::timeout(DRAIN_MAX, gateway.drained())
        .await
        .is_err()
    {
        tracing::warn!("requests still run after {DRAIN_MAX:?}: they are cut off");
    }
    fronts.close().await;
    if let Some(logging) = logging {
        logging.end().await;
    }
    drop(gateway);
    // Everything that holds the gateway is gone, so the dispatcher ends, and the engine with it.
    let _ = tokio::time::timeout(Duration::from_secs(5), dispatching).await;
    Ok(())
}

fn start_energy(of: Option<(Sensor, WorkIn)>) -> Result<Option<Energy>, Failure> {
    let energy = of.map(|(sensor, work)| Energy::start(sensor, work));
    let failed = |e| Failure::io("cannot start the meter thread", e);
    energy.transpose().map_err(failed)
}

fn start_engine(
    config: &Config,
    loaded: Loaded,
    budget: &Budget,
    under_way: usize,
    wants: Wants,
) -> Result<(TextModel, EngineHandle, Exchange<AnyEngine>), Failure> {
    let (station, text) = station::station(config, loaded, budget, wants)?;
    let sizes = RingSizes {
        requests: gateway::commands_max(under_way),
        events: budget::ring_events(&config.serving),
        work: wants.work,
    };
    let (engine, exchange) = engine_thread::start(station, sizes)
        .map_err(|e| Failure::io("cannot start the engine thread", e))?;
    Ok((text, engine, exchange))
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// A token was decoded.
    ByEngine,
    /// Somebody stops the program.
    BySignal,
}

async fn until_ready(
    gateway: &Gateway,
    dispatching: &JoinHandle<()>,
    signals: &mut Signals,
) -> Result<Woken, Failure> {
    while !gateway.ready() {
        if dispatching.is_finished() {
            return Err(Failure::new(
                exit::IO,
                "the engine ended before its first token",
            ));
        }
        let next_look = tokio::time::sleep(Duration::from_millis(1));
        tokio::select! {
            asked = signals.wait() => if asked == Asked::ToStop {
                return Ok(Woken::BySignal);
            },
            () = next_look => {}
        }
    }
    Ok(Woken::ByEngine)
}

fn announce(
    name: &str,
    demo: bool,
    budget: &Budget,
    quic: SocketAddr,
    http: SocketAddr,
    took: Duration,
) {
    // Nobody may be reading: a box serves all the same.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "outstation serves `{name}`, ready after {:.2} s",
        took.as_secs_f64()
    );
    if demo {
        let _ = writeln!(
            out,
            "  (the demo model: 4 million weights that know the work of a telecom site, in English, German and Spanish; \
             say --model FILE.gguf for another)"
        );
    }
    let _ = writeln!(
        out,
        "  QUIC {quic} · HTTP http://{http} · {} of {} planned",
        crate::config::ByteSize(budget.total_bytes),
        crate::config::ByteSize(budget.limit_bytes)
    );
    let _ = writeln!(out, "try:");
    let question = if demo { DEMO_QUESTION } else { "hello" };
    let _ = writeln!(out, "  outstation ask{} \"{question}\"", ask_flags(quic));
    let _ = writeln!(
        out,
        "  curl -N http://{http}/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"{question}\"}}],\"max_tokens\":64,\"stream\":true}}'"
    );
    let _ = out.flush();
}

/// What the demo model answers.
const DEMO_QUESTION: &str = "set sector 3 of KEL-042 to 40 W until 6 pm";

fn ask_flags(quic: SocketAddr) -> String {
    if quic == crate::config::ListenConfig::default().quic {
        return String::new();
    }
    format!(" --url quic://{quic}")
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    ToStop,
    ToReload,
}

/// SIGTERM, SIGINT and SIGHUP, caught from here on.
struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|e| Failure::io("cannot wait for signals", e));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::ToStop,
            _ = self.interrupt.recv() => Asked::ToStop,
            _ = self.hang_up.recv() => Asked::ToReload,
        }
    }
}
