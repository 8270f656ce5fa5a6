//! KV blocks: who holds which piece of the cache.
//!
//! The pool is sized once, by `budget`. Every block is free, held by one sequence or several, or idle: nobody holds it,
//! but what it has is known ([`prefix`]), so a prompt that begins the same way takes it as it is.
//!
//! ```text
//! free       7 → 2 → 5             idle  8 ⇄ 9
//! sequence 0 [0][1][3]             sequence 1 [0][4][6]      0 is the beginning that both have
//! ```
//!
//! A shared block is full and never written again: a sequence computes from its first own block on.
//!
//! A sequence's row of the block table says where its positions lie: position p is in block `table[p / 32]` at offset
//! `p % 32`. The tensors themselves belong to the engine; here are only numbers.

pub mod prefix;

use prefix::{BlockTokens, Chain, PrefixIndex};

use crate::limits::KV_BLOCK_POSITIONS;
use crate::sampler::splitmix;

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
    /// Which reservation each row is, counted over all rows.
    reservations: Box<[u64]>,
    reservations_made: u64,
    /// Blocks at the front of each row whose contents were told to the index, and the chain up to there.
    told: Box<[(u32, Chain)]>,
    blocks_per_sequence_max: u32,
    prefixes: PrefixIndex,
    /// Blocks that stay: they count as held.
    pinned: Box<[bool]>,
    pins: u32,
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
            reservations: vec![0; sequences as usize].into_boxed_slice(),
            reservations_made: 0,
            told: vec![(0, Chain::START); sequences as usize].into_boxed_slice(),
            pinned: vec![false; blocks as usize].into_boxed_slice(),
            pins: 0,
            blocks_per_sequence_max,
            prefixes: PrefixIndex::new(blocks),
        }
    }

    /// Bytes that the pool's lists take for each block, at most, its row in a table aside.
    pub const BLOCK_BYTES: usize =
        PrefixIndex::BLOCK_BYTES + size_of::<KvBlock>() + size_of::<u16>() + size_of::<bool>();

    /// Blocks in all.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.holders.len()).expect("made from a u32")
    }

    /// Blocks that nobody holds, idle ones included.
    pub fn blocks_free(&self) -> u32 {
        u32::try_from(self.free.len()).expect("made from a u32") + self.prefixes.idle()
    }

    /// Gives a sequence the blocks for `positions`, all or none, and says how many positions at the front of its
    /// `prompt` they have already: whole blocks, and at least one token less than the prompt, whose logits somebody
    /// must compute. `None` means that the pool cannot: the caller waits or refuses.
    ///
    /// Only sequences with the same `salt` share, and all that run the base alone share what is pinned.
    ///
    /// Cost: O(blocks and prompt), no allocation.
    pub fn reserve(
        &mut self,
        sequence: u32,
        positions: u32,
        prompt: &[u32],
        salt: impl Into<Salt>,
    ) -> Option<u32> {
        let count = blocks_for(positions);
        let row = sequence as usize;
        assert_eq!(self.held[row], 0, "a sequence reserves once");
        assert!(
            count <= self.blocks_per_sequence_max,
            "the request was checked against the context"
        );
        let start = row * self.blocks_per_sequence_max as usize;
        let (mut shared, mut idle) = (0, 0);
        let mut walk = Walk::new(&self.prefixes, &self.pinned, salt.into());
        for tokens in whole_blocks(prompt) {
            let Some(block) = walk.next(tokens) else {
                break;
            };
            self.tables[start + shared as usize] = block;
            shared += 1;
            idle += u32::from(self.holders[block as usize] == 0);
        }
        let chain = walk.chain();
        if count - shared > self.blocks_free() - idle {
            return None;
        }
        for place in start..start + shared as usize {
            self.hold(self.tables[place]);
        }
        for place in start + shared as usize..start + count as usize {
            let block = self.free.pop().or_else(|| self.prefixes.evict());
            let block = block.expect("counted above");
            let holders = &mut self.holders[block as usize];
            assert_eq!(*holders, 0, "a free block has no holder");
            *holders = 1;
            self.tables[place] = block;
        }
        self.held[row] = count;
        self.reservations_made += 1;
        self.reservations[row] = self.reservations_made;
        self.told[row] = (shared, chain);
        Some(shared * KV_BLOCK_POSITIONS)
    }

    /// Positions at the front of a prompt that [`reserve`](Self::reserve) would find now.
    ///
    /// Cost: O(prompt), no allocation.
    pub fn known(&self, prompt: &[u32], salt: impl Into<Salt>) -> u32 {
        let mut walk = Walk::new(&self.prefixes, &self.pinned, salt.into());
        let known = whole_blocks(prompt)
            .iter()
            .map_while(|tokens| walk.next(tokens));
        u32::try_from(known.count()).expect("a prompt fits its context") * KV_BLOCK_POSITIONS
    }

    /// Keeps the blocks at the front of a prompt that is known without a salt, for everybody and for good, as long as
    /// one sequence of the whole context still fits beside all that is pinned. Says how many positions stay.
    pub fn pin(&mut self, prompt: &[u32]) -> u32 {
        let (mut chain, mut positions) = (Chain::START, 0);
        for tokens in prompt.as_chunks().0 {
            let next = chain.then(tokens);
            let Some(block) = self.prefixes.find(chain, next, tokens) else {
                break;
            };
            if !self.pinned[block as usize] {
                if self.blocks() - self.pins <= self.blocks_per_sequence_max {
                    break;
                }
                self.hold(block);
                self.pinned[block as usize] = true;
                self.pins += 1;
            }
            (chain, positions) = (next, positions + KV_BLOCK_POSITIONS);
        }
        positions
    }

    /// Blocks that are pinned.
    pub fn blocks_pinned(&self) -> u32 {
        self.pins
    }

    /// Looks once more for what of a sequence's `prompt` is known, when it has computed nothing itself yet, and gives
    /// back its own blocks for those. Says how many positions it has now.
    pub fn adopt(&mut self, sequence: u32, prompt: &[u32]) -> u32 {
        let row = sequence as usize;
        let start = row * self.blocks_per_sequence_max as usize;
        let (mut shared, mut chain) = self.told[row];
        for tokens in &whole_blocks(prompt)[shared as usize..] {
            let next = chain.then(tokens);
            let Some(block) = self.prefixes.find(chain, next, tokens) else {
                break;
            };
            let own = std::mem::replace(&mut self.tables[start + shared as usize], block);
            assert_eq!(
                self.holders[own as usize], 1,
                "nobody else has what it has not computed"
            );
            self.holders[own as usize] = 0;
            self.free.push(own);
            self.hold(block);
            chain = next;
            shared += 1;
        }
        self.told[row] = (shared, chain);
        shared * KV_BLOCK_POSITIONS
    }

    fn hold(&mut self, block: KvBlock) {
        if self.holders[block as usize] == 0 {
            self.prefixes.wake(block);
        }
        self.holders[block as usize] += 1;
    }

    /// Makes known what a sequence's blocks have, whose first `computed` positions hold these tokens.
    pub fn tell(&mut self, sequence: u32, tokens: &[u32], computed: u32) {
        let row = sequence as usize;
        let start = row * self.blocks_per_sequence_max as usize;
        let blocks: &[BlockTokens] = tokens[..computed as usize].as_chunks().0;
        let (mut told, mut chain) = self.told[row];
        for (index, tokens) in blocks.iter().enumerate().skip(told as usize) {
            let next = chain.then(tokens);
            let block = self.tables[start + index];
            self.prefixes.insert(block, chain, next, tokens);
            chain = next;
            told += 1;
        }
        self.told[row] = (told, chain);
    }

    /// Takes back all blocks of a sequence. What the index knows becomes idle, the rest free.
    pub fn release(&mut self, sequence: u32) {
        let row = sequence as usize;
        let start = row * self.blocks_per_sequence_max as usize;
        let count = std::mem::take(&mut self.held[row]) as usize;
        for place in (start..start + count).rev() {
            let block = self.tables[place];
            let holders = &mut self.holders[block as usize];
            assert!(*holders > 0, "a held block has its holder");
            *holders -= 1;
            if *holders > 0 {
                continue;
            }
            if self.prefixes.knows(block) {
                self.prefixes.rest(block);
            } else {
                self.free.push(block);
            }
        }
        assert!(
            self.blocks_free() <= self.blocks(),
            "no block is freed twice"
        );
    }

    /// The tables as the engine reads them.
    pub fn tables(&self) -> BlockTables<'_> {
        BlockTables {
            blocks: &self.tables,
            held: &self.held,
            reservations: &self.reservations,
            stride: self.blocks_per_sequence_max,
        }
    }

    /// Checks that every block is free, idle or held by as many rows as it counts. For tests and checkers: O(blocks).
    pub fn assert_whole(&self) {
        let mut rows = vec![0; self.holders.len()];
        for (row, &held) in self.held.iter().enumerate() {
            let start = row * self.blocks_per_sequence_max as usize;
            for &block in &self.tables[start..start + held as usize] {
                rows[block as usize] += 1;
            }
        }
        for (rows, &pinned) in rows.iter_mut().zip(&self.pinned) {
            *rows += u16::from(pinned);
        }
        assert_eq!(rows[..], self.holders[..], "holders are counted");
        let held = rows.iter().filter(|&&rows| rows > 0).count();
        assert_eq!(
            self.blocks_free() as usize + held,
            self.holders.len(),
            "free + idle + held = all"
        );
        for &block in &self.free {
            assert_eq!(rows[block as usize], 0, "a free block has no holder");
            assert!(!self.prefixes.knows(block), "a free block is not known");
        }
        for (block, &rows) in (0..).zip(&rows) {
            let known = self.prefixes.knows(block);
            assert!(rows < 2 || known, "shared blocks are known");
        }
        self.prefixes.assert_whole();
    }
}

