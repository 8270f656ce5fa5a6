//! How much content may be kept in a day.

use std::time::Duration;

/// Ceilings of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayLimits {
    /// Contents.
    pub contents: u32,
    /// Their bytes together.
    pub bytes: u64,
}

/// Contents and bytes that may still be kept: two token buckets that fill with time.
///
/// A quarter of the day's limit can be spent at once and the other three come over 24 hours, so that no 24 hours see
/// more than the limit. Time is monotonic; where it runs backwards all the same, none has passed.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    contents: Bucket,
    bytes: Bucket,
    last: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    most: f64,
    per_second: f64,
}

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// Share of the limit that can be spent at once.
const BURST: f64 = 0.25;

impl Bucket {
    fn new(per_day: f64) -> Self {
        // A whole content must fit, or a limit of three would never be used.
        let most = (per_day * BURST).max(1.0).min(per_day);
        Self {
            level: most,
            most,
            per_second: (per_day - most) / DAY,
        }
    }

    fn fill(&mut self, seconds: f64) {
        self.level = (self.level + self.per_second * seconds).min(self.most);
    }
}

impl Allowance {
    /// A share of the limits, full.
    pub(super) fn new(limits: DayLimits, share: f64) -> Self {
        Self {
            contents: Bucket::new((f64::from(limits.contents) * share).floor()),
            bytes: Bucket::new(limits.bytes as f64 * share),
            last: None,
        }
    }

    /// Takes one content of so many bytes, if both are left.
    pub(super) fn take(&mut self, now: Duration, bytes: u64) -> bool {
        let passed = now.saturating_sub(self.last.unwrap_or(now)).as_secs_f64();
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
        self.contents.fill(passed);
        self.bytes.fill(passed);
        if self.contents.level < 1.0 || self.bytes.level < bytes as f64 {
            return false;
        }
        self.contents.level -= 1.0;
        self.bytes.level -= bytes as f64;
        true
    }

    /// What is left: contents, bytes.
    pub(super) fn levels(&self) -> [f64; 2] {
        [self.contents.level, self.bytes.level]
    }

    /// Puts levels back, as far as limits allow. `false` for what is no level.
    pub(super) fn restore(&mut self, [contents, bytes]: [f64; 2]) -> bool {
        let valid = |level: f64| level.is_finite() && level >= 0.0;
        if !valid(contents) || !valid(bytes) {
            return false;
        }
        self.contents.level = contents.min(self.contents.most);
        self.bytes.level = bytes.min(self.bytes.most);
        true
    }
}
