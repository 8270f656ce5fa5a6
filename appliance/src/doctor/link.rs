//! The way to the factory.

use super::facts::{Facts, Read};
use super::{Finding, unread};
use crate::status::{Uplink, span};

/// Silence after which somebody must go there: a spool of the default size lasts for weeks, not for months.
const SILENCE_BAD_S: u64 = 7 * 86_400;

pub(super) fn link(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![state(facts)];
    if let Some(addresses) = &facts.link.addresses {
        findings.push(factory_address(facts, addresses));
    }
    findings
}

fn state(facts: &Facts) -> Finding {
    const NAME: &str = "link";
    let link = &facts.link;
    let (factory, name) = match (&link.member, &link.configured) {
        (Read::There(member), _) => member,
        (Read::Absent, None) => {
            return Finding::ok(NAME, "belongs to no fleet, so nothing is sent");
        }
        (Read::Absent, Some(factory)) => {
            return Finding::warn(
                NAME,
                format!("uplink.factory is {factory}, and this box is not enrolled"),
                format!("`outstation enrol --factory {factory} CODE`, then restart it"),
            );
        }
        (Read::Broken(why), _) => {
            let mend = "Remove `uplink/` in the state folder, and enrol the box anew";
            return Finding::bad(NAME, why.clone(), mend);
        }
        (read @ Read::Denied, _) => {
            return Finding::unknown(NAME, unread(read).unwrap_or_default());
        }
    };
    let Some(status) = facts.answer.status() else {
        let found = format!("enrolled as {name} at {factory}; the service does not answer");
        return Finding::unknown(NAME, found);
    };
    match &status.uplink {
        None => Finding::warn(
            NAME,
            format!("enrolled as {name} at {factory}, and the running service sends nothing"),
            "It was started before the box was enrolled: `systemctl restart outstation`",
        ),
        Some(uplink) => connection(NAME, name, uplink, status.uptime_s),
    }
}

fn connection(name: &'static str, member: &str, uplink: &Uplink, uptime_s: u64) -> Finding {
    let factory = &uplink.factory;
    let silent_s = uplink.last_contact_s.unwrap_or(uptime_s);
    let found = format!("{member} at {factory}: {}", uplink.words());
    let numbered = |finding: Finding| {
        finding
            .number("silent_s", silent_s)
            .number("segments_sent", uplink.segments_sent)
    };
    let Some(trouble) = uplink.trouble.as_ref().filter(|_| !uplink.connected) else {
        return numbered(Finding::ok(name, found));
    };
    let found = format!("{found} ({trouble})");
    let mend = format!(
        "Look at modem, cable and antenna, then at UDP to {factory}: a firewall must let it out"
    );
    numbered(if silent_s > SILENCE_BAD_S {
        let days = span(silent_s);
        Finding::bad(name, format!("{found}; {days} without the factory"), mend)
    } else {
        Finding::warn(name, found, mend)
    })
}

fn factory_address(facts: &Facts, addresses: &Result<usize, String>) -> Finding {
    const NAME: &str = "factory_address";
    let link = &facts.link;
    let enrolled = match &link.member {
        Read::There((factory, _)) => Some(factory),
        _ => None,
    };
    let factory = link.configured.as_ref().or(enrolled);
    let factory = factory.map_or("the factory", String::as_str);
    match addresses {
        Ok(many) => {
            Finding::ok(NAME, format!("{factory} has {many} addresses")).number("addresses", *many)
        }
        Err(why) => Finding::warn(
            NAME,
            format!("{factory} has no address: {why}"),
            "Look at the link and the name server (`resolvectl status`), or write an address instead of the name",
        ),
    }
}
