//! The memory of a box as a sum: one line for each consumer, before anything large is allocated.
//!
//! Given a limit, the KV pool takes what the other lines leave, up to what all sequences can use. Too little for one
//! sequence of the whole context is a refusal that names the knobs.

use outstation_kernels::{Isa, KvFormat};
use serde::Serialize;

use crate::adapter::{AdapterPlaces, Base, PackedAdapter};
use crate::config::{ByteSize, CONTEXT_TOKENS_DEFAULT, MemoryConfig, ServingConfig};
use crate::energy::Shares;
use crate::engine::cpu::{CpuEngine, EngineSize};
use crate::grammar::Grammars;
use crate::kv::{KvPool, blocks_for};
use crate::limits::{self, KV_BLOCK_POSITIONS};
use crate::model::Model;
use crate::sampler::SamplerSpace;
use crate::scheduler::{Event, Scheduler, events_per_call_max, logits_rows_max};

/// One consumer of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetLine {
    /// Who.
    pub consumer: &'static str,
    /// How it follows from configuration and model.
    pub formula: String,
    /// How much.
    pub bytes: u64,
    /// For what.
    #[serde(skip)]
    pub part: Part,
}

/// What a line is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A model that is loaded.
    Model,
    /// The box, whatever it serves.
    Box,
    /// A model that is loaded, in the memory of a GPU.
    Gpu,
}

/// The table, and the sizes that follow from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// The consumers.
    pub lines: Vec<BudgetLine>,
    /// Their sum.
    pub total_bytes: u64,
    /// What each model that is loaded takes of it, and what they share.
    #[serde(skip)]
    pub model_bytes: u64,
    /// See `model_bytes`.
    #[serde(skip)]
    pub shared_bytes: u64,
    /// What it was made to fit.
    pub limit_bytes: u64,
    /// A GPU's own memory, where one computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuBudget>,
    /// Blocks of the KV pool.
    pub kv_blocks: u32,
    /// Positions of one sequence.
    pub context_tokens_max: u32,
    /// Positions over all blocks.
    pub kv_positions: u64,
    /// What it would take for all sequences to have the whole context at once.
    pub full_bytes: u64,
    /// How many they are.
    pub sequences_max: u32,
    /// How keys and values are stored.
    #[serde(skip)]
    pub kv: KvFormat,
}

/// What is taken of a GPU's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GpuBudget {
    /// The sum.
    pub total_bytes: u64,
    /// What each model that is loaded takes of it.
    #[serde(skip)]
    pub model_bytes: u64,
    /// What it was made to fit.
    pub limit_bytes: u64,
}

/// What does not fit, and what to turn.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Not even one sequence.
    #[error(
        "the model needs {needed} for one sequence of {context_tokens} tokens, the limit is {limit}: raise memory.limit, or \
         lower serving.context_tokens_max, serving.step_tokens_max or serving.sequences_max, or serve a smaller quant"
    )]
    TooSmall {
        /// Sum with the smallest useful pool.
        needed: ByteSize,
        /// What there is.
        limit: ByteSize,
        /// The context it was computed for.
        context_tokens: u32,
    },
    /// Not even one sequence on the GPU.
    #[error(
        "the model needs {needed} of the GPU's memory for one sequence of {context_tokens} tokens, {limit} are for it: raise \
         memory.gpu_limit, or lower serving.context_tokens_max, serving.step_tokens_max or serving.sequences_max, serve a \
         smaller quant, or compute with --device cpu"
    )]
    GpuTooSmall {
        /// Sum with the smallest useful pool.
        needed: ByteSize,
        /// What there is.
        limit: ByteSize,
        /// The context it was computed for.
        context_tokens: u32,
    },
    /// Heads that the format cannot store.
    #[error(
        "engine.kv is {kv}, which stores heads of a multiple of {} elements, the model's have {head_dim}: use f16", kv.head_multiple()
    )]
    KvFormat {
        /// Configured.
        kv: KvFormat,
        /// Elements of a head.
        head_dim: usize,
    },
    /// Longer than the model was trained for.
    #[error(
        "serving.context_tokens_max is {asked}, the model was trained for {trained}: lower it, answers past that are noise"
    )]
    PastTraining {
        /// Configured.
        asked: u32,
        /// `context_length` of the file.
        trained: u32,
    },
}

