//! Attention against a naive computation in f64.

use std::ops::Range;

use super::*;

/// A cache of `sequences` whose block tables are shuffled, and one query for each (sequence, position) given.
struct Scene {
    shape: AttentionShape,
    block_positions: usize,
    format: KvFormat,
    k: Vec<u8>,
    v: Vec<u8>,
    tables: Vec<u32>,
    queries: Vec<Query>,
    q: Vec<f32>,
}

const SEQUENCE_POSITIONS: usize = 150;
const SEQUENCES: usize = 2;

impl Scene {
    fn new(shape: AttentionShape, block_positions: usize, wanted: &[(usize, u32)]) -> Scene {
        Scene::stored(
            KvFormat::F16,
            SEQUENCE_POSITIONS,
            shape,
            block_positions,
            wanted,
        )
    }

    fn stored(
        format: KvFormat,
        sequence_positions: usize,
        shape: AttentionShape,
        block_positions: usize,
        wanted: &[(usize, u32)],
    ) -> Scene {
        let table_len = sequence_positions.div_ceil(block_positions);
        let blocks = SEQUENCES * table_len;
        // 37 is prime to every number of blocks used here, so this visits each block once, out of order.
        assert!(!blocks.is_multiple_of(37));
        let tables: Vec<u32> = (0..blocks).map(|i| (i * 37 % blocks) as u32).collect();
        let bytes = blocks * shape.kv_heads * format.plane_bytes(shape.head_dim, block_positions);
        // Places that nobody stores to must never be read.
        let (mut k, mut v) = (vec![NAN_BYTE; bytes], vec![NAN_BYTE; bytes]);
        let slots: Vec<KvSlot> = (0..SEQUENCES * sequence_positions)
            .map(|i| {
                let (sequence, position) = (i / sequence_positions, i % sequence_positions);
                let block = tables[sequence * table_len + position / block_positions];
                KvSlot {
                    block,
                    offset: (position % block_positions) as u32,
                }
            })
            .collect();
        let width = shape.kv_heads * shape.head_dim;
        let layer = KvLayerMut {
            k: &mut k,
            v: &mut v,
            shape: KvShape {
                format,
                kv_heads: shape.kv_heads,
                head_dim: shape.head_dim,
                block_positions,
            },
        };
        let (keys, values) = (noise(1, slots.len() * width), noise(2, slots.len() * width));
        kernels(Isa::Portable, 1)
            .unwrap()
            .store_kv(&keys, &values, &slots, layer);
        let query = |(sequence, position): &(usize, u32)| Query {
            position: *position,
            table_start: (sequence * table_len) as u32,
            table_len: table_len as u32,
        };
        let queries: Vec<Query> = wanted.iter().map(query).collect();
        let q = noise(3, queries.len() * shape.heads * shape.head_dim);
        Scene {
            shape,
            block_positions,
            format,
            k,
            v,
            tables,
            queries,
            q,
        }
    }

    fn layer(&self) -> KvLayer<'_> {
        KvLayer {
            k: &self.k,
            v: &self.v,
            shape: KvShape {
                format: self.format,
                kv_heads: self.shape.kv_heads,
                head_dim: self.shape.head_dim,
                block_positions: self.block_positions,
            },
        }
    }

    fn attend(&self, kernels: &mut Kernels, range: Range<usize>) -> Vec<f32> {
        let width = self.shape.heads * self.shape.head_dim;
        let mut out = vec![f32::NAN; range.len() * width];
        let kv = self.layer();
        let q = &self.q[range.start * width..range.end * width];
        kernels.attention(
            &self.shape,
            q,
            kv,
            &self.queries[range],
            &self.tables,
            &mut out,
        );
        out
    }

    /// The formula, with keys and values as stored but found by position in the noise they came from.
    fn naive(&self) -> Vec<f64> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
        } = self.shape;
        let layer = self.layer();
        let mut out = Vec::new();
        for (column, query) in self.queries.iter().enumerate() {
            let last = query.position as usize;
            let first = window.map_or(0, |window| (last + 1).saturating_sub(window as usize));
            for head in 0..heads {
                let q = &self.q[(column * heads + head) * head_dim..][..head_dim];
                let kv_head = head / (heads / kv_heads);
                let score = |p: usize| -> f64 {
                    let (keys, _, at) = layer.planes(query, &self.tables, p, kv_head);
                    let products = q.iter().enumerate().map(|(d, q)| {
                        let (key, scale) = layer.key(keys, at, d);
                        f64::from(*q) * f64::from(key * scale)
                    });
                    products.sum::<f64>() * f64::from(scale)
                };
                let weights: Vec<f64> = (first..=last).map(|p| score(p).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let sum = weights.iter().zip(first..).map(|(w, p)| {
                        let (_, values, at) = layer.planes(query, &self.tables, p, kv_head);
                        let (value, scale) = layer.value(values, at, d);
                        w * f64::from(value * scale)
                    });
                    out.push(sum.sum::<f64>() / total);
                }
            }
        }
        out
    }
}

