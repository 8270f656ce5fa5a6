//! The architectures: one row of options each.

use outstation_kernels::ops::RopeStyle;
use outstation_wire::gguf::Gguf;

use super::load::{ModelError, Reader};
use super::rope::{self, RopeBase};
use super::{Activation, Dims, GateUpWeights, Layer, Model, Qkv, Rope};
use crate::limits;

/// What one architecture does differently from another.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    rope: RopeStyle,
    activation: Activation,
    /// Query and key heads are normed.
    qk_norm: QkNorm,
    /// Results of attention and feed-forward are normed before they are added.
    post_norms: PostNorms,
    /// Embeddings are multiplied by the square root of the width.
    embedding_scale: EmbeddingScale,
    /// Which layers see everything, and which have positions.
    pattern: Pattern,
    /// At this number of layers queries are scaled by the width per head instead of the head's own width.
    scaled_by_hidden_at_layers: Option<u32>,
}

#[derive(PartialEq, Eq)]
enum QkNorm {
    Absent,
    PerHead,
}

#[derive(PartialEq, Eq)]
enum PostNorms {
    Absent,
    Present,
}

enum EmbeddingScale {
    One,
    SqrtHidden,
}

enum Pattern {
    /// All layers alike; a sliding window, if the file has one, holds for all.
    Uniform,
    /// Every n-th layer sees everything; the others have a window and their own frequencies, without scaling.
    SlidingBut { every: u32, sliding_theta: f32 },
    /// Every n-th layer has no rotary embedding.
    NoRopeEvery(u32),
}

/// The table. Sources: the models' reference implementations in Hugging Face transformers; GGUF's conventions as
/// documented by llama.cpp (llama and smollm3 files have their query and key rows permuted for adjacent pairs).
const ARCHITECTURES: [Architecture; 6] = [
    Architecture {
        name: "llama",
        rope: RopeStyle::Adjacent,
        ..PLAIN
    },
    Architecture {
        name: "qwen2",
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        qk_norm: QkNorm::PerHead,
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        activation: Activation::GeluTanh,
        qk_norm: QkNorm::PerHead,
        post_norms: PostNorms::Present,
        embedding_scale: EmbeddingScale::SqrtHidden,
        pattern: Pattern::SlidingBut {
            every: 6,
            sliding_theta: 10_000.0,
        },
        scaled_by_hidden_at_layers: Some(62), // Gemma 3 27B: query_pre_attn_scalar = 5376 / 32
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        ..PLAIN
    },
    Architecture {
        name: "smollm3",
        rope: RopeStyle::Adjacent,
        pattern: Pattern::NoRopeEvery(4),
        ..PLAIN
    },
];

const PLAIN: Architecture = Architecture {
    name: "",
    rope: RopeStyle::Halves,
    activation: Activation::Silu,
    qk_norm: QkNorm::Absent,
    post_norms: PostNorms::Absent,
    embedding_scale: EmbeddingScale::One,
    pattern: Pattern::Uniform,
    scaled_by_hidden_at_layers: None,
};

/// Reads the whole description.
pub(super) fn read(gguf: &Gguf<'_>) -> Result<Model, ModelError> {
    const KEY: &str = "general.architecture";
    let name = gguf.str(KEY)?.ok_or_else(|| ModelError::MissingKey {
        key: KEY.to_owned(),
    })?;
    let architecture = ARCHITECTURES
        .iter()
        .find(|a| a.name == name)
        .ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|a| a.name).collect();
            ModelError::UnknownArchitecture {
                found: name.to_owned(),
                known: known.join(", "),
            }
        })?;
    let reader = Reader::new(gguf, name);
    let model = read_as(&reader, architecture)?;
    reader.check_all_used()?;
    Ok(model)
}

