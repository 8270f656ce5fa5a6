//! `tokenizer.json`: how the model's authors cut text, as the `tokenizers` library writes it.
//!
//! Only what cuts plain text is taken from it: normalizer, pre-tokenizer and merges. Names of tokens are found by
//! the GGUF's own rules before a text gets here, and control tokens stay out of the table that merging sees, so that no
//! text can spell one. Parts are built from an allow-list: others panic on bad input (`Precompiled`,
//! `continuing_subword_prefix`) or draw lots (`dropout`).

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    Model as _, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
};

use super::vocabulary::{TokenKind, Vocabulary, VocabularyError, VocabularyKind};
use super::{byte_letters, occurs_in_utf8, split_merge};
use crate::limits::TOKENIZER_JSON_BYTES_MAX;

/// Where a fragment lies: some rules put a space before the first only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The text begins with it.
    First,
    /// A token is before it.
    Inside,
}

/// The encoding half of a `tokenizer.json`.
///
/// Cost of encoding: the library keeps 16 bytes of alignment for each byte of text, and its regular expressions
/// backtrack; a pattern that needs more than a million steps leaves the rest of the text as one word.
pub(super) struct JsonModel {
    normalizer: Option<NormalizerWrapper>,
    first: Option<PreTokenizerWrapper>,
    inside: Option<PreTokenizerWrapper>,
    bpe: Box<BPE>,
}

impl JsonModel {
    /// Checks that the file belongs to the vocabulary, and builds its parts.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        kinds: &[TokenKind],
        json: &str,
    ) -> Result<JsonModel, VocabularyError> {
        if json.len() > TOKENIZER_JSON_BYTES_MAX {
            return Err(VocabularyError::JsonBytes { bytes: json.len() });
        }
        let file = parse(json)?;
        check_tokens(vocabulary, kinds, &file)?;
        let mut parts = Parts::default();
        if let Some(normalizer) = &file.normalizer {
            parts.normalizer(normalizer)?;
        }
        if let Some(pre_tokenizer) = &file.pre_tokenizer {
            parts.pre_tokenizer(pre_tokenizer)?;
        }
        if parts.byte_level != (vocabulary.kind == VocabularyKind::Bpe) {
            return Err(bad(if parts.byte_level {
                "it is byte-level, the model file's vocabulary is not"
            } else {
                "it has no part `ByteLevel`, which the model file's vocabulary needs"
            }));
        }
        let mut inside = file.pre_tokenizer.clone();
        if let Some(inside) = &mut inside {
            prepend_never(inside);
        }
        Ok(JsonModel {
            normalizer: build(file.normalizer.clone())?,
            first: build(file.pre_tokenizer.clone())?,
            inside: build(inside)?,
            bpe: Box::new(build_bpe(vocabulary, kinds, file.model)?),
        })
    }

    /// Appends the ids of a fragment without names of tokens.
    pub(super) fn encode(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        const SOUND: &str = "parts of the allow-list take any text";
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized).expect(SOUND);
        }
        let mut words = PreTokenizedString::from(normalized);
        let pre_tokenizer = match place {
            Place::First => &self.first,
            Place::Inside => &self.inside,
        };
        if let Some(pre_tokenizer) = pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut words).expect(SOUND);
        }
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            let tokens = self.bpe.tokenize(word).expect("its unknown token is in it");
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: BpeFile,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct BpeFile {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Files of before 2024 write a merge as a line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// What must be known before the rest has a shape.
#[derive(Deserialize)]
struct Outline {
    version: Option<String>,
    model: OutlineModel,
}

#[derive(Deserialize)]
struct OutlineModel {
    r#type: Option<String>,
    #[serde(rename = "vocab")]
    _vocab: IgnoredAny,
}

fn parse(json: &str) -> Result<File, VocabularyError> {
    let outline: Outline = serde_json::from_str(json).map_err(bad)?;
    if let Some(version) = outline.version.filter(|version| version != "1.0") {
        return Err(unknown("version", &version));
    }
    if let Some(kind) = outline.model.r#type.filter(|kind| kind != "BPE") {
        return Err(unknown("model", &kind));
    }
    serde_json::from_str(json).map_err(bad)
}

