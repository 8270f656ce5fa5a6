use std::time::Duration;

use expect_test::{Expect, expect};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::status::Candidate;
use crate::status::tests::busy_box;

fn seen() -> Watch {
    let mut watch = Watch::new("127.0.0.1:8080".to_owned());
    let mut status = busy_box();
    let releases = Releases {
        committed: Some("site-3b@7".to_owned()),
        candidate: Some(Candidate {
            release: "site-3b@8".to_owned(),
            phase: "canary".to_owned(),
            percent: 10,
            requests: 25,
            ..Candidate::default()
        }),
        ring: "all".to_owned(),
        rollout: 12,
        ..Releases::default()
    };
    for second in 0..40 {
        status.generated_tokens += second * 2;
        let answer = Ok((status.clone(), Some(releases.clone())));
        watch.handle(Duration::from_secs(second), second, answer);
    }
    watch
}

fn check(watch: &Watch, font: Font, (width, height): (u16, u16), expected: Expect) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let screen = Screen {
        watch,
        now_unix_s: 100,
        font,
    };
    terminal
        .draw(|frame| frame.render_widget(screen, frame.area()))
        .unwrap();
    expected.assert_eq(&terminal.backend().to_string());
}

#[test]
fn a_console_of_80_by_25() {
    check(
        &seen(),
        Font::Console,
        (80, 25),
        expect![[r#"
        " site-3b at 127.0.0.1:8080: ready, up for 1 d 2 h                               "
        "┌ 78.0 tokens/s; 2760 of answers, 9000 of prompts since the start ─────────────┐"
        "│                                     ▄▄█                                      │"
        "│                                 ▄▄█████                                      │"
        "│                             ▄▄█████████                                      │"
        "│                         ▄▄█████████████                                      │"
        "│                     ▄▄█████████████████                                      │"
        "│                 ▄▄▄████████████████████                                      │"
        "│             ▄▄▄████████████████████████                                      │"
        "│         ▄▄▄████████████████████████████                                      │"
        "│     ▄▄▄████████████████████████████████                                      │"
        "│ ▄▄▄████████████████████████████████████                                      │"
        "└──────────────────────────────────────────────────────────────────────────────┘"
        "sequences ██████████████████████3 of 8 running, 2 waiting                       "
        "kv        ██████████████████         32 of 128 blocks                           "
        "memory    █████████████████████████2.00 GiB of 3.20 GiB                         "
        "spool                              8.0 MiB of 1.00 GiB                          "
        "┌ models ──────────────────────────────────────────────────────────────────────┐"
        "│serves     site-3b@7                ring all, rollout 12                      │"
        "│under way  site-3b@8                canary, 10 % of new requests, 25 requests │"
        "└──────────────────────────────────────────────────────────────────────────────┘"
        "uplink    factory.example:4434: silent for 1 h 6 min; no answer within 30 s     "
        "energy    14.2 W, 9000 J (rapl package-0)                                       "
        "warn      the disk is slow                                                      "
        "q, Esc or Ctrl-C leaves; `outstation doctor` says what is wrong                 "
    "#]],
    );
}

#[test]
fn a_wide_terminal_with_a_silent_box() {
    let mut watch = seen();
    watch.handle(
        Duration::from_secs(41),
        41,
        Err("connection refused".to_owned()),
    );
    check(
        &watch,
        Font::Full,
        (100, 24),
        expect![[r#"
        " no answer since 00:00:41 UTC (59 s): connection refused                                            "
        "┌ - tokens/s; 2760 of answers, 9000 of prompts since the start ────────────────────────────────────┐"
        "│                                    ▂▄▆█                                                          │"
        "│                               ▁▃▄▆█████                                                          │"
        "│                           ▁▃▅▇█████████                                                          │"
        "│                       ▂▄▆██████████████                                                          │"
        "│                  ▁▃▄▆██████████████████                                                          │"
        "│              ▁▃▅▇██████████████████████                                                          │"
        "│          ▂▄▆███████████████████████████                                                          │"
        "│     ▁▃▄▆███████████████████████████████                                                          │"
        "│ ▁▃▅▇███████████████████████████████████                                                          │"
        "└──────────────────────────────────────────────────────────────────────────────────────────────────┘"
        "sequences ████████████████████████████████3 of 8 running, 2 waiting                                 "
        "kv        ███████████████████████              32 of 128 blocks                                     "
        "memory    ███████████████████████████████████2.00 GiB of 3.20 GiB                                   "
        "spool                                        8.0 MiB of 1.00 GiB                                    "
        "┌ models ──────────────────────────────────────────────────────────────────────────────────────────┐"
        "│serves     site-3b@7                ring all, rollout 12                                          │"
        "│under way  site-3b@8                canary, 10 % of new requests, 25 requests seen                │"
        "└──────────────────────────────────────────────────────────────────────────────────────────────────┘"
        "uplink    factory.example:4434: silent for 1 h 6 min; no answer within 30 s                         "
        "energy    14.2 W, 9000 J (rapl package-0)                                                           "
        "warn      the disk is slow                                                                          "
        "q, Esc or Ctrl-C leaves; `outstation doctor` says what is wrong                                     "
    "#]],
    );
}

#[test]
fn a_box_that_never_answered() {
    let mut watch = Watch::new("127.0.0.1:8080".to_owned());
    watch.handle(Duration::ZERO, 40, Err("connection refused".to_owned()));
    check(
        &watch,
        Font::Full,
        (60, 4),
        expect![[r#"
        " no answer since 00:00:40 UTC (1 min 0 s): connection refuse"
        "nothing was heard yet                                       "
        "                                                            "
        "q, Esc or Ctrl-C leaves; `outstation doctor` says what is wr"
    "#]],
    );
}

#[test]
fn no_area_is_too_small() {
    let watch = seen();
    for (width, height) in [
        (0, 0),
        (1, 1),
        (5, 3),
        (80, 1),
        (3, 80),
        (20, 10),
        (400, 200),
    ] {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let screen = Screen {
            watch: &watch,
            now_unix_s: 100,
            font: Font::Full,
        };
        screen.render(buffer.area, &mut buffer);
    }
}

/// The kernel's console has the characters of a PC of 1981, and eight colours.
#[test]
fn the_console_gets_only_what_its_font_has() {
    let watch = seen();
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 25));
    let screen = Screen {
        watch: &watch,
        now_unix_s: 100,
        font: Font::Console,
    };
    screen.render(buffer.area, &mut buffer);
    for cell in &buffer.content {
        let known = |c: char| c.is_ascii() || "─│┌┐└┘█▄".contains(c);
        assert!(cell.symbol().chars().all(known), "{:?}", cell.symbol());
        for color in [cell.fg, cell.bg] {
            assert!(
                !matches!(color, Color::Rgb(..) | Color::Indexed(_)),
                "{color:?}"
            );
        }
    }
}
