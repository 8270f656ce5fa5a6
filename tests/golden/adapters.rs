//! Adapters beside merged weights, and beside each other in one step.

use outstation::adapter::{Adapter, Base};
use outstation::engine::cpu::{self, CpuEngine, EngineSize};
use outstation::generate::{self, AdapterSpec, Mix, ModelSpec};
use outstation::model::Model;
use outstation_kernels::quant::{Format, dequantize_row};
use outstation_kernels::team::Team;
use outstation_kernels::{Isa, KvFormat};
use outstation_tests::adapted::{RANK, Run, logits, packed, run};
use outstation_tests::nmse;
use outstation_wire::gguf::{Gguf, GgufWriter, TensorType};

/// NMSE that adapted logits may have beside those of merged weights. Factors are rounded to bytes: a value is off by
/// some half a percent (of the greatest in its row or panel, 1/254 at most), so what both add is off by less than 1e-4
/// of itself, squared; here that is most of the result. Measured: 1.7e-5.
const MERGED_NMSE_MAX: f64 = 5e-5;

/// A tiny model whose matrices are all F32, after `change` had each by its name.
fn float_model(shape: &str, change: impl Fn(&str, &mut [f32])) -> Vec<u8> {
    let spec = ModelSpec::new(shape.parse().unwrap(), Mix::F16, 3);
    let file = generate::bytes(&spec);
    let gguf = Gguf::parse(&file).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.values() {
        writer.put(key, (*value).into());
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name(), tensor.dims(), TensorType::F32);
    }
    let header = writer.finish();
    let mut bytes = header.bytes;
    for (tensor, place) in gguf.tensors().iter().zip(&header.tensors) {
        let format = match tensor.kind() {
            TensorType::F16 => Format::F16,
            _ => Format::F32,
        };
        let count = usize::try_from(place.bytes).unwrap() / 4;
        let mut values = vec![0.0; count];
        dequantize_row(format, tensor.data(), &mut values);
        change(tensor.name(), &mut values);
        bytes.resize(usize::try_from(place.file_offset).unwrap(), 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.resize(usize::try_from(header.file_bytes).unwrap(), 0);
    bytes
}

fn model(file: &[u8]) -> Model {
    Model::from_gguf(&Gguf::parse(file).unwrap()).unwrap()
}

fn engine(file: &[u8], isa: Isa, rank: usize) -> CpuEngine {
    let model = model(file);
    let size = EngineSize {
        columns_max: 64,
        logits_rows_max: 64,
        kv_blocks: 16,
        kv: KvFormat::of(isa, model.dims.head_dim),
    };
    let mut team = Team::new(2);
    let mut weights = vec![0; model.packed_bytes];
    cpu::pack(&model, file, &mut team, &mut weights, |_| ());
    let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
    CpuEngine::new(model, Box::new(weights), Box::new(cache), isa, team, size)
        .with_adapters(size.columns_max, rank)
}

/// Whether the processor is one that CI emulates.
const EMULATED: bool = cfg!(target_arch = "aarch64");

fn isas() -> impl Iterator<Item = Isa> {
    let tested = |isa: &Isa| isa.available() && !(EMULATED && *isa == Isa::Portable);
    Isa::ALL.into_iter().filter(tested)
}

/// An adapter's factors as plain numbers, in the order of the base: by name `A [rank, cols]` and `B [rows, rank]`.
fn factors(adapter: &[u8]) -> impl Fn(&str) -> Option<(Vec<f32>, Vec<f32>)> {
    let gguf = Gguf::parse(adapter).unwrap();
    move |name: &str| {
        let read = |ending: &str| {
            let tensor = gguf.tensor(&format!("{name}.{ending}"))?;
            let values = tensor.data().as_chunks().0.iter();
            Some(values.map(|&bytes| f32::from_le_bytes(bytes)).collect())
        };
        Some((read("lora_a")?, read("lora_b")?))
    }
}

fn merge(weights: &mut [f32], (a, b): &(Vec<f32>, Vec<f32>), scale: f64) {
    let cols = a.len() / RANK;
    for (row, b) in weights.chunks_exact_mut(cols).zip(b.chunks_exact(RANK)) {
        for (col, weight) in row.iter_mut().enumerate() {
            let products = (0..RANK).map(|r| f64::from(b[r]) * f64::from(a[r * cols + col]));
            let sum = f64::from(*weight) + scale * products.sum::<f64>();
            #[expect(clippy::cast_possible_truncation, reason = "rounded as a merge rounds")]
            let sum = sum as f32;
            *weight = sum;
        }
    }
}

fn spec(seed: u64) -> AdapterSpec {
    AdapterSpec {
        alpha: 16.0,
        kind: TensorType::F32,
        ..AdapterSpec::new(8, seed)
    }
}

/// PEFT's files of an adapter, with rows of queries and keys in Hugging Face's order where the base has another.
fn peft_files(targets: &Base, adapter: &[u8], half: bool, config: &str) -> (Vec<u8>, Vec<u8>) {
    let factors = factors(adapter);
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, rows, cols) in targets.tensors() {
        let mut parts = name.split('.').skip(1);
        let (layer, part) = (parts.next().unwrap(), parts.next().unwrap());
        let module = match part {
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            other => panic!("{other}"),
        };
        let (a, mut b) = factors(&name).unwrap();
        if targets.architecture() == "llama" && matches!(part, "attn_q" | "attn_k") {
            b = to_hugging_face(&b, 64);
        }
        for (factor, values, shape) in [("A", a, [RANK, cols]), ("B", b, [rows, RANK])] {
            let start = data.len();
            for value in values {
                if half {
                    data.extend(&value.to_le_bytes()[2..]);
                } else {
                    data.extend(value.to_le_bytes());
                }
            }
            let kind = if half { "BF16" } else { "F32" };
            let name =
                format!("base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight");
            let offsets = [start, data.len()];
            header.insert(
                name,
                serde_json::json!({"dtype": kind, "shape": shape, "data_offsets": offsets}),
            );
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    (config.as_bytes().to_vec(), file)
}

/// Rows of a head: first those that are the first of a pair, then the second ones.
fn to_hugging_face(b: &[f32], head_dim: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = b.chunks_exact(RANK).collect();
    let heads = rows.chunks_exact(head_dim);
    let ordered = heads.flat_map(|head| {
        let firsts = head.iter().step_by(2);
        firsts.chain(head.iter().skip(1).step_by(2))
    });
    ordered.copied().flatten().copied().collect()
}

/// Every factor cut to the upper half of its floats, as BF16 has them.
fn truncated(adapter: &[u8]) -> Vec<u8> {
    let gguf = Gguf::parse(adapter).unwrap();
    let mut bytes = adapter.to_vec();
    for tensor in gguf.tensors() {
        let start = usize::try_from(tensor.file_offset()).unwrap();
        for value in bytes[start..start + tensor.data().len()]
            .as_chunks_mut::<4>()
            .0
        {
            value[0] = 0;
            value[1] = 0;
        }
    }
    bytes
}

/// An adapter gives the logits that its base gives with the product of its factors added to its weights, in both
/// formats, on every instruction set, for bases with permuted queries and keys and without.
#[test]
fn an_adapter_is_what_merged_weights_are() {
    // Emulated, each engine takes minutes: there it is about the kernels, not about the forms.
    let shapes = ["tiny-llama", "tiny-qwen3"];
    let shapes = if EMULATED { &shapes[..1] } else { &shapes[..] };
    for &shape in shapes {
        let base = float_model(shape, |_, _| ());
        let targets = Base::of(&model(&base));
        let file = truncated(&generate::adapter(&targets, &spec(5)));
        let by_name = factors(&file);
        let merged = |scale: f64| {
            float_model(shape, |name, weights| {
                if let Some(pair) = by_name(name) {
                    merge(weights, &pair, scale);
                }
            })
        };
        let (plain, rank_stabilized) = (merged(2.0), merged(4.0 / 8_f64.sqrt()));
        let gguf = Gguf::parse(&file).unwrap();
        let from_gguf = packed(&targets, &Adapter::from_gguf(&gguf, &targets).unwrap(), 1);
        let config = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16}"#;
        let rslora = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 4, "use_rslora": true}"#;
        let from_peft = |half, config| {
            let (config, weights) = peft_files(&targets, &file, half, config);
            packed(
                &targets,
                &Adapter::from_peft(&config, &weights, &targets).unwrap(),
                2,
            )
        };
        for isa in isas() {
            let mut on_base = engine(&base, isa, RANK);
            let alone = logits(&mut on_base, None);
            let forms = [
                ("GGUF", from_gguf.clone(), &plain),
                ("PEFT in F32", from_peft(false, config), &plain),
                ("PEFT in BF16", from_peft(true, config), &plain),
                ("rsLoRA", from_peft(false, rslora), &rank_stabilized),
            ];
            let tested = if EMULATED { 1 } else { forms.len() };
            for (name, adapter, merged) in forms.into_iter().take(tested) {
                let adapted = logits(&mut on_base, Some(&adapter));
                let merged = logits(&mut engine(merged, isa, 0), None);
                let (off, effect) = (nmse(&adapted, &merged), nmse(&alone, &merged));
                println!("{shape} {isa} {name}: {off:.1e} from merged, the base {effect:.1e}");
                assert!(off <= MERGED_NMSE_MAX, "{shape} {isa} {name}: {off:.2e}");
                assert!(effect > 1e-2, "{shape} {isa} {name}: adds {effect:.2e}");
            }
        }
    }
}

