//! Arrays whose elements were checked against what the caller wants of them, so that iterating yields plain values.

use super::value::{Array, Value, Values};

/// An array of strings, such as a vocabulary.
pub type StringArray<'a> = TypedArray<'a, &'a str>;
/// An array of any integer type whose elements all fit `u32`.
pub type U32Array<'a> = TypedArray<'a, u32>;
/// An array of either float type.
pub type F32Array<'a> = TypedArray<'a, f32>;

/// A view of an array whose elements are all a `T`.
#[derive(Debug, Clone, Copy)]
pub struct TypedArray<'a, T> {
    array: Array<'a>,
    convert: fn(Value<'a>) -> Option<T>,
}

impl<'a, T> TypedArray<'a, T> {
    /// The view, or the first element that is no `T`.
    pub(super) fn new(
        array: Array<'a>,
        convert: fn(Value<'a>) -> Option<T>,
    ) -> Result<Self, Value<'a>> {
        match array.iter().find(|&value| convert(value).is_none()) {
            None => Ok(Self { array, convert }),
            Some(value) => Err(value),
        }
    }

    /// How many elements there are.
    pub const fn len(&self) -> usize {
        self.array.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.array.is_empty()
    }

    /// The elements in order. Cost: no allocation.
    pub fn iter(&self) -> TypedValues<'a, T> {
        TypedValues {
            values: self.array.iter(),
            convert: self.convert,
        }
    }
}

impl<'a, T> IntoIterator for &TypedArray<'a, T> {
    type Item = T;
    type IntoIter = TypedValues<'a, T>;

    fn into_iter(self) -> TypedValues<'a, T> {
        self.iter()
    }
}

/// The elements of a [`TypedArray`].
#[derive(Debug, Clone)]
pub struct TypedValues<'a, T> {
    values: Values<'a>,
    convert: fn(Value<'a>) -> Option<T>,
}

impl<T> Iterator for TypedValues<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let value = self.values.next()?;
        Some((self.convert)(value).expect("each element was converted once when the view was made"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.values.size_hint()
    }
}

impl<T> ExactSizeIterator for TypedValues<'_, T> {}
