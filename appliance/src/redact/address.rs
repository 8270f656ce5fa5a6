//! Postal addresses: a word for a street, a number, and what follows them. A heuristic: streets have any name.

use std::ops::Range;

use regex::Regex;

use super::{Find, Kind};

/// How addresses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 12 Baker Street
    English,
    /// Bakerstraße 12
    German,
    /// 12, rue du Boulanger
    French,
    /// Calle del Panadero, 12
    Spanish,
    /// P.O. Box 12
    Box,
}

/// Words of streets.
pub(super) const WORDS: [(Form, &str); 5] = [
    (
        Form::English,
        "street avenue road lane drive boulevard court place square terrace highway crescent parkway close way st ave rd ln dr \
         blvd hwy pkwy ct",
    ),
    (
        Form::German,
        "straße strasse str. weg platz allee gasse ring damm ufer chaussee markt linden anger graben hof",
    ),
    (
        Form::French,
        "rue avenue av. boulevard bd place chemin allée allee impasse quai route cours square passage",
    ),
    (
        Form::Spanish,
        "calle c/ avenida avda av. plaza paseo camino carretera ronda travesía travesia vía via",
    ),
    (Form::Box, "box postfach boîte apartado"),
];

/// The patterns, each read in a window around its word.
#[derive(Debug)]
pub(super) struct Streets {
    english: Regex,
    german: Regex,
    french: Regex,
    spanish: Regex,
    boxes: Regex,
}

impl Streets {
    pub(super) fn new() -> Self {
        let regex = |pattern: &str| Regex::new(pattern).expect("our own pattern");
        Self {
            english: regex(ENGLISH),
            german: regex(GERMAN),
            french: regex(FRENCH),
            spanish: regex(SPANISH),
            boxes: regex(BOX),
        }
    }

    /// The address that a word is part of.
    pub(super) fn around(&self, text: &str, form: Form, word: Range<usize>) -> Option<Find> {
        let after = text[word.end..].chars().next().unwrap_or(' ');
        let before = text[..word.start].chars().next_back().unwrap_or(' ');
        if after.is_alphanumeric() || form != Form::German && before.is_alphanumeric() {
            return None;
        }
        let from = text.floor_char_boundary(word.start.saturating_sub(BEFORE_BYTES));
        let to = text.floor_char_boundary(text.len().min(word.end + AFTER_BYTES));
        // Most streets in a text have no number near them.
        if !text.as_bytes()[from..to].iter().any(u8::is_ascii_digit) {
            return None;
        }
        let regex = match form {
            Form::English => &self.english,
            Form::German => &self.german,
            Form::French => &self.french,
            Form::Spanish => &self.spanish,
            Form::Box => &self.boxes,
        };
        let mut found = regex.find_iter(&text[from..to]);
        let found = found
            .find(|found| from + found.start() <= word.start && from + found.end() >= word.end)?;
        let (start, end) = (from + found.start(), from + found.end());
        let end = start
            + text[start..end]
                .trim_end_matches(|c: char| !c.is_alphanumeric() && !"º°ª".contains(c))
                .len();
        let tied = text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '.');
        let place = text[start..end].to_lowercase();
        let other = form == Form::German && NO_STREETS.iter().any(|no| place.contains(no));
        let unit = UNITS.iter().any(|unit| {
            let rest = text[end..].trim_start_matches(' ');
            rest.strip_prefix(unit)
                .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        });
        (!tied && !other && !unit).then_some(Find {
            start,
            end,
            kind: Kind::Address,
        })
    }
}

