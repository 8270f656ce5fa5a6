//! Days of the Gregorian calendar, UTC.

use std::fmt;
use std::str::FromStr;

/// A day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    /// Days since 1970-01-01.
    number: i64,
}

impl Day {
    /// Milliseconds of one.
    pub const MS: u64 = 86_400_000;

    /// The day of a moment. What comes after the year 9999 is its last day.
    pub fn of_unix_ms(unix_ms: u64) -> Self {
        let number = i64::try_from(unix_ms / Self::MS).unwrap_or(i64::MAX);
        Self {
            number: number.min(LAST),
        }
    }

    /// Its first millisecond since 1970; 0 for all before.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.number).unwrap_or(0) * Self::MS
    }

    /// So many days later.
    #[must_use]
    pub fn plus(self, days: u32) -> Self {
        Self {
            number: self.number + i64::from(days),
        }
    }

    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    fn civil(self) -> (i64, i64, i64) {
        let z = self.number + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month, day)
    }

    // The same, days_from_civil.
    fn from_civil(year: i64, month: i64, day: i64) -> Self {
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Self {
            number: era * 146_097 + day_of_era - 719_468,
        }
    }
}

/// 9999-12-31.
const LAST: i64 = 2_932_896;

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// It is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is no day: write it like 2026-03-31")]
pub struct DayError {
    text: String,
}

impl FromStr for Day {
    type Err = DayError;

    fn from_str(text: &str) -> Result<Self, DayError> {
        let wrong = || DayError {
            text: text.to_owned(),
        };
        let mut parts = text.splitn(3, '-').map(str::parse::<u16>);
        let mut part = || parts.next().and_then(Result::ok).ok_or_else(wrong);
        let day = Self::from_civil(part()?.into(), part()?.into(), part()?.into());
        // What is not written as we write it is none: 2026-02-31, 2026-1-1.
        if day.to_string() == text && day.number >= 0 {
            Ok(day)
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Day;

    #[test]
    fn days_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01"),
            (951_782_400_000, "2000-02-29"),
            (1_700_000_000_000, "2023-11-14"),
            (4_107_542_399_999, "2100-02-28"),
            (4_107_542_400_000, "2100-03-01"),
            (u64::MAX, "9999-12-31"),
        ];
        for (unix_ms, text) in cases {
            let day = Day::of_unix_ms(unix_ms);
            assert_eq!(day.to_string(), text);
            assert_eq!(text.parse(), Ok(day));
        }
        for day in (0..40_000).map(|n| Day::of_unix_ms(n * Day::MS)) {
            assert_eq!(day.to_string().parse(), Ok(day));
        }
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "",
            "2026",
            "2026-02-31",
            "2026-1-1",
            "2026-01-01x",
            "1969-12-31",
            "x-01-01",
        ] {
            let error = text.parse::<Day>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{text} is no day: write it like 2026-03-31")
            );
        }
    }
}
