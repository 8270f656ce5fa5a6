//! Text as the rules read it: one spelling of each character, and the way back to the places of the original.
//!
//! Full-width and other digits become ASCII, invisible characters go, dashes and spaces become plain, escapes of JSON,
//! URLs, Markdown and HTML are undone, a placeholder becomes one character that no rule takes.

use std::borrow::Cow;
use std::ops::Range;

use super::Kind;

/// Stands for a placeholder.
pub(super) const TAKEN: char = '\u{FFFC}';

/// A text with the way back.
#[derive(Debug)]
pub(super) struct Folded<'t> {
    text: Cow<'t, str>,
    /// In order. Before the first, places are the same.
    pieces: Vec<Piece>,
}

/// A stretch of folded text and where it comes from: copied byte by byte, or one character from some others.
#[derive(Debug)]
struct Piece {
    folded: usize,
    source: Range<usize>,
    copied: bool,
}

impl Folded<'_> {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a stretch of the folded text stands in the original.
    pub(super) fn source(&self, folded: Range<usize>) -> Range<usize> {
        assert!(folded.start < folded.end, "a find is not empty");
        let start = self.piece(folded.start).map_or(folded.start, |piece| {
            let inside = folded.start - piece.folded;
            piece.source.start + if piece.copied { inside } else { 0 }
        });
        let end = self.piece(folded.end - 1).map_or(folded.end, |piece| {
            if piece.copied {
                piece.source.start + (folded.end - piece.folded)
            } else {
                piece.source.end
            }
        });
        start..end
    }

    /// The piece that a byte of folded text belongs to.
    fn piece(&self, folded: usize) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.folded <= folded);
        // Of pieces at the same place all but the last are empty: what they stood for is gone.
        self.pieces[..after].last()
    }
}

/// Folds. Text without anything to fold is borrowed.
pub(super) fn fold(text: &str) -> Folded<'_> {
    let mut folded = String::new();
    let mut pieces = Vec::new();
    let mut done = 0;
    let mut at = 0;
    while let Some(found) = text.as_bytes()[at..]
        .iter()
        .position(|&b| STARTS[usize::from(b)])
    {
        at += found;
        let Some((length, sign)) = sign_at(&text[at..]) else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        folded.push_str(&text[done..at]);
        let (source, place) = (at..at + length, folded.len());
        pieces.push(Piece {
            folded: place,
            source,
            copied: false,
        });
        folded.extend(sign);
        at += length;
        done = at;
        let source = at..text.len();
        pieces.push(Piece {
            folded: folded.len(),
            source,
            copied: true,
        });
    }
    if pieces.is_empty() {
        return Folded {
            text: Cow::Borrowed(text),
            pieces,
        };
    }
    folded.push_str(&text[done..]);
    Folded {
        text: Cow::Owned(folded),
        pieces,
    }
}

/// Places of all placeholders, with what they say.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = (Range<usize>, Kind, u32)> {
    text.match_indices('[').filter_map(|(at, _)| {
        let (length, kind, number) = placeholder_at(&text[at..])?;
        Some((at..at + length, kind, number))
    })
}

/// What lies between placeholders.
pub(super) fn between_placeholders(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (place, _, _) in placeholders(text) {
        parts.push(start..place.start);
        start = place.end;
    }
    parts.push(start..text.len());
    parts
}

/// `[EMAIL_1]`: its length, kind and number.
fn placeholder_at(text: &str) -> Option<(usize, Kind, u32)> {
    let inner = text.strip_prefix('[')?;
    let bytes = inner.as_bytes();
    let longest = bytes.len().min(PLACEHOLDER_BYTES_MAX);
    let close = bytes[..longest].iter().position(|&byte| byte == b']')?;
    let (name, digits) = inner.get(..close)?.split_once('_')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| plain)?;
    let upper = name.bytes().all(|byte| !byte.is_ascii_lowercase());
    let named = |kind: &Kind| upper && name.eq_ignore_ascii_case(kind.name());
    let kind = Kind::ALL.into_iter().find(named)?;
    Some((close + 2, kind, number))
}

/// What the text begins with, if that is to be read as another sign or as none: its bytes, and the sign.
fn sign_at(text: &str) -> Option<(usize, Option<char>)> {
    let bytes = text.as_bytes();
    match bytes[0] {
        b'[' if text.starts_with("[.]") => Some((3, Some('.'))),
        b'[' => placeholder_at(text).map(|(length, _, _)| (length, Some(TAKEN))),
        b'\\' => backslash_at(bytes),
        b'%' => percent_at(bytes),
        b'&' => entity_at(text),
        _ => {
            let sign = text.chars().next()?;
            match reading(sign) {
                Reading::Same => None,
                other => Some((sign.len_utf8(), other.or(sign))),
            }
        }
    }
}

