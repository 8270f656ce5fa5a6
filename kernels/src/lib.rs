//! Arithmetic on slices: quantized matmul, attention, norms.
//!
//! The crate knows shapes, not models or requests. [`Kernels`] owns an instruction set ([`Isa`]) and a fixed [`Team`]
//! of threads; its methods are the operations. Shapes are asserted where an operation starts, so the kernels below
//! return nothing, and no operation allocates after [`Kernels::new`].
//!
//! ```text
//!  ops        asserts shapes, splits work over the team, picks the instruction set
//!   ├─ portable   the oracle: exact weights, f32 activations, sums in f64
//!   ├─ avx2       codes of weights times codes of activations, in integers
//!   ├─ avx512     the same with VNNI, sixteen rows at a time; other operations are those of avx2
//!   └─ neon       the same on AArch64, with one of two instructions
//!  panel      how weights lie in memory, and their expansion, once for all instruction sets
//!  quant      what a block means: unpack, quantize, random rows
//! ```
//!
//! `heap` is beside all that: it proves that threads which took their memory at start take no more, the team's
//! included.
//!
//! `train` is beside that, too: gradients, for the factory alone.
//!
//! `docs/kernels.md` has layouts, error bounds and measurements.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "arithmetic on codes: each width is chosen so that the value fits, and tests hold it"
)]
#![allow(
    clippy::inline_always,
    reason = "a body must be inlined into its caller to be compiled with the caller's instruction set"
)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod certainty;
mod disjoint;
mod dispatch;
mod floats;
pub mod heap;
pub mod isa;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod low_rank;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod ops;
pub mod panel;
mod portable;
pub mod quant;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod rows;
pub mod team;
pub mod train;

pub use isa::Isa;
pub use ops::{
    Activations, AttentionShape, GateUp, Inputs, KernelLimits, Kernels, KvFormat, KvLayer,
    KvLayerMut, KvShape, KvSlot, LowRank, LowRankColumns, Matrix, Precision, Query, RopeStyle,
    pack, rope_table,
};
pub use quant::Format;
pub use team::{Team, Worker};
