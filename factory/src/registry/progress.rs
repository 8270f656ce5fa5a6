//! What arrived of a spool, and which places stayed empty (U-15).

use serde::{Deserialize, Serialize};

/// Segments of one class of one spool, as they arrive: oldest first, but for a few at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The spool, hexadecimal.
    pub epoch: String,
    /// 0, 1 or 2.
    pub class: u8,
    /// The highest place that arrived; 0 before the first.
    pub last: u64,
    /// How many arrived.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Places before `last` that stayed empty, oldest first.
    pub missing: Vec<Missing>,
}

/// Places that are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// Ranges that are kept; more are joined into one, so a gap may look larger than it is, and is never forgotten.
const MISSING_MAX: usize = 16;

impl Progress {
    /// Of a class of a spool of which nothing arrived.
    pub fn new(epoch: String, class: u8) -> Self {
        Self {
            epoch,
            class,
            ..Self::default()
        }
    }

    /// The places between the last one and this one, if there are any.
    pub fn leap(&self, seq: u64) -> Option<Missing> {
        let (from, to) = (self.last + 1, seq.saturating_sub(1));
        (from <= to).then_some(Missing { from, to })
    }

    /// A segment arrived. `present` are places of its [`leap`](Self::leap) that arrived by another way.
    pub fn arrived(&mut self, seq: u64, bytes: u64, present: &[u64]) {
        self.segments += 1;
        self.bytes += bytes;
        match self.leap(seq) {
            Some(leap) => {
                self.missing.push(leap);
                for &seq in present {
                    self.fill(seq);
                }
            }
            None if seq <= self.last => self.fill(seq),
            None => {}
        }
        self.last = self.last.max(seq);
        while self.missing.len() > MISSING_MAX {
            self.missing[0].to = self.missing.remove(1).to;
        }
    }

    /// Segments that are missing.
    pub fn missing_segments(&self) -> u64 {
        self.missing.iter().map(|gap| gap.to - gap.from + 1).sum()
    }

    fn fill(&mut self, seq: u64) {
        let Some(at) = self
            .missing
            .iter()
            .position(|gap| (gap.from..=gap.to).contains(&seq))
        else {
            return;
        };
        let Missing { from, to } = self.missing.remove(at);
        let parts = [(from, seq - 1), (seq + 1, to)];
        let parts = parts.into_iter().filter(|(from, to)| from <= to);
        let parts = parts.map(|(from, to)| Missing { from, to });
        self.missing.splice(at..at, parts);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(arrivals: &[u64], present: &[u64], expected: Expect) {
        let mut progress = Progress::new("e".to_owned(), 0);
        for &seq in arrivals {
            progress.arrived(seq, 1, present);
        }
        let gaps: Vec<_> = progress
            .missing
            .iter()
            .map(|g| format!("{}-{}", g.from, g.to))
            .collect();
        expected.assert_eq(&format!(
            "last {}, missing {}: {}",
            progress.last,
            progress.missing_segments(),
            gaps.join(" ")
        ));
    }

    #[test]
    fn u15_empty_places_are_seen_and_filled() {
        check(&[1, 2, 3], &[], expect!["last 3, missing 0: "]);
        check(&[1, 2, 7], &[], expect!["last 7, missing 4: 3-6"]);
        check(&[2, 1, 4, 3], &[], expect!["last 4, missing 0: "]);
        check(&[1, 9], &[4, 5], expect!["last 9, missing 5: 2-3 6-8"]);
        check(&[5, 5, 3], &[], expect!["last 5, missing 3: 1-2 4-4"]);
    }

    #[test]
    fn u15_ranges_are_bounded_and_never_forgotten() {
        let all: Vec<u64> = (1..=100).map(|n| n * 2).collect();
        let mut progress = Progress::default();
        for seq in all {
            progress.arrived(seq, 1, &[]);
        }
        assert_eq!(progress.missing.len(), MISSING_MAX);
        assert_eq!(progress.missing[0].from, 1);
    }
}
