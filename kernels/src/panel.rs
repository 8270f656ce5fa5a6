//! Panels: 32 rows of a matrix, interleaved so that one vector lane is one row.
//!
//! A file keeps each row's blocks together, which makes a dot product end in a sum over lanes. A panel keeps the same
//! bytes in another order: each field of a block is cut into units of 2 or 4 bytes, and unit *u* of 16 rows lie side by
//! side. Nothing is added or lost, so the way back is exact.
//!
//! ```text
//!  file    row 0: [d codes……][d codes……]…      row 1: [d codes……][d codes……]…                     (Q4_0)
//!  panel   group of blocks: [codes 0..4 of rows 0–15][codes 4..8 of rows 0–15]… [d of rows 0–15]…
//!          the same blocks: [codes 0..4 of rows 16–31]…                                           then the next group
//! ```
//!
//! Blocks lie in groups, field by field, so that every run of codes starts on a cache line; the two halves of 16 rows
//! take turns, so that who walks a panel reads memory straight on. A matrix whose rows are no multiple of 32 ends with
//! rows of zeros.

pub(crate) mod chunk;

use crate::quant::Format;

/// Rows in a panel.
pub const PANEL_ROWS: usize = HALVES * LANES;

/// Halves of a panel: two weights for each activation that is loaded.
pub(crate) const HALVES: usize = 2;

/// Rows in half a panel: lanes of a 512-bit vector.
pub(crate) const LANES: usize = 16;

/// A panel starts on a cache line.
const ALIGN: usize = 64;

/// One part of a block: where it lies in the file's order, its bytes, and the unit in which rows are interleaved.
type Field = (usize, usize, usize);

/// The fields of a block in the order in which a group holds them: scales first, since they are read first, and
/// memory is fastest when it is read straight on.
#[rustfmt::skip]
const fn fields(format: Format) -> &'static [Field] {
    match format {
        Format::Q4_0 | Format::Iq4Nl => &[(0, 2, 2), (2, 16, 4)],
        Format::Q4_1 => &[(0, 2, 2), (2, 2, 2), (4, 16, 4)],
        Format::Q5_0 => &[(0, 2, 2), (2, 4, 4), (6, 16, 4)],
        Format::Q5_1 => &[(0, 2, 2), (2, 2, 2), (4, 4, 4), (8, 16, 4)],
        Format::Q8_0 => &[(0, 2, 2), (2, 32, 4)],
        Format::Q2K => &[(80, 2, 2), (82, 2, 2), (0, 16, 4), (16, 64, 4)],
        Format::Q3K => &[(108, 2, 2), (96, 12, 4), (0, 32, 4), (32, 64, 4)],
        Format::Q4K => &[(0, 2, 2), (2, 2, 2), (4, 12, 4), (16, 128, 4)],
        Format::Q5K => &[(0, 2, 2), (2, 2, 2), (4, 12, 4), (16, 32, 4), (48, 128, 4)],
        Format::Q6K => &[(208, 2, 2), (192, 16, 4), (128, 64, 4), (0, 128, 4)],
        Format::Iq4Xs => &[(0, 2, 2), (2, 2, 2), (4, 4, 4), (8, 128, 4)],
        Format::F32 | Format::F16 | Format::Bf16 => &[],
    }
}

/// Blocks of a whole group: 256 columns of a format with small blocks; two where one would end amid a cache line.
const fn group_blocks(format: Format) -> usize {
    match format {
        Format::Q3K | Format::Q6K => 2,
        _ if format.block_elements() == 32 => 8,
        _ => 1,
    }
}

/// Bytes of one panel of `cols` columns.
///
/// Panics when `cols` is no whole number of blocks, or the format has none.
pub const fn panel_bytes(format: Format, cols: usize) -> usize {
    assert!(!format.is_float(), "floats have no panels");
    (PANEL_ROWS * format.row_bytes(cols)).next_multiple_of(ALIGN)
}

/// Bytes of a matrix in panels.
pub const fn panels_bytes(format: Format, rows: usize, cols: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * panel_bytes(format, cols)
}

/// Calls `copy(at in the row, at in the panel, unit)` for every unit of the first row of a half; its row *r* lies
/// `r · unit` bytes further in the panel.
#[inline(always)]
fn for_each_unit(
    format: Format,
    cols: usize,
    half: usize,
    mut copy: impl FnMut(usize, usize, usize),
) {
    let block_bytes = format.block_bytes();
    let blocks = cols / format.block_elements();
    for start in (0..blocks).step_by(group_blocks(format)) {
        let end = (start + group_blocks(format)).min(blocks);
        let mut to = LANES * block_bytes * (HALVES * start + half * (end - start));
        for &(at, bytes, unit) in fields(format) {
            for block in start..end {
                for at in (block * block_bytes + at..)
                    .step_by(unit)
                    .take(bytes / unit)
                {
                    copy(at, to, unit);
                    to += LANES * unit;
                }
            }
        }
    }
}

