//! Pre-tokenizers: where byte-level BPE cuts a text into words before it merges inside each.
//!
//! Models define them as regular expressions with look-ahead, which backtrack: the regex engine of `tokenizers`
//! gives up after a million steps and then hands the rest of the text over as one word without saying so, and a
//! megabyte of spaces is enough. These scanners take the same cuts in one pass.

use tokenizers::utils::SysRegex;

use super::vocabulary::VocabularyError;

/// The rule by which a model cuts words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// llama.cpp's rule for files that name `default`: punctuation, then GPT-2, then digits in threes.
    Default,
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Each digit alone, then GPT-2.
    DigitsGpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, words of the vocabulary taken whole, BOS in front.
    Llama3,
    /// The same cuts without Llama 3's other two rules.
    Llama3Cuts,
    /// Like Llama 3 with `\p{N}` for `\p{N}{1,3}`.
    Qwen2,
}

/// Values of `tokenizer.ggml.pre` that mean these rules.
///
/// Source: llama.cpp `src/llama-vocab.cpp`; names for models that are not decoders are left out.
const NAMES: &[(&str, PreTokenizer)] = &[
    ("default", PreTokenizer::Default),
    ("gpt-2", PreTokenizer::Gpt2),
    ("phi-2", PreTokenizer::Gpt2),
    ("mpt", PreTokenizer::Gpt2),
    ("olmo", PreTokenizer::Gpt2),
    ("jais", PreTokenizer::Gpt2),
    ("gigachat", PreTokenizer::Gpt2),
    ("exaone4", PreTokenizer::Gpt2),
    ("trillion", PreTokenizer::Gpt2),
    ("granite-docling", PreTokenizer::Gpt2),
    ("smollm", PreTokenizer::DigitsGpt2),
    ("starcoder", PreTokenizer::DigitsGpt2),
    ("refact", PreTokenizer::DigitsGpt2),
    ("command-r", PreTokenizer::DigitsGpt2),
    ("codeshell", PreTokenizer::DigitsGpt2),
    ("exaone", PreTokenizer::DigitsGpt2),
    ("minerva-7b", PreTokenizer::DigitsGpt2),
    ("llama-bpe", PreTokenizer::Llama3),
    ("llama3", PreTokenizer::Llama3),
    ("llama-v3", PreTokenizer::Llama3),
    ("falcon3", PreTokenizer::Llama3),
    ("falcon-h1", PreTokenizer::Llama3),
    ("pixtral", PreTokenizer::Llama3),
    ("midm-2.0", PreTokenizer::Llama3),
    ("lfm2", PreTokenizer::Llama3),
    ("smaug-bpe", PreTokenizer::Llama3Cuts),
    ("dbrx", PreTokenizer::Llama3Cuts),
    ("chatglm-bpe", PreTokenizer::Llama3Cuts),
    ("glm4", PreTokenizer::Llama3Cuts),
    ("qwen2", PreTokenizer::Qwen2),
    ("deepseek-r1-qwen", PreTokenizer::Qwen2),
    ("stablelm2", PreTokenizer::Qwen2),
    ("hunyuan", PreTokenizer::Qwen2),
    ("megrez", PreTokenizer::Qwen2),
    ("kormo", PreTokenizer::Qwen2),
    ("solar-open", PreTokenizer::Qwen2),
];

impl PreTokenizer {
    /// By the name in the model file.
    pub fn from_name(name: &str) -> Result<PreTokenizer, VocabularyError> {
        if let Some(&(_, pre)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(pre);
        }
        let nearest = NAMES
            .iter()
            .map(|(known, _)| (strsim::damerau_levenshtein(known, name), *known))
            .min()
            .filter(|&(distance, _)| distance <= 3 && name.len() <= 64);
        let hint = match nearest {
            _ if name.is_empty() => {
                " (the file has no `tokenizer.ggml.pre`: convert the model again)".to_owned()
            }
            Some((_, known)) => format!(" (nearest: `{known}`)"),
            None => String::new(),
        };
        Err(VocabularyError::UnknownPreTokenizer {
            name: name.chars().take(64).collect(),
            hint,
        })
    }