/// Every id must have the same text in both, or the model would read other words than were written.
///
/// Conversion fills places that the JSON leaves empty, mostly past its end, with unused tokens, and writes the `▁` of
/// user-defined tokens as the space that it means. Source: llama.cpp `convert_hf_to_gguf.py`.
fn check_tokens(
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
    file: &File,
) -> Result<(), VocabularyError> {
    let own = file.model.vocab.iter().map(|(text, &id)| (id, text));
    let added = file
        .added_tokens
        .iter()
        .map(|token| (token.id, &token.content));
    let mut theirs: Vec<(u32, &String)> = own.chain(added).collect();
    theirs.sort_unstable();
    let mut theirs = theirs.into_iter().peekable();
    for (id, (ours, kind)) in (0u32..).zip(vocabulary.tokens.iter().zip(kinds)) {
        let mut found = false;
        while let Some((_, text)) = theirs.next_if(|&(next, _)| next == id) {
            found = true;
            let spaced = *kind == TokenKind::UserDefined && text.replace('▁', " ") == *ours;
            if text != ours && !spaced {
                return Err(differs(id, Some(ours), Some(text)));
            }
        }
        if !found && *kind != TokenKind::Unused {
            return Err(differs(id, Some(ours), None));
        }
    }
    match theirs.next() {
        Some((id, text)) => Err(differs(id, None, Some(text))),
        None => Ok(()),
    }
}

/// What the parts do together.
#[derive(Default)]
struct Parts {
    byte_level: bool,
    count: usize,
    /// Bytes that one byte of text may become, less one by one.
    growth: Option<usize>,
}

/// Parts of a normalizer or pre-tokenizer. Published files have up to six.
const PARTS_MAX: usize = 32;
/// Bytes of one pattern, replacement or prefix. The longest published pattern has some 500.
const PART_TEXT_BYTES_MAX: usize = 4096;
/// Times that a normalizer may lengthen a text: a `▁` for each space is 3, compatibility forms are up to 11.
const GROWTH_MAX: usize = 64;

impl Parts {
    fn normalizer(&mut self, part: &Value) -> Result<(), VocabularyError> {
        let name = self.begin(part)?;
        let growth = match name {
            "Sequence" => {
                for part in children(part, "normalizers")? {
                    self.normalizer(part)?;
                }
                1
            }
            "NFC" | "NFD" | "Lowercase" => 3,
            "NFKC" | "NFKD" => 11,
            "Replace" => {
                // The library loses its place when a text becomes empty, so nothing is replaced by nothing.
                let pattern = part
                    .get("pattern")
                    .and_then(|p| p.get("String"))
                    .and_then(Value::as_str);
                let content = text_of(part, "content")?;
                if pattern.is_none_or(str::is_empty) || content.is_empty() {
                    return Err(unknown("normalizer", "Replace, but of one text by another"));
                }
                content.len()
            }
            "Prepend" => {
                text_of(part, "prepend")?;
                1
            }
            "ByteLevel" => {
                self.byte_level = true;
                2
            }
            _ => return Err(unknown("normalizer", name)),
        };
        let growth = self.growth.unwrap_or(1).saturating_mul(growth);
        if growth > GROWTH_MAX {
            return Err(bad(format!(
                "its normalizer may make a text {growth} times as long: {GROWTH_MAX} are possible"
            )));
        }
        self.growth = Some(growth);
        Ok(())
    }

    fn pre_tokenizer(&mut self, part: &Value) -> Result<(), VocabularyError> {
        let name = self.begin(part)?;
        match name {
            "Sequence" => {
                for part in children(part, "pretokenizers")? {
                    self.pre_tokenizer(part)?;
                }
            }
            "Split" => check_pattern(part)?,
            "ByteLevel" => self.byte_level = true,
            "Digits" | "Metaspace" | "Punctuation" => {}
            _ => return Err(unknown("pre-tokenizer", name)),
        }
        Ok(())
    }

    fn begin<'v>(&mut self, part: &'v Value) -> Result<&'v str, VocabularyError> {
        self.count += 1;
        if self.count > PARTS_MAX {
            return Err(bad(format!("more than {PARTS_MAX} parts")));
        }
        text_of(part, "type")
    }
}

fn children<'v>(part: &'v Value, key: &str) -> Result<&'v Vec<Value>, VocabularyError> {
    let children = part.get(key).and_then(Value::as_array);
    children.ok_or_else(|| bad(format!("a `Sequence` without `{key}`")))
}

fn text_of<'v>(part: &'v Value, key: &str) -> Result<&'v str, VocabularyError> {
    let text = part.get(key).and_then(Value::as_str);
    let text = text.ok_or_else(|| bad(format!("a part without `{key}`")))?;
    if text.len() > PART_TEXT_BYTES_MAX {
        return Err(bad(format!(
            "`{key}` has {} bytes: {PART_TEXT_BYTES_MAX} are possible",
            text.len()
        )));
    }
    Ok(text)
}

