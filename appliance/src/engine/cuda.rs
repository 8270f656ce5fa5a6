//! The engine on a GPU: walks the model's description with `outstation-cuda`.
//!
//! All memory of the device is taken before the first step. A step is sent as one plan, then a run of kernels, of which
//! the last draw tokens; the host waits once. Logits come over only where somebody asks for them. Kernels make a
//! column's sums in an order that depends on the model alone, so its bits are the same in any batch.

#![allow(
    clippy::cast_possible_truncation,
    reason = "a GPU counts in 32 bits; columns, spans and items are far below"
)]

use std::ops::Range;

use outstation_cuda::{
    Adapted, Added, Attend, Buffer, Column, Draw, Embed, Gate, GpuCache, GpuDraws, GpuError,
    GpuInputs, GpuKernels, GpuMatrix, GpuPlan, Heads, Inbox, Loaded, Norm, Outcome, Product, SPAN,
    Slice, StepGraph,
};
use outstation_kernels::ops::{Precision, RopeStyle};
use outstation_kernels::{KvFormat, Team};

use super::cpu::{EngineSize, precision};
use super::{Engine, Found, PlanColumn, StepPlan};
use crate::adapter::AdapterPlaces;
use crate::kv::BlockTables;
use crate::model::{Activation, Model, Weight};
use crate::sampler::Drawing;

mod adapters;
mod items;
mod placed;
mod sizes;

use adapters::Residents;
use items::{ITEM_ROWS, Run, find_runs, put_items};
use placed::{Loader, Placed, PlacedLayer, aligned, bytes, keep, vectors};
use sizes::Sizes;

/// Columns of one sequence up to which their spans are attended at once rather than one after the other.
const SPREAD_COLUMNS_MAX: usize = 8;

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
    draws: GpuDraws,
    /// What came of the rows of the last step.
    found: Vec<Outcome>,
    /// Rows of logits that somebody asked for, and which they are since the last step.
    logits: Inbox<f32>,
    fetched: Vec<bool>,
    adapters: Option<Residents>,
    /// Steps of decodes alone, recorded: started at once, they do not wait for the host between kernels.
    graphs: Vec<Recorded>,
}

/// A step of so many columns, all of which ask, and up to so many items.
struct Recorded {
    work: Work,
    graph: StepGraph,
}

/// How much a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    columns: usize,
    asked: usize,
    /// Items of all columns, and of those that ask.
    items: [usize; 2],
    /// Whether some columns have adapters.
    adapted: bool,
}

impl Work {
    /// Columns of a layer, all of them or those that ask.
    fn pass(&self, asked: bool) -> Pass {
        Pass {
            columns: if asked { self.asked } else { self.columns },
            items: self.items[usize::from(asked)],
            asked,
            adapted: self.adapted,
        }
    }
}

/// What goes through a part of a layer.
#[derive(Clone, Copy, Debug)]
struct Pass {
    columns: usize,
    items: usize,
    /// Whether it is those that ask, in the last layer.
    asked: bool,
    adapted: bool,
}

/// Columns of decode steps that are recorded: a step has its own or the next.
const RECORDED_COLUMNS: [usize; 6] = [1, 2, 4, 8, 16, 32];

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

impl CudaEngine {
    /// Why the kernels cannot run a model, if they cannot.
    pub fn unfit(model: &Model) -> Option<String> {
        let head_dim = model.dims.head_dim;
        GpuCache::padded(head_dim).is_none().then(|| {
            format!("its heads have {head_dim} elements: our CUDA kernels take up to 256; use --device cpu")
        })
    }

    /// Bytes of keys and values of one KV block over all layers.
    pub fn block_bytes(model: &Model, kv: KvFormat) -> u64 {
        let plane = GpuCache::plane_bytes(model.dims.head_dim, kv);
        (2 * model.layers.len() * model.dims.kv_heads * plane) as u64
    }

    /// Bytes of pinned memory of the host.
    pub fn host_bytes(model: &Model, size: (EngineSize, usize), places: AdapterPlaces) -> u64 {
        let sizes = Sizes::of(model, size, places);
        let logits = sizes.asked * model.dims.vocabulary as usize * size_of::<f32>();
        let [_, draws] = GpuDraws::bytes(model.dims.vocabulary as usize, sizes.asked);
        logits as u64 + GpuPlan::bytes(sizes.plan) + draws
    }

