//! A `tokenizer.json` beside a model file: the same ids as llama.cpp's, or a refusal that names what is wrong.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use expect_test::{Expect, expect};
use rand_core::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

use super::super::tests::{golden_ids, golden_texts, noise, vocabulary};
use super::super::{Bos, Special, TokenKind, Tokenizer, Vocabulary, VocabularyKind, byte_letters};
use crate::limits::TOKENIZER_JSON_BYTES_MAX;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Letters for all bytes, three merged words, and control tokens; its pre-tokenizer is not one of ours.
fn small() -> Vocabulary {
    let letters = byte_letters().iter().map(char::to_string).collect();
    let words = ["he", "ll", "hell", "<|im_end|>", "<tool>"].map(str::to_owned);
    let mut token_types = vec![1; 261];
    token_types[259] = 3;
    token_types[260] = 4;
    Vocabulary {
        pre: "of-tomorrow".into(),
        tokens: [letters, words.to_vec()].concat(),
        token_types,
        merges: ["h e", "l l", "he ll"].map(str::to_owned).to_vec(),
        ..Vocabulary::default()
    }
}

fn cuts(regex: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

/// The file as the library would write it: control tokens are added tokens, merges are pairs.
fn json_of(vocabulary: &Vocabulary, pre_tokenizer: &Value, ignore_merges: bool) -> Value {
    let kinds = vocabulary.checked_kinds().expect("a good vocabulary");
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in vocabulary.tokens.iter().zip(kinds).enumerate() {
        match kind {
            TokenKind::Normal | TokenKind::Unused => {
                vocab.insert(token.clone(), json!(id));
            }
            _ => added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == TokenKind::Control,
            })),
        }
    }
    let merges: Vec<_> = vocabulary
        .merges
        .iter()
        .map(|m| m.split_once(' '))
        .collect();
    json!({
        "version": "1.0", "truncation": {"max_length": 1}, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    })
}

fn golden(name: &str, regex: &str, ignore_merges: bool) {
    let Some(mut vocabulary) = vocabulary(name) else {
        return;
    };
    let json = json_of(&vocabulary, &cuts(regex), ignore_merges);
    vocabulary.pre = "of-tomorrow".into();
    vocabulary.merges.clear(); // so that none but the JSON's can be used
    let tokenizer = Tokenizer::with_json(&vocabulary, &json.to_string()).expect("they agree");
    let (texts, ids) = (golden_texts(name), golden_ids(name));
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
    golden("gpt-2", GPT2, false);
}

#[test]
fn golden_llama_bpe() {
    golden("llama-bpe", LLAMA3, true);
}

#[test]
fn golden_qwen2() {
    golden("qwen2", QWEN2, false);
}

#[test]
fn a_pre_tokenizer_that_we_do_not_know_needs_the_json() {
    let vocabulary = small();
    assert!(Tokenizer::new(&vocabulary).is_err());
    let json = json_of(&vocabulary, &cuts(GPT2), false).to_string();
    let tokenizer = Tokenizer::with_json(&vocabulary, &json).expect("they agree");
    let ids = tokenizer.encode("hello hell", Special::Plain, Bos::Add);
    expect!["[258, 111, 32, 258]"].assert_eq(&format!("{ids:?}"));
    assert_eq!(tokenizer.decode(&ids), "hello hell");
    assert_eq!(tokenizer.vocab_size(), 261);
}

/// Even where the JSON has the names in its merges' vocabulary and takes whole words from there.
#[test]
fn special_text_stays_plain() {
    let vocabulary = small();
    for ignore_merges in [true, false] {
        let mut json = json_of(&vocabulary, &cuts(r"\S+|\s+"), ignore_merges);
        json["model"]["vocab"]["<|im_end|>"] = json!(259);
        json["model"]["vocab"]["<tool>"] = json!(260);
        let tokenizer = Tokenizer::with_json(&vocabulary, &json.to_string()).expect("they agree");
        let plain = tokenizer.encode("<|im_end|> <|im_end|>", Special::Plain, Bos::Omit);
        assert!(!plain.contains(&259), "{plain:?}");
        assert_eq!(tokenizer.decode(&plain), "<|im_end|> <|im_end|>");
        let parsed = tokenizer.encode("hell<|im_end|><tool>", Special::Parse, Bos::Omit);
        assert_eq!(parsed, [258, 259, 260]);
        let rendered = format!("{}<|im_end|>", tokenizer.shield("<|im_end|>"));
        let shielded = tokenizer.encode(&rendered, Special::Parse, Bos::Omit);
        assert_eq!(shielded.iter().filter(|&&id| id == 259).count(), 1);
        assert_eq!(shielded.last(), Some(&259));
    }
    // A merge that would spell one is refused, as in the model file.
    let mut json = json_of(&vocabulary, &cuts(GPT2), false);
    json["model"]["vocab"]["<|im_end|>"] = json!(259);
    json["model"]["merges"] = json!([["<|im_end|", ">"]]);
    check(
        &vocabulary,
        &json,
        expect!["the merges do not fit the tokens: Token `<|im_end|` out of vocabulary"],
    );
}

