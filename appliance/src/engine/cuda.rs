//! The engine on a GPU: walks the model's description with `outstation-cuda`.
//!
//! All memory of the device is taken before the first step. A step is sent as one plan, then a run of kernels, then the
//! logits that were asked for come back; the host waits once. Kernels make a column's sums in an order that depends on
//! the model alone, so its bits are the same in any batch.

#![allow(
    clippy::cast_possible_truncation,
    reason = "a GPU counts in 32 bits; columns, spans and items are far below"
)]

use std::ops::Range;

use outstation_cuda::{
    Added, Attend, Buffer, Column, Embed, Gate, GpuCache, GpuError, GpuInputs, GpuKernels,
    GpuMatrix, GpuPlan, Heads, Item, Loaded, Norm, Pinned, PlanSize, Product, SPAN, Slice, pack,
};
use outstation_kernels::KvFormat;
use outstation_kernels::ops::{Precision, RopeStyle};
use outstation_kernels::quant::Format;

use super::cpu::{EngineSize, precision};
use super::{Engine, PlanColumn, StepPlan};
use crate::kv::BlockTables;
use crate::limits::KV_BLOCK_POSITIONS;
use crate::model::{Activation, GateUpWeights, Layer, Model, Qkv, Weight};

/// Rows that one item of attention takes.
const ITEM_ROWS: usize = 16;

/// Columns of one sequence up to which their spans are attended at once rather than one after the other.
const SPREAD_COLUMNS_MAX: usize = 8;

/// A matrix in the device's memory.
struct Placed {
    format: Format,
    rows: usize,
    cols: usize,
    at: Range<usize>,
}

/// One layer's matrices and vectors in the device's memory.
struct PlacedLayer {
    qkv: Vec<Placed>,
    output: Placed,
    gate_up: Vec<Placed>,
    down: Placed,
    attention_norm: Range<usize>,
    qkv_bias: Option<Range<usize>>,
    qk_norm: Option<[Range<usize>; 2]>,
    attention_post_norm: Option<Range<usize>>,
    ffn_norm: Range<usize>,
    ffn_post_norm: Option<Range<usize>>,
}

/// A model, its KV cache and the memory of a step, on a GPU.
pub struct CudaEngine {
    model: Model,
    kernels: GpuKernels,
    weights: Buffer<u8>,
    vectors: Buffer<f32>,
    layers: Vec<PlacedLayer>,
    embedding: Placed,
    output: Placed,
    output_norm: Range<usize>,
    inv_freq: Vec<Buffer<f64>>,
    /// `[layer][keys, values][block][head]` planes.
    cache: Buffer<u8>,
    kv: KvFormat,
    space: Space,
    /// What is sent for a step.
    plan: GpuPlan,
    /// Items of attention: of all columns, of those that ask.
    items: [usize; 2],
    asked: Vec<u32>,
    runs: Vec<Run>,
    logits: Pinned<f32>,
}

/// Intermediate results of a step, on the device.
struct Space {
    inputs: GpuInputs,
    /// The residual stream, and that of the columns which ask, in the last layer.
    x: Buffer<f32>,
    x_asked: Buffer<f32>,
    result: Buffer<f32>,
    qkv: Buffer<f32>,
    q: Buffer<u16>,
    parts: Buffer<f32>,
    gate_up: Buffer<f32>,
    rotations: Vec<Buffer<f32>>,
    logits: Buffer<f32>,
}

/// Neighbouring columns of one sequence.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    columns: usize,
    table: u32,
    /// Position of the last.
    last: u32,
}

/// Sizes that follow from a model and an [`EngineSize`].
#[derive(Clone, Copy)]
struct Sizes {
    columns: usize,
    asked: usize,
    input: usize,
    qkv: usize,
    /// Query heads times their padded width.
    q: usize,
    parts: usize,
    part: usize,
    floats: bool,
    plan: PlanSize,
    cache: usize,
}

