//! One `match` per kernel: which instruction set runs it.
//!
//! `Kernels::new` asserted that the machine has its `isa`, and nothing else passes one on, which is what each unsafe
//! call below rests on. AVX-512 has kernels of its own where they pay, and runs the AVX2 ones elsewhere. What AArch64
//! has no kernel for is compiled for NEON all the same, since that is part of the architecture.

#![allow(
    unsafe_code,
    reason = "calling a function compiled for an instruction set is unsafe"
)]

use crate::attention;
use crate::certainty::Sums;
use crate::isa::Isa;
use crate::ops::{Activations, ColumnMut, ColumnScale, GroupSpace, Precision, Tile, TileSums};
use crate::panel::HALVES;
use crate::panel::chunk::{Chunk, Shape};
use crate::portable;
use crate::quant::Format;

#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};
#[cfg(target_arch = "aarch64")]
use crate::{neon, rows};

/// Wrapping sum of 64-bit words.
pub(crate) fn sum_words(isa: Isa, buffer: &[u8]) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::sum_words(buffer) },
        _ => portable::sum_words(buffer),
    }
}

/// Sums that `multiply_peak` adds to in turn: more than latency times throughput of any machine's products.
pub(crate) const PEAK_CHAINS: usize = 12;

/// See `avx512::peak`. The portable kernels multiply floats, which is not counted.
pub(crate) fn multiply_peak(isa: Isa, rounds: u64) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2.
        Isa::Avx2 => unsafe { avx2::peak(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::peak(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has the dot product of bytes.
        Isa::Neon => unsafe { neon::peak::<false>(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has products of matrices of bytes.
        Isa::NeonI8mm => unsafe { neon::peak::<true>(rounds) },
        _ => 0,
    }
}

/// See `portable::rms_norm`.
pub(crate) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::rms_norm(x, weight, eps, y) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => rows::rms_norm(x, weight, eps, y),
        _ => portable::rms_norm(x, weight, eps, y),
    }
}

/// See `portable::rms_norm_in_place`.
pub(crate) fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::rms_norm_in_place(x, weight, eps) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => rows::rms_norm_in_place(x, weight, eps),
        _ => portable::rms_norm_in_place(x, weight, eps),
    }
}

/// `y += x`
pub(crate) fn add(isa: Isa, y: &mut [f32], x: &[f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::add(y, x) },
        _ => portable::add(y, x),
    }
}

/// See `portable::silu_mul`.
pub(crate) fn silu_mul(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::silu_mul(gate, up, y) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => rows::silu_mul(gate, up, y),
        _ => portable::silu_mul(gate, up, y),
    }
}

/// See `portable::gelu_tanh_mul`.
pub(crate) fn gelu_tanh_mul(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::gelu_tanh_mul(gate, up, y) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => rows::gelu_tanh_mul(gate, up, y),
        _ => portable::gelu_tanh_mul(gate, up, y),
    }
}

/// See `portable::softmax_weights`.
pub(crate) fn softmax_weights(isa: Isa, x: &[f32], max: f32, temperature: f32, y: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::softmax_weights(x, max, temperature, y) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => rows::softmax_weights(x, max, temperature, y),
        _ => portable::softmax_weights(x, max, temperature, y),
    }
}

/// See `certainty::sums`.
pub(crate) fn certainty_sums(isa: Isa, logits: &[f32]) -> Sums {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::sums(logits) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::sums(logits) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::sums(logits) },
        _ => portable::certainty_sums(logits),
    }
}

/// See `portable::rope_adjacent`.
pub(crate) fn rope_adjacent(isa: Isa, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::rope_adjacent(head, cos, sin) },
        _ => portable::rope_adjacent(head, cos, sin),
    }
}

/// See `portable::rope_halves`.
pub(crate) fn rope_halves(isa: Isa, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::rope_halves(head, cos, sin) },
        _ => portable::rope_halves(head, cos, sin),
    }
}

/// See `attention::span`. SIMD only: the oracle is `portable::attention`.
pub(crate) fn attend_span(
    isa: Isa,
    job: &attention::Job<'_>,
    rows: usize,
    span: usize,
    scratch: &mut attention::Scratch,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::attend_span(job, rows, span, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::attend_span(job, rows, span, scratch) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::attend_span(job, rows, span, scratch) },
        _ => unreachable!("the oracle attends"),
    }
}

/// See `ColumnScale::of`. Portable matmul needs none.
pub(crate) fn column_scale(isa: Isa, x: &[f32], precision: Precision) -> ColumnScale {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2::column_scale(x, precision) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::column_scale(x, precision) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => ColumnScale::of(x, precision),
        _ => unreachable!("portable multiplies floats"),
    }
}

