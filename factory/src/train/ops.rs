//! Operations that candle would compose of many passes over memory, in one each: on the CPU by `kernels::train`.
//!
//! On other devices the same formulas are composed of candle's own operations; a test holds both against each other.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape,
    Storage, Tensor, bail,
};
use outstation_kernels::train::{self, Heads, Span};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows that one thread takes at a time. Sums over rows are taken in chunks of these, and have their bits from it.
const ROWS: usize = 256;

/// What lies in a tensor's memory, if it is f32 without gaps.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else {
        bail!("f32 is wanted");
    };
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&all[from..to]),
        None => bail!("a tensor without gaps is wanted"),
    }
}

/// Runs `f` on the numbers of some tensors of the CPU.
fn with_floats<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let whole: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| tensor.contiguous())
        .collect::<Result<_>>()?;
    let guards: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let slices: Vec<&[f32]> = guards
        .iter()
        .map(|(storage, layout)| floats(on_cpu(storage)?, layout))
        .collect::<Result<_>>()?;
    f(slices.try_into().expect("one for each"))
}

fn tensor(data: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// Attention inside each text of a flat batch.
pub(super) struct Attention {
    pub(super) heads: Heads,
    pub(super) spans: Arc<[Span]>,
}

impl Attention {
    /// Of queries `[tokens, queries · dim]`, keys and values `[tokens, keys · dim]`.
    pub(super) fn apply(self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if q.device().is_cpu() {
            q.apply_op3(k, v, self)
        } else {
            self.composed(q, k, v)
        }
    }

    /// The same, of candle's operations: one product of all tokens with all, and a mask.
    fn composed(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Heads {
            queries,
            keys,
            dim,
            rope_base,
        } = self.heads;
        let (tokens, device) = (q.dim(0)?, q.device());
        let mut text_of = vec![u32::MAX; tokens];
        let mut angles = vec![0.0_f32; tokens * dim / 2];
        for (text, span) in (0_u32..).zip(&*self.spans) {
            for place in 0..span.len {
                text_of[span.start + place] = text;
                for pair in 0..dim / 2 {
                    let frequency = f64::from(rope_base).powf(-2.0 * pair as f64 / dim as f64);
                    #[allow(clippy::cast_possible_truncation, reason = "an angle")]
                    {
                        angles[(span.start + place) * dim / 2 + pair] =
                            (place as f64 * frequency) as f32;
                    }
                }
            }
        }
        let angles = Tensor::from_vec(angles, (tokens, 1, dim / 2, 1), device)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let turned = |x: &Tensor, heads: usize| {
            let pairs = x.reshape((tokens, heads, dim / 2, 2))?;
            let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
            let a_turned = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let b_turned = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
            Tensor::cat(&[a_turned, b_turned], 3)?.reshape((tokens, heads, dim))
        };
        let by_head = |x: Tensor, heads: usize| {
            let each = x.reshape((tokens, heads, 1, dim))?.broadcast_as((
                tokens,
                heads,
                queries / heads,
                dim,
            ))?;
            each.reshape((tokens, queries, dim))?
                .transpose(0, 1)?
                .contiguous()
        };
        let q = by_head(turned(q, queries)?, queries)?;
        let k = by_head(turned(k, keys)?, keys)?;
        let v = by_head(v.reshape((tokens, keys, dim))?, keys)?;
        let sees = |i: usize, j: usize| j <= i && text_of[i] == text_of[j];
        let bias = |sees: bool| if sees { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..tokens * tokens)
            .map(|at| bias(sees(at / tokens, at % tokens)))
            .collect();
        let mask = Tensor::from_vec(mask, (1, tokens, tokens), device)?;
        let scores = (q.matmul(&k.t()?)? * (dim as f64).sqrt().recip())?.broadcast_add(&mask)?;
        let weights = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
            .exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights
            .matmul(&v)?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((tokens, queries * dim))
    }

    /// Rows of a matrix, text by text.
    fn texts<'a>(&self, matrix: &'a mut [f32], columns: usize) -> Vec<&'a mut [f32]> {
        let mut rest = matrix;
        let mut row = 0;
        let mut texts = Vec::with_capacity(self.spans.len());
        for span in &*self.spans {
            let (_, after) = rest.split_at_mut((span.start - row) * columns);
            let (text, after) = after.split_at_mut(span.len * columns);
            texts.push(text);
            (rest, row) = (after, span.start + span.len);
        }
        texts
    }

    fn columns(&self) -> (usize, usize) {
        (
            self.heads.queries * self.heads.dim,
            self.heads.keys * self.heads.dim,
        )
    }
}

