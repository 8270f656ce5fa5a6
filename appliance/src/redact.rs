//! What people and networks are known by is taken out of text before it touches the disk.
//!
//! ```text
//! text ─▶ fold ─┬─▶ one scan for hints ─▶ secrets, streets, spelled e-mail ─┬─▶ settle ─▶ number ─▶ [EMAIL_1]
//!               ├─▶ every `@`          ─▶ e-mail                            │
//!               └─▶ every digit        ─▶ cards, devices, phones, networks ─┘
//! ```
//!
//! A value found once in a record is taken everywhere in it and bears the same number everywhere, so that a dialogue
//! stays a dialogue. What was replaced is read again until nothing more is found; so redacting twice is redacting once.
//! `docs/privacy.md` says what is caught, how much of it, and what is not.

use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use address::Streets;
use email::WrittenOut;
use hint::{Hint, Hints};
use number::Numbers;

mod address;
mod check;
mod email;
mod fold;
mod hint;
mod label;
mod network;
mod number;
mod phone;
mod secret;
#[cfg(test)]
mod tests;

/// Stored with each record: what a later reader may expect to be gone. Raised with every change of what is found.
pub const RULES_VERSION: u32 = 1;

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Userinfo of a URL: `user:password` in `https://user:password@host`.
    Credentials,
    /// API keys, tokens, passwords, private keys.
    Key,
    /// E-mail addresses.
    Email,
    /// International bank account numbers.
    Iban,
    /// Serial numbers of SIM cards.
    Iccid,
    /// Numbers of payment cards.
    Card,
    /// Serial numbers of mobile devices, with or without the software version.
    Imei,
    /// Numbers of subscribers in a mobile network.
    Imsi,
    /// Hardware addresses, EUI-48 and EUI-64.
    Mac,
    /// Internet addresses, version 6.
    Ipv6,
    /// Internet addresses, version 4.
    Ipv4,
    /// Telephone numbers.
    Phone,
    /// Latitude with longitude.
    Coordinates,
    /// Postal addresses: street and number, with the town where it follows.
    Address,
}

impl Kind {
    /// All, the most specific first: of two finds of equal length the earlier kind wins.
    pub const ALL: [Self; 14] = [
        Self::Credentials,
        Self::Key,
        Self::Email,
        Self::Iban,
        Self::Iccid,
        Self::Card,
        Self::Imei,
        Self::Imsi,
        Self::Mac,
        Self::Ipv6,
        Self::Ipv4,
        Self::Phone,
        Self::Coordinates,
        Self::Address,
    ];

    /// The name in records. It does not change.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Key => "key",
            Self::Email => "email",
            Self::Iban => "iban",
            Self::Iccid => "iccid",
            Self::Card => "card",
            Self::Imei => "imei",
            Self::Imsi => "imsi",
            Self::Mac => "mac",
            Self::Ipv6 => "ipv6",
            Self::Ipv4 => "ipv4",
            Self::Phone => "phone",
            Self::Coordinates => "coordinates",
            Self::Address => "address",
        }
    }
}

/// How often each kind was replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u32; Kind::ALL.len()]);

impl Counts {
    /// Replacements of one kind.
    pub fn get(&self, kind: Kind) -> u32 {
        self.0[kind as usize]
    }

    /// Replacements of all kinds.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Kinds that were found, with their replacements.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u32)> {
        let all = Kind::ALL.into_iter().map(|kind| (kind, self.get(kind)));
        all.filter(|&(_, count)| count > 0)
    }
}

/// Text that may be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redacted {
    /// With placeholders.
    pub text: String,
    /// What was replaced.
    pub counts: Counts,
}

/// The texts of one record that may be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedactedAll {
    /// With placeholders, in the order given.
    pub texts: Vec<String>,
    /// What was replaced in all of them.
    pub counts: Counts,
}

/// Finds and replaces. Built once, shared by all requests; it keeps nothing of what it saw.
#[derive(Debug)]
pub struct Redactor {
    hints: Hints,
    streets: Streets,
    written_out: WrittenOut,
    numbers: Numbers,
}

/// A stretch of text to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Find {
    start: usize,
    end: usize,
    kind: Kind,
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new()
    }
}

