//! Safetensors: a JSON header that says where tensors lie, and their bytes. Believes nothing.
//!
//! ```text
//! 0   length of the header   u64, little-endian
//! 8   header                 {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
//! …   data                   offsets count from here
//! ```
//!
//! Source: huggingface/safetensors `README.md`, "Format".

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SafeTensor<'a> {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) shape: Vec<u64>,
    pub(super) data: &'a [u8],
}

/// Why a file is no safetensors file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// Too short for what it says.
    #[error(
        "the safetensors header is said to have {said} bytes, of {there} in the file (at most {max})"
    )]
    Header {
        /// As the first eight bytes have it.
        said: u64,
        /// Bytes after them.
        there: u64,
        /// Ceiling.
        max: u64,
    },
    /// No JSON, or not as it must be.
    #[error("the safetensors header cannot be read: {what}")]
    Json {
        /// Why.
        what: String,
    },
    /// Bytes that are not there, or not as many as the shape says.
    #[error(
        "tensor `{tensor}` has the bytes {start}..{end} of {there}, {wanted} by its shape and type"
    )]
    Data {
        /// Which.
        tensor: String,
        /// First byte.
        start: u64,
        /// After the last.
        end: u64,
        /// Bytes of data in the file.
        there: u64,
        /// Bytes by shape and type.
        wanted: String,
    },
    /// A type of no known size.
    #[error("tensor `{tensor}` is {kind}: F32, F16 and BF16 can be read")]
    Type {
        /// Which.
        tensor: String,
        /// Its type.
        kind: String,
    },
    /// A name that comes twice.
    #[error("tensor `{tensor}` comes twice")]
    Twice {
        /// Which.
        tensor: String,
    },
}

/// Bytes of a header: some 150 for each of seven pairs in a thousand layers.
const HEADER_BYTES_MAX: u64 = 4 << 20;

/// Tensors in a file. Fewer than the shortest entries fill a header with.
const TENSORS_MAX: usize = 1 << 16;

/// Finds the tensors of a file.
///
/// **Errors**: whatever the bytes, an error and never a panic.
/// **Cost**: memory in proportion to the header.
pub(super) fn parse(file: &[u8]) -> Result<Vec<SafeTensor<'_>>, SafetensorsError> {
    let (said, rest) = match file.split_first_chunk() {
        Some((length, rest)) => (u64::from_le_bytes(*length), rest),
        None => (0, &file[file.len()..]),
    };
    let there = rest.len() as u64;
    if said == 0 || said > there.min(HEADER_BYTES_MAX) {
        return Err(SafetensorsError::Header {
            said,
            there,
            max: HEADER_BYTES_MAX,
        });
    }
    let (header, data) = rest.split_at(usize::try_from(said).expect("at most the file"));
    let header: Header = serde_json::from_slice(header).map_err(|e| SafetensorsError::Json {
        what: e.to_string(),
    })?;
    let mut tensors = Vec::with_capacity(header.0.len());
    for (name, entry) in header.0 {
        tensors.push(entry.place(name, data)?);
    }
    tensors.sort_by(|a: &SafeTensor<'_>, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        None => Ok(tensors),
        Some(pair) => Err(SafetensorsError::Twice {
            tensor: pair[0].name.clone(),
        }),
    }
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Entry {
    fn place(self, name: String, data: &[u8]) -> Result<SafeTensor<'_>, SafetensorsError> {
        let bytes: u64 = match &*self.dtype {
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => {
                return Err(SafetensorsError::Type {
                    tensor: name,
                    kind: self.dtype,
                });
            }
        };
        let wanted = self
            .shape
            .iter()
            .try_fold(bytes, |product, &dim| product.checked_mul(dim));
        let [start, end] = self.data_offsets;
        let length = end.checked_sub(start);
        let there = data.len() as u64;
        if length.is_none() || length != wanted || end > there {
            return Err(SafetensorsError::Data {
                tensor: name,
                start,
                end,
                there,
                wanted: wanted.map_or("too many".to_owned(), |bytes| bytes.to_string()),
            });
        }
        let at = |offset| usize::try_from(offset).expect("inside the file");
        Ok(SafeTensor {
            name,
            kind: self.dtype,
            shape: self.shape,
            data: &data[at(start)..at(end)],
        })
    }
}

/// All entries but the metadata, in the file's order: a map would hide that a name comes twice.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if entries.len() == TENSORS_MAX {
                let message = format!("more than {TENSORS_MAX} tensors");
                return Err(serde::de::Error::custom(message));
            }
            entries.push((name, map.next_value()?));
        }
        Ok(Header(entries))
    }
}
