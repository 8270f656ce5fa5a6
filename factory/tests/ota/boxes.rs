//! A box that follows a ring, by both real programs: good releases come in and bad ones are taken back, while somebody
//! asks all the time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use outstation::generate::{self, Mix, ModelSpec, Shape};
use outstation_wire::gguf::Gguf;
use serde_json::Value;

/// A factory with a key for each role.
struct Factory {
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
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, line: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outstation-factory"));
        said(
            command
                .args(line.split_whitespace())
                .current_dir(self.folder.path()),
        )
    }

    /// Releases a model with what it says of prompts, or with what another says of them.
    fn publish(&self, model: &[u8], golden_of: Option<&[u8]>) {
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
        self.run(
            "publish model.gguf --name site --golden golden.json --key models.pem --key snapshot.pem \
             --key timestamp.pem",
        );
    }

    fn rollout(&self, release: u64, more: &str) {
        self.run(&format!(
            "rollout --ring all --manifest site@{release} --deadline 60s {more} \
             --key rollout.pem --key snapshot.pem --key timestamp.pem"
        ));
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The box's program, which cargo puts beside the factory's.
fn outstation() -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_outstation-factory")).with_file_name("outstation");
    assert!(
        beside.exists(),
        "{} is missing: `cargo test --workspace` builds it, or `cargo build -p outstation` does",
        beside.display()
    );
    Command::new(beside)
}

/// A running box; killed when dropped.
struct Box {
    child: Child,
    http: SocketAddr,
}

