//! One method for each kernel: shapes are asserted here, and the struct that a kernel takes is filled in.

use super::draw::DrawKernels;
use super::driver::{Graph, Grid, Image, Kernel, Slice};
use super::inputs::{GpuInputs, InputsArg, Loaded, TILE_COLUMNS};
use super::low_rank::LowRankKernels;
use super::pack::{self, Kind, TILE_ROWS};
use super::plan::{Column, Item};
use super::{Gpu, GpuError};
use outstation_kernels::quant::Format;
use outstation_kernels::{KvFormat, Precision};

/// Bytes where a driver would have them: it reads words.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

/// What `build.rs` made of a family of kernels for one kind of device.
macro_rules! made {
    ($family:literal, $kind:literal) => {{
        static MADE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
            env!("OUT_DIR"),
            "/",
            $family,
            ".",
            $kind
        )));
        &MADE.0
    }};
}

/// A family of kernels.
macro_rules! image {
    ($family:literal) => {
        Image {
            code: [
                ((8, 7), made!($family, "87")),
                ((9, 0), made!($family, "90")),
                ((11, 0), made!($family, "110")),
            ],
            text: made!($family, "80"),
        }
    };
}

/// Tiles that one block of a product takes, of which kernels exist.
const TILES: [usize; 4] = [1, 2, 4, 8];

/// Warps of a block of a product, at most: each takes slabs of 256 columns in turn.
const WARPS: usize = 8;

/// Positions that have a softmax of their own.
pub const SPAN: usize = 256;

/// Positions of a KV block, on which layouts rely.
const BLOCK_POSITIONS: usize = 32;

/// Widths of heads that attention has kernels for, in 32 elements.
const HEAD_GROUPS: [usize; 5] = [1, 2, 3, 4, 8];

/// Rows that attention takes at once.
const ATTEND_ROWS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct CacheArg {
    keys: u64,
    values: u64,
    kv_heads: i32,
    head_dim: i32,
    plane_bytes: i32,
    bytes: i32,
}

/// A matrix on the device, packed by [`pack::pack_tile`].
#[derive(Clone, Copy)]
pub struct GpuMatrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Slice<'a, u8>,
}

impl<'a> GpuMatrix<'a> {
    /// **Shapes** `bytes`: `pack::bytes(format, rows, cols)`.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: Slice<'a, u8>) -> Self {
        assert_eq!(bytes.len(), pack::bytes(format, rows, cols));
        Self {
            format,
            rows,
            cols,
            bytes,
        }
    }
}

/// Where keys and values of one layer lie.
#[derive(Clone, Copy)]
pub struct GpuCache<'a> {
    /// `[block][head]` planes.
    pub keys: Slice<'a, u8>,
    /// The same.
    pub values: Slice<'a, u8>,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How an element is stored; F16 or Q8_0.
    pub format: KvFormat,
}

impl GpuCache<'_> {
    /// Elements of a head as it is stored: a whole number of 32 that attention has a kernel for; none if it is too
    /// wide.
    pub fn padded(head_dim: usize) -> Option<usize> {
        let groups = HEAD_GROUPS
            .iter()
            .find(|groups| **groups * 32 >= head_dim)?;
        Some(groups * 32)
    }

    /// Bytes of the keys (or values) of one head in one block.
    pub fn plane_bytes(head_dim: usize, format: KvFormat) -> usize {
        let padded = Self::padded(head_dim).expect("checked by who asks for memory");
        format.plane_bytes(padded, BLOCK_POSITIONS)
    }

    fn argument(&self) -> CacheArg {
        let plane = Self::plane_bytes(self.head_dim, self.format);
        assert_eq!(self.keys.len(), self.values.len());
        assert!(self.keys.len().is_multiple_of(plane * self.kv_heads));
        CacheArg {
            keys: self.keys.at(),
            values: self.values.at(),
            kv_heads: self.kv_heads as i32,
            head_dim: Self::padded(self.head_dim).expect("as above") as i32,
            plane_bytes: plane as i32,
            bytes: match self.format {
                KvFormat::F16 => 2,
                KvFormat::Q8_0 => 1,
                KvFormat::I16 => panic!("i16 is a processor's format"),
            },
        }
    }
}

