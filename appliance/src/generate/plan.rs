//! The tensors and metadata of a model, before any byte of weights exists.

use outstation_wire::gguf::{GgufWriter, OwnedValue, TensorType};

use super::mix::Role;
use super::vocabulary::Vocabulary;
use super::{Mix, ModelSpec, Shape};

/// A whole model: its header and how to fill each tensor.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) tensors: Vec<TensorPlan>,
    pub(super) writer: GgufWriter,
}

/// A tensor to be filled.
#[derive(Debug, PartialEq)]
pub(super) struct TensorPlan {
    pub(super) name: String,
    /// **Shapes**: `[cols]` or `[cols, rows]`.
    pub(super) dims: Vec<u64>,
    pub(super) kind: TensorType,
    pub(super) fill: Fill,
}

/// What a tensor's values look like.
#[derive(Debug, PartialEq)]
pub(super) enum Fill {
    /// Floats around a mean.
    Vector { mean: f32, deviation: f32 },
    /// Weights around zero.
    Matrix { deviation: f32 },
    /// Weights around zero, with a deviation for each row.
    Rows { deviations: Vec<f32> },
}

impl Plan {
    /// The plan of a spec.
    pub(super) fn new(spec: &ModelSpec) -> Self {
        let name = format!(
            "{} {} random weights, seed {}",
            spec.shape.name, spec.mix, spec.seed
        );
        Self::named(
            spec,
            &name,
            Vocabulary::new(spec.shape.vocab),
            tensors(spec),
        )
    }

    /// The plan of a spec with its own name, words and tensors.
    pub(super) fn named(
        spec: &ModelSpec,
        name: &str,
        vocabulary: Vocabulary,
        tensors: Vec<TensorPlan>,
    ) -> Self {
        let mut writer = GgufWriter::new();
        put_shape(spec, name, &mut writer);
        vocabulary.put(&spec.shape, &mut writer);
        for tensor in &tensors {
            writer.tensor(&tensor.name, &tensor.dims, tensor.kind);
        }
        Self {
            seed: spec.seed,
            tensors,
            writer,
        }
    }
}

fn put_shape(spec: &ModelSpec, name: &str, writer: &mut GgufWriter) {
    let shape = &spec.shape;
    writer
        .put("general.architecture", OwnedValue::str(shape.arch))
        .put("general.name", OwnedValue::str(name))
        .put("general.file_type", OwnedValue::U32(spec.mix.file_type()));
    if spec.mix != Mix::F16 {
        writer.put(
            "general.quantization_version",
            OwnedValue::U32(QUANTIZATION_VERSION),
        );
    }
    for (key, value) in [
        ("block_count", OwnedValue::U32(shape.layers)),
        ("context_length", OwnedValue::U32(spec.context)),
        ("embedding_length", OwnedValue::U32(shape.hidden)),
        ("feed_forward_length", OwnedValue::U32(shape.ffn)),
        ("attention.head_count", OwnedValue::U32(shape.heads)),
        ("attention.head_count_kv", OwnedValue::U32(shape.kv_heads)),
        ("attention.key_length", OwnedValue::U32(shape.head_dim)),
        ("attention.value_length", OwnedValue::U32(shape.head_dim)),
        (
            "attention.layer_norm_rms_epsilon",
            OwnedValue::F32(shape.rms_eps),
        ),
        ("rope.freq_base", OwnedValue::F32(shape.rope_base)),
        ("rope.dimension_count", OwnedValue::U32(shape.head_dim)),
        ("vocab_size", OwnedValue::U32(shape.vocab)),
    ] {
        writer.put(&format!("{}.{key}", shape.arch), value);
    }
}

/// The version of ggml's quantization that our block layouts are. Source: ggml.h `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;

/// The tensors in the order of their use, so that reading a file ahead follows a step through the model.
pub(super) fn tensors(spec: &ModelSpec) -> Vec<TensorPlan> {
    let shape = &spec.shape;
    let embedding_role = if shape.tied {
        Role::Output
    } else {
        Role::Plain
    };
    let mut tensors = vec![TensorPlan {
        // A tied embedding makes logits too: with 0.02 they stay near what trained models give.
        fill: Fill::Matrix {
            deviation: if shape.tied { 0.02 } else { 1.0 },
        },
        ..matrix(
            spec,
            "token_embd.weight",
            embedding_role,
            shape.hidden,
            shape.vocab,
        )
    }];
    for layer in 0..shape.layers {
        tensors.extend(layer_tensors(spec, layer));
    }
    tensors.push(vector("output_norm.weight", shape.hidden, 1.0));
    if !shape.tied {
        tensors.push(matrix(
            spec,
            "output.weight",
            Role::Output,
            shape.hidden,
            shape.vocab,
        ));
    }
    tensors
}

fn layer_tensors(spec: &ModelSpec, layer: u32) -> Vec<TensorPlan> {
    let shape @ &Shape {
        hidden,
        ffn,
        head_dim,
        layers,
        ..
    } = &spec.shape;
    let (q, kv) = (shape.heads * head_dim, shape.kv_heads * head_dim);
    let name = |part: &str| format!("blk.{layer}.{part}");
    let plain = |part, cols, rows| matrix(spec, &name(part), Role::Plain, cols, rows);
    let sensitive = |part, cols, rows| {
        matrix(
            spec,
            &name(part),
            Role::Sensitive { layer, layers },
            cols,
            rows,
        )
    };

    let mut tensors = vec![
        vector(&name("attn_norm.weight"), hidden, 1.0),
        plain("attn_q.weight", hidden, q),
        plain("attn_k.weight", hidden, kv),
        sensitive("attn_v.weight", hidden, kv),
    ];
    if shape.qkv_bias {
        for (part, size) in [("attn_q.bias", q), ("attn_k.bias", kv), ("attn_v.bias", kv)] {
            tensors.push(vector(&name(part), size, 0.0));
        }
    }
    if shape.qk_norm {
        for part in ["attn_q_norm.weight", "attn_k_norm.weight"] {
            tensors.push(vector(&name(part), head_dim, 1.0));
        }
    }
    tensors.extend([
        plain("attn_output.weight", q, hidden),
        vector(&name("ffn_norm.weight"), hidden, 1.0),
        plain("ffn_gate.weight", hidden, ffn),
        plain("ffn_up.weight", hidden, ffn),
        sensitive("ffn_down.weight", ffn, hidden),
    ]);
    tensors
}

/// A vector of floats around `mean`: a norm's gains around 1, a bias around 0.
fn vector(name: &str, size: u32, mean: f32) -> TensorPlan {
    TensorPlan {
        name: name.to_owned(),
        dims: vec![size.into()],
        kind: TensorType::F32,
        fill: Fill::Vector {
            mean,
            deviation: 0.1,
        },
    }
}

/// A matrix whose products have the size of its inputs.
fn matrix(spec: &ModelSpec, name: &str, role: Role, cols: u32, rows: u32) -> TensorPlan {
    TensorPlan {
        name: name.to_owned(),
        dims: vec![cols.into(), rows.into()],
        kind: spec.mix.tensor_type(role, cols),
        fill: Fill::Matrix {
            deviation: (cols as f32).sqrt().recip(),
        },
    }
}
