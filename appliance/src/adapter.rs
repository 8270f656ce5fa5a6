//! LoRA adapters: what a base model can be given on top of its weights, per request.
//!
//! ```text
//! file   gguf | peft ─▶ Adapter: pairs of factors, as the file has them, each for a projection of the base
//! pool   place 0 … n, memory for the highest rank each, taken at start
//!        Adapter ─▶ PackedAdapter: factors as the kernels read them, in a place
//! step   a request holds its PackedAdapter from arrival to end; y += scale · B (A x) for its columns
//! ```
//!
//! Nothing here reads files: bytes come in, whatever they say, and either fit the base or are refused with the numbers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use outstation_kernels::ops::LowRank;
use outstation_kernels::quant::{Format, dequantize_row};
use outstation_kernels::{RopeStyle, ops::LowRankColumns};

use crate::model::{GateUpWeights, Model, Qkv, Weight};

mod error;
mod gguf;
mod peft;
mod pool;
mod safetensors;

pub use error::AdapterError;
pub use pool::{AdapterPool, Leaving, Place, PoolError, ServedAdapter};
pub use safetensors::SafetensorsError;

/// A matrix of a layer that adapters may add to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// All three, where the model keeps them in one matrix.
    Qkv,
    /// After attention.
    Output,
    /// Gate of the feed-forward layer.
    Gate,
    /// Up.
    Up,
    /// Both, where the model keeps them in one matrix.
    GateUp,
    /// Back down.
    Down,
}

impl Projection {
    /// Its place among those of its layer.
    const fn slot(self) -> usize {
        match self {
            Self::Q | Self::Qkv => 0,
            Self::K => 1,
            Self::V => 2,
            Self::Output => 3,
            Self::Gate => 4,
            Self::Up | Self::GateUp => 5,
            Self::Down => 6,
        }
    }

    /// Places of a layer.
    const SLOTS: usize = 7;

    /// Its tensor in GGUF, between `blk.N.` and `.weight`.
    const fn tensor(self) -> &'static str {
        match self {
            Self::Q => "attn_q",
            Self::K => "attn_k",
            Self::V => "attn_v",
            Self::Qkv => "attn_qkv",
            Self::Output => "attn_output",
            Self::Gate => "ffn_gate",
            Self::Up | Self::GateUp => "ffn_up",
            Self::Down => "ffn_down",
        }
    }
}

/// Which of the matrices that adapters add to a projection of a layer is.
pub const fn matrix_index(layer: usize, projection: Projection) -> usize {
    layer * Projection::SLOTS + projection.slot()
}

/// A matrix of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    layer: usize,
    projection: Projection,
    rows: usize,
    cols: usize,
}

/// What of a base model adapters may add to: its identity for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    architecture: String,
    layers: usize,
    head_dim: usize,
    /// Whether GGUF has the rows of queries and keys in another order than Hugging Face does.
    permuted: bool,
    targets: Vec<Target>,
    by_place: HashMap<(usize, Projection), usize>,
}

impl Base {
    /// Of no model: no adapter fits.
    pub fn none() -> Self {
        Self {
            architecture: String::new(),
            layers: 0,
            head_dim: 0,
            permuted: false,
            targets: Vec::new(),
            by_place: HashMap::new(),
        }
    }

    /// Those of a model.
    pub fn of(model: &Model) -> Self {
        let mut targets = Vec::new();
        for (layer, parts) in model.layers.iter().enumerate() {
            let mut add = |projection, weight: &Weight| {
                targets.push(Target {
                    layer,
                    projection,
                    rows: weight.rows,
                    cols: weight.cols,
                });
            };
            match &parts.qkv {
                Qkv::Split { q, k, v } => {
                    add(Projection::Q, q);
                    add(Projection::K, k);
                    add(Projection::V, v);
                }
                Qkv::Fused(qkv) => add(Projection::Qkv, qkv),
            }
            add(Projection::Output, &parts.attention_output);
            match &parts.gate_up {
                GateUpWeights::Split { gate, up } => {
                    add(Projection::Gate, gate);
                    add(Projection::Up, up);
                }
                GateUpWeights::Fused(both) => add(Projection::GateUp, both),
            }
            add(Projection::Down, &parts.down);
        }
        let places = targets.iter().enumerate();
        Self {
            architecture: model.architecture.clone(),
            layers: model.layers.len(),
            head_dim: model.dims.head_dim,
            // The rows are permuted where pairs of a head stand side by side.
            permuted: model.ropes.first().map(|rope| rope.style) == Some(RopeStyle::Adjacent),
            by_place: places
                .map(|(index, t)| ((t.layer, t.projection), index))
                .collect(),
            targets,
        }
    }