/// Interleaves up to 32 rows of a file.
///
/// **Shapes** `rows`: 1 to 32 times `format.row_bytes(cols)` bytes; `panel`: `panel_bytes(format, cols)`, all of
/// which is written. Missing rows become zeros.
pub fn pack_panel(format: Format, cols: usize, rows: &[u8], panel: &mut [u8]) {
    let row_bytes = format.row_bytes(cols);
    assert_eq!(panel.len(), panel_bytes(format, cols));
    assert!(rows.len().is_multiple_of(row_bytes), "whole rows");
    let count = rows.len() / row_bytes;
    assert!(
        (1..=PANEL_ROWS).contains(&count),
        "a panel has 1 to 32 rows"
    );
    if count < PANEL_ROWS {
        panel.fill(0);
    }
    panel[PANEL_ROWS * row_bytes..].fill(0);
    for (half, rows) in rows.chunks(LANES * row_bytes).enumerate() {
        for_each_unit(format, cols, half, |from, to, unit| {
            let places = &mut panel[to..to + LANES * unit];
            match unit {
                4 => copy_units::<4>(rows, row_bytes, from, places),
                2 => copy_units::<2>(rows, row_bytes, from, places),
                _ => unreachable!("a field's unit is 2 or 4 bytes"),
            }
        });
    }
}

#[inline(always)]
fn copy_units<const UNIT: usize>(rows: &[u8], row_bytes: usize, from: usize, places: &mut [u8]) {
    let rows = rows.chunks_exact(row_bytes);
    for (place, row) in places.as_chunks_mut::<UNIT>().0.iter_mut().zip(rows) {
        place.copy_from_slice(&row[from..from + UNIT]);
    }
}

/// One row in the order of the file: the inverse of [`pack_panel`].
///
/// **Shapes** `panel`: `panel_bytes(format, cols)`; `out`: `format.row_bytes(cols)`; `row` below 32.
pub fn unpack_row(format: Format, cols: usize, panel: &[u8], row: usize, out: &mut [u8]) {
    assert_eq!(panel.len(), panel_bytes(format, cols));
    assert_eq!(out.len(), format.row_bytes(cols));
    assert!(row < PANEL_ROWS);
    let (half, lane) = (row / LANES, row % LANES);
    for_each_unit(format, cols, half, |at, from, unit| {
        let from = from + lane * unit;
        out[at..at + unit].copy_from_slice(&panel[from..from + unit]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every block format.
    fn formats() -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(|format| !format.is_float())
    }

    #[test]
    fn fields_cover_a_block_once() {
        for format in formats() {
            let mut bytes = vec![0; format.block_bytes()];
            for &(at, len, unit) in fields(format) {
                assert!(len.is_multiple_of(unit));
                for byte in &mut bytes[at..at + len] {
                    *byte += 1;
                }
            }
            assert!(bytes.iter().all(|times| *times == 1), "{format}");
        }
    }

    #[test]
    fn packing_loses_and_adds_nothing() {
        for format in formats() {
            for blocks in [1, 2, 3, 7, 8, 9] {
                for count in [1, 5, 16, 17, 32] {
                    let cols = blocks * format.block_elements();
                    let row_bytes = format.row_bytes(cols);
                    let mut rows = vec![0; count * row_bytes];
                    crate::quant::random_row(format, 7, 1.0, &mut rows);
                    let mut panel = vec![0xaa; panel_bytes(format, cols)];
                    pack_panel(format, cols, &rows, &mut panel);
                    assert!(panel.len() < PANEL_ROWS * row_bytes + ALIGN);
                    let mut out = vec![0xbb; row_bytes];
                    for row in 0..PANEL_ROWS {
                        unpack_row(format, cols, &panel, row, &mut out);
                        match rows.chunks_exact(row_bytes).nth(row) {
                            Some(row) => assert_eq!(out, row, "{format}"),
                            None => assert!(out.iter().all(|byte| *byte == 0), "{format}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn whole_groups_keep_cache_lines() {
        for format in formats() {
            let bytes = LANES * format.block_bytes() * group_blocks(format);
            assert!(bytes.is_multiple_of(ALIGN), "{format}");
        }
    }
}