fn rows_of(matrix: &[f32], span: Span, columns: usize) -> &[f32] {
    &matrix[span.start * columns..(span.start + span.len) * columns]
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (
            floats(q, q_layout)?,
            floats(k, k_layout)?,
            floats(v, v_layout)?,
        );
        let (wide, narrow) = self.columns();
        let mut out = vec![0.0; q.len()];
        let texts = self.texts(&mut out, wide);
        texts
            .into_par_iter()
            .zip(self.spans.par_iter())
            .for_each(|(out, span)| {
                let (q, k, v) = (
                    rows_of(q, *span, wide),
                    rows_of(k, *span, narrow),
                    rows_of(v, *span, narrow),
                );
                train::attention(&self.heads, q, k, v, out);
            });
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (wide, narrow) = self.columns();
        let [dq, dk, dv] = with_floats([q, k, v, dout], |[q_in, k_in, v_in, dout]| {
            let [mut dq, mut dk, mut dv] = [
                vec![0.0; q_in.len()],
                vec![0.0; k_in.len()],
                vec![0.0; v_in.len()],
            ];
            let texts = self
                .texts(&mut dq, wide)
                .into_par_iter()
                .zip(self.texts(&mut dk, narrow))
                .zip(self.texts(&mut dv, narrow));
            texts
                .zip(self.spans.par_iter())
                .for_each(|(((dq, dk), dv), span)| {
                    let arguments = [
                        rows_of(q_in, *span, wide),
                        rows_of(k_in, *span, narrow),
                        rows_of(v_in, *span, narrow),
                    ];
                    train::attention_gradient(
                        &self.heads,
                        arguments,
                        rows_of(dout, *span, wide),
                        [dq, dk, dv],
                    );
                });
            Ok([dq, dk, dv])
        })?;
        Ok((
            Some(tensor(dq, q)?),
            Some(tensor(dk, k)?),
            Some(tensor(dv, v)?),
        ))
    }
}

/// RMS norm of rows.
pub(super) struct RmsNorm {
    pub(super) epsilon: f32,
}

impl RmsNorm {
    pub(super) fn apply(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            x.apply_op2(weight, self)
        } else {
            self.composed(x, weight)
        }
    }

    fn composed(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.epsilon))?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(weight)
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats(x, x_layout)?, floats(weight, weight_layout)?);
        let mut out = vec![0.0; x.len()];
        let chunk = ROWS * weight.len();
        let chunks = out.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
        chunks.for_each(|(out, x)| train::rms_norm(x, weight, self.epsilon, out));
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dweight) = with_floats([x, weight, dout], |[x, weight, dout]| {
            let mut dx = vec![0.0; x.len()];
            let chunk = ROWS * weight.len();
            let chunks = dx
                .par_chunks_mut(chunk)
                .zip(x.par_chunks(chunk))
                .zip(dout.par_chunks(chunk));
            let parts: Vec<Vec<f32>> = chunks
                .map(|((dx, x), dout)| {
                    let mut dweight = vec![0.0; weight.len()];
                    train::rms_norm_gradient(x, weight, self.epsilon, dout, dx, &mut dweight);
                    dweight
                })
                .collect();
            let mut dweight = vec![0.0; weight.len()];
            for part in parts {
                for (sum, part) in dweight.iter_mut().zip(part) {
                    *sum += part;
                }
            }
            Ok((dx, dweight))
        })?;
        Ok((Some(tensor(dx, x)?), Some(tensor(dweight, weight)?)))
    }
}

