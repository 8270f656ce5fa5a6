//! Who may come in, and what the box shows them.

use super::facts::{Certificate, Facts, Read, Validity};
use super::{Finding, unread};

/// Days before the end of a certificate at which somebody should renew it.
pub(super) const DAYS_WARN: i64 = 14;

const DAY_S: i64 = 86_400;

pub(super) fn certificates(facts: &Facts) -> Vec<Finding> {
    if facts.certificates.is_empty() {
        let own = "none configured: the box makes its own at each start, for this machine alone";
        return vec![Finding::ok("certificate", own)];
    }
    let now = i64::try_from(facts.now_unix_s).unwrap_or(i64::MAX);
    let certificates = facts.certificates.iter();
    certificates.map(|found| certificate(found, now)).collect()
}

fn certificate(certificate: &Certificate, now: i64) -> Finding {
    let Certificate {
        name, place, mend, ..
    } = certificate;
    match &certificate.read {
        Read::There(validity) => judge(certificate, validity, now),
        Read::Absent => Finding::bad(name, format!("{place} is not there"), mend),
        Read::Broken(why) => Finding::bad(name, why.clone(), mend),
        read @ Read::Denied => {
            let why = unread(read).unwrap_or_default();
            Finding::unknown(name, format!("{place}: {why}"))
        }
    }
}

fn judge(certificate: &Certificate, validity: &Validity, now: i64) -> Finding {
    let Certificate {
        name, place, mend, ..
    } = certificate;
    let left_s = validity.not_after_unix_s.saturating_sub(now);
    let days = left_s.div_euclid(DAY_S);
    let finding = if left_s <= 0 {
        let since = -days;
        Finding::bad(name, format!("{place} expired, {since} days ago"), mend)
    } else if validity.not_before_unix_s > now {
        let in_days = (validity.not_before_unix_s - now).div_euclid(DAY_S);
        Finding::bad(
            name,
            format!("{place} is not good before {in_days} days from now"),
            "Set the clock if it is behind, or use another certificate",
        )
    } else if validity.key_matches == Some(false) {
        let found = format!("{place} does not belong to its private key");
        Finding::bad(name, found, mend)
    } else if days < DAYS_WARN {
        Finding::warn(name, format!("{place} is good for {days} days more"), mend)
    } else if days > 100 * 365 {
        Finding::ok(name, format!("{place} does not expire"))
    } else {
        Finding::ok(name, format!("{place} is good for {days} days more"))
    };
    finding.number("days_left", days)
}

pub(super) fn credentials(facts: &Facts) -> Finding {
    const NAME: &str = "credentials";
    let access = &facts.access;
    let file = &access.keys_file;
    if let Some(trouble) = &access.trouble {
        let mend = "The box refuses to start like this: docs/access.md has the three lines that are missing";
        return Finding::bad(NAME, trouble.clone(), mend);
    }
    let who = if access.public.is_empty() {
        "listens on loopback".to_owned()
    } else {
        format!("others reach {}", access.public.join(" and "))
    };
    match &access.keys {
        Read::There(keys) => {
            Finding::ok(NAME, format!("{who}; {keys} keys in {file}")).number("keys", *keys)
        }
        Read::Absent => Finding::ok(NAME, format!("{who}; no file of keys, so HTTP needs none")),
        Read::Broken(why) => {
            let mend =
                "Restore the file, or remove it and add the keys anew with `outstation keys add`";
            Finding::bad(NAME, why.clone(), mend)
        }
        read @ Read::Denied => {
            let why = unread(read).unwrap_or_default();
            Finding::unknown(NAME, format!("{who}; {file}: {why}"))
        }
    }
}
