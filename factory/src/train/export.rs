//! What a run leaves: a GGUF of the decoder in any type that boxes read, and a low-rank change as a GGUF or as PEFT's
//! files.

use outstation_kernels::Format;
use outstation_kernels::quant::quantize_row;
use outstation_wire::gguf::{GgufWriter, OwnedValue, TensorType};
use safetensors::tensor::{Dtype, TensorView};

use super::net::{Net, Parameter};
use super::{LowRankPlan, TrainError, Vocabulary};

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// As it stands in GGUF files.
    pub name: &'static str,
    tensor: TensorType,
    format: Format,
    /// llama.cpp's number for a file of it: `general.file_type`.
    file_type: u32,
}

/// Every type. Norms are F32 in all. The embedding is the output, too, and has at least 6 bits.
pub const QUANTIZATIONS: [Quantization; 10] = [
    quantization("F32", TensorType::F32, Format::F32, 0),
    quantization("F16", TensorType::F16, Format::F16, 1),
    quantization("Q4_0", TensorType::Q4_0, Format::Q4_0, 2),
    quantization("Q5_0", TensorType::Q5_0, Format::Q5_0, 8),
    quantization("Q8_0", TensorType::Q8_0, Format::Q8_0, 7),
    quantization("Q2_K", TensorType::Q2K, Format::Q2K, 10),
    quantization("Q3_K", TensorType::Q3K, Format::Q3K, 12),
    quantization("Q4_K", TensorType::Q4K, Format::Q4K, 15),
    quantization("Q5_K", TensorType::Q5K, Format::Q5K, 17),
    quantization("Q6_K", TensorType::Q6K, Format::Q6K, 18),
];

const fn quantization(
    name: &'static str,
    tensor: TensorType,
    format: Format,
    file_type: u32,
) -> Quantization {
    Quantization {
        name,
        tensor,
        format,
        file_type,
    }
}

impl Quantization {
    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        QUANTIZATIONS
            .into_iter()
            .find(|q| q.name.eq_ignore_ascii_case(name))
    }

    /// What a tensor of this name and width is stored as.
    fn of(self, name: &str, columns: usize) -> (TensorType, Format) {
        let coarse = self.format.bits_per_weight() < Format::Q6K.bits_per_weight();
        if name.contains("norm") {
            (TensorType::F32, Format::F32)
        } else if !columns.is_multiple_of(self.format.block_elements()) {
            (TensorType::F16, Format::F16)
        } else if name == "token_embd.weight" && coarse && columns.is_multiple_of(256) {
            (TensorType::Q6K, Format::Q6K)
        } else {
            (self.tensor, self.format)
        }
    }
}

/// A tensor on its way into a file: its name, its shape as `[out, in]`, its numbers.
struct Part {
    name: String,
    shape: Vec<usize>,
    numbers: Vec<f32>,
}

impl Part {
    fn of(parameter: &Parameter) -> Result<Self, TrainError> {
        Ok(Self {
            name: parameter.name.clone(),
            shape: parameter.var.dims().to_vec(),
            numbers: parameter.var.flatten_all()?.to_vec1()?,
        })
    }
}

/// Lays parts after a header, each in its type.
fn file(
    mut writer: GgufWriter,
    parts: &[Part],
    stored: impl Fn(&str, usize) -> (TensorType, Format),
) -> Vec<u8> {
    for part in parts {
        let dims: Vec<u64> = part.shape.iter().rev().map(|dim| *dim as u64).collect();
        let columns = *part.shape.last().expect("it has a dimension");
        writer.tensor(&part.name, &dims, stored(&part.name, columns).0);
    }
    let header = writer.finish();
    let mut bytes = header.bytes;
    bytes.resize(
        usize::try_from(header.file_bytes).expect("it is made in memory"),
        0,
    );
    for (part, place) in parts.iter().zip(&header.tensors) {
        let columns = *part.shape.last().expect("it has a dimension");
        let format = stored(&part.name, columns).1;
        let start = usize::try_from(place.file_offset).expect("inside the file");
        let row_bytes = format.row_bytes(columns);
        let rows = bytes[start..].chunks_exact_mut(row_bytes);
        for (row, out) in part.numbers.chunks_exact(columns).zip(rows) {
            quantize_row(format, row, out);
        }
    }
    bytes
}

