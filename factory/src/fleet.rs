//! The fleet at a glance: what is shown of each box, in which order, and what it sums up to. Knows no clock.

use serde::Serialize;

use crate::registry::{Contact, Device};

mod page;

pub(crate) use page::escape;
pub use page::page;

/// A box that did not call for this long is silent: three Hellos of five minutes.
const SILENT_AFTER_MS: u64 = 15 * 60 * 1000;
/// A clock that is wrong by more than this is worth a word.
const SKEW_MS_MAX: u64 = 60 * 1000;

/// How a box is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Two machines write one spool.
    Clone,
    /// It says itself that something is wrong, or segments are missing or damaged.
    Trouble,
    /// It did not call for a while.
    Silent,
    /// It joined and never called.
    New,
    /// All is well.
    Ok,
    /// It was sent away.
    Revoked,
}

impl State {
    /// All, the worst first.
    pub const ALL: [Self; 6] = [
        Self::Clone,
        Self::Trouble,
        Self::Silent,
        Self::New,
        Self::Ok,
        Self::Revoked,
    ];

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Trouble => "trouble",
            Self::Silent => "silent",
            Self::New => "new",
            Self::Ok => "ok",
            Self::Revoked => "revoked",
        }
    }
}

/// What is shown of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its identity, hexadecimal.
    pub appliance: String,
    /// What the operator calls it.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Whether it is connected to this replica.
    pub connected: bool,
    /// Time since it was last heard of.
    pub last_contact_ms_ago: Option<u64>,
    /// Program and version.
    pub agent: String,
    /// The model that it serves.
    pub model: String,
    /// The model's BLAKE3.
    pub model_digest: String,
    /// Machine, for people.
    pub hardware: String,
    /// Where it called from.
    pub remote: String,
    /// Bytes that wait in its spool.
    pub spool_bytes: u64,
    /// Segments that wait.
    pub spool_segments: u64,
    /// Segments that arrived, of the spools that are remembered.
    pub segments_stored: u64,
    /// Their bytes.
    pub bytes_stored: u64,
    /// Segments that never arrived though later ones did.
    pub segments_missing: u64,
    /// Segments that arrived with damage inside.
    pub segments_damaged: u64,
    /// Records lost, as the box counts.
    pub records_lost: u64,
    /// Spools that two machines wrote.
    pub clones: u64,
    /// Requests served since its start.
    pub requests_served: u64,
    /// Its clock less the factory's.
    pub clock_skew_ms: i64,
    /// Whose releases it follows.
    pub ring: String,
    /// The counter of the rollout that it acts on.
    pub rollout: u64,
    /// The target of the manifest that it acts on.
    pub manifest: String,
    /// How far it is with that.
    pub phase: String,
    /// Why it gave that up.
    pub reason: String,
    /// What is wrong, in sentences.
    pub trouble: Vec<String>,
}

impl Shown {
    /// A box as the registry has it.
    pub fn new(device: Device, connected: bool, now_unix_ms: u64) -> Self {
        let joined = device.contact.is_some();
        let contact = device.contact.unwrap_or_default();
        let sum = |part: fn(&crate::registry::Progress) -> u64| {
            contact.progress.iter().map(part).sum::<u64>()
        };
        let segments_missing = sum(crate::registry::Progress::missing_segments);
        let ago = joined.then(|| now_unix_ms.saturating_sub(contact.unix_ms));
        let trouble = trouble(&contact, segments_missing);
        let state = if device.revocation.is_some() {
            State::Revoked
        } else if contact.clones > 0 {
            State::Clone
        } else if !trouble.is_empty() {
            State::Trouble
        } else {
            match ago {
                None => State::New,
                Some(ago) if ago > SILENT_AFTER_MS && !connected => State::Silent,
                Some(_) => State::Ok,
            }
        };
        let enrolment = device.enrolment;
        let hardware = enrolment
            .as_ref()
            .map(|enrolment| enrolment.hardware.clone());
        Self {
            appliance: device.appliance,
            name: enrolment
                .map(|enrolment| enrolment.name)
                .unwrap_or_default(),
            state,
            connected,
            last_contact_ms_ago: ago,
            segments_stored: sum(|progress| progress.segments),
            bytes_stored: sum(|progress| progress.bytes),
            segments_missing,
            hardware: if contact.hardware.is_empty() {
                hardware.unwrap_or_default()
            } else {
                contact.hardware
            },
            agent: contact.agent,
            model: contact.model,
            model_digest: contact.model_digest,
            remote: contact.remote,
            spool_bytes: contact.spool_bytes,
            spool_segments: contact.spool_segments,
            segments_damaged: contact.segments_damaged,
            records_lost: contact.records_lost,
            clones: contact.clones,
            requests_served: contact.requests_served,
            clock_skew_ms: contact.clock_skew_ms,
            ring: contact.ring,
            rollout: contact.rollout,
            manifest: contact.manifest,
            phase: contact.phase,
            reason: contact.reason,
            trouble,
        }
    }

