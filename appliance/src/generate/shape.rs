//! Sizes of known models. Source: the `config.json` of each at Hugging Face.

use std::str::FromStr;

use super::UnknownName;

/// The sizes and options that make a decoder of a known family.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// What users call it.
    pub name: &'static str,
    /// The family's name in GGUF: `llama`, `qwen2` or `qwen3`.
    pub arch: &'static str,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Width of the feed-forward part.
    pub ffn: u32,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f32,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Whether the output matrix is the token embedding.
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether queries and keys are normed per head.
    pub qk_norm: bool,
}

impl Shape {
    /// The known shapes, smallest last.
    pub const ALL: [Self; 7] = [
        Self {
            name: "llama3.1-8b",
            hidden: 4096,
            layers: 32,
            heads: 32,
            head_dim: 128,
            ffn: 14336,
            tied: false,
            ..LLAMA_3
        },
        Self {
            name: "llama3.2-3b",
            hidden: 3072,
            layers: 28,
            heads: 24,
            head_dim: 128,
            ..LLAMA_3
        },
        LLAMA_3,
        Self {
            name: "qwen3-0.6b",
            arch: "qwen3",
            hidden: 1024,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            ffn: 3072,
            qkv_bias: false,
            qk_norm: true,
            ..QWEN_2
        },
        QWEN_2,
        TINY_LLAMA,
        Self {
            name: "tiny-qwen3",
            arch: "qwen3",
            rope_base: 1e6,
            rms_eps: 1e-6,
            qk_norm: true,
            ..TINY_LLAMA
        },
    ];
}

const LLAMA_3: Shape = Shape {
    name: "llama3.2-1b",
    arch: "llama",
    hidden: 2048,
    layers: 16,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    ffn: 8192,
    rope_base: 5e5,
    rms_eps: 1e-5,
    vocab: 128_256,
    tied: true,
    qkv_bias: false,
    qk_norm: false,
};

const QWEN_2: Shape = Shape {
    name: "qwen2.5-0.5b",
    arch: "qwen2",
    hidden: 896,
    layers: 24,
    heads: 14,
    kv_heads: 2,
    head_dim: 64,
    ffn: 4864,
    rope_base: 1e6,
    rms_eps: 1e-6,
    vocab: 151_936,
    tied: true,
    qkv_bias: true,
    qk_norm: false,
};

/// For tests: every row is whole quant blocks of 256.
const TINY_LLAMA: Shape = Shape {
    name: "tiny-llama",
    arch: "llama",
    hidden: 256,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    ffn: 768,
    rope_base: 1e4,
    rms_eps: 1e-5,
    vocab: 2048,
    tied: true,
    qkv_bias: false,
    qk_norm: false,
};

impl FromStr for Shape {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL
            .into_iter()
            .find(|shape| shape.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownName {
            what: "shape",
            name: name.to_owned(),
            known: Self::ALL.map(|shape| shape.name).join(", "),
        })
    }
}