impl Redactor {
    /// Builds the automata.
    ///
    /// Cost: some 25 ms.
    pub fn new() -> Self {
        Self {
            hints: Hints::new(),
            streets: Streets::new(),
            written_out: WrittenOut::new(),
            numbers: Numbers::new(),
        }
    }

    /// Replaces what is found in one text.
    ///
    /// Cost: O(bytes) for each of at most [`PASSES_MAX`] passes; text in which nothing is found is read once.
    pub fn redact(&self, text: &str) -> Redacted {
        let all = self.redact_all(&[text]);
        Redacted {
            text: all.texts.into_iter().next().unwrap_or_default(),
            counts: all.counts,
        }
    }

    /// Replaces what is found in the texts of one record: the same value has the same placeholder in all of them.
    /// A text in which even the last pass finds something is not stored: it becomes [`WITHHELD`].
    pub fn redact_all<S: AsRef<str>>(&self, texts: &[S]) -> RedactedAll {
        let mut record = Record::default();
        let mut texts: Vec<_> = texts.iter().map(|text| text.as_ref().to_owned()).collect();
        for text in &texts {
            record.skip_placeholders(text);
        }
        let mut open: Vec<_> = (0..texts.len()).collect();
        for _ in 0..PASSES_MAX {
            let known_before = record.known.len();
            let found_in = |&index: &usize| {
                let finds = self.finds(&texts[index]);
                record.replace(&mut texts[index], &finds)
            };
            let mut changed: Vec<_> = open.iter().copied().filter(found_in).collect();
            // What is new is looked for everywhere; what was known, only where text changed.
            let places: Vec<_> = if record.known.len() > known_before {
                (0..texts.len()).collect()
            } else {
                changed.clone()
            };
            changed.extend(record.replace_known(&mut texts, &places));
            changed.sort_unstable();
            changed.dedup();
            open = changed;
            if open.is_empty() {
                break;
            }
        }
        for index in open {
            WITHHELD.clone_into(&mut texts[index]);
        }
        RedactedAll {
            texts,
            counts: record.counts,
        }
    }

    /// What one reading finds, in order and apart from each other, as places of the text given.
    fn finds(&self, text: &str) -> Vec<Find> {
        let folded = fold::fold(text);
        let text = folded.text();
        let mut finds = Vec::new();
        self.numbers.find(text, &mut finds);
        email::find(text, &self.written_out, &mut finds);
        let mut secret_end = 0;
        self.hints.each(text, |hint, place| {
            let find = match hint {
                // Inside of a long secret everything looks like the start of another.
                Hint::Secret(_) if place.start < secret_end => None,
                Hint::Secret(form) => {
                    let find = secret::at(text, form, place);
                    secret_end = find.map_or(secret_end, |find| find.end);
                    find
                }
                Hint::AtMark => self.written_out.around_mark(text, place),
                Hint::DotWord => self.written_out.around_words(text, place),
                Hint::Street(form) => self.streets.around(text, form, place),
            };
            finds.extend(find);
        });
        let mut finds = settle(finds);
        for find in &mut finds {
            let Range { start, end } = folded.source(find.start..find.end);
            (find.start, find.end) = (start, end);
        }
        finds
    }
}

/// Of finds that overlap, keeps userinfo of URLs (an e-mail rule sees `password@host` there), then the longest, then
/// the most specific.
fn settle(mut finds: Vec<Find>) -> Vec<Find> {
    finds.sort_by_key(|find| {
        let length = find.end - find.start;
        let url = find.kind == Kind::Credentials;
        (!url, std::cmp::Reverse(length), find.kind, find.start)
    });
    let mut kept: BTreeMap<usize, Find> = BTreeMap::new();
    for find in finds {
        // Kept ones are apart, so the last that starts before the end of this one decides.
        let before = kept.range(..find.end).next_back();
        if before.is_none_or(|(_, before)| before.end <= find.start) {
            kept.insert(find.start, find);
        }
    }
    kept.into_values().collect()
}

/// What is known of one record.
#[derive(Debug, Default)]
struct Record {
    /// Values in their plain form, with their numbers.
    numbers: BTreeMap<(Kind, String), u32>,
    /// Values as they stood there, if they are looked for elsewhere.
    known: BTreeMap<String, (Kind, u32)>,
    /// Highest number of each kind.
    highest: [u32; Kind::ALL.len()],
    counts: Counts,
}

