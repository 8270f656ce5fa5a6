use expect_test::{Expect, expect};

use super::*;

fn check(change: impl FnOnce(&mut Config), expected: Expect) {
    let mut config = Config::default();
    change(&mut config);
    let shown = config
        .check()
        .map_or_else(|e| e.to_string(), |()| "fine".to_owned());
    expected.assert_eq(&shown);
}

#[test]
fn defaults_are_fine() {
    check(|_| (), expect!["fine"]);
}

#[test]
fn ranges_and_contradictions_are_named() {
    check(
        |c| c.serving.sequences_max = 0,
        expect!["`serving.sequences_max` is 0: it must be from 1 to 256"],
    );
    check(
        |c| c.serving.step_tokens_max = 4,
        expect![
            "`serving.step_tokens_max` is 4, below `serving.sequences_max` 8: a step carries a token of each sequence, so raise the first or lower the second"
        ],
    );
    check(
        |c| c.serving.context_tokens_max = Some(1),
        expect!["`serving.context_tokens_max` is 1: it must be from 2 to 1048576"],
    );
    check(
        |c| c.engine.threads = Some(65),
        expect!["`engine.threads` is 65: it must be from 1 to 64"],
    );
}

#[test]
fn a_meter_is_auto_none_or_a_path() {
    check(
        |c| c.energy.meter = "rapl".to_owned(),
        expect!["`energy.meter`: `rapl` is no meter: say auto, none, or the path of a sensor"],
    );
    check(
        |c| c.energy.meter = "/sys/class/powercap/intel-rapl:0".to_owned(),
        expect!["fine"],
    );
    check(
        |c| c.energy.interval_ms = 5,
        expect!["`energy.interval_ms` is 5: it must be from 10 to 1000"],
    );
}

#[test]
fn nobody_is_served_in_public_without_credentials() {
    check(
        |c| c.listen.http = "0.0.0.0:80".parse().unwrap(),
        expect![
            "`listen.http` is 0.0.0.0:80, which others can reach: set access.certificate and access.private_key, and add a key with `outstation keys add`, or listen on 127.0.0.1 or [::1]"
        ],
    );
    check(
        |c| c.listen.quic = "[::1]:1".parse().unwrap(),
        expect!["fine"],
    );
}

#[test]
fn a_misspelt_key_finds_its_neighbour() {
    let message = check_key("memory.limits").unwrap_err().to_string();
    expect!["unknown setting `memory.limits`: did you mean `memory.limit`?"].assert_eq(&message);
    for key in KEYS {
        assert_eq!(check_key(key), Ok(()));
    }
}

#[test]
fn sizes_are_read_and_shown() {
    let read = |text: &str| {
        text.parse::<ByteSize>()
            .map_or_else(|e| e, |s| format!("{} = {s}", s.0))
    };
    expect!["6442450944 = 6.00 GiB"].assert_eq(&read("6GiB"));
    expect!["1610612736 = 1.50 GiB"].assert_eq(&read("1.5 GiB"));
    expect!["1000 = 1000 B"].assert_eq(&read("1000"));
    expect!["`6 GB` is no size: write a number with KiB, MiB or GiB, like 6GiB"]
        .assert_eq(&read("6 GB"));
    expect!["`-1` is no size: write a number with KiB, MiB or GiB, like 6GiB"]
        .assert_eq(&read("-1"));
    expect!["`99999999999999GiB` is no size: write a number with KiB, MiB or GiB, like 6GiB"]
        .assert_eq(&read("99999999999999GiB"));
}
