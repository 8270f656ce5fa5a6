//! What an operator may choose: TOML file, then `OUTSTATION_` environment, then flags.
//!
//! This is the validated result and the list of known keys; `cli::settings` reads the sources.

mod access;
mod energy;
mod models;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flag::{DayLimits, FlagConfig};
use crate::limits;
use crate::scheduler::pace::Targets;
use crate::spool::{Quotas, SpoolLimits};
use crate::upload::{RATE_MIN, Window};

pub use access::AccessConfig;
pub use energy::{EnergyConfig, MeterChoice};
pub use models::ModelsConfig;

/// All settings.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What is served.
    pub model: ModelConfig,
    /// What is served on top of it.
    pub adapters: AdaptersConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// How much memory it may take.
    pub memory: MemoryConfig,
    /// How it computes.
    pub engine: EngineConfig,
    /// How many it serves.
    pub serving: ServingConfig,
    /// What is written down of requests.
    pub log: LogConfig,
    /// Where that waits for the factory.
    pub spool: SpoolConfig,
    /// Where it keeps what must outlive a restart.
    pub state: StateConfig,
    /// How it sends what it saw to its factory.
    pub uplink: UplinkConfig,
    /// Which releases it follows.
    pub models: ModelsConfig,
    /// How it measures what it takes.
    pub energy: EnergyConfig,
    /// Who may come in.
    pub access: AccessConfig,
}

/// What is served.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// GGUF file. None: the demo model inside the binary.
    pub file: Option<PathBuf>,
    /// Name in the APIs. Default: the file's name without `.gguf`.
    pub name: Option<String>,
    /// A Jinja chat template instead of the model's own.
    pub chat_template_file: Option<PathBuf>,
}

/// LoRA adapters, each served as `<model>:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AdaptersConfig {
    /// Those that are loaded at start: `name=path`, where the path is a GGUF adapter, or a folder with PEFT's
    /// `adapter_config.json` and `adapter_model.safetensors`.
    pub files: Vec<String>,
    /// A folder of adapters that are loaded at start: GGUF files and PEFT's folders in it, by their names.
    pub folder: Option<PathBuf>,
    /// Places, each with its memory from the start. Default: as many as are loaded at start; none without any.
    pub count_max: Option<u32>,
    /// The highest rank that fits into a place. Default 16.
    pub rank_max: u32,
    /// The adapter that answers who asks for `default`, or for no model, as soon as it is there. Without one the base
    /// does.
    pub default: Option<String>,
}

impl Default for AdaptersConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            folder: None,
            count_max: None,
            rank_max: 16,
            default: None,
        }
    }
}

impl AdaptersConfig {
    /// Names and paths of `files`.
    pub fn named_files(&self) -> Result<Vec<(String, PathBuf)>, ConfigError> {
        let split = |text: &String| match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok((name.to_owned(), PathBuf::from(path)))
            }
            _ => Err(ConfigError::Text {
                key: "adapters.files",
                what: format!(
                    "`{text}` must be a name and a path, like plant-7=adapters/plant-7.gguf"
                ),
            }),
        };
        self.files.iter().map(split).collect()
    }
}

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    /// UDP: the native protocol over QUIC. Default 127.0.0.1:4433.
    pub quic: SocketAddr,
    /// TCP: HTTP/1.1. Default 127.0.0.1:8080.
    pub http: SocketAddr,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            quic: (loopback, 4433).into(),
            http: (loopback, 8080).into(),
        }
    }
}

/// How much memory it may take.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct MemoryConfig {
    /// Ceiling of everything, like `6GiB`. Default: what the machine has available, less a tenth.
    pub limit: Option<ByteSize>,
    /// Ceiling of what is taken of a GPU's own memory. Default: what is free there, less a tenth.
    pub gpu_limit: Option<ByteSize>,
}