/// What computes.
#[derive(Debug, Clone, Copy)]
pub struct Compute {
    /// Instruction set.
    pub isa: Isa,
    /// Kernel threads.
    pub threads: usize,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Places for adapters.
    pub adapters: AdapterPlaces,
    /// The GPU that computes, if one does.
    pub gpu: Option<GpuMemory>,
}

/// Memory of a GPU.
#[derive(Debug, Clone, Copy)]
pub struct GpuMemory {
    /// What we may take of it.
    pub limit: ByteSize,
    /// Whether it is the host's: then it counts there.
    pub unified: bool,
}

impl GpuMemory {
    /// Where what it holds is counted.
    fn part(&self) -> Part {
        if self.unified { Part::Model } else { Part::Gpu }
    }
}

/// What a model takes with a GPU, but for its KV blocks.
struct GpuBytes {
    weights: u64,
    space: u64,
    adapters: u64,
    block: u64,
    pinned: u64,
}

impl GpuBytes {
    #[cfg(feature = "cuda")]
    fn of(model: &Model, size: EngineSize, entries: usize, places: AdapterPlaces) -> Self {
        use crate::engine::cuda::CudaEngine;
        let [weights, space, adapters] = CudaEngine::device_bytes(model, (size, entries), places);
        Self {
            weights,
            space,
            adapters,
            block: CudaEngine::block_bytes(model, size.kv),
            pinned: CudaEngine::host_bytes(model, (size, entries), places),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn of(_: &Model, _: EngineSize, _: usize, _: AdapterPlaces) -> Self {
        unreachable!("without the feature nobody names a GPU")
    }
}

/// Entries of the block tables of all sequences.
pub fn table_entries(sequences_max: u32, context: u32) -> usize {
    sequences_max as usize * blocks_for(context) as usize
}

/// Bytes of a model outside of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSizes {
    /// Bytes of all token texts.
    pub vocabulary_text_bytes: u64,
}

/// Bytes of writing down what is served; a box without a factory has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBytes {
    /// What is usual, answers that feedback may come for, the redactor.
    pub log: u64,
    /// Ring, buffers and index of the spool.
    pub spool: u64,
    /// What is on its way to the factory.
    pub uplink: u64,
}

impl LogBytes {
    fn lines(&self) -> [BudgetLine; 3] {
        let line = |consumer, formula: &str, bytes| BudgetLine {
            consumer,
            formula: formula.to_owned(),
            bytes,
            part: Part::Box,
        };
        [
            line(
                "log",
                "what is usual of 64 workloads, 4096 answers with 4 MiB of their words, the redactor",
                self.log,
            ),
            line(
                "spool",
                "a ring of 4 MiB, 1 MiB of each class before a commit, their frames, an entry for each segment",
                self.spool,
            ),
            line(
                "uplink",
                "segments at once × 64 KiB, and the windows of a connection",
                self.uplink,
            ),
        ]
    }
}

