//! Matmul on one thread: bytes of weights and multiply-adds per second, for each format and number of columns.
//!
//! ```text
//! cargo bench -p outstation-kernels --bench matmul            all
//! cargo bench -p outstation-kernels --bench matmul -- Q4_K    one format
//! ```
//!
//! The matrix is 32 Mi weights (16 to 128 MiB), so that weights come from memory rather than from a cache. The line
//! `read` streams a buffer with the same team: the bandwidth that one column can hope for.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outstation_kernels::isa::detect;
use outstation_kernels::quant::random_row;
use outstation_kernels::{
    Activations, Format, Inputs, KernelLimits, Kernels, Matrix, Precision, Team, pack,
};

const ROWS: usize = 8192;
const COLS: usize = 4096;
const COLUMNS: [usize; 3] = [1, 8, 128];

fn kernels() -> Kernels {
    Kernels::new(
        detect(),
        Team::new(1),
        KernelLimits {
            cols_max: COLS,
            columns_max: 128,
            heads_max: 1,
            head_dim_max: 1,
            positions_max: 1,
        },
    )
}

fn read(c: &mut Criterion) {
    let buffer = vec![1_u8; 128 << 20];
    let mut kernels = kernels();
    let mut group = c.benchmark_group("read");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    group.bench_function("sum", |b| b.iter(|| kernels.read_bandwidth(&buffer)));
    group.finish();
}

fn matmul(c: &mut Criterion) {
    let mut kernels = kernels();
    let mut team = Team::new(1);
    let mut data = vec![0; ROWS * Format::F32.row_bytes(COLS)];
    let mut y = vec![0.0; COLUMNS[2] * ROWS];
    let mut activations = Activations::new(COLUMNS[2], COLS, Inputs::ALL);
    let mut x_bytes = vec![0; COLUMNS[2] * COLS * 4];
    random_row(Format::F32, 1, 1.0, &mut x_bytes);
    let x: Vec<f32> = x_bytes
        .as_chunks()
        .0
        .iter()
        .map(|x| f32::from_le_bytes(*x))
        .collect();
    for format in Format::ALL {
        let data = &mut data[..ROWS * format.row_bytes(COLS)];
        random_row(format, 2, 0.02, data);
        let mut packed = vec![0; Matrix::bytes(format, ROWS, COLS)];
        pack(&mut team, format, data, COLS, &mut packed);
        let w = Matrix::new(format, ROWS, COLS, &packed);
        for columns in COLUMNS {
            let mut group = c.benchmark_group(format.to_string());
            group.sample_size(10);
            let products = (columns * ROWS * COLS) as u64;
            let bytes = w.data.len() as u64;
            kernels.load(
                &x[..columns * COLS],
                columns,
                COLS,
                Precision::Eight,
                &mut activations,
            );
            let y = &mut y[..columns * ROWS];
            group.throughput(if columns == 1 {
                Throughput::Bytes(bytes)
            } else {
                Throughput::Elements(products)
            });
            group.bench_function(BenchmarkId::from_parameter(columns), |b| {
                b.iter(|| kernels.matmul(&w, &activations, y));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, read, matmul);
criterion_main!(benches);