/// Two of them are a NaN in f16.
const NAN_BYTE: u8 = 0xff;

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<u32>) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
    }
}

/// Positions at the edges of tiles (32), KV blocks and windows, in two sequences.
const EDGES: [(usize, u32); 14] = [
    (0, 0),
    (1, 1),
    (0, 14),
    (1, 15),
    (0, 16),
    (1, 17),
    (0, 30),
    (0, 31),
    (1, 32),
    (0, 33),
    (1, 63),
    (1, 64),
    (0, 100),
    (1, 149),
];

/// Values are below 1.74 and a score is a sum of `head_dim` products below 3, scaled. Its f32 sum in 16 lanes is off by
/// at most `(head_dim / 16 + 5) · 2⁻²⁴ · 3 · sqrt(head_dim)`: at 128, 2.7e-5. A weight's relative error is that plus
/// exp's 3 units; weighted means move by at most twice it times 1.74: 1e-4. Sums over 150 positions add 2e-5.
const BOUND: f64 = 1.2e-4;

/// What integer kernels of i16 add; keys and values are compared as they are stored. A query is rounded to a 65000th
/// of its norm, which moves a score by `sqrt(head_dim / 12) / 65000` (deviation, as all here): at 128, 5e-5, and
/// weights by as much of themselves. 32 weights of a tile are rounded to a 32767th of their sum, which moves a mean of
/// values of deviation 1 by `sqrt(32 / 12) / 32767`: 5e-5. Six deviations of both.
const WORDS_BOUND: f64 = 4.2e-4;

