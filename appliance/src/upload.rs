//! What the uplink sends next, how fast, and when it tries again. Time, the time of day and randomness are arguments.
//!
//! ```text
//! spool's list ─▶ Queue ─ next(now, permit) ─▶ a segment at most `at_once` times ─▶ end(now, outcome) ─▶ verdict
//!                             ▲ Window: all, only P0, or nothing
//! ```

use std::time::Duration;

use outstation_wire::segment::Class;

/// A segment that is complete and waits in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// What its records are worth.
    pub class: Class,
    /// Its place in its class.
    pub seq: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// The spool that it was written in.
    pub epoch: [u8; 16],
}

/// What may be sent at this time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Everything.
    All,
    /// What is worth most: P0.
    Urgent,
    /// Nothing.
    Nothing,
}

/// How the sending of a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The factory has it, and proved it.
    Stored,
    /// Not for now.
    Later(Duration),
    /// The factory got other bytes than were offered.
    Garbled,
    /// The factory will never take it.
    Never,
    /// The connection broke.
    Broken,
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The spool may delete it.
    Delete,
    /// It is offered again.
    Again,
    /// It is never offered again, and stays for somebody to look at.
    SetAside,
}

/// Times that a segment may arrive garbled before the file itself is taken to be the cause.
const GARBLED_MAX: u32 = 3;
/// Wait after a stream broke, so that a factory that breaks each of them is not stormed.
const BROKEN_WAIT: Duration = Duration::from_secs(1);
/// Wait after a segment arrived garbled.
const GARBLED_WAIT: Duration = Duration::from_secs(1);

/// Segments that wait, and those that are on their way. Call [`Queue::update`] when the spool's list has changed, then
/// [`Queue::next`] until it gives nothing, and [`Queue::end`] once for each that it gave.
#[derive(Debug)]
pub struct Queue {
    at_once: usize,
    waiting: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    sealed: Sealed,
    state: State,
    garbled: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Not before this.
    Held(Duration),
    Sending,
    /// The spool has yet to delete it, or is to keep it.
    Done,
}

impl Queue {
    /// That gives out at most `at_once` segments at once.
    pub fn new(at_once: usize) -> Self {
        assert!(at_once > 0, "a queue that gives nothing out never empties");
        Self {
            at_once,
            waiting: Vec::new(),
        }
    }

    /// Takes over the spool's list, the oldest of each class first. What is known of a segment stays known.
    pub fn update(&mut self, list: &[Sealed]) {
        let known = |sealed: &Sealed| {
            self.waiting
                .iter()
                .find(|entry| entry.sealed == *sealed)
                .copied()
        };
        let entry = |sealed: &Sealed| {
            known(sealed).unwrap_or(Entry {
                sealed: *sealed,
                state: State::Waiting,
                garbled: 0,
            })
        };
        let mut waiting: Vec<_> = list.iter().map(entry).collect();
        // One that is on its way is on its way, though the spool dropped it.
        let gone = self
            .waiting
            .iter()
            .filter(|entry| entry.state == State::Sending && !list.contains(&entry.sealed));
        waiting.extend(gone.copied());
        waiting.sort_by_key(|entry| entry.sealed.class);
        self.waiting = waiting;
    }

    /// The next one to send: P0 before P1 before P2, the oldest of a class first (U-30).
    pub fn next(&mut self, now: Duration, permit: Permit) -> Option<Sealed> {
        if self.sending() >= self.at_once {
            return None;
        }
        let entry = self.waiting.iter_mut().find(|entry| {
            let permitted = match permit {
                Permit::All => true,
                Permit::Urgent => entry.sealed.class == Class::P0,
                Permit::Nothing => false,
            };
            let due = match entry.state {
                State::Waiting => true,
                State::Held(until) => until <= now,
                State::Sending | State::Done => false,
            };
            permitted && due
        })?;
        entry.state = State::Sending;
        Some(entry.sealed)
    }

    /// A segment that was given out came to an end.
    pub fn end(&mut self, now: Duration, sealed: &Sealed, outcome: Outcome) -> Verdict {
        let entry = self
            .waiting
            .iter_mut()
            .find(|entry| entry.sealed == *sealed);
        let entry = entry.expect("what is on its way is kept");
        assert_eq!(entry.state, State::Sending, "it was given out");
        let (state, verdict) = match outcome {
            Outcome::Stored => (State::Done, Verdict::Delete),
            Outcome::Later(wait) => (State::Held(now + wait), Verdict::Again),
            Outcome::Broken => (State::Held(now + BROKEN_WAIT), Verdict::Again),
            Outcome::Garbled if entry.garbled + 1 < GARBLED_MAX => {
                entry.garbled += 1;
                (State::Held(now + GARBLED_WAIT), Verdict::Again)
            }
            Outcome::Garbled | Outcome::Never => (State::Done, Verdict::SetAside),
        };
        entry.state = state;
        verdict
    }