impl Box {
    fn start(factory: &Factory, state: &Path, more: &str) -> Self {
        let config = state.join("box.toml");
        let toml = format!(
            "[state]\nfolder = '{state}'\n[memory]\nlimit = '700MiB'\n[models]\nring = 'all'\nsource = '{source}'\n\
             root = '{root}'\ninterval_s = 1\nreserve = '1MiB'\n\
             [serving.interactive]\nttft_ms = 60000\nitl_ms = 2000\n{more}",
            state = state.display(),
            source = factory.path("factory-store/ota").display(),
            root = factory
                .path("factory-store/ota/metadata/1.root.json")
                .display(),
        );
        std::fs::write(&config, toml).unwrap();
        let mut child = outstation()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--sequences",
                "4",
            ])
            .arg("--config")
            .arg(&config)
            .env("XDG_RUNTIME_DIR", state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map(Result::unwrap).find_map(|line| {
            let (_, rest) = line.split_once("HTTP http://")?;
            rest.split_once(' ')?.0.parse().ok()
        });
        Self {
            child,
            http: address.expect("it said where it listens"),
        }
    }

    fn models(&self) -> Value {
        let (status, body) = ask(self.http, "GET", "/models", "").unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the models are as they should be, and says how long that took.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Duration {
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

    fn until_committed(&self, release: &str) -> Duration {
        self.until(release, |models| {
            models["committed"] == release && models["candidate"].is_null()
        })
    }

    /// Waits until a release was taken back, and says why it was.
    fn until_rejected(&self, release: &str) -> (Duration, String) {
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

    fn kill(mut self) {
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

const PATIENCE: Duration = Duration::from_mins(2);

/// One request over a connection of its own. `None`: the connection broke.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
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
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    people: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    fn of(people: usize, address: SocketAddr) -> Self {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let people = (0..people)
            .map(|person| {
                let (stop, served) = (stop.clone(), served.clone());
                std::thread::spawn(move || {
                    let mut failed = Vec::new();
                    let body = format!(
                        r#"{{"prompt":"person {person} says","max_tokens":12,"ignore_eos":true}}"#
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
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for person in self.people {
            assert_eq!(person.join().unwrap(), Vec::<String>::new());
        }
        self.served.load(Ordering::Relaxed)
    }
}

/// Stops the next self-test that a box starts, as if it hung. Not before it runs its own program: who starts a process
/// waits for that.
fn freeze_the_next_self_test(parent: u32) -> JoinHandle<()> {
    let is_self_test = move |process: &str| {
        let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        if command.split(|&byte| byte == 0).nth(1) != Some(b"try".as_slice()) {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_name = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    };
    std::thread::spawn(move || {
        let started = Instant::now();
        loop {
            let processes = std::fs::read_dir("/proc").unwrap();
            let names =
                processes.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            let mut numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
            if let Some(child) = numbers.find(|name| is_self_test(name)) {
                said(Command::new("kill").args(["-STOP", &child]));
                return;
            }
            assert!(started.elapsed() < PATIENCE, "no child was started");
            park_timeout(Duration::from_millis(1));
        }
    })
}

/// A demo model that computes no numbers: the scale of a quant block is none.
fn not_a_number(seed: u64) -> Vec<u8> {
    let mut model = generate::demo(seed);
    let gguf = Gguf::parse(&model).unwrap();
    let weights = gguf.tensor("blk.0.ffn_down.weight").unwrap();
    let offset = usize::try_from(weights.file_offset()).unwrap();
    let nan = 0x7E00_u16;
    model[offset..offset + 2].copy_from_slice(&nan.to_le_bytes());
    model
}

/// A model as wide as the demo's and so many layers deep, or wider.
fn model(hidden: u32, layers: u32) -> Vec<u8> {
    let shape = Shape {
        name: "deep",
        hidden,
        layers,
        heads: hidden / 64,
        kv_heads: 2,
        head_dim: 64,
        ffn: hidden * 2,
        vocab: 1280,
        tied: true,
        ..Shape::ALL[6].clone()
    };
    generate::bytes(&ModelSpec {
        context: 4096,
        ..ModelSpec::new(shape, Mix::Q8_0, 9)
    })
}

#[test]
fn a_release_comes_in_while_people_ask_and_survives_kills() {
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    // Another model with random weights is another distribution, and the machine may be busy: those gates are for the
    // other test.
    let usual = "--soak 1s --gate-requests-min 20 --gate-entropy-psi-max 1000 --gate-itl-ratio-max 100 \
                 --gate-ttft-ratio-max 100";
    factory.rollout(1, usual);
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), "");
    let crowd = Crowd::of(4, running.http);
    let took = running.until_committed("site@1");
    let served = crowd.end();
    println!("committed after {took:.1?}, {served} served meanwhile, none failed");
    running.kill();
    // It is what serves after a start, and a second one comes in by what changed.
    let running = Box::start(&factory, state.path(), "");
    assert_eq!(running.models()["committed"], "site@1");
    factory.publish(&generate::demo(3), None);
    factory.rollout(2, usual);
    running.until_committed("site@2");
    assert_eq!(running.models()["previous"], "site@1");
    let (status, body) = ask(running.http, "POST", "/models/rollback", "").unwrap();
    assert_eq!(status, 200, "{body}");
    running.until_committed("site@1");
    assert_eq!(running.models()["rejected"][0][0], "site@2");
}

#[test]
fn bad_models_are_taken_back_by_themselves_and_nobody_notices() {
    let factory = Factory::new();
    let good = generate::demo(2);
    factory.publish(&good, None);
    factory.rollout(1, "--soak 1s");
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), "");
    running.until_committed("site@1");
    let crowd = Crowd::of(4, running.http);
    let mut release = 1;
    let mut bad =
        |what: &str, model: &[u8], golden_of: Option<&[u8]>, more: &str, expected: &str| {
            release += 1;
            factory.publish(model, golden_of);
            factory.rollout(release, more);
            let (took, why) = running.until_rejected(&format!("site@{release}"));
            println!("{what}: taken back {took:.1?} after it was rolled out: {why}");
            assert!(why.contains(expected), "{what}: {why}");
            assert_eq!(running.models()["committed"], "site@1", "{what}");
        };
    let usual = "--soak 1s --gate-requests-min 20";
    bad(
        "garbage",
        &generate::demo(7),
        Some(&good),
        usual,
        "golden text 1",
    );
    bad(
        "no numbers",
        &not_a_number(4),
        Some(&good),
        usual,
        "is no number",
    );
    bad(
        "too large",
        &model(4096, 10),
        Some(&good),
        usual,
        "memory.limit",
    );
    let frozen = freeze_the_next_self_test(running.child.id());
    let soon = "--soak 1s --gate-load-s-max 3";
    bad("hangs", &generate::demo(5), None, soon, "within 3s");
    frozen.join().unwrap();
    bad("slow", &model(256, 24), None, usual, "time ");
    let drifts =
        "--soak 1s --gate-requests-min 20 --gate-itl-ratio-max 100 --gate-ttft-ratio-max 100";
    bad("drifts", &model(256, 4), None, drifts, "entropy");
    let served = crowd.end();
    println!("{served} served meanwhile, none failed");
}
