//! Numbers: runs of digits in groups, and what each stretch of groups may be.
//!
//! ```text
//! call 0170 1234567, card 4111 1111 1111 1111.     two runs, of two and of four groups
//! ```
//!
//! The longest stretch that is something wins. What only a word beside it makes something comes last.

use std::cell::OnceCell;

use heapless::Vec as Few;
use regex::Regex;

use super::check::{self, DIGITS_MAX, Digits};
use super::network::{self, Stretch};
use super::phone::{self, Gap};
use super::{Find, Kind, label};

/// Finds whatever has a digit.
#[derive(Debug)]
pub(super) struct Numbers {
    coordinates: Regex,
    degrees: Regex,
    extension: Regex,
}

/// Digits without anything between them.
#[derive(Debug, Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
}

/// Groups with what people put between the parts of one number.
struct Run<'t> {
    text: &'t str,
    groups: &'t [Group],
    /// A letter touches the first group: `KEL042`, `12V`.
    tied: bool,
    /// What the words before it announce.
    label: OnceCell<Option<Kind>>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        let regex = |pattern: &str| Regex::new(pattern).expect("our own pattern");
        Self {
            coordinates: regex(COORDINATES),
            degrees: regex(DEGREES),
            extension: regex(EXTENSION),
        }
    }

    /// Cost: O(bytes): each group begins a bounded number of stretches.
    pub(super) fn find(&self, text: &str, finds: &mut Vec<Find>) {
        let bytes = text.as_bytes();
        let mut groups = Vec::new();
        let mut version_end = None;
        let mut floor = 0;
        let mut at = 0;
        while let Some(found) = bytes[at..].iter().position(u8::is_ascii_digit) {
            at += found;
            match network::around(text, at, floor) {
                Stretch::Found(find) => {
                    (at, floor) = (find.end.max(at + 1), find.end);
                    finds.push(find);
                    continue;
                }
                Stretch::Harmless(end) => {
                    (at, floor) = (end, end);
                    continue;
                }
                Stretch::Unknown => {}
            }
            if let Some(find) = iban(text, at, floor).or_else(|| self.place(text, at)) {
                (at, floor) = (find.end, find.end);
                finds.push(find);
                continue;
            }
            collect(bytes, at, &mut groups);
            let run = Run {
                text,
                groups: &groups,
                tied: is_tied(text, at) || is_followed(bytes, groups[0].end),
                label: OnceCell::new(),
            };
            let known = finds.len();
            self.read(&run, &mut version_end, finds);
            // An extension is part of the last find, and of no group.
            floor = finds[known..].last().map_or(floor, |find| find.end);
            at = groups[groups.len() - 1].end.max(floor);
        }
    }

    fn read(&self, run: &Run, version_end: &mut Option<usize>, finds: &mut Vec<Find>) {
        let mut first = 0;
        while first < run.groups.len() {
            let (taken, kind) = stretch(run, first, version_end);
            if let Some(kind) = kind {
                let start = run.opening(first);
                let mut end = run.groups[first + taken - 1].end;
                if kind == Kind::Phone {
                    end += self
                        .extension
                        .find(&run.text[end..])
                        .map_or(0, |found| found.end());
                }
                finds.push(Find { start, end, kind });
            }
            first += taken;
        }
    }

    /// Coordinates that begin with this digit.
    fn place(&self, text: &str, at: usize) -> Option<Find> {
        let bytes = text.as_bytes();
        let whole = bytes[at..]
            .iter()
            .take(4)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let after = at + whole;
        let found = match bytes.get(after)? {
            b'.' if whole < 4 => self.coordinates.captures(&text[at..]).filter(|found| {
                let number = |name: &str| found[name].parse::<f64>().unwrap_or(f64::INFINITY);
                let digits = |name: &str| found[name].len() - found[name].find('.').unwrap_or(0);
                let sure =
                    found["gap"].contains([',', ';', '/']) || digits("lat").min(digits("lon")) > 5;
                sure && number("lat") <= 90.0 && number("lon") <= 180.0
            })?,
            _ if text[after..].starts_with(['°', 'º']) => self.degrees.captures(&text[at..])?,
            _ => return None,
        };
        let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
        if before.is_ascii_alphanumeric() || before == b'.' {
            return None;
        }
        let start = at - usize::from(matches!(before, b'-' | b'+'));
        let end = at + found.get(0)?.end();
        Some(Find {
            start,
            end,
            kind: Kind::Coordinates,
        })
    }
}