impl Sizes {
    fn of(model: &Model, size: EngineSize, tables: usize) -> Sizes {
        let dims = &model.dims;
        let padded = GpuCache::padded(dims.head_dim).expect("checked by `fits`");
        let blocks_max = dims.context_positions.div_ceil(KV_BLOCK_POSITIONS) as usize;
        let spans = (blocks_max * KV_BLOCK_POSITIONS as usize).div_ceil(SPAN);
        // Room for the spans of some long sequences that decode; a step that has more attends them one after the other.
        let parts = size.columns_max + size.logits_rows_max * spans.min(PARTS_MAX);
        let shared_by = dims.heads / dims.kv_heads;
        let items = parts * shared_by.div_ceil(ITEM_ROWS);
        let plane = GpuCache::plane_bytes(dims.head_dim, size.kv);
        Sizes {
            columns: size.columns_max,
            asked: size.logits_rows_max,
            input: dims.hidden.max(dims.q_width()).max(dims.ffn),
            qkv: dims.q_width() + 2 * dims.kv_width(),
            q: dims.heads * padded,
            parts,
            part: dims.heads * (padded + 2),
            floats: model.weights().any(|weight| weight.format.is_float()),
            plan: PlanSize {
                columns: size.columns_max,
                asked: size.logits_rows_max,
                items,
                tables,
            },
            cache: model.layers.len() * 2 * size.kv_blocks as usize * dims.kv_heads * plane,
        }
    }
}

/// Spans of a sequence that the room for partial results counts with.
const PARTS_MAX: usize = 64;

impl CudaEngine {
    /// Why the kernels cannot run a model, if they cannot.
    pub fn unfit(model: &Model) -> Option<String> {
        let head_dim = model.dims.head_dim;
        GpuCache::padded(head_dim).is_none().then(|| {
            format!("its heads have {head_dim} elements: our CUDA kernels take up to 256; use --device cpu")
        })
    }

    /// Bytes of the device's memory, by what takes them: weights, the KV cache, the rest.
    pub fn device_bytes(model: &Model, size: EngineSize, table_entries: usize) -> [u64; 3] {
        let sizes = Sizes::of(model, size, table_entries);
        let dims = &model.dims;
        let weights: usize = model.weights().map(|w| aligned(bytes(w))).sum();
        let pairs: usize = model.ropes.iter().map(|rope| rope.inv_freq.len()).sum();
        let floats = sizes.columns * (2 * dims.hidden + sizes.qkv + 2 * dims.ffn + 2 * pairs)
            + sizes.asked * (dims.hidden + dims.vocabulary as usize)
            + sizes.parts * sizes.part
            + vectors(model).map(<[f32]>::len).sum::<usize>();
        let space = floats * 4
            + sizes.columns * sizes.q * 2
            + pairs * 8
            + usize::try_from(GpuPlan::bytes(sizes.plan)).expect("fits memory")
            + usize::try_from(GpuInputs::bytes(sizes.columns, sizes.input, sizes.floats))
                .expect("fits memory");
        [weights as u64, sizes.cache as u64, space as u64]
    }

