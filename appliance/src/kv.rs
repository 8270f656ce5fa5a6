//! KV blocks: who holds which piece of the cache.
//!
//! The pool is sized once, by `budget`. Every block is free or held, never both:
//!
//! ```text
//! free       7 → 2 → 5
//! sequence 0 [0][1][3]      sequence 1 [4][6]
//! ```
//!
//! A sequence's row of the block table says where its positions lie: position p is in block `table[p / 32]` at offset
//! `p % 32`. The tensors themselves belong to the engine; here are only numbers.

use crate::limits::KV_BLOCK_POSITIONS;

/// Index of a block in the pool.
pub type KvBlock = u32;

/// Free list, holders and block tables. All memory is taken in `new`.
#[derive(Debug)]
pub struct KvPool {
    /// Free blocks, used as a stack: the block given back last is warm in cache and goes out first.
    free: Vec<KvBlock>,
    /// Holders of each block; 0 is free.
    holders: Box<[u16]>,
    /// `[sequences, blocks_per_sequence_max]`, row-major.
    tables: Box<[KvBlock]>,
    /// Blocks in each sequence's row.
    held: Box<[u32]>,
    blocks_per_sequence_max: u32,
}

/// Blocks that hold this many positions.
pub const fn blocks_for(positions: u32) -> u32 {
    positions.div_ceil(KV_BLOCK_POSITIONS)
}

impl KvPool {
    /// A pool of `blocks`, and a table for each of `sequences` of up to `context_positions` each.
    pub fn new(blocks: u32, sequences: u32, context_positions: u32) -> Self {
        assert!(blocks > 0, "a pool has blocks");
        assert!(sequences > 0, "a pool has sequences");
        let blocks_per_sequence_max = blocks_for(context_positions);
        Self {
            free: (0..blocks).rev().collect(),
            holders: vec![0; blocks as usize].into_boxed_slice(),
            tables: vec![0; sequences as usize * blocks_per_sequence_max as usize]
                .into_boxed_slice(),
            held: vec![0; sequences as usize].into_boxed_slice(),
            blocks_per_sequence_max,
        }
    }

    /// Blocks in all.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.holders.len()).expect("made from a u32")
    }

    /// Blocks that nobody holds.
    pub fn blocks_free(&self) -> u32 {
        u32::try_from(self.free.len()).expect("made from a u32")
    }

    /// Gives a sequence the blocks for `positions`, all or none. `false` means that the pool cannot: the caller waits
    /// or refuses.
    ///
    /// Cost: O(blocks), no allocation.
    #[must_use]
    pub fn reserve(&mut self, sequence: u32, positions: u32) -> bool {
        let count = blocks_for(positions);
        let row = sequence as usize;
        assert_eq!(self.held[row], 0, "a sequence reserves once");
        assert!(
            count <= self.blocks_per_sequence_max,
            "the request was checked against the context"
        );
        if (count as usize) > self.free.len() {
            return false;
        }
        let start = row * self.blocks_per_sequence_max as usize;
        for place in &mut self.tables[start..start + count as usize] {
            let block = self.free.pop().expect("counted above");
            let holders = &mut self.holders[block as usize];
            assert_eq!(*holders, 0, "a free block has no holder");
            *holders = 1;
            *place = block;
        }
        self.held[row] = count;
        true
    }

    /// Takes back all blocks of a sequence.
    pub fn release(&mut self, sequence: u32) {
        let row = sequence as usize;
        let start = row * self.blocks_per_sequence_max as usize;
        let count = std::mem::take(&mut self.held[row]) as usize;
        for &block in self.tables[start..start + count].iter().rev() {
            let holders = &mut self.holders[block as usize];
            assert_eq!(*holders, 1, "a held block has its holder");
            *holders = 0;
            self.free.push(block);
        }
        assert!(
            self.free.len() <= self.holders.len(),
            "no block is freed twice"
        );
    }

    /// The tables as the engine reads them.
    pub fn tables(&self) -> BlockTables<'_> {
        BlockTables {
            blocks: &self.tables,
            held: &self.held,
            stride: self.blocks_per_sequence_max,
        }
    }

    /// Checks that every block is free or held, and none both. For tests and checkers: O(blocks).
    pub fn assert_whole(&self) {
        let held: u32 = self.held.iter().sum();
        assert_eq!(
            self.blocks_free() + held,
            self.blocks(),
            "free + held = all"
        );
        for &block in &self.free {
            assert_eq!(
                self.holders[block as usize], 0,
                "a free block has no holder"
            );
        }
    }
}

/// Block tables of all sequences, read-only.
#[derive(Debug, Clone, Copy)]
pub struct BlockTables<'a> {
    /// `[sequences, stride]`, row-major.
    pub blocks: &'a [KvBlock],
    /// Blocks in use in each row.
    pub held: &'a [u32],
    /// Entries of a row.
    pub stride: u32,
}

impl BlockTables<'_> {
    /// Where a position of a sequence lies: block and offset in it.
    pub fn locate(&self, sequence: u32, position: u32) -> (KvBlock, u32) {
        let index = position / KV_BLOCK_POSITIONS;
        assert!(
            index < self.held[sequence as usize],
            "a position inside the reservation"
        );
        let entry = self.blocks[(sequence * self.stride + index) as usize];
        (entry, position % KV_BLOCK_POSITIONS)
    }
}

#[cfg(test)]
mod tests;
