//! Cases as data here; traffic, state and tokens in files of their own.

mod state;
mod tokens;
mod traffic;

use super::*;

const MODEL: ModelDigest = [7; 32];

fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// Tokens that have nothing to do with those of another seed.
fn text(seed: u64, len: u64) -> Vec<u32> {
    let token = |i| u32::try_from(crate::sampler::splitmix(seed << 20 | i) % 50_000).unwrap();
    (0..len).map(token).collect()
}

/// An ordinary answer.
fn ordinary() -> Signals {
    Signals {
        tokens: 50,
        mean_nll: 0.5,
        entropy_mean: 0.6,
        entropy_max: 2.5,
        window_logprob: -0.9,
        tail_logprob: -0.5,
        margin_p05: 0.1,
        repetition: 0.0,
        loop_tokens: 0,
    }
}

/// A case whose prompt and answer nobody else has.
fn case<'a>(id: u64, prompt: &'a [u32], answer: &'a [u32]) -> Case<'a> {
    Case {
        id,
        model: &MODEL,
        workload: "chat",
        asker: 1,
        arrived: minutes(id),
        ended: minutes(id),
        prompt,
        answer,
        signals: ordinary(),
        outcome: Outcome::default(),
        consent: Consent::Given,
        content_bytes: 1000,
    }
}

/// No lots, so that a test sees what it asks for.
fn config() -> FlagConfig {
    FlagConfig {
        random_share: 0.0,
        ..FlagConfig::default()
    }
}

fn names(flags: Flags) -> String {
    flags.iter().map(Flag::name).collect::<Vec<_>>().join(" ")
}

