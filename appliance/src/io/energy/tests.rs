use std::path::Path;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;
use crate::energy::Carried;

/// A tree of files.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), files);
    folder
}

fn put(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Whole or not at all, as the real ones.
        let part = path.with_extension("part");
        std::fs::write(&part, format!("{text}\n")).unwrap();
        std::fs::rename(part, path).unwrap();
    }
}

fn found(files: &[(&str, &str)], choice: impl Fn(&Path) -> MeterChoice, expected: Expect) {
    let folder = tree(files);
    let search = Search::run(folder.path(), &choice(folder.path()));
    let mut told = search.notes;
    if let Some(meter) = search.meter {
        let read = meter.read().map_err(|error| error.kind());
        told.push(format!("{}: {:?} {read:?}", meter.name, meter.kind()));
    }
    let told = told.join("\n").replace(folder.path().to_str().unwrap(), "");
    expected.assert_eq(&told);
}

fn auto(_: &Path) -> MeterChoice {
    MeterChoice::Auto
}

const PACKAGE: [(&str, &str); 3] = [
    ("class/powercap/intel-rapl:0/name", "package-0"),
    ("class/powercap/intel-rapl:0/energy_uj", "1234"),
    (
        "class/powercap/intel-rapl:0/max_energy_range_uj",
        "262143328850",
    ),
];

/// An INA3221 with labels, 5 V, and 1, 2 and 3 A.
fn monitor(address: &str, labels: [&str; 3]) -> Vec<(String, String)> {
    let folder = format!("bus/i2c/drivers/ina3221/{address}/hwmon/hwmon3");
    let mut files = vec![(format!("{folder}/name"), "ina3221".to_owned())];
    for (label, channel) in labels.iter().zip(1..) {
        files.push((format!("{folder}/in{channel}_label"), (*label).to_owned()));
        files.push((format!("{folder}/in{channel}_input"), "5000".to_owned()));
        files.push((
            format!("{folder}/curr{channel}_input"),
            format!("{channel}000"),
        ));
    }
    files
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect()
}

#[test]
fn of_a_jetson_the_rail_that_feeds_the_module_counts_alone() {
    let mut files = monitor("1-0040", ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]);
    files.extend(PACKAGE.map(|(name, text)| (name.to_owned(), text.to_owned())));
    found(
        &borrowed(&files),
        auto,
        expect!["jetson VDD_IN: Power Ok([5000000])"],
    );
}

#[test]
fn rails_that_feed_the_module_together_are_added_and_none_that_another_feeds() {
    let mut files = monitor("1-0040", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]);
    files.extend(monitor("1-0041", ["NC", "VDDQ_VDD2_1V8AO", "NC"]));
    found(
        &borrowed(&files),
        auto,
        expect![
            "jetson VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0: Power Ok([5000000, 10000000, 15000000])"
        ],
    );
}

#[test]
fn rails_that_nobody_knows_are_not_added_up() {
    found(
        &borrowed(&monitor("1-0040", ["VDD_GPU", "VDD_NEW", "VIN_SYS_5V0"])),
        auto,
        expect![
            "INA3221 has rails VDD_GPU, VDD_NEW, VIN_SYS_5V0, of which none is known to feed the module: name its `in…_input` in energy.meter if one does"
        ],
    );
    found(
        &borrowed(&monitor("1-0040", ["VDD_GPU", "VDD_NEW", "VIN_SYS_5V0"])),
        |root| MeterChoice::At(root.join("bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in2_input")),
        expect!["/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in2_input: Power Ok([10000000])"],
    );
}

#[test]
fn of_rapl_packages_and_their_memory_count() {
    let mut files = PACKAGE.to_vec();
    files.extend([
        ("class/powercap/intel-rapl:0:0/name", "core"),
        ("class/powercap/intel-rapl:0:0/energy_uj", "1000"),
        ("class/powercap/intel-rapl:0:1/name", "dram"),
        ("class/powercap/intel-rapl:0:1/energy_uj", "77"),
        ("class/powercap/intel-rapl-mmio:0/name", "package-0"),
        ("class/powercap/intel-rapl-mmio:0/energy_uj", "1234"),
    ]);
    found(
        &files,
        auto,
        expect!["rapl package-0 + dram: Counters([Some(262143328850), None]) Ok([1234, 77])"],
    );
    files.extend([
        ("class/powercap/intel-rapl:1/name", "psys"),
        ("class/powercap/intel-rapl:1/energy_uj", "5000"),
    ]);
    found(
        &files,
        auto,
        expect!["rapl psys: Counters([None]) Ok([5000])"],
    );
}

#[test]
fn a_meter_that_is_roots_alone_says_what_to_do() {
    let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let note = meter::denied("rapl package-0", &error).unwrap();
    expect!["rapl package-0 may not be read by this user (permission denied): since CVE-2020-8694 RAPL is root's alone; let the box's group read it (`chgrp outstation FILE; chmod 440 FILE` at each start, docs/energy.md), or say energy.meter = \"none\""].assert_eq(&note);
    let other = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert_eq!(meter::denied("rapl package-0", &other), None);
}

