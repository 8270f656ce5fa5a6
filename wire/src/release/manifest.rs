//! What a release is.

use serde::{Deserialize, Serialize};

use super::{DOCUMENT_BYTES_MAX, DocumentError, ENGINE_FORMAT, INDEX_BYTES_MAX, check_name, read};
use crate::hex::{hex, unhex};

/// A model or an adapter, as its makers signed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// Of the model or adapter; it stands in the paths of its targets.
    pub name: String,
    /// Grows with each release of this name. A box never goes back by itself.
    pub release: u64,
    /// Which of the two.
    pub kind: Kind,
    /// The file.
    pub file: FileFacts,
    /// Its first bytes that make up header, metadata and tensor table: from them a box computes what the model needs.
    pub header_bytes: u64,
    /// Programs that can run it.
    pub engine: EngineRange,
    /// Classes of machines that it is made for; empty is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<String>,
    /// BLAKE3 of the tokenizer's part of the file, hexadecimal. An adapter has its base's.
    pub tokenizer: String,
    /// BLAKE3 of the chat template, hexadecimal; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// What it must still say on the box.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// SPDX expression or a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    /// Milliseconds since 1970.
    pub published_unix_ms: u64,
}

/// Model or adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole model, GGUF.
    Model,
    /// A LoRA adapter.
    Adapter {
        /// BLAKE3 of the model's file that it belongs to, hexadecimal.
        base: String,
    },
}

/// A file, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// Length.
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
    /// Hexadecimal: the digest by which boxes and factory call it.
    pub blake3: String,
}

/// Formats of the engine, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineRange {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

/// A text that the model must find as likely on the box as it did where it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Token ids: a prompt and the answer that it got.
    pub ids: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_tokens: u32,
    /// Mean of -ln p of the answer's tokens.
    pub nll: f64,
    /// How far the box's mean may be from it, on either side.
    pub tolerance: f64,
}

/// Golden texts of a manifest.
const GOLDEN_MAX: usize = 64;
/// Tokens of one.
const GOLDEN_TOKENS_MAX: usize = 1024;
const WHAT: &str = "the manifest";

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let manifest: Self = read(WHAT, json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The target that this is.
    pub fn path(&self) -> String {
        Self::path_of(&self.name, self.release)
    }

    /// The target of a release.
    pub fn path_of(name: &str, release: u64) -> String {
        format!("manifest/{name}@{release}.json")
    }

    /// The target of its index.
    pub fn index_path(&self) -> String {
        format!("index/{}.bin", self.file.blake3)
    }

    /// The file's digest.
    pub fn digest(&self) -> [u8; 32] {
        unhex(&self.file.blake3).expect("it was checked")
    }

    /// What the base must be.
    pub fn base(&self) -> Option<[u8; 32]> {
        match &self.kind {
            Kind::Model => None,
            Kind::Adapter { base } => Some(unhex(base).expect("it was checked")),
        }
    }

    /// Whether this program can run it.
    pub const fn runs_here(&self) -> bool {
        self.engine.min <= ENGINE_FORMAT && ENGINE_FORMAT <= self.engine.max
    }

    /// Whether it is made for machines of one of these classes.
    pub fn is_for(&self, classes: &[impl AsRef<str>]) -> bool {
        let mine = |class: &String| classes.iter().any(|own| own.as_ref() == class);
        self.hardware.is_empty() || self.hardware.iter().any(mine)
    }

    /// JSON, for signing.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings, numbers and lists become JSON")
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
        if let Err(why) = check_name(&self.name) {
            return field("name", why);
        }
        if self.release == 0 {
            return field("release", "it counts from 1".into());
        }
        check_digest("file.blake3", &self.file.blake3)?;
        check_digest("file.sha256", &self.file.sha256)?;
        check_digest("tokenizer", &self.tokenizer)?;
        if !self.template.is_empty() {
            check_digest("template", &self.template)?;
        }
        if let Kind::Adapter { base } = &self.kind {
            check_digest("kind.adapter.base", base)?;
        }
        if self.file.bytes == 0 || self.header_bytes > self.file.bytes {
            let why = format!("{} of {} bytes", self.header_bytes, self.file.bytes);
            return field("header_bytes", why);
        }
        if self.engine.min > self.engine.max {
            let why = format!("from {} to {}", self.engine.min, self.engine.max);
            return field("engine", why);
        }
        if self.golden.len() > GOLDEN_MAX {
            return field(
                "golden",
                format!("{} texts, at most {GOLDEN_MAX}", self.golden.len()),
            );
        }
        for golden in &self.golden {
            let prompt = golden.prompt_tokens as usize;
            let fits =
                golden.ids.len() <= GOLDEN_TOKENS_MAX && prompt > 0 && prompt < golden.ids.len();
            if !fits || !golden.nll.is_finite() || golden.nll < 0.0 || golden.tolerance.is_nan() {
                let why = format!(
                    "{prompt} of {} tokens are prompt (at most {GOLDEN_TOKENS_MAX} in all), nll {} ± {}",
                    golden.ids.len(),
                    golden.nll,
                    golden.tolerance
                );
                return field("golden", why);
            }
        }
        Ok(())
    }
}

/// That a text is 32 bytes in small hexadecimal digits, as file names have them.
fn check_digest(field: &'static str, text: &str) -> Result<(), DocumentError> {
    let parsed: Option<[u8; 32]> = unhex(text);
    if parsed.is_some_and(|bytes| hex(&bytes) == text) {
        return Ok(());
    }
    let why = format!("`{text}` is not 64 small hexadecimal digits");
    Err(DocumentError::Field {
        what: WHAT,
        field,
        why,
    })
}

const _: () = assert!(
    INDEX_BYTES_MAX > DOCUMENT_BYTES_MAX,
    "an index is the largest target"
);
