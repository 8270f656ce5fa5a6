//! What is seen of a box over some time: its last answer, its speed, and since when it is silent.

use std::collections::VecDeque;
use std::time::Duration;

use crate::status::{Releases, Status, line, span};

/// Seconds of speed that are kept: as many as a wide screen has columns.
const RATES_MAX: usize = 512;

/// An answer of a box.
pub(super) type Seen = (Status, Option<Releases>);

/// What was seen. Time is an argument: of a clock that only goes forward, and of the day.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Where the box is asked.
    pub(super) address: String,
    /// What it said last.
    pub(super) latest: Option<Seen>,
    /// Tokens a second, the newest last.
    pub(super) rates: VecDeque<u64>,
    /// The newest.
    pub(super) rate: Option<f64>,
    /// Since when it does not answer, in seconds since 1970, and why.
    pub(super) silent: Option<(u64, String)>,
    /// When it was heard, and its tokens then.
    before: Option<(Duration, u64)>,
}

impl Watch {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    /// It answered, or did not.
    pub(super) fn handle(&mut self, now: Duration, unix_s: u64, answer: Result<Seen, String>) {
        match answer {
            Ok(seen) => {
                let tokens = seen.0.generated_tokens;
                self.rate = self.before.and_then(|(at, before)| {
                    // A box that began anew counts from 0.
                    let made = tokens.checked_sub(before)?;
                    let seconds = now.saturating_sub(at).as_secs_f64();
                    (seconds > 0.0).then(|| made as f64 / seconds)
                });
                self.before = Some((now, tokens));
                self.silent = None;
                self.latest = Some(seen);
            }
            Err(why) => {
                let since = self.silent.take().map_or(unix_s, |(since, _)| since);
                self.silent = Some((since, why));
                (self.rate, self.before) = (None, None);
            }
        }
        if self.rates.len() == RATES_MAX {
            self.rates.pop_front();
        }
        self.rates.push_back(self.rate.map_or(0, whole));
    }

    /// Since when it is silent, in words. None: it answers, or was not asked yet.
    pub(super) fn silence(&self, unix_s: u64) -> Option<String> {
        let (since, why) = self.silent.as_ref()?;
        let day_s = since % 86_400;
        let (hour, minute, second) = (day_s / 3600, day_s / 60 % 60, day_s % 60);
        let lasts = span(unix_s.saturating_sub(*since));
        Some(format!(
            "no answer since {hour:02}:{minute:02}:{second:02} UTC ({lasts}): {why}"
        ))
    }

    /// All of it in a line.
    pub(super) fn line(&self, unix_s: u64) -> String {
        match (self.silence(unix_s), &self.latest) {
            (Some(silence), _) => silence,
            (None, Some((status, _))) => line(status, self.rate),
            (None, None) => format!("asks {}", self.address),
        }
    }
}

fn whole(rate: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is no less than 0, and what is too large is cut"
    )]
    let whole = rate.round() as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tokens(tokens: u64) -> Seen {
        let status = Status {
            generated_tokens: tokens,
            ..Status::default()
        };
        (status, None)
    }

    #[test]
    fn speed_is_what_came_between_two_answers() {
        let mut watch = Watch::default();
        let mut rate = |at_ms, answer| {
            watch.handle(Duration::from_millis(at_ms), 0, answer);
            watch.rate
        };
        assert_eq!(
            rate(0, Ok(with_tokens(100))),
            None,
            "one answer has no speed"
        );
        assert_eq!(rate(2000, Ok(with_tokens(180))), Some(40.0));
        assert_eq!(rate(3000, Ok(with_tokens(3))), None, "it began anew");
        assert_eq!(rate(3500, Ok(with_tokens(13))), Some(20.0));
        assert_eq!(rate(4500, Err("gone".to_owned())), None);
        assert_eq!(rate(9000, Ok(with_tokens(99))), None, "nobody knows when");
        assert_eq!(watch.rates, [0, 40, 0, 20, 0, 0]);
    }

    #[test]
    fn silence_begins_once_and_ends_with_an_answer() {
        let mut watch = Watch::default();
        let second = Duration::from_secs;
        watch.handle(second(0), 1_000_000_000, Ok(with_tokens(0)));
        assert_eq!(watch.silence(1_000_000_000), None);
        watch.handle(second(1), 1_000_000_001, Err("refused".to_owned()));
        watch.handle(second(61), 1_000_000_061, Err("timed out".to_owned()));
        let expected = "no answer since 01:46:41 UTC (1 min 0 s): timed out";
        assert_eq!(watch.line(1_000_000_061), expected);
        watch.handle(second(62), 1_000_000_062, Ok(with_tokens(0)));
        assert_eq!(watch.silence(1_000_000_062), None);
    }

    #[test]
    fn a_long_watch_keeps_no_more_than_a_wide_screen() {
        let mut watch = Watch::default();
        for n in 0..2000 {
            watch.handle(Duration::from_secs(n), n, Ok(with_tokens(n)));
        }
        assert_eq!(watch.rates.len(), RATES_MAX);
    }
}
