use std::fs;
use std::path::Path;

use expect_test::expect;

use super::*;
use crate::doctor::facts::{Heat, Power};

fn put(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Probe) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), files);
    let probe = Probe::new(folder.path().to_owned());
    (folder, probe)
}

#[test]
fn a_jetson_that_is_warm() {
    let policy = "sys/devices/system/cpu/cpufreq/policy0";
    let zone = "sys/class/thermal/thermal_zone0";
    let file = |folder: &str, name: &str| format!("{folder}/{name}");
    let (_folder, probe) = machine(&[
        ("var/lib/nvpmodel/status", "pmode:0002\n"),
        (&file(policy, "scaling_driver"), "tegra194\n"),
        (&file(policy, "scaling_governor"), "schedutil\n"),
        (&file(policy, "scaling_max_freq"), "729600\n"),
        (&file(policy, "cpuinfo_max_freq"), "1510400\n"),
        (&file(zone, "type"), "cpu-thermal\n"),
        (&file(zone, "temp"), "71500\n"),
        (&file(zone, "trip_point_0_type"), "active\n"),
        (&file(zone, "trip_point_0_temp"), "50000\n"),
        (&file(zone, "trip_point_1_type"), "passive\n"),
        (&file(zone, "trip_point_1_temp"), "99000\n"),
        (&file(zone, "trip_point_2_type"), "critical\n"),
        (&file(zone, "trip_point_2_temp"), "104500\n"),
        ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
    ]);
    expect![[r#"
        (
            Power {
                jetson_mode: Some(
                    "pmode:0002",
                ),
                governors: [
                    (
                        "tegra194",
                        "schedutil",
                    ),
                ],
                supplies: [],
            },
            Heat {
                zones: [
                    Zone {
                        name: "cpu-thermal",
                        milli_c: 71500,
                        passive_milli_c: Some(
                            99000,
                        ),
                        critical_milli_c: Some(
                            104500,
                        ),
                    },
                ],
                capped: [
                    (
                        "policy0",
                        729600,
                        1510400,
                    ),
                ],
                frequencies: 1,
                throttled: None,
            },
        )
    "#]]
    .assert_debug_eq(&(probe.power(), probe.heat()));
}

#[test]
fn a_laptop_on_battery_that_slowed_down() {
    let (_folder, probe) = machine(&[
        ("sys/class/power_supply/AC/type", "Mains\n"),
        ("sys/class/power_supply/AC/online", "0\n"),
        ("sys/class/power_supply/BAT0/type", "Battery\n"),
        ("sys/class/power_supply/BAT0/status", "Discharging\n"),
        ("sys/class/power_supply/BAT0/capacity", "61\n"),
        ("sys/class/power_supply/mouse/type", "Battery\n"),
        ("sys/class/power_supply/mouse/scope", "Device\n"),
        ("sys/class/power_supply/mouse/status", "Discharging\n"),
        (
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
            "3\n",
        ),
        (
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
            "10\n",
        ),
        (
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count",
            "4\n",
        ),
        (
            "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count",
            "10\n",
        ),
        // A zone whose points are switched off, and one that cannot be read now.
        ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
        ("sys/class/thermal/thermal_zone0/temp", "20000\n"),
        (
            "sys/class/thermal/thermal_zone0/trip_point_0_type",
            "passive\n",
        ),
        (
            "sys/class/thermal/thermal_zone0/trip_point_0_temp",
            "-274000\n",
        ),
        ("sys/class/thermal/thermal_zone1/type", "iwlwifi\n"),
    ]);
    expect![[r#"
        (
            Power {
                jetson_mode: None,
                governors: [],
                supplies: [
                    Supply {
                        name: "AC",
                        battery: false,
                        feeds: false,
                        charge_percent: None,
                    },
                    Supply {
                        name: "BAT0",
                        battery: true,
                        feeds: true,
                        charge_percent: Some(
                            61,
                        ),
                    },
                ],
            },
            Heat {
                zones: [
                    Zone {
                        name: "acpitz",
                        milli_c: 20000,
                        passive_milli_c: None,
                        critical_milli_c: None,
                    },
                ],
                capped: [],
                frequencies: 0,
                throttled: Some(
                    17,
                ),
            },
        )
    "#]]
    .assert_debug_eq(&(probe.power(), probe.heat()));
}

#[test]
fn a_machine_that_tells_nothing() {
    let (_folder, probe) = machine(&[]);
    assert_eq!(probe.power(), Power::default());
    assert_eq!(probe.heat(), Heat::default());
    assert_eq!(probe.memory(), Memory::default());
    assert_eq!(probe.clock(Path::new("/nowhere")), Clock::default());
    assert_eq!(probe.journal(), Read::Absent);
}

#[test]
fn another_program_is_heard_but_not_for_ever() {
    let shell = Path::new("/bin/sh");
    let heard = said(shell, "-c pwd");
    assert!(
        matches!(&heard, Read::There(text) if text.ends_with('\n')),
        "{heard:?}"
    );
    assert_eq!(said(shell, "-c false"), Read::Denied);
    assert_eq!(said(Path::new("/nowhere"), "a"), Read::Absent);
    let begun = Instant::now();
    let silent = said(Path::new("/bin/cat"), "/dev/zero");
    assert!(matches!(silent, Read::Broken(_)), "its pipe is full");
    assert!(begun.elapsed() < 3 * SAID_MAX);
}

#[test]
fn memory_is_what_the_machine_has_within_its_group() {
    let (folder, probe) = machine(&[(
        "proc/meminfo",
        "MemTotal:        8000000 kB\nMemFree:  1 kB\nMemAvailable:    6000000 kB\n",
    )]);
    let memory = probe.memory();
    assert_eq!(memory.total_bytes, Some(8_192_000_000));
    assert_eq!(memory.available_bytes, Some(6_144_000_000));
    put(
        folder.path(),
        &[
            ("proc/self/cgroup", "0::/system.slice/outstation.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            (
                "sys/fs/cgroup/system.slice/outstation.service/memory.max",
                "1000000\n",
            ),
        ],
    );
    assert_eq!(probe.memory().available_bytes, Some(1_000_000));
}

#[test]
fn the_clock_is_synchronized_when_the_mark_is_there() {
    let (folder, probe) = machine(&[("run/systemd/timesync/clock", "")]);
    let state = folder.path().join("state");
    assert_eq!(probe.clock(&state).synchronized, Some(false));
    put(
        folder.path(),
        &[
            ("run/systemd/timesync/synchronized", ""),
            ("state/models/models.a", "x"),
        ],
    );
    let clock = probe.clock(&state);
    assert_eq!(clock.synchronized, Some(true));
    let (newest, written) = clock.newest.unwrap();
    assert!(newest.ends_with("models/models.a"), "{newest}");
    assert!(written.abs_diff(now_unix_s()) < 60, "{written}");
}

#[test]
fn a_spool_is_counted_by_its_files() {
    let (folder, _) = machine(&[
        ("spool/p0.00000000000000000001.seg", "12345"),
        ("spool/p1.00000000000000000007.open", "123"),
        ("spool/p2.00000000000000000002.bad", "1"),
        ("spool/spool.a", "state"),
    ]);
    let spool = spool(&folder.path().join("spool"), 7);
    let Read::There(files) = spool.files else {
        panic!("{spool:?}");
    };
    assert_eq!((files.bytes, files.segments, files.bad), (9, 1, 1));
    assert!(files.oldest_unix_s.is_some());
    let nowhere = super::spool(&folder.path().join("nowhere"), 7);
    assert_eq!(nowhere.files, Read::Absent);
}

#[test]
fn a_folder_that_is_not_there_has_the_numbers_of_where_it_would_be() {
    let folder = tempfile::tempdir().unwrap();
    let here = disk("disk_state", folder.path(), (7, "a"));
    assert!(here.exists && !here.read_only, "{here:?}");
    assert_eq!(here.writable, Some(true));
    let later = disk("disk_state", &folder.path().join("a/b"), (7, "a"));
    assert!(!later.exists && later.free_bytes.is_some(), "{later:?}");
}

#[test]
fn a_certificate_is_read_and_compared_with_its_key() {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut params = CertificateParams::new(["box.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let pem = params.self_signed(&key).unwrap().pem();
    fs::write(path("box.pem"), pem).unwrap();
    fs::write(path("box.key"), key.serialize_pem()).unwrap();
    fs::write(path("other.key"), other.serialize_pem()).unwrap();
    let matches = |key: &str| match identity(&path("box.pem"), Some(&path(key))).read {
        Read::There(validity) => validity.key_matches,
        other => panic!("{other:?}"),
    };
    assert_eq!(matches("box.key"), Some(true));
    assert_eq!(matches("other.key"), Some(false));
    assert_eq!(matches("none.key"), None);
    let Read::There(validity) = authority(&path("box.pem")).read else {
        panic!("it is there");
    };
    assert_eq!(validity.not_before_unix_s, 1_767_225_600);
    assert_eq!(validity.not_after_unix_s, 1_798_761_600);
    assert_eq!(authority(&path("none.pem")).read, Read::Absent);
    let read = authority(&path("box.key")).read;
    assert!(matches!(read, Read::Broken(_)), "{read:?}");
}
