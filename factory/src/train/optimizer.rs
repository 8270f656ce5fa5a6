//! AdamW over the parameters of a net, with clipping and a schedule. candle-nn has AdamW too, without a way to store
//! what it remembers, so a run that is killed could not go on as if nothing had been.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};
use outstation_kernels::train::{AdamW, AdamWStep};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::net::Parameter;

/// The learning rate over the steps, and what holds it in check.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// All steps.
    pub steps: u32,
    /// Steps in which the rate rises from 0 to its highest.
    pub warmup: u32,
    /// The highest rate. Afterwards it falls along a cosine to a hundredth of it.
    pub rate: f32,
    /// Decay of matrices.
    pub decay: f32,
    /// Gradients longer than this are shortened to it.
    pub clip: f32,
}

/// Steps of warm-up at most: AdamW knows the gradients' sizes by then.
const WARMUP_MAX: u32 = 100;

impl Schedule {
    /// The usual one of so many steps.
    pub fn new(steps: u32, rate: f32) -> Self {
        Self {
            steps,
            warmup: (steps / 20).clamp(1, WARMUP_MAX),
            rate,
            decay: 0.05,
            clip: 1.0,
        }
    }

    /// The rate of a step, counted from 1.
    pub fn rate_at(&self, step: u32) -> f32 {
        if step <= self.warmup {
            return self.rate * step as f32 / self.warmup as f32;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1) as f32;
        let done = ((step - self.warmup) as f32 / rest).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * done).cos());
        self.rate * (0.01 + 0.99 * cosine)
    }
}

/// A parameter, its weights as the optimizer has them, and what it remembers of gradients.
pub(super) struct Slot {
    pub(super) parameter: Parameter,
    pub(super) weights: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) square: Vec<f32>,
}

/// The optimizer of a run.
pub(super) struct Optimizer {
    pub(super) slots: Vec<Slot>,
    schedule: Schedule,
}

impl Optimizer {
    pub(super) fn new(parameters: Vec<Parameter>, schedule: Schedule) -> Result<Self> {
        let slots = parameters.into_iter().map(|parameter| {
            let weights = parameter.var.flatten_all()?.to_vec1::<f32>()?;
            let (mean, square) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
            Ok(Slot {
                parameter,
                weights,
                mean,
                square,
            })
        });
        Ok(Self {
            slots: slots.collect::<Result<_>>()?,
            schedule,
        })
    }

    /// One step, counted from 1; the length that the gradient had.
    pub(super) fn step(&mut self, number: u32, gradients: &GradStore) -> Result<f32> {
        let gradients: Vec<Option<Vec<f32>>> = self
            .slots
            .iter()
            .map(|slot| {
                gradients
                    .get(&slot.parameter.var)
                    .map(|g| g.flatten_all()?.to_vec1())
                    .transpose()
            })
            .collect::<Result<_>>()?;
        let squares = gradients
            .par_iter()
            .flatten()
            .map(|g| g.iter().map(|x| f64::from(x * x)).sum::<f64>());
        // In order, so that the sum has the same bits each time.
        #[allow(clippy::cast_possible_truncation, reason = "a length")]
        let length = squares.collect::<Vec<_>>().iter().sum::<f64>().sqrt() as f32;
        let clipped = if length > self.schedule.clip {
            self.schedule.clip / length
        } else {
            1.0
        };
        let rate = self.schedule.rate_at(number);
        self.slots
            .par_iter_mut()
            .zip(gradients)
            .for_each(|(slot, gradient)| {
                let Some(gradient) = gradient else {
                    return;
                };
                let step = AdamWStep {
                    number,
                    rate,
                    decay: if slot.parameter.decays {
                        self.schedule.decay
                    } else {
                        0.0
                    },
                    gradient_scale: clipped,
                };
                AdamW::default().step(
                    step,
                    &mut slot.weights,
                    &gradient,
                    &mut slot.mean,
                    &mut slot.square,
                );
            });
        self.publish()?;
        Ok(length)
    }

    /// Gives the net the weights that are here.
    pub(super) fn publish(&self) -> Result<()> {
        for Slot {
            parameter, weights, ..
        } in &self.slots
        {
            let var = &parameter.var;
            var.set(&Tensor::from_slice(weights, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls() {
        let schedule = Schedule {
            steps: 110,
            warmup: 10,
            rate: 1.0,
            decay: 0.0,
            clip: 1.0,
        };
        assert_eq!(schedule.rate_at(1), 0.1);
        assert_eq!(schedule.rate_at(10), 1.0);
        assert!((schedule.rate_at(60) - 0.505).abs() < 1e-3);
        assert!((schedule.rate_at(110) - 0.01).abs() < 1e-6);
        assert!((schedule.rate_at(1000) - 0.01).abs() < 1e-6, "never below");
    }
}
