//! What a box says of the energy that it takes, with sensors that are files of ours.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::privacy::{Enrolled, ask};
use crate::server::Server;

/// A package of RAPL that takes 20 W, and starts again at 0 every 100 J.
struct Package {
    folder: TempDir,
    stop: Arc<AtomicBool>,
    counting: Option<JoinHandle<()>>,
}

impl Package {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let zone = folder.path().join("class/powercap/intel-rapl:0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("name"), "package-0\n").unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), format!("{RANGE_UJ}\n")).unwrap();
        // Soon at its end.
        count(&zone, RANGE_UJ - 1_000_000);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let started = std::time::Instant::now();
        let counting = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let us = u64::try_from(started.elapsed().as_micros()).unwrap();
                count(&zone, (RANGE_UJ - 1_000_000 + 20 * us) % RANGE_UJ);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self {
            folder,
            stop,
            counting: Some(counting),
        }
    }

    fn config(&self) -> String {
        let sysfs = self.folder.path().display();
        format!("durability = \"sync\"\n[energy]\nsysfs = \"{sysfs}\"\ninterval_ms = 20\n")
    }
}

const RANGE_UJ: u64 = 100_000_000;

impl Drop for Package {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(counting) = self.counting.take() {
            counting.join().unwrap();
        }
    }
}

/// Writes a counter, whole.
fn count(zone: &Path, uj: u64) {
    let part = zone.join("part");
    std::fs::write(&part, format!("{uj}\n")).unwrap();
    std::fs::rename(part, zone.join("energy_uj")).unwrap();
}

/// `/status` once it says this of the energy.
fn energy_when(server: &Server, what: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let energy = server.status()["energy"].clone();
        if what(&energy) {
            return energy;
        }
        assert!(std::time::Instant::now() < deadline, "{energy}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn number(energy: &Value, name: &str) -> f64 {
    energy[name].as_f64().unwrap()
}

#[test]
fn a_record_tells_what_its_request_took() {
    let package = Package::start();
    let enrolled = Enrolled::new();
    let server = enrolled.serve(&package.config());
    // The counter starts again meanwhile.
    let before = energy_when(&server, |energy| number(energy, "joules") > 3.0);
    assert_eq!(before["meter"], "rapl package-0");
    assert_eq!(before["requests"], 0, "{before}");
    for _ in 0..3 {
        ask(&server);
    }
    let after = energy_when(&server, |energy| energy["requests"] == 3);
    server.assert_idle_and_whole();
    server.terminate();
    assert_eq!(server.wait().0, Some(0));

    let requests = enrolled.requests();
    assert_eq!(requests.len(), 3);
    let mut sum_mj = 0;
    for request in &requests {
        let mj = request.energy_mj.expect("there is a meter");
        // 20 W at most for as long as it was there, the length of its last stretch, and what is rounded.
        let us = request.prefill_us + request.decode_us + 100_000;
        assert!((1..=20 * us / 1000).contains(&mj), "{mj} mJ in {us} µs");
        sum_mj += mj;
    }
    let joules = number(&after, "joules");
    let (of_requests, idle) = (
        number(&after, "joules_requests"),
        number(&after, "joules_idle"),
    );
    assert!((of_requests + idle - joules).abs() < 1e-6, "{after}");
    let off = sum_mj as f64 / 1e3 - of_requests;
    assert!(
        (0.0..0.004).contains(&off),
        "rounded up by {off} J: {after}"
    );
    assert_eq!(after["output_tokens"], 36, "{after}");
    let each = number(&after, "joules_per_token");
    assert!((each - of_requests / 36.0).abs() < 1e-6, "{after}");
    assert!(
        number(&after, "joules_per_token_with_idle") > each,
        "{after}"
    );
    let watts = number(&after, "watts");
    assert!((1.0..200.0).contains(&watts), "{after}");
    assert_eq!(after["stretches_lost"], 0, "{after}");
}

#[test]
fn without_a_meter_a_record_tells_none() {
    let empty = tempfile::tempdir().unwrap();
    let enrolled = Enrolled::new();
    let log = format!("[energy]\nsysfs = \"{}\"\n", empty.path().display());
    let server = enrolled.serve(&log);
    ask(&server);
    assert_eq!(server.status()["energy"], Value::Null);
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    let requests = enrolled.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].energy_mj, None, "never 0, never a guess");
}
