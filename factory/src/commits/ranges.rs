//! Sets of numbers that mostly follow each other.

use serde::{Deserialize, Serialize};

/// A set of numbers as ranges, each from its first to its last number, in order and with a hole between any two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<[u64; 2]>);

impl Ranges {
    /// Whether a number is in it. Cost: O(log n) in the number of ranges.
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|&[first, _]| first <= number);
        after > 0 && number <= self.0[after - 1][1]
    }

    /// Whether any number is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        other.0.iter().any(|&[first, last]| {
            let after = self.0.partition_point(|range| range[0] <= last);
            after > 0 && first <= self.0[after - 1][1]
        })
    }

    /// Adds a number.
    pub fn insert(&mut self, number: u64) {
        self.insert_range(number, number);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: &Self) {
        for &[first, last] in &other.0 {
            self.insert_range(first, last);
        }
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|[first, last]| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the ranges are in order and apart, as this type writes them.
    pub(super) fn is_sound(&self) -> bool {
        let each = self.0.iter().all(|[first, last]| first <= last);
        let apart = self
            .0
            .windows(2)
            .all(|pair| pair[0][1] < u64::MAX && pair[0][1] + 1 < pair[1][0]);
        each && apart
    }

    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        // All that it touches, neighbours included, become one with it.
        let from = self
            .0
            .partition_point(|range| range[1] < first.saturating_sub(1));
        let to = self
            .0
            .partition_point(|range| range[0] <= last.saturating_add(1));
        if from < to {
            first = first.min(self.0[from][0]);
            last = last.max(self.0[to - 1][1]);
        }
        self.0.splice(from..to, [[first, last]]);
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ranges = Self::default();
        for number in numbers {
            ranges.insert(number);
        }
        ranges
    }
}
