//! Attention's items of work: which rows are attended together, and over which spans.

use outstation_cuda::{GpuPlan, Item};

use crate::engine::StepPlan;
use crate::kv::BlockTables;

/// Rows that one item takes.
pub(super) const ITEM_ROWS: usize = 16;

/// Neighbouring columns of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) columns: usize,
    pub(super) table: u32,
    /// Position of the last.
    pub(super) last: u32,
}

/// Finds the runs of columns that are of one sequence and follow each other.
pub(super) fn find_runs(
    runs: &mut Vec<Run>,
    step: &StepPlan,
    tables: BlockTables<'_>,
    asked: bool,
) {
    runs.clear();
    let columns = step
        .columns()
        .iter()
        .filter(|column| !asked || column.logits);
    let mut sequence = None;
    for (index, column) in columns.enumerate() {
        match runs.last_mut() {
            Some(run) if sequence == Some(column.sequence) => {
                run.columns += 1;
                run.last = column.position;
            }
            _ => runs.push(Run {
                first: index,
                columns: 1,
                table: column.sequence * tables.stride,
                last: column.position,
            }),
        }
        sequence = Some(column.sequence);
    }
}

/// Writes the items of a run behind those that there are; returns how many there are then.
pub(super) fn put_items(
    plan: &mut GpuPlan,
    asked: bool,
    mut items: usize,
    run: Run,
    (shared_by, spans, spread): (usize, usize, bool),
) -> usize {
    let heads = shared_by.min(ITEM_ROWS);
    let columns = ITEM_ROWS / heads;
    for first in (0..run.columns).step_by(columns) {
        for first_head in (0..shared_by).step_by(heads) {
            let item = |part: usize, span_start: usize, span_end: usize| Item {
                first: (run.first + first) as u32,
                columns: columns.min(run.columns - first) as u32,
                first_head: first_head as u32,
                heads: heads.min(shared_by - first_head) as u32,
                span_start: span_start as u32,
                span_end: span_end as u32,
                part: part as u32,
                unused: 0,
            };
            if spread {
                for span in 0..spans {
                    plan.put_item(asked, items, item(span, span, span + 1));
                    items += 1;
                }
            } else {
                plan.put_item(asked, items, item(0, 0, spans));
                items += 1;
            }
        }
    }
    items
}
