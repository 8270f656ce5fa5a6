//! The vocabulary in a GGUF's metadata.

use outstation_wire::gguf::{Gguf, GgufError};

use super::VOCABULARY_TOKENS_MAX;
use super::vocabulary::{Vocabulary, VocabularyError, VocabularyKind};

/// Merges come in proportion to tokens: Llama 3 has 2.2 for each.
const MERGES_MAX: usize = 4 * VOCABULARY_TOKENS_MAX;

impl Vocabulary {
    /// Reads the `tokenizer.*` keys. Source of the names: ggml `docs/gguf.md`.
    ///
    /// Cost: copies the vocabulary once, after its counts are checked.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Vocabulary, VocabularyError> {
        let kind = match gguf.str("tokenizer.ggml.model")? {
            Some("gpt2") => VocabularyKind::Bpe,
            Some("llama") => VocabularyKind::Spm,
            other => {
                let name = other.unwrap_or("(none)").chars().take(64).collect();
                return Err(VocabularyError::UnknownModel(name));
            }
        };
        let name = gguf
            .str("general.name")?
            .unwrap_or_default()
            .to_ascii_lowercase();
        Ok(Vocabulary {
            kind,
            pre: gguf
                .str("tokenizer.ggml.pre")?
                .unwrap_or_default()
                .to_owned(),
            tokens: strings(gguf, "tokenizer.ggml.tokens", VOCABULARY_TOKENS_MAX)?,
            scores: match gguf.f32s("tokenizer.ggml.scores")? {
                Some(scores) => scores.iter().take(VOCABULARY_TOKENS_MAX + 1).collect(),
                None => Vec::new(),
            },
            token_types: match gguf.u32s("tokenizer.ggml.token_type")? {
                Some(types) => types.iter().take(VOCABULARY_TOKENS_MAX + 1).collect(),
                None => Vec::new(),
            },
            merges: strings(gguf, "tokenizer.ggml.merges", MERGES_MAX)?,
            bos: gguf.u32("tokenizer.ggml.bos_token_id")?,
            eos: gguf.u32("tokenizer.ggml.eos_token_id")?,
            eot: gguf.u32("tokenizer.ggml.eot_token_id")?,
            eom: gguf.u32("tokenizer.ggml.eom_token_id")?,
            unk: gguf.u32("tokenizer.ggml.unknown_token_id")?,
            pad: gguf.u32("tokenizer.ggml.padding_token_id")?,
            add_bos: gguf.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: gguf.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?,
            control_eats_space: name.contains("phi-3") || name.contains("phi3"),
            chat_template: gguf.str("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
}

fn strings(gguf: &Gguf<'_>, key: &str, count_max: usize) -> Result<Vec<String>, VocabularyError> {
    let Some(strings) = gguf.strings(key)? else {
        return Ok(Vec::new());
    };
    let count = strings.iter().len();
    if count > count_max {
        let reason = format!("`{key}` has {count} entries: {count_max} are possible");
        return Err(VocabularyError::Metadata(reason));
    }
    Ok(strings.iter().map(str::to_owned).collect())
}

impl From<GgufError> for VocabularyError {
    fn from(error: GgufError) -> VocabularyError {
        VocabularyError::Metadata(error.to_string())
    }
}