impl Record {
    /// Placeholders that somebody wrote keep their numbers for themselves.
    fn skip_placeholders(&mut self, text: &str) {
        for (_, kind, number) in fold::placeholders(text) {
            let highest = &mut self.highest[kind as usize];
            *highest = number.max(*highest);
        }
    }

    /// Whether there was something.
    fn replace(&mut self, text: &mut String, finds: &[Find]) -> bool {
        if finds.is_empty() {
            return false;
        }
        let mut replaced = String::with_capacity(text.len());
        let mut done = 0;
        for find in finds {
            let value = &text[find.start..find.end];
            let number = self.number(find.kind, value);
            replaced.push_str(&text[done..find.start]);
            push_placeholder(&mut replaced, find.kind, number);
            done = find.end;
        }
        replaced.push_str(&text[done..]);
        *text = replaced;
        true
    }

    fn number(&mut self, kind: Kind, value: &str) -> u32 {
        self.counts.0[kind as usize] += 1;
        let highest = &mut self.highest[kind as usize];
        let number = *self
            .numbers
            .entry((kind, plain(kind, value)))
            .or_insert_with(|| {
                *highest = highest.saturating_add(1);
                *highest
            });
        if is_telling(value) {
            self.known.insert(value.to_owned(), (kind, number));
        }
        number
    }

    /// Replaces known values wherever else they stand, and says in which texts.
    fn replace_known(&mut self, texts: &mut [String], places: &[usize]) -> Vec<usize> {
        if self.known.is_empty() || places.is_empty() {
            return Vec::new();
        }
        let builder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(self.known.keys());
        // It fails when a record has gigabytes of values; limits of requests are far below.
        let values = builder.expect("a record's values fit an automaton");
        let kinds: Vec<_> = self.known.values().copied().collect();
        let mut changed = Vec::new();
        for &index in places {
            let text = &mut texts[index];
            let mut replaced = String::new();
            let mut done = 0;
            for part in fold::between_placeholders(text) {
                for place in values.find_iter(&text[part.clone()]) {
                    let (kind, number) = kinds[place.pattern().as_usize()];
                    self.counts.0[kind as usize] += 1;
                    replaced.push_str(&text[done..part.start + place.start()]);
                    push_placeholder(&mut replaced, kind, number);
                    done = part.start + place.end();
                }
            }
            if done > 0 {
                replaced.push_str(&text[done..]);
                *text = replaced;
                changed.push(index);
            }
        }
        changed
    }
}

/// Whether a value says something by itself. A password `summer` does not: it would take a word from every sentence.
fn is_telling(value: &str) -> bool {
    value.len() >= KNOWN_BYTES_MIN && value.bytes().any(|byte| !byte.is_ascii_alphabetic())
}

/// What makes two spellings the same value.
fn plain(kind: Kind, value: &str) -> String {
    let folded = fold::fold(value);
    let value = folded.text();
    let digits = || {
        value
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    match kind {
        Kind::Iban | Kind::Mac => {
            let signs = value.chars().filter(char::is_ascii_alphanumeric);
            signs.map(|c| c.to_ascii_lowercase()).collect()
        }
        Kind::Iccid | Kind::Card | Kind::Imei | Kind::Imsi => digits(),
        Kind::Phone => {
            let digits = digits();
            digits.strip_prefix("00").unwrap_or(&digits).to_owned()
        }
        Kind::Email | Kind::Ipv6 => value.to_lowercase(),
        Kind::Credentials | Kind::Key | Kind::Ipv4 | Kind::Coordinates | Kind::Address => {
            value.to_owned()
        }
    }
}

fn push_placeholder(text: &mut String, kind: Kind, number: u32) {
    text.push('[');
    text.extend(kind.name().chars().map(|c| c.to_ascii_uppercase()));
    text.push('_');
    text.push_str(&number.to_string());
    text.push(']');
}

/// Readings of a text. A replacement may show something that its neighbour hid; more than two are rare.
pub const PASSES_MAX: u32 = 8;

/// Stands for a text that showed something new in every reading.
pub const WITHHELD: &str = "[WITHHELD]";

/// Values below this are replaced where a rule finds them, and nowhere else.
const KNOWN_BYTES_MIN: usize = 6;
