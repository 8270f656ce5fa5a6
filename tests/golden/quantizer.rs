//! Our quantizer against llama.cpp's, on the same tensors: what is lost, as a share of the tensor's power.

use std::collections::BTreeMap;

use outstation_kernels::Format;
use outstation_kernels::quant::{dequantize_row, quantize_row};
use outstation_tests::shared;
use outstation_wire::gguf::{Gguf, Tensor};

/// Files of the same weights.
const TYPES: [&str; 12] = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL",
    "IQ4_XS",
];

fn format(tensor: &Tensor<'_>) -> Format {
    let name = tensor.kind().to_string();
    let format = Format::ALL
        .into_iter()
        .find(|format| format.to_string() == name);
    format.unwrap_or_else(|| panic!("{} is {name}", tensor.name()))
}

fn floats(tensor: &Tensor<'_>) -> Vec<f32> {
    let columns = usize::try_from(tensor.cols()).expect("small");
    let format = format(tensor);
    let mut out = vec![0.0; usize::try_from(tensor.elements()).expect("small")];
    let rows = tensor.data().chunks_exact(format.row_bytes(columns));
    for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
        dequantize_row(format, row, out);
    }
    out
}

fn round_trip(format: Format, weights: &[f32], columns: usize) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(columns)];
    let mut out = vec![0.0; weights.len()];
    for (row, out) in weights
        .chunks_exact(columns)
        .zip(out.chunks_exact_mut(columns))
    {
        quantize_row(format, row, &mut bytes);
        dequantize_row(format, &bytes, out);
    }
    out
}

/// Σ (a − b)², and Σ a².
fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
    let pairs = a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    pairs.fold((0.0, 0.0), |(error, power), (a, b)| {
        (error + (a - b).powi(2), power + a * a)
    })
}

#[test]
fn no_type_loses_more_than_llama_cpp_s() {
    let Some(folder) = shared("golden") else {
        return;
    };
    let read =
        |name: &str| std::fs::read(folder.join(format!("llama.{name}.gguf"))).expect("it is there");
    let original = read("F16");
    let original = Gguf::parse(&original).expect("a model");
    // By type: our error, theirs, and the power.
    let mut sums: BTreeMap<String, [f64; 3]> = BTreeMap::new();
    let mut worse = Vec::new();
    for name in TYPES {
        let file = read(name);
        for tensor in Gguf::parse(&file).expect("a model").tensors() {
            let format = format(tensor);
            if format.is_float() {
                continue;
            }
            let weights = floats(original.tensor(tensor.name()).expect("the same model"));
            let columns = usize::try_from(tensor.cols()).expect("small");
            let (ours, power) = squares(&weights, &round_trip(format, &weights, columns));
            let (theirs, _) = squares(&weights, &floats(tensor));
            let sum = sums.entry(format.to_string()).or_default();
            for (sum, more) in sum.iter_mut().zip([ours, theirs, power]) {
                *sum += more;
            }
            if ours > 1.001 * theirs {
                worse.push(format!(
                    "{format} {}: {:.3} of theirs",
                    tensor.name(),
                    ours / theirs
                ));
            }
        }
    }
    println!("| type | ours | llama.cpp | ratio |");
    for (name, [ours, theirs, power]) in &sums {
        println!(
            "| {name} | {:.3e} | {:.3e} | {:.3} |",
            ours / power,
            theirs / power,
            ours / theirs
        );
    }
    assert_eq!(sums.len(), 12, "every type was compared");
    assert!(worse.is_empty(), "{worse:#?}");
}
