//! What a box says of itself, as who asked it reads it: `/status` and `/models`, and a summary of both for people.
//!
//! A box of another version may say more or less: what is missing reads as nothing, and what is new is not looked at.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::config::ByteSize;

/// `/status`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are those of `io::gateway::Status`, which says what they mean"
)]
pub struct Status {
    pub ready: bool,
    pub sequences: u64,
    pub sequences_max: u64,
    pub queued: u64,
    pub kv_blocks_free: u64,
    pub kv_blocks: u64,
    pub kv_blocks_pinned: u64,
    pub preempted: u64,
    pub first_tokens_in_time: u64,
    pub first_tokens_late: u64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub busy_us: u64,
    pub guarded_heap_uses: u64,
    pub memory_planned_bytes: u64,
    pub memory_resident_bytes: Option<u64>,
    pub log: Option<Log>,
    pub energy: Option<Energy>,
    pub uplink: Option<Uplink>,
    pub started_unix_s: u64,
    pub uptime_s: u64,
    pub last_errors: Vec<ErrorLine>,
    pub model: Option<Model>,
}

/// Where records are.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "see `io::log::LogStatus`")]
pub struct Log {
    pub writing: bool,
    pub spool_bytes: [u64; 3],
    pub spool_bytes_max: u64,
    pub spool_segments: [u64; 3],
    pub records_durable: u64,
    pub records_lost: u64,
    pub flagged: u64,
}

/// What the machine took.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "see `io::energy::EnergyStatus`")]
pub struct Energy {
    pub meter: String,
    pub reads: bool,
    pub watts: Option<f64>,
    pub joules: f64,
    pub joules_requests: f64,
    pub joules_per_token: Option<f64>,
}

/// The way to the factory.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "see `io::uplink::UplinkStatus`")]
pub struct Uplink {
    pub factory: String,
    pub connected: bool,
    pub last_contact_s: Option<u64>,
    pub clock_ahead_s: Option<i64>,
    pub segments_sent: u64,
    pub bytes_sent: u64,
    pub segments_refused: u64,
    pub trouble: Option<String>,
}

/// A warning or error of the box.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "see `io::last_errors::LastError`")]
pub struct ErrorLine {
    pub unix_s: u64,
    pub level: String,
    pub message: String,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "as OpenAI's API lists it")]
pub struct Model {
    pub id: String,
    pub max_model_len: u64,
}

/// `/models`, on a box that follows a ring.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are those of `io::ota::view::View`")]
pub struct Releases {
    pub committed: Option<String>,
    pub adapters: Vec<(String, String)>,
    pub previous: Option<String>,
    pub candidate: Option<Candidate>,
    pub rejected: Vec<(String, String)>,
    pub pinned: bool,
    pub unconfirmed: bool,
    pub ring: String,
    pub rollout: u64,
    pub trouble: Option<String>,
}

/// A release under way.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are those of `io::ota::view::CandidateView`"
)]
pub struct Candidate {
    pub release: String,
    pub phase: String,
    pub bytes: u64,
    pub bytes_there: u64,
    pub seconds_left: Option<u64>,
    pub percent: u32,
    pub requests: u64,
}

impl Status {
    /// Reads the answer of a box. None: it is none's.
    pub fn parse(json: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(json).ok()?;
        // Every box has said this since the first one; other servers do not.
        value.get("kv_blocks")?;
        serde_json::from_value(value).ok()
    }

    /// KV blocks that hold something.
    pub fn kv_blocks_used(&self) -> u64 {
        self.kv_blocks.saturating_sub(self.kv_blocks_free)
    }

    /// Tokens generated for each second in which the engine computed, prompts included.
    pub fn busy_tokens_per_s(&self) -> Option<f64> {
        let busy_s = self.busy_us as f64 / 1e6;
        (self.busy_us > 0).then(|| self.generated_tokens as f64 / busy_s)
    }
}

impl Log {
    /// Bytes of all classes.
    pub fn bytes(&self) -> u64 {
        self.spool_bytes.iter().sum()
    }

    /// Segments of all classes.
    pub fn segments(&self) -> u64 {
        self.spool_segments.iter().sum()
    }
}

