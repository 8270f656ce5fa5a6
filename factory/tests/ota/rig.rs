//! A factory and a box that follows a ring, both by their real programs, and people who ask.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A factory with a key for each role.
pub(crate) struct Factory {
    folder: tempfile::TempDir,
}

const KEYS: [&str; 6] = [
    "root",
    "targets",
    "models",
    "rollout",
    "snapshot",
    "timestamp",
];

impl Factory {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let factory = Self { folder };
        for role in KEYS {
            factory.run(&format!("keys make --role {role} --out {role}.pem"));
        }
        factory.run(
            "keys root --threshold 1 --root root.pem.pub --targets targets.pem.pub --models models.pem.pub \
             --models-threshold 1 --rollout rollout.pem.pub --snapshot snapshot.pem.pub --timestamp timestamp.pem.pub \
             --key root.pem --key targets.pem",
        );
        factory.run("keys commit --key snapshot.pem --key timestamp.pem");
        factory
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self, line: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outstation-factory"));
        said(
            command
                .args(line.split_whitespace())
                .current_dir(self.folder.path()),
        )
    }

    /// Releases a model with what it says of prompts, or with what another says of them.
    pub(crate) fn publish(&self, model: &[u8], golden_of: Option<&[u8]>) {
        self.publish_for("cpu", model, golden_of);
    }

    /// The same, for machines of a class.
    pub(crate) fn publish_for(&self, hardware: &str, model: &[u8], golden_of: Option<&[u8]>) {
        std::fs::write(self.path("model.gguf"), model).unwrap();
        std::fs::write(self.path("prompts.txt"), "the antenna\nmove sector 3\n").unwrap();
        std::fs::write(self.path("golden.gguf"), golden_of.unwrap_or(model)).unwrap();
        let mut golden = outstation();
        golden.args([
            "golden",
            "--model",
            "golden.gguf",
            "--prompts",
            "prompts.txt",
        ]);
        let golden = said(golden.current_dir(self.folder.path()));
        std::fs::write(self.path("golden.json"), golden).unwrap();
        self.run(&format!(
            "publish model.gguf --name site --hardware {hardware} --golden golden.json --key models.pem \
             --key snapshot.pem --key timestamp.pem"
        ));
    }

    pub(crate) fn rollout(&self, release: u64, more: &str) {
        self.run(&format!(
            "rollout --ring all --manifest site@{release} --deadline 60s {more} \
             --key rollout.pem --key snapshot.pem --key timestamp.pem"
        ));
    }
}

pub(crate) fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The box's program, which cargo puts beside the factory's; another one, like a release build's, for figures.
pub(crate) fn outstation() -> Command {
    if let Some(program) = std::env::var_os("BOX_PROGRAM") {
        return Command::new(program);
    }
    let beside = Path::new(env!("CARGO_BIN_EXE_outstation-factory")).with_file_name("outstation");
    assert!(
        beside.exists(),
        "{} is missing: `cargo test --workspace` builds it, or `cargo build -p outstation` does",
        beside.display()
    );
    Command::new(beside)
}

/// A running box; killed when dropped.
pub(crate) struct Box {
    pub(crate) child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) quic: SocketAddr,
    state: PathBuf,
}

/// How a box is started.
pub(crate) struct Setup<'a> {
    /// `memory.limit`: at 520 MiB one demo model fits, at 2 GiB two do.
    pub(crate) limit: &'a str,
    pub(crate) sequences: usize,
    /// Where releases come from; the store's own folder, if it is empty.
    pub(crate) source: String,
    /// Lines of its configuration, beginning in `models`.
    pub(crate) more: &'a str,
    /// Variables of its environment.
    pub(crate) env: Vec<(&'a str, String)>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            limit: "520MiB",
            sequences: 4,
            source: String::new(),
            more: "",
            env: Vec::new(),
        }
    }
}

