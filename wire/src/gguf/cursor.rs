//! A position in the file: each read is checked against what is left, and says what it was reading when it fails.

use super::error::GgufError;

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    /// The bytes read since an earlier position.
    pub(super) fn since(&self, earlier: &Self) -> &'a [u8] {
        &self.file[earlier.at..self.at]
    }

    /// The next `bytes` bytes; `field` names them if the file has fewer.
    pub(super) fn take(&mut self, field: &str, bytes: u64) -> Result<&'a [u8], GgufError> {
        self.require(field, bytes)?;
        let length = usize::try_from(bytes).expect("not more than a slice's length");
        let taken = &self.file[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    /// Fails unless `bytes` more bytes follow. Asked before a count is believed.
    pub(super) fn require(&self, field: &str, bytes: u64) -> Result<(), GgufError> {
        if bytes <= self.left() {
            return Ok(());
        }
        Err(GgufError::Truncated {
            field: field.to_owned(),
            offset: self.offset(),
            needed: bytes,
            left: self.left(),
        })
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        let taken = self.take(field, N as u64)?;
        Ok(taken.try_into().expect("took N bytes"))
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8, GgufError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16, GgufError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn i8(&mut self, field: &str) -> Result<i8, GgufError> {
        self.array(field).map(i8::from_le_bytes)
    }

    pub(super) fn i16(&mut self, field: &str) -> Result<i16, GgufError> {
        self.array(field).map(i16::from_le_bytes)
    }

    pub(super) fn i32(&mut self, field: &str) -> Result<i32, GgufError> {
        self.array(field).map(i32::from_le_bytes)
    }

    pub(super) fn i64(&mut self, field: &str) -> Result<i64, GgufError> {
        self.array(field).map(i64::from_le_bytes)
    }

    pub(super) fn f32(&mut self, field: &str) -> Result<f32, GgufError> {
        self.array(field).map(f32::from_le_bytes)
    }

    pub(super) fn f64(&mut self, field: &str) -> Result<f64, GgufError> {
        self.array(field).map(f64::from_le_bytes)
    }

    pub(super) fn bool(&mut self, field: &str) -> Result<bool, GgufError> {
        let offset = self.offset();
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(GgufError::Bool {
                field: field.to_owned(),
                offset,
                value,
            }),
        }
    }

    /// A number that must lie in `min..=max`.
    pub(super) fn u64_within(&mut self, field: &str, min: u64, max: u64) -> Result<u64, GgufError> {
        let offset = self.offset();
        let value = self.u64(field)?;
        check_range(field, offset, value, min, max)?;
        Ok(value)
    }

    /// A length in 8 bytes, then as many bytes of UTF-8.
    pub(super) fn string(&mut self, field: &str, min: u64, max: u64) -> Result<&'a str, GgufError> {
        let length = self
            .u64_within("length", min, max)
            .map_err(|error| error.within(|| field.to_owned()))?;
        let offset = self.offset();
        let bytes = self.take(field, length)?;
        std::str::from_utf8(bytes).map_err(|error| GgufError::Utf8 {
            field: field.to_owned(),
            offset,
            value: bytes[error.valid_up_to()],
            valid: error.valid_up_to() as u64,
        })
    }
}

/// Fails unless `value` lies in `min..=max`.
pub(super) fn check_range(
    field: &str,
    offset: u64,
    value: u64,
    min: u64,
    max: u64,
) -> Result<(), GgufError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(GgufError::Range {
        field: field.to_owned(),
        offset,
        value,
        min,
        max,
    })
}
