//! Every fast path against the portable oracle, within derived bounds, and the invariances in bits.

mod attention;
mod certainty;
mod low_rank;
mod matmul;
mod rows;

use super::*;

const LIMITS: KernelLimits = KernelLimits {
    cols_max: 4096,
    columns_max: 64,
    heads_max: 40,
    head_dim_max: 256,
    positions_max: 4096,
};

/// Kernels on `isa`, or a loud line when this machine lacks it.
fn kernels(isa: Isa, threads: usize) -> Option<Kernels> {
    if !isa.available() {
        println!("SKIP: this machine has no {isa}, so its kernels were NOT tested");
        return None;
    }
    let limits = LIMITS;
    Some(Kernels::new(isa, Team::new(threads), limits))
}

/// The instruction sets that are tested against portable.
const FAST: [Isa; 4] = [Isa::Avx2, Isa::Avx512, Isa::Neon, Isa::NeonI8mm];

/// Uniform values with deviation 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut bytes = vec![0; len * 4];
    crate::quant::random_row(crate::Format::F32, seed, 1.0, &mut bytes);
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn an_instruction_set_that_the_machine_lacks_is_refused() {
    let Some(missing) = Isa::ALL.into_iter().find(|isa| !isa.available()) else {
        println!("SKIP: this machine lacks no instruction set, so the refusal was NOT tested");
        return;
    };
    let limits = LIMITS;
    let refused = std::panic::catch_unwind(|| Kernels::new(missing, Team::new(1), limits));
    assert!(refused.is_err());
}

#[test]
fn the_peak_counts_what_was_asked_for() {
    for isa in Isa::ALL {
        let Some(mut one) = kernels(isa, 1) else {
            continue;
        };
        let products = one.multiply_peak(1000);
        assert!(products.is_multiple_of(1000 * 12));
        assert_eq!(products > 0, isa != Isa::Portable);
        assert_eq!(kernels(isa, 2).unwrap().multiply_peak(1000), 2 * products);
    }
}

#[test]
fn bandwidth_reads_every_word_once() {
    let buffer: Vec<u8> = (0..100_003_u32).map(|i| (i % 251) as u8).collect();
    let expected = crate::portable::sum_words(&buffer);
    for isa in Isa::ALL {
        for threads in [1, 3] {
            if let Some(mut kernels) = kernels(isa, threads) {
                assert_eq!(kernels.read_bandwidth(&buffer), expected);
            }
        }
    }
}

#[test]
fn the_scratch_is_as_large_as_the_budget_says() {
    let kernels = kernels(Isa::Portable, 2).unwrap();
    let real: usize = kernels
        .scratch
        .iter()
        .map(super::matmul::Scratch::real_bytes)
        .sum();
    let real = real + kernels.attention.real_bytes();
    assert_eq!(real, Kernels::bytes(LIMITS, 2));
}
