//! Each kernel against the portable reference, on whatever driver there is: a GPU, or `tests/gpu/emulator`.

use super::*;
use crate::Buffer;
use outstation_kernels::quant::{dequantize_row, random_row};

/// A device, or a word that there is none.
fn kernels() -> Option<GpuKernels> {
    match GpuKernels::open(0) {
        Ok(kernels) => Some(kernels),
        Err(GpuError::NoDriver | GpuError::NoDevice { .. }) => {
            eprintln!("SKIP: no GPU and no emulator here: see docs/kernels-cuda.md");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Seeded numbers of a normal-like distribution.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
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

    fn many(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn upload<T: Copy>(gpu: &Gpu, values: &[T]) -> Buffer<T> {
    let buffer = gpu.buffer(values.len()).expect("memory");
    buffer.write(0, values).expect("written");
    buffer
}

fn read(buffer: &Buffer<f32>) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    buffer.read(0, &mut values).expect("read");
    values
}

/// Rows of a file, packed as the device has them.
fn pack(gpu: &Gpu, format: Format, file: &[u8], cols: usize) -> Buffer<u8> {
    let rows = file.len() / format.row_bytes(cols);
    let mut packed = vec![0; pack::bytes(format, rows, cols)];
    let mut space = pack::PackSpace::new(cols);
    let tile_rows = if format.is_float() { rows } else { TILE_ROWS };
    let tile = packed.len() / rows.div_ceil(tile_rows);
    for (rows, out) in file
        .chunks(tile_rows * format.row_bytes(cols))
        .zip(packed.chunks_mut(tile))
    {
        pack::pack_tile(format, rows, cols, &mut space, out);
    }
    upload(gpu, &packed)
}

/// Memory for inputs of the tests.
fn memory(kernels: &GpuKernels) -> GpuInputs {
    GpuInputs::new(kernels.gpu(), 80, 2304, true).expect("memory")
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
    let loaded = kernels.norm(&norm, inputs).expect("started");
    gpu.finish().expect("done before x is freed");
    loaded
}

/// Codes times scales, `[columns, cols]`: what the products take.
fn decode(inputs: &Loaded<'_>) -> Vec<f64> {
    let memory = inputs.memory;
    let mut codes = vec![0; memory.codes.len()];
    memory.codes.read(0, &mut codes).expect("read");
    let (scales, sums) = (read(&memory.scales), read(&memory.sums));
    let width = inputs.tiles * TILE_COLUMNS;
    let mut out = vec![0.0; inputs.columns * inputs.cols];
    for column in 0..inputs.columns {
        for digit in 0..inputs.digits {
            let at = column * inputs.digits + digit;
            for block in 0..inputs.cols / 32 {
                let mut halves = [0.0; 2];
                for k in 0..32 {
                    let lane = at % 8 * 4 + k % 16 / 4;
                    let tile = (block / 2 * inputs.tiles + at / 8) * 512;
                    let byte = tile + lane * 16 + block % 2 * 8 + k / 16 * 4 + k % 4;
                    let code = codes[byte].cast_signed();
                    halves[k / 16] += f32::from(code);
                    let scale = f64::from(scales[block * width + at]);
                    out[column * inputs.cols + block * 32 + k] += f64::from(code) * scale;
                }
                let place = (block * width + at) * 2;
                assert_eq!(
                    halves,
                    sums[place..place + 2],
                    "sums are those of the codes"
                );
            }
        }
    }
    out
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
        let taken = decode(&load(&kernels, &memory, &x, columns, precision));
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
                let taken = decode(&inputs);
                let taken = if format.is_float() {
                    let floats = inputs.memory.floats.as_ref().expect("asked for");
                    read(floats)[..columns * cols]
                        .iter()
                        .map(|x| f64::from(*x))
                        .collect()
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
                kernels.products(&[product], &inputs).expect("started");
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
            let y = gpu.buffer(columns * rows).expect("memory");
            let product = Product {
                matrix,
                y: y.all(),
                stride: rows,
            };
            kernels.products(&[product], &inputs).expect("started");
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
    let y = gpu.buffer::<f32>(columns * stride).expect("memory");
    let mut start = 0;
    let mut products = Vec::new();
    for ((format, rows), packed) in shapes.iter().zip(&packed) {
        products.push(Product {
            matrix: GpuMatrix::new(*format, *rows, cols, packed.all()),
            y: y.all().range(start, y.len() - start),
            stride,
        });
        start += rows;
    }
    kernels.products(&products, &inputs).expect("started");
    let together = read(&y);
    for product in &products {
        let alone = gpu
            .buffer::<f32>(columns * product.matrix.rows)
            .expect("memory");
        let rows = product.matrix.rows;
        let one = Product {
            y: alone.all(),
            stride: rows,
            ..*product
        };
        kernels.products(&[one], &inputs).expect("started");
        let at = ((product.y.at() - y.all().at()) / 4) as usize;
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
        kernels.embed(&embed).expect("started");
        for (token, x) in tokens.iter().zip(read(&x).chunks(cols)) {
            let mut row = vec![0.0; cols];
            let bytes = format.row_bytes(cols);
            dequantize_row(format, &file[*token as usize * bytes..][..bytes], &mut row);
            let reference: Vec<f64> = row.iter().map(|x| 2.0 * f64::from(*x)).collect();
            assert!(nmse(x, &reference) < 1e-13, "{format}, token {token}");
        }
    }
}
