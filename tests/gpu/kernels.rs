//! Each kernel beside its formula, on fresh inputs, with outputs that begin as NaN.

use std::sync::Mutex;

use outstation_cuda::{
    Attend, Buffer, Column, Embed, Gpu, GpuCache, GpuInputs, GpuKernels, GpuMatrix, GpuPlan, Heads,
    Item, Loaded, Norm, PlanSize, Product, SPAN, pack,
};
use outstation_kernels::quant::{Format, dequantize_row, random_row};
use outstation_kernels::{KvFormat, Precision, Team};

use crate::device;

fn kernels() -> Option<GpuKernels> {
    device().then(|| GpuKernels::open(0).unwrap())
}

/// Seeded numbers of a normal-like distribution.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            sum += (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        sum * 2.0
    }

    pub(crate) fn many(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

pub(crate) fn upload<T: Copy>(gpu: &Gpu, values: &[T]) -> Buffer<T> {
    let buffer = gpu.buffer(values.len()).unwrap();
    buffer.write(0, values).unwrap();
    buffer
}

fn read(buffer: &Buffer<f32>) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    buffer.read(0, &mut values).unwrap();
    values
}

/// Rows of a file, packed as the device has them.
fn pack(gpu: &Gpu, format: Format, file: &[u8], cols: usize) -> Buffer<u8> {
    let rows = file.len() / format.row_bytes(cols);
    let mut packed = vec![0; pack::bytes(format, rows, cols)];
    let spaces: Vec<_> = (0..2)
        .map(|_| Mutex::new(pack::PackSpace::new(cols)))
        .collect();
    let mut team = Team::new(2);
    pack::pack(&mut team, &spaces, (format, cols), file, &mut packed);
    upload(gpu, &packed)
}

/// Memory for inputs of the tests.
fn memory(kernels: &GpuKernels) -> GpuInputs {
    GpuInputs::new(kernels.gpu(), 80, 2304, true).unwrap()
}

/// Loads columns with a norm of weight 1.
fn load<'i>(
    kernels: &GpuKernels,
    inputs: &'i GpuInputs,
    x: &[f32],
    columns: usize,
    precision: Precision,
) -> Loaded<'i> {
    let gpu = kernels.gpu();
    let cols = x.len() / columns;
    let (x, weight) = (upload(gpu, x), upload(gpu, &vec![1.0; cols]));
    let norm = Norm {
        x: x.all(),
        result: None,
        weight: weight.all(),
        from: None,
        columns,
        eps: 1e-6,
        precision,
    };
    let loaded = kernels.norm(&norm, inputs).unwrap();
    gpu.finish().unwrap();
    loaded
}

/// Mean square of the difference, over that of the reference.
fn nmse(ours: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let error: f64 = ours
        .iter()
        .zip(reference)
        .map(|(ours, reference)| (f64::from(*ours) - reference).powi(2))
        .sum();
    let size: f64 = reference.iter().map(|x| x * x).sum();
    error / size.max(1e-30)
}

#[test]
fn inputs_are_rounded_by_at_most_half_a_step() {
    let Some(kernels) = kernels() else { return };
    for (precision, code_max) in [(Precision::Eight, 127.0), (Precision::Sixteen, 32_639.0)] {
        let (columns, cols) = (5, 288);
        let mut x = Noise(1).many(columns * cols);
        x[3] = 40.0;
        x[cols..cols + 32].fill(0.0);
        let memory = memory(&kernels);
        let taken = load(&kernels, &memory, &x, columns, precision)
            .values()
            .unwrap();
        for (x, taken) in x.chunks(cols).zip(taken.chunks(cols)) {
            let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let factor = (squares / cols as f64 + 1e-6).sqrt().recip();
            for (x, taken) in x.chunks(32).zip(taken.chunks(32)) {
                let top = x.iter().fold(0.0, |top: f32, x| top.max(x.abs()));
                let step = f64::from(top) * factor / code_max;
                for (x, taken) in x.iter().zip(taken) {
                    let error = (f64::from(*x) * factor - taken).abs();
                    assert!(error <= 0.501 * step, "{error} of {step}");
                }
            }
        }
    }
}

