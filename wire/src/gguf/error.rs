//! What can be wrong with a GGUF file. Each message names the field, the value found and the byte where it stands.

use thiserror::Error;

/// Why a file is not a GGUF that we can read, or a metadata value not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GgufError {
    /// The file is of another kind.
    #[error("not a GGUF file: magic at byte 0 is {found:?} instead of \"GGUF\"{hint}")]
    Magic {
        /// Up to four bytes, escaped.
        found: String,
        /// What the file looks like, or nothing.
        hint: &'static str,
    },
    /// A version of the format other than 2 and 3.
    #[error(
        "GGUF version at byte {offset} is {value}: only 2 and 3 are known; convert the model with current tools"
    )]
    Version {
        /// The version found.
        value: u32,
        /// Where it stands.
        offset: u64,
    },
    /// The file was written for a big-endian machine.
    #[error(
        "GGUF version at byte {offset} is {value:#010x}, version {version} in big-endian order: \
         convert the file to little-endian first"
    )]
    BigEndian {
        /// The field as we read it.
        value: u32,
        /// The version meant.
        version: u32,
        /// Where it stands.
        offset: u64,
    },
    /// The file ends before the field does, or a count promises more than the rest of the file can hold.
    #[error(
        "{field} at byte {offset} needs {needed} bytes, but {left} are left in the file: cut short or corrupt"
    )]
    Truncated {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// Bytes it takes.
        needed: u64,
        /// Bytes that follow `offset`.
        left: u64,
    },
    /// A number above its ceiling in [`limits`](super::limits), or below its least value.
    #[error("{field} at byte {offset} is {value}, allowed are {min} to {max}")]
    Range {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The number found.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A string that is not UTF-8.
    #[error("{field} at byte {offset} is not UTF-8: byte {value:#04x} after {valid} good bytes")]
    Utf8 {
        /// What was being read.
        field: String,
        /// Where the string's bytes start.
        offset: u64,
        /// The first byte that does not fit.
        value: u8,
        /// How many bytes before it were good.
        valid: u64,
    },
    /// A metadata type that GGUF does not have.
    #[error("{field} at byte {offset} is {value}: GGUF has value types 0 to 12")]
    ValueType {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The id found.
        value: u32,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("{field} at byte {offset} is {value}: a bool is 0 or 1")]
    Bool {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The byte found.
        value: u8,
    },
    /// An alignment that is not a power of two.
    #[error("general.alignment at byte {offset} is {value}: it must be a power of two")]
    Alignment {
        /// Where it stands.
        offset: u64,
        /// The alignment found.
        value: u32,
    },
    /// Two metadata pairs with one key, or two tensors with one name.
    #[error("{field} {name:?} at byte {offset} stands a second time, first at byte {first}")]
    Duplicate {
        /// `metadata key` or `tensor name`.
        field: &'static str,
        /// The name, shortened if long.
        name: String,
        /// Where the second stands.
        offset: u64,
        /// Where the first stands.
        first: u64,
    },
    /// A tensor type that ggml does not have, or that we have no kernels for.
    #[error(
        "{field} at byte {offset} is {value} ({name}): publish the model in one of F32 F16 BF16 Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS"
    )]
    TensorType {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// ggml's id.
        value: u32,
        /// Its name in ggml, or `unknown`.
        name: &'static str,
    },
    /// Dimensions whose product has no place in 64 bits.
    #[error("{field} at byte {offset} is {value}: the tensor's size overflows 64 bits")]
    Overflow {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The dimension that was one too many.
        value: u64,
    },
    /// A row that ends inside a quant block.
    #[error(
        "{field} at byte {offset} is {value}: rows of {kind} are multiples of {block_elements}"
    )]
    Row {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// Elements in a row.
        value: u64,
        /// The tensor's type.
        kind: &'static str,
        /// Elements in a quant block.
        block_elements: u64,
    },
    /// Tensor data that does not start at a multiple of the file's alignment.
    #[error("{field} at byte {offset} is {value}: not a multiple of the alignment {alignment}")]
    Misaligned {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The data offset, counted from the start of the data section.
        value: u64,
        /// The file's alignment.
        alignment: u32,
    },
    /// Tensor data that ends behind the file's end.
    #[error(
        "{field} at byte {offset} is {value}: the tensor's {bytes} bytes from byte {start} of the file end behind its \
         {file_bytes} bytes: cut short or corrupt"
    )]
    Outside {
        /// What was being read.
        field: String,
        /// Where it stands.
        offset: u64,
        /// The data offset, counted from the start of the data section.
        value: u64,
        /// The data offset, counted from the start of the file.
        start: u64,
        /// Bytes of the tensor.
        bytes: u64,
        /// Bytes of the file.
        file_bytes: u64,
    },
    /// A metadata value of another type than asked for, or out of the range asked for.
    #[error("metadata {key:?} at byte {offset} is {value}, wanted is {wanted}")]
    Mistyped {
        /// The key.
        key: String,
        /// Where the value stands.
        offset: u64,
        /// The value, shortened if long.
        value: String,
        /// What the caller asked for.
        wanted: &'static str,
    },
}

impl GgufError {
    /// Prefixes the field with what it belongs to: `length` becomes `metadata value 3 "a.b": length`.
    pub(super) fn within(mut self, place: impl FnOnce() -> String) -> Self {
        if let Self::Truncated { field, .. }
        | Self::Range { field, .. }
        | Self::Utf8 { field, .. }
        | Self::ValueType { field, .. }
        | Self::Bool { field, .. }
        | Self::TensorType { field, .. }
        | Self::Overflow { field, .. }
        | Self::Row { field, .. }
        | Self::Misaligned { field, .. }
        | Self::Outside { field, .. } = &mut self
        {
            *field = format!("{} {field}", place());
        }
        self
    }
}

/// At most `TEXT_CHARS_MAX` characters of a text that a stranger wrote.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Characters of a name or string in a message: enough to find it, too few to fill a log.
const TEXT_CHARS_MAX: usize = 80;
