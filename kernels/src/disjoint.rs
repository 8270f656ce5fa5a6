//! A mutable slice that workers share by promise: each index has one writer.
//!
//! A matmul's output is `[columns, rows]` and a worker owns some rows of every column, which `split_at_mut` cannot say.

#![allow(
    unsafe_code,
    reason = "the promise is the caller's, and each caller states it"
)]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;

/// A `&mut [T]` that several threads hold at once.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a [UnsafeCell<T>]>,
}

// SAFETY: a `Disjoint` gives out `&mut T` on other threads, which is sound for `T: Send`; that two threads never hold
// the same index is the condition of `slice`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, nobody else may hold any index of `range`.
    #[expect(
        clippy::mut_from_ref,
        reason = "that is the point; the condition above makes it sound"
    )]
    #[inline]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end);
        assert!(range.end <= self.len);
        // SAFETY: the range lies inside the slice that `new` borrowed for 'a, and the caller is its only holder.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where an element lies, to ask the cache for it.
    #[inline]
    pub(crate) fn address(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }
}
