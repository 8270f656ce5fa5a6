//! Words beside a number that say what it is.

use super::Kind;

/// What the last telling word before a place announces. `None` if there is none, or if it announces something else.
///
/// Cost: O(1), a window of text.
pub(super) fn before(text: &str, at: usize) -> Option<Kind> {
    let start = text.floor_char_boundary(at.saturating_sub(BEFORE_BYTES));
    let mut window = &text[start..at];
    if start > 0 {
        // The first word may be the end of one: `hotel` is no `tel`.
        let end = window.find(|c: char| !c.is_alphabetic());
        window = &window[end.unwrap_or(window.len())..];
    }
    // Another number, or the end of a sentence, has the word for itself.
    let bytes = window.as_bytes();
    let number = bytes
        .windows(3)
        .rposition(|three| three.iter().all(u8::is_ascii_digit));
    let sentence = bytes
        .windows(2)
        .rposition(|two| matches!(two, b". " | b"? " | b"! " | b"\n\n"));
    let sentence = sentence.filter(|&at| !window[..at].to_lowercase().ends_with("tel"));
    let taken = window.rfind(super::fold::TAKEN);
    let cut = number.max(sentence).max(taken).unwrap_or(0);
    let window = &window[window.ceil_char_boundary(cut)..];
    words(window).rev().find_map(meaning)?.kind()
}

/// What the words right after a place say: `356938035643809 (IMEI)`.
pub(super) fn after(text: &str, at: usize) -> Option<Kind> {
    let end = text.floor_char_boundary(text.len().min(at + AFTER_BYTES));
    // Longer words may be cut, and then mean nothing.
    let window = text[at..end].split(['.', ',', ';', '\n', '|']).next()?;
    let kind = words(window).find_map(meaning)?.kind();
    kind.filter(|kind| matches!(kind, Kind::Imei | Kind::Imsi | Kind::Iccid))
}

/// Whether a dotted number at this place is a version: the word before it says so.
pub(super) fn is_version(text: &str, at: usize) -> bool {
    let start = text.floor_char_boundary(at.saturating_sub(VERSION_BYTES));
    let before = text[start..at].trim_end_matches(|c: char| " \t:=\"'`*(#v".contains(c));
    let mut last = words(before).rev();
    let fillers = ["is", "ist", "est", "es", "nr", "number", "no"];
    let word = last.find(|word| {
        !fillers
            .iter()
            .any(|filler| word.eq_ignore_ascii_case(filler))
    });
    let near = text[start..at].len() - before.len() <= 4;
    near && word.is_some_and(|word| {
        let word = word.to_lowercase();
        VERSIONS.contains(&word.as_str())
    })
}

fn words(window: &str) -> impl DoubleEndedIterator<Item = &str> {
    // `IMEI2` is a word with its number, `fax7E6` is none.
    let words = window.split(|c: char| !c.is_alphanumeric());
    let words = words.map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    words.filter(|word| !word.is_empty())
}

/// What a word announces.
#[derive(Debug, Clone, Copy)]
enum Announced {
    One(Kind),
    /// A number that is none of ours.
    Other,
}

impl Announced {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::One(kind) => Some(kind),
            Self::Other => None,
        }
    }
}

/// `None` is any word.
fn meaning(word: &str) -> Option<Announced> {
    let mut lower = [0; 24];
    let lower = lower.get_mut(..word.len())?;
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    let lower = &*lower;
    let says = |word: &str| match word.strip_suffix('*') {
        Some(start) => lower.starts_with(start.as_bytes()),
        None => lower == word.as_bytes(),
    };
    let announces = |(_, words): &&(_, &str)| words.split(' ').any(says);
    WORDS
        .iter()
        .find(announces)
        .map(|&(announced, _)| announced)
}

/// What words announce. A star stands for any ending.
const WORDS: [(Announced, &str); 6] = [
    (Announced::One(Kind::Imei), "imei*"),
    (Announced::One(Kind::Imsi), "imsi* supi*"),
    (Announced::One(Kind::Iccid), "iccid* sim"),
    (
        Announced::One(Kind::Card),
        "card* creditcard* kreditkarte* karte* carte tarjeta* visa mastercard amex pan",
    ),
    (
        Announced::One(Kind::Phone),
        "msisdn* phone* telephone* telefon* teléfono* téléphone* tel tél tlf mobile* mobil \
         mobilnummer móvil movil portable handy* rufnummer* rückruf* anruf* anrufen call \
         callback dial reach appeler appelez rappeler rappelez joindre joignable llamar \
         llame* llám* erreichbar fax whatsapp sms",
    ),
    (
        Announced::Other,
        "signal id* ticket* order* case serial* seriennummer alarm* alarme invoice* rechnung* \
         auftrag* facture factura pedido commande counter bytes cell* timestamp* version* \
         rate",
    ),
];

/// Words before a version.
const VERSIONS: [&str; 17] = [
    "version",
    "versión",
    "versions",
    "ver",
    "v",
    "release",
    "rel",
    "firmware",
    "fw",
    "software",
    "sw",
    "softwareversion",
    "build",
    "patch",
    "firmwareversion",
    "revision",
    "rev",
];

/// Room for a few words.
const BEFORE_BYTES: usize = 40;
const AFTER_BYTES: usize = 16;
const VERSION_BYTES: usize = 32;