    /// Takes all memory and sends the weights. `done` hears of each of them.
    pub fn new(
        model: Model,
        file: &[u8],
        kernels: GpuKernels,
        size: EngineSize,
        table_entries: usize,
        mut done: impl FnMut(&Weight),
    ) -> Result<Self, GpuError> {
        let sizes = Sizes::of(&model, size, table_entries);
        let gpu = kernels.gpu();
        let dims = model.dims;
        let total: usize = model.weights().map(|w| aligned(bytes(w))).sum();
        let weights = gpu.buffer(total)?;
        let mut loader = Loader {
            weights: &weights,
            file,
            end: 0,
            done: &mut done,
            space: pack::PackSpace::new(sizes.input),
            staged: Vec::new(),
        };
        let embedding = loader.place(&model.embedding)?;
        let output = if model.output == model.embedding {
            Placed {
                at: embedding.at.clone(),
                ..embedding
            }
        } else {
            loader.place(&model.output)?
        };
        let mut values = Vec::new();
        let layers = model
            .layers
            .iter()
            .map(|layer| loader.layer(layer, &mut values))
            .collect::<Result<Vec<_>, GpuError>>()?;
        let output_norm = keep(&mut values, &model.output_norm);
        let vectors = gpu.buffer(values.len())?;
        vectors.write(0, &values)?;
        let mut inv_freq = Vec::new();
        let mut rotations = Vec::new();
        for rope in &model.ropes {
            let buffer = gpu.buffer(rope.inv_freq.len())?;
            buffer.write(0, &rope.inv_freq)?;
            inv_freq.push(buffer);
            rotations.push(gpu.buffer(sizes.columns * rope.inv_freq.len() * 2)?);
        }
        let floats = |len: usize| gpu.buffer::<f32>(len);
        let vocabulary = dims.vocabulary as usize;
        let space = Space {
            inputs: GpuInputs::new(gpu, sizes.columns, sizes.input, sizes.floats)?,
            x: floats(sizes.columns * dims.hidden)?,
            x_asked: floats(sizes.asked * dims.hidden)?,
            result: floats(sizes.columns * dims.hidden)?,
            qkv: floats(sizes.columns * sizes.qkv)?,
            q: gpu.buffer(sizes.columns * sizes.q)?,
            parts: floats(sizes.parts * sizes.part)?,
            gate_up: floats(sizes.columns * 2 * dims.ffn)?,
            rotations,
            logits: floats(sizes.asked * vocabulary)?,
        };
        let cache = gpu.buffer(sizes.cache)?;
        // What lies past the end of a sequence is multiplied by weights of zero, so it must be numbers.
        cache.fill(0)?;
        Ok(Self {
            plan: GpuPlan::new(gpu, sizes.plan)?,
            logits: gpu.pinned(sizes.asked * vocabulary)?,
            items: [0; 2],
            asked: Vec::with_capacity(sizes.asked),
            runs: Vec::with_capacity(sizes.columns),
            kv: size.kv,
            model,
            weights,
            vectors,
            layers,
            embedding,
            output,
            output_norm,
            inv_freq,
            cache,
            space,
            kernels,
        })
    }

    /// The description of the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device.
    pub fn kernels(&self) -> &GpuKernels {
        &self.kernels
    }