/// How it computes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    /// Threads of the kernel team, the engine's own included. Default: one for each core.
    pub threads: Option<u16>,
    /// Instruction set: `portable`, `avx2`, `avx512`, `neon` or `neon-i8mm`. Default: the best that the machine has.
    pub isa: Option<String>,
    /// What computes: `cpu`, or `cuda` (`cuda:1` for the second GPU). Default `cpu`.
    pub device: Option<String>,
    /// How keys and values are stored: `f16`; `i16`, 16 bits too, which AVX-512 multiplies faster; or `q8_0` in little
    /// more than half the memory. Default: `i16` with AVX-512, `f16` elsewhere.
    pub kv: Option<String>,
}

/// How many it serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServingConfig {
    /// Sequences that run at once. Each costs KV blocks as it is admitted, and a row of logits. Default 8.
    pub sequences_max: u32,
    /// Requests that wait. Default 64.
    pub queue_requests_max: u32,
    /// Prompt tokens of those that wait; one request alone may have more. Default 65536.
    pub queue_tokens_max: u32,
    /// Positions of one sequence, prompt and answer. Default: the model's context, at most 8192.
    pub context_tokens_max: Option<u32>,
    /// Tokens of one engine step. More is faster prefill and longer gaps between tokens of others. Default 256.
    pub step_tokens_max: u32,
    /// Connections over QUIC at once. Default 64.
    pub connections_max: u32,
    /// Text files of system prompts that are kept read for everybody: a chat that begins with one starts after it.
    pub system_prompt_files: Vec<PathBuf>,
    /// What requests of people expect, and those that name no class. Default 500 ms, then 50 ms.
    pub interactive: TargetsConfig,
    /// What requests of programs expect. Default 5 s, then 200 ms.
    pub standard: TargetsConfig,
    /// What requests expect that can wait. Default 5 min, then 2 s.
    pub batch: TargetsConfig,
}

/// What a class of requests expects, and what the box promises when it takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct TargetsConfig {
    /// Milliseconds from arrival to the first token, of a prompt that the box can read in this time. What cannot have
    /// it is refused with the time at which to come back: more means a longer queue.
    pub ttft_ms: Option<u32>,
    /// Milliseconds between two tokens of an answer. Less makes prompts of others slower, and fewer answers run at
    /// once.
    pub itl_ms: Option<u32>,
}

/// What is written down of requests, on a box that belongs to a factory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Tenants whose words may be kept, redacted: names as records have them, `anonymous` for those without a key, `*`
    /// for all. Default: nobody.
    pub content_tenants: Vec<String>,
    /// Share of their requests that is kept with content, besides flagged ones, from 0 to 1. Default 0.
    pub content_share: f64,
    /// Share of their requests that is drawn by lot so that flags can be judged, from 0 to 1. Default 0.01.
    pub random_share: f32,
    /// Contents of flagged requests and of the lot, in 24 hours. Default 200.
    pub flagged_per_day: u32,
    /// Their bytes. Default 8 MiB.
    pub flagged_bytes_per_day: ByteSize,
    /// `async`: a power cut may cost the records of the last moments. `sync`: an answer is complete when its record is
    /// on the disk. Default `async`.
    pub durability: Durability,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            content_tenants: Vec::new(),
            content_share: 0.0,
            random_share: 0.01,
            flagged_per_day: 200,
            flagged_bytes_per_day: ByteSize(8 << 20),
            durability: Durability::default(),
        }
    }
}

impl LogConfig {
    /// How cases are chosen.
    pub fn flags(&self) -> FlagConfig {
        FlagConfig {
            random_share: self.random_share,
            day: DayLimits {
                contents: self.flagged_per_day,
                bytes: self.flagged_bytes_per_day.0,
            },
            ..FlagConfig::default()
        }
    }
}

/// When an answer is complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When its last token is out.
    #[default]
    Async,
    /// When its record is on the disk, too.
    Sync,
}

/// Where records wait for the factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpoolConfig {
    /// Bytes of disk. Default 1 GiB.
    pub bytes_max: ByteSize,
    /// Milliseconds that a record waits for others to be written with it. Default 20.
    pub commit_ms: u32,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: ByteSize(1 << 30),
            commit_ms: 20,
        }
    }
}

