//! The way to the factory: sealed segments go out, and are deleted when the factory has proved that it has them.
//!
//! ```text
//! Spool ─ changed, sealed ─▶ ┌ uplink task ┐ ─ dial ─▶ Hello ⇄ Welcome
//!   ▲                        │ upload::Queue│ ─ at most N ─▶ send: Offer, bytes ─▶ Stored
//!   └──── acked, refused ────└─────────────┘
//! ```
//!
//! `docs/uplink.md` is the protocol. Everything works for weeks without a factory: a failure here is a wait, and a word
//! in [`UplinkState`]. Memory: N × 64 KiB of file, and the connection's send window of 1 MiB.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outstation_wire::uplink::{FactoryMessage, Hello, RefusedCode, Welcome};
use quinn::Connection;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use self::dial::DialError;
use self::send::SendError;
use crate::upload::{Backoff, Outcome, Pace, Permit, Queue, Sealed, Verdict, Window, permit};

pub mod dial;
pub mod enrol;
pub mod membership;
mod send;

pub use membership::Membership;

/// What the uplink needs of a spool: sealed segments in files, and somebody to tell. None of it may block for longer
/// than a file takes to open.
pub trait Spool: Send + Sync + 'static {
    /// Changes whenever the set of sealed segments did.
    fn changed(&self) -> watch::Receiver<u64>;
    /// All sealed segments, the oldest of each class first.
    fn sealed(&self) -> Vec<Sealed>;
    /// The file of a sealed segment.
    fn path(&self, segment: &Sealed) -> PathBuf;
    /// The factory has it for good: make the cursor durable, then delete the file. It stays in
    /// [`sealed`](Self::sealed) until then.
    fn acked(&self, segment: &Sealed);
    /// The factory will never take it, for this reason: keep it aside, and say so in a record.
    fn refused(&self, segment: &Sealed, reason: &str);
    /// Another machine writes this spool: seal what is open, and go on in a new epoch. [`changed`](Self::changed) says
    /// when that is done.
    fn new_epoch(&self);
    /// How it is.
    fn state(&self) -> SpoolState;
}

/// How a spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolState {
    /// What it writes now.
    pub epoch: [u8; 16],
    /// Starts of the program since the spool was made.
    pub boot: u64,
    /// Drawn at this start.
    pub boot_nonce: [u8; 16],
    /// Records lost since the spool was made.
    pub records_lost: u64,
}

/// How the box is, for its Hello.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoxState {
    /// The model that it serves.
    pub model: String,
    /// Its BLAKE3.
    pub model_digest: Vec<u8>,
    /// Requests served since start.
    pub requests_served: u64,
    /// What is wrong, in a sentence; empty if nothing is.
    pub trouble: String,
    /// What it does with what is released.
    pub release: ReleaseState,
}

/// What a box does with what is released, as its Hello tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseState {
    /// The ring that it follows; empty if none.
    pub ring: String,
    /// The counter of its rollout.
    pub rollout: u64,
    /// The manifest that this is about.
    pub manifest: String,
    /// How far it is: a `ReleasePhase`.
    pub phase: i32,
    /// Why it gave that up.
    pub reason: String,
}

/// How the uplink is to behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` of the factory.
    pub factory: String,
    /// Segments at once. Default 2.
    pub segments_at_once: usize,
    /// Bytes a second. Default: no limit of its own.
    pub bytes_per_s_max: Option<u64>,
    /// Hours in which the link may be used. Default: all.
    pub window: Option<Window>,
    /// Whether P0 goes out at other hours, too. Default: it does.
    pub urgent_outside_window: bool,
    /// Silence or standstill after which a connection is given up. Default 30 s.
    pub patience: Duration,
}

impl Options {
    /// The defaults, for this factory.
    pub fn new(factory: String) -> Self {
        Self {
            factory,
            segments_at_once: 2,
            bytes_per_s_max: None,
            window: None,
            urgent_outside_window: true,
            patience: Duration::from_secs(30),
        }
    }
}

/// How the uplink is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UplinkState {
    /// Whether the factory answers.
    pub connected: bool,
    /// The time that the factory told last, milliseconds since 1970: a floor for the box's clock.
    pub factory_unix_ms: u64,
    /// Segments that the factory took since start.
    pub segments_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Segments that it will never take.
    pub segments_refused: u64,
    /// Why there is no connection, if there is none that should be.
    pub trouble: Option<String>,
    /// When the factory was last known to be there.
    pub heard_at: Option<Instant>,
    /// How far this machine's clock was ahead of the factory's when they last spoke.
    pub clock_ahead_ms: Option<i64>,
}

