//! Why a file is not an adapter of the base that is served.

use outstation_wire::gguf::GgufError;

use super::SafetensorsError;

/// Why an adapter is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// A damaged GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A damaged safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A GGUF file of something else.
    #[error(
        "`{key}` is {found}, not `{wanted}`: name a LoRA adapter that llama.cpp's convert_lora_to_gguf.py made"
    )]
    NotAdapter {
        /// Which key.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it must say.
        wanted: &'static str,
    },
    /// Made for another architecture.
    #[error(
        "the adapter is for architecture `{found}`, the base is `{base}`: use the base that it was trained on"
    )]
    Architecture {
        /// The adapter's.
        found: String,
        /// The base's.
        base: String,
    },
    /// A tensor that the base has no matrix for.
    #[error(
        "tensor `{tensor}` adds to nothing that this base lets adapters add to: query, key, value, output, gate, up \
         and down projections of its {layers} layers, fused as the base has them"
    )]
    NoTarget {
        /// The tensor.
        tensor: String,
        /// Layers of the base.
        layers: usize,
    },
    /// A tensor of another shape.
    #[error(
        "tensor `{tensor}` is [{found_rows}, {found_cols}], the base makes it [{rows}, {cols}]: use the base that it \
         was trained on"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its rows.
        found_rows: u64,
        /// Its columns.
        found_cols: u64,
        /// Rows by the base and the other factor.
        rows: u64,
        /// Columns by them.
        cols: u64,
    },
    /// One factor of two.
    #[error("tensor `{tensor}` has no partner: the file is damaged, or not complete")]
    Alone {
        /// The one that is there.
        tensor: String,
    },
    /// Two tensors for one matrix.
    #[error("tensor `{tensor}` comes twice")]
    Twice {
        /// Which.
        tensor: String,
    },
    /// A higher rank than was planned for.
    #[error(
        "the adapter has rank {found}, the pool has places for {max}: raise adapters.rank_max and restart"
    )]
    Rank {
        /// The adapter's.
        found: usize,
        /// The pool's.
        max: usize,
    },
    /// A format that factors do not come in.
    #[error("tensor `{tensor}` is {found}: factors must be F32, F16, BF16 or Q8_0")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// NaN or infinite.
    #[error("tensor `{tensor}` has values that are no numbers, or past what can be computed")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// A setting that we do not do.
    #[error(
        "`{key}` is {value}: this build does not support it, and answers without it would be wrong"
    )]
    Unsupported {
        /// Which.
        key: String,
        /// What the file says.
        value: String,
    },
    /// A setting that must be there, of its type.
    #[error("`{key}` is {found}: it must be {wanted}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A configuration that is no JSON.
    #[error("adapter_config.json cannot be read: {what}")]
    Config {
        /// Why.
        what: String,
    },
    /// Nothing in it.
    #[error("the adapter has no tensors: it adds nothing")]
    Empty,
}
