//! What `outstation-kernels` does, on an NVIDIA GPU: `cu/*.cu`, compiled ahead, started through cudarc.
//!
//! A crate of its own, since neither a change of these kernels nor of the processor's should compile the other.
//!
//! A GPU is asked for work in order and does it later; only [`Gpu::finish`] waits. So operations here return nothing
//! but whether the driver took them, and what they read and write are buffers of the device ([`Buffer`], [`Slice`]),
//! whose shapes are asserted before a kernel starts.
//!
//! ```text
//!  ops      one method for each kernel: asserts shapes, fills in the struct that it takes
//!  draw     the next tokens, where the logits are
//!  low_rank what adapters add
//!  plan     a step, sent at once
//!  pack     weights in the order of tensor cores' fragments
//!  driver   devices, memory, streams, graphs
//! ```
//!
//! `docs/kernels-cuda.md` has layouts, resources and measurements. Without a GPU, `tests/gpu/emulator` makes a driver
//! that runs the same kernels on the processor.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a GPU counts in 32 bits; shapes are far below, and were asserted"
)]

mod draw;
mod driver;
mod inputs;
mod low_rank;
mod ops;
pub mod pack;
mod plan;
#[cfg(test)]
mod resources;

pub use draw::{Draw, GpuDraws, Outcome};
pub use driver::{Buffer, Gpu, GpuError, GpuFacts, Inbox, Pinned, Slice};
pub use inputs::{GpuInputs, Loaded};
pub use low_rank::{Adapted, AdaptersSize, FactorsAt, GpuAdapters};
pub use ops::{
    Added, Attend, Embed, Gate, GpuCache, GpuKernels, GpuMatrix, Heads, Norm, Product, SPAN,
    StepGraph,
};
pub use plan::{Column, GpuPlan, Item, PlanSize};