    fn matrix(&self, placed: &Placed) -> GpuMatrix<'_> {
        let bytes = self.weights.all();
        let bytes = bytes.range(placed.at.start, placed.at.len());
        GpuMatrix::new(placed.format, placed.rows, placed.cols, bytes)
    }

    fn vector(&self, range: &Range<usize>) -> Slice<'_, f32> {
        self.vectors.all().range(range.start, range.len())
    }

    /// Writes the plan of a step, and says which columns go on in the last layer.
    fn load_plan(&mut self, step: &StepPlan, tables: BlockTables<'_>) {
        let asking = step.columns().iter().enumerate();
        let asking = asking.filter(|(_, column)| column.logits);
        self.asked.clear();
        self.asked.extend(asking.map(|(index, _)| index as u32));
        let shared_by = self.model.dims.heads / self.model.dims.kv_heads;
        let parts_max = self.space.parts.len()
            / (self.model.dims.heads
                * (GpuCache::padded(self.model.dims.head_dim).expect("checked") + 2));
        for asked in [false, true] {
            find_runs(&mut self.runs, step, tables, asked);
            let columns: usize = self.runs.iter().map(|run| run.columns).sum();
            let (mut part, mut items) = (0, 0);
            let mut left = columns;
            for index in 0..self.runs.len() {
                let run = self.runs[index];
                let spans = (run.last as usize + 1).div_ceil(SPAN);
                left -= run.columns;
                // At once, where there is room for their parts and for one of each column behind them.
                let spread = run.columns <= SPREAD_COLUMNS_MAX
                    && part + run.columns * spans + left <= parts_max;
                let parts = if spread { spans } else { 1 };
                for column in run.first..run.first + run.columns {
                    let from = if asked {
                        self.asked[column] as usize
                    } else {
                        column
                    };
                    let PlanColumn {
                        sequence,
                        token,
                        position,
                        ..
                    } = step.columns()[from];
                    let (block, offset) = tables.locate(sequence, position);
                    let column_on_device = Column {
                        token,
                        position,
                        block,
                        offset,
                        table: run.table,
                        part_start: part as u32,
                        part_count: parts as u32,
                        from: from as u32,
                    };
                    part += parts;
                    if asked {
                        self.plan.put_asked(column, column_on_device);
                    } else {
                        self.plan.put_column(column, column_on_device);
                    }
                }
                items = put_items(
                    &mut self.plan,
                    asked,
                    items,
                    run,
                    (shared_by, spans, spread),
                );
            }
            self.items[usize::from(asked)] = items;
        }
        self.plan.finish(self.items, tables.blocks);
    }

    fn run(&mut self, columns: usize) -> Result<(), GpuError> {
        let gpu = self.kernels.gpu();
        self.plan.send(gpu)?;
        let all = self.plan.columns(columns);
        let space = &self.space;
        self.kernels.embed(&Embed {
            matrix: self.matrix(&self.embedding),
            columns: all,
            scale: self.model.embedding_scale,
            x: space.x.all(),
        })?;
        for ((rope, inv_freq), table) in self
            .model
            .ropes
            .iter()
            .zip(&self.inv_freq)
            .zip(&space.rotations)
        {
            self.kernels
                .rotations(all, inv_freq.all(), rope.magnitude, table.all())?;
        }
        let mut columns = columns;
        for index in 0..self.layers.len() {
            let last = index + 1 == self.layers.len();
            self.load_kv(index, columns)?;
            if last {
                columns = self.asked.len();
                if columns == 0 {
                    return self.kernels.gpu().finish();
                }
            }
            self.attend(index, columns, last)?;
            self.feed_forward(index, columns, last)?;
        }
        self.head(columns)?;
        let len = columns * self.model.dims.vocabulary as usize;
        let logits = &mut self.logits;
        let gpu = self.kernels.gpu();
        gpu.download(self.space.logits.all(), len, logits)?;
        gpu.finish()
    }

    /// q, k, v = rope(qk_norm(W_qkv · norm(x))); k and v go to the cache.
    fn load_kv(&self, index: usize, columns: usize) -> Result<(), GpuError> {
        let dims = self.model.dims;
        let layer = &self.layers[index];
        let description = &self.model.layers[index];
        let space = &self.space;
        // What the layer before made is added to the stream with this norm.
        let before = index.checked_sub(1).map(|index| &self.layers[index]);
        let inputs = self.kernels.norm(
            &Norm {
                x: space.x.all(),
                result: before.map(|before| Added {
                    result: space.result.all(),
                    norm: before.ffn_post_norm.as_ref().map(|post| self.vector(post)),
                    sum: space.x.all(),
                }),
                weight: self.vector(&layer.attention_norm),
                from: None,
                columns,
                eps: self.model.norm_eps,
                precision: precision(index),
            },
            &space.inputs,
        )?;
        let width = dims.q_width() + 2 * dims.kv_width();
        self.products(&layer.qkv, &inputs, &space.qkv, width)?;
        let rotations = description.rope.map(|rope| {
            let of = &self.model.ropes[rope];
            let halves = of.style == RopeStyle::Halves;
            (space.rotations[rope].all(), of.inv_freq.len(), halves)
        });
        self.kernels.heads(
            &Heads {
                qkv: space.qkv.all(),
                bias: layer.qkv_bias.as_ref().map(|bias| self.vector(bias)),
                norms: layer
                    .qk_norm
                    .as_ref()
                    .map(|[q, k]| [self.vector(q), self.vector(k)]),
                rotations,
                columns: self.plan.columns(columns),
                q: space.q.all(),
                heads: dims.heads,
                eps: self.model.norm_eps,
                scale: description.attention_scale,
            },
            &self.layer_cache(index),
        )?;
        Ok(())
    }

    /// result = W_o · attention(q, k, v)
    fn attend(&self, index: usize, columns: usize, last: bool) -> Result<(), GpuError> {
        let dims = self.model.dims;
        let space = &self.space;
        let (items, items_count) = self.plan.items(last, self.items[usize::from(last)]);
        let on_device = if last {
            self.plan.asked(columns)
        } else {
            self.plan.columns(columns)
        };
        self.kernels.attend(
            &Attend {
                items,
                items_count,
                columns: on_device,
                tables: self.plan.tables(),
                q: space.q.all(),
                parts: space.parts.all(),
                heads: dims.heads,
                window: self.model.layers[index].window,
            },
            &self.layer_cache(index),
        )?;
        let inputs = self.kernels.join(
            on_device,
            space.parts.all(),
            (dims.heads, dims.head_dim),
            precision(index),
            &space.inputs,
        )?;
        let output = std::slice::from_ref(&self.layers[index].output);
        self.products(output, &inputs, &space.result, dims.hidden)
    }

    /// x += post_norm(result); result = W_down · (act(W_gate · norm(x)) ⊙ (W_up · norm(x)))
    fn feed_forward(&self, index: usize, columns: usize, last: bool) -> Result<(), GpuError> {
        let dims = self.model.dims;
        let space = &self.space;
        let layer = &self.layers[index];
        let post = layer.attention_post_norm.as_ref();
        let stream = if last { &space.x_asked } else { &space.x };
        let inputs = self.kernels.norm(
            &Norm {
                x: space.x.all(),
                result: Some(Added {
                    result: space.result.all(),
                    norm: post.map(|post| self.vector(post)),
                    sum: stream.all(),
                }),
                weight: self.vector(&layer.ffn_norm),
                from: last.then(|| self.plan.asked(columns)),
                columns,
                eps: self.model.norm_eps,
                precision: precision(index),
            },
            &space.inputs,
        )?;
        self.products(&layer.gate_up, &inputs, &space.gate_up, 2 * dims.ffn)?;
        let gelu = self.model.layers[index].activation == Activation::GeluTanh;
        let inputs = self.kernels.gate(
            &Gate {
                gate_up: space.gate_up.all(),
                columns,
                width: dims.ffn,
                gelu,
                precision: precision(index),
            },
            &space.inputs,
        )?;
        let down = std::slice::from_ref(&layer.down);
        self.products(down, &inputs, &space.result, dims.hidden)
    }

    /// Logits of the columns that ask.
    fn head(&self, columns: usize) -> Result<(), GpuError> {
        let space = &self.space;
        let last = self.layers.last().expect("a model has layers");
        let post = last.ffn_post_norm.as_ref();
        let inputs = self.kernels.norm(
            &Norm {
                x: space.x_asked.all(),
                result: Some(Added {
                    result: space.result.all(),
                    norm: post.map(|post| self.vector(post)),
                    sum: space.x_asked.all(),
                }),
                weight: self.vector(&self.output_norm),
                from: None,
                columns,
                eps: self.model.norm_eps,
                precision: Precision::Eight,
            },
            &space.inputs,
        )?;
        let output = std::slice::from_ref(&self.output);
        self.products(output, &inputs, &space.logits, self.output.rows)
    }

    /// Matrices with the same input, their results side by side in each column.
    fn products(
        &self,
        matrices: &[Placed],
        inputs: &Loaded<'_>,
        y: &Buffer<f32>,
        stride: usize,
    ) -> Result<(), GpuError> {
        let mut products = [None; 3];
        let mut start = 0;
        for (product, matrix) in products.iter_mut().zip(matrices) {
            *product = Some(Product {
                matrix: self.matrix(matrix),
                y: y.all().range(start, y.len() - start),
                stride,
            });
            start += matrix.rows;
        }
        let first = products[0].expect("at least one matrix");
        let products = products.map(|product| product.unwrap_or(first));
        self.kernels.products(&products[..matrices.len()], inputs)
    }

    fn layer_cache(&self, index: usize) -> GpuCache<'_> {
        let bytes = self.cache.len() / (2 * self.layers.len());
        let at = |half: usize| self.cache.all().range((2 * index + half) * bytes, bytes);
        GpuCache {
            keys: at(0),
            values: at(1),
            kv_heads: self.model.dims.kv_heads,
            head_dim: self.model.dims.head_dim,
            format: self.kv,
        }
    }
}

