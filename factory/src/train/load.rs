//! A decoder from a GGUF file, as a box would serve it: quantized weights become the numbers that they stand for.

use candle_core::{Device, Tensor};
use outstation_kernels::Format;
use outstation_kernels::quant::dequantize_row;
use outstation_wire::gguf::{Gguf, GgufError, TensorType};

use super::net::{Net, Shape};
use super::{TrainError, Vocabulary};

/// Why a file cannot be trained further.
fn refused(reason: impl std::fmt::Display) -> TrainError {
    TrainError::Base(reason.to_string())
}

impl From<GgufError> for TrainError {
    fn from(error: GgufError) -> Self {
        refused(error)
    }
}

/// Reads a decoder of the llama architecture whose output is its embedding, as [`super::gguf`] writes it.
pub fn load(file: &[u8], device: &Device) -> Result<(Net, Vocabulary), TrainError> {
    let gguf = Gguf::parse(file)?;
    let architecture = gguf.str("general.architecture")?.unwrap_or("none");
    if architecture != "llama" {
        return Err(refused(format!(
            "its architecture is {architecture}, and only llama is trained here"
        )));
    }
    if gguf.tensor("output.weight").is_some() {
        return Err(refused(
            "its output is a matrix of its own, and only tied ones are trained here",
        ));
    }
    let number = |key: &str| -> Result<usize, TrainError> {
        let value = gguf.u32(&format!("llama.{key}"))?;
        Ok(value.ok_or_else(|| refused(format!("it has no llama.{key}")))? as usize)
    };
    let float = |key: &str, usual: f32| -> Result<f32, TrainError> {
        Ok(gguf.f32(&format!("llama.{key}"))?.unwrap_or(usual))
    };
    let vocabulary = Vocabulary::from_gguf(&gguf)?;
    let shape = Shape {
        vocab: vocabulary.size(),
        hidden: number("embedding_length")?,
        layers: number("block_count")?,
        heads: number("attention.head_count")?,
        kv_heads: number("attention.head_count_kv")?,
        ffn: number("feed_forward_length")?,
        rope_base: float("rope.freq_base", 1e4)?,
        epsilon: float("attention.layer_norm_rms_epsilon", 1e-5)?,
        context: number("context_length")?,
    };
    shape.check().map_err(refused)?;
    if shape.layers > gguf.tensors().len() {
        return Err(refused("it says that it has more layers than tensors"));
    }
    let mut tensors = Vec::new();
    for (name, dims) in shape.parameters() {
        let tensor = gguf
            .tensor(&name)
            .ok_or_else(|| refused(format!("it has no {name}")))?;
        let stored: Vec<u64> = dims.iter().rev().map(|dim| *dim as u64).collect();
        if tensor.dims() != stored {
            return Err(refused(format!(
                "{name} is {:?}, not {stored:?}",
                tensor.dims()
            )));
        }
        let format =
            format(tensor.kind()).ok_or_else(|| refused(format!("{name} is {}", tensor.kind())))?;
        let columns = *dims.last().expect("it has a dimension");
        let mut numbers = vec![0.0; dims.iter().product()];
        let rows = tensor.data().chunks_exact(format.row_bytes(columns));
        for (row, out) in rows.zip(numbers.chunks_exact_mut(columns)) {
            dequantize_row(format, row, out);
        }
        tensors.push((name, Tensor::from_vec(numbers, dims, device)?));
    }
    Ok((Net::with(shape, tensors, device)?, vocabulary))
}

fn format(kind: TensorType) -> Option<Format> {
    Format::ALL
        .into_iter()
        .find(|format| format.to_string() == kind.to_string())
}