impl Budget {
    /// Adds up the consumers and sizes the KV pool. Memory that is for two models is halved: the second half is for a
    /// release on trial.
    pub fn plan(
        serving: &ServingConfig,
        compute: Compute,
        model: &Model,
        files: FileSizes,
        log: Option<&LogBytes>,
        limit: ByteSize,
        residents: u32,
    ) -> Result<Self, BudgetError> {
        let Compute { kv, gpu, .. } = compute;
        let trained = model.dims.context_positions;
        let context = serving
            .context_tokens_max
            .unwrap_or(trained.min(CONTEXT_TOKENS_DEFAULT));
        if context > trained {
            return Err(BudgetError::PastTraining {
                asked: context,
                trained,
            });
        }
        check_kv(kv, model)?;
        let on_gpu = gpu.map(|gpu| {
            let entries = table_entries(serving.sequences_max, context);
            let size = engine_size(serving, 0, kv);
            let bytes = GpuBytes::of(model, size, entries, compute.adapters);
            (gpu.part(), bytes)
        });
        let mut lines = model_lines(serving, compute, on_gpu.as_ref(), model, files, context);
        lines.extend(adapter_lines(
            compute.adapters,
            on_gpu.as_ref(),
            model,
            serving,
        ));
        lines.extend(box_lines(serving));
        lines.extend(log.into_iter().flat_map(LogBytes::lines));
        let shared_bytes = sum(&lines, Part::Box);
        let residents_of = |bytes: u64| bytes / u64::from(residents);
        let block_bytes = on_gpu.as_ref().map_or_else(
            || model.kv_bytes_per_position(kv) * u64::from(KV_BLOCK_POSITIONS),
            |(_, gpu)| gpu.block,
        );
        let (least, most) = (
            blocks_for(context),
            blocks_for(context) * serving.sequences_max,
        );
        // On a GPU with memory of its own the pool is there, and its lists are here.
        let pool_part = on_gpu.as_ref().map_or(Part::Model, |(part, _)| *part);
        let here = Room {
            free: residents_of(limit.0.saturating_sub(shared_bytes)),
            fixed: sum(&lines, Part::Model),
            block: KvPool::BLOCK_BYTES as u64
                + if pool_part == Part::Model {
                    block_bytes
                } else {
                    0
                },
        };
        if here.blocks() < u64::from(least) {
            return Err(BudgetError::TooSmall {
                needed: ByteSize(shared_bytes + u64::from(residents) * here.with(least)),
                limit,
                context_tokens: context,
            });
        }
        let mut blocks = here.blocks();
        let gpu_limit = gpu.filter(|_| pool_part == Part::Gpu).map(|gpu| gpu.limit);
        if let Some(limit) = gpu_limit {
            let there = Room {
                free: residents_of(limit.0),
                fixed: sum(&lines, Part::Gpu),
                block: block_bytes,
            };
            if there.blocks() < u64::from(least) {
                return Err(BudgetError::GpuTooSmall {
                    needed: ByteSize(u64::from(residents) * there.with(least)),
                    limit,
                    context_tokens: context,
                });
            }
            blocks = blocks.min(there.blocks());
        }
        let kv_blocks = u32::try_from(blocks).unwrap_or(u32::MAX).min(most);
        let full_bytes = shared_bytes + u64::from(residents) * here.with(most);
        let pool = pool_lines(model, kv, kv_blocks, (pool_part, block_bytes));
        lines.splice(1..1, pool);
        let (model_bytes, gpu_model_bytes) = (sum(&lines, Part::Model), sum(&lines, Part::Gpu));
        if residents > 1 {
            lines.extend(beside_lines(&lines));
        }
        Ok(Self {
            total_bytes: sum(&lines, Part::Model) + sum(&lines, Part::Box),
            gpu: gpu_limit.map(|limit| GpuBudget {
                total_bytes: sum(&lines, Part::Gpu),
                model_bytes: gpu_model_bytes,
                limit_bytes: limit.0,
            }),
            model_bytes,
            shared_bytes,
            lines,
            limit_bytes: limit.0,
            kv_blocks,
            context_tokens_max: context,
            kv_positions: u64::from(kv_blocks) * u64::from(KV_BLOCK_POSITIONS),
            full_bytes,
            sequences_max: serving.sequences_max,
            kv,
        })
    }

    /// What was found at start is what there is, whatever is free when a release comes in.
    pub fn fix_limits(&self, memory: &mut MemoryConfig) {
        memory.limit = Some(ByteSize(self.limit_bytes));
        if let Some(gpu) = &self.gpu {
            memory.gpu_limit = Some(ByteSize(gpu.limit_bytes));
        }
    }

    /// What the engine takes.
    pub fn engine_size(&self, serving: &ServingConfig) -> EngineSize {
        engine_size(serving, self.kv_blocks, self.kv)
    }
}

/// Memory in one place, for a model.
struct Room {
    free: u64,
    /// What is not KV blocks.
    fixed: u64,
    /// Of a KV block.
    block: u64,
}

