//! E-mail addresses, with `@` and as people write them to hide them from programs.

use std::ops::Range;

use regex::Regex;

use super::{Find, Kind, fold};

/// Marks that stand for `@`.
pub(super) const MARKS: [&str; 10] = [
    "(at)",
    "[at]",
    "{at}",
    "<at>",
    "(ät)",
    "[ät]",
    "(arroba)",
    "[arroba]",
    "(arobase)",
    "(a)",
];

/// Words that stand for a full stop of an address that is spelled.
pub(super) const DOTS: [&str; 5] = [" dot ", " punkt ", " punto ", " point ", " ponto "];

/// Finds addresses around each `@`.
///
/// Cost: O(bytes): of each `@` at most 64 characters before and 253 bytes after are read.
pub(super) fn find(text: &str, written_out: &WrittenOut, finds: &mut Vec<Find>) {
    for (at, _) in text.match_indices('@') {
        finds.extend(plain(text, at).or_else(|| written_out.around_mark(text, at..at + 1)));
    }
}

fn plain(text: &str, at: usize) -> Option<Find> {
    let start = local_start(text, at)?;
    let end = domain_end(text, at + 1)?;
    // The one user of all servers of repositories.
    (&text[start..at] != "git").then_some(Find {
        start,
        end,
        kind: Kind::Email,
    })
}

/// Where the part before an `@` begins.
fn local_start(text: &str, at: usize) -> Option<usize> {
    let before = &text[..at];
    if let Some(quoted) = before.strip_suffix('"') {
        let window = quoted.floor_char_boundary(quoted.len().saturating_sub(LOCAL_CHARS_MAX));
        let open = quoted[window..].rfind('"')? + window;
        let inside = &quoted[open + 1..];
        let plain = !inside.is_empty() && !inside.contains(['\n', fold::TAKEN, '@']);
        return plain.then_some(open);
    }
    let signs = before.char_indices().rev().take(LOCAL_CHARS_MAX);
    let inside = signs.take_while(|&(_, c)| c.is_alphanumeric() || "._%+-'!#$^~".contains(c));
    let start = inside.last().map_or(at, |(start, _)| start);
    let local =
        text[start..at].trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_' && c != '+');
    // An underscore that opens emphasis belongs to it, and goes with it.
    (local.chars().any(char::is_alphanumeric)).then_some(at - local.len())
}

/// Where the domain after an `@` ends: labels, the last of which is a word.
fn domain_end(text: &str, start: usize) -> Option<usize> {
    let rest = &text[start..];
    if rest.starts_with('[') {
        let longest = rest.len().min(DOMAIN_LITERAL_BYTES_MAX);
        let close = rest.as_bytes()[..longest]
            .iter()
            .position(|&byte| byte == b']')?;
        let inside = |byte: &u8| byte.is_ascii_hexdigit() || b".:IPvx".contains(byte);
        let literal = rest.as_bytes()[1..close].iter().all(inside) && close > 6;
        return literal.then_some(start + close + 1);
    }
    let window = rest.floor_char_boundary(rest.len().min(DOMAIN_BYTES_MAX));
    let end = rest[..window].find(|c: char| !c.is_alphanumeric() && c != '-' && c != '.');
    let mut domain = rest[..end.unwrap_or(window)].trim_end_matches(['.', '-']);
    // The next sentence's number, or a second full stop, is not part of it.
    if let Some(double) = domain.find("..") {
        domain = &domain[..double];
    }
    loop {
        let (labels, last) = domain.rsplit_once('.')?;
        if is_top_level(last) && !labels.is_empty() && !labels.starts_with(['.', '-']) {
            return Some(start + domain.len());
        }
        // `a@b.service` is a systemd unit, `icon@2x.png` a file.
        if NO_TOP_LEVEL.contains(&last) {
            return None;
        }
        domain = labels;
    }
}