impl Run<'_> {
    /// Where a stretch begins: with its plus and bracket.
    fn opening(&self, first: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut start = self.groups[first].start;
        for sign in b"(+(" {
            let before = start.checked_sub(1).map(|before| bytes[before]);
            if before == Some(*sign) && (*sign == b'+' || self.closes(start)) {
                start -= 1;
            }
        }
        start
    }

    /// Whether a bracket closes soon after: it belongs to the number.
    fn closes(&self, start: usize) -> bool {
        let rest = self.text.as_bytes()[start..].iter().take(8);
        rest.into_iter()
            .find(|byte| !byte.is_ascii_digit() && **byte != b'+')
            == Some(&b')')
    }

    fn has_plus(&self, first: usize) -> bool {
        first == 0
            && self.text[..self.groups[0].start]
                .trim_end_matches(['(', ' '])
                .ends_with('+')
            && !self.text[..self.groups[0].start].ends_with("  ")
    }

    /// What stands after a group.
    fn gap(&self, group: usize) -> &str {
        let next = self
            .groups
            .get(group + 1)
            .map_or(self.groups[group].end, |next| next.start);
        &self.text[self.groups[group].end..next]
    }

    fn length(&self, group: usize) -> usize {
        self.groups[group].end - self.groups[group].start
    }

    /// The digits of a stretch; `None` if they are too many.
    fn digits(&self, first: usize, last: usize) -> Option<Digits> {
        let groups = self.groups[first..=last].iter();
        Digits::new(
            groups.flat_map(|group| self.text.as_bytes()[group.start..group.end].iter().copied()),
        )
    }

    /// Groups of a number after a plus, the longest that is one.
    fn international(&self, first: usize) -> Option<usize> {
        let count = self.groups.len().min(first + GROUPS_MAX);
        let fits = |&last: &usize| {
            // +49 (0)170: the zero in brackets is not dialled.
            let zero = |group: usize| self.length(group) == 1 && self.gap(group).starts_with(')');
            let groups = (first..=last).filter(|&group| group == first || !zero(group));
            let bytes = groups.flat_map(|group| {
                let Group { start, end } = self.groups[group];
                self.text.as_bytes()[start..end].iter().copied()
            });
            let alone = last == first || self.length(last) > 1 || self.gap(last - 1) == "-";
            let wide = (first..last).any(|group| self.gap(group).contains("  "));
            alone
                && !wide
                && Digits::new(bytes).is_some_and(|digits| phone::is_international(&digits))
        };
        let last = (first..count).rev().find(fits)?;
        Some(last - first + 1)
    }

    /// Four groups with full stops, none above 255, and no fifth.
    fn is_quad(&self, first: usize) -> bool {
        // `ip-10-1-2-3` is a host's name at AWS.
        let named = first == 0 && self.text[..self.groups[0].start].ends_with("ip-");
        let sign = if named { "-" } else { "." };
        let dotted = |group: usize| self.gap(group) == sign;
        let enough = first + 3 < self.groups.len();
        let octet = |group: usize| {
            let Group { start, end } = self.groups[group];
            end - start <= 3 && self.text[start..end].parse::<u8>().is_ok()
        };
        enough
            && (first == 0 || !dotted(first - 1))
            && (first..first + 3).all(dotted)
            && !dotted(first + 3)
            && (first..first + 4).all(octet)
    }

    /// `01.05.2024`, `2024-05-01`, and no fourth group of the same kind.
    fn is_date(&self, first: usize) -> bool {
        if first + 2 >= self.groups.len() {
            return false;
        }
        let gap = self.gap(first);
        let lengths = [first, first + 1, first + 2].map(|group| self.length(group));
        let known = matches!(lengths, [4, 2, 2] | [1 | 2, 1 | 2, 2 | 4]);
        known
            && [".", "-", "/"].contains(&gap)
            && self.gap(first + 1) == gap
            && self.gap(first + 2) != gap
    }

    /// `1995-2011`.
    fn is_years(&self, first: usize) -> bool {
        let year = |group: usize| {
            let Group { start, end } = self.groups[group];
            end - start == 4 && ["19", "20"].contains(&&self.text[start..start + 2])
        };
        let two = first + 1 < self.groups.len() && year(first) && year(first + 1);
        two && self.gap(first) == "-" && self.gap(first + 1) != "-"
    }

    /// Ends of the stretches from here that have as many digits as something may have, with those digits.
    fn lasts(&self, first: usize) -> Few<(usize, Digits), GROUPS_MAX> {
        let mut lasts = Few::new();
        let mut count = 0;
        for last in first..self.groups.len().min(first + GROUPS_MAX) {
            count += self.length(last);
            if count > DIGITS_MAX {
                break;
            }
            if count >= DIGITS_MIN {
                lasts.extend(self.digits(first, last).map(|digits| (last, digits)));
            }
        }
        lasts
    }

    /// What a stretch is by its check digits, prefixes and groups.
    fn kind(
        &self,
        first: usize,
        last: usize,
        digits: &Digits,
        label: Option<Kind>,
    ) -> Option<Kind> {
        let all = digits.all();
        let lengths = (first..=last).map(|group| self.length(group));
        let lengths: Few<_, GROUPS_MAX> = lengths.collect();
        let labelled = |kind| label == Some(kind);
        if self.is_fraction(first, last) && label.is_none() {
            return None;
        }
        let subscriber = all.len() == 15
            && check::is_mobile_country(digits)
            && matches!(
                lengths[..],
                [15] | [3, 12] | [5, 10] | [6, 9] | [3, 2, 10] | [3, 3, 9] | [3, 2, 3, 7]
            );
        if subscriber && labelled(Kind::Imsi) {
            return Some(Kind::Imsi);
        }
        let device = match lengths[..] {
            [15]
            | [14, 1]
            | [8, 7]
            | [2, 6, 7]
            | [8, 6, 1]
            | [2, 6, 6, 1]
            | [6, 2, 6, 1]
            | [3, 3, 3, 3, 3]
            | [5, 5, 5]
            | [6, 6, 3]
            | [4, 4, 4, 3]
            | [2, 4, 2, 6, 1] => {
                check::luhn(all) && (check::is_reporting_body(digits) || labelled(Kind::Imei))
            }
            [2, 6, 6, 2] | [8, 6, 2] | [6, 2, 6, 2] | [14, 2] => check::is_reporting_body(digits),
            _ => false,
        };
        let card = match lengths[..] {
            [13..=22]
            | [4 | 8, 4 | 8 | 12]
            | [6, 7..=13]
            | [4, 4, 8]
            | [4, 6, 4 | 5]
            | [4, 4, 4, 1 | 2 | 4]
            | [4, 4, 4, 4, 1..=3] => true,
            _ => labelled(Kind::Card),
        };
        let chip = all.len() >= 18 && digits.first(2) == 89 && check::luhn(all);
        if device && !labelled(Kind::Card) {
            Some(Kind::Imei)
        } else if chip {
            Some(Kind::Iccid)
        } else if card && check::is_card(digits) {
            Some(Kind::Card)
        } else if subscriber {
            Some(Kind::Imsi)
        } else if self.is_national_phone(first, last, digits, &lengths) {
            Some(Kind::Phone)
        } else {
            None
        }
    }

    /// Whether pairs of digits are bytes: French numbers have five of them, and no hexadecimal pair before.
    fn is_dump(&self, lengths: &[usize]) -> bool {
        let before = &self.text.as_bytes()[..self.groups[0].start];
        let pair = |[edge, high, low, space]: &[u8; 4]| {
            let hexadecimal = high.is_ascii_hexdigit() && low.is_ascii_hexdigit();
            !edge.is_ascii_alphanumeric() && edge.is_ascii() && hexadecimal && *space == b' '
        };
        let pairs = (0..self.groups.len())
            .filter(|&group| self.length(group) == 2)
            .count();
        let after_pair = before.last_chunk().is_some_and(pair);
        lengths.iter().all(|&length| length == 2) && (after_pair || pairs % 5 != 0)
    }

    /// Whether a stretch is the decimals of a number, or a number with decimals.
    fn is_fraction(&self, first: usize, last: usize) -> bool {
        let decimals = first > 0 && first == last && self.gap(first - 1) == ".";
        decimals || last == first + 1 && self.gap(first) == "."
    }

    fn is_national_phone(
        &self,
        first: usize,
        last: usize,
        digits: &Digits,
        lengths: &[usize],
    ) -> bool {
        // Not the middle of `RE-2024-0170-1234567`.
        let start = self.groups[first].start;
        let before = self.text[..start].strip_suffix(['-', '.', '/', ',']);
        let inside =
            before.is_some_and(|before| before.ends_with(|c: char| c.is_ascii_alphanumeric()));
        let gap = self.gap(last);
        let goes_on =
            gap == "-" || gap == "." || self.text[self.groups[last].end..].starts_with(':');
        let clock = self.text[..start].ends_with(':')
            && self.text[..start - 1].ends_with(|c: char| c.is_ascii_digit());
        let gaps = (first..last).map(|group| Gap::new(self.gap(group)));
        let gaps: Few<_, GROUPS_MAX> = gaps.collect();
        !inside
            && !self.is_dump(lengths)
            && !goes_on
            && !clock
            && phone::is_national(digits, lengths, &gaps)
    }
}

