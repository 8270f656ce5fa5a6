//! From chats to answers: a model is trained, served by a box, and judged; then an adapter for it is.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the test writes data and reads reports, and fails by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the program runs.
struct World(TempDir);

impl World {
    fn run(&self, line: &str) -> Output {
        let program = env!("CARGO_BIN_EXE_outstation-factory");
        let beside = Path::new(program).with_file_name("outstation");
        assert!(
            beside.exists(),
            "{} is missing: `cargo test --workspace` builds it, or `cargo build -p outstation` does",
            beside.display()
        );
        let mut command = Command::new(program);
        command
            .args(line.split_whitespace())
            .current_dir(self.0.path());
        if line.starts_with("eval") {
            command.arg("--outstation").arg(beside);
        }
        command.output().unwrap()
    }

    /// The model inside the box's program.
    fn demo_model(&self) {
        let beside =
            Path::new(env!("CARGO_BIN_EXE_outstation-factory")).with_file_name("outstation");
        let written = Command::new(beside).arg("demo-model").output().unwrap();
        assert!(written.status.success());
        std::fs::write(self.0.path().join("demo.gguf"), written.stdout).unwrap();
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn report(&self) -> Value {
        let text = std::fs::read(self.0.path().join("report.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// Sizes that learn some sentences by heart within seconds.
const SIZES: &str =
    "--hidden 64 --heads 2 --kv-heads 1 --layers 2 --ffn 128 --vocab 400 --context 256";
const STEPS: &str = "--steps 320 --batch-tokens 500 --rate 0.004";

#[test]
fn what_was_learned_is_what_a_box_answers_and_an_adapter_adds_to_it() {
    let world = World(tempfile::tempdir().unwrap());
    world.ok("demo data --set train --count 12 --seed 9 --out old.jsonl");
    world.ok("demo data --set drift --count 6 --seed 9 --out new.jsonl");
    world.ok(&format!(
        "train --data old.jsonl --validation new.jsonl --out base --type Q8_0 --type F16 {STEPS} {SIZES}"
    ));
    for kind in ["F16", "Q8_0"] {
        world.ok(&format!(
            "eval --data old.jsonl --serve base/model.{kind}.gguf --at-least 100"
        ));
    }
    let gate = world.run("eval --data new.jsonl --serve base/model.Q8_0.gguf --at-least 100");
    assert_eq!(gate.status.code(), Some(1), "it never saw these");

    world.ok(&format!(
        "train --data old.jsonl --data new.jsonl --base base/model.Q8_0.gguf --lora 8 --out round {STEPS}"
    ));
    let table = world.ok(
        "eval --data old.jsonl --data new.jsonl --serve base/model.Q8_0.gguf --adapter round/adapter.gguf \
         --against default --against-file base/model.F16.gguf --calibration --out report.json --mistakes mistakes.jsonl",
    );
    let report = world.report();
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    let right = number("/report/all/right");
    assert!(right >= 16, "{right} of 18:\n{table}");
    assert!(number("/against/0/difference/gained") >= 4, "{table}");
    assert_eq!(number("/report/groups/set=train/right"), 12, "{table}");
    let sure = |bin: u32| {
        let bin = format!("/calibration/bins/{bin}/confidence");
        report.pointer(&bin).and_then(Value::as_f64).unwrap()
    };
    assert!(0.0 < sure(0) && sure(0) < sure(9), "{table}");
    let bins = report.pointer("/against/1/calibration/bins").unwrap();
    assert_eq!(bins.as_array().unwrap().len(), 10, "{table}");
    let mistakes = std::fs::read_to_string(world.0.path().join("mistakes.jsonl")).unwrap();
    assert_eq!(mistakes.lines().count() as u64, 18 - right);
    for file in [
        "adapter_model.safetensors",
        "adapter_config.json",
        "curve.svg",
        "log.jsonl",
    ] {
        assert!(
            world.0.path().join("round").join(file).exists(),
            "{file} is missing"
        );
    }
}

/// docs/demo-model.md has the figures of many more sentences.
#[test]
fn the_demo_model_knows_its_task_and_not_the_jargon() {
    let world = World(tempfile::tempdir().unwrap());
    world.demo_model();
    world.ok("demo data --set test --count 600 --seed 20 --out test.jsonl");
    world.ok("demo data --set drift --count 300 --seed 20 --out drift.jsonl");
    let table = world.ok("eval --data test.jsonl --serve demo.gguf --out report.json");
    let percent = |group: &str| {
        let share = world
            .report()
            .pointer(&format!("/report/{group}/percent"))
            .cloned();
        share.and_then(|share| share.as_f64()).unwrap()
    };
    assert!(percent("all") >= 94.0, "{table}");
    for language in ["en", "de", "es"] {
        assert!(
            percent(&format!("groups/language={language}")) >= 90.0,
            "{table}"
        );
    }
    let table = world.ok("eval --data drift.jsonl --serve demo.gguf --out report.json");
    assert!(
        percent("all") <= 60.0,
        "something is left to learn: {table}"
    );
}

#[test]
fn what_cannot_be_trained_or_judged_is_said() {
    let world = World(tempfile::tempdir().unwrap());
    world.ok("demo data --set train --count 3 --out data.jsonl");
    std::fs::write(world.0.path().join("bad.jsonl"), "{\"messages\":[]}\n").unwrap();
    std::fs::write(world.0.path().join("bad.gguf"), "no model").unwrap();
    for (line, code, says) in [
        ("train --data none.jsonl --out run", 74, "none.jsonl"),
        (
            "train --data bad.jsonl --out run",
            65,
            "bad.jsonl:1: a chat ends with an answer",
        ),
        (
            "train --data data.jsonl --out run --type Q9",
            64,
            "no type \"Q9\"",
        ),
        (
            "train --data data.jsonl --out run --hidden 100",
            64,
            "100 numbers do not divide",
        ),
        (
            "train --data data.jsonl --out run --context 5",
            65,
            "the context 5",
        ),
        (
            "train --data data.jsonl --out run --base bad.gguf",
            65,
            "cannot be trained",
        ),
        ("eval --data data.jsonl", 64, "--url"),
        (
            "eval --data data.jsonl --url http://127.0.0.1:1/v1",
            69,
            "127.0.0.1:1",
        ),
        (
            "eval --data data.jsonl --serve bad.gguf",
            69,
            "did not start",
        ),
        (
            "demo data --set test --count 1 --language fr",
            64,
            "en, de or es",
        ),
    ] {
        let output = world.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert!(error.contains(says), "{line}: {error}");
    }
}