impl Room {
    /// Blocks that fit.
    fn blocks(&self) -> u64 {
        self.free.saturating_sub(self.fixed) / self.block
    }

    /// Bytes with so many blocks.
    fn with(&self, blocks: u32) -> u64 {
        self.fixed + u64::from(blocks) * self.block
    }
}

fn sum(lines: &[BudgetLine], part: Part) -> u64 {
    let lines = lines.iter().filter(|line| line.part == part);
    lines.map(|line| line.bytes).sum()
}

/// Lines of the KV pool: its blocks, where they are, and its lists, which are here.
fn pool_lines(
    model: &Model,
    kv: KvFormat,
    kv_blocks: u32,
    (part, block_bytes): (Part, u64),
) -> [BudgetLine; 2] {
    let consumer = match part {
        Part::Gpu => "GPU: KV pool",
        Part::Model | Part::Box => "KV pool",
    };
    let blocks = BudgetLine {
        consumer,
        formula: format!(
            "{kv_blocks} blocks × {KV_BLOCK_POSITIONS} positions × {} layers × 2 × {} heads × {} × {} B ({kv})",
            model.layers.len(),
            model.dims.kv_heads,
            model.dims.head_dim,
            kv.plane_bytes(model.dims.head_dim, 1) as f64 / model.dims.head_dim as f64,
        ),
        bytes: u64::from(kv_blocks) * block_bytes,
        part,
    };
    let lists = BudgetLine {
        consumer: "prefix index",
        formula: format!(
            "{kv_blocks} blocks × {} B, and who holds each",
            KvPool::BLOCK_BYTES
        ),
        bytes: u64::from(kv_blocks) * KvPool::BLOCK_BYTES as u64,
        part: Part::Model,
    };
    [blocks, lists]
}

/// Lines of a second model, where there is memory for two.
fn beside_lines(lines: &[BudgetLine]) -> Vec<BudgetLine> {
    let beside = |consumer, bytes, part| BudgetLine {
        consumer,
        formula: "as much again, for a release on trial".to_owned(),
        bytes,
        part,
    };
    let (here, there) = (sum(lines, Part::Model), sum(lines, Part::Gpu));
    let mut found = vec![beside("a model beside it", here, Part::Box)];
    if there > 0 {
        found.push(beside("GPU: a model beside it", there, Part::Gpu));
    }
    found
}

/// Whether the model's heads can be stored in a format.
pub fn check_kv(kv: KvFormat, model: &Model) -> Result<(), BudgetError> {
    let head_dim = model.dims.head_dim;
    if kv.fits(head_dim) {
        Ok(())
    } else {
        Err(BudgetError::KvFormat { kv, head_dim })
    }
}

fn engine_size(serving: &ServingConfig, kv_blocks: u32, kv: KvFormat) -> EngineSize {
    EngineSize {
        columns_max: serving.step_tokens_max as usize,
        logits_rows_max: logits_rows_max(serving.sequences_max),
        kv_blocks,
        kv,
    }
}

/// Weights and workspaces, where they are.
fn engine_lines(
    serving: &ServingConfig,
    Compute { isa, threads, .. }: Compute,
    on_gpu: Option<&(Part, GpuBytes)>,
    model: &Model,
) -> Vec<BudgetLine> {
    let line = |consumer, formula: String, bytes| BudgetLine {
        consumer,
        formula,
        bytes,
        part: Part::Model,
    };
    let rows = logits_rows_max(serving.sequences_max);
    match on_gpu {
        None => vec![
            line(
                "weights",
                "every matrix of the file, packed".into(),
                model.packed_bytes as u64,
            ),
            line(
                "step workspaces",
                format!(
                    "{} columns of intermediate results, {rows} rows of logits, scratch of {threads} threads",
                    serving.step_tokens_max,
                ),
                CpuEngine::workspace_bytes(
                    model,
                    isa,
                    engine_size(serving, 0, KvFormat::F16),
                    threads,
                ),
            ),
        ],
        Some((part, gpu)) => {
            let there = |consumer, formula, bytes| BudgetLine {
                part: *part,
                ..line(consumer, formula, bytes)
            };
            vec![
                there(
                    "GPU: weights",
                    "every matrix of the file, packed".into(),
                    gpu.weights,
                ),
                there(
                    "GPU: workspaces",
                    format!(
                        "{} columns of intermediate results, {rows} rows of logits, parts of attention",
                        serving.step_tokens_max,
                    ),
                    gpu.space,
                ),
                line(
                    "pinned for the GPU",
                    format!("{rows} rows of logits, what a step is"),
                    gpu.pinned,
                ),
            ]
        }
    }
}

