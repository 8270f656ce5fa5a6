//! The phrasings of all languages: sentences from a seed, and what a sentence means.

use std::collections::BTreeMap;

use serde_json::json;

use super::loose::Common;
use super::pattern::{self, Bindings, Eye, Mouth, Node};
use super::slot::{KNOWN_FIRST, Value, Words};
use super::{Dice, Language, Set};

/// One way to say one thing.
#[derive(Debug)]
struct Phrase {
    intent: String,
    set: Set,
    nodes: Vec<Node>,
}

/// All phrasings.
#[derive(Debug)]
pub struct Phrases {
    languages: [Vec<Phrase>; 3],
    common: [Common; 3],
    /// Intents in the order of the files.
    intents: Vec<String>,
    words: Words,
}

/// A sentence and its right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What somebody writes.
    pub text: String,
    /// What is to be answered.
    pub answer: String,
    /// In which language it is.
    pub language: Language,
    /// What it is about.
    pub intent: String,
}

/// How a sentence was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The right answer.
    pub answer: String,
    /// What it is about.
    pub intent: String,
    /// In which language it is.
    pub language: Language,
    /// Whose phrasing it is.
    pub set: Set,
    /// Typing errors in it.
    pub typos: u32,
}

const FILES: [&str; 3] = [
    include_str!("phrases/en.txt"),
    include_str!("phrases/de.txt"),
    include_str!("phrases/es.txt"),
];
const WORDS: &str = include_str!("phrases/words.txt");
const TERMS: &str = include_str!("phrases/terms.txt");
const COMMON: &str = include_str!("phrases/common.txt");

/// Percent of sentences with a typing error.
const TYPO_PERCENT: usize = 20;
/// Typing errors that are forgiven.
const TYPOS_MAX: u32 = 1;

impl Default for Phrases {
    fn default() -> Self {
        Self::new()
    }
}

impl Phrases {
    /// Those of this program.
    pub fn new() -> Self {
        let mut words = Words::default();
        for [kind, value, rest @ ..] in rows::<5>(WORDS) {
            words.add(kind, value, rest.map(|forms| split(forms, '/')));
        }
        for [term, meanings @ ..] in rows::<4>(TERMS) {
            let forms = [term; 3].map(|term| vec![term.to_owned()]);
            words.add("term", term, forms);
            words.add("meaning", term, meanings.map(|text| vec![text.to_owned()]));
        }
        let languages = FILES.map(phrases);
        let mut more = COMMON.lines().filter(|line| !line.starts_with('#'));
        let common = languages.each_ref().map(|phrases| {
            let learned = phrases.iter().filter(|phrase| phrase.set == Set::Train);
            let patterns = learned.map(|phrase| (&*phrase.intent, &*phrase.nodes));
            let more = more.next().expect("a line for each language");
            Common::new(patterns, more.split_whitespace().map(str::to_owned))
        });
        let mut intents: Vec<String> = Vec::new();
        for phrase in &languages[0] {
            if !intents.contains(&phrase.intent) {
                intents.push(phrase.intent.clone());
            }
        }
        Self {
            languages,
            common,
            intents,
            words,
        }
    }

    /// What sentences can be about.
    pub fn intents(&self) -> &[String] {
        &self.intents
    }

    /// Every word of the phrasings of an intent in a set.
    #[cfg(test)]
    pub(super) fn words_of(
        &self,
        language: Language,
        set: Set,
        intent: &str,
    ) -> std::collections::BTreeSet<&str> {
        let mut words = std::collections::BTreeSet::new();
        for phrase in &self.languages[language as usize] {
            if phrase.set == set && phrase.intent == intent {
                super::loose::each_word(&phrase.nodes, &mut |word| {
                    words.insert(word);
                });
            }
        }
        words
    }

    /// A sentence that somebody may write.
    pub fn ask(&self, language: Language, set: Set, dice: &mut Dice) -> Question {
        self.ask_loosely(language, set, 0, dice)
    }

    /// The same; of 100 so many are said loosely, which the oracle need not understand.
    pub fn ask_loosely(
        &self,
        language: Language,
        set: Set,
        percent: usize,
        dice: &mut Dice,
    ) -> Question {
        // Explanations are many, so they come more often.
        let kinds = self.intents.len() + 2;
        let index = dice.below(kinds).min(self.intents.len() - 1);
        let index = if index + 1 == self.intents.len() && dice.chance(50) {
            index - 1
        } else {
            index
        };
        let intent = &self.intents[index];
        let ways: Vec<_> = self.languages[language as usize]
            .iter()
            .filter(|phrase| phrase.set == set && phrase.intent == *intent)
            .collect();
        let phrase = dice.pick(&ways);
        let mut bindings = Bindings::new();
        let mut said = Vec::new();
        let mut mouth = Mouth {
            language,
            set,
            words: &self.words,
            dice,
        };
        pattern::say(&phrase.nodes, &mut mouth, &mut bindings, &mut said);
        if percent > 0 && dice.chance(percent) {
            said = self.common[language as usize].loosen(said, dice);
        }
        if dice.chance(TYPO_PERCENT) {
            let at = dice.below(said.len());
            if let (true, Some(wrong)) = (said[at].1, pattern::mistype(&said[at].0, dice)) {
                said[at].0 = wrong;
            }
        }
        let words: Vec<_> = said.into_iter().map(|(word, _)| word).collect();
        Question {
            text: written(&words.join(" "), intent, dice),
            answer: self.answer(intent, language, &bindings),
            language,
            intent: intent.clone(),
        }
    }

