//! GGUF, the file format of models: a parser that believes nothing, and a writer.
//!
//! ```text
//! 0   magic "GGUF"                 4 bytes
//! 4   version                      u32: 2 or 3
//! 8   tensor count                 u64
//! 16  metadata count               u64
//! 24  metadata pairs               key: string, type: u32, value
//!     tensor descriptions          name: string, dimensions: u32, each u64, type: u32, data offset: u64
//!     padding to the alignment
//!     tensor data                  each tensor at a multiple of the alignment; data offsets count from here
//!
//! string  length: u64, bytes (UTF-8)
//! array   element type: u32, length: u64, elements
//! ```
//!
//! Numbers are little-endian; the alignment is `general.alignment` or 32. Versions 2 and 3 differ in that 3 also
//! has a big-endian form, which we refuse by name. Source: ggml `docs/gguf.md`.
//!
//! Every length, count, offset and type is checked before it is used ([`limits`]). Strings, arrays and tensor data
//! are views of the file's bytes. Memory is taken for two tables only, once their counts are known to fit the bytes
//! left in the file: at most five times the file, and never more than 10 MiB (both tested). Tensors may share data;
//! nothing here writes to it.

mod arrays;
mod cursor;
mod error;
pub mod limits;
mod tensor;
#[cfg(test)]
mod tests;
mod value;
mod writer;

pub use arrays::{F32Array, StringArray, TypedArray, TypedValues, U32Array};
pub use error::GgufError;
pub use tensor::{Tensor, TensorType};
pub use value::{Array, Value, ValueType, Values};
pub use writer::{GgufWriter, Header, OwnedValue, TensorPlace};

use cursor::{Cursor, check_range};
use error::shorten;
use tensor::foreign_type_name;

/// A GGUF file, parsed: metadata by key and tensors by name, all borrowed from the file's bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    version: u32,
    alignment: u32,
    /// Header, metadata and no more.
    metadata: &'a [u8],
    /// Where the data section starts.
    data_start: u64,
    pairs: Vec<Pair<'a>>,
    /// Indexes into `pairs` in the order of keys.
    pairs_by_key: Vec<u32>,
    tensors: Vec<Tensor<'a>>,
    /// Indexes into `tensors` in the order of names.
    tensors_by_name: Vec<u32>,
}

