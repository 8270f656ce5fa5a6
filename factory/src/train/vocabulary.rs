//! Byte-level BPE, learned from the data: the pre-tokenizer `qwen2`, which gives each digit a token of its own, so that
//! numbers are copied digit by digit.

use std::collections::{BTreeMap, HashSet};

use outstation_wire::gguf::{Gguf, GgufWriter, OwnedValue};
use serde::Deserialize;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    SplitDelimiterBehavior, Tokenizer,
};

use super::{Example, TrainError};
use crate::chat::Message;
use crate::task::Dice;

/// What parts texts before pairs are merged, as Qwen 2 has it.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Control tokens, ids 0 to 3. The first ends a message.
const CONTROL: [&str; 4] = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"];
const END: u32 = 0;

/// How often a word comes that merges are learned from.
const WORD_TIMES_MIN: u64 = 10;

const CHAT_TEMPLATE: &str = concat!(
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
);

/// Tokens and how texts become them.
pub struct Vocabulary {
    tokenizer: Tokenizer,
}

impl Vocabulary {
    /// Learns merges from texts until there are `size` tokens. The same texts, the same tokens.
    ///
    /// Words that come less than [`WORD_TIMES_MIN`] times teach nothing: names and numbers would otherwise be cut here
    /// and there, each time elsewhere, and what is cut alike everywhere is easier to copy.
    pub fn learn<'a>(
        texts: impl Iterator<Item = &'a str>,
        size: usize,
    ) -> Result<Self, TrainError> {
        let mut tokenizer = Self::parts(BPE::default())?;
        let split = Self::split()?;
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        for text in texts {
            let mut parts = PreTokenizedString::from(text);
            split
                .pre_tokenize(&mut parts)
                .map_err(TrainError::Tokenizer)?;
            for (word, ..) in parts.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(CONTROL.map(|token| AddedToken::from(token, true)).into())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<_>>())
            .build();
        let mut trainer = TrainerWrapper::from(trainer);
        let known = words.iter().filter(|(_, times)| **times >= WORD_TIMES_MIN);
        let texts = known.flat_map(|(word, times)| {
            std::iter::repeat_n(word.as_str(), usize::try_from(*times).unwrap_or(usize::MAX))
        });
        tokenizer
            .train(&mut trainer, texts)
            .map_err(TrainError::Tokenizer)?;
        Ok(Self { tokenizer })
    }

    /// Reads what [`json`](Self::json) wrote.
    pub fn from_json(json: &str) -> Result<Self, TrainError> {
        let tokenizer = json.parse().map_err(TrainError::Tokenizer)?;
        Ok(Self { tokenizer })
    }

    /// Reads what [`put`](Self::put) wrote.
    pub(super) fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, TrainError> {
        let refused = |reason: &str| TrainError::Base(reason.to_owned());
        if gguf.str("tokenizer.ggml.pre")? != Some("qwen2") {
            return Err(refused(
                "its pre-tokenizer is not qwen2, which the trainer's own models have",
            ));
        }
        let tokens = gguf
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| refused("it has no tokens"))?;
        let merges = gguf
            .strings("tokenizer.ggml.merges")?
            .ok_or_else(|| refused("it has no merges"))?;
        let ids: Vec<String> = tokens.iter().map(str::to_owned).collect();
        if !ids.iter().take(CONTROL.len()).eq(CONTROL.iter()) {
            return Err(refused(
                "its control tokens are not those of the trainer's own models",
            ));
        }
        let pairs = merges.iter().map(|merge| {
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| refused("a merge is two tokens"))?;
            Ok((left.to_owned(), right.to_owned()))
        });
        let numbered = (0_u32..).zip(ids).map(|(id, token)| (token, id));
        let bpe = BPE::builder()
            .vocab_and_merges(
                numbered.collect::<Vocab>(),
                pairs.collect::<Result<_, TrainError>>()?,
            )
            .build()
            .map_err(TrainError::Tokenizer)?;
        if bpe.get_vocab_size() != tokens.iter().count() {
            return Err(refused("a token stands twice"));
        }
        let mut tokenizer = Self::parts(bpe)?;
        tokenizer
            .add_special_tokens(CONTROL.map(|token| AddedToken::from(token, true)))
            .map_err(TrainError::Tokenizer)?;
        Ok(Self { tokenizer })
    }

    fn split() -> Result<Split, TrainError> {
        let pattern = SplitPattern::Regex(QWEN2.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split.map_err(TrainError::Tokenizer)
    }

    /// A tokenizer of some merges.
    fn parts(bpe: BPE) -> Result<Tokenizer, TrainError> {
        let mut tokenizer = Tokenizer::new(bpe);
        let split = Self::split()?;
        let bytes = ByteLevel::new(false, true, false);
        let parts = Sequence::new(vec![split.into(), bytes.into()]);
        tokenizer
            .with_pre_tokenizer(Some(parts))
            .with_decoder(Some(bytes));
        Ok(tokenizer)
    }

    /// A `tokenizer.json`, as Hugging Face's libraries read it.
    pub fn json(&self) -> Result<String, TrainError> {
        self.tokenizer
            .to_string(true)
            .map_err(TrainError::Tokenizer)
    }

    /// Tokens.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TrainError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(TrainError::Tokenizer)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Messages before an answer, and the token that it begins after.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, TrainError> {
        self.prompt_cut(messages, 0, &mut Dice::new(0))
    }

    fn prompt_cut(
        &self,
        messages: &[Message],
        percent: usize,
        dice: &mut Dice,
    ) -> Result<Vec<u32>, TrainError> {
        let mut ids = Vec::new();
        let role = |role: &str| {
            CONTROL
                .iter()
                .position(|token| token[2..].strip_suffix("|>") == Some(role))
        };
        for Message {
            role: name,
            content,
        } in messages
        {
            let token = role(name).ok_or_else(|| TrainError::Role(name.clone()))?;
            ids.push(u32::try_from(token).expect("four"));
            for part in cut(content, percent, dice) {
                self.encode(part, &mut ids)?;
            }
            ids.push(END);
        }
        ids.push(u32::try_from(role("assistant").expect("it is one")).expect("four"));
        Ok(ids)
    }

    /// A chat whose last message is the answer to learn.
    pub fn example(&self, chat: &[Message]) -> Result<Example, TrainError> {
        self.example_cut(chat, 0, &mut Dice::new(0))
    }

    /// The same; in every other prompt words are cut at `percent` of their inner places besides, so that a word is
    /// known by its letters, too: mistyped, in capitals, or never seen.
    ///
    /// Source: Provilkov et al. 2020, BPE-dropout. Here the places are drawn and not the merges, so that any tokenizer
    /// does it.
    pub fn example_cut(
        &self,
        chat: &[Message],
        percent: usize,
        dice: &mut Dice,
    ) -> Result<Example, TrainError> {
        let Some((answer, before)) = chat.split_last() else {
            return Err(TrainError::NoExamples);
        };
        let percent = if percent > 0 && dice.chance(50) {
            percent
        } else {
            0
        };
        let mut ids = self.prompt_cut(before, percent, dice)?;
        let answer_from = ids.len();
        self.encode(&answer.content, &mut ids)?;
        ids.push(END);
        Ok(Example { ids, answer_from })
    }

    /// The text of some tokens, control tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TrainError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(TrainError::Tokenizer)
    }

    /// The token that ends an answer.
    pub fn end(&self) -> u32 {
        END
    }

    /// Writes the tokenizer's metadata.
    pub(super) fn put(&self, writer: &mut GgufWriter) -> Result<(), TrainError> {
        #[derive(Deserialize)]
        struct Whole {
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            merges: Vec<(String, String)>,
        }
        let whole: Whole = serde_json::from_str(&self.json()?).expect("it was just written");
        let size = u32::try_from(self.size()).expect("a vocabulary is small");
        let token = |id| self.tokenizer.id_to_token(id).expect("ids have no gaps");
        let control = u32::try_from(CONTROL.len()).expect("four");
        writer
            .put("tokenizer.ggml.model", OwnedValue::str("gpt2"))
            .put("tokenizer.ggml.pre", OwnedValue::str("qwen2"))
            .put(
                "tokenizer.ggml.tokens",
                OwnedValue::strings((0..size).map(token)),
            )
            .put(
                "tokenizer.ggml.token_type",
                OwnedValue::i32s((0..size).map(|id| {
                    if id < control {
                        TYPE_CONTROL
                    } else {
                        TYPE_NORMAL
                    }
                })),
            )
            .put(
                "tokenizer.ggml.merges",
                OwnedValue::strings(
                    whole
                        .model
                        .merges
                        .iter()
                        .map(|(left, right)| format!("{left} {right}")),
                ),
            )
            .put("tokenizer.ggml.eos_token_id", OwnedValue::U32(END))
            .put("tokenizer.ggml.padding_token_id", OwnedValue::U32(END))
            .put("tokenizer.ggml.add_bos_token", OwnedValue::Bool(false))
            .put("tokenizer.chat_template", OwnedValue::str(CHAT_TEMPLATE));
        Ok(())
    }
}

