//! Text to token ids and back, built from what the model file says about itself.
//!
//! Two families cover the models we serve. Byte-level BPE (`tokenizer.ggml.model = gpt2`) cuts the text into
//! words with the model's pre-tokenizer and merges inside each word; SentencePiece (`llama`) merges over the
//! whole text by score. Ids must be those that the model was trained with, or quality drops without any error,
//! so llama.cpp's golden files are the tests.
//!
//! Text in a chat never becomes a control token: only [`Special::Parse`], meant for rendered chat templates and for
//! prompts that an app wrote by hand, reads `<|im_end|>` as one, and [`Tokenizer::shield`] keeps what users said inside
//! a template plain text. User-defined tokens (ordinary text with an id of its own) are read in both modes.

mod decode;
mod json;
mod metadata;
mod piece;
mod special;
mod split;
mod stop;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

pub use decode::Decoder;
use json::{JsonModel, Place};
use piece::PieceMerger;
use special::{Fragment, SpecialTokens};
pub use split::PreTokenizer;
use split::Splitter;
pub use stop::{StopMatcher, StopOutcome};
pub use vocabulary::{TokenKind, Vocabulary, VocabularyError, VocabularyKind};

/// Most tokens a vocabulary may have. The largest published ones have 262 144.
pub const VOCABULARY_TOKENS_MAX: usize = 1 << 20;
/// Longest token, bytes. GPT-2's longest is 256; merging costs time in proportion to this.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Whether text may name control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<|im_end|>` in the text is the control token. For text that we wrote: rendered chat templates.
    Parse,
    /// `<|im_end|>` in the text is ten characters. For text from outside.
    Plain,
}

/// Whether the ids begin as the model was trained to see a text begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// By the model's own rule: many models want a beginning-of-sequence token, many have none. Never doubled
    /// where the text (a rendered template) already begins with it. An end token is added where the rule says so.
    Add,
    /// Nothing is added: a continuation, or a comparison with golden ids.
    Omit,
}

/// A vocabulary that encodes and decodes. Immutable: one serves all threads.
///
/// Cost: some 60 MiB for 128 000 tokens with merges, taken when the model is loaded.
pub struct Tokenizer {
    model: Model,
    specials: SpecialTokens,
    /// Decoded bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Token `i` is `bytes[ends[i - 1]..ends[i]]`.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// Sorted ids that end a generation.
    ends_generation: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

enum Model {
    Bytes {
        splitter: Splitter,
        bpe: Box<BPE>,
        letters: Box<[char; 256]>,
    },
    Pieces(PieceMerger),
    Json(Box<JsonModel>),
}

impl Tokenizer {
    /// Checks the vocabulary and builds the tables. Hostile metadata is an error, never a panic.
    pub fn new(vocabulary: &Vocabulary) -> Result<Tokenizer, VocabularyError> {
        let kinds = vocabulary.checked_kinds()?;
        let (model, add_bos_default) = match vocabulary.kind {
            VocabularyKind::Bpe => build_bpe(vocabulary, &kinds)?,
            VocabularyKind::Spm => (Model::Pieces(PieceMerger::new(vocabulary, &kinds)?), true),
        };
        Tokenizer::assemble(vocabulary, kinds, model, add_bos_default)
    }

    /// Like [`Self::new`], but plain text is cut as the model's `tokenizer.json` says, whose tokens must be the same.
    ///
    /// All that is not cutting stays with the model file: control tokens, what decoding prints, and which tokens go
    /// in front and behind. The file's pre-tokenizer may be one that we do not know.
    pub fn with_json(vocabulary: &Vocabulary, json: &str) -> Result<Tokenizer, VocabularyError> {
        let kinds = vocabulary.checked_kinds()?;
        let model = Model::Json(Box::new(JsonModel::new(vocabulary, &kinds, json)?));
        let add_bos_default = match vocabulary.kind {
            VocabularyKind::Bpe => {
                PreTokenizer::from_name(&vocabulary.pre).is_ok_and(PreTokenizer::adds_bos)
            }
            VocabularyKind::Spm => true,
        };
        let mut tokenizer = Tokenizer::assemble(vocabulary, kinds, model, add_bos_default)?;
        // Decoding takes away the space that encoding puts in front; only a trial tells whether it does.
        let mut ids = Vec::new();
        tokenizer.encode_plain("a", Place::First, &mut ids);
        let first = ids.first().map_or(&[][..], |&id| tokenizer.raw_bytes(id));
        tokenizer.add_space_prefix = first.starts_with(b" ");
        Ok(tokenizer)
    }

