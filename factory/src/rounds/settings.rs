//! What a loop works with: a TOML file. Paths in it are relative to its folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outstation_wire::release::{Manifest, check_name};
use serde::Deserialize;

use super::RoundError;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder of its rounds.
    pub work: PathBuf,
    /// The factory's store: a folder, or the address of an object store.
    pub store: String,
    /// Keys that sign models and rollouts; those of snapshot and timestamp, too, where no replica has them.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
    /// Where documents wait for signatures of others.
    #[serde(default = "pending")]
    pub pending: PathBuf,
    /// The box's program, with which models are judged.
    #[serde(default = "outstation")]
    pub outstation: PathBuf,
    /// What is improved.
    pub model: Model,
    /// Who gets it.
    pub rings: Rings,
    /// What is learned from.
    #[serde(default)]
    pub cases: Cases,
    /// Who knows the right answers.
    pub labels: Labels,
    /// How it is learned.
    #[serde(default)]
    pub train: Train,
    /// What a new adapter must do.
    pub gate: Gate,
}

/// What is improved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The GGUF that the rings run: adapters are for this very file.
    pub file: PathBuf,
    /// What apps call the adapter.
    pub adapter: String,
    /// The name of its releases.
    pub release: String,
}

/// Who gets it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rings {
    /// The ring that tries it first.
    pub canary: String,
    /// Those that get it when it has done well there.
    pub fleet: Vec<String>,
    /// How long a call waits for the canary ring, seconds. The next call goes on waiting.
    #[serde(default = "patience")]
    pub patience_s: u64,
}

/// What is learned from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cases {
    /// Which requests, as `export --where` has it.
    #[serde(rename = "where")]
    pub query: String,
    /// Fewer new ones wait for more.
    pub min: usize,
    /// How many a round takes, the oldest first.
    pub max: usize,
}

impl Default for Cases {
    fn default() -> Self {
        Self {
            query: "flagged".to_owned(),
            min: 200,
            max: 2000,
        }
    }
}

/// Who knows the right answers. What users corrected is right as they have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Which way.
    pub by: Labeller,
    /// With `api`: a stronger model's address, as far as `/v1`.
    #[serde(default)]
    pub url: String,
    /// With `api`: its name there.
    #[serde(default)]
    pub model: String,
    /// With `api`: a file whose first line is the key.
    pub key_file: Option<PathBuf>,
    /// With `api`: a file with what it is told first: what a right answer looks like.
    pub system_file: Option<PathBuf>,
    /// With `api`: requests at once.
    #[serde(default = "parallel")]
    pub parallel: usize,
    /// With `api`: tokens of an answer at most.
    #[serde(default = "max_tokens")]
    pub max_tokens: u32,
}

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labeller {
    /// The oracle of the demo's task.
    Oracle,
    /// A stronger model, through OpenAI's API.
    Api,
    /// A person, at `outstation-factory review`.
    Review,
}

/// How it is learned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Old data, which is mixed in so that nothing is forgotten.
    pub replay: Vec<PathBuf>,
    /// Old examples for each new one.
    pub replay_ratio: f64,
    /// How often each new example is seen.
    pub passes: u32,
    /// Rank of the adapter.
    pub rank: usize,
    /// Its strength is this divided by the rank.
    pub alpha: f64,
    /// Tokens of a step.
    pub batch_tokens: usize,
    /// Highest learning rate.
    pub rate: f32,
    /// In every other prompt, words are cut at so many of 100 of their inner places, each time elsewhere: for models
    /// that learned so, as the demo's did.
    pub cut: u8,
    /// For its first weights, and the order of examples.
    pub seed: u64,
    /// Of 100 new cases so many are kept to judge with.
    pub judge_percent: u8,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            replay: Vec::new(),
            replay_ratio: 1.0,
            passes: 10,
            rank: 16,
            alpha: 32.0,
            batch_tokens: 1024,
            rate: 2e-3,
            cut: 0,
            seed: 1,
            judge_percent: 20,
        }
    }
}

/// What a new adapter must do, in percent and points of right answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Old cases with right answers that it was never shown.
    pub old: Vec<PathBuf>,
    /// Points that may be lost on them.
    #[serde(default = "old_lost_max")]
    pub old_lost_max: f64,
    /// Of the new cases kept to judge with, so many must be right.
    #[serde(default = "new_at_least")]
    pub new_at_least: f64,
    /// Requests at once.
    #[serde(default = "parallel")]
    pub parallel: usize,
    /// Tokens of an answer at most.
    #[serde(default = "max_tokens")]
    pub max_tokens: u32,
}

fn pending() -> PathBuf {
    "factory-pending".into()
}
fn outstation() -> PathBuf {
    "outstation".into()
}
fn patience() -> u64 {
    600
}
fn parallel() -> usize {
    4
}
fn max_tokens() -> u32 {
    128
}
fn old_lost_max() -> f64 {
    1.0
}
/// The cases are those that boxes found hard, so of what users ask more is right; of labels of which three in ten are
/// wrong, no more than seven in ten can be learned.
fn new_at_least() -> f64 {
    80.0
}

