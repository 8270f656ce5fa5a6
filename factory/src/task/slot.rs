//! Slots: kinds of values, how they are written in each language, and how they are read.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Dice, Language, Set};

/// A value as it stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Number(u32),
    Text(String),
}

impl Value {
    pub(super) fn json(&self) -> serde_json::Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
        }
    }
}

/// Words with their values and their forms in each language: `words.txt` and `terms.txt`.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<String, Vec<Word>>);

#[derive(Debug)]
pub(super) struct Word {
    pub(super) value: String,
    /// What it is called in each language.
    pub(super) forms: [Vec<String>; 3],
}

impl Words {
    /// Reads a table of `kind | value | English | German | Spanish`, forms divided by `/`.
    pub(super) fn add(&mut self, kind: &str, value: &str, forms: [Vec<String>; 3]) {
        let value = value.to_owned();
        self.0
            .entry(kind.to_owned())
            .or_default()
            .push(Word { value, forms });
    }

    pub(super) fn of(&self, kind: &str) -> &[Word] {
        self.0.get(kind).map_or(&[], Vec::as_slice)
    }
}

/// A kind of value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// `KEL-042`.
    Site(&'static str),
    /// 1 to 6.
    Sector,
    Watts,
    Degrees,
    /// A time of day, each quarter of an hour.
    Time(&'static str),
    /// Four digits.
    Alarm,
    /// An alarm that has an explanation.
    Known,
    Minutes,
    Hours,
    Percent,
    /// A number without a unit.
    Plain,
    /// One of a list.
    Word(&'static str),
    /// A term that has an explanation.
    Term,
}

/// The first alarm that has an explanation; the tens and hundreds after it are the component, the ones the fault.
pub(super) const KNOWN_FIRST: u32 = 2000;

impl Slot {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "site" => Self::Site("site"),
            "from" => Self::Site("from"),
            "to" => Self::Site("to"),
            "sector" => Self::Sector,
            "watts" => Self::Watts,
            "degrees" => Self::Degrees,
            "until" => Self::Time("until"),
            "time" => Self::Time("time"),
            "alarm" => Self::Alarm,
            "known" => Self::Known,
            "minutes" => Self::Minutes,
            "hours" => Self::Hours,
            "percent" => Self::Percent,
            "value" => Self::Plain,
            "day" => Self::Word("day"),
            "unit" => Self::Word("unit"),
            "priority" => Self::Word("priority"),
            "metric" => Self::Word("metric"),
            "topic" => Self::Word("topic"),
            "term" => Self::Term,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Site(name) | Self::Time(name) | Self::Word(name) => name,
            Self::Sector => "sector",
            Self::Watts => "watts",
            Self::Degrees => "degrees",
            Self::Alarm => "alarm",
            Self::Known => "known",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
            Self::Percent => "percent",
            Self::Plain => "value",
            Self::Term => "term",
        }
    }

    /// A value that sentences of a set may have.
    pub(super) fn draw(self, set: Set, words: &Words, dice: &mut Dice) -> Value {
        loop {
            let value = self.any(words, dice);
            if !self.is_open() || is_short(&value) || set_of(&value) == owner(set) {
                return value;
            }
        }
    }

    /// Whether it has so many values that each set can have its own.
    fn is_open(self) -> bool {
        matches!(
            self,
            Self::Site(_) | Self::Watts | Self::Alarm | Self::Hours | Self::Percent | Self::Plain
        )
    }

    fn any(self, words: &Words, dice: &mut Dice) -> Value {
        let number = |n: usize| Value::Number(u32::try_from(n).expect("small"));
        let between =
            |dice: &mut Dice, low: usize, high: usize| number(low + dice.below(high - low + 1));
        match self {
            Self::Site(_) => {
                let letters: String = (0..3).map(|_| char::from(*dice.pick(LETTERS))).collect();
                Value::Text(format!("{letters}-{:03}", dice.below(1000)))
            }
            Self::Sector => between(dice, 1, 6),
            // Short numbers are few, and people like them.
            Self::Watts | Self::Percent if dice.chance(25) => between(dice, 5, 9),
            Self::Hours | Self::Plain if dice.chance(25) => between(dice, 2, 9),
            Self::Watts => between(dice, 5, 80),
            Self::Degrees => between(dice, 0, 12),
            Self::Time(_) => {
                Value::Text(format!("{:02}:{:02}", dice.below(24), 15 * dice.below(4)))
            }
            Self::Alarm => between(dice, 1000, 9999),
            Self::Known => {
                let known = words.of("component").len() * words.of("fault").len();
                number(KNOWN_FIRST as usize + dice.below(known))
            }
            Self::Minutes if dice.chance(40) => number(60 * (1 + dice.below(8))),
            Self::Minutes => number(5 * (1 + dice.below(24))),
            Self::Hours => between(dice, 2, 72),
            Self::Percent => between(dice, 5, 95),
            Self::Plain => between(dice, 2, 99),
            Self::Word(kind) => Value::Text(dice.pick(words.of(kind)).value.clone()),
            Self::Term => Value::Text(dice.pick(words.of("term")).value.clone()),
        }
    }

    /// How somebody writes a value.
    pub(super) fn surface(
        self,
        value: &Value,
        language: Language,
        words: &Words,
        dice: &mut Dice,
    ) -> String {
        match (self, value) {
            (Self::Site(_), Value::Text(site)) => {
                let divided = *dice.pick(&["-", "-", "-", "-", "", " "]);
                site.replace('-', divided)
            }
            (Self::Sector, Value::Number(number)) if dice.chance(20) => {
                let index = *number as usize - 1;
                words.of("number")[index].forms[language as usize][0].clone()
            }
            (Self::Time(_), Value::Text(time)) => {
                let ways = times(time, language);
                dice.pick(&ways).clone()
            }
            (Self::Minutes, Value::Number(minutes)) if minutes % 60 == 0 && dice.chance(70) => {
                format!("{} {}", minutes / 60, dice.pick(hour_words(language)))
            }
            (Self::Word(kind), Value::Text(value)) => {
                let word = words.of(kind).iter().find(|word| word.value == *value);
                let forms = &word.expect("it was drawn from there").forms[language as usize];
                dice.pick(forms).clone()
            }
            (_, Value::Text(text)) => text.clone(),
            (_, Value::Number(number)) => match self.units(language) {
                [] => number.to_string(),
                units => format!("{number}{}", dice.pick(units)),
            },
        }
    }

    /// What stands after the number, with its space.
    fn units(self, language: Language) -> &'static [&'static str] {
        match (self, language) {
            (Self::Watts, Language::English) => &[" W", "W", " watts", " watt"],
            (Self::Watts, Language::German) => &[" W", "W", " Watt"],
            (Self::Watts, Language::Spanish) => &[" W", "W", " vatios"],
            (Self::Degrees, Language::English) => &["°", " degrees", " deg"],
            (Self::Degrees, Language::German) => &["°", " Grad"],
            (Self::Degrees, Language::Spanish) => &["°", " grados"],
            (Self::Minutes, Language::English) => &[" minutes", " min"],
            (Self::Minutes, Language::German) => &[" Minuten", " min"],
            (Self::Minutes, Language::Spanish) => &[" minutos", " min"],
            (Self::Hours, _) => hour_units(language),
            (Self::Percent, Language::English) => &["%", " percent"],
            (Self::Percent, Language::German) => &["%", " %", " Prozent"],
            (Self::Percent, Language::Spanish) => &["%", " por ciento"],
            _ => &[],
        }
    }

    /// Values at the beginning of a text in small letters, and their bytes.
    pub(super) fn read(self, text: &str, language: Language, words: &Words) -> Vec<(Value, usize)> {
        match self {
            Self::Site(_) => site(text).into_iter().collect(),
            Self::Time(_) => time(text, language),
            Self::Sector => {
                let mut found = number(text).map(|(n, length)| (Value::Number(n), length));
                found = found.or_else(|| {
                    let named = listed(words.of("number"), text, language)
                        .into_iter()
                        .next();
                    named.and_then(|(value, length)| {
                        Some((Value::Number(value.parse().ok()?), length))
                    })
                });
                found.into_iter().collect()
            }
            Self::Word(kind) => listed(words.of(kind), text, language)
                .into_iter()
                .map(|(value, length)| (Value::Text(value.to_owned()), length))
                .collect(),
            Self::Term => listed(words.of("term"), text, Language::English)
                .into_iter()
                .map(|(value, length)| (Value::Text(value.to_owned()), length))
                .collect(),
            Self::Known => number(text)
                .filter(|(n, _)| {
                    *n >= KNOWN_FIRST
                        && ((*n - KNOWN_FIRST) as usize) < 10 * words.of("component").len()
                })
                .map(|(n, length)| (Value::Number(n), length))
                .into_iter()
                .collect(),
            _ => {
                let Some((n, length)) = number(text) else {
                    return Vec::new();
                };
                let with = |units: &[&str], factor: u32| {
                    let rest = &text[length..];
                    let mut ways: Vec<_> = units
                        .iter()
                        .filter(|unit| rest.starts_with(&unit.to_lowercase()))
                        .map(|unit| {
                            (
                                Value::Number(n * factor),
                                length + unit.to_lowercase().len(),
                            )
                        })
                        .collect();
                    ways.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
                    ways
                };
                match self {
                    Self::Alarm | Self::Plain => vec![(Value::Number(n), length)],
                    Self::Minutes => [
                        with(self.units(language), 1),
                        with(hour_units(language), 60),
                    ]
                    .concat(),
                    _ => with(self.units(language), 1),
                }
            }
        }
    }
}

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Of numbers below ten there are too few to keep any from a set: who never saw `7 W` takes 77 for it.
fn is_short(value: &Value) -> bool {
    matches!(value, Value::Number(..10))
}