/// A metadata pair and where its parts stand in the file.
#[derive(Debug)]
struct Pair<'a> {
    key: &'a str,
    key_offset: u64,
    value: Value<'a>,
    value_offset: u64,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file: header, metadata, tensor table, and that each tensor's data lies inside.
    ///
    /// **Errors**: whatever the bytes, a [`GgufError`] and never a panic.
    /// **Cost**: one pass over the metadata, n log n in pairs and tensors; tensor data is not read.
    pub fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        Self::parse_head(file, file.len() as u64)
    }

    /// The same from the first bytes of a file that has `file_bytes` in all: enough is what comes before the tensors'
    /// data. Tensors whose data is not among these bytes have [`Tensor::data`] empty, and all else as it is.
    ///
    /// **Errors**: [`GgufError::Truncated`] where the bytes end too early.
    /// **Panics**: if there are more bytes than the file has.
    pub fn parse_head(file: &'a [u8], file_bytes: u64) -> Result<Self, GgufError> {
        assert!(
            file.len() as u64 <= file_bytes,
            "a head is no longer than its file"
        );
        let cursor = &mut Cursor::new(file);
        check_magic(file)?;
        cursor.take("magic", MAGIC.len() as u64)?;
        let version = read_version(cursor)?;
        let tensor_count = cursor.u64_within("tensor count", 0, limits::TENSORS_MAX)?;
        let pair_count = cursor.u64_within("metadata count", 0, limits::METADATA_PAIRS_MAX)?;

        let pairs = read_pairs(cursor, pair_count)?;
        let metadata = cursor.since(&Cursor::new(file));
        let pairs_by_key =
            unique_order("metadata key", &pairs, |pair| (pair.key, pair.key_offset))?;
        let alignment = read_alignment(&pairs, &pairs_by_key)?;

        let (tensors, data_start) =
            read_tensors(cursor, (file, file_bytes), tensor_count, alignment)?;
        let tensors_by_name = unique_order("tensor name", &tensors, |tensor| {
            (tensor.name, tensor.name_offset)
        })?;
        Ok(Self {
            version,
            alignment,
            metadata,
            data_start,
            pairs,
            pairs_by_key,
            tensors,
            tensors_by_name,
        })
    }

    /// The file's version of the format: 2 or 3.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Bytes to which the file aligns tensor data, a power of two.
    pub const fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Bytes of the file before its tensors' data.
    pub const fn head_bytes(&self) -> u64 {
        self.data_start
    }

    /// A metadata value as it stands in the file, without key and type: what digests are made of.
    pub fn raw_value(&self, key: &str) -> Option<&'a [u8]> {
        let start = self.pair(key)?.value_offset;
        let next = self.pairs.partition_point(|pair| pair.key_offset <= start);
        let index = |at: u64| usize::try_from(at).expect("it was read there");
        let end = match self.pairs.get(next) {
            Some(pair) => index(pair.key_offset),
            None => self.metadata.len(),
        };
        Some(&self.metadata[index(start)..end])
    }

    /// The metadata value of a key.
    pub fn value(&self, key: &str) -> Option<&Value<'a>> {
        self.pair(key).map(|pair| &pair.value)
    }

    /// Metadata in the file's order.
    pub fn values(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.pairs.iter().map(|pair| (pair.key, &pair.value))
    }

    /// A number of any integer type that fits. `Ok(None)`: the key is absent; so with all getters below.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.convert(key, "an integer of 0 to 4294967295", Value::to_u32)
    }

    /// A number of any integer type, not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.convert(key, "an integer of 0 or more", Value::to_u64)
    }

    /// A number of either float type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.convert(key, "a float", Value::to_f32)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.convert(key, "a bool", Value::to_bool)
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.convert(key, "a string", Value::to_str)
    }

    /// A list of texts, such as a vocabulary; read from the file while iterating.
    pub fn strings(&self, key: &str) -> Result<Option<StringArray<'a>>, GgufError> {
        self.typed_array(key, "an array of strings", Value::to_str)
    }

    /// A list of numbers of any integer type that all fit.
    pub fn u32s(&self, key: &str) -> Result<Option<U32Array<'a>>, GgufError> {
        self.typed_array(
            key,
            "an array of integers of 0 to 4294967295",
            Value::to_u32,
        )
    }

    /// A list of numbers of either float type.
    pub fn f32s(&self, key: &str) -> Result<Option<F32Array<'a>>, GgufError> {
        self.typed_array(key, "an array of floats", Value::to_f32)
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> &[Tensor<'a>] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        find(&self.tensors, &self.tensors_by_name, name, |tensor| {
            tensor.name
        })
    }

    fn pair(&self, key: &str) -> Option<&Pair<'a>> {
        find(&self.pairs, &self.pairs_by_key, key, |pair| pair.key)
    }

    fn convert<T>(
        &self,
        key: &str,
        wanted: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(pair) = self.pair(key) else {
            return Ok(None);
        };
        convert(pair.value)
            .map(Some)
            .ok_or_else(|| pair.mistyped(wanted, pair.value))
    }

    fn typed_array<T>(
        &self,
        key: &str,
        wanted: &'static str,
        convert: fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<TypedArray<'a, T>>, GgufError> {
        let Some(pair) = self.pair(key) else {
            return Ok(None);
        };
        let Value::Array(array) = pair.value else {
            return Err(pair.mistyped(wanted, pair.value));
        };
        let typed = TypedArray::new(array, convert);
        typed
            .map(Some)
            .map_err(|element| pair.mistyped(wanted, element))
    }
}

impl Pair<'_> {
    /// The error that this pair's value, or an element of it, is not what was wanted.
    fn mistyped(&self, wanted: &'static str, found: Value<'_>) -> GgufError {
        let value = match self.value {
            Value::Array(_) if !matches!(found, Value::Array(_)) => {
                format!("an array of {:?} that holds {found}", found.kind())
            }
            _ => format!("{found} ({:?})", found.kind()),
        };
        GgufError::Mistyped {
            key: shorten(self.key),
            offset: self.value_offset,
            value,
            wanted,
        }
    }
}

const MAGIC: &[u8; 4] = b"GGUF";

/// Files that people mistake for models, by their first bytes.
const LOOKALIKES: [(&[u8], &str); 5] = [
    (
        b"version https://git-lfs",
        "; a Git LFS pointer: fetch the file itself with `git lfs pull`",
    ),
    (b"<", "; a web page: the download went wrong"),
    (
        b"PK\x03\x04",
        "; a ZIP archive or PyTorch checkpoint: convert it to GGUF",
    ),
    (b"lmgg", "; ggml's format of 2023: convert the model anew"),
    (b"tjgg", "; ggml's format of 2023: convert the model anew"),
];