/// The way to the factory, for who shows it.
#[derive(Debug, Clone)]
pub struct Reach {
    /// `host:port`.
    pub factory: String,
    /// How it is.
    pub state: watch::Receiver<UplinkState>,
}

impl Reach {
    /// Numbers for status.
    pub fn status(&self) -> UplinkStatus {
        let state = self.state.borrow();
        let silent = |heard: Instant| {
            if state.connected {
                0
            } else {
                heard.elapsed().as_secs()
            }
        };
        UplinkStatus {
            factory: self.factory.clone(),
            connected: state.connected,
            last_contact_s: state.heard_at.map(silent),
            clock_ahead_s: state.clock_ahead_ms.map(|ms| ms / 1000),
            segments_sent: state.segments_sent,
            bytes_sent: state.bytes_sent,
            segments_refused: state.segments_refused,
            trouble: state.trouble.clone(),
        }
    }
}

/// Numbers for status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UplinkStatus {
    /// `host:port` of the factory.
    pub factory: String,
    /// Whether it answers.
    pub connected: bool,
    /// Seconds for which it has been silent: 0 while it answers, nothing if it never did since start.
    pub last_contact_s: Option<u64>,
    /// Seconds that this machine's clock is ahead of the factory's; below 0 it is behind.
    pub clock_ahead_s: Option<i64>,
    /// Segments that the factory took since start.
    pub segments_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Segments that it will never take.
    pub segments_refused: u64,
    /// Why there is no connection, if there is none that should be.
    pub trouble: Option<String>,
}

/// A running uplink. It ends when this is dropped; what is half sent goes on next time.
#[derive(Debug)]
pub struct Uplink {
    state: watch::Receiver<UplinkState>,
    connection: watch::Receiver<Option<Connection>>,
    task: JoinHandle<()>,
}

impl Uplink {
    /// Starts it on the current tokio runtime. `box_state` is asked at each Hello.
    pub fn start<S: Spool>(
        options: Options,
        membership: Membership,
        spool: Arc<S>,
        box_state: impl Fn() -> BoxState + Send + Sync + 'static,
    ) -> Self {
        let (state, seen) = watch::channel(UplinkState::default());
        let (connection, connected) = watch::channel(None);
        let link = Link {
            queue: Queue::new(options.segments_at_once.max(1)),
            pace: Arc::default(),
            started: Instant::now(),
            greeted_epoch: None,
            left_epoch: None,
            hardware: enrol::hardware(),
            box_state: Box::new(box_state),
            options,
            membership,
            spool,
            state,
            connection,
        };
        Self {
            state: seen,
            connection: connected,
            task: tokio::spawn(link.run()),
        }
    }

    /// The connection, while the factory has answered on it, for who else needs the factory.
    pub fn connection(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.clone()
    }

