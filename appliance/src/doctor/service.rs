//! What the program itself tells: that it runs, what it serves, what it complains of.

use std::fmt::Write as _;

use super::facts::{Facts, Read};
use super::{Finding, unread};
use crate::status::span;

/// A model that takes longer to load than `TimeoutStartSec=` of the unit never will.
const LOADING_S_MAX: u64 = 600;

pub(super) fn configuration(facts: &Facts) -> Finding {
    const NAME: &str = "configuration";
    let configuration = &facts.configuration;
    match &configuration.trouble {
        None => Finding::ok(NAME, format!("{} is accepted", configuration.place)),
        Some(trouble) => Finding::bad(
            NAME,
            format!("{}: {trouble}", configuration.place),
            "The rest was looked at with the defaults: mend it, and see `outstation check`",
        ),
    }
}

pub(super) fn service(facts: &Facts) -> Finding {
    const NAME: &str = "service";
    let address = &facts.answer.address;
    match &facts.answer.status {
        None => Finding::unknown(NAME, "it was not asked"),
        Some(Err(why)) => Finding::bad(
            NAME,
            why.clone(),
            "Read `systemctl status outstation` and `journalctl -u outstation -n 50`, then `systemctl restart outstation`",
        ),
        Some(Ok(status)) => {
            let up = span(status.uptime_s);
            let finding = if status.ready {
                let found = format!("answers at {address}, up for {up}, ready");
                Finding::ok(NAME, found)
            } else if status.uptime_s < LOADING_S_MAX {
                let found = format!("answers at {address}, up for {up}, still loading");
                Finding::warn(NAME, found, "Wait until it says that it is ready")
            } else {
                Finding::bad(
                    NAME,
                    format!(
                        "answers at {address}, up for {up}, and decodes nothing: it drains, or its model is gone"
                    ),
                    "Wait a minute; if it stays, `systemctl restart outstation`",
                )
            };
            finding
                .number("uptime_s", status.uptime_s)
                .number("started_unix_s", status.started_unix_s)
        }
    }
}

pub(super) fn models(facts: &Facts) -> Finding {
    const NAME: &str = "models";
    if let Some(trouble) = &facts.model_trouble {
        let mend = "Name a good file with model.file, or copy it again";
        return Finding::bad(NAME, trouble.clone(), mend);
    }
    let Some(status) = facts.answer.status() else {
        return Finding::unknown(NAME, "the service does not answer");
    };
    let Some(releases) = &facts.answer.releases else {
        let id = status.model.as_ref().map_or("a model", |model| &model.id);
        return Finding::ok(NAME, format!("serves {id}; follows no ring"));
    };
    let mut found = format!("serves {}", releases.serves());
    if let Some(candidate) = &releases.candidate {
        let _ = write!(found, "; {}: {}", candidate.release, candidate.words());
    }
    // One that a later release has followed is history.
    let serves = releases.committed.as_deref().and_then(named);
    let newest = releases.rejected.last();
    let rejected = newest.filter(|(release, _)| match (serves, named(release)) {
        (Some((name, serves)), Some((other, number))) => name != other || serves < number,
        _ => true,
    });
    if let Some((release, why)) = rejected {
        let _ = write!(found, "; took back {release}: {why}");
    }
    if releases.unconfirmed {
        return Finding::bad(
            NAME,
            format!("{found}; both copies of the models' state were lost"),
            "If what serves is right, `outstation models confirm`",
        );
    }
    if let Some(trouble) = &releases.trouble {
        let mend = "Nothing new comes in until that is mended; docs/ota.md has the causes";
        return Finding::warn(NAME, format!("{found}; {trouble}"), mend);
    }
    if rejected.is_some() {
        let mend = "Publish a better release; `outstation models confirm` lets this one come again";
        return Finding::warn(NAME, found, mend);
    }
    if releases.pinned {
        let mend = "Nothing comes in: `outstation models unpin`";
        return Finding::warn(NAME, format!("{found}; pinned"), mend);
    }
    Finding::ok(NAME, found)
}

/// Name and number of a release, `NAME@N`.
fn named(release: &str) -> Option<(&str, u64)> {
    let (name, number) = release.rsplit_once('@')?;
    Some((name, number.parse().ok()?))
}

pub(super) fn heap_guard(facts: &Facts) -> Finding {
    const NAME: &str = "heap_guard";
    let Some(status) = facts.answer.status() else {
        return Finding::unknown(NAME, "the service does not answer");
    };
    let uses = status.guarded_heap_uses;
    let finding = if uses == 0 {
        Finding::ok(NAME, "no guarded thread used the heap")
    } else {
        Finding::warn(
            NAME,
            format!("guarded threads used the heap {uses} times since READY"),
            "Answers are right, and it is our bug: report it with the output of `outstation status --json`",
        )
    };
    finding.number("guarded_heap_uses", uses)
}

pub(super) fn last_errors(facts: &Facts) -> Finding {
    const NAME: &str = "last_errors";
    let how = "`journalctl -u outstation -p warning -n 50` has them with what came before";
    if let Some(status) = facts.answer.status() {
        let many = status.last_errors.len();
        let Some(last) = status.last_errors.last() else {
            return Finding::ok(NAME, "none since the start").number("lines", 0);
        };
        let ago = span(facts.now_unix_s.saturating_sub(last.unix_s));
        let found = format!("{many}, the last {ago} ago: {}", last.message);
        let errors = status.last_errors.iter().any(|line| line.level == "error");
        let finding = if errors {
            Finding::warn(NAME, found, format!("Read them: {how}"))
        } else {
            Finding::ok(NAME, found)
        };
        return finding.number("lines", many);
    }
    match &facts.journal {
        Read::There(lines) => match lines.last() {
            None => Finding::ok(NAME, "the journal has none of this boot"),
            Some(last) => Finding::warn(
                NAME,
                format!("{} in the journal, the last: {last}", lines.len()),
                format!("Read them: {how}"),
            ),
        },
        Read::Broken(why) => Finding::unknown(NAME, format!("{why}; {how}")),
        read @ (Read::Absent | Read::Denied) => {
            let why = unread(read).unwrap_or_default();
            Finding::unknown(NAME, format!("the journal: {why}; {how}"))
        }
    }
}