fn check_magic(file: &[u8]) -> Result<(), GgufError> {
    if file.starts_with(MAGIC) {
        return Ok(());
    }
    let hint = match LOOKALIKES.iter().find(|(start, _)| file.starts_with(start)) {
        Some((_, hint)) => hint,
        None if file.is_empty() => "; the file is empty",
        // A safetensors file starts with a length of 8 bytes and a JSON object.
        None if file.get(8) == Some(&b'{') => "; a safetensors file: convert it to GGUF",
        None => "",
    };
    let found = file[..file.len().min(MAGIC.len())]
        .escape_ascii()
        .to_string();
    Err(GgufError::Magic { found, hint })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let offset = cursor.offset();
    let value = cursor.u32("version")?;
    match (value, value.swap_bytes()) {
        (2 | 3, _) => Ok(value),
        (_, version @ 1..=3) => Err(GgufError::BigEndian {
            value,
            version,
            offset,
        }),
        _ => Err(GgufError::Version { value, offset }),
    }
}

fn read_pairs<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<Vec<Pair<'a>>, GgufError> {
    // At most METADATA_PAIRS_MAX × METADATA_PAIR_BYTES_MIN: no overflow.
    cursor.require("metadata pairs", count * limits::METADATA_PAIR_BYTES_MIN)?;
    let mut pairs = Vec::with_capacity(usize::try_from(count).expect("below METADATA_PAIRS_MAX"));
    for index in 0..count {
        let key_offset = cursor.offset();
        let key = cursor
            .string("key", 1, limits::KEY_BYTES_MAX)
            .map_err(|error| error.within(|| format!("metadata pair {index}")))?;
        let within = |error: GgufError| error.within(|| format!("metadata {:?}", shorten(key)));
        let kind = ValueType::read(cursor, "type").map_err(within)?;
        let value_offset = cursor.offset();
        let value = Value::read(cursor, kind, 0).map_err(within)?;
        pairs.push(Pair {
            key,
            key_offset,
            value,
            value_offset,
        });
    }
    Ok(pairs)
}

fn read_alignment(pairs: &[Pair<'_>], by_key: &[u32]) -> Result<u32, GgufError> {
    let Some(pair) = find(pairs, by_key, ALIGNMENT_KEY, |pair| pair.key) else {
        return Ok(limits::ALIGNMENT_BYTES_DEFAULT);
    };
    let offset = pair.value_offset;
    let value = pair
        .value
        .to_u32()
        .ok_or_else(|| pair.mistyped("an integer of 8 or more", pair.value))?;
    let (min, max) = (limits::ALIGNMENT_BYTES_MIN, limits::ALIGNMENT_BYTES_MAX);
    check_range(ALIGNMENT_KEY, offset, value.into(), min.into(), max.into())?;
    if !value.is_power_of_two() {
        return Err(GgufError::Alignment { offset, value });
    }
    Ok(value)
}

const ALIGNMENT_KEY: &str = "general.alignment";

/// A tensor's description before its data is found: the data section starts where the last description ends.
struct TensorInfo<'a> {
    /// Complete but for `file_offset` and `data`.
    tensor: Tensor<'a>,
    bytes: u64,
    data_offset: u64,
    data_offset_offset: u64,
}

/// Reads the descriptions twice, first to learn where they end: cheaper than keeping them, since this bounds the
/// parser's memory by the table it returns.
fn read_tensors<'a>(
    cursor: &mut Cursor<'a>,
    file: (&'a [u8], u64),
    count: u64,
    alignment: u32,
) -> Result<(Vec<Tensor<'a>>, u64), GgufError> {
    // At most TENSORS_MAX × TENSOR_INFO_BYTES_MIN: no overflow.
    cursor.require("tensor descriptions", count * limits::TENSOR_INFO_BYTES_MIN)?;
    let mut ahead = cursor.clone();
    for index in 0..count {
        read_tensor_info(&mut ahead, index)?;
    }
    let data_start = ahead.offset().next_multiple_of(alignment.into());

    let mut tensors = Vec::with_capacity(usize::try_from(count).expect("below TENSORS_MAX"));
    for index in 0..count {
        let info = read_tensor_info(cursor, index)?;
        tensors.push(place_tensor(file, &info, data_start, alignment)?);
    }
    Ok((tensors, data_start))
}

fn read_tensor_info<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<TensorInfo<'a>, GgufError> {
    let name_offset = cursor.offset();
    let name = cursor
        .string("name", 1, limits::TENSOR_NAME_BYTES_MAX)
        .map_err(|error| error.within(|| format!("tensor {index}")))?;
    read_named_tensor_info(cursor, name, name_offset)
        .map_err(|error| error.within(|| format!("tensor {name:?}")))
}