fn read_as(reader: &Reader<'_>, architecture: &Architecture) -> Result<Model, ModelError> {
    let dims = read_dims(reader)?;
    let vocabulary = dims.vocabulary as usize;
    let embedding = reader.weight("token_embd.weight", vocabulary, dims.hidden)?;
    let output = reader
        .weight_if("output.weight", vocabulary, dims.hidden)?
        .unwrap_or(embedding.clone());
    let layers = reader.count("block_count", LAYERS_MAX)?;
    let scaled_width = match architecture.scaled_by_hidden_at_layers {
        Some(special) if special == layers => dims.hidden / dims.heads,
        _ => dims.head_dim,
    };
    let attention_scale = (scaled_width as f32).sqrt().recip();
    Ok(Model {
        architecture: architecture.name.to_owned(),
        name: reader.gguf.str("general.name")?.map(str::to_owned),
        embedding,
        embedding_scale: match architecture.embedding_scale {
            EmbeddingScale::One => 1.0,
            EmbeddingScale::SqrtHidden => (dims.hidden as f32).sqrt(),
        },
        ropes: read_ropes(reader, architecture, &dims)?,
        layers: (0..layers)
            .map(|index| read_layer(reader, architecture, &dims, index, attention_scale))
            .collect::<Result<_, _>>()?,
        output_norm: reader.vector("output_norm.weight", dims.hidden)?,
        output,
        norm_eps: reader.positive("attention.layer_norm_rms_epsilon")?,
        packed_bytes: reader.packed_bytes(),
        dims,
    })
}

fn read_dims(reader: &Reader<'_>) -> Result<Dims, ModelError> {
    let hidden = reader.count("embedding_length", WIDTH_MAX)?;
    let heads = reader.count("attention.head_count", HEADS_MAX)?;
    let kv_heads = reader.count_or("attention.head_count_kv", heads, heads)?;
    if heads % kv_heads != 0 {
        return Err(ModelError::BadValue {
            key: reader.key("attention.head_count_kv"),
            value: kv_heads.to_string(),
            why: format!("the {heads} query heads must share them evenly"),
        });
    }
    let head_dim = reader.count_or("attention.key_length", hidden / heads, HEAD_DIM_MAX)?;
    let value_dim = reader.count_or("attention.value_length", head_dim, HEAD_DIM_MAX)?;
    if head_dim != value_dim {
        return Err(ModelError::Unsupported {
            key: reader.key("attention.value_length"),
            value: format!("{value_dim} beside keys of {head_dim}"),
        });
    }
    let ffn = reader.count("feed_forward_length", WIDTH_MAX)?;
    let vocabulary = vocabulary(reader)?;
    let context = reader.count("context_length", u32::MAX)?;
    if context < 2 {
        return Err(ModelError::BadValue {
            key: reader.key("context_length"),
            value: context.to_string(),
            why: "a prompt has a token, and an answer has one".into(),
        });
    }
    Ok(Dims {
        hidden: hidden as usize,
        heads: heads as usize,
        kv_heads: kv_heads as usize,
        head_dim: head_dim as usize,
        ffn: ffn as usize,
        vocabulary,
        context_positions: context.min(limits::CONTEXT_POSITIONS_MAX),
    })
}

/// The rows of the embedding say how many tokens there are; metadata may leave it out.
fn vocabulary(reader: &Reader<'_>) -> Result<u32, ModelError> {
    const NAME: &str = "token_embd.weight";
    let tensor = reader
        .gguf
        .tensor(NAME)
        .ok_or_else(|| ModelError::MissingTensor {
            name: NAME.to_owned(),
            architecture: reader.architecture.to_owned(),
        })?;
    u32::try_from(tensor.rows())
        .ok()
        .filter(|&rows| (1..=VOCABULARY_MAX).contains(&rows))
        .ok_or_else(|| ModelError::BadValue {
            key: NAME.to_owned(),
            value: format!("{} rows", tensor.rows()),
            why: format!("a vocabulary has 1 to {VOCABULARY_MAX} tokens"),
        })
}

fn read_ropes(
    reader: &Reader<'_>,
    architecture: &Architecture,
    dims: &Dims,
) -> Result<Box<[Rope]>, ModelError> {
    let theta = reader.positive_or("rope.freq_base", 10_000.0)?;
    let style = architecture.rope;
    let main = rope::read(
        reader,
        dims,
        &RopeBase {
            style,
            theta,
            scaled: true,
        },
    )?;
    let Pattern::SlidingBut { sliding_theta, .. } = architecture.pattern else {
        return Ok(Box::new([main]));
    };
    let theta = reader.positive_or("rope.freq_base_swa", sliding_theta)?;
    let sliding = rope::read(
        reader,
        dims,
        &RopeBase {
            style,
            theta,
            scaled: false,
        },
    )?;
    Ok(Box::new([main, sliding]))
}

