//! Check digits and lists of prefixes: what makes a number one of its kind.

/// Digits without what stands between them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Digits {
    digits: [u8; DIGITS_MAX],
    count: usize,
}

/// The longest number that is anything: an ICCID.
pub(super) const DIGITS_MAX: usize = 22;

impl Digits {
    /// Of ASCII digits; what exceeds [`DIGITS_MAX`] is `None`.
    pub(super) fn new(ascii: impl Iterator<Item = u8>) -> Option<Self> {
        let mut all = Self::default();
        for digit in ascii {
            *all.digits.get_mut(all.count)? = digit - b'0';
            all.count += 1;
        }
        Some(all)
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.digits[..self.count]
    }

    /// The number that the first digits make.
    pub(super) fn first(&self, count: usize) -> u32 {
        let first = self.all().iter().take(count);
        first.fold(0, |number, &digit| number * 10 + u32::from(digit))
    }
}

/// Source: ISO/IEC 7812-1, annex B (Luhn 1954).
pub(super) fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| {
            u32::from(if place % 2 == 1 {
                doubled(digit)
            } else {
                digit
            })
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether a payment card may have this number. Source: the ranges that the card schemes publish.
pub(super) fn is_card(digits: &Digits) -> bool {
    let known = matches!(
        (digits.all().len(), digits.first(4)),
        (13 | 16 | 19, 4000..=4999)
            | (16, 2221..=2720 | 5100..=5599)
            | (15, 3400..=3499 | 3700..=3799)
            | (14, 3000..=3059 | 3095 | 3800..=3999)
            | (14..=19, 3600..=3699)
            | (16..=19, 3528..=3589 | 6000..=6009 | 6011 | 6200..=6299 | 6440..=6599 | 8100..=8171)
            | (13..=19, 5018 | 5020 | 5038 | 5612 | 5893 | 6304 | 6390 | 6706 | 6759..=6763 | 6771)
    );
    known && luhn(digits.all())
}

/// Whether these are the first digits of a device as devices are numbered today: allocated by BABT, TAF, PTCRB, MSAI or
/// GHA. Source: GSMA TS.06, the reporting bodies.
pub(super) fn is_reporting_body(digits: &Digits) -> bool {
    matches!(digits.first(2), 1 | 35 | 86 | 91 | 98 | 99)
}

/// Whether a mobile network has this country code. Source: ITU-T E.212, annex; 001 is test networks, 999 private ones.
pub(super) fn is_mobile_country(digits: &Digits) -> bool {
    let code = digits.first(3);
    MOBILE_COUNTRIES.iter().any(|range| range.contains(&code))
}

/// Digits of the telephone country code that a number begins with. Source: ITU-T E.164, list of assigned codes.
pub(super) fn country_code(digits: &Digits) -> Option<usize> {
    match (digits.first(1), digits.first(2), digits.first(3)) {
        (1 | 7, _, _) => Some(1),
        (
            _,
            20
            | 27
            | 30..=34
            | 36
            | 39..=41
            | 43..=49
            | 51..=58
            | 60..=66
            | 81
            | 82
            | 84
            | 86
            | 90..=95
            | 98,
            _,
        ) => Some(2),
        (
            _,
            _,
            211..=213
            | 216
            | 218
            | 220..=269
            | 290
            | 291
            | 297..=299
            | 350..=359
            | 370..=383
            | 385..=387
            | 389
            | 420
            | 421
            | 423
            | 500..=509
            | 590..=599
            | 670
            | 672..=692
            | 800
            | 808
            | 850
            | 852
            | 853
            | 855
            | 856
            | 870
            | 878
            | 880..=883
            | 886
            | 888
            | 960..=968
            | 970..=977
            | 979
            | 992..=996
            | 998,
        ) => Some(3),
        _ => None,
    }
}

/// Characters of an IBAN that begins like this. Source: SWIFT's IBAN registry.
pub(super) fn iban_length(country: [u8; 2]) -> Option<usize> {
    let lengths = IBAN_LENGTHS.iter().find(|(_, countries)| {
        countries
            .as_bytes()
            .chunks(3)
            .any(|code| code[..2] == country)
    });
    lengths.map(|&(length, _)| length)
}

/// Source: ISO 13616-1 with ISO 7064 MOD 97-10: the first four characters go to the end, letters count from 10.
pub(super) fn mod97(iban: &[u8]) -> bool {
    let value = |sign: u8| match sign {
        b'0'..=b'9' => u32::from(sign - b'0'),
        _ => u32::from(sign.to_ascii_uppercase() - b'A') + 10,
    };
    let (start, rest) = iban.split_at(4);
    let rest = rest.iter().chain(start).fold(0, |rest, &sign| {
        let value = value(sign);
        (rest * if value < 10 { 10 } else { 100 } + value) % 97
    });
    rest == 1
}

const IBAN_LENGTHS: [(usize, &str); 18] = [
    (15, "NO"),
    (16, "BE BI"),
    (18, "DK FI FK FO GL NL SD"),
    (19, "MK SI"),
    (20, "AT BA EE KZ LT LU MN XK"),
    (21, "CH CR HR LI LV"),
    (22, "BG BH DE GB GE IE ME RS"),
    (23, "AE GI IL IQ OM SO TL"),
    (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
    (25, "LY PT ST"),
    (26, "IS TR"),
    (27, "BJ DJ FR GR IT MC MR SM"),
    (28, "AL AZ BY CY DO GT HU LB NI PL SV"),
    (29, "BR EG PS QA UA"),
    (30, "JO KW MU YE"),
    (31, "MT SC"),
    (32, "LC"),
    (33, "RU"),
];

const MOBILE_COUNTRIES: &[std::ops::RangeInclusive<u32>] = &[
    1..=1,
    202..=202,
    204..=204,
    206..=206,
    208..=208,
    212..=214,
    216..=216,
    218..=222,
    226..=226,
    228..=228,
    230..=232,
    234..=235,
    238..=238,
    240..=240,
    242..=242,
    244..=244,
    246..=248,
    250..=250,
    255..=255,
    257..=257,
    259..=260,
    262..=262,
    266..=266,
    268..=268,
    270..=270,
    272..=272,
    274..=274,
    276..=276,
    278..=278,
    280..=280,
    282..=284,
    286..=286,
    288..=290,
    292..=295,
    297..=297,
    302..=302,
    308..=308,
    310..=316,
    330..=330,
    332..=332,
    334..=334,
    338..=338,
    340..=340,
    342..=342,
    344..=344,
    346..=346,
    348..=348,
    350..=350,
    352..=352,
    354..=354,
    356..=356,
    358..=358,
    360..=360,
    362..=366,
    368..=368,
    370..=370,
    372..=372,
    374..=374,
    376..=376,
    400..=402,
    404..=406,
    410..=410,
    412..=422,
    424..=432,
    434..=434,
    436..=438,
    440..=441,
    450..=450,
    452..=452,
    454..=457,
    460..=461,
    466..=467,
    470..=470,
    472..=472,
    502..=502,
    505..=505,
    510..=510,
    514..=515,
    520..=520,
    525..=525,
    528..=528,
    530..=530,
    536..=537,
    539..=555,
    602..=655,
    657..=659,
    702..=702,
    704..=704,
    706..=706,
    708..=708,
    710..=710,
    712..=712,
    714..=714,
    716..=716,
    722..=722,
    724..=724,
    730..=730,
    732..=732,
    734..=734,
    736..=736,
    738..=738,
    740..=740,
    742..=742,
    744..=744,
    746..=746,
    748..=748,
    750..=750,
    901..=901,
    999..=999,
];
