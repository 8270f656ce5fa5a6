//! Matmul: exactness of the integer part, the cost of rounding activations, and invariance in bits.

use super::*;
use crate::panel::chunk::{CHUNK_COLS, Chunk, PlainLanes, expand, shape};
use crate::panel::{HALVES, LANES, PANEL_ROWS, pack_panel, panel_bytes};
use crate::quant::{Format, dequantize_row};

const PRECISIONS: [Precision; 2] = [Precision::Eight, Precision::Sixteen];

/// Rows as a file has them, and what the kernels make of them.
struct Weights {
    format: Format,
    rows: usize,
    cols: usize,
    file: Vec<u8>,
    packed: Vec<u8>,
}

impl Weights {
    fn new(format: Format, rows: usize, cols: usize, file: Vec<u8>) -> Weights {
        let mut team = Team::new(2);
        let mut packed = vec![0; Matrix::bytes(format, rows, cols)];
        pack(&mut team, format, &file, cols, &mut packed);
        Weights {
            format,
            rows,
            cols,
            file,
            packed,
        }
    }

    fn wild(format: Format, seed: u64, (rows, cols): (usize, usize), fill: Option<u8>) -> Weights {
        let file = wild_rows(format, seed, rows, cols, fill);
        Weights::new(format, rows, cols, file)
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.packed)
    }

    fn dequantized(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        let rows = self.file.chunks_exact(self.format.row_bytes(self.cols));
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols)) {
            dequantize_row(self.format, row, out);
        }
        out
    }
}

/// Where a block keeps its half-precision scales.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
    }
}

