//! Whole models: tensors, metadata, determinism.

use outstation_wire::gguf::{Gguf, TensorType};

use super::*;

fn spec(shape: &str, mix: Mix) -> ModelSpec {
    ModelSpec::new(shape.parse().unwrap(), mix, 7)
}

/// FNV-1a: short, and the same everywhere.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[test]
fn each_mix_of_each_tiny_shape_parses() {
    for shape in ["tiny-llama", "tiny-qwen3"] {
        for mix in Mix::ALL {
            let bytes = bytes(&spec(shape, mix));
            let file = Gguf::parse(&bytes).unwrap_or_else(|error| panic!("{shape} {mix}: {error}"));
            let last = file.tensors().last().unwrap();
            let end = last.file_offset() + last.data().len() as u64;
            assert_eq!(
                end.next_multiple_of(32),
                bytes.len() as u64,
                "{shape} {mix}"
            );
        }
    }
}

#[test]
fn a_model_has_the_tensors_and_keys_of_its_shape() {
    let bytes = bytes(&spec("tiny-qwen3", Mix::Q4KM));
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.tensors().len(), 2 + 4 * 11);
    for (name, dims, kind) in [
        ("token_embd.weight", &[256, 2048][..], TensorType::Q6K),
        ("blk.3.attn_q.weight", &[256, 256], TensorType::Q4K),
        ("blk.3.attn_k.weight", &[256, 128], TensorType::Q4K),
        ("blk.3.attn_v.weight", &[256, 128], TensorType::Q6K),
        ("blk.3.attn_q_norm.weight", &[64], TensorType::F32),
        ("blk.3.ffn_down.weight", &[768, 256], TensorType::Q6K),
        ("blk.1.ffn_down.weight", &[768, 256], TensorType::Q4K),
        ("output_norm.weight", &[256], TensorType::F32),
    ] {
        let tensor = file
            .tensor(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((tensor.dims(), tensor.kind()), (dims, kind), "{name}");
    }
    assert_eq!(file.str("general.architecture"), Ok(Some("qwen3")));
    assert_eq!(
        file.str("general.name"),
        Ok(Some("tiny-qwen3 q4_k_m random weights, seed 7"))
    );
    assert_eq!(file.u32("general.file_type"), Ok(Some(15)));
    assert_eq!(file.u32("qwen3.context_length"), Ok(Some(CONTEXT_DEFAULT)));
    assert_eq!(file.u32("qwen3.attention.head_count_kv"), Ok(Some(2)));
    assert_eq!(file.f32("qwen3.rope.freq_base"), Ok(Some(1e6)));
    assert_eq!(file.u32("tokenizer.ggml.eos_token_id"), Ok(Some(2047)));
    assert_eq!(file.bool("tokenizer.ggml.add_bos_token"), Ok(Some(false)));
    assert!(
        file.str("tokenizer.chat_template")
            .unwrap()
            .unwrap()
            .contains("<|im_start|>")
    );
}

#[test]
fn weights_have_the_deviation_that_keeps_activations_sane() {
    let bytes = bytes(&spec("tiny-llama", Mix::F16));
    let file = Gguf::parse(&bytes).unwrap();
    for (name, mean, deviation) in [
        ("token_embd.weight", 0.0, 0.02),
        ("blk.0.attn_q.weight", 0.0, 1.0 / 16.0),
        ("blk.2.ffn_down.weight", 0.0, 1.0 / 768_f64.sqrt()),
        ("blk.2.ffn_norm.weight", 1.0, 0.1),
    ] {
        let tensor = file.tensor(name).unwrap();
        let values: Vec<f64> = match tensor.kind() {
            TensorType::F16 => halves(tensor.data()).collect(),
            _ => floats(tensor.data()).collect(),
        };
        let count = values.len() as f64;
        let found_mean = values.iter().sum::<f64>() / count;
        let squares = values
            .iter()
            .map(|value| (value - found_mean).powi(2))
            .sum::<f64>();
        let found = (squares / count).sqrt();
        assert!(
            (found / deviation - 1.0).abs() < 0.1,
            "{name}: {found} for {deviation}"
        );
        assert!(
            (found_mean - mean).abs() < 0.2 * deviation,
            "{name}: mean {found_mean}"
        );
    }
}

fn halves(data: &[u8]) -> impl Iterator<Item = f64> {
    data.as_chunks()
        .0
        .iter()
        .map(|&bytes| half::f16::from_le_bytes(bytes).to_f64())
}

