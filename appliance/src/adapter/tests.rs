//! Files of adapters: what is read from them, and what is refused.

use outstation_wire::gguf::{Gguf, GgufWriter, OwnedValue, TensorType};
use serde_json::{Value, json};

use std::sync::Arc;

use super::*;
use crate::generate::{self, AdapterSpec, Mix, ModelSpec};

fn targets(shape: &str) -> Base {
    let spec = ModelSpec::new(shape.parse().unwrap(), Mix::Q8_0, 1);
    let file = generate::bytes(&spec);
    Base::of(&Model::from_gguf(&Gguf::parse(&file).unwrap()).unwrap())
}

fn place(targets: &Base, rank: usize) -> PackedAdapter {
    PackedAdapter::new(targets, rank, Box::new(vec![0; targets.bytes(rank)]))
}

/// Reads a GGUF adapter into a place for rank 8 of a tiny llama.
fn read_gguf(file: &[u8]) -> Result<usize, AdapterError> {
    let targets = targets("tiny-llama");
    let gguf = Gguf::parse(file)?;
    let adapter = Adapter::from_gguf(&gguf, &targets)?;
    place(&targets, 8).fill(&targets, &adapter, [1; 32])?;
    Ok(adapter.matrices())
}

/// A GGUF adapter whose metadata and tensors the test changes. A tensor's values are all 1.
struct Draft {
    strings: Vec<(&'static str, &'static str)>,
    alpha: Option<f32>,
    tensors: Vec<(&'static str, [u64; 2], TensorType)>,
}

impl Draft {
    fn new() -> Self {
        Self {
            strings: vec![
                ("general.type", "adapter"),
                ("general.architecture", "llama"),
                ("adapter.type", "lora"),
            ],
            alpha: Some(16.0),
            tensors: vec![
                ("blk.0.attn_q.weight.lora_a", [256, 4], TensorType::F32),
                ("blk.0.attn_q.weight.lora_b", [4, 256], TensorType::F32),
            ],
        }
    }