#[test]
fn attention_is_near_the_formula() {
    let shapes = [
        shape(4, 4, 32, None),
        shape(8, 2, 64, None),
        shape(6, 1, 20, None),
        shape(40, 2, 8, None),
        shape(4, 2, 128, Some(16)),
        shape(2, 1, 17, Some(1)),
        shape(4, 2, 32, Some(33)),
        shape(4, 2, 32, Some(1000)),
    ];
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 2) else {
            continue;
        };
        for shape in shapes {
            let formats =
                [KvFormat::F16, KvFormat::I16].map(|format| [1, 16, 24, 32].map(|p| (format, p)));
            for (format, block_positions) in formats.into_iter().flatten() {
                let pairs = shape.head_dim.is_multiple_of(2) && block_positions > 1;
                if format == KvFormat::I16 && !pairs {
                    continue;
                }
                let scene =
                    Scene::stored(format, SEQUENCE_POSITIONS, shape, block_positions, &EDGES);
                let ours = scene.attend(&mut kernels, 0..EDGES.len());
                for (i, (ours, exact)) in ours.iter().zip(scene.naive()).enumerate() {
                    let error = (f64::from(*ours) - exact).abs();
                    let rounding = if format == KvFormat::I16 {
                        WORDS_BOUND
                    } else {
                        0.0
                    };
                    assert!(
                        error <= BOUND + rounding,
                        "{isa} {format} {shape:?} blocks of {block_positions}, element {i}: {ours} for {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_the_batch_nor_on_the_threads() {
    for (isa, format) in Isa::ALL
        .into_iter()
        .flat_map(|isa| FORMATS.map(|f| (isa, f)))
    {
        for window in [None, Some(20)] {
            let shape = shape(8, 2, 64, window);
            let scene = Scene::stored(format, SEQUENCE_POSITIONS, shape, 16, &EDGES);
            let Some(mut one) = kernels(isa, 1) else {
                break;
            };
            let mut three = kernels(isa, 3).unwrap();
            let whole = bits(&scene.attend(&mut one, 0..EDGES.len()));
            assert_eq!(
                whole,
                bits(&scene.attend(&mut three, 0..EDGES.len())),
                "{isa} {format} threads"
            );
            for column in 0..EDGES.len() {
                let alone = bits(&scene.attend(&mut three, column..column + 1));
                assert_eq!(
                    alone,
                    whole[column * 512..][..512],
                    "{isa} {format} column {column}"
                );
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for (isa, format) in Isa::ALL
        .into_iter()
        .flat_map(|isa| FORMATS.map(|f| (isa, f)))
    {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let shape = shape(2, 1, 32, None);
        let mut scene = Scene::stored(format, SEQUENCE_POSITIONS, shape, 16, &EDGES);
        scene.q.iter_mut().for_each(|q| *q *= 1e4);
        let out = scene.attend(&mut kernels, 0..EDGES.len());
        assert!(
            out.iter().all(|x| x.abs() <= 1.74),
            "{isa} {format}: a mean of values stays among them"
        );
    }
}

#[test]
fn other_sequences_in_the_cache_do_not_matter() {
    for (isa, format) in Isa::ALL
        .into_iter()
        .flat_map(|isa| FORMATS.map(|f| (isa, f)))
    {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let shape = shape(4, 2, 32, None);
        let mut scene = Scene::stored(format, SEQUENCE_POSITIONS, shape, 16, &[(0, 70)]);
        let before = bits(&scene.attend(&mut kernels, 0..1));
        let own: Vec<u32> = scene.tables[..SEQUENCE_POSITIONS.div_ceil(16)].to_vec();
        let block = 2 * format.plane_bytes(32, 16);
        for other in scene.tables.iter().filter(|block| !own.contains(block)) {
            scene.k[*other as usize * block..][..block].fill(NAN_BYTE);
        }
        assert_eq!(
            bits(&scene.attend(&mut kernels, 0..1)),
            before,
            "{isa} {format}"
        );
    }
}

#[test]
#[should_panic(expected = "the table reaches the position")]
fn a_table_that_is_too_short_is_refused() {
    let mut scene = Scene::new(shape(1, 1, 8, None), 16, &[(0, 40)]);
    scene.queries[0].table_len = 2;
    scene.attend(&mut kernels(Isa::Portable, 1).unwrap(), 0..1);
}

/// Positions around the edges of spans of 512, in two sequences, and a run of neighbours.
fn deep() -> Vec<(usize, u32)> {
    let edges = [
        (0, 511),
        (0, 512),
        (1, 513),
        (1, 1023),
        (0, 1024),
        (0, 1299),
    ];
    let run = (1000..1040).map(|position| (1, position));
    edges.into_iter().chain(run).collect()
}

const FORMATS: [KvFormat; 3] = [KvFormat::F16, KvFormat::Q8_0, KvFormat::I16];

#[test]
fn spans_and_formats_are_near_the_formula() {
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 2) else {
            continue;
        };
        for format in FORMATS {
            for (window, block_positions) in [(None, 32), (Some(600), 32), (Some(16), 24)] {
                let shape = shape(4, 2, 64, window);
                let scene = Scene::stored(format, 1300, shape, block_positions, &deep());
                let ours = scene.attend(&mut kernels, 0..scene.queries.len());
                for (i, (ours, exact)) in ours.iter().zip(scene.naive()).enumerate() {
                    let error = (f64::from(*ours) - exact).abs();
                    // Sums over 1300 positions add 1300 · 2⁻²⁴ · 1.74 in the worst case: 1.4e-4.
                    assert!(
                        error <= BOUND + 1.4e-4,
                        "{isa} {format} window {window:?}, element {i}: {ours} for {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_chunks_nor_on_who_computes_a_span() {
    // The oracle knows no spans, and what it does with batches the test above holds.
    for isa in Isa::ALL.into_iter().filter(|isa| *isa != Isa::Portable) {
        let (Some(mut one), Some(mut seven)) = (kernels(isa, 1), kernels(isa, 7)) else {
            continue;
        };
        for format in FORMATS {
            for (heads, window) in [(8, None), (6, None), (8, Some(600)), (8, Some(5))] {
                let shape = shape(heads, 2, 64, window);
                let scene = Scene::stored(format, 1300, shape, 32, &deep());
                let columns = scene.queries.len();
                let whole = bits(&scene.attend(&mut one, 0..columns));
                for chunk in [1, 3, 16, columns] {
                    let mut cut = Vec::new();
                    for start in (0..columns).step_by(chunk) {
                        let range = start..(start + chunk).min(columns);
                        cut.extend(bits(&scene.attend(&mut seven, range)));
                    }
                    assert_eq!(cut, whole, "{isa} {format} {heads} {window:?} by {chunk}");
                }
            }
        }
    }
}

#[test]
fn what_a_query_does_not_see_does_not_enter_its_result() {
    let cases = FORMATS.map(|format| [39, 40].map(|last| (format, last)));
    let cases = cases.into_iter().flatten();
    for ((format, last), isa) in cases.flat_map(|case| Isa::ALL.map(|isa| (case, isa))) {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        // The neighbour sees one position more, though both read one tile, and in i16 perhaps one pair.
        let wanted = [(0, last), (0, last + 1)];
        let shape = shape(4, 2, 64, None);
        let mut scene = Scene::stored(format, SEQUENCE_POSITIONS, shape, 32, &wanted);
        let before = scene.attend(&mut kernels, 0..1);
        let noise = [f32::NAN; 128];
        let slot = KvSlot {
            block: scene.tables[1],
            offset: last + 1 - 32,
        };
        let shape = scene.layer().shape;
        let (k, v) = (&mut scene.k, &mut scene.v);
        kernels.store_kv(&noise, &noise, &[slot], KvLayerMut { k, v, shape });
        let after = scene.attend(&mut kernels, 0..2);
        assert_eq!(bits(&after[..256]), bits(&before), "{isa} {format} {last}");
        // And what the neighbour sees, it shows.
        assert!(after[256..].iter().all(|x| x.is_nan()), "{isa} {format}");
    }
}

/// Queries along keys, and values along weights, as large as they may be: no sum of integers wraps.
#[test]
fn the_greatest_sums_of_sixteen_bits_are_exact() {
    // One element, or all alike, which is where the norm and where the greatest element decides.
    let one = |d: usize| if d == 5 { 40.0_f32 } else { 0.0 };
    let alike = |_: usize| -3.0_f32;
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        for (dim, x) in [
            (64, &one as &dyn Fn(usize) -> f32),
            (64, &alike),
            (256, &alike),
        ] {
            let shape = AttentionShape {
                scale: 1e-4,
                ..shape(4, 2, dim, None)
            };
            let mut scene = Scene::stored(KvFormat::I16, SEQUENCE_POSITIONS, shape, 32, &[(0, 63)]);
            let row: Vec<f32> = (0..2 * dim).map(|i| x(i % dim)).collect();
            scene.q = row.repeat(2);
            let slots: Vec<KvSlot> = (0..64)
                .map(|position| KvSlot {
                    block: scene.tables[position / 32],
                    offset: (position % 32) as u32,
                })
                .collect();
            let (stored, layer) = (row.repeat(64), scene.layer().shape);
            let (k, v) = (&mut scene.k, &mut scene.v);
            let layer = KvLayerMut { k, v, shape: layer };
            kernels.store_kv(&stored, &stored, &slots, layer);
            for (ours, expected) in scene.attend(&mut kernels, 0..1).iter().zip(row.repeat(2)) {
                let error = (ours - expected).abs();
                // Rounding of 64 weights to a step of a tile's 32767th, and of values.
                assert!(
                    error <= expected.abs() * 6e-4,
                    "{isa} {dim}: {ours} for {expected}"
                );
            }
        }
    }
}

/// Half a code, of a scale that is rounded up to eight bits; what is not finite is NaN, what is next to nothing zero.
#[test]
fn sixteen_bits_store_within_half_a_code() {
    let shape = KvShape {
        format: KvFormat::I16,
        kv_heads: 1,
        head_dim: 64,
        block_positions: 32,
    };
    let mut planes = [vec![0; shape.plane_bytes()], vec![0; shape.plane_bytes()]];
    let mut kernels = kernels(Isa::Portable, 1).unwrap();
    let slot = KvSlot {
        block: 0,
        offset: 7,
    };
    let mut stored = |x: &[f32]| {
        let [k, v] = &mut planes;
        let layer = KvLayerMut { k, v, shape };
        kernels.store_kv(x, x, &[slot], layer);
        let layer = KvLayer { k, v, shape };
        let keys: Vec<_> = (0..64).map(|d| layer.key(k, 7, d)).collect();
        let values: Vec<_> = (0..64).map(|d| layer.value(v, 7, d)).collect();
        (keys, values)
    };
    let mut x = noise(9, 64);
    let (keys, values) = stored(&x);
    let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let greatest = x.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
    for (numbers, size) in [(keys, norm), (values, greatest)] {
        for (x, (code, scale)) in x.iter().zip(numbers) {
            assert!(scale * 32767.0 >= size && scale * 32767.0 <= size * 1.008);
            assert!((x - code * scale).abs() <= 0.501 * scale, "{x}: {code}");
        }
    }
    x[3] = f32::INFINITY;
    assert!(stored(&x).0.iter().all(|(_, scale)| scale.is_nan()));
    let (keys, values) = stored(&[1e-20; 64]);
    assert!(
        keys.iter()
            .chain(&values)
            .all(|number| *number == (0.0, 0.0))
    );
}

#[test]
fn eight_bits_store_within_a_scale() {
    let x = noise(9, 32);
    let (scale, codes) = crate::ops::kv::quantize(&x);
    for (x, code) in x.iter().zip(codes) {
        let error = (x - f32::from(code) * scale.to_f32()).abs();
        assert!(error <= 0.54 * scale.to_f32() + 1e-6, "{x}: {code}");
    }
    assert_eq!(crate::ops::kv::quantize(&[0.0; 32]).1, [0; 32]);
    let mut broken = x;
    broken[7] = f32::INFINITY;
    assert!(crate::ops::kv::quantize(&broken).0.is_nan());
}
