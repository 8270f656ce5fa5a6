//! What can go wrong around a box, one test each, with the real programs: other machines' releases, wrong clocks, a
//! stop in the middle of a trial, a line that breaks again and again.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outstation::generate::{self, Mix, ModelSpec, Shape};

use crate::rig::{Box, Factory, Setup, ask};

const SOON: &str = "--soak 1s";

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_release_for_other_machines_is_refused_before_anything_is_fetched() {
    let factory = Factory::new();
    factory.publish_for("cuda-sm87", &generate::demo(2), None);
    factory.rollout(1, SOON);
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), &Setup::default());
    running.until("refused", |models| {
        let trouble = models["trouble"].as_str().unwrap_or_default();
        trouble.contains("for machines of class cuda-sm87, this is cpu")
    });
    let files = files(&state.path().join("models"));
    assert!(
        !files.iter().any(|name| name.contains(".part")),
        "{files:?}"
    );
    // The next release is for it.
    factory.publish(&generate::demo(3), None);
    factory.rollout(2, SOON);
    running.until_committed("site@2");
}

/// `None`, aloud, where Debian's faketime is missing.
fn at(time: &str) -> Option<Vec<(&'static str, String)>> {
    let libraries = ["x86_64", "aarch64"].map(|machine| {
        PathBuf::from(format!(
            "/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"
        ))
    });
    let Some(library) = libraries.into_iter().find(|library| library.exists()) else {
        println!("SKIP: no libfaketime here (Debian's package faketime)");
        return None;
    };
    Some(vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", time.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

#[test]
fn a_clock_that_begins_in_1970_keeps_nothing_out() {
    let Some(env) = at("@1970-01-01 00:00:10") else {
        return;
    };
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    // Its hour counts from the factory's clock, and the floor of the box is before that.
    factory.rollout(1, &format!("{SOON} --waves 100%"));
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(
        &factory,
        state.path(),
        &Setup {
            env,
            ..Setup::default()
        },
    );
    running.until_committed("site@1");
}

#[test]
fn a_clock_ten_years_ahead_keeps_everything_out_and_does_no_lasting_harm() {
    let Some(env) = at("+10y") else { return };
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    factory.rollout(1, SOON);
    let state = tempfile::tempdir().unwrap();
    let ahead = Setup {
        env,
        ..Setup::default()
    };
    let running = Box::start(&factory, state.path(), &ahead);
    running.until("expired", |models| {
        models["trouble"]
            .as_str()
            .unwrap_or_default()
            .contains("expired")
    });
    assert!(running.models()["candidate"].is_null());
    running.kill();
    let running = Box::start(&factory, state.path(), &Setup::default());
    running.until_committed("site@1");
}

/// A stop is heard in the middle of a trial: the model before serves again, and nothing is held against the release,
/// which may come with the next rollout.
#[test]
fn a_stop_ends_a_trial_under_way() {
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    factory.rollout(1, SOON);
    let state = tempfile::tempdir().unwrap();
    // The second start has room for one only.
    for (limit, release) in [("2GiB", 2), ("520MiB", 3)] {
        let setup = Setup {
            limit,
            ..Setup::default()
        };
        let running = Box::start(&factory, state.path(), &setup);
        let committed = format!("site@{}", release - 1);
        running.until_committed(&committed);
        factory.publish(&generate::demo(10 + release), None);
        factory.rollout(release, "--soak 60s --canary 50");
        running.until("on trial", |models| {
            let phase = models["candidate"]["phase"].as_str().unwrap_or_default();
            ["canary", "soak"].contains(&phase)
        });
        factory.run(
            "rollout --stop --ring all --key rollout.pem --key snapshot.pem --key timestamp.pem",
        );
        running.until_committed(&committed);
        assert_eq!(running.models()["rejected"], serde_json::json!([]));
        factory.rollout(release, SOON);
        running.until_committed(&format!("site@{release}"));
        running.kill();
    }
}

/// A box that lost its line goes on with what is whole: here it waits for its hour, and its source is gone then.
#[test]
fn what_is_whole_is_tried_without_its_source() {
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    // An hour that is not now.
    let hour = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 3600
        % 24;
    let (from, to) = ((hour + 10) % 24, (hour + 12) % 24);
    factory.rollout(1, &format!("{SOON} --window {from:02}:00-{to:02}:00"));
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), &Setup::default());
    running.until("whole", |models| models["candidate"]["phase"] == "verified");
    running.kill();
    let setup = Setup {
        source: factory.path("nothing-here").display().to_string(),
        ..Setup::default()
    };
    let running = Box::start(&factory, state.path(), &setup);
    running.until("out of its line", |models| {
        models["candidate"]["phase"] == "verified" && !models["trouble"].is_null()
    });
    let (status, body) = ask(running.http, "POST", "/models/trial", "").unwrap();
    assert_eq!(status, 200, "{body}");
    running.until_committed("site@1");
}

