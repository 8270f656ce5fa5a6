//! Which blocks hold what text, so that a prompt that begins as an earlier one did need not be computed again.
//!
//! A block is known by its *chain*: a hash of its 32 tokens and of the chain of the block before it. Tenants share
//! nothing but what the operator pinned for all: the first block after that has a salt in its chain. Keys and values
//! depend on everything before them, so equal chains mean equal contents. Tokens and the chain before are compared on a
//! hit, so that two blocks whose hashes collide are not taken for each other.
//!
//! ```text
//! slots    hash → block               open addressing, linear probing, never more than half full
//! entries  block → chain, chain before, tokens
//! idle     oldest ⇄ … ⇄ newest        known blocks that no sequence holds: the first to be taken for other text
//! ```
//!
//! A sequence that ends leaves its last block as the oldest and its first as the newest: what follows a common
//! beginning goes before the beginning does.

use super::KvBlock;
use crate::limits::KV_BLOCK_POSITIONS;
use crate::sampler::splitmix;

/// Tokens of one block.
pub type BlockTokens = [u32; KV_BLOCK_POSITIONS as usize];

/// What stands for a block and everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain(u64);

impl Chain {
    /// Before the first block.
    pub const START: Chain = Chain(0x6F75_7473_7461_7469);

    /// Of what follows this for those with a salt.
    #[must_use]
    pub fn salted(self, salt: u64) -> Chain {
        Chain(splitmix(self.0 ^ splitmix(salt)))
    }

    /// Of the block with these tokens after this one.
    #[must_use]
    pub fn then(self, tokens: &BlockTokens) -> Chain {
        Chain(
            tokens
                .iter()
                .fold(self.0, |hash, token| splitmix(hash ^ u64::from(*token))),
        )
    }
}

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Whether the index knows this block.
    known: bool,
    chain: Chain,
    before: Chain,
    tokens: BlockTokens,
    /// Neighbours among the idle; `NONE` at the ends and outside.
    older: u32,
    newer: u32,
}

/// The index. All memory is taken in `new`.
#[derive(Debug)]
pub struct PrefixIndex {
    entries: Box<[Entry]>,
    /// Blocks, or `NONE`. A power of two, at least twice the blocks.
    slots: Box<[u32]>,
    oldest: u32,
    newest: u32,
    idle: u32,
}

impl PrefixIndex {
    /// An index over a pool of `blocks`.
    pub fn new(blocks: u32) -> Self {
        let entry = Entry {
            known: false,
            chain: Chain(0),
            before: Chain(0),
            tokens: [0; KV_BLOCK_POSITIONS as usize],
            older: NONE,
            newer: NONE,
        };
        Self {
            entries: vec![entry; blocks as usize].into(),
            slots: vec![NONE; slots(blocks)].into(),
            oldest: NONE,
            newest: NONE,
            idle: 0,
        }
    }

    /// Bytes that `new` takes for each block, at most.
    pub const BLOCK_BYTES: usize = size_of::<Entry>() + 4 * size_of::<u32>();

    /// The block with these tokens after `before`; `chain` is theirs.
    pub fn find(&self, before: Chain, chain: Chain, tokens: &BlockTokens) -> Option<KvBlock> {
        let mut slot = self.home(chain);
        loop {
            let block = self.slots[slot];
            if block == NONE {
                return None;
            }
            let entry = &self.entries[block as usize];
            if entry.chain == chain && entry.before == before && entry.tokens == *tokens {
                return Some(block);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Makes a block known. One whose contents another block has already stays unknown: it is no use twice.
    pub fn insert(&mut self, block: KvBlock, before: Chain, chain: Chain, tokens: &BlockTokens) {
        assert!(!self.entries[block as usize].known, "a block is known once");
        if self.find(before, chain, tokens).is_some() {
            return;
        }
        let entry = &mut self.entries[block as usize];
        (entry.known, entry.chain, entry.before, entry.tokens) = (true, chain, before, *tokens);
        let mut slot = self.home(chain);
        while self.slots[slot] != NONE {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = block;
    }

    /// Whether a block is known.
    pub fn knows(&self, block: KvBlock) -> bool {
        self.entries[block as usize].known
    }

    /// Known blocks that nobody holds.
    pub fn idle(&self) -> u32 {
        self.idle
    }

    /// Puts a known block that nobody holds any more among the idle, as the newest.
    pub fn rest(&mut self, block: KvBlock) {
        assert!(self.knows(block), "unknown blocks are free, not idle");
        let older = std::mem::replace(&mut self.newest, block);
        let entry = &mut self.entries[block as usize];
        (entry.older, entry.newer) = (older, NONE);
        match older {
            NONE => self.oldest = block,
            _ => self.entries[older as usize].newer = block,
        }
        self.idle += 1;
    }

    /// Takes an idle block back to be held.
    pub fn wake(&mut self, block: KvBlock) {
        let Entry { older, newer, .. } = self.entries[block as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.entries[newer as usize].older = older,
        }
        self.idle -= 1;
    }

    /// Forgets the block that has been idle longest, and gives it away.
    pub fn evict(&mut self) -> Option<KvBlock> {
        let block = self.oldest;
        if block == NONE {
            return None;
        }
        self.wake(block);
        self.forget(block);
        Some(block)
    }

    /// Takes a block out of the slots. Those behind it that it had pushed on move up, so that probing still finds them.
    fn forget(&mut self, block: KvBlock) {
        let mask = self.slots.len() - 1;
        let mut hole = self.home(self.entries[block as usize].chain);
        while self.slots[hole] != block {
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        while self.slots[next] != NONE {
            let home = self.home(self.entries[self.slots[next] as usize].chain);
            // It may move if its home is not between the hole and itself.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = NONE;
        self.entries[block as usize].known = false;
    }

    fn home(&self, chain: Chain) -> usize {
        let mask = self.slots.len() as u64 - 1;
        usize::try_from(chain.0 & mask).expect("an index of the slots")
    }

    /// Checks list and slots against each other. For tests and checkers: O(blocks).
    pub fn assert_whole(&self) {
        let known = self.entries.iter().filter(|entry| entry.known).count();
        let in_slots = self.slots.iter().filter(|&&block| block != NONE).count();
        assert_eq!(known, in_slots, "every known block has its slot");
        let (mut count, mut before, mut at) = (0, NONE, self.oldest);
        while at != NONE {
            let entry = &self.entries[at as usize];
            assert!(entry.known, "idle blocks are known");
            assert_eq!(entry.older, before, "the list reads the same both ways");
            (count, before, at) = (count + 1, at, entry.newer);
        }
        assert_eq!(before, self.newest, "the list ends with the newest");
        assert_eq!(count, self.idle, "idle blocks are counted");
        for (block, entry) in (0..).zip(&self.entries) {
            if entry.known {
                let found = self.find(entry.before, entry.chain, &entry.tokens);
                assert_eq!(found, Some(block), "probing finds every known block");
            }
        }
    }
}

fn slots(blocks: u32) -> usize {
    (2 * blocks as usize).next_power_of_two()
}