impl SpoolConfig {
    /// Sizes and waits.
    pub fn limits(&self) -> SpoolLimits {
        SpoolLimits {
            segment_bytes: SEGMENT_BYTES,
            quotas: Quotas::of_total(self.bytes_max.0),
            pending_bytes: PENDING_BYTES,
            commit_after: Duration::from_millis(self.commit_ms.into()),
            seal_after: [
                Duration::from_mins(1),
                Duration::from_mins(10),
                Duration::from_mins(10),
            ],
            retry_after: Duration::from_secs(10),
        }
    }
}

/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Bytes of records of a class between two commits: the longest record and some more.
const PENDING_BYTES: usize = 1 << 20;

/// The least that a spool needs: a segment of each class, and two more to give way.
pub const SPOOL_BYTES_MIN: u64 = 5 * SEGMENT_BYTES;

/// What classes expect where nothing else is configured, milliseconds to the first token and between two.
const TARGETS_DEFAULT: [(u32, u32); 3] = [(500, 50), (5_000, 200), (300_000, 2_000)];

impl ServingConfig {
    /// What each class expects.
    pub fn targets(&self) -> [Targets; 3] {
        let classes = [self.interactive, self.standard, self.batch];
        std::array::from_fn(|class| {
            let (ttft, itl) = TARGETS_DEFAULT[class];
            let ms = |set: Option<u32>, default: u32| {
                Duration::from_millis(set.unwrap_or(default).into())
            };
            Targets {
                ttft: ms(classes[class].ttft_ms, ttft),
                itl: ms(classes[class].itl_ms, itl),
            }
        })
    }
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            sequences_max: 8,
            queue_requests_max: 64,
            context_tokens_max: None,
            step_tokens_max: 256,
            connections_max: 64,
            queue_tokens_max: 65_536,
            system_prompt_files: Vec::new(),
            interactive: TargetsConfig::default(),
            standard: TargetsConfig::default(),
            batch: TargetsConfig::default(),
        }
    }
}

/// Where the box keeps what must outlive a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct StateConfig {
    /// Folder. Default: systemd's `$STATE_DIRECTORY`, or else /var/lib/outstation.
    pub folder: Option<PathBuf>,
}

/// How the box sends what it saw to its factory. Without `outstation enrol` nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UplinkConfig {
    /// `host:port` of the factory. Default: where the box was enrolled.
    pub factory: Option<String>,
    /// Segments on their way at once. Each takes 64 KiB. Default 2.
    pub segments_at_once: u32,
    /// Bytes a second, like `200KiB`, at least 4 KiB. The factory may say less. Default: no limit.
    pub bytes_per_s_max: Option<ByteSize>,
    /// Hours in which the link may be used, in UTC by the box's clock, like `22:00-06:00`. Default: all.
    pub window: Option<String>,
    /// Whether the most valuable segments (P0) go out at other hours, too. Default: true.
    pub urgent_outside_window: bool,
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self {
            factory: None,
            segments_at_once: 2,
            bytes_per_s_max: None,
            window: None,
            urgent_outside_window: true,
        }
    }
}

impl UplinkConfig {
    /// The window, read.
    pub fn window(&self) -> Result<Option<Window>, ConfigError> {
        window("uplink.window", self.window.as_deref())
    }
}

fn window(key: &'static str, text: Option<&str>) -> Result<Option<Window>, ConfigError> {
    let parse = |text: &str| text.parse().map_err(|what| ConfigError::Text { key, what });
    text.map(parse).transpose()
}