    /// Bytes of the device's memory but for KV blocks: weights, workspaces, adapters. A size is the engine's with the
    /// entries of all block tables.
    pub fn device_bytes(
        model: &Model,
        size: (EngineSize, usize),
        places: AdapterPlaces,
    ) -> [u64; 3] {
        let sizes = Sizes::of(model, size, places);
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
        let [draws, _] = GpuDraws::bytes(dims.vocabulary as usize, sizes.asked);
        let adapters = Residents::bytes(model, places, sizes.columns);
        [weights as u64, space as u64 + draws, adapters]
    }

    /// Takes all memory and sends the weights, which the team packs. `done` hears of each of them.
    pub fn new(
        model: Model,
        file: &[u8],
        (kernels, team): (GpuKernels, &mut Team),
        (size, table_entries): (EngineSize, usize),
        places: AdapterPlaces,
        mut done: impl FnMut(&Weight),
    ) -> Result<Self, GpuError> {
        let sizes = Sizes::of(&model, (size, table_entries), places);
        let gpu = kernels.gpu();
        let dims = model.dims;
        let total: usize = model.weights().map(|w| aligned(bytes(w))).sum();
        let weights = gpu.buffer(total)?;
        let mut loader = Loader::new(&weights, file, sizes.input, team, &mut done);
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
            .enumerate()
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
        let cache = u64::from(size.kv_blocks) * Self::block_bytes(&model, size.kv);
        let cache = gpu.buffer(cache as usize)?;
        // What lies past the end of a sequence is multiplied by weights of zero, so it must be numbers.
        cache.fill(0)?;
        let mut engine = Self {
            plan: GpuPlan::new(gpu, sizes.plan)?,
            graphs: Vec::new(),
            draws: GpuDraws::new(gpu, vocabulary, sizes.asked)?,
            found: vec![Outcome::default(); sizes.asked],
            logits: gpu.inbox(sizes.asked * vocabulary)?,
            fetched: vec![false; sizes.asked],
            adapters: Residents::new(&kernels, &model, places, sizes.columns)?,
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
        };
        engine.record(sizes)?;
        // The driver's functions are looked up when they are first called, which takes heap: later there is none.
        let row = engine.space.logits.all().range(0, vocabulary);
        engine.kernels.gpu().download(row, &engine.logits, 0)?;
        engine.kernels.gpu().finish()?;
        Ok(engine)
    }

    /// Records the steps of decodes: for each number of columns, items by powers of two.
    fn record(&mut self, sizes: Sizes) -> Result<(), GpuError> {
        let most = sizes.asked.min(sizes.columns);
        for columns in RECORDED_COLUMNS.into_iter().filter(|count| *count <= most) {
            let mut items = self.items_of_columns(columns);
            loop {
                for adapted in [false, true] {
                    if adapted && self.adapters.is_none() {
                        continue;
                    }
                    let work = Work {
                        columns,
                        asked: columns,
                        items: [items; 2],
                        adapted,
                    };
                    let graph = self.kernels.record(|| self.start(work))?;
                    self.graphs.push(Recorded { work, graph });
                }
                if items == sizes.plan.items {
                    break;
                }
                items = (2 * items).min(sizes.plan.items);
            }
        }
        Ok(())
    }

    /// Items of so many columns with one span each.
    fn items_of_columns(&self, columns: usize) -> usize {
        let shared_by = self.model.dims.heads / self.model.dims.kv_heads;
        columns * shared_by.div_ceil(ITEM_ROWS)
    }