/// Rows whose codes and inner scales are random bits, which covers every value they can take; block scales are random
/// and of either sign. `fill` replaces the random bits: 0x00 and 0xff are the extremes of most fields, 0x80 is −128.
fn wild_rows(format: Format, seed: u64, rows: usize, cols: usize, fill: Option<u8>) -> Vec<u8> {
    let mut data = vec![0; rows * format.row_bytes(cols)];
    if format.is_float() {
        crate::quant::random_row(format, seed, 1.0, &mut data);
        return data;
    }
    let random = noise(seed, data.len());
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = fill.unwrap_or((random[i].to_bits() >> 3) as u8);
    }
    for (i, block) in data.chunks_exact_mut(format.block_bytes()).enumerate() {
        for at in halves(format) {
            let scale = half::f16::from_f32(random[(i * 7 + at) % random.len()] * 0.01);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    data
}

fn product(
    kernels: &mut Kernels,
    w: &Weights,
    x: &[f32],
    precision: Precision,
) -> (Vec<f32>, Activations) {
    let columns = x.len() / w.cols;
    let mut activations = Activations::new(columns + 1, w.cols + 40, Inputs::ALL);
    kernels.load(x, columns, w.cols, precision, &mut activations);
    let mut y = vec![f32::NAN; columns * w.rows];
    kernels.matmul(&w.matrix(), &activations, &mut y);
    (y, activations)
}

fn dot_f64(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

/// Bound on |fast − exact| for one row and column; `docs/kernels.md` derives it.
///
/// Rounding an activation moves it by at most half a step: the column's largest magnitude over `code_max`, halved as
/// often as the 32 allow. Sums in f32 then add at most `γ · Σ (|scale · code| + |min|) · |x|`, with γ = 2⁻²⁴ times the
/// roundings in a chain: two for every 32 columns are more than there are, and a dozen for scales, mins and
/// conversions.
fn bound(w: &Weights, row: usize, x: &[f32], precision: Precision) -> f64 {
    let gamma = (w.cols as f64 / 16.0 + 12.0) * 2_f64.powi(-24);
    let bytes = &w.file[row * w.format.row_bytes(w.cols)..][..w.format.row_bytes(w.cols)];
    if w.format.is_float() {
        let mut weights = vec![0.0; w.cols];
        dequantize_row(w.format, bytes, &mut weights);
        let magnitudes = weights.iter().zip(x).map(|(w, x)| f64::from((w * x).abs()));
        return gamma * magnitudes.sum::<f64>();
    }
    let shape = shape(w.format);
    let group = if shape.sixteens { 16 } else { 32 };
    let mut panel = vec![0; panel_bytes(w.format, w.cols)];
    pack_panel(w.format, w.cols, bytes, &mut panel);
    let largest = |x: &[f32]| f64::from(x.iter().fold(0.0_f32, |m, x| m.max(x.abs())));
    let of_column = largest(x);
    let step = |group: &[f32]| {
        let of_group = largest(group);
        let mut reach = if of_group > 0.0 { of_column } else { 0.0 };
        while of_group > 0.0 && reach / 2.0 >= of_group {
            reach /= 2.0;
        }
        reach / f64::from(precision.code_max())
    };
    let steps: Vec<f64> = x.chunks(32).map(step).collect();
    let mut chunk = Chunk::ZERO;
    let mut total = 0.0;
    for (k, value) in x.iter().enumerate() {
        if k % CHUNK_COLS == 0 {
            let at = (&panel[..], 0);
            expand::<PlainLanes>(w.format, w.cols, at, k / CHUNK_COLS, &mut chunk);
        }
        let at = k % CHUNK_COLS;
        let code = chunk.codes[at / 4][0].to_le_bytes()[at % 4];
        let code = f64::from(i32::from(code) - shape.offset);
        let scaled = f64::from(chunk.scales[at / group][0]) * code;
        let min = if shape.mins {
            f64::from(chunk.mins[at / group][0])
        } else {
            0.0
        };
        let step = steps[k / 32];
        let half_step = step / 2.0 * (1.0 + 1e-5);
        total += (scaled - min).abs() * half_step;
        total += gamma * (scaled.abs() + min.abs()) * (f64::from(value.abs()) + half_step);
    }
    total
}

/// Columns that stress rounding: noise, zeros, the largest magnitudes in both signs, one spike, tiny values.
fn columns(cols: usize) -> Vec<f32> {
    let mut x = noise(3, cols * 2);
    x.extend(std::iter::repeat_n(0.0, cols));
    x.extend((0..cols).map(|k| if k % 2 == 0 { 1e4 } else { -1e4 }));
    x.extend((0..cols).map(|k| if k == cols / 2 { 3.0 } else { 0.0 }));
    x.extend(noise(4, cols).iter().map(|x| x * 1e-20));
    x.extend((0..cols).map(|_| -7.0));
    x
}

/// Inner dimensions: one block, an odd number of them, and several pads.
fn inner(format: Format) -> [usize; 3] {
    match format.block_elements() {
        1 => [1, 37, 515],
        32 => [32, 32 * 7, 1024],
        _ => [256, 256 * 3, 2048],
    }
}

#[test]
fn fast_products_are_within_the_derived_bound() {
    for isa in FAST {
        let Some(mut fast) = kernels(isa, 2) else {
            continue;
        };
        let mut oracle = kernels(Isa::Portable, 1).unwrap();
        for format in Format::ALL {
            for cols in inner(format) {
                for fill in [None, Some(0x00), Some(0xff), Some(0x80), Some(0x7f)] {
                    let w = Weights::wild(format, 11, (7, cols), fill);
                    let x = columns(cols);
                    let (exact, _) = product(&mut oracle, &w, &x, Precision::Eight);
                    for precision in PRECISIONS {
                        let (ours, _) = product(&mut fast, &w, &x, precision);
                        for (i, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
                            let (column, row) = (i / 7, i % 7);
                            let x = &x[column * cols..][..cols];
                            let bound = bound(&w, row, x, precision) + 1e-37;
                            let error = (f64::from(*ours) - f64::from(*exact)).abs();
                            // The oracle's own rounding to f32.
                            let bound = bound + f64::from(exact.abs()) * 2_f64.powi(-24);
                            assert!(
                                error <= bound,
                                "{isa} {format} {precision:?} cols {cols} fill {fill:?} column \
                                 {column} row {row}: {ours} for {exact}, error {error:e}, bound \
                                 {bound:e}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn integer_products_are_exact_but_for_f32_sums() {
    for isa in FAST {
        let Some(mut fast) = kernels(isa, 2) else {
            continue;
        };
        for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
            let cols = inner(format)[2];
            let w = Weights::wild(format, 12, (40, cols), None);
            let weights = w.dequantized();
            for precision in PRECISIONS {
                let (y, x) = product(&mut fast, &w, &noise(13, cols * 5), precision);
                let (mut error, mut total) = (0.0, 0.0);
                for (i, y) in y.iter().enumerate() {
                    let row = &weights[i % 40 * cols..][..cols];
                    let x = (0..cols).map(|k| x.rounded(i / 40, k));
                    let exact = dot_f64(row.iter().map(|w| f64::from(*w)), x);
                    error += (f64::from(*y) - exact).powi(2);
                    total += exact.powi(2);
                }
                let nmse = error / total;
                println!("{isa} {format} {precision:?}: nmse {nmse:.1e} on the same codes");
                assert!(nmse <= 1e-7, "{isa} {format} {precision:?}: {nmse:e}");
            }
        }
    }
}

/// Uniform activations: step `√3 σ / code_max`, so an NMSE of `(√3 / code_max)² / 12`; twice that is the bound.
#[test]
fn rounding_activations_costs_what_the_step_says() {
    for isa in FAST {
        let Some(mut fast) = kernels(isa, 1) else {
            continue;
        };
        let mut oracle = kernels(Isa::Portable, 1).unwrap();
        for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
            let mut data = vec![0; 64 * format.row_bytes(1024)];
            crate::quant::random_row(format, 21, 0.02, &mut data);
            let w = Weights::new(format, 64, 1024, data);
            let x = noise(22, 1024 * 4);
            let exact = product(&mut oracle, &w, &x, Precision::Eight).0;
            for precision in PRECISIONS {
                let ours = product(&mut fast, &w, &x, precision).0;
                let square = |x: f32| f64::from(x).powi(2);
                let error: f64 = ours.iter().zip(&exact).map(|(a, b)| square(a - b)).sum();
                let nmse = error / exact.iter().map(|x| square(*x)).sum::<f64>();
                let bound = 2.0 * (3_f64.sqrt() / f64::from(precision.code_max())).powi(2) / 12.0;
                println!("{isa} {format} {precision:?}: nmse {nmse:.1e} with f32 activations");
                assert!(nmse <= bound, "{isa} {format} {precision:?}: {nmse:e}");
            }
        }
    }
}

#[test]
fn expansions_agree_in_bits() {
    for isa in FAST.into_iter().filter(|isa| isa.available()) {
        for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
            let cols = inner(format)[1];
            for fill in [None, Some(0xff), Some(0)] {
                let rows = wild_rows(format, 31, PANEL_ROWS, cols, fill);
                let mut panel = vec![0; panel_bytes(format, cols)];
                pack_panel(format, cols, &rows, &mut panel);
                for (index, half) in (0..cols.div_ceil(CHUNK_COLS) * HALVES).map(|i| (i / 2, i % 2))
                {
                    let (mut plain, mut fast) = (Chunk::ZERO, Chunk::ZERO);
                    expand::<PlainLanes>(format, cols, (&panel, half), index, &mut plain);
                    crate::dispatch::expand(isa, format, cols, (&panel, half), index, &mut fast);
                    assert_eq!(plain.codes, fast.codes, "{isa} {format}");
                    let floats = |x: &[[f32; LANES]]| bits(x.as_flattened());
                    assert_eq!(
                        floats(&plain.scales),
                        floats(&fast.scales),
                        "{isa} {format}"
                    );
                    assert_eq!(floats(&plain.mins), floats(&fast.mins), "{isa} {format}");
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_the_batch_nor_on_the_threads() {
    for isa in Isa::ALL {
        for format in Format::ALL {
            let (rows, cols) = (37, inner(format)[2]);
            let w = Weights::wild(format, 41, (rows, cols), None);
            let x = noise(42, cols * 15);
            let Some(mut one) = kernels(isa, 1) else {
                break;
            };
            let mut three = kernels(isa, 3).unwrap();
            for precision in PRECISIONS {
                let whole = bits(&product(&mut one, &w, &x, precision).0);
                assert_eq!(
                    whole,
                    bits(&product(&mut three, &w, &x, precision).0),
                    "{isa} {format} {precision:?} threads"
                );
                for size in [1, 2, 3, 4, 5, 7, 8, 13] {
                    for (batch, x) in x.chunks(size * cols).enumerate() {
                        let part = bits(&product(&mut three, &w, x, precision).0);
                        let expected = &whole[batch * size * rows..][..part.len()];
                        assert_eq!(
                            part, expected,
                            "{isa} {format} {precision:?} batches of {size}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_show() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let w = Weights::wild(Format::Q4K, 51, (2, 256), None);
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(52, 256);
            x[100] = poison;
            let (y, _) = product(&mut kernels, &w, &x, Precision::Eight);
            assert!(
                y.iter().all(|y| !y.is_finite()),
                "{isa}: {poison} became {y:?}"
            );
        }
    }
}

#[test]
fn stale_activations_do_not_leak_into_a_shorter_load() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let w = Weights::wild(Format::Q8_0, 61, (4, 96), None);
        let x = noise(62, 96);
        let precision = Precision::Eight;
        let (fresh, _) = product(&mut kernels, &w, &x, precision);
        let mut activations = Activations::new(3, 512, Inputs::ALL);
        kernels.load(
            &[1e9; 3 * 512],
            3,
            512,
            Precision::Sixteen,
            &mut activations,
        );
        kernels.load(&x, 1, 96, precision, &mut activations);
        let mut y = vec![0.0; 4];
        kernels.matmul(&w.matrix(), &activations, &mut y);
        assert_eq!(bits(&y), bits(&fresh));
    }
}

#[test]
fn embedding_is_a_scaled_row() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 2) else {
            continue;
        };
        for format in Format::ALL {
            let w = Weights::wild(format, 71, (6, 256), None);
            let weights = w.dequantized();
            let mut y = vec![0.0; 3 * 256];
            kernels.embed(&w.matrix(), &[5, 0, 5], 2.5, &mut y);
            for (i, id) in [5, 0, 5].into_iter().enumerate() {
                let expected: Vec<f32> =
                    weights[id * 256..][..256].iter().map(|w| w * 2.5).collect();
                assert_eq!(y[i * 256..][..256], expected);
            }
        }
    }
}

#[test]
#[should_panic(expected = "inner dimensions agree")]
fn shapes_that_disagree_are_refused() {
    let data = vec![0; Format::F32.row_bytes(8)];
    let mut kernels = kernels(Isa::Portable, 1).unwrap();
    let mut x = Activations::new(1, 16, Inputs::ALL);
    kernels.load(&[0.0; 16], 1, 16, Precision::Eight, &mut x);
    kernels.matmul(&Matrix::new(Format::F32, 1, 8, &data), &x, &mut [0.0]);
}