/// Escapes of JSON and Markdown, escaped again some times.
fn backslash_at(bytes: &[u8]) -> Option<(usize, Option<char>)> {
    let slash = |byte: &&u8| **byte == b'\\';
    let slashes = bytes.iter().take(ESCAPES_MAX).take_while(slash).count();
    let after = slashes + 1;
    let sign = match *bytes.get(slashes)? {
        b'n' | b'r' => '\n',
        b't' => '\t',
        b'u' => {
            let digits = std::str::from_utf8(bytes.get(after..after + 4)?).ok()?;
            let sign = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            return Some((after + 4, reading(sign).or(sign)));
        }
        // A placeholder in escaped brackets would not be one any more.
        b'[' | b']' => return None,
        other if other.is_ascii_punctuation() => char::from(other),
        _ => return None,
    };
    Some((after, Some(sign)))
}

/// `%40`, `%2540`.
fn percent_at(bytes: &[u8]) -> Option<(usize, Option<char>)> {
    let mut at = 1;
    while at < 2 * ESCAPES_MAX
        && bytes.get(at..at + 2) == Some(b"25")
        && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit)
    {
        at += 2;
    }
    let digits = std::str::from_utf8(bytes.get(at..at + 2)?).ok()?;
    let code = u8::from_str_radix(digits, 16).ok()?;
    let shown = code == b'\n' || (b' '..=b'~').contains(&code);
    (shown && code != b'[' && code != b']').then_some((at + 2, Some(char::from(code))))
}

/// `&#64;`, `&#x40;` and the few names that matter.
fn entity_at(text: &str) -> Option<(usize, Option<char>)> {
    let longest = text.len().min(ENTITY_BYTES_MAX);
    let close = text.as_bytes()[..longest]
        .iter()
        .position(|&byte| byte == b';')?;
    let name = text.get(1..close)?;
    let sign = match name {
        "commat" => '@',
        "nbsp" => ' ',
        "quot" => '"',
        "amp" => '&',
        "period" => '.',
        _ => {
            let code = name.strip_prefix('#')?;
            let code = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => code.parse(),
            };
            let sign = char::from_u32(code.ok()?)?;
            return match sign {
                '[' | ']' => None,
                _ => Some((close + 1, reading(sign).or(sign))),
            };
        }
    };
    Some((close + 1, Some(sign)))
}

/// How a character is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Same,
    As(char),
    /// It is not seen at all.
    Not,
}

impl Reading {
    /// What is read where this character stands.
    fn or(self, sign: char) -> Option<char> {
        match self {
            Self::Same => Some(sign),
            Self::As(other) => Some(other),
            Self::Not => None,
        }
    }
}

fn reading(sign: char) -> Reading {
    let code = u32::from(sign);
    let shifted = |code: u32| char::from_u32(code).map_or(Reading::Same, Reading::As);
    let digit = |zero: u32| shifted(u32::from('0') + (code - zero) % 10);
    match sign {
        // What is drawn without width, or not at all.
        '\u{AD}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}'
        | '\u{FEFF}' => Reading::Not,
        '\u{A0}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => {
            Reading::As(' ')
        }
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FE63}' => Reading::As('-'),
        '\u{2024}' | '\u{3002}' | '\u{FF61}' => Reading::As('.'),
        '\u{FE6B}' => Reading::As('@'),
        '\u{FE55}' => Reading::As(':'),
        '\u{660}'..='\u{669}' => digit(0x660),
        '\u{6F0}'..='\u{6F9}' => digit(0x6F0),
        '\u{966}'..='\u{96F}' => digit(0x966),
        '\u{1D7CE}'..='\u{1D7FF}' => digit(0x1D7CE),
        // Brackets stay: they could make a placeholder of what was none.
        '\u{FF01}'..='\u{FF5E}' if sign != '\u{FF3B}' && sign != '\u{FF3D}' => {
            shifted(code - 0xFF01 + 0x21)
        }
        _ => Reading::Same,
    }
}

/// Bytes that a sign to be folded begins with.
const STARTS: [bool; 256] = {
    let mut starts = [false; 256];
    let all = b"[\\%&\xC2\xD9\xDB\xE0\xE2\xE3\xEF\xF0";
    let mut index = 0;
    while index < all.len() {
        starts[all[index] as usize] = true;
        index += 1;
    }
    starts
};

/// How often an escape is looked for behind its own escape.
const ESCAPES_MAX: usize = 8;

/// `COORDINATES_4294967295]`.
const PLACEHOLDER_BYTES_MAX: usize = 24;

/// `&#1114111;`.
const ENTITY_BYTES_MAX: usize = 10;
