//! The oracle against what was said, and the sets against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const EACH: usize = 1500;

fn questions(phrases: &Phrases, set: Set, seed: u64) -> Vec<Question> {
    let mut dice = Dice::new(seed);
    let languages = Language::ALL.into_iter().cycle();
    languages
        .take(EACH)
        .map(|language| phrases.ask(language, set, &mut dice))
        .collect()
}

#[test]
fn the_oracle_reads_whatever_is_said() {
    let phrases = Phrases::new();
    for set in Set::ALL {
        for question in questions(&phrases, set, 1) {
            let reading = phrases.read(&question.text);
            let reading = reading.unwrap_or_else(|| panic!("{set:?} not read: {question:?}"));
            assert_eq!(
                reading.answer, question.answer,
                "{set:?} {:?} {reading:?}",
                question.text
            );
        }
    }
}

#[test]
fn what_nobody_says_has_no_answer() {
    let phrases = Phrases::new();
    for text in [
        "",
        "?",
        "hello",
        "set sector 3 of KEL-042",
        "set sektor 3 of KEL-042 to 40 W and more",
        "alarm",
    ] {
        assert_eq!(phrases.read(text), None, "{text}");
    }
}

#[test]
fn examples_by_hand() {
    let phrases = Phrases::new();
    for (text, answer) in [
        (
            "Move sector 3 of site kel042 to 40W until 6 pm.",
            None, // "site" before a name is not among the phrasings
        ),
        (
            "please set the power of sectro three at KEL 042 to 40 watts until 6 pm",
            Some(
                r#"{"action":"set_power","site":"KEL-042","sector":3,"watts":40,"until":"18:00"}"#,
            ),
        ),
        (
            "Stelle Alarm 4711 für 2 Stunden stumm",
            Some(r#"{"action":"mute","alarm":4711,"minutes":120}"#),
        ),
        (
            "why did alarm 2117 clear twice?",
            Some("2117: the tower light comes and goes; check its connectors for moisture."),
        ),
        (
            "mueve el 30 por ciento del tráfico de ABC-001 a XYZ-999",
            Some(r#"{"action":"handover","from":"ABC-001","to":"XYZ-999","percent":30}"#),
        ),
    ] {
        assert_eq!(
            phrases.read(text).map(|reading| reading.answer).as_deref(),
            answer,
            "{text}"
        );
    }
}

#[test]
fn sets_share_no_phrasing_and_no_open_value() {
    let phrases = Phrases::new();
    let mut texts: BTreeMap<Set, BTreeSet<String>> = BTreeMap::new();
    let mut sites: BTreeMap<Set, BTreeSet<String>> = BTreeMap::new();
    for set in Set::ALL {
        for question in questions(&phrases, set, 2) {
            // A typing error may make a word another phrasing's: without one, the oracle names the set.
            let reading = phrases.read(&question.text).expect("it was said");
            if reading.typos == 0 {
                assert_eq!(reading.set, set, "{}", question.text);
            }
            texts.entry(set).or_default().insert(question.text);
            if let Ok(action) = serde_json::from_str::<serde_json::Value>(&question.answer)
                && let Some(site) = action["site"].as_str()
            {
                sites.entry(set).or_default().insert(site.to_owned());
            }
        }
    }
    for (a, b) in [
        (Set::Train, Set::Validation),
        (Set::Train, Set::Test),
        (Set::Validation, Set::Test),
    ] {
        assert!(texts[&a].is_disjoint(&texts[&b]), "{a:?} and {b:?}");
        assert!(sites[&a].is_disjoint(&sites[&b]), "{a:?} and {b:?}");
    }
    assert!(
        texts[&Set::Test].len() > EACH * 9 / 10,
        "few sentences come twice"
    );
}

#[test]
fn every_intent_is_in_every_language_and_set() {
    let phrases = Phrases::new();
    assert_eq!(phrases.intents().len(), 16);
    for set in Set::ALL {
        let mut seen = BTreeSet::new();
        for question in questions(&phrases, set, 3) {
            seen.insert((question.language, question.intent));
        }
        assert_eq!(seen.len(), 3 * phrases.intents().len(), "{set:?}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    let phrases = Phrases::new();
    assert_eq!(
        questions(&phrases, Set::Train, 5),
        questions(&phrases, Set::Train, 5)
    );
    assert_ne!(
        questions(&phrases, Set::Train, 5),
        questions(&phrases, Set::Train, 6)
    );
}

/// A model from scratch knows no word but those that it met. What it is judged by are phrasings that it never met.
#[test]
fn words_are_met_before_they_are_judged_by() {
    let phrases = Phrases::new();
    for language in Language::ALL {
        for intent in phrases.intents() {
            let met = phrases.words_of(language, Set::Train, intent);
            for set in [Set::Validation, Set::Test] {
                let judged = phrases.words_of(language, set, intent);
                let new: Vec<_> = judged.difference(&met).collect();
                assert!(new.is_empty(), "{language} {intent} {set:?}: {new:?}");
            }
        }
    }
}