impl std::fmt::Debug for CudaEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaEngine")
            .field("architecture", &self.model.architecture)
            .finish_non_exhaustive()
    }
}

impl Engine for CudaEngine {
    fn vocabulary(&self) -> u32 {
        self.model.dims.vocabulary
    }

    /// Panics when the device fails: nothing that it holds can be trusted after that, and systemd starts us again.
    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        let columns = plan.columns().len();
        assert!(columns > 0, "a step has work");
        assert!(
            plan.logits_rows() * self.vocabulary() as usize <= self.logits.len(),
            "rows fit"
        );
        assert!(plan.adapted().is_empty(), "refused with the configuration");
        self.load_plan(plan, tables);
        if let Err(error) = self.run(columns) {
            panic!("the GPU failed in a step: {error}");
        }
    }

    fn logits(&mut self, row: usize) -> &mut [f32] {
        let vocabulary = self.model.dims.vocabulary as usize;
        &mut self.logits[row * vocabulary..][..vocabulary]
    }
}

/// Finds the runs of columns that are of one sequence and follow each other.
fn find_runs(runs: &mut Vec<Run>, step: &StepPlan, tables: BlockTables<'_>, asked: bool) {
    runs.clear();
    let columns = step
        .columns()
        .iter()
        .filter(|column| !asked || column.logits);
    let mut sequence = None;
    for (index, column) in columns.enumerate() {
        match runs.last_mut() {
            Some(run) if sequence == Some(column.sequence) => {
                run.columns += 1;
                run.last = column.position;
            }
            _ => runs.push(Run {
                first: index,
                columns: 1,
                table: column.sequence * tables.stride,
                last: column.position,
            }),
        }
        sequence = Some(column.sequence);
    }
}