/// See `ops::quantize`. Portable matmul needs no codes.
pub(crate) fn quantize(isa: Isa, x: &[f32], rounding: &ColumnScale, column: ColumnMut<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2::quantize(x, rounding, column) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::quantize(x, rounding, column) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => crate::ops::quantize(x, rounding, column),
        _ => unreachable!("portable multiplies floats"),
    }
}

/// Columns times digits of a tile, at most.
pub(crate) fn tile_digits(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::TILE_DIGITS,
        _ => 6,
    }
}

/// Asks for bytes to be brought into the cache. A hint.
pub(crate) fn prefetch(isa: Isa, bytes: &[u8]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => avx2::prefetch(bytes),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => neon::prefetch(bytes),
        _ => (),
    }
}

/// Asks for the lines of some floats to be brought into the cache as this core's own. A hint, for any address.
pub(crate) fn prefetch_for_write(isa: Isa, floats: *const f32, len: usize) {
    for at in (0..len).step_by(16) {
        let line = floats.wrapping_add(at).cast();
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => avx2::prefetch_for_write(line),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonI8mm => neon::prefetch_for_write(line),
            _ => (),
        }
    }
}

/// See `panel::chunk::expand`. SIMD only.
pub(crate) fn expand(
    isa: Isa,
    format: Format,
    cols: usize,
    panel: (&[u8], usize),
    index: usize,
    out: &mut Chunk,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::expand(format, cols, panel, index, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::expand(format, cols, panel, index, out) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonI8mm => neon::expand(format, cols, panel, index, out),
        _ => unreachable!("portable multiplies floats"),
    }
}

/// Whether `multiply_few` is the way for so many columns times digits.
pub(crate) fn takes_few(isa: Isa, digits: usize) -> bool {
    let most = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Some(avx512::FEW),
        _ => None,
    };
    most.is_some_and(|most| digits <= most)
}

/// See `avx512::multiply_few`. Only where `takes_few`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn multiply_few(
    isa: Isa,
    format: Format,
    run: &[u8],
    x: &Activations,
    scratch: &mut [Chunk; HALVES],
    space: &mut GroupSpace,
    sums: &mut [TileSums],
) {
    match isa {
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::multiply_few(format, run, x, scratch, space, sums) },
        _ => unreachable!("nobody else takes few"),
    }
}

/// Only where `takes_few`, which is nowhere here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn multiply_few(
    _isa: Isa,
    _format: Format,
    _run: &[u8],
    _x: &Activations,
    _scratch: &mut [Chunk; HALVES],
    _space: &mut GroupSpace,
    _sums: &mut [TileSums],
) {
    unreachable!("nobody takes few");
}

/// See `avx512::multiply`. SIMD only.
pub(crate) fn multiply(
    isa: Isa,
    shape: Shape,
    chunks: &[Chunk; HALVES],
    tile: &Tile<'_>,
    space: &mut GroupSpace,
    fresh: bool,
    sums: &mut [TileSums],
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::multiply(shape, chunks, tile, space, fresh, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::multiply(shape, chunks, tile, space, fresh, sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has the dot product of bytes.
        Isa::Neon => unsafe { neon::multiply(shape, chunks, tile, space, fresh, sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has products of matrices of bytes, and their dot product.
        Isa::NeonI8mm => unsafe { neon::multiply_i8mm(shape, chunks, tile, space, fresh, sums) },
        _ => unreachable!("portable multiplies floats"),
    }
}

/// A row of float weights as f32.
pub(crate) fn convert_row(isa: Isa, format: Format, row: &[u8], out: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2 and F16C.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::convert_row(format, row, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::convert_row(format, row, out) },
        _ => crate::quant::dequantize_row(format, row, out),
    }
}

/// `R` float rows times `C` columns: `[C][R]`. SIMD only.
pub(crate) fn dot_floats<const R: usize, const C: usize>(
    isa: Isa,
    w: &[&[f32]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2 and FMA.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::dot_floats(w, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::dot_floats(w, x) },
        _ => unreachable!("portable multiplies in f64"),
    }
}

/// See `low_rank::down`.
pub(crate) fn low_rank_down<const R: usize, const C: usize>(
    isa: Isa,
    a: &[&[u8]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::low_rank_down(a, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::low_rank_down(a, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::low_rank_down(a, x) },
        _ => x.map(|x| a.map(|a| portable::dot_bytes(a, x))),
    }
}

/// See `low_rank::up`.
pub(crate) fn low_rank_up<const C: usize>(
    isa: Isa,
    panel: &[u8],
    h: &[&[f32]; C],
    y: &mut [&mut [f32]; C],
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::low_rank_up(panel, h, y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL, DQ and VNNI.
        Isa::Avx512 => unsafe { avx512::low_rank_up(panel, h, y) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon | Isa::NeonI8mm => unsafe { neon::low_rank_up(panel, h, y) },
        _ => {
            for (h, y) in h.iter().zip(y) {
                portable::add_panel(panel, h, y);
            }
        }
    }
}
