//! AdamW (Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019).

/// What does not change from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub epsilon: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
        }
    }
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Steps so far, this one included: 1 at first.
    pub number: u32,
    /// Learning rate.
    pub rate: f32,
    /// Share of a weight that goes in each step, times the rate. 0 for norms.
    pub decay: f32,
    /// Gradients are multiplied by this first, as clipping wants it.
    pub gradient_scale: f32,
}

impl AdamW {
    /// Moves `weights` against `gradients`; `mean` and `square` are what is remembered of earlier ones, 0 at first.
    ///
    /// **Shapes** All alike.
    pub fn step(
        &self,
        step: AdamWStep,
        weights: &mut [f32],
        gradients: &[f32],
        mean: &mut [f32],
        square: &mut [f32],
    ) {
        let number = i32::try_from(step.number).unwrap_or(i32::MAX);
        let mean_is = 1.0 - self.beta1.powi(number);
        let square_is = 1.0 - self.beta2.powi(number);
        let moments = mean.iter_mut().zip(square);
        for ((weight, gradient), (mean, square)) in weights.iter_mut().zip(gradients).zip(moments) {
            let gradient = gradient * step.gradient_scale;
            *mean += (1.0 - self.beta1) * (gradient - *mean);
            *square += (1.0 - self.beta2) * (gradient * gradient - *square);
            let towards = (*mean / mean_is) / ((*square / square_is).sqrt() + self.epsilon);
            *weight -= step.rate * (towards + step.decay * *weight);
        }
    }
}
