//! The one-time code by which a box joins a fleet: a secret, and a fingerprint of the factory, to be typed by people.
//!
//! ```text
//! K7QM2A-0XW9RC-…   7 groups of 6: five symbols of the payload, and a check symbol of the group and its place
//! payload           35 symbols of 5 bits: 80 bits of secret, then the first 95 bits of BLAKE3 of the authority's DER
//! ```
//!
//! The symbols are Crockford's base 32: no I, L, O or U. Who types it may use small letters, o for 0 and i or l for 1,
//! and leave out or add hyphens and spaces. A check symbol finds every wrong symbol of its group, every two that are
//! swapped, and groups in the wrong order (U-21).

/// Bytes of the secret.
pub const SECRET_BYTES: usize = 10;

const GROUPS: usize = 7;
/// Symbols of a group, the last one checks.
const GROUP_SYMBOLS: usize = 6;
const SECRET_SYMBOLS: usize = 16;
const FINGERPRINT_SYMBOLS: usize = 19;
const _: () = assert!(SECRET_SYMBOLS * 5 == SECRET_BYTES * 8);
const _: () = assert!(SECRET_SYMBOLS + FINGERPRINT_SYMBOLS == GROUPS * (GROUP_SYMBOLS - 1));

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnrolmentCode {
    secret: [u8; SECRET_BYTES],
    /// Symbols, not bytes.
    fingerprint: [u8; FINGERPRINT_SYMBOLS],
}

impl std::fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrolmentCode")
    }
}

/// Why a text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Something is missing, or too much.
    #[error(
        "a code has {GROUPS} groups of {GROUP_SYMBOLS} symbols, {} in all; this one has {symbols}",
        GROUPS * GROUP_SYMBOLS
    )]
    Length {
        /// Symbols that there are.
        symbols: usize,
    },
    /// A character that no code has.
    #[error(
        "`{character}` in group {group} is in no code: codes have digits and letters without I, L, O and U"
    )]
    Character {
        /// Which.
        character: char,
        /// In which group, from 1.
        group: usize,
    },
    /// The check symbol says no.
    #[error("group {group} (`{text}`) is mistyped, or not in its place: compare it with the code")]
    Group {
        /// Which, from 1.
        group: usize,
        /// As read.
        text: String,
    },
}

impl EnrolmentCode {
    /// From random bytes, for the fleet with this authority (a certificate in DER).
    pub fn new(secret: [u8; SECRET_BYTES], authority: &[u8]) -> Self {
        Self {
            secret,
            fingerprint: fingerprint(authority),
        }
    }

    /// Whether this is the authority that made the code.
    pub fn is_from(&self, authority: &[u8]) -> bool {
        self.fingerprint == fingerprint(authority)
    }

    /// What the factory looks a code up by. Who reads it does not learn the code.
    pub fn lookup(&self) -> [u8; 32] {
        blake3::derive_key("outstation enrolment code v1", &self.secret)
    }

    /// What somebody typed.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut symbols = Vec::with_capacity(GROUPS * GROUP_SYMBOLS);
        let mut count = 0;
        for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let group = count / GROUP_SYMBOLS + 1;
            let wrong = CodeError::Character { character, group };
            if symbols.len() < GROUPS * GROUP_SYMBOLS {
                symbols.push(value(character).ok_or(wrong)?);
            }
            count += 1;
        }
        if count != GROUPS * GROUP_SYMBOLS {
            return Err(CodeError::Length { symbols: count });
        }
        let mut payload = Vec::with_capacity(GROUPS * (GROUP_SYMBOLS - 1));
        for (group, symbols) in (1..).zip(symbols.chunks_exact(GROUP_SYMBOLS)) {
            let (given, data) = symbols.split_last().expect("a group has six");
            if *given != check(group, data) {
                let text = symbols.iter().map(|s| letter(*s)).collect();
                return Err(CodeError::Group { group, text });
            }
            payload.extend_from_slice(data);
        }
        let mut secret = [0; SECRET_BYTES];
        let (first, second) = payload.split_at(SECRET_SYMBOLS);
        for (index, symbol) in first.iter().enumerate() {
            for bit in 0..5 {
                let at = index * 5 + bit;
                secret[at / 8] |= (symbol >> (4 - bit) & 1) << (7 - at % 8);
            }
        }
        let fingerprint = second.try_into().expect("35 less 16 are 19");
        Ok(Self {
            secret,
            fingerprint,
        })
    }
}

/// As people read it.
impl std::fmt::Display for EnrolmentCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = symbols::<SECRET_SYMBOLS>(&self.secret);
        let payload: Vec<u8> = secret.into_iter().chain(self.fingerprint).collect();
        for (group, data) in (1..).zip(payload.chunks_exact(GROUP_SYMBOLS - 1)) {
            if group > 1 {
                f.write_str("-")?;
            }
            for symbol in data.iter().chain([&check(group, data)]) {
                std::fmt::Write::write_char(f, letter(*symbol))?;
            }
        }
        Ok(())
    }
}

fn fingerprint(authority: &[u8]) -> [u8; FINGERPRINT_SYMBOLS] {
    symbols(blake3::hash(authority).as_bytes())
}

/// The first bits of `bytes`, five to a symbol.
fn symbols<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|index| {
        (0..5).fold(0, |symbol, bit| {
            let at = index * 5 + bit;
            symbol << 1 | bytes[at / 8] >> (7 - at % 8) & 1
        })
    })
}

/// A polynomial over GF(32), at the generator 2, with x^5 + x^2 + 1: its weights are all different, and none is 0.
fn check(group: usize, data: &[u8]) -> u8 {
    let place = u8::try_from(group).expect("there are seven");
    let double = |value: u8| {
        let doubled = value << 1;
        if doubled & 32 == 0 {
            doubled
        } else {
            doubled ^ 0b10_0101
        }
    };
    double(data.iter().fold(place, |sum, symbol| double(sum) ^ symbol))
}

fn letter(symbol: u8) -> char {
    char::from(ALPHABET[usize::from(symbol)])
}

fn value(character: char) -> Option<u8> {
    let upper = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let at = ALPHABET
        .iter()
        .position(|known| char::from(*known) == upper)?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests;