/// The decoder as a GGUF file.
pub fn gguf(
    net: &Net,
    vocabulary: &Vocabulary,
    name: &str,
    quantization: Quantization,
) -> Result<Vec<u8>, TrainError> {
    let shape = &net.shape;
    let number = |n: usize| OwnedValue::U32(u32::try_from(n).expect("sizes are small"));
    let mut writer = GgufWriter::new();
    writer
        .put("general.architecture", OwnedValue::str("llama"))
        .put("general.name", OwnedValue::str(name))
        .put("general.file_type", OwnedValue::U32(quantization.file_type))
        .put("llama.context_length", number(shape.context))
        .put("llama.embedding_length", number(shape.hidden))
        .put("llama.block_count", number(shape.layers))
        .put("llama.feed_forward_length", number(shape.ffn))
        .put("llama.rope.dimension_count", number(shape.head_dim()))
        .put("llama.rope.freq_base", OwnedValue::F32(shape.rope_base))
        .put("llama.attention.head_count", number(shape.heads))
        .put("llama.attention.head_count_kv", number(shape.kv_heads))
        .put(
            "llama.attention.layer_norm_rms_epsilon",
            OwnedValue::F32(shape.epsilon),
        )
        .put("llama.vocab_size", number(shape.vocab));
    vocabulary.put(&mut writer)?;
    let parts: Vec<Part> = net.base().iter().map(Part::of).collect::<Result<_, _>>()?;
    Ok(file(writer, &parts, |name, columns| {
        quantization.of(name, columns)
    }))
}

/// The low-rank change as a GGUF file, as llama.cpp and boxes read it: `<tensor>.lora_a` and `.lora_b`, in F32.
pub fn adapter_gguf(net: &Net, name: &str, plan: LowRankPlan) -> Result<Vec<u8>, TrainError> {
    let mut writer = GgufWriter::new();
    #[allow(clippy::cast_possible_truncation, reason = "a small number")]
    writer
        .put("general.type", OwnedValue::str("adapter"))
        .put("general.architecture", OwnedValue::str("llama"))
        .put("general.name", OwnedValue::str(name))
        .put("adapter.type", OwnedValue::str("lora"))
        .put("adapter.lora.alpha", OwnedValue::F32(plan.alpha as f32));
    let parts: Vec<Part> = net
        .trained()
        .iter()
        .map(Part::of)
        .collect::<Result<_, _>>()?;
    Ok(file(writer, &parts, |_, _| (TensorType::F32, Format::F32)))
}

/// The modules of Hugging Face's llama that a low-rank change is made of, and their tensors here.
const MODULES: [(&str, &str); 7] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The low-rank change as PEFT saves it: names and bytes of two files.
pub fn adapter_peft(
    net: &Net,
    plan: LowRankPlan,
) -> Result<[(&'static str, Vec<u8>); 2], TrainError> {
    let mut tensors = Vec::new();
    for parameter in net.trained() {
        let mut part = Part::of(&parameter)?;
        let names: Vec<&str> = part.name.split('.').collect();
        let ["blk", layer, tensor, "weight", end] = names[..] else {
            unreachable!("a change is of a layer's matrix: {}", part.name)
        };
        let (_, module) = MODULES
            .into_iter()
            .find(|(ours, _)| *ours == tensor)
            .expect("all are there");
        let heads = match tensor {
            "attn_q" => net.shape.heads,
            "attn_k" => net.shape.kv_heads,
            _ => 0,
        };
        if end == "lora_b" && heads > 0 {
            part.numbers = halves(&part.numbers, part.shape[1], net.shape.head_dim());
        }
        let end = end.replace("lora_a", "lora_A").replace("lora_b", "lora_B");
        let name = format!("base_model.model.model.layers.{layer}.{module}.{end}.weight");
        let data: Vec<u8> = part.numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name, part.shape, data));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data)
            .expect("the shape is that of the data");
        (name, view)
    });
    let config = serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_dropout": 0.0,
        "target_modules": MODULES.map(|(_, module)| module.rsplit('.').next()),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    Ok([
        (
            "adapter_model.safetensors",
            safetensors::serialize(views, None).expect("names are unique"),
        ),
        ("adapter_config.json", format!("{config:#}\n").into_bytes()),
    ])
}

/// Rows of queries and keys in Hugging Face's order: pairs that are neighbours here stand half a head apart there.
fn halves(rows: &[f32], columns: usize, head_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * columns) {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                out.extend_from_slice(&head[(2 * pair + half) * columns..][..columns]);
            }
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test writes an adapter")]
mod tests {
    use candle_core::Device;
    use outstation_wire::gguf::Gguf;

    use super::*;
    use crate::ota::peft;
    use crate::train::{Batch, Shape, load};

