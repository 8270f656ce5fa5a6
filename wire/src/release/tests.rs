use expect_test::{Expect, expect};

use super::*;
use crate::hex::hex;

fn manifest() -> Manifest {
    let digest = |byte: u8| hex(&[byte; 32]);
    Manifest {
        format: 1,
        name: "site-3b".into(),
        release: 7,
        kind: Kind::Model,
        file: FileFacts {
            bytes: 4096,
            sha256: digest(1),
            blake3: digest(2),
        },
        header_bytes: 512,
        engine: EngineRange { min: 1, max: 1 },
        hardware: vec!["cpu".into()],
        tokenizer: digest(3),
        template: String::new(),
        golden: vec![Golden {
            ids: vec![1, 2, 3],
            prompt_tokens: 2,
            nll: 1.5,
            tolerance: 0.1,
        }],
        licence: "Apache-2.0".into(),
        published_unix_ms: 5,
    }
}

fn rollout() -> Rollout {
    Rollout {
        format: 1,
        ring: "canary".into(),
        counter: 3,
        issued_unix_s: 900,
        manifest: "manifest/site-3b@7.json".into(),
        adapters: Vec::new(),
        waves: vec![
            Wave {
                percent: 100,
                not_before_unix_s: 2000,
            },
            Wave {
                percent: 5,
                not_before_unix_s: 1000,
            },
        ],
        stop: false,
        canary_percent: vec![1, 10, 50],
        soak_s: 600,
        deadline_s: 86_400,
        gates: Gates::default(),
        failures_percent_max: 10,
        window: String::new(),
    }
}

fn check_manifest(change: impl FnOnce(&mut Manifest), expected: Expect) {
    let mut manifest = manifest();
    change(&mut manifest);
    let seen = Manifest::parse(&manifest.to_json()).map(|read| assert_eq!(read, manifest));
    expected.assert_eq(&seen.map_or_else(|error| error.to_string(), |()| "ok".into()));
}

#[test]
fn a_manifest_is_read_as_it_was_written_or_refused_by_field() {
    check_manifest(|_| {}, expect!["ok"]);
    check_manifest(
        |m| {
            m.kind = Kind::Adapter {
                base: hex(&[9; 32]),
            }
        },
        expect!["ok"],
    );
    check_manifest(
        |m| m.format = 2,
        expect!["the manifest has format 2, this program reads 1: update the program first"],
    );
    check_manifest(
        |m| m.name = "../x".into(),
        expect![
            "the manifest: name: `../x` is no name: use 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter or digit"
        ],
    );
    check_manifest(
        |m| m.release = 0,
        expect!["the manifest: release: it counts from 1"],
    );
    check_manifest(
        |m| m.file.blake3 = hex(&[0xAB; 32]).to_uppercase(),
        expect![
            "the manifest: file.blake3: `ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB` is not 64 small hexadecimal digits"
        ],
    );
    check_manifest(
        |m| m.header_bytes = 4097,
        expect!["the manifest: header_bytes: 4097 of 4096 bytes"],
    );
    check_manifest(
        |m| m.engine.min = 2,
        expect!["the manifest: engine: from 2 to 1"],
    );
    check_manifest(
        |m| m.golden[0].prompt_tokens = 3,
        expect![
            "the manifest: golden: 3 of 3 tokens are prompt (at most 1024 in all), nll 1.5 ± 0.1"
        ],
    );
}

#[test]
fn a_rollout_is_read_as_it_was_written_and_gates_have_defaults() {
    let written = rollout();
    assert_eq!(Rollout::parse(&written.to_json()).unwrap(), written);
    let json = String::from_utf8(written.to_json()).unwrap();
    let start = json.find("\"gates\"").unwrap();
    let end = json.find("\"failures").unwrap();
    let without = format!("{}{}", &json[..start], &json[end..]);
    assert_eq!(Rollout::parse(without.as_bytes()).unwrap(), written);
    let mut wrong = written;
    wrong.soak_s = 90_000;
    expect!["the rollout: deadline_s: 86400 s with soak_s 90000"]
        .assert_eq(&Rollout::parse(&wrong.to_json()).unwrap_err().to_string());
}

#[test]
fn the_earliest_wave_that_has_a_box_counts_and_draws_are_even() {
    let rollout = rollout();
    assert_eq!(rollout.not_before(499), Some(1000));
    assert_eq!(rollout.not_before(500), Some(2000));
    let boxes = (0..10_000_u32).filter(|number| {
        let mut appliance = [0; 16];
        appliance[..4].copy_from_slice(&number.to_le_bytes());
        draw(&appliance, "manifest/site-3b@7.json") < 500
    });
    let share = boxes.count();
    assert!((400..600).contains(&share), "{share} of 10000 are in 5 %");
}

