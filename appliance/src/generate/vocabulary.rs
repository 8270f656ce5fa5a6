//! A small but real tokenizer: byte-level BPE over a list of words.
//!
//! A word is reached by merges that grow it from its start, a character at a time: `Ġ n`, `Ġn e`, `Ġne t`. Each left
//! side holds the space before the word, so no merge inside the word can get in the way. Each prefix is a token too.
//!
//! ```text
//! ids   0..256     the bytes
//!       256..      prefixes and words
//!       ..         unused, as many as the shape's vocabulary asks for
//!       last four  <|begin|> <|end|> <|im_start|> <|im_end|>
//! ```

use std::collections::HashMap;

use outstation_wire::gguf::{GgufWriter, OwnedValue};

use super::Shape;
use super::words::WORDS;

/// Tokens, their types, and the merges that reach them.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    /// Pairs `left right`, the first to be applied first.
    pub(super) merges: Vec<String>,
    types: Vec<i32>,
    /// The token of each whole word with the space before it, in the order of the list.
    pub(super) words: Vec<u32>,
    ids: HashMap<String, u32>,
}

/// Ids of the control tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    pub(super) begin: u32,
    pub(super) message_end: u32,
}

impl Vocabulary {
    /// A vocabulary of `size` tokens, with as many words as have room.
    pub(super) fn new(size: u32) -> Self {
        let size = size as usize;
        assert!(
            size >= BYTES + CONTROL_TOKENS.len(),
            "a vocabulary holds all bytes"
        );
        let mut vocabulary = Self {
            tokens: Vec::with_capacity(size),
            merges: Vec::new(),
            types: Vec::with_capacity(size),
            words: Vec::new(),
            ids: HashMap::new(),
        };
        for text in byte_texts() {
            vocabulary.add(text.to_string(), NORMAL);
        }
        let limit = size - CONTROL_TOKENS.len();
        for word in WORDS.split_whitespace() {
            vocabulary.add_word(&format!("{SPACE}{word}"), limit);
        }
        for index in vocabulary.tokens.len()..limit {
            vocabulary.add(format!("<|unused_{index}|>"), UNUSED);
        }
        for text in CONTROL_TOKENS {
            vocabulary.add(text.to_owned(), CONTROL);
        }
        assert_eq!(
            vocabulary.tokens.len(),
            size,
            "the vocabulary has the size asked for"
        );
        assert_eq!(vocabulary.ids.len(), size, "no token stands twice");
        vocabulary
    }

    pub(super) fn control(&self) -> Control {
        Control {
            begin: self.ids["<|begin|>"],
            message_end: self.ids["<|im_end|>"],
        }
    }

    /// The token of a text, if there is one.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Writes the tokenizer's metadata.
    pub(super) fn put(self, shape: &Shape, writer: &mut GgufWriter) {
        let Control { begin, message_end } = self.control();
        let (pre, begins) = match shape.arch {
            "llama" => ("llama-bpe", true),
            _ => ("qwen2", false),
        };
        writer
            .put("tokenizer.ggml.model", OwnedValue::str("gpt2"))
            .put("tokenizer.ggml.pre", OwnedValue::str(pre))
            .put("tokenizer.ggml.tokens", OwnedValue::strings(self.tokens))
            .put("tokenizer.ggml.token_type", OwnedValue::i32s(self.types))
            .put("tokenizer.ggml.merges", OwnedValue::strings(self.merges))
            .put("tokenizer.ggml.bos_token_id", OwnedValue::U32(begin))
            .put("tokenizer.ggml.eos_token_id", OwnedValue::U32(message_end))
            .put("tokenizer.ggml.add_bos_token", OwnedValue::Bool(begins))
            .put("tokenizer.chat_template", OwnedValue::str(CHAT_TEMPLATE));
    }

    fn add(&mut self, text: String, kind: i32) -> u32 {
        let id = u32::try_from(self.tokens.len()).expect("below the vocabulary's size");
        self.ids.insert(text.clone(), id);
        self.tokens.push(text);
        self.types.push(kind);
        id
    }

    /// Adds a word and its prefixes, if all of them have room below `limit`.
    fn add_word(&mut self, word: &str, limit: usize) {
        let ends = word
            .char_indices()
            .map(|(at, letter)| (at, at + letter.len_utf8()))
            .skip(1);
        let missing = ends
            .clone()
            .filter(|&(_, end)| !self.ids.contains_key(&word[..end]))
            .count();
        if self.tokens.len() + missing > limit {
            return;
        }
        for (at, end) in ends {
            if !self.ids.contains_key(&word[..end]) {
                self.merges
                    .push(format!("{} {}", &word[..at], &word[at..end]));
                self.add(word[..end].to_owned(), NORMAL);
            }
        }
        self.words.push(self.ids[word]);
    }
}

/// A character for each byte, in the order of GPT-2's vocabulary: printable bytes stand for themselves, the others get
/// characters from U+0100 on. Source: openai/gpt-2 `src/encoder.py` (`bytes_to_unicode`).
fn byte_texts() -> impl Iterator<Item = char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=u8::MAX).filter(move |byte| !printable(byte));
    let stand_ins = others.zip('\u{100}'..).map(|(_, stand_in)| stand_in);
    (0..=u8::MAX)
        .filter(printable)
        .map(char::from)
        .chain(stand_ins)
}

const BYTES: usize = 256;

/// The space's stand-in: it starts a word inside a text.
const SPACE: &str = "Ġ";

const CONTROL_TOKENS: [&str; 4] = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"];

/// Token types. Source: llama.h `enum llama_token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// `ChatML`: the format that most engines know without being told.
const CHAT_TEMPLATE: &str = concat!(
    "{% for m in messages %}{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endfor %}",
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
);
