//! Values as people write them, made without a line of the redactor: if both had the same error, nobody would see it.

use outstation::redact::Kind;
use outstation::sampler::splitmix;

/// The randomness of a seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(splitmix(seed))
    }

    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix(self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// From 0 up to, not including, this.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).expect("small");
        usize::try_from(self.any() % count).expect("small")
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// So many of these characters.
    fn signs(&mut self, count: usize, from: &str) -> String {
        let from: Vec<char> = from.chars().collect();
        (0..count).map(|_| from[self.below(from.len())]).collect()
    }

    pub(crate) fn digits(&mut self, count: usize) -> String {
        self.signs(count, "0123456789")
    }

    fn hex(&mut self, count: usize) -> String {
        self.signs(count, "0123456789abcdef")
    }

    /// Without a zero in front.
    pub(crate) fn number(&mut self, count: usize) -> String {
        self.signs(1, "123456789") + &self.digits(count - 1)
    }
}

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const BASE64URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// In groups of these lengths; the last takes the rest.
fn grouped(text: &str, lengths: &[usize], between: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = text;
    for &length in lengths {
        let (part, after) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts.retain(|part| !part.is_empty());
    parts.join(between)
}

/// The digit that makes the sum of ISO/IEC 7812 a multiple of ten.
fn with_check_digit(body: &str) -> String {
    let mut sum = 0;
    for (place, sign) in body.chars().rev().enumerate() {
        let digit = sign.to_digit(10).expect("digits");
        let weighted = if place % 2 == 0 { digit * 2 } else { digit };
        sum += weighted / 10 + weighted % 10;
    }
    format!("{body}{}", (10 - sum % 10) % 10)
}

/// A quarter each in full-width digits, with an invisible character, or as they are.
fn disguised(random: &mut Random, text: String) -> String {
    match random.below(12) {
        0 => text
            .chars()
            .map(|c| match c.to_digit(10) {
                Some(digit) => char::from_u32(0xFF10 + digit).expect("full-width"),
                None => c,
            })
            .collect(),
        1 => {
            let middle = text
                .char_indices()
                .nth(text.chars().count() / 2)
                .map_or(0, |(at, _)| at);
            format!("{}\u{200B}{}", &text[..middle], &text[middle..])
        }
        2 => text.replace(' ', "\u{A0}").replace('-', "\u{2011}"),
        _ => text,
    }
}

fn name(random: &mut Random) -> String {
    let first = [
        "anna", "josé", "karl", "maeve", "li", "zoe", "björn", "chloé", "omar", "pilar",
    ];
    let last = [
        "weber", "o'neill", "garcia", "dupont", "smith", "lefèvre", "king", "muñoz", "vogel",
        "chen",
    ];
    let between = random.pick(&[".", "_", "-", ""]);
    format!("{}{between}{}", random.pick(&first), random.pick(&last))
}

fn host(random: &mut Random) -> String {
    let length = 3 + random.below(8);
    let mut host = random.signs(length, LOWER);
    if random.below(4) == 0 {
        host = format!("{host}-{}", random.digits(2));
    }
    let top = random.pick(&[
        "com", "de", "fr", "es", "org", "net", "co.uk", "io", "online", "eu", "berlin",
    ]);
    format!("{host}.{top}")
}

pub(crate) fn email(random: &mut Random) -> String {
    let plain = name(random)
        .replace(['é', 'è'], "e")
        .replace('ñ', "n")
        .replace('ö', "o");
    let (local, domain) = (plain, host(random));
    match random.below(12) {
        0 => format!("{local}+{}@{domain}", random.signs(5, LOWER)),
        1 => format!(
            "\"{} {}\"@{domain}",
            random.signs(4, LOWER),
            random.signs(6, LOWER)
        ),
        2 => format!(
            "{local}@{}ü{}.de",
            random.signs(3, LOWER),
            random.signs(3, LOWER)
        ),
        3 => format!(
            "{local}@xn--{}-{}.com",
            random.signs(5, LOWER),
            random.signs(4, LOWER)
        ),
        4 => format!("{local}@mail.{}.{domain}", random.signs(4, LOWER)),
        5 => format!("{local}@{domain}").to_uppercase(),
        6 => format!("{local}＠{domain}"),
        7 => format!("{local}%40{domain}"),
        8 => format!("{}@{domain}", name(random)),
        9 => format!("{local}\\u0040{domain}"),
        10 => format!("{}{}@{domain}", random.signs(1, LOWER), random.digits(6)),
        _ => format!("{local}@{domain}"),
    }
}

pub(crate) fn email_written_out(random: &mut Random) -> String {
    let local = format!("{}.{}", random.signs(5, LOWER), random.signs(6, LOWER));
    let (host, top) = (
        random.signs(7, LOWER),
        random.pick(&["com", "de", "net", "org"]),
    );
    match random.below(6) {
        0 => format!("{local} (at) {host} . {top}"),
        1 => format!("{local}[at]{host}[dot]{top}"),
        2 => format!("{local} at {host} dot {top}"),
        3 => format!("{local}(at){host}.{top}"),
        4 => format!("{local} @ {host}.{top}"),
        _ => format!("{local} [at] {host} (dot) {top}"),
    }
}

pub(crate) fn phone_plus(random: &mut Random) -> String {
    let mobile = random.digits(7);
    let phone = match random.below(14) {
        0 => format!("+49 170 {mobile}"),
        1 => format!("+49 (0)170 {mobile}"),
        2 => format!("+49-170-{mobile}"),
        3 => format!("+49170{mobile}"),
        4 => format!("+1 (415) 555-{}", random.digits(4)),
        5 => format!("+1-212-555-{}", random.digits(4)),
        6 => format!("+33 6 {}", grouped(&random.digits(8), &[2, 2, 2], " ")),
        7 => format!(
            "+34 6{} {} {}",
            random.digits(2),
            random.digits(3),
            random.digits(3)
        ),
        8 => format!("+44 7{} {}", random.digits(3), random.digits(6)),
        9 => format!("+353 86 {} {}", random.number(3), random.digits(4)),
        10 => format!("0049 170 {mobile}"),
        11 => format!("+49 30 {}-{}", random.number(6), random.number(2)),
        12 => format!("+44.20.7946.{}", random.digits(4)),
        _ => format!("+1 415 555 {} ext. {}", random.digits(4), random.number(3)),
    };
    disguised(random, phone)
}

pub(crate) fn phone_national(random: &mut Random) -> String {
    match random.below(12) {
        0 => format!("0170 {}", random.digits(7)),
        1 => format!("0171/{}", random.digits(7)),
        2 => format!("030 {}", random.number(7)),
        3 => format!("(089) {} {}", random.number(3), random.digits(4)),
        4 => format!("06 {}", grouped(&random.digits(8), &[2, 2, 2], " ")),
        5 => format!("01.{}", grouped(&random.digits(8), &[2, 2, 2], ".")),
        6 => format!("(415) 555-{}", random.digits(4)),
        7 => format!("212-555-{}", random.digits(4)),
        8 => format!(
            "6{} {}",
            random.digits(2),
            grouped(&random.digits(6), &[2, 2], " ")
        ),
        9 => format!("020 7946 {}", random.digits(4)),
        10 => format!("07{}", random.digits(9)),
        _ => format!("0151-{}", random.digits(8)),
    }
}

/// Stands after a word that announces it.
pub(crate) fn phone_bare(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("49170{}", random.digits(7)),
        1 => format!("336{}", random.digits(8)),
        2 => format!(
            "6{} {} {}",
            random.digits(2),
            random.digits(3),
            random.digits(3)
        ),
        _ => format!("415555{}", random.digits(4)),
    }
}

