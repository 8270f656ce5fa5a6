//! The gate: a box answers new and old cases with the adapter and with what serves now, and the two are compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::folder::{given, json, write};
use super::label::JUDGE;
use super::learn::ADAPTER;
use super::settings::Gate;
use super::{Ended, Folder, Round, RoundError, Settings};
use crate::api::{Api, Asking};
use crate::chat::Chat;
use crate::eval::{Difference, Report, is_right};
use crate::judge::{Served, answers};

/// What a new adapter must do, in percent and points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Points that may be lost on old cases.
    pub old_lost_max: f64,
    /// Of new cases, so many must be right.
    pub new_at_least: f64,
}

/// How some cases were answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// By what serves now.
    pub before: Report,
    /// With the new adapter.
    pub after: Report,
    /// Case by case.
    pub difference: Difference,
}

/// What the gate says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// New cases that were kept to judge with.
    pub new: Judged,
    /// Old cases, and those of the rounds before.
    pub old: Judged,
    /// Why it is not released; empty: it is.
    pub reasons: Vec<String>,
}

const VERDICT: &str = "verdict.json";

impl Verdict {
    fn of(new: Judged, old: Judged, limits: Limits) -> Self {
        let mut reasons = Vec::new();
        let percent = new.after.all.percent;
        if percent < limits.new_at_least {
            reasons.push(format!(
                "{percent:.1} % of the new cases are right, {} are asked for: labels that contradict each other, or \
                 too few of them",
                limits.new_at_least
            ));
        }
        let gained = &new.difference;
        if gained.low <= 0.0 {
            reasons.push(format!(
                "on new cases it is not surely better: {:+.1} points ({:+.1} to {:+.1})",
                gained.points, gained.low, gained.high
            ));
        }
        let lost = -old.difference.points;
        if lost > limits.old_lost_max {
            reasons.push(format!(
                "{lost:.1} points are lost on old cases, {} may be",
                limits.old_lost_max
            ));
        }
        Self { new, old, reasons }
    }

    /// Whether the adapter is to be released.
    pub fn passes(&self) -> bool {
        self.reasons.is_empty()
    }

    /// For people.
    pub fn line(&self) -> String {
        let share = |judged: &Judged| {
            let (before, after) = (judged.before.all, judged.after.all);
            let Difference {
                points, low, high, ..
            } = judged.difference;
            format!(
                "{:.1} % → {:.1} % of {} ({points:+.1} points, {low:+.1} to {high:+.1})",
                before.percent, after.percent, after.cases
            )
        };
        let (new, old) = (share(&self.new), share(&self.old));
        format!("right of new cases {new}, of old ones {old}")
    }
}

/// Judges, unless it was done.
pub(super) async fn judge(
    settings: &Settings,
    folder: &Folder,
    round: &Round,
    tell: &mut dyn FnMut(&str),
) -> Result<Verdict, RoundError> {
    let file = folder.of(round.number, VERDICT);
    if let Some(verdict) = json(&file)? {
        return Ok(verdict);
    }
    let new = given(&folder.of(round.number, JUDGE))?;
    let mut old = Vec::new();
    for file in &settings.gate.old {
        old.extend(given(file)?);
    }
    for it in folder.rounds()? {
        if it.ended == Some(Ended::Released) {
            old.extend(given(&folder.of(it.number, JUDGE))?);
        }
    }
    tell(&format!(
        "{} new cases and {} old ones are asked",
        new.len(),
        old.len()
    ));
    let mut adapters = vec![(AFTER.to_owned(), folder.of(round.number, ADAPTER))];
    if round.before > 0 {
        adapters.push((BEFORE.to_owned(), folder.of(round.before, ADAPTER)));
    }
    let served = Served::start(&settings.outstation, &settings.model.file, &adapters)?;
    let before = if round.before > 0 { BEFORE } else { "default" };
    let compare = async |chats: &[Chat]| {
        let mut right = Vec::new();
        for model in [before, AFTER] {
            right.push(ask(&settings.gate, &Api::new(&served.url, model, None)?, chats).await?);
        }
        let pairs = right[0].iter().copied().zip(right[1].iter().copied());
        Ok::<_, RoundError>(Judged {
            before: Report::of(chats, &right[0]),
            after: Report::of(chats, &right[1]),
            difference: Difference::of(pairs),
        })
    };
    let limits = Limits {
        old_lost_max: settings.gate.old_lost_max,
        new_at_least: settings.gate.new_at_least,
    };
    let verdict = Verdict::of(compare(&new).await?, compare(&old).await?, limits);
    let json = serde_json::to_vec_pretty(&verdict).expect("it is plain data");
    write(&file, &json)?;
    Ok(verdict)
}

const BEFORE: &str = "before";
const AFTER: &str = "after";

async fn ask(gate: &Gate, api: &Api, chats: &[Chat]) -> Result<Vec<bool>, RoundError> {
    let asking = Asking {
        max_tokens: gate.max_tokens,
        patience: Duration::from_mins(2),
        logprobs: false,
    };
    let said = answers(api, chats, asking, gate.parallel, || {}).await?;
    let right = chats.iter().zip(&said);
    Ok(right
        .map(|(chat, said)| is_right(&said.text, chat.split().1))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of which so many were right before, and after; those right before are right after, if there are enough.
    fn judged(cases: usize, before: usize, after: usize) -> Judged {
        let chats = vec![Chat::of("a", "b"); cases];
        let right = |count: usize| (0..cases).map(|n| n < count).collect::<Vec<_>>();
        let (before, after) = (right(before), right(after));
        Judged {
            before: Report::of(&chats, &before),
            after: Report::of(&chats, &after),
            difference: Difference::of(before.into_iter().zip(after)),
        }
    }

    const LIMITS: Limits = Limits {
        old_lost_max: 1.0,
        new_at_least: 85.0,
    };

    #[test]
    fn what_is_worse_or_not_surely_better_is_refused_with_its_numbers() {
        let good = Verdict::of(judged(100, 40, 95), judged(1000, 970, 965), LIMITS);
        assert!(good.passes(), "{:?}", good.reasons);
        assert!(
            good.line().contains("40.0 % → 95.0 % of 100"),
            "{}",
            good.line()
        );
        for (new, old, says) in [
            ((100, 40, 84), (1000, 970, 970), "84.0 % of the new cases"),
            ((100, 96, 97), (1000, 970, 970), "not surely better"),
            ((100, 90, 86), (1000, 970, 970), "-4.0 points"),
            ((100, 40, 95), (1000, 970, 955), "1.5 points are lost"),
            ((0, 0, 0), (1000, 970, 970), "not surely better"),
        ] {
            let (new, old) = (judged(new.0, new.1, new.2), judged(old.0, old.1, old.2));
            let refused = Verdict::of(new, old, LIMITS);
            assert!(!refused.passes());
            assert!(
                refused.reasons.concat().contains(says),
                "{:?}",
                refused.reasons
            );
        }
    }
}
