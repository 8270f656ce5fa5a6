//! The meter thread: reads a sensor now and then, and keeps the ledger of who took what.
//!
//! ```text
//! engine thread ─ work, a ring ─▶ ledger ◀─ readings ─ meter thread
//!                                   └─▶ µJ of a request ─▶ its record
//! ```
//!
//! Some sensors answer over a slow bus, so neither the engine nor the io thread reads them. What a request took is
//! known after the next reading; its record waits for that, and nobody else does.

pub mod meter;
pub(crate) mod work;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

pub use work::WorkIn;

use crate::config::{EnergyConfig, MeterChoice};
use crate::energy::{Due, Integrator, Ledger, Totals};
use crate::request::RequestId;
use meter::{Meter, Search};

/// What there is to read, before anything is read.
#[derive(Debug)]
pub struct Sensor {
    meter: Meter,
    sysfs: PathBuf,
    choice: MeterChoice,
    interval: Duration,
}

impl Sensor {
    /// Looks for the meter that the configuration names, and says in the log what was found.
    pub fn find(config: &EnergyConfig) -> Option<Self> {
        let choice = config.choice();
        let search = Search::run(&config.sysfs, &choice);
        for note in &search.notes {
            tracing::warn!("energy: {note}");
        }
        let Some(meter) = search.meter else {
            if choice != MeterChoice::None {
                tracing::info!("energy: no meter, so records tell no energy (docs/energy.md)");
            }
            return None;
        };
        let interval = Duration::from_millis(config.interval_ms.into());
        tracing::info!(meter = meter.name, "energy: read every {interval:?}");
        Some(Self {
            meter,
            sysfs: config.sysfs.clone(),
            choice,
            interval,
        })
    }
}

/// A handle that all share. The thread ends with the last one.
#[derive(Clone)]
pub struct Energy {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Rung after a reading.
    read: Notify,
    /// Somebody waits for it.
    hasty: Arc<AtomicBool>,
    interval: Duration,
}

struct State {
    ledger: Ledger,
    work: WorkIn,
    meter: String,
    /// Whether the last look was a measurement.
    alive: bool,
    thread: Option<Thread>,
}

/// Numbers for status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnergyStatus {
    /// What is read.
    pub meter: String,
    /// Whether it says something.
    pub reads: bool,
    /// Of the last second.
    pub watts: Option<f64>,
    /// Measured since start.
    pub joules: f64,
    /// Of requests.
    pub joules_requests: f64,
    /// While nothing ran.
    pub joules_idle: f64,
    /// Requests that ended and whose energy is known.
    pub requests: u64,
    /// Tokens of their answers.
    pub output_tokens: u64,
    /// What a token of them took.
    pub joules_per_token: Option<f64>,
    /// All that was measured, for each of these tokens.
    pub joules_per_token_with_idle: Option<f64>,
    /// Stretches of work whose energy counts as idle, since the ledger fell behind.
    pub stretches_lost: u64,
}

impl Energy {
    /// Starts the thread.
    pub fn start(sensor: Sensor, work: WorkIn) -> std::io::Result<Self> {
        let started = work.started;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ledger: Ledger::default(),
                work,
                meter: sensor.meter.name.clone(),
                alive: true,
                thread: None,
            }),
            read: Notify::new(),
            hasty: Arc::default(),
            interval: sensor.interval,
        });
        let reader = Reader {
            integrator: Integrator::new(sensor.meter.kind()),
            sensor,
            shared: Arc::downgrade(&shared),
            hasty: shared.hasty.clone(),
            started,
            silence: None,
        };
        let join = thread::Builder::new()
            .name("meter".into())
            .stack_size(STACK_BYTES)
            .spawn(move || reader.run())?;
        shared.lock().thread = Some(join.thread().clone());
        Ok(Self { shared })
    }

    /// Numbers for status.
    pub fn status(&self) -> EnergyStatus {
        let mut state = self.shared.lock();
        let State {
            ledger,
            work,
            meter,
            alive,
            ..
        } = &mut *state;
        work.pass(ledger);
        let Totals {
            measured_uj,
            attributed_uj,
            idle_uj,
            requests,
            output_tokens,
            ended_uj,
            watts,
            lost,
        } = ledger.totals();
        let joules = |uj: u64| uj as f64 / 1e6;
        let each = |uj: u64| (output_tokens > 0).then(|| joules(uj) / output_tokens as f64);
        EnergyStatus {
            meter: meter.clone(),
            reads: *alive,
            watts: watts.filter(|_| *alive),
            joules: joules(measured_uj),
            joules_requests: joules(attributed_uj),
            joules_idle: joules(idle_uj),
            requests,
            output_tokens,
            joules_per_token: each(ended_uj),
            joules_per_token_with_idle: each(measured_uj),
            stretches_lost: lost,
        }
    }

    /// A request ended; what it took can be waited for.
    pub fn owed(&self, id: RequestId, output_tokens: u32) -> Owed {
        Owed {
            energy: self.clone(),
            id,
            output_tokens,
        }
    }
}

