//! Vectors of f32 of any width: what attention, certainty and adapters are written in, once for all instruction sets.

#![allow(unsafe_code, reason = "SIMD loads and stores go through pointers")]

/// Vectors of f32. Implementations run on machines that have the instructions, which is what each unsafe call in them
/// rests on.
pub(crate) trait Floats: Copy {
    /// Lanes in a vector.
    const LANES: usize;
    /// Loads `LANES` floats.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores `LANES` floats.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store(self, to: *mut f32);
    /// Loads `LANES` little-endian halves.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_halves(from: *const u8) -> Self;
    /// Loads `LANES` signed bytes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_bytes(from: *const u8) -> Self;
    /// Asks for a line to be brought into the cache. A hint; any address will do.
    fn prefetch(line: *const u8);
    fn splat(x: f32) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// `self · b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The greater; `b` where either is NaN.
    fn max(self, b: Self) -> Self;
    /// The lesser; `b` where either is NaN.
    fn min(self, b: Self) -> Self;
    /// `2ⁿ` where the low bits of each lane are n, as after adding 1.5 · 2²³.
    fn power_of_two(self) -> Self;
    /// `self · 2ⁿ` for normal results, with n as in `power_of_two`: one instruction less than the product.
    fn times_power_of_two(self, n: Self) -> Self;
    /// Lanes of `self` where the mask has a bit, of `other` elsewhere.
    fn select(self, mask: u32, other: Self) -> Self;
    /// Lanes that are NaN.
    fn nans(self) -> u32;
    /// Σ of the lanes, in one order.
    fn sum(self) -> f32;
    /// The greatest lane, none being NaN.
    fn greatest(self) -> f32;
}

/// Implements [`Floats`] for one vector: of each method, the intrinsics that it is, on bare vectors.
macro_rules! floats {
    (
        $(#[$doc:meta])*
        $name:ident($vector:ty), $lanes:literal lanes;
        $($method:ident($($arg:ident),+) => $body:expr;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name($vector);

        impl Floats for $name {
            const LANES: usize = $lanes;

            $(floats!(@ $method($($arg),+) $body);)+
        }
    };
    (@ load($from:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn load($from: *const f32) -> Self {
            // SAFETY: they are readable by the caller's promise; the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ store($x:ident, $to:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn store(self, $to: *mut f32) {
            let $x = self.0;
            // SAFETY: they are writable by the caller's promise; the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ load_halves($from:ident) $body:expr) => { floats!(@@ load_halves($from) $body); };
    (@ load_bytes($from:ident) $body:expr) => { floats!(@@ load_bytes($from) $body); };
    (@@ $load:ident($from:ident) $body:expr) => {
        #[inline(always)]
        unsafe fn $load($from: *const u8) -> Self {
            // SAFETY: they are readable by the caller's promise; the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ prefetch($line:ident) $body:expr) => {
        #[inline(always)]
        fn prefetch($line: *const u8) {
            $body;
        }
    };
    (@ splat($x:ident) $body:expr) => {
        #[inline(always)]
        fn splat($x: f32) -> Self {
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ power_of_two($x:ident) $body:expr) => {
        #[inline(always)]
        fn power_of_two(self) -> Self {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ select($x:ident, $mask:ident, $other:ident) $body:expr) => {
        #[inline(always)]
        fn select(self, $mask: u32, other: Self) -> Self {
            let ($x, $other) = (self.0, other.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ nans($x:ident) $body:expr) => {
        #[inline(always)]
        fn nans(self) -> u32 {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ $reduce:ident($x:ident) $body:expr) => {
        #[inline(always)]
        fn $reduce(self) -> f32 {
            let $x = self.0;
            // SAFETY: the machine has the instructions.
            unsafe { $body }
        }
    };
    (@ $combine:ident($a:ident, $b:ident) $body:expr) => {
        #[inline(always)]
        fn $combine(self, b: Self) -> Self {
            let ($a, $b) = (self.0, b.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
    (@ $combine:ident($a:ident, $b:ident, $c:ident) $body:expr) => {
        #[inline(always)]
        fn $combine(self, b: Self, c: Self) -> Self {
            let ($a, $b, $c) = (self.0, b.0, c.0);
            // SAFETY: the machine has the instructions.
            Self(unsafe { $body })
        }
    };
}
pub(crate) use floats;

/// Taylor's coefficients of eˣ after the first, 1/7!.
pub(crate) const EXP_SERIES: [f32; 7] = [
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// eˣ as `rows::exp` computes it for scalars, which says why and how exactly.
#[inline(always)]
pub(crate) fn exp<F: Floats>(x: F) -> F {
    const ROUND: f32 = 12_582_912.0;
    // NaN passes, being the second operand.
    let x = F::splat(88.0).min(F::splat(-87.0).max(x));
    let rounded = x.mul_add(F::splat(std::f32::consts::LOG2_E), F::splat(ROUND));
    let n = rounded.sub(F::splat(ROUND));
    let r = n.mul_add(F::splat(-0.693_359_4), x);
    let r = n.mul_add(F::splat(2.121_944_4e-4), r);
    let mut p = F::splat(1.0 / 5_040.0);
    for coefficient in EXP_SERIES {
        p = r.mul_add(p, F::splat(coefficient));
    }
    p.mul(rounded.power_of_two())
}