#[test]
fn products_equal_the_reference_on_the_same_codes() {
    let Some(kernels) = kernels() else { return };
    let (gpu, memory) = (kernels.gpu(), memory(&kernels));
    for format in Format::ALL {
        for (rows, cols) in [
            (1, 256),
            (17, 512),
            (48, 768),
            (33, 96),
            (16, 2304),
            (40, 896),
        ] {
            if cols % format.block_elements() != 0 {
                continue;
            }
            let mut file = vec![0; rows * format.row_bytes(cols)];
            for (seed, row) in file.chunks_mut(format.row_bytes(cols)).enumerate() {
                random_row(format, seed as u64 + 7, 0.05, row);
            }
            let packed = pack(gpu, format, &file, cols);
            let matrix = GpuMatrix::new(format, rows, cols, packed.all());
            let mut weights = vec![0.0; rows * cols];
            for (row, out) in file
                .chunks(format.row_bytes(cols))
                .zip(weights.chunks_mut(cols))
            {
                dequantize_row(format, row, out);
            }
            for (columns, precision) in [
                (1, Precision::Eight),
                (7, Precision::Eight),
                (5, Precision::Sixteen),
                (19, Precision::Eight),
                (70, Precision::Eight),
            ] {
                let x = Noise(columns as u64).many(columns * cols);
                let inputs = load(&kernels, &memory, &x, columns, precision);
                let taken = inputs.values().unwrap();
                let taken = if format.is_float() {
                    let floats = inputs.floats().unwrap();
                    floats.iter().map(|x| f64::from(*x)).collect()
                } else {
                    taken
                };
                let stride = rows + 3;
                let y = upload(gpu, &vec![f32::NAN; columns * stride]);
                let product = Product {
                    matrix,
                    y: y.all(),
                    stride,
                };
                kernels.products(&[product], &inputs).unwrap();
                let y = read(&y);
                let ours: Vec<f32> = y
                    .chunks(stride)
                    .flat_map(|column| column[..rows].to_vec())
                    .collect();
                assert!(
                    y.chunks(stride)
                        .all(|column| column[rows..].iter().all(|x| x.is_nan())),
                    "what lies between columns stays as it is"
                );
                let reference: Vec<f64> = taken
                    .chunks(cols)
                    .flat_map(|x| {
                        weights.chunks(cols).map(move |w| {
                            w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>()
                        })
                    })
                    .collect();
                let error = nmse(&ours, &reference);
                assert!(
                    error < 1e-10,
                    "{format} [{rows}, {cols}] × {columns} {precision:?}: NMSE {error:e}"
                );
            }
        }
    }
}

#[test]
fn a_column_has_the_same_bits_in_any_batch() {
    let Some(kernels) = kernels() else { return };
    let gpu = kernels.gpu();
    let memory = memory(&kernels);
    let (rows, cols, columns) = (32, 1024, 67);
    for format in [Format::Q4K, Format::Q6K, Format::Q8_0] {
        let mut file = vec![0; rows * format.row_bytes(cols)];
        for (seed, row) in file.chunks_mut(format.row_bytes(cols)).enumerate() {
            random_row(format, seed as u64, 0.05, row);
        }
        let packed = pack(gpu, format, &file, cols);
        let matrix = GpuMatrix::new(format, rows, cols, packed.all());
        let x = Noise(3).many(columns * cols);
        let run = |x: &[f32]| {
            let columns = x.len() / cols;
            let inputs = load(&kernels, &memory, x, columns, Precision::Eight);
            let y = gpu.buffer(columns * rows).unwrap();
            let product = Product {
                matrix,
                y: y.all(),
                stride: rows,
            };
            kernels.products(&[product], &inputs).unwrap();
            read(&y)
        };
        let all = run(&x);
        for count in [1, 2, 9, 20, 33] {
            assert_eq!(
                run(&x[..count * cols]),
                all[..count * rows],
                "{format}, {count}"
            );
        }
        assert_eq!(run(&x[66 * cols..]), all[66 * rows..], "{format}, alone");
    }
}