/// One of the products of a call.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights.
    pub matrix: GpuMatrix<'a>,
    /// `[columns, stride]`, of which it writes `matrix.rows` of each.
    pub y: Slice<'a, f32>,
    /// Floats from a column to the next.
    pub stride: usize,
}

/// What [`GpuKernels::embed`] takes.
pub struct Embed<'a> {
    /// `[vocabulary, hidden]`
    pub matrix: GpuMatrix<'a>,
    /// Columns of the step.
    pub columns: Slice<'a, Column>,
    /// Multiplies what comes out.
    pub scale: f32,
    /// `[columns, hidden]`
    pub x: Slice<'a, f32>,
}

/// What is added to the stream before it is normed.
#[derive(Clone, Copy)]
pub struct Added<'a> {
    /// `[columns, width]`
    pub result: Slice<'a, f32>,
    /// Its own norm before that, `[width]`.
    pub norm: Option<Slice<'a, f32>>,
    /// Where the sum goes, `[columns, width]`; may be the stream itself.
    pub sum: Slice<'a, f32>,
}

/// What [`GpuKernels::norm`] takes.
pub struct Norm<'a> {
    /// `[columns, width]`: the stream.
    pub x: Slice<'a, f32>,
    /// What is added to it first.
    pub result: Option<Added<'a>>,
    /// `[width]`
    pub weight: Slice<'a, f32>,
    /// Columns whose `from` says which row of `x` is theirs, where only some go on.
    pub from: Option<Slice<'a, Column>>,
    /// Columns that go on.
    pub columns: usize,
    /// Of the norms.
    pub eps: f32,
    /// Of what comes out.
    pub precision: Precision,
}

/// What [`GpuKernels::heads`] takes.
pub struct Heads<'a> {
    /// `[columns, q | k | v]`
    pub qkv: Slice<'a, f32>,
    /// `[q | k | v]`
    pub bias: Option<Slice<'a, f32>>,
    /// Norms of query and key heads, `[head_dim]` each.
    pub norms: Option<[Slice<'a, f32>; 2]>,
    /// `[columns, pairs, 2]`, pairs, and whether pairs are `(i, i + pairs)`.
    pub rotations: Option<(Slice<'a, f32>, usize, bool)>,
    /// Columns of the step.
    pub columns: Slice<'a, Column>,
    /// `[columns, heads, head_dim padded]`, f16.
    pub q: Slice<'a, u16>,
    /// Query heads.
    pub heads: usize,
    /// Of the norms.
    pub eps: f32,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// What [`GpuKernels::attend`] takes.
pub struct Attend<'a> {
    /// What there is to do.
    pub items: Slice<'a, Item>,
    /// How many of them count.
    pub items_count: Slice<'a, u32>,
    /// Columns that attend.
    pub columns: Slice<'a, Column>,
    /// Block tables.
    pub tables: Slice<'a, u32>,
    /// As [`GpuKernels::heads`] wrote them, by `from` of the columns.
    pub q: Slice<'a, u16>,
    /// `[part, heads, 2 + head_dim padded]`
    pub parts: Slice<'a, f32>,
    /// Query heads.
    pub heads: usize,
    /// Positions that a query sees.
    pub window: Option<u32>,
}

/// What [`GpuKernels::gate`] takes.
pub struct Gate<'a> {
    /// `[columns, gate | up]`
    pub gate_up: Slice<'a, f32>,
    /// Columns.
    pub columns: usize,
    /// Width of the gate.
    pub width: usize,
    /// GELU rather than SiLU.
    pub gelu: bool,
    /// Of what comes out.
    pub precision: Precision,
}

struct Products {
    /// By index of [`TILES`].
    by_tiles: [Kernel; 4],
}