impl Uplink {
    /// In a few words.
    pub fn words(&self) -> String {
        let waits = match (&self.trouble, self.last_contact_s) {
            _ if self.connected => return "connected".to_owned(),
            (None, _) => "not connected: it waits for its hours, or has only begun",
            (Some(_), None) => "no contact since the start",
            (Some(_), Some(seconds)) => return format!("silent for {}", span(seconds)),
        };
        waits.to_owned()
    }
}

impl Releases {
    /// What serves, in a few words.
    pub fn serves(&self) -> &str {
        let configured = "the model of the configuration";
        self.committed.as_deref().unwrap_or(configured)
    }
}

impl Candidate {
    /// How far it is, in a few words.
    pub fn words(&self) -> String {
        let mut text = self.phase.clone();
        if self.bytes_there < self.bytes {
            let (there, all) = (ByteSize(self.bytes_there), ByteSize(self.bytes));
            let _ = write!(text, ", {there} of {all}");
        }
        if let Some(seconds) = self.seconds_left.filter(|&seconds| seconds > 0) {
            let _ = write!(text, ", {} left", span(seconds));
        }
        if self.percent > 0 {
            let _ = write!(text, ", {} % of new requests", self.percent);
        }
        if self.requests > 0 {
            let _ = write!(text, ", {} requests seen", self.requests);
        }
        text
    }
}

/// The whole state of a box in groups, a line or a few for each.
///
/// `tokens_per_s` is what was seen between two answers of the box, where there were two.
pub fn summary(status: &Status, releases: Option<&Releases>, tokens_per_s: Option<f64>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        let _ = writeln!(text, "{name:<9} {what}");
    };
    line("box", since(status));
    line("model", model(status));
    for (name, what) in releases.map(models).unwrap_or_default() {
        line(name, what);
    }
    line("serving", serving(status));
    line("tokens", tokens(status, tokens_per_s));
    line("kv", kv(status));
    line("memory", memory(status));
    match &status.log {
        Some(log) => line("spool", spool(log)),
        None => line("spool", "none: the box belongs to no fleet".to_owned()),
    }
    if let Some(uplink) = &status.uplink {
        line("uplink", link(uplink));
    }
    line("energy", energy(status.energy.as_ref()));
    match status.last_errors.last() {
        None => line("errors", "none since the start".to_owned()),
        Some(last) => {
            let many = status.last_errors.len();
            line("errors", format!("{many}, the last: {}", last.message));
        }
    }
    text
}

/// One line for a screen that cannot be drawn on, or a log.
pub fn line(status: &Status, tokens_per_s: Option<f64>) -> String {
    let mut text = String::new();
    let model = status.model.as_ref().map_or("?", |model| &model.id);
    let _ = write!(
        text,
        "{model}: {} of {} running, {} waiting, ",
        status.sequences, status.sequences_max, status.queued
    );
    match tokens_per_s {
        Some(rate) => {
            let _ = write!(text, "{rate:.0} tokens/s");
        }
        None => text.push_str("- tokens/s"),
    }
    let used = percent(status.kv_blocks_used(), status.kv_blocks);
    let _ = write!(text, ", KV {used} %, memory {}", resident(status));
    if let Some(log) = &status.log {
        let _ = write!(text, ", spool {}", ByteSize(log.bytes()));
    }
    if let Some(watts) = status.energy.as_ref().and_then(|energy| energy.watts) {
        let _ = write!(text, ", {watts:.1} W");
    }
    if let Some(uplink) = &status.uplink {
        let _ = write!(text, ", uplink {}", uplink.words());
    }
    text
}

fn since(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "NOT ready" };
    format!("{ready}, up for {}", span(status.uptime_s))
}

fn model(status: &Status) -> String {
    match &status.model {
        None => "none".to_owned(),
        Some(model) => format!("{}, {} tokens of context", model.id, model.max_model_len),
    }
}