pub(crate) fn card(random: &mut Random) -> String {
    let between = random.pick(&[" ", "-", " ", "."]);
    let visa = with_check_digit(&format!("4{}", random.digits(14)));
    let amex_start = random.pick(&["34", "37"]);
    let amex = with_check_digit(&format!("{amex_start}{}", random.digits(12)));
    let card = match random.below(10) {
        0 => visa,
        1 => grouped(&visa, &[4, 4, 4], between),
        2 => grouped(&amex, &[4, 6], between),
        3 => amex,
        4 => grouped(
            &with_check_digit(&format!("5{}{}", 1 + random.below(5), random.digits(13))),
            &[4, 4, 4],
            between,
        ),
        5 => with_check_digit(&format!(
            "2{}{}",
            300 + random.below(400),
            random.digits(11)
        )),
        6 => grouped(
            &with_check_digit(&format!("36{}", random.digits(11))),
            &[4, 6],
            between,
        ),
        7 => with_check_digit(&format!("6011{}", random.digits(11))),
        8 => grouped(
            &with_check_digit(&format!("62{}", random.digits(16))),
            &[4, 4, 4, 4],
            between,
        ),
        _ => grouped(
            &with_check_digit(&format!("353{}{}", random.below(9), random.digits(11))),
            &[4, 4, 4],
            between,
        ),
    };
    disguised(random, card)
}

