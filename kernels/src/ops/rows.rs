//! Operations on rows of activations: norms, sums, gates, rotations.

#![allow(unsafe_code, reason = "workers write disjoint rows of the result")]

use super::{Kernels, SHARED_ELEMENTS_MIN, run};
use crate::disjoint::Disjoint;
use crate::dispatch;
use crate::isa::Isa;

/// The two halves of a gated feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub enum GateUp<'a> {
    /// From two matrices.
    Split {
        /// `[columns, half]`
        gate: &'a [f32],
        /// `[columns, half]`
        up: &'a [f32],
    },
    /// From one matrix: each row is `half` gates, then `half` ups.
    Fused {
        /// `[columns, 2 · half]`
        x: &'a [f32],
        /// Width of the result.
        half: usize,
    },
}

/// `y = activation(gate) · up` on one instruction set.
type GateMul = fn(Isa, &[f32], &[f32], &mut [f32]);

/// Which two dimensions of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(2i, 2i + 1)`: Llama as stored in GGUF.
    Adjacent,
    /// `(i, i + n)` for `n` angles: NeoX, Qwen, Gemma, Phi.
    Halves,
}

impl Kernels {
    /// `y = x / sqrt(mean(x²) + eps) · weight` for each row.
    ///
    /// **Shapes** `x`, `y`: `[_, weight.len()]`.
    pub fn rms_norm(&mut self, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        assert_eq!(x.len(), y.len());
        let dim = weight.len();
        assert!(x.len().is_multiple_of(dim), "whole rows of {dim}");
        let isa = self.isa;
        self.each_row(y, dim, |row, y| {
            dispatch::rms_norm(isa, &x[row * dim..][..dim], weight, eps, y);
        });
    }

    /// [`Kernels::rms_norm`] with `y = x`. Rows may be heads: the norm of queries and keys.
    pub fn rms_norm_in_place(&mut self, x: &mut [f32], weight: &[f32], eps: f32) {
        let isa = self.isa;
        self.each_row(x, weight.len(), |_, x| {
            dispatch::rms_norm_in_place(isa, x, weight, eps);
        });
    }

    /// `y += x`
    pub fn add(&mut self, y: &mut [f32], x: &[f32]) {
        assert_eq!(y.len(), x.len());
        let isa = self.isa;
        let len = y.len();
        let y = Disjoint::new(y);
        run(&mut self.team, len, SHARED_ELEMENTS_MIN, &|worker| {
            let share = worker.share(len, 64);
            // SAFETY: shares are disjoint.
            dispatch::add(isa, unsafe { y.slice(share.clone()) }, &x[share]);
        });
    }

    /// `y += bias` for each row.
    ///
    /// **Shapes** `y`: `[_, bias.len()]`.
    pub fn add_bias(&mut self, y: &mut [f32], bias: &[f32]) {
        let isa = self.isa;
        self.each_row(y, bias.len(), |_, y| dispatch::add(isa, y, bias));
    }

    /// `y = silu(gate) · up`.
    ///
    /// **Shapes** `y`: `[columns, half]`.
    pub fn silu_mul(&mut self, gate_up: GateUp<'_>, y: &mut [f32]) {
        self.gate_mul(dispatch::silu_mul, gate_up, y);
    }

    /// `y = gelu(gate) · up`, with the tanh form of GELU.
    ///
    /// **Shapes** `y`: `[columns, half]`.
    pub fn gelu_tanh_mul(&mut self, gate_up: GateUp<'_>, y: &mut [f32]) {
        self.gate_mul(dispatch::gelu_tanh_mul, gate_up, y);
    }

    fn gate_mul(&mut self, kind: GateMul, gate_up: GateUp<'_>, y: &mut [f32]) {
        let isa = self.isa;
        match gate_up {
            GateUp::Split { gate, up } => {
                assert_eq!(gate.len(), y.len());
                assert_eq!(up.len(), y.len());
                let len = y.len();
                let y = Disjoint::new(y);
                run(&mut self.team, len, SHARED_ELEMENTS_MIN, &|worker| {
                    let share = worker.share(len, 64);
                    // SAFETY: shares are disjoint.
                    let y = unsafe { y.slice(share.clone()) };
                    kind(isa, &gate[share.clone()], &up[share], y);
                });
            }
            GateUp::Fused { x, half } => {
                assert_eq!(x.len(), 2 * y.len());
                self.each_row(y, half, |row, y| {
                    let (gate, up) = x[row * 2 * half..][..2 * half].split_at(half);
                    kind(isa, gate, up, y);
                });
            }
        }
    }

