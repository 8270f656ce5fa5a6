//! What a model file says about its tokens, not yet trusted.

use std::collections::HashMap;

use super::{PreTokenizer, TOKEN_BYTES_MAX, VOCABULARY_TOKENS_MAX};

/// The `tokenizer.ggml.*` keys of a GGUF. Any content is safe to hand to [`super::Tokenizer::new`].
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `model`: which algorithm.
    pub kind: VocabularyKind,
    /// `pre`: how BPE cuts words; not used by SPM.
    pub pre: String,
    /// `tokens`: text of each id. Byte-level BPE writes bytes as GPT-2's letters, SPM writes spaces as `▁`.
    pub tokens: Vec<String>,
    /// `scores`: one for each token; SPM merges the best first.
    pub scores: Vec<f32>,
    /// `token_type`: one for each token, ggml's numbers; empty means that all are normal.
    pub token_types: Vec<u32>,
    /// `merges`: `left right`, the best first; BPE only.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: end of message.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`; absent means by the family's rule.
    pub add_bos: Option<bool>,
    /// `add_eos_token`; absent means no.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`, SPM only; absent means yes.
    pub add_space_prefix: Option<bool>,
    /// Spaces after a control token belong to it (Phi-3). GGUF has no key for it: llama.cpp reads the name.
    pub control_eats_space: bool,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// The algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VocabularyKind {
    /// `gpt2`: byte-level pair merges by rank.
    #[default]
    Bpe,
    /// `llama`: SentencePiece merges by score, with byte fallback.
    Spm,
}

/// What a token is for. Source: `enum llama_token_type` in llama.cpp `include/llama.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Structure: never printed, never read from plain text.
    Control,
    /// Text with an id of its own, found before anything is merged.
    UserDefined,
    /// A place that training left empty.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

impl TokenKind {
    /// May merging produce it?
    pub(super) fn is_text(self) -> bool {
        matches!(
            self,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
        )
    }
}

/// Why a vocabulary cannot be used. The file is at fault: convert it again, or take another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// `tokenizer.ggml.model` names an algorithm that we do not have.
    #[error(
        "tokenizer model `{0}` is not known: gpt2 (byte-level BPE) and llama (SentencePiece) are"
    )]
    UnknownModel(String),
    /// Guessing would give other ids than in training.
    #[error("pre-tokenizer `{name}` is not known{hint}; known are {}; others need the model's tokenizer.json beside the file", PreTokenizer::names().join(", "))]
    UnknownPreTokenizer {
        /// As in the file; empty when the key is missing.
        name: String,
        /// The nearest known name, as `: did you mean …?`, or why nothing is guessed.
        hint: String,
    },
    /// No tokens, or more than any model has.
    #[error("a vocabulary of {tokens} tokens: 1 to {VOCABULARY_TOKENS_MAX} are possible")]
    TokenCount {
        /// In the file.
        tokens: usize,
    },
    /// An array goes with another length.
    #[error("`{array}` has {length} entries for {tokens} tokens")]
    Length {
        /// Key.
        array: &'static str,
        /// Its entries.
        length: usize,
        /// Entries of `tokens`.
        tokens: usize,
    },
    /// A token that would make every merge slow.
    #[error("token {id} has {bytes} bytes: {TOKEN_BYTES_MAX} are possible")]
    TokenBytes {
        /// Id.
        id: usize,
        /// Its length.
        bytes: usize,
    },
    /// Two ids for the same text.
    #[error("tokens {first} and {second} are both `{text}`")]
    Duplicate {
        /// The text.
        text: String,
        /// Lower id.
        first: usize,
        /// Higher id.
        second: usize,
    },
    /// A type that ggml does not have.
    #[error("token {id} is of type {token_type}: ggml has 0 to 6")]
    TokenType {
        /// Id.
        id: usize,
        /// In the file.
        token_type: u32,
    },
    /// A byte token that names no byte.
    #[error("token {id}, `{text}`, is of type byte but not of the form <0x0A>")]
    ByteToken {
        /// Id.
        id: usize,
        /// Its text.
        text: String,
    },
    /// A special id outside the vocabulary.
    #[error("`{key}` is {id} in a vocabulary of {tokens} tokens")]
    IdRange {
        /// Key.
        key: &'static str,
        /// Its value.
        id: u32,
        /// Tokens in the vocabulary.
        tokens: usize,
    },
    /// One key needs another.
    #[error("`{wanted_by}` is on, but `{id}` is missing")]
    MissingId {
        /// The key that is on.
        wanted_by: &'static str,
        /// The key that is missing.
        id: &'static str,
    },
    /// Some text could not be written.
    #[error("no token for byte 0x{byte:02x}, so some texts would lose it")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge that is not two parts.
    #[error("merge {index} is `{merge}`, not two parts with a space between")]
    BadMerge {
        /// Place in `merges`.
        index: usize,
        /// Its text.
        merge: String,
    },
    /// The merges and the tokens disagree.
    #[error("the merges do not fit the tokens: {reason}")]
    Merges {
        /// What the BPE library says.
        reason: String,
    },
    /// A `tokenizer.json` that no model has.
    #[error(
        "tokenizer.json has {bytes} bytes: {} are possible",
        crate::limits::TOKENIZER_JSON_BYTES_MAX
    )]
    JsonBytes {
        /// Its size.
        bytes: usize,
    },
    /// A `tokenizer.json` that is damaged, or has parts that we do not have.
    #[error("tokenizer.json cannot be used: {0}")]
    Json(String),
    /// The `tokenizer.json` of another model.
    #[error(
        "token {id} is {file} in the model file, {json} in tokenizer.json: they do not belong together"
    )]
    JsonToken {
        /// The lowest id that differs.
        id: u32,
        /// Its text in the model file.
        file: String,
        /// Its text in the JSON.
        json: String,
    },
    /// The metadata itself is damaged.
    #[error("{0}")]
    Metadata(String),
}

