//! The randomness of a seed: the same numbers on every machine.

use outstation::sampler::splitmix;

/// A counter through a mixer.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(splitmix(seed))
    }

    pub(crate) fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix(self.0.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        assert!(low <= high, "from {low} to {high}");
        let count = u64::from(high - low) + 1;
        low + u32::try_from(self.any() % count).expect("below a u32")
    }

    /// From `low` to `high`.
    pub(crate) fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.between(0, 1000) as f32 / 1000.0)
    }

    /// True in this many of a hundred draws.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.between(1, 100) <= percent
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let last = u32::try_from(from.len() - 1).expect("short lists");
        from[self.between(0, last) as usize]
    }
}
