//! `crate::certainty` with vectors of eight lanes.

use super::attention::Eight;
use crate::certainty::{self, Sums};

/// See `certainty::sums`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn sums(logits: &[f32]) -> Sums {
    certainty::sums::<Eight>(logits)
}