/// Lines of the places for adapters, and of what steps that have some work in.
fn adapter_lines(
    places: AdapterPlaces,
    on_gpu: Option<&(Part, GpuBytes)>,
    model: &Model,
    serving: &ServingConfig,
) -> Vec<BudgetLine> {
    if places.count == 0 {
        return Vec::new();
    }
    let base = Base::of(model);
    let place = places.place_bytes(&base) + PackedAdapter::table_bytes(&base) as u64;
    let columns = serving.step_tokens_max;
    let places_text = format!(
        "{} places × {} for rank {}",
        places.count,
        ByteSize(place),
        places.rank_max
    );
    let between = format!(
        "{columns} columns × 3 × {} × 4 B in between",
        places.rank_max
    );
    let here = |formula, space| BudgetLine {
        consumer: "adapters",
        formula,
        bytes: u64::from(places.count) * place + space,
        part: Part::Model,
    };
    match on_gpu {
        None => {
            let space = CpuEngine::adapter_space_bytes(columns as usize, places.rank());
            vec![here(format!("{places_text}, {between}"), space)]
        }
        Some((part, gpu)) => {
            let there = BudgetLine {
                consumer: "GPU: adapters",
                formula: format!("as many places, {between}"),
                bytes: gpu.adapters,
                part: *part,
            };
            vec![here(places_text, 0), there]
        }
    }
}

/// All lines of a model but the KV pool.
fn model_lines(
    serving: &ServingConfig,
    compute: Compute,
    on_gpu: Option<&(Part, GpuBytes)>,
    model: &Model,
    files: FileSizes,
    context: u32,
) -> Vec<BudgetLine> {
    let sequences = u64::from(serving.sequences_max);
    let under_way = under_way(serving);
    let context = u64::from(context);
    let line = |consumer, formula: String, bytes| BudgetLine {
        consumer,
        formula,
        bytes,
        part: Part::Model,
    };
    let of_engine = engine_lines(serving, compute, on_gpu, model);
    let of_requests = [
        line(
            "sampler",
            format!("{} tokens × 13 B", model.dims.vocabulary),
            SamplerSpace::bytes(model.dims.vocabulary),
        ),
        line(
            "sequences",
            format!(
                "{sequences} × {} blocks × 4 B, their guesses, the queue and its forecast",
                context.div_ceil(u64::from(KV_BLOCK_POSITIONS))
            ),
            sequences * context.div_ceil(u64::from(KV_BLOCK_POSITIONS)) * 4
                + Scheduler::bytes(serving.sequences_max, serving.queue_requests_max),
        ),
        line(
            "requests under way",
            format!(
                "{under_way} × ({context} token ids × 4 B + {} events × 96 B)",
                limits::STREAM_TOKENS_BUFFERED_MAX
            ),
            under_way * (context * 4 + limits::STREAM_TOKENS_BUFFERED_MAX as u64 * 96),
        ),
        line(
            "tokenizer",
            "4 × token texts + 160 B for each token".into(),
            4 * files.vocabulary_text_bytes + 160 * u64::from(model.dims.vocabulary),
        ),
        line(
            "structured outputs",
            format!(
                "{} tokens × 320 B, {} requests × {}, {} being compiled × {}",
                model.dims.vocabulary,
                limits::grammars_max(serving.sequences_max),
                ByteSize(limits::GRAMMAR_BYTES_MAX),
                limits::GRAMMARS_COMPILING_MAX,
                ByteSize(limits::GRAMMAR_COMPILE_BYTES_MAX)
            ),
            Grammars::bytes(
                model.dims.vocabulary,
                limits::grammars_max(serving.sequences_max),
            ),
        ),
    ];
    of_engine.into_iter().chain(of_requests).collect()
}

