use expect_test::{Expect, expect};

use super::facts::*;
use super::*;
use crate::status::tests::busy_box;
use crate::status::{ErrorLine, Releases, Status};

const NOW: u64 = 1_790_000_000;

/// A box in a fleet, with nothing wrong.
fn healthy() -> Facts {
    let mut status = busy_box();
    let uplink = status.uplink.as_mut().unwrap();
    (uplink.connected, uplink.trouble) = (true, None);
    (uplink.last_contact_s, uplink.clock_ahead_s) = (Some(0), Some(-1));
    status.last_errors.clear();
    Facts {
        now_unix_s: NOW,
        configuration: Configuration {
            place: "/etc/outstation/outstation.toml".to_owned(),
            trouble: None,
        },
        answer: Answer {
            address: "127.0.0.1:8080".to_owned(),
            status: Some(Ok(status)),
            releases: Some(Releases {
                committed: Some("site-3b@7".to_owned()),
                ring: "all".to_owned(),
                ..Releases::default()
            }),
        },
        link: Link {
            configured: None,
            member: Read::There(("factory.example:4434".to_owned(), "mast-1".to_owned())),
            addresses: Some(Ok(2)),
        },
        certificates: vec![certificate(400)],
        access: Access {
            public: vec!["HTTP [::]:8080".to_owned()],
            trouble: None,
            keys: Read::There(3),
            keys_file: "/var/lib/outstation/keys.json".to_owned(),
        },
        clock: Clock {
            synchronized: Some(true),
            newest: Some(("/var/lib/outstation/models/models.a".to_owned(), NOW - 40)),
        },
        disks: vec![Disk {
            name: "disk_state",
            folder: "/var/lib/outstation".to_owned(),
            exists: true,
            free_bytes: Some(9 << 30),
            needs_bytes: 1 << 30,
            needs_words: "spool.bytes_max and models.reserve".to_owned(),
            read_only: false,
            writable: Some(true),
        }],
        memory: Memory {
            total_bytes: Some(8 << 30),
            available_bytes: Some(4 << 30),
            plan: None,
        },
        spool: Spool {
            bytes_max: 1 << 30,
            files: Read::There(SpoolFiles {
                bytes: 8 << 20,
                segments: 2,
                bad: 0,
                oldest_unix_s: Some(NOW - 4000),
            }),
        },
        heat: Heat {
            zones: vec![zone(48_000)],
            frequencies: 4,
            throttled: Some(0),
            ..Heat::default()
        },
        ..Facts::default()
    }
}

fn certificate(days: i64) -> Certificate {
    Certificate {
        name: "certificate",
        place: "/etc/outstation/box.pem".to_owned(),
        read: Read::There(Validity {
            not_before_unix_s: 0,
            not_after_unix_s: NOW.cast_signed() + days * 86_400 + 60,
            key_matches: Some(true),
        }),
        mend: "Get another".to_owned(),
    }
}

fn zone(milli_c: i64) -> Zone {
    Zone {
        name: "cpu-thermal".to_owned(),
        milli_c,
        passive_milli_c: Some(85_000),
        critical_milli_c: Some(105_000),
    }
}

fn status(facts: &mut Facts) -> &mut Status {
    facts.answer.status.as_mut().unwrap().as_mut().unwrap()
}

