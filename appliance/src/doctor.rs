//! What is wrong with a box, and how to mend it: facts in, findings out.
//!
//! ```text
//! configuration, machine, state folder, certificates, answers of the box ─▶ Facts ─▶ examine ─▶ [Finding]
//! ```
//!
//! `io::probe` gathers the facts. What a machine does not tell is a finding of its own, [`Mark::Unknown`], and no
//! fault. `docs/doctor.md` has each finding with its cause and its mend; names and marks are what scripts rely on.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

pub mod facts;

mod access;
mod link;
mod machine;
mod service;
mod storage;

use facts::{Facts, Read};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Not known here, which is no fault.
    Unknown,
    /// It works, and should be looked at.
    Warn,
    /// It does not work, or soon will not.
    Bad,
}

impl Mark {
    /// As people see it.
    pub fn word(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Unknown => "-",
            Mark::Warn => "warn",
            Mark::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, in `snake_case`; the same in every version.
    pub name: &'static str,
    /// How bad.
    pub mark: Mark,
    /// What was found, with its numbers.
    pub found: String,
    /// What to do about it, where something should be done.
    pub mend: Option<String>,
    /// The numbers, with their units in their names.
    #[serde(serialize_with = "as_map")]
    pub numbers: Vec<(&'static str, i64)>,
}

fn as_map<S: Serializer>(numbers: &[(&'static str, i64)], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(numbers.len()))?;
    for (name, value) in numbers {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

impl Finding {
    fn new(name: &'static str, mark: Mark, found: impl Into<String>) -> Self {
        Self {
            name,
            mark,
            found: found.into(),
            mend: None,
            numbers: Vec::new(),
        }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Mark::Ok, found)
    }

    fn unknown(name: &'static str, why: impl fmt::Display) -> Self {
        Self::new(name, Mark::Unknown, format!("not known here: {why}"))
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let finding = Self::new(name, Mark::Warn, found);
        finding.mended_by(mend)
    }

    fn bad(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let finding = Self::new(name, Mark::Bad, found);
        finding.mended_by(mend)
    }

    fn mended_by(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    fn number(mut self, name: &'static str, value: impl TryInto<i64>) -> Self {
        // What is past 2^63 is nothing that a machine has.
        self.numbers
            .push((name, value.try_into().unwrap_or(i64::MAX)));
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, name) = (self.mark.word(), self.name);
        write!(f, "{mark:<4} {name:<20} {}", self.found)?;
        match &self.mend {
            Some(mend) => write!(f, ". {mend}"),
            None => Ok(()),
        }
    }
}

/// Looks at everything, in the order in which it is best mended.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![service::configuration(facts), service::service(facts)];
    findings.extend(machine::clock(facts));
    findings.extend(storage::disks(facts));
    findings.push(storage::memory(facts));
    findings.push(service::models(facts));
    findings.extend(link::link(facts));
    findings.extend(access::certificates(facts));
    findings.push(access::credentials(facts));
    findings.push(storage::spool(facts));
    findings.push(machine::gpu(facts));
    findings.extend(machine::power(facts));
    findings.push(machine::temperature(facts));
    findings.push(machine::throttling(facts));
    findings.push(machine::energy_meter(facts));
    findings.push(service::heap_guard(facts));
    findings.push(service::last_errors(facts));
    findings
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Mark {
    let marks = findings.iter().map(|finding| finding.mark);
    marks.max().unwrap_or(Mark::Ok)
}

/// Why something that would be read could not be; nothing where it was.
fn unread<T>(read: &Read<T>) -> Option<&'static str> {
    match read {
        Read::Denied => Some("this user may not read it (try sudo)"),
        Read::Absent => Some("this machine does not tell"),
        Read::There(_) | Read::Broken(_) => None,
    }
}

#[cfg(test)]
mod tests;
