//! Wrong arguments, files and settings: one sentence, the right exit code, no panic.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::str::FromStr;

use outstation::generate::{self, Mix, ModelSpec, Shape};
use outstation::model::Model;
use outstation::template::ChatTemplate;
use outstation::tokenizer::{Bos, Special, Tokenizer, Vocabulary};
use outstation_wire::gguf::Gguf;

use crate::server::{Server, outstation, run};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen3.Q4_K_M.gguf")
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, word: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(word), "{said:?} says {word:?}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
}

#[test]
fn files_that_are_no_models_end_with_65_or_74() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let refused = |bytes: &[u8], code: i32, word: &str| {
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        assert_refused(&run(&["run", "--model", path, "--prompt", "x"]), code, word);
    };
    let whole = std::fs::read(golden()).unwrap();
    refused(b"", 65, "empty");
    refused(b"PK\x03\x04 something else", 65, "GGUF");
    for cut in [3, 4, 23, 100, 5000, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..cut], 65, "model.gguf");
    }
    let absent = folder.path().join("absent.gguf");
    let absent = absent.to_str().unwrap();
    assert_refused(
        &run(&["run", "--model", absent, "--prompt", "x"]),
        74,
        "absent.gguf",
    );
    let folder = folder.path().to_str().unwrap();
    assert_refused(
        &run(&["run", "--model", folder, "--prompt", "x"]),
        74,
        "folder",
    );
}

/// Blocks of q8_0 have 32 elements; a model with heads of 48 is served in f16 and refused in q8_0.
#[test]
fn heads_that_a_format_cannot_store_end_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let shape = Shape {
        head_dim: 48,
        ..Shape::from_str("tiny-llama").unwrap()
    };
    std::fs::write(&path, generate::bytes(&ModelSpec::new(shape, Mix::Q8_0, 1))).unwrap();
    let path = path.to_str().unwrap();
    for command in [
        vec!["run", "--ids", "1", "--tokens", "1"],
        vec![
            "bench",
            "--batch",
            "1",
            "--prompt",
            "1",
            "--generate",
            "2",
            "--repeat",
            "1",
        ],
        vec!["check"],
    ] {
        let with = |kv: &str| run(&[&command, &["--model", path, "--kv", kv][..]].concat());
        assert_eq!(with("f16").status.code(), Some(0), "{command:?}");
        assert_refused(&with("q8_0"), 78, "use f16");
    }
}

/// Everything that reads metadata, on a file with one byte changed: an error or a model, never a panic.
///
/// The parser's own tests change every byte; here tokenizer and template are built each time, so it is every seventh.
#[test]
fn a_flipped_byte_in_the_header_is_survived() {
    let whole = std::fs::read(golden()).unwrap();
    let header = Gguf::parse(&whole).unwrap().tensors()[0].file_offset();
    let header = usize::try_from(header).unwrap();
    let mut bytes = whole.clone();
    let mut loaded = 0;
    for at in (0..header).step_by(7) {
        let flip = [0x01, 0x80, 0xFF][at % 3];
        bytes[at] ^= flip;
        loaded += u32::from(load(&bytes).is_some());
        bytes[at] ^= flip;
    }
    assert!(load(&whole).is_some(), "the file itself loads");
    assert!(
        loaded > 10,
        "a changed name of a token is still a model: {loaded}"
    );
}

fn load(file: &[u8]) -> Option<()> {
    let gguf = Gguf::parse(file).ok()?;
    Model::from_gguf(&gguf).ok()?;
    let vocabulary = Vocabulary::from_gguf(&gguf).ok()?;
    let tokenizer = Tokenizer::new(&vocabulary).ok()?;
    let ids = tokenizer.encode("a café", Special::Parse, Bos::Add);
    let _ = tokenizer.decode(&ids);
    let (bos, eos) = tokenizer.bos_eos_text();
    ChatTemplate::new(vocabulary.chat_template.as_deref(), &bos, &eos).ok()?;
    Some(())
}

#[test]
fn a_budget_that_does_not_fit_ends_with_78_and_names_the_knob() {
    assert_refused(&run(&["check", "--memory", "20MiB"]), 78, "memory.limit");
}

#[test]
fn settings_that_mean_nothing_end_with_78_and_name_their_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box.toml");
    std::fs::write(&path, "[serving]\nsequence_max = 4\n").unwrap();
    let output = run(&["check", "--config", path.to_str().unwrap()]);
    assert_refused(&output, 78, "did you mean `serving.sequences_max`");
    let output = outstation()
        .arg("check")
        .env("OUTSTATION_MEMORY__LIMITS", "1GiB")
        .output()
        .unwrap();
    assert_refused(&output, 78, "did you mean `memory.limit`");
    let output = run(&["serve", "--http", "0.0.0.0:0"]);
    assert_refused(&output, 78, "set access.certificate");
}

#[test]
fn wrong_arguments_end_with_64() {
    for arguments in [
        &["serve", "--colour"][..],
        &["run"],
        &["run", "--prompt", "x", "--threads", "0"],
        &["bench", "--shape", "llama9-900b"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    let output = run(&["bench", "--batch", "0"]);
    assert_refused(&output, 64, "--batch 0");
}

#[test]
fn an_address_in_use_ends_with_74() {
    let server = Server::start(&[]);
    let http = server.http.to_string();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--http", &http]);
    assert_refused(&output, 74, "choose another address");
}

#[test]
fn nobody_home_ends_with_69() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_refused(
        &run(&["status", "--http", &free.to_string()]),
        69,
        "start `outstation serve`",
    );
}

/// With a driver or without one, there is no hundredth GPU.
#[test]
fn a_gpu_that_is_not_there_ends_with_69_and_a_sentence() {
    for command in [
        &["run", "--prompt", "x", "--device", "cuda:99"][..],
        &["check", "--device", "cuda:99"],
        &["bench", "--device", "cuda:99"],
    ] {
        assert_refused(&run(command), 69, "there is no ");
    }
    let other = run(&["run", "--prompt", "x", "--device", "tpu"]);
    assert_refused(&other, 78, "engine.device is `tpu`");
    let kv = ["run", "--prompt", "x", "--device", "cuda", "--kv", "i16"];
    assert_refused(&run(&kv), 78, "use f16 or q8_0");
}