fn read_layer(
    reader: &Reader<'_>,
    architecture: &Architecture,
    dims: &Dims,
    index: u32,
    attention_scale: f32,
) -> Result<Layer, ModelError> {
    let name = |tensor: &str| format!("blk.{index}.{tensor}.weight");
    let norm = |tensor: &str| reader.vector(&name(tensor), dims.hidden);
    let norm_if = |tensor: &str| match architecture.post_norms {
        PostNorms::Absent => Ok(None),
        PostNorms::Present => norm(tensor).map(Some),
    };
    let head_norm = |tensor: &str| reader.vector(&name(tensor), dims.head_dim);
    let qk_norm = match architecture.qk_norm {
        QkNorm::Absent => None,
        QkNorm::PerHead => Some([head_norm("attn_q_norm")?, head_norm("attn_k_norm")?]),
    };
    let (rope, window) = position_options(reader, architecture, index)?;
    Ok(Layer {
        attention_norm: norm("attn_norm")?,
        qkv: read_qkv(reader, dims, index)?,
        qkv_bias: read_qkv_bias(reader, dims, index)?,
        qk_norm,
        rope,
        window,
        attention_scale,
        attention_output: reader.weight(&name("attn_output"), dims.hidden, dims.q_width())?,
        attention_post_norm: norm_if("post_attention_norm")?,
        ffn_norm: norm("ffn_norm")?,
        gate_up: read_gate_up(reader, dims, index)?,
        activation: architecture.activation,
        down: reader.weight(&name("ffn_down"), dims.hidden, dims.ffn)?,
        ffn_post_norm: norm_if("post_ffw_norm")?,
    })
}

/// Which rotary embedding a layer has, and how far it sees.
fn position_options(
    reader: &Reader<'_>,
    architecture: &Architecture,
    index: u32,
) -> Result<(Option<usize>, Option<u32>), ModelError> {
    let window = reader
        .gguf
        .u32(&reader.key("attention.sliding_window"))?
        .filter(|&window| window > 0);
    Ok(match architecture.pattern {
        Pattern::Uniform => (Some(0), window),
        Pattern::NoRopeEvery(n) => ((!(index + 1).is_multiple_of(n)).then_some(0), window),
        Pattern::SlidingBut { every, .. } => {
            let every = reader.count_or("attention.sliding_window_pattern", every, LAYERS_MAX)?;
            if (index + 1).is_multiple_of(every) {
                (Some(0), None)
            } else {
                (Some(1), window)
            }
        }
    })
}

fn read_qkv(reader: &Reader<'_>, dims: &Dims, index: u32) -> Result<Qkv, ModelError> {
    let name = |tensor: &str| format!("blk.{index}.{tensor}.weight");
    let (q, kv) = (dims.q_width(), dims.kv_width());
    if let Some(fused) = reader.weight_if(&name("attn_qkv"), q + 2 * kv, dims.hidden)? {
        return Ok(Qkv::Fused(fused));
    }
    Ok(Qkv::Split {
        q: reader.weight(&name("attn_q"), q, dims.hidden)?,
        k: reader.weight(&name("attn_k"), kv, dims.hidden)?,
        v: reader.weight(&name("attn_v"), kv, dims.hidden)?,
    })
}

fn read_qkv_bias(
    reader: &Reader<'_>,
    dims: &Dims,
    index: u32,
) -> Result<Option<[Box<[f32]>; 3]>, ModelError> {
    let name = |tensor: &str| format!("blk.{index}.{tensor}.bias");
    let Some(q) = reader.vector_if(&name("attn_q"), dims.q_width())? else {
        return Ok(None);
    };
    let k = reader.vector(&name("attn_k"), dims.kv_width())?;
    let v = reader.vector(&name("attn_v"), dims.kv_width())?;
    Ok(Some([q, k, v]))
}

fn read_gate_up(reader: &Reader<'_>, dims: &Dims, index: u32) -> Result<GateUpWeights, ModelError> {
    let gate = format!("blk.{index}.ffn_gate.weight");
    let up = format!("blk.{index}.ffn_up.weight");
    Ok(match reader.weight_if(&gate, dims.ffn, dims.hidden)? {
        Some(gate) => GateUpWeights::Split {
            gate,
            up: reader.weight(&up, dims.ffn, dims.hidden)?,
        },
        None => GateUpWeights::Fused(reader.weight(&up, 2 * dims.ffn, dims.hidden)?),
    })
}

/// Ceilings of what a file may claim; the largest published dense models stay below a quarter of each.
const LAYERS_MAX: u32 = 1024;
const WIDTH_MAX: u32 = 1 << 18;
const HEADS_MAX: u32 = 1024;
const HEAD_DIM_MAX: u32 = 1024;
const VOCABULARY_MAX: u32 = 1 << 20;