/// silu(gate) · up.
pub(super) struct SwiGlu;

impl SwiGlu {
    pub(super) fn apply(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        if gate.device().is_cpu() {
            gate.apply_op2(up, self)
        } else {
            gate.silu()? * up
        }
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, gate_layout)?, floats(up, up_layout)?);
        let mut out = vec![0.0; gate.len()];
        let chunk = ROWS * ROWS;
        let chunks = out
            .par_chunks_mut(chunk)
            .zip(gate.par_chunks(chunk))
            .zip(up.par_chunks(chunk));
        chunks.for_each(|((out, gate), up)| train::swiglu(gate, up, out));
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with_floats([gate, up, dout], |[gate, up, dout]| {
            let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
            let chunk = ROWS * ROWS;
            let arguments = gate
                .par_chunks(chunk)
                .zip(up.par_chunks(chunk))
                .zip(dout.par_chunks(chunk));
            let results = dgate.par_chunks_mut(chunk).zip(dup.par_chunks_mut(chunk));
            arguments
                .zip(results)
                .for_each(|(((gate, up), dout), (dgate, dup))| {
                    train::swiglu_gradient(gate, up, dout, dgate, dup);
                });
            Ok((dgate, dup))
        })?;
        Ok((Some(tensor(dgate, gate)?), Some(tensor(dup, up)?)))
    }
}

/// x Wᵀ with a W that is not trained: of a product of two tensors candle computes both gradients, wanted or not, and
/// that of a matrix of weights is a third of the work.
pub(super) struct Frozen {
    /// `[out, in]`.
    pub(super) weight: Tensor,
}

impl Frozen {
    /// Of `[rows, in]`.
    pub(super) fn apply(self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1(self)
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, of_weight) = self.weight.storage_and_layout();
        by_transposed((x, layout), (on_cpu(&weight)?, of_weight))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weight, of_weight) = self.weight.storage_and_layout();
        by_transposed((x, layout), (on_gpu(&weight)?, of_weight))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        dout.matmul(&self.weight).map(Some)
    }
}

/// x Wᵀ + scale · (x Aᵀ) Bᵀ, of which A and B are trained.
pub(super) struct LowRank {
    /// `[out, in]`.
    pub(super) weight: Tensor,
    pub(super) scale: f64,
}

impl LowRank {
    /// Of `[rows, in]`, A `[rank, in]` and B `[out, rank]`.
    pub(super) fn apply(self, x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        x.apply_op3(a, b, self)
    }

    fn forward<S: BackendStorage>(
        &self,
        x: (&S, &Layout),
        weight: (&S, &Layout),
        a: (&S, &Layout),
        b: (&S, &Layout),
    ) -> Result<(S, Shape)> {
        let (y, shape) = by_transposed(x, weight)?;
        let (low, of_low) = by_transposed(x, a)?;
        let of_low = Layout::contiguous(of_low);
        let low = low.affine(&of_low, self.scale, 0.0)?;
        let (change, _) = by_transposed((&low, &of_low), b)?;
        let layout = Layout::contiguous(&shape);
        let y = y.binary_impl::<candle_core::op::Add>(&change, &layout, &layout)?;
        Ok((y, shape))
    }
}

impl CustomOp3 for LowRank {
    fn name(&self) -> &'static str {
        "low_rank"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        of_x: &Layout,
        a: &CpuStorage,
        of_a: &Layout,
        b: &CpuStorage,
        of_b: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, of_weight) = self.weight.storage_and_layout();
        let weight = (on_cpu(&weight)?, of_weight);
        self.forward((x, of_x), weight, (a, of_a), (b, of_b))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        of_x: &Layout,
        a: &CudaStorage,
        of_a: &Layout,
        b: &CudaStorage,
        of_b: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (weight, of_weight) = self.weight.storage_and_layout();
        let weight = (on_gpu(&weight)?, of_weight);
        self.forward((x, of_x), weight, (a, of_a), (b, of_b))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let low = (x.matmul(&a.t()?)? * self.scale)?;
        let dlow = (dout.matmul(b)? * self.scale)?;
        let dx = (dout.matmul(&self.weight)? + dlow.matmul(a)?)?;
        let (da, db) = (dlow.t()?.matmul(x)?, dout.t()?.matmul(&low)?);
        Ok((Some(dx), Some(da), Some(db)))
    }
}

