//! The last warnings and errors of this program, for who asks the box and not its journal.
//!
//! A ring of fixed size: the lines are written into it as they come, cut to what a place holds. Nothing here grows, and
//! whoever warns waits at most until somebody has copied [`ERRORS_MAX`] lines.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
pub const ERRORS_MAX: usize = 16;
/// Bytes of a line; what is longer is cut.
const MESSAGE_BYTES_MAX: usize = 240;

/// A handle that all share.
#[derive(Debug, Clone, Default)]
pub struct LastErrors(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: heapless::Deque<Line, ERRORS_MAX>,
}

#[derive(Debug)]
struct Line {
    unix_s: u64,
    level: &'static str,
    message: heapless::String<MESSAGE_BYTES_MAX>,
}

/// A warning or error, as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When, seconds since 1970.
    pub unix_s: u64,
    /// `warn` or `error`.
    pub level: &'static str,
    /// What, with its fields.
    pub message: String,
}

impl LastErrors {
    /// The lines that are kept, the newest last.
    pub fn read(&self) -> Vec<LastError> {
        let ring = self.ring();
        let copy = |line: &Line| LastError {
            unix_s: line.unix_s,
            level: line.level,
            message: line.message.as_str().to_owned(),
        };
        ring.lines.iter().map(copy).collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut ring = self.ring();
        if ring.lines.is_full() {
            ring.lines.pop_front();
        }
        let pushed = ring.lines.push_back(line);
        assert!(pushed.is_ok(), "the oldest gave its place");
    }
}

impl<S: Subscriber> Layer<S> for LastErrors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => return,
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut line = Line {
            unix_s: since.unwrap_or_default().as_secs(),
            level,
            message: heapless::String::new(),
        };
        event.record(&mut Words(&mut line.message));
        self.push(line);
    }
}

/// Writes the fields of an event one after the other, as far as there is room.
struct Words<'a>(&'a mut heapless::String<MESSAGE_BYTES_MAX>);

impl fmt::Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // A line of the terminal stays one, whatever is in a message.
            let c = if c.is_control() { ' ' } else { c };
            self.0.push(c).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Full is no failure: what has no room is left out.
        let _ = match field.name() {
            "message" => write!(self, "{space}{value:?}"),
            name => write!(self, "{space}{name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn kept(warn: impl FnOnce()) -> Vec<String> {
        let errors = LastErrors::default();
        let subscriber = tracing_subscriber::registry().with(errors.clone());
        tracing::subscriber::with_default(subscriber, warn);
        let shown = |e: LastError| format!("{} {}", e.level, e.message);
        errors.read().into_iter().map(shown).collect()
    }

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields_and_nothing_else() {
        let lines = kept(|| {
            tracing::info!("all is well");
            tracing::warn!(segment = 7, name = "p1", "the disk\nis slow");
            tracing::error!("the disk is gone");
        });
        let expected = [
            "warn the disk is slow segment=7 name=p1",
            "error the disk is gone",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_last_sixteen_are_kept_and_long_ones_are_cut() {
        let lines = kept(|| {
            for number in 0..100 {
                tracing::warn!("{number} {}", "ä".repeat(1000));
            }
        });
        assert_eq!(lines.len(), ERRORS_MAX);
        assert!(lines[0].starts_with("warn 84 ä") && lines[15].starts_with("warn 99 ä"));
        assert!(lines.iter().all(|l| l.len() <= MESSAGE_BYTES_MAX + 5));
    }
}
