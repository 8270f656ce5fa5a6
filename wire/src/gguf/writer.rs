//! Writes GGUF headers: metadata and tensor descriptions become bytes; the tensors' data is the caller's to write.

use std::collections::BTreeSet;

use super::limits;
use super::tensor::TensorType;
use super::value::{Value, ValueType};

/// A metadata value to write.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type it holds")]
pub enum OwnedValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// The element type and the elements, all of that type.
    Array(ValueType, Vec<OwnedValue>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl OwnedValue {
    /// A text.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// An array of texts.
    pub fn strings<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::Array(ValueType::Str, texts.into_iter().map(Self::str).collect())
    }

    /// An array of signed numbers, as token types are.
    pub fn i32s(numbers: impl IntoIterator<Item = i32>) -> Self {
        Self::Array(ValueType::I32, numbers.into_iter().map(Self::I32).collect())
    }

    /// An array of numbers.
    pub fn u32s(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self::Array(ValueType::U32, numbers.into_iter().map(Self::U32).collect())
    }

    /// An array of floats, as token scores are.
    pub fn f32s(numbers: impl IntoIterator<Item = f32>) -> Self {
        Self::Array(ValueType::F32, numbers.into_iter().map(Self::F32).collect())
    }

    /// The value's type.
    pub const fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(..) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    fn write(&self, out: &mut Vec<u8>, level: u32) {
        match self {
            Self::U8(value) => out.push(*value),
            Self::I8(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push((*value).into()),
            Self::Str(value) => write_string(out, value),
            Self::Array(kind, items) => {
                assert!(
                    level < limits::ARRAY_LEVELS_MAX,
                    "arrays nested deeper than the parser reads"
                );
                out.extend(kind.id().to_le_bytes());
                out.extend((items.len() as u64).to_le_bytes());
                for item in items {
                    assert_eq!(item.kind(), *kind, "an array's elements have its type");
                    item.write(out, level + 1);
                }
            }
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
        }
    }
}

impl From<Value<'_>> for OwnedValue {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::U8(value) => Self::U8(value),
            Value::I8(value) => Self::I8(value),
            Value::U16(value) => Self::U16(value),
            Value::I16(value) => Self::I16(value),
            Value::U32(value) => Self::U32(value),
            Value::I32(value) => Self::I32(value),
            Value::F32(value) => Self::F32(value),
            Value::Bool(value) => Self::Bool(value),
            Value::Str(value) => Self::str(value),
            Value::Array(array) => {
                Self::Array(array.kind(), array.iter().map(Self::from).collect())
            }
            Value::U64(value) => Self::U64(value),
            Value::I64(value) => Self::I64(value),
            Value::F64(value) => Self::F64(value),
        }
    }
}

/// Builds the header of a GGUF version 3 file: [`put`](Self::put) and [`tensor`](Self::tensor) in any order, then
/// [`finish`](Self::finish).
///
/// **Panics**: its caller is our own code, so what the parser would refuse (a key twice, an empty name, a row of
/// half a quant block) is a bug and panics.
#[derive(Debug, Default)]
pub struct GgufWriter {
    pairs: Vec<u8>,
    keys: BTreeSet<String>,
    alignment: Option<u32>,
    tensors: Vec<Planned>,
    names: BTreeSet<String>,
}

#[derive(Debug)]
struct Planned {
    name: String,
    dims: Vec<u64>,
    kind: TensorType,
    bytes: u64,
}

/// The bytes before the tensor data, and where each tensor's data goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The file up to the first tensor's data, padding included.
    pub bytes: Vec<u8>,
    /// The tensors in the order they were added, which is the order of their data. Zeros fill the gaps.
    pub tensors: Vec<TensorPlace>,
    /// Bytes of the whole file; the last tensor is padded too.
    pub file_bytes: u64,
}

/// Where a tensor's data goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// The tensor's name.
    pub name: String,
    /// Where its data starts, from the start of the file.
    pub file_offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
}

