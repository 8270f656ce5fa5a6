//! What is said around values at a telecom site, in four languages, and what must not be taken for one.

use crate::plant::Random;

/// Sentences with a place for a value: English, German, French, Spanish.
pub(crate) const AROUND: [[&str; 6]; 4] = [
    [
        "Please note {} for the field engineer at KEL-042.",
        "The customer on sector 3 gave us {}, thanks",
        "Last seen with {}; the cabinet door was open.",
        "He wrote {} on the form.",
        "Use {} instead of the old one",
        "We got this: {}.",
    ],
    [
        "Bitte {} für den Techniker an KEL-042 notieren.",
        "Der Kunde in Sektor 3 hat uns {} gegeben, danke",
        "Zuletzt gesehen mit {}; die Tür stand offen.",
        "Er hat {} auf das Formular geschrieben.",
        "Nimm {} statt der alten Angabe",
        "Wir haben das hier: {}.",
    ],
    [
        "Merci de noter {} pour le technicien du site KEL-042.",
        "Le client du secteur 3 nous a donné {}, merci",
        "Vu pour la dernière fois avec {} ; la porte était ouverte.",
        "Il a écrit {} sur le formulaire.",
        "Utilisez {} à la place de l'ancien",
        "Nous avons ceci : {}.",
    ],
    [
        "Anote {} para el técnico del emplazamiento KEL-042.",
        "El cliente del sector 3 nos dio {}, gracias",
        "Visto por última vez con {}; la puerta estaba abierta.",
        "Escribió {} en el formulario.",
        "Use {} en lugar del antiguo",
        "Tenemos esto: {}.",
    ],
];

/// Sentences that announce a telephone number.
pub(crate) const CALL: [&str; 8] = [
    "Customer phone: {} since Monday",
    "MSISDN {} lost its bearer",
    "Bitte anrufen: Telefon {} ab 9 Uhr",
    "Rufnummer {} ist gestört",
    "Son téléphone : {} le matin",
    "Merci de rappeler au {} demain",
    "Su teléfono es el {} por la tarde",
    "Llame al móvil {} por favor",
];

/// What a value is glued to.
pub(crate) const WRAPS: [(&str, &str); 14] = [
    ("", ""),
    ("", ""),
    ("", ""),
    ("\"", "\""),
    ("'", "'"),
    ("(", ")"),
    ("**", "**"),
    ("`", "`"),
    ("<", ">"),
    ("| ", " |"),
    ("|", "|"),
    ("{\"value\":\"", "\"}"),
    ("value=", ","),
    ("„", "“"),
];

/// Sentences without anything to find.
const HARMLESS: [&str; 36] = [
    "The carrier at 3.5 GHz uses 100 MHz, n78, ARFCN 632628.",
    "Session 550e8400-e29b-41d4-a716-446655440000 ended.",
    "Commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b broke it.",
    "std::vector<int> is slower than Vec::with_capacity(16) here.",
    "El radio bearer establishment falla en 3 de 20 intentos.",
    "max_tokens: 512, temperature: 0.7, top_p = 0.9",
    "Password: required. The token expired yesterday.",
    "Your password is wrong, please reset it.",
    "wg-quick@wg0.service and getty@tty1.service failed",
    "Install @scope/package@1.2.3 with npm.",
    "Downtime 00:12:30 to 01:45:00, 75 minutes.",
    "OID 1.3.6.1.4.1.193.183.4 answers.",
    "Mask 255.255.255.0 and default 0.0.0.0/0 are right.",
    "CGI 262-01-1234-5678 has no traffic.",
    "Frequencies 1805.2, 1842.6 and 2140.0 MHz.",
    "Kapitel 3.2.1 beschreibt 5 Schritte.",
    "Le logiciel en version 2.10.4.1 est stable.",
    "Set pin 12 high, then pin 4 low.",
    "The secret of good coverage is patience.",
    "LTE bands 1, 3, 7, 8, 20, 28 and 38.",
    "Batterie 48 V, 100 Ah, 2 Stränge, 53.5 V.",
    "IPs are assigned by DHCP; MAC filtering is off.",
    "Send an email at noon; the dot on the map is KEL-042.",
    "https://docs.example.com/guide?id=42#top explains.",
    "ssh admin@kel-042 and git@github.com:org/repo.git work",
    "x = y[1] + z[2] * 3.14159",
    "Die Straße ist gesperrt, der Weg dauert 3 Stunden.",
    "The road takes 20 minutes, no way in 10.",
    "La route est coupée depuis 2 jours, 4 places libres.",
    "La calle está cortada, 3 plazas libres.",
    "| KPI | 12 | 34 | 56 | 78 | 90 |",
    "11 12 13 14 15 16 17 18 19 20 21 22 23 24 25",
    "At 07:15 on 3/4/2024 and 15/04/2024 it rained.",
    "ISO 27001, IEEE 802.3at, RFC 8446, TS 38.331",
    "Coordinates system: 2 axes, 0.5 and 1.5 units",
    "Rack 2, Platz 5, Port 17, Glasfaser 9/125.",
];

