//! Internet and hardware addresses, and UUIDs, which stay.

use std::net::Ipv6Addr;

use super::{Find, Kind};

/// What the hexadecimal stretch around a digit is.
pub(super) enum Stretch {
    Found(Find),
    /// It ends here, and is nothing that anybody is known by.
    Harmless(usize),
    Unknown,
}

/// Looks at what surrounds the digit at `at`; places before `floor` are done with.
pub(super) fn around(text: &str, at: usize, floor: usize) -> Stretch {
    let bytes = text.as_bytes();
    // Decimals are the rule, and end here: nothing beside them is hexadecimal.
    let next = bytes[at..].iter().find(|byte| !byte.is_ascii_digit());
    let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
    let beside = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'-' | b'.');
    let touched = at > floor && beside(before) || next.is_some_and(|&byte| beside(byte));
    if !touched && !is_among_pairs(bytes, at) {
        return Stretch::Unknown;
    }
    if let Some(find) = with_colons(text, at, floor) {
        return Stretch::Found(find);
    }
    let (start, end) = stretch(bytes, at, floor, |byte| byte == b'-');
    if is_uuid(&bytes[start..end]) {
        return Stretch::Harmless(end);
    }
    let dashes = trimmed(bytes, start, end, b"-");
    let (start, end) = stretch(bytes, at, floor, |byte| byte == b'.');
    let dots = trimmed(bytes, start, end, b".");
    let spaces = pairs(bytes, at, floor);
    for (start, end) in [dashes, dots, spaces] {
        if is_alone(bytes, start, end) && is_mac(&bytes[start..end]) {
            let kind = Kind::Mac;
            return Stretch::Found(Find { start, end, kind });
        }
    }
    let (start, end) = stretch(bytes, at, floor, |_| false);
    let bare = &bytes[start..end];
    if matches!(bare.len(), 12 | 16) && is_alone(bytes, start, end) && says_mac(text, start) {
        let kind = Kind::Mac;
        return Stretch::Found(Find { start, end, kind });
    }
    Stretch::Unknown
}

/// Addresses with colons: IPv6 as its parser takes it, EUI-48 and EUI-64 in pairs.
fn with_colons(text: &str, at: usize, floor: usize) -> Option<Find> {
    let bytes = text.as_bytes();
    let (start, end) = stretch(bytes, at, floor, |byte| byte == b':' || byte == b'.');
    let colons = text[start..end].matches(':');
    if colons.take(2).count() < 2 {
        return None;
    }
    // A dot may begin a sentence; a group after the last colon may be a port.
    let undotted = bytes[start..end].iter().position(|&byte| byte == b'.');
    let last_colon = bytes[start..end].iter().rposition(|&byte| byte == b':');
    let ends = [
        Some(end),
        undotted.map(|n| start + n),
        last_colon.map(|n| start + n),
    ];
    for end in ends.into_iter().flatten() {
        let (start, end) = untied(bytes, start, end);
        if start >= end || !is_alone(bytes, start, end) {
            continue;
        }
        let address = &text[start..end];
        if is_mac(address.as_bytes()) {
            return Some(Find {
                start,
                end,
                kind: Kind::Mac,
            });
        }
        let digit = address.bytes().any(|byte| byte.is_ascii_digit());
        // `process_0_to_15::<T>` is code.
        let code = text[..start].ends_with('_') || address.len() < 5 && address.ends_with("::");
        if digit && !code && address.parse::<Ipv6Addr>().is_ok() {
            let end = end + zone_length(&text[end..]);
            return Some(Find {
                start,
                end,
                kind: Kind::Ipv6,
            });
        }
    }
    None
}

/// Without the colon of `ip:` before and the colon or full stop of a sentence after.
fn untied(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while end > start
        && (bytes[end - 1] == b'.'
            || bytes[..end].ends_with(b":") && !bytes[..end].ends_with(b"::"))
    {
        end -= 1;
    }
    if bytes[..end].ends_with(b":::") {
        end -= 1;
    }
    while start < end
        && (bytes[start] == b'.' || bytes[start] == b':' && bytes.get(start + 1) != Some(&b':'))
    {
        start += 1;
    }
    (start, end)
}

/// `%eth0`, RFC 4007 section 11.
fn zone_length(rest: &str) -> usize {
    let Some(zone) = rest.strip_prefix('%') else {
        return 0;
    };
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let length = zone.bytes().take(16).take_while(inside).count();
    let length = zone[..length].trim_end_matches(['.', '-', '_']).len();
    if length == 0 { 0 } else { 1 + length }
}

