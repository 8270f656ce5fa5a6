//! Makes models: complete GGUF files with random weights from a seed, for tests, benchmarks and the demo.
//!
//! Speed does not depend on the values of weights, so such a file times this program against others on the same bytes
//! without a download. Weights are random quant blocks, scaled so that activations keep the size they have in trained
//! models. The tokenizer is real (byte-level BPE that knows some words), so that text goes in and comes out.
//!
//! The same spec gives the same bytes on any machine and with any number of threads.
//!
//! ```text
//! shape  sizes of known models        mix         which tensor gets which quant type
//! plan   the tensors of a model       vocabulary  tokens, merges, chat template
//! fill   the bytes, on a few threads  demo        the model inside the binary
//! ```

mod adapter;
mod demo;
mod fill;
mod mix;
mod plan;
mod shape;
#[cfg(test)]
mod tests;
mod vocabulary;
mod words;

use std::io;

pub use adapter::{AdapterSpec, adapter};
pub use demo::demo;
pub use mix::Mix;
pub use shape::Shape;

/// Everything that decides a generated model's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Sizes and options.
    pub shape: Shape,
    /// Quant types.
    pub mix: Mix,
    /// Another seed, other weights.
    pub seed: u64,
    /// Positions of context that the file promises.
    pub context: u32,
}

impl ModelSpec {
    /// A spec with a context of [`CONTEXT_DEFAULT`].
    pub fn new(shape: Shape, mix: Mix, seed: u64) -> Self {
        Self {
            shape,
            mix,
            seed,
            context: CONTEXT_DEFAULT,
        }
    }
}

/// Positions of context where none are asked for: what the smaller llamas had.
pub const CONTEXT_DEFAULT: u32 = 8192;

/// Writes the model's GGUF from first byte to last; `progress` hears bytes done and bytes in all.
///
/// **Cost**: about 64 MiB of buffers whatever the model's size.
/// **Errors**: those of `out`.
pub fn write(
    spec: &ModelSpec,
    out: &mut impl io::Write,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    plan::Plan::new(spec).write(out, progress)
}

/// The model's GGUF in memory: for small shapes.
pub fn bytes(spec: &ModelSpec) -> Vec<u8> {
    plan::Plan::new(spec).bytes()
}

/// A shape or mix that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {what} is called {name:?}; there are {known}")]
pub struct UnknownName {
    /// `shape` or `mix`.
    pub what: &'static str,
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub known: String,
}
