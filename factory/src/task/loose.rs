//! Sentences said loosely: words left out, added, or in another place, as people write who know that they are
//! understood.
//!
//! What a model learns from patterns alone is the patterns. Said loosely, a sentence keeps what decides about its
//! meaning: its values with the word before them, and words that few intents have.

use std::collections::{BTreeMap, BTreeSet};

use super::Dice;
use super::pattern::{Node, Said};

/// Words that say nothing about what is meant.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// Those that many patterns have: they may be missing.
    words: BTreeSet<String>,
    /// Those that may come in.
    fillers: Vec<String>,
}

/// A word of so many intents says nothing about any.
const INTENTS_MIN: usize = 4;

impl Common {
    /// Of patterns with their intents. `more` may come in, too.
    pub(super) fn new<'p>(
        patterns: impl Iterator<Item = (&'p str, &'p [Node])>,
        more: impl Iterator<Item = String>,
    ) -> Self {
        let mut intents: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (intent, nodes) in patterns {
            each_word(nodes, &mut |word| {
                intents.entry(word.to_owned()).or_default().insert(intent);
            });
        }
        let words: BTreeSet<String> = intents
            .into_iter()
            .filter(|(word, intents)| intents.len() >= INTENTS_MIN && is_plain(word))
            .map(|(word, _)| word)
            .collect();
        let fillers = words.iter().cloned().chain(more).collect();
        Self { words, fillers }
    }

    /// Says it loosely.
    pub(super) fn loosen(&self, said: Vec<Said>, dice: &mut Dice) -> Vec<Said> {
        // A value goes with the word before it: `to 40 W`, `alarm 2117`.
        let mut parts: Vec<Vec<Said>> = Vec::new();
        for word in said {
            let is_free = |part: &Vec<Said>| part.len() == 1 && part[0].1 && is_plain(&part[0].0);
            match parts.last_mut() {
                Some(part) if !word.1 && is_free(part) => part.push(word),
                _ => parts.push(vec![word]),
            }
        }
        for _ in 0..2 {
            if dice.chance(35) {
                let values: Vec<_> = (0..parts.len())
                    .filter(|&at| parts[at].iter().any(|word| !word.1))
                    .collect();
                let part = parts.remove(*dice.pick(&values));
                let to = dice.below(parts.len() + 1);
                parts.insert(to, part);
            }
        }
        parts.retain(|part| {
            let may_go = part.len() == 1 && self.words.contains(&part[0].0);
            !(may_go && dice.chance(20))
        });
        for _ in 0..*dice.pick(&[0, 0, 1, 1, 2, 3]) {
            let filler = if dice.chance(NONSENSE_PERCENT) {
                nonsense(dice)
            } else {
                dice.pick(&self.fillers).clone()
            };
            let at = dice.below(parts.len() + 1);
            parts.insert(at, vec![(filler, true)]);
        }
        let mut words: Vec<Said> = parts.into_iter().flatten().collect();
        while words
            .first()
            .is_some_and(|word| word.1 && !is_plain(&word.0))
        {
            words.remove(0);
        }
        words
    }
}

/// Of words that come in, so many of 100 mean nothing in any language: whoever learns expects the unheard.
const NONSENSE_PERCENT: usize = 30;

/// A word of one to three syllables.
fn nonsense(dice: &mut Dice) -> String {
    let mut word = String::new();
    for _ in 0..=dice.below(3) {
        word.push(*dice.pick(b"bcdfghjklmnprstvwz") as char);
        word.push(*dice.pick(b"aeiou") as char);
        if dice.chance(40) {
            word.push(*dice.pick(b"lmnrst") as char);
        }
    }
    word
}

/// Whether a word is none of the marks of punctuation.
fn is_plain(word: &str) -> bool {
    word.chars().all(char::is_alphabetic)
}

/// Every word and mark of a pattern.
pub(super) fn each_word<'p>(nodes: &'p [Node], see: &mut impl FnMut(&'p str)) {
    for node in nodes {
        match node {
            Node::Word(word) => see(word),
            Node::Choice(ways) => ways.iter().for_each(|way| each_word(way, see)),
            Node::Slot(_) => {}
        }
    }
}