    /// What it does with what is released, in a few words; empty if it follows no ring.
    pub fn release(&self) -> String {
        let manifest = self
            .manifest
            .strip_prefix("manifest/")
            .unwrap_or(&self.manifest);
        let manifest = manifest.strip_suffix(".json").unwrap_or(manifest);
        let words = [self.ring.as_str(), self.phase.as_str(), manifest];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        if self.ring.is_empty() {
            String::new()
        } else {
            words.join(" ")
        }
    }
}

fn trouble(contact: &Contact, segments_missing: u64) -> Vec<String> {
    let mut all = Vec::new();
    if !contact.trouble.is_empty() {
        all.push(contact.trouble.clone());
    }
    if contact.phase == "rejected" {
        let why = if contact.reason.is_empty() {
            "it does not say why"
        } else {
            &contact.reason
        };
        all.push(format!("it took {} back: {why}", contact.manifest));
    }
    if contact.clones > 0 {
        let times = plural(contact.clones, "spool was written", "spools were written");
        all.push(format!("{times} by two machines: look for a copied disk"));
    }
    if segments_missing > 0 {
        let segments = plural(segments_missing, "segment", "segments");
        all.push(format!(
            "{segments} never arrived: its spool was full, or its disk failed"
        ));
    }
    if contact.segments_damaged > 0 {
        let segments = plural(contact.segments_damaged, "segment", "segments");
        all.push(format!("{segments} came damaged: its disk may be failing"));
    }
    if contact.clock_skew_ms.unsigned_abs() > SKEW_MS_MAX {
        let way = if contact.clock_skew_ms < 0 {
            "behind"
        } else {
            "ahead"
        };
        all.push(format!(
            "its clock is {} {way}",
            age(contact.clock_skew_ms.unsigned_abs())
        ));
    }
    all
}

/// What the fleet sums up to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Boxes, by [`State::ALL`].
    pub boxes: [usize; 6],
    /// Connected to this replica.
    pub connected: usize,
    /// Bytes that wait in spools.
    pub spool_bytes: u64,
    /// Segments that never arrived.
    pub segments_missing: u64,
    /// Records lost, as boxes count.
    pub records_lost: u64,
    /// Bytes a second of segments that this replica takes, over the last minute.
    pub ingest_bytes_per_s: f64,
}

impl Totals {
    /// Of all boxes.
    pub fn new(boxes: &[Shown], ingest_bytes_per_s: f64) -> Self {
        let mut totals = Self {
            ingest_bytes_per_s,
            ..Self::default()
        };
        for shown in boxes {
            let state = State::ALL.iter().position(|state| *state == shown.state);
            totals.boxes[state.expect("it is one of all")] += 1;
            totals.connected += usize::from(shown.connected);
            // What was sent away is nobody's backlog.
            if shown.state != State::Revoked {
                totals.spool_bytes += shown.spool_bytes;
                totals.segments_missing += shown.segments_missing;
                totals.records_lost += shown.records_lost;
            }
        }
        totals
    }
}

/// The worst first, then by name.
pub fn sort(boxes: &mut [Shown]) {
    boxes.sort_by(|a, b| (a.state, &a.name, &a.appliance).cmp(&(b.state, &b.name, &b.appliance)));
}

/// Milliseconds as people say them.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes as people say them.
pub fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests;
