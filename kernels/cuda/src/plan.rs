//! What a step is, as `cu/step.cuh` and `cu/attention.cu` read it.

use super::driver::{Buffer, Pinned, Slice};
use super::{Draw, Gpu, GpuError};

/// One token of one sequence, as the device reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Token id.
    pub token: u32,
    /// Its position in the sequence.
    pub position: u32,
    /// Block that its key and value go to.
    pub block: u32,
    /// Position in that block.
    pub offset: u32,
    /// Start of its sequence's block table.
    pub table: u32,
    /// Its first partial result of attention.
    pub part_start: u32,
    /// How many it has.
    pub part_count: u32,
    /// Which column of the step it is.
    pub from: u32,
}

/// Up to sixteen rows of attention, and spans of positions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// First column.
    pub first: u32,
    /// Columns, of one sequence.
    pub columns: u32,
    /// First of the query heads that share a KV head.
    pub first_head: u32,
    /// How many of them.
    pub heads: u32,
    /// First span.
    pub span_start: u32,
    /// End of the spans.
    pub span_end: u32,
    /// Added to the columns' first part.
    pub part: u32,
    /// Nothing.
    pub unused: u32,
}

impl Column {
    fn words(self) -> [u32; 8] {
        [
            self.token,
            self.position,
            self.block,
            self.offset,
            self.table,
            self.part_start,
            self.part_count,
            self.from,
        ]
    }
}

impl Item {
    fn words(self) -> [u32; 8] {
        [
            self.first,
            self.columns,
            self.first_head,
            self.heads,
            self.span_start,
            self.span_end,
            self.part,
            self.unused,
        ]
    }
}

/// Words of a [`Column`] or an [`Item`].
const WORDS: usize = 8;

/// Sizes of a [`GpuPlan`].
#[derive(Clone, Copy, Debug)]
pub struct PlanSize {
    /// Columns of a step.
    pub columns: usize,
    /// Columns that ask for logits.
    pub asked: usize,
    /// Items of attention.
    pub items: usize,
    /// Entries of all block tables.
    pub tables: usize,
}

/// What a step is, where the device reads it: written by the host, sent at once, always at the same addresses.
pub struct GpuPlan {
    size: PlanSize,
    staged: Pinned<u32>,
    device: Buffer<u32>,
}

impl GpuPlan {
    /// Takes its memory, on both sides.
    pub fn new(gpu: &Gpu, size: PlanSize) -> Result<GpuPlan, GpuError> {
        Ok(GpuPlan {
            staged: gpu.pinned(Self::words(size))?,
            device: gpu.buffer(Self::words(size))?,
            size,
        })
    }

    /// Bytes on the device.
    pub fn bytes(size: PlanSize) -> u64 {
        (Self::words(size) * 4) as u64
    }

    fn words(size: PlanSize) -> usize {
        Self::tables_at(size) + size.tables
    }

    /// Columns, those that ask, how they are drawn, items of both, how many items, adapters of both, tables.
    fn asked_at(size: PlanSize) -> usize {
        size.columns * WORDS
    }

    fn draws_at(size: PlanSize) -> usize {
        Self::asked_at(size) + size.asked * WORDS
    }

    fn items_at(size: PlanSize) -> usize {
        Self::draws_at(size) + size.asked * WORDS
    }

    /// Items of all columns, then of those that ask.
    fn items_start(size: PlanSize, asked: bool) -> usize {
        Self::items_at(size) + usize::from(asked) * size.items * WORDS
    }

    fn counts(size: PlanSize) -> usize {
        Self::items_start(size, true) + size.items * WORDS
    }

    /// Places of adapters, of all columns, then of those that ask.
    fn places_at(size: PlanSize, asked: bool) -> usize {
        Self::counts(size) + 4 + usize::from(asked) * size.columns
    }

    fn tables_at(size: PlanSize) -> usize {
        Self::places_at(size, true) + size.asked
    }

    fn put(&mut self, at: usize, words: [u32; WORDS]) {
        self.staged[at..at + WORDS].copy_from_slice(&words);
    }

    /// Sets a column of the step.
    pub fn put_column(&mut self, index: usize, column: Column) {
        assert!(index < self.size.columns);
        self.put(index * WORDS, column.words());
    }

    /// Sets a column that asks for logits.
    pub fn put_asked(&mut self, index: usize, column: Column) {
        assert!(index < self.size.asked);
        self.put(Self::asked_at(self.size) + index * WORDS, column.words());
    }

