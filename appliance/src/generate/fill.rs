//! Fills tensors with weights and writes the file. Chunks are made on a few threads and written in order; a chunk's
//! seed depends on the model's seed, the tensor's name and the row alone, so threads do not change the bytes.

use std::io;
use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use outstation_kernels::quant::random_row;

use super::plan::{Fill, Plan, TensorPlan};

impl Plan {
    /// The file in memory.
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, &mut |_, _| {})
            .expect("a Vec takes every write");
        bytes
    }

    /// Writes the file from first byte to last.
    pub(super) fn write(
        self,
        out: &mut impl io::Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()> {
        let header = self.writer.finish();
        out.write_all(&header.bytes)?;
        let mut done = header.bytes.len() as u64;
        let places = header.tensors.iter().map(|place| place.file_offset);
        let chunks: Vec<Chunk<'_>> = self
            .tensors
            .iter()
            .zip(places)
            .flat_map(|(tensor, start)| chunks(tensor, start))
            .collect();
        let mut buffers = vec![Vec::new(); CHUNKS_AT_ONCE];
        for batch in chunks.chunks(CHUNKS_AT_ONCE) {
            fill_batch(self.seed, batch, &mut buffers);
            for (chunk, buffer) in batch.iter().zip(&buffers) {
                pad(out, chunk.file_offset - done)?;
                out.write_all(buffer)?;
                done = chunk.file_offset + buffer.len() as u64;
                progress(done, header.file_bytes);
            }
        }
        pad(out, header.file_bytes - done)?;
        progress(header.file_bytes, header.file_bytes);
        out.flush()
    }
}

/// Whole rows of one tensor.
struct Chunk<'a> {
    tensor: &'a TensorPlan,
    first_row: usize,
    rows: usize,
    file_offset: u64,
}

fn chunks(tensor: &TensorPlan, start: u64) -> impl Iterator<Item = Chunk<'_>> {
    let (rows, row_bytes) = (rows(tensor), row_bytes(tensor));
    let step = (CHUNK_BYTES / row_bytes).max(1);
    (0..rows).step_by(step).map(move |first_row| Chunk {
        tensor,
        first_row,
        rows: step.min(rows - first_row),
        file_offset: start + (first_row * row_bytes) as u64,
    })
}

/// Fills one buffer for each chunk; each thread takes the next chunk until none is left.
fn fill_batch(seed: u64, batch: &[Chunk<'_>], buffers: &mut [Vec<u8>]) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let queue = Mutex::new(batch.iter().zip(buffers));
    let next = || {
        queue
            .lock()
            .expect("no thread panics while it holds the queue")
            .next()
    };
    let work = || {
        while let Some((chunk, buffer)) = next() {
            chunk.fill(seed, buffer);
        }
    };
    thread::scope(|scope| {
        for _ in 1..cores.min(batch.len()) {
            scope.spawn(work);
        }
        work();
    });
}

impl Chunk<'_> {
    fn fill(&self, model_seed: u64, out: &mut Vec<u8>) {
        let row_bytes = row_bytes(self.tensor);
        out.resize(self.rows * row_bytes, 0);
        let seed = seed_of(model_seed, &self.tensor.name, self.first_row);
        let format = crate::model::format_of(self.tensor.kind);
        match &self.tensor.fill {
            Fill::Vector { mean, deviation } => fill_vector(seed, *mean, *deviation, out),
            Fill::Matrix { deviation } => random_row(format, seed, *deviation, out),
            Fill::Rows { deviations } => {
                let deviations = &deviations[self.first_row..][..self.rows];
                for (row, (bytes, &deviation)) in
                    out.chunks_exact_mut(row_bytes).zip(deviations).enumerate()
                {
                    random_row(format, finalize(seed ^ row as u64), deviation, bytes);
                }
            }
        }
    }
}

/// Uniform floats with a mean and a standard deviation.
fn fill_vector(seed: u64, mean: f32, deviation: f32, out: &mut [u8]) {
    // A uniform number in 0..1 has the standard deviation 1 / sqrt(12).
    let width = deviation * 3.464_101_6;
    for (index, bytes) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let bits = finalize(seed ^ index as u64) >> 40;
        let unit = bits as f32 / (1_u32 << 24) as f32;
        *bytes = (mean + width * (unit - 0.5)).to_le_bytes();
    }
}

fn seed_of(model_seed: u64, name: &str, first_row: usize) -> u64 {
    // FNV-1a of the name.
    let name = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    finalize(finalize(finalize(model_seed) ^ name) ^ first_row as u64)
}

/// Mixes all bits of a number into all bits. Source: the finalizer of `SplitMix64`, Steele, Lea, Flood, 2014.
fn finalize(bits: u64) -> u64 {
    let z = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn rows(tensor: &TensorPlan) -> usize {
    let rows = tensor.dims[1..].iter().product::<u64>();
    usize::try_from(rows).expect("a shape's sizes are u32")
}

fn row_bytes(tensor: &TensorPlan) -> usize {
    let bytes = tensor
        .kind
        .bytes(tensor.dims[0])
        .expect("rows of whole quant blocks");
    usize::try_from(bytes).expect("a row fits memory")
}

fn pad(out: &mut impl io::Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out).map(drop)
}

/// Bytes of a chunk, rounded down to rows: large beside the cost of a thread. Part of what decides a model's bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// Chunks in memory at once: 64 MiB, enough to keep eight cores busy.
const CHUNKS_AT_ONCE: usize = 16;
