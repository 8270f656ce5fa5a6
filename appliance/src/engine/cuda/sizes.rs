//! What an engine on a GPU needs for a model.

use outstation_cuda::{GpuCache, PlanSize, SPAN};

use super::items::ITEM_ROWS;
use crate::adapter::AdapterPlaces;
use crate::engine::cpu::EngineSize;
use crate::limits::KV_BLOCK_POSITIONS;
use crate::model::Model;

/// Sizes that follow from a model and an [`EngineSize`].
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) columns: usize,
    pub(super) asked: usize,
    pub(super) input: usize,
    pub(super) qkv: usize,
    /// Query heads times their padded width.
    pub(super) q: usize,
    pub(super) parts: usize,
    pub(super) part: usize,
    /// Whether inputs of products are wanted as they are, too.
    pub(super) floats: bool,
    pub(super) plan: PlanSize,
}

impl Sizes {
    pub(super) fn of(
        model: &Model,
        (size, tables): (EngineSize, usize),
        places: AdapterPlaces,
    ) -> Sizes {
        let dims = &model.dims;
        let padded = GpuCache::padded(dims.head_dim).expect("checked by `unfit`");
        let blocks_max = dims.context_positions.div_ceil(KV_BLOCK_POSITIONS) as usize;
        let spans = (blocks_max * KV_BLOCK_POSITIONS as usize).div_ceil(SPAN);
        // Room for the spans of some long sequences that decode; a step that has more attends them one after the other.
        let parts = size.columns_max + size.logits_rows_max * spans.min(PARTS_MAX);
        let shared_by = dims.heads / dims.kv_heads;
        let items = parts * shared_by.div_ceil(ITEM_ROWS);
        Sizes {
            columns: size.columns_max,
            asked: size.logits_rows_max,
            input: dims.hidden.max(dims.q_width()).max(dims.ffn),
            qkv: dims.q_width() + 2 * dims.kv_width(),
            q: dims.heads * padded,
            parts,
            part: dims.heads * (padded + 2),
            floats: places.count > 0 || model.weights().any(|weight| weight.format.is_float()),
            plan: PlanSize {
                columns: size.columns_max,
                asked: size.logits_rows_max,
                items,
                tables,
            },
        }
    }
}

/// Spans of a sequence that the room for partial results counts with.
const PARTS_MAX: usize = 64;