    fn assemble(
        vocabulary: &Vocabulary,
        kinds: Vec<TokenKind>,
        model: Model,
        add_bos_default: bool,
    ) -> Result<Tokenizer, VocabularyError> {
        let add_bos = vocabulary.add_bos.unwrap_or(add_bos_default);
        let add_eos = vocabulary.add_eos.unwrap_or(false);
        if add_bos && vocabulary.bos.is_none() {
            return Err(VocabularyError::MissingId {
                wanted_by: "add_bos_token",
                id: "bos_token_id",
            });
        }
        if add_eos && vocabulary.eos.is_none() {
            return Err(VocabularyError::MissingId {
                wanted_by: "add_eos_token",
                id: "eos_token_id",
            });
        }
        let (bytes, ends) = decoded_bytes(vocabulary, &kinds)?;
        let is_spm = vocabulary.kind == VocabularyKind::Spm;
        Ok(Tokenizer {
            model,
            specials: SpecialTokens::new(vocabulary, &kinds),
            bytes,
            ends,
            ends_generation: vocabulary.ends_of_generation(&kinds),
            kinds,
            bos: vocabulary.bos,
            eos: vocabulary.eos,
            add_bos,
            add_eos,
            add_space_prefix: is_spm && vocabulary.add_space_prefix.unwrap_or(true),
        })
    }

    /// Ids of a text.
    ///
    /// Cost: O(n log n) in the length of the text for every input (the log is a word's length with BPE).
    pub fn encode(&self, text: &str, special: Special, bos: Bos) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if bos == Bos::Add && self.add_bos {
            ids.extend(self.bos);
        }
        let at_start = ids.len();
        let mut place = Place::First;
        for fragment in self.specials.fragments(text, special) {
            match fragment {
                Fragment::Text(text) => {
                    let text = match special {
                        Special::Parse => without_shield(text),
                        Special::Plain => Cow::Borrowed(text),
                    };
                    self.encode_plain(&text, place, &mut ids);
                }
                Fragment::Token(id) => {
                    if !(ids.len() == at_start && at_start == 1 && Some(id) == self.bos) {
                        ids.push(id);
                    }
                }
            }
            place = Place::Inside;
        }
        if bos == Bos::Add && self.add_eos && ids.last() != self.eos.as_ref() {
            ids.extend(self.eos);
        }
        ids
    }

    /// Makes text from outside safe to put into a text that is encoded with [`Special::Parse`]: a control token's
    /// name gets U+FDD0 after its first character, which encoding takes out again after it has looked for names.
    ///
    /// U+FDD0 is not a character (Unicode 23.7), so no text has it; where one does, it is dropped.
    pub fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = without_shield(text);
        let mut shielded = String::new();
        let mut unchanged = 0;
        for (at, letter) in text.char_indices() {
            if self.specials.begins_control(&text.as_bytes()[at..]) {
                let after = at + letter.len_utf8();
                shielded.push_str(&text[unchanged..after]);
                shielded.push(SHIELD);
                unchanged = after;
            }
        }
        if unchanged == 0 {
            return text;
        }
        shielded.push_str(&text[unchanged..]);
        Cow::Owned(shielded)
    }

    fn encode_plain(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        match &self.model {
            Model::Bytes {
                splitter,
                bpe,
                letters,
            } => {
                let mut word_letters = String::new();
                splitter.split(text, &mut |word| {
                    word_letters.clear();
                    word_letters.extend(word.bytes().map(|byte| letters[usize::from(byte)]));
                    let tokens = bpe
                        .tokenize(&word_letters)
                        .expect("a BPE with every byte and no unknown token has no way to fail");
                    ids.extend(tokens.iter().map(|token| token.id));
                });
            }
            Model::Pieces(merger) => {
                // Two fragments of text never meet: before each is a token or nothing.
                let prefix = if self.add_space_prefix { "▁" } else { "" };
                merger.merge(&format!("{prefix}{}", text.replace(' ', "▁")), ids);
            }
            Model::Json(model) => model.encode(text, place, ids),
        }
    }

    /// The text of whole ids. A space that encoding put in front is taken away again.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = Decoder::new();
        let mut text = String::new();
        for &id in ids {
            text.push_str(&decoder.push(self, id));
        }
        text.push_str(&decoder.finish());
        if self.add_space_prefix && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }

    /// The bytes that a token prints: possibly a part of a character, nothing for control tokens and for ids
    /// outside the vocabulary (a model's matrix is often padded past it).
    pub fn decode_bytes(&self, id: u32) -> &[u8] {
        match self.kind(id) {
            None | Some(TokenKind::Control | TokenKind::Unknown) => &[],
            Some(_) => self.raw_bytes(id),
        }
    }

    /// Like [`Self::decode_bytes`], but control tokens show their name. For tools.
    pub fn raw_bytes(&self, id: u32) -> &[u8] {
        let Some(index) = usize::try_from(id)
            .ok()
            .filter(|&index| index < self.ends.len())
        else {
            return &[];
        };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    /// What a token is; `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// Tokens in the vocabulary. The model's matrix may have more rows (padding), never fewer.
    pub fn vocab_size(&self) -> usize {
        self.kinds.len()
    }

    /// Ids that end a generation, sorted: the file's eos, eot and eom, and the tokens with names that mean it.
    pub fn ends_generation(&self) -> &[u32] {
        &self.ends_generation
    }

    /// Beginning-of-sequence id, where the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence id, where the file names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The names of bos and eos as chat templates want them; empty where there is none.
    pub fn bos_eos_text(&self) -> (String, String) {
        let text = |id: Option<u32>| {
            id.map_or_else(String::new, |id| {
                String::from_utf8_lossy(self.raw_bytes(id)).into_owned()
            })
        };
        (text(self.bos), text(self.eos))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("ends_generation", &self.ends_generation)
            .finish_non_exhaustive()
    }
}

