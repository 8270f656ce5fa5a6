//! Models from a seed, and fine-tunes of them: bytes that compress and change as quantized weights do.

use outstation_wire::gguf::{GgufWriter, OwnedValue, TensorType};

use crate::support::random::Random;

/// Elements of a Q4_0 block.
const BLOCK: u64 = 32;

/// A model of layers with one matrix of Q4_0 each.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) layers: u32,
    /// Bytes of a layer, a multiple of 18 × 256.
    pub(crate) layer_bytes: u64,
    pub(crate) template: &'static str,
    weights: Vec<Vec<f32>>,
}

impl Model {
    pub(crate) fn new(layers: u32, layer_bytes: u64, seed: u64) -> Self {
        let elements = layer_bytes / 18 * BLOCK;
        let weights = (0..layers).map(|layer| {
            let mut random = Random(seed ^ (u64::from(layer) << 32));
            (0..elements).map(|_| gaussian(&mut random)).collect()
        });
        Self {
            layers,
            layer_bytes,
            template: "{{ messages }}",
            weights: weights.collect(),
        }
    }

    /// Some layers trained on: each weight moves a little, as a share of what weights are.
    pub(crate) fn tuned(
        &self,
        layers: impl IntoIterator<Item = usize>,
        moves: f32,
        seed: u64,
    ) -> Self {
        let mut tuned = self.clone();
        for layer in layers {
            let mut random = Random(seed ^ ((layer as u64) << 32));
            for weight in &mut tuned.weights[layer] {
                *weight += moves * gaussian(&mut random);
            }
        }
        tuned
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        let words = (0..2000).map(|n| format!("word{n}"));
        writer
            .put("general.architecture", OwnedValue::str("llama"))
            .put("tokenizer.ggml.model", OwnedValue::str("gpt2"))
            .put("tokenizer.ggml.tokens", OwnedValue::strings(words))
            .put("tokenizer.chat_template", OwnedValue::str(self.template));
        let cols = 256;
        let rows = self.layer_bytes / 18 * BLOCK / cols;
        for layer in 0..self.layers {
            writer.tensor(
                &format!("blk.{layer}.ffn_up.weight"),
                &[cols, rows],
                TensorType::Q4_0,
            );
        }
        let header = writer.finish();
        let mut file = header.bytes;
        for (place, weights) in header.tensors.iter().zip(&self.weights) {
            file.resize(usize::try_from(place.file_offset).unwrap(), 0);
            weights
                .chunks_exact(32)
                .for_each(|block| quantize(block, &mut file));
            assert_eq!(file.len() as u64, place.file_offset + place.bytes);
        }
        file.resize(usize::try_from(header.file_bytes).unwrap(), 0);
        file
    }
}

/// Sum of twelve even draws less six: close enough to a bell.
fn gaussian(random: &mut Random) -> f32 {
    let mut sum = 0.0;
    for _ in 0..3 {
        let draws = random.next();
        for part in 0..4 {
            let draw = u16::try_from((draws >> (16 * part)) & 0xFFFF).unwrap();
            sum += f32::from(draw) / 65_536.0;
        }
    }
    sum - 6.0
}

/// A block of Q4_0 as ggml makes it: scale as f16, 16 bytes with two codes each. Source: ggml-quants.c
/// `quantize_row_q4_0_ref`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "codes are 0 to 15"
)]
fn quantize(block: &[f32], out: &mut Vec<u8>) {
    let largest = block
        .iter()
        .copied()
        .fold(0.0_f32, |a, b| if b.abs() > a.abs() { b } else { a });
    // Weights are small numbers.
    let scale = largest * 0.02 / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 0.02 / scale };
    out.extend(half(scale).to_le_bytes());
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    for n in 0..16 {
        out.push(code(block[n]) | (code(block[n + 16]) << 4));
    }
}

/// A normal f32 as f16, cut off.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = u16::try_from(bits >> 16).unwrap() & 0x8000;
    let exponent = i32::try_from((bits >> 23) & 0xFF).unwrap() - 127 + 15;
    let mantissa = u16::try_from((bits >> 13) & 0x3FF).unwrap();
    if exponent <= 0 {
        return sign;
    }
    sign | (u16::try_from(exponent).unwrap() << 10) | mantissa
}
