//! How good answers are: exact matches with their intervals, in groups, and one model against another.
//!
//! Answers come through the API of a server, so that what is judged is what will serve. An action is right if it is the
//! same JSON value; any other answer if it is the same text, spaces at its ends aside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::Chat;

/// Whether an answer is right.
pub fn is_right(answer: &str, right: &str) -> bool {
    match serde_json::from_str::<Value>(right) {
        Ok(action @ Value::Object(_)) => {
            serde_json::from_str::<Value>(answer).is_ok_and(|said| said == action)
        }
        _ => answer.trim() == right.trim(),
    }
}

/// A share of cases with the interval in which it is with a probability of 95 % (Wilson's).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Cases.
    pub cases: u64,
    /// Of these so many.
    pub right: u64,
    /// `right / cases`, percent.
    pub percent: f64,
    /// Where the interval begins, percent.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

/// Deviations of a normal distribution that hold 95 % of it.
const Z: f64 = 1.959_964;

impl Share {
    /// Of some cases.
    pub fn of(right: u64, cases: u64) -> Self {
        let (n, p) = (cases.max(1) as f64, right as f64 / cases.max(1) as f64);
        let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let percent = |share: f64| 100.0 * share.clamp(0.0, 1.0);
        Self {
            cases,
            right,
            percent: percent(p),
            low: percent(centre - half),
            high: percent(centre + half),
        }
    }
}

/// How much more often the second of two is right, on the same cases: points of percent, with the interval of 95 % that
/// Agresti and Min give for pairs (*Statistics in Medicine* 24, 2005).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Cases.
    pub cases: u64,
    /// Only the second was right.
    pub gained: u64,
    /// Only the first was.
    pub lost: u64,
    /// `(gained − lost) / cases`, points.
    pub points: f64,
    /// Where the interval begins, points.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

impl Difference {
    /// Of pairs (the first was right, the second was).
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let (mut cases, mut gained, mut lost) = (0, 0, 0);
        for (first, second) in pairs {
            cases += 1;
            gained += u64::from(second && !first);
            lost += u64::from(first && !second);
        }
        let (n, b, c) = (cases as f64 + 2.0, gained as f64 + 0.5, lost as f64 + 0.5);
        let centre = (b - c) / n;
        let half = Z * (b + c - (b - c).powi(2) / n).sqrt() / n;
        Self {
            cases,
            gained,
            lost,
            points: 100.0 * (gained as f64 - lost as f64) / (cases.max(1) as f64),
            low: 100.0 * (centre - half).max(-1.0),
            high: 100.0 * (centre + half).min(1.0),
        }
    }
}

/// Which fields of the metadata make groups.
const GROUPS: [&str; 3] = ["set", "language", "intent"];

/// How a model did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All cases.
    pub all: Share,
    /// By the values of some fields of the metadata, such as `language=de`.
    pub groups: BTreeMap<String, Share>,
}

impl Report {
    /// Of chats and whether each was answered right.
    pub fn of(chats: &[Chat], right: &[bool]) -> Self {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (chat, right) in chats.iter().zip(right) {
            for field in GROUPS {
                if let Some(value) = chat.metadata.get(field).and_then(Value::as_str) {
                    let (among, cases) = counts.entry(format!("{field}={value}")).or_default();
                    *among += u64::from(*right);
                    *cases += 1;
                }
            }
        }
        let all = right.iter().filter(|right| **right).count() as u64;
        let share = |(name, (right, cases))| (name, Share::of(right, cases));
        Self {
            all: Share::of(all, right.len() as u64),
            groups: counts.into_iter().map(share).collect(),
        }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let row = |name: &str, share: &Share| {
            let Share {
                cases,
                right,
                percent,
                low,
                high,
            } = share;
            format!(
                "{name:<24} {right:>6} of {cases:<6} {percent:>6.2} %   {low:.1} to {high:.1}\n"
            )
        };
        let groups: String = self
            .groups
            .iter()
            .map(|(name, share)| row(name, share))
            .collect();
        row("all", &self.all) + &groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_compared_as_values_and_sentences_as_texts() {
        let action = r#"{"action":"lock","sector":3}"#;
        assert!(is_right(action, action));
        assert!(is_right(r#" { "sector": 3, "action": "lock" }"#, action));
        assert!(!is_right(r#"{"action":"lock","sector":4}"#, action));
        assert!(!is_right(
            r#"{"action":"lock","sector":3,"until":"18:00"}"#,
            action
        ));
        assert!(!is_right("lock", action));
        assert!(is_right(
            "A VLAN separates networks. ",
            "A VLAN separates networks."
        ));
        assert!(!is_right(
            "a vlan separates networks.",
            "A VLAN separates networks."
        ));
        // A number that is an answer is a text.
        assert!(!is_right("7.0", "7"));
    }

    /// 81 of 263: Wilson's interval is 25.5 % to 36.6 %. Source: Newcombe, *Statistics in Medicine* 17 (1998), table I.
    #[test]
    fn the_interval_of_a_share_is_wilson_s() {
        let share = Share::of(81, 263);
        assert!(
            (share.low - 25.53).abs() < 0.01 && (share.high - 36.62).abs() < 0.01,
            "{share:?}"
        );
        let (none, all) = (Share::of(0, 20), Share::of(20, 20));
        assert!(
            none.low < 1e-9 && (none.high - 16.11).abs() < 0.01,
            "{none:?}"
        );
        assert!(
            all.high > 99.999 && (all.low - 83.89).abs() < 0.01,
            "{all:?}"
        );
        assert_eq!(Share::of(0, 0).cases, 0);
    }

    #[test]
    fn the_interval_of_a_difference_shrinks_with_cases_and_holds_it() {
        let pairs = |times: usize| {
            let cases = [
                (true, true),
                (true, true),
                (false, true),
                (false, true),
                (true, false),
                (false, false),
            ];
            Difference::of(cases.into_iter().cycle().take(6 * times))
        };
        let (few, many) = (pairs(10), pairs(1000));
        assert!((few.points - 100.0 / 6.0).abs() < 1e-9);
        assert_eq!((few.gained, few.lost, few.cases), (20, 10, 60));
        for difference in [few, many] {
            assert!(difference.low < difference.points && difference.points < difference.high);
        }
        assert!(many.high - many.low < 0.2 * (few.high - few.low));
        let same = Difference::of([(true, true); 50]);
        assert!(same.points == 0.0 && same.low < 0.0 && same.high > 0.0);
    }

    #[test]
    fn groups_are_those_of_the_metadata() {
        let mut chats = vec![Chat::of("a", "b"); 4];
        for (chat, language) in chats.iter_mut().zip(["en", "de", "en"]) {
            chat.metadata.insert("language".to_owned(), language.into());
            chat.metadata.insert("id".to_owned(), "ignored".into());
        }
        let report = Report::of(&chats, &[true, false, false, true]);
        assert_eq!((report.all.right, report.all.cases), (2, 4));
        let groups: Vec<_> = report
            .groups
            .iter()
            .map(|(name, share)| (name.as_str(), share.right, share.cases))
            .collect();
        assert_eq!(groups, [("language=de", 0, 1), ("language=en", 1, 2)]);
        assert!(report.table().contains("language=en"));
    }
}
