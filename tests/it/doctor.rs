//! `outstation doctor` and `outstation status`, as the person on the mast meets them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use tempfile::TempDir;

use crate::server::{Server, outstation, run, until};

/// A box's folder: a configuration, a state, and a machine that is well.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { folder };
        let state = site.path("state");
        fs::create_dir(&state).unwrap();
        let text = format!("[state]\nfolder = '{state}'\n{configuration}");
        fs::write(site.path("box.toml"), text).unwrap();
        site.put("machine/run/systemd/timesync/synchronized", "");
        site.put(
            "machine/proc/meminfo",
            "MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n",
        );
        let zone = "machine/sys/class/thermal/thermal_zone0";
        site.put(&format!("{zone}/type"), "cpu-thermal\n");
        site.put(&format!("{zone}/temp"), "47250\n");
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn serve(&self) -> Server {
        Server::start(&["--config", &self.path("box.toml")])
    }

    fn doctor(&self, http: SocketAddr, more: &[&str]) -> Output {
        let mut command = outstation();
        command
            .args(["doctor", "--config", &self.path("box.toml")])
            .args(["--root", &self.path("machine")])
            .args(["--http", &http.to_string()])
            .args(more);
        command.output().unwrap()
    }

    /// Exit code and the line of one finding.
    fn finding(&self, http: SocketAddr, name: &str) -> (Option<i32>, String) {
        let output = self.doctor(http, &[]);
        let shown = text(&output);
        let named = |line: &&str| line.split_whitespace().nth(1) == Some(name);
        let line = shown.lines().find(named);
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{shown}"));
        (output.status.code(), line.to_owned())
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_healthy_box_has_no_fault() {
    let site = Site::new("");
    let server = site.serve();
    let output = site.doctor(server.http, &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("ok   service"), "{shown}");
    assert!(shown.contains("47.2 °C"), "{shown}");
    assert!(!shown.contains("warn") && !shown.contains("BAD"), "{shown}");

    // The same for scripts.
    let output = site.doctor(server.http, &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let lines = text(&output);
    let findings: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(findings.len(), shown.lines().count());
    for finding in &findings {
        let name = finding["name"].as_str().unwrap();
        let snake = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(snake), "{name}");
        let mark = finding["mark"].as_str().unwrap();
        assert!(["ok", "unknown"].contains(&mark), "{finding}");
        assert!(finding["mend"].is_null(), "{finding}");
    }
    let memory = findings.iter().find(|f| f["name"] == "memory").unwrap();
    let number = |name: &str| memory["numbers"][name].as_u64().unwrap();
    assert!(
        number("resident_bytes") <= number("planned_bytes"),
        "{memory}"
    );
}

#[test]
fn of_a_box_that_is_down_the_rest_is_looked_at() {
    let site = Site::new("");
    let (code, line) = site.finding(nobody(), "service");
    assert_eq!(code, Some(1), "{line}");
    assert!(
        line.starts_with("BAD") && line.contains("systemctl restart outstation"),
        "{line}"
    );
    let (_, line) = site.finding(nobody(), "memory");
    assert!(
        line.starts_with("ok") && line.contains("planned of a limit"),
        "{line}"
    );
}

#[test]
fn a_certificate_that_expired_or_will_is_found() {
    let site = Site::new("");
    let paths = ["certificate", "private_key"].map(|name| site.path(name));
    let [certificate, key] = &paths;
    let access = format!("[access]\ncertificate = '{certificate}'\nprivate_key = '{key}'\n");
    let state = site.path("state");
    let both = format!("[state]\nfolder = '{state}'\n{access}");
    fs::write(site.path("box.toml"), both).unwrap();
    let issue = |until_year: i32| {
        let mut params = CertificateParams::new(["box.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let pair = KeyPair::generate().unwrap();
        fs::write(certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        pair
    };
    let pair = issue(2021);
    fs::write(key, pair.serialize_pem()).unwrap();
    let (code, line) = site.finding(nobody(), "certificate");
    assert_eq!(code, Some(1));
    assert!(
        line.starts_with("BAD") && line.contains("expired"),
        "{line}"
    );
    // Another one, and the key of the first.
    issue(2999);
    let (_, line) = site.finding(nobody(), "certificate");
    assert!(
        line.starts_with("BAD") && line.contains("private key"),
        "{line}"
    );
    fs::write(key, issue(2999).serialize_pem()).unwrap();
    let (_, line) = site.finding(nobody(), "certificate");
    assert!(line.starts_with("ok"), "{line}");
}

/// What systemd loads for the service is nobody else's to read, which is no fault.
#[test]
fn credentials_of_the_service_are_not_missed() {
    let site = Site::new(
        "[access]\ncertificate = 'credential:box.pem'\nprivate_key = 'credential:box.key'\n",
    );
    let (_, line) = site.finding(nobody(), "certificate");
    assert!(
        line.starts_with('-') && line.contains("credential:box.pem"),
        "{line}"
    );
}

#[test]
fn a_full_spool_is_found_by_its_files() {
    let site = Site::new("[spool]\nbytes_max = '40MiB'\n");
    let segment = "state/spool/p1.00000000000000000007.seg";
    site.put(segment, "");
    let file = fs::OpenOptions::new().write(true).open(site.path(segment));
    file.unwrap().set_len(39 << 20).unwrap();
    let (code, line) = site.finding(nobody(), "spool");
    assert_eq!(code, Some(1));
    assert!(
        line.starts_with("BAD") && line.contains("39.0 MiB of 40.0 MiB (97 %)"),
        "{line}"
    );
}

#[test]
fn a_wrong_configuration_is_a_finding_and_wrong_flags_are_not() {
    let output = run(&[
        "doctor",
        "--config",
        "/nowhere.toml",
        "--http",
        "127.0.0.1:1",
    ]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let first = shown.lines().next().unwrap();
    assert!(
        first.starts_with("BAD  configuration") && first.contains("/nowhere.toml"),
        "{first}"
    );
    assert_eq!(run(&["doctor", "--jsno"]).status.code(), Some(64));
    let both = run(&["status", "--json", "--watch"]);
    assert_eq!(both.status.code(), Some(64));
}

#[test]
fn the_last_errors_of_a_box_are_in_its_status() {
    let site = Site::new("");
    let paths = ["certificate", "private_key"].map(|name| site.path(name));
    let [certificate, key] = &paths;
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["box.example".to_owned()]).unwrap();
    fs::write(certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(key, pair.serialize_pem()).unwrap();
    let access = format!(
        "[state]\nfolder = '{}'\n[access]\ncertificate = '{certificate}'\nprivate_key = '{key}'\n",
        site.path("state")
    );
    fs::write(site.path("box.toml"), access).unwrap();
    let server = site.serve();
    let before = server.status();
    assert_eq!(before["last_errors"], serde_json::json!([]));
    fs::write(certificate, "none").unwrap();
    server.signal("-HUP");
    until("it says that it could not read it", || {
        let lines = server.status()["last_errors"].clone();
        let last = lines
            .as_array()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default();
        last["level"] == "error" && last["message"].as_str().unwrap().contains("stays")
    });
    let (code, line) = site.finding(server.http, "last_errors");
    assert_eq!(code, Some(1), "the certificate cannot be read any more");
    assert!(line.starts_with("warn") && line.contains("stays"), "{line}");
    let shown = run(&["status", "--http", &server.http.to_string()]);
    let shown = text(&shown);
    for part in ["box       ready", "model     demo", "MiB planned", "stays"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn a_watch_into_a_pipe_is_a_line_each_second_and_goes_on_when_the_box_is_gone() {
    let site = Site::new("");
    let server = site.serve();
    let mut child = outstation()
        .args(["status", "--watch", "--http", &server.http.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("demo: 0 of 8 running"), "{line}");
    }
    drop(server);
    let gone = lines.take(5).map(Result::unwrap);
    let gone: Vec<_> = gone
        .filter(|line| line.starts_with("no answer since"))
        .collect();
    assert!(gone.len() >= 2, "{gone:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Starts the watch on a terminal of its own, leaves it, and prints: the exit, whether the terminal is as before, and
/// the names of what was sent to it.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, subprocess, sys, termios, time
program, http, term, leave = sys.argv[1:]
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
before = termios.tcgetattr(slave)
child = subprocess.Popen([program, "status", "--watch", "--http", http], stdin=slave, stdout=slave, stderr=slave,
                         env={"TERM": term}, start_new_session=True)
shown, left, deadline = b"", False, time.monotonic() + 20
while time.monotonic() < deadline and child.poll() is None:
    if select.select([master], [], [], 0.05)[0]:
        shown += os.read(master, 65536)
    if not left and b"doctor" in shown and b"running" in shown:
        left = True
        if leave == "term":
            child.terminate()
        else:
            os.write(master, bytes([int(leave)]))
while select.select([master], [], [], 0.05)[0]:
    shown += os.read(master, 65536)
same = termios.tcgetattr(slave) == before
print(child.poll(), same, b"\x1b[?25h" in shown, b"\x1b[?1049h" in shown, b"\x1b[?1049l" in shown)
"#;

#[test]
fn a_watch_leaves_the_terminal_as_it_was() {
    let site = Site::new("");
    let server = site.serve();
    let program = env!("CARGO_BIN_EXE_outstation");
    let http = server.http.to_string();
    // q, Ctrl-C and SIGTERM, on the kernel's console, which has no second screen, and on another.
    for (term, leave) in [
        ("linux", "113"),
        ("linux", "3"),
        ("linux", "term"),
        ("xterm", "113"),
    ] {
        let mut python = Command::new("python3");
        let output = python.args(["-c", ON_A_TERMINAL, program, &http, term, leave]);
        let output = output.output().unwrap();
        let second = if term == "linux" { "False" } else { "True" };
        let expected = format!("0 True True {second} {second}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text(&output).trim(), expected, "{term} {leave} {error}");
    }
}