#[test]
fn names_and_bits_are_stable() {
    let all: Vec<_> = Flag::ALL
        .iter()
        .map(|flag| format!("{} {}", *flag as u8, flag.name()))
        .collect();
    expect_test::expect![[r"
        0 mean_nll
        1 entropy_mean
        2 entropy_max
        3 window_confidence
        4 tail_confidence
        5 margin
        6 repetition
        7 hard_case
        8 truncated
        9 invalid_json
        10 invalid_tool_call
        11 repetition_loop
        12 retry
        13 refusal
        14 negative_feedback
        15 entropy_drift
        16 random"]]
    .assert_eq(&all.join("\n"));
    for flag in Flag::ALL {
        let flags = Flags::from_bits(1 << flag as u8);
        assert_eq!(flags.iter().collect::<Vec<_>>(), [flag]);
    }
    assert!(Flags::from_bits(1 << 31).is_empty());
}

#[test]
fn rules_fire_from_the_first_case_on() {
    let check = |expected: &str, change: &dyn Fn(&mut Case<'_>)| {
        let (prompt, answer) = (text(1, 40), text(2, 40));
        let mut case = case(1, &prompt, &answer);
        change(&mut case);
        let verdict = Flagger::new(config()).handle_case(minutes(2), &case);
        assert_eq!(
            format!("{}: {}", names(verdict.flags), verdict.content.name()),
            expected
        );
    };
    check(": not_selected", &|_| ());
    check("truncated: kept_flagged", &|case| {
        case.outcome.finish = Finish::Length;
    });
    check(": not_selected", &|case| case.outcome.json = Form::Valid);
    check("invalid_json: kept_flagged", &|case| {
        case.outcome.json = Form::Invalid;
    });
    check("invalid_tool_call: kept_flagged", &|case| {
        case.outcome.tool_call = Form::Invalid;
    });
    check("repetition_loop: kept_flagged", &|case| {
        case.signals.loop_tokens = 40;
    });
    check(": not_selected", &|case| case.signals.loop_tokens = 12);
    check("refusal: no_consent", &|case| {
        case.outcome.refusal = true;
        case.consent = Consent::Withheld;
    });
    check(
        "truncated invalid_json repetition_loop: kept_flagged",
        &|case| {
            case.outcome.finish = Finish::Length;
            case.outcome.json = Form::Invalid;
            case.signals.loop_tokens = 1000;
        },
    );
}

#[test]
fn refusals_are_heard_in_four_languages() {
    for refusal in [
        "I cannot help with that.",
        "I\u{2019}m sorry, but I can't do that.",
        "**Unfortunately**, I am unable to open files.",
        "As an AI, I have no body.",
        "\"Sorry! I'm not able to\"",
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "Leider kann ich das nicht beantworten.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "Ich kann dazu keine Auskunft geben.",
        "Je suis désolé, mais je ne peux pas répondre.",
        "En tant qu'IA, je n'ai pas d'opinion.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Como modelo de lenguaje, no tengo acceso.",
    ] {
        assert!(begins_as_refusal(refusal), "{refusal}");
    }
    for answer in [
        "",
        "   ",
        "I can help with that.",
        "The reason I cannot recommend it is the price.",
        "I cannotate this chart.",
        "Sorry for the delay. The answer is 4.",
        "Ich kann das gern erklären: es ist nicht schwer, aber lang.",
        "Je peux vous aider.",
        "Puedo ayudar.",
        "İİİİ",
    ] {
        assert!(!begins_as_refusal(answer), "{answer}");
    }
    // Long and odd texts end somewhere.
    assert!(!begins_as_refusal(&"\u{130}'".repeat(10_000)));
    assert!(!begins_as_refusal(&" ".repeat(10_000)));
}

#[test]
fn the_same_question_again_is_a_retry() {
    let prompt = text(3, 60);
    let mut again = prompt.clone();
    again[30] += 1;
    let other = text(4, 60);
    let mut flagger = Flagger::new(config());
    let mut ask = |id, at: u64, arrived: u64, asker, prompt: &[u32]| {
        let answer = text(100 + id, 30);
        let case = Case {
            arrived: minutes(arrived),
            ended: minutes(at),
            asker,
            ..case(id, prompt, &answer)
        };
        flagger.handle_case(minutes(at), &case).retry_of
    };
    assert_eq!(ask(1, 1, 0, 5, &prompt), None);
    assert_eq!(ask(2, 3, 0, 5, &prompt), None, "asked beside it: n = 2");
    assert_eq!(ask(3, 5, 4, 6, &prompt), None, "somebody else");
    assert_eq!(ask(4, 6, 5, 5, &other), None, "another question");
    assert_eq!(ask(5, 8, 7, 5, &again), Some(2), "a token is different");
    assert_eq!(ask(6, 30, 29, 5, &prompt), None, "much later");
}

/// A sensor that asks the same each minute does not complain.
#[test]
fn what_a_workload_always_does_is_no_news() {
    let prompt = text(5, 60);
    let mut flagger = Flagger::new(config());
    let mut kept = 0;
    for id in 0..200 {
        let answer = text(1000 + id, 30);
        let mut case = case(id, &prompt, &answer);
        case.outcome.finish = Finish::Length;
        let verdict = flagger.handle_case(minutes(id) + Duration::from_secs(10), &case);
        assert_eq!(verdict.flags.contains(Flag::Retry), id > 0);
        assert!(verdict.flags.contains(Flag::Truncated));
        kept += usize::from(verdict.content.is_kept());
    }
    assert!((1..=20).contains(&kept), "{kept}");
}

#[test]
fn duplicates_are_counted_and_lots_are_not_suppressed() {
    let (prompt, answer) = (text(6, 200), text(7, 200));
    let mut nearly = answer.clone();
    nearly[100] += 1;
    let mut flagger = Flagger::new(config());
    let mut ask = |random_share, id, answer: &[u32]| {
        flagger.config.random_share = random_share;
        let mut case = case(id, &prompt, answer);
        case.asker = id;
        case.outcome.json = Form::Invalid;
        let verdict = flagger.handle_case(minutes(id), &case);
        (verdict.content.name(), verdict.inclusion_probability)
    };
    assert_eq!(ask(0.0, 1, &answer), ("kept_flagged", 1.0));
    assert_eq!(ask(0.0, 2, &answer), ("duplicate", 0.0));
    assert_eq!(ask(0.0, 3, &nearly), ("duplicate", 0.0));
    assert_eq!(ask(1.0, 4, &answer), ("kept_random", 1.0));
    assert_eq!(ask(0.0, 5, &text(8, 200)), ("kept_flagged", 1.0));
    let totals = flagger.totals();
    assert_eq!((totals.duplicates, totals.kept), (3, 3));
}

#[test]
fn the_day_has_a_budget_in_contents_and_bytes() {
    let mut config = config();
    config.day = DayLimits {
        contents: 40,
        bytes: 1 << 30,
    };
    // By the minute for three days, and a clock that jumps back now and then.
    let mut flagger = Flagger::new(config);
    let mut kept = Vec::new();
    for minute in 0..3 * 24 * 60 {
        let (prompt, answer) = (text(10_000 + minute, 30), text(20_000 + minute, 30));
        let mut case = case(minute, &prompt, &answer);
        case.outcome.json = Form::Invalid;
        let now = if minute % 7 == 3 {
            Duration::ZERO
        } else {
            minutes(minute)
        };
        let verdict = flagger.handle_case(now, &case);
        assert!(verdict.flags.contains(Flag::InvalidJson), "metadata stays");
        if verdict.content.is_kept() {
            kept.push(minute);
        } else {
            assert_eq!(verdict.content, Content::OverBudget);
        }
    }
    let in_a_day = |start: u64| {
        let day = start..start + 1440;
        kept.iter().filter(|minute| day.contains(minute)).count()
    };
    let most = kept.iter().map(|start| in_a_day(*start)).max();
    // Four fifths of 40 are for flagged ones.
    assert!((28..=32).contains(&most.unwrap()), "{most:?}");
    assert!(kept.len() >= 3 * 24, "{}", kept.len());
    assert_eq!(flagger.totals().over_budget, 3 * 1440 - kept.len() as u64);

    let mut bytes = Allowance::new(
        DayLimits {
            contents: 1000,
            bytes: 1000,
        },
        1.0,
    );
    assert!(!bytes.take(Duration::ZERO, 251), "a quarter at once");
    assert!(bytes.take(Duration::ZERO, 250));
    assert!(!bytes.take(Duration::ZERO, 1));
    assert!(!bytes.take(Duration::ZERO, u64::MAX));
    let mut none = Allowance::new(
        DayLimits {
            contents: 0,
            bytes: 0,
        },
        1.0,
    );
    assert!(!none.take(Duration::MAX, 0));
}

#[test]
fn feedback_finds_its_case_while_it_is_remembered() {
    let mut flagger = Flagger::new(config());
    let (prompt, answer) = (text(11, 30), text(12, 30));
    let verdict = flagger.handle_case(minutes(1), &case(1, &prompt, &answer));
    assert_eq!(verdict.content, Content::NotSelected);
    let verdict = flagger.handle_negative_feedback(minutes(2), 1).unwrap();
    assert_eq!(names(verdict.flags), "negative_feedback");
    assert_eq!(verdict.content, Content::KeptFlagged);
    let again = flagger.handle_negative_feedback(minutes(3), 1).unwrap();
    assert_eq!(again, verdict, "said twice, counted once");
    assert_eq!(flagger.totals().kept, 1);
    for id in 2..=FEEDBACK_CASES as u64 + 1 {
        let (prompt, answer) = (text(1000 + id, 30), text(3000 + id, 30));
        flagger.handle_case(minutes(id), &case(id, &prompt, &answer));
    }
    assert_eq!(flagger.handle_negative_feedback(minutes(5), 1), None);
    assert_eq!(flagger.totals().feedback_too_late, 1);
}

#[test]
fn lots_are_fair_reproducible_and_independent_of_flags() {
    let drawn = |seed: u64| (0..100_000).filter(move |id| is_drawn(seed, *id, 0.01));
    let count = drawn(1).count();
    // Binomial: four standard deviations of 31.
    assert!((875..1125).contains(&count), "{count}");
    assert!(drawn(1).eq(drawn(1)));
    let both = drawn(1).filter(|id| is_drawn(2, *id, 0.01)).count();
    assert!(both < 30, "{both} of 10");
    assert!(!is_drawn(1, 5, 0.0));
    assert!(is_drawn(1, 5, 1.0));
}

#[test]
fn workloads_are_bounded_and_the_least_recently_used_goes() {
    let mut config = config();
    config.workloads_max = 3;
    let bytes = Flagger::bytes(&config);
    let mut flagger = Flagger::new(config);
    for (id, name) in (0..).zip(["a", "b", "c", "a", "d", "a"]) {
        let (prompt, answer) = (text(id, 30), text(50 + id, 30));
        let workload = Case {
            workload: name,
            ..case(id, &prompt, &answer)
        };
        flagger.handle_case(minutes(id), &workload);
    }
    let names: Vec<_> = flagger.workloads.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["a", "d", "c"]);
    assert_eq!(flagger.totals().forgotten, 1);
    let real = size_of_val(&flagger)
        + size_of_val(&*flagger.prompts)
        + size_of_val(&*flagger.seen)
        + flagger.workloads.capacity() * size_of::<Workload>();
    assert_eq!(real as u64, bytes);
    println!(
        "{} bytes by default, {} of them for each workload",
        Flagger::bytes(&FlagConfig::default()),
        size_of::<Workload>()
    );
    // Names are cut at a character.
    let long = "ä".repeat(100);
    let (prompt, answer) = (text(1, 30), text(2, 30));
    let workload = Case {
        workload: &long,
        ..case(9, &prompt, &answer)
    };
    flagger.handle_case(minutes(9), &workload);
    assert!(flagger.workloads.iter().any(|w| w.name.len() == 64));
}

/// Whatever a broken engine sends.
#[test]
fn numbers_that_are_none_do_not_panic() {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -1.0,
        0.0,
        -0.0,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-40,
    ];
    let mut config = config();
    config.cases_min = 5;
    let mut flagger = Flagger::new(config);
    for id in 0..3000 {
        let pick = |n: u64| {
            let hash = crate::sampler::splitmix(id * 16 + n);
            odd[usize::try_from(hash % odd.len() as u64).unwrap()]
        };
        let signals = Signals {
            tokens: u32::try_from(id % 3).unwrap(),
            mean_nll: pick(0),
            entropy_mean: pick(1),
            entropy_max: pick(2),
            window_logprob: pick(3),
            tail_logprob: pick(4),
            margin_p05: pick(5),
            repetition: pick(6),
            loop_tokens: u32::MAX,
        };
        let case = Case {
            signals,
            content_bytes: u64::MAX,
            ..case(id, &[], &[])
        };
        let now = if id % 2 == 0 {
            Duration::MAX
        } else {
            Duration::ZERO
        };
        let verdict = flagger.handle_case(now, &case);
        if let Some(ranks) = verdict.ranks {
            for rank in ranks.signals.into_iter().chain([ranks.combined]) {
                assert!((0.0..1.0).contains(&rank), "{rank}");
            }
        }
    }
    let saved = flagger.save();
    assert!(Flagger::load(super::FlagConfig::default(), &saved).is_ok());
}
