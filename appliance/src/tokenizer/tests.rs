//! Golden ids of llama.cpp, and properties over seeded noise.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]
#![expect(clippy::cast_possible_truncation, reason = "noise is cut to size")]
#![expect(clippy::format_push_string, reason = "what is shown is short")]

use std::path::{Path, PathBuf};

use expect_test::expect;
use outstation_wire::gguf::Gguf;
use rand_core::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use super::*;

const NAMES: [&str; 4] = ["gpt-2", "llama-bpe", "llama-spm", "qwen2"];

fn shared(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/tokenizers")
        .join(file)
}

#[expect(clippy::disallowed_methods, reason = "a test reads its golden files")]
fn read(file: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(shared(file)).ok();
    if bytes.is_none() {
        eprintln!(
            "SKIP: {} is missing, so nothing was tested",
            shared(file).display()
        );
    }
    bytes
}

pub(super) fn vocabulary(name: &str) -> Option<Vocabulary> {
    let bytes = read(&format!("ggml-vocab-{name}.gguf"))?;
    let gguf = Gguf::parse(&bytes).expect("a vocabulary of llama.cpp");
    Some(Vocabulary::from_gguf(&gguf).expect("a vocabulary of llama.cpp"))
}

fn tokenizer(name: &str) -> Option<Tokenizer> {
    vocabulary(name).map(|vocabulary| Tokenizer::new(&vocabulary).expect("a good vocabulary"))
}

pub(super) fn golden_texts(name: &str) -> Vec<String> {
    let input = read(&format!("ggml-vocab-{name}.gguf.inp")).unwrap_or_default();
    let input = String::from_utf8(input).expect("UTF-8");
    let separator = "\n__ggml_vocab_test__\n";
    let input = input.strip_suffix(separator).unwrap_or(&input);
    input.split(separator).map(str::to_owned).collect()
}

pub(super) fn golden_ids(name: &str) -> Vec<Vec<u32>> {
    let ids = read(&format!("ggml-vocab-{name}.gguf.out")).expect("beside the texts");
    let ids = String::from_utf8(ids).expect("UTF-8");
    let ids_of = |line: &str| {
        line.split_whitespace()
            .map(|id| id.parse().expect("an id"))
            .collect()
    };
    ids.lines().map(ids_of).collect()
}

fn golden(name: &str) {
    let Some(tokenizer) = tokenizer(name) else {
        return;
    };
    let texts = golden_texts(name);
    let ids = golden_ids(name);
    assert!(texts.len() > 40, "{} texts", texts.len());
    assert_eq!(texts.len(), ids.len());
    for (text, wanted) in texts.iter().zip(&ids) {
        let found = tokenizer.encode(text, Special::Plain, Bos::Omit);
        assert_eq!(&found, wanted, "{name}: {text:?}");
        assert_eq!(&tokenizer.decode(&found), text);
    }
}

#[test]
fn golden_gpt_2() {
    golden("gpt-2");
}

#[test]
fn golden_llama_bpe() {
    golden("llama-bpe");
}

#[test]
fn golden_llama_spm() {
    golden("llama-spm");
}

#[test]
fn golden_qwen2() {
    golden("qwen2");
}

/// Text with words, digits, runs of spaces, line ends, contractions, and characters from everywhere.
pub(super) fn noise(random: &mut Pcg64Mcg) -> String {
    let mut text = String::new();
    for _ in 0..random.next_u32() % 60 {
        match random.next_u32() % 9 {
            0 => text.push(char::from(32 + (random.next_u32() % 95) as u8)),
            1 => text.push_str(&" ".repeat(random.next_u32() as usize % 5)),
            2 => text.push_str(
                ["\n", "\r\n", "\t", "\n\n ", "\u{a0}", "\u{3000}"][random.next_u32() as usize % 6],
            ),
            3 => text.push_str(
                ["'s", "'LL", "'ve", "don't", "I'M", "'"][random.next_u32() as usize % 6],
            ),
            4 => text.push_str(&(random.next_u32() % 100_000).to_string()),
            5 => text.push_str(
                ["the ", "Hello", " world", "Äpfel", "привет", "你好"]
                    [random.next_u32() as usize % 6],
            ),
            6 => text.push_str(
                ["...", "==", "<|im_end|>", "</s>", "▁", "½²"][random.next_u32() as usize % 6],
            ),
            _ => text.extend(char::from_u32(random.next_u32() % 0x11_0000)),
        }
    }
    text
}

