//! Adapters as Hugging Face's PEFT saves them, made into GGUF as llama.cpp's `convert_lora_to_gguf.py` makes them: one
//! file that a box loads without knowing of more.
//!
//! ```text
//! base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight [r, in]   ─▶  blk.N.attn_q.weight.lora_a  [in, r]
//! base_model.model.model.layers.N.self_attn.q_proj.lora_B.weight [out, r]  ─▶  blk.N.attn_q.weight.lora_b  [r, out]
//! ```
//!
//! ggml names the contiguous dimension first, so the bytes stay. Rows of queries and keys of `llama` models are in
//! another order in GGUF, and so are those of lora_B.
#![expect(clippy::disallowed_methods, reason = "an adapter is a folder of files")]

use std::collections::BTreeMap;
use std::path::Path;

use outstation_wire::gguf::{Gguf, GgufWriter, OwnedValue, TensorType};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::OtaError;
use super::source::Source;

/// Bytes of an adapter that is converted in memory.
const BYTES_MAX: u64 = 2 << 30;
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Settings that change the result and are not carried over, and values of them that change nothing.
const REFUSED: [(&str, &[&str]); 8] = [
    ("bias", &["\"none\""]),
    ("fan_in_fan_out", &["false"]),
    ("use_dora", &["false"]),
    ("lora_bias", &["false"]),
    ("modules_to_save", &["[]"]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("layer_replication", &["[]"]),
];

/// What of the base decides the form of an adapter.
#[derive(Debug, Clone)]
pub struct Shape {
    architecture: String,
    heads: u64,
    kv_heads: u64,
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A tensor of the new file.
struct Made<'a> {
    name: String,
    dims: [u64; 2],
    kind: TensorType,
    bytes: std::borrow::Cow<'a, [u8]>,
}

/// Whether a path is a folder of PEFT's, or its file of tensors.
pub fn is_peft(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|end| end == "safetensors")
}

impl Shape {
    /// Of a base.
    pub fn of(gguf: &Gguf<'_>) -> Result<Self, OtaError> {
        let wrong = |e: &dyn std::fmt::Display| OtaError::input("the base", e);
        let architecture = gguf.str("general.architecture").map_err(|e| wrong(&e))?;
        let architecture = architecture.ok_or_else(|| wrong(&"it names no architecture"))?;
        let count = |key: &str| gguf.u64(&format!("{architecture}.{key}")).ok().flatten();
        let heads = count("attention.head_count").unwrap_or(1);
        Ok(Self {
            heads,
            kv_heads: count("attention.head_count_kv").unwrap_or(heads),
            architecture: architecture.to_owned(),
        })
    }
}

/// The GGUF of an adapter.
pub fn convert(path: &Path, base: &Shape) -> Result<Source, OtaError> {
    let folder = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    let read = |name: &str| {
        let path = folder.join(name);
        let length = std::fs::metadata(&path)
            .map_err(|e| OtaError::file(&path, e))?
            .len();
        if length > BYTES_MAX {
            let why = format!(
                "{length} bytes, at most {BYTES_MAX} are converted: convert it to GGUF first"
            );
            return Err(OtaError::input(path.display().to_string(), why));
        }
        std::fs::read(&path).map_err(|e| OtaError::file(&path, e))
    };
    let alpha = alpha(&read(CONFIG)?).map_err(|why| OtaError::input(CONFIG, why))?;
    let tensors = read(TENSORS)?;
    let made = tensors_of(&tensors, base).map_err(|why| OtaError::input(TENSORS, why))?;
    Ok(Source::made(path, write(&made, alpha, base)))
}

/// The factor that GGUF has: a reader divides it by the rank.
fn alpha(config: &[u8]) -> Result<f32, String> {
    let config: Map<String, Value> = serde_json::from_slice(config).map_err(|e| e.to_string())?;
    let of = |key: &str| config.get(key).unwrap_or(&Value::Null);
    if of("peft_type") != "LORA" {
        return Err(format!(
            "peft_type is {}, only \"LORA\" is known",
            of("peft_type")
        ));
    }
    for (key, harmless) in REFUSED {
        let value = of(key).to_string();
        if value != "null" && !harmless.contains(&value.as_str()) {
            return Err(format!(
                "{key} = {value} is not carried over: merge the adapter into its model"
            ));
        }
    }
    let number = |key: &str| {
        let number = of(key).as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("{key} is no number"))
    };
    let (rank, alpha) = (number("r")?, number("lora_alpha")?);
    // With rank-stabilized LoRA the divisor is √r, and GGUF's reader divides by r.
    let alpha = if *of("use_rslora") == Value::Bool(true) {
        alpha * rank.sqrt()
    } else {
        alpha
    };
    #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
    Ok(alpha as f32)
}

fn tensors_of<'a>(file: &'a [u8], base: &Shape) -> Result<Vec<Made<'a>>, String> {
    let (length, rest) = file.split_first_chunk().ok_or("it is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let header = rest
        .get(..length)
        .ok_or("its header is longer than the file")?;
    let data = &rest[length..];
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let mut made = Vec::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let wrong = |why: &str| format!("{name}: {why}");
        let entry: Entry = serde_json::from_value(entry).map_err(|e| wrong(&e.to_string()))?;
        let tensor = tensor(&name, &entry, data, base).map_err(|why| wrong(&why))?;
        made.push(tensor);
    }
    if made.is_empty() {
        return Err("it has no tensors".to_owned());
    }
    Ok(made)
}