impl Settings {
    /// Reads a file.
    #[expect(clippy::disallowed_methods, reason = "settings are a file")]
    pub fn read(file: &Path) -> Result<Self, RoundError> {
        let text = std::fs::read_to_string(file).map_err(RoundError::file(file))?;
        let mut settings: Self =
            toml::from_str(&text).map_err(|e| RoundError::content(file, e.to_string().trim()))?;
        settings.place(file.parent().unwrap_or(Path::new("")));
        settings
            .check()
            .map_err(|why| RoundError::content(file, why))?;
        Ok(settings)
    }

    /// Paths become those from here.
    fn place(&mut self, folder: &Path) {
        let paths = [&mut self.work, &mut self.pending, &mut self.model.file];
        let more = self.keys.iter_mut().chain(&mut self.train.replay);
        let more = more.chain(&mut self.gate.old);
        let more = more.chain(&mut self.labels.key_file);
        for path in more.chain(&mut self.labels.system_file).chain(paths) {
            *path = folder.join(&*path);
        }
        // A name alone is looked for where programs are.
        if self.outstation.components().count() > 1 {
            self.outstation = folder.join(&self.outstation);
        }
        if !self.store.contains("://") {
            self.store = folder.join(&self.store).display().to_string();
        }
    }

    fn check(&self) -> Result<(), String> {
        let named = [&self.model.release, &self.model.adapter, &self.rings.canary];
        for name in named.into_iter().chain(&self.rings.fleet) {
            check_name(name)?;
        }
        if self.rings.fleet.contains(&self.rings.canary) {
            return Err("`rings.canary` is in `rings.fleet`: it has to try first".to_owned());
        }
        let train = &self.train;
        let counts = [
            ("cases.min", self.cases.min),
            ("cases.max", self.cases.max),
            ("train.rank", train.rank),
            ("train.batch_tokens", train.batch_tokens),
            ("train.passes", train.passes as usize),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("`{name}` is 0"));
        }
        if self.cases.max < self.cases.min {
            return Err("`cases.max` is below `cases.min`".to_owned());
        }
        if train.cut > 50 {
            return Err("`train.cut` is to be 50 at most".to_owned());
        }
        if !(5..=50).contains(&train.judge_percent) {
            return Err("`train.judge_percent` is to be 5 to 50".to_owned());
        }
        if self.gate.old.is_empty() {
            return Err("`gate.old` names no file: what is forgotten would not be seen".to_owned());
        }
        if train.replay_ratio < 0.0 || (train.replay_ratio > 0.0 && train.replay.is_empty()) {
            return Err("`train.replay` names no file: without old data much is forgotten; `train.replay_ratio = 0` says that it may be".to_owned());
        }
        if self.labels.by == Labeller::Api
            && (self.labels.url.is_empty() || self.labels.model.is_empty())
        {
            return Err("`labels.by` is api: say `labels.url` and `labels.model`".to_owned());
        }
        Ok(())
    }

    /// The target of a release of the adapter.
    pub(super) fn manifest(&self, release: u64) -> String {
        Manifest::path_of(&self.model.release, release)
    }

    /// How long a call waits for the canary ring.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.rings.patience_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
work = "loop"
store = "factory-store"
[model]
file = "/models/site.gguf"
adapter = "jargon"
release = "site-jargon"
[rings]
canary = "canary"
fleet = ["all"]
[labels]
by = "oracle"
[train]
replay = ["train.jsonl"]
[gate]
old = ["test.jsonl"]
"#;

    #[expect(clippy::disallowed_methods, reason = "settings are a file")]
    fn read(text: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loop.toml");
        std::fs::write(&file, text).unwrap();
        Settings::read(&file).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let settings = read(LEAST).unwrap();
        assert!(settings.work.is_absolute() && settings.work.ends_with("loop"));
        assert!(Path::new(&settings.store).is_absolute());
        assert_eq!(settings.model.file, Path::new("/models/site.gguf"));
        assert_eq!(settings.outstation, Path::new("outstation"));
        assert_eq!(settings.cases.query, "flagged");
        let remote = LEAST.replace("factory-store", "s3://bucket/prefix");
        assert_eq!(read(&remote).unwrap().store, "s3://bucket/prefix");
    }

    #[test]
    fn what_cannot_work_is_said() {
        for (was, is, says) in [
            ("[gate]", "[gates]", "unknown field `gates`"),
            ("\"oracle\"", "\"oracles\"", "unknown variant `oracles`"),
            ("\"oracle\"", "\"api\"", "`labels.url`"),
            ("[\"all\"]", "[\"canary\"]", "has to try first"),
            ("[\"test.jsonl\"]", "[]", "`gate.old` names no file"),
            ("[\"train.jsonl\"]", "[]", "`train.replay` names no file"),
            ("\"jargon\"", "\"jar gon\"", "`jar gon` is no name"),
            ("[train]", "[train]\nrank = 0", "`train.rank` is 0"),
        ] {
            assert!(LEAST.contains(was));
            let refused = read(&LEAST.replace(was, is)).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
