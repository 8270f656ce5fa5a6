//! Row by row: norms, gates and the loss.

use super::dot;

/// RMS norm of each row.
///
/// **Shapes** `x`, `out`: `[rows, weight.len()]`.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let columns = weight.len();
    for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
        let scale = inverse_rms(x, epsilon);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    (dot(x, x) / x.len() as f32 + epsilon).sqrt().recip()
}

/// Gradient of [`rms_norm`]: written to `dx`, added to `dweight`.
pub fn rms_norm_gradient(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dout: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    let columns = weight.len();
    let rows = x.chunks_exact(columns).zip(dout.chunks_exact(columns));
    for ((x, dout), dx) in rows.zip(dx.chunks_exact_mut(columns)) {
        let scale = inverse_rms(x, epsilon);
        for ((dx, dout), weight) in dx.iter_mut().zip(dout).zip(weight) {
            *dx = dout * weight;
        }
        let along = dot(dx, x) * scale * scale / columns as f32;
        for ((dx, x), (dout, dweight)) in dx.iter_mut().zip(x).zip(dout.iter().zip(&mut *dweight)) {
            *dweight += dout * x * scale;
            *dx = scale * (*dx - along * x);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    (1.0 + (-x).exp()).recip()
}

/// silu(gate) · up, element by element.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate * sigmoid(*gate) * up;
    }
}

/// Gradient of [`swiglu`], written.
pub fn swiglu_gradient(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let arguments = gate.iter().zip(up).zip(dout);
    for (((gate, up), dout), (dgate, dup)) in arguments.zip(dgate.iter_mut().zip(dup)) {
        let s = sigmoid(*gate);
        *dup = dout * gate * s;
        *dgate = dout * up * s * (1.0 + gate * (1.0 - s));
    }
}

/// −Σ weight · ln softmax(logits)[target], over all rows.
///
/// **Shapes** `logits`: `[targets.len(), vocabulary]`; a weight for each row.
pub fn cross_entropy(logits: &[f32], targets: &[u32], weights: &[f32]) -> f64 {
    let vocabulary = logits.len() / targets.len().max(1);
    let rows = logits
        .chunks_exact(vocabulary.max(1))
        .zip(targets)
        .zip(weights);
    rows.map(|((logits, target), weight)| {
        let (max, sum) = log_sum(logits);
        f64::from(*weight) * f64::from(max + sum.ln() - logits[*target as usize])
    })
    .sum()
}

/// Largest logit, and Σ exp(logit − largest).
fn log_sum(logits: &[f32]) -> (f32, f32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (max, logits.iter().map(|x| (x - max).exp()).sum())
}

/// Gradient of `scale` · [`cross_entropy`], written.
pub fn cross_entropy_gradient(
    logits: &[f32],
    targets: &[u32],
    weights: &[f32],
    scale: f32,
    dlogits: &mut [f32],
) {
    let vocabulary = (logits.len() / targets.len().max(1)).max(1);
    let rows = logits
        .chunks_exact(vocabulary)
        .zip(dlogits.chunks_exact_mut(vocabulary));
    for ((logits, dlogits), (target, weight)) in rows.zip(targets.iter().zip(weights)) {
        let (max, sum) = log_sum(logits);
        let scale = scale * weight;
        for (d, x) in dlogits.iter_mut().zip(logits) {
            *d = scale * (x - max).exp() / sum;
        }
        dlogits[*target as usize] -= scale;
    }
}
