//! How much of what is planted the redactor takes out, and how much else: a seeded corpus in four languages.
//!
//! `cargo test -p outstation-tests --test redact -- --nocapture` prints the table of docs/privacy.md.
//! `REDACT_SEED=7` plants other values, `REDACT_SHOW=1` prints what went wrong.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a seed from the environment, and a table for --nocapture"
)]

use std::collections::BTreeMap;

use outstation::redact::{Kind, Redacted, Redactor};
use plant::Random;

mod plant;
mod talk;

/// Values of each row.
const PLANTED: usize = 2000;

/// One line of the table.
struct Row {
    name: &'static str,
    kind: Kind,
    /// Least share that is gone and called by its kind, in thousandths.
    recall_min: usize,
    make: fn(&mut Random, usize) -> Plant,
}

/// A value with what announces it and what follows it.
struct Plant {
    before: String,
    value: String,
    after: String,
    /// Sentences that it may stand in, if not any.
    call: bool,
    /// Where a row has several.
    kind: Option<Kind>,
}

fn bare(value: String) -> Plant {
    Plant {
        before: String::new(),
        value,
        after: String::new(),
        call: false,
        kind: None,
    }
}

fn rows() -> Vec<Row> {
    let row = |name, kind, recall_min, make| Row {
        name,
        kind,
        recall_min,
        make,
    };
    vec![
        row("email", Kind::Email, 990, |r, _| bare(plant::email(r))),
        row("email, written out", Kind::Email, 900, |r, _| {
            bare(plant::email_written_out(r))
        }),
        row("phone, E.164", Kind::Phone, 990, |r, _| {
            bare(plant::phone_plus(r))
        }),
        row("phone, national", Kind::Phone, 950, |r, _| {
            bare(plant::phone_national(r))
        }),
        row("phone, announced", Kind::Phone, 950, |r, _| Plant {
            call: true,
            ..bare(plant::phone_bare(r))
        }),
        row("phone, unforeseen", Kind::Phone, 990, |r, _| {
            bare(plant::unforeseen(r))
        }),
        row("others, unforeseen", Kind::Card, 980, |r, _| {
            let (kind, value) = plant::unforeseen_others(r);
            // The host's name that has this address in it.
            let before = if kind == Kind::Ipv4 { "ip-" } else { "" };
            Plant {
                kind: Some(kind),
                before: before.into(),
                ..bare(value)
            }
        }),
        row("card", Kind::Card, 990, |r, _| bare(plant::card(r))),
        row("iban", Kind::Iban, 990, |r, _| bare(plant::iban(r))),
        row("imei", Kind::Imei, 990, |r, _| bare(plant::imei(r))),
        row("imsi", Kind::Imsi, 990, |r, _| bare(plant::imsi(r))),
        row("iccid", Kind::Iccid, 990, |r, _| bare(plant::iccid(r))),
        row("ipv4", Kind::Ipv4, 990, |r, _| bare(plant::ipv4(r))),
        row("ipv6", Kind::Ipv6, 990, |r, _| bare(plant::ipv6(r))),
        row("mac", Kind::Mac, 990, |r, _| bare(plant::mac(r))),
        row("key, JWT", Kind::Key, 990, |r, _| bare(plant::jwt(r))),
        row("key, prefix", Kind::Key, 990, |r, _| {
            bare(plant::key_prefix(r))
        }),
        row("key, PEM", Kind::Key, 990, |r, _| bare(plant::pem(r))),
        row("key, announced", Kind::Key, 950, |r, _| {
            let (before, value) = plant::assigned(r);
            Plant {
                before: before.into(),
                ..bare(value)
            }
        }),
        row("credentials in URL", Kind::Credentials, 990, |r, _| {
            let (before, value, after) = plant::credentials(r);
            Plant {
                before,
                value,
                after,
                ..bare(String::new())
            }
        }),
        row("coordinates", Kind::Coordinates, 950, |r, _| {
            bare(plant::coordinates(r))
        }),
        row("address, en", Kind::Address, 700, |r, _| {
            bare(plant::address(r, 0))
        }),
        row("address, de", Kind::Address, 700, |r, _| {
            bare(plant::address(r, 1))
        }),
        row("address, fr", Kind::Address, 700, |r, _| {
            bare(plant::address(r, 2))
        }),
        row("address, es", Kind::Address, 700, |r, _| {
            bare(plant::address(r, 3))
        }),
    ]
}

/// What was counted of a row.
#[derive(Default)]
struct Tally {
    gone: usize,
    named: usize,
    kept: usize,
}

fn seed() -> u64 {
    let seed = std::env::var("REDACT_SEED").ok();
    seed.map_or(20_240_611, |seed| {
        seed.parse().expect("REDACT_SEED is a number")
    })
}

fn show(what: &str, text: &str, redacted: &Redacted) {
    if std::env::var("REDACT_SHOW").is_ok() {
        println!("{what}\n  < {text:?}\n  > {:?}", redacted.text);
    }
}

/// What is stored but for `[EMAIL_1]` and the like.
fn without_placeholders(text: &str) -> String {
    let mut parts = text.split('[');
    let mut stored = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (head, rest) = part.split_once(']').unwrap_or((part, ""));
        let placeholder = head
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        stored.push(' ');
        stored.push_str(if placeholder { rest } else { part });
    }
    stored
}