pub(crate) fn iban(random: &mut Random) -> String {
    let (country, body) = match random.below(9) {
        0 => ("DE", random.digits(18)),
        1 => (
            "FR",
            random.digits(10) + &random.signs(11, "0123456789ABCDEFGHIJ") + &random.digits(2),
        ),
        2 => ("ES", random.digits(20)),
        3 => ("GB", random.signs(4, "ABCDEFGHKLMNW") + &random.digits(14)),
        4 => ("NL", random.signs(4, "ABCDEFGHKLMNW") + &random.digits(10)),
        5 => ("MT", random.signs(4, "ABCDEFGHKLMNW") + &random.digits(23)),
        6 => ("NO", random.digits(11)),
        7 => ("CH", random.digits(17)),
        _ => ("AT", random.digits(16)),
    };
    // 98 minus the remainder of the number with zeros for check digits, digit by digit.
    let mut remainder = 0;
    for sign in format!("{body}{country}00").chars() {
        for digit in sign
            .to_digit(36)
            .expect("a letter or digit")
            .to_string()
            .chars()
        {
            remainder = (remainder * 10 + digit.to_digit(10).expect("a digit")) % 97;
        }
    }
    let iban = format!("{country}{:02}{body}", 98 - remainder);
    let fours = [4; 9];
    match random.below(6) {
        0 => iban.to_lowercase(),
        1 => grouped(&iban, &fours, " "),
        2 => grouped(&iban, &fours, " ").to_lowercase(),
        3 => grouped(&iban, &fours, "-"),
        4 => grouped(&iban, &fours, "\u{A0}"),
        _ => iban,
    }
}

pub(crate) fn imei(random: &mut Random) -> String {
    let body = random.pick(&["35", "86", "01", "99"]);
    let imei = with_check_digit(&format!("{body}{}", random.digits(12)));
    let imei = match random.below(8) {
        0 => grouped(&imei, &[2, 6, 6], "-"),
        1 => grouped(&imei, &[2, 6, 6], " "),
        2 => grouped(&imei, &[6, 2, 6], "/"),
        3 => grouped(&imei, &[8, 6], "-"),
        4 => grouped(
            &format!("{}{}", &imei[..14], random.digits(2)),
            &[2, 6, 6],
            "-",
        ),
        5 => grouped(&imei, &[3, 3, 3, 3], " "),
        _ => imei,
    };
    disguised(random, imei)
}

pub(crate) fn imsi(random: &mut Random) -> String {
    let mcc = random.pick(&[
        "262", "208", "214", "310", "234", "722", "460", "001", "505", "655",
    ]);
    // Not one that is a payment card's number as well, and none is a device's.
    let imsi = loop {
        let imsi = format!("{mcc}{}", random.digits(12));
        if with_check_digit(&imsi[..14]) != imsi {
            break imsi;
        }
    };
    let imsi = match random.below(7) {
        0 => grouped(&imsi, &[3, 2], " "),
        1 => grouped(&imsi, &[3, 3], "-"),
        2 => grouped(&imsi, &[5], " "),
        3 => grouped(&imsi, &[3, 2], "-"),
        _ => imsi,
    };
    disguised(random, imsi)
}

pub(crate) fn iccid(random: &mut Random) -> String {
    let length = 14 + random.below(2);
    let iccid = with_check_digit(&format!("8949{}", random.digits(length)));
    match random.below(3) {
        0 => grouped(&iccid, &[4, 4, 4, 4], " "),
        _ => iccid,
    }
}

pub(crate) fn ipv4(random: &mut Random) -> String {
    let mut octet = || (1 + random.below(254)).to_string();
    let four = [octet(), octet(), octet(), octet()];
    let address = four.join(".");
    match random.below(8) {
        0 => four.join("[.]"),
        1 => format!("10.{}.{}.{}", four[1], four[2], four[3]),
        2 => format!("127.0.0.{}", four[3]),
        3 => format!("192.168.{}.{}", four[2], four[3]),
        _ => disguised(random, address),
    }
}

