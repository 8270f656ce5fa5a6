//! Adapters as Hugging Face's PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! ```text
//! base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight   [r, in]
//! base_model.model.model.layers.N.self_attn.q_proj.lora_B.weight   [out, r]
//! ```
//!
//! The scale is `lora_alpha / r`, or `lora_alpha / √r` with `use_rslora`. Rows of queries and keys are in Hugging
//! Face's order. What changes the result and is not done here is refused by its name. Source: PEFT
//! `src/peft/tuners/lora/config.py` and `layer.py`.

use std::collections::BTreeMap;

use outstation_kernels::quant::Format;
use serde_json::{Map, Value};

use super::safetensors::{self, SafeTensor};
use super::{Adapter, AdapterError, Base, Pair, Projection, RowOrder, Rows, parse_index};
use crate::limits;

impl<'a> Adapter<'a> {
    /// Reads an adapter of a base with these targets.
    pub fn from_peft(
        config: &[u8],
        tensors: &'a [u8],
        targets: &Base,
    ) -> Result<Self, AdapterError> {
        let config = Config::parse(config)?;
        let mut places: BTreeMap<usize, [Option<SafeTensor<'a>>; 2]> = BTreeMap::new();
        for tensor in safetensors::parse(tensors)? {
            let place = place_of(&tensor.name, targets);
            let (target, factor) = place.ok_or_else(|| AdapterError::NoTarget {
                tensor: tensor.name.clone(),
                layers: targets.layers,
            })?;
            let pair = places.entry(target).or_default();
            if let Some(other) = pair[factor].replace(tensor) {
                return Err(AdapterError::Twice { tensor: other.name });
            }
        }
        if places.is_empty() {
            return Err(AdapterError::Empty);
        }
        let read = |(target, pair): (usize, [Option<SafeTensor<'a>>; 2])| match pair {
            [Some(a), Some(b)] => config.pair(target, &a, &b, targets),
            [Some(one), None] | [None, Some(one)] => Err(AdapterError::Alone { tensor: one.name }),
            [None, None] => unreachable!("it came with one"),
        };
        Ok(Self {
            pairs: places.into_iter().map(read).collect::<Result<_, _>>()?,
        })
    }
}

/// What of the configuration counts.
struct Config {
    rank: usize,
    scale: f32,
}

/// Settings that change the result, and the values that do not.
const REFUSED: [(&str, &[&str]); 14] = [
    ("fan_in_fan_out", &["false"]),
    ("bias", &["\"none\""]),
    ("use_dora", &["false"]),
    ("lora_bias", &["false"]),
    ("modules_to_save", &["[]"]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("layer_replication", &["[]"]),
    ("target_parameters", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("alora_invocation_tokens", &["[]"]),
    ("use_qalora", &["false"]),
    ("arrow_config", &["{}"]),
    ("use_bdlora", &["false"]),
];

impl Config {
    fn parse(text: &[u8]) -> Result<Self, AdapterError> {
        let config: Map<String, Value> =
            serde_json::from_slice(text).map_err(|e| AdapterError::Config {
                what: e.to_string(),
            })?;
        let of = |key: &str| config.get(key).unwrap_or(&Value::Null);
        if of("peft_type") != "LORA" {
            return Err(setting("peft_type", of("peft_type"), "\"LORA\""));
        }
        for (key, harmless) in REFUSED {
            let value = of(key);
            if !value.is_null() && !harmless.contains(&&*value.to_string()) {
                return Err(AdapterError::Unsupported {
                    key: key.to_owned(),
                    value: shown(value),
                });
            }
        }
        let rank = of("r").as_u64().and_then(|r| u32::try_from(r).ok());
        let rank = rank
            .filter(|r| (1..=limits::ADAPTER_RANK_MAX).contains(r))
            .ok_or_else(|| setting("r", of("r"), "a whole number from 1 to 512"))?;
        let alpha = of("lora_alpha").as_f64().filter(|alpha| alpha.is_finite());
        let alpha =
            alpha.ok_or_else(|| setting("lora_alpha", of("lora_alpha"), "a finite number"))?;
        let divisor = match of("use_rslora") {
            Value::Null | Value::Bool(false) => f64::from(rank),
            Value::Bool(true) => f64::from(rank).sqrt(),
            other => return Err(setting("use_rslora", other, "true or false")),
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded once; what leaves the range is refused with the factors"
        )]
        let scale = (alpha / divisor) as f32;
        Ok(Self {
            rank: rank as usize,
            scale,
        })
    }

    fn pair<'a>(
        &self,
        target: usize,
        a: &SafeTensor<'a>,
        b: &SafeTensor<'a>,
        targets: &Base,
    ) -> Result<Pair<'a>, AdapterError> {
        let shape = &targets.targets[target];
        let permuted =
            targets.permuted && matches!(shape.projection, Projection::Q | Projection::K);
        Ok(Pair {
            target,
            name: a.name.clone(),
            rank: self.rank,
            scale: self.scale,
            a: rows(a, self.rank, shape.cols)?,
            b: rows(b, shape.rows, self.rank)?,
            order: if permuted {
                RowOrder::Halves {
                    head_dim: targets.head_dim,
                }
            } else {
                RowOrder::Same
            },
        })
    }
}

fn setting(key: &'static str, found: &Value, wanted: &'static str) -> AdapterError {
    AdapterError::Setting {
        key,
        found: match found {
            Value::Null => "not there".to_owned(),
            found => shown(found),
        },
        wanted,
    }
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}

/// Which matrix of the base a tensor adds to, and whether it is the first factor or the second.
fn place_of(name: &str, targets: &Base) -> Option<(usize, usize)> {
    let name = name.strip_prefix("base_model.model.")?;
    let layers = [
        "model.layers.",
        "model.language_model.layers.",
        "language_model.model.layers.",
    ];
    let rest = layers.iter().find_map(|start| name.strip_prefix(start))?;
    let (layer, rest) = rest.split_once('.')?;
    let (module, factor) = match (
        rest.strip_suffix(".lora_A.weight"),
        rest.strip_suffix(".lora_B.weight"),
    ) {
        (Some(module), _) => (module, 0),
        (_, Some(module)) => (module, 1),
        _ => return None,
    };
    let projection = match module {
        "self_attn.q_proj" => Projection::Q,
        "self_attn.k_proj" => Projection::K,
        "self_attn.v_proj" => Projection::V,
        "self_attn.qkv_proj" => Projection::Qkv,
        "self_attn.o_proj" => Projection::Output,
        "mlp.gate_proj" => Projection::Gate,
        "mlp.up_proj" => Projection::Up,
        "mlp.gate_up_proj" => Projection::GateUp,
        "mlp.down_proj" => Projection::Down,
        _ => return None,
    };
    let target = targets.find(parse_index(layer)?, projection)?;
    Some((target, factor))
}

fn rows<'a>(tensor: &SafeTensor<'a>, rows: usize, cols: usize) -> Result<Rows<'a>, AdapterError> {
    if tensor.shape[..] != [rows as u64, cols as u64] {
        let dim = |index: usize| tensor.shape.get(index).copied().unwrap_or(1);
        return Err(AdapterError::Shape {
            tensor: tensor.name.clone(),
            found_rows: dim(0),
            found_cols: dim(1),
            rows: rows as u64,
            cols: cols as u64,
        });
    }
    let format = match &*tensor.kind {
        "F32" => Format::F32,
        "F16" => Format::F16,
        "BF16" => Format::Bf16,
        other => {
            return Err(AdapterError::Type {
                tensor: tensor.name.clone(),
                found: other.to_owned(),
            });
        }
    };
    Ok(Rows {
        format,
        cols,
        bytes: tensor.data,
    })
}