/// How many groups belong together from here on, and what they are.
fn stretch(run: &Run, first: usize, version_end: &mut Option<usize>) -> (usize, Option<Kind>) {
    if first == 0 && run.tied {
        return (1, None);
    }
    if run.has_plus(first)
        && let Some(taken) = run.international(first)
    {
        return (taken, Some(Kind::Phone));
    }
    let start = run.groups[first].start;
    if run.is_quad(first) {
        let again = version_end.is_some_and(|end| start - end <= VERSION_GAP_BYTES);
        if again || label::is_version(run.text, start) {
            *version_end = Some(run.groups[first + 3].end);
            return (4, None);
        }
        let mask =
            run.text[start..].starts_with("255.255.") || run.text[start..].starts_with("0.0.0.0");
        return (4, (!mask).then_some(Kind::Ipv4));
    }
    if run.is_date(first) {
        return (3, None);
    }
    if run.is_years(first) {
        return (2, None);
    }
    let lasts = run.lasts(first);
    if lasts.is_empty() {
        return (1, None);
    }
    let before = || label::before(run.text, run.groups[0].start);
    let label = *run.label.get_or_init(before);
    for (last, digits) in lasts.iter().rev() {
        if let Some(kind) = run.kind(first, *last, digits, label) {
            return (last - first + 1, Some(kind));
        }
    }
    for (last, digits) in lasts.iter().rev() {
        let end = run.groups[*last].end;
        let bracket = run.text[end..].trim_start_matches(' ').starts_with('(');
        let label = label.or_else(|| bracket.then(|| label::after(run.text, end))?);
        if let Some(kind) = labelled(digits, label) {
            return (last - first + 1, Some(kind));
        }
    }
    (1, None)
}