    const SHAPE: Shape = Shape {
        vocab: 300,
        hidden: 256,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        ffn: 512,
        rope_base: 1e4,
        epsilon: 1e-5,
        context: 64,
    };

    fn vocabulary() -> Vocabulary {
        let text = "the quick brown fox jumps over the lazy dog and comes again the next day to see the dog";
        Vocabulary::learn(std::iter::repeat_n(text, 20), 300).unwrap()
    }

    fn net(vocabulary: &Vocabulary) -> Net {
        let vocab = vocabulary.size();
        Net::new(Shape { vocab, ..SHAPE }, 1, &Device::Cpu).unwrap()
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push(&crate::train::Example {
            ids: (4..40).collect(),
            answer_from: 1,
        });
        batch
    }

    #[test]
    fn what_is_written_is_read_in_every_type() {
        let vocabulary = vocabulary();
        let net = net(&vocabulary);
        let loss = |net: &Net| net.loss(&batch()).unwrap().to_scalar::<f32>().unwrap();
        for quantization in QUANTIZATIONS {
            let file = gguf(&net, &vocabulary, "a test", quantization).unwrap();
            let (again, read) = load(&file, &Device::Cpu).unwrap();
            let name = quantization.name;
            let bound = match quantization.format.bits_per_weight() {
                bits if bits >= 16.0 => 1e-4,
                bits if bits >= 4.0 => 0.05,
                _ => 0.3,
            };
            let difference = (loss(&again) - loss(&net)).abs();
            assert!(
                difference <= bound,
                "{name}: the loss is off by {difference}"
            );
            assert_eq!(*again.shape(), *net.shape());
            assert_eq!(read.json().unwrap(), vocabulary.json().unwrap(), "{name}");
        }
    }

    #[test]
    fn other_models_are_refused_with_the_reason() {
        let vocabulary = vocabulary();
        let file = gguf(&net(&vocabulary), &vocabulary, "a test", QUANTIZATIONS[0]).unwrap();
        let reason = |file: &[u8]| load(file, &Device::Cpu).err().expect("refused").to_string();
        let other = |from: &str, to: &str| {
            let at = file
                .windows(from.len())
                .position(|window| window == from.as_bytes())
                .unwrap();
            let mut changed = file.clone();
            changed[at..at + to.len()].copy_from_slice(to.as_bytes());
            reason(&changed)
        };
        assert!(
            other("blk.0.ffn_up.weight", "blk.9.ffn_up.weight")
                .contains("it has no blk.0.ffn_up.weight")
        );
        assert!(other("<|user|>", "<|uzer|>").contains("control tokens"));
        assert!(reason(b"no model").contains("cannot be trained"));
    }

    #[test]
    fn an_adapter_as_peft_has_it_becomes_the_same_gguf_again() {
        let vocabulary = vocabulary();
        let mut net = net(&vocabulary);
        let base = gguf(&net, &vocabulary, "a test", QUANTIZATIONS[0]).unwrap();
        let plan = LowRankPlan {
            rank: 4,
            alpha: 8.0,
        };
        net.adapt(plan.rank, 2.0, 3).unwrap();
        for (number, parameter) in (1_u8..).zip(net.trained()) {
            // What is 0 at first would prove nothing.
            let shape = parameter.var.shape().clone();
            let row =
                candle_core::Tensor::arange(0.0, shape.elem_count() as f32, &Device::Cpu).unwrap();
            parameter
                .var
                .set(&(row.reshape(shape).unwrap() * f64::from(number)).unwrap())
                .unwrap();
        }
        let ours = adapter_gguf(&net, "a test", plan).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in adapter_peft(&net, plan).unwrap() {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let shape = peft::Shape::of(&Gguf::parse(&base).unwrap()).unwrap();
        let source = peft::convert(folder.path(), &shape).unwrap();
        let converted = source
            .read(0, usize::try_from(source.bytes()).unwrap())
            .unwrap();
        let (ours, theirs) = (
            Gguf::parse(&ours).unwrap(),
            Gguf::parse(&converted).unwrap(),
        );
        assert_eq!(ours.tensors().len(), 14);
        assert_eq!(theirs.tensors().len(), 14);
        for tensor in ours.tensors() {
            let other = theirs.tensor(tensor.name()).unwrap();
            assert_eq!(tensor.dims(), other.dims(), "{}", tensor.name());
            assert!(tensor.data() == other.data(), "{}", tensor.name());
        }
        assert_eq!(theirs.f32("adapter.lora.alpha").unwrap(), Some(8.0));
    }
}
