//! What blocks mean, against gguf-py, and how well we write them.

use super::*;

/// Blocks of every format and their weights: `tests-data/make.py` wrote it with gguf-py.
const GOLDEN: &[u8] = include_bytes!("../tests-data/golden.bin");

struct Golden {
    format: Format,
    bytes: &'static [u8],
    weights: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    let mut all = Vec::new();
    let mut rest = GOLDEN;
    while !rest.is_empty() {
        let (header, after) = rest.split_at(16);
        let name = std::str::from_utf8(&header[..8])
            .unwrap()
            .trim_end_matches('\0');
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let (bytes, after) = after.split_at(number(12) as usize);
        let (weights, after) = after.split_at(number(8) as usize * 4);
        let weights = weights
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let format = Format::ALL
            .into_iter()
            .find(|format| format.to_string() == name);
        all.push(Golden {
            format: format.expect("make.py knows our formats"),
            bytes,
            weights,
        });
        rest = after;
    }
    all
}

#[test]
fn every_format_dequantizes_as_gguf_py_does() {
    let golden = golden();
    for format in Format::ALL {
        let of_format = golden.iter().filter(|golden| golden.format == format);
        assert!(of_format.clone().count() > 0, "golden.bin has {format}");
        for golden in of_format {
            let mut out = vec![f32::NAN; golden.weights.len()];
            dequantize_row(format, golden.bytes, &mut out);
            for (i, (ours, theirs)) in out.iter().zip(&golden.weights).enumerate() {
                assert_eq!(
                    ours.to_bits(),
                    theirs.to_bits(),
                    "{format} weight {i}: {ours} {theirs}"
                );
            }
        }
    }
}

#[test]
fn sizes_are_those_of_the_files() {
    let sizes: Vec<String> = Format::ALL
        .iter()
        .map(|f| {
            format!(
                "{f} {}/{} {}",
                f.block_bytes(),
                f.block_elements(),
                f.bits_per_weight()
            )
        })
        .collect();
    assert_eq!(
        sizes,
        [
            "F32 4/1 32",
            "F16 2/1 16",
            "BF16 2/1 16",
            "Q4_0 18/32 4.5",
            "Q4_1 20/32 5",
            "Q5_0 22/32 5.5",
            "Q5_1 24/32 6",
            "Q8_0 34/32 8.5",
            "Q2_K 84/256 2.625",
            "Q3_K 110/256 3.4375",
            "Q4_K 144/256 4.5",
            "Q5_K 176/256 5.5",
            "Q6_K 210/256 6.5625",
            "IQ4_NL 18/32 4.5",
            "IQ4_XS 136/256 4.25",
        ]
    );
}

#[test]
#[should_panic(expected = "whole number of blocks")]
fn a_row_of_half_a_block_is_refused() {
    Format::Q4K.row_bytes(128);
}

/// Sum of twelve uniforms: near enough to a normal distribution, with outliers up to ±6.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut bytes = vec![0; len * 12 * 4];
    random_row(Format::F32, seed, 1.0, &mut bytes);
    let uniform: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    uniform
        .chunks(12)
        .map(|twelve| twelve.iter().sum::<f32>() / 12_f32.sqrt())
        .collect()
}

fn nmse(truth: &[f32], guess: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = truth
        .iter()
        .zip(guess)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    error / truth.iter().map(|a| square(f64::from(*a))).sum::<f64>()
}

fn round_trip(format: Format, row: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0xa5; format.row_bytes(row.len())];
    quantize_row(format, row, &mut bytes);
    let mut out = vec![f32::NAN; row.len()];
    dequantize_row(format, &bytes, &mut out);
    out
}

/// Bounds for normal weights. A uniform quantizer of step s has error s²/12; a group of 32 spans about 4.1 deviations
/// (16: 3.5), so n codes give about (4.1 / n)² / 12, and the search and the rounding of scales move it by tens of per
/// cent. Each bound is 1.5 times this estimate or more, and below the next coarser format's error.
#[test]
fn quantizing_normal_weights_loses_little() {
    let row = normal(1, 32 * 256);
    let bounds = [
        (Format::F32, 0.0),
        (Format::F16, 1e-7),
        (Format::Bf16, 5e-6),
        (Format::Q4_0, 1e-2),
        (Format::Q4_1, 1e-2),
        (Format::Q5_0, 3e-3),
        (Format::Q5_1, 2.5e-3),
        (Format::Q8_0, 4e-5),
        (Format::Q2K, 1.2e-1),
        (Format::Q3K, 4e-2),
        (Format::Q4K, 9e-3),
        (Format::Q5K, 2.5e-3),
        (Format::Q6K, 6e-4),
        (Format::Iq4Nl, 8e-3),
        (Format::Iq4Xs, 8e-3),
    ];
    assert_eq!(bounds.map(|(format, _)| format), Format::ALL);
    for (format, bound) in bounds {
        assert!(format.can_quantize());
        let nmse = nmse(&row, &round_trip(format, &row));
        println!("{format}: nmse {nmse:.2e}, bound {bound:.1e}");
        assert!(nmse <= bound, "{format}: {nmse:.2e} > {bound:.1e}");
    }
}

#[test]
fn quantizing_odd_rows_stays_finite_and_near() {
    let rows: [(&str, Vec<f32>); 5] = [
        ("zeros", vec![0.0; 256]),
        ("one constant", vec![0.5; 256]),
        ("negative constant", vec![-0.5; 256]),
        (
            "one outlier",
            (0..256).map(|i| if i == 77 { 9.0 } else { 0.0 }).collect(),
        ),
        (
            "tiny",
            (0..256).map(|i| (i as f32 - 128.0) * 1e-9).collect(),
        ),
    ];
    for (name, row) in rows {
        for format in Format::ALL {
            let out = round_trip(format, &row);
            let largest = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            for (x, y) in row.iter().zip(&out) {
                assert!(
                    (x - y).abs() <= 0.35 * largest + 1e-7,
                    "{format}, {name}: {x} became {y}"
                );
            }
        }
    }
}

#[test]
fn random_rows_have_the_deviation_asked_for() {
    for format in Format::ALL {
        let mut bytes = vec![0; format.row_bytes(64 * 256)];
        random_row(format, 5, 0.02, &mut bytes);
        let again = bytes.clone();
        random_row(format, 5, 0.02, &mut bytes);
        assert_eq!(bytes, again, "{format}: the same seed, the same bytes");
        random_row(format, 6, 0.02, &mut bytes);
        assert_ne!(bytes, again, "{format}: another seed, other bytes");
        let mut out = vec![0.0; 64 * 256];
        dequantize_row(format, &bytes, &mut out);
        let mean = out.iter().sum::<f32>() / out.len() as f32;
        let variance = out.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / out.len() as f32;
        assert!(
            (variance.sqrt() / 0.02 - 1.0).abs() < 0.05,
            "{format}: {}",
            variance.sqrt()
        );
        // Codes −4..=3 are half a code off centre: 0.22 deviations, the most of any format.
        assert!(mean.abs() < 0.25 * 0.02, "{format}: mean {mean}");
    }
}