/// A sentence without anything to find.
pub(crate) fn negative(random: &mut Random) -> String {
    let n = |random: &mut Random, count| random.number(count);
    match random.below(64) {
        0 => format!(
            "Site KEL-{} sector {} runs at 40 W.",
            n(random, 3),
            n(random, 1)
        ),
        1 => format!(
            "Alarm {} was raised on 2024-05-{} at 12:30:45.",
            n(random, 4),
            10 + random.below(20)
        ),
        2 => format!(
            "Alarm 2117 am 01.0{}.2024 12:30 Uhr, quittiert.",
            n(random, 1)
        ),
        3 => format!("Firmware version 1.{}.3.4 fixes it.", n(random, 2)),
        4 => format!("Upgraded from v21.{}.0.7 to v22.1.0.3.", n(random, 1)),
        5 => format!(
            "Le compteur affiche {} {} {} octets.",
            n(random, 1),
            random.digits(3),
            random.digits(3)
        ),
        6 => format!(
            "RSRP -95 dBm, SINR {} dB, PCI {}.",
            n(random, 2),
            n(random, 3)
        ),
        7 => format!(
            "Colour #ff{}a0 on the map, legend #0A0B0C.",
            random.digits(2)
        ),
        8 => format!("Ticket INC00{} is open.", random.digits(8)),
        9 => format!(
            "Timestamp 1714{} and 1714{}.",
            random.digits(6),
            random.digits(9)
        ),
        10 => format!(
            "Die Rechnung RE-2024-0170-{} ist bezahlt.",
            random.digits(7)
        ),
        11 => format!("Powers: 20 W, 40 W, 80 W; tilt {} degrees.", n(random, 1)),
        12 => format!(
            "Der Steckplatz {} ist leer, Parkplatz 7 frei.",
            n(random, 1)
        ),
        13 => format!("Prices rose by 12,5 % to 1.{}.000 EUR.", random.digits(3)),
        14 => format!("Counter pmRrcConnEstabSucc is {}.", n(random, 8)),
        15 => format!("eNB {} cell {} is barred.", n(random, 6), n(random, 2)),
        16 => format!("Serial number {} on the label.", n(random, 9)),
        17 => format!("Order {} shipped.", n(random, 12)),
        18 => format!("La versión 10.{}.1.2 corrige el fallo.", n(random, 1)),
        19 => format!("Page {} of {}, figure 4-2.", n(random, 2), n(random, 3)),
        20 => format!("Azimuth {} 120 240, height 35 m.", n(random, 2)),
        21 => format!("Error 0x8007{} in module 0xdeadbeef.", random.digits(4)),
        22 => format!("-9{} -97 -101 -103 -88 -91 -110 dBm", random.below(9)),
        23 => format!("throughput 123.4{} 98.76 45.6 Mbit/s", random.digits(1)),
        24 => format!(
            "2024-0{}-11T08:15:30.123Z INFO started",
            1 + random.below(9)
        ),
        25 => format!("TAC {} and LAC {} match.", n(random, 5), n(random, 4)),
        26 => format!(
            "{{\"power_w\": 40, \"alarms\": [2117, {}], \"site\": \"KEL-042\"}}",
            n(random, 4)
        ),
        27 => format!("Budget: +{} %, -3 dB, +40 W", n(random, 2)),
        _ => random.pick(&HARMLESS).to_owned(),
    }
}
