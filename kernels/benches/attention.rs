//! Attention on one thread: multiply-adds per second of a prompt's columns over long context, and of one column.
//!
//! ```text
//! cargo bench -p outstation-kernels --bench attention            all
//! cargo bench -p outstation-kernels --bench attention -- f16     one format
//! ```
//!
//! Layers take turns, so that keys and values come from memory, as in a step of a model.

#![allow(missing_docs, reason = "criterion's macros write public items")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "positions are far below 2³²"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outstation_kernels::isa::detect;
use outstation_kernels::quant::random_row;
use outstation_kernels::{
    AttentionShape, Format, KernelLimits, Kernels, KvFormat, KvLayer, KvLayerMut, KvShape, KvSlot,
    Query, Team,
};

const HEAD_DIM: usize = 64;
const BLOCK_POSITIONS: usize = 32;
const LAYERS: usize = 16;
const COLUMNS: [usize; 3] = [1, 2, 64];
const DEPTHS: [usize; 2] = [2048, 8192];
/// Query heads and KV heads: qwen2.5-0.5b, llama3.2-1b.
const HEADS: [(usize, usize); 2] = [(14, 2), (32, 8)];

fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut bytes = vec![0; len * 4];
    random_row(Format::F32, seed, 1.0, &mut bytes);
    let floats = bytes.as_chunks().0.iter();
    floats.map(|x| f32::from_le_bytes(*x)).collect()
}

fn attention(c: &mut Criterion) {
    let columns_max = COLUMNS[2];
    for ((heads, kv_heads), depth) in HEADS.into_iter().flat_map(|h| DEPTHS.map(|d| (h, d))) {
        let positions = depth + columns_max;
        let mut kernels = Kernels::new(
            detect(),
            Team::new(1),
            KernelLimits {
                cols_max: 32,
                columns_max,
                heads_max: heads,
                head_dim_max: HEAD_DIM,
                positions_max: positions,
            },
        );
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim: HEAD_DIM,
            scale: 1.0 / (HEAD_DIM as f32).sqrt(),
            window: None,
        };
        let tables: Vec<u32> = (0..positions.div_ceil(BLOCK_POSITIONS) as u32).collect();
        let q = noise(3, columns_max * heads * HEAD_DIM);
        let mut out = vec![0.0; q.len()];
        for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::I16] {
            let shape_kv = KvShape {
                format,
                kv_heads,
                head_dim: HEAD_DIM,
                block_positions: BLOCK_POSITIONS,
            };
            let layer = tables.len() * kv_heads * shape_kv.plane_bytes();
            let (mut k, mut v) = (vec![0; LAYERS * layer], vec![0; LAYERS * layer]);
            let width = kv_heads * HEAD_DIM;
            let (keys, values) = (noise(1, positions * width), noise(2, positions * width));
            let slots: Vec<KvSlot> = (0..positions)
                .map(|position| KvSlot {
                    block: (position / BLOCK_POSITIONS) as u32,
                    offset: (position % BLOCK_POSITIONS) as u32,
                })
                .collect();
            for (k, v) in k.chunks_mut(layer).zip(v.chunks_mut(layer)) {
                let to = KvLayerMut {
                    k,
                    v,
                    shape: shape_kv,
                };
                kernels.store_kv(&keys, &values, &slots, to);
            }
            for columns in COLUMNS {
                let queries: Vec<Query> = (depth..depth + columns)
                    .map(|position| Query {
                        position: position as u32,
                        table_start: 0,
                        table_len: tables.len() as u32,
                    })
                    .collect();
                let name = format!("{format} {heads}/{kv_heads} at {depth}");
                let mut group = c.benchmark_group(name);
                let seen: usize = queries.iter().map(|q| q.position as usize + 1).sum();
                let products = 2 * heads * HEAD_DIM * seen;
                group.sample_size(10);
                group.throughput(Throughput::Elements(products as u64));
                let mut at = 0;
                group.bench_function(BenchmarkId::from_parameter(columns), |b| {
                    b.iter(|| {
                        let layer = at * layer..(at + 1) * layer;
                        at = (at + 1) % LAYERS;
                        let kv = KvLayer {
                            k: &k[layer.clone()],
                            v: &v[layer],
                            shape: shape_kv,
                        };
                        let width = columns * heads * HEAD_DIM;
                        let (q, out) = (&q[..width], &mut out[..width]);
                        kernels.attention(&shape, q, kv, &queries, &tables, out);
                    });
                });
                group.finish();
            }
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
