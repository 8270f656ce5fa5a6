//! What adapters add, against the oracle, and that no column's bits depend on its neighbours.

use super::*;
use crate::ops::{LowRank, LowRankColumns};

/// Factors of a matrix, packed.
struct Factors {
    rank: usize,
    shape: (usize, usize),
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Factors {
    fn random(seed: u64, rank: usize, (rows, cols): (usize, usize)) -> Self {
        let mut a = vec![0; LowRank::a_bytes(rank, cols)];
        for (index, row) in noise(seed, rank * cols).chunks(cols).enumerate() {
            LowRank::put_a(&mut a, rank, index, row);
        }
        let mut b = vec![0; LowRank::b_bytes(rank, rows)];
        let panels = noise(seed + 1, rank * rows);
        for (index, rows) in panels.chunks(LowRank::PANEL_ROWS * rank).enumerate() {
            LowRank::put_b(&mut b, rank, index, rows);
        }
        Self {
            rank,
            shape: (rows, cols),
            a,
            b,
        }
    }

    fn view(&self) -> LowRank<'_> {
        LowRank::new(self.rank, self.shape, 0.5, &self.a, &self.b)
    }
}

const SHAPES: [(usize, usize); 2] = [(200, 136), (64, 136)];

/// Two products of 7 columns, of which some have factors of rank 16, some of rank 3, and one has none.
fn mixed(isa: Isa, threads: usize, only: Option<u32>) -> Option<[Vec<f32>; 2]> {
    let mut kernels = kernels(isa, threads)?;
    let large = SHAPES.map(|shape| Factors::random(5, 16, shape));
    let small = Factors::random(9, 3, SHAPES[0]);
    let x = noise(1, 7 * 136);
    let mut y = SHAPES.map(|(rows, _)| noise(2, 7 * rows));
    let groups: [&[u32]; 2] = [&[0, 2, 3, 6], &[1, 5]];
    let alone: Vec<u32> = only.into_iter().collect();
    let group = |index: usize| LowRankColumns {
        columns: match only {
            None => groups[index],
            Some(column) if groups[index].contains(&column) => &alone,
            Some(_) => &[],
        },
        factors: match index {
            0 => [Some(large[0].view()), Some(large[1].view())],
            _ => [Some(small.view()), None],
        },
    };
    let mut space = vec![0.0; 7 * 2 * 16];
    let [one, two] = &mut y;
    kernels.add_low_rank((&x, 136), 2, &group, &mut space, [one, two]);
    Some(y)
}

/// Each sum of n products in f32, n = 136 and then 16, is off by at most n·2⁻²⁴ of the sum of magnitudes; with values
/// of deviation 1 that sum is below 3·136·16·3, which gives 0.06 at worst and a hundredth of that as a rule.
#[test]
fn low_rank_products_are_the_oracle_s() {
    let oracle = mixed(Isa::Portable, 1, None).unwrap();
    for isa in FAST {
        let Some(fast) = mixed(isa, 2, None) else {
            continue;
        };
        for (fast, oracle) in fast.iter().zip(&oracle) {
            for (fast, oracle) in fast.iter().zip(oracle) {
                assert!((fast - oracle).abs() < 2e-3, "{isa}: {fast} for {oracle}");
            }
        }
    }
}

#[test]
fn low_rank_products_of_a_column_do_not_depend_on_others() {
    for isa in Isa::ALL {
        let Some(all) = mixed(isa, 1, None) else {
            continue;
        };
        let many = mixed(isa, 3, None).unwrap();
        for column in 0..7 {
            let alone = mixed(isa, 2, Some(column)).unwrap();
            for (index, (rows, _)) in SHAPES.into_iter().enumerate() {
                let row = |y: &[Vec<f32>; 2]| bits(&y[index][column as usize * rows..][..rows]);
                assert_eq!(row(&all), row(&many), "{isa}: column {column}, threads");
                assert_eq!(row(&all), row(&alone), "{isa}: column {column}, alone");
            }
        }
        let before = noise(2, 7 * 200);
        let without = bits(&all[0][4 * 200..5 * 200]);
        assert_eq!(without, bits(&before[4 * 200..5 * 200]), "{isa}: no group");
    }
}

/// Multiples of the scale are exact in bytes, and small whole numbers in every order.
#[test]
fn low_rank_products_are_what_the_formula_says() {
    let (rank, rows, cols) = (2, 3, 5);
    let mut a = vec![0; LowRank::a_bytes(rank, cols)];
    let mut b = vec![0; LowRank::b_bytes(rank, rows)];
    LowRank::put_a(&mut a, rank, 0, &[127.0, 0.0, 2.0, 0.0, 0.0]);
    LowRank::put_a(&mut a, rank, 1, &[0.0, 1.0, 0.0, 0.0, -127.0]);
    LowRank::put_b(&mut b, rank, 0, &[127.0, 0.0, 0.0, 254.0, 2.0, 2.0]);
    for isa in Isa::ALL {
        let Some(mut kernels) = kernels(isa, 1) else {
            continue;
        };
        let factors = LowRank::new(rank, (rows, cols), 0.5, &a, &b);
        let group = |_| LowRankColumns {
            columns: &[0],
            factors: [Some(factors)],
        };
        let mut y = [100.0, 200.0, 300.0];
        let x = [1.0, 2.0, 3.0, 4.0, 1.0];
        kernels.add_low_rank((&x, cols), 1, &group, &mut [0.0; 2], [&mut y]);
        // A x is [133, -125], halved [66.5, -62.5].
        assert_eq!(y, [8545.5, -15675.0, 308.0], "{isa}");
    }
}

#[test]
#[should_panic(expected = "a column is in one group, once")]
fn a_column_in_two_groups_is_refused() {
    let mut kernels = kernels(Isa::Portable, 1).unwrap();
    let factors = Factors::random(1, 2, (64, 32));
    let group = |_| LowRankColumns {
        columns: &[0],
        factors: [Some(factors.view())],
    };
    let mut space = [0.0; 4];
    kernels.add_low_rank((&[0.0; 32], 32), 2, &group, &mut space, [&mut [0.0; 64]]);
}
