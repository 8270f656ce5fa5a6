//! The decoder that is trained: the llama architecture, its parameters under the names of GGUF files.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use outstation_kernels::train::{Heads, Span};
use serde::{Deserialize, Serialize};

use super::ops::{self, Attention, CrossEntropy, Frozen, RmsNorm, SwiGlu};
use crate::task::Dice;

/// Sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens that it knows.
    pub vocab: usize,
    /// Numbers for each token between layers.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries; each has `hidden / heads` numbers.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers inside the feed-forward part.
    pub ffn: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Added to the mean square in norms.
    pub epsilon: f32,
    /// Tokens that a prompt and its answer may have.
    pub context: usize,
}

impl Shape {
    /// Whether the parts fit together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> std::result::Result<(), String> {
        let Self {
            vocab,
            hidden,
            layers,
            heads,
            kv_heads,
            ffn,
            context,
            ..
        } = *self;
        if [vocab, hidden, layers, heads, kv_heads, ffn, context].contains(&0) {
            return Err("a size is 0".to_owned());
        }
        if !hidden.is_multiple_of(2 * heads) || !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "{hidden} numbers do not divide into {heads} heads of an even size, or these into {kv_heads} of keys"
            ));
        }
        Ok(())
    }

    /// Numbers of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Matrices and norms: name, shape as `[out, in]` or `[n]`.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, keys) = (self.hidden, self.kv_heads * self.head_dim());
        let mut all = vec![("token_embd.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let parts = [
                ("attn_norm", vec![hidden]),
                ("attn_q", vec![hidden, hidden]),
                ("attn_k", vec![keys, hidden]),
                ("attn_v", vec![keys, hidden]),
                ("attn_output", vec![hidden, hidden]),
                ("ffn_norm", vec![hidden]),
                ("ffn_gate", vec![self.ffn, hidden]),
                ("ffn_up", vec![self.ffn, hidden]),
                ("ffn_down", vec![hidden, self.ffn]),
            ];
            all.extend(parts.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape)));
        }
        all.push(("output_norm.weight".to_owned(), vec![hidden]));
        all
    }

    /// Numbers in all of them.
    pub fn weights(&self) -> usize {
        self.parameters()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }
}

/// A parameter.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) var: Var,
    /// Whether it shrinks by itself: matrices do, norms do not.
    pub(super) decays: bool,
}

/// A low-rank change of one matrix: `y = x Wᵀ + scale · (x Aᵀ) Bᵀ`.
#[derive(Debug, Clone)]
struct LowRank {
    /// `[rank, in]`.
    a: Var,
    /// `[out, rank]`, 0 at first.
    b: Var,
}

/// What a decoder reads at once: texts one after the other.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Which of them are a text.
    pub spans: Vec<Span>,
    /// Tokens after which the next one is to be guessed.
    pub rows: Vec<u32>,
    /// The next one of each of these.
    pub targets: Vec<u32>,
    /// How much each counts.
    pub weights: Vec<f32>,
}

/// A decoder.
pub struct Net {
    pub(super) shape: Shape,
    base: Vec<Parameter>,
    /// One for each of `base`, where there is one.
    low_rank: Vec<Option<LowRank>>,
    scale: f64,
    device: Device,
}

/// Parameters of a layer.
const LAYER: usize = 9;
/// Which of them a low-rank change is made of: all matrices.
const CHANGED: [usize; 7] = [1, 2, 3, 4, 6, 7, 8];

impl Net {
    /// With random weights: deviation 0.02, and less for what is added to the residual stream, as GPT-2 has it.
    pub fn new(shape: Shape, seed: u64, device: &Device) -> Result<Self> {
        let mut dice = Dice::new(seed);
        let added = 0.02 / (2.0 * shape.layers as f32).sqrt();
        let tensors = shape.parameters().into_iter().map(|(name, dims)| {
            let count = dims.iter().product();
            let data: Vec<f32> = match name.as_str() {
                norm if norm.contains("norm") => vec![1.0; count],
                out if out.contains("attn_output") || out.contains("ffn_down") => {
                    (0..count).map(|_| added * dice.normal()).collect()
                }
                _ => (0..count).map(|_| 0.02 * dice.normal()).collect(),
            };
            Ok((name, Tensor::from_vec(data, dims, device)?))
        });
        Self::with(shape, tensors.collect::<Result<_>>()?, device)
    }