#[test]
fn decoding_gives_back_what_was_encoded() {
    for name in NAMES {
        let Some(tokenizer) = tokenizer(name) else {
            return;
        };
        for seed in 0..2_000 {
            let mut random = Pcg64Mcg::seed_from_u64(seed);
            // SentencePiece writes a space as ▁, so it cannot tell the two apart.
            let text = noise(&mut random);
            let text = if name == "llama-spm" {
                text.replace('▁', "")
            } else {
                text
            };
            let ids = tokenizer.encode(&text, Special::Plain, Bos::Omit);
            assert_eq!(tokenizer.decode(&ids), text, "{name}, seed {seed}");
            assert!(
                ids.iter()
                    .all(|&id| tokenizer.kind(id) != Some(TokenKind::Control)),
                "{name}, seed {seed}: plain text became a control token: {text:?}"
            );
        }
    }
}

/// Ids in any order, as a model may sample them: mostly not UTF-8.
#[test]
fn decoding_in_pieces_equals_decoding_at_once() {
    for name in NAMES {
        let Some(tokenizer) = tokenizer(name) else {
            return;
        };
        for seed in 0..500 {
            let mut random = Pcg64Mcg::seed_from_u64(seed);
            let size = tokenizer.vocab_size() as u32;
            let ids: Vec<u32> = (0..random.next_u32() % 40)
                .map(|_| match random.next_u32() % 3 {
                    0 => random.next_u32() % 259, // single bytes
                    1 => random.next_u32() % (size + 10),
                    _ => random.next_u32() % 2000,
                })
                .collect();
            let mut decoder = Decoder::new();
            let mut pieces: String = ids.iter().map(|&id| decoder.push(&tokenizer, id)).collect();
            pieces.push_str(&decoder.finish());
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|&id| tokenizer.decode_bytes(id))
                .copied()
                .collect();
            assert_eq!(
                pieces,
                String::from_utf8_lossy(&bytes),
                "{name}, seed {seed}"
            );
        }
    }
}