    /// Says which adapter a column has, or one of those that ask: the place of it, or [`GpuAdapters::NO_PLACE`].
    ///
    /// [`GpuAdapters::NO_PLACE`]: super::GpuAdapters::NO_PLACE
    pub fn put_place(&mut self, asked: bool, index: usize, place: u32) {
        let [columns, asking] = [self.size.columns, self.size.asked];
        assert!(index < if asked { asking } else { columns });
        self.staged[Self::places_at(self.size, asked) + index] = place;
    }

    /// Says how the token of a column that asks is drawn. It stays so until [`GpuPlan::clear_draws`].
    pub fn put_draw(&mut self, index: usize, draw: Draw) {
        assert!(index < self.size.asked);
        self.put(Self::draws_at(self.size) + index * WORDS, draw.words());
    }

    /// Draws none.
    pub fn clear_draws(&mut self) {
        let draws = Self::draws_at(self.size)..Self::items_at(self.size);
        self.staged[draws].fill(0);
    }

    /// Makes a column the first one once more, where more columns run than there are. All that it writes is what the
    /// first one writes, in every layer, since it has its parts, too.
    pub fn repeat_first(&mut self, index: usize) {
        assert!(index < self.size.columns.min(self.size.asked));
        for start in [0, Self::asked_at(self.size)] {
            let first = start..start + WORDS;
            self.staged.copy_within(first, start + index * WORDS);
        }
        for start in [false, true].map(|asked| Self::places_at(self.size, asked)) {
            self.staged[start + index] = self.staged[start];
        }
    }

    /// Sets an item of all columns, or of those that ask.
    pub fn put_item(&mut self, asked: bool, index: usize, item: Item) {
        assert!(index < self.size.items);
        let start = Self::items_start(self.size, asked);
        self.put(start + index * WORDS, item.words());
    }

    /// Says how many items there are of both kinds, and where blocks are.
    pub fn finish(&mut self, items: [usize; 2], tables: &[u32]) {
        let counts = Self::counts(self.size);
        assert!(tables.len() <= self.size.tables);
        self.staged[counts] = items[0] as u32;
        self.staged[counts + 1] = items[1] as u32;
        self.staged[Self::tables_at(self.size)..][..tables.len()].copy_from_slice(tables);
    }

    /// Begins to send it.
    pub fn send(&self, gpu: &Gpu) -> Result<(), GpuError> {
        gpu.upload(&self.staged, 0, self.device.all())
    }

    /// Begins to send how one column is drawn.
    pub fn send_draw(&self, gpu: &Gpu, index: usize) -> Result<(), GpuError> {
        let start = Self::draws_at(self.size) + index * WORDS;
        gpu.upload(&self.staged, start, self.device.all().range(start, WORDS))
    }

    /// The first columns.
    pub fn columns(&self, count: usize) -> Slice<'_, Column> {
        self.device.all().range(0, count * WORDS).cast(WORDS)
    }

    /// The first of those that ask.
    pub fn asked(&self, count: usize) -> Slice<'_, Column> {
        let all = self.device.all();
        all.range(Self::asked_at(self.size), count * WORDS)
            .cast(WORDS)
    }

    /// How some of those are drawn.
    pub fn draws(&self, first: usize, count: usize) -> Slice<'_, Draw> {
        let start = Self::draws_at(self.size) + first * WORDS;
        let all = self.device.all();
        all.range(start, count * WORDS).cast(WORDS)
    }

    /// Items, of which [`GpuPlan::finish`] said how many count, and that number.
    pub fn items(&self, asked: bool, count: usize) -> (Slice<'_, Item>, Slice<'_, u32>) {
        assert!(count <= self.size.items);
        let all = self.device.all();
        let start = Self::items_start(self.size, asked);
        let counts = Self::counts(self.size) + usize::from(asked);
        (
            all.range(start, count * WORDS).cast(WORDS),
            all.range(counts, 1),
        )
    }

    /// Places of adapters.
    pub fn places(&self, asked: bool, count: usize) -> Slice<'_, u32> {
        let all = self.device.all();
        all.range(Self::places_at(self.size, asked), count)
    }

    /// Block tables.
    pub fn tables(&self) -> Slice<'_, u32> {
        let start = Self::tables_at(self.size);
        self.device.all().range(start, self.size.tables)
    }
}
