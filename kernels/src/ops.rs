//! The operations: safe entry points that assert shapes, split work over the team and pick the instruction set.
//!
//! Matrices of activations are row-major f32, one row per *column* of the step (a token of some sequence), so `x` is
//! `[columns, cols]`. No operation allocates.
//!
//! Results do not depend on the number of threads nor on the other columns of the step: work is split so that each
//! result is computed by one worker, in one order.

#![allow(unsafe_code, reason = "workers write disjoint parts of a result")]

mod activations;
mod attention;
mod certainty;
mod kv;
mod low_rank;
mod matmul;
mod rows;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::team::{Team, Worker};

pub use activations::{Activations, Inputs, Precision};
pub(crate) use activations::{ColumnMut, ColumnScale, GroupSpace, Groups, Tile, quantize, unit_of};
#[cfg(target_arch = "x86_64")]
pub(crate) use activations::{SCALE_GROUP, base_of};
pub use attention::{AttentionShape, Query};
pub use certainty::{Certainty, certainty};
pub use kv::{KV_SCALE_GROUP, KvFormat, KvLayer, KvLayerMut, KvShape, KvSlot, UnknownKvFormat};
pub(crate) use kv::{WORD_MAX, WORD_SIZE_MIN};
pub(crate) use low_rank::UP_ROWS;
pub use low_rank::{LowRank, LowRankColumns};
#[cfg(target_arch = "x86_64")]
pub(crate) use matmul::CHUNKS_AHEAD;
pub(crate) use matmul::TileSums;
pub use matmul::{Matrix, pack};
pub use rows::{GateUp, RopeStyle, rope_table, softmax_weights};

/// What the scratch memory of [`Kernels`] is sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLimits {
    /// The longest row of a matrix.
    pub cols_max: usize,
    /// The most columns of activations.
    pub columns_max: usize,
    /// The most query heads.
    pub heads_max: usize,
    /// The widest head.
    pub head_dim_max: usize,
    /// The longest sequence whose positions threads share; a longer one is attended by fewer of them.
    pub positions_max: usize,
}

/// The operations on one instruction set with one team. The caller's thread is worker 0 of every operation.
pub struct Kernels {
    isa: Isa,
    team: Team,
    limits: KernelLimits,
    /// One for each worker.
    scratch: Box<[matmul::Scratch]>,
    attention: attention::Space,
    /// Pieces of the present operation that workers have taken.
    taken: AtomicUsize,
}

impl Kernels {
    /// Takes all memory that operations will ever need: [`Kernels::bytes`].
    ///
    /// Panics when this machine lacks `isa`.
    pub fn new(isa: Isa, team: Team, limits: KernelLimits) -> Kernels {
        assert!(isa.available(), "this machine has no {isa}");
        let scratch: Box<[matmul::Scratch]> = (0..team.threads())
            .map(|_| matmul::Scratch::new(limits))
            .collect();
        Kernels {
            isa,
            team,
            limits,
            attention: attention::Space::new(limits, scratch.len()),
            scratch,
            taken: AtomicUsize::new(0),
        }
    }

    /// Bytes of scratch for a team of `threads`.
    pub fn bytes(limits: KernelLimits, threads: usize) -> usize {
        threads * matmul::Scratch::bytes(limits) + attention::Space::bytes(limits, threads)
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in the team, the caller included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Multiplies codes in registers on all workers, `rounds` times a dozen instructions each, and returns the
    /// multiply-adds, so that a benchmark with a clock can tell the machine's limit; 0 for `Isa::Portable`.
    pub fn multiply_peak(&mut self, rounds: u64) -> u64 {
        let isa = self.isa;
        self.team.run(&|_| {
            crate::dispatch::multiply_peak(isa, rounds);
        });
        crate::dispatch::multiply_peak(isa, 1) * rounds * self.team.threads() as u64
    }

    /// Streams `buffer` once through all workers and returns the wrapping sum of its 64-bit words, so that a benchmark
    /// with a clock can tell the memory's bandwidth from the buffer's length.
    pub fn read_bandwidth(&mut self, buffer: &[u8]) -> u64 {
        let mut sums = [0_u64; crate::team::THREADS_MAX];
        let out = Disjoint::new(&mut sums);
        let isa = self.isa;
        self.team.run(&|worker| {
            let sum = crate::dispatch::sum_words(isa, &buffer[worker.share(buffer.len(), 64)]);
            // SAFETY: no two workers share an index.
            let out = unsafe { out.slice(worker.index..worker.index + 1) };
            out[0] = sum;
        });
        sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
    }
}

/// Writes to every page of zeroed memory, all threads at once, so that the system backs it.
pub fn touch(team: &mut Team, memory: &mut [u8]) {
    /// The smallest page of any system.
    const PAGE: usize = 4096;
    let len = memory.len();
    let memory = Disjoint::new(memory);
    team.run(&|worker| {
        // SAFETY: shares are disjoint.
        for page in unsafe { memory.slice(worker.share(len, PAGE)) }.chunks_mut(PAGE) {
            page[0] = std::hint::black_box(0);
        }
    });
}

/// Element operations below which the caller works alone: starting the others costs about as much as this many.
const SHARED_ELEMENTS_MIN: usize = 16 * 1024;

/// Multiply-adds below which the caller works alone.
const SHARED_PRODUCTS_MIN: usize = 64 * 1024;

/// Runs `job` on the team, or on the caller alone when the work is too small to share.
fn run(team: &mut Team, work: usize, work_min: usize, job: &(dyn Fn(Worker) + Sync)) {
    if work < work_min {
        job(Worker::ALONE);
    } else {
        team.run(job);
    }
}

/// Takes the next piece of `0..pieces` for the calling worker. Which worker computes a piece is left to chance, what it
/// computes is not.
fn take(taken: &AtomicUsize, pieces: usize) -> Option<usize> {
    let piece = taken.fetch_add(1, Ordering::Relaxed);
    (piece < pieces).then_some(piece)
}

#[cfg(test)]
mod tests;
