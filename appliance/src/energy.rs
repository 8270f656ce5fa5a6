//! Energy: what a meter says, divided among the requests that ran.
//!
//! ```text
//! engine thread   step ─▶ Shares ─▶ Work: a request's part of a stretch of time ─┐
//! meter thread    sensor ─▶ Integrator ─▶ Reading: µJ up to a moment ────────────┴▶ Ledger ─▶ µJ of each request
//! ```
//!
//! A step's time belongs to its requests by their columns. What was measured while it ran is theirs in the same parts;
//! what was measured while nothing ran is nobody's. `docs/energy.md` has the formula.
//!
//! Calling order of a ledger: `handle_work` in order of time, `handle_until`, then `handle_reading`; `take` when a
//! request has ended.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::request::RequestId;

/// A request's part of a stretch of time. All parts of one stretch have the same ends, and stretches do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Whose.
    pub id: RequestId,
    /// When the stretch began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
    /// Engine time of this request in it; of all requests together at most its length.
    pub busy: Duration,
}

/// Columns of a request in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Whose.
    pub id: RequestId,
    /// How many.
    pub columns: u32,
}

/// The stretch under way: steps of some milliseconds together. All memory is taken in `new`.
#[derive(Debug)]
pub struct Shares {
    from: Duration,
    to: Duration,
    parts: Vec<(RequestId, Duration)>,
}

impl Shares {
    /// Nothing has run. A step carries at most so many sequences.
    pub fn new(sequences_max: usize) -> Self {
        Self {
            from: Duration::ZERO,
            to: Duration::ZERO,
            parts: Vec::with_capacity(Self::parts_max(sequences_max)),
        }
    }

    /// Most parts of a stretch: those of two steps that have no request in common.
    pub const fn parts_max(sequences_max: usize) -> usize {
        2 * sequences_max
    }

    /// Parts that a ring to the ledger has room for: those of half a second and more.
    pub const fn ring_parts(sequences_max: u32) -> usize {
        64 * sequences_max as usize + 1024
    }

    /// Bytes of that ring and of a stretch.
    pub const fn ring_bytes(sequences_max: u32) -> u64 {
        let parts = Self::ring_parts(sequences_max) + Self::parts_max(sequences_max as usize);
        (parts * size_of::<Work>()) as u64
    }

    /// A step ran. First take what there is, if the stretch has no room for its requests.
    ///
    /// Panics if there was no room.
    pub fn handle_step(&mut self, from: Duration, to: Duration, carried: &[Carried]) {
        assert!(from <= to, "a step ends after it began");
        assert!(self.has_room(carried.len()), "room was made before");
        if self.parts.is_empty() {
            self.from = from;
        }
        assert!(self.from <= from, "steps come in order");
        self.to = to;
        let took = to.saturating_sub(from);
        let all = carried.iter().map(|c| u64::from(c.columns)).sum();
        let mut before = 0;
        for (index, carried) in carried.iter().enumerate() {
            let upto = before + u64::from(carried.columns);
            let busy = part(took, upto, all).saturating_sub(part(took, before, all));
            before = upto;
            // Requests mostly keep their order from step to step.
            let same = self.parts.get(index).is_some_and(|p| p.0 == carried.id);
            let found = if same {
                Some(index)
            } else {
                self.parts.iter().position(|p| p.0 == carried.id)
            };
            match found {
                Some(index) => self.parts[index].1 += busy,
                None => self.parts.push((carried.id, busy)),
            }
        }
    }

    /// Whether a step of so many requests fits.
    pub fn has_room(&self, requests: usize) -> bool {
        self.parts.len() + requests <= self.parts.capacity()
    }

    /// Parts that there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether nothing ran since they were taken.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the stretch is long enough to be told.
    pub fn is_due(&self) -> bool {
        !self.parts.is_empty() && self.to.saturating_sub(self.from) >= STRETCH
    }

    /// When its last step ended.
    pub fn to(&self) -> Duration {
        self.to
    }

    /// Takes the parts, and begins another stretch with the next step.
    pub fn drain(&mut self) -> impl Iterator<Item = Work> + '_ {
        let (from, to) = (self.from, self.to);
        self.parts
            .drain(..)
            .map(move |(id, busy)| Work { id, from, to, busy })
    }
}

/// Length from which a stretch is told: short against the interval of readings, long against a step's bookkeeping.
const STRETCH: Duration = Duration::from_millis(10);

