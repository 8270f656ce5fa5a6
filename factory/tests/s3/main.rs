//! Two replicas, each a process, on a real S3 server behind a proxy that breaks things: each row is committed once.
//!
//! The server is moto, from PyPI, which honours `If-None-Match: *`. Run with
//! `cargo test -p outstation-factory --features aws --test s3`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, read files and start programs"
)]

#[path = "../support/mod.rs"]
mod support;

mod proxy;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use outstation_factory::clean::{CleanOptions, clean};
use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactOptions, Compactor};
use outstation_factory::store::{Store, hex};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;
use proxy::{Proxy, Tally};
use support::boxes::{Spool, gap, inference};
use support::oracle::{committed, keys};
use support::random::Random;

/// In 2096: after all that the boxes and the clock say.
const NOW_MS: u64 = 4_000_000_000_000;
const STORE: &str = "s3://bucket/a/factory";
const BOXES: u8 = 4;
const SEGMENTS: u64 = 8;
const RECORDS: usize = 5;

/// A virtual environment with the server, made once under the target folder. `None` is said aloud, and not allowed in
/// CI.
fn python() -> Option<PathBuf> {
    let folder = FilePath::new(env!("CARGO_TARGET_TMPDIR")).join("factory-s3");
    let python = folder.join("bin/python");
    let works = || {
        let check = ["-c", "import moto.server, boto3"];
        let check = Command::new(&python).args(check).output();
        check.is_ok_and(|output| output.status.success())
    };
    if works() {
        return Some(python);
    }
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .output();
    let installed = made.is_ok_and(|output| output.status.success())
        && Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "moto[server]"])
            .output()
            .is_ok_and(|output| output.status.success());
    if installed && works() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "CI can install moto");
    println!("SKIP: no python3 with venv, or no package registry: no S3 server is tested");
    None
}

/// The server, ended with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(python: &FilePath) -> Self {
        let mut child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let (_, address) = line.split_once("Running on http://")?;
            Some(address.split_whitespace().next().unwrap().to_owned())
        });
        // It logs every request, and stops when nobody reads.
        let rest = std::thread::Builder::new().name("moto's log".to_owned());
        rest.spawn(move || lines.for_each(drop)).unwrap();
        let address = address.expect("moto says where it listens");
        let bucket = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', \
            aws_access_key_id='test', aws_secret_access_key='test').create_bucket(Bucket='bucket')";
        let made = Command::new(python)
            .args(["-c", bucket, &format!("http://{address}")])
            .status();
        assert!(made.unwrap().success());
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Segments in a folder: what boxes send to whichever replica they reach. Gives how often each stream's numbers go.
fn write_segments(folder: &FilePath, key: &FactoryKey) -> BTreeMap<String, usize> {
    let mut random = Random(21);
    let mut rows = BTreeMap::new();
    for number in 1..=BOXES {
        let mut spool = Spool::new(number, Class::P1, key);
        for n in 0..SEGMENTS {
            let mut records: Vec<_> = (1..RECORDS).map(|_| inference(&mut random, 50)).collect();
            records.push(gap(&mut random));
            // Each begins with the last record of the one before: sent twice, stored once.
            let first = 1 + n * (RECORDS as u64 - 1);
            let (path, bytes) = spool.seal_as(first, &records);
            let name = path.as_ref().replace('/', "+");
            std::fs::write(folder.join(name), bytes).unwrap();
            for seq in (first..).take(RECORDS) {
                let stream = format!("{}/{}/p1/{seq}", hex(&spool.appliance), hex(&spool.epoch));
                rows.insert(stream, 1);
            }
        }
    }
    rows
}

