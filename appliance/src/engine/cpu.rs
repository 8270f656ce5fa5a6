//! The engine on the CPU: walks the model's description with `outstation-kernels`.
//!
//! All memory is taken before the first step: weights and KV cache by the caller, and in `new` one buffer for each
//! intermediate result, sized for the widest step.

use outstation_kernels::isa::Isa;
use outstation_kernels::ops::{
    Activations, AttentionShape, GateUp, Inputs, KernelLimits, Kernels, KvFormat, KvLayer,
    KvLayerMut, KvShape, KvSlot, Matrix, Precision, Query,
};
use outstation_kernels::team::Team;

use super::{Engine, StepPlan};
use crate::adapter::Projection;
use crate::kv::BlockTables;
use crate::limits::{CONTEXT_POSITIONS_MAX, KV_BLOCK_POSITIONS};
use crate::model::{Activation, GateUpWeights, Layer, Model, Qkv, Weight};

mod mix;

use mix::Mix;

/// Bytes of a model file, or of its weights packed: a map, or a buffer.
pub type ModelBytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Memory of a KV cache: a map, or a buffer.
pub type CacheBytes = Box<dyn AsMut<[u8]> + Send + Sync>;

/// Packs the weights of a file for the engine: [`Model::packed_bytes`] of them. `done` hears of each.
pub fn pack(
    model: &Model,
    file: &[u8],
    team: &mut Team,
    out: &mut [u8],
    mut done: impl FnMut(&Weight),
) {
    assert_eq!(out.len(), model.packed_bytes);
    for weight in model.weights() {
        let rows = &file[weight.bytes.clone()];
        let out = &mut out[weight.packed.clone()];
        outstation_kernels::ops::pack(team, weight.format, rows, weight.cols, out);
        done(weight);
    }
}

/// What the engine reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSize {
    /// Columns of the widest step.
    pub columns_max: usize,
    /// Columns of a step that may ask for logits.
    pub logits_rows_max: usize,
    /// Blocks of the KV pool.
    pub kv_blocks: u32,
    /// How keys and values are stored.
    pub kv: KvFormat,
}

/// A model, its KV cache and the memory of a step.
pub struct CpuEngine {
    model: Model,
    weights: ModelBytes,
    kernels: Kernels,
    /// `[layer][keys, values][block][head]` planes.
    cache: CacheBytes,
    kv: KvFormat,
    space: Space,
    mix: Mix,
    logits: Box<[f32]>,
}

/// Keys and values of one layer.
struct LayerCache<'a> {
    k: &'a mut [u8],
    v: &'a mut [u8],
}

impl LayerCache<'_> {
    /// Cuts the cache into its layers.
    fn of(cache: &mut [u8], layers: usize) -> impl Iterator<Item = LayerCache<'_>> {
        let bytes = cache.len() / layers;
        cache.chunks_exact_mut(bytes).map(move |layer| {
            let (k, v) = layer.split_at_mut(bytes / 2);
            LayerCache { k, v }
        })
    }
}

/// Intermediate results of one step, `[columns_max, width]` each.
struct Space {
    activations: Activations,
    /// Residual stream.
    x: Box<[f32]>,
    /// Normed input of a block, and its result.
    normed: Box<[f32]>,
    result: Box<[f32]>,
    /// Rows of query, key and value together; empty where the model keeps them apart.
    qkv: Box<[f32]>,
    q: Box<[f32]>,
    k: Box<[f32]>,
    v: Box<[f32]>,
    attended: Box<[f32]>,
    /// Gate, or gate and up together.
    gate: Box<[f32]>,
    up: Box<[f32]>,
    gated: Box<[f32]>,
    /// Sines and cosines of each rotary embedding, `[columns_max, pairs]`.
    rotations: Box<[Rotation]>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<KvSlot>,
    queries: Vec<Query>,
}

struct Rotation {
    cos: Box<[f32]>,
    sin: Box<[f32]>,
}