    /// The base's architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Names, rows and columns of the base's tensors that adapters may add to.
    pub fn tensors(&self) -> impl Iterator<Item = (String, usize, usize)> {
        self.targets.iter().map(|t| {
            let name = format!("blk.{}.{}.weight", t.layer, t.projection.tensor());
            (name, t.rows, t.cols)
        })
    }

    /// Bytes of an adapter of this rank that adds to every matrix.
    pub fn bytes(&self, rank: usize) -> usize {
        let of = |t: &Target| factor_bytes(rank, t.rows, t.cols);
        self.targets.iter().map(of).sum()
    }

    /// Matrices of a model's adapters at most, as [`matrix_index`] counts them.
    pub fn matrices_max(&self) -> usize {
        self.layers * Projection::SLOTS
    }

    fn find(&self, layer: usize, projection: Projection) -> Option<usize> {
        self.by_place.get(&(layer, projection)).copied()
    }

    /// The target of a base tensor's name as GGUF has it, like `blk.3.attn_q.weight`.
    fn named(&self, name: &str) -> Option<usize> {
        let rest = name.strip_prefix("blk.")?.strip_suffix(".weight")?;
        let (layer, tensor) = rest.split_once('.')?;
        let layer = parse_index(layer)?;
        let all = [
            Projection::Q,
            Projection::K,
            Projection::V,
            Projection::Qkv,
            Projection::Output,
            Projection::Gate,
            Projection::Up,
            Projection::GateUp,
            Projection::Down,
        ];
        let mut candidates = all.into_iter().filter(|p| p.tensor() == tensor);
        candidates.find_map(|projection| self.find(layer, projection))
    }
}

/// A number as names have it: no sign, no zeros in front.
fn parse_index(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// How many adapters there can be at once, and how large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdapterPlaces {
    /// Places; 0 is none.
    pub count: u32,
    /// The highest rank that fits in one.
    pub rank_max: u32,
}

impl AdapterPlaces {
    /// Those that some adapters need.
    pub fn of(adapters: &[Arc<PackedAdapter>]) -> Self {
        let rank = adapters.iter().map(|adapter| adapter.rank_max()).max();
        let fits = |count: usize| u32::try_from(count).expect("few, of low rank");
        Self {
            count: fits(adapters.len()),
            rank_max: fits(rank.unwrap_or(0)),
        }
    }

    /// The highest rank of a step's adapters; 0 without any.
    pub fn rank(&self) -> usize {
        if self.count == 0 {
            0
        } else {
            self.rank_max as usize
        }
    }

    /// Bytes of a place.
    pub fn place_bytes(&self, base: &Base) -> u64 {
        base.bytes(self.rank()) as u64
    }
}

/// Bytes of both factors of a matrix, to whole cache lines.
fn factor_bytes(rank: usize, rows: usize, cols: usize) -> usize {
    let a = LowRank::a_bytes(rank, cols).next_multiple_of(ALIGN);
    a + LowRank::b_bytes(rank, rows).next_multiple_of(ALIGN)
}

/// Factors start on a cache line.
const ALIGN: usize = 64;

/// An adapter as its file has it, checked against its base.
#[derive(Debug)]
pub struct Adapter<'a> {
    pairs: Vec<Pair<'a>>,
}

/// Both factors of one matrix of the base: `W + scale · B A`.
#[derive(Debug)]
struct Pair<'a> {
    target: usize,
    /// Name of the tensor, for errors.
    name: String,
    rank: usize,
    scale: f32,
    /// `[rank, cols]`
    a: Rows<'a>,
    /// `[rows, rank]`
    b: Rows<'a>,
    order: RowOrder,
}

/// A matrix in a file.
#[derive(Debug, Clone, Copy)]
struct Rows<'a> {
    format: Format,
    cols: usize,
    bytes: &'a [u8],
}

impl Rows<'_> {
    fn read(&self, index: usize, out: &mut [f32]) {
        let bytes = self.format.row_bytes(self.cols);
        let row = &self.bytes[index * bytes..][..bytes];
        dequantize_row(self.format, row, out);
    }
}