fn replica_process(role: &str, endpoint: &str, folder: &FilePath) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "replica", "--nocapture"])
        .env("S3_TEST_ROLE", role)
        .env("S3_TEST_FOLDER", folder)
        .env("AWS_ENDPOINT", format!("http://{endpoint}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(child: Child, role: &str) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}: {said}{errors}");
    let lines = said.lines().filter(|line| line.starts_with(role));
    lines.for_each(|line| println!("{line}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_behind_a_faulty_proxy_commit_each_row_once() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let key = FactoryKey::generate();
    let keys = [key.secret_bytes(), &key.public()].concat();
    std::fs::write(folder.path().join("key"), keys).unwrap();
    let segments = folder.path().join("segments");
    std::fs::create_dir(&segments).unwrap();
    let rows = write_segments(&segments, &key);
    let expected = serde_json::to_vec(&rows).unwrap();
    std::fs::write(folder.path().join("rows"), expected).unwrap();

    let server = Server::start(&python);
    let proxy = Proxy::start(server.address.clone(), 5).await;
    let roles = ["one", "two"];
    let children = roles.map(|role| {
        let command = replica_process(role, &proxy.address, folder.path()).spawn();
        (role, command.unwrap())
    });
    for (role, child) in children {
        tokio::task::spawn_blocking(move || finish(child, role))
            .await
            .unwrap();
    }
    let tally = proxy.tally();
    println!("{tally:?}");
    let Tally {
        requests,
        conflict,
        precondition,
        unavailable,
        lost,
    } = tally;
    assert!(requests > 100, "{tally:?}");
    assert!(
        [conflict, precondition, unavailable, lost]
            .iter()
            .all(|&n| n > 0),
        "{tally:?}"
    );
    let check = replica_process("check", &server.address, folder.path())
        .spawn()
        .unwrap();
    tokio::task::spawn_blocking(|| finish(check, "check"))
        .await
        .unwrap();
}

/// Not a test by itself: what the processes of the test above run.
#[test]
fn replica() {
    let Ok(role) = std::env::var("S3_TEST_ROLE") else {
        return;
    };
    let folder = PathBuf::from(std::env::var("S3_TEST_FOLDER").unwrap());
    let key = std::fs::read(folder.join("key")).unwrap();
    let (secret, public) = key.split_at(32);
    let key = FactoryKey::from_bytes(secret.try_into().unwrap(), public.try_into().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let store = Store::open(STORE).unwrap();
    let log = Log::new(store.clone(), Log::any_writer());
    let options = CompactOptions {
        batch_bytes_max: 8 << 10,
        ..CompactOptions::default()
    };
    let compactor = Compactor::new(log.clone(), Arc::new([key]), options);
    runtime.unwrap().block_on(async {
        if role == "check" {
            check(&store, &log, &compactor, &folder).await;
        } else {
            ingest_and_compact(&role, &store, &compactor, &folder.join("segments")).await;
        }
    });
}

/// Both replicas get all segments, in different orders, as if no acknowledgement of the other ever arrived.
async fn ingest_and_compact(role: &str, store: &Store, compactor: &Compactor, folder: &FilePath) {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    if role == "two" {
        files.reverse();
    }
    let mut runs = (0, 0);
    for (n, file) in files.iter().enumerate() {
        let name = file
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('+', "/");
        let bytes = std::fs::read(file).unwrap();
        store
            .put_once(&Path::parse(name).unwrap(), bytes.into())
            .await
            .unwrap();
        if n % 4 == 3 || n + 1 == files.len() {
            let done = compactor.run(NOW_MS).await.unwrap();
            runs = (runs.0 + done.commits, runs.1 + done.rows);
        }
    }
    println!("{role}: {} commits with {} rows", runs.0, runs.1);
}

async fn check(store: &Store, log: &Log, compactor: &Compactor, folder: &FilePath) {
    let done = compactor.run(NOW_MS).await.unwrap();
    assert_eq!(done.commits, 0, "the replicas left nothing: {done:?}");
    let expected: BTreeMap<String, usize> =
        serde_json::from_slice(&std::fs::read(folder.join("rows")).unwrap()).unwrap();
    let (state, rows) = committed(store).await;
    assert!(
        rows.keys().eq(expected.keys()),
        "{} rows of {}",
        rows.len(),
        expected.len()
    );
    let orphans = keys(store, "parquet").await.len() - state.files().len();
    let options = CleanOptions {
        segment_grace: Duration::ZERO,
        orphan_age: Duration::ZERO,
    };
    clean(log, options, NOW_MS).await.unwrap();
    let (state, rows) = committed(store).await;
    assert!(rows.keys().eq(expected.keys()));
    assert_eq!(keys(store, "parquet").await.len(), state.files().len());
    assert!(keys(store, "seg").await.is_empty());
    println!(
        "check: {} rows in {} files of {} commits; {orphans} files of lost races swept",
        rows.len(),
        state.files().len(),
        state.number()
    );
}