/// What digits are only because a word says so.
fn labelled(digits: &Digits, label: Option<Kind>) -> Option<Kind> {
    let count = digits.all().len();
    label.filter(|kind| match kind {
        Kind::Imei => (14..=16).contains(&count),
        Kind::Imsi => (14..=15).contains(&count),
        Kind::Iccid => (18..=DIGITS_MAX).contains(&count),
        Kind::Card => (13..=19).contains(&count) && check::luhn(digits.all()),
        Kind::Phone => (DIGITS_MIN..=15).contains(&count),
        _ => false,
    })
}

/// Groups from a digit on, with at most three signs between two of them. A later group that goes on as something else
/// (`12 00:1A:2B:3C:4D:5E`) is not one.
fn collect(bytes: &[u8], at: usize, groups: &mut Vec<Group>) {
    groups.clear();
    let mut start = at;
    loop {
        let length = bytes[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let end = start + length;
        if start > at && is_followed(bytes, end) {
            return;
        }
        groups.push(Group { start, end });
        let between = |byte: &&u8| b" -./()".contains(byte);
        let gap = bytes[end..]
            .iter()
            .take(GAP_BYTES_MAX)
            .take_while(between)
            .count();
        start = end + gap;
        // The second is negative, as in `-95 -97`.
        let minus = &bytes[end..start] == b" -";
        if gap == 0 || minus || !bytes.get(start).is_some_and(u8::is_ascii_digit) {
            return;
        }
    }
}

/// Whether what follows a group makes it the start of something else: a letter, but for `x` of an extension, or a colon
/// inside of an address.
fn is_followed(bytes: &[u8], end: usize) -> bool {
    let next = bytes.get(end + 1);
    match bytes.get(end) {
        Some(b'x' | b'X') => !next.is_some_and(u8::is_ascii_digit),
        Some(b':') => next.is_some_and(u8::is_ascii_hexdigit) && bytes.get(end + 3) == Some(&b':'),
        Some(byte) => byte.is_ascii_alphabetic(),
        None => false,
    }
}

/// Whether a letter stands right before a number and is no word about it: `KEL042`, not `IMEI356938035643809`.
fn is_tied(text: &str, at: usize) -> bool {
    let letters = text[..at]
        .bytes()
        .rev()
        .take_while(u8::is_ascii_alphabetic)
        .take(8)
        .count();
    let word = &text[at - letters..at];
    let glued = ["imei", "imsi", "tel", "msisdn", "iccid", "fax", "phone"];
    let tied = letters > 0 && !glued.iter().any(|glued| word.eq_ignore_ascii_case(glued));
    tied || text[..at].ends_with(|c: char| c.is_ascii_digit())
}

/// An IBAN whose check digits begin here.
fn iban(text: &str, at: usize, floor: usize) -> Option<Find> {
    let bytes = text.as_bytes();
    let start = at.checked_sub(2).filter(|&start| start >= floor)?;
    let country = [bytes[start], bytes[start + 1]].map(|byte| byte.to_ascii_uppercase());
    let length = check::iban_length(country)?;
    if start
        .checked_sub(1)
        .is_some_and(|before| bytes[before].is_ascii_alphanumeric())
    {
        return None;
    }
    let mut signs = Vec::with_capacity(length);
    let mut gap = 0;
    for (place, &byte) in bytes.iter().enumerate().skip(start) {
        if byte.is_ascii_alphanumeric() {
            signs.push(byte);
            gap = 0;
        } else if matches!(byte, b' ' | b'-' | b'.') && gap < 2 {
            gap += 1;
        } else {
            return None;
        }
        if signs.len() == length {
            let end = place + 1;
            let ends = !bytes.get(end).is_some_and(u8::is_ascii_alphanumeric);
            return (ends && check::mod97(&signs)).then_some(Find {
                start,
                end,
                kind: Kind::Iban,
            });
        }
    }
    None
}

/// Two numbers with at least four decimals.
const COORDINATES: &str = r"(?x)^(?<lat>[0-9]{1,2}\.[0-9]{4,15}) \s?°?\s?[NSns]?
    (?<gap>\s?[,;/]\s{0,2}|\s{1,2}) ([-+]|lon[a-z]{0,6}\s?[:=]\s?)? (?<lon>[0-9]{1,3}\.[0-9]{4,15}) (\s?°?\s?[EWOew](?-u:\b))?";

/// 48°51'30.2"N 2°17'40"E
const DEGREES: &str = r#"(?x)^[0-9]{1,2}\s?[°º]\s?[0-9]{1,2}(\.[0-9]+)?\s?['′’]\s?([0-9]{1,2}(\.[0-9]{1,6})?\s?(["″”]|''))?\s?[NS]
    [\s,;/]{0,3} [0-9]{1,3}\s?[°º]\s?[0-9]{1,2}(\.[0-9]+)?\s?['′’]\s?([0-9]{1,2}(\.[0-9]{1,6})?\s?(["″”]|''))?\s?[EWO](?-u:\b)"#;

const EXTENSION: &str = r"(?i)^[ ,;(]{0,3}(?:ext(?:ension)?\.?|x|durchwahl|dw\.?|poste|extensi[oó]n|#)[ .:=]{0,2}[0-9]{1,5}(?-u:\b)";

/// ` / ` and `) (`.
const GAP_BYTES_MAX: usize = 3;

/// What two versions may have between them: ` to `, ` nach `.
const VERSION_GAP_BYTES: usize = 12;

/// Shorter numbers are not looked at.
const DIGITS_MIN: usize = 7;

/// No number has more.
const GROUPS_MAX: usize = 8;
