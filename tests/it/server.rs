//! A server of this test's own, on free ports, and the little HTTP that the tests speak.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) fn outstation() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outstation"))
}

/// Runs it with arguments to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    outstation().args(arguments).output().unwrap()
}

/// Random weights, which go on as long as they are asked to: what most tests want. Nothing if they name a model.
fn random_model(arguments: &[&str], folder: &TempDir) -> Vec<String> {
    if arguments.contains(&"--model") {
        return Vec::new();
    }
    let file = folder.path().join("demo.gguf");
    std::fs::write(&file, outstation::generate::demo(1)).unwrap();
    vec!["--model".to_owned(), file.display().to_string()]
}

/// A running `outstation serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Starts with loopback ports that the system picks, and waits until it says that it serves.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// The same, with variables of its environment.
    pub(crate) fn start_with(arguments: &[&str], env: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = outstation()
            .arg("serve")
            .args(random_model(arguments, &folder))
            .args(loopback(arguments, "--listen"))
            .args(loopback(arguments, "--http"))
            .args(arguments)
            .env("XDG_RUNTIME_DIR", folder.path())
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut addresses = None;
        for line in stdout.by_ref().lines() {
            let line = line.unwrap();
            if let Some(rest) = line.trim().strip_prefix("QUIC ") {
                let (quic, rest) = rest.split_once(" · HTTP http://").unwrap();
                let (http, _) = rest.split_once(' ').unwrap();
                addresses = Some((quic.parse().unwrap(), http.parse().unwrap()));
            }
            if line.starts_with("try:") {
                break;
            }
        }
        let (quic, http) = addresses.expect("it said where it listens");
        Self {
            child,
            stdout,
            quic,
            http,
            folder,
        }
    }

    /// The certificate that it left for clients on this machine.
    pub(crate) fn certificate(&self) -> std::path::PathBuf {
        let name = format!("outstation/loopback-{}.pem", self.quic.port());
        self.folder.path().join(name)
    }

    /// `outstation ask`, set to find this server.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        outstation()
            .args(["ask", "--url", &format!("quic://{}", self.quic)])
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .output()
            .unwrap()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end, and returns exit code and the rest of what it printed.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }

    /// `GET /status`.
    pub(crate) fn status(&self) -> Value {
        let (code, body) = get(self.http, "/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until nothing runs and nothing waits, and checks that every KV block came back, and that the process is no
    /// larger than it said.
    pub(crate) fn assert_idle_and_whole(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status();
            if status["sequences"] == 0 && status["queued"] == 0 {
                assert_eq!(status["kv_blocks_free"], status["kv_blocks"], "{status}");
                let bytes = |name: &str| status[name].as_u64().unwrap();
                let (resident, planned) = ("memory_resident_bytes", "memory_planned_bytes");
                assert!(bytes(resident) <= bytes(planned), "{status}");
                assert_eq!(status["guarded_heap_uses"], 0, "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "still busy: {status}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of loopback, unless the test says another address.
fn loopback<'a>(arguments: &[&str], flag: &'a str) -> Vec<&'a str> {
    if arguments.contains(&flag) {
        return Vec::new();
    }
    vec![flag, "127.0.0.1:0"]
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A GET, as status code and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    exchange(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

/// A POST of JSON, as status code and body.
pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    exchange(address, &post_text(path, body))
}

/// The bytes of a POST.
pub(crate) fn post_text(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Sends bytes and reads the answer, as status code and body.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return (code, dechunk(body));
    }
    (code, body.to_owned())
}

fn dechunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        if length == 0 {
            break;
        }
        out.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    out
}