fn models(releases: &Releases) -> Vec<(&'static str, String)> {
    let mut lines = vec![("serves", releases.serves().to_owned())];
    for (name, release) in &releases.adapters {
        lines.push(("adapter", format!("{name}: {release}")));
    }
    if let Some(candidate) = &releases.candidate {
        let release = &candidate.release;
        lines.push(("under way", format!("{release}: {}", candidate.words())));
    }
    if let Some((release, why)) = releases.rejected.last() {
        lines.push(("rejected", format!("{release}: {why}")));
    }
    let pinned = if releases.pinned { ", pinned" } else { "" };
    let (ring, rollout) = (&releases.ring, releases.rollout);
    lines.push(("ring", format!("{ring}, rollout {rollout}{pinned}")));
    if let Some(trouble) = &releases.trouble {
        lines.push(("trouble", trouble.clone()));
    }
    lines
}

fn serving(status: &Status) -> String {
    let (running, most) = (status.sequences, status.sequences_max);
    let first = status.first_tokens_in_time + status.first_tokens_late;
    format!(
        "{running} of {most} running, {} waiting; {} of {first} first tokens in time",
        status.queued, status.first_tokens_in_time
    )
}

fn tokens(status: &Status, tokens_per_s: Option<f64>) -> String {
    let (answers, prompts) = (status.generated_tokens, status.prompt_tokens);
    let rate = match (tokens_per_s, status.busy_tokens_per_s()) {
        (Some(now), _) => format!("{now:.1} tokens/s; "),
        (None, Some(busy)) => format!("{busy:.1} tokens/s while it computed; "),
        (None, None) => String::new(),
    };
    format!("{rate}{answers} of answers, {prompts} of prompts")
}

fn kv(status: &Status) -> String {
    let (used, all) = (status.kv_blocks_used(), status.kv_blocks);
    let pinned = status.kv_blocks_pinned;
    format!(
        "{used} of {all} blocks used ({} %), {pinned} pinned",
        percent(used, all)
    )
}

/// Resident bytes in words.
pub fn resident(status: &Status) -> String {
    let bytes = status.memory_resident_bytes;
    bytes.map_or_else(|| "?".to_owned(), |bytes| ByteSize(bytes).to_string())
}

fn memory(status: &Status) -> String {
    let planned = ByteSize(status.memory_planned_bytes);
    format!("{} resident of {planned} planned", resident(status))
}

fn spool(log: &Log) -> String {
    let share = percent(log.bytes(), log.spool_bytes_max);
    let (bytes, most) = (ByteSize(log.bytes()), ByteSize(log.spool_bytes_max));
    let writes = if log.writing {
        ""
    } else {
        "takes NO records; "
    };
    format!(
        "{writes}{bytes} of {most} ({share} %) in {} segments; {} records durable since the start, {} lost ever",
        log.segments(),
        log.records_durable,
        log.records_lost
    )
}

fn link(uplink: &Uplink) -> String {
    let mut text = format!(
        "{}: {}; {} segments sent ({}), {} refused",
        uplink.factory,
        uplink.words(),
        uplink.segments_sent,
        ByteSize(uplink.bytes_sent),
        uplink.segments_refused
    );
    if let Some(trouble) = &uplink.trouble {
        let _ = write!(text, "; {trouble}");
    }
    text
}

fn energy(energy: Option<&Energy>) -> String {
    let Some(energy) = energy else {
        return "no meter".to_owned();
    };
    let watts = energy.watts.map(|watts| format!("{watts:.1} W"));
    let mut text = watts.unwrap_or_else(|| "says nothing now".to_owned());
    let (all, requests) = (energy.joules, energy.joules_requests);
    let _ = write!(text, "; {all:.0} J, {requests:.0} J of them for requests");
    if let Some(joules) = energy.joules_per_token {
        let _ = write!(text, ", {joules:.2} J/token");
    }
    let _ = write!(text, " ({})", energy.meter);
    text
}

/// A part of a whole in percent, rounded down; of nothing it is 0.
pub fn percent(part: u64, whole: u64) -> u64 {
    let (part, whole) = (u128::from(part), u128::from(whole));
    let percent = (part * 100).checked_div(whole).unwrap_or(0);
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// Seconds as people say them, in one or two units.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
pub(crate) mod tests;
