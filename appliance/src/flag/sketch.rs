//! A distribution in 640 bytes: counts in buckets of equal relative width, from which ranks and quantiles follow.
//!
//! ```text
//!  bucket 0: below 2⁻¹²      1 … 159: eighths of an octave from 2⁻¹² on, at most 12.5 % wide      159: and all above
//! ```
//!
//! The bucket is read off the bits of the float, so that it is the same on every machine. Counts of two sketches add.
//! Source: Masson, Rim and Lee 2019, DDSketch, section 2; with the linear interpolation of its authors' libraries.

#![allow(
    clippy::cast_possible_truncation,
    reason = "shares in f64 of counts in f32"
)]

/// Buckets of a sketch.
pub(super) const BUCKETS: usize = 160;

/// Buckets per octave, as bits of the mantissa.
const STEP_BITS: u32 = 3;
const MANTISSA_BITS: u32 = 23 - STEP_BITS;
/// The least value with a bucket of its own, 2⁻¹², as exponent and first bits of the mantissa.
const FIRST: u32 = (127 - 12) << STEP_BITS;

/// Counts of values at least 0, where older ones may weigh less.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sketch {
    counts: [f32; BUCKETS],
}

/// Bucket of a value, and how far into it the value is. What is no number counts as the greatest.
fn bucket(value: f32) -> (usize, f32) {
    if value.is_nan() || value == f32::INFINITY {
        return (BUCKETS - 1, 1.0);
    }
    let least = f32::from_bits(FIRST << MANTISSA_BITS);
    if value < least {
        return (0, value.max(0.0) / least);
    }
    let index = (value.to_bits() >> MANTISSA_BITS) - FIRST + 1;
    if index as usize >= BUCKETS {
        return (BUCKETS - 1, 1.0);
    }
    let part = value.to_bits() & ((1 << MANTISSA_BITS) - 1);
    (
        index as usize,
        part as f32 / f32::from(1_u16 << 15) / f32::from(1_u16 << (MANTISSA_BITS - 15)),
    )
}

/// The least value of a bucket.
fn edge(index: usize) -> f32 {
    match u32::try_from(index) {
        Ok(index @ 1..) => f32::from_bits((FIRST + index - 1) << MANTISSA_BITS),
        _ => 0.0,
    }
}

impl Sketch {
    pub(super) const EMPTY: Sketch = Sketch {
        counts: [0.0; BUCKETS],
    };

    /// Counts a value, after what was there has been made lighter by `keep`.
    pub(super) fn add(&mut self, value: f32, keep: f32) {
        for count in &mut self.counts {
            *count *= keep;
        }
        self.counts[bucket(value).0] += 1.0;
    }

    /// Weight of everything.
    pub(super) fn total(&self) -> f64 {
        self.counts.iter().map(|count| f64::from(*count)).sum()
    }

    /// Share of the weight below a value. Never 1: what lies above everything gets what half a case more would leave.
    ///
    /// Inside a bucket it is interpolated, the less the more of all weight the bucket has: where all values are the
    /// same, each is in the middle, wherever in its bucket it lies.
    pub(super) fn rank(&self, value: f32) -> f32 {
        let (index, part) = bucket(value);
        let below: f64 = self.counts[..index].iter().map(|c| f64::from(*c)).sum();
        let total = self.total();
        if total == 0.0 {
            return 0.0;
        }
        let share = f64::from(self.counts[index]) / total;
        let part = 0.5 + (f64::from(part) - 0.5) * (1.0 - share);
        let rank = below / total + part * share;
        rank.min(1.0 - 0.5 / (total + 1.0)) as f32
    }

    /// The value with this rank; 0 of an empty sketch.
    pub(super) fn quantile(&self, rank: f32) -> f32 {
        let mut wanted = f64::from(rank) * self.total();
        let last = self.counts.iter().rposition(|count| *count > 0.0);
        for index in 0..=last.unwrap_or(0) {
            let count = f64::from(self.counts[index]);
            if count > 0.0 && (wanted <= count || Some(index) == last) {
                let part = (wanted / count).min(1.0) as f32;
                return edge(index) + part * (edge(index + 1) - edge(index));
            }
            wanted -= count;
        }
        0.0
    }

    /// Population stability index `Σ (a − b) · ln(a / b)` of shares in bins that hold a tenth of the reference each, as
    /// far as buckets allow. Half a case is added to every bin, so that an empty one does not make it infinite.
    ///
    /// Source: Yurdakul and Naranjo 2020, section 2, who also show that without a shift it is about
    /// `(bins − 1) · (1/n + 1/m)`.
    pub(super) fn psi(&self, reference: &Sketch) -> f32 {
        const BINS: usize = 10;
        let mut bins = [(0.0_f64, 0.0_f64); BINS];
        let (mut bin, mut sum) = (0, 0.0);
        let total = reference.total();
        for (ours, theirs) in self.counts.iter().zip(&reference.counts) {
            bins[bin].0 += f64::from(*ours);
            bins[bin].1 += f64::from(*theirs);
            sum += f64::from(*theirs);
            if sum >= (bin + 1) as f64 * total / BINS as f64 && bin + 1 < BINS {
                bin += 1;
            }
        }
        let bins = &bins[..=bin];
        let half = 0.5 * bins.len() as f64;
        let (all, all_theirs) = (self.total() + half, total + half);
        let psi = bins.iter().map(|(ours, theirs)| {
            let (a, b) = ((ours + 0.5) / all, (theirs + 0.5) / all_theirs);
            (a - b) * (a / b).ln()
        });
        psi.sum::<f64>() as f32
    }

    /// Buckets that hold something, with their counts.
    pub(super) fn filled(&self) -> impl Iterator<Item = (u8, f32)> {
        let counts = (0..).zip(self.counts);
        counts.filter(|(_, count)| *count > 0.0)
    }

    /// Puts a count back. `false` for a bucket that does not exist, or for what is no count.
    pub(super) fn restore(&mut self, index: u8, count: f32) -> bool {
        let Some(place) = self.counts.get_mut(usize::from(index)) else {
            return false;
        };
        *place = count;
        count.is_finite() && count > 0.0
    }
}