/// Every key that a file or the environment may set.
pub const KEYS: [&str; 60] = [
    "model.file",
    "model.name",
    "model.chat_template_file",
    "adapters.files",
    "adapters.folder",
    "adapters.count_max",
    "adapters.rank_max",
    "adapters.default",
    "listen.quic",
    "listen.http",
    "memory.limit",
    "memory.gpu_limit",
    "engine.threads",
    "engine.isa",
    "engine.device",
    "engine.kv",
    "serving.sequences_max",
    "serving.queue_requests_max",
    "serving.context_tokens_max",
    "serving.step_tokens_max",
    "serving.connections_max",
    "serving.queue_tokens_max",
    "serving.system_prompt_files",
    "serving.interactive.ttft_ms",
    "serving.interactive.itl_ms",
    "serving.standard.ttft_ms",
    "serving.standard.itl_ms",
    "serving.batch.ttft_ms",
    "serving.batch.itl_ms",
    "log.content_tenants",
    "log.content_share",
    "log.random_share",
    "log.flagged_per_day",
    "log.flagged_bytes_per_day",
    "log.durability",
    "spool.bytes_max",
    "spool.commit_ms",
    "state.folder",
    "uplink.factory",
    "uplink.segments_at_once",
    "uplink.bytes_per_s_max",
    "uplink.window",
    "uplink.urgent_outside_window",
    "energy.meter",
    "energy.interval_ms",
    "energy.sysfs",
    "models.ring",
    "models.source",
    "models.folder",
    "models.root",
    "models.authority",
    "models.interval_s",
    "models.bytes_per_s_max",
    "models.window",
    "models.reserve",
    "models.resident",
    "access.keys",
    "access.certificate",
    "access.private_key",
    "access.client_authority",
];

/// Context that is reserved when nobody asks for another.
pub const CONTEXT_TOKENS_DEFAULT: u32 = 8192;

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key that means nothing.
    #[error("unknown setting `{key}`: did you mean `{nearest}`?")]
    UnknownKey {
        /// As written.
        key: String,
        /// The known key with the fewest differences.
        nearest: &'static str,
    },
    /// A text that means nothing.
    #[error("`{key}`: {what}")]
    Text {
        /// Which.
        key: &'static str,
        /// What is wrong, and what to write.
        what: String,
    },
    /// A number outside of what the limits allow.
    #[error("`{key}` is {value}: it must be from {min} to {max}")]
    Range {
        /// Which.
        key: &'static str,
        /// As written.
        value: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A share that is none.
    #[error("`{key}` is {value}: it must be from 0 to 1")]
    Share {
        /// Which.
        key: &'static str,
        /// As written.
        value: String,
    },
    /// Two settings that contradict each other.
    #[error(
        "`serving.step_tokens_max` is {step}, below `serving.sequences_max` {sequences}: a step carries a token of each \
         sequence, so raise the first or lower the second"
    )]
    StepBelowSequences {
        /// Tokens of a step.
        step: u32,
        /// Sequences.
        sequences: u32,
    },
    /// A public address without anything that says who may come in.
    #[error(
        "`{key}` is {address}, which others can reach: {what}, or listen on 127.0.0.1 or [::1]"
    )]
    OpenToAll {
        /// Which.
        key: &'static str,
        /// As written.
        address: SocketAddr,
        /// What is missing, and how to add it.
        what: &'static str,
    },
}

impl Config {
    /// Checks all that needs no model.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key, value: u32, max: u32| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Range {
                key,
                value: value.into(),
                min: 1,
                max: max.into(),
            })
        };
        let serving = &self.serving;
        within(
            "serving.sequences_max",
            serving.sequences_max,
            limits::SEQUENCES_MAX,
        )?;
        within(
            "serving.queue_requests_max",
            serving.queue_requests_max,
            limits::QUEUE_REQUESTS_MAX,
        )?;
        within(
            "serving.step_tokens_max",
            serving.step_tokens_max,
            limits::STEP_COLUMNS_MAX,
        )?;
        within(
            "serving.queue_tokens_max",
            serving.queue_tokens_max,
            limits::QUEUE_TOKENS_MAX,
        )?;
        let classes = [serving.interactive, serving.standard, serving.batch];
        let keys = [
            ("serving.interactive.ttft_ms", "serving.interactive.itl_ms"),
            ("serving.standard.ttft_ms", "serving.standard.itl_ms"),
            ("serving.batch.ttft_ms", "serving.batch.itl_ms"),
        ];
        for (class, (ttft_key, itl_key)) in classes.iter().zip(keys) {
            within(ttft_key, class.ttft_ms.unwrap_or(1), limits::TTFT_MS_MAX)?;
            within(itl_key, class.itl_ms.unwrap_or(1), limits::ITL_MS_MAX)?;
        }
        within(
            "serving.connections_max",
            serving.connections_max,
            limits::CONNECTIONS_MAX,
        )?;
        if let Some(context) = serving.context_tokens_max
            && !(2..=limits::CONTEXT_POSITIONS_MAX).contains(&context)
        {
            // A prompt has a token, and an answer has one.
            return Err(ConfigError::Range {
                key: "serving.context_tokens_max",
                value: context.into(),
                min: 2,
                max: limits::CONTEXT_POSITIONS_MAX.into(),
            });
        }
        if let Some(threads) = self.engine.threads {
            within("engine.threads", threads.into(), limits::THREADS_MAX)?;
        }
        within(
            "uplink.segments_at_once",
            self.uplink.segments_at_once,
            limits::UPLINK_SEGMENTS_MAX,
        )?;
        if let Some(rate) = self.uplink.bytes_per_s_max
            && rate.0 < RATE_MIN
        {
            return Err(ConfigError::Range {
                key: "uplink.bytes_per_s_max",
                value: rate.0,
                min: RATE_MIN,
                max: u64::MAX,
            });
        }
        self.uplink.window()?;
        if let Some(factory) = &self.uplink.factory
            && factory
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(ConfigError::Text {
                key: "uplink.factory",
                what: format!("`{factory}` is no address: write it like factory.example:4434"),
            });
        }
        if serving.step_tokens_max < serving.sequences_max {
            let (step, sequences) = (serving.step_tokens_max, serving.sequences_max);
            return Err(ConfigError::StepBelowSequences { step, sequences });
        }
        self.check_adapters().and_then(|()| self.check_watchers())?;
        self.access.check(&self.listen)
    }
}