#[test]
fn matrices_beside_each_other_are_as_by_themselves() {
    let Some(kernels) = kernels() else { return };
    let gpu = kernels.gpu();
    let (cols, columns) = (512, 3);
    let shapes = [(Format::Q4K, 48), (Format::Q4K, 16), (Format::Q6K, 33)];
    let packed: Vec<_> = shapes
        .iter()
        .map(|(format, rows)| {
            let mut file = vec![0; rows * format.row_bytes(cols)];
            for (seed, row) in file.chunks_mut(format.row_bytes(cols)).enumerate() {
                random_row(*format, (seed + rows) as u64, 0.05, row);
            }
            pack(gpu, *format, &file, cols)
        })
        .collect();
    let memory = memory(&kernels);
    let x = Noise(9).many(columns * cols);
    let inputs = load(&kernels, &memory, &x, columns, Precision::Sixteen);
    let stride: usize = shapes.iter().map(|(_, rows)| rows).sum();
    let y = gpu.buffer::<f32>(columns * stride).unwrap();
    let mut start = 0;
    let mut products = Vec::new();
    let mut places = Vec::new();
    for ((format, rows), packed) in shapes.iter().zip(&packed) {
        products.push(Product {
            matrix: GpuMatrix::new(*format, *rows, cols, packed.all()),
            y: y.all().range(start, y.len() - start),
            stride,
        });
        places.push((start, *rows));
        start += rows;
    }
    kernels.products(&products, &inputs).unwrap();
    let together = read(&y);
    for (product, (at, rows)) in products.iter().zip(places) {
        let alone = gpu.buffer::<f32>(columns * rows).unwrap();
        let one = Product {
            y: alone.all(),
            stride: rows,
            ..*product
        };
        kernels.products(&[one], &inputs).unwrap();
        for (column, alone) in read(&alone).chunks(rows).enumerate() {
            assert_eq!(together[column * stride + at..][..rows], *alone);
        }
    }
}

#[test]
fn embeddings_are_the_rows_of_the_file() {
    let Some(kernels) = kernels() else { return };
    let gpu = kernels.gpu();
    let (rows, cols) = (37, 768);
    for format in Format::ALL {
        let mut file = vec![0; rows * format.row_bytes(cols)];
        for (seed, row) in file.chunks_mut(format.row_bytes(cols)).enumerate() {
            random_row(format, seed as u64, 0.05, row);
        }
        let packed = pack(gpu, format, &file, cols);
        let tokens = [0, 36, 8, 17, 31];
        let columns: Vec<Column> = tokens
            .iter()
            .map(|token| Column {
                token: *token,
                ..Column::default()
            })
            .collect();
        let (columns, x) = (
            upload(gpu, &columns),
            upload(gpu, &vec![f32::NAN; tokens.len() * cols]),
        );
        let embed = Embed {
            matrix: GpuMatrix::new(format, rows, cols, packed.all()),
            columns: columns.all(),
            scale: 2.0,
            x: x.all(),
        };
        kernels.embed(&embed).unwrap();
        for (token, x) in tokens.iter().zip(read(&x).chunks(cols)) {
            let mut row = vec![0.0; cols];
            let bytes = format.row_bytes(cols);
            dequantize_row(format, &file[*token as usize * bytes..][..bytes], &mut row);
            let reference: Vec<f64> = row.iter().map(|x| 2.0 * f64::from(*x)).collect();
            assert!(nmse(x, &reference) < 1e-13, "{format}, token {token}");
        }
    }
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<u32>,
    kv: KvFormat,
}

/// Positions of the sequence: two spans, and part of a third.
const POSITIONS: usize = 601;

/// The columns that attend: the last ones.
const ATTENDING: usize = 3;

