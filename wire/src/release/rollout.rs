//! Who is to have a release, and when.

use serde::{Deserialize, Serialize};

use super::{DocumentError, check_name, read};

/// What the boxes of a ring are to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// 1.
    pub format: u32,
    /// The boxes that it is for say this name in their configuration.
    pub ring: String,
    /// Grows with each change of this ring.
    pub counter: u64,
    /// When it was signed, seconds since 1970: a box whose clock is behind that counts from there.
    #[serde(default)]
    pub issued_unix_s: u64,
    /// The target of the model's manifest.
    pub manifest: String,
    /// Adapters, each a unit of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterRelease>,
    /// Which share of the ring may have it from when on.
    pub waves: Vec<Wave>,
    /// Nobody begins, and trials under way end: what was there before serves.
    #[serde(default)]
    pub stop: bool,
    /// Shares of new requests that a trial gives the new model, one after the other, percent. Without effect where one
    /// model fits.
    pub canary_percent: Vec<u32>,
    /// How long each share lasts at least, and the whole of the trial after them, seconds.
    pub soak_s: u64,
    /// When a trial ends at last, seconds after its beginning: with too few requests to judge it stays, for nothing
    /// spoke against it.
    pub deadline_s: u64,
    /// What the new model must not do worse.
    #[serde(default)]
    pub gates: Gates,
    /// Percent of trials of this rollout that may fail before the factory stops it.
    pub failures_percent_max: u32,
    /// When boxes may change over, like `22:00-04:00` UTC; empty is at any time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub window: String,
}

/// An adapter that a ring is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterRelease {
    /// What apps call it, after the model's name and a colon.
    pub name: String,
    /// The target of its manifest.
    pub manifest: String,
}

/// A share of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Percent of the ring's boxes, those of earlier waves included.
    pub percent: u32,
    /// Seconds since 1970.
    pub not_before_unix_s: u64,
}

/// Bounds of a trial, each against the model that was there before. A bound that is left out has its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Requests of each model before shares and times are compared.
    pub requests_min: u64,
    /// Seconds that loading and the self-test may take.
    pub load_s_max: u64,
    /// Times as long, at the 95th percentile.
    pub ttft_ratio_max: f64,
    /// Times as long between tokens, at the 95th percentile.
    pub itl_ratio_max: f64,
    /// Requests that the box failed: share more, of 1.
    pub errors_more_max: f64,
    /// Answers that were cut at their length: share more, of 1.
    pub length_more_max: f64,
    /// Answers whose form is broken: share more, of 1.
    pub invalid_more_max: f64,
    /// Population stability index of the entropy of answers.
    pub entropy_psi_max: f64,
    /// Times as many joules for a token, where the box has a meter.
    pub joules_ratio_max: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            requests_min: 30,
            load_s_max: 300,
            ttft_ratio_max: 1.3,
            itl_ratio_max: 1.3,
            errors_more_max: 0.01,
            length_more_max: 0.1,
            invalid_more_max: 0.02,
            entropy_psi_max: 0.25,
            joules_ratio_max: 1.3,
        }
    }
}

const WAVES_MAX: usize = 64;
const WHAT: &str = "the rollout";

impl Rollout {
    /// Reads and checks a rollout.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let rollout: Self = read(WHAT, json)?;
        rollout.check()?;
        Ok(rollout)
    }

    /// The target of a ring.
    pub fn path_of(ring: &str) -> String {
        format!("rollout/{ring}.json")
    }

    /// JSON, for signing.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings, numbers and lists become JSON")
    }

    /// Whether a manifest is one of those that it names.
    pub fn wants(&self, manifest: &str) -> bool {
        self.manifest == manifest || self.adapters.iter().any(|a| a.manifest == manifest)
    }

    /// When a box may begin, by what it [drew](draw), seconds since 1970. `None`: no wave has it yet.
    pub fn not_before(&self, drawn: u32) -> Option<u64> {
        let mine = |wave: &&Wave| drawn < wave.percent * 100;
        self.waves
            .iter()
            .filter(mine)
            .map(|wave| wave.not_before_unix_s)
            .min()
    }

    /// Checks each field.
    pub fn check(&self) -> Result<(), DocumentError> {
        let field = |field, why: String| {
            Err(DocumentError::Field {
                what: WHAT,
                field,
                why,
            })
        };
        if let Err(why) = check_name(&self.ring) {
            return field("ring", why);
        }
        if self.counter == 0 {
            return field("counter", "it counts from 1".into());
        }
        for adapter in &self.adapters {
            if let Err(why) = check_name(&adapter.name) {
                return field("adapters", why);
            }
        }
        if self.waves.len() > WAVES_MAX || self.waves.iter().any(|wave| wave.percent > 100) {
            return field(
                "waves",
                format!("at most {WAVES_MAX}, each of at most 100 percent"),
            );
        }
        let is_share = |&percent: &u32| (1..=100).contains(&percent);
        if self.canary_percent.len() > 16 || !self.canary_percent.iter().all(is_share) {
            return field("canary_percent", "at most 16 shares of 1 to 100".into());
        }
        if self.deadline_s == 0 || self.soak_s > self.deadline_s {
            let why = format!("{} s with soak_s {}", self.deadline_s, self.soak_s);
            return field("deadline_s", why);
        }
        Ok(())
    }
}

/// What a box draws for a release: 0 to 9999, another for each release, so that not always the same boxes are first.
pub fn draw(appliance: &[u8; 16], manifest: &str) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(appliance).update(manifest.as_bytes());
    let bytes = *hasher.finalize().as_bytes();
    let number = u64::from_le_bytes(*bytes.first_chunk().expect("a digest is longer"));
    u32::try_from(number % 10_000).expect("it is below")
}