impl Config {
    fn check_adapters(&self) -> Result<(), ConfigError> {
        let adapters = &self.adapters;
        adapters.named_files()?;
        let within = |key, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Range {
                key,
                value: value.into(),
                min: min.into(),
                max: max.into(),
            })
        };
        let count = adapters.count_max.unwrap_or(0);
        within("adapters.count_max", count, 0, limits::ADAPTERS_MAX)?;
        let rank = adapters.rank_max;
        within("adapters.rank_max", rank, 1, limits::ADAPTER_RANK_MAX)
    }

    /// Log and meter.
    fn check_watchers(&self) -> Result<(), ConfigError> {
        self.energy.check()?;
        self.models.check()?;
        let shares = [
            ("log.content_share", self.log.content_share),
            ("log.random_share", self.log.random_share.into()),
        ];
        for (key, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                let value = share.to_string();
                return Err(ConfigError::Share { key, value });
            }
        }
        if self.spool.bytes_max.0 < SPOOL_BYTES_MIN {
            return Err(ConfigError::Range {
                key: "spool.bytes_max",
                value: self.spool.bytes_max.0,
                min: SPOOL_BYTES_MIN,
                max: u64::MAX,
            });
        }
        let commit_ms = self.spool.commit_ms;
        if !(1..=10_000).contains(&commit_ms) {
            return Err(ConfigError::Range {
                key: "spool.commit_ms",
                value: commit_ms.into(),
                min: 1,
                max: 10_000,
            });
        }
        Ok(())
    }
}

/// Refuses a key that is not in `KEYS`, and names the nearest.
pub fn check_key(key: &str) -> Result<(), ConfigError> {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let nearest = KEYS
        .into_iter()
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .expect("there are keys");
    Err(ConfigError::UnknownKey {
        key: key.to_owned(),
        nearest,
    })
}

/// A number of bytes, written like `6GiB`, `512 MiB` or `1000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "ByteSizeText")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum ByteSizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<ByteSizeText> for ByteSize {
    type Error = String;

    fn try_from(text: ByteSizeText) -> Result<Self, String> {
        match text {
            ByteSizeText::Number(bytes) => Ok(Self(bytes)),
            ByteSizeText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no size: write a number with KiB, MiB or GiB, like 6GiB");
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            _ => return Err(wrong()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(wrong);
        }
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * unit as f64;
        if !(0.0..1e18).contains(&bytes) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range"
        )]
        Ok(Self(bytes as u64))
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            1_048_576..1_073_741_824 => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", bytes / 1_073_741_824.0),
        }
    }
}

#[cfg(test)]
mod tests;