fn is_top_level(label: &str) -> bool {
    let word = label.chars().all(char::is_alphabetic) && label.chars().count() > 1;
    let encoded = label.len() > 4
        && label
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    (word || encoded) && !NO_TOP_LEVEL.contains(&label)
}

/// Finds addresses that are written out.
#[derive(Debug)]
pub(super) struct WrittenOut {
    after_mark: Regex,
    in_words: Regex,
}

impl WrittenOut {
    pub(super) fn new() -> Self {
        let regex = |pattern: &str| Regex::new(pattern).expect("our own pattern");
        Self {
            after_mark: regex(AFTER_MARK),
            in_words: regex(IN_WORDS),
        }
    }

    /// `user (at) host . com`, and `user @ host.com`.
    pub(super) fn around_mark(&self, text: &str, mark: Range<usize>) -> Option<Find> {
        let before = &text[..mark.start];
        let spaces = before.len() - before.trim_end_matches(' ').len();
        let plain = &text[mark.clone()] == "@";
        let spaced = spaces == 1 && text[mark.end..].starts_with(' ');
        if spaces > 2 || plain && !spaced {
            return None;
        }
        let start = local_start(text, mark.start - spaces)?;
        let found = self.after_mark.find(window(text, mark.end, mark.end))?;
        let end = mark.end + found.end();
        let last = text[mark.end..end]
            .rsplit(|c: char| !c.is_alphanumeric())
            .next()?;
        is_top_level(last).then_some(Find {
            start,
            end,
            kind: Kind::Email,
        })
    }

    /// `john dot doe at host dot com`.
    pub(super) fn around_words(&self, text: &str, dot: Range<usize>) -> Option<Find> {
        let from = text.floor_char_boundary(dot.start.saturating_sub(WINDOW_BYTES));
        let mut found = self.in_words.find_iter(window(text, from, dot.end));
        let found = found
            .find(|found| from + found.start() < dot.start && from + found.end() >= dot.end)?;
        let (start, end) = (from + found.start(), from + found.end());
        Some(Find {
            start,
            end,
            kind: Kind::Email,
        })
    }
}

fn window(text: &str, from: usize, to: usize) -> &str {
    &text[from..text.floor_char_boundary(text.len().min(to + WINDOW_BYTES))]
}

/// A domain whose full stops may be words or stand apart.
const AFTER_MARK: &str = r"(?xi)^\x20{0,2} [\p{L}0-9-]+
    (?:(?: \. | \x20\.\x20 | \x20?[(\[{<](?:dot|punkt|punto|point|\.)[)\]}>]\x20? | \x20(?:dot|punkt|punto|point|ponto)\x20)
    [\p{L}0-9-]+){1,4}";

/// Spelled, the last label is one that people have: `noon at the dot on the map` has none.
const IN_WORDS: &str = r"(?xi)[\p{L}0-9._+-]+ (?:\x20(?:dot|punkt|punto|point|ponto)\x20[\p{L}0-9_+-]+){0,3}
    \x20(?:at|ät|arroba|arobase)\x20 [\p{L}0-9-]+ (?:\x20(?:dot|punkt|punto|point|ponto)\x20[\p{L}0-9-]+){0,3}
    \x20(?:dot|punkt|punto|point|ponto)\x20
    (?:com|org|net|edu|gov|info|biz|io|eu|de|fr|es|uk|it|nl|be|pt|pl|ch|ie|us|ca|au|br|mx|co|me|dev|app|cloud)(?-u:\b)";

/// Endings of what looks like an address, and is a unit of systemd or a file.
const NO_TOP_LEVEL: [&str; 18] = [
    "service",
    "socket",
    "timer",
    "target",
    "mount",
    "automount",
    "slice",
    "path",
    "scope",
    "device",
    "swap",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "webp",
    "js",
];

/// RFC 5321 section 4.5.3.1.
const LOCAL_CHARS_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 255;

/// `[IPv6:…]`.
const DOMAIN_LITERAL_BYTES_MAX: usize = 48;

/// What is read around a mark.
const WINDOW_BYTES: usize = 120;
