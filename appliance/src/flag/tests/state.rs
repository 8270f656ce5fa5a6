//! What was learned survives a restart; a broken file is an error.

use super::*;

const GOLDEN: &[u8] = include_bytes!("state-1.bin");

/// A box that has learned two workloads under two models.
fn learned() -> Flagger {
    let mut flagger = Flagger::new(config());
    for id in 0..600_u64 {
        let (prompt, answer) = (text(id, 30), text(5000 + id, 30));
        let mut case = case(id, &prompt, &answer);
        let other = [9; 32];
        if id >= 550 {
            case.model = &other;
        }
        if id % 20 == 0 {
            case.workload = "wörk/2";
        }
        case.signals.mean_nll = 0.1 + 0.01 * (id % 50) as f32;
        case.signals.entropy_mean = 0.1 + 0.01 * (id % 40) as f32;
        if id % 100 == 7 {
            case.outcome.json = Form::Invalid;
        }
        flagger.handle_case(minutes(id), &case);
    }
    flagger
}

#[test]
fn what_was_learned_survives() {
    let mut before = learned();
    let saved = before.save();
    let mut after = Flagger::load(config(), &saved).unwrap();
    assert_eq!(after.save(), saved);
    let (prompt, answer) = (text(90_000, 30), text(90_001, 30));
    let mut hard = case(9999, &prompt, &answer);
    hard.signals.mean_nll = 0.47;
    let (a, b) = (
        before.handle_case(minutes(9999), &hard),
        after.handle_case(minutes(9999), &hard),
    );
    assert_eq!(a, b);
    assert!(a.ranks.is_some());
    println!("{} bytes for {} workloads", saved.len(), 4);
}

/// A file of version 1 stays readable, and means the same.
#[test]
fn an_old_file_is_read() {
    let flagger = Flagger::load(config(), GOLDEN).unwrap();
    assert_eq!(flagger.save(), GOLDEN);
    let workloads: Vec<_> = flagger
        .workloads
        .iter()
        .map(|w| {
            let rank = w.usual[0].rank(0.5);
            let name = w.name.as_str();
            format!(
                "{name} of {}: {} taught, {} in the reference, {} kept, rank {rank:.2}",
                w.model[0],
                w.taught,
                w.reference_cases,
                w.kept.len()
            )
        })
        .collect();
    expect_test::expect![[r"
        wörk/2 of 7: 28 taught, 28 in the reference, 0 kept, rank 0.98
        wörk/2 of 9: 2 taught, 2 in the reference, 0 kept, rank 0.83
        chat of 7: 522 taught, 500 in the reference, 9 kept, rank 0.82
        chat of 9: 48 taught, 48 in the reference, 0 kept, rank 0.82"]]
    .assert_eq(&workloads.join("\n"));
}

#[test]
fn a_broken_file_is_an_error_wherever_it_is_broken() {
    let saved = learned().save();
    for len in 0..saved.len() {
        assert!(Flagger::load(config(), &saved[..len]).is_err(), "{len}");
    }
    for at in (0..saved.len()).step_by(3) {
        let mut torn = saved.clone();
        torn[at] ^= 0x10;
        assert!(Flagger::load(config(), &torn).is_err(), "{at}");
    }
    let check = |bytes: &[u8], expected: &str| {
        let error = Flagger::load(config(), bytes).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(b"", "magic");
    check(&saved[..40], "checksum");
    let mut newer = saved.clone();
    newer[8] = 2;
    check(&newer, "has version 2, this program reads 1");
}

/// With the checksum mended, so that every field is reached: any bytes are read or refused, and never panic.
#[test]
fn hostile_bytes_are_refused_field_by_field() {
    let saved = learned().save();
    let body = saved.len() - 8;
    let mut refused = 0;
    for at in 0..body {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = saved.clone();
            bytes[at] ^= change;
            let checksum = super::super::state::fnv1a(&bytes[..body]);
            bytes[body..].copy_from_slice(&checksum.to_le_bytes());
            match Flagger::load(config(), &bytes) {
                Ok(mut flagger) => {
                    let (prompt, answer) = (text(1, 30), text(2, 30));
                    if at % 50 == 0 {
                        flagger.handle_case(minutes(1), &case(1, &prompt, &answer));
                    }
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn fewer_places_keep_what_was_used_last() {
    let saved = learned().save();
    let mut few = config();
    few.workloads_max = 2;
    let flagger = Flagger::load(few, &saved).unwrap();
    let models: Vec<_> = flagger.workloads.iter().map(|w| w.model[0]).collect();
    assert_eq!(models.len(), 2);
    assert!(models.contains(&9));
}