/// Writes the items of a run behind those that there are; returns how many there are then.
fn put_items(
    plan: &mut GpuPlan,
    asked: bool,
    mut items: usize,
    run: Run,
    (shared_by, spans, spread): (usize, usize, bool),
) -> usize {
    let heads = shared_by.min(ITEM_ROWS);
    let columns = ITEM_ROWS / heads;
    for first in (0..run.columns).step_by(columns) {
        for first_head in (0..shared_by).step_by(heads) {
            let item = |part: usize, span_start: usize, span_end: usize| Item {
                first: (run.first + first) as u32,
                columns: columns.min(run.columns - first) as u32,
                first_head: first_head as u32,
                heads: heads.min(shared_by - first_head) as u32,
                span_start: span_start as u32,
                span_end: span_end as u32,
                part: part as u32,
                unused: 0,
            };
            if spread {
                for span in 0..spans {
                    plan.put_item(asked, items, item(span, span, span + 1));
                    items += 1;
                }
            } else {
                plan.put_item(asked, items, item(0, 0, spans));
                items += 1;
            }
        }
    }
    items
}

/// Sends weights to the device, one after the other.
struct Loader<'a> {
    weights: &'a Buffer<u8>,
    file: &'a [u8],
    end: usize,
    done: &'a mut dyn FnMut(&Weight),
    space: pack::PackSpace,
    staged: Vec<u8>,
}

