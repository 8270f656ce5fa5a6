//! A decoder as data.
//!
//! Every architecture is the same list of layers with options: which norms, biases, rotary embedding, window,
//! activation and scales. `model::arch` reads them from GGUF metadata; a new architecture is a new entry there, not a
//! new loop. The engine executes the description and knows no architecture.
//!
//! A [`Weight`] is a format, a shape, a range of the file's bytes, and a range of the memory that the engine reads.

use std::ops::Range;

use outstation_kernels::ops::{KvFormat, RopeStyle};
use outstation_kernels::quant::Format;

mod arch;
mod load;
mod rope;

pub use load::ModelError;
pub(crate) use load::format_of;

/// A decoder, complete but for the bytes of its weights.
#[derive(Debug)]
pub struct Model {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// Sizes.
    pub dims: Dims,
    /// Token embeddings, `[vocabulary, hidden]`.
    pub embedding: Weight,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Rotary embeddings that layers refer to by index.
    pub ropes: Box<[Rope]>,
    /// The layers, first to last.
    pub layers: Box<[Layer]>,
    /// Norm before the head, `[hidden]`.
    pub output_norm: Box<[f32]>,
    /// Head, `[vocabulary, hidden]`; the embedding itself where they are tied.
    pub output: Weight,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Bytes of all weights, packed.
    pub packed_bytes: usize,
}

/// Sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Tokens.
    pub vocabulary: u32,
    /// Positions that the model was trained for.
    pub context_positions: u32,
}

impl Dims {
    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// A matrix `[rows, cols]` in the model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// How it is quantized.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
    /// Its bytes in memory, packed for the kernels: see `engine::cpu::pack`.
    pub packed: Range<usize>,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention, `[hidden]`.
    pub attention_norm: Box<[f32]>,
    /// Query, key and value projections.
    pub qkv: Qkv,
    /// Biases of query, key and value.
    pub qkv_bias: Option<[Box<[f32]>; 3]>,
    /// Norms of each query and key head, `[head_dim]`.
    pub qk_norm: Option<[Box<[f32]>; 2]>,
    /// Index of its rotary embedding; `None` leaves positions out.
    pub rope: Option<usize>,
    /// Positions that a query sees, itself included; `None` is all.
    pub window: Option<u32>,
    /// Multiplies the products of query and key.
    pub attention_scale: f32,
    /// Projection after attention, `[hidden, heads * head_dim]`.
    pub attention_output: Weight,
    /// Norm of the attention's result before it is added, `[hidden]`.
    pub attention_post_norm: Option<Box<[f32]>>,
    /// Norm before the feed-forward layer, `[hidden]`.
    pub ffn_norm: Box<[f32]>,
    /// Gate and up projections.
    pub gate_up: GateUpWeights,
    /// Between gate and up.
    pub activation: Activation,
    /// Projection back, `[hidden, ffn]`.
    pub down: Weight,
    /// Norm of the feed-forward result before it is added, `[hidden]`.
    pub ffn_post_norm: Option<Box<[f32]>>,
}

/// Query, key and value projections.
#[derive(Debug)]
pub enum Qkv {
    /// Three matrices.
    Split {
        /// `[heads * head_dim, hidden]`
        q: Weight,
        /// `[kv_heads * head_dim, hidden]`
        k: Weight,
        /// `[kv_heads * head_dim, hidden]`
        v: Weight,
    },
    /// One matrix: the rows of query, then key, then value.
    Fused(Weight),
}

/// Gate and up projections.
#[derive(Debug)]
pub enum GateUpWeights {
    /// Two matrices.
    Split {
        /// `[ffn, hidden]`
        gate: Weight,
        /// `[ffn, hidden]`
        up: Weight,
    },
    /// One matrix: the rows of gate, then up.
    Fused(Weight),
}

/// Nonlinearity of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which elements of a head form a pair.
    pub style: RopeStyle,
    /// Angle per position of each pair, scaling included.
    pub inv_freq: Box<[f64]>,
    /// Multiplies sine and cosine.
    pub magnitude: f32,
}

impl Model {
    /// Reads the description from a parsed file.
    pub fn from_gguf(gguf: &outstation_wire::gguf::Gguf<'_>) -> Result<Self, ModelError> {
        arch::read(gguf)
    }

    /// Bytes of keys and values of one position over all layers.
    pub fn kv_bytes_per_position(&self, format: KvFormat) -> u64 {
        let head = format.plane_bytes(self.dims.head_dim, 1);
        (2 * self.layers.len() * self.dims.kv_heads * head) as u64
    }

    /// Multiply-adds with weights that a token of a long prompt needs: every layer once, the output for one token only.
    pub fn products_per_prompt_token(&self) -> u64 {
        self.weights()
            .filter(|w| **w != self.embedding && **w != self.output)
            .map(|w| (w.rows * w.cols) as u64)
            .sum()
    }

    /// Every weight once; the head is left out where it is the embedding.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        let layers = self.layers.iter().flat_map(|layer| {
            let qkv = match &layer.qkv {
                Qkv::Split { q, k, v } => vec![q, k, v],
                Qkv::Fused(w) => vec![w],
            };
            let gate_up = match &layer.gate_up {
                GateUpWeights::Split { gate, up } => vec![gate, up],
                GateUpWeights::Fused(w) => vec![w],
            };
            qkv.into_iter()
                .chain(gate_up)
                .chain([&layer.attention_output, &layer.down])
        });
        let head = (self.output != self.embedding).then_some(&self.output);
        std::iter::once(&self.embedding).chain(head).chain(layers)
    }

    /// Bytes of weights that decoding one token reads: every matrix once, of the embedding one row unless it is the
    /// head.
    pub fn bytes_read_per_step(&self) -> u64 {
        let tied = self.output == self.embedding;
        self.weights()
            .filter(|w| tied || **w != self.embedding)
            .map(|w| w.bytes.len() as u64)
            .sum()
    }
}