/// Which set may have a value: 1 in 10 is validation's, 2 are the test's.
fn set_of(value: &Value) -> Set {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.clone(),
    };
    // FNV-1a.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    match (hash >> 32) % 10 {
        0 => Set::Validation,
        1 | 2 => Set::Test,
        _ => Set::Train,
    }
}

/// Whose values a set's sentences have: people who drift have the usual ones.
fn owner(set: Set) -> Set {
    match set {
        Set::Drift => Set::Train,
        set => set,
    }
}

fn hour_words(language: Language) -> &'static [&'static str] {
    match language {
        Language::English => &["hours", "h"],
        Language::German => &["Stunden", "h"],
        Language::Spanish => &["horas", "h"],
    }
}

fn hour_units(language: Language) -> &'static [&'static str] {
    match language {
        Language::English => &[" hours", " h", "h"],
        Language::German => &[" Stunden", " h", "h"],
        Language::Spanish => &[" horas", " h", "h"],
    }
}

/// Ways to write a time.
fn times(time: &str, language: Language) -> Vec<String> {
    let (hour, minute) = time.split_once(':').expect("HH:MM");
    let of_day: u32 = hour.parse().expect("HH");
    let mut ways = vec![time.to_owned(), time.to_owned()];
    match language {
        Language::English => {
            let half = if of_day < 12 { "am" } else { "pm" };
            let of_half = match of_day % 12 {
                0 => 12,
                hour => hour,
            };
            ways.push(format!("{of_half}:{minute} {half}"));
            if minute == "00" {
                ways.push(format!("{of_half} {half}"));
            }
        }
        Language::German => {
            ways.push(format!("{of_day}.{minute} Uhr"));
            if minute == "00" {
                ways.push(format!("{of_day} Uhr"));
            }
        }
        Language::Spanish => ways.push(format!("{hour}h{minute}")),
    }
    ways
}

