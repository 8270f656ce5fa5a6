use expect_test::{Expect, expect};

use super::*;

fn case() -> Case {
    Case {
        prefill: Some(Duration::from_millis(100)),
        itl: Some(Duration::from_millis(20)),
        end: CaseEnd::Stop,
        prompt_tokens: 100,
        entropy: Some(0.6),
        invalid: false,
    }
}

/// So many cases, each a little different, as their number makes them.
fn window(requests: u32, change: impl Fn(u32, &mut Case)) -> Window {
    let mut window = Window::default();
    for number in 0..requests {
        let mut case = case();
        case.itl = Some(Duration::from_micros(19_000 + u64::from(number % 10) * 200));
        case.entropy = Some(0.3 + (number % 16) as f32 / 20.0);
        change(number, &mut case);
        window.add(&case);
    }
    window
}

fn check(requests: u32, change: impl Fn(u32, &mut Case), expected: Expect) {
    let before = window(200, |_, _| {});
    let verdict = judge(&before, &window(requests, change), &Gates::default());
    expected.assert_eq(&format!("{verdict:?}"));
}

#[test]
fn the_same_again_passes_once_there_is_enough_of_it() {
    check(29, |_, _| {}, expect!["Wait"]);
    check(30, |_, _| {}, expect!["Pass"]);
}

#[test]
fn each_gate_shuts_on_what_it_watches() {
    check(
        40,
        |_, case| case.itl = case.itl.map(|itl| itl * 2),
        expect![[r#"Fail("time between tokens × 2.00 (at most × 1.3)")"#]],
    );
    check(
        40,
        |_, case| case.prefill = case.prefill.map(|prefill| prefill * 3),
        expect![[r#"Fail("time to the first token × 3.08 (at most × 1.3)")"#]],
    );
    check(
        40,
        |number, case| {
            if number % 4 == 0 {
                case.end = CaseEnd::Length;
            }
        },
        expect![[
            r#"Fail("25.0 % more answers cut at their length than before (at most 10.0 %)")"#
        ]],
    );
    check(
        40,
        |number, case| case.invalid = number % 10 == 0,
        expect![[r#"Fail("10.0 % more answers of broken form than before (at most 2.0 %)")"#]],
    );
    check(
        40,
        |_, case| case.entropy = Some(4.0),
        expect![[r#"Fail("the entropy of answers drifts by 8.33 (at most 0.25)")"#]],
    );
}

#[test]
fn a_model_that_fails_requests_is_found_out_by_a_few() {
    check(2, |_, case| case.end = CaseEnd::Failed, expect!["Wait"]);
    check(
        3,
        |_, case| case.end = CaseEnd::Failed,
        expect![[r#"Fail("100.0 % more requests that failed than before (at most 1.0 %)")"#]],
    );
}

#[test]
fn what_the_model_before_did_as_badly_is_no_reason() {
    let bad = |requests| {
        window(requests, |number, case| {
            if number % 3 == 0 {
                case.end = CaseEnd::Length;
            }
            case.itl = Some(Duration::from_secs(1));
        })
    };
    assert_eq!(judge(&bad(300), &bad(60), &Gates::default()), Verdict::Pass);
}

#[test]
fn without_a_window_before_times_are_not_compared_and_shares_are_against_none() {
    let empty = Window::default();
    let good = window(40, |_, _| {});
    assert_eq!(judge(&empty, &good, &Gates::default()), Verdict::Pass);
}

#[test]
fn two_halves_together_are_the_whole() {
    let mut halves = window(50, |_, _| {});
    halves.merge(&window(50, |_, case| case.end = CaseEnd::Length));
    assert_eq!(halves.requests(), 100);
    assert!((halves.share(halves.length) - 0.5).abs() < 1e-9);
    assert!(
        (halves.itl.p95() / 0.0208 - 1.0).abs() < 0.1,
        "{}",
        halves.itl.p95()
    );
}