/// Breaks the names of control tokens in text from outside.
const SHIELD: char = '\u{fdd0}';

fn without_shield(text: &str) -> Cow<'_, str> {
    if text.contains(SHIELD) {
        Cow::Owned(text.replace(SHIELD, ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// The BPE model, and whether its family puts a BOS in front by default.
fn build_bpe(
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
) -> Result<(Model, bool), VocabularyError> {
    let pre = PreTokenizer::from_name(&vocabulary.pre)?;
    let letters = Box::new(byte_letters());
    // Control tokens stay out of the table that merging sees, so that no text can spell one.
    let table: Vocab = (0u32..)
        .zip(&vocabulary.tokens)
        .zip(kinds)
        .filter(|((_, token), kind)| kind.is_text() && !token.is_empty())
        .map(|((id, token), _)| (token.clone(), id))
        .collect();
    for byte in (0..=0xffu8).filter(|&byte| occurs_in_utf8(byte)) {
        if !table.contains_key(letters[usize::from(byte)].to_string().as_str()) {
            return Err(VocabularyError::MissingByte { byte });
        }
    }
    let mut merges = Vec::with_capacity(vocabulary.merges.len());
    for (index, merge) in vocabulary.merges.iter().enumerate() {
        merges.push(split_merge(index, merge)?);
    }
    // No cache: its entries are thread-local, outlive the model and grow by 8 KiB for each odd word sent to us.
    let bpe = BPE::builder()
        .cache_capacity(0)
        .ignore_merges(pre.ignores_merges())
        .vocab_and_merges(table, merges)
        .build()
        .map_err(|error| VocabularyError::Merges {
            reason: error.to_string(),
        })?;
    let model = Model::Bytes {
        splitter: Splitter::new(pre),
        bpe: Box::new(bpe),
        letters,
    };
    Ok((model, pre.adds_bos()))
}

/// The two parts of a merge that is written as a line.
fn split_merge(index: usize, merge: &str) -> Result<(String, String), VocabularyError> {
    // The first letter may itself be a space in vocabularies that are not byte-level.
    let after_first = merge.chars().next().map_or(0, char::len_utf8);
    let Some(space) = merge[after_first..].find(' ') else {
        return Err(VocabularyError::BadMerge {
            index,
            merge: merge.to_owned(),
        });
    };
    let (left, right) = merge.split_at(after_first + space);
    Ok((left.to_owned(), right[1..].to_owned()))
}

/// What each token prints, as one run of bytes with the ends of the tokens.
fn decoded_bytes(
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
) -> Result<(Vec<u8>, Vec<u32>), VocabularyError> {
    let bytes_of: HashMap<char, u8> = (0..=0xffu8)
        .zip(byte_letters())
        .map(|(byte, letter)| (letter, byte))
        .collect();
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(kinds.len());
    for (token, &kind) in vocabulary.tokens.iter().zip(kinds) {
        match (vocabulary.kind, kind) {
            (_, TokenKind::Byte) => bytes.extend(vocabulary::byte_of(token)),
            (VocabularyKind::Bpe, TokenKind::Normal | TokenKind::Unused) => {
                // A letter outside the alphabet (a damaged conversion) prints as itself.
                let mut utf8 = [0; 4];
                for letter in token.chars() {
                    match bytes_of.get(&letter) {
                        Some(&byte) => bytes.push(byte),
                        None => bytes.extend_from_slice(letter.encode_utf8(&mut utf8).as_bytes()),
                    }
                }
            }
            (VocabularyKind::Spm, TokenKind::Normal | TokenKind::Unused) => {
                bytes.extend_from_slice(token.replace('▁', " ").as_bytes());
            }
            _ => bytes.extend_from_slice(token.as_bytes()),
        }
        let end = u32::try_from(bytes.len()).map_err(|_| {
            VocabularyError::Metadata("the tokens have more than 4 GiB of text".to_owned())
        })?;
        ends.push(end);
    }
    Ok((bytes, ends))
}

/// GPT-2's visible stand-in for each byte: printable Latin-1 stands for itself, the rest follow from U+0100.
///
/// Source: `bytes_to_unicode` in openai/gpt-2 `src/encoder.py`.
fn byte_letters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|index| match index {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(u8::try_from(index).expect("< 256")),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("0x100 + 68 at most")
        }
    })
}

/// Bytes that no UTF-8 text has need no token. Source: RFC 3629 section 1.
fn occurs_in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..)
}