/// Where the file has a row of the second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    /// Where the base has it.
    Same,
    /// Queries and keys as Hugging Face has them: the first elements of all pairs of a head, then the second ones,
    /// where the base has pair after pair.
    Halves {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The file's row for a row of the base. Source: `LlamaModel.permute` of llama.cpp's `convert_hf_to_gguf.py`.
    fn source(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Halves { head_dim } => {
                let (head, at) = (row / head_dim, row % head_dim);
                let (pair, element) = (at / 2, at % 2);
                head * head_dim + element * (head_dim / 2) + pair
            }
        }
    }
}

impl Adapter<'_> {
    /// The highest rank of its pairs.
    pub fn rank(&self) -> usize {
        self.pairs.iter().map(|pair| pair.rank).max().unwrap_or(0)
    }

    /// Matrices of the base that it adds to.
    pub fn matrices(&self) -> usize {
        self.pairs.len()
    }
}

/// Memory of a place: a map, or a buffer.
pub trait AdapterMemory: AsRef<[u8]> + AsMut<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync> AdapterMemory for T {}

/// An adapter as the kernels read it, in memory that was taken at start.
///
/// It is shared by those who use it: the pool has one share, and each request that runs with it another.
pub struct PackedAdapter {
    memory: Box<dyn AdapterMemory>,
    /// `[layers][SLOTS]`
    table: Box<[Option<Placed>]>,
    rank_max: usize,
    digest: [u8; 32],
}

/// Where a matrix' factors lie.
#[derive(Debug, Clone, Copy)]
struct Placed {
    start: usize,
    rank: usize,
    rows: usize,
    cols: usize,
    scale: f32,
}

impl PackedAdapter {
    /// An empty place in [`Base::bytes`] of memory for adapters of up to this rank.
    pub fn new(targets: &Base, rank_max: usize, memory: Box<dyn AdapterMemory>) -> Self {
        assert!(
            (*memory).as_ref().len() >= targets.bytes(rank_max),
            "memory for every matrix"
        );
        Self {
            memory,
            table: vec![None; targets.matrices_max()].into(),
            rank_max,
            digest: [0; 32],
        }
    }

    /// One that adds nothing, for engines that look at its name only.
    pub fn nothing(digest: [u8; 32]) -> Self {
        Self {
            memory: Box::new(Vec::new()),
            table: Box::new([]),
            rank_max: 0,
            digest,
        }
    }

    /// Bytes that its table takes.
    pub fn table_bytes(targets: &Base) -> usize {
        targets.matrices_max() * size_of::<Option<Placed>>()
    }

    /// Takes an adapter that was made for `targets` in. `digest` says which it is.
    ///
    /// Values become bytes with a scale for each row of the first factor and each 64 weights of a column of the second:
    /// what is lost is a 254th of the greatest of those, and the base's own quantization loses more.
    ///
    /// Errors: a rank over the place's, a value that is no number. The place is empty then.
    pub fn fill(
        &mut self,
        targets: &Base,
        adapter: &Adapter<'_>,
        digest: [u8; 32],
    ) -> Result<(), AdapterError> {
        self.table.fill(None);
        if adapter.rank() > self.rank_max {
            return Err(AdapterError::Rank {
                found: adapter.rank(),
                max: self.rank_max,
            });
        }
        let mut start = 0;
        for pair in &adapter.pairs {
            let target = &targets.targets[pair.target];
            let end = start + factor_bytes(pair.rank, target.rows, target.cols);
            let memory = &mut (*self.memory).as_mut()[start..end];
            if pack_pair(pair, target, memory).is_none() {
                self.table.fill(None);
                return Err(AdapterError::NotFinite {
                    tensor: pair.name.clone(),
                });
            }
            let slot = matrix_index(target.layer, target.projection);
            self.table[slot] = Some(Placed {
                start,
                rank: pair.rank,
                rows: target.rows,
                cols: target.cols,
                scale: pair.scale,
            });
            start = end;
        }
        self.digest = digest;
        Ok(())
    }

    /// Which adapter it is: BLAKE3 of its files.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The highest rank that fits.
    pub fn rank_max(&self) -> usize {
        self.rank_max
    }