    /// Rotates the first `2 · n` dimensions of every head by the column's angles; the rest stay.
    ///
    /// **Shapes** `x`: `[columns, heads · head_dim]`; `cos`, `sin`: `[columns, n]` from [`rope_table`].
    pub fn rope(
        &mut self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        style: RopeStyle,
        cos: &[f32],
        sin: &[f32],
    ) {
        assert_eq!(cos.len(), sin.len());
        let width = heads * head_dim;
        assert!(x.len().is_multiple_of(width), "whole columns of {width}");
        let columns = x.len() / width;
        if columns == 0 {
            return;
        }
        assert!(
            cos.len().is_multiple_of(columns),
            "the same angles for each column"
        );
        let angles = cos.len() / columns;
        assert!(
            2 * angles <= head_dim,
            "{angles} pairs fit a head of {head_dim}"
        );
        let isa = self.isa;
        self.each_row(x, width, |column, x| {
            let cos = &cos[column * angles..][..angles];
            let sin = &sin[column * angles..][..angles];
            for head in x.chunks_exact_mut(head_dim) {
                let head = &mut head[..2 * angles];
                match style {
                    RopeStyle::Adjacent => dispatch::rope_adjacent(isa, head, cos, sin),
                    RopeStyle::Halves => dispatch::rope_halves(isa, head, cos, sin),
                }
            }
        });
    }

    /// Runs `job(row, &mut y[row])` for every row of `y`, shared over the team.
    fn each_row(&mut self, y: &mut [f32], dim: usize, job: impl Fn(usize, &mut [f32]) + Sync) {
        assert!(dim > 0);
        assert!(y.len().is_multiple_of(dim), "whole rows of {dim}");
        let len = y.len();
        let y = Disjoint::new(y);
        run(&mut self.team, len, SHARED_ELEMENTS_MIN, &|worker| {
            for row in worker.share(len / dim, 1) {
                // SAFETY: shares of rows are disjoint.
                job(row, unsafe { y.slice(row * dim..(row + 1) * dim) });
            }
        });
    }
}

/// Cosines and sines of `position · inv_freq`, times `magnitude` (YaRN's attention factor; 1 otherwise).
///
/// Angles are computed in f64: at position 100 000 an f32 angle is off by 0.004 rad.
///
/// **Shapes** `cos`, `sin`: `[positions.len(), inv_freq.len()]`.
pub fn rope_table(
    positions: &[u32],
    inv_freq: &[f64],
    magnitude: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    assert!(!inv_freq.is_empty());
    assert_eq!(cos.len(), positions.len() * inv_freq.len());
    assert_eq!(sin.len(), cos.len());
    let rows = cos
        .chunks_exact_mut(inv_freq.len())
        .zip(sin.chunks_exact_mut(inv_freq.len()));
    for (position, (cos, sin)) in positions.iter().zip(rows) {
        for ((frequency, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
            let angle = f64::from(*position) * frequency;
            *cos = (angle.cos() * f64::from(magnitude)) as f32;
            *sin = (angle.sin() * f64::from(magnitude)) as f32;
        }
    }
}

/// `y = exp((x − max) / temperature)`, the weights of a softmax, for x up to `max`; 0 where that is below e⁻⁸⁷ and for
/// NaN. By the calling thread alone.
///
/// **Shapes** `x`, `y`: the same length; `temperature` positive.
pub fn softmax_weights(isa: Isa, x: &[f32], max: f32, temperature: f32, y: &mut [f32]) {
    assert!(isa.available(), "this machine has no {isa}");
    assert_eq!(x.len(), y.len());
    dispatch::softmax_weights(isa, x, max, temperature, y);
}