impl CpuEngine {
    /// Takes all other memory. `weights` are those of `model`, as [`pack`] made them, `cache` has
    /// [`CpuEngine::cache_bytes`].
    pub fn new(
        model: Model,
        weights: ModelBytes,
        mut cache: CacheBytes,
        isa: Isa,
        team: Team,
        size: EngineSize,
    ) -> Self {
        assert_eq!((*weights).as_ref().len(), model.packed_bytes);
        assert_eq!(
            (*cache).as_mut().len(),
            CpuEngine::cache_bytes(&model, size)
        );
        let kernels = Kernels::new(isa, team, kernel_limits(&model, size));
        assert!(size.kv.fits(model.dims.head_dim), "checked with the budget");
        Self {
            cache,
            kv: size.kv,
            space: Space::new(&model, isa, size.columns_max),
            mix: Mix::new(size.columns_max, 0),
            logits: floats(size.logits_rows_max, model.dims.vocabulary as usize),
            model,
            weights,
            kernels,
        }
    }

    /// Takes what steps need that have adapters of up to this rank: [`CpuEngine::adapter_space_bytes`].
    #[must_use]
    pub fn with_adapters(self, columns_max: usize, rank_max: usize) -> Self {
        Self {
            mix: Mix::new(columns_max, rank_max),
            ..self
        }
    }

    /// Bytes that [`CpuEngine::with_adapters`] takes; none for a rank of 0.
    pub fn adapter_space_bytes(columns_max: usize, rank_max: usize) -> u64 {
        Mix::bytes(columns_max, rank_max) as u64
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(model: &Model, size: EngineSize) -> usize {
        let plane = kv_shape(model, size.kv).plane_bytes();
        model.layers.len() * 2 * size.kv_blocks as usize * model.dims.kv_heads * plane
    }

    /// Bytes of the step's workspaces, as `new` takes them; the KV cache has its own line in the budget.
    pub fn workspace_bytes(model: &Model, isa: Isa, size: EngineSize, threads: usize) -> u64 {
        let dims = &model.dims;
        let widths = Widths::of(model);
        let pairs: usize = model.ropes.iter().map(|r| 2 * r.inv_freq.len()).sum();
        let floats = 3 * dims.hidden + widths.qkv + 2 * dims.q_width() + 2 * dims.kv_width();
        let floats = floats + widths.gate + widths.up + dims.ffn + pairs;
        let indexes = 2 * size_of::<u32>() + size_of::<KvSlot>() + size_of::<Query>();
        let columns = size.columns_max * (floats * size_of::<f32>() + indexes);
        let logits = size.logits_rows_max * dims.vocabulary as usize * size_of::<f32>();
        let scratch = Kernels::bytes(kernel_limits(model, size), threads);
        let activations = Activations::bytes(size.columns_max, widths.input, inputs(model, isa));
        (columns + logits + scratch + activations) as u64
    }

    /// Fills the whole KV cache with seeded noise, so that a depth can be measured without computing what lies
    /// before it.
    pub fn fill_kv(&mut self, seed: u64) {
        let shape = kv_shape(&self.model, self.kv);
        let positions = KV_BLOCK_POSITIONS as usize;
        let width = self.model.dims.kv_width();
        let mut noise = |index: usize| {
            let word = crate::sampler::splitmix(seed ^ index as u64);
            (word >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let k: Vec<f32> = (0..positions * width).map(&mut noise).collect();
        let v: Vec<f32> = (k.len()..2 * k.len()).map(&mut noise).collect();
        let layers = self.model.layers.len();
        let cache = (*self.cache).as_mut();
        let blocks = cache.len() / (2 * layers * shape.plane_bytes() * shape.kv_heads);
        for cache in LayerCache::of(cache, layers) {
            for block in 0..u32::try_from(blocks).expect("as many as the pool was asked for") {
                let slot = |offset| KvSlot { block, offset };
                let slots: Vec<KvSlot> = (0..KV_BLOCK_POSITIONS).map(slot).collect();
                let into = KvLayerMut {
                    k: cache.k,
                    v: cache.v,
                    shape,
                };
                self.kernels.store_kv(&k, &v, &slots, into);
            }
        }
    }

    /// The description of the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The kernels, for measurements beside a step.
    pub fn kernels(&mut self) -> &mut Kernels {
        &mut self.kernels
    }

    fn load_plan(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        let space = &mut self.space;
        space.tokens.clear();
        space.positions.clear();
        space.slots.clear();
        space.queries.clear();
        for column in plan.columns() {
            let (block, offset) = tables.locate(column.sequence, column.position);
            space.tokens.push(column.token);
            space.positions.push(column.position);
            space.slots.push(KvSlot { block, offset });
            space.queries.push(Query {
                position: column.position,
                table_start: column.sequence * tables.stride,
                table_len: tables.held[column.sequence as usize],
            });
        }
        for (rope, rotation) in self.model.ropes.iter().zip(&mut space.rotations) {
            let len = space.positions.len() * rope.inv_freq.len();
            outstation_kernels::ops::rope_table(
                &space.positions,
                &rope.inv_freq,
                rope.magnitude,
                &mut rotation.cos[..len],
                &mut rotation.sin[..len],
            );
        }
    }
}

impl std::fmt::Debug for CpuEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuEngine")
            .field("architecture", &self.model.architecture)
            .finish_non_exhaustive()
    }
}

impl Engine for CpuEngine {
    fn vocabulary(&self) -> u32 {
        self.model.dims.vocabulary
    }

    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        let columns = plan.columns().len();
        assert!(columns > 0, "a step has work");
        assert!(
            plan.logits_rows() * self.vocabulary() as usize <= self.logits.len(),
            "rows fit"
        );
        self.load_plan(plan, tables);
        self.mix.load(plan);
        let mut pass = Pass {
            model: &self.model,
            plan,
            mix: &mut self.mix,
            layer: 0,
            weights: (*self.weights).as_ref(),
            kernels: &mut self.kernels,
            space: &mut self.space,
            columns,
            precision: precision(0),
            kv: kv_shape(&self.model, self.kv),
        };
        pass.embed();
        let layers = &self.model.layers;
        let caches = LayerCache::of((*self.cache).as_mut(), layers.len());
        for (index, (layer, mut cache)) in layers.iter().zip(caches).enumerate() {
            pass.precision = precision(index);
            pass.layer = index;
            pass.load_kv(layer, &mut cache);
            if index + 1 == layers.len() {
                // Nothing reads what the last layer makes of the other columns.
                pass.keep_asked();
                if pass.columns == 0 {
                    return;
                }
            }
            pass.attend(layer, &cache, tables.blocks);
            pass.feed_forward(layer);
        }
        pass.head(&mut self.logits);
    }

