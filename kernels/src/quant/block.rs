//! Blocks as they lie in a file: little-endian, unaligned, so every field is bytes.

#![allow(unsafe_code, reason = "bytes are viewed as blocks of bytes")]

/// A half-precision float as stored.
pub(crate) type Half = [u8; 2];

/// Weights in a small block.
pub(crate) const SMALL: usize = 32;
/// Weights in a large block.
pub(crate) const LARGE: usize = 256;

/// A block that any bytes are a valid value of.
///
/// # Safety
/// The type must consist of `u8` and `i8` only: alignment 1, no padding, every bit pattern valid.
pub(crate) unsafe trait Block: Copy {
    /// Weights in it.
    const ELEMENTS: usize;
}

/// Declares a block: its weights, its bytes (asserted) and its fields.
macro_rules! block {
    ($(#[$doc:meta])* $name:ident, $elements:expr, $bytes:expr, { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $ty,)* }
        // SAFETY: every field below is an array of u8 or i8.
        unsafe impl Block for $name {
            const ELEMENTS: usize = $elements;
        }
        const _: () = assert!(size_of::<$name>() == $bytes);
        const _: () = assert!(align_of::<$name>() == 1);
    };
}

block!(
    /// `weight = d · (code − 8)`; the low nibbles are weights 0 to 15, the high ones 16 to 31. 4.5 bits.
    BlockQ4_0, SMALL, 18, { d: Half, codes: [u8; 16], }
);
block!(
    /// `weight = d · code + m`. 5 bits.
    BlockQ4_1, SMALL, 20, { d: Half, m: Half, codes: [u8; 16], }
);
block!(
    /// `weight = d · (code − 16)`; bit *i* of `high` is bit 4 of code *i*. 5.5 bits.
    BlockQ5_0, SMALL, 22, { d: Half, high: [u8; 4], codes: [u8; 16], }
);
block!(
    /// `weight = d · code + m`. 6 bits.
    BlockQ5_1, SMALL, 24, { d: Half, m: Half, high: [u8; 4], codes: [u8; 16], }
);
block!(
    /// `weight = d · code`. 8.5 bits.
    BlockQ8_0, SMALL, 34, { d: Half, codes: [i8; 32], }
);
block!(
    /// `weight = d · scale · code − dmin · min`; scale is the low nibble, min the high one. 2.625 bits.
    BlockQ2K, LARGE, 84, { scales: [u8; 16], codes: [u8; 64], d: Half, dmin: Half, }
);
block!(
    /// `weight = d · (scale − 32) · (code − 4)`; bit 2 of the codes is in `high`. 3.4375 bits.
    BlockQ3K, LARGE, 110, { high: [u8; 32], codes: [u8; 64], scales: [u8; 12], d: Half, }
);
block!(
    /// `weight = d · scale · code − dmin · min`. 4.5 bits.
    BlockQ4K, LARGE, 144, { d: Half, dmin: Half, scales: [u8; 12], codes: [u8; 128], }
);
block!(
    /// `weight = d · scale · code − dmin · min`; bit 4 of the codes is in `high`. 5.5 bits.
    BlockQ5K, LARGE, 176, { d: Half, dmin: Half, scales: [u8; 12], high: [u8; 32], codes: [u8; 128], }
);
block!(
    /// `weight = d · scale · (code − 32)`; bits 4 and 5 of the codes are in `high`. 6.5625 bits.
    BlockQ6K, LARGE, 210, { codes: [u8; 128], high: [u8; 64], scales: [i8; 16], d: Half, }
);
block!(
    /// `weight = d · TABLE[code]`. 4.5 bits.
    BlockIq4Nl, SMALL, 18, { d: Half, codes: [u8; 16], }
);
block!(
    /// `weight = d · (scale − 32) · TABLE[code]`. 4.25 bits.
    BlockIq4Xs, LARGE, 136, { d: Half, scales_high: [u8; 2], scales_low: [u8; 4], codes: [u8; 128], }
);

/// Bytes as blocks.
#[inline(always)]
pub(crate) fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    debug_assert!(bytes.len().is_multiple_of(size_of::<B>()));
    // SAFETY: a `Block` has alignment 1, no padding and no invalid value, and the length is rounded down.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// Bytes as blocks, to write them.
pub(crate) fn blocks_mut<B: Block>(bytes: &mut [u8]) -> &mut [B] {
    debug_assert!(bytes.len().is_multiple_of(size_of::<B>()));
    // SAFETY: as in `blocks`; bytes are valid whatever a block's fields are set to.
    unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<B>())
    }
}
