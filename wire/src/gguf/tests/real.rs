//! Files that llama.cpp and its converter wrote.

use std::path::{Path, PathBuf};

use super::*;

/// GGUF files in a folder of `../shared`, with a loud line if there are none.
fn shared(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(folder);
    let Ok(entries) = std::fs::read_dir(&root) else {
        println!(
            "SKIP: {} is missing, real GGUF files were not parsed",
            root.display()
        );
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    });
    files.sort();
    assert!(!files.is_empty(), "{} holds GGUF files", root.display());
    files
}

#[expect(clippy::disallowed_methods, reason = "a test reads its fixtures")]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn golden_models_parse_whole() {
    for path in shared("golden") {
        let bytes = read(&path);
        let file =
            Gguf::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            (file.version(), file.alignment()),
            (3, 32),
            "{}",
            path.display()
        );
        let architecture = file.str("general.architecture").unwrap().unwrap();
        let hidden = file
            .u32(&format!("{architecture}.embedding_length"))
            .unwrap()
            .unwrap();
        let embedding = file.tensor("token_embd.weight").unwrap();
        assert_eq!(
            (embedding.cols(), embedding.rows()),
            (hidden.into(), 512),
            "{}",
            path.display()
        );
        assert_eq!(
            file.strings("tokenizer.ggml.tokens")
                .unwrap()
                .unwrap()
                .len(),
            512
        );
        assert_eq!(
            file.u32s("tokenizer.ggml.token_type")
                .unwrap()
                .unwrap()
                .iter()
                .last(),
            Some(3)
        );
        // The writer of these files packs data without holes: the last tensor, padded, ends the file.
        let last = file
            .tensors()
            .iter()
            .max_by_key(|tensor| tensor.file_offset())
            .unwrap();
        let end = last.file_offset() + last.data().len() as u64;
        assert_eq!(
            end.next_multiple_of(32),
            bytes.len() as u64,
            "{}",
            path.display()
        );
    }
}

#[test]
fn golden_models_hold_the_types_in_their_names() {
    let wanted = [
        "BF16", "F16", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1",
        "Q5_K", "Q6_K", "Q8_0",
    ];
    for path in shared("golden") {
        let bytes = read(&path);
        let file = Gguf::parse(&bytes).unwrap();
        let name = path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .split_once('.')
            .unwrap()
            .1;
        let kind = wanted
            .into_iter()
            .find(|kind| name.starts_with(kind))
            .unwrap();
        let found = file
            .tensors()
            .iter()
            .filter(|tensor| tensor.kind().name() == kind)
            .count();
        assert!(found > 0, "{} has no {kind} tensor", path.display());
    }
}

#[test]
fn vocabularies_parse_whole() {
    for path in shared("tokenizers") {
        let bytes = read(&path);
        let file =
            Gguf::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(file.tensors().is_empty());
        let tokens = file.strings("tokenizer.ggml.tokens").unwrap().unwrap();
        assert_eq!(tokens.iter().count(), tokens.len());
        assert!(tokens.len() >= 32_000, "{}", path.display());
        let types = file.u32s("tokenizer.ggml.token_type").unwrap().unwrap();
        assert_eq!(types.len(), tokens.len());
        if let Some(scores) = file.f32s("tokenizer.ggml.scores").unwrap() {
            assert_eq!(
                scores.iter().filter(|score| score.is_finite()).count(),
                tokens.len()
            );
        }
    }
}

#[test]
fn real_files_cut_or_flipped_never_panic() {
    let random = &mut Random(11);
    for path in shared("golden")
        .into_iter()
        .step_by(5)
        .chain(shared("tokenizers"))
    {
        let mut bytes = read(&path);
        for _ in 0..12 {
            let cut = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            let parsed = Gguf::parse(&bytes[..cut]);
            assert!(parsed.is_err(), "{} cut at {cut} parsed", path.display());
            let place = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            bytes[place] ^= 0x40;
            let _ = Gguf::parse(&bytes);
            bytes[place] ^= 0x40;
        }
    }
}
