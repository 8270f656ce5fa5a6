//! `crate::certainty` with vectors of 16 lanes.

use super::attention::Sixteen;
use crate::certainty::{self, Sums};

/// See `certainty::sums`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) fn sums(logits: &[f32]) -> Sums {
    certainty::sums::<Sixteen>(logits)
}
