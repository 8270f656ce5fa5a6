//! A run: steps from a plan, checkpoints, and what is told of it.
#![expect(
    clippy::disallowed_methods,
    reason = "a run tells its speed, and saves itself each minute"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Stored};
use super::data::{Example, Stream};
use super::net::{Net, Shape};
use super::optimizer::{Optimizer, Schedule};
use super::{Batch, TrainError};

/// A low-rank change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LowRankPlan {
    /// Numbers between its two matrices.
    pub rank: usize,
    /// Its strength is this divided by the rank.
    pub alpha: f64,
}

/// What is trained, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Sizes of the decoder.
    pub shape: Shape,
    /// A change of a decoder that is there, instead of all of it.
    pub low_rank: Option<LowRankPlan>,
    /// Learning rates.
    pub schedule: Schedule,
    /// Tokens of a step.
    pub batch_tokens: usize,
    /// For weights at first and for the order of examples.
    pub seed: u64,
    /// Digest of the data and of the weights that it starts from.
    pub from: String,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Tokens read since the run began, over all its starts.
    pub tokens: u64,
    /// Mean loss of the steps since the last report, nats a token of the answer.
    pub loss: f32,
    /// Length of the last gradient.
    pub gradient: f32,
    /// Learning rate of the last step.
    pub rate: f32,
    /// Tokens a second since this start.
    pub tokens_per_s: f32,
}

/// A run in progress.
pub struct Run<'a> {
    plan: Plan,
    net: Net,
    optimizer: Optimizer,
    stream: Stream<'a>,
    step: u32,
    tokens: u64,
    /// Where checkpoints go.
    file: PathBuf,
    saved: Instant,
    started: (Instant, u64),
}

/// How often a checkpoint is written.
const SAVE_EVERY: Duration = Duration::from_mins(1);

impl<'a> Run<'a> {
    /// Begins a run, or goes on with the one whose checkpoint lies in `folder`. `net` is what it starts from.
    pub fn new(
        plan: Plan,
        mut net: Net,
        examples: &'a [Example],
        folder: &Path,
    ) -> Result<Self, TrainError> {
        if examples.is_empty() {
            return Err(TrainError::NoExamples);
        }
        if let Some(LowRankPlan { rank, alpha }) = plan.low_rank {
            net.adapt(rank, alpha / rank as f64, plan.seed)?;
        }
        let mut optimizer = Optimizer::new(net.trained(), plan.schedule)?;
        let file = folder.join("checkpoint.safetensors");
        let stored = checkpoint::read(&file, &plan, &mut optimizer)?.unwrap_or_default();
        optimizer.publish()?;
        Ok(Self {
            stream: Stream::new(examples, plan.seed, stored.place),
            plan,
            net,
            optimizer,
            step: stored.step,
            tokens: stored.tokens,
            file,
            saved: Instant::now(),
            started: (Instant::now(), stored.tokens),
        })
    }

    /// Steps done.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// The decoder as it is.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Some steps, or as many as are left; `None` when there are none.
    pub fn advance(&mut self, steps: u32) -> Result<Option<Progress>, TrainError> {
        let steps = steps.min(self.plan.schedule.steps - self.step);
        if steps == 0 {
            return Ok(None);
        }
        let (mut losses, mut gradient) = (0.0, 0.0);
        for _ in 0..steps {
            let batch = self.stream.batch(self.plan.batch_tokens);
            let loss = self.net.loss(&batch)?;
            let value = loss.to_scalar::<f32>()?;
            self.step += 1;
            if !value.is_finite() {
                return Err(TrainError::Diverged {
                    step: self.step,
                    loss: value,
                });
            }
            losses += value;
            gradient = self.optimizer.step(self.step, &loss.backward()?)?;
            self.tokens += batch.ids.len() as u64;
            if self.saved.elapsed() >= SAVE_EVERY {
                self.save()?;
            }
        }
        let (since, before) = self.started;
        Ok(Some(Progress {
            step: self.step,
            tokens: self.tokens,
            loss: losses / steps as f32,
            gradient,
            rate: self.plan.schedule.rate_at(self.step),
            tokens_per_s: (self.tokens - before) as f32 / since.elapsed().as_secs_f32(),
        }))
    }