    /// Its bytes, as the kernels read them.
    pub fn bytes(&self) -> &[u8] {
        let ends = self
            .table
            .iter()
            .flatten()
            .map(|p| p.start + p.ranges().1.end);
        &(*self.memory).as_ref()[..ends.max().unwrap_or(0)]
    }

    /// For which matrices it has factors, as [`matrix_index`] counts them, and where in its bytes they are.
    #[cfg(feature = "cuda")]
    pub fn factors_at(&self) -> impl Iterator<Item = (usize, outstation_cuda::FactorsAt)> {
        let placed = self.table.iter().enumerate();
        placed.filter_map(|(matrix, placed)| {
            let placed = (*placed)?;
            let (a, b) = placed.ranges();
            let at = outstation_cuda::FactorsAt {
                a: placed.start + a.start,
                b: placed.start + b.start,
                rank: placed.rank,
                scale: placed.scale,
            };
            Some((matrix, at))
        })
    }

    /// What of a cache's keys depends on the adapter.
    pub fn salt(&self) -> u64 {
        u64::from_le_bytes(*self.digest.first_chunk().expect("a digest has 32 bytes"))
    }

    /// What it adds to some matrices of a layer, for these columns of a step.
    pub fn factors<'a, const K: usize>(
        &'a self,
        layer: usize,
        projections: [Projection; K],
        columns: &'a [u32],
    ) -> LowRankColumns<'a, K> {
        LowRankColumns {
            columns,
            factors: projections.map(|projection| {
                let slot = matrix_index(layer, projection);
                let placed = self.table.get(slot).copied().flatten();
                placed.map(|placed| self.view(placed))
            }),
        }
    }

    fn view(&self, placed: Placed) -> LowRank<'_> {
        let (a, b) = placed.ranges();
        let memory = &(*self.memory).as_ref()[placed.start..];
        LowRank::new(
            placed.rank,
            (placed.rows, placed.cols),
            placed.scale,
            &memory[a],
            &memory[b],
        )
    }
}

impl Placed {
    fn ranges(&self) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let a = LowRank::a_bytes(self.rank, self.cols);
        let b = a.next_multiple_of(ALIGN);
        (0..a, b..b + LowRank::b_bytes(self.rank, self.rows))
    }
}

/// Two are the same if their files were.
impl PartialEq for PackedAdapter {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for PackedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedAdapter")
            .field("salt", &self.salt())
            .field("rank_max", &self.rank_max)
            .finish_non_exhaustive()
    }
}

/// Writes both factors. `None`: some value is no number, or their product would be none.
fn pack_pair(pair: &Pair<'_>, target: &Target, memory: &mut [u8]) -> Option<()> {
    let (rank, rows) = (pair.rank, target.rows);
    let a_bytes = LowRank::a_bytes(rank, target.cols);
    let (a, b) = memory.split_at_mut(a_bytes.next_multiple_of(ALIGN));
    let a = &mut a[..a_bytes];
    let b = &mut b[..LowRank::b_bytes(rank, rows)];
    let mut row = vec![0.0; target.cols];
    let mut greatest = [0.0_f32; 2];
    for index in 0..rank {
        pair.a.read(index, &mut row);
        greatest[0] = greatest[0].max(magnitude(&row)?);
        LowRank::put_a(a, rank, index, &row);
    }
    let mut panel = vec![0.0; LowRank::PANEL_ROWS * rank];
    for (index, start) in (0..rows).step_by(LowRank::PANEL_ROWS).enumerate() {
        let count = LowRank::PANEL_ROWS.min(rows - start);
        let panel = &mut panel[..count * rank];
        for (row, values) in panel.chunks_exact_mut(rank).enumerate() {
            pair.b.read(pair.order.source(start + row), values);
        }
        greatest[1] = greatest[1].max(magnitude(panel)?);
        LowRank::put_b(b, rank, index, panel);
    }
    let product = f64::from(greatest[0]) * f64::from(greatest[1]) * f64::from(pair.scale);
    (product.abs() < PRODUCT_MAX && pair.scale.is_finite()).then_some(())
}

/// Far past what any adapter adds, and far below what floats hold after sums over rows and ranks.
const PRODUCT_MAX: f64 = 1e20;

/// The greatest of some values, all of them being numbers.
fn magnitude(values: &[f32]) -> Option<f32> {
    let numbers = values.iter().all(|value| value.is_finite());
    let greatest = values
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    numbers.then_some(greatest)
}

#[cfg(test)]
mod tests;
