use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

pub(crate) fn busy_box() -> Status {
    let json = json!({
        "ready": true, "sequences": 3, "sequences_max": 8, "queued": 2, "kv_blocks_free": 96, "kv_blocks": 128,
        "kv_blocks_pinned": 4, "first_tokens_in_time": 40, "first_tokens_late": 2, "prompt_tokens": 9000,
        "generated_tokens": 1200, "busy_us": 30_000_000, "memory_planned_bytes": 3_435_973_836_u64,
        "memory_resident_bytes": 2_147_483_648_u64, "uptime_s": 93_784, "started_unix_s": 1_790_000_000,
        "log": {"writing": true, "spool_bytes": [0, 8_388_608, 4096], "spool_bytes_max": 1_073_741_824,
                "spool_segments": [0, 1, 1], "records_durable": 42, "records_lost": 0},
        "energy": {"meter": "rapl package-0", "reads": true, "watts": 14.25, "joules": 9000.0,
                   "joules_requests": 1500.0, "joules_per_token": 1.25},
        "uplink": {"factory": "factory.example:4434", "connected": false, "last_contact_s": 4000,
                   "segments_sent": 3, "bytes_sent": 20_000, "trouble": "no answer within 30 s"},
        "last_errors": [{"unix_s": 1_790_000_001, "level": "warn", "message": "the disk is slow"}],
        "model": {"id": "site-3b", "max_model_len": 8192},
        "of_a_later_version": {"a": 1}
    });
    Status::parse(&json.to_string()).unwrap()
}

fn check(status: &Status, releases: Option<&Releases>, rate: Option<f64>, expected: Expect) {
    expected.assert_eq(&summary(status, releases, rate));
}

#[test]
fn a_busy_box_in_groups() {
    let releases = Releases {
        committed: Some("site-3b@7".to_owned()),
        candidate: Some(Candidate {
            release: "site-3b@8".to_owned(),
            phase: "fetching".to_owned(),
            bytes: 20 << 20,
            bytes_there: 5 << 20,
            seconds_left: Some(75),
            ..Candidate::default()
        }),
        rejected: vec![("site-3b@6".to_owned(), "its golden texts differ".to_owned())],
        ring: "all".to_owned(),
        rollout: 12,
        ..Releases::default()
    };
    check(
        &busy_box(),
        Some(&releases),
        Some(41.26),
        expect![[r"
        box       ready, up for 1 d 2 h
        model     site-3b, 8192 tokens of context
        serves    site-3b@7
        under way site-3b@8: fetching, 5.0 MiB of 20.0 MiB, 1 min 15 s left
        rejected  site-3b@6: its golden texts differ
        ring      all, rollout 12
        serving   3 of 8 running, 2 waiting; 40 of 42 first tokens in time
        tokens    41.3 tokens/s; 1200 of answers, 9000 of prompts
        kv        32 of 128 blocks used (25 %), 4 pinned
        memory    2.00 GiB resident of 3.20 GiB planned
        spool     8.0 MiB of 1.00 GiB (0 %) in 2 segments; 42 records durable since the start, 0 lost ever
        uplink    factory.example:4434: silent for 1 h 6 min; 3 segments sent (19.5 KiB), 0 refused; no answer within 30 s
        energy    14.2 W; 9000 J, 1500 J of them for requests, 1.25 J/token (rapl package-0)
        errors    1, the last: the disk is slow
    "]],
    );
}

#[test]
fn a_box_that_has_only_begun() {
    let status = Status::parse(r#"{"kv_blocks": 4, "kv_blocks_free": 4}"#).unwrap();
    check(
        &status,
        None,
        None,
        expect![[r"
        box       NOT ready, up for 0 s
        model     none
        serving   0 of 0 running, 0 waiting; 0 of 0 first tokens in time
        tokens    0 of answers, 0 of prompts
        kv        0 of 4 blocks used (0 %), 0 pinned
        memory    ? resident of 0 B planned
        spool     none: the box belongs to no fleet
        energy    no meter
        errors    none since the start
    "]],
    );
}

#[test]
fn one_line_has_what_matters() {
    expect!["site-3b: 3 of 8 running, 2 waiting, 41 tokens/s, KV 25 %, memory 2.00 GiB, spool 8.0 MiB, 14.2 W, uplink silent for 1 h 6 min"]
        .assert_eq(&line(&busy_box(), Some(41.26)));
}

#[test]
fn what_is_no_box_is_not_read() {
    for text in ["", "{}", "[1]", "<html>", r#"{"kv_blocks": "many"}"#] {
        assert_eq!(Status::parse(text), None, "{text}");
    }
}

#[test]
fn spans_have_two_units() {
    let spans = [0, 59, 60, 3599, 3600, 86_399, 86_400, 9_000_000].map(span);
    expect!["0 s, 59 s, 1 min 0 s, 59 min 59 s, 1 h 0 min, 23 h 59 min, 1 d 0 h, 104 d 4 h"]
        .assert_eq(&spans.join(", "));
}