/// Parts of a text, cut at `percent` of the places between two letters or digits.
fn cut<'t>(text: &'t str, percent: usize, dice: &mut Dice) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let (mut from, mut inside) = (0, false);
    for (at, letter) in text.char_indices() {
        let is_letter = letter.is_alphanumeric();
        if percent > 0 && inside && is_letter && dice.chance(percent) {
            parts.push(&text[from..at]);
            from = at;
        }
        inside = is_letter;
    }
    parts.push(&text[from..]);
    parts
}

/// Token types. Source: llama.h `enum llama_token_type`.
const TYPE_NORMAL: i32 = 1;
const TYPE_CONTROL: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        let texts = [
            "set sector 3 of KEL-042 to 40 W",
            "set sector 5 of ABC-777 to 12 W",
            "größe für sektor",
        ];
        Vocabulary::learn(texts.into_iter().cycle().take(30), 300).unwrap()
    }

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    #[test]
    fn texts_come_back_and_digits_are_tokens() {
        let vocabulary = vocabulary();
        assert!(
            vocabulary.size() <= 300 && vocabulary.size() > 270,
            "{}",
            vocabulary.size()
        );
        for text in [
            "set sector 1234 of KEL-042",
            "größe",
            "never seen: ŝ 漢 \u{1f600}\n\t",
            "",
        ] {
            let mut ids = Vec::new();
            vocabulary.encode(text, &mut ids).unwrap();
            assert_eq!(vocabulary.decode(&ids).unwrap(), text);
        }
        let mut ids = Vec::new();
        vocabulary.encode("1234", &mut ids).unwrap();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn a_chat_is_what_the_template_makes_of_it() {
        let vocabulary = vocabulary();
        let chat = [message("user", "set"), message("assistant", "40 W")];
        let example = vocabulary.example(&chat).unwrap();
        assert_eq!((example.ids[0], *example.ids.last().unwrap()), (1, END));
        assert_eq!(
            example.ids[example.answer_from - 2..example.answer_from],
            [END, 2]
        );
        assert_eq!(
            vocabulary
                .decode(&example.ids[example.answer_from..])
                .unwrap(),
            "40 W"
        );
        let odd = vocabulary.prompt(&[message("tool", "x")]);
        assert!(matches!(odd, Err(TrainError::Role(role)) if role == "tool"));
    }

    #[test]
    fn cut_words_are_the_same_text_in_more_tokens() {
        let vocabulary = vocabulary();
        let chat = [
            message("user", "set sector 3, größe"),
            message("assistant", "set sector"),
        ];
        let whole = vocabulary.example(&chat).unwrap();
        let mut dice = Dice::new(1);
        let mut lengths = HashSet::new();
        for _ in 0..20 {
            let cut = vocabulary.example_cut(&chat, 40, &mut dice).unwrap();
            assert_eq!(
                vocabulary.decode(&cut.ids).unwrap(),
                vocabulary.decode(&whole.ids).unwrap()
            );
            // The answer is not cut.
            assert_eq!(cut.ids[cut.answer_from..], whole.ids[whole.answer_from..]);
            lengths.insert(cut.ids.len());
        }
        assert!(lengths.len() > 3 && lengths.contains(&whole.ids.len()));
        assert_eq!(
            cut("größe 12", 100, &mut dice),
            ["g", "r", "ö", "ß", "e 1", "2"]
        );
    }

    #[test]
    fn it_is_stored_as_json() {
        let vocabulary = vocabulary();
        let again = Vocabulary::from_json(&vocabulary.json().unwrap()).unwrap();
        let chat = [message("user", "set sector"), message("assistant", "größe")];
        assert_eq!(
            again.example(&chat).unwrap(),
            vocabulary.example(&chat).unwrap()
        );
    }
}