/// Pieces of a value that tell something: words and numbers.
fn pieces(value: &str) -> Vec<&str> {
    let pieces = value.split(|c: char| !c.is_alphanumeric());
    pieces.filter(|piece| piece.chars().count() > 2).collect()
}

/// Finds of each kind: those that were planted, and all others.
type Finds = BTreeMap<Kind, (u32, u32)>;

/// Plants one value, and counts what becomes of it.
fn plant_one(
    redactor: &Redactor,
    row: &Row,
    language: usize,
    random: &mut Random,
    tally: &mut Tally,
    finds: &mut Finds,
) {
    let plant = (row.make)(random, language);
    let sentence = if plant.call {
        random.pick(&talk::CALL)
    } else {
        random.pick(&talk::AROUND[language])
    };
    let kind_planted = plant.kind.unwrap_or(row.kind);
    let (open, close) = talk::WRAPS[random.below(talk::WRAPS.len())];
    let (before, after) = sentence.split_once("{}").expect("a place");
    let line = random.pick(&[" ", "\n", "\n\n"]);
    let head = format!(
        "{}{line}{before}{open}{}",
        talk::negative(random),
        plant.before
    );
    let mut tail = format!("{}{close}", plant.after);
    // A fifth ends the text.
    if random.below(5) > 0 {
        tail = format!("{tail}{after}{line}{}", talk::negative(random));
    }
    let text = format!("{head}{}{tail}", plant.value);
    let redacted = redactor.redact(&text);

    let around = format!("{head} {tail}");
    let stored = without_placeholders(&redacted.text);
    let left = |piece: &&str| stored.contains(*piece) && !around.contains(*piece);
    let gone = !redacted.text.contains(&plant.value) && !pieces(&plant.value).iter().any(left);
    let named = gone && redacted.counts.get(kind_planted) > 0;
    let kept = redacted.text.starts_with(&head) && redacted.text.ends_with(&tail);
    tally.gone += usize::from(gone);
    tally.named += usize::from(named);
    tally.kept += usize::from(kept);
    if !named {
        show(
            &format!("{}: {} not found", row.name, plant.value),
            &text,
            &redacted,
        );
    } else if !kept {
        show(
            &format!("{}: {} and more taken", row.name, plant.value),
            &text,
            &redacted,
        );
    }
    for (kind, count) in redacted.counts.iter() {
        let planted = u32::from(kind == kind_planted && named);
        let (right, wrong) = finds.entry(kind).or_default();
        *right += planted;
        *wrong += count - planted;
        if count > planted {
            show(
                &format!("{}: {} too many", row.name, kind.name()),
                &text,
                &redacted,
            );
        }
    }
}

#[test]
fn what_is_planted_is_found_and_nothing_else() {
    let redactor = Redactor::new();
    let mut random = Random::new(seed());
    let mut finds = Finds::new();
    let mut failures = Vec::new();
    println!(
        "seed {}, {PLANTED} values a row; recall, gone under any name, rest of the text untouched:",
        seed()
    );
    for row in rows() {
        let mut tally = Tally::default();
        for place in 0..PLANTED {
            plant_one(
                &redactor,
                &row,
                place % 4,
                &mut random,
                &mut tally,
                &mut finds,
            );
        }
        let share = |count: usize| count as f64 / PLANTED as f64 * 100.0;
        let Tally { gone, named, kept } = tally;
        println!(
            "| {:<20} | {:6.2} | {:6.2} | {:6.2} |",
            row.name,
            share(named),
            share(gone),
            share(kept)
        );
        if named * 1000 < row.recall_min * PLANTED {
            failures.push(format!(
                "{}: {:.2} % of at least {} ‰",
                row.name,
                share(named),
                row.recall_min
            ));
        }
    }
    println!("precision by kind:");
    for kind in Kind::ALL {
        let (right, wrong) = finds.get(&kind).copied().unwrap_or_default();
        let precision = f64::from(right) / f64::from((right + wrong).max(1)) * 100.0;
        println!(
            "| {:<12} | {precision:6.2} | {right} right, {wrong} not |",
            kind.name()
        );
        let floor = precision_min(kind);
        if precision < floor {
            failures.push(format!(
                "{}: precision {precision:.2} % of at least {floor} %",
                kind.name()
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "REDACT_SEED={}\n{}",
        seed(),
        failures.join("\n")
    );
}

fn precision_min(kind: Kind) -> f64 {
    match kind {
        Kind::Address | Kind::Coordinates => 95.0,
        _ => 99.0,
    }
}

/// Site names, powers, alarms and the like, without a value near them.
#[test]
fn what_is_harmless_stays() {
    let redactor = Redactor::new();
    let mut random = Random::new(seed() ^ 1);
    let mut taken = 0;
    for _ in 0..10 * PLANTED {
        let text = talk::negative(&mut random);
        let redacted = redactor.redact(&text);
        if redacted.text != text {
            taken += 1;
            show("harmless", &text, &redacted);
        }
    }
    println!("{taken} of {} harmless sentences changed", 10 * PLANTED);
    // Numbers of twelve and more digits are a card's by chance.
    assert!(taken * 1000 <= 10 * PLANTED, "REDACT_SEED={}", seed());
}