    /// All names that [`Self::from_name`] knows.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|&(name, _)| name).collect()
    }

    /// A word that is a token is taken whole, even where merging would end elsewhere.
    pub(super) fn ignores_merges(self) -> bool {
        self == PreTokenizer::Llama3
    }

    /// The family puts a BOS in front unless the file says otherwise.
    pub(super) fn adds_bos(self) -> bool {
        self == PreTokenizer::Llama3
    }
}

/// Cuts texts by one rule.
pub(super) struct Splitter {
    pre: PreTokenizer,
    classes: Classes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    /// `\p{P}` and the signs that `default` takes for punctuation.
    Punctuation,
    Other,
}

impl Splitter {
    pub(super) fn new(pre: PreTokenizer) -> Splitter {
        Splitter {
            pre,
            classes: Classes::new(),
        }
    }

    /// Calls `word` with each word in order; together they are the text.
    ///
    /// Cost: O(n).
    pub(super) fn split(&self, text: &str, word: &mut dyn FnMut(&str)) {
        match self.pre {
            PreTokenizer::Gpt2 => cut(text, |rest| self.gpt2_word(rest), word),
            PreTokenizer::Llama3 | PreTokenizer::Llama3Cuts => {
                cut(text, |rest| self.llama3_word(rest, 3), word);
            }
            PreTokenizer::Qwen2 => cut(text, |rest| self.llama3_word(rest, 1), word),
            PreTokenizer::DigitsGpt2 => cut(
                text,
                |rest| self.run_or_not(rest, Class::Number, 1),
                &mut |part| {
                    cut(part, |rest| self.gpt2_word(rest), word);
                },
            ),
            PreTokenizer::Default => {
                cut(
                    text,
                    |rest| self.run_or_not(rest, Class::Punctuation, usize::MAX),
                    &mut |part| {
                        cut(part, |rest| self.gpt2_word(rest), &mut |part| {
                            cut(
                                part,
                                |rest| self.run_or_not(rest, Class::Number, usize::MAX),
                                &mut |part| {
                                    cut(part, ascii_threes, word);
                                },
                            );
                        });
                    },
                );
            }
        }
    }

    /// Length of the word that `rest` begins with, GPT-2's rule.
    fn gpt2_word(&self, rest: &str) -> usize {
        if let Some(length) = contraction(rest, |letter| letter) {
            return length;
        }
        let body = rest.strip_prefix(' ').unwrap_or(rest);
        if let Some(class) = body.chars().next().map(|letter| self.word_class(letter))
            && class != Class::Space
        {
            let length = self.run(body, |found| found == class, usize::MAX);
            return rest.len() - body.len() + length;
        }
        self.spaces(rest)
    }

    /// Length of the word that `rest` begins with, Llama 3's rule.
    fn llama3_word(&self, rest: &str, digits_max: usize) -> usize {
        if let Some(length) = contraction(rest, |letter| letter.to_ascii_lowercase()) {
            return length;
        }
        let mut letters = rest.chars();
        let first = letters
            .next()
            .map_or(Class::Other, |letter| self.word_class(letter));
        let first_bytes = rest.len() - letters.as_str().len();
        let is_letter = |class| class == Class::Letter;
        if first == Class::Letter {
            return self.run(rest, is_letter, usize::MAX);
        }
        if first == Class::Number {
            return self.run(rest, |class| class == Class::Number, digits_max);
        }
        // One sign or space that is not a line's end may lead a word of letters.
        if !rest.starts_with(['\r', '\n']) {
            let length = self.run(letters.as_str(), is_letter, usize::MAX);
            if length > 0 {
                return first_bytes + length;
            }
        }
        let body = rest.strip_prefix(' ').unwrap_or(rest);
        let signs = self.run(body, |class| class == Class::Other, usize::MAX);
        if signs > 0 {
            let after = &body[signs..];
            let ends = after.len() - after.trim_start_matches(['\r', '\n']).len();
            return rest.len() - body.len() + signs + ends;
        }
        let length = self.run(rest, |class| class == Class::Space, usize::MAX);
        match rest[..length].rfind(['\r', '\n']) {
            Some(end) => end + 1,
            None => self.spaces(rest),
        }
    }

    /// `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word after it.
    fn spaces(&self, rest: &str) -> usize {
        let length = self.run(rest, |class| class == Class::Space, usize::MAX);
        let last = rest[..length].chars().next_back().map_or(0, char::len_utf8);
        if length < rest.len() && length > last {
            length - last
        } else {
            length
        }
    }

