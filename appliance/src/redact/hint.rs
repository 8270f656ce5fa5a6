//! One scan for every word that a secret or an address has.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::{address, email, secret};

/// What a word may be part of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hint {
    Secret(secret::Form),
    /// `(at)`.
    AtMark,
    /// ` dot `.
    DotWord,
    Street(address::Form),
}

/// The automaton of all words, whatever their case.
#[derive(Debug)]
pub(super) struct Hints {
    words: AhoCorasick,
    hints: Vec<Hint>,
}

impl Hints {
    pub(super) fn new() -> Self {
        let mut all: Vec<(&str, Hint)> = Vec::new();
        all.extend(
            secret::WORDS
                .iter()
                .map(|&(word, form)| (word, Hint::Secret(form))),
        );
        all.extend(email::MARKS.iter().map(|&word| (word, Hint::AtMark)));
        all.extend(email::DOTS.iter().map(|&word| (word, Hint::DotWord)));
        for &(form, words) in &address::WORDS {
            all.extend(words.split(' ').map(|word| (word, Hint::Street(form))));
        }
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .kind(Some(AhoCorasickKind::DFA))
            .build(all.iter().map(|(word, _)| word))
            .expect("our own words");
        let hints = all.into_iter().map(|(_, hint)| hint).collect();
        Self { words, hints }
    }

    /// Calls with every hint and its place, by where they end.
    pub(super) fn each(&self, text: &str, mut with: impl FnMut(Hint, Range<usize>)) {
        for found in self.words.find_overlapping_iter(text) {
            with(self.hints[found.pattern().as_usize()], found.range());
        }
    }
}