#[test]
fn an_order_interrupts_a_download() {
    let factory = Factory::new();
    factory.publish(&long(), None);
    factory.rollout(1, SOON);
    let state = tempfile::tempdir().unwrap();
    let setup = Setup {
        limit: "2GiB",
        more: "bytes_per_s_max = '1MiB'",
        ..Setup::default()
    };
    let running = Box::start(&factory, state.path(), &setup);
    running.until("under way", |models| {
        models["candidate"]["bytes_there"].as_u64() > Some(0)
    });
    let (status, body) = ask(running.http, "POST", "/models/pin", "").unwrap();
    assert_eq!(status, 200, "{body}");
    let models = running.models();
    assert_eq!(models["pinned"], true, "{models}");
    let there = models["candidate"]["bytes_there"].as_u64().unwrap();
    let (status, body) = ask(running.http, "POST", "/models/unpin", "").unwrap();
    assert_eq!(status, 200, "{body}");
    running.until("further", |models| {
        models["candidate"]["bytes_there"].as_u64() > Some(there)
    });
}

/// A model whose file takes a while.
fn long() -> Vec<u8> {
    generate::bytes(&ModelSpec {
        context: 4096,
        ..ModelSpec::new(
            Shape {
                name: "long",
                layers: 32,
                ..Shape::ALL[6].clone()
            },
            Mix::Q8_0,
            9,
        )
    })
}

/// A web server for static files, with ranges, that counts what it gives out of packs.
fn web(folder: PathBuf) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (folder, counted) = (folder.clone(), counted.clone());
            std::thread::spawn(move || {
                // A client that leaves is what the test is about.
                let _ = answer(&connection.unwrap(), &folder, &counted);
            });
        }
    });
    (format!("http://{address}"), sent)
}

fn answer(connection: &TcpStream, folder: &Path, sent: &AtomicU64) -> std::io::Result<()> {
    let mut out = connection;
    let mut lines = BufReader::new(connection).lines();
    while let Some(request) = lines.next().transpose()? {
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut range = None;
        for line in lines.by_ref() {
            let line = line?.to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                let (from, to) = bytes.split_once('-').unwrap();
                range = Some((from.parse::<u64>().unwrap(), to.parse::<u64>().unwrap()));
            }
            if line.is_empty() {
                break;
            }
        }
        let Ok(mut file) = std::fs::File::open(folder.join(path.trim_start_matches('/'))) else {
            write!(out, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
            continue;
        };
        let length = file.metadata()?.len();
        let (status, from, to) = match range {
            Some((from, to)) => ("206 Partial Content", from, to.min(length - 1)),
            None => ("200 OK", 0, length - 1),
        };
        write!(
            out,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{to}/{length}\r\n\r\n",
            to + 1 - from
        )?;
        file.seek(SeekFrom::Start(from))?;
        let mut left = to + 1 - from;
        let mut buffer = vec![0; 16 << 10];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap());
            file.read_exact(&mut buffer[..wanted])?;
            out.write_all(&buffer[..wanted])?;
            left -= wanted as u64;
            if path.contains("packs/") {
                sent.fetch_add(wanted as u64, Ordering::Relaxed);
                // 4 MB a second: a line that is slow enough to be cut in the middle.
                std::thread::park_timeout(Duration::from_millis(4));
            }
        }
    }
    Ok(())
}

/// What twenty cuts of the program in one download cost: bytes that the server gave out beyond those of the file.
#[test]
fn a_download_goes_on_after_twenty_cuts() {
    const CUTS: u64 = 20;
    let factory = Factory::new();
    let model = long();
    factory.publish(&model, None);
    factory.rollout(1, SOON);
    let (source, sent) = web(factory.path("factory-store/ota"));
    let state = tempfile::tempdir().unwrap();
    let setup = Setup {
        limit: "2GiB",
        source,
        ..Setup::default()
    };
    for cut in 0..CUTS {
        let running = Box::start(&factory, state.path(), &setup);
        let wanted = (model.len() as u64) * (cut + 1) / (CUTS + 1);
        running.until("some of it is there", |models| {
            models["candidate"]["bytes_there"].as_u64() >= Some(wanted)
        });
        running.kill();
    }
    let running = Box::start(&factory, state.path(), &setup);
    running.until_committed("site@1");
    let packs = std::fs::read_dir(factory.path("factory-store/ota/packs")).unwrap();
    let packs: u64 = packs
        .map(|pack| pack.unwrap().metadata().unwrap().len())
        .sum();
    let sent = sent.load(Ordering::Relaxed);
    println!(
        "{CUTS} cuts in a download of {packs} bytes: {sent} were sent, {:.1} % more",
        (sent as f64 / packs as f64 - 1.0) * 100.0
    );
}
