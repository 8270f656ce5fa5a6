//! `crate::low_rank` with vectors of eight lanes.

use super::attention::Eight;
use crate::low_rank;

/// See `low_rank::down`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn low_rank_down<const R: usize, const C: usize>(
    a: &[&[u8]; R],
    x: &[&[f32]; C],
) -> [[f32; R]; C] {
    low_rank::down::<Eight, R, C>(a, x)
}

/// See `low_rank::up`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn low_rank_up<const C: usize>(panel: &[u8], h: &[&[f32]; C], y: &mut [&mut [f32]; C]) {
    low_rank::up::<Eight, C>(panel, h, y);
}