fn check_pattern(part: &Value) -> Result<(), VocabularyError> {
    let pattern = part.get("pattern").unwrap_or(&Value::Null);
    let is_regex = pattern.get("Regex").is_some();
    let text = text_of(pattern, if is_regex { "Regex" } else { "String" })?;
    // Inside a look-ahead it makes a match that ends before it begins, which the library does not survive.
    if is_regex && text.contains(r"\K") {
        return Err(unknown("pattern", text));
    }
    Ok(())
}

/// `first` puts a space before the text only; the library, which sees one fragment, would put it before each.
fn prepend_never(part: &mut Value) {
    if let Some(parts) = part.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        parts.iter_mut().for_each(prepend_never);
    }
    if let Some(scheme) = part.get_mut("prepend_scheme")
        && scheme == "first"
    {
        *scheme = "never".into();
    }
}

fn build<T: serde::de::DeserializeOwned>(
    part: Option<Value>,
) -> Result<Option<T>, VocabularyError> {
    part.map(serde_json::from_value).transpose().map_err(bad)
}

fn build_bpe(
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
    file: BpeFile,
) -> Result<BPE, VocabularyError> {
    if file.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(bad("`dropout` is on: ids would be drawn by lot"));
    }
    for (name, text) in [
        ("continuing_subword_prefix", &file.continuing_subword_prefix),
        ("end_of_word_suffix", &file.end_of_word_suffix),
    ] {
        if text.as_ref().is_some_and(|text| !text.is_empty()) {
            return Err(unknown("setting", name));
        }
    }
    let byte_fallback = file.byte_fallback.unwrap_or(false);
    let unknown_token = file.unk_token.as_deref().unwrap_or_default();
    let table: Vocab = file
        .vocab
        .iter()
        .filter(|&(text, &id)| match kinds[id as usize] {
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => !text.is_empty(),
            TokenKind::Byte => byte_fallback,
            TokenKind::Unknown => text == unknown_token,
            TokenKind::Control => false,
        })
        .map(|(text, &id)| (text.clone(), id))
        .collect();
    check_bytes(vocabulary.kind, &table, byte_fallback, unknown_token)?;
    let mut merges = Vec::with_capacity(file.merges.len());
    for (index, merge) in file.merges.into_iter().enumerate() {
        merges.push(match merge {
            Merge::Pair(left, right) => (left, right),
            Merge::Line(line) => split_merge(index, &line)?,
        });
    }
    // No cache, for the reason given where the model file's own merges are built.
    let mut builder = BPE::builder()
        .cache_capacity(0)
        .byte_fallback(byte_fallback)
        .fuse_unk(file.fuse_unk.unwrap_or(false))
        .ignore_merges(file.ignore_merges.unwrap_or(false));
    if table.contains_key(unknown_token) {
        builder = builder.unk_token(unknown_token.to_owned());
    }
    let built = builder.vocab_and_merges(table, merges).build();
    built.map_err(|error| VocabularyError::Merges {
        reason: error.to_string(),
    })
}

/// Without an unknown token the library drops what it has no token for and does not say so.
fn check_bytes(
    kind: VocabularyKind,
    table: &Vocab,
    byte_fallback: bool,
    unknown_token: &str,
) -> Result<(), VocabularyError> {
    let letters = byte_letters();
    for byte in (0..=0xffu8).filter(|&byte| occurs_in_utf8(byte)) {
        let has = match kind {
            VocabularyKind::Bpe => {
                table.contains_key(letters[usize::from(byte)].to_string().as_str())
            }
            VocabularyKind::Spm if table.contains_key(unknown_token) => true,
            VocabularyKind::Spm => {
                byte_fallback && table.contains_key(format!("<0x{byte:02X}>").as_str())
            }
        };
        if !has {
            return Err(VocabularyError::MissingByte { byte });
        }
    }
    Ok(())
}

fn bad(reason: impl ToString) -> VocabularyError {
    VocabularyError::Json(reason.to_string())
}

fn unknown(what: &str, name: &str) -> VocabularyError {
    bad(format!("{what} `{}` is not known", short(name)))
}

fn differs(id: u32, ours: Option<&String>, theirs: Option<&String>) -> VocabularyError {
    let shown =
        |text: Option<&String>| text.map_or("nothing".into(), |t| format!("`{}`", short(t)));
    VocabularyError::JsonToken {
        id,
        file: shown(ours),
        json: shown(theirs),
    }
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