/// Lines of the box, whatever it serves.
fn box_lines(serving: &ServingConfig) -> Vec<BudgetLine> {
    let under_way = under_way(serving);
    let line = |consumer, formula: String, bytes| BudgetLine {
        consumer,
        formula,
        bytes,
        part: Part::Box,
    };
    vec![
        line(
            "rings",
            format!(
                "{} events × {} B to the io thread, {} requests × {} B back, who ran when for the meter",
                ring_events(serving),
                size_of::<Event>(),
                2 * under_way,
                RING_REQUEST_BYTES
            ),
            ring_events(serving) as u64 * size_of::<Event>() as u64
                + 2 * under_way * RING_REQUEST_BYTES
                + Shares::ring_bytes(serving.sequences_max),
        ),
        line(
            "connections",
            format!(
                "{} × {} (receive and send windows, TLS state)",
                serving.connections_max,
                ByteSize(CONNECTION_BYTES)
            ),
            u64::from(serving.connections_max) * CONNECTION_BYTES,
        ),
        line(
            "HTTP",
            format!(
                "{HTTP_CONNECTIONS} connections × 160 KiB, {HTTP_BODIES} bodies × {}",
                ByteSize(HTTP_BODY_BYTES)
            ),
            HTTP_CONNECTIONS * (160 << 10) + HTTP_BODIES * HTTP_BODY_BYTES,
        ),
        line("code, stacks, reserve", "fixed".into(), RESERVE_BYTES),
    ]
}

fn under_way(serving: &ServingConfig) -> u64 {
    let (sequences, queue) = (serving.sequences_max, serving.queue_requests_max);
    limits::requests_under_way_max(sequences, queue).into()
}

/// Events that the ring to the io thread holds: those of some steps, and of any one call twice.
pub fn ring_events(serving: &ServingConfig) -> usize {
    let call = events_per_call_max(serving.sequences_max, serving.queue_requests_max);
    (64 * serving.sequences_max as usize + 1024).max(2 * call)
}

/// A request or cancellation in its ring, and in the channel before it.
const RING_REQUEST_BYTES: u64 = 128;

/// What a QUIC connection may hold as `io::quic` configures it: 512 KiB of receive window, two uploads of 256 KiB, 256
/// KiB of send window, 4 KiB of writing for each of 32 answers, and 128 KiB of TLS and bookkeeping.
const CONNECTION_BYTES: u64 = (512 << 10) + (512 << 10) + (256 << 10) + (128 << 10) + (128 << 10);

/// Ceilings of `io::http`, which asserts that they are these.
pub(crate) const HTTP_CONNECTIONS: u64 = 256;
pub(crate) const HTTP_BODIES: u64 = 8;
pub(crate) const HTTP_BODY_BYTES: u64 = 2 * limits::PROMPT_BYTES_MAX as u64 + (64 << 10);

/// The binary, thread stacks, the runtime, allocator slack.
const RESERVE_BYTES: u64 = 48 << 20;

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            writeln!(
                f,
                "{:<22} {:>12}  {}",
                line.consumer,
                ByteSize(line.bytes).to_string(),
                line.formula
            )?;
        }
        writeln!(
            f,
            "{:<22} {:>12}  limit {}",
            "total",
            ByteSize(self.total_bytes).to_string(),
            ByteSize(self.limit_bytes)
        )?;
        if let Some(gpu) = &self.gpu {
            writeln!(
                f,
                "{:<22} {:>12}  limit {}",
                "GPU: total",
                ByteSize(gpu.total_bytes).to_string(),
                ByteSize(gpu.limit_bytes)
            )?;
        }
        writeln!(
            f,
            "{:<22} {:>12}  tokens in all, {} for one sequence",
            "context", self.kv_positions, self.context_tokens_max
        )?;
        write!(
            f,
            "{:<22} {:>12}  for {} sequences of {} tokens at once",
            "full",
            ByteSize(self.full_bytes).to_string(),
            self.sequences_max,
            self.context_tokens_max
        )
    }
}
