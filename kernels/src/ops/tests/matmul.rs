//! Matmul: exactness of the integer part, the cost of rounding activations, and invariance in bits.

use super::*;
use crate::quant::{Format, GROUP, Plane, dequantize_row, unpack_row};

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

fn product(kernels: &mut Kernels, w: &Matrix<'_>, x: &[f32]) -> (Vec<f32>, Activations) {
    let columns = x.len() / w.cols;
    let mut activations = Activations::new(columns + 1, w.cols + 40);
    kernels.load(x, columns, w.cols, &mut activations);
    let mut y = vec![f32::NAN; columns * w.rows];
    kernels.matmul(w, &activations, &mut y);
    (y, activations)
}

fn dequantized(w: &Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; w.rows * w.cols];
    for (row, out) in out.chunks_exact_mut(w.cols).enumerate() {
        dequantize_row(w.format, w.row(row), out);
    }
    out
}

fn dot_f64(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

/// Bound on |fast − exact| for one row and column; `docs/kernels.md` derives it.
///
/// Rounding an activation moves it by at most half a step, `max|x of its 128| / 65534`. Sums in f32 then add at most
/// `γ · Σ (|scale · code| + |min|) · |x|`, with γ = 2⁻²⁴ times the roundings in a chain: one for every 16 codes, and a
/// dozen for scales and the last sums.
fn bound(w: &Matrix<'_>, row: usize, x: &[f32]) -> f64 {
    let gamma = (w.cols as f64 / 16.0 + 12.0) * 2_f64.powi(-24);
    let mut parts = vec![0.0; w.cols];
    if w.format.is_float() {
        dequantize_row(w.format, w.row(row), &mut parts);
        let magnitudes = parts.iter().zip(x).map(|(w, x)| f64::from((w * x).abs()));
        return gamma * magnitudes.sum::<f64>();
    }
    let (mut codes, mut scales, mut mins) = (
        vec![0; w.cols],
        vec![0.0; w.cols / GROUP],
        vec![0.0; w.cols / GROUP],
    );
    let plane = Plane {
        codes: &mut codes,
        scales: &mut scales,
        mins: &mut mins,
    };
    unpack_row(w.format, w.row(row), plane);
    let mut total = 0.0;
    for k in 0..w.cols {
        let (scaled, min) = (
            f64::from(scales[k / GROUP] * f32::from(codes[k])),
            f64::from(mins[k / GROUP]),
        );
        let largest = x[k / 128 * 128..]
            .iter()
            .take(128)
            .fold(0.0_f32, |m, x| m.max(x.abs()));
        let half_step = f64::from(largest) / 65534.0 * (1.0 + 1e-5);
        total += (scaled - min).abs() * half_step;
        total += gamma * (scaled.abs() + min.abs()) * (f64::from(x[k].abs()) + half_step);
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
                    let data = wild_rows(format, 11, 7, cols, fill);
                    let w = Matrix::new(format, 7, cols, &data);
                    let x = columns(cols);
                    let (ours, _) = product(&mut fast, &w, &x);
                    let (exact, _) = product(&mut oracle, &w, &x);
                    for (i, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
                        let (column, row) = (i / 7, i % 7);
                        let bound = bound(&w, row, &x[column * cols..][..cols]) + 1e-37;
                        let error = (f64::from(*ours) - f64::from(*exact)).abs();
                        // The oracle's own rounding to f32.
                        let bound = bound + f64::from(exact.abs()) * 2_f64.powi(-24);
                        assert!(
                            error <= bound,
                            "{isa} {format} cols {cols} fill {fill:?} column {column} row {row}: \
                             {ours} for {exact}, error {error:e}, bound {bound:e}"
                        );
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
            let data = wild_rows(format, 12, 40, cols, None);
            let w = Matrix::new(format, 40, cols, &data);
            let (y, x) = product(&mut fast, &w, &noise(13, cols * 5));
            let weights = dequantized(&w);
            let (mut error, mut total) = (0.0, 0.0);
            for (i, y) in y.iter().enumerate() {
                let (row, column) = (&weights[i % 40 * cols..][..cols], x.column(i / 40));
                let codes = column.codes.iter().zip(0_usize..);
                let x = codes.map(|(q, k)| f64::from(*q) * f64::from(column.scales[k / 128]));
                let exact = dot_f64(row.iter().map(|w| f64::from(*w)), x);
                error += (f64::from(*y) - exact).powi(2);
                total += exact.powi(2);
            }
            let nmse = error / total;
            println!("{isa} {format}: nmse {nmse:.1e} with the same quantized activations");
            assert!(nmse <= 1e-7, "{isa} {format}: {nmse:e}");
        }
    }
}

/// Uniform activations: step `√3 σ / 32767`, so an NMSE of `(√3 / 32767)² / 12 = 2.3e-10`; twice that is the bound.
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
            let w = Matrix::new(format, 64, 1024, &data);
            let x = noise(22, 1024 * 4);
            let (ours, exact) = (product(&mut fast, &w, &x).0, product(&mut oracle, &w, &x).0);
            let square = |x: f32| f64::from(x).powi(2);
            let error: f64 = ours.iter().zip(&exact).map(|(a, b)| square(a - b)).sum();
            let nmse = error / exact.iter().map(|x| square(*x)).sum::<f64>();
            println!("{isa} {format}: nmse {nmse:.1e} with f32 activations");
            assert!(nmse <= 4.7e-10, "{isa} {format}: {nmse:e}");
        }
    }
}

