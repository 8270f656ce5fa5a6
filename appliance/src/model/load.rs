//! Typed access to a model file: tensors with the shapes that the description asks for.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use outstation_kernels::ops::Matrix;
use outstation_kernels::quant::Format;
use outstation_wire::gguf::{Gguf, GgufError, Tensor, TensorType};

use super::Weight;

/// Why a file is not a model that we can run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Metadata of another type than it must have.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Metadata that the architecture needs.
    #[error("the file has no `{key}`: it is damaged, or was not converted by llama.cpp's tools")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// Metadata whose value makes no sense.
    #[error("`{key}` is {value}: {why}")]
    BadValue {
        /// The key.
        key: String,
        /// What the file says.
        value: String,
        /// What it must be.
        why: String,
    },
    /// A tensor that the architecture needs.
    #[error("the file has no tensor `{name}`, which architecture `{architecture}` needs")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: String,
    },
    /// A tensor that we would have to ignore.
    #[error(
        "tensor `{name}` has no place in architecture `{architecture}` as this build knows it: answers without it would be wrong"
    )]
    UnusedTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: String,
    },
    /// A tensor of another shape than the metadata says.
    #[error(
        "tensor `{name}` is [{cols}, {rows}], the metadata makes it [{cols_wanted}, {rows_wanted}]"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Inputs in the file.
        cols: u64,
        /// Outputs in the file.
        rows: u64,
        /// Inputs by metadata.
        cols_wanted: usize,
        /// Outputs by metadata.
        rows_wanted: usize,
    },
    /// A small tensor that must be F32.
    #[error("tensor `{name}` is {found}: norms, biases and factors must be F32")]
    NotF32 {
        /// The tensor.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// An architecture without an entry.
    #[error("architecture `{found}` is not supported: this build knows {known}")]
    UnknownArchitecture {
        /// The file's.
        found: String,
        /// Ours.
        known: String,
    },
    /// Metadata that asks for something the engine does not do.
    #[error("`{key}` is {value}, which this build does not support")]
    Unsupported {
        /// The key.
        key: String,
        /// What the file says.
        value: String,
    },
}

/// The kernels' name of a tensor type.
pub(crate) fn format_of(kind: TensorType) -> Format {
    match kind {
        TensorType::F32 => Format::F32,
        TensorType::F16 => Format::F16,
        TensorType::Bf16 => Format::Bf16,
        TensorType::Q4_0 => Format::Q4_0,
        TensorType::Q4_1 => Format::Q4_1,
        TensorType::Q5_0 => Format::Q5_0,
        TensorType::Q5_1 => Format::Q5_1,
        TensorType::Q8_0 => Format::Q8_0,
        TensorType::Q2K => Format::Q2K,
        TensorType::Q3K => Format::Q3K,
        TensorType::Q4K => Format::Q4K,
        TensorType::Q5K => Format::Q5K,
        TensorType::Q6K => Format::Q6K,
        TensorType::Iq4Nl => Format::Iq4Nl,
        TensorType::Iq4Xs => Format::Iq4Xs,
    }
}