fn read_named_tensor_info<'a>(
    cursor: &mut Cursor<'a>,
    name: &'a str,
    name_offset: u64,
) -> Result<TensorInfo<'a>, GgufError> {
    let n_dims_offset = cursor.offset();
    let n_dims = cursor.u32("dimension count")?;
    check_range(
        "dimension count",
        n_dims_offset,
        n_dims.into(),
        1,
        limits::TENSOR_DIMS_MAX.into(),
    )?;

    let dims_offset = cursor.offset();
    let mut dims = [1; 4];
    let mut elements = 1_u64;
    for dim in &mut dims[..n_dims as usize] {
        let offset = cursor.offset();
        let value = cursor.u64_within("dimension", 1, u64::MAX)?;
        elements = elements
            .checked_mul(value)
            .ok_or_else(|| overflow("dimension", offset, value))?;
        *dim = value;
    }

    let kind_offset = cursor.offset();
    let id = cursor.u32("type")?;
    let kind = TensorType::from_id(id).ok_or_else(|| GgufError::TensorType {
        field: "type".to_owned(),
        offset: kind_offset,
        value: id,
        name: foreign_type_name(id),
    })?;
    if !dims[0].is_multiple_of(kind.block_elements()) {
        return Err(GgufError::Row {
            field: "first dimension".to_owned(),
            offset: dims_offset,
            value: dims[0],
            kind: kind.name(),
            block_elements: kind.block_elements(),
        });
    }
    let bytes = kind
        .bytes(elements)
        .ok_or_else(|| overflow("dimension", dims_offset, dims[0]))?;

    let data_offset_offset = cursor.offset();
    let data_offset = cursor.u64("data offset")?;
    let tensor = Tensor {
        name,
        name_offset,
        dims,
        n_dims,
        kind,
        file_offset: 0,
        data: &[],
    };
    Ok(TensorInfo {
        tensor,
        bytes,
        data_offset,
        data_offset_offset,
    })
}

fn overflow(field: &str, offset: u64, value: u64) -> GgufError {
    GgufError::Overflow {
        field: field.to_owned(),
        offset,
        value,
    }
}

fn place_tensor<'a>(
    (file, file_bytes): (&'a [u8], u64),
    info: &TensorInfo<'a>,
    data_start: u64,
    alignment: u32,
) -> Result<Tensor<'a>, GgufError> {
    let field = || format!("tensor {:?} data offset", info.tensor.name);
    let (offset, value) = (info.data_offset_offset, info.data_offset);
    if !value.is_multiple_of(alignment.into()) {
        return Err(GgufError::Misaligned {
            field: field(),
            offset,
            value,
            alignment,
        });
    }
    let start = data_start.saturating_add(value);
    let end = start.saturating_add(info.bytes);
    // Saturation cannot pass for a good end: no slice is 2^64 - 1 bytes long.
    if end > file_bytes {
        return Err(GgufError::Outside {
            field: field(),
            offset,
            value,
            start,
            bytes: info.bytes,
            file_bytes,
        });
    }
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    Ok(Tensor {
        file_offset: start,
        data: file.get(index(start)..index(end)).unwrap_or_default(),
        ..info.tensor
    })
}

/// The order of names, or an error if two are the same. `name` gives a name and where it stands.
fn unique_order<'a, T>(
    field: &'static str,
    items: &[T],
    name: impl Fn(&T) -> (&'a str, u64),
) -> Result<Vec<u32>, GgufError> {
    let count = u32::try_from(items.len()).expect("counts have ceilings below 2^32");
    let mut order: Vec<u32> = (0..count).collect();
    // Stable, so that of two equal names the first in the file comes first.
    order.sort_by_key(|&index| name(&items[index as usize]).0);
    for pair in order.windows(2) {
        let (first_name, first) = name(&items[pair[0] as usize]);
        let (second_name, offset) = name(&items[pair[1] as usize]);
        if first_name == second_name {
            return Err(GgufError::Duplicate {
                field,
                name: shorten(first_name),
                offset,
                first,
            });
        }
    }
    Ok(order)
}

/// Finds an item by name in the order that `unique_order` gave.
fn find<'i, T>(
    items: &'i [T],
    order: &[u32],
    wanted: &str,
    name: impl Fn(&T) -> &str,
) -> Option<&'i T> {
    let place = order
        .binary_search_by(|&index| name(&items[index as usize]).cmp(wanted))
        .ok()?;
    Some(&items[order[place] as usize])
}
