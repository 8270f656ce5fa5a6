//! The plan against files that llama.cpp's quantizer made: same tensors, same dimensions, same types.

use std::path::Path;

use outstation_wire::gguf::Gguf;

use super::*;

#[test]
fn mixes_are_those_of_llama_cpps_quantizer() {
    for (mix, name) in [
        (Mix::F16, "F16"),
        (Mix::Q4_0, "Q4_0"),
        (Mix::Q8_0, "Q8_0"),
        (Mix::Q4KM, "Q4_K_M"),
        (Mix::Q5KM, "Q5_K_M"),
        (Mix::Q6K, "Q6_K"),
    ] {
        check("llama", mix, name);
    }
    for arch in ["qwen2", "qwen3"] {
        check(arch, Mix::Q4KM, "Q4_K_M");
        check(arch, Mix::Q8_0, "Q8_0");
    }
}

fn golden(arch: &'static str) -> Shape {
    Shape {
        name: "golden",
        arch,
        hidden: 256,
        layers: 2,
        heads: 8,
        kv_heads: 4,
        head_dim: 32,
        ffn: 512,
        rope_base: 1e4,
        rms_eps: 1e-6,
        vocab: 512,
        tied: arch != "llama",
        qkv_bias: arch == "qwen2",
        qk_norm: arch == "qwen3",
    }
}

#[expect(clippy::disallowed_methods, reason = "a test reads its fixtures")]
fn check(arch: &'static str, mix: Mix, name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    let path = root.join(format!("{arch}.{name}.gguf"));
    let Ok(theirs) = std::fs::read(&path) else {
        println!(
            "SKIP: {} is missing, the mix was not compared with llama.cpp",
            path.display()
        );
        return;
    };
    let ours = bytes(&ModelSpec {
        context: 2048,
        ..ModelSpec::new(golden(arch), mix, 7)
    });
    let (theirs, ours) = (Gguf::parse(&theirs).unwrap(), Gguf::parse(&ours).unwrap());
    assert_eq!(tensors(&ours), tensors(&theirs), "{arch} {name}");
    assert_eq!(keys(&ours), keys(&theirs), "{arch} {name}");
    assert_eq!(
        ours.value("general.file_type"),
        theirs.value("general.file_type")
    );
    assert_eq!(
        ours.value("tokenizer.ggml.pre"),
        theirs.value("tokenizer.ggml.pre")
    );
    assert_eq!(
        ours.value("tokenizer.chat_template"),
        theirs.value("tokenizer.chat_template")
    );
}

/// Name, dimensions and type of each tensor, in the order of names.
fn tensors(file: &Gguf<'_>) -> Vec<String> {
    let tensors = file.tensors().iter();
    let mut lines: Vec<String> = tensors
        .map(|tensor| format!("{} {:?} {}", tensor.name(), tensor.dims(), tensor.kind()))
        .collect();
    lines.sort();
    lines
}

/// Key and type of each metadata pair, in the order of keys.
fn keys(file: &Gguf<'_>) -> Vec<String> {
    let mut lines: Vec<String> = file
        .values()
        .map(|(key, value)| format!("{key} {:?}", value.kind()))
        .collect();
    lines.sort();
    lines
}