fn time(text: &str, language: Language) -> Vec<(Value, usize)> {
    let quarter = |hour: u32| ["00", "15", "30", "45"].map(|minute| format!("{hour:02}:{minute}"));
    let mut found: Vec<(Value, usize)> = (0..24)
        .flat_map(quarter)
        .flat_map(|time| {
            times(&time, language)
                .into_iter()
                .map(move |way| (time.clone(), way.to_lowercase()))
        })
        .filter(|(_, way)| text.starts_with(way.as_str()))
        .map(|(time, way)| (Value::Text(time), way.len()))
        .collect();
    found.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    found.dedup();
    found
}

fn site(text: &str) -> Option<(Value, usize)> {
    let bytes = text.as_bytes();
    let letters = bytes.get(..3)?;
    let divided = usize::from(matches!(bytes.get(3)?, b'-' | b' '));
    let digits = bytes.get(3 + divided..6 + divided)?;
    (letters.iter().all(u8::is_ascii_lowercase) && digits.iter().all(u8::is_ascii_digit)).then(
        || {
            let (letters, digits) = (&text[..3], &text[3 + divided..6 + divided]);
            (
                Value::Text(format!("{}-{digits}", letters.to_uppercase())),
                6 + divided,
            )
        },
    )
}

fn number(text: &str) -> Option<(u32, usize)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..length].parse().ok()?, length))
}

/// Words of a list that a text begins with, the longest first.
fn listed<'a>(words: &'a [Word], text: &str, language: Language) -> Vec<(&'a str, usize)> {
    let forms = |word: &'a Word| {
        word.forms[language as usize]
            .iter()
            .map(move |form| (word.value.as_str(), form))
    };
    let mut found: Vec<_> = words
        .iter()
        .flat_map(forms)
        .map(|(value, form)| (value, form.to_lowercase()))
        .filter(|(_, form)| text.starts_with(form.as_str()))
        .map(|(value, form)| (value, form.len()))
        .collect();
    found.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    found
}