    /// With these weights, in the order of [`Shape::parameters`].
    pub(super) fn with(
        shape: Shape,
        tensors: Vec<(String, Tensor)>,
        device: &Device,
    ) -> Result<Self> {
        let base: Vec<Parameter> = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let decays = !name.contains("norm");
                let var = Var::from_tensor(&tensor)?;
                Ok(Parameter { name, var, decays })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            low_rank: vec![None; base.len()],
            shape,
            base,
            scale: 0.0,
            device: device.clone(),
        })
    }

    /// Its sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// From now on a low-rank change is trained, and what is there stays as it is. `scale` is α / rank.
    pub fn adapt(&mut self, rank: usize, scale: f64, seed: u64) -> Result<()> {
        let mut dice = Dice::new(seed);
        self.scale = scale;
        for layer in 0..self.shape.layers {
            for part in CHANGED {
                let at = 1 + layer * LAYER + part;
                let (outputs, inputs) = self.base[at].var.dims2()?;
                let bound = (inputs as f32).sqrt().recip();
                let a = (0..rank * inputs)
                    .map(|_| bound * (2.0 * dice.unit() - 1.0))
                    .collect();
                self.low_rank[at] = Some(LowRank {
                    a: Var::from_tensor(&Tensor::from_vec::<_, f32>(
                        a,
                        (rank, inputs),
                        &self.device,
                    )?)?,
                    b: Var::zeros((outputs, rank), candle_core::DType::F32, &self.device)?,
                });
            }
        }
        Ok(())
    }

    /// What is trained: the low-rank change if there is one, else everything.
    pub(super) fn trained(&self) -> Vec<Parameter> {
        let mut changes = Vec::new();
        for (parameter, change) in self.base.iter().zip(&self.low_rank) {
            if let Some(LowRank { a, b }) = change {
                for (end, var) in [("lora_a", a), ("lora_b", b)] {
                    let (name, var) = (format!("{}.{end}", parameter.name), var.clone());
                    changes.push(Parameter {
                        name,
                        var,
                        decays: false,
                    });
                }
            }
        }
        if changes.is_empty() {
            self.base.clone()
        } else {
            changes
        }
    }

    /// All parameters without a change.
    pub(super) fn base(&self) -> &[Parameter] {
        &self.base
    }

    fn linear(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let weight = &self.base[at].var;
        let Some(LowRank { a, b }) = &self.low_rank[at] else {
            return x.matmul(&weight.t()?);
        };
        let change = ops::LowRank {
            weight: weight.as_detached_tensor(),
            scale: self.scale,
        };
        change.apply(x, a, b)
    }

    /// Whether a low-rank change is trained, and nothing else.
    fn adapts(&self) -> bool {
        self.low_rank.iter().any(Option::is_some)
    }

    fn parameter(&self, at: usize) -> Tensor {
        let var = &self.base[at].var;
        if self.adapts() {
            var.as_detached_tensor()
        } else {
            var.as_tensor().clone()
        }
    }

    /// The mean loss of a batch.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let logits = self.logits(batch)?;
        let loss = CrossEntropy {
            targets: batch.targets.as_slice().into(),
            weights: batch.weights.as_slice().into(),
        };
        loss.apply(&logits)
    }

    /// Logits of the rows that count: `[rows, vocab]`.
    pub(super) fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let shape = &self.shape;
        let spans: Arc<[Span]> = batch.spans.as_slice().into();
        let norm = |x: &Tensor, at| {
            let epsilon = shape.epsilon;
            RmsNorm { epsilon }.apply(x, &self.parameter(at))
        };
        let embedding = self.parameter(0);
        let ids = Tensor::new(batch.ids.as_slice(), &self.device)?;
        let mut x = embedding.index_select(&ids, 0)?;
        for layer in 0..shape.layers {
            let first = 1 + layer * LAYER;
            let y = norm(&x, first)?;
            let attention = Attention {
                heads: Heads {
                    queries: shape.heads,
                    keys: shape.kv_heads,
                    dim: shape.head_dim(),
                    rope_base: shape.rope_base,
                },
                spans: spans.clone(),
            };
            let [q, k, v] = [1, 2, 3].map(|part| self.linear(&y, first + part));
            let y = attention.apply(&q?, &k?, &v?)?;
            x = (x + self.linear(&y, first + 4)?)?;
            let y = norm(&x, first + 5)?;
            let y = SwiGlu.apply(&self.linear(&y, first + 6)?, &self.linear(&y, first + 7)?)?;
            x = (x + self.linear(&y, first + 8)?)?;
        }
        let rows = Tensor::new(batch.rows.as_slice(), &self.device)?;
        let x = norm(&x.index_select(&rows, 0)?, self.base.len() - 1)?;
        if self.adapts() {
            Frozen { weight: embedding }.apply(&x)
        } else {
            x.matmul(&embedding.t()?)
        }
    }
}

impl Net {
    /// The most likely tokens after a prompt, up to `end` or `tokens_max`. Everything is computed anew for each token:
    /// it is for a look at a run, and boxes serve.
    pub fn greedy(&self, prompt: &[u32], tokens_max: usize, end: u32) -> Result<Vec<u32>> {
        let mut ids = prompt.to_vec();
        while ids.len() < prompt.len() + tokens_max {
            let last = u32::try_from(ids.len() - 1).expect("a text is short");
            let batch = Batch {
                spans: vec![Span {
                    start: 0,
                    len: ids.len(),
                }],
                ids: ids.clone(),
                rows: vec![last],
                targets: vec![0],
                weights: vec![0.0],
            };
            let next = self
                .logits(&batch)?
                .argmax(candle_core::D::Minus1)?
                .to_vec1::<u32>()?[0];
            if next == end {
                break;
            }
            ids.push(next);
        }
        Ok(ids.split_off(prompt.len()))
    }
}