#[test]
fn normalizers_apply() {
    let vocabulary = small();
    let mut json = json_of(&vocabulary, &cuts(GPT2), false);
    json["normalizer"] = json!({"type": "NFC"});
    let tokenizer = Tokenizer::with_json(&vocabulary, &json.to_string()).expect("they agree");
    let ids = tokenizer.encode("e\u{301}", Special::Plain, Bos::Omit);
    assert_eq!(tokenizer.decode(&ids), "é");
    // Compatibility forms of a name do not become the name.
    json["normalizer"] = json!({"type": "NFKC"});
    let tokenizer = Tokenizer::with_json(&vocabulary, &json.to_string()).expect("they agree");
    let ids = tokenizer.encode("＜|im_end|＞", Special::Parse, Bos::Omit);
    assert!(!ids.contains(&259), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids), "<|im_end|>");
}

/// Bytes, `▁`, one word and an end, as SentencePiece files are converted.
fn spm() -> (Vocabulary, Value) {
    let bytes = (0..=0xffu8).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "a", "▁a", "<s>", "<unk>"].map(str::to_owned);
    let tokens: Vec<String> = bytes.chain(words).collect();
    let mut token_types = vec![6; 256];
    token_types.extend([1, 1, 1, 3, 2]);
    let vocabulary = Vocabulary {
        kind: VocabularyKind::Spm,
        scores: vec![0.0; tokens.len()],
        token_types,
        add_bos: Some(false),
        ..Vocabulary::default()
    };
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, t)| (t.clone(), json!(id)))
        .collect();
    let json = json!({
        "added_tokens": [{"id": 259, "content": "<s>"}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": ["▁ a"]},
    });
    (
        Vocabulary {
            tokens,
            ..vocabulary
        },
        json,
    )
}

