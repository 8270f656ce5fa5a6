//! Telephone numbers as people write them.

use super::check::{Digits, country_code};

/// Whether digits after a plus or two zeros are a number of ITU-T E.164: country code and at most fifteen digits, with
/// the lengths of the plans that have only one.
pub(super) fn is_international(digits: &Digits) -> bool {
    let count = digits.all().len();
    let Some(code) = country_code(digits) else {
        return false;
    };
    match digits.first(code) {
        1 => count == 11 && is_nanp(&digits.all()[1..]),
        7 | 33 | 34 => count == 11,
        // Italy keeps its zero.
        39 => (8..=14).contains(&count),
        _ => (8..=15).contains(&count) && digits.all()[code] != 0,
    }
}

/// North American numbering plan: area and exchange begin with 2 to 9.
pub(super) fn is_nanp(digits: &[u8]) -> bool {
    digits.len() == 10 && digits[0] > 1 && digits[3] > 1
}

/// What stands between two groups of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    Space,
    /// One dash or full stop.
    Sign,
    /// A bracket closes.
    Close,
    /// A slash, or several signs.
    Other,
}

impl Gap {
    pub(super) fn new(between: &str) -> Self {
        match between {
            "-" | "." => Self::Sign,
            _ if between.trim().is_empty() => Self::Space,
            _ if between.starts_with(')') => Self::Close,
            _ => Self::Other,
        }
    }
}

/// Whether digits are a number as it is written inside of a country: its groups' lengths, and what stands between
/// them. A form that other numbers have, too, needs a word beside it, and is not for this function.
pub(super) fn is_national(digits: &Digits, groups: &[usize], gaps: &[Gap]) -> bool {
    let all = digits.all();
    let counted = all.windows(2).all(|two| two[1] == two[0] + 1);
    if counted {
        return false;
    }
    match (all, groups) {
        // 0049 170 1234567
        ([0, 0, rest @ ..], [2..=17, ..]) if (9..=15).contains(&rest.len()) => {
            Digits::new(rest.iter().map(|digit| digit + b'0'))
                .is_some_and(|rest| is_international(&rest))
        }
        // A postal code of the United States: 02110-1301
        (_, [5, 4]) if gaps == [Gap::Sign] => false,
        // Trunk zero: most of Europe, and beyond. 01701234567, 030 1234567, 06 12 34 56 78
        ([0, 1..=9, ..], [_]) => (10..=12).contains(&all.len()),
        ([0, 1..=9, ..], [2..=6, rest @ .., last]) => {
            // (030) 1234567 06 12 34 56 78: the second has a zero of its own.
            let next = *last == 2 && all[all.len() - last] == 0 && gaps.last() == Some(&Gap::Space);
            let long = rest.iter().any(|&group| group > 3);
            let whole = rest.len() <= 4 && rest.iter().all(|&group| group > 1);
            (9..=12).contains(&all.len()) && whole && !(next && long)
        }
        // (201) 555-0123, 201.555.0123
        (area, [3, 3, 4]) => is_nanp(area) && matches!(gaps, [Gap::Sign | Gap::Close, Gap::Sign]),
        ([1, area @ ..], [1, 3, 3, 4]) => {
            is_nanp(area) && matches!(gaps, [_, Gap::Sign | Gap::Close, Gap::Sign])
        }
        // 612 34 56 78, 91 123 45 67
        ([6..=9, ..], [3, 2, 2, 2] | [2, 3, 2, 2]) => true,
        _ => false,
    }
}