    /// When [`Queue::next`] may give something that it does not give now.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let held = self.waiting.iter().filter_map(|entry| match entry.state {
            State::Held(until) if until > now => Some(until),
            _ => None,
        });
        held.min()
    }

    /// Whether anything waits that a permit lets through.
    pub fn wants(&self, permit: Permit) -> bool {
        self.waiting.iter().any(|entry| {
            let permitted = match permit {
                Permit::All => true,
                Permit::Urgent => entry.sealed.class == Class::P0,
                Permit::Nothing => false,
            };
            permitted && entry.state != State::Done
        })
    }

    /// How many are on their way.
    pub fn sending(&self) -> usize {
        self.waiting
            .iter()
            .filter(|entry| entry.state == State::Sending)
            .count()
    }
}

/// Waits between tries: 1 s, 2 s, 4 s … 10 min, each shortened by up to half, so that boxes that lost their factory at
/// one time do not come back at one time (U-32).
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(10);

impl Backoff {
    /// The wait after another failure.
    pub fn fail(&mut self, random: u64) -> Duration {
        let whole = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let share = random as f64 / u64::MAX as f64;
        whole.mul_f64(0.5 + 0.5 * share)
    }

    /// All is well again.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// Hours of a day, UTC by the box's clock, in which a metered link may be used (U-33).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_minute: u32,
    to_minute: u32,
}

const DAY_MINUTES: u32 = 24 * 60;

impl Window {
    /// Whether it is open.
    pub fn is_open(&self, unix_ms: u64) -> bool {
        let minute = minute(unix_ms);
        if self.from_minute < self.to_minute {
            (self.from_minute..self.to_minute).contains(&minute)
        } else {
            minute >= self.from_minute || minute < self.to_minute
        }
    }

    /// Time until it opens or closes next.
    pub fn changes_in(&self, unix_ms: u64) -> Duration {
        let edge = if self.is_open(unix_ms) {
            self.to_minute
        } else {
            self.from_minute
        };
        let minutes = (edge + DAY_MINUTES - minute(unix_ms) - 1) % DAY_MINUTES;
        Duration::from_secs(u64::from(minutes) * 60)
            + Duration::from_millis(60_000 - unix_ms % 60_000)
    }
}

fn minute(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 60_000 % u64::from(DAY_MINUTES)).expect("a day is short")
}

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no window: write it like 22:00-06:00, in UTC");
        let time = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from_minute, to_minute) = (time(from).ok_or_else(wrong)?, time(to).ok_or_else(wrong)?);
        if from_minute == to_minute {
            return Err(format!(
                "`{text}` begins when it ends: leave the window out for all times"
            ));
        }
        Ok(Self {
            from_minute,
            to_minute,
        })
    }
}

/// What may be sent now.
pub fn permit(window: Option<Window>, urgent_outside_window: bool, unix_ms: u64) -> Permit {
    match window {
        Some(window) if !window.is_open(unix_ms) => {
            if urgent_outside_window {
                Permit::Urgent
            } else {
                Permit::Nothing
            }
        }
        _ => Permit::All,
    }
}

/// The lowest rate, bytes a second: a factory cuts off who is much slower (U-12), and all segments share it.
pub const RATE_MIN: u64 = 4096;

/// A rate that all segments share: each piece says when the next may follow (U-31).
#[derive(Debug, Clone, Default)]
pub struct Pace {
    bytes_per_s: Option<u64>,
    free_at: Duration,
}

impl Pace {
    /// The lower of two limits, but not below [`RATE_MIN`]; 0 and `None` are none.
    pub fn limit(&mut self, own: Option<u64>, factory: u64) {
        let factory = (factory > 0).then_some(factory);
        let lower = own.into_iter().chain(factory).min();
        self.bytes_per_s = lower.map(|rate| rate.max(RATE_MIN));
    }

    /// Bytes of a piece, at most `max`: half a second's worth, so that segments that share a slow link take turns.
    pub fn piece_bytes(&self, max: u64) -> u64 {
        self.bytes_per_s.map_or(max, |rate| (rate / 2).min(max))
    }

    /// Bytes that so many seconds have room for, at most `max`.
    pub fn bytes_in(&self, seconds: u64, max: u64) -> u64 {
        let room = |rate: u64| rate.saturating_mul(seconds).min(max);
        self.bytes_per_s.map_or(max, room)
    }

    /// These bytes are about to be sent: the time at which they may be.
    pub fn spend(&mut self, bytes: u64, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_s else {
            return now;
        };
        let at = self.free_at.max(now);
        self.free_at = at + Duration::from_secs_f64(bytes as f64 / rate as f64);
        at
    }
}

#[cfg(test)]
mod tests;
