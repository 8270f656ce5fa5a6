//! Adapters in llama.cpp's format: a GGUF file of type `adapter` with two tensors for each matrix.
//!
//! ```text
//! general.type = adapter    adapter.type = lora    adapter.lora.alpha    general.architecture: the base's
//! <base tensor>.lora_a      [rank, cols]           <base tensor>.lora_b  [rows, rank]
//! ```
//!
//! Source: llama.cpp `src/llama-adapter.cpp` and `convert_lora_to_gguf.py`. Rows are in the order of the base.

use std::collections::HashMap;

use outstation_wire::gguf::{Gguf, Tensor, TensorType};

use super::{Adapter, AdapterError, Base, Pair, RowOrder, Rows};
use crate::model::format_of;

impl<'a> Adapter<'a> {
    /// Reads an adapter of a base with these targets.
    pub fn from_gguf(gguf: &Gguf<'a>, targets: &Base) -> Result<Self, AdapterError> {
        expect(gguf, "general.type", "adapter")?;
        expect(gguf, "adapter.type", "lora")?;
        let architecture = gguf.str("general.architecture")?.unwrap_or("not there");
        if architecture != targets.architecture {
            return Err(AdapterError::Architecture {
                found: architecture.to_owned(),
                base: targets.architecture.clone(),
            });
        }
        if let Some(value) = gguf.value(ACTIVATED) {
            return Err(AdapterError::Unsupported {
                key: ACTIVATED.to_owned(),
                value: value.to_string(),
            });
        }
        let alpha = gguf.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        let mut pairs: HashMap<&str, [Option<&Tensor<'a>>; 2]> = HashMap::new();
        let mut order = Vec::new();
        for tensor in gguf.tensors() {
            let name = tensor.name();
            let (base, factor) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b"))
            {
                (Some(base), _) => (base, 0),
                (_, Some(base)) => (base, 1),
                _ => return Err(no_target(name, targets)),
            };
            let pair = pairs.entry(base).or_insert_with(|| {
                order.push(base);
                [None, None]
            });
            pair[factor] = Some(tensor);
        }
        if order.is_empty() {
            return Err(AdapterError::Empty);
        }
        let read = |base: &&str| match pairs[base] {
            [Some(a), Some(b)] => read_pair(base, [a, b], alpha, targets),
            [Some(one), None] | [None, Some(one)] => Err(AdapterError::Alone {
                tensor: one.name().to_owned(),
            }),
            [None, None] => unreachable!("it came with one"),
        };
        Ok(Self {
            pairs: order.iter().map(read).collect::<Result<_, _>>()?,
        })
    }
}

/// Adapters that begin to act only after certain tokens.
const ACTIVATED: &str = "adapter.alora.invocation_tokens";

fn expect(gguf: &Gguf<'_>, key: &'static str, wanted: &'static str) -> Result<(), AdapterError> {
    match gguf.str(key)? {
        Some(found) if found == wanted => Ok(()),
        found => Err(AdapterError::NotAdapter {
            key,
            found: found.map_or("not there".to_owned(), |found| format!("`{found}`")),
            wanted,
        }),
    }
}

fn no_target(tensor: &str, targets: &Base) -> AdapterError {
    AdapterError::NoTarget {
        tensor: tensor.to_owned(),
        layers: targets.layers,
    }
}

fn read_pair<'a>(
    base: &str,
    [a, b]: [&Tensor<'a>; 2],
    alpha: f32,
    targets: &Base,
) -> Result<Pair<'a>, AdapterError> {
    let target = targets
        .named(base)
        .ok_or_else(|| no_target(a.name(), targets))?;
    let shape = &targets.targets[target];
    check_shape(a, a.rows(), shape.cols as u64)?;
    check_shape(b, shape.rows as u64, a.rows())?;
    let rank = usize::try_from(a.rows()).expect("its bytes are in the file");
    Ok(Pair {
        target,
        name: a.name().to_owned(),
        rank,
        // llama.cpp takes a missing alpha, and 0, for a scale of 1.
        scale: if alpha == 0.0 {
            1.0
        } else {
            alpha / rank as f32
        },
        a: rows(a, shape.cols)?,
        b: rows(b, rank)?,
        order: RowOrder::Same,
    })
}

fn check_shape(tensor: &Tensor<'_>, rows: u64, cols: u64) -> Result<(), AdapterError> {
    if (tensor.rows(), tensor.cols()) == (rows, cols) {
        return Ok(());
    }
    Err(AdapterError::Shape {
        tensor: tensor.name().to_owned(),
        found_rows: tensor.rows(),
        found_cols: tensor.cols(),
        rows,
        cols,
    })
}

fn rows<'a>(tensor: &Tensor<'a>, cols: usize) -> Result<Rows<'a>, AdapterError> {
    match tensor.kind() {
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 | TensorType::Q8_0 => Ok(Rows {
            format: format_of(tensor.kind()),
            cols,
            bytes: tensor.data(),
        }),
        other => Err(AdapterError::Type {
            tensor: tensor.name().to_owned(),
            found: other.name().to_owned(),
        }),
    }
}