/// `whole × count / all`, rounded down.
fn part(whole: Duration, count: u64, all: u64) -> Duration {
    let nanos = whole.as_nanos() * u128::from(count) / u128::from(all.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What a meter counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meter {
    /// µJ since some time, of sources that do not contain each other. Each with the value after which it starts again
    /// at 0, where that is known.
    Counters(Box<[Option<u64>]>),
    /// µW at the moment, of sources that do not contain each other.
    Power,
}

/// What was measured up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When.
    pub at: Duration,
    /// µJ since the first reading.
    pub uj: u64,
    /// Whether all since the reading before was measured. If not, `uj` has not grown.
    pub known: bool,
}

/// Makes readings of what a sensor says.
#[derive(Debug)]
pub struct Integrator {
    meter: Meter,
    last: Option<(Duration, Box<[u64]>)>,
    /// Of a sum of powers, what is left of a µJ: in halves of µW × µs.
    rest: u128,
    uj: u64,
}

impl Integrator {
    /// Nothing has been measured.
    pub fn new(meter: Meter) -> Self {
        Self {
            meter,
            last: None,
            rest: 0,
            uj: 0,
        }
    }

    /// Goes on with another sensor: what passes until its first values is unknown.
    pub fn change(&mut self, meter: Meter) {
        self.meter = meter;
        self.last = None;
    }

    /// The sensor's values at a moment. None: they say nothing new. A machine takes energy all the time, so a counter
    /// that stands still and a power of 0 are no measurements: the next one that moves counts for all of the time.
    pub fn handle_values(&mut self, at: Duration, values: &[u64]) -> Option<Reading> {
        if matches!(self.meter, Meter::Power) && values.iter().all(|&uw| uw == 0) {
            return None;
        }
        let Some((before, old)) = &self.last else {
            return Some(self.keep(at, values, None));
        };
        let elapsed = at.checked_sub(*before).filter(|e| !e.is_zero())?;
        let grown = match &self.meter {
            Meter::Counters(ranges) => {
                if **old == *values {
                    return None;
                }
                counted(ranges, old, values, elapsed)
            }
            Meter::Power => {
                let sum = |values: &[u64]| values.iter().map(|&uw| u128::from(uw)).sum::<u128>();
                // The trapezoid: mean power × time, doubled.
                let doubled = self.rest + (sum(old) + sum(values)) * elapsed.as_micros();
                let (uj, rest) = (doubled / 2_000_000, doubled % 2_000_000);
                (elapsed <= POWER_GAP_MAX).then(|| {
                    self.rest = rest;
                    u64::try_from(uj).unwrap_or(u64::MAX)
                })
            }
        };
        Some(self.keep(at, values, grown))
    }

    fn keep(&mut self, at: Duration, values: &[u64], grown: Option<u64>) -> Reading {
        self.last = Some((at, values.into()));
        self.uj = self.uj.saturating_add(grown.unwrap_or(0));
        Reading {
            at,
            uj: self.uj,
            known: grown.is_some(),
        }
    }
}

/// What counters grew by; None if that cannot be told.
fn counted(ranges: &[Option<u64>], old: &[u64], new: &[u64], elapsed: Duration) -> Option<u64> {
    if elapsed > COUNTER_GAP_MAX || old.len() != new.len() {
        return None;
    }
    let most = u128::from(COUNTER_WATTS_MAX) * elapsed.as_micros();
    let ranges = ranges.iter().copied().chain(std::iter::repeat(None));
    let mut all = 0_u64;
    for ((&old, &new), range) in old.iter().zip(new).zip(ranges) {
        let grown = if new >= old {
            new - old
        } else {
            range?.checked_sub(old)?.checked_add(new)?
        };
        if u128::from(grown) > most {
            // Nothing takes this much: it was set back, or is another counter.
            return None;
        }
        all = all.checked_add(grown)?;
    }
    Some(all)
}

/// Between two samples of power that are further apart, anything may have been.
pub const POWER_GAP_MAX: Duration = Duration::from_secs(3);

/// A counter that was not read for longer may have started again more than once: the smallest range that we know of, 65
/// kJ, lasts that long at 1 kW.
pub const COUNTER_GAP_MAX: Duration = Duration::from_mins(1);

/// W that no source takes: what seems to is a counter that was set back.
const COUNTER_WATTS_MAX: u64 = 10_000;

/// What is known of a request's energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing, and nothing will be: it never ran, or not all of its time was measured.
    Nothing,
    /// A reading from after its last step is missing.
    Later,
    /// All of it, in µJ.
    Known(u64),
}

