//! `crate::low_rank` with vectors of 16 lanes.

use super::attention::Sixteen;
use crate::low_rank;

/// See `low_rank::down`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn low_rank_down<const R: usize, const C: usize>(
    a: &[&[u8]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    low_rank::down::<Sixteen, R, C>(a, x)
}

/// See `low_rank::up`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn low_rank_up<const C: usize>(panel: &[u8], h: &[&[f32]; C], y: &mut [&mut [f32]; C]) {
    low_rank::up::<Sixteen, C>(panel, h, y);
}