/// x Wᵀ of matrices.
fn by_transposed<S: BackendStorage>(
    (x, of_x): (&S, &Layout),
    (weight, of_weight): (&S, &Layout),
) -> Result<(S, Shape)> {
    let ((rows, inputs), (outputs, _)) = (of_x.shape().dims2()?, of_weight.shape().dims2()?);
    let transposed = of_weight.transpose(0, 1)?;
    let y = x.matmul(weight, (1, rows, outputs, inputs), of_x, &transposed)?;
    Ok((y, (rows, outputs).into()))
}

fn on_cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("a tensor of the CPU is wanted"),
    }
}

fn on_gpu(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor of the GPU is wanted"),
    }
}

/// The mean of −ln p of the targets, each with its weight.
pub(super) struct CrossEntropy {
    pub(super) targets: Arc<[u32]>,
    pub(super) weights: Arc<[f32]>,
}

impl CrossEntropy {
    pub(super) fn apply(self, logits: &Tensor) -> Result<Tensor> {
        if logits.device().is_cpu() {
            logits.apply_op1(self)
        } else {
            self.composed(logits)
        }
    }

    fn composed(&self, logits: &Tensor) -> Result<Tensor> {
        let device = logits.device();
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let targets = Tensor::new(&*self.targets, device)?.unsqueeze(1)?;
        let weights = Tensor::new(&*self.weights, device)?.unsqueeze(1)?;
        let losses = (log_sum - shifted.gather(&targets, D::Minus1)?)?;
        (losses.mul(&weights)?.sum_all()? / f64::from(self.weight()))
            .and_then(|mean| mean.to_dtype(DType::F32))
    }