    fn logits(&mut self, row: usize) -> &mut [f32] {
        let vocabulary = self.model.dims.vocabulary as usize;
        &mut self.logits[row * vocabulary..][..vocabulary]
    }
}

/// One walk over the layers.
struct Pass<'a> {
    model: &'a Model,
    plan: &'a StepPlan,
    mix: &'a mut Mix,
    /// The present one.
    layer: usize,
    weights: &'a [u8],
    kernels: &'a mut Kernels,
    space: &'a mut Space,
    columns: usize,
    /// Of the present layer's inputs.
    precision: Precision,
    /// Of a layer's cache.
    kv: KvShape,
}

impl Pass<'_> {
    fn embed(&mut self) {
        let weight = matrix(self.weights, &self.model.embedding);
        let x = &mut self.space.x[..self.columns * self.model.dims.hidden];
        self.kernels
            .embed(&weight, &self.space.tokens, self.model.embedding_scale, x);
    }

    /// q, k, v = rope(qk_norm(W_qkv · norm(x))); k and v go to the cache.
    fn load_kv(&mut self, layer: &Layer, cache: &mut LayerCache<'_>) {
        let dims = self.model.dims;
        self.norm_into_activations(&layer.attention_norm, self.precision);
        self.project_qkv(layer);
        let columns = self.columns;
        let q = &mut self.space.q[..columns * dims.q_width()];
        let k = &mut self.space.k[..columns * dims.kv_width()];
        let v = &self.space.v[..columns * dims.kv_width()];
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            self.kernels
                .rms_norm_in_place(q, q_norm, self.model.norm_eps);
            self.kernels
                .rms_norm_in_place(k, k_norm, self.model.norm_eps);
        }
        if let Some(index) = layer.rope {
            let rope = &self.model.ropes[index];
            let len = columns * rope.inv_freq.len();
            let Rotation { cos, sin } = &self.space.rotations[index];
            let (cos, sin) = (&cos[..len], &sin[..len]);
            self.kernels
                .rope(q, dims.heads, dims.head_dim, rope.style, cos, sin);
            self.kernels
                .rope(k, dims.kv_heads, dims.head_dim, rope.style, cos, sin);
        }
        let into = KvLayerMut {
            k: cache.k,
            v: cache.v,
            shape: self.kv,
        };
        self.kernels.store_kv(k, v, &self.space.slots, into);
    }

    /// Goes on with the columns that ask for logits.
    fn keep_asked(&mut self) {
        let (hidden, q_width) = (self.model.dims.hidden, self.model.dims.q_width());
        let space = &mut *self.space;
        let all = self.plan.columns().iter().enumerate();
        let asked = all
            .filter(|(_, column)| column.logits)
            .map(|(from, _)| from);
        self.mix.keep(asked.clone());
        self.columns = 0;
        for from in asked {
            let to = self.columns;
            space
                .x
                .copy_within(from * hidden..(from + 1) * hidden, to * hidden);
            space
                .q
                .copy_within(from * q_width..(from + 1) * q_width, to * q_width);
            space.queries[to] = space.queries[from];
            self.columns += 1;
        }
        space.queries.truncate(self.columns);
    }

    /// x += post_norm(W_o · attention(q, k, v))
    fn attend(&mut self, layer: &Layer, cache: &LayerCache<'_>, tables: &[u32]) {
        let dims = self.model.dims;
        let columns = self.columns;
        let q = &self.space.q[..columns * dims.q_width()];
        let shape = AttentionShape {
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            head_dim: dims.head_dim,
            scale: layer.attention_scale,
            window: layer.window,
        };
        let kv = KvLayer {
            k: cache.k,
            v: cache.v,
            shape: self.kv,
        };
        let attended = &mut self.space.attended[..columns * dims.q_width()];
        self.kernels
            .attention(&shape, q, kv, &self.space.queries, tables, attended);
        self.kernels.load(
            attended,
            columns,
            dims.q_width(),
            self.precision,
            &mut self.space.activations,
        );
        self.project_back(
            (&layer.attention_output, Projection::Output),
            layer.attention_post_norm.as_deref(),
        );
    }

    /// x += post_norm(W_down · (act(W_gate · norm(x)) ⊙ (W_up · norm(x))))
    fn feed_forward(&mut self, layer: &Layer) {
        let (columns, hidden, ffn) = (self.columns, self.model.dims.hidden, self.model.dims.ffn);
        self.norm_into_activations(&layer.ffn_norm, self.precision);
        let space = &mut *self.space;
        let gate_up = match &layer.gate_up {
            GateUpWeights::Split { gate, up } => {
                let (gate, up) = (matrix(self.weights, gate), matrix(self.weights, up));
                let (y_gate, y_up) = (&mut space.gate[..], &mut space.up[..]);
                let products = [
                    (&gate, &mut y_gate[..columns * ffn]),
                    (&up, &mut y_up[..columns * ffn]),
                ];
                self.kernels.matmuls(products, &space.activations);
                let (y_gate, y_up) = (&mut space.gate[..], &mut space.up[..]);
                self.mix.add(
                    self.kernels,
                    self.plan,
                    (self.layer, [Projection::Gate, Projection::Up]),
                    (&space.normed[..columns * hidden], hidden),
                    [&mut y_gate[..columns * ffn], &mut y_up[..columns * ffn]],
                );
                GateUp::Split {
                    gate: &space.gate[..columns * ffn],
                    up: &space.up[..columns * ffn],
                }
            }
            GateUpWeights::Fused(both) => {
                let both = matrix(self.weights, both);
                let x = &mut space.gate[..columns * 2 * ffn];
                self.kernels.matmul(&both, &space.activations, x);
                self.mix.add(
                    self.kernels,
                    self.plan,
                    (self.layer, [Projection::GateUp]),
                    (&space.normed[..columns * hidden], hidden),
                    [&mut x[..]],
                );
                GateUp::Fused { x, half: ffn }
            }
        };
        let gated = &mut space.gated[..columns * ffn];
        match layer.activation {
            Activation::Silu => self.kernels.silu_mul(gate_up, gated),
            Activation::GeluTanh => self.kernels.gelu_tanh_mul(gate_up, gated),
        }
        let activations = &mut space.activations;
        self.kernels
            .load(gated, columns, ffn, self.precision, activations);
        self.project_back(
            (&layer.down, Projection::Down),
            layer.ffn_post_norm.as_deref(),
        );
    }

    /// Logits of the columns that are left.
    fn head(&mut self, logits: &mut [f32]) {
        self.norm_into_activations(&self.model.output_norm, Precision::Eight);
        let weight = matrix(self.weights, &self.model.output);
        let logits = &mut logits[..self.columns * weight.rows];
        self.kernels
            .matmul(&weight, &self.space.activations, logits);
    }

    fn norm_into_activations(&mut self, weight: &[f32], precision: Precision) {
        let hidden = self.model.dims.hidden;
        let len = self.columns * hidden;
        let normed = &mut self.space.normed[..len];
        self.kernels
            .rms_norm(&self.space.x[..len], weight, self.model.norm_eps, normed);
        let activations = &mut self.space.activations;
        self.kernels
            .load(normed, self.columns, hidden, precision, activations);
    }

    fn project_qkv(&mut self, layer: &Layer) {
        let columns = self.columns;
        let (q_width, kv_width) = (self.model.dims.q_width(), self.model.dims.kv_width());
        let hidden = self.model.dims.hidden;
        let space = &mut *self.space;
        let normed = (&space.normed[..columns * hidden], hidden);
        let q = &mut space.q[..columns * q_width];
        let k = &mut space.k[..columns * kv_width];
        let v = &mut space.v[..columns * kv_width];
        match &layer.qkv {
            Qkv::Split {
                q: w_q,
                k: w_k,
                v: w_v,
            } => {
                let [w_q, w_k, w_v] = [w_q, w_k, w_v].map(|w| matrix(self.weights, w));
                let products = [(&w_q, &mut *q), (&w_k, &mut *k), (&w_v, &mut *v)];
                self.kernels.matmuls(products, &space.activations);
                self.mix.add(
                    self.kernels,
                    self.plan,
                    (self.layer, [Projection::Q, Projection::K, Projection::V]),
                    normed,
                    [&mut *q, &mut *k, &mut *v],
                );
            }
            Qkv::Fused(both) => {
                let width = q_width + 2 * kv_width;
                let qkv = &mut space.qkv[..columns * width];
                self.kernels
                    .matmul(&matrix(self.weights, both), &space.activations, qkv);
                self.mix.add(
                    self.kernels,
                    self.plan,
                    (self.layer, [Projection::Qkv]),
                    normed,
                    [&mut *qkv],
                );
                for (column, row) in qkv.chunks_exact(width).enumerate() {
                    let (row_q, row_kv) = row.split_at(q_width);
                    let (row_k, row_v) = row_kv.split_at(kv_width);
                    q[column * q_width..][..q_width].copy_from_slice(row_q);
                    k[column * kv_width..][..kv_width].copy_from_slice(row_k);
                    v[column * kv_width..][..kv_width].copy_from_slice(row_v);
                }
            }
        }
        if let Some([q_bias, k_bias, v_bias]) = &layer.qkv_bias {
            self.kernels.add_bias(q, q_bias);
            self.kernels.add_bias(k, k_bias);
            self.kernels.add_bias(v, v_bias);
        }
    }

    /// Multiplies what is loaded by a matrix back to the width of the stream, and adds it.
    fn project_back(
        &mut self,
        (weight, projection): (&Weight, Projection),
        post_norm: Option<&[f32]>,
    ) {
        let len = self.columns * self.model.dims.hidden;
        let space = &mut *self.space;
        let result = &mut space.result[..len];
        self.kernels
            .matmul(&matrix(self.weights, weight), &space.activations, result);
        let loaded = match projection {
            Projection::Down => &space.gated,
            _ => &space.attended,
        };
        self.mix.add(
            self.kernels,
            self.plan,
            (self.layer, [projection]),
            (&loaded[..self.columns * weight.cols], weight.cols),
            [&mut *result],
        );
        if let Some(norm) = post_norm {
            self.kernels
                .rms_norm_in_place(result, norm, self.model.norm_eps);
        }
        self.kernels.add(&mut space.x[..len], result);
    }
}

