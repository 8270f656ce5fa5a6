//! Patterns: `set (the power of|) sector {sector} of {site} to {watts}`. They say sentences, and read them.

use std::collections::BTreeMap;

use super::slot::{Slot, Value, Words};
use super::{Dice, Language, Set};

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A word in small letters, or a mark of punctuation.
    Word(String),
    /// One of these.
    Choice(Vec<Vec<Node>>),
    /// A value.
    Slot(Slot),
}

/// Values by the slot's name.
pub(super) type Bindings = BTreeMap<&'static str, Value>;

/// Reads a pattern. `macros` are patterns by name.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str, macros: &BTreeMap<String, Vec<Node>>) -> Result<Vec<Node>, String> {
    let spaced = text
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('|', " | ");
    let mut tokens = spaced.split_whitespace().peekable();
    let nodes = sequence(&mut tokens, macros)?;
    match tokens.next() {
        Some(token) => Err(format!("a lone {token:?}")),
        None => Ok(nodes),
    }
}

type Tokens<'a, 'b> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn sequence(
    tokens: &mut Tokens<'_, '_>,
    macros: &BTreeMap<String, Vec<Node>>,
) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next_if(|token| !matches!(*token, ")" | "|")) {
        if token == "(" {
            let mut ways = vec![sequence(tokens, macros)?];
            while tokens.next_if_eq(&"|").is_some() {
                ways.push(sequence(tokens, macros)?);
            }
            tokens
                .next_if_eq(&")")
                .ok_or("a bracket that is not closed")?;
            nodes.push(Node::Choice(ways));
        } else if let Some(name) = token.strip_prefix('{') {
            let name = name.strip_suffix('}').ok_or("a slot ends with }")?;
            nodes.push(Node::Slot(
                Slot::from_name(name).ok_or_else(|| format!("no slot {name:?}"))?,
            ));
        } else if let Some(name) = token.strip_prefix('<') {
            let name = name.strip_suffix('>').ok_or("a name ends with >")?;
            nodes.extend_from_slice(macros.get(name).ok_or_else(|| format!("no <{name}>"))?);
        } else {
            nodes.push(Node::Word(token.to_owned()));
        }
    }
    Ok(nodes)
}

/// What saying needs.
pub(super) struct Mouth<'a> {
    pub(super) language: Language,
    /// Whose values.
    pub(super) set: Set,
    pub(super) words: &'a Words,
    pub(super) dice: &'a mut Dice,
}

/// A word of a sentence, and whether a typing error may come into it.
pub(super) type Said = (String, bool);

/// Says a pattern with values of its own choice, which come into `bindings`.
pub(super) fn say(
    nodes: &[Node],
    mouth: &mut Mouth<'_>,
    bindings: &mut Bindings,
    out: &mut Vec<Said>,
) {
    for node in nodes {
        match node {
            Node::Word(word) => out.push((word.clone(), true)),
            Node::Choice(ways) => {
                let way = mouth.dice.pick(ways);
                say(way, mouth, bindings, out);
            }
            Node::Slot(slot) => {
                let value = loop {
                    let value = slot.draw(mouth.set, mouth.words, mouth.dice);
                    // Traffic does not go from a site to itself.
                    if slot.name() != "to" || bindings.get("from") != Some(&value) {
                        break value;
                    }
                };
                out.push((
                    slot.surface(&value, mouth.language, mouth.words, mouth.dice),
                    false,
                ));
                bindings.insert(slot.name(), value);
            }
        }
    }
}

/// How a text was read.
pub(super) struct Eye<'a> {
    pub(super) language: Language,
    pub(super) words: &'a Words,
    /// Typing errors at most.
    pub(super) typos_max: u32,
}

/// Reads a text, in small letters and with a space before each mark: the values of the way with the fewest typos.
pub(super) fn read(nodes: &[Node], text: &str, eye: &Eye<'_>) -> Option<(u32, Bindings)> {
    let mut best: Option<(u32, Bindings)> = None;
    let mut bindings = Bindings::new();
    follow(
        nodes,
        text,
        eye,
        0,
        &mut bindings,
        &mut |rest, typos, bindings| {
            if rest.is_empty() && best.as_ref().is_none_or(|(fewest, _)| typos < *fewest) {
                best = Some((typos, bindings.clone()));
            }
        },
    );
    best
}

/// What happens with the rest of a text.
type Then<'a> = &'a mut dyn FnMut(&str, u32, &mut Bindings);

fn follow(
    nodes: &[Node],
    text: &str,
    eye: &Eye<'_>,
    typos: u32,
    bindings: &mut Bindings,
    then: Then<'_>,
) {
    let Some((node, after)) = nodes.split_first() else {
        return then(text, typos, bindings);
    };
    match node {
        Node::Word(word) => {
            let (said, rest) = text.split_once(' ').unwrap_or((text, ""));
            let more = match said == word {
                true => 0,
                false if is_typo_of(said, word) => 1,
                false => return,
            };
            if typos + more <= eye.typos_max {
                follow(after, rest, eye, typos + more, bindings, then);
            }
        }
        Node::Choice(ways) => {
            for way in ways {
                follow(
                    way,
                    text,
                    eye,
                    typos,
                    bindings,
                    &mut |rest, typos, bindings| {
                        follow(after, rest, eye, typos, bindings, then);
                    },
                );
            }
        }
        Node::Slot(slot) => {
            for (value, length) in slot.read(text, eye.language, eye.words) {
                let rest = &text[length..];
                let Some(rest) = rest.strip_prefix(' ').or(rest.is_empty().then_some(rest)) else {
                    continue;
                };
                let before = bindings.insert(slot.name(), value);
                follow(after, rest, eye, typos, bindings, then);
                match before {
                    Some(value) => bindings.insert(slot.name(), value),
                    None => bindings.remove(slot.name()),
                };
            }
        }
    }
}

/// Letters that a word must have for a typing error to be made in it, and forgiven.
const TYPO_LETTERS_MIN: usize = 5;

/// Makes a typing error in a word that is long enough: two letters change places, one is missing, or one comes twice.
pub(super) fn mistype(word: &str, dice: &mut Dice) -> Option<String> {
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() < TYPO_LETTERS_MIN || !letters.iter().all(|c| c.is_alphabetic()) {
        return None;
    }
    let at = 1 + dice.below(letters.len() - 2);
    match dice.below(3) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at)),
        _ => letters.insert(at, letters[at]),
    }
    Some(letters.into_iter().collect())
}

/// Whether a word is another one with one such error.
fn is_typo_of(said: &str, word: &str) -> bool {
    let said: Vec<char> = said.chars().collect();
    let word: Vec<char> = word.chars().collect();
    if word.len() < TYPO_LETTERS_MIN || said.len().abs_diff(word.len()) > 1 || said.is_empty() {
        return false;
    }
    let same = said.iter().zip(&word).take_while(|(a, b)| a == b).count();
    let (s, w) = (&said[same..], &word[same..]);
    match said.len().cmp(&word.len()) {
        std::cmp::Ordering::Less => s == &w[1..],
        std::cmp::Ordering::Greater => &s[1..] == w,
        std::cmp::Ordering::Equal => {
            s.len() >= 2 && (s[0], s[1]) == (w[1], w[0]) && s[2..] == w[2..]
        }
    }
}