impl Box {
    pub(crate) fn start(factory: &Factory, state: &Path, setup: &Setup<'_>) -> Self {
        let config = state.join("box.toml");
        let folder = factory.path("factory-store/ota");
        let source = Some(setup.source.clone()).filter(|source| !source.is_empty());
        let toml = format!(
            "[state]\nfolder = '{state}'\n[memory]\nlimit = '{limit}'\n\
             [serving.interactive]\nttft_ms = 60000\nitl_ms = 2000\n\
             [models]\nring = 'all'\nsource = '{source}'\nroot = '{root}'\ninterval_s = 1\nreserve = '1MiB'\n{more}\n",
            state = state.display(),
            limit = setup.limit,
            source = source.unwrap_or_else(|| folder.display().to_string()),
            root = folder.join("metadata/1.root.json").display(),
            more = setup.more,
        );
        std::fs::write(&config, toml).unwrap();
        let mut child = outstation()
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--sequences", &setup.sequences.to_string()])
            .arg("--config")
            .arg(&config)
            .env("XDG_RUNTIME_DIR", state)
            .envs(setup.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses = lines.map(Result::unwrap).find_map(|line| {
            let (_, rest) = line.split_once("QUIC ")?;
            let (quic, rest) = rest.split_once(" · HTTP http://")?;
            Some((quic.parse().ok()?, rest.split_once(' ')?.0.parse().ok()?))
        });
        let (quic, http) = addresses.expect("it said where it listens");
        Self {
            child,
            http,
            quic,
            state: state.to_owned(),
        }
    }

    /// The certificate that its QUIC clients trust.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let name = format!("outstation/loopback-{}.pem", self.quic.port());
        std::fs::read(self.state.join(name)).unwrap()
    }

    pub(crate) fn models(&self) -> Value {
        let (status, body) = ask(self.http, "GET", "/models", "").unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the models are as they should be, and says how long that took.
    pub(crate) fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Duration {
        let started = Instant::now();
        loop {
            let models = self.models();
            if is(&models) {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < PATIENCE,
                "not {what} after {PATIENCE:?}: {models}"
            );
            park_timeout(Duration::from_millis(50));
        }
    }

    pub(crate) fn until_committed(&self, release: &str) -> Duration {
        self.until(release, |models| {
            models["committed"] == release && models["candidate"].is_null()
        })
    }

    /// Waits until a release was taken back, and says why it was.
    pub(crate) fn until_rejected(&self, release: &str) -> (Duration, String) {
        let why = |models: &Value| {
            let all = models["rejected"].as_array()?.clone();
            let last = all.into_iter().find(|rejected| rejected[0] == release)?;
            Some(last[1].as_str()?.to_owned())
        };
        let took = self.until(&format!("{release} rejected"), |models| {
            models["candidate"].is_null() && why(models).is_some()
        });
        (took, why(&self.models()).unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// One request over a connection of its own. `None`: the connection broke.
pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// People who ask all the time, and count what did not work.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    people: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    pub(crate) fn of(people: usize, address: SocketAddr) -> Self {
        Self::asking(people, address, None)
    }

    /// People who ask for a model by its name.
    pub(crate) fn asking(people: usize, address: SocketAddr, model: Option<&str>) -> Self {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let people = (0..people)
            .map(|person| {
                let (stop, served) = (stop.clone(), served.clone());
                let model = model.unwrap_or("default").to_owned();
                std::thread::spawn(move || {
                    let mut failed = Vec::new();
                    let body = format!(
                        r#"{{"model":"{model}","prompt":"person {person} says","max_tokens":12,"ignore_eos":true}}"#
                    );
                    while !stop.load(Ordering::Relaxed) {
                        match ask(address, "POST", "/v1/completions", &body) {
                            Some((200, _)) => drop(served.fetch_add(1, Ordering::Relaxed)),
                            other => failed.push(format!("{other:?}")),
                        }
                    }
                    failed
                })
            })
            .collect();
        Self {
            stop,
            served,
            people,
        }
    }

    /// How many were served, once nobody asks any more. Nobody was turned away.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for person in self.people {
            assert_eq!(person.join().unwrap(), Vec::<String>::new());
        }
        self.served.load(Ordering::Relaxed)
    }
}
