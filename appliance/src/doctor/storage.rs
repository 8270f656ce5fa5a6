//! Disk, memory, and the spool.

use std::fmt::Write as _;

use super::facts::{Disk, Facts, Read, SpoolFiles};
use super::{Finding, unread};
use crate::config::ByteSize;
use crate::status::{percent, span};

/// Less than this free stops more than the box.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// Of memory that nobody uses.
const AVAILABLE_PERCENT_MIN: u64 = 5;
/// Of the spool: soon full, and full but for the segment that is written.
const SPOOL_PERCENT_WARN: u64 = 80;
const SPOOL_PERCENT_BAD: u64 = 95;

pub(super) fn disks(facts: &Facts) -> Vec<Finding> {
    facts.disks.iter().map(disk).collect()
}

fn disk(disk: &Disk) -> Finding {
    let (name, folder) = (disk.name, &disk.folder);
    let Some(free) = disk.free_bytes else {
        return Finding::unknown(name, format!("{folder} cannot be looked at"));
    };
    let needs = disk.needs_bytes;
    let there = if disk.exists { "" } else { " (not there yet)" };
    let found = format!("{folder}{there} has {} free", ByteSize(free));
    let finding = if disk.read_only {
        Finding::bad(
            name,
            format!("{found}, and is mounted read-only"),
            "Look at `dmesg` for errors of the disk; `mount -o remount,rw`, or replace the disk",
        )
    } else if disk.exists && disk.writable == Some(false) {
        Finding::bad(
            name,
            format!("{found}, and its owner may not write there"),
            format!("`chown -R outstation: {folder}` and `chmod u+rwx {folder}`"),
        )
    } else if free < FREE_BYTES_MIN {
        let mend = "Free some: `journalctl --vacuum-size=100M`, old logs, packages that are cached";
        Finding::bad(name, found, mend)
    } else if free < needs {
        Finding::warn(
            name,
            format!(
                "{found}, the box may want {} ({})",
                ByteSize(needs),
                disk.needs_words
            ),
            "Free some, or lower the settings that are named",
        )
    } else {
        Finding::ok(name, found)
    };
    finding
        .number("free_bytes", free)
        .number("needs_bytes", needs)
}

pub(super) fn memory(facts: &Facts) -> Finding {
    const NAME: &str = "memory";
    const LESS: &str =
        "Lower memory.limit or serving.sequences_max, or end what else runs (`systemd-cgtop -m`)";
    let memory = &facts.memory;
    let available = memory.available_bytes;
    let rest = available.map_or_else(String::new, |bytes| {
        format!("; {} available", ByteSize(bytes))
    });
    let scarce = available
        .zip(memory.total_bytes)
        .is_some_and(|(available, total)| percent(available, total) < AVAILABLE_PERCENT_MIN);
    let (planned, resident, found) = match (facts.answer.status(), &memory.plan) {
        (Some(status), _) => {
            let planned = status.memory_planned_bytes;
            let resident = status.memory_resident_bytes;
            let words = crate::status::resident(status);
            let found = format!("{words} resident of {} planned{rest}", ByteSize(planned));
            (planned, resident, found)
        }
        (None, Some(Ok((planned, limit)))) => {
            let (plan, limit) = (ByteSize(*planned), ByteSize(*limit));
            let found = format!("{plan} planned of a limit of {limit}{rest}");
            (*planned, None, found)
        }
        (None, Some(Err(why))) => {
            let mend = "`outstation check` has the table";
            return Finding::bad(NAME, why.clone(), mend);
        }
        (None, None) => return Finding::unknown(NAME, "there is no plan"),
    };
    // A box that runs has its part already; one that does not must find it.
    let lacking = facts.answer.status().is_none() && available.is_some_and(|free| free < planned);
    let finding = if resident.is_some_and(|resident| resident > planned) {
        Finding::bad(
            NAME,
            format!("{found}: more than the plan"),
            "It is our bug: `systemctl restart outstation`, and report it with `outstation status --json`",
        )
    } else if lacking || memory.total_bytes.is_some_and(|total| total < planned) {
        Finding::bad(NAME, format!("{found}: it does not fit"), LESS)
    } else if scarce {
        Finding::warn(NAME, found, LESS)
    } else {
        Finding::ok(NAME, found)
    };
    let mut finding = finding.number("planned_bytes", planned);
    for (name, value) in [("resident_bytes", resident), ("available_bytes", available)] {
        if let Some(value) = value {
            finding = finding.number(name, value);
        }
    }
    finding
}

