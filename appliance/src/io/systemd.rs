//! What systemd hears of the service, and the sockets that it opened for it.
//!
//! ```text
//! a token was decoded ─▶ READY=1     the engine's loop went round ─▶ WATCHDOG=1     what it does ─▶ STATUS=…
//! SIGHUP ─▶ RELOADING=1, READY=1     SIGTERM ─▶ STOPPING=1
//! ```
//!
//! Without systemd all of it does nothing. The watchdog is fed by the engine's own rounds, not by a timer: an engine
//! that hangs in a step is restarted, whatever else the process still does.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use sd_notify::NotifyState;

use super::board::BoardReading;
use super::gateway::WeakGateway;

/// The journal, where standard error goes there anyway: lines keep their fields, so that `journalctl` can choose by
/// them.
pub fn journal() -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let error = rustix::fs::fstat(std::io::stderr()).ok()?;
    if stream != format!("{}:{}", error.st_dev, error.st_ino) {
        return None;
    }
    let journal = tracing_journald::layer().ok()?;
    Some(journal.with_syslog_identifier("outstation".to_owned()))
}

/// Sockets that systemd opened.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For QUIC.
    pub udp: Option<UdpSocket>,
    /// For HTTP.
    pub tcp: Option<TcpListener>,
}

/// Why sockets of systemd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// One that is neither.
    #[error(
        "socket {index} that systemd opened is neither UDP nor TCP: outstation.socket needs one of each"
    )]
    Kind {
        /// Which, from 0.
        index: usize,
    },
    /// Two of a kind.
    #[error("systemd opened two {kind} sockets: one is enough, listen on [::] for all addresses")]
    Twice {
        /// UDP or TCP.
        kind: &'static str,
    },
    /// It could not be made ours.
    #[error("a socket that systemd opened cannot be used: {0}")]
    Use(#[from] std::io::Error),
}

impl Sockets {
    /// Takes those that systemd opened, if it did.
    pub fn inherited() -> Result<Self, SocketsError> {
        let mut all = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..all.len() {
            if let Ok(Some(udp)) = all.take_udp_socket(index) {
                // A self-test, which is a child of ours, must not hold it.
                fcntl_setfd(&udp, FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
                if sockets.udp.replace(udp).is_some() {
                    return Err(SocketsError::Twice { kind: "UDP" });
                }
            } else if let Ok(Some(tcp)) = all.take_tcp_listener(index) {
                fcntl_setfd(&tcp, FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
                tcp.set_nonblocking(true)?;
                if sockets.tcp.replace(tcp).is_some() {
                    return Err(SocketsError::Twice { kind: "TCP" });
                }
            } else {
                return Err(SocketsError::Kind { index });
            }
        }
        Ok(sockets)
    }
}

/// It serves from here on.
pub fn ready(model: &str) {
    let status = format!("serves {model}");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// It reads its certificates and keys again; `ready` ends that.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    // What `Type=notify-reload` wants; older ones ignore it.
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// It goes down: what runs is finished.
pub fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("finishes what runs"),
    ]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// Tells systemd how it goes, until the gateway is gone: that the engine's loop goes round, four times in each period
/// of the watchdog, and what it does.
pub async fn watch(gateway: WeakGateway) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(STATUS_EVERY, |period| (period / 4).min(STATUS_EVERY));
    let mut beats = None;
    let mut before: Option<(Instant, BoardReading)> = None;
    let mut said = String::new();
    loop {
        tokio::time::sleep(every).await;
        let Some(gateway) = gateway.upgrade() else {
            return;
        };
        let now = gateway.beats();
        if watchdog.is_some() && beats.replace(now) != Some(now) {
            tell(&[NotifyState::Watchdog]);
        }
        if before.is_none_or(|(at, _)| at.elapsed() >= STATUS_EVERY) {
            let board = gateway.status().board;
            let status = line(&gateway.served().id, before.as_ref(), &board);
            if status != said {
                tell(&[NotifyState::Status(&status)]);
                said = status;
            }
            before = Some((Instant::now(), board));
        }
    }
}

fn line(model: &str, before: Option<&(Instant, BoardReading)>, now: &BoardReading) -> String {
    let tokens_per_s = before.map_or(0.0, |(at, before)| {
        let tokens = now.generated_tokens.saturating_sub(before.generated_tokens);
        tokens as f64 / at.elapsed().as_secs_f64()
    });
    format!(
        "serves {model}: {} running, {} waiting, {tokens_per_s:.0} tokens/s",
        now.sequences, now.queued
    )
}

/// How often it says what it does.
const STATUS_EVERY: Duration = Duration::from_secs(5);