/// Sums since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// µJ that were measured, up to the last moment of which it is known what ran: those of requests and idle ones.
    pub measured_uj: u64,
    /// µJ of requests.
    pub attributed_uj: u64,
    /// µJ of nobody.
    pub idle_uj: u64,
    /// Requests that ended and whose energy is known.
    pub requests: u64,
    /// Tokens of their answers.
    pub output_tokens: u64,
    /// Their µJ.
    pub ended_uj: u64,
    /// W of the last second.
    pub watts: Option<f64>,
    /// Stretches of work that got lost on their way: their energy counts as idle.
    pub lost: u64,
}

/// Who ran when, and what was measured.
#[derive(Debug)]
pub struct Ledger {
    /// What was measured, by time: as much as is needed.
    curve: VecDeque<Reading>,
    /// Work that waits for a reading from after it.
    pending: VecDeque<Work>,
    accounts: HashMap<RequestId, Account>,
    /// Up to when it is known what ran.
    until: Duration,
    /// Some work of requests up to this one was lost.
    lost_upto: RequestId,
    /// The stretch that is being divided, and how much of it has been.
    stretch: (Duration, Duration, Duration),
    totals: Totals,
}

#[derive(Debug, Default)]
struct Account {
    uj: u64,
    /// When its last stretch ended.
    to: Duration,
    /// Some of its time was not measured.
    unknown: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            curve: VecDeque::new(),
            pending: VecDeque::new(),
            accounts: HashMap::new(),
            until: Duration::ZERO,
            lost_upto: RequestId(0),
            stretch: (Duration::ZERO, Duration::ZERO, Duration::ZERO),
            totals: Totals::default(),
        }
    }
}

impl Ledger {
    /// A part of a stretch, in order of time.
    pub fn handle_work(&mut self, work: Work) {
        let unknown = work.id <= self.lost_upto;
        let account = self.accounts.entry(work.id).or_insert(Account {
            unknown,
            ..Account::default()
        });
        account.to = account.to.max(work.to);
        self.until = self.until.max(work.to);
        self.pending.push_back(work);
        if self.pending.len() > PENDING_MAX
            && let Some(oldest) = self.pending.pop_front()
        {
            self.settle(&oldest, None);
        }
        self.settle_measured();
    }

    /// All that ran until then was told.
    pub fn handle_until(&mut self, until: Duration) {
        self.until = self.until.max(until);
    }

    /// Work was lost on its way, of requests up to this one: of none of them it is known what they took.
    pub fn handle_lost(&mut self, stretches: u64, upto: RequestId) {
        self.totals.lost += stretches;
        self.lost_upto = self.lost_upto.max(upto);
        for account in self.accounts.values_mut() {
            account.unknown = true;
        }
    }

    /// Something was measured, later than what was before.
    pub fn handle_reading(&mut self, reading: Reading) {
        if let Some(last) = self.curve.back() {
            assert!(last.at < reading.at, "readings come in order");
            assert!(last.uj <= reading.uj, "what was measured stays measured");
        }
        self.curve.push_back(reading);
        self.settle_measured();
        // Work that comes later is from after `until`.
        let needed = self.pending.front().map_or(self.until, |work| work.from);
        let keep = needed
            .min(self.until)
            .min(reading.at.saturating_sub(WATTS_WINDOW));
        while self.curve.len() > CURVE_MAX || self.curve.get(1).is_some_and(|p| p.at <= keep) {
            self.curve.pop_front();
        }
    }

    /// A request has ended, after an answer of so many tokens: what it took, told once.
    pub fn take(&mut self, id: RequestId, output_tokens: u32) -> Due {
        let Some(account) = self.accounts.get(&id) else {
            return Due::Nothing;
        };
        let measured = self.curve.back().is_some_and(|last| account.to <= last.at);
        if !account.unknown && !measured {
            return Due::Later;
        }
        let Account { uj, unknown, .. } = self.accounts.remove(&id).expect("it was found");
        if unknown {
            return Due::Nothing;
        }
        self.totals.requests += 1;
        self.totals.output_tokens += u64::from(output_tokens);
        self.totals.ended_uj += uj;
        Due::Known(uj)
    }