    /// Writes a checkpoint.
    pub fn save(&mut self) -> Result<(), TrainError> {
        let stored = Stored {
            step: self.step,
            tokens: self.tokens,
            place: self.stream.place(),
        };
        checkpoint::write(&self.file, &self.plan, stored, &self.optimizer)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Mean loss over some examples that are not learned from.
    pub fn validate(&self, examples: &[Example]) -> Result<f32, TrainError> {
        let (mut sum, mut weight) = (0.0, 0.0);
        let mut rest = examples.iter().peekable();
        while rest.peek().is_some() {
            let mut batch = Batch::default();
            while batch.ids.len() < self.plan.batch_tokens
                && let Some(example) = rest.next()
            {
                batch.push(example);
            }
            let count = batch.targets.len() as f64;
            sum += count * f64::from(self.net.loss(&batch)?.to_scalar::<f32>()?);
            weight += count;
        }
        #[allow(clippy::cast_possible_truncation, reason = "a loss")]
        Ok((sum / weight) as f32)
    }
}

/// Runs whose checkpoints are tested.
#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn plan(low_rank: Option<LowRankPlan>) -> Plan {
        Plan {
            shape: Shape {
                vocab: 32,
                hidden: 16,
                layers: 2,
                heads: 2,
                kv_heads: 1,
                ffn: 24,
                rope_base: 1e4,
                epsilon: 1e-5,
                context: 64,
            },
            low_rank,
            schedule: Schedule {
                steps: 60,
                warmup: 5,
                rate: 1e-2,
                decay: 0.01,
                clip: 1.0,
            },
            batch_tokens: 100,
            seed: 7,
            from: "a test".to_owned(),
        }
    }

    /// The answer is what was asked, backwards.
    fn examples() -> Vec<Example> {
        let word = |seed: u32| [3 + seed % 5, 10 + seed / 5 % 7];
        (0..35)
            .map(|seed| {
                let [a, b] = word(seed);
                Example {
                    ids: vec![1, a, b, 2, b, a, 0],
                    answer_from: 4,
                }
            })
            .collect()
    }

    fn net(plan: &Plan) -> Net {
        Net::new(plan.shape, plan.seed, &Device::Cpu).unwrap()
    }

    fn bits(run: &Run<'_>) -> Vec<u32> {
        run.optimizer
            .slots
            .iter()
            .flat_map(|slot| slot.weights.iter().map(|w| w.to_bits()))
            .collect()
    }

    #[test]
    fn it_learns_and_a_killed_run_ends_with_the_same_weights() {
        for low_rank in [
            None,
            Some(LowRankPlan {
                rank: 4,
                alpha: 8.0,
            }),
        ] {
            let (plan, examples) = (plan(low_rank), examples());
            let folder = tempfile::tempdir().unwrap();
            let mut whole = Run::new(plan.clone(), net(&plan), &examples, folder.path()).unwrap();
            let before = whole.validate(&examples).unwrap();
            while whole.advance(10).unwrap().is_some() {}
            let after = whole.validate(&examples).unwrap();
            // A low-rank change of random weights cannot do much.
            let share = if low_rank.is_some() { 0.97 } else { 0.8 };
            assert!(after < share * before, "{before} to {after}");

            let mut killed = Run::new(plan.clone(), net(&plan), &examples, folder.path()).unwrap();
            killed.advance(23).unwrap();
            killed.save().unwrap();
            killed.advance(4).unwrap();
            drop(killed);
            let mut again = Run::new(plan.clone(), net(&plan), &examples, folder.path()).unwrap();
            assert_eq!(again.step(), 23);
            while let Some(progress) = again.advance(7).unwrap() {
                assert!(progress.step <= 60);
            }
            assert!(bits(&again) == bits(&whole), "{low_rank:?}: other weights");

            again.save().unwrap();
            let other = Plan { seed: 8, ..plan };
            let refused = Run::new(other.clone(), net(&other), &examples, folder.path());
            assert!(matches!(refused.err(), Some(TrainError::OtherRun(_))));
        }
    }

    #[test]
    fn a_low_rank_change_leaves_the_rest_alone() {
        let plan = plan(Some(LowRankPlan {
            rank: 2,
            alpha: 4.0,
        }));
        let (examples, folder) = (examples(), tempfile::tempdir().unwrap());
        let mut run = Run::new(plan.clone(), net(&plan), &examples, folder.path()).unwrap();
        let start = run.validate(&examples).unwrap();
        let plain = Run::new(
            Plan {
                low_rank: None,
                ..plan.clone()
            },
            net(&plan),
            &examples,
            &folder.path().join("x"),
        )
        .unwrap();
        assert_eq!(
            start,
            plain.validate(&examples).unwrap(),
            "it changes nothing at first"
        );
        while run.advance(20).unwrap().is_some() {}
        let values = |net: &Net| -> Vec<Vec<f32>> {
            net.base()
                .iter()
                .map(|p| p.var.flatten_all().unwrap().to_vec1().unwrap())
                .collect()
        };
        assert_eq!(values(run.net()), values(&net(&plan)));
        assert!(run.validate(&examples).unwrap() < start);
    }

    #[test]
    fn nothing_to_learn_is_an_error() {
        let plan = plan(None);
        let refused = Run::new(plan.clone(), net(&plan), &[], Path::new("/nowhere"));
        assert!(matches!(refused.err(), Some(TrainError::NoExamples)));
    }
}