/// What changes from the findings of a healthy box.
fn check(change: impl FnOnce(&mut Facts), expected: Expect) {
    let mut facts = healthy();
    let before = examine(&facts);
    change(&mut facts);
    let changed = examine(&facts).into_iter().filter(|f| !before.contains(f));
    let lines: Vec<_> = changed.map(|finding| finding.to_string()).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_healthy_box() {
    let findings = examine(&healthy());
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    expect![[r"
        ok   configuration        /etc/outstation/outstation.toml is accepted
        ok   service              answers at 127.0.0.1:8080, up for 1 d 2 h, ready
        ok   clock                synchronized
        ok   disk_state           /var/lib/outstation has 9.00 GiB free
        ok   memory               2.00 GiB resident of 3.20 GiB planned; 4.00 GiB available
        ok   models               serves site-3b@7
        ok   link                 mast-1 at factory.example:4434: connected
        ok   factory_address      factory.example:4434 has 2 addresses
        ok   certificate          /etc/outstation/box.pem is good for 400 days more
        ok   credentials          others reach HTTP [::]:8080; 3 keys in /var/lib/outstation/keys.json
        ok   spool                8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start
        -    gpu                  not known here: no NVIDIA driver, or nothing that it drives
        -    power_mode           not known here: no Jetson
        -    cpu_governor         not known here: this machine does not tell
        -    power_supply         not known here: the machine names neither mains nor battery
        ok   temperature          at most 48.0 °C (cpu-thermal) of 1 zones
        ok   throttling           never since the machine began
        ok   energy_meter         rapl package-0: 14.2 W
        ok   heap_guard           no guarded thread used the heap
        ok   last_errors          none since the start"]].assert_eq(&lines.join("\n"));
    assert!(worst(&findings) < Mark::Warn);
}

#[test]
fn of_a_machine_that_tells_nothing_nothing_is_a_fault_but_its_clock() {
    let facts = Facts {
        now_unix_s: NOW,
        ..Facts::default()
    };
    let findings = examine(&facts);
    assert!(worst(&findings) < Mark::Warn, "{findings:#?}");
    let names: std::collections::BTreeSet<_> = findings.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), findings.len(), "each name is there once");
}

#[test]
fn the_service() {
    check(
        |facts| facts.answer.status = Some(Err("nobody answers".to_owned())),
        expect![[r"
            BAD  service              nobody answers. Read `systemctl status outstation` and `journalctl -u outstation -n 50`, then `systemctl restart outstation`
            ok   clock                synchronized
            -    memory               not known here: there is no plan
            -    models               not known here: the service does not answer
            -    link                 not known here: enrolled as mast-1 at factory.example:4434; the service does not answer
            ok   spool                8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min
            -    energy_meter         not known here: no meter on this machine
            -    heap_guard           not known here: the service does not answer
            -    last_errors          not known here: the journal: this machine does not tell; `journalctl -u outstation -p warning -n 50` has them with what came before"]],
    );
    check(
        |facts| status(facts).ready = false,
        expect![
            "BAD  service              answers at 127.0.0.1:8080, up for 1 d 2 h, and decodes nothing: it drains, or its model is gone. Wait a minute; if it stays, `systemctl restart outstation`"
        ],
    );
    check(
        |facts| (status(facts).ready, status(facts).uptime_s) = (false, 20),
        expect![
            "warn service              answers at 127.0.0.1:8080, up for 20 s, still loading. Wait until it says that it is ready"
        ],
    );
    check(
        |facts| status(facts).guarded_heap_uses = 7,
        expect![
            "warn heap_guard           guarded threads used the heap 7 times since READY. Answers are right, and it is our bug: report it with the output of `outstation status --json`"
        ],
    );
    check(
        |facts| facts.configuration.trouble = Some("unknown setting `a`".to_owned()),
        expect![
            "BAD  configuration        /etc/outstation/outstation.toml: unknown setting `a`. The rest was looked at with the defaults: mend it, and see `outstation check`"
        ],
    );
    check(
        |facts| {
            status(facts).last_errors = vec![ErrorLine {
                unix_s: NOW - 90,
                level: "error".to_owned(),
                message: "the disk is gone".to_owned(),
            }];
        },
        expect![
            "warn last_errors          1, the last 1 min 30 s ago: the disk is gone. Read them: `journalctl -u outstation -p warning -n 50` has them with what came before"
        ],
    );
}

#[test]
fn models_and_their_trials() {
    let releases = |change: fn(&mut Releases)| {
        move |facts: &mut Facts| change(facts.answer.releases.as_mut().unwrap())
    };
    check(
        releases(|r| {
            r.rejected
                .push(("site-3b@8".to_owned(), "slower".to_owned()));
        }),
        expect![
            "warn models               serves site-3b@7; took back site-3b@8: slower. Publish a better release; `outstation models confirm` lets this one come again"
        ],
    );
    check(
        releases(|r| {
            r.rejected
                .push(("site-3b@6".to_owned(), "slower".to_owned()));
        }),
        expect![""],
    );
    check(
        releases(|r| r.pinned = true),
        expect![
            "warn models               serves site-3b@7; pinned. Nothing comes in: `outstation models unpin`"
        ],
    );
    check(
        releases(|r| r.unconfirmed = true),
        expect![
            "BAD  models               serves site-3b@7; both copies of the models' state were lost. If what serves is right, `outstation models confirm`"
        ],
    );
    check(
        releases(|r| r.trouble = Some("the metadata is expired".to_owned())),
        expect![
            "warn models               serves site-3b@7; the metadata is expired. Nothing new comes in until that is mended; docs/ota.md has the causes"
        ],
    );
}

#[test]
fn the_link() {
    let silent = |days: u64| {
        move |facts: &mut Facts| {
            let uplink = status(facts).uplink.as_mut().unwrap();
            (uplink.connected, uplink.trouble) = (false, Some("no answer within 30 s".to_owned()));
            uplink.last_contact_s = Some(days * 86_400);
        }
    };
    check(
        silent(1),
        expect![
            "warn link                 mast-1 at factory.example:4434: silent for 1 d 0 h (no answer within 30 s). Look at modem, cable and antenna, then at UDP to factory.example:4434: a firewall must let it out"
        ],
    );
    check(
        silent(8),
        expect![
            "BAD  link                 mast-1 at factory.example:4434: silent for 8 d 0 h (no answer within 30 s); 8 d 0 h without the factory. Look at modem, cable and antenna, then at UDP to factory.example:4434: a firewall must let it out"
        ],
    );
    check(
        |facts| facts.link.addresses = Some(Err("no answer within 3s".to_owned())),
        expect![
            "warn factory_address      factory.example:4434 has no address: no answer within 3s. Look at the link and the name server (`resolvectl status`), or write an address instead of the name"
        ],
    );
    check(
        |facts| {
            facts.link.member = Read::Absent;
            facts.link.configured = Some("factory.example:4434".to_owned());
        },
        expect![
            "warn link                 uplink.factory is factory.example:4434, and this box is not enrolled. `outstation enrol --factory factory.example:4434 CODE`, then restart it"
        ],
    );
    check(
        |facts| facts.link.member = Read::Denied,
        expect![[r"
            -    link                 not known here: this user may not read it (try sudo)
            ok   factory_address      the factory has 2 addresses"]],
    );
}

#[test]
fn certificates() {
    for (days, expected) in [
        (
            -3,
            expect![
                "BAD  certificate          /etc/outstation/box.pem expired, 3 days ago. Get another"
            ],
        ),
        (
            13,
            expect![
                "warn certificate          /etc/outstation/box.pem is good for 13 days more. Get another"
            ],
        ),
        (
            14,
            expect!["ok   certificate          /etc/outstation/box.pem is good for 14 days more"],
        ),
        (
            2_000_000,
            expect!["ok   certificate          /etc/outstation/box.pem does not expire"],
        ),
    ] {
        check(
            move |facts| facts.certificates = vec![certificate(days)],
            expected,
        );
    }
    let read = |read: Read<Validity>| move |facts: &mut Facts| facts.certificates[0].read = read;
    let validity = |not_before_unix_s, key_matches| {
        Read::There(Validity {
            not_before_unix_s,
            not_after_unix_s: i64::MAX,
            key_matches,
        })
    };
    check(
        read(validity(0, Some(false))),
        expect![
            "BAD  certificate          /etc/outstation/box.pem does not belong to its private key. Get another"
        ],
    );
    check(
        read(validity(NOW.cast_signed() + 200_000, None)),
        expect![
            "BAD  certificate          /etc/outstation/box.pem is not good before 2 days from now. Set the clock if it is behind, or use another certificate"
        ],
    );
    check(
        read(Read::Absent),
        expect!["BAD  certificate          /etc/outstation/box.pem is not there. Get another"],
    );
    check(
        read(Read::Denied),
        expect![
            "-    certificate          not known here: /etc/outstation/box.pem: this user may not read it (try sudo)"
        ],
    );
    check(
        |facts| facts.certificates.clear(),
        expect![
            "ok   certificate          none configured: the box makes its own at each start, for this machine alone"
        ],
    );
}

#[test]
fn the_clock() {
    check(
        |facts| facts.clock.synchronized = Some(false),
        expect![
            "warn clock                plausible, and not synchronized. Set it (`timedatectl set-ntp true`, or `date -s`), and look at the battery of the clock"
        ],
    );
    check(
        |facts| facts.clock.synchronized = None,
        expect![
            "-    clock                not known here: whether somebody sets it; the time is plausible"
        ],
    );
    check(
        |facts| facts.clock.newest = Some(("models.a".to_owned(), NOW + 7200)),
        expect![
            "BAD  clock                2 h 0 min behind models.a, written by this box. Set it (`timedatectl set-ntp true`, or `date -s`), and look at the battery of the clock"
        ],
    );
    check(
        |facts| status(facts).uplink.as_mut().unwrap().clock_ahead_s = Some(4000),
        expect![
            "warn clock                1 h 6 min ahead of the factory's. Set it (`timedatectl set-ntp true`, or `date -s`), and look at the battery of the clock"
        ],
    );
    let mut facts = healthy();
    facts.now_unix_s = 3600;
    let finding = machine::clock(&facts).remove(0);
    expect!["BAD  clock                3600 s since 1970 is no time of this box's life. Set it (`timedatectl set-ntp true`, or `date -s`), and look at the battery of the clock"].assert_eq(&finding.to_string());
}

#[test]
fn disk_memory_and_spool() {
    check(
        |facts| facts.disks[0].free_bytes = Some(500 << 20),
        expect![
            "warn disk_state           /var/lib/outstation has 500.0 MiB free, the box may want 1.00 GiB (spool.bytes_max and models.reserve). Free some, or lower the settings that are named"
        ],
    );
    check(
        |facts| facts.disks[0].free_bytes = Some(10 << 20),
        expect![
            "BAD  disk_state           /var/lib/outstation has 10.0 MiB free. Free some: `journalctl --vacuum-size=100M`, old logs, packages that are cached"
        ],
    );
    check(
        |facts| facts.disks[0].read_only = true,
        expect![
            "BAD  disk_state           /var/lib/outstation has 9.00 GiB free, and is mounted read-only. Look at `dmesg` for errors of the disk; `mount -o remount,rw`, or replace the disk"
        ],
    );
    check(
        |facts| facts.disks[0].writable = Some(false),
        expect![
            "BAD  disk_state           /var/lib/outstation has 9.00 GiB free, and its owner may not write there. `chown -R outstation: /var/lib/outstation` and `chmod u+rwx /var/lib/outstation`"
        ],
    );
    check(
        |facts| status(facts).memory_resident_bytes = Some(5 << 30),
        expect![
            "BAD  memory               5.00 GiB resident of 3.20 GiB planned; 4.00 GiB available: more than the plan. It is our bug: `systemctl restart outstation`, and report it with `outstation status --json`"
        ],
    );
    check(
        |facts| facts.memory.available_bytes = Some(1 << 20),
        expect![
            "warn memory               2.00 GiB resident of 3.20 GiB planned; 1.0 MiB available. Lower memory.limit or serving.sequences_max, or end what else runs (`systemd-cgtop -m`)"
        ],
    );
    let spool = |change: fn(&mut crate::status::Log)| {
        move |facts: &mut Facts| change(status(facts).log.as_mut().unwrap())
    };
    check(
        spool(|log| log.spool_bytes[0] = 850 << 20),
        expect![
            "warn spool                858.0 MiB of 1.00 GiB (83 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start. The link must come back (see `link`), or raise spool.bytes_max: what is oldest and worth least goes"
        ],
    );
    check(
        spool(|log| log.spool_bytes[0] = 1 << 30),
        expect![
            "BAD  spool                1.01 GiB of 1.00 GiB (100 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start; it is full. The link must come back (see `link`), or raise spool.bytes_max: what is oldest and worth least goes"
        ],
    );
    check(
        spool(|log| log.writing = false),
        expect![
            "BAD  spool                8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start; it takes no records. Look at the disk (`disk_state`): records are lost until it takes them again"
        ],
    );
    check(
        spool(|log| log.records_lost = 12),
        expect![
            "warn spool                8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start, 12 lost ever. Gaps tell the factory which and why (docs/spool.md); nothing brings them back"
        ],
    );
}

#[test]
fn a_box_that_is_down_is_judged_by_its_files_and_its_plan() {
    let down = |change: fn(&mut Facts)| {
        let mut facts = healthy();
        facts.answer.status = Some(Err("nobody answers".to_owned()));
        facts.answer.releases = None;
        change(&mut facts);
        let shown = [
            storage::memory(&facts),
            storage::spool(&facts),
            service::models(&facts),
        ];
        shown.map(|finding| finding.to_string()).join("\n")
    };
    expect![[r"
        ok   memory               2.00 GiB planned of a limit of 7.00 GiB; 4.00 GiB available
        ok   spool                8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min
        -    models               not known here: the service does not answer"]]
    .assert_eq(&down(|facts| {
        facts.memory.plan = Some(Ok((2 << 30, 7 << 30)));
    }));
    expect![[r"
        BAD  memory               the model needs 5.1 GiB. `outstation check` has the table
        BAD  spool                8.0 MiB of 8.0 MiB (100 %) in 2 segments, the oldest 1 h 6 min; it is full. The link must come back (see `link`), or raise spool.bytes_max: what is oldest and worth least goes
        BAD  models               site.gguf: no such file. Name a good file with model.file, or copy it again"]].assert_eq(&down(|facts| {
        facts.memory.plan = Some(Err("the model needs 5.1 GiB".to_owned()));
        facts.model_trouble = Some("site.gguf: no such file".to_owned());
        facts.spool.bytes_max = 8 << 20;
    }));
    expect![[r"
        BAD  memory               6.00 GiB planned of a limit of 7.00 GiB; 4.00 GiB available: it does not fit. Lower memory.limit or serving.sequences_max, or end what else runs (`systemd-cgtop -m`)
        ok   spool                nothing waits: nothing was ever written down
        -    models               not known here: the service does not answer"]].assert_eq(&down(|facts| {
        facts.memory.plan = Some(Ok((6 << 30, 7 << 30)));
        facts.spool.files = Read::Absent;
    }));
}

#[test]
fn power_and_heat() {
    let governor = |driver: &'static str, governor: &'static str| {
        move |facts: &mut Facts| {
            let pair = (driver.to_owned(), governor.to_owned());
            facts.power.governors = vec![pair];
        }
    };
    check(
        governor("cpufreq-dt", "powersave"),
        expect![
            "warn cpu_governor         powersave (cpufreq-dt): the lowest frequency, always. `cpupower frequency-set -g schedutil`, or `performance` where power is plenty"
        ],
    );
    check(
        governor("intel_pstate", "powersave"),
        expect!["ok   cpu_governor         powersave (intel_pstate)"],
    );
    for (charge, expected) in [
        (
            Some(70),
            expect![
                "warn power_supply         runs on battery BAT0, 70 % left. Look at the mains, its fuse and the plug"
            ],
        ),
        (
            Some(9),
            expect![
                "BAD  power_supply         runs on battery BAT0, 9 % left. Look at the mains, its fuse and the plug"
            ],
        ),
    ] {
        let battery = Supply {
            name: "BAT0".to_owned(),
            battery: true,
            feeds: true,
            charge_percent: charge,
        };
        check(move |facts| facts.power.supplies = vec![battery], expected);
    }
    check(
        |facts| facts.power.jetson_mode = Some("pmode:0002".to_owned()),
        expect!["ok   power_mode           pmode:0002 (`nvpmodel -p --verbose` lists the others)"],
    );
    check(
        |facts| facts.heat.zones = vec![zone(90_500)],
        expect![
            "warn temperature          cpu-thermal has 90.5 °C, slows down at 85.0 °C. Look at fan, filter and sun, or lower the power mode"
        ],
    );
    check(
        |facts| facts.heat.zones = vec![zone(101_000)],
        expect![
            "BAD  temperature          cpu-thermal has 101.0 °C, switches off at 105.0 °C. Look at fan, filter and sun, or lower the power mode"
        ],
    );
    check(
        |facts| facts.heat.throttled = Some(17),
        expect![
            "warn throttling           slowed down for heat 17 times since the machine began. Look at fan, filter and sun, or lower the power mode"
        ],
    );
    check(
        |facts| facts.heat.capped = vec![("policy0".to_owned(), 729_000, 1_510_000)],
        expect![
            "warn throttling           1 of 4 processors are held down, policy0 to 729 of 1510 MHz. Answers are slower than they could be: look at heat, power supply and power mode"
        ],
    );
}

#[test]
fn access_and_meter() {
    check(
        |facts| facts.access.trouble = Some("others can reach it".to_owned()),
        expect![
            "BAD  credentials          others can reach it. The box refuses to start like this: docs/access.md has the three lines that are missing"
        ],
    );
    check(
        |facts| facts.access.keys = Read::Denied,
        expect![
            "-    credentials          not known here: others reach HTTP [::]:8080; /var/lib/outstation/keys.json: this user may not read it (try sudo)"
        ],
    );
    check(
        |facts| status(facts).energy.as_mut().unwrap().reads = false,
        expect![
            "warn energy_meter         rapl package-0 says nothing. The box looks for it every 10 s; the journal has the reason (`journalctl -u outstation -g energy`)"
        ],
    );
    check(
        |facts| status(facts).energy = None,
        expect!["-    energy_meter         not known here: no meter on this machine"],
    );
    check(
        |facts| {
            status(facts).energy = None;
            facts.meter.notes = vec!["energy_uj may not be read".to_owned()];
        },
        expect![
            "warn energy_meter         energy_uj may not be read. Answers are not measured until then; docs/energy.md has the line to add"
        ],
    );
}

#[test]
fn json_has_stable_names_and_numbers_with_units() {
    let findings = examine(&healthy());
    let lines = findings
        .iter()
        .filter(|f| ["spool", "clock"].contains(&f.name));
    let lines: Vec<_> = lines.map(|f| serde_json::to_string(f).unwrap()).collect();
    expect![[r#"
        {"name":"clock","mark":"ok","found":"synchronized","mend":null,"numbers":{"unix_s":1790000000,"ahead_of_factory_s":-1}}
        {"name":"spool","mark":"ok","found":"8.0 MiB of 1.00 GiB (0 %) in 2 segments, the oldest 1 h 6 min; 42 records since the start","mend":null,"numbers":{"spool_bytes":8392704,"spool_bytes_max":1073741824,"spool_segments":2,"oldest_s":4000,"records_lost":0}}"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_gpu_is_a_fault_only_where_it_is_wanted() {
    let with = |wanted, found| Facts {
        gpu: Gpu { wanted, found },
        ..healthy()
    };
    let found = GpuFound {
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        capability: (9, 0),
        driver: 13_000,
        memory_bytes: 80 << 30,
        free_bytes: 79 << 30,
        unified: false,
    };
    let old = GpuFound {
        driver: 11_080,
        ..found.clone()
    };
    let turing = GpuFound {
        capability: (7, 5),
        ..found.clone()
    };
    let shown: Vec<_> = [
        with(true, Read::There(found)),
        with(true, Read::There(old.clone())),
        with(false, Read::There(old)),
        with(true, Read::There(turing)),
        with(true, Read::Absent),
        with(false, Read::Absent),
    ]
    .iter()
    .map(|facts| machine::gpu(facts).to_string())
    .collect();
    expect![[r"
        ok   gpu                  NVIDIA H100 80GB HBM3, compute capability 9.0, driver of CUDA 13.0, 79.00 GiB of 80.00 GiB free
        BAD  gpu                  NVIDIA H100 80GB HBM3, compute capability 9.0, driver of CUDA 11.8, 79.00 GiB of 80.00 GiB free: our kernels take CUDA 12.0 or newer. Install a driver of 525 or newer
        -    gpu                  not known here: NVIDIA H100 80GB HBM3, compute capability 9.0, driver of CUDA 11.8, 79.00 GiB of 80.00 GiB free: our kernels take CUDA 12.0 or newer
        BAD  gpu                  NVIDIA H100 80GB HBM3, compute capability 7.5, driver of CUDA 13.0, 79.00 GiB of 80.00 GiB free: our kernels take 8.0 or newer. Take engine.device out of the configuration
        BAD  gpu                  no NVIDIA driver, or nothing that it drives. Install NVIDIA's driver, or take engine.device out of the configuration
        -    gpu                  not known here: no NVIDIA driver, or nothing that it drives"]].assert_eq(&shown.join("\n"));
}
