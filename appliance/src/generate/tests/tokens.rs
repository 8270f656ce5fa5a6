//! The generated tokenizer, run by the `tokenizers` crate: words become single tokens.

use outstation_wire::gguf::{Gguf, StringArray};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::*;

/// A byte-level BPE of the file's tokens and merges.
fn bpe(file: &Gguf<'_>) -> BPE {
    let tokens = strings(file, "tokenizer.ggml.tokens");
    let vocab: Vocab = tokens.iter().map(str::to_owned).zip(0..).collect();
    let pair = |merge: &str| {
        let (left, right) = merge.split_once(' ').unwrap();
        (left.to_owned(), right.to_owned())
    };
    let merges = strings(file, "tokenizer.ggml.merges")
        .iter()
        .map(pair)
        .collect();
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .unwrap()
}

fn strings<'a>(file: &Gguf<'a>, key: &str) -> StringArray<'a> {
    file.strings(key).unwrap().unwrap()
}

fn pieces(bpe: &BPE, word: &str) -> Vec<String> {
    bpe.tokenize(word)
        .unwrap()
        .into_iter()
        .map(|token| token.value)
        .collect()
}

#[test]
fn each_word_is_one_token_in_a_large_vocabulary() {
    let shape: Shape = "tiny-llama".parse().unwrap();
    let shape = Shape {
        vocab: 8192,
        ..shape
    };
    let bytes = bytes(&ModelSpec::new(shape, Mix::Q8_0, 1));
    let file = Gguf::parse(&bytes).unwrap();
    let bpe = bpe(&file);
    for word in words::WORDS.split_whitespace() {
        assert_eq!(pieces(&bpe, &format!("Ġ{word}")), [format!("Ġ{word}")]);
    }
    assert_eq!(pieces(&bpe, "Ġnetworks"), ["Ġnetwork", "s"]);
    assert_eq!(pieces(&bpe, "ĠÃ©"), ["Ġ", "Ã", "©"]);
}

#[test]
fn token_types_say_what_a_token_is() {
    let bytes = bytes(&ModelSpec::new("tiny-llama".parse().unwrap(), Mix::Q8_0, 1));
    let file = Gguf::parse(&bytes).unwrap();
    let types = file.u32s("tokenizer.ggml.token_type").unwrap().unwrap();
    for (token, kind) in strings(&file, "tokenizer.ggml.tokens")
        .iter()
        .zip(types.iter())
    {
        let wanted = match token {
            "<|begin|>" | "<|end|>" | "<|im_start|>" | "<|im_end|>" => 3,
            _ if token.starts_with("<|unused_") => 5,
            _ => 1,
        };
        assert_eq!(kind, wanted, "{token}");
    }
    assert!(types.iter().filter(|&kind| kind == 1).count() > 1000);
}

#[test]
fn every_byte_is_a_token() {
    let vocabulary = vocabulary::Vocabulary::new(260);
    let bytes: std::collections::BTreeSet<&str> = vocabulary.tokens[..256]
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(bytes.len(), 256);
    // Printable bytes first, then stand-ins: "!" is 0 and the space 220, as in GPT-2.
    assert_eq!(vocabulary.tokens[0], "!");
    assert_eq!(vocabulary.id("Ġ"), Some(220));
    assert_eq!(vocabulary.id("Ċ"), Some(198));
    assert!(bytes.iter().all(|text| text.chars().count() == 1));
    assert!(vocabulary.words.is_empty());
}

#[test]
fn the_demo_can_say_hundreds_of_words_and_little_else() {
    let bytes = demo(1);
    assert!(
        (1 << 20..3 << 20).contains(&bytes.len()),
        "{} bytes",
        bytes.len()
    );
    let file = Gguf::parse(&bytes).unwrap();
    assert!(
        file.str("general.name")
            .unwrap()
            .unwrap()
            .contains("random weights from seed 1")
    );
    let output = file.tensor("output.weight").unwrap();
    let row_bytes = output.data().len() / 1280;
    let tokens = strings(&file, "tokenizer.ggml.tokens");
    // A row of Q8_0 whose scale is zero makes a logit of zero.
    let likely: Vec<&str> = tokens
        .iter()
        .zip(output.data().chunks_exact(row_bytes))
        .filter(|(_, row)| row[..2] != [0, 0])
        .map(|(token, _)| token)
        .collect();
    let spoken = likely.iter().filter(|token| {
        let word = token.strip_prefix('Ġ').unwrap_or_default();
        words::WORDS.split_whitespace().any(|known| known == word)
    });
    assert!(spoken.clone().count() > 250, "{} words", spoken.count());
    assert_eq!(
        likely.len(),
        spoken.count() + 3,
        "besides words: full stop, comma, end"
    );
}