/// What a request took, once it is measured.
pub struct Owed {
    energy: Energy,
    id: RequestId,
    output_tokens: u32,
}

/// How soon it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// After the next reading.
    NextReading,
    /// Somebody waits: the reading comes at once.
    Now,
}

impl Owed {
    /// Millijoules, rounded up. None: not all of it was measured.
    pub async fn settle(self, haste: Haste) -> Option<u64> {
        let shared = &self.energy.shared;
        if haste == Haste::Now {
            shared.hasty.store(true, Ordering::Release);
            if let Some(thread) = &shared.lock().thread {
                thread.unpark();
            }
        }
        let deadline = tokio::time::Instant::now() + SETTLE_MAX + 2 * shared.interval;
        loop {
            let read = shared.read.notified();
            match self.look() {
                Due::Known(uj) => return Some(uj.div_ceil(1000)).filter(|&mj| mj > 0),
                Due::Nothing => return None,
                Due::Later => {}
            }
            if tokio::time::timeout_at(deadline, read).await.is_err() {
                return None;
            }
        }
    }

    fn look(&self) -> Due {
        let mut state = self.energy.shared.lock();
        let State {
            ledger,
            work,
            alive,
            ..
        } = &mut *state;
        work.pass(ledger);
        match ledger.take(self.id, self.output_tokens) {
            // What does not speak is not waited for.
            Due::Later if !*alive => Due::Nothing,
            due => due,
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.energy.shared.lock().ledger.forget(self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
struct Reader {
    sensor: Sensor,
    integrator: Integrator,
    shared: Weak<Shared>,
    hasty: Arc<AtomicBool>,
    started: Instant,
    silence: Option<Silence>,
}

/// Nothing is measured.
struct Silence {
    since: Duration,
    /// It lasts, and the log says so.
    told: bool,
    /// When another meter was looked for.
    looked_at: Duration,
}

impl Reader {
    fn run(mut self) {
        loop {
            let begun = self.started.elapsed();
            let values = self.sensor.meter.read();
            let now = self.started.elapsed();
            // A slow sensor measured somewhere between.
            let at = begun + now.saturating_sub(begun) / 2;
            let measured = match values {
                Ok(values) => self
                    .integrator
                    .handle_values(at, &values)
                    .ok_or_else(|| "it stands still".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let measured = match measured {
                Ok(reading) => {
                    self.end_silence();
                    Some(reading)
                }
                Err(why) => {
                    self.silent(now, &why);
                    None
                }
            };
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let mut state = shared.lock();
            let State { ledger, work, .. } = &mut *state;
            work.pass(ledger);
            if let Some(reading) = measured {
                ledger.handle_reading(reading);
            }
            state.alive = self.silence.as_ref().is_none_or(|silence| !silence.told);
            state.meter.clone_from(&self.sensor.meter.name);
            drop(state);
            shared.read.notify_waiters();
            drop(shared);
            self.wait(begun);
        }
    }

    fn end_silence(&mut self) {
        if self.silence.take().is_some_and(|silence| silence.told) {
            tracing::info!(
                meter = self.sensor.meter.name,
                "energy: it is measured again"
            );
        }
    }

    /// Nothing was measured: after a while the log says so, and the meter is looked for again, which may have another
    /// name after its driver was loaded again.
    fn silent(&mut self, now: Duration, why: &str) {
        let silence = self.silence.get_or_insert(Silence {
            since: now,
            told: false,
            looked_at: now,
        });
        if now.saturating_sub(silence.since) <= SILENT_MAX {
            return;
        }
        if !silence.told {
            silence.told = true;
            tracing::warn!(
                meter = self.sensor.meter.name,
                "energy: nothing is measured ({why}): records tell no energy until it is"
            );
        }
        if now.saturating_sub(silence.looked_at) > LOOK_AGAIN {
            silence.looked_at = now;
            if let Some(meter) = Search::run(&self.sensor.sysfs, &self.sensor.choice).meter {
                self.integrator.change(meter.kind());
                self.sensor.meter = meter;
            }
        }
    }

    /// Until the next reading is due, or wanted; not too soon after one that began then.
    fn wait(&self, begun: Duration) {
        loop {
            let hasty = self.hasty.load(Ordering::Acquire);
            let interval = if hasty {
                HASTE_MIN
            } else {
                self.sensor.interval
            };
            let left = (begun + interval).saturating_sub(self.started.elapsed());
            if left.is_zero() {
                self.hasty.store(false, Ordering::Release);
                return;
            }
            thread::park_timeout(left);
        }
    }
}

/// Silence of a meter that is no accident.
const SILENT_MAX: Duration = Duration::from_secs(2);

/// How often a meter that is silent is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Time between two readings at least, whoever is in haste.
const HASTE_MIN: Duration = Duration::from_millis(10);

/// How long a record waits for a reading, besides two intervals.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// It reads files of a few bytes, and writes to the log.
const STACK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