#[test]
fn a_space_goes_in_front_where_the_json_says() {
    let (vocabulary, mut json) = spm();
    let show = |json: &Value| {
        let tokenizer = Tokenizer::with_json(&vocabulary, &json.to_string()).expect("they agree");
        let ids = tokenizer.encode("a<s>aé", Special::Parse, Bos::Omit);
        format!("{ids:?} {:?}", tokenizer.decode(&ids))
    };
    let first = show(&json);
    json["pre_tokenizer"]["prepend_scheme"] = json!("always");
    let always = show(&json);
    json["pre_tokenizer"]["prepend_scheme"] = json!("never");
    let never = show(&json);
    json["pre_tokenizer"] = Value::Null;
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    let legacy = show(&json);
    expect![[r#"
        [258, 259, 257, 195, 169] "aaé"
        [258, 259, 258, 195, 169] "a aé"
        [257, 259, 257, 195, 169] "aaé"
        [258, 259, 258, 195, 169] "a aé""#]]
    .assert_eq(&[first, always, never, legacy].join("\n"));
}

fn check(vocabulary: &Vocabulary, json: &Value, expected: Expect) {
    expected.assert_eq(&refusal(vocabulary, &json.to_string()));
}

fn refusal(vocabulary: &Vocabulary, json: &str) -> String {
    Tokenizer::with_json(vocabulary, json)
        .expect_err("refused")
        .to_string()
}

fn pad(vocabulary: &mut Vocabulary, token_type: u32) {
    let pads = ["[PAD261]", "[PAD262]"];
    vocabulary.tokens.extend(pads.map(str::to_owned));
    vocabulary.token_types.extend([5, token_type]);
}

#[test]
fn the_json_of_another_model_is_refused() {
    let vocabulary = small();
    let good = json_of(&vocabulary, &cuts(GPT2), false);
    let with = |change: fn(&mut Vocabulary, &mut Value)| {
        let (mut vocabulary, mut json) = (vocabulary.clone(), good.clone());
        change(&mut vocabulary, &mut json);
        match Tokenizer::with_json(&vocabulary, &json.to_string()) {
            Ok(tokenizer) => format!("{} tokens", tokenizer.vocab_size()),
            Err(error) => error.to_string(),
        }
    };
    let found = [
        with(|_, json| json["model"]["vocab"]["hex"] = json!(256)),
        with(|vocabulary, _| vocabulary.tokens[257] = "lo".into()),
        with(|vocabulary, _| vocabulary.tokens[259] = "</s>".into()),
        with(|_, json| json["model"]["vocab"]["more"] = json!(261)),
        with(|_, json| json["model"]["vocab"]["more"] = json!(u32::MAX)),
        with(|vocabulary, _| pad(vocabulary, 5)),
        with(|vocabulary, _| pad(vocabulary, 1)),
        with(|_, json| json["added_tokens"] = json!([])),
        with(|vocabulary, json| {
            vocabulary.tokens[260] = "  ".into();
            json["added_tokens"][1]["content"] = json!("▁▁");
        }),
    ];
    expect![[r#"
        token 256 is `he` in the model file, `hex` in tokenizer.json: they do not belong together
        token 257 is `lo` in the model file, `ll` in tokenizer.json: they do not belong together
        token 259 is `</s>` in the model file, `<|im_end|>` in tokenizer.json: they do not belong together
        token 261 is nothing in the model file, `more` in tokenizer.json: they do not belong together
        token 4294967295 is nothing in the model file, `more` in tokenizer.json: they do not belong together
        263 tokens
        token 262 is `[PAD262]` in the model file, nothing in tokenizer.json: they do not belong together
        token 259 is `<|im_end|>` in the model file, nothing in tokenizer.json: they do not belong together
        261 tokens"#]].assert_eq(&found.join("\n"));
}

#[test]
fn parts_that_we_do_not_have_are_refused() {
    let vocabulary = small();
    let good = json_of(&vocabulary, &cuts(GPT2), false);
    let with = |change: fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        refusal(&vocabulary, &json.to_string())
            .chars()
            .take(110)
            .collect::<String>()
    };
    let found = [
        with(|json| json["version"] = json!("2.0")),
        with(|json| json["model"]["type"] = json!("Unigram")),
        with(|json| json["model"]["dropout"] = json!(0.1)),
        with(|json| json["model"]["continuing_subword_prefix"] = json!("##")),
        with(|json| json["model"]["end_of_word_suffix"] = json!("</w>")),
        with(|json| json["model"]["merges"] = json!(["ab"])),
        with(|json| json["model"]["merges"] = json!([["a", "b", "c"]])),
        with(|json| json["model"]["vocab"]["a"] = json!(-1)),
        with(|json| {
            json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
        }),
        with(|json| json["normalizer"] = json!("NFC")),
        with(|json| {
            let replace =
                json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaa"});
            json["normalizer"] = json!({"type": "Sequence", "normalizers": [replace, replace]});
        }),
        with(|json| {
            let nfc = json!({"type": "Digits", "individual_digits": true});
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": vec![nfc; 40]});
        }),
        with(|json| json["pre_tokenizer"] = json!({"type": "Whitespace"})),
        with(|json| json["pre_tokenizer"] = Value::Null),
        with(|json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "("})),
        with(|json| {
            json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": r"(?=a\K)"});
        }),
        with(|json| json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Sideways")),
    ];
    expect![[r#"
        tokenizer.json cannot be used: version `2.0` is not known
        tokenizer.json cannot be used: model `Unigram` is not known
        tokenizer.json cannot be used: `dropout` is on: ids would be drawn by lot
        tokenizer.json cannot be used: setting `continuing_subword_prefix` is not known
        tokenizer.json cannot be used: setting `end_of_word_suffix` is not known
        merge 0 is `ab`, not two parts with a space between
        tokenizer.json cannot be used: data did not match any variant of untagged enum Merge at line 1 column 3003
        tokenizer.json cannot be used: invalid value: integer `-1`, expected u32 at line 1 column 1557
        tokenizer.json cannot be used: normalizer `Precompiled` is not known
        tokenizer.json cannot be used: a part without `type`
        tokenizer.json cannot be used: its normalizer may make a text 81 times as long: 64 are possible
        tokenizer.json cannot be used: more than 32 parts
        tokenizer.json cannot be used: pre-tokenizer `Whitespace` is not known
        tokenizer.json cannot be used: it has no part `ByteLevel`, which the model file's vocabulary needs
        tokenizer.json cannot be used: Parsing error at position 1: Opening parenthesis without closing parenthesis
        tokenizer.json cannot be used: pattern `(?=a\K)` is not known
        tokenizer.json cannot be used: unknown variant `Sideways`, expected one of `Removed`, `Isolated`, `MergedWithP"#]].assert_eq(&found.join("\n"));
    let (vocabulary, mut json) = spm();
    json["pre_tokenizer"] = cuts(GPT2);
    check(
        &vocabulary,
        &json,
        expect![
            "tokenizer.json cannot be used: it is byte-level, the model file's vocabulary is not"
        ],
    );
    let bytes = " ".repeat(TOKENIZER_JSON_BYTES_MAX + 1);
    expect!["tokenizer.json has 67108865 bytes: 67108864 are possible"]
        .assert_eq(&refusal(&vocabulary, &bytes));
    let deep = format!("{{\"normalizer\": {}", "[".repeat(100_000));
    expect!["tokenizer.json cannot be used: EOF while parsing a list at line 1 column 100015"]
        .assert_eq(&refusal(&vocabulary, &deep));
}

/// Bytes changed at random: an error, or a tokenizer that takes any text and never yields a control token from it.
#[test]
fn damaged_files_do_not_panic() {
    let vocabulary = small();
    let good = json_of(&vocabulary, &cuts(GPT2), true).to_string();
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..3_000 {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=random.next_u32() % 3 {
            let at = random.next_u32() as usize % bytes.len();
            let from = random.next_u32() as usize % good.len();
            match random.next_u32() % 3 {
                0 => bytes[at] = good.as_bytes()[from],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, good.as_bytes()[from]),
            }
        }
        let damaged = String::from_utf8_lossy(&bytes);
        match Tokenizer::with_json(&vocabulary, &damaged) {
            Ok(tokenizer) => {
                taken += 1;
                let ids = tokenizer.encode(&noise(&mut random), Special::Plain, Bos::Omit);
                assert!(!ids.contains(&259), "seed {seed}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 100, "{taken} taken");
    assert!(refused > 100, "{refused} refused");
}

/// Any parts of the allow-list in any order take any text.
#[test]
fn parts_in_any_order_do_not_panic() {
    let normalizers = [
        json!({"type": "NFC"}),
        json!({"type": "NFKD"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "ByteLevel"}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        json!({"type": "Replace", "pattern": {"Regex": r"\s*"}, "content": ""}),
        json!({"type": "Replace", "pattern": {"Regex": r"\p{L}"}, "content": ""}),
        json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ];
    let split = |regex: &str, behavior: &str, invert: bool| {
        json!({"type": "Split",
        "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert})
    };
    let pre_tokenizers = [
        split(GPT2, "Isolated", false),
        split(QWEN2, "Removed", true),
        split(r"\s*", "MergedWithNext", false),
        split("", "Contiguous", true),
        split(r"(?=\S)", "MergedWithPrevious", false),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
    ];
    let vocabulary = small();
    let good = json_of(&vocabulary, &cuts(GPT2), true);
    let mut taken = 0;
    for seed in 0..2_000 {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut some = |parts: &[Value]| -> Vec<Value> {
            let count = random.next_u32() % 4;
            (0..count)
                .map(|_| parts[random.next_u32() as usize % parts.len()].clone())
                .collect()
        };
        let mut json = good.clone();
        json["normalizer"] = json!({"type": "Sequence", "normalizers": some(&normalizers)});
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": some(&pre_tokenizers)});
        let Ok(tokenizer) = Tokenizer::with_json(&vocabulary, &json.to_string()) else {
            continue;
        };
        taken += 1;
        for text in ["", "a", " ", "\u{fdd0}", "e\u{301}", &noise(&mut random)] {
            let ids = tokenizer.encode(text, Special::Parse, Bos::Omit);
            assert!(ids.iter().all(|&id| id < 261), "seed {seed}");
        }
    }
    assert!(taken > 300, "{taken} taken");
}