    /// How it is, and every change.
    pub fn state(&self) -> watch::Receiver<UplinkState> {
        self.state.clone()
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Link<S> {
    options: Options,
    membership: Membership,
    spool: Arc<S>,
    box_state: Box<dyn Fn() -> BoxState + Send + Sync>,
    hardware: String,
    queue: Queue,
    pace: Arc<Mutex<Pace>>,
    started: Instant,
    /// What the last Hello named.
    greeted_epoch: Option<[u8; 16]>,
    /// What the spool was told to leave.
    left_epoch: Option<[u8; 16]>,
    state: watch::Sender<UplinkState>,
    connection: watch::Sender<Option<Connection>>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("the factory refuses this box: {message}")]
    Refused {
        message: String,
        code: i32,
        retry_after: Option<Duration>,
    },
    #[error("the factory broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Wait before a Hello when there is news: a segment was refused because another machine writes the spool, or a new
/// one was begun.
const HELLO_SOON: Duration = Duration::from_millis(10);
/// Bounds of what a factory may say about the next Hello.
const HELLO_MIN: Duration = Duration::from_secs(1);
const HELLO_MAX: Duration = Duration::from_hours(1);
/// How often the time of day is looked at when nothing else wakes.
const LOOK_EVERY: Duration = Duration::from_mins(1);

impl<S: Spool> Link<S> {
    async fn run(mut self) {
        let mut changed = self.spool.changed();
        let mut backoff = Backoff::default();
        loop {
            changed.borrow_and_update();
            self.queue.update(&self.spool.sealed());
            if !self.may_connect() {
                self.state.send_modify(|state| state.trouble = None);
                tokio::select! {
                    () = tokio::time::sleep(self.until_look()) => {}
                    Ok(()) = changed.changed() => {}
                }
                continue;
            }
            let ended = self.session(&mut changed, &mut backoff).await;
            self.connection.send_replace(None);
            self.state.send_modify(|state| {
                if state.connected {
                    state.heard_at = Some(Instant::now());
                }
                state.connected = false;
                state.trouble = ended.as_ref().err().map(ToString::to_string);
            });
            let Err(error) = ended else {
                continue;
            };
            let mut wait = backoff.fail(random());
            if let SessionError::Refused {
                retry_after, code, ..
            } = &error
            {
                match retry_after {
                    Some(after) => wait = wait.max(*after),
                    // It may be enrolled anew one day, with the same files.
                    None if *code == i32::from(RefusedCode::Revoked) => {
                        wait = wait.max(REVOKED_WAIT);
                    }
                    None => {}
                }
            }
            tracing::info!("no uplink: {error}; next try in {wait:.1?}");
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection, from dialling to its end. `Ok`: the window closed.
    async fn session(
        &mut self,
        changed: &mut watch::Receiver<u64>,
        backoff: &mut Backoff,
    ) -> Result<(), SessionError> {
        let dialled = dial::factory(
            &self.options.factory,
            &self.membership,
            self.options.patience,
        )
        .await?;
        let connection = &dialled.connection;
        let (mut send, mut receive) = connection.open_bi().await.map_err(DialError::from)?;
        let mut hello_at = Instant::now();
        let mut sending = JoinSet::new();
        let mut is_greeted = false;
        let outcome = loop {
            // The factory learns of a new spool before its first segment.
            let is_new = self.greeted_epoch != Some(self.spool.state().epoch);
            if is_new || hello_at <= Instant::now() {
                let hello = self.hello();
                let answer = dial::ask(&mut send, &mut receive, hello, self.options.patience).await;
                match answer.map_err(SessionError::from).and_then(welcome) {
                    Ok(welcome) => {
                        hello_at = Instant::now() + self.welcomed(&welcome);
                        if !is_greeted {
                            self.connection.send_replace(Some(connection.clone()));
                            is_greeted = true;
                        }
                    }
                    Err(error) => break Err(error),
                }
                backoff.succeed();
            }
            let permit = self.permit();
            let now = self.now();
            while let Some(segment) = self.queue.next(now, permit) {
                let send = send::segment(
                    connection.clone(),
                    segment,
                    self.spool.path(&segment),
                    self.pace(),
                    self.options.patience,
                );
                sending.spawn(async move { (segment, send.await) });
            }
            if permit != Permit::All && !self.queue.wants(permit) && sending.is_empty() {
                break Ok(());
            }
            let wake = self
                .queue
                .wake(now)
                .map_or(LOOK_EVERY, |at| at.saturating_sub(now));
            tokio::select! {
                Some(ended) = sending.join_next(), if !sending.is_empty() => {
                    let (segment, ended) = ended.expect("it neither panics nor is cancelled");
                    if self.sent(&segment, ended) == Next::Hello {
                        hello_at = Instant::now() + HELLO_SOON;
                    }
                }
                Ok(()) = changed.changed() => {
                    changed.borrow_and_update();
                    self.queue.update(&self.spool.sealed());
                }
                () = tokio::time::sleep_until(hello_at) => {}
                () = tokio::time::sleep(wake.min(self.until_look())) => {}
                error = connection.closed() => break Err(SessionError::Dial(error.into())),
            }
        };
        // What is on its way breaks off with the connection, each in its own place.
        dialled.connection.close(0_u32.into(), b"");
        while let Some(ended) = sending.join_next().await {
            let (segment, ended) = ended.expect("it neither panics nor is cancelled");
            self.sent(&segment, ended);
        }
        dialled.close().await;
        outcome
    }

    /// A segment came to an end. What the spool is told follows from the core's verdict alone.
    fn sent(&mut self, segment: &Sealed, ended: Result<(), SendError>) -> Next {
        let mut next = Next::GoOn;
        let reason = ended
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        let outcome = match &ended {
            Ok(()) => Outcome::Stored,
            Err(SendError::Refused { code, after, .. }) => {
                if *code == RefusedCode::Conflict {
                    next = Next::Hello;
                }
                match (code, after) {
                    (RefusedCode::Digest, _) => Outcome::Garbled,
                    (_, Some(after)) => Outcome::Later(*after),
                    // The session will hear of it.
                    (RefusedCode::Revoked, None) => Outcome::Broken,
                    (_, None) => Outcome::Never,
                }
            }
            Err(SendError::Unproved) => Outcome::Garbled,
            Err(SendError::File { .. }) => Outcome::Later(LOOK_EVERY),
            Err(SendError::Broken(_)) => Outcome::Broken,
        };
        let name = format!("{}.{:020}", segment.class.name(), segment.seq);
        match self.queue.end(self.now(), segment, outcome) {
            Verdict::Delete => {
                self.state.send_modify(|state| {
                    state.segments_sent += 1;
                    state.bytes_sent += segment.bytes;
                });
                self.spool.acked(segment);
            }
            Verdict::SetAside => {
                tracing::warn!("the factory will never take segment {name}: {reason}");
                self.state.send_modify(|state| state.segments_refused += 1);
                self.spool.refused(segment, &reason);
            }
            Verdict::Again => tracing::debug!("segment {name} is not sent yet: {reason}"),
        }
        next
    }

    /// Takes over what the factory says; the time until the next Hello.
    fn welcomed(&mut self, welcome: &Welcome) -> Duration {
        self.pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .limit(self.options.bytes_per_s_max, welcome.upload_bytes_per_s_max);
        self.state.send_modify(|state| {
            state.connected = true;
            state.trouble = None;
            state.factory_unix_ms = welcome.unix_ms;
            state.heard_at = Some(Instant::now());
            state.clock_ahead_ms = Some(unix_ms().cast_signed() - welcome.unix_ms.cast_signed());
        });
        if welcome.new_epoch {
            tracing::warn!(
                "another machine writes the same spool, maybe from a copy of this disk: beginning a new one"
            );
            // The spool may take its time, and the factory says it at each Hello until then.
            if self.left_epoch != self.greeted_epoch {
                self.left_epoch = self.greeted_epoch;
                self.spool.new_epoch();
            }
        }
        Duration::from_secs(welcome.hello_interval_s.into()).clamp(HELLO_MIN, HELLO_MAX)
    }

    fn hello(&mut self) -> Hello {
        let spool = self.spool.state();
        self.greeted_epoch = Some(spool.epoch);
        let waiting = self.spool.sealed();
        let state = (self.box_state)();
        Hello {
            epoch: spool.epoch.to_vec(),
            boot: spool.boot,
            boot_nonce: spool.boot_nonce.to_vec(),
            agent: concat!("outstation/", env!("CARGO_PKG_VERSION")).to_owned(),
            model: state.model,
            model_digest: state.model_digest,
            hardware: self.hardware.clone(),
            unix_ms: unix_ms(),
            spool_bytes: waiting.iter().map(|segment| segment.bytes).sum(),
            spool_segments: waiting.len() as u64,
            records_lost: spool.records_lost,
            requests_served: state.requests_served,
            trouble: state.trouble,
            ring: state.release.ring,
            rollout: state.release.rollout,
            manifest: state.release.manifest,
            phase: state.release.phase,
            reason: state.release.reason,
        }
    }

    fn may_connect(&self) -> bool {
        match self.permit() {
            Permit::All => true,
            permit => self.queue.wants(permit),
        }
    }

    fn permit(&self) -> Permit {
        permit(
            self.options.window,
            self.options.urgent_outside_window,
            unix_ms(),
        )
    }

    /// Time until the window opens or closes; never longer than a minute, for clocks are set.
    fn until_look(&self) -> Duration {
        let changes = self
            .options
            .window
            .map(|window| window.changes_in(unix_ms()));
        changes.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn pace(&self) -> send::SharedPace {
        send::SharedPace {
            pace: self.pace.clone(),
            started: self.started,
        }
    }
}

/// What follows after a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// The factory has news for this box.
    Hello,
}

/// How long a box that was sent away waits before it asks again.
const REVOKED_WAIT: Duration = Duration::from_mins(10);

fn welcome(answer: FactoryMessage) -> Result<Welcome, SessionError> {
    match answer {
        FactoryMessage::Welcome(welcome) => Ok(welcome),
        FactoryMessage::Refused(refused) => Err(SessionError::Refused {
            retry_after: refused.retry_after(),
            code: refused.code,
            message: refused.message,
        }),
        _ => Err(SessionError::Protocol("the answer to Hello is no Welcome")),
    }
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_while_there_is_no_answer() {
        let heard = Instant::now().checked_sub(Duration::from_secs(90));
        let (state, seen) = watch::channel(UplinkState::default());
        let reach = Reach {
            factory: "factory.example:4434".to_owned(),
            state: seen,
        };
        assert_eq!(reach.status().last_contact_s, None, "it never answered");
        state.send_modify(|state| {
            (state.connected, state.heard_at) = (true, heard);
            state.clock_ahead_ms = Some(-2500);
        });
        assert_eq!(reach.status().last_contact_s, Some(0));
        assert_eq!(reach.status().clock_ahead_s, Some(-2));
        state.send_modify(|state| state.connected = false);
        let silent = reach.status().last_contact_s;
        assert!(silent.is_some_and(|s| (90..100).contains(&s)), "{silent:?}");
    }
}