#[test]
fn power_of_the_whole_machine_counts_and_that_of_a_part_does_not() {
    found(
        &[
            ("class/hwmon/hwmon0/name", "amdgpu"),
            ("class/hwmon/hwmon0/power1_input", "30000000"),
        ],
        auto,
        expect![""],
    );
    found(
        &[
            ("class/hwmon/hwmon0/name", "amdgpu"),
            ("class/hwmon/hwmon0/power1_input", "30000000"),
            ("class/hwmon/hwmon1/name", "power_meter"),
            ("class/hwmon/hwmon1/power1_average", "90000000"),
        ],
        auto,
        expect!["hwmon power_meter: Power Ok([90000000])"],
    );
    found(
        &[
            ("class/hwmon/hwmon1/name", "ina238"),
            ("class/hwmon/hwmon1/power1_input", "90000000"),
            ("class/hwmon/hwmon2/name", "ina238"),
            ("class/hwmon/hwmon2/power1_input", "80000000"),
        ],
        auto,
        expect![
            "there are 2 monitors `ina238`: name the power file of the one that feeds the machine in energy.meter"
        ],
    );
}

#[test]
fn a_battery_counts_while_it_feeds_the_machine() {
    let battery = |status| {
        [
            ("class/power_supply/BAT0/type", "Battery"),
            ("class/power_supply/BAT0/status", status),
            ("class/power_supply/BAT0/voltage_now", "12000000"),
            ("class/power_supply/BAT0/current_now", "1500000"),
        ]
    };
    found(
        &battery("Discharging"),
        auto,
        expect!["battery BAT0: Power Ok([18000000])"],
    );
    found(
        &battery("Charging"),
        auto,
        expect!["battery BAT0: Power Err(WouldBlock)"],
    );
}

#[test]
fn a_path_that_is_no_sensor_is_named() {
    found(
        &[],
        |_| MeterChoice::At("/nowhere/power1_input".into()),
        expect![
            "energy.meter names /nowhere/power1_input, which is no sensor: a folder with `energy_uj`, a file `power…`, an `in…_input` beside its `curr…_input`, or a battery's folder"
        ],
    );
    found(&PACKAGE, |_| MeterChoice::None, expect![""]);
}

/// A counter of our own, and the ring of an engine of our own.
struct Rig {
    folder: TempDir,
    energy: Energy,
    work: work::WorkOut,
    started: Instant,
    next: u64,
}

impl Rig {
    fn start() -> Self {
        let folder = tree(&PACKAGE);
        let config = EnergyConfig {
            sysfs: folder.path().to_owned(),
            interval_ms: 10,
            ..EnergyConfig::default()
        };
        let started = Instant::now();
        let (out, work) = work::ring(4, started);
        let sensor = Sensor::find(&config).unwrap();
        let energy = Energy::start(sensor, work).unwrap();
        let mut rig = Self {
            folder,
            energy,
            work: out,
            started,
            next: 1,
        };
        // Until something was measured.
        let deadline = started + Duration::from_secs(20);
        for uj in 2000.. {
            rig.count(&uj.to_string());
            rig.work.handle_idle(started.elapsed());
            if rig.energy.status().joules > 0.0 {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", rig.energy.status());
            thread::park_timeout(Duration::from_millis(1));
        }
        rig
    }

    fn count(&self, uj: &str) {
        put(self.folder.path(), &[(PACKAGE[1].0, uj)]);
    }

    fn until(&self, what: impl Fn(&EnergyStatus) -> bool) -> EnergyStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.energy.status();
            if what(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// A request that runs from now on for some milliseconds.
    fn run(&mut self) -> Owed {
        let id = RequestId(self.next);
        self.next += 1;
        let from = self.started.elapsed();
        thread::park_timeout(Duration::from_millis(20));
        let carried = [Carried { id, columns: 3 }];
        self.work
            .handle_step(from, self.started.elapsed(), &carried);
        self.work.handle_idle(self.started.elapsed());
        self.energy.owed(id, 7)
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(future)
}

#[test]
fn a_request_is_told_what_it_took_after_the_next_reading() {
    let mut rig = Rig::start();
    let owed = rig.run();
    rig.count("2001234");
    let mj = block_on(owed.settle(Haste::Now)).expect("a reading came");
    assert!((1..=2000).contains(&mj), "{mj} mJ of 2 J");
    let status = rig.until(|status| status.joules > 1.0);
    assert_eq!((status.requests, status.output_tokens), (1, 7));
    let sum = status.joules_requests + status.joules_idle;
    assert!((sum - status.joules).abs() < 1e-9, "{status:?}");
    assert_eq!(status.meter, "rapl package-0");
}

#[test]
fn a_meter_that_vanishes_is_told_and_comes_back() {
    let mut rig = Rig::start();
    std::fs::remove_dir_all(rig.folder.path().join("class")).unwrap();
    let owed = rig.run();
    assert_eq!(
        block_on(owed.settle(Haste::NextReading)),
        None,
        "never a guess"
    );
    rig.until(|status| !status.reads && status.watts.is_none());
    let owed = rig.run();
    assert_eq!(
        block_on(owed.settle(Haste::NextReading)),
        None,
        "and nobody waits"
    );
    put(rig.folder.path(), &PACKAGE);
    let uj = std::cell::Cell::new(1_000_000);
    let status = rig.until(|status| {
        uj.set(uj.get() + 10_000);
        rig.count(&uj.get().to_string());
        status.reads
    });
    assert_eq!(status.requests, 0, "{status:?}");
}
