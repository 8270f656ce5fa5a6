//! What adapters add to products: memory for some of them on the device, and the kernels that multiply by it.

use super::driver::{Buffer, Grid, Kernel, Slice};
use super::inputs::Loaded;
use super::{Gpu, GpuError, GpuKernels};

/// Where the factors of one matrix lie in an adapter's bytes, which are those of `outstation_kernels::ops::LowRank`.
#[derive(Clone, Copy, Debug)]
pub struct FactorsAt {
    /// Start of the first factor.
    pub a: usize,
    /// Start of the second.
    pub b: usize,
    /// Rank.
    pub rank: usize,
    /// Multiplies the product.
    pub scale: f32,
}

/// `Factors` of `low_rank.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Factors {
    a: u64,
    b: u64,
    rank: i32,
    scale: f32,
    unused: u64,
}

/// How much memory adapters take.
#[derive(Clone, Copy, Debug)]
pub struct AdaptersSize {
    /// Adapters that are there at once.
    pub places: usize,
    /// Bytes of each.
    pub place_bytes: usize,
    /// The highest rank.
    pub rank_max: usize,
    /// Matrices of a model.
    pub matrices: usize,
    /// Columns of a step.
    pub columns: usize,
}

/// Products with one input at most.
const PRODUCTS_MAX: usize = 3;

/// Places start at whole lines of the device's cache.
const ALIGN: usize = 256;

impl AdaptersSize {
    /// Bytes that [`GpuAdapters::new`] takes.
    pub fn bytes(&self) -> u64 {
        let place = self.place_bytes.next_multiple_of(ALIGN);
        let table = self.matrices * size_of::<Factors>();
        (self.places * (place + table) + self.between() * 4) as u64
    }

    fn between(&self) -> usize {
        self.columns * PRODUCTS_MAX * self.rank_max
    }
}

/// Adapters on the device.
pub struct GpuAdapters {
    size: AdaptersSize,
    memory: Buffer<u8>,
    /// `[places, matrices]`
    table: Buffer<Factors>,
    staged: Vec<Factors>,
    /// Between the two factors: `[columns, products, rank]`.
    between: Buffer<f32>,
}

impl GpuAdapters {
    /// No column of an adapter.
    pub const NO_PLACE: u32 = u32::MAX;

    /// Takes memory.
    pub fn new(gpu: &Gpu, size: AdaptersSize) -> Result<GpuAdapters, GpuError> {
        let place = size.place_bytes.next_multiple_of(ALIGN);
        Ok(GpuAdapters {
            memory: gpu.buffer(size.places * place)?,
            table: gpu.buffer(size.places * size.matrices)?,
            staged: vec![Factors::default(); size.matrices],
            between: gpu.buffer(size.between())?,
            size,
        })
    }

    /// Sends an adapter to a place, in place of what is there; done when it returns. `factors` says for which matrices
    /// it has some.
    pub fn put(
        &mut self,
        place: usize,
        bytes: &[u8],
        factors: impl Iterator<Item = (usize, FactorsAt)>,
    ) -> Result<(), GpuError> {
        assert!(place < self.size.places && bytes.len() <= self.size.place_bytes);
        let start = place * self.size.place_bytes.next_multiple_of(ALIGN);
        let at = self.memory.all().at() + start as u64;
        self.staged.fill(Factors::default());
        for (matrix, factors) in factors {
            assert!(factors.rank <= self.size.rank_max);
            assert!(factors.a.max(factors.b) < bytes.len());
            self.staged[matrix] = Factors {
                a: at + factors.a as u64,
                b: at + factors.b as u64,
                rank: factors.rank as i32,
                scale: factors.scale,
                unused: 0,
            };
        }
        self.memory.write(start, bytes)?;
        self.table.write(place * self.size.matrices, &self.staged)
    }
}

/// A product that adapters add to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adapted {
    /// Which matrix of an adapter it is.
    pub matrix: usize,
    /// Its first output in a column.
    pub first: usize,
    /// Outputs.
    pub rows: usize,
}

/// The kernels.
pub(super) struct LowRankKernels {
    down: Kernel,
    up: Kernel,
}

impl LowRankKernels {
    pub(super) fn find(gpu: &Gpu) -> Result<LowRankKernels, GpuError> {
        Ok(LowRankKernels {
            down: gpu.kernel("low_rank_down", 0)?,
            up: gpu.kernel("low_rank_up", 0)?,
        })
    }
}

impl GpuKernels {
    /// Adds to products, `y [columns, stride]`, what the adapters of their columns add. `inputs` are those of the
    /// products, with floats; `places` says which adapter a column has.
    pub fn add_low_rank(
        &self,
        products: &[Adapted],
        (adapters, places): (&GpuAdapters, Slice<'_, u32>),
        inputs: &Loaded<'_>,
        (y, stride): (Slice<'_, f32>, usize),
    ) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            x: u64,
            places: u64,
            table: u64,
            between: u64,
            y: u64,
            first: [i32; PRODUCTS_MAX],
            rows: [i32; PRODUCTS_MAX],
            matrices: [i32; PRODUCTS_MAX],
            cols: i32,
            stride: i32,
            rank_max: i32,
            matrices_count: i32,
            products: i32,
        }
        let size = &adapters.size;
        let columns = inputs.columns;
        assert!(columns <= size.columns && columns <= places.len());
        assert!(columns * stride <= y.len());
        assert!(!products.is_empty() && products.len() <= PRODUCTS_MAX);
        for product in products {
            assert!(product.first + product.rows <= stride);
            assert!(product.matrix < size.matrices);
        }
        let of = |value: fn(&Adapted) -> usize| {
            let mut values = [0; PRODUCTS_MAX];
            for (to, product) in values.iter_mut().zip(products) {
                *to = value(product) as i32;
            }
            values
        };
        let floats = inputs.memory.floats.as_ref();
        let argument = Arg {
            x: floats.expect("asked for with adapters").all().at(),
            places: places.at(),
            table: adapters.table.all().at(),
            between: adapters.between.all().at(),
            y: y.at(),
            first: of(|product| product.first),
            rows: of(|product| product.rows),
            matrices: of(|product| product.matrix),
            cols: inputs.cols as i32,
            stride: stride as i32,
            rank_max: size.rank_max as i32,
            matrices_count: size.matrices as i32,
            products: products.len() as i32,
        };
        let grid = |blocks, threads| Grid {
            blocks: (columns, blocks),
            threads,
            shared: 0,
            early: true,
        };
        let down = grid(products.len(), 512);
        self.gpu().launch(self.low_rank.down, down, &argument)?;
        // A block takes 1024 outputs.
        let blocks = products.iter().map(|product| product.rows.div_ceil(1024));
        self.gpu()
            .launch(self.low_rank.up, grid(blocks.sum(), 256), &argument)
    }
}
