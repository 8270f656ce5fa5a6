//! Causal attention inside each text, with rotary positions.

use super::{add_scaled, dot};

/// The rows of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first row.
    pub start: usize,
    /// Rows.
    pub len: usize,
}

/// How the columns of queries, keys and values are divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and values; each serves `queries / keys` heads of queries.
    pub keys: usize,
    /// Columns of a head, even.
    pub dim: usize,
    /// Base of the rotary angles. Pairs are neighbours, as in GGUF files of the llama architecture.
    pub rope_base: f32,
}

impl Heads {
    fn query_columns(&self) -> usize {
        self.queries * self.dim
    }

    fn key_columns(&self) -> usize {
        self.keys * self.dim
    }

    /// Cosine and sine of each pair at each position: `[len, dim / 2]`.
    fn angles(&self, len: usize) -> Vec<(f32, f32)> {
        let pairs = self.dim / 2;
        let frequency =
            |pair: usize| f64::from(self.rope_base).powf(-2.0 * pair as f64 / self.dim as f64);
        let angle = |position: usize, pair| position as f64 * frequency(pair);
        (0..len)
            .flat_map(|position| (0..pairs).map(move |pair| (position, pair)))
            .map(|(position, pair)| {
                let (sin, cos) = angle(position, pair).sin_cos();
                (cos as f32, sin as f32)
            })
            .collect()
    }
}

/// Turns the pairs of a row by their angles; back with `sign` = −1.
fn turn(row: &mut [f32], angles: &[(f32, f32)], sign: f32) {
    for (pair, (cos, sin)) in row.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
        let (a, b, sin) = (pair[0], pair[1], sign * sin);
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

/// One head of one text, gathered: contiguous rows of `dim`.
struct Gathered {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Probabilities: row i has i + 1 of them.
    p: Vec<f32>,
}

/// A head's columns of some rows of a matrix, one after the other.
fn gather(matrix: &[f32], columns: usize, at: usize, dim: usize, out: &mut Vec<f32>) {
    out.clear();
    for row in matrix.chunks_exact(columns) {
        out.extend_from_slice(&row[at..at + dim]);
    }
}

impl Gathered {
    fn new() -> Self {
        Self {
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            p: Vec::new(),
        }
    }

    /// Rotates queries and keys, and computes the probabilities.
    fn load(&mut self, heads: &Heads, head: usize, [q, k, v]: [&[f32]; 3], angles: &[(f32, f32)]) {
        let dim = heads.dim;
        let key_head = head / (heads.queries / heads.keys);
        gather(q, heads.query_columns(), head * dim, dim, &mut self.q);
        gather(k, heads.key_columns(), key_head * dim, dim, &mut self.k);
        gather(v, heads.key_columns(), key_head * dim, dim, &mut self.v);
        for rows in [&mut self.q, &mut self.k] {
            for (row, angles) in rows.chunks_exact_mut(dim).zip(angles.chunks_exact(dim / 2)) {
                turn(row, angles, 1.0);
            }
        }
        let scale = (dim as f32).sqrt().recip();
        self.p.clear();
        for (i, q) in self.q.chunks_exact(dim).enumerate() {
            let from = self.p.len();
            self.p.extend(
                self.k
                    .chunks_exact(dim)
                    .take(i + 1)
                    .map(|k| dot(q, k) * scale),
            );
            softmax(&mut self.p[from..]);
        }
    }

    fn probabilities(&self) -> impl Iterator<Item = &[f32]> {
        let mut rest = &self.p[..];
        (1..).map_while(move |len| {
            let (row, after) = rest.split_at_checked(len)?;
            rest = after;
            Some(row)
        })
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in &mut *row {
        *x = (*x - max).exp();
        sum += *x;
    }
    for x in row {
        *x /= sum;
    }
}

/// Attention of one text.
///
/// **Shapes** `q`, `out`: `[len, queries · dim]`; `k`, `v`: `[len, keys · dim]`, all before rotation.
pub fn attention(heads: &Heads, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let len = q.len() / heads.query_columns();
    let angles = heads.angles(len);
    let (dim, columns) = (heads.dim, heads.query_columns());
    let mut head = Gathered::new();
    for index in 0..heads.queries {
        head.load(heads, index, [q, k, v], &angles);
        for (p, out) in head.probabilities().zip(out.chunks_exact_mut(columns)) {
            let out = &mut out[index * dim..(index + 1) * dim];
            out.fill(0.0);
            for (p, v) in p.iter().zip(head.v.chunks_exact(dim)) {
                add_scaled(out, *p, v);
            }
        }
    }
}

/// What the gradient of [`attention`]'s result makes of its arguments: added to `dq`, `dk` and `dv`.
///
/// **Shapes** as there; `dout` as `out`.
pub fn attention_gradient(
    heads: &Heads,
    [q, k, v]: [&[f32]; 3],
    dout: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let len = q.len() / heads.query_columns();
    let angles = heads.angles(len);
    let dim = heads.dim;
    let scale = (dim as f32).sqrt().recip();
    let mut head = Gathered::new();
    let [mut d, mut gq, mut gk, mut gv, mut dp] = [const { Vec::new() }; 5];
    for index in 0..heads.queries {
        head.load(heads, index, [q, k, v], &angles);
        gather(dout, heads.query_columns(), index * dim, dim, &mut d);
        for g in [&mut gq, &mut gk, &mut gv] {
            g.clear();
            g.resize(len * dim, 0.0);
        }
        for (i, p) in head.probabilities().take(len).enumerate() {
            let row = i * dim..(i + 1) * dim;
            let (q, d, gq) = (&head.q[row.clone()], &d[row.clone()], &mut gq[row]);
            dp.clear();
            dp.extend(head.v.chunks_exact(dim).take(i + 1).map(|v| dot(d, v)));
            let mean = dot(p, &dp);
            for (j, (p, dp)) in p.iter().zip(&dp).enumerate() {
                let of = j * dim..(j + 1) * dim;
                let ds = p * (dp - mean) * scale;
                add_scaled(&mut gv[of.clone()], *p, d);
                add_scaled(gq, ds, &head.k[of.clone()]);
                add_scaled(&mut gk[of], ds, q);
            }
        }
        let key_head = index / (heads.queries / heads.keys);
        for (g, into, columns, at, turns) in [
            (&mut gq, &mut *dq, heads.query_columns(), index, true),
            (&mut gk, &mut *dk, heads.key_columns(), key_head, true),
            (&mut gv, &mut *dv, heads.key_columns(), key_head, false),
        ] {
            let rows = g.chunks_exact_mut(dim).zip(angles.chunks_exact(dim / 2));
            for ((g, angles), into) in rows.zip(into.chunks_exact_mut(columns)) {
                if turns {
                    turn(g, angles, -1.0);
                }
                add_scaled(&mut into[at * dim..(at + 1) * dim], 1.0, g);
            }
        }
    }
}