/// Sequences with adapters of two ranks and without, in one step each with chunks of their own: every one has the bits
/// that it has alone, and the base those of an engine that knows no adapters.
#[test]
fn neighbours_with_other_adapters_change_no_bit() {
    let spec_of_base = ModelSpec::new("tiny-llama".parse().unwrap(), Mix::Q4KM, 3);
    let base = generate::bytes(&spec_of_base);
    let targets = Base::of(&model(&base));
    let make = |rank, seed| {
        let file = generate::adapter(&targets, &AdapterSpec::new(rank, seed));
        let gguf = Gguf::parse(&file).unwrap();
        let name = u8::try_from(seed).unwrap();
        packed(
            &targets,
            &Adapter::from_gguf(&gguf, &targets).unwrap(),
            name,
        )
    };
    let (one, two) = (make(8, 1), make(3, 2));
    for isa in isas() {
        let mut engine_with = engine(&base, isa, RANK);
        let wanted = [Some(&one), None, Some(&two), Some(&one), None, Some(&two)];
        let mut mixed: Vec<Run> = (0..)
            .zip(wanted)
            .zip([1, 3, 5, 2, 7, 1])
            .map(|((sequence, adapter), chunk)| Run::new(sequence, adapter, chunk))
            .collect();
        run(&mut engine_with, &mut mixed, 6);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for run in &mixed {
            let alone = logits(&mut engine_with, run.adapter.as_ref());
            assert!(
                bits(&run.logits) == bits(&alone),
                "{isa}: sequence {}",
                run.sequence
            );
        }
        let never = logits(&mut engine(&base, isa, 0), None);
        assert!(
            bits(&mixed[1].logits) == bits(&never),
            "{isa}: the base alone"
        );
        assert!(
            bits(&mixed[0].logits) != bits(&never),
            "{isa}: the adapter does something"
        );
    }
}