/// A device with all kernels.
pub struct GpuKernels {
    gpu: Gpu,
    products: Vec<(Kind, Products)>,
    floats: Vec<(Kind, Kernel)>,
    embeds: Vec<(Kind, Kernel)>,
    norm: Kernel,
    heads: Kernel,
    gate: Kernel,
    join: Kernel,
    rotations: Kernel,
    /// Of f16 and q8_0, by index of [`HEAD_GROUPS`].
    attends: [[Kernel; 5]; 2],
    pub(super) draws: DrawKernels,
    pub(super) low_rank: LowRankKernels,
}

/// A step that was recorded.
pub struct StepGraph(Graph);

impl GpuKernels {
    /// Takes a device.
    pub fn open(index: u32) -> Result<GpuKernels, GpuError> {
        let images = [
            image!("attention"),
            image!("draw"),
            image!("low_rank"),
            image!("matmul"),
            image!("rows"),
        ];
        let gpu = Gpu::open(index, &images)?;
        let plain = |name: &str| gpu.kernel(name, 0);
        let (mut products, mut floats, mut embeds) = (Vec::new(), Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let name = kind.name();
            embeds.push((kind, plain(&format!("embed_{name}"))?));
            if kind.is_float() {
                floats.push((kind, plain(&format!("matmul_{name}"))?));
                continue;
            }
            let of = |tiles: usize| {
                gpu.kernel(
                    &format!("matmul_{name}_{tiles}"),
                    product_shared(WARPS, tiles),
                )
            };
            let by_tiles = [of(TILES[0])?, of(TILES[1])?, of(TILES[2])?, of(TILES[3])?];
            products.push((kind, Products { by_tiles }));
        }
        let attend = |kv: &str| -> Result<[Kernel; 5], GpuError> {
            let of = |groups: usize| {
                gpu.kernel(&format!("attend_{kv}_{groups}"), attend_shared(groups * 32))
            };
            Ok([
                of(HEAD_GROUPS[0])?,
                of(HEAD_GROUPS[1])?,
                of(HEAD_GROUPS[2])?,
                of(HEAD_GROUPS[3])?,
                of(HEAD_GROUPS[4])?,
            ])
        };
        Ok(GpuKernels {
            products,
            floats,
            embeds,
            norm: plain("rms_norm")?,
            heads: plain("heads")?,
            gate: plain("gate")?,
            join: plain("join")?,
            rotations: plain("rotations")?,
            attends: [attend("f16")?, attend("q8_0")?],
            draws: DrawKernels::find(&gpu)?,
            low_rank: LowRankKernels::find(&gpu)?,
            gpu,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Records what `work` asks for.
    pub fn record(
        &self,
        work: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<StepGraph, GpuError> {
        self.gpu.capture(work).map(StepGraph)
    }

    /// Starts what was recorded.
    pub fn replay(&self, StepGraph(graph): &StepGraph) -> Result<(), GpuError> {
        graph.launch()
    }

    /// `x = embedding[token] · scale`
    pub fn embed(&self, embed: &Embed<'_>) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            weights: u64,
            columns: u64,
            x: u64,
            cols: i32,
            scale: f32,
        }
        let (columns, matrix) = (embed.columns.len(), &embed.matrix);
        assert!(columns * matrix.cols <= embed.x.len());
        let kernel = of_kind(&self.embeds, Kind::of(matrix.format));
        let argument = Arg {
            weights: matrix.bytes.at(),
            columns: embed.columns.at(),
            x: embed.x.at(),
            cols: matrix.cols as i32,
            scale: embed.scale,
        };
        let grid = Grid {
            early: false,
            ..rows_grid(columns, 1, 128, 0)
        };
        self.gpu.launch(kernel, grid, &argument)
    }

    /// Cosines and sines of each column's position, `[columns, pairs, 2]`.
    pub fn rotations(
        &self,
        columns: Slice<'_, Column>,
        inv_freq: Slice<'_, f64>,
        magnitude: f32,
        table: Slice<'_, f32>,
    ) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            columns: u64,
            inv_freq: u64,
            table: u64,
            pairs: i32,
            magnitude: f32,
        }
        assert!(columns.len() * inv_freq.len() * 2 <= table.len());
        let argument = Arg {
            columns: columns.at(),
            inv_freq: inv_freq.at(),
            table: table.at(),
            pairs: inv_freq.len() as i32,
            magnitude,
        };
        let grid = Grid {
            early: false,
            ..rows_grid(columns.len(), 1, 128, 0)
        };
        self.gpu.launch(self.rotations, grid, &argument)
    }

    /// `stream = x + norm(result)`, then `inputs = norm(stream)`; or `inputs = norm(x)`.
    pub fn norm<'i>(&self, norm: &Norm<'_>, inputs: &'i GpuInputs) -> Result<Loaded<'i>, GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            x: u64,
            stream: u64,
            result: u64,
            result_norm: u64,
            weight: u64,
            columns: u64,
            y: u64,
            inputs: InputsArg,
            width: i32,
            eps: f32,
        }
        let width = norm.weight.len();
        let (mut stream, mut result, mut result_norm) = (0, 0, 0);
        if let Some(added) = &norm.result {
            let len = added.result.len().min(added.sum.len());
            assert!(norm.columns * width <= len);
            stream = added.sum.at();
            result = added.result.at();
            if let Some(weight) = added.norm {
                assert_eq!(weight.len(), width);
                result_norm = weight.at();
            }
        }
        assert!(norm.columns * width <= norm.x.len());
        if let Some(from) = norm.from {
            assert!(norm.columns <= from.len());
        }
        let loaded = inputs.begin(norm.columns, width, norm.precision);
        let argument = Arg {
            x: norm.x.at(),
            stream,
            result,
            result_norm,
            weight: norm.weight.at(),
            columns: norm.from.map_or(0, |from| from.at()),
            inputs: loaded.argument(),
            y: inputs.floats_at(),
            width: width as i32,
            eps: norm.eps,
        };
        self.gpu
            .launch(self.norm, rows_grid(norm.columns, 1, 256, 8 * 4), &argument)?;
        Ok(loaded)
    }

    /// `y = matrix · inputs` for up to three matrices with the same inputs.
    pub fn products(&self, products: &[Product<'_>], inputs: &Loaded<'_>) -> Result<(), GpuError> {
        for product in products {
            assert_eq!(product.matrix.cols, inputs.cols);
            let last = (inputs.columns - 1) * product.stride + product.matrix.rows;
            assert!(last <= product.y.len());
        }
        let mut start = 0;
        while start < products.len() {
            let kind = Kind::of(products[start].matrix.format);
            let alike = products[start..]
                .iter()
                .take_while(|product| Kind::of(product.matrix.format) == kind)
                .count();
            let run = &products[start..start + alike];
            if kind.is_float() {
                for product in run {
                    self.float_product(kind, product, inputs)?;
                }
            } else {
                self.code_products(kind, run, inputs)?;
            }
            start += alike;
        }
        Ok(())
    }

    fn code_products(
        &self,
        kind: Kind,
        products: &[Product<'_>],
        inputs: &Loaded<'_>,
    ) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy, Default)]
        struct One {
            weights: u64,
            y: u64,
            rows: i32,
            stride: i32,
            row_tiles: i32,
            padding: i32,
        }
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            of: [One; 3],
            inputs: InputsArg,
            cols: i32,
            columns: i32,
        }
        assert!(products.len() <= 3);
        let mut of = [One::default(); 3];
        for (one, product) in of.iter_mut().zip(products) {
            *one = One {
                weights: product.matrix.bytes.at(),
                y: product.y.at(),
                rows: product.matrix.rows as i32,
                stride: product.stride as i32,
                row_tiles: product.matrix.rows.div_ceil(TILE_ROWS) as i32,
                padding: 0,
            };
        }
        let row_tiles: i32 = of.iter().map(|one| one.row_tiles).sum();
        // The fewest columns that hold all, or the most that there are.
        let index = TILES.iter().position(|tiles| *tiles >= inputs.tiles);
        let index = index.unwrap_or(TILES.len() - 1);
        // A function of the width alone: it says in which order sums are made.
        let warps = inputs.cols.div_ceil(256).min(WARPS);
        let grid = Grid {
            blocks: (row_tiles as usize, inputs.tiles.div_ceil(TILES[index])),
            threads: 32 * warps,
            shared: product_shared(warps, TILES[index]),
            early: true,
        };
        let argument = Arg {
            of,
            inputs: inputs.argument(),
            cols: inputs.cols as i32,
            columns: inputs.columns as i32,
        };
        let kernels = self.products.iter().find(|(of, _)| *of == kind);
        let (_, kernels) = kernels.expect("one for each kind");
        self.gpu.launch(kernels.by_tiles[index], grid, &argument)
    }

    fn float_product(
        &self,
        kind: Kind,
        product: &Product<'_>,
        inputs: &Loaded<'_>,
    ) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            weights: u64,
            x: u64,
            y: u64,
            rows: i32,
            cols: i32,
            stride: i32,
            columns: i32,
        }
        let x = inputs.memory.floats.as_ref();
        let argument = Arg {
            weights: product.matrix.bytes.at(),
            x: x.expect("asked for with float weights").all().at(),
            y: product.y.at(),
            rows: product.matrix.rows as i32,
            cols: product.matrix.cols as i32,
            stride: product.stride as i32,
            columns: inputs.columns as i32,
        };
        let blocks = (
            // Four warps with four rows each.
            product.matrix.rows.div_ceil(16),
            inputs.columns.div_ceil(TILE_COLUMNS),
        );
        let grid = Grid {
            blocks,
            threads: 128,
            shared: 0,
            early: true,
        };
        self.gpu
            .launch(of_kind(&self.floats, kind), grid, &argument)
    }

    /// Biases, norms and rotations of heads; queries to `q`, keys and values to the cache.
    pub fn heads(&self, heads: &Heads<'_>, cache: &GpuCache<'_>) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            qkv: u64,
            bias: u64,
            q_norm: u64,
            k_norm: u64,
            rotations: u64,
            columns: u64,
            q: u64,
            cache: CacheArg,
            heads: i32,
            head_dim: i32,
            pairs: i32,
            halves: i32,
            eps: f32,
            q_scale: f32,
        }
        let columns = heads.columns.len();
        let (all, padded) = (
            heads.heads + 2 * cache.kv_heads,
            GpuCache::padded(cache.head_dim).expect("checked"),
        );
        assert!(columns * all * cache.head_dim <= heads.qkv.len());
        assert!(columns * heads.heads * padded <= heads.q.len());
        if let Some(bias) = heads.bias {
            assert_eq!(bias.len(), all * cache.head_dim);
        }
        if let Some(norms) = heads.norms {
            assert!(norms.iter().all(|norm| norm.len() == cache.head_dim));
        }
        let (table, pairs, halves) = heads.rotations.map_or((0, 0, false), |of| {
            assert!(columns * of.1 * 2 <= of.0.len() && 2 * of.1 <= cache.head_dim);
            (of.0.at(), of.1, of.2)
        });
        let argument = Arg {
            qkv: heads.qkv.at(),
            bias: heads.bias.map_or(0, |bias| bias.at()),
            q_norm: heads.norms.map_or(0, |[q, _]| q.at()),
            k_norm: heads.norms.map_or(0, |[_, k]| k.at()),
            rotations: table,
            columns: heads.columns.at(),
            q: heads.q.at(),
            cache: cache.argument(),
            heads: heads.heads as i32,
            head_dim: cache.head_dim as i32,
            pairs: pairs as i32,
            halves: i32::from(halves),
            eps: heads.eps,
            q_scale: heads.scale * std::f32::consts::LOG2_E,
        };
        let grid = rows_grid(columns, 1, 256, 8 * padded * 4);
        self.gpu.launch(self.heads, grid, &argument)
    }

    /// Attention of items; their results are parts.
    pub fn attend(&self, attend: &Attend<'_>, cache: &GpuCache<'_>) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            items: u64,
            items_count: u64,
            columns: u64,
            tables: u64,
            q: u64,
            parts: u64,
            cache: CacheArg,
            heads: i32,
            window: i32,
        }
        let cache_argument = cache.argument();
        let groups = cache_argument.head_dim as usize / 32;
        assert!(attend.heads.is_multiple_of(cache.kv_heads));
        let index = HEAD_GROUPS.iter().position(|of| *of == groups);
        let kernels = &self.attends[usize::from(cache.format == KvFormat::Q8_0)];
        let argument = Arg {
            items: attend.items.at(),
            items_count: attend.items_count.at(),
            columns: attend.columns.at(),
            tables: attend.tables.at(),
            q: attend.q.at(),
            parts: attend.parts.at(),
            cache: cache_argument,
            heads: attend.heads as i32,
            window: attend
                .window
                .map_or(0, |window| i32::try_from(window).unwrap_or(i32::MAX)),
        };
        let grid = Grid {
            blocks: (attend.items.len(), cache.kv_heads),
            threads: 128,
            shared: attend_shared(groups * 32),
            early: true,
        };
        self.gpu
            .launch(kernels[index.expect("padded to one")], grid, &argument)
    }

    /// Joins the parts of each column to inputs of the next product.
    pub fn join<'i>(
        &self,
        columns: Slice<'_, Column>,
        parts: Slice<'_, f32>,
        (heads, head_dim): (usize, usize),
        precision: Precision,
        inputs: &'i GpuInputs,
    ) -> Result<Loaded<'i>, GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            columns: u64,
            parts: u64,
            y: u64,
            inputs: InputsArg,
            heads: i32,
            head_dim: i32,
            padded: i32,
        }
        let loaded = inputs.begin(columns.len(), heads * head_dim, precision);
        let argument = Arg {
            columns: columns.at(),
            parts: parts.at(),
            inputs: loaded.argument(),
            y: inputs.floats_at(),
            heads: heads as i32,
            head_dim: head_dim as i32,
            padded: GpuCache::padded(head_dim).expect("checked") as i32,
        };
        let spread = spread(heads * head_dim, columns.len());
        let grid = rows_grid(columns.len(), spread, 256, 0);
        self.gpu.launch(self.join, grid, &argument)?;
        Ok(loaded)
    }

    /// `inputs = activation(gate) · up`
    pub fn gate<'i>(&self, gate: &Gate<'_>, inputs: &'i GpuInputs) -> Result<Loaded<'i>, GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            gate_up: u64,
            y: u64,
            inputs: InputsArg,
            width: i32,
            gelu: i32,
        }
        assert!(gate.columns * 2 * gate.width <= gate.gate_up.len());
        let loaded = inputs.begin(gate.columns, gate.width, gate.precision);
        let argument = Arg {
            gate_up: gate.gate_up.at(),
            inputs: loaded.argument(),
            y: inputs.floats_at(),
            width: gate.width as i32,
            gelu: i32::from(gate.gelu),
        };
        let spread = spread(gate.width, gate.columns);
        let grid = rows_grid(gate.columns, spread, 256, 0);
        self.gpu.launch(self.gate, grid, &argument)?;
        Ok(loaded)
    }
}

fn of_kind(kernels: &[(Kind, Kernel)], kind: Kind) -> Kernel {
    let found = kernels.iter().find(|(of, _)| *of == kind);
    found.expect("one for each kind").1
}

fn rows_grid(columns: usize, spread: usize, threads: usize, shared: usize) -> Grid {
    Grid {
        blocks: (columns, spread),
        threads,
        shared,
        early: true,
    }
}

/// Blocks that share one column, where few columns would leave the device idle.
fn spread(width: usize, columns: usize) -> usize {
    (128 / columns).clamp(1, width.div_ceil(256))
}

/// Shared memory of a product: the warps' sums.
fn product_shared(warps: usize, tiles: usize) -> usize {
    warps * tiles * TILE_COLUMNS * TILE_ROWS * 4
}

/// Shared memory of attention: sums so far and of a span, maxima and totals of four warps.
fn attend_shared(width: usize) -> usize {
    (2 * ATTEND_ROWS * width + 2 * 4 * ATTEND_ROWS) * 4
}