    /// What a sentence means, if it is one of these.
    pub fn read(&self, text: &str) -> Option<Reading> {
        let text = normal(text);
        let mut best: Option<(u32, Language, &Phrase, Bindings)> = None;
        for language in Language::ALL {
            for phrase in &self.languages[language as usize] {
                let typos_max = best
                    .as_ref()
                    .map_or(Some(TYPOS_MAX), |best| best.0.checked_sub(1));
                let Some(typos_max) = typos_max else {
                    break;
                };
                let eye = Eye {
                    language,
                    words: &self.words,
                    typos_max,
                };
                if let Some((typos, bindings)) = pattern::read(&phrase.nodes, &text, &eye) {
                    best = Some((typos, language, phrase, bindings));
                }
            }
        }
        best.map(|(typos, language, phrase, bindings)| Reading {
            answer: self.answer(&phrase.intent, language, &bindings),
            intent: phrase.intent.clone(),
            language,
            set: phrase.set,
            typos,
        })
    }

    fn answer(&self, intent: &str, language: Language, bindings: &Bindings) -> String {
        let form = |kind: &str, value: &str| {
            let word = self.words.of(kind).iter().find(|word| word.value == value);
            word.expect("the lists are complete").forms[language as usize][0].clone()
        };
        match (intent, bindings.get("known"), bindings.get("term")) {
            ("explain_alarm", Some(Value::Number(alarm)), _) => {
                let (component, fault) = ((alarm - KNOWN_FIRST) / 10, alarm % 10);
                let (component, fault) = (
                    form("component", &component.to_string()),
                    form("fault", &fault.to_string()),
                );
                format!("{alarm}: {component} {fault}")
            }
            ("explain_term", _, Some(Value::Text(term))) => form("meaning", term),
            _ => {
                let mut action = serde_json::Map::new();
                action.insert("action".to_owned(), json!(intent));
                for name in FIELDS {
                    if let Some(value) = bindings.get(name) {
                        action.insert(name.to_owned(), value.json());
                    }
                }
                serde_json::Value::Object(action).to_string()
            }
        }
    }
}

/// Fields of actions, in the order in which they stand.
const FIELDS: [&str; 18] = [
    "site", "from", "to", "sector", "unit", "alarm", "watts", "degrees", "percent", "metric",
    "value", "priority", "topic", "day", "time", "hours", "minutes", "until",
];

/// Rows of a table, its comments left out.
fn rows<const N: usize>(table: &str) -> impl Iterator<Item = [&str; N]> {
    let lines = table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        cells
            .try_into()
            .unwrap_or_else(|_| panic!("{N} cells: {line}"))
    })
}

fn split(text: &str, at: char) -> Vec<String> {
    text.split(at).map(|part| part.trim().to_owned()).collect()
}

/// Reads a file of phrasings. It is part of the program, so what is wrong with it is our bug.
fn phrases(file: &str) -> Vec<Phrase> {
    let mut macros = BTreeMap::new();
    let mut list: Option<(String, Set)> = None;
    let mut found = Vec::new();
    for line in file.lines() {
        let read = |text: &str, macros: &BTreeMap<_, _>| {
            pattern::parse(text, macros).unwrap_or_else(|error| panic!("{line}: {error}"))
        };
        if line.is_empty() || line.starts_with('#') {
            list = None;
        } else if let Some(definition) = line.strip_prefix("= ") {
            let (name, text) = definition.split_once(' ').expect("a name and a pattern");
            let nodes = read(text, &macros);
            macros.insert(name.to_owned(), nodes);
        } else if let Some((intent, set)) = &list {
            found.push(Phrase {
                intent: intent.clone(),
                set: *set,
                nodes: read(line, &macros),
            });
        } else {
            let (intent, set) = line.split_once(' ').expect("an intent and a set");
            let set = Set::from_name(set).unwrap_or_else(|| panic!("no set: {line}"));
            list = Some((intent.to_owned(), set));
        }
    }
    found
}

/// A sentence as people write: with or without a capital letter and a mark at the end.
fn written(words: &str, intent: &str, dice: &mut Dice) -> String {
    let mut text = words.replace(" ,", ",").replace(" :", ":");
    let end = if intent.starts_with("explain") || intent == "status" {
        "?"
    } else {
        "."
    };
    if dice.chance(40) {
        text += end;
    }
    if dice.chance(15) {
        return text.to_lowercase();
    }
    let first = text.chars().next();
    match first {
        Some(letter) if dice.chance(50) => {
            letter.to_uppercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

/// A sentence as patterns have it: small letters, marks as words of their own, none at the end.
fn normal(text: &str) -> String {
    let small = text.to_lowercase();
    let ended = small.trim_end_matches(['.', '?', '!', ' ']);
    let mut marked = String::with_capacity(ended.len() + 4);
    for word in ended.split_whitespace() {
        let (word, mark) = match word.char_indices().last() {
            Some((at, ',' | ':')) if at > 0 => word.split_at(at),
            _ => (word, ""),
        };
        for part in [word, mark].into_iter().filter(|part| !part.is_empty()) {
            if !marked.is_empty() {
                marked.push(' ');
            }
            marked.push_str(part);
        }
    }
    marked
}
