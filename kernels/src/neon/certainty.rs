//! `crate::certainty` with vectors of four lanes.

use super::attention::Four;
use crate::certainty::{self, Sums};

/// See `certainty::sums`.
#[target_feature(enable = "neon")]
pub(crate) fn sums(logits: &[f32]) -> Sums {
    certainty::sums::<Four>(logits)
}
