//! Which columns of a step have which adapter, and what those add to the products of the base.

use std::ops::Range;
use std::sync::Arc;

use outstation_kernels::ops::Kernels;

use crate::adapter::{PackedAdapter, Projection};
use crate::engine::StepPlan;

/// Products with one input at most: query, key and value.
const PRODUCTS_MAX: usize = 3;

/// The adapters of a step. All memory is taken in `new`.
pub(super) struct Mix {
    columns_max: usize,
    rank_max: usize,
    /// The group of each column, `NONE` for the base alone.
    of_column: Vec<u32>,
    /// Columns, group after group.
    columns: Vec<u32>,
    groups: Vec<Group>,
    /// Between the two factors: `[columns, products, rank]`.
    between: Box<[f32]>,
}

/// Columns with one adapter.
struct Group {
    /// The first sequence of the plan that has it.
    adapted: usize,
    columns: Range<usize>,
}

const NONE: u32 = u32::MAX;

impl Mix {
    /// For steps of `columns_max`; with a rank of 0 no step has adapters.
    pub(super) fn new(columns_max: usize, rank_max: usize) -> Self {
        let columns = if rank_max == 0 { 0 } else { columns_max };
        Self {
            columns_max: columns,
            rank_max,
            of_column: Vec::with_capacity(columns),
            columns: Vec::with_capacity(columns),
            groups: Vec::with_capacity(columns),
            between: vec![0.0; columns * PRODUCTS_MAX * rank_max].into(),
        }
    }

    /// Bytes that `new` takes.
    pub(super) fn bytes(columns_max: usize, rank_max: usize) -> usize {
        if rank_max == 0 {
            return 0;
        }
        let of_column = 2 * size_of::<u32>() + size_of::<Group>();
        columns_max * (of_column + PRODUCTS_MAX * rank_max * size_of::<f32>())
    }

    /// Finds the groups of a step.
    pub(super) fn load(&mut self, plan: &StepPlan) {
        self.of_column.clear();
        self.groups.clear();
        self.columns.clear();
        if plan.adapted().is_empty() {
            return;
        }
        assert!(
            plan.columns().len() <= self.columns_max,
            "memory for adapters was taken"
        );
        plan.each_run(|columns, adapted| {
            let group = adapted.map_or(NONE, |index| {
                self.group_of(plan, index, &plan.adapted()[index].adapter)
            });
            self.of_column.extend(std::iter::repeat_n(group, columns));
        });
        self.gather();
    }

    /// The group that has this adapter, or a new one.
    fn group_of(&mut self, plan: &StepPlan, index: usize, adapter: &Arc<PackedAdapter>) -> u32 {
        assert!(
            adapter.rank_max() <= self.rank_max,
            "memory for this rank was taken"
        );
        let has = |group: &Group| Arc::ptr_eq(&plan.adapted()[group.adapted].adapter, adapter);
        let known = self.groups.iter().position(has);
        let group = known.unwrap_or_else(|| {
            self.groups.push(Group {
                adapted: index,
                columns: 0..0,
            });
            self.groups.len() - 1
        });
        u32::try_from(group).expect("at most one for each column")
    }

    /// Lists the columns of each group.
    fn gather(&mut self) {
        self.columns.clear();
        for (index, group) in (0..).zip(&mut self.groups) {
            let start = self.columns.len();
            let all = (0..).zip(&self.of_column);
            let own = all.filter(|&(_, &of)| of == index);
            self.columns.extend(own.map(|(column, _): (u32, _)| column));
            group.columns = start..self.columns.len();
        }
    }

    /// Goes on with the columns that are kept, in order.
    pub(super) fn keep(&mut self, kept: impl Iterator<Item = usize>) {
        if self.groups.is_empty() {
            return;
        }
        let mut count = 0;
        for from in kept {
            self.of_column[count] = self.of_column[from];
            count += 1;
        }
        self.of_column.truncate(count);
        self.gather();
    }

    /// Adds to products `y` of a layer what the adapters of their columns add, from the same input `x`, `cols` wide.
    pub(super) fn add<const K: usize>(
        &mut self,
        kernels: &mut Kernels,
        plan: &StepPlan,
        (layer, projections): (usize, [Projection; K]),
        (x, cols): (&[f32], usize),
        y: [&mut [f32]; K],
    ) {
        const { assert!(K <= PRODUCTS_MAX) };
        if self.columns.is_empty() {
            return;
        }
        let (groups, columns) = (&self.groups, &self.columns);
        let group = |index: usize| {
            let Group {
                adapted,
                columns: own,
            } = &groups[index];
            let adapter = &plan.adapted()[*adapted].adapter;
            adapter.factors(layer, projections, &columns[own.clone()])
        };
        kernels.add_low_rank((x, cols), groups.len(), &group, &mut self.between, y);
    }
}