impl Shape {
    fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// What attention of a column is by its formula, in f64.
    fn reference(&self, qkv: &[f32], position: usize) -> Vec<f64> {
        let row = |position: usize| &qkv[position * self.width()..][..self.width()];
        let first = self
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window as usize));
        let kv_width = self.kv_heads * self.head_dim;
        let mut out = vec![0.0; self.q_width()];
        for (head, out) in out.chunks_mut(self.head_dim).enumerate() {
            let kv_head = head / (self.heads / self.kv_heads);
            let q = &row(position)[head * self.head_dim..][..self.head_dim];
            let at = |position: usize, start: usize| {
                &row(position)[start + kv_head * self.head_dim..][..self.head_dim]
            };
            let scores: Vec<f64> = (first..=position)
                .map(|position| {
                    let k = at(position, self.q_width());
                    let dot: f64 = q
                        .iter()
                        .zip(k)
                        .map(|(q, k)| f64::from(*q) * f64::from(*k))
                        .sum();
                    dot / (self.head_dim as f64).sqrt()
                })
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            for (position, score) in (first..).zip(&scores) {
                let weight = (score - top).exp() / total;
                let v = at(position, self.q_width() + kv_width);
                for (out, v) in out.iter_mut().zip(v) {
                    *out += weight * f64::from(*v);
                }
            }
        }
        out
    }

    /// Writes the items of attention; returns how many there are.
    fn put_items(&self, plan: &mut GpuPlan, at_once: bool) -> usize {
        let shared_by = self.heads / self.kv_heads;
        let heads = shared_by.min(16);
        let mut items = 0;
        let spans = POSITIONS.div_ceil(SPAN);
        let parts = if at_once { spans } else { 1 };
        for first in (0..ATTENDING).step_by(16 / heads) {
            for first_head in (0..shared_by).step_by(heads) {
                for part in 0..parts {
                    let item = Item {
                        first: first as u32,
                        columns: (16 / heads).min(ATTENDING - first) as u32,
                        first_head: first_head as u32,
                        heads: heads.min(shared_by - first_head) as u32,
                        span_start: part as u32,
                        span_end: if at_once { part + 1 } else { spans } as u32,
                        part: part as u32,
                        unused: 0,
                    };
                    plan.put_item(true, items, item);
                    items += 1;
                }
            }
        }
        items
    }

    /// The same by the kernels; spans all at once, or one after the other in one block.
    fn run(&self, kernels: &GpuKernels, qkv: &[f32], at_once: bool) -> Vec<f32> {
        let gpu = kernels.gpu();
        let padded = GpuCache::padded(self.head_dim).unwrap();
        let blocks = POSITIONS.div_ceil(32);
        let plane = GpuCache::plane_bytes(self.head_dim, self.kv);
        let [keys, values] = [(); 2].map(|()| {
            let bytes = gpu.buffer::<u8>(blocks * self.kv_heads * plane).unwrap();
            bytes.fill(0).unwrap();
            bytes
        });
        let cache = GpuCache {
            keys: keys.all(),
            values: values.all(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            format: self.kv,
        };
        let size = PlanSize {
            columns: POSITIONS,
            asked: ATTENDING,
            items: 64,
            tables: blocks + 5,
        };
        let mut plan = GpuPlan::new(gpu, size).unwrap();
        // Blocks stand backwards, behind five entries of somebody else.
        let table: Vec<u32> = [9; 5].into_iter().chain((0..blocks as u32).rev()).collect();
        let spans = POSITIONS.div_ceil(SPAN);
        let parts = if at_once { spans } else { 1 };
        for position in 0..POSITIONS {
            let column = Column {
                position: position as u32,
                block: table[5 + position / 32],
                offset: (position % 32) as u32,
                table: 5,
                from: position as u32,
                ..Column::default()
            };
            plan.put_column(position, column);
            if let Some(index) = position.checked_sub(POSITIONS - ATTENDING) {
                let asked = Column {
                    part_start: (index * parts) as u32,
                    part_count: parts as u32,
                    ..column
                };
                plan.put_asked(index, asked);
            }
        }
        let items = self.put_items(&mut plan, at_once);
        plan.finish([0, items], &table);
        plan.send(gpu).unwrap();
        let qkv = upload(gpu, qkv);
        let q = gpu.buffer(POSITIONS * self.heads * padded).unwrap();
        let part_floats = self.heads * (padded + 2);
        let results = upload(gpu, &vec![f32::NAN; ATTENDING * parts * part_floats]);
        let rounded = GpuInputs::new(gpu, ATTENDING, self.q_width(), true).unwrap();
        let all = Heads {
            qkv: qkv.all(),
            bias: None,
            norms: None,
            rotations: None,
            columns: plan.columns(POSITIONS),
            q: q.all(),
            heads: self.heads,
            eps: 1e-6,
            scale: (self.head_dim as f32).sqrt().recip(),
        };
        kernels.heads(&all, &cache).unwrap();
        // More places than there are items: what a graph would have.
        let (items, items_count) = plan.items(true, items + 3);
        let attend = Attend {
            items,
            items_count,
            columns: plan.asked(ATTENDING),
            tables: plan.tables(),
            q: q.all(),
            parts: results.all(),
            heads: self.heads,
            window: self.window,
        };
        kernels.attend(&attend, &cache).unwrap();
        let shape = (self.heads, self.head_dim);
        let asked = plan.asked(ATTENDING);
        let joined = kernels
            .join(asked, results.all(), shape, Precision::Sixteen, &rounded)
            .unwrap();
        joined.floats().unwrap()
    }
}