#[test]
fn a_character_comes_when_it_is_whole() {
    let mut decoder = Decoder::new();
    let mut seen = String::new();
    for byte in "a🦙é".bytes().chain([0xf0, 0x9f]) {
        seen.push_str(&format!("{:?} ", decoder.push_bytes(&[byte])));
    }
    seen.push_str(&format!("end {:?}", decoder.finish()));
    expect![[r#""a" "" "" "" "🦙" "" "é" "" "" end "�""#]].assert_eq(&seen);
}

#[test]
fn control_tokens_are_read_only_from_our_own_text() {
    let Some(tokenizer) = tokenizer("llama-bpe") else {
        return;
    };
    let text = "<|begin_of_text|>hi<|eot_id|>";
    expect!["[128000, 6151, 128009]"].assert_eq(&format!(
        "{:?}",
        tokenizer.encode(text, Special::Parse, Bos::Omit)
    ));
    expect!["[128000, 6151, 128009]"].assert_eq(&format!(
        "{:?}",
        tokenizer.encode(text, Special::Parse, Bos::Add)
    ));
    let plain = tokenizer.encode(text, Special::Plain, Bos::Add);
    assert_eq!(plain[0], 128_000);
    assert!(plain[1..].iter().all(|&id| id < 128_000), "{plain:?}");
    assert_eq!(tokenizer.decode(&[128_000, 6151, 128_009]), "hi");
    assert_eq!(tokenizer.raw_bytes(128_009), b"<|eot_id|>");
    assert_eq!(tokenizer.decode_bytes(999_999), b"");
    expect!["[128001, 128009]"].assert_eq(&format!("{:?}", tokenizer.ends_generation()));
}

#[test]
fn a_shielded_text_stays_text_inside_a_template() {
    let Some(tokenizer) = tokenizer("llama-bpe") else {
        return;
    };
    let plain = |text: &str| tokenizer.encode(text, Special::Plain, Bos::Omit);
    for said in [
        "hi",
        "<|eot_id|>",
        "a<|eot_id|><|eot_id|>b",
        "\u{fdd0}<|eot\u{fdd0}_id|>",
    ] {
        let shielded = tokenizer.shield(said);
        let rendered = format!("<|begin_of_text|>{shielded}<|eot_id|>");
        let ids = tokenizer.encode(&rendered, Special::Parse, Bos::Add);
        let said = said.replace('\u{fdd0}', "");
        let clean = plain(&said);
        assert_eq!(
            ids,
            [&[128_000], &clean[..], &[128_009]].concat(),
            "{said:?}"
        );
    }
}

#[test]
fn a_space_goes_in_front_only_where_the_model_wants_it() {
    let Some(mut vocabulary) = vocabulary("llama-spm") else {
        return;
    };
    let ids = |vocabulary: &Vocabulary, text| {
        let tokenizer = Tokenizer::new(vocabulary).expect("a good vocabulary");
        let ids = tokenizer.encode(text, Special::Parse, Bos::Add);
        let shown: Vec<_> = ids
            .iter()
            .map(|&id| String::from_utf8_lossy(tokenizer.raw_bytes(id)))
            .collect();
        format!("{shown:?}")
    };
    expect![[r#"["<s>", " hi", " there", "</s>", " a"]"#]]
        .assert_eq(&ids(&vocabulary, "hi there</s>a"));
    vocabulary.add_space_prefix = Some(false); // Gemma
    expect![[r#"["<s>", "hi", " there", "</s>", "a"]"#]]
        .assert_eq(&ids(&vocabulary, "hi there</s>a"));
    vocabulary.control_eats_space = true; // Phi-3
    expect![[r#"["<s>", "hi", " there", "</s>", "a"]"#]]
        .assert_eq(&ids(&vocabulary, "hi there</s> \n a"));
}

#[test]
fn ends_of_generation_come_from_ids_and_names() {
    let ends = |name| tokenizer(name).map(|tokenizer| format!("{:?}", tokenizer.ends_generation()));
    let Some(qwen2) = ends("qwen2") else { return };
    expect!["[151643, 151645]"].assert_eq(&qwen2);
    expect!["[2]"].assert_eq(&ends("llama-spm").expect("beside the other"));
}

/// What a hostile or damaged file says is an error with a way out.
#[test]
fn bad_vocabularies_are_refused() {
    let letters = byte_letters();
    let good = Vocabulary {
        pre: "qwen2".into(),
        tokens: letters
            .iter()
            .map(char::to_string)
            .chain(["<|im_end|>".into()])
            .collect(),
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::new(&good).expect("bytes are enough");
    assert_eq!(tokenizer.encode("ab", Special::Plain, Bos::Add), [97, 98]);
    assert_eq!(
        tokenizer.ends_generation(),
        [256],
        "by name, though its type is missing"
    );
    let errors = |change: fn(&mut Vocabulary)| {
        let mut bad = good.clone();
        change(&mut bad);
        Tokenizer::new(&bad)
            .expect_err("refused")
            .to_string()
            .chars()
            .take(90)
            .collect::<String>()
    };
    let found = [
        errors(|v| v.pre = "quen2".into()),
        errors(|v| v.pre = String::new()),
        errors(|v| v.tokens.clear()),
        errors(|v| v.token_types = vec![1, 2]),
        errors(|v| v.token_types = vec![9; 257]),
        errors(|v| v.tokens[3] = "a".into()),
        errors(|v| v.tokens[65] = "AA".into()),
        errors(|v| v.tokens[65] = "A".repeat(5000)),
        errors(|v| v.eos = Some(257)),
        errors(|v| v.add_bos = Some(true)),
        errors(|v| v.merges = vec!["ab".into()]),
        errors(|v| v.merges = vec!["a b".into()]),
        errors(|v| v.kind = VocabularyKind::Spm),
    ];
    expect![[r#"
        pre-tokenizer `quen2` is not known (nearest: `qwen2`); known are default, gpt-2, phi-2, mp
        pre-tokenizer `` is not known (the file has no `tokenizer.ggml.pre`: convert the model aga
        a vocabulary of 0 tokens: 1 to 1048576 are possible
        `token_type` has 2 entries for 257 tokens
        token 0 is of type 9: ggml has 0 to 6
        tokens 3 and 97 are both `a`
        no token for byte 0x41, so some texts would lose it
        token 65 has 5000 bytes: 4096 are possible
        `eos_token_id` is 257 in a vocabulary of 257 tokens
        `add_bos_token` is on, but `bos_token_id` is missing
        merge 0 is `ab`, not two parts with a space between
        the merges do not fit the tokens: Token `ab` out of vocabulary
        `scores` has 0 entries for 257 tokens"#]]
    .assert_eq(&found.join("\n"));
}

fn naive_stop(text: &str, stops: &[&str]) -> (String, bool) {
    for end in text
        .char_indices()
        .map(|(at, letter)| at + letter.len_utf8())
    {
        let ending = |stop: &&&str| text[..end].ends_with(**stop);
        if let Some(length) = stops.iter().filter(ending).map(|stop| stop.len()).max() {
            return (text[..end - length].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

#[test]
fn stops_equal_a_naive_search_however_the_text_is_cut() {
    let mut stopped_count = 0;
    for seed in 0..20_000 {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut word = |length_max: u32| -> String {
            let length = random.next_u32() % length_max + 1;
            (0..length)
                .map(|_| ['a', 'b', 'é', '🦙'][random.next_u32() as usize % 4])
                .collect()
        };
        let stops = [word(4), word(6), word(2) + "c"];
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let text = word(12) + &word(12) + "c" + &word(3);
        let mut matcher = StopMatcher::new(&stops);
        let (mut seen, mut stopped) = (String::new(), false);
        let mut rest = text.as_str();
        while !rest.is_empty() && !stopped {
            let letters = random.next_u32() as usize % 4;
            let cut = rest
                .char_indices()
                .nth(letters)
                .map_or(rest.len(), |(at, _)| at);
            let outcome = matcher.push(&rest[..cut]);
            seen.push_str(&outcome.emit);
            stopped = outcome.stopped;
            rest = &rest[cut..];
        }
        if !stopped {
            seen.push_str(&matcher.finish());
        }
        stopped_count += u32::from(stopped);
        assert_eq!(
            (seen, stopped),
            naive_stop(&text, &stops),
            "seed {seed}: {text} {stops:?}"
        );
    }
    assert!(
        (5_000..20_000).contains(&stopped_count),
        "{stopped_count} of 20000 stopped"
    );
}

#[test]
fn what_cannot_become_a_stop_passes_at_once() {
    let mut matcher = StopMatcher::new(["\n\nUser:", ""]);
    let mut seen = String::new();
    for piece in ["Yes.", "\n", "\nUse", " it", "\n\n", "User", ": no", "more"] {
        let outcome = matcher.push(piece);
        seen.push_str(&format!(
            "{:?}{} ",
            outcome.emit,
            if outcome.stopped { "!" } else { "" }
        ));
    }
    expect![[r#""Yes." "" "" "\n\nUse it" "" "" ""! ""! "#]].assert_eq(&seen);
}

/// Inputs on which a quadratic algorithm would not come to its end while anybody waits.
#[test]
fn a_megabyte_of_one_letter_is_encoded() {
    for name in NAMES {
        let Some(tokenizer) = tokenizer(name) else {
            return;
        };
        for letter in ["a", " ", "\n", "1", "'", "é", "🦙", "<", "\n ", "ab "] {
            let text = letter.repeat((1 << 20) / letter.len());
            let ids = tokenizer.encode(&text, Special::Parse, Bos::Omit);
            assert_eq!(tokenizer.decode(&ids), text, "{name}: {letter:?}");
        }
    }
}
