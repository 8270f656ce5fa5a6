//! The demo model: small enough to be made at start, and what it babbles are words.
//!
//! It knows nothing: weights are random. The output rows of bytes and of pieces of words are zero, so that their logits
//! are 0, while those of whole words spread widely: the largest of several hundred wins, and sampling picks among the
//! upper ones. Embedding and output are separate matrices for this reason.

use super::plan::{self, Fill, Plan};
use super::vocabulary::Vocabulary;
use super::{Mix, ModelSpec, Shape};

/// The demo model's GGUF, about 3 MB. Deterministic: one seed, one file, on any machine.
pub fn demo(seed: u64) -> Vec<u8> {
    let spec = ModelSpec {
        shape: SHAPE,
        mix: Mix::Q8_0,
        seed,
        context: CONTEXT,
    };
    let vocabulary = Vocabulary::new(SHAPE.vocab);
    let mut tensors = plan::tensors(&spec);
    let output = tensors.last_mut().expect("a model has tensors");
    assert_eq!(
        output.name, "output.weight",
        "an untied model ends with its output matrix"
    );
    output.fill = Fill::Rows {
        deviations: output_deviations(&vocabulary),
    };
    let name = format!("outstation demo: random weights from seed {seed}, it knows nothing");
    Plan::named(&spec, &name, vocabulary, tensors).bytes()
}

/// The deviation of each output row: of whole words, the full stop, the comma and the end; zero for all else.
fn output_deviations(vocabulary: &Vocabulary) -> Vec<f32> {
    let mut deviations = vec![0.0; SHAPE.vocab as usize];
    let marks = [".", ","].map(|mark| vocabulary.id(mark).expect("every byte is a token"));
    let likely = vocabulary.words.iter().copied().chain(marks);
    for id in likely.chain([vocabulary.control().message_end]) {
        deviations[id as usize] = LOGIT_DEVIATION / (SHAPE.hidden as f32).sqrt();
    }
    deviations
}

/// Short, so that the pool of a box that has no model yet stays small: 16 MiB for all sequences at once.
const CONTEXT: u32 = 1024;

/// Standard deviation of a word's logit. At temperature 1 the words' share of the probability is then about
/// 300 · e^(4²/2) to 1000 for the rest, more than 99.8 %, and one word in a step does not have it all.
const LOGIT_DEVIATION: f32 = 4.0;

/// One wider than `tiny-llama` in words, narrower in the feed-forward part: 2.8 MB as Q8_0.
const SHAPE: Shape = Shape {
    name: "demo",
    arch: "llama",
    hidden: 256,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    ffn: 384,
    rope_base: 1e4,
    rms_eps: 1e-5,
    vocab: 1280,
    tied: false,
    qkv_bias: false,
    qk_norm: false,
};
