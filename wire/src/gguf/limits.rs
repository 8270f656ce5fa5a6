//! Ceilings of the GGUF parser: what a file may ask of us before we call it hostile or broken.
//!
//! Counts are checked against these and against the bytes left in the file, whichever is smaller, before any
//! memory is taken. String values and arrays need no ceiling of their own: they are views of the file.

/// Metadata pairs. Real models carry 20 to 60; vocabularies are arrays inside one pair.
pub const METADATA_PAIRS_MAX: u64 = 1 << 16;

/// Tensors. The largest mixtures with unmerged experts have about 50 000.
pub const TENSORS_MAX: u64 = 1 << 16;

/// Bytes in a metadata key: the GGUF specification's own bound (2^16 - 1).
pub const KEY_BYTES_MAX: u64 = (1 << 16) - 1;

/// Bytes in a tensor name: the GGUF specification's own bound.
pub const TENSOR_NAME_BYTES_MAX: u64 = 64;

/// Dimensions of a tensor: ggml has four.
pub const TENSOR_DIMS_MAX: u32 = 4;

/// Levels of arrays inside arrays. No known key nests at all; the parser recurses once for each level.
pub const ARRAY_LEVELS_MAX: u32 = 4;

/// Bytes to which tensor data may be aligned: a huge page of common machines.
pub const ALIGNMENT_BYTES_MAX: u32 = 2 << 20;

/// Least alignment: the GGUF specification asks for a multiple of 8.
pub const ALIGNMENT_BYTES_MIN: u32 = 8;

/// Alignment where the file names none, from the GGUF specification.
pub const ALIGNMENT_BYTES_DEFAULT: u32 = 32;

/// Least bytes of a metadata pair in a file: key length, one byte of key, type, one byte of value.
pub(super) const METADATA_PAIR_BYTES_MIN: u64 = 8 + 1 + 4 + 1;

/// Least bytes of a tensor's description: name length, one byte of name, dimension count, one dimension, type, offset.
pub(super) const TENSOR_INFO_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

const _: () = assert!(ALIGNMENT_BYTES_DEFAULT.is_power_of_two());
const _: () = assert!(ALIGNMENT_BYTES_MIN <= ALIGNMENT_BYTES_DEFAULT);
const _: () = assert!(ALIGNMENT_BYTES_DEFAULT <= ALIGNMENT_BYTES_MAX);
// The sorted indexes hold u32.
const _: () = assert!(METADATA_PAIRS_MAX <= u32::MAX as u64);
const _: () = assert!(TENSORS_MAX <= u32::MAX as u64);
