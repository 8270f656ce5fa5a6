//! Weights in the order of a GPU's fragments: what `cu/formats.cuh` reads.
//!
//! Sixteen rows lie together, by slabs of 256 columns and in them by pairs of 32. A lane's sixteen bytes of a pair are
//! words 0 to 3 of its fragment, as `cu/device.cuh` draws it: word `row / 8 + 2 · (column % 32 / 16)` of lane
//! `row % 8 · 4 + column % 16 / 4`, byte `column % 4`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use outstation_kernels::Team;
use outstation_kernels::quant::{Format, GROUP, unpack_blocks};

/// Rows that lie together.
pub const TILE_ROWS: usize = 16;

/// Columns of a pair.
const PAIR: usize = 64;

/// Pairs of a slab.
const PAIRS: usize = 4;

/// How the device keeps a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    /// Any other format of codes, unpacked to bytes with f32 scales and mins.
    Plane,
    F32,
    F16,
    Bf16,
}

impl Kind {
    pub(super) const ALL: [Kind; 9] = [
        Kind::Q4_0,
        Kind::Q8_0,
        Kind::Q4K,
        Kind::Q5K,
        Kind::Q6K,
        Kind::Plane,
        Kind::F32,
        Kind::F16,
        Kind::Bf16,
    ];

    pub(super) const fn of(format: Format) -> Kind {
        match format {
            Format::Q4_0 => Kind::Q4_0,
            Format::Q8_0 => Kind::Q8_0,
            Format::Q4K => Kind::Q4K,
            Format::Q5K => Kind::Q5K,
            Format::Q6K => Kind::Q6K,
            Format::F32 => Kind::F32,
            Format::F16 => Kind::F16,
            Format::Bf16 => Kind::Bf16,
            Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q2K
            | Format::Q3K
            | Format::Iq4Nl
            | Format::Iq4Xs => Kind::Plane,
        }
    }

    /// What names of kernels end with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Q4_0 => "Q4_0",
            Kind::Q8_0 => "Q8_0",
            Kind::Q4K => "Q4_K",
            Kind::Q5K => "Q5_K",
            Kind::Q6K => "Q6_K",
            Kind::Plane => "Plane",
            Kind::F32 => "F32",
            Kind::F16 => "F16",
            Kind::Bf16 => "BF16",
        }
    }

    pub(super) const fn is_float(self) -> bool {
        matches!(self, Kind::F32 | Kind::F16 | Kind::Bf16)
    }

    /// Bytes of 16 rows of 64 columns, on average over a slab.
    pub(super) const fn pair_bytes(self) -> usize {
        match self {
            Kind::Q4_0 | Kind::Q4K => TILE_ROWS * 36,
            Kind::Q8_0 => TILE_ROWS * 68,
            Kind::Q5K => TILE_ROWS * 44,
            Kind::Q6K => TILE_ROWS * 210 / PAIRS,
            Kind::Plane => TILE_ROWS * 96,
            Kind::F32 | Kind::F16 | Kind::Bf16 => 0,
        }
    }

    /// What is added to a code so that it is not negative.
    const fn offset(self) -> i8 {
        match self {
            Kind::Q4_0 => 8,
            Kind::Q6K => 32,
            _ => 0,
        }
    }
}

/// Bytes of a matrix on the device.
pub fn bytes(format: Format, rows: usize, cols: usize) -> usize {
    let kind = Kind::of(format);
    if kind.is_float() {
        return rows * format.row_bytes(cols);
    }
    rows.div_ceil(TILE_ROWS) * tile_bytes(kind, cols)
}

fn tile_bytes(kind: Kind, cols: usize) -> usize {
    cols.div_ceil(PAIR) * kind.pair_bytes()
}

/// Tiles that a thread packs before it looks for more.
const TILES_AT_ONCE: usize = 16;