    fn file(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.strings {
            writer.put(key, OwnedValue::str(*value));
        }
        if let Some(alpha) = self.alpha {
            writer.put("adapter.lora.alpha", OwnedValue::F32(alpha));
        }
        for (name, dims, kind) in &self.tensors {
            writer.tensor(name, dims, *kind);
        }
        let header = writer.finish();
        let mut bytes = header.bytes;
        while (bytes.len() as u64) < header.file_bytes {
            bytes.extend(1.0_f32.to_le_bytes());
        }
        bytes
    }
}

fn check_gguf(change: impl FnOnce(&mut Draft), expected: &str) {
    let mut draft = Draft::new();
    change(&mut draft);
    let shown =
        read_gguf(&draft.file()).map_or_else(|e| e.to_string(), |n| format!("{n} matrices"));
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn a_gguf_adapter_is_read_or_refused_with_the_numbers() {
    check_gguf(|_| (), "1 matrices");
    check_gguf(|d| d.alpha = None, "1 matrices");
    check_gguf(
        |d| d.strings[0].1 = "model",
        "`general.type` is `model`, not `adapter`",
    );
    check_gguf(
        |d| d.strings[1].1 = "qwen2",
        "for architecture `qwen2`, the base is `llama`",
    );
    check_gguf(
        |d| d.strings[2].1 = "control",
        "`adapter.type` is `control`, not `lora`",
    );
    check_gguf(
        |d| d.strings.truncate(2),
        "`adapter.type` is not there, not `lora`",
    );
    check_gguf(
        |d| d.strings.push(("adapter.alora.invocation_tokens", "1")),
        "`adapter.alora.invocation_tokens` is ",
    );
    check_gguf(|d| d.tensors.clear(), "it adds nothing");
    check_gguf(
        |d| d.tensors.truncate(1),
        "tensor `blk.0.attn_q.weight.lora_a` has no partner",
    );
    check_gguf(
        |d| d.tensors[0].0 = "blk.9.attn_q.weight.lora_a",
        "tensor `blk.9.attn_q.weight.lora_a` has no partner",
    );
    check_gguf(
        |d| d.tensors[0].0 = "blk.0.attn_norm.weight",
        "tensor `blk.0.attn_norm.weight` adds to nothing that this base lets adapters add to",
    );
    check_gguf(
        |d| {
            d.tensors[0].0 = "token_embd.weight.lora_a";
            d.tensors[1].0 = "token_embd.weight.lora_b";
        },
        "tensor `token_embd.weight.lora_a` adds to nothing",
    );
    check_gguf(
        |d| d.tensors[0].1 = [128, 4],
        "tensor `blk.0.attn_q.weight.lora_a` is [4, 128], the base makes it [4, 256]",
    );
    check_gguf(
        |d| d.tensors[1].1 = [5, 256],
        "tensor `blk.0.attn_q.weight.lora_b` is [256, 5], the base makes it [256, 4]",
    );
    check_gguf(
        |d| {
            d.tensors[0].1 = [256, 9];
            d.tensors[1].1 = [9, 256];
        },
        "the adapter has rank 9, the pool has places for 8: raise adapters.rank_max",
    );
    check_gguf(
        |d| d.tensors[0].2 = TensorType::Q4_0,
        "tensor `blk.0.attn_q.weight.lora_a` is Q4_0: factors must be F32, F16, BF16 or Q8_0",
    );
    check_gguf(
        |d| d.alpha = Some(f32::NAN),
        "tensor `blk.0.attn_q.weight.lora_a` has values that are no numbers",
    );
}

/// PEFT's configuration and tensors, as the test changes them.
struct PeftDraft {
    config: Value,
    tensors: Vec<(String, &'static str, Vec<u64>)>,
}

impl PeftDraft {
    fn new() -> Self {
        let name = |factor| {
            format!("base_model.model.model.layers.1.self_attn.q_proj.lora_{factor}.weight")
        };
        Self {
            config: json!({
                "peft_type": "LORA", "r": 4, "lora_alpha": 16, "bias": "none", "fan_in_fan_out": false,
                "modules_to_save": null, "rank_pattern": {}, "target_modules": ["q_proj"], "use_dora": false,
            }),
            tensors: vec![
                (name("A"), "F32", vec![4, 256]),
                (name("B"), "F32", vec![256, 4]),
            ],
        }
    }

    fn weights(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, kind, shape) in &self.tensors {
            let start = end;
            end += shape.iter().product::<u64>() * if *kind == "F32" { 4 } else { 2 };
            let entry = json!({"dtype": kind, "shape": shape, "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
        }
        safetensors_file(
            &Value::Object(header).to_string(),
            usize::try_from(end).unwrap(),
        )
    }

    fn read(&self) -> Result<usize, AdapterError> {
        let targets = targets("tiny-llama");
        let weights = self.weights();
        let adapter = Adapter::from_peft(self.config.to_string().as_bytes(), &weights, &targets)?;
        place(&targets, 8).fill(&targets, &adapter, [1; 32])?;
        Ok(adapter.matrices())
    }
}

fn safetensors_file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

fn check_peft(change: impl FnOnce(&mut PeftDraft), expected: &str) {
    let mut draft = PeftDraft::new();
    change(&mut draft);
    let shown = draft
        .read()
        .map_or_else(|e| e.to_string(), |n| format!("{n} matrices"));
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn a_peft_adapter_is_read_or_refused_by_name() {
    check_peft(|_| (), "1 matrices");
    check_peft(|d| d.config["use_rslora"] = json!(true), "1 matrices");
    check_peft(
        |d| d.config["peft_type"] = json!("IA3"),
        "`peft_type` is \"IA3\": it must be \"LORA\"",
    );
    check_peft(
        |d| d.config["r"] = json!(0),
        "`r` is 0: it must be a whole number from 1 to 512",
    );
    check_peft(
        |d| d.config["lora_alpha"] = json!("16"),
        "`lora_alpha` is \"16\": it must be a finite number",
    );
    for (key, value) in [
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 8})),
        ("alpha_pattern", json!({"q_proj": 8})),
        ("alora_invocation_tokens", json!([1, 2])),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 4]])),
    ] {
        let mut draft = PeftDraft::new();
        draft.config[key] = value.clone();
        let refused = AdapterError::Unsupported {
            key: key.to_owned(),
            value: value.to_string(),
        };
        assert_eq!(draft.read(), Err(refused));
    }
    check_peft(
        |d| d.config = json!([]),
        "adapter_config.json cannot be read: invalid type: sequence, expected a map",
    );
    check_peft(
        |d| d.config["r"] = json!(8),
        "lora_A.weight` is [4, 256], the base makes it [8, 256]",
    );
    check_peft(
        |d| d.tensors.truncate(1),
        "self_attn.q_proj.lora_A.weight` has no partner",
    );
    check_peft(
        |d| d.tensors[0].1 = "F64",
        "is F64: F32, F16 and BF16 can be read",
    );
    check_peft(
        |d| d.tensors[0].0 = "base_model.model.lm_head.lora_A.weight".into(),
        "tensor `base_model.model.lm_head.lora_A.weight` adds to nothing",
    );
    check_peft(
        |d| {
            let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector";
            d.tensors[0].0 = name.into();
        },
        "lora_magnitude_vector` adds to nothing",
    );
    check_peft(
        |d| d.tensors[1].2 = vec![4, 256],
        "lora_B.weight` is [4, 256], the base makes it [256, 4]",
    );
}

