//! Forms as data, and properties over seeded noise. How much of a corpus is caught: tests/redact of the repository.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use std::sync::LazyLock;

use expect_test::{Expect, expect};

use super::*;
use crate::sampler::splitmix;

static REDACTOR: LazyLock<Redactor> = LazyLock::new(Redactor::new);

/// One line in, one line out.
fn check(input: &str, expected: Expect) {
    let shown: Vec<_> = input
        .trim()
        .lines()
        .map(|line| REDACTOR.redact(line.trim()).text)
        .collect();
    expected.assert_eq(&(shown.join("\n") + "\n"));
}

/// Every line stays as it is.
fn check_stays(input: &str) {
    for line in input.trim().lines().map(str::trim) {
        assert_eq!(REDACTOR.redact(line).text, line);
    }
}

#[test]
fn email() {
    check(
        r#"
        Write to anna.weber+box@example.co.uk, or o'neill@example.com.
        "john doe"@example.com and <mailto:info@münchen.de> and root@[192.0.2.1]
        **bob@example.com** |eve@example.com|`a_b@example.com`'x@example.com'
        ＢＯＢ＠ｅｘａｍｐｌｅ．ｃｏｍ b\u200Bob@example.com {\"to\":\"a\u0040example.com\nbob@example.com\"}
        https://example.com/?mail=bob%40example.com&x=1 bob&#64;example.com bob\_smith@example.com
        user (at) host . com, user[at]host[dot]de, john dot doe at host dot org, user @ host.com
        3107@nai.epc.mnc150.mcc310.3gppnetwork.org
        "#,
        expect![[r#"
            Write to [EMAIL_1], or [EMAIL_2].
            [EMAIL_1] and <mailto:[EMAIL_2]> and [EMAIL_3]
            **[EMAIL_1]** |[EMAIL_2]|`[EMAIL_3]`'[EMAIL_4]'
            [EMAIL_1] [EMAIL_1] {\"to\":\"[EMAIL_2]\n[EMAIL_1]\"}
            https://example.com/?mail=[EMAIL_1]&x=1 [EMAIL_1] [EMAIL_2]
            [EMAIL_1], [EMAIL_2], [EMAIL_3], [EMAIL_4]
            [EMAIL_1]
        "#]],
    );
    check_stays(
        r"
        git@github.com:org/repo.git admin@kel-042 getty@tty1.service icon@2x.png @scope/pkg@1.2.3 40 W @ 3.5 GHz
        We meet at noon at the dot on the map. a@b @ @@ x@.com @example.com
        ",
    );
}

#[test]
fn phone() {
    check(
        "
        +49 170 1234567, +49 (0)30/1234-0 and +1 (415) 555-0100 ext. 12
        tel:+353-86-123-4567 and 0049 170 1234567, +44.20.7946.0123
        0170 1234567 (030) 1234567 06 12 34 56 78 0612345678 020 7946 0123
        (415) 555-0100 or 415.555.0100 or 415-555-0100x12, móvil 612 345 678, 612 34 56 78
        MSISDN 491701234567 {\"phone\": \"491701234567\"} Anruf an 1234567
        （＋49）170 1234567 ٠١٧٠ ١٢٣٤٥٦٧
        ",
        expect![[r#"
            [PHONE_1], [PHONE_2] and [PHONE_3]
            tel:[PHONE_1] and [PHONE_2], [PHONE_3]
            [PHONE_1] [PHONE_2] [PHONE_3] [PHONE_3] [PHONE_4]
            [PHONE_1] or [PHONE_1] or [PHONE_2], móvil [PHONE_3], [PHONE_3]
            MSISDN [PHONE_1] {"phone": "[PHONE_1]"} Anruf an [PHONE_2]
            [PHONE_1] [PHONE_2]
        "#]],
    );
    check_stays(
        "
        2024-05-01 12:30:45, 01.05.2024 12:30, 1714567890, 1714567890123, RE-2024-0170-1234567, +40 W, -95 -97 -101
        612 345 678 bytes, 1.234.567, 704-716 MHz, 11 12 13 14 15 16 17 18 19 20
        ",
    );
}

#[test]
fn subscribers_and_devices() {
    check(
        "
        IMEI 356938035643809, 35-693803-564380-9, 356938/03/564380/9, IMEISV 3569380356438017
        imei:111111111111111 but 35 693803 564380 9 (IMEI)
        IMSI 262011234567890 and imsi-310150123456789 and 262 01 1234567890 and 001010123456789
        SIM 8949020000123456789 ICCID: 89490200001234567898
        ",
        expect![[r#"
            IMEI [IMEI_1], [IMEI_1], [IMEI_1], IMEISV [IMEI_2]
            imei:[IMEI_1] but [IMEI_2] (IMEI)
            IMSI [IMSI_1] and imsi-[IMSI_2] and [IMSI_1] and [IMSI_3]
            SIM [ICCID_1] ICCID: [ICCID_2]
        "#]],
    );
    check_stays("Order 111111111111111, cell 262-01-1234-5678, 12345678901234 octets");
}

#[test]
fn cards_and_accounts() {
    check(
        "
        4111 1111 1111 1111, 4111111111111111. 3782 822463 10005 5555-5555-5555-4444
        de89 3704 0044 0532 0130 00 and GB82WEST12345698765432, IBAN: NL91-ABNA-0417-1643-00
        ",
        expect![[r#"
            [CARD_1], [CARD_1]. [CARD_2] [CARD_3]
            [IBAN_1] and [IBAN_2], IBAN: [IBAN_3]
        "#]],
    );
    check_stays("4111 1111 1111 1112 DE88370400440532013000 1234567890123456");
}

#[test]
fn networks() {
    check(
        r#"
        192.168.1.17:8080, 10.0.0.0/24, 192[.]0[.]2[.]1. Then 127.0.0.1
        ::1 fe80::1%eth0 [2001:db8::1]:443 ::ffff:192.0.2.1 "2001:DB8:0:0:8:800:200C:417A" ip:2001:db8::2, 2001:db8::.
        00:1A:2B:3C:4D:5E, 00-1a-2b-3c-4d-5e port 3 12-34-56-78-9A-BC 001a.2b3c.4d5e mac=001a2b3c4d5e 00:1a:2b:ff:fe:3c:4d:5e
        "#,
        expect![[r#"
            [IPV4_1]:8080, [IPV4_2]/24, [IPV4_3]. Then [IPV4_4]
            [IPV6_1] [IPV6_2] [[IPV6_3]]:443 [IPV6_4] "[IPV6_5]" ip:[IPV6_6], [IPV6_7].
            [MAC_1], [MAC_1] port 3 [MAC_2] [MAC_1] mac=[MAC_1] [MAC_3]
        "#]],
    );
    check_stays(
        "
        version 1.2.3.4, v1.2.3.4, Firmware: 10.0.3.1 to 10.0.3.2, SW 21.4.0.1, 1.2.3.4.5, 256.1.1.1, 255.255.255.0
        12:30:45, std::vector, a::b, 550e8400-e29b-41d4-a716-446655440000, #ff00a0, 0xdeadbeef, 9f86d081884c7d659a2f
        ",
    );
}

#[test]
fn secrets() {
    check(
        r#"
        sk-proj-abcDEF1234567890abcd ghp_abcdefghijklmnopqrstuvwxyz0123456789 AKIAIOSFODNN7EXAMPLE xoxb-123456789012-abcdef
        eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4 Authorization: Basic dXNlcjpwYXNz
        password=hunter2 "password": "correct horse", --password hunter, Passwort: geheim, contraseña: abc123, mot de passe : Été2024
        {\"api_key\": \"abcdefgh1234\"} clientSecret='abc-def-123' my password is hunter2. PIN: 1234, PUK 12345678
        snmp-server community=public enable secret 5 $1$mERr$hx5rVt7rPNoS4wqbXKX7m0 Bearer abcdef1234567890abcdef
        -----BEGIN RSA PRIVATE KEY-----\nMIIEabc\nxyz=\n-----END RSA PRIVATE KEY----- after
        https://user:p@ss@host/path postgres://app:secret@db.internal:5432/x
        "#,
        expect![[r#"
            [KEY_1] [KEY_2] [KEY_3] [KEY_4]
            [KEY_1] Authorization: Basic [KEY_2]
            password=[KEY_1] "password": "[KEY_2]", --password [KEY_3], Passwort: [KEY_4], contraseña: [KEY_5], mot de passe : [KEY_6]
            {\"api_key\": \"[KEY_1]\"} clientSecret='[KEY_2]' my password is [KEY_3]. PIN: [KEY_4], PUK [KEY_5]
            snmp-server community=[KEY_1] enable secret 5 [KEY_2] Bearer [KEY_3]
            [KEY_1] after
            https://[CREDENTIALS_1]@host/path postgres://[CREDENTIALS_2]@db.internal:5432/x
        "#]],
    );
    check_stays(
        "
        max_tokens: 512, token expired, password: required, your password is wrong. The secret of success; bearer setup 12
        Set pin 12 high. sk-learn basic functionality https://example.com:8080/a@b ssh://git@github.com password=[KEY_1]
        ",
    );
}

#[test]
fn addresses_and_places() {
    check(
        "
        221B Baker Street, London NW1 6XE and 1600 Amphitheatre Parkway, Mountain View, CA 94043
        Berliner Straße 12a, 10115 Berlin; Hauptstr. 5, Straße des 17. Juni 135, Lindenweg 3
        12 bis, rue de la Paix, 75002 Paris et 3 avenue Victor Hugo
        Calle Mayor 12, 3º B, 28013 Madrid y Avda. de la Constitución, 5
        P.O. Box 123, Postfach 12 34
        48.8584, 2.2945 and 52.520008 13.404954 and 48°51'30\"N 2°17'40\"E
        ",
        expect![[r#"
            [ADDRESS_1] and [ADDRESS_2]
            [ADDRESS_1]; [ADDRESS_2], [ADDRESS_3], [ADDRESS_4]
            [ADDRESS_1] et [ADDRESS_2]
            [ADDRESS_1] y [ADDRESS_2]
            [ADDRESS_1], [ADDRESS_2]
            [COORDINATES_1] and [COORDINATES_2] and [COORDINATES_3]
        "#]],
    );
    check_stays(
        "
        Rack 2, Platz 5, Steckplatz 4, Speicherplatz 40 GB, the road takes 20 minutes, route 66, place 3, 3 places
        3.5 GHz, 12.5, 7.25 V, azimuth 120.5 240.5, 1805.2, 1842.6
        ",
    );
}

#[test]
fn a_value_has_one_number_in_all_texts() {
    let texts = [
        "I am bob@example.com, phone +49 170 1234567",
        "BOB@example.com or eve@example.com? [EMAIL_4] is taken.",
        "hunter2x? The password=hunter2x and 0049-170-1234567",
    ];
    let all = REDACTOR.redact_all(&texts);
    expect![[r#"
        I am [EMAIL_5], phone [PHONE_1]
        [EMAIL_5] or [EMAIL_6]? [EMAIL_4] is taken.
        [KEY_1]? The password=[KEY_1] and [PHONE_1]
    "#]]
    .assert_eq(&(all.texts.join("\n") + "\n"));
    let counts: Vec<_> = all
        .counts
        .iter()
        .map(|(kind, n)| format!("{} {n}", kind.name()))
        .collect();
    expect!["key 2, email 3, phone 2"].assert_eq(&counts.join(", "));
    assert_eq!(all.counts.total(), 7);
}

#[test]
fn names_are_unique_and_lower_case() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index, "counts are by place");
        assert!(
            kind.name()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
    }
}

#[test]
fn places_of_folded_text_lead_back() {
    let text = "a\u{200B}b\\u0040c＠%64é";
    let folded = fold::fold(text);
    assert_eq!(folded.text(), "ab@c@dé");
    assert_eq!(&text[folded.source(1..4)], "b\\u0040c");
    assert_eq!(&text[folded.source(4..6)], "＠%64");
    assert_eq!(&text[folded.source(6..8)], "é");
}

/// What the rules look at, between bars.
const PIECES: [&str; 7] = [
    " ¦  ¦\n¦-¦.¦/¦:¦::¦@¦(¦)¦[¦]¦{¦}¦\"¦'¦`¦*¦_¦=¦+¦%¦\\¦\\u0040¦%40¦&#64;¦\u{200B}¦＠¦７¦é¦ß¦电",
    "\u{FFFC}¦𝟗¦0¦1¦12¦123¦4111¦1111 1111 1111¦0170¦1234567¦+49¦49¦35¦356938035643809¦262011234567890",
    "de89¦3704 0044 0532 0130 00¦192.168¦1.2.3.4¦fe80::1¦aa:bb¦00:1a:2b:3c:4d:5e¦bob¦bob@x.com¦(at)",
    " at ¦ dot ¦com¦x¦IMEI ¦phone ¦version ¦password¦password=¦token:¦PIN ¦sk-¦eyJ",
    "AKIAIOSFODNN7EXAMPLE¦-----BEGIN RSA PRIVATE KEY-----¦-----END RSA PRIVATE KEY-----¦://",
    "https://a:b@c¦bearer ¦[EMAIL_1]¦[KEY_7]¦[PHONE_¦12 Baker Street¦Straße ¦Hauptstr. 5¦rue de ",
    "Calle ¦Mayor¦48.8584¦, ¦2.2945¦°¦N¦E¦x12¦hunter2¦secret¦is ",
];

/// Noise of whatever the rules look at.
fn noise(seed: u64) -> String {
    let all: Vec<_> = PIECES.iter().flat_map(|line| line.split('¦')).collect();
    let mut state = splitmix(seed);
    let mut text = String::new();
    let pieces = 3 + state % 24;
    for _ in 0..pieces {
        state = splitmix(state);
        let index = usize::try_from(state % 100).expect("small");
        match all.get(index) {
            Some(piece) => text.push_str(piece),
            None => text.extend(char::from_u32(u32::try_from(state >> 43).expect("21 bits"))),
        }
    }
    text
}

#[test]
fn what_is_found_is_gone_and_nothing_is_found_again() {
    let first =
        std::env::var_os("REDACT_SEED").map_or(0, |seed| seed.to_str().unwrap().parse().unwrap());
    for seed in first..first + 20_000 {
        let text = noise(seed);
        let redacted = REDACTOR.redact(&text);
        let again = REDACTOR.redact(&redacted.text);
        assert_eq!(again.text, redacted.text, "seed {seed}: {text:?}");
        assert_eq!(again.counts.total(), 0, "seed {seed}: {text:?}");
        for find in REDACTOR.finds(&text) {
            let value = &text[find.start..find.end];
            let stored = fold::between_placeholders(&redacted.text);
            let left = stored
                .into_iter()
                .any(|part| redacted.text[part].contains(value));
            assert!(
                !left || !is_telling(value),
                "seed {seed}: {value:?} of {text:?} in {:?}",
                redacted.text
            );
        }
    }
}

/// Texts that make a careless rule read everything from every place.
#[test]
fn hostile_text_costs_no_more_than_its_length() {
    let parts = [
        "bearer/",
        "sk-sk-",
        "\\\\",
        "%2525",
        "1 a ",
        "00 11 ",
        "1 ",
        "1",
        "a@",
        "@",
        "eyJ",
        "sk-",
        "eyJabcdefgh.",
        "-----BEGIN PRIVATE KEY-----",
        "password=",
        "://a:b",
        "::1:",
        "0170 ",
        "(at)",
        " at a dot ",
        "1 Baker ",
        "Straße 1 ",
        "[",
        "\\",
        "%25",
        "&#",
        "1.2.3.4.",
        "\"@",
        "a.",
        "fe80:",
        "[EMAIL_1]",
        "+1",
    ];
    for part in parts {
        let text = part.repeat(100_000 / part.len());
        let redacted = REDACTOR.redact(&text);
        assert!(redacted.text.len() <= 20 * text.len(), "{part}");
    }
}