pub(crate) fn ipv6(random: &mut Random) -> String {
    let group = |random: &mut Random| random.signs(1, "123456789abcdef") + &random.hex(3);
    match random.below(10) {
        0 => "::1".to_owned(),
        1 => format!(
            "fe80::{}:{}%eth{}",
            group(random),
            group(random),
            random.below(9)
        ),
        2 => format!("::ffff:192.0.2.{}", 1 + random.below(254)),
        3 => (0..8).map(|_| group(random)).collect::<Vec<_>>().join(":"),
        4 => (0..8)
            .map(|_| group(random))
            .collect::<Vec<_>>()
            .join(":")
            .to_uppercase(),
        5 => format!("2001:db8::{}", random.number(2)),
        6 => format!("2001:db8:{}::", group(random)),
        7 => format!("64:ff9b::198.51.100.{}", 1 + random.below(254)),
        8 => format!("fd{}:{}::{}:1", random.hex(2), group(random), group(random)),
        _ => format!(
            "2a02:{}:{}:0:0:0:0:{}",
            group(random),
            group(random),
            random.number(1)
        ),
    }
}

pub(crate) fn mac(random: &mut Random) -> String {
    // A digit somewhere, as all but one of a hundred thousand have.
    let hex = random.number(1) + &random.hex(11);
    let pairs = [2; 5];
    match random.below(6) {
        0 => grouped(&hex, &pairs, ":").to_uppercase(),
        1 => grouped(&hex, &pairs, "-"),
        2 => grouped(&hex, &pairs, "-").to_uppercase(),
        3 => grouped(&hex, &[4, 4], "."),
        4 => grouped(&format!("{hex}0a1b"), &[2; 7], ":"),
        _ => grouped(&hex, &pairs, ":"),
    }
}

pub(crate) fn jwt(random: &mut Random) -> String {
    let claims = 30 + random.below(80);
    let parts = [
        random.signs(20, BASE64URL),
        random.signs(claims, BASE64URL),
        random.signs(43, ALPHANUMERIC),
    ];
    format!("eyJ{}.eyJ{}.{}", parts[0], parts[1], parts[2])
}