/// Blocks of a prompt that others may have: whole ones, before its last token.
fn whole_blocks(prompt: &[u32]) -> &[BlockTokens] {
    prompt[..prompt.len().saturating_sub(1)].as_chunks().0
}

/// The salt of what the operator pins.
pub const UNSALTED: u64 = u64::MAX;

/// Which sequences share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt {
    value: u64,
    pinned: Pinned,
}

/// Whether blocks may be shared that were pinned for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pinned {
    /// They hold what the base computed.
    Shared,
    /// An adapter computes something else.
    Foreign,
}

impl Salt {
    /// Sequences of a tenant that run the base alone.
    pub const fn of_base(tenant: u64) -> Self {
        Self {
            value: tenant,
            pinned: Pinned::Shared,
        }
    }

    /// Sequences of a tenant that run with an adapter.
    pub fn of_adapter(tenant: u64, adapter: u64) -> Self {
        Self {
            value: splitmix(tenant ^ splitmix(adapter)),
            pinned: Pinned::Foreign,
        }
    }
}

impl From<u64> for Salt {
    fn from(tenant: u64) -> Self {
        Self::of_base(tenant)
    }
}

/// Finds the blocks of a text one after another: first those that are pinned for all, then those of a salt.
struct Walk<'a> {
    index: &'a PrefixIndex,
    pinned: &'a [bool],
    chain: Chain,
    /// Until the first block that is not pinned.
    salt: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(index: &'a PrefixIndex, pinned: &'a [bool], salt: Salt) -> Self {
        let Salt { value, pinned: may } = salt;
        match may {
            Pinned::Shared => Self {
                index,
                pinned,
                chain: Chain::START,
                salt: (value != UNSALTED).then_some(value),
            },
            Pinned::Foreign => Self {
                index,
                pinned,
                chain: Chain::START.salted(value),
                salt: None,
            },
        }
    }

    /// The block that has the next tokens; after `None` there is no next.
    fn next(&mut self, tokens: &BlockTokens) -> Option<KvBlock> {
        if let Some(salt) = self.salt {
            let next = self.chain.then(tokens);
            let block = self.index.find(self.chain, next, tokens);
            if let Some(block) = block.filter(|&block| self.pinned[block as usize]) {
                self.chain = next;
                return Some(block);
            }
            self.chain = self.chain.salted(salt);
            self.salt = None;
        }
        let next = self.chain.then(tokens);
        let block = self.index.find(self.chain, next, tokens)?;
        self.chain = next;
        Some(block)
    }

    /// The chain that the next block follows.
    fn chain(&self) -> Chain {
        self.salt.map_or(self.chain, |salt| self.chain.salted(salt))
    }
}

/// Block tables of all sequences, read-only.
#[derive(Debug, Clone, Copy)]
pub struct BlockTables<'a> {
    /// `[sequences, stride]`, row-major.
    pub blocks: &'a [KvBlock],
    /// Blocks in use in each row.
    pub held: &'a [u32],
    /// A number for each row that changes when another sequence gets it: what an engine keeps for a row is then stale.
    pub reservations: &'a [u64],
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