#[test]
fn attention_is_its_formula_over_many_spans() {
    let Some(kernels) = kernels() else { return };
    let shape = |heads, kv_heads, head_dim, window, kv| Shape {
        heads,
        kv_heads,
        head_dim,
        window,
        kv,
    };
    for shape in [
        shape(4, 2, 64, None, KvFormat::F16),
        shape(6, 1, 128, None, KvFormat::F16),
        shape(2, 2, 80, Some(300), KvFormat::F16),
        shape(20, 1, 32, None, KvFormat::F16),
        shape(2, 1, 256, Some(40), KvFormat::F16),
        shape(4, 2, 64, None, KvFormat::Q8_0),
        shape(3, 3, 96, Some(257), KvFormat::Q8_0),
        shape(2, 1, 128, None, KvFormat::Q8_0),
    ] {
        let qkv = Noise(11).many(POSITIONS * shape.width());
        let at_once = shape.run(&kernels, &qkv, true);
        let in_turn = shape.run(&kernels, &qkv, false);
        assert_eq!(at_once, in_turn, "{shape:?}: spans at once and in turn");
        let reference: Vec<f64> = (POSITIONS - ATTENDING..POSITIONS)
            .flat_map(|position| shape.reference(&qkv, position))
            .collect();
        let error = nmse(&at_once, &reference);
        let bound = match shape.kv {
            KvFormat::F16 => 1e-6,
            _ => 2e-4,
        };
        assert!(error < bound, "{shape:?}: NMSE {error:e}");
    }
}

/// What a block of the cache has outlives its sequence, and is weighted by zero in the next: so it must be numbers.
#[test]
fn keys_and_values_are_numbers_whatever_comes() {
    const HEAD_DIM: usize = 64;
    let Some(kernels) = kernels() else { return };
    let gpu = kernels.gpu();
    let hostile = [f32::INFINITY, f32::NAN, 1e30, -1e30, f32::NEG_INFINITY, 1.0];
    let qkv: Vec<f32> = hostile.iter().copied().cycle().take(3 * HEAD_DIM).collect();
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        let bytes = GpuCache::plane_bytes(HEAD_DIM, format);
        let (keys, values) = (gpu.buffer::<u8>(bytes).unwrap(), gpu.buffer(bytes).unwrap());
        keys.fill(0).unwrap();
        values.fill(0).unwrap();
        let (qkv, columns) = (upload(gpu, &qkv), upload(gpu, &[Column::default()]));
        let q = gpu.buffer(HEAD_DIM).unwrap();
        let heads = Heads {
            qkv: qkv.all(),
            bias: None,
            norms: None,
            rotations: None,
            columns: columns.all(),
            q: q.all(),
            heads: 1,
            eps: 0.0,
            scale: 1.0,
        };
        let cache = GpuCache {
            keys: keys.all(),
            values: values.all(),
            kv_heads: 1,
            head_dim: HEAD_DIM,
            format,
        };
        kernels.heads(&heads, &cache).unwrap();
        for plane in [keys, values] {
            let mut stored = vec![0; bytes];
            plane.read(0, &mut stored).unwrap();
            // Of q8_0 only scales are halves, behind the codes.
            let halves = match format {
                KvFormat::F16 => &stored[..],
                _ => &stored[HEAD_DIM * 32..],
            };
            let all = halves.as_chunks::<2>().0.iter();
            let mut all = all.map(|half| u16::from_le_bytes(*half));
            assert!(all.all(|half| half & 0x7c00 != 0x7c00), "{format}");
            assert!(stored.iter().any(|byte| *byte != 0), "{format}");
        }
    }
}