/// Bytes that are packed before they are sent.
const STAGE_BYTES: usize = 16 << 20;

impl Loader<'_> {
    fn place(&mut self, weight: &Weight) -> Result<Placed, GpuError> {
        let at = self.end..self.end + bytes(weight);
        self.end += aligned(at.len());
        let file = &self.file[weight.bytes.clone()];
        let row_bytes = weight.format.row_bytes(weight.cols);
        let tile_rows = pack::TILE_ROWS;
        let tile_bytes = pack::bytes(weight.format, tile_rows, weight.cols);
        let tiles = (STAGE_BYTES / tile_bytes).max(1);
        let mut start = at.start;
        for rows in file.chunks(tiles * tile_rows * row_bytes) {
            self.staged.resize(
                pack::bytes(weight.format, rows.len() / row_bytes, weight.cols),
                0,
            );
            let tiles = rows.chunks(tile_rows * row_bytes);
            for (rows, out) in tiles.zip(self.staged.chunks_mut(tile_bytes)) {
                pack::pack_tile(weight.format, rows, weight.cols, &mut self.space, out);
            }
            self.weights.write(start, &self.staged)?;
            start += self.staged.len();
        }
        (self.done)(weight);
        Ok(Placed {
            format: weight.format,
            rows: weight.rows,
            cols: weight.cols,
            at,
        })
    }

    fn layer(&mut self, layer: &Layer, values: &mut Vec<f32>) -> Result<PlacedLayer, GpuError> {
        let qkv = match &layer.qkv {
            Qkv::Split { q, k, v } => vec![self.place(q)?, self.place(k)?, self.place(v)?],
            Qkv::Fused(all) => vec![self.place(all)?],
        };
        let gate_up = match &layer.gate_up {
            GateUpWeights::Split { gate, up } => vec![self.place(gate)?, self.place(up)?],
            GateUpWeights::Fused(both) => vec![self.place(both)?],
        };
        Ok(PlacedLayer {
            qkv,
            gate_up,
            output: self.place(&layer.attention_output)?,
            down: self.place(&layer.down)?,
            attention_norm: keep(values, &layer.attention_norm),
            qkv_bias: layer.qkv_bias.as_ref().map(|[q, k, v]| {
                let start = keep(values, q).start;
                keep(values, k);
                start..keep(values, v).end
            }),
            qk_norm: layer
                .qk_norm
                .as_ref()
                .map(|norms| norms.each_ref().map(|norm| keep(values, norm))),
            attention_post_norm: layer.attention_post_norm.as_ref().map(|n| keep(values, n)),
            ffn_norm: keep(values, &layer.ffn_norm),
            ffn_post_norm: layer.ffn_post_norm.as_ref().map(|n| keep(values, n)),
        })
    }
}

/// Puts a vector behind the others.
fn keep(values: &mut Vec<f32>, vector: &[f32]) -> Range<usize> {
    let start = values.len();
    values.extend_from_slice(vector);
    start..values.len()
}

/// Every vector of a model.
fn vectors(model: &Model) -> impl Iterator<Item = &[f32]> {
    let layers = model.layers.iter().flat_map(|layer| {
        let bias = layer.qkv_bias.iter().flatten();
        let qk = layer.qk_norm.iter().flatten();
        let post = layer.attention_post_norm.iter();
        let post = post.chain(&layer.ffn_post_norm);
        [&layer.attention_norm, &layer.ffn_norm]
            .into_iter()
            .chain(bias)
            .chain(qk)
            .chain(post)
    });
    layers.chain([&model.output_norm]).map(|vector| &**vector)
}

fn bytes(weight: &Weight) -> usize {
    pack::bytes(weight.format, weight.rows, weight.cols)
}

/// Matrices start at whole lines of the device's cache.
fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}