/// Packs rows as a file has them, with all threads.
///
/// **Shapes** `rows`: whole rows; `spaces`: one for each thread; `out`: `bytes(format, rows, cols)`.
pub fn pack(
    team: &mut Team,
    spaces: &[Mutex<PackSpace>],
    (format, cols): (Format, usize),
    rows: &[u8],
    out: &mut [u8],
) {
    let row_bytes = format.row_bytes(cols);
    assert!(rows.len().is_multiple_of(row_bytes) && spaces.len() == team.threads());
    assert_eq!(out.len(), bytes(format, rows.len() / row_bytes, cols));
    let tile = bytes(format, TILE_ROWS, cols);
    let rows = rows.chunks(TILES_AT_ONCE * TILE_ROWS * row_bytes);
    let runs: Vec<_> = rows
        .zip(out.chunks_mut(TILES_AT_ONCE * tile))
        .map(Mutex::new)
        .collect();
    let next = AtomicUsize::new(0);
    team.run(&|worker| {
        let mut space = lock(&spaces[worker.index]);
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut run = lock(run);
            let (rows, out) = &mut *run;
            for (rows, out) in rows.chunks(TILE_ROWS * row_bytes).zip(out.chunks_mut(tile)) {
                pack_tile(format, rows, cols, &mut space, out);
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a thread that panics ends the program")
}

/// Memory to pack with.
pub struct PackSpace {
    codes: Vec<i8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl PackSpace {
    /// For rows of up to `cols_max` weights.
    pub fn new(cols_max: usize) -> PackSpace {
        PackSpace {
            codes: vec![0; TILE_ROWS * cols_max],
            scales: vec![0.0; TILE_ROWS * cols_max / GROUP],
            mins: vec![0.0; TILE_ROWS * cols_max / GROUP],
        }
    }
}

/// Packs up to sixteen rows; rows that are not there are zero.
fn pack_tile(format: Format, rows: &[u8], cols: usize, space: &mut PackSpace, out: &mut [u8]) {
    let kind = Kind::of(format);
    if kind.is_float() {
        out.copy_from_slice(rows);
        return;
    }
    let row_bytes = format.row_bytes(cols);
    let count = rows.len() / row_bytes;
    assert!(rows.len().is_multiple_of(row_bytes) && count <= TILE_ROWS);
    assert_eq!(out.len(), tile_bytes(kind, cols));
    out.fill(0);
    let groups = cols / GROUP;
    let (codes, scales, mins) = (
        &mut space.codes[..count * cols],
        &mut space.scales[..count * groups],
        &mut space.mins[..count * groups],
    );
    mins.fill(0.0);
    unpack_blocks(format, rows, codes, scales, mins);
    for (slab, out) in out.chunks_mut(PAIRS * kind.pair_bytes()).enumerate() {
        for row in 0..count {
            let file = &rows[row * row_bytes..][..row_bytes];
            let start = slab * PAIRS * PAIR;
            let len = (cols - start).min(PAIRS * PAIR);
            pack_codes(kind, row, &codes[row * cols + start..][..len], out);
            let of = |values: &[f32], group: usize| values[row * groups + start / GROUP + group];
            pack_scales(kind, row, (format, file, slab), len, out, |group| {
                (of(scales, group), of(mins, group))
            });
        }
    }
}

/// Where a code lies among those of its pair: its byte, and whether it belongs to the second 32 columns.
fn place(row: usize, col: usize) -> (usize, bool) {
    let (lane, word) = (row % 8 * 4 + col % 16 / 4, row / 8 + 2 * (col % 32 / GROUP));
    (lane * 16 + word * 4 + col % 4, col % PAIR >= 32)
}

fn pack_codes(kind: Kind, row: usize, codes: &[i8], out: &mut [u8]) {
    for (col, code) in codes.iter().enumerate() {
        let code = (code + kind.offset()) as u8;
        let (byte, second) = place(row, col);
        let pair = col / PAIR;
        let nibble = (code & 15) << if second { 4 } else { 0 };
        // Bits above the fourth lie by lanes, too: a byte for four words of the fragment.
        let (lane, word, within) = (byte / 16, byte / 4 % 4, byte % 4);
        match kind {
            Kind::Q4_0 => out[pair * kind.pair_bytes() + byte] |= nibble,
            Kind::Q4K => out[256 + pair * 512 + byte] |= nibble,
            Kind::Q5K => {
                out[256 + pair * 512 + byte] |= nibble;
                let bit = word + if second { 4 } else { 0 };
                out[256 + PAIRS * 512 + lane * 16 + pair * 4 + within] |= (code >> 4) << bit;
            }
            Kind::Q6K => {
                out[pair * 512 + byte] |= nibble;
                let at = 2048 + pair / 2 * 512 + lane * 16 + pair % 2 * 8 + usize::from(second) * 4;
                out[at + within] |= (code >> 4) << (2 * word);
            }
            Kind::Q8_0 | Kind::Plane => {
                out[pair * kind.pair_bytes() + usize::from(second) * 512 + byte] = code;
            }
            Kind::F32 | Kind::F16 | Kind::Bf16 => unreachable!("floats have no codes"),
        }
    }
}

fn pack_scales(
    kind: Kind,
    row: usize,
    (format, file, slab): (Format, &[u8], usize),
    len: usize,
    out: &mut [u8],
    group: impl Fn(usize) -> (f32, f32),
) {
    let block = |index: usize| &file[index * format.block_bytes()..][..format.block_bytes()];
    match kind {
        Kind::Q4_0 | Kind::Q8_0 => {
            let codes = kind.pair_bytes() - TILE_ROWS * 4;
            for index in 0..len / 32 {
                let at = index / 2 * kind.pair_bytes() + codes + row * 4 + index % 2 * 2;
                let from = block(slab * PAIRS * 2 + index);
                out[at..at + 2].copy_from_slice(&from[..2]);
            }
        }
        Kind::Q4K | Kind::Q5K => out[row * 16..][..16].copy_from_slice(&block(slab)[..16]),
        Kind::Q6K => {
            out[3072 + row * 16..][..16].copy_from_slice(&block(slab)[192..208]);
            out[3328 + row * 2..][..2].copy_from_slice(&block(slab)[208..210]);
        }
        Kind::Plane => {
            for index in 0..len / GROUP {
                let (scale, min) = group(index);
                let at = index / 4 * kind.pair_bytes() + 1024 + row * 16 + index % 4 * 4;
                out[at..at + 4].copy_from_slice(&scale.to_le_bytes());
                out[at + 256..at + 260].copy_from_slice(&min.to_le_bytes());
            }
        }
        Kind::F32 | Kind::F16 | Kind::Bf16 => unreachable!("floats have no scales"),
    }
}