const ENGLISH: &str = r"(?x)(?-u:\b) [0-9]{1,5}[A-Za-z]?(?:\s?[-/]\s?[0-9]{1,4})? \x20 (?:(?:[NSEW]\.?|North|South|East|West)\x20)?
    (?:(?:\p{Lu}[\p{L}'’.-]*|[0-9]{1,3}(?:st|nd|rd|th)|of|the)\x20){1,4}
    (?:Street|Avenue|Road|Lane|Drive|Boulevard|Court|Place|Square|Terrace|Highway|Crescent|Parkway|Close|Way
      |St(?-u:\b)|Ave(?-u:\b)|Rd(?-u:\b)|Ln(?-u:\b)|Dr(?-u:\b)|Blvd(?-u:\b)|Hwy(?-u:\b)|Pkwy(?-u:\b)|Ct(?-u:\b)|STREET|AVENUE|ROAD|LANE|DRIVE) \.?
    (?:\x20(?:[NSEW]|North|South|East|West|NW|NE|SW|SE)(?-u:\b)\.?)?
    (?:,?\x20\#?(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room)?\.?\x20?\#?[0-9]{1,5}[A-Za-z]?(?-u:\b))?
    (?:,?\x20\p{Lu}[\p{L}'-]+(?:\x20\p{Lu}[\p{L}'-]+){0,2},?\x20(?:[A-Z]{2}\x20[0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][A-Z0-9]?\x20?[0-9][A-Z]{2})(?-u:\b)
      |,\x20\p{Lu}[\p{L}'-]+)?";

const GERMAN: &str = r"(?x)
    (?:(?:A[mn]|Im|In|Zu[mr]|Alte[rs]?|Neue[rs]?|Große[rs]?|Kleine[rs]?|Obere[rs]?|Untere[rs]?|Sankt|St\.|der|den|dem)\x20){0,2}
    (?: (?:\p{Lu}[\p{L}.]*-){0,3}\p{Lu}[\p{L}.]*
            (?:straße|strasse|str\.|weg|platz|allee|gasse|damm|chaussee|markt|graben|hof|[b-zöüß]ufer
              |(?:stadt|süd|nord|ost|west|außen|innen|linden|rosen|park|alt)ring)
      | (?:Süd|Nord|Ost|West|Außen|Innen|Alt)(?:ring|str\.|straße|weg)
      | (?:\p{Lu}[\p{L}.'’]*-){0,3}\p{Lu}[\p{L}.'’]*[\x20-]
            (?:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Ring|Damm|Ufer|Chaussee|Markt|Graben|Hof)
      | (?:Straße|Platz|Allee)\x20(?:des|der)\x20(?:[0-9]{1,2}\.\x20)?\p{Lu}\p{L}+ | Unter\x20den\x20Linden | Am\x20Anger )
    \x20{0,2}(?:Nr\.?\x20)?[0-9]{1,4}(?:\x20?[a-z](?-u:\b))?(?:\x20?[-/]\x20?[0-9]{1,4}[a-z]?)?(?-u:\b)
    (?:(?:,\x20{0,2}|\x20{1,2}|,?\n)(?:[A-Z]{1,2}-)?[0-9]{4,5}\x20\p{Lu}[\p{L}-]+
        (?:\x20(?:am|an\x20der|im|a\.\x20?[dM]\.)\x20\p{Lu}\p{L}+)?)?";

const FRENCH: &str = r"(?x)(?-u:\b) [0-9]{1,4}(?:\x20?(?:bis|ter|quater|[A-D])(?-u:\b))?,?\x20
    (?i:rue|avenue|av\.|boulevard|bd\.?|place|chemin|all[ée]e|impasse|quai|route|cours|square|passage)\x20
    (?:(?:de|du|des|la|le|les|l['’]|d['’]|de\x20l['’]|au|aux|en|sur)\x20?){0,3}
    (?:[0-9]{1,2}\x20)?\p{Lu}[\p{L}'’.-]*(?:[\x20-](?:(?:de|du|des|la|le|les|et|sur)\x20)?(?:[ld]['’])?\p{Lu}[\p{L}'’.-]*){0,4}
    (?:,?\x20{1,2}(?:F-)?[0-9]{5}\x20\p{Lu}\p{L}*['’]?\p{L}*(?:-\p{L}+){0,4}(?:\x20Cedex)?)?";

const SPANISH: &str = r"(?x)(?-u:\b)
    (?: (?i:calle|c/|avenida|avda\.?|av\.|plaza|paseo|camino|carretera|ronda|traves[íi]a)\x20?
        (?:(?:de|del|la|las|los|el|de\x20la|de\x20los)\x20){0,3}
        \p{Lu}[\p{L}.'-]*(?:\x20(?:(?:de|del|la|las|los|y)\x20){0,2}\p{Lu}[\p{L}.'-]*){0,4}
      | (?i:gran\x20v[íi]a) )
    ,?\x20(?:n[úu]m(?:ero|\.)?\x20?|n\.?[º°o]?\.?\x20?)?[0-9]{1,4}(?:\x20?[A-Za-z](?-u:\b))?
    (?:,\x20?[0-9]{1,2}(?:\.?[º°ª]|\.?o(?-u:\b)|(?-u:\b))(?:\x20(?:[A-Z](?-u:\b)|izq\p{L}*\.?|dcha?\p{L}*\.?))?)?
    (?:,?\x20{1,2}[0-9]{5}\x20\p{Lu}[\p{L}'-]+(?:\x20(?:de\x20)?\p{Lu}\p{L}+)?)?";

const BOX: &str = r"(?xi)(?-u:\b)(?:p\.?\x20?o\.?\x20?box|postfach|bo[îi]te\x20postale|apartado(?:\x20de\x20correos)?)\x20(?:nr\.?\x20|n[º°]\x20?)?[0-9]{1,3}(?:\x20?[0-9]{2,3}){0,2}(?-u:\b)";

/// German words that end like a street and are none.
const NO_STREETS: [&str; 24] = [
    "steckplatz",
    "arbeitsplatz",
    "parkplatz",
    "stellplatz",
    "speicherplatz",
    "einbauplatz",
    "signalweg",
    "übertragungsweg",
    "sendeweg",
    "empfangsweg",
    "funkweg",
    "rückweg",
    "ausweg",
    "umweg",
    "unterwegs",
    "token ring",
    "ethernet-ring",
    "glasfaserring",
    "speicherring",
    "schaltplatz",
    "messplatz",
    "lagerplatz",
    "kabelweg",
    "laufweg",
];

/// After these a number was no house.
const UNITS: [&str; 22] = [
    "GB", "MB", "TB", "kB", "KB", "dB", "dBm", "dBi", "MHz", "GHz", "kHz", "W", "kW", "V", "A",
    "m", "km", "ms", "%", "°", "Mbit/s", "Gbit/s",
];

/// What is read around a word.
const BEFORE_BYTES: usize = 64;
const AFTER_BYTES: usize = 110;
