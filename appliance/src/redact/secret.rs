//! Secrets: keys with a known beginning, values that a word announces, private keys, userinfo of URLs.

use std::ops::Range;

use super::{Find, Kind, fold};

/// How a hint becomes a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// At least so many of these signs follow, and the prefix is written like this.
    Prefix(Signs, usize),
    /// JSON Web Token: three parts.
    Jwt,
    /// `Bearer`, `Basic`.
    Scheme,
    /// Everything to the end of a private key.
    Pem,
    /// What is assigned to a password, to a token, to a PIN.
    Password,
    Token,
    Pin,
    /// `://`.
    Url,
}

/// Signs that a key consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    Alphanumeric,
    Upper,
    /// URL-safe base64.
    Url,
    /// With full stops.
    Dotted,
}

/// Words that begin or announce a secret.
pub(super) const WORDS: [(&str, Form); 97] = [
    ("sk-", Form::Prefix(Signs::Url, 16)),
    ("sk_live_", Form::Prefix(Signs::Alphanumeric, 12)),
    ("sk_test_", Form::Prefix(Signs::Alphanumeric, 12)),
    ("rk_live_", Form::Prefix(Signs::Alphanumeric, 12)),
    ("pk_live_", Form::Prefix(Signs::Alphanumeric, 12)),
    ("whsec_", Form::Prefix(Signs::Alphanumeric, 16)),
    ("ghp_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("gho_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("ghu_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("ghs_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("ghr_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("github_pat_", Form::Prefix(Signs::Url, 20)),
    ("glpat-", Form::Prefix(Signs::Dotted, 16)),
    ("gldt-", Form::Prefix(Signs::Url, 16)),
    ("AKIA", Form::Prefix(Signs::Upper, 16)),
    ("ASIA", Form::Prefix(Signs::Upper, 16)),
    ("AIza", Form::Prefix(Signs::Url, 30)),
    ("ya29.", Form::Prefix(Signs::Url, 20)),
    ("xoxa-", Form::Prefix(Signs::Url, 10)),
    ("xoxb-", Form::Prefix(Signs::Url, 10)),
    ("xoxp-", Form::Prefix(Signs::Url, 10)),
    ("xoxr-", Form::Prefix(Signs::Url, 10)),
    ("xoxs-", Form::Prefix(Signs::Url, 10)),
    ("xoxe-", Form::Prefix(Signs::Url, 10)),
    ("xapp-", Form::Prefix(Signs::Url, 10)),
    ("hf_", Form::Prefix(Signs::Alphanumeric, 20)),
    ("npm_", Form::Prefix(Signs::Alphanumeric, 30)),
    ("pypi-", Form::Prefix(Signs::Url, 40)),
    ("dop_v1_", Form::Prefix(Signs::Alphanumeric, 40)),
    ("SG.", Form::Prefix(Signs::Dotted, 40)),
    ("hvs.", Form::Prefix(Signs::Url, 20)),
    ("gsk_", Form::Prefix(Signs::Alphanumeric, 30)),
    ("AGE-SECRET-KEY-1", Form::Prefix(Signs::Upper, 30)),
    ("eyJ", Form::Jwt),
    ("bearer", Form::Scheme),
    ("basic", Form::Scheme),
    ("-----BEGIN ", Form::Pem),
    ("password", Form::Password),
    ("passwd", Form::Password),
    ("passwort", Form::Password),
    ("kennwort", Form::Password),
    ("passphrase", Form::Password),
    ("mot de passe", Form::Password),
    ("mdp", Form::Password),
    ("contraseña", Form::Password),
    ("contrasena", Form::Password),
    ("clave", Form::Password),
    ("pwd", Form::Password),
    ("psk", Form::Password),
    ("pre-shared-key", Form::Password),
    ("wpa_key", Form::Password),
    ("community", Form::Password),
    ("token", Form::Token),
    ("secret", Form::Token),
    ("geheimnis", Form::Token),
    ("api_key", Form::Token),
    ("api-key", Form::Token),
    ("api key", Form::Token),
    ("apikey", Form::Token),
    ("api-schlüssel", Form::Token),
    ("clé api", Form::Token),
    ("clave api", Form::Token),
    ("access_key", Form::Token),
    ("access-key", Form::Token),
    ("access key", Form::Token),
    ("accesskey", Form::Token),
    ("account_key", Form::Token),
    ("accountkey", Form::Token),
    ("secret_key", Form::Token),
    ("secret-key", Form::Token),
    ("secret key", Form::Token),
    ("secretkey", Form::Token),
    ("private_key", Form::Token),
    ("private-key", Form::Token),
    ("privatekey", Form::Token),
    ("encryption_key", Form::Token),
    ("encryption key", Form::Token),
    ("license key", Form::Token),
    ("license_key", Form::Token),
    ("session_id", Form::Token),
    ("sessionid", Form::Token),
    ("phpsessid", Form::Token),
    ("jsessionid", Form::Token),
    ("sid", Form::Token),
    ("credential", Form::Token),
    ("auth_key", Form::Token),
    ("auth-key", Form::Token),
    ("authkey", Form::Token),
    ("opc", Form::Token),
    ("ki", Form::Token),
    ("pin", Form::Pin),
    ("pin-code", Form::Pin),
    ("pin code", Form::Pin),
    ("puk", Form::Pin),
    ("otp", Form::Pin),
    ("tan", Form::Pin),
    ("://", Form::Url),
];

/// The secret that a word announces.
///
/// Cost: O(bytes of the secret): what a word may begin in vain is bounded.
pub(super) fn at(text: &str, form: Form, word: Range<usize>) -> Option<Find> {
    let bytes = text.as_bytes();
    let before = word
        .start
        .checked_sub(1)
        .map_or(b' ', |before| bytes[before]);
    let key = |place: Range<usize>| {
        let (start, end) = (place.start, place.end);
        Some(Find {
            start,
            end,
            kind: Kind::Key,
        })
    };
    match form {
        Form::Prefix(signs, least) => {
            let wanted = WORDS
                .iter()
                .any(|(prefix, _)| *prefix == &text[word.clone()]);
            if !wanted || before.is_ascii_alphanumeric() || before == b'_' {
                return None;
            }
            let end = word.end + length(&bytes[word.end..], signs, KEY_BYTES_MAX);
            let tail = text[word.end..end].trim_end_matches(['.', '-']);
            let digits = tail.bytes().any(|byte| byte.is_ascii_digit());
            (tail.len() >= least && digits).then(|| key(word.start..word.end + tail.len()))?
        }
        Form::Jwt => {
            let wanted = &text[word.clone()] == "eyJ";
            if !wanted || before.is_ascii_alphanumeric() || before == b'_' || before == b'-' {
                return None;
            }
            jwt(bytes, word.start).and_then(|end| key(word.start..end))
        }
        Form::Scheme => scheme(text, word).and_then(key),
        Form::Pem => pem(text, word).and_then(key),
        Form::Password | Form::Token | Form::Pin => assigned(text, form, word).and_then(key),
        Form::Url => {
            let place = userinfo(text, word)?;
            let (start, end) = (place.start, place.end);
            Some(Find {
                start,
                end,
                kind: Kind::Credentials,
            })
        }
    }
}

/// How many of these signs there are, up to a bound: many prefixes may begin in one another.
fn length(bytes: &[u8], signs: Signs, most: usize) -> usize {
    let inside = |byte: &&u8| match signs {
        Signs::Alphanumeric => byte.is_ascii_alphanumeric(),
        Signs::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        Signs::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
        Signs::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
    };
    bytes.iter().take(most).take_while(inside).count()
}

/// RFC 7519 section 3: header, claims and signature, or the five parts of an encrypted one.
fn jwt(bytes: &[u8], start: usize) -> Option<usize> {
    let mut end = start;
    for part in 0..5 {
        if part > 0 {
            if bytes.get(end) != Some(&b'.') {
                break;
            }
            end += 1;
        }
        let length = length(&bytes[end..], Signs::Url, CLAIMS_BYTES_MAX);
        if part < 2 && length < 8 {
            return None;
        }
        end += length;
    }
    // One part alone is any JSON in base64.
    bytes[start..end].contains(&b'.').then(|| {
        let full_stops = bytes[start..end]
            .iter()
            .rev()
            .take_while(|&&byte| byte == b'.')
            .count();
        end - full_stops
    })
}

/// `Authorization: Bearer …`. A radio bearer has no such value: it is long and mixed, or after `Authorization`.
fn scheme(text: &str, word: Range<usize>) -> Option<Range<usize>> {
    let rest = &text[word.end..];
    let gap = rest.len() - rest.trim_start_matches([' ', ':']).len();
    if !(1..=3).contains(&gap) {
        return None;
    }
    let tail = &rest[gap..];
    let inside = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let value = &tail[..tail.find(|c| !inside(c)).unwrap_or(tail.len())];
    let value = value.trim_end_matches(['.', '-']);
    let window = text.floor_char_boundary(word.start.saturating_sub(24));
    let announced = text[window..word.start]
        .to_ascii_lowercase()
        .contains("authorization");
    let has = |test: fn(&u8) -> bool| value.bytes().any(|byte| test(&byte));
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    let least = if announced { 6 } else { 16 };
    let known = value.len() >= least && (announced || mixed);
    let basic = text[word.clone()].eq_ignore_ascii_case("basic");
    (known && (announced || !basic)).then(|| word.end + gap..word.end + gap + value.len())
}

/// RFC 7468; without an end, whatever may be part of it.
fn pem(text: &str, begin: Range<usize>) -> Option<Range<usize>> {
    let rest = &text[begin.end..];
    let label = &rest[..rest.floor_char_boundary(rest.len().min(48))];
    let label = &label[..label.find("-----")?];
    if !label.contains("PRIVATE KEY") {
        return None;
    }
    let body = begin.end + label.len() + 5;
    let inside = |c: char| c.is_ascii_alphanumeric() || "+/=-:, \n\r\t\\\"'".contains(c);
    let rest = &text[body..];
    let run = rest.find(|c| !inside(c)).unwrap_or(rest.len());
    let end = rest[..run].find("-----END ").map_or(run, |end| {
        let after = end + "-----END ".len();
        rest[after..run]
            .find("-----")
            .map_or(run, |close| after + close + 5)
    });
    let end = body + rest[..end].trim_end().len();
    Some(begin.start..end)
}

/// `user:password` before the `@` of a URL.
fn userinfo(text: &str, mark: Range<usize>) -> Option<Range<usize>> {
    text[..mark.start]
        .ends_with(|c: char| c.is_ascii_alphanumeric())
        .then_some(())?;
    let rest = &text[mark.end..];
    let window = &rest[..rest.floor_char_boundary(rest.len().min(USERINFO_BYTES_MAX))];
    let end =
        window.find(|c: char| c.is_whitespace() || "/?#\"'<>`|".contains(c) || c == fold::TAKEN);
    let authority = &window[..end.unwrap_or(window.len())];
    let userinfo = &authority[..authority.rfind('@')?];
    let (_, password) = userinfo.split_once(':')?;
    (!password.is_empty()).then(|| mark.end..mark.end + userinfo.len())
}

/// How a value is tied to its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// `=`, `:=`, `=>`.
    Equals,
    Colon,
    /// `is`.
    Verb,
    /// `--password value`, `password 7 value`.
    Flag,
}

/// The value of a password, token or PIN.
fn assigned(text: &str, form: Form, word: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let before = text[..word.start].chars().next_back().unwrap_or(' ');
    let capital = bytes[word.start].is_ascii_uppercase() && before.is_lowercase();
    let long =
        matches!(form, Form::Password) && word.len() >= 6 || word.len() >= 6 && form == Form::Token;
    if before.is_alphanumeric() && !long && !capital {
        return None;
    }
    let mut at = word.end;
    let skip = |at: &mut usize, signs: &str, most: usize| {
        let count = text[*at..]
            .bytes()
            .take(most)
            .take_while(|&byte| signs.as_bytes().contains(&byte))
            .count();
        *at += count;
        count
    };
    // The closing half of quotes or emphasis.
    skip(&mut at, "\"'`*])_", 4);
    let space = skip(&mut at, " \t", 4);
    let rest = &text[at..];
    let verb = VERBS.iter().find(|verb| {
        rest.get(..verb.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(verb))
    });
    let ties = [
        ("=>", Tie::Equals),
        (":=", Tie::Equals),
        ("=", Tie::Equals),
        (":", Tie::Colon),
    ];
    let flagged = text[..word.start].ends_with("--") || text[..word.start].ends_with(" -");
    if rest.starts_with("::") {
        return None;
    }
    let tie = if let Some((sign, tie)) = ties.iter().find(|(sign, _)| rest.starts_with(sign)) {
        at += sign.len();
        *tie
    } else if space > 0
        && let Some(verb) = verb
    {
        at += verb.len();
        Tie::Verb
    } else if space > 0 && (flagged || form == Form::Pin) {
        Tie::Flag
    } else if space > 0 && rest.starts_with(['0', '5', '7', '8', '9']) && rest[1..].starts_with(' ')
    {
        at += 2;
        Tie::Flag
    } else {
        return None;
    };
    skip(&mut at, "*", 2);
    skip(&mut at, " \t", 4);
    let place = value(text, at, form)?;
    is_secret(text, form, tie, &place).then_some(place)
}

/// The value that begins here: in quotes to the other quote, or a word.
fn value(text: &str, at: usize, form: Form) -> Option<Range<usize>> {
    let rest = &text[at..];
    let window = &rest[..rest.floor_char_boundary(rest.len().min(VALUE_BYTES_MAX))];
    for quote in ['"', '\'', '`'] {
        if !text[..at].ends_with(quote)
            && let Some(inner) = window.strip_prefix(quote)
        {
            let length = inner.find([quote, '\n', fold::TAKEN]);
            let closed = length.filter(|&length| inner[length..].starts_with(quote));
            if let Some(length) = closed {
                return Some(at + 1..at + 1 + length);
            }
            // Nobody closed it: a word.
            return value(text, at + 1, form);
        }
    }
    let value = &window[..window.find(ends_value).unwrap_or(window.len())];
    let open = value.contains('(');
    let trim = |c: char| ".:?*_".contains(c) || c == ')' && !open;
    let mut length = value.trim_end_matches(trim).len();
    if form == Form::Pin {
        length = value.bytes().take_while(u8::is_ascii_digit).count();
        if value[length..].starts_with(char::is_alphanumeric) {
            return None;
        }
    }
    Some(at..at + length)
}

/// What no word of a value has.
fn ends_value(c: char) -> bool {
    c.is_whitespace() || ",;\"'<>|`[]{}&“”„’»«".contains(c) || c == fold::TAKEN
}

/// Whether a value is one, and not what somebody says about it: `password: required`.
fn is_secret(text: &str, form: Form, tie: Tie, place: &Range<usize>) -> bool {
    let value = &text[place.clone()];
    let quoted = text[..place.start].ends_with(['"', '\'', '`']);
    let lower = value.to_lowercase();
    // `${DB_PASSWORD}` and `$TOKEN` are names of variables, `$1$…` is a hash.
    let name = |c: char| c.is_ascii_uppercase() || c == '_';
    let variable = value
        .strip_prefix('$')
        .is_some_and(|rest| rest.starts_with(['{', '(']) || rest.chars().all(name));
    let masked =
        value.chars().all(|c| "*•x.-_".contains(c)) || value.starts_with(['<', '%', '/', '{']);
    let masked = masked || variable;
    if value.is_empty() || masked || NO_SECRETS.contains(&lower.as_str()) {
        return false;
    }
    let digit = value.chars().any(|c| c.is_ascii_digit());
    let number = value.chars().all(|c| c.is_ascii_digit() || c == '.');
    let symbol = value
        .chars()
        .any(|c| c.is_ascii_punctuation() && !"-'.".contains(c));
    let mixed =
        value.chars().skip(1).any(char::is_uppercase) && value.chars().any(char::is_lowercase);
    let strange = digit || symbol || mixed;
    let last = text[place.end..].trim_start_matches(['.', '"', '\'', '`', ')', '!', '*', ' ']);
    let last = last.is_empty() || last.starts_with(['\n', ',', ';', '}', '|', '&']);
    // `Token(1)` and `auth::Token` are code.
    let code = !quoted && (value.contains('(') || value.contains("::"));
    if form == Form::Token && code {
        return false;
    }
    let enough = value.len() >= if form == Form::Password { 3 } else { 6 };
    match (form, tie) {
        (Form::Pin, _) => (4..=8).contains(&value.len()) && number && !value.contains('.'),
        (Form::Token, Tie::Equals | Tie::Colon) if quoted => enough && !number,
        (Form::Token, Tie::Equals) => enough && strange && !number,
        (Form::Token, _) => value.len() >= 8 && digit && !number,
        (_, Tie::Equals) => enough,
        (_, Tie::Colon) => enough && (quoted || strange || last),
        (_, Tie::Verb) => enough && (quoted || strange),
        (_, Tie::Flag) => enough && (quoted || strange || value.len() > 5),
    }
}

const VERBS: [&str; 7] = ["is ", "ist ", "est ", "es ", "lautet ", "was ", "war "];

/// What people say about passwords.
const NO_SECRETS: [&str; 59] = [
    "required",
    "expired",
    "missing",
    "invalid",
    "incorrect",
    "wrong",
    "changed",
    "reset",
    "none",
    "null",
    "nil",
    "unknown",
    "optional",
    "hidden",
    "yes",
    "no",
    "true",
    "false",
    "empty",
    "redacted",
    "removed",
    "string",
    "str",
    "ok",
    "failed",
    "rejected",
    "accepted",
    "unset",
    "default",
    "erforderlich",
    "abgelaufen",
    "falsch",
    "ungültig",
    "fehlt",
    "ja",
    "nein",
    "leer",
    "unbekannt",
    "requis",
    "expiré",
    "incorrecte",
    "manquant",
    "invalide",
    "oui",
    "non",
    "oublié",
    "vide",
    "caducada",
    "incorrecta",
    "requerida",
    "inválida",
    "olvidada",
    "sí",
    "forgotten",
    "new",
    "vergessen",
    "input",
    "prompt",
    "self",
];

/// After a prefix. No key is longer.
const KEY_BYTES_MAX: usize = 512;

/// Of one part of a JWT.
const CLAIMS_BYTES_MAX: usize = 8192;

const USERINFO_BYTES_MAX: usize = 320;
const VALUE_BYTES_MAX: usize = 320;