    /// A run of `class`, at most `count_max` long, or all that is before the next one.
    fn run_or_not(&self, rest: &str, class: Class, count_max: usize) -> usize {
        let is = |letter| self.classes.of(letter) == class;
        let inside = rest.starts_with(is);
        let limit = if inside { count_max } else { usize::MAX };
        rest.char_indices()
            .enumerate()
            .find(|&(count, (_, letter))| count == limit || is(letter) != inside)
            .map_or(rest.len(), |(_, (place, _))| place)
    }

    /// Bytes of the leading characters whose class is wanted, at most `count_max` characters.
    fn run(&self, text: &str, wanted: impl Fn(Class) -> bool, count_max: usize) -> usize {
        text.char_indices()
            .enumerate()
            .find(|&(count, (_, letter))| count == count_max || !wanted(self.word_class(letter)))
            .map_or(text.len(), |(_, (place, _))| place)
    }

    /// The class for rules that do not tell punctuation from other signs.
    fn word_class(&self, letter: char) -> Class {
        match self.classes.of(letter) {
            Class::Punctuation => Class::Other,
            class => class,
        }
    }
}

/// Feeds `word` with pieces whose length `next` says.
fn cut(text: &str, next: impl Fn(&str) -> usize, word: &mut dyn FnMut(&str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let length = next(rest);
        assert!(length > 0, "every rule takes at least a character");
        let (piece, after) = rest.split_at(length);
        word(piece);
        rest = after;
    }
}

/// `[0-9][0-9][0-9]` and what is between.
fn ascii_threes(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let is_three = |window: &[u8]| window.iter().all(u8::is_ascii_digit);
    match bytes.windows(3).position(is_three) {
        Some(0) => 3,
        Some(place) => place,
        None => rest.len(),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` after folding.
fn contraction(rest: &str, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let bytes = rest.as_bytes();
    if bytes.first() != Some(&b'\'') {
        return None;
    }
    match (
        bytes.get(1).map(|&byte| fold(byte))?,
        bytes.get(2).map(|&byte| fold(byte)),
    ) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// Unicode general categories by ranges. The standard library's `is_alphabetic` is another set than `\p{L}`, so
/// the tables of the regex engine are read out once.
struct Classes {
    ascii: [Class; 128],
    /// Start of each range and its class; a range ends where the next begins.
    ranges: Vec<(char, Class)>,
}

impl Classes {
    fn new() -> Classes {
        let all: String = ('\0'..=char::MAX).collect();
        let mut runs = Vec::new();
        for (pattern, class) in [
            (r"\p{L}+", Class::Letter),
            (r"\p{N}+", Class::Number),
            (r"\s+", Class::Space),
            (r"[\p{P}$+<=>^~|]+", Class::Punctuation),
        ] {
            let regex = SysRegex::new(pattern).expect("a fixed pattern");
            runs.extend(
                regex
                    .find_iter(&all)
                    .map(|(start, end)| (start, end, class)),
            );
        }
        runs.sort_unstable_by_key(|&(start, ..)| start);
        let at = |place: usize| all[place..].chars().next();
        let mut ranges = vec![('\0', Class::Other)];
        let mut covered = 0;
        for (start, end, class) in runs {
            assert!(covered <= start, "a character has one class");
            if covered < start {
                ranges.extend(at(covered).map(|letter| (letter, Class::Other)));
            }
            ranges.extend(at(start).map(|letter| (letter, class)));
            covered = end;
        }
        ranges.extend(at(covered).map(|letter| (letter, Class::Other)));
        let mut classes = Classes {
            ascii: [Class::Other; 128],
            ranges,
        };
        for code in 0..128u8 {
            classes.ascii[usize::from(code)] = classes.by_range(char::from(code));
        }
        classes
    }

    fn of(&self, letter: char) -> Class {
        match self.ascii.get(letter as usize) {
            Some(&class) => class,
            None => self.by_range(letter),
        }
    }

    fn by_range(&self, letter: char) -> Class {
        let after = self.ranges.partition_point(|&(start, _)| start <= letter);
        self.ranges[after - 1].1
    }
}
