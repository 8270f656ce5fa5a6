//! Metadata values. Strings and arrays are views of the file; an array is walked once when it is parsed, so that
//! reading it later cannot fail.

use std::fmt;

use super::cursor::Cursor;
use super::error::{GgufError, shorten};
use super::limits;

/// The type of a metadata value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is the type of the same name in `Value`"
)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of GGUF's ids.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// GGUF's number for the type.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type with GGUF's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value in the file; for strings and arrays the least, that of an empty one.
    const fn bytes_min(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, field: &str) -> Result<Self, GgufError> {
        let offset = cursor.offset();
        let value = cursor.u32(field)?;
        Self::from_id(value).ok_or_else(|| GgufError::ValueType {
            field: field.to_owned(),
            offset,
            value,
        })
    }
}

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type it holds")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
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
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer type, if not negative.
    pub fn to_u64(self) -> Option<u64> {
        match self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// Any integer type, if it fits.
    pub fn to_u32(self) -> Option<u32> {
        self.to_u64()?.try_into().ok()
    }

    /// Either float type; the wider one is rounded.
    pub fn to_f32(self) -> Option<f32> {
        match self {
            Self::F32(value) => Some(value),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounding is what was asked for"
            )]
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// A truth value.
    pub fn to_bool(self) -> Option<bool> {
        if let Self::Bool(value) = self {
            Some(value)
        } else {
            None
        }
    }

    /// A text.
    pub fn to_str(self) -> Option<&'a str> {
        if let Self::Str(value) = self {
            Some(value)
        } else {
            None
        }
    }

    /// Reads a value of a type, `level` arrays deep.
    pub(super) fn read(
        cursor: &mut Cursor<'a>,
        kind: ValueType,
        level: u32,
    ) -> Result<Self, GgufError> {
        Ok(match kind {
            ValueType::U8 => Self::U8(cursor.u8("value")?),
            ValueType::I8 => Self::I8(cursor.i8("value")?),
            ValueType::U16 => Self::U16(cursor.u16("value")?),
            ValueType::I16 => Self::I16(cursor.i16("value")?),
            ValueType::U32 => Self::U32(cursor.u32("value")?),
            ValueType::I32 => Self::I32(cursor.i32("value")?),
            ValueType::F32 => Self::F32(cursor.f32("value")?),
            ValueType::Bool => Self::Bool(cursor.bool("value")?),
            ValueType::Str => Self::Str(cursor.string("string", 0, u64::MAX)?),
            ValueType::Array => Self::Array(Array::read(cursor, level + 1)?),
            ValueType::U64 => Self::U64(cursor.u64("value")?),
            ValueType::I64 => Self::I64(cursor.i64("value")?),
            ValueType::F64 => Self::F64(cursor.f64("value")?),
        })
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => write!(f, "{value}"),
            Self::I8(value) => write!(f, "{value}"),
            Self::U16(value) => write!(f, "{value}"),
            Self::I16(value) => write!(f, "{value}"),
            Self::U32(value) => write!(f, "{value}"),
            Self::I32(value) => write!(f, "{value}"),
            Self::F32(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Str(value) => write!(f, "{:?}", shorten(value)),
            Self::Array(value) => write!(f, "{value}"),
            Self::U64(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            Self::F64(value) => write!(f, "{value}"),
        }
    }
}

/// An array in the file: `count` elements of one type, checked when parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    kind: ValueType,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the elements.
    pub const fn kind(&self) -> ValueType {
        self.kind
    }

    /// How many elements there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order. Cost: no allocation; strings are checked for UTF-8 again.
    pub fn iter(&self) -> Values<'a> {
        Values {
            cursor: Cursor::new(self.bytes),
            kind: self.kind,
            left: self.count,
        }
    }

    /// Walks the whole array, `level` arrays deep, so that nothing in it can fail later.
    fn read(cursor: &mut Cursor<'a>, level: u32) -> Result<Self, GgufError> {
        if level > limits::ARRAY_LEVELS_MAX {
            return Err(GgufError::Range {
                field: "array nesting".to_owned(),
                offset: cursor.offset(),
                value: level.into(),
                min: 1,
                max: limits::ARRAY_LEVELS_MAX.into(),
            });
        }
        let kind = ValueType::read(cursor, "array element type")?;
        let count = cursor.u64("array length")?;
        cursor.require("array elements", count.saturating_mul(kind.bytes_min()))?;
        let start = cursor.clone();
        match kind {
            ValueType::Str | ValueType::Array | ValueType::Bool => {
                for _ in 0..count {
                    Value::read(cursor, kind, level)?;
                }
            }
            _ => {
                cursor.take("array elements", count * kind.bytes_min())?;
            }
        }
        let count = usize::try_from(count).expect("each element takes a byte or more of the file");
        Ok(Self {
            kind,
            count,
            bytes: cursor.since(&start),
        })
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        for (index, value) in self.iter().take(SHOWN_MAX).enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
        }
        match self.count.saturating_sub(SHOWN_MAX) {
            0 => write!(f, "]"),
            hidden => write!(f, ", … {hidden} more]"),
        }
    }
}

impl<'a> IntoIterator for &Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

/// The elements of an [`Array`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    cursor: Cursor<'a>,
    kind: ValueType,
    left: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(Value::read(&mut self.cursor, self.kind, 1).expect("the array was walked when parsed"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// Elements of an array in a message.
const SHOWN_MAX: usize = 6;
