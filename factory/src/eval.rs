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

/// How well a model knows how sure it may be. Its confidence in an answer is the probability that it gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error, points: how far confidence and share of right answers are apart, on average over
    /// bins of as many cases each. Source: Guo et al. 2017; bins as in Nguyen and O'Connor 2015.
    pub ece: f64,
    /// Mean of (confidence − 1 if right, else 0)². Source: Brier 1950.
    pub brier: f64,
    /// Probability that of a right and a wrong answer the right one has more confidence; `None` without one of each.
    pub auroc: Option<f64>,
    /// From the least confidence to the most.
    pub bins: Vec<Bin>,
}

/// Cases of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// How many.
    pub cases: usize,
    /// Their mean confidence, percent.
    pub confidence: f64,
    /// Right ones, percent.
    pub right: f64,
}

/// Bins of a calibration.
const BINS: usize = 10;

impl Calibration {
    /// Of answers: confidence from 0 to 1, and whether they were right.
    pub fn of(answers: impl IntoIterator<Item = (f64, bool)>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let truth = |right: bool| f64::from(u8::from(right));
        let count = answers.len().max(1) as f64;
        let brier = answers
            .iter()
            .map(|&(confidence, right)| (confidence - truth(right)).powi(2));
        let brier = brier.sum::<f64>() / count;
        let bounds = (0..=BINS).map(|bin| bin * answers.len() / BINS);
        let bounds: Vec<usize> = bounds.collect();
        let bins: Vec<Bin> = bounds
            .windows(2)
            .map(|ends| &answers[ends[0]..ends[1]])
            .filter(|bin| !bin.is_empty())
            .map(|bin| {
                let mean = |of: fn(&(f64, bool)) -> f64| {
                    100.0 * bin.iter().map(of).sum::<f64>() / bin.len() as f64
                };
                Bin {
                    cases: bin.len(),
                    confidence: mean(|answer| answer.0),
                    right: mean(|answer| f64::from(u8::from(answer.1))),
                }
            })
            .collect();
        let apart = |bin: &Bin| bin.cases as f64 * (bin.confidence - bin.right).abs();
        Self {
            ece: bins.iter().map(apart).sum::<f64>() / count,
            brier,
            auroc: auroc(&answers),
            bins,
        }
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let auroc = self.auroc.map_or_else(
            || "all alike".to_owned(),
            |auroc| format!("AUROC {auroc:.3}"),
        );
        format!(
            "calibration              error {:.2} points, Brier {:.4}, {auroc}\n",
            self.ece, self.brier
        )
    }
}

/// Mann and Whitney's statistic of answers in the order of their confidence; equals count half.
fn auroc(answers: &[(f64, bool)]) -> Option<f64> {
    let (mut won, mut wrong_before, mut all_right) = (0.0, 0.0, 0.0);
    for equals in answers.chunk_by(|a, b| a.0 == b.0) {
        let right = equals.iter().filter(|answer| answer.1).count() as f64;
        let wrong = equals.len() as f64 - right;
        won += right * (wrong_before + wrong / 2.0);
        wrong_before += wrong;
        all_right += right;
    }
    let pairs = all_right * wrong_before;
    (pairs > 0.0).then(|| won / pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_by_hand() {
        // Ten bins of one: nine sure and right, one sure and wrong.
        let nine = std::iter::repeat_n((0.9, true), 9);
        let found = Calibration::of(nine.chain([(0.8, false)]));
        assert!((found.ece - (9.0 * 10.0 + 80.0) / 10.0).abs() < 1e-9);
        assert!((found.brier - (9.0 * 0.01 + 0.64) / 10.0).abs() < 1e-9);
        assert_eq!(found.auroc, Some(1.0));
        assert_eq!((found.bins.len(), found.bins[0].right), (10, 0.0));
        // Confidence that says nothing, and half of the answers right: calibrated, and no help.
        let flat = Calibration::of((0..200).map(|n| (0.5, n % 2 == 0)));
        assert!(flat.ece < 1e-9 && flat.auroc == Some(0.5), "{flat:?}");
        assert_eq!(Calibration::of([(0.5, true)]).auroc, None);
        assert_eq!(Calibration::of([]).bins, []);
    }

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