    /// Fills the whole KV cache with numbers, so that a depth can be measured without computing what lies before it.
    pub fn fill_kv(&self) -> Result<(), GpuError> {
        // In f16 0.0645, in q8_0 44 times that.
        self.cache.fill(0x2c)
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
                    if let Some(adapters) = &self.adapters {
                        let place = adapters.of_column(from);
                        self.plan.put_place(asked, column, place);
                    }
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

    /// Runs what the plan says: as it was recorded, where that does this work and the least besides.
    fn run(&mut self, work: Work) -> Result<(), GpuError> {
        let recorded = self.graphs.iter().find(|recorded| {
            work.asked == work.columns
                && recorded.work.adapted == work.adapted
                && recorded.work.columns >= work.columns
                && recorded.work.items[0] >= work.items[0]
        });
        match recorded {
            Some(recorded) => {
                // Columns that it has besides are the first one again, whose results nobody asks for.
                for index in work.columns..recorded.work.columns {
                    self.plan.repeat_first(index);
                }
                self.kernels.replay(&recorded.graph)?;
            }
            None => self.start(work)?,
        }
        self.wait()
    }

    /// Waits until all is done that was asked for, and takes what came of the rows.
    fn wait(&mut self) -> Result<(), GpuError> {
        self.found.copy_from_slice(self.draws.outcomes()?);
        self.plan.clear_draws();
        Ok(())
    }

    /// Starts all of a step: the plan goes over, kernels run, tokens come back.
    fn start(&self, work: Work) -> Result<(), GpuError> {
        let gpu = self.kernels.gpu();
        self.plan.send(gpu)?;
        let all = self.plan.columns(work.columns);
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
        for index in 0..self.layers.len() {
            let last = index + 1 == self.layers.len();
            self.load_kv(index, work.pass(false))?;
            let pass = work.pass(last);
            if pass.columns == 0 {
                return Ok(());
            }
            self.attend(index, pass)?;
            self.feed_forward(index, pass)?;
        }
        self.head(work)?;
        let draws = self.plan.draws(0, work.asked);
        self.kernels
            .draw(space.logits.all(), draws, (&self.draws, 0))
    }

    /// q, k, v = rope(qk_norm(W_qkv · norm(x))); k and v go to the cache.
    fn load_kv(&self, index: usize, pass: Pass) -> Result<(), GpuError> {
        let columns = pass.columns;
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
        self.products(&layer.qkv, &inputs, (&space.qkv, width), pass)?;
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
    fn attend(&self, index: usize, pass: Pass) -> Result<(), GpuError> {
        let dims = self.model.dims;
        let space = &self.space;
        let (items, items_count) = self.plan.items(pass.asked, pass.items);
        let on_device = if pass.asked {
            self.plan.asked(pass.columns)
        } else {
            self.plan.columns(pass.columns)
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
        self.products(output, &inputs, (&space.result, dims.hidden), pass)
    }

    /// x += post_norm(result); result = W_down · (act(W_gate · norm(x)) ⊙ (W_up · norm(x)))
    fn feed_forward(&self, index: usize, pass: Pass) -> Result<(), GpuError> {
        let columns = pass.columns;
        let dims = self.model.dims;
        let space = &self.space;
        let layer = &self.layers[index];
        let post = layer.attention_post_norm.as_ref();
        let stream = if pass.asked { &space.x_asked } else { &space.x };
        let inputs = self.kernels.norm(
            &Norm {
                x: space.x.all(),
                result: Some(Added {
                    result: space.result.all(),
                    norm: post.map(|post| self.vector(post)),
                    sum: stream.all(),
                }),
                weight: self.vector(&layer.ffn_norm),
                from: pass.asked.then(|| self.plan.asked(columns)),
                columns,
                eps: self.model.norm_eps,
                precision: precision(index),
            },
            &space.inputs,
        )?;
        let gate_up = (&space.gate_up, 2 * dims.ffn);
        self.products(&layer.gate_up, &inputs, gate_up, pass)?;
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
        self.products(down, &inputs, (&space.result, dims.hidden), pass)
    }

    /// Logits of the columns that ask.
    fn head(&self, work: Work) -> Result<(), GpuError> {
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
                columns: work.asked,
                eps: self.model.norm_eps,
                precision: Precision::Eight,
            },
            &space.inputs,
        )?;
        let output = std::slice::from_ref(&self.output);
        let pass = Pass {
            adapted: false,
            ..work.pass(true)
        };
        self.products(output, &inputs, (&space.logits, self.output.rows), pass)
    }

    /// Matrices with the same input, their results side by side in each column, and what adapters add.
    fn products(
        &self,
        matrices: &[Placed],
        inputs: &Loaded<'_>,
        (y, stride): (&Buffer<f32>, usize),
        pass: Pass,
    ) -> Result<(), GpuError> {
        let mut products = [None; 3];
        let mut adapted = [Adapted::default(); 3];
        let mut start = 0;
        for (index, matrix) in matrices.iter().enumerate() {
            products[index] = Some(Product {
                matrix: self.matrix(matrix),
                y: y.all().range(start, y.len() - start),
                stride,
            });
            adapted[index] = Adapted {
                matrix: matrix.adapted_as,
                first: start,
                rows: matrix.rows,
            };
            start += matrix.rows;
        }
        let first = products[0].expect("at least one matrix");
        let products = products.map(|product| product.unwrap_or(first));
        self.kernels.products(&products[..matrices.len()], inputs)?;
        let Some(adapters) = self.adapters.as_ref().filter(|_| pass.adapted) else {
            return Ok(());
        };
        let places = self.plan.places(pass.asked, pass.columns);
        let adapters = (&adapters.gpu, places);
        let adapted = &adapted[..matrices.len()];
        self.kernels
            .add_low_rank(adapted, adapters, inputs, (y.all(), stride))
    }

    /// Says how a row is drawn, whose logits are left as they are.
    fn put_draw(&mut self, row: usize, drawing: &Drawing<'_>, unit: u64) {
        let sampling = drawing.sampling;
        if let Some(allowed) = drawing.allowed {
            self.draws.put_form(row, allowed);
        }
        let draw = Draw {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            top_k: sampling.top_k,
            unit: [unit as u32, (unit >> 32) as u32],
            formed: u32::from(drawing.allowed.is_some()),
            // Of one token the draw is certain, and of equals the first is meant.
            how: if sampling.temperature == 0.0 || sampling.top_k == 1 {
                Draw::GREEDY
            } else {
                Draw::RANDOM
            },
        };
        self.plan.put_draw(row, draw);
    }

    /// Begins to draw a row of the last step once more.
    fn draw_again(&self, row: usize) -> Result<(), GpuError> {
        let gpu = self.kernels.gpu();
        let vocabulary = self.model.dims.vocabulary as usize;
        self.plan.send_draw(gpu, row)?;
        let logits = self.space.logits.all();
        self.kernels.draw(
            logits.range(row * vocabulary, vocabulary),
            self.plan.draws(row, 1),
            (&self.draws, row),
        )
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

    /// Panics when the device fails.
    fn step(&mut self, plan: &StepPlan, tables: BlockTables<'_>) {
        let columns = plan.columns().len();
        assert!(columns > 0, "a step has work");
        assert!(
            plan.logits_rows() * self.vocabulary() as usize <= self.logits.len(),
            "rows fit"
        );
        self.fetched.fill(false);
        match &mut self.adapters {
            Some(adapters) => or_die(adapters.load(plan)),
            None => assert!(plan.adapted().is_empty(), "memory for adapters was taken"),
        }
        self.load_plan(plan, tables);
        let work = Work {
            columns,
            asked: self.asked.len(),
            items: self.items,
            adapted: !plan.adapted().is_empty(),
        };
        or_die(self.run(work));
    }

    /// Brings a row here, when it is first asked for: few are.
    fn logits(&mut self, row: usize) -> &mut [f32] {
        let vocabulary = self.model.dims.vocabulary as usize;
        let start = row * vocabulary;
        if !std::mem::replace(&mut self.fetched[row], true) {
            let from = self.space.logits.all().range(start, vocabulary);
            let begun = self.kernels.gpu().download(from, &self.logits, start);
            or_die(begun);
        }
        &mut or_die(self.logits.wait())[start..][..vocabulary]
    }

    fn ask(&mut self, row: usize, drawing: &Drawing<'_>, unit: u64) {
        if drawing.leaves_logits() {
            self.put_draw(row, drawing, unit);
        }
    }

    fn draw(&mut self, row: usize, drawing: &Drawing<'_>, unit: u64) -> Option<(u32, f32)> {
        if !drawing.leaves_logits() {
            return None;
        }
        self.put_draw(row, drawing, unit);
        or_die(self.draw_again(row));
        or_die(self.wait());
        self.found(row)?.drawn
    }

    fn found(&mut self, row: usize) -> Option<Found> {
        let outcome = self.found[row];
        Some(Found {
            certainty: outcome.certainty,
            drawn: (outcome.token != Outcome::NO_TOKEN).then_some((outcome.token, outcome.logit)),
        })
    }
}

/// Nothing that a device holds can be trusted after it failed, and systemd starts us again.
fn or_die<T>(done: Result<T, GpuError>) -> T {
    done.unwrap_or_else(|error| panic!("the GPU failed in a step: {error}"))
}
