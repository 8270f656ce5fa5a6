//! What writes down what is served, on a box that belongs to a factory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outstation_wire::seal;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::exit::Failure;
use super::models::Link;
use crate::budget::LogBytes;
use crate::config::Config;
use crate::flag::Flagger;
use crate::io::gateway::Gateway;
use crate::io::log::Log;
use crate::io::ota::runner::Handle;
use crate::io::spool_link::{Keeper, SpoolLink};
use crate::io::spool_thread::{self, SpoolSetup};
use crate::io::uplink::{self, BoxState, Membership, Reach, Uplink};
use crate::spool::Identity;

/// Bytes of records between two looks of the disk thread.
const RING_BYTES: usize = 4 << 20;

/// How often what is usual is saved; it is also saved at the end.
const SAVE_EVERY: Duration = Duration::from_hours(1);

/// What it takes, if the box belongs to a factory.
pub(super) fn bytes(config: &Config) -> Result<Option<LogBytes>, Failure> {
    let member = Membership::read(&super::enrol::state_folder(config))?;
    let limits = config.spool.limits();
    Ok(member.map(|_| LogBytes {
        log: Log::bytes(&config.log),
        spool: SpoolSetup::bytes(&limits, RING_BYTES),
        uplink: u64::from(config.uplink.segments_at_once) * (64 << 10) + (2 << 20),
    }))
}

/// Everything behind the log.
pub(super) struct Logging {
    pub(super) log: Log,
    member: Membership,
    link: Arc<SpoolLink>,
    keeper: Keeper,
    flag_state: PathBuf,
}

/// It runs.
pub(super) struct Running {
    factory_time: watch::Receiver<Option<(u64, tokio::time::Instant)>>,
    log: Log,
    /// It ends with this.
    uplink: Uplink,
    stop: Arc<Notify>,
    keeping: JoinHandle<()>,
    saving: JoinHandle<()>,
    flag_state: PathBuf,
}

impl Logging {
    /// Starts the disk thread. None: the box belongs to nobody, and writes nothing down.
    pub(super) fn start(config: &Config, started: Instant) -> Result<Option<Self>, Failure> {
        let state = super::enrol::state_folder(config);
        let Some(member) = Membership::read(&state)? else {
            return Ok(None);
        };
        let appliance = member
            .factory
            .appliance()
            .expect("it was checked when it was read");
        let factory_key = member.factory.segment_key().expect("likewise");
        let folder = state.join("spool");
        let setup = SpoolSetup {
            folder: folder.clone(),
            limits: config.spool.limits(),
            identity: Identity {
                appliance,
                epoch_if_new: seal::random(),
            },
            ring_bytes: RING_BYTES,
            unix_ms_floor: 0,
        };
        let handle = spool_thread::start(setup, started)
            .map_err(|e| Failure::io("cannot start the disk thread", e))?;
        let flag_state = state.join("flag.state");
        let usual = read_flag_state(&flag_state, config);
        let nonce = seal::random();
        let log = Log::new(handle.records.clone(), &config.log, usual, started, nonce);
        let (link, keeper) = SpoolLink::new(handle, folder, appliance, factory_key);
        Ok(Some(Self {
            log,
            member,
            link,
            keeper,
            flag_state,
        }))
    }

    /// Lets records through, and dials the factory.
    pub(super) async fn run(self, config: &Config, gateway: &Gateway) -> Result<Running, Failure> {
        let stop = Arc::new(Notify::new());
        let keeping = tokio::spawn(self.keeper.run(stop.clone()));
        self.link.opened().await;
        let uplink = start_uplink(config, self.member, self.link, gateway)?;
        let mut state = uplink.state();
        let log = self.log.clone();
        let path = self.flag_state.clone();
        let (time, factory_time) = watch::channel(None);
        let saving = tokio::spawn(async move {
            let mut hours = tokio::time::interval(SAVE_EVERY);
            loop {
                tokio::select! {
                    _ = hours.tick() => save_flag_state(&path, &log),
                    Ok(()) = state.changed() => {
                        let unix_ms = state.borrow_and_update().factory_unix_ms;
                        log.handle_factory_time(unix_ms);
                        if unix_ms > 0 {
                            time.send_replace(Some((unix_ms, tokio::time::Instant::now())));
                        }
                    }
                }
            }
        });
        Ok(Running {
            factory_time,
            log: self.log,
            uplink,
            stop,
            keeping,
            saving,
            flag_state: self.flag_state,
        })
    }
}

impl Running {
    /// What who follows a ring needs of it.
    pub(super) fn link(&self) -> Link {
        Link {
            connection: self.uplink.connection(),
            factory_time: self.factory_time.clone(),
        }
    }

    /// Seals what there is and ends the disk thread. Records that come later are lost.
    pub(super) async fn end(self) {
        self.saving.abort();
        drop(self.uplink);
        let _ = tokio::time::timeout(Duration::from_secs(5), self.log.made()).await;
        save_flag_state(&self.flag_state, &self.log);
        self.stop.notify_one();
        let _ = tokio::time::timeout(Duration::from_secs(10), self.keeping).await;
    }
}

fn start_uplink(
    config: &Config,
    member: Membership,
    link: Arc<SpoolLink>,
    gateway: &Gateway,
) -> Result<Uplink, Failure> {
    let settings = &config.uplink;
    let factory = settings.factory.clone();
    let factory = factory.unwrap_or_else(|| member.factory.factory.clone());
    tracing::info!(
        factory,
        name = member.factory.name,
        "this box belongs to a fleet"
    );
    let shown = factory.clone();
    let options = uplink::Options {
        segments_at_once: settings.segments_at_once as usize,
        bytes_per_s_max: settings.bytes_per_s_max.map(|size| size.0),
        window: settings.window()?,
        urgent_outside_window: settings.urgent_outside_window,
        ..uplink::Options::new(factory)
    };
    let showing = gateway.clone();
    // A gateway that is held for ever would keep the box from going down.
    let gateway = gateway.downgrade();
    let state = move || {
        let Some(gateway) = gateway.upgrade() else {
            return BoxState::default();
        };
        let writing = gateway.log().is_none_or(|log| log.status().writing);
        BoxState {
            model: gateway.served().id,
            model_digest: gateway.model_digest().to_vec(),
            requests_served: gateway.requests_served(),
            trouble: if writing {
                String::new()
            } else {
                "its spool takes no records: look at its disk".to_owned()
            },
            release: gateway
                .releases()
                .map(Handle::for_hello)
                .unwrap_or_default(),
        }
    };
    let uplink = Uplink::start(options, member, link, state);
    showing.reach(Reach {
        factory: shown,
        state: uplink.state(),
    });
    Ok(uplink)
}

fn read_flag_state(path: &Path, config: &Config) -> Option<Flagger> {
    let bytes = std::fs::read(path).ok()?;
    let usual = Flagger::load(config.log.flags(), &bytes);
    usual
        .inspect_err(|error| tracing::warn!("{}: {error}; it is learned anew", path.display()))
        .ok()
}

fn save_flag_state(path: &Path, log: &Log) {
    let part = path.with_extension("part");
    let saved = std::fs::write(&part, log.flag_state()).and_then(|()| std::fs::rename(&part, path));
    if let Err(error) = saved {
        tracing::warn!("cannot save {}: {error}", path.display());
    }
}