#[test]
fn hostile_safetensors_are_refused() {
    let check = |file: &[u8], expected: &str| {
        let error = safetensors::parse(file).expect_err("it is refused");
        let shown = error.to_string();
        assert!(shown.contains(expected), "{shown}");
    };
    check(&[], "is said to have 0 bytes, of 0 in the file");
    check(
        &[255; 16],
        "is said to have 18446744073709551615 bytes, of 8 in the file",
    );
    let header = |text: &str| safetensors_file(text, 8);
    check(&header("{\"a\""), "the safetensors header cannot be read: ");
    check(
        &header("[]"),
        "the safetensors header cannot be read: invalid type: sequence, expected an object of tensors",
    );
    let entry = |shape: &str, offsets: &str| {
        header(&format!(
            r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
        ))
    };
    check(
        &entry("[2]", "[0,12]"),
        "tensor `a` has the bytes 0..12 of 8, 8 by its shape and type",
    );
    check(
        &entry("[4]", "[0,16]"),
        "tensor `a` has the bytes 0..16 of 8, 16 by its shape and type",
    );
    check(
        &entry("[2]", "[8,0]"),
        "tensor `a` has the bytes 8..0 of 8, 8 by its shape and type",
    );
    check(
        &entry("[4611686018427387904,4]", "[0,8]"),
        "tensor `a` has the bytes 0..8 of 8, too many by its shape and type",
    );
    check(
        &entry("[-1]", "[0,8]"),
        "the safetensors header cannot be read: ",
    );
    let twice = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    check(
        &header(&format!(r#"{{"a":{twice},"a":{twice}}}"#)),
        "tensor `a` comes twice",
    );
    check(
        &header(&"[".repeat(1 << 16)),
        "the safetensors header cannot be read: ",
    );
}

/// Cuts and flips of whole files: an error or an adapter, and never a panic.
#[test]
fn damaged_adapters_never_panic() {
    let draft = PeftDraft::new();
    let (config, weights) = (draft.config.to_string().into_bytes(), draft.weights());
    let targets = targets("tiny-llama");
    for end in (0..weights.len().min(600)).chain([weights.len() - 1]) {
        assert!(Adapter::from_peft(&config, &weights[..end], &targets).is_err());
    }
    for at in 0..600 {
        for bit in [1, 16, 128] {
            let mut damaged = weights.clone();
            damaged[at] ^= bit;
            let _ = Adapter::from_peft(&config, &damaged, &targets);
        }
    }
    for at in 0..config.len() {
        let mut damaged = config.clone();
        damaged[at] ^= 4;
        let _ = Adapter::from_peft(&damaged, &weights, &targets);
        assert!(Adapter::from_peft(&config[..at], &weights, &targets).is_err());
    }
    let gguf = Draft::new().file();
    for at in 0..600 {
        for bit in [1, 16, 128] {
            let mut damaged = gguf.clone();
            damaged[at] ^= bit;
            let _ = read_gguf_of(&damaged, &targets);
        }
    }
}

fn read_gguf_of(file: &[u8], targets: &Base) -> Result<(), AdapterError> {
    let gguf = Gguf::parse(file)?;
    let adapter = Adapter::from_gguf(&gguf, targets)?;
    place(targets, 8).fill(targets, &adapter, [1; 32])
}

/// Rotations turn elements `(2i, 2i + 1)` of a head in the base's order and `(i, i + d/2)` in Hugging Face's.
#[test]
fn rows_of_queries_and_keys_follow_their_rotation() {
    let head_dim = 8;
    let order = RowOrder::Halves { head_dim };
    for head in 0..3 {
        for pair in 0..head_dim / 2 {
            let start = head * head_dim;
            assert_eq!(order.source(start + 2 * pair), start + pair);
            assert_eq!(
                order.source(start + 2 * pair + 1),
                start + head_dim / 2 + pair
            );
        }
    }
    assert!(targets("tiny-llama").permuted);
    assert!(!targets("tiny-qwen3").permuted);
}

/// A place that was used does not remember: values far apart in size keep their digits, and what the second adapter
/// leaves out adds nothing.
#[test]
fn a_place_has_what_was_put_last() {
    let targets = targets("tiny-llama");
    let mut place = place(&targets, 8);
    let all = generate::adapter(&targets, &AdapterSpec::new(8, 1));
    let all_gguf = Gguf::parse(&all).unwrap();
    let adapter = Adapter::from_gguf(&all_gguf, &targets).unwrap();
    assert_eq!((adapter.rank(), adapter.matrices()), (8, 28));
    place.fill(&targets, &adapter, [1; 32]).unwrap();
    let has = |place: &PackedAdapter| {
        let all = [Projection::Q, Projection::Down];
        place.factors(0, all, &[0]).factors.map(|f| f.is_some())
    };
    assert_eq!(has(&place), [true, true]);
    let one = Draft::new().file();
    let one = Gguf::parse(&one).unwrap();
    let adapter = Adapter::from_gguf(&one, &targets).unwrap();
    place.fill(&targets, &adapter, [2; 32]).unwrap();
    assert_eq!(has(&place), [true, false]);
    assert_eq!(place.digest(), [2; 32]);
}

fn pool(places: usize) -> AdapterPool {
    let targets = targets("tiny-llama");
    let empty = (0..places).map(|_| place(&targets, 4)).collect();
    AdapterPool::new("base", targets, empty)
}

#[test]
fn a_place_is_free_when_its_last_request_has_ended() {
    let mut pool = pool(2);
    let one = pool.begin("a").unwrap();
    pool.finish(one, 7);
    let request = pool.find("a").expect("it is served");
    // Another by its name: who asks from here on gets that, and the first stays while it is used.
    let two = pool.begin("a").unwrap();
    pool.finish(two, 8);
    let later = pool.find("a").expect("it is served");
    assert!(!Arc::ptr_eq(&request, &later));
    assert_eq!(pool.served().count(), 1);
    let full = PoolError::Full {
        places: 2,
        leaving: 1,
    };
    assert_eq!(pool.begin("b").err(), Some(full));
    drop(request);
    let place = pool.begin("b").expect("the first has left");
    pool.give_up(place);
    let leaving = pool.unload("a").unwrap();
    assert!(pool.find("a").is_none());
    assert!(!pool.has_left(&leaving), "one request uses it");
    drop(later);
    assert!(pool.has_left(&leaving));
    assert_eq!(pool.free(), 2);
}

#[test]
fn names_and_places_are_refused_in_words() {
    let shown = |result: Result<Place, PoolError>| result.expect_err("refused").to_string();
    let mut pool = pool(1);
    for name in ["", "base", "default", "a:b", "a/b", "ä", &"x".repeat(65)] {
        assert!(shown(pool.begin(name)).contains("cannot be an adapter's name"));
    }
    assert!(
        pool.unload("x")
            .unwrap_err()
            .to_string()
            .contains("no adapter `x` is loaded: there are none")
    );
    let place = pool.begin("a").unwrap();
    assert!(
        shown(pool.begin("b"))
            .contains("all 1 places for adapters are taken (0 by some that requests still use)")
    );
    pool.finish(place, 0);
    assert!(
        pool.unload("x")
            .unwrap_err()
            .to_string()
            .contains("no adapter `x` is loaded: there is a")
    );
    let mut none = AdapterPool::none();
    assert!(shown(none.begin("a")).contains("no memory was planned for adapters"));
}
