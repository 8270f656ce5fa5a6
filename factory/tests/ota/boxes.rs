//! A box that follows a ring, by both real programs: good releases come in and bad ones are taken back, while somebody
//! asks all the time.

use std::process::Command;
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use outstation::generate::{self, Mix, ModelSpec, Shape};
use outstation_wire::gguf::Gguf;

use crate::rig::{Box, Crowd, Factory, PATIENCE, Setup, ask, said};

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

/// Gates that a model with other random weights passes on a busy machine.
const LENIENT: &str = "--soak 1s --gate-requests-min 20 --gate-entropy-psi-max 1000 --gate-itl-ratio-max 100 \
                       --gate-ttft-ratio-max 100";

#[test]
fn a_release_comes_in_while_people_ask_and_survives_kills() {
    let factory = Factory::new();
    factory.publish(&generate::demo(2), None);
    factory.rollout(1, LENIENT);
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), &Setup::default());
    let crowd = Crowd::of(4, running.http);
    let took = running.until_committed("site@1");
    let served = crowd.end();
    println!("committed after {took:.1?}, {served} served meanwhile, none failed");
    running.kill();
    // It is what serves after a start, and a second one comes in by what changed: beside it, since there is room.
    let room = Setup {
        limit: "2GiB",
        ..Setup::default()
    };
    let running = Box::start(&factory, state.path(), &room);
    assert_eq!(running.models()["committed"], "site@1");
    factory.publish(&generate::demo(3), None);
    factory.rollout(2, &format!("{LENIENT} --canary 10,50"));
    let crowd = Crowd::of(4, running.http);
    running.until("10 %", |models| {
        models["candidate"]["phase"] == "canary" && models["candidate"]["percent"] == 10
    });
    let took = running.until_committed("site@2");
    let served = crowd.end();
    println!("another beside it, committed {took:.1?} later, {served} served, none failed");
    assert_eq!(running.models()["previous"], "site@1");
    let (status, body) = ask(running.http, "POST", "/models/rollback", "").unwrap();
    assert_eq!(status, 200, "{body}");
    running.until_committed("site@1");
    assert_eq!(running.models()["rejected"][0][0], "site@2");
}

/// Rolls bad models out to a box that has a good one, while people ask.
struct Tempter<'a> {
    factory: &'a Factory,
    running: &'a Box,
    release: u64,
}

impl Tempter<'_> {
    fn tempt(&mut self, what: &str, model: &[u8], golden_of: Option<&[u8]>, more: &str) -> String {
        self.release += 1;
        self.factory.publish(model, golden_of);
        self.factory.rollout(self.release, more);
        let rejected = format!("site@{}", self.release);
        let (took, why) = self.running.until_rejected(&rejected);
        println!("{what}: taken back {took:.1?} after it was rolled out: {why}");
        assert_eq!(self.running.models()["committed"], "site@1", "{what}");
        why
    }
}

/// Bad models of each kind. Returns nobody's complaint, or fails.
fn tempt_with_all(setup: &Setup<'_>, canary: &str, too_large: Option<&[u8]>) {
    let factory = Factory::new();
    let good = generate::demo(2);
    factory.publish(&good, None);
    factory.rollout(1, "--soak 1s");
    let state = tempfile::tempdir().unwrap();
    let running = Box::start(&factory, state.path(), setup);
    running.until_committed("site@1");
    let crowd = Crowd::of(4, running.http);
    let mut tempter = Tempter {
        factory: &factory,
        running: &running,
        release: 1,
    };
    let usual = format!("--soak 1s --gate-requests-min 20 {canary}");
    let why = tempter.tempt("garbage", &generate::demo(7), Some(&good), &usual);
    assert!(why.contains("golden text 1"), "{why}");
    let why = tempter.tempt("no numbers", &not_a_number(4), Some(&good), &usual);
    assert!(why.contains("is no number"), "{why}");
    if let Some(too_large) = too_large {
        let why = tempter.tempt("too large", too_large, Some(&good), &usual);
        assert!(why.contains("the limit is 520.0 MiB"), "{why}");
    }
    let frozen = freeze_the_next_self_test(running.child.id());
    let soon = format!("{usual} --gate-load-s-max 3");
    let why = tempter.tempt("hangs", &generate::demo(5), None, &soon);
    assert!(why.contains("within 3s"), "{why}");
    frozen.join().unwrap();
    // So much slower that it shows beside whatever else a machine of tests does.
    let why = tempter.tempt("slow", &model(512, 16), None, &usual);
    assert!(why.contains("time "), "{why}");
    let drifts = format!("{usual} --gate-itl-ratio-max 100 --gate-ttft-ratio-max 100");
    let why = tempter.tempt("drifts", &model(256, 4), None, &drifts);
    assert!(why.contains("entropy"), "{why}");
    println!("{} served meanwhile, none failed", crowd.end());
}

#[test]
fn bad_models_are_taken_back_by_themselves_where_one_fits() {
    tempt_with_all(&Setup::default(), "", Some(&model(2048, 8)));
}

#[test]
fn bad_models_are_taken_back_by_themselves_beside_the_good_one() {
    let room = Setup {
        limit: "2GiB",
        ..Setup::default()
    };
    tempt_with_all(&room, "--canary 50", None);
}