fn index() -> Index {
    let place = |offset, bytes| Place {
        pack: 0,
        offset,
        bytes,
    };
    let chunk = |digest, bytes, form, place| Chunk {
        bytes,
        digest: [digest; 32],
        form,
        place,
    };
    Index {
        digest: [7; 32],
        packs: vec![Pack {
            digest: [1; 32],
            bytes: 1000,
        }],
        bases: vec![[2; 32]],
        chunks: vec![
            chunk(3, 100, Stored::Plain, place(0, 100)),
            chunk(4, 300, Stored::Zstd, place(100, 80)),
        ],
        patches: vec![Patch {
            chunk: 1,
            base: 0,
            base_offset: 64,
            base_bytes: 300,
            place: place(900, 100),
        }],
    }
}

fn check_index(change: impl FnOnce(&mut Index), expected: Expect) {
    let mut index = index();
    change(&mut index);
    let seen = Index::parse(&index.encode()).map(|read| assert_eq!(read, index));
    expected.assert_eq(&seen.map_or_else(|error| error.to_string(), |()| "ok".into()));
}

#[test]
fn an_index_is_read_as_it_was_written_or_refused_by_entry() {
    check_index(|_| {}, expect!["ok"]);
    check_index(
        |i| i.patches[0].place.offset = 901,
        expect!["the index: patch 0: 100 bytes from 901 of pack 0"],
    );
    check_index(
        |i| i.chunks[1].place.pack = 1,
        expect!["the index: chunk 1: 80 bytes from 100 of pack 1"],
    );
    check_index(
        |i| i.chunks[0].bytes = CHUNK_BYTES_MAX + 1,
        expect!["the index: chunk 0: 1048577 bytes, 100 in its pack"],
    );
    check_index(
        |i| i.patches[0].base_offset = u64::MAX,
        expect!["the index: patch 0: 300 bytes from 18446744073709551615 of its base"],
    );
    check_index(
        |i| i.patches.push(i.patches[0]),
        expect!["the index: patch 1: of chunk 1 against base 0"],
    );
}

#[test]
fn an_index_of_any_bytes_is_an_error_and_never_a_panic() {
    let bytes = index().encode();
    for length in 0..bytes.len() {
        assert!(Index::parse(&bytes[..length]).is_err());
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let _ = Index::parse(&damaged);
        }
    }
}

#[test]
fn a_file_is_cut_where_tensors_begin_and_each_mebibyte_after_it() {
    let mib = u64::from(CHUNK_BYTES_MAX);
    assert_eq!(
        cut([100, 100 + 2 * mib + 5, 100], 100 + 2 * mib + 6),
        [100, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 5, 1]
    );
    assert_eq!(cut([], 5), [5]);
    assert_eq!(cut([9], 5), [5]);
}

#[test]
fn the_head_of_a_file_tells_what_the_whole_tells() {
    use crate::gguf::{Gguf, GgufWriter, OwnedValue, TensorType};
    let file = |template: &str, scores: bool| {
        let mut writer = GgufWriter::new();
        writer.put("general.architecture", OwnedValue::str("llama"));
        if scores {
            writer.put("tokenizer.ggml.scores", OwnedValue::f32s([0.5]));
        }
        writer.put("tokenizer.ggml.tokens", OwnedValue::strings(["a", "b"]));
        writer.put("tokenizer.chat_template", OwnedValue::str(template));
        writer.tensor("x", &[32], TensorType::F32);
        let header = writer.finish();
        let mut bytes = header.bytes.clone();
        bytes.resize(usize::try_from(header.file_bytes).unwrap(), 7);
        (bytes, header.bytes.len())
    };
    let (bytes, head_bytes) = file("{{ messages }}", true);
    let whole = Gguf::parse(&bytes).unwrap();
    let head = Gguf::parse_head(&bytes[..head_bytes], bytes.len() as u64).unwrap();
    assert_eq!(head.head_bytes(), head_bytes as u64);
    assert_eq!(tokenizer_digest(&head), tokenizer_digest(&whole));
    assert_eq!(
        template_digest(&head),
        Some(*blake3::hash(b"{{ messages }}").as_bytes())
    );
    let (tensor, known) = (&head.tensors()[0], &whole.tensors()[0]);
    assert_eq!(
        (tensor.file_offset(), tensor.bytes()),
        (known.file_offset(), 128)
    );
    assert_eq!((tensor.data().len(), known.data().len()), (0, 128));
    assert!(Gguf::parse_head(&bytes[..40], bytes.len() as u64).is_err());
    assert!(Gguf::parse_head(&bytes[..head_bytes], bytes.len() as u64 - 64).is_err());
    let (other, _) = file("", false);
    let other = Gguf::parse(&other).unwrap();
    assert_ne!(tokenizer_digest(&other), tokenizer_digest(&whole));
}