/// How finely a layer rounds its inputs.
///
/// Every later layer multiplies what the first one gets wrong, and there the residual stream is smallest: two digits in
/// that layer alone bring all logits five to seven times nearer to exact arithmetic than one digit throughout
/// (docs/kernels.md has the table), for one layer's worth of extra products.
pub(super) fn precision(layer: usize) -> Precision {
    match layer {
        0 => Precision::Sixteen,
        _ => Precision::Eight,
    }
}

fn matrix<'a>(weights: &'a [u8], weight: &Weight) -> Matrix<'a> {
    Matrix::new(
        weight.format,
        weight.rows,
        weight.cols,
        &weights[weight.packed.clone()],
    )
}

fn kernel_limits(model: &Model, size: EngineSize) -> KernelLimits {
    KernelLimits {
        cols_max: Widths::of(model).input,
        columns_max: size.columns_max,
        heads_max: model.dims.heads,
        head_dim_max: model.dims.head_dim,
        positions_max: (model.dims.context_positions).min(CONTEXT_POSITIONS_MAX) as usize,
    }
}

/// What the matrices of a model take of activations.
fn inputs(model: &Model, isa: Isa) -> Inputs {
    Inputs::of(isa, model.weights().map(|weight| weight.format))
}

fn kv_shape(model: &Model, format: KvFormat) -> KvShape {
    KvShape {
        format,
        kv_heads: model.dims.kv_heads,
        head_dim: model.dims.head_dim,
        block_positions: KV_BLOCK_POSITIONS as usize,
    }
}

