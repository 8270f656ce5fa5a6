//! File types: which tensor gets which quant type.
//!
//! Source: llama.cpp `src/llama-quant.cpp` (`llama_tensor_get_type`), without an importance matrix. The golden test
//! holds us to the files that its quantizer made.

use std::fmt;
use std::str::FromStr;

use outstation_wire::gguf::TensorType;

use super::UnknownName;

/// A file type: a base type and exceptions for the tensors that suffer most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Half precision; nothing is quantized.
    F16,
    /// Q4_0, output Q6_K.
    Q4_0,
    /// Q8_0 throughout.
    Q8_0,
    /// Q4_K; output, half of the values and half of the down projections Q6_K.
    Q4KM,
    /// Q5_K; output, half of the values and half of the down projections Q6_K.
    Q5KM,
    /// Q6_K throughout.
    Q6K,
}

/// What a matrix is for, as far as its type depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Makes logits: the output matrix, or the token embedding where it is tied.
    Output,
    /// A value or down projection of a layer.
    Sensitive { layer: u32, layers: u32 },
    /// Any other matrix.
    Plain,
}

impl Mix {
    /// Every mix.
    pub const ALL: [Self; 6] = [
        Self::F16,
        Self::Q4_0,
        Self::Q8_0,
        Self::Q4KM,
        Self::Q5KM,
        Self::Q6K,
    ];

    /// The name in file names: `q4_k_m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
            Self::Q4KM => "q4_k_m",
            Self::Q5KM => "q5_k_m",
            Self::Q6K => "q6_k",
        }
    }

    /// `general.file_type`. Source: llama.h `enum llama_ftype`.
    pub(super) const fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q5KM => 17,
            Self::Q6K => 18,
        }
    }

    /// The type of a matrix with rows of `cols` elements.
    pub(super) fn tensor_type(self, role: Role, cols: u32) -> TensorType {
        let base = match self {
            Self::F16 => return TensorType::F16,
            Self::Q8_0 => return TensorType::Q8_0,
            Self::Q4_0 => TensorType::Q4_0,
            Self::Q4KM => TensorType::Q4K,
            Self::Q5KM => TensorType::Q5K,
            Self::Q6K => TensorType::Q6K,
        };
        let promoted = match (self, role) {
            (_, Role::Output) => TensorType::Q6K,
            (Self::Q4KM | Self::Q5KM, Role::Sensitive { layer, layers })
                if gets_more_bits(layer, layers) =>
            {
                TensorType::Q6K
            }
            _ => base,
        };
        if u64::from(cols).is_multiple_of(promoted.block_elements()) {
            return promoted;
        }
        // Rows that quant blocks of 256 do not divide get the next better type with blocks of 32.
        match promoted {
            TensorType::Q4K => TensorType::Q5_0,
            TensorType::Q5K => TensorType::Q5_1,
            TensorType::Q6K => TensorType::Q8_0,
            small => panic!("rows of {cols} elements cannot be {small}"),
        }
    }
}

/// The first and last eighth of the layers, and each third one between.
const fn gets_more_bits(layer: u32, layers: u32) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mix {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL
            .into_iter()
            .find(|mix| mix.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownName {
            what: "mix",
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}
