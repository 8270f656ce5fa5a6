//! Texts that are nearly the same, told by 64 bits each.

/// Hamming distance up to which two contents are duplicates. Source: Manku, Jain and Das Sarma 2007, section 3.
pub(super) const DUPLICATE_BITS: u32 = 3;

/// Hamming distance up to which two prompts are the same question: a word of a short one may differ, and unrelated ones
/// are this near once in five million (binomial, 64 fair bits).
pub(super) const RETRY_BITS: u32 = 12;

/// Tokens of a shingle.
const SHINGLE: usize = 3;

/// Tokens that are read of each end of a part. The work of one case has this bound.
const END_TOKENS: usize = 2048;

/// SimHash of some parts, like prompt and answer: similar token sequences get similar bits.
///
/// Each shingle of three tokens votes on every bit. Source: Charikar 2002; Manku, Jain and Das Sarma 2007, section 2.
/// Of a part longer than 4096 tokens, the middle is left out.
pub(super) fn simhash(parts: &[&[u32]]) -> u64 {
    let mut votes = [0_i32; 64];
    for (salt, part) in (1..).zip(parts) {
        if part.len() <= 2 * END_TOKENS {
            vote(&mut votes, salt, part);
        } else {
            vote(&mut votes, salt, &part[..END_TOKENS]);
            vote(&mut votes, salt, &part[part.len() - END_TOKENS..]);
        }
    }
    let set = (0..64).filter(|bit| votes[*bit] > 0);
    set.fold(0, |hash, bit| hash | 1 << bit)
}

fn vote(votes: &mut [i32; 64], salt: u64, tokens: &[u32]) {
    // Fewer tokens than a shingle are one.
    let shingles = tokens.windows(SHINGLE.min(tokens.len().max(1)));
    for shingle in shingles {
        let mut hash = salt;
        for token in shingle {
            hash = (hash ^ u64::from(*token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash ^= hash >> 29;
        }
        let hash = crate::sampler::splitmix(hash);
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if hash >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
}

/// Whether two hashes are at most `bits` apart.
pub(super) fn near(a: u64, b: u64, bits: u32) -> bool {
    (a ^ b).count_ones() <= bits
}

/// The last things of a kind, oldest first; a new one replaces the oldest.
#[derive(Debug, Clone)]
pub(super) struct Last<T, const N: usize>(heapless::HistoryBuf<T, N>);

impl<T: Copy, const N: usize> Last<T, N> {
    pub(super) const fn new() -> Self {
        Self(heapless::HistoryBuf::new())
    }

    pub(super) fn push(&mut self, item: T) {
        self.0.write(item);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        let (older, newer) = self.0.as_slices();
        older.iter().chain(newer)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