/// Widths of the buffers that depend on which projections are fused.
struct Widths {
    qkv: usize,
    gate: usize,
    up: usize,
    /// Widest input of any matrix.
    input: usize,
}

impl Widths {
    fn of(model: &Model) -> Self {
        let dims = &model.dims;
        let fused_qkv = model.layers.iter().any(|l| matches!(l.qkv, Qkv::Fused(_)));
        let fused_gate = model
            .layers
            .iter()
            .any(|l| matches!(l.gate_up, GateUpWeights::Fused(_)));
        let split_gate = model
            .layers
            .iter()
            .any(|l| matches!(l.gate_up, GateUpWeights::Split { .. }));
        Self {
            qkv: if fused_qkv {
                dims.q_width() + 2 * dims.kv_width()
            } else {
                0
            },
            gate: if fused_gate { 2 * dims.ffn } else { dims.ffn },
            up: if split_gate { dims.ffn } else { 0 },
            input: dims.hidden.max(dims.q_width()).max(dims.ffn),
        }
    }
}

impl Space {
    fn new(model: &Model, isa: Isa, columns_max: usize) -> Self {
        let dims = &model.dims;
        let widths = Widths::of(model);
        let buffer = |width: usize| floats(columns_max, width);
        Self {
            activations: Activations::new(columns_max, widths.input, inputs(model, isa)),
            x: buffer(dims.hidden),
            normed: buffer(dims.hidden),
            result: buffer(dims.hidden),
            qkv: buffer(widths.qkv),
            q: buffer(dims.q_width()),
            k: buffer(dims.kv_width()),
            v: buffer(dims.kv_width()),
            attended: buffer(dims.q_width()),
            gate: buffer(widths.gate),
            up: buffer(widths.up),
            gated: buffer(dims.ffn),
            rotations: model
                .ropes
                .iter()
                .map(|r| Rotation {
                    cos: buffer(r.inv_freq.len()),
                    sin: buffer(r.inv_freq.len()),
                })
                .collect(),
            tokens: Vec::with_capacity(columns_max),
            positions: Vec::with_capacity(columns_max),
            slots: Vec::with_capacity(columns_max),
            queries: Vec::with_capacity(columns_max),
        }
    }
}

fn floats(rows: usize, width: usize) -> Box<[f32]> {
    vec![0.0; rows * width].into_boxed_slice()
}