impl GgufWriter {
    /// A file with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata pair. `general.alignment` also sets the alignment of the file.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers build the value in the call"
    )]
    pub fn put(&mut self, key: &str, value: OwnedValue) -> &mut Self {
        assert!(!key.is_empty(), "a metadata key has a name");
        assert!(
            key.len() as u64 <= limits::KEY_BYTES_MAX,
            "a metadata key within the bound"
        );
        assert!(
            self.keys.insert(key.to_owned()),
            "metadata key {key} put twice"
        );
        assert!(
            (self.keys.len() as u64) <= limits::METADATA_PAIRS_MAX,
            "metadata pairs within the bound"
        );
        if key == super::ALIGNMENT_KEY {
            let OwnedValue::U32(alignment) = value else {
                panic!("general.alignment is a u32")
            };
            assert!(
                alignment.is_power_of_two(),
                "the alignment is a power of two"
            );
            assert!(
                alignment >= limits::ALIGNMENT_BYTES_MIN,
                "the alignment is a multiple of 8"
            );
            assert!(
                alignment <= limits::ALIGNMENT_BYTES_MAX,
                "the alignment is within the bound"
            );
            self.alignment = Some(alignment);
        }
        write_string(&mut self.pairs, key);
        self.pairs.extend(value.kind().id().to_le_bytes());
        value.write(&mut self.pairs, 0);
        self
    }

    /// Adds a tensor. **Shapes**: `dims` in ggml's order, the contiguous dimension first.
    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: TensorType) -> &mut Self {
        assert!(!name.is_empty(), "a tensor has a name");
        assert!(
            name.len() as u64 <= limits::TENSOR_NAME_BYTES_MAX,
            "tensor name {name} within the bound"
        );
        assert!(
            self.names.insert(name.to_owned()),
            "tensor {name} added twice"
        );
        assert!(
            (self.names.len() as u64) <= limits::TENSORS_MAX,
            "tensors within the bound"
        );
        assert!(!dims.is_empty(), "tensor {name} has a dimension");
        assert!(
            dims.len() <= limits::TENSOR_DIMS_MAX as usize,
            "tensor {name} has at most four dimensions"
        );
        assert!(!dims.contains(&0), "tensor {name} has elements");
        assert!(
            dims[0].is_multiple_of(kind.block_elements()),
            "tensor {name} has rows of whole quant blocks"
        );
        let elements = dims
            .iter()
            .try_fold(1_u64, |product, &dim| product.checked_mul(dim));
        let bytes = elements
            .and_then(|elements| kind.bytes(elements))
            .expect("a tensor that fits 64 bits");
        self.tensors.push(Planned {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind,
            bytes,
        });
        self
    }

    /// Lays out the file.
    pub fn finish(self) -> Header {
        let alignment = u64::from(self.alignment.unwrap_or(limits::ALIGNMENT_BYTES_DEFAULT));
        let mut bytes = super::MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        bytes.extend(&self.pairs);

        let mut data_bytes = 0_u64;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for Planned {
            name,
            dims,
            kind,
            bytes: tensor_bytes,
        } in self.tensors
        {
            write_string(&mut bytes, &name);
            let n_dims = u32::try_from(dims.len()).expect("at most four");
            bytes.extend(n_dims.to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(kind.id().to_le_bytes());
            bytes.extend(data_bytes.to_le_bytes());
            tensors.push(TensorPlace {
                name,
                file_offset: data_bytes,
                bytes: tensor_bytes,
            });
            data_bytes = data_bytes
                .checked_add(tensor_bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .expect("a file that fits 64 bits");
        }

        let data_start = (bytes.len() as u64).next_multiple_of(alignment);
        bytes.resize(
            usize::try_from(data_start).expect("a header that fits memory"),
            0,
        );
        for tensor in &mut tensors {
            tensor.file_offset += data_start;
        }
        let file_bytes = data_start
            .checked_add(data_bytes)
            .expect("a file that fits 64 bits");
        Header {
            bytes,
            tensors,
            file_bytes,
        }
    }
}

const VERSION: u32 = 3;

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