#[test]
fn unpackers_agree_in_bits() {
    for isa in FAST.into_iter().filter(|isa| isa.available()) {
        for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
            let cols = inner(format)[1];
            for fill in [None, Some(0xff), Some(0)] {
                let row = wild_rows(format, 31, 1, cols, fill);
                let planes = [isa, Isa::Portable].map(|isa| {
                    let (mut codes, mut scales, mut mins) = (
                        vec![99; cols],
                        vec![9.0; cols / GROUP],
                        vec![9.0; cols / GROUP],
                    );
                    let plane = Plane {
                        codes: &mut codes,
                        scales: &mut scales,
                        mins: &mut mins,
                    };
                    crate::dispatch::unpack_row(isa, format, &row, plane);
                    (codes, bits(&scales), bits(&mins))
                });
                assert_eq!(planes[0], planes[1], "{format}");
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_the_batch_nor_on_the_threads() {
    for isa in Isa::ALL {
        for format in Format::ALL {
            let (rows, cols) = (37, inner(format)[2]);
            let data = wild_rows(format, 41, rows, cols, None);
            let w = Matrix::new(format, rows, cols, &data);
            let x = noise(42, cols * 9);
            let Some(mut one) = kernels(isa, 1) else {
                break;
            };
            let mut three = kernels(isa, 3).unwrap();
            let whole = bits(&product(&mut one, &w, &x).0);
            assert_eq!(
                whole,
                bits(&product(&mut three, &w, &x).0),
                "{isa} {format} threads"
            );
            for size in 1..=5 {
                for (batch, x) in x.chunks(size * cols).enumerate() {
                    let part = bits(&product(&mut three, &w, x).0);
                    let expected = &whole[batch * size * rows..][..part.len()];
                    assert_eq!(part, expected, "{isa} {format} batches of {size}");
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
        let data = wild_rows(Format::Q4K, 51, 2, 256, None);
        let w = Matrix::new(Format::Q4K, 2, 256, &data);
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(52, 256);
            x[100] = poison;
            let (y, _) = product(&mut kernels, &w, &x);
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
        let data = wild_rows(Format::Q8_0, 61, 4, 96, None);
        let w = Matrix::new(Format::Q8_0, 4, 96, &data);
        let x = noise(62, 96);
        let (fresh, _) = product(&mut kernels, &w, &x);
        let mut activations = Activations::new(3, 512);
        kernels.load(&[1e9; 3 * 512], 3, 512, &mut activations);
        kernels.load(&x, 1, 96, &mut activations);
        let mut y = vec![0.0; 4];
        kernels.matmul(&w, &activations, &mut y);
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
            let data = wild_rows(format, 71, 6, 256, None);
            let w = Matrix::new(format, 6, 256, &data);
            let weights = dequantized(&w);
            let mut y = vec![0.0; 3 * 256];
            kernels.embed(&w, &[5, 0, 5], 2.5, &mut y);
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
    let mut x = Activations::new(1, 16);
    kernels.load(&[0.0; 16], 1, 16, &mut x);
    kernels.matmul(&Matrix::new(Format::F32, 1, 8, &data), &x, &mut [0.0]);
}
