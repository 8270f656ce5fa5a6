//! Inputs of products: columns rounded to bytes, in the order of the fragments that take them. `cu/inputs.cuh` draws
//! it.

use outstation_kernels::Precision;

use super::driver::Buffer;
use super::{Gpu, GpuError};

/// Columns of inputs that a tile has.
pub(super) const TILE_COLUMNS: usize = 8;

/// Bytes of 64 values of a tile: codes, scales, sums.
const TILE_BYTES: usize = 704;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct InputsArg {
    at: u64,
    tiles: i32,
    digits: i32,
}

/// Memory for the inputs of products.
pub struct GpuInputs {
    pub(super) tiles: Buffer<u8>,
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
            tiles: gpu.buffer(width / TILE_COLUMNS * cols / 64 * TILE_BYTES)?,
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
        (width / TILE_COLUMNS * cols / 64 * TILE_BYTES + floats) as u64
    }

    /// Says what comes next, and checks that it fits.
    pub(super) fn begin(&self, columns: usize, cols: usize, precision: Precision) -> Loaded<'_> {
        let digits = precision.digits();
        let tiles = (columns * digits).div_ceil(TILE_COLUMNS);
        assert!(tiles * cols.div_ceil(64) * TILE_BYTES <= self.tiles.len());
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
    /// What the products take, `[columns, cols]`: codes times scales, digits together. For tests: it waits, and copies
    /// all.
    ///
    /// Panics where the sums beside the codes are not theirs.
    pub fn values(&self) -> Result<Vec<f64>, GpuError> {
        let mut bytes = vec![0; self.memory.tiles.len()];
        self.memory.tiles.read(0, &mut bytes)?;
        let float = |at: usize| f32::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        let mut values = vec![0.0; self.columns * self.cols];
        for column in 0..self.columns {
            for digit in 0..self.digits {
                let at = column * self.digits + digit;
                for block in 0..self.cols / 32 {
                    let tile = (block / 2 * self.tiles + at / 8) * TILE_BYTES;
                    let scale = f64::from(float(tile + 512 + block % 2 * 32 + at % 8 * 4));
                    let sums = tile + 576 + block % 2 * 64 + at % 8 * 8;
                    let mut halves = [0.0; 2];
                    for k in 0..32 {
                        let lane = at % 8 * 4 + k % 16 / 4;
                        let byte = tile + lane * 16 + block % 2 * 8 + k / 16 * 4 + k % 4;
                        let code = bytes[byte].cast_signed();
                        halves[k / 16] += f32::from(code);
                        values[column * self.cols + block * 32 + k] += f64::from(code) * scale;
                    }
                    assert_eq!(halves, [float(sums), float(sums + 4)], "sums of codes");
                }
            }
        }
        Ok(values)
    }

    /// What products with float weights take, `[columns, cols]`, where [`GpuInputs`] has room for it.
    pub fn floats(&self) -> Result<Vec<f32>, GpuError> {
        let mut values = vec![0.0; self.columns * self.cols];
        let floats = self.memory.floats.as_ref();
        floats.expect("asked for").read(0, &mut values)?;
        Ok(values)
    }

    pub(super) fn argument(&self) -> InputsArg {
        InputsArg {
            at: self.memory.tiles.all().at(),
            tiles: self.tiles as i32,
            digits: self.digits as i32,
        }
    }
}

/// Columns of inputs in memory: with two digits each, in whole tiles.
fn width(columns_max: usize) -> usize {
    (2 * columns_max).next_multiple_of(TILE_COLUMNS)
}