/// Hexadecimal digits and others around a place, within a window.
fn stretch(bytes: &[u8], at: usize, floor: usize, other: impl Fn(u8) -> bool) -> (usize, usize) {
    let inside = |byte: &&u8| byte.is_ascii_hexdigit() || other(**byte);
    let floor = floor.max(at.saturating_sub(STRETCH_BYTES));
    let start = at - bytes[floor..at].iter().rev().take_while(inside).count();
    let ceiling = bytes.len().min(at + STRETCH_BYTES);
    let end = at + bytes[at..ceiling].iter().take_while(inside).count();
    (start, end)
}

/// Whether a digit seems to be in one of several pairs with spaces between them.
fn is_among_pairs(bytes: &[u8], at: usize) -> bool {
    let second = at > 0 && bytes[at - 1].is_ascii_hexdigit();
    let start = at - usize::from(second);
    let space = |place: Option<usize>| place.and_then(|place| bytes.get(place)) == Some(&b' ');
    let after = space(Some(start + 2)) && space(Some(start + 5));
    let before = space(start.checked_sub(1)) && space(start.checked_sub(4));
    after || before
}

/// Six pairs with spaces between them around a place, and no seventh.
fn pairs(bytes: &[u8], at: usize, floor: usize) -> (usize, usize) {
    let (start, end) = stretch(bytes, at, floor, |byte| byte == b' ');
    let (start, end) = trimmed(bytes, start, end, b" ");
    // A word like `bad` may stand before; only exactly six pairs are taken.
    if end - start == 17 {
        (start, end)
    } else {
        (at, at)
    }
}

fn trimmed(bytes: &[u8], mut start: usize, mut end: usize, others: &[u8]) -> (usize, usize) {
    while start < end && others.contains(&bytes[start]) {
        start += 1;
    }
    while start < end && others.contains(&bytes[end - 1]) {
        end -= 1;
    }
    (start, end)
}

/// Whether no letter or digit touches it.
pub(super) fn is_alone(bytes: &[u8], start: usize, end: usize) -> bool {
    let before = start.checked_sub(1).map(|before| bytes[before]);
    let touches = |byte: u8| byte.is_ascii_alphanumeric();
    !before.is_some_and(touches) && !bytes.get(end).copied().is_some_and(touches)
}

/// Six or eight pairs, or three, four or two longer groups, with one sign between them.
fn is_mac(bytes: &[u8]) -> bool {
    let Some(&sign) = bytes.iter().find(|byte| !byte.is_ascii_hexdigit()) else {
        return false;
    };
    let lengths: Vec<_> = bytes.split(|&byte| byte == sign).map(<[u8]>::len).collect();
    let hexadecimal = |group: &[u8]| group.iter().all(u8::is_ascii_hexdigit);
    if !bytes.split(|&byte| byte == sign).all(hexadecimal) {
        return false;
    }
    let letters = bytes.iter().any(u8::is_ascii_alphabetic);
    match (&lengths[..], sign) {
        ([2, 2, 2, 2, 2, 2] | [2, 2, 2, 2, 2, 2, 2, 2], b':' | b'-')
        | ([4, 4, 4], b':' | b'.')
        | ([6, 6], b':') => true,
        // These look like other numbers if there is no letter.
        ([4, 4, 4] | [6, 6], b'-') | ([2, 2, 2, 2, 2, 2], b'.' | b' ') => letters,
        _ => false,
    }
}

/// RFC 9562 section 4.
fn is_uuid(bytes: &[u8]) -> bool {
    let groups = bytes.split(|&byte| byte == b'-').map(<[u8]>::len);
    groups.eq([8, 4, 4, 4, 12])
}

fn says_mac(text: &str, at: usize) -> bool {
    let start = text.floor_char_boundary(at.saturating_sub(24));
    let words = text[start..at].split(|c: char| !c.is_ascii_alphabetic());
    let mut words = words.filter(|word| !word.is_empty());
    words.any(|word| {
        ["mac", "bssid", "hwaddr", "ether"]
            .iter()
            .any(|w| word.eq_ignore_ascii_case(w))
    })
}

/// Longer than any address: `0000:0000:0000:0000:0000:ffff:255.255.255.255` with its neighbours.
const STRETCH_BYTES: usize = 56;