impl Vocabulary {
    /// Checks all that does not depend on the algorithm, and gives each token's kind.
    pub(super) fn checked_kinds(&self) -> Result<Vec<TokenKind>, VocabularyError> {
        let tokens = self.tokens.len();
        if tokens == 0 || tokens > VOCABULARY_TOKENS_MAX {
            return Err(VocabularyError::TokenCount { tokens });
        }
        for (array, length) in [
            ("token_type", self.token_types.len()),
            ("scores", self.scores.len()),
        ] {
            let may_be_absent = array == "token_type" || self.kind == VocabularyKind::Bpe;
            if length != tokens && !(may_be_absent && length == 0) {
                return Err(VocabularyError::Length {
                    array,
                    length,
                    tokens,
                });
            }
        }
        self.check_ids()?;
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(tokens);
        let mut kinds = Vec::with_capacity(tokens);
        for (id, token) in self.tokens.iter().enumerate() {
            if token.len() > TOKEN_BYTES_MAX {
                return Err(VocabularyError::TokenBytes {
                    id,
                    bytes: token.len(),
                });
            }
            if !token.is_empty()
                && let Some(first) = seen.insert(token, id)
            {
                return Err(VocabularyError::Duplicate {
                    text: token.clone(),
                    first,
                    second: id,
                });
            }
            kinds.push(self.kind_of(id, token)?);
        }
        Ok(kinds)
    }

    fn check_ids(&self) -> Result<(), VocabularyError> {
        let tokens = self.tokens.len();
        for (key, id) in [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
        ] {
            if let Some(id) = id
                && id as usize >= tokens
            {
                return Err(VocabularyError::IdRange { key, id, tokens });
            }
        }
        Ok(())
    }

    fn kind_of(&self, id: usize, token: &str) -> Result<TokenKind, VocabularyError> {
        let token_type = self.token_types.get(id).copied().unwrap_or(1);
        Ok(match token_type {
            // Conversions that forget the types still must not print or spell the ends of a turn.
            0 | 1 | 4 if END_NAMES.contains(&token) => TokenKind::Control,
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 if byte_of(token).is_some() => TokenKind::Byte,
            6 => {
                return Err(VocabularyError::ByteToken {
                    id,
                    text: token.to_owned(),
                });
            }
            _ => return Err(VocabularyError::TokenType { id, token_type }),
        })
    }

    /// Ids that end a generation, sorted.
    ///
    /// Source: llama.cpp `src/llama-vocab.cpp` decides by id and by name too. Names that ordinary text could
    /// have (`</s>`) count here only when the file says that the token is a control token.
    pub(super) fn ends_of_generation(&self, kinds: &[TokenKind]) -> Vec<u32> {
        let named = (0u32..)
            .zip(&self.tokens)
            .zip(kinds)
            .filter_map(|((id, token), &kind)| {
                let plain = END_NAMES_IF_CONTROL.contains(&token.as_str());
                (END_NAMES.contains(&token.as_str()) || (plain && kind == TokenKind::Control))
                    .then_some(id)
            });
        let mut ids: Vec<u32> = named
            .chain(self.eos)
            .chain(self.eot)
            .chain(self.eom)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// The byte of `<0x0A>`.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Names so odd that a token which has one means it, whatever its type says.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// Names that text could have.
const END_NAMES_IF_CONTROL: &[&str] = &["</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"];