    fn weight(&self) -> f32 {
        self.weights.iter().sum::<f32>().max(f32::MIN_POSITIVE)
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = floats(logits, layout)?;
        let chunk = ROWS * (logits.len() / self.targets.len().max(1)).max(1);
        let parts: Vec<f64> = logits
            .par_chunks(chunk)
            .zip(
                self.targets
                    .par_chunks(ROWS)
                    .zip(self.weights.par_chunks(ROWS)),
            )
            .map(|(logits, (targets, weights))| train::cross_entropy(logits, targets, weights))
            .collect();
        #[allow(clippy::cast_possible_truncation, reason = "a loss")]
        let mean = (parts.iter().sum::<f64>() / f64::from(self.weight())) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let scale = dout.to_scalar::<f32>()? / self.weight();
        let dlogits = with_floats([logits], |[logits]| {
            let mut dlogits = vec![0.0; logits.len()];
            let chunk = ROWS * (logits.len() / self.targets.len().max(1)).max(1);
            let rows = self
                .targets
                .par_chunks(ROWS)
                .zip(self.weights.par_chunks(ROWS));
            let chunks = logits.par_chunks(chunk).zip(dlogits.par_chunks_mut(chunk));
            chunks
                .zip(rows)
                .for_each(|((logits, dlogits), (targets, weights))| {
                    train::cross_entropy_gradient(logits, targets, weights, scale, dlogits);
                });
            Ok(dlogits)
        })?;
        Ok(Some(tensor(dlogits, logits)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::task::Dice;

    fn var(dice: &mut Dice, shape: &[usize]) -> Var {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| dice.normal()).collect();
        Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// One in one pass and one composed: same values and same gradients.
    fn check(vars: &[&Var], fused: &Tensor, composed: &Tensor) {
        let far = |a: &Tensor, b: &Tensor| {
            let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
            difference.max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        assert!(far(fused, composed) < 2e-5, "{}", far(fused, composed));
        let (a, b) = (
            fused.sqr().unwrap().backward().unwrap(),
            composed.sqr().unwrap().backward().unwrap(),
        );
        for var in vars {
            let far = far(a.get(var).unwrap(), b.get(var).unwrap());
            assert!(far < 2e-4, "{far}");
        }
    }

    #[test]
    fn attention_in_one_pass_is_what_its_formula_says() {
        let dice = &mut Dice::new(1);
        let heads = Heads {
            queries: 4,
            keys: 2,
            dim: 8,
            rope_base: 100.0,
        };
        let spans: Arc<[Span]> = Arc::new([
            Span { start: 0, len: 5 },
            Span { start: 5, len: 1 },
            Span { start: 6, len: 9 },
        ]);
        let (q, k, v) = (
            var(dice, &[15, 32]),
            var(dice, &[15, 16]),
            var(dice, &[15, 16]),
        );
        let op = || Attention {
            heads,
            spans: spans.clone(),
        };
        check(
            &[&q, &k, &v],
            &op().apply(&q, &k, &v).unwrap(),
            &op().composed(&q, &k, &v).unwrap(),
        );
    }

    #[test]
    fn rows_in_one_pass_are_what_their_formulas_say() {
        let dice = &mut Dice::new(2);
        // More rows than a thread takes at a time.
        let (x, weight) = (var(dice, &[ROWS + 3, 8]), var(dice, &[8]));
        let norm = || RmsNorm { epsilon: 1e-5 };
        check(
            &[&x, &weight],
            &norm().apply(&x, &weight).unwrap(),
            &norm().composed(&x, &weight).unwrap(),
        );
        let (gate, up) = (var(dice, &[7, 8]), var(dice, &[7, 8]));
        let composed = (gate.silu().unwrap() * up.as_tensor()).unwrap();
        check(&[&gate, &up], &SwiGlu.apply(&gate, &up).unwrap(), &composed);
    }

    #[test]
    fn weights_that_are_not_trained_give_what_others_give() {
        let dice = &mut Dice::new(4);
        let (x, weight) = (var(dice, &[9, 6]), var(dice, &[5, 6]));
        let frozen = Frozen {
            weight: weight.as_detached_tensor(),
        };
        let y = frozen.apply(&x).unwrap();
        check(&[&x], &y, &x.matmul(&weight.t().unwrap()).unwrap());
        assert!(y.sqr().unwrap().backward().unwrap().get(&weight).is_none());
    }

    #[test]
    fn a_low_rank_change_in_one_pass_is_what_its_formula_says() {
        let dice = &mut Dice::new(5);
        let (x, weight) = (var(dice, &[9, 6]), var(dice, &[5, 6]));
        let (a, b) = (var(dice, &[2, 6]), var(dice, &[5, 2]));
        let op = LowRank {
            weight: weight.as_detached_tensor(),
            scale: 0.5,
        };
        let t = |var: &Var| var.t().unwrap();
        let low = x.matmul(&t(&a)).unwrap().matmul(&t(&b)).unwrap();
        let composed = (x.matmul(&t(&weight)).unwrap() + (low * 0.5).unwrap()).unwrap();
        check(&[&x, &a, &b], &op.apply(&x, &a, &b).unwrap(), &composed);
    }

    #[test]
    fn the_loss_in_one_pass_is_what_its_formula_says() {
        let dice = &mut Dice::new(3);
        let logits = var(dice, &[ROWS + 2, 11]);
        let loss = || CrossEntropy {
            targets: (0..11).cycle().take(ROWS + 2).collect(),
            weights: (0..ROWS + 2).map(|row| [1.0, 0.0, 0.5][row % 3]).collect(),
        };
        check(
            &[&logits],
            &loss().apply(&logits).unwrap(),
            &loss().composed(&logits).unwrap(),
        );
    }
}
