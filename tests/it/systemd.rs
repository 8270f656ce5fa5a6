//! The service under systemd, with a service manager of the test's own: it hears what systemd would hear, opens the
//! sockets as systemd would, and starts the program again when the watchdog is not fed.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;

use crate::server::{get, post};

/// What systemd does for a service of `Type=notify` with a socket unit.
struct Manager {
    folder: tempfile::TempDir,
    heard: UnixDatagram,
    udp: UdpSocket,
    tcp: TcpListener,
    service: Option<Child>,
}

const WATCHDOG: Duration = Duration::from_secs(2);
/// A wait of no time at all is none for sockets.
const JUST: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let heard = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        // They become 3 and 4, in this order.
        assert!(udp.as_raw_fd() < tcp.as_raw_fd());
        fcntl_setfd(&udp, FdFlags::empty()).unwrap();
        fcntl_setfd(&tcp, FdFlags::empty()).unwrap();
        Self {
            folder,
            heard,
            udp,
            tcp,
            service: None,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `systemctl start`.
    fn start(&mut self) {
        // The sockets are 3 and 4, and LISTEN_PID is the service's own: a shell becomes it.
        // Debian's sh takes no descriptor above 9, and other tests of this process may have the lower ones.
        let line = format!(
            "LISTEN_PID=$$ exec \"$0\" serve 3<&{} 4<&{}",
            self.udp.as_raw_fd(),
            self.tcp.as_raw_fd()
        );
        let service = Command::new("bash")
            .args(["-c", &line, env!("CARGO_BIN_EXE_outstation")])
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "outstation-quic:outstation-http")
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("STATE_DIRECTORY", self.state())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.service = Some(service);
    }

    /// The next message that has this in it.
    fn hears(&self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.next(deadline.saturating_duration_since(Instant::now()) + JUST);
            let said = said.unwrap_or_else(|| panic!("{what} was not heard in {PATIENCE:?}"));
            if said.contains(what) {
                return said;
            }
        }
    }

    fn next(&self, within: Duration) -> Option<String> {
        self.heard.set_read_timeout(Some(within)).unwrap();
        let mut message = [0; 1024];
        let length = self.heard.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// Waits until the watchdog was not fed for its whole period, then does what systemd does: SIGABRT, and start.
    fn restarts_what_hangs(&mut self, stalled: Stalled) -> Duration {
        let began = Instant::now();
        let mut fed = Instant::now();
        while fed.elapsed() < WATCHDOG {
            assert!(began.elapsed() < PATIENCE, "it is fed though it hangs");
            if let Some(said) = self.next(WATCHDOG.saturating_sub(fed.elapsed()) + JUST)
                && said.contains("WATCHDOG=1")
            {
                fed = Instant::now();
            }
        }
        let took = began.elapsed();
        self.signal("-ABRT");
        // A thread that is traced is not gone before its tracer is.
        drop(stalled);
        self.service.take().unwrap().wait().unwrap();
        self.start();
        took
    }

    fn signal(&self, signal: &str) {
        let pid = self.service.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn http(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    fn quic(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    fn ask(&self) -> Option<i32> {
        let mut ask = Command::new(env!("CARGO_BIN_EXE_outstation"));
        ask.args([
            "ask",
            "--url",
            &format!("quic://{}", self.quic()),
            "--tokens",
            "2",
            "hi",
        ]);
        let output = ask.env("XDG_RUNTIME_DIR", self.folder.path()).output();
        output.unwrap().status.code()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

#[test]
fn systemd_is_told_the_truth_and_its_sockets_are_used() {
    let mut systemd = Manager::new();
    systemd.start();
    assert!(systemd.hears("READY=1").contains("STATUS=serves demo"));
    // It serves on the sockets that it got, with the port of each.
    assert_eq!(systemd.ask(), Some(0));
    let (code, _) = post(
        systemd.http(),
        "/v1/completions",
        &json!({"prompt": "hi", "max_tokens": 2}),
    );
    assert_eq!(code, 200);
    systemd.hears("WATCHDOG=1");
    let status = systemd.hears("STATUS=serves demo: ");
    assert!(status.contains("0 running, 0 waiting"), "{status}");
    systemd.signal("-HUP");
    systemd.hears("RELOADING=1");
    systemd.hears("READY=1");
    assert_eq!(systemd.ask(), Some(0));
    systemd.signal("-TERM");
    systemd.hears("STOPPING=1");
    let ended = systemd.service.take().unwrap().wait().unwrap();
    assert!(ended.success(), "{ended}");
}

/// Stops the engine thread alone, as if a step never ended, for as long as the helper runs.
struct Stalled(Child);

impl Stalled {
    /// `None`, aloud, where one process may not trace another.
    fn engine_of(pid: u32) -> Option<Self> {
        let tasks = format!("/proc/{pid}/task");
        let is_engine = |task: &Path| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.trim() == "engine"
        };
        let mut tasks = std::fs::read_dir(tasks)
            .unwrap()
            .map(|task| task.unwrap().path());
        let engine = tasks
            .find(|task| is_engine(task))
            .expect("there is an engine thread");
        let engine = engine.file_name().unwrap().to_str().unwrap().to_owned();
        // PTRACE_SEIZE, then PTRACE_INTERRUPT.
        let script = "import ctypes, sys, time\n\
                      libc = ctypes.CDLL(None, use_errno=True)\n\
                      libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n\
                      ok = all(libc.ptrace(what, int(sys.argv[1]), None, None) == 0 for what in (0x4206, 0x4207))\n\
                      print('stalled' if ok else 'refused', flush=True)\n\
                      sys.stdin.read()";
        let mut helper = Command::new("python3")
            .args(["-c", script, &engine])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(helper.stdout.take().unwrap());
        lines.read_line(&mut said).unwrap();
        let stalled = Self(helper);
        if said.trim() == "stalled" {
            return Some(stalled);
        }
        println!("SKIP: this machine does not let one process trace another");
        None
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_engine_that_hangs_is_started_again_while_its_sockets_stay_open() {
    let mut systemd = Manager::new();
    systemd.start();
    systemd.hears("READY=1");
    let Some(stalled) = Stalled::engine_of(systemd.service.as_ref().unwrap().id()) else {
        return;
    };
    // The rest of the program goes on, and says that it is up: only the watchdog knows better.
    assert_eq!(get(systemd.http(), "/health").0, 200);
    let took = systemd.restarts_what_hangs(stalled);
    println!("found out after {took:.1?} with a period of {WATCHDOG:?}");
    // Whoever asks while nobody serves waits in the socket, and is answered.
    let (code, _) = post(
        systemd.http(),
        "/v1/completions",
        &json!({"prompt": "hi", "max_tokens": 2}),
    );
    assert_eq!(code, 200);
    systemd.hears("READY=1");
    assert_eq!(systemd.ask(), Some(0));
}

#[test]
fn twenty_kills_in_a_row_cost_nobody_an_answer_who_asks_again() {
    let mut systemd = Manager::new();
    for _ in 0..20 {
        systemd.start();
        systemd.hears("READY=1");
        assert_eq!(systemd.ask(), Some(0));
        systemd.signal("-KILL");
        systemd.service.take().unwrap().wait().unwrap();
    }
}