    /// Nobody will ask for what a request took.
    pub fn forget(&mut self, id: RequestId) {
        self.accounts.remove(&id);
    }

    /// When the last reading was.
    pub fn read_at(&self) -> Option<Duration> {
        self.curve.back().map(|last| last.at)
    }

    /// Sums since start.
    pub fn totals(&self) -> Totals {
        let ends = self.curve.front().zip(self.curve.back());
        let measured = ends.map_or(0, |(first, last)| {
            let known = self.pending.front().map_or(self.until, |work| work.from);
            let settled = known.min(self.until).min(last.at);
            self.upto(settled).unwrap_or(first.uj)
        });
        let attributed = self.totals.attributed_uj;
        Totals {
            measured_uj: measured.max(attributed),
            idle_uj: measured.saturating_sub(attributed),
            watts: self.watts(),
            ..self.totals
        }
    }

    fn watts(&self) -> Option<f64> {
        let last = self.curve.back()?;
        let since = last.at.saturating_sub(WATTS_WINDOW);
        let known = self.curve.iter().rev().take_while(|r| r.known).count();
        // The one before the first known reading begins what is known.
        let begin = self.curve.len().saturating_sub(known + 1);
        let before = self.curve.range(begin..).take_while(|r| r.at <= since);
        let first = before.last().unwrap_or(&self.curve[begin]);
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        (seconds > 0.0).then(|| (last.uj - first.uj) as f64 / 1e6 / seconds)
    }

    fn settle_measured(&mut self) {
        let Some(at) = self.read_at() else {
            return;
        };
        while let Some(work) = self.pending.front().copied()
            && work.to <= at
        {
            self.pending.pop_front();
            let measured = self.between(work.from, work.to);
            self.settle(&work, measured);
        }
    }

    /// Gives a request its part of what was measured in a stretch. Parts are rounded so that they add up.
    fn settle(&mut self, work: &Work, measured_uj: Option<u64>) {
        let Work { id, from, to, busy } = *work;
        let length = to.saturating_sub(from);
        let (begin, end, before) = self.stretch;
        let before = if (begin, end) == (from, to) {
            before
        } else {
            Duration::ZERO
        };
        let upto = (before + busy).min(length);
        self.stretch = (from, to, upto);
        let account = self.accounts.get_mut(&id);
        let Some(measured_uj) = measured_uj else {
            if let Some(account) = account {
                account.unknown = true;
            }
            return;
        };
        let share = |time: Duration| {
            let uj = u128::from(measured_uj) * time.as_nanos() / length.as_nanos().max(1);
            u64::try_from(uj).expect("at most what was measured")
        };
        let uj = share(upto) - share(before);
        self.totals.attributed_uj += uj;
        if let Some(account) = account {
            account.uj += uj;
        }
    }

    /// µJ between two moments, if all of it was measured.
    fn between(&self, from: Duration, to: Duration) -> Option<u64> {
        let first = self.curve.partition_point(|r| r.at <= from);
        let last = self.curve.partition_point(|r| r.at < to);
        let known = self.curve.range(first..=last.min(self.curve.len() - 1));
        if known.into_iter().any(|reading| !reading.known) {
            return None;
        }
        Some(self.upto(to)? - self.upto(from)?)
    }

    /// µJ up to a moment, on straight lines between readings.
    fn upto(&self, at: Duration) -> Option<u64> {
        let next = self.curve.partition_point(|r| r.at <= at);
        let before = self.curve.get(next.checked_sub(1)?)?;
        let Some(after) = self.curve.get(next) else {
            return (before.at == at).then_some(before.uj);
        };
        let (part, whole) = (
            at.saturating_sub(before.at),
            after.at.saturating_sub(before.at),
        );
        let grown = u128::from(after.uj - before.uj) * part.as_nanos() / whole.as_nanos();
        Some(before.uj + u64::try_from(grown).expect("a part of it"))
    }
}

/// Parts of work that wait for a reading. Before it gives up: minutes of a usual load.
const PENDING_MAX: usize = 1 << 16;

/// Readings that are kept: seven minutes of ten a second, longer than any step.
const CURVE_MAX: usize = 1 << 12;

/// Over how long the power of the moment is measured.
const WATTS_WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