pub(crate) fn key_prefix(random: &mut Random) -> String {
    let tail = |random: &mut Random, count: usize| {
        random.signs(count - 1, ALPHANUMERIC) + &random.digits(1)
    };
    match random.below(12) {
        0 => format!("sk-{}", tail(random, 48)),
        1 => format!("sk-proj-{}", tail(random, 60)),
        2 => format!("sk-ant-api03-{}", tail(random, 80)),
        3 => format!("ghp_{}", tail(random, 36)),
        4 => format!("github_pat_{}_{}", tail(random, 22), tail(random, 59)),
        5 => format!(
            "AKIA{}",
            random.signs(15, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") + &random.digits(1)
        ),
        6 => format!(
            "xoxb-{}-{}-{}",
            random.digits(12),
            random.digits(12),
            tail(random, 24)
        ),
        7 => format!("glpat-{}", tail(random, 20)),
        8 => format!("AIza{}", tail(random, 35)),
        9 => format!("sk_live_{}", tail(random, 24)),
        10 => format!("hf_{}", tail(random, 34)),
        _ => format!("npm_{}", tail(random, 36)),
    }
}

/// The announcing words, and what they announce.
pub(crate) fn assigned(random: &mut Random) -> (&'static str, String) {
    let secret = random.signs(5, ALPHANUMERIC) + &random.digits(2) + &random.signs(3, LOWER);
    let word = random.signs(9, LOWER);
    match random.below(14) {
        0 => ("password=", secret),
        1 => ("Password: ", secret),
        2 => ("DB_PASSWORD=", word),
        3 => ("api_key: ", secret),
        4 => ("\"apiKey\": \"", random.signs(24, ALPHANUMERIC)),
        5 => ("Passwort: ", secret),
        6 => ("Mot de passe : ", secret),
        7 => ("contraseña: ", secret),
        8 => ("--password ", secret),
        9 => ("Authorization: Bearer ", random.signs(30, ALPHANUMERIC)),
        10 => ("PIN: ", random.digits(4)),
        11 => ("PUK ", random.digits(8)),
        12 => ("client_secret='", random.signs(20, BASE64URL) + "7"),
        _ => ("my password is ", secret),
    }
}

pub(crate) fn pem(random: &mut Random) -> String {
    let label = random.pick(&[
        "RSA PRIVATE KEY",
        "PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "EC PRIVATE KEY",
    ]);
    let line = random.pick(&["\n", "\\n", "\r\n"]);
    let body: Vec<_> = (0..4).map(|_| random.signs(64, ALPHANUMERIC)).collect();
    format!(
        "-----BEGIN {label}-----{line}{}{line}-----END {label}-----",
        body.join(line)
    )
}

/// What stands before, the userinfo, and what stands after.
pub(crate) fn credentials(random: &mut Random) -> (String, String, String) {
    let scheme = random.pick(&["https", "ftp", "postgres", "rtsp", "mongodb+srv", "amqp"]);
    let user = random.signs(6, LOWER);
    let password = match random.below(3) {
        0 => random.signs(5, ALPHANUMERIC) + "@" + &random.signs(4, ALPHANUMERIC),
        1 => random.signs(6, ALPHANUMERIC) + "%21",
        _ => random.signs(10, ALPHANUMERIC),
    };
    (
        format!("{scheme}://"),
        format!("{user}:{password}"),
        format!("@{}.internal/path", random.signs(6, LOWER)),
    )
}

pub(crate) fn coordinates(random: &mut Random) -> String {
    let north = format!("{}.{}", 10 + random.below(70), random.digits(5));
    let east = format!("{}.{}", 1 + random.below(170), random.digits(5));
    match random.below(4) {
        0 => format!("{north}, {east}"),
        1 => format!("{north}° N, {east}° E"),
        2 => format!("-{north},-{east}"),
        _ => format!(
            "{}°{}'{}\"N {}°{}'{}\"E",
            10 + random.below(70),
            10 + random.below(49),
            10 + random.below(49),
            1 + random.below(170),
            10 + random.below(49),
            10 + random.below(49)
        ),
    }
}

/// Streets by language: English, German, French, Spanish.
pub(crate) fn address(random: &mut Random, language: usize) -> String {
    let house = random.number(2);
    let code = random.number(5);
    match language {
        0 => {
            let name = random.pick(&[
                "Baker",
                "Old Mill",
                "Washington",
                "St James's",
                "Elm",
                "King Edward",
                "5th",
            ]);
            let street = random.pick(&[
                "Street",
                "St",
                "Avenue",
                "Road",
                "Rd.",
                "Lane",
                "Drive",
                "Boulevard",
                "Way",
            ]);
            let start = format!("{house} {name} {street}");
            match random.below(4) {
                0 => format!("{start}, Apt {}", random.number(2)),
                1 => format!("{start}, Springfield, IL {code}"),
                2 => format!("{start}, London SW1A 2AA"),
                _ => start,
            }
        }
        1 => {
            let street = random.pick(&[
                "Hauptstraße",
                "Berliner Straße",
                "Goethestr.",
                "Am Alten Markt",
                "Lindenweg",
                "Karl-Marx-Allee",
                "Schillerplatz",
                "Straße des 17. Juni",
                "An der Mühle",
                "Kurfürstendamm",
                "Im Winkel",
                "Rosengasse",
            ]);
            match random.below(3) {
                0 => format!("{street} {house}a"),
                1 => format!("{street} {house}, {code} Musterstadt"),
                _ => format!("{street} {house}"),
            }
        }
        2 => {
            let street = random.pick(&[
                "rue de la Paix",
                "avenue Victor Hugo",
                "boulevard Saint-Germain",
                "place de l'Église",
                "chemin des Vignes",
                "allée des Tilleuls",
                "quai d'Orsay",
                "impasse Mozart",
                "route de Lyon",
            ]);
            match random.below(4) {
                0 => format!("{house} bis {street}"),
                1 => format!("{house}, {street}"),
                2 => format!("{house} {street}, {code} Villeneuve"),
                _ => format!("{house} {street}"),
            }
        }
        _ => {
            let street = random.pick(&[
                "Calle Mayor",
                "Calle de Alcalá",
                "Avda. de la Constitución",
                "Plaza de España",
                "C/ San Juan",
                "Paseo de la Castellana",
                "Camino Real",
                "Gran Vía",
            ]);
            match random.below(4) {
                0 => format!("{street}, {house}"),
                1 => format!("{street} nº {house}"),
                2 => format!("{street}, {house}, 3º B"),
                _ => format!("{street} {house}, {code} Madrid"),
            }
        }
    }
}

/// Forms that were written down after the rules, and measured before a rule was changed for them.
pub(crate) fn unforeseen(random: &mut Random) -> String {
    let four = random.number(4);
    match random.below(20) {
        0 => format!("+49/170/{}", random.digits(7)),
        1 => format!("(+49) 170 {}", random.digits(7)),
        2 => format!("+33(0)6.{}", grouped(&random.digits(8), &[2, 2, 2], ".")),
        3 => format!("+86 138 {} {four}", random.digits(4)),
        4 => format!(
            "+7 (495) {}-{}-{}",
            random.number(3),
            random.digits(2),
            random.digits(2)
        ),
        5 => format!("+91-98{}-{}", random.digits(3), random.digits(5)),
        6 => format!("+55 11 9{four}-{}", random.digits(4)),
        7 => format!("+39 06 {four} {}", random.digits(4)),
        8 => format!("00 49 170 {}", random.digits(7)),
        9 => format!("+43 664 / {} {}", random.number(3), random.digits(4)),
        10 => format!(
            "+41 (0) 79 {} {} {}",
            random.number(3),
            random.digits(2),
            random.digits(2)
        ),
        11 => format!("+1.415.555.{four}x{}", random.number(2)),
        12 => format!("+971 50 {} {four}", random.number(3)),
        13 => format!("+353 (0)86 {} {four}", random.number(3)),
        14 => format!("+44 (0) 20 7946 {four}"),
        15 => format!(
            "+48 {} {} {}",
            random.number(3),
            random.number(3),
            random.digits(3)
        ),
        16 => format!(
            "+32 47{} {} {} {}",
            random.below(9),
            random.digits(2),
            random.digits(2),
            random.digits(2)
        ),
        17 => format!("+420{}", random.number(9)),
        18 => format!(
            "+46 (0)70-{} {} {}",
            random.number(3),
            random.digits(2),
            random.digits(2)
        ),
        _ => format!("+81-90-{four}-{}", random.digits(4)),
    }
}

/// The same for other kinds with a fixed form.
pub(crate) fn unforeseen_others(random: &mut Random) -> (Kind, String) {
    let visa = with_check_digit(&format!("4{}", random.digits(14)));
    let imei = with_check_digit(&format!("35{}", random.digits(12)));
    let hex = random.number(1) + &random.hex(10) + "f";
    match random.below(14) {
        0 => (
            Kind::Email,
            format!("{}@{}", random.signs(6, "абвгдежз"), host(random)),
        ),
        1 => (
            Kind::Email,
            format!(
                "{}@[192.168.7.{}]",
                random.signs(6, LOWER),
                random.number(2)
            ),
        ),
        2 => (Kind::Card, grouped(&visa, &[4, 4, 4], "  ")),
        3 => (Kind::Card, grouped(&visa, &[4, 4, 4], " - ")),
        4 => (Kind::Card, grouped(&visa, &[4, 4, 4], "/")),
        5 => (Kind::Card, grouped(&visa, &[6], " ")),
        6 => (Kind::Imei, grouped(&imei, &[6, 6], " ")),
        7 => (Kind::Imei, grouped(&imei, &[2, 4, 2, 6], "-")),
        8 => (Kind::Imei, grouped(&imei, &[4, 4, 4], " ")),
        9 => (Kind::Mac, grouped(&hex, &[2; 5], " ")),
        10 => (Kind::Mac, grouped(&hex, &[6], "-").to_uppercase()),
        11 => (Kind::Mac, grouped(&hex, &[2; 5], ".")),
        12 => (
            Kind::Ipv6,
            format!(
                "2001:DB8::{}:0:{}%25eth0",
                random.number(3),
                random.number(2)
            ),
        ),
        _ => (
            Kind::Ipv4,
            format!("10-{}-{}-7", random.number(2), random.number(2)),
        ),
    }
}
