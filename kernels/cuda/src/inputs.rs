//! Inputs of products: columns rounded to bytes, in the order of the fragments that take them. `cu/inputs.cuh` draws
//! it.

use outstation_kernels::Precision;

use super::driver::Buffer;
use super::{Gpu, GpuError};

/// Columns of inputs that a tile has.
pub(super) const TILE_COLUMNS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct InputsArg {
    codes: u64,
    scales: u64,
    sums: u64,
    tiles: i32,
    digits: i32,
}

/// Memory for the inputs of products.
pub struct GpuInputs {
    pub(super) codes: Buffer<u8>,
    pub(super) scales: Buffer<f32>,
    pub(super) sums: Buffer<f32>,
    /// Where float weights need them: `[columns, cols]`.
    pub(super) floats: Option<Buffer<f32>>,
}

/// What lies in [`GpuInputs`] once the kernel has run that returned this.
#[derive(Clone, Copy)]
pub struct Loaded<'a> {
    pub(super) memory: &'a GpuInputs,
    pub(super) columns: usize,
    pub(super) cols: usize,
    pub(super) digits: usize,
    pub(super) tiles: usize,
}

impl GpuInputs {
    /// For so many columns of so many values; `floats` if matrices of float formats take them.
    pub fn new(
        gpu: &Gpu,
        columns_max: usize,
        cols_max: usize,
        floats: bool,
    ) -> Result<GpuInputs, GpuError> {
        let width = width(columns_max);
        let cols = cols_max.next_multiple_of(64);
        Ok(GpuInputs {
            codes: gpu.buffer(width * cols)?,
            scales: gpu.buffer(width * cols / 32)?,
            sums: gpu.buffer(width * cols / 16)?,
            floats: floats
                .then(|| gpu.buffer(columns_max * cols_max))
                .transpose()?,
        })
    }

    /// Bytes that [`GpuInputs::new`] takes.
    pub fn bytes(columns_max: usize, cols_max: usize, floats: bool) -> u64 {
        let (width, cols) = (width(columns_max), cols_max.next_multiple_of(64));
        let floats = if floats {
            columns_max * cols_max * 4
        } else {
            0
        };
        (width * cols + width * cols / 32 * 4 + width * cols / 16 * 4 + floats) as u64
    }

    /// Says what comes next, and checks that it fits.
    pub(super) fn begin(&self, columns: usize, cols: usize, precision: Precision) -> Loaded<'_> {
        let digits = precision.digits();
        let tiles = (columns * digits).div_ceil(TILE_COLUMNS);
        assert!(tiles * TILE_COLUMNS * cols.next_multiple_of(64) <= self.codes.len());
        if let Some(floats) = &self.floats {
            assert!(columns * cols <= floats.len());
        }
        Loaded {
            memory: self,
            columns,
            cols,
            digits,
            tiles,
        }
    }

    pub(super) fn floats_at(&self) -> u64 {
        self.floats.as_ref().map_or(0, |floats| floats.all().at())
    }
}

impl Loaded<'_> {
    pub(super) fn argument(&self) -> InputsArg {
        InputsArg {
            codes: self.memory.codes.all().at(),
            scales: self.memory.scales.all().at(),
            sums: self.memory.sums.all().at(),
            tiles: self.tiles as i32,
            digits: self.digits as i32,
        }
    }
}

/// Columns of inputs in memory: with two digits each, in whole tiles.
fn width(columns_max: usize) -> usize {
    (2 * columns_max).next_multiple_of(TILE_COLUMNS)
}