pub(super) fn spool(facts: &Facts) -> Finding {
    const NAME: &str = "spool";
    let log = facts.answer.status().and_then(|status| status.log.as_ref());
    let files = match &facts.spool.files {
        Read::There(files) => Some(*files),
        Read::Broken(why) => {
            let mend = "Look at the disk: records are lost until it takes them again";
            return Finding::bad(NAME, why.clone(), mend);
        }
        Read::Absent if log.is_none() => {
            return Finding::ok(NAME, "nothing waits: nothing was ever written down");
        }
        read @ Read::Denied if log.is_none() => {
            return Finding::unknown(NAME, unread(read).unwrap_or_default());
        }
        Read::Absent | Read::Denied => None,
    };
    let seen = files.unwrap_or_default();
    let bytes = log.map_or(seen.bytes, crate::status::Log::bytes);
    let segments = log.map_or(seen.segments, crate::status::Log::segments);
    let most = log.map_or(facts.spool.bytes_max, |log| log.spool_bytes_max);
    let share = percent(bytes, most);
    let mut found = format!(
        "{} of {} ({share} %) in {segments} segments",
        ByteSize(bytes),
        ByteSize(most)
    );
    let oldest_s = seen.oldest_unix_s.filter(|_| segments > 0);
    let oldest_s = oldest_s.map(|sealed| facts.now_unix_s.saturating_sub(sealed));
    if let Some(oldest) = oldest_s {
        let _ = write!(found, ", the oldest {}", span(oldest));
    }
    let lost = log.map(|log| log.records_lost);
    if let Some(log) = log {
        let _ = write!(found, "; {} records since the start", log.records_durable);
    }
    if let Some(lost) = lost.filter(|&lost| lost > 0) {
        let _ = write!(found, ", {lost} lost ever");
    }
    let finding = judge(
        found,
        share,
        log.is_some_and(|log| !log.writing),
        lost,
        seen,
    );
    let mut finding = finding
        .number("spool_bytes", bytes)
        .number("spool_bytes_max", most)
        .number("spool_segments", segments);
    for (name, value) in [("oldest_s", oldest_s), ("records_lost", lost)] {
        if let Some(value) = value {
            finding = finding.number(name, value);
        }
    }
    finding
}

fn judge(found: String, share: u64, stuck: bool, lost: Option<u64>, seen: SpoolFiles) -> Finding {
    const NAME: &str = "spool";
    const SEND: &str = "The link must come back (see `link`), or raise spool.bytes_max: what is oldest and worth least goes";
    if stuck {
        let mend = "Look at the disk (`disk_state`): records are lost until it takes them again";
        return Finding::bad(NAME, format!("{found}; it takes no records"), mend);
    }
    if share >= SPOOL_PERCENT_BAD {
        return Finding::bad(NAME, format!("{found}; it is full"), SEND);
    }
    if share >= SPOOL_PERCENT_WARN {
        return Finding::warn(NAME, found, SEND);
    }
    if seen.bad > 0 {
        let found = format!("{found}; {} segments that the factory refused", seen.bad);
        let mend = "They are kept as `.bad` in the spool's folder for whoever looks into it";
        return Finding::warn(NAME, found, mend);
    }
    if lost.is_some_and(|lost| lost > 0) {
        let mend = "Gaps tell the factory which and why (docs/spool.md); nothing brings them back";
        return Finding::warn(NAME, found, mend);
    }
    Finding::ok(NAME, found)
}
