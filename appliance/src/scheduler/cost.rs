//! What a step costs by how many columns it carries, learned from the steps themselves.
//!
//! A step reads every weight once, whatever it carries, so its time is nearly flat at first and then grows with the
//! columns. The model is that curve at powers of two, straight between them. Each step moves the two points beside it
//! by the factor by which it was wrong. More columns never cost less in all, nor more for each, and a point that no
//! step came near follows its neighbours by that.

use std::time::Duration;

/// Points of the curve: 1, 2, 4, … columns.
const POINTS: usize = 14;

/// What a step's error moves the curve by; the first steps near a point say all that is known of it.
const GAIN: f64 = 0.25;

/// A step that took this many times what was expected counts as this: the machine was away for a moment.
const OUTLIER: f64 = 2.0;

/// The curve of a step's time.
#[derive(Debug, Clone, Default)]
pub struct StepCost {
    /// Seconds of a step of 2ⁱ columns; none before the first step.
    points: Option<[f64; POINTS]>,
    /// Steps that each point has seen, up to what the gain makes of them.
    seen: [u8; POINTS],
}

impl StepCost {
    /// Takes what a step of some columns took.
    pub fn handle_step(&mut self, columns: usize, took: Duration) {
        assert!(columns > 0, "a step carries something");
        let took = took.as_secs_f64().max(1e-9);
        let Some(expected) = self.seconds(columns) else {
            // As if smaller steps took as long and larger ones were no cheaper for each column.
            let point = |i: usize| took * (at(i) / columns as f64).max(1.0);
            self.points = Some(std::array::from_fn(point));
            return;
        };
        let points = self.points.as_mut().expect("something was expected");
        let error = (took / expected).min(OUTLIER) - 1.0;
        let (left, right_share) = place(columns);
        for (point, share) in [(left, 1.0 - right_share), (left + 1, right_share)] {
            let seen = &mut self.seen[point];
            let gain = GAIN.max(1.0 / f64::from(1 + *seen));
            points[point] *= 1.0 + gain * error * share;
            *seen = (*seen + u8::from(share > 0.5)).min(8);
        }
        for i in left + 1..POINTS {
            points[i] = points[i].clamp(points[i - 1], 2.0 * points[i - 1]);
        }
        for i in (0..left).rev() {
            points[i] = points[i].clamp(points[i + 1] / 2.0, points[i + 1]);
        }
    }

    /// Most columns of a step that is over in `time`, up to `most`; `most` before the first step.
    ///
    /// Cost: a binary search, some 100 ns.
    pub fn columns_within(&self, time: Duration, most: usize) -> usize {
        let fits = |columns: usize| {
            self.seconds(columns)
                .is_none_or(|seconds| seconds <= time.as_secs_f64())
        };
        let (mut fit, mut not) = (0, most + 1);
        while not - fit > 1 {
            let middle = fit.midpoint(not);
            if fits(middle) {
                fit = middle;
            } else {
                not = middle;
            }
        }
        fit
    }

    /// What a step of some columns will take, if there was any step yet.
    pub fn seconds(&self, columns: usize) -> Option<f64> {
        let points = self.points.as_ref()?;
        let (left, right_share) = place(columns);
        Some(points[left] + (points[left + 1] - points[left]) * right_share)
    }
}

/// Columns of a point.
fn at(point: usize) -> f64 {
    (1_u64 << point) as f64
}

/// The point at or below some columns, and how far they are on the way to the next. Past the last point the curve goes
/// straight on.
fn place(columns: usize) -> (usize, f64) {
    let left = (columns.max(1).ilog2() as usize).min(POINTS - 2);
    (left, columns as f64 / at(left) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose step takes 10 ms to read the weights, and 1 ms for each column past 8.
    fn machine(columns: usize) -> Duration {
        Duration::from_micros(10_000 + 1_000 * columns.saturating_sub(8) as u64)
    }

    fn off(cost: &StepCost, columns: usize) -> f64 {
        let expected = cost.seconds(columns).unwrap();
        (expected / machine(columns).as_secs_f64() - 1.0).abs()
    }

    #[test]
    fn it_learns_a_machine_from_the_steps_it_sees() {
        let mut cost = StepCost::default();
        assert_eq!(cost.seconds(1), None);
        assert_eq!(cost.columns_within(Duration::ZERO, 256), 256);
        for _ in 0..40 {
            for columns in [256, 100, 1, 2, 8, 40] {
                cost.handle_step(columns, machine(columns));
            }
        }
        for columns in [1, 2, 4, 8, 40, 64, 100, 128, 200, 256] {
            assert!(off(&cost, columns) < 0.15, "{columns}: {cost:?}");
        }
        let fit = cost.columns_within(Duration::from_millis(50), 256);
        assert!((40..=56).contains(&fit), "{fit} of 48");
        assert_eq!(cost.columns_within(Duration::from_millis(1), 256), 0);
        assert_eq!(cost.columns_within(Duration::from_secs(9), 256), 256);
    }

    /// Decodes alone say nothing about prompts, so the first chunks are small, and grow as they turn out cheap.
    #[test]
    fn it_finds_the_largest_step_from_below() {
        let mut cost = StepCost::default();
        cost.handle_step(1, machine(1));
        let budget = Duration::from_millis(50);
        let mut largest = 0;
        for _ in 0..60 {
            let columns = cost.columns_within(budget, 256);
            assert!(machine(columns) <= budget.mul_f64(1.1), "{columns}");
            largest = largest.max(columns);
            cost.handle_step(columns.max(1), machine(columns.max(1)));
        }
        assert!((40..=52).contains(&largest), "{largest} of 48");
    }

    #[test]
    fn a_moment_away_is_not_a_slow_machine() {
        let mut cost = StepCost::default();
        for _ in 0..50 {
            cost.handle_step(16, machine(16));
        }
        cost.handle_step(16, Duration::from_secs(3));
        assert!(off(&cost, 16) < 0.3, "{cost:?}");
        for _ in 0..20 {
            cost.handle_step(16, machine(16));
        }
        assert!(off(&cost, 16) < 0.02, "{cost:?}");
    }

    #[test]
    fn more_columns_never_cost_less_in_all_nor_more_for_each() {
        let mut cost = StepCost::default();
        let mut state = 7_u64;
        for _ in 0..2_000 {
            state = crate::sampler::splitmix(state);
            let columns = 1 + (state % 300) as usize;
            cost.handle_step(columns, Duration::from_micros(1 + (state >> 40) % 90_000));
            for columns in 1..400 {
                let (less, more) = (
                    cost.seconds(columns).unwrap(),
                    cost.seconds(columns + 1).unwrap(),
                );
                assert!(less <= more * 1.000_001, "{columns}: {cost:?}");
                let each = less / columns as f64;
                assert!(
                    more / (columns + 1) as f64 <= each * 1.000_001,
                    "{columns}: {cost:?}"
                );
            }
        }
    }
}