fn floats(data: &[u8]) -> impl Iterator<Item = f64> {
    data.as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes).into())
}

#[test]
fn rows_that_blocks_of_256_do_not_divide_fall_back() {
    let tensors = plan::tensors(&spec("qwen2.5-0.5b", Mix::Q4KM));
    let kind = |name: &str| {
        tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap()
            .kind
    };
    assert_eq!(kind("token_embd.weight"), TensorType::Q8_0);
    assert_eq!(kind("blk.0.attn_q.weight"), TensorType::Q5_0);
    assert_eq!(kind("blk.0.attn_v.weight"), TensorType::Q8_0);
    assert_eq!(kind("blk.3.attn_v.weight"), TensorType::Q5_0);
    assert_eq!(kind("blk.0.ffn_down.weight"), TensorType::Q6K);
    assert_eq!(kind("blk.3.ffn_down.weight"), TensorType::Q4K);
    assert_eq!(kind("blk.0.attn_q.bias"), TensorType::F32);
    let five = plan::tensors(&spec("qwen2.5-0.5b", Mix::Q5KM));
    assert_eq!(
        five.iter()
            .find(|tensor| tensor.name == "blk.3.attn_q.weight")
            .unwrap()
            .kind,
        TensorType::Q5_1
    );
}

#[test]
fn large_shapes_have_the_parameters_of_their_names() {
    for (shape, millions) in [
        ("qwen2.5-0.5b", 494),
        ("qwen3-0.6b", 596),
        ("llama3.2-1b", 1235),
        ("llama3.2-3b", 3212),
        ("llama3.1-8b", 8030),
    ] {
        let tensors = plan::tensors(&spec(shape, Mix::Q8_0));
        let parameters: u64 = tensors
            .iter()
            .map(|tensor| tensor.dims.iter().product::<u64>())
            .sum();
        assert_eq!(parameters / 1_000_000, millions, "{shape}");
    }
}

#[test]
fn a_seed_decides_every_byte() {
    let one = spec("tiny-llama", Mix::Q4KM);
    let other = ModelSpec {
        seed: 8,
        ..one.clone()
    };
    assert_eq!(hash(&bytes(&one)), hash(&bytes(&one)));
    assert_ne!(hash(&bytes(&one)), hash(&bytes(&other)));
}

#[test]
fn the_bytes_are_the_same_on_any_machine() {
    assert_eq!(hash(&demo(1)), 0x048F_C53D_09DC_D046);
    assert_eq!(
        hash(&bytes(&spec("tiny-llama", Mix::Q4KM))),
        0xE394_676F_F363_ABD6
    );
}

#[test]
fn no_two_chunks_share_their_weights() {
    let bytes = bytes(&spec("tiny-llama", Mix::Q8_0));
    let file = Gguf::parse(&bytes).unwrap();
    let mut starts: Vec<&[u8]> = file
        .tensors()
        .iter()
        .map(|tensor| &tensor.data()[2..34])
        .collect();
    starts.sort_unstable();
    assert!(starts.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn progress_rises_to_the_size_of_the_file() {
    let mut seen = Vec::new();
    let mut out = Vec::new();
    write(
        &spec("tiny-llama", Mix::Q8_0),
        &mut out,
        &mut |done, total| seen.push((done, total)),
    )
    .unwrap();
    assert!(seen.is_sorted());
    assert!(seen.iter().all(|&(_, total)| total == out.len() as u64));
    assert_eq!(seen.last(), Some(&(out.len() as u64, out.len() as u64)));
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write(
        &spec("tiny-llama", Mix::Q8_0),
        &mut Full(1 << 20),
        &mut |_, _| {},
    )
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn names_are_found_in_any_case_and_listed_when_unknown() {
    assert_eq!("Q4_K_M".parse(), Ok(Mix::Q4KM));
    assert_eq!("F16".parse(), Ok(Mix::F16));
    assert_eq!("LLaMA3.2-1B".parse::<Shape>().unwrap().hidden, 2048);
    assert_eq!(
        "q4".parse::<Mix>().unwrap_err().to_string(),
        "no mix is called \"q4\"; there are f16, q4_0, q8_0, q4_k_m, q5_k_m, q6_k"
    );
    assert!(
        "gpt5"
            .parse::<Shape>()
            .unwrap_err()
            .to_string()
            .contains("tiny-llama")
    );
}