/// A file and the architecture whose keys are read from it.
pub(super) struct Reader<'a> {
    pub(super) gguf: &'a Gguf<'a>,
    pub(super) architecture: &'a str,
    /// Tensors that were read. A tensor that nobody reads means that the model is another one than we compute.
    used: RefCell<HashSet<&'a str>>,
    /// Bytes of vectors that were copied out of the file, which are at most as many as the file has.
    copied_bytes: Cell<u64>,
    /// Where the next matrix goes in packed memory.
    packed_end: Cell<usize>,
    file_bytes: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(gguf: &'a Gguf<'a>, architecture: &'a str) -> Self {
        Self {
            gguf,
            architecture,
            used: RefCell::default(),
            copied_bytes: Cell::new(0),
            packed_end: Cell::new(0),
            file_bytes: gguf
                .tensors()
                .iter()
                .map(|t| t.file_offset() + t.data().len() as u64)
                .max()
                .unwrap_or(0),
        }
    }

    /// Refuses a file with tensors that the description has no place for.
    pub(super) fn check_all_used(&self) -> Result<(), ModelError> {
        let used = self.used.borrow();
        let harmless = |name: &str| HARMLESS.iter().any(|part| name.contains(part));
        match self
            .gguf
            .tensors()
            .iter()
            .find(|t| !used.contains(t.name()) && !harmless(t.name()))
        {
            None => Ok(()),
            Some(tensor) => Err(ModelError::UnusedTensor {
                name: tensor.name().to_owned(),
                architecture: self.architecture.to_owned(),
            }),
        }
    }

    /// `key` with the architecture in front, as most metadata has it.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A count that must be there, at least 1 and below the ceiling.
    pub(super) fn count(&self, key: &str, max: u32) -> Result<u32, ModelError> {
        let key = self.key(key);
        let value = self
            .gguf
            .u32(&key)?
            .ok_or(ModelError::MissingKey { key: key.clone() })?;
        check_count(key, value, max)
    }

    /// A count with a default.
    pub(super) fn count_or(&self, key: &str, default: u32, max: u32) -> Result<u32, ModelError> {
        let key = self.key(key);
        let value = self.gguf.u32(&key)?.unwrap_or(default);
        check_count(key, value, max)
    }

    /// A number that must be there, finite and above zero.
    pub(super) fn positive(&self, key: &str) -> Result<f32, ModelError> {
        let key = self.key(key);
        let value = self.gguf.f32(&key)?;
        Self::check_positive(key.clone(), value.ok_or(ModelError::MissingKey { key })?)
    }

    /// A number with a default; it must be finite and above zero.
    pub(super) fn positive_or(&self, key: &str, default: f32) -> Result<f32, ModelError> {
        let key = self.key(key);
        let value = self.gguf.f32(&key)?.unwrap_or(default);
        Self::check_positive(key, value)
    }

    fn check_positive(key: String, value: f32) -> Result<f32, ModelError> {
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(ModelError::BadValue {
            key,
            value: value.to_string(),
            why: "it must be a positive number".into(),
        })
    }

    /// A matrix of this shape that must be there.
    pub(super) fn weight(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, ModelError> {
        let tensor = self.tensor(name)?;
        check_shape(tensor, rows, cols)?;
        Ok(self.weight_of(tensor, rows, cols))
    }

    /// A matrix of this shape, if it is there.
    pub(super) fn weight_if(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Weight>, ModelError> {
        match self.gguf.tensor(name) {
            None => Ok(None),
            Some(_) => self.weight(name, rows, cols).map(Some),
        }
    }

    /// A vector of F32 that must be there, copied out of the file.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Box<[f32]>, ModelError> {
        let tensor = self.tensor(name)?;
        check_shape(tensor, 1, len)?;
        if tensor.kind() != TensorType::F32 {
            return Err(ModelError::NotF32 {
                name: name.to_owned(),
                found: tensor.kind().name(),
            });
        }
        // Tensors may share bytes, so a small file could ask for large copies.
        let copied = self.copied_bytes.get() + tensor.data().len() as u64;
        if copied > self.file_bytes {
            return Err(ModelError::Unsupported {
                key: name.to_owned(),
                value: "one of many that share their bytes".to_owned(),
            });
        }
        self.copied_bytes.set(copied);
        let (values, _) = tensor.data().as_chunks::<4>();
        let values: Box<[f32]> = values
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(value) => Err(ModelError::BadValue {
                key: name.to_owned(),
                value: value.to_string(),
                why: "norms, biases and factors must be finite: copy the file again".into(),
            }),
        }
    }

    /// A vector, if it is there.
    pub(super) fn vector_if(
        &self,
        name: &str,
        len: usize,
    ) -> Result<Option<Box<[f32]>>, ModelError> {
        match self.gguf.tensor(name) {
            None => Ok(None),
            Some(_) => self.vector(name, len).map(Some),
        }
    }

    fn weight_of(&self, tensor: &Tensor<'_>, rows: usize, cols: usize) -> Weight {
        let start =
            usize::try_from(tensor.file_offset()).expect("the parser found it inside the file");
        let format = format_of(tensor.kind());
        let packed = self.packed_end.get().next_multiple_of(WEIGHT_ALIGN);
        let packed = packed..packed + Matrix::bytes(format, rows, cols);
        self.packed_end.set(packed.end);
        Weight {
            format,
            rows,
            cols,
            bytes: start..start + tensor.data().len(),
            packed,
        }
    }

    /// Bytes of all matrices that were read, packed.
    pub(super) fn packed_bytes(&self) -> usize {
        self.packed_end.get()
    }

    fn tensor(&self, name: &str) -> Result<&'a Tensor<'a>, ModelError> {
        let gguf: &'a Gguf<'a> = self.gguf;
        let tensor = gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor {
            name: name.to_owned(),
            architecture: self.architecture.to_owned(),
        })?;
        self.used.borrow_mut().insert(tensor.name());
        Ok(tensor)
    }
}

fn check_count(key: String, value: u32, max: u32) -> Result<u32, ModelError> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(ModelError::BadValue {
        key,
        value: value.to_string(),
        why: format!("it must be from 1 to {max}"),
    })
}

fn check_shape(tensor: &Tensor<'_>, rows: usize, cols: usize) -> Result<(), ModelError> {
    if tensor.cols() == cols as u64 && tensor.rows() == rows as u64 {
        return Ok(());
    }
    Err(ModelError::Shape {
        name: tensor.name().to_owned(),
        cols: tensor.cols(),
        rows: tensor.rows(),
        cols_wanted: cols,
        rows_wanted: rows,
    })
}

/// Packed matrices start on a cache line.
const WEIGHT_ALIGN: usize = 64;

/// Parts of names of tensors that may be left out: LongRoPE's divisors for the other context, and inverse frequencies
/// that old conversions wrote beside the base that they follow from.
const HARMLESS: [&str; 2] = ["rope_factors_", "attn_rot_embd"];