fn tensor<'a>(name: &str, entry: &Entry, data: &'a [u8], base: &Shape) -> Result<Made<'a>, String> {
    let (target, second) = place(name).ok_or("it belongs to no matrix that a box can adapt")?;
    let &[rows, cols] = entry.shape.as_slice() else {
        return Err(format!(
            "{} dimensions where 2 are wanted",
            entry.shape.len()
        ));
    };
    let kind = match entry.dtype.as_str() {
        "F32" => TensorType::F32,
        "F16" => TensorType::F16,
        "BF16" => TensorType::Bf16,
        other => {
            return Err(format!(
                "numbers of type {other}, F32, F16 or BF16 are wanted"
            ));
        }
    };
    let [start, end] = entry
        .data_offsets
        .map(|at| usize::try_from(at).unwrap_or(usize::MAX));
    let bytes = data
        .get(start..end)
        .ok_or("its data is outside of the file")?;
    let wanted = rows
        .checked_mul(cols)
        .and_then(|elements| kind.bytes(elements));
    if rows == 0 || cols == 0 || wanted != Some(bytes.len() as u64) {
        return Err(format!(
            "{} bytes are not {rows} × {cols} numbers",
            bytes.len()
        ));
    }
    let heads = match target.rsplit('.').nth(1) {
        Some("attn_q") => base.heads,
        Some("attn_k") => base.kv_heads,
        _ => 0,
    };
    let bytes = if second && base.architecture == "llama" && heads > 0 {
        permute(bytes, rows, heads)?.into()
    } else {
        bytes.into()
    };
    let end = if second { "lora_b" } else { "lora_a" };
    Ok(Made {
        name: format!("{target}.{end}"),
        dims: [cols, rows],
        kind,
        bytes,
    })
}

/// The base's tensor, and whether this is the second factor.
fn place(name: &str) -> Option<(String, bool)> {
    let (_, rest) = name.split_once("layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, second) = match rest.strip_suffix(".lora_A.weight") {
        Some(module) => (module, false),
        None => (rest.strip_suffix(".lora_B.weight")?, true),
    };
    let part = match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some((format!("blk.{layer}.{part}.weight"), second))
}

/// Rows of a head in pairs side by side instead of in halves. Source: llama.cpp `LlamaModel.permute`.
fn permute(bytes: &[u8], rows: u64, heads: u64) -> Result<Vec<u8>, String> {
    if !rows.is_multiple_of(2 * heads) {
        return Err(format!("{rows} rows are not those of {heads} heads"));
    }
    let index = |n: u64| usize::try_from(n).expect("rows are in memory");
    let row_bytes = bytes.len() / index(rows);
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for pair in 0..half {
            for side in 0..2 {
                let from = index((head * 2 + side) * half + pair) * row_bytes;
                out.extend_from_slice(&bytes[from..from + row_bytes]);
            }
        }
    }
    Ok(out)
}

fn write(made: &[Made<'_>], alpha: f32, base: &Shape) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .put(
            "general.architecture",
            OwnedValue::str(base.architecture.as_str()),
        )
        .put("general.type", OwnedValue::str("adapter"))
        .put("adapter.type", OwnedValue::str("lora"))
        .put("adapter.lora.alpha", OwnedValue::F32(alpha));
    for tensor in made {
        writer.tensor(&tensor.name, &tensor.dims, tensor.kind);
    }
    let header = writer.finish();
    let index = |n: u64| usize::try_from(n).expect("it is made in memory");
    let mut file = header.bytes;
    for (place, tensor) in header.tensors.iter().zip(made) {
        file.resize(index(place.file_offset), 0);
        file.extend_from_slice(&tensor.bytes);
    }
    file.resize(index(header.file_bytes), 0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_heads_are_paired() {
        // Two heads of four rows.
        let paired = permute(&[0, 1, 2, 3, 4, 5, 6, 7], 8, 2).unwrap();
        assert_eq!(paired, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert!(permute(&[0; 6], 6, 2).is_err());
    }

    #[test]
    fn what_cannot_be_carried_over_is_refused_by_name() {
        let check = |text: &str| alpha(text.as_bytes());
        assert_eq!(
            check(r#"{"peft_type":"LORA","r":16,"lora_alpha":32}"#),
            Ok(32.0)
        );
        let stable = r#"{"peft_type":"LORA","r":16,"lora_alpha":8,"use_rslora":true}"#;
        assert_eq!(check(stable), Ok(32.0));
        for (setting, named) in [
            (r#""use_dora":true"#, "use_dora"),
            (r#""bias":"all""#, "bias"),
            (r#""rank_pattern":{"a":1}"#, "rank_pattern"),
            (r#""peft_type":"IA3""#, "peft_type"),
            (r#""r":"x""#, "r is"),
        ] {
            let text = format!(r#"{{"peft_type":"LORA","r":16,"lora_alpha":32,{setting}}}"#);
            let error = check(&text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn names_lead_to_tensors_of_the_base() {
        let layers = "base_model.model.model.layers";
        let name = format!("{layers}.12.mlp.down_proj.lora_B.weight");
        assert_eq!(
            place(&name),
            Some(("blk.12.ffn_down.weight".to_owned(), true))
        );
        for other in [
            ".x.mlp.down_proj.lora_B.weight",
            ".1.mlp.down_proj.weight",
            ".1.norm.lora_A.weight",
        ] {
            assert_eq!(place(&format!("{layers}{other}")), None);
        }
    }
}
