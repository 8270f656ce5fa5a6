//! What a seed makes of the world: the size of the box, who comes, what they ask for.

use std::sync::Arc;
use std::time::Duration;

use outstation::adapter::PackedAdapter;
use outstation::kv::blocks_for;
use outstation::request::{
    Class, Format, GenerateRequest, Origin, Prompt, RequestId, RequestLimits, Sampling, Submission,
    Tenant,
};
use outstation::scheduler::SchedulerLimits;
use outstation::scheduler::pace::Targets;

use crate::random::Random;

/// A box and its neighbourhood.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) limits: SchedulerLimits,
    pub(crate) vocabulary: u32,
    /// Seed of the fake model.
    pub(crate) model: u64,
    /// Turns before the world calms down.
    pub(crate) turns: u32,
    /// Cancels in a hundred turns.
    pub(crate) cancels_percent: u32,
    /// Longest time between two arrivals.
    interval_max: Duration,
    /// Arrivals in a hundred that bring a crowd.
    bursts_percent: u32,
    /// A text that many prompts begin with, and how many in a hundred do.
    common: Vec<u32>,
    common_percent: u32,
    classes: &'static [Class],
    tenants: u64,
    /// What some requests are run with.
    adapters: Vec<Arc<PackedAdapter>>,
    /// Requests in a hundred that have a deadline.
    deadlines_percent: u32,
    /// Turns in a hundred after which the model is changed.
    pub(crate) switches_percent: u32,
}

impl Traffic {
    pub(crate) fn new(random: &mut Random) -> Self {
        let sequences_max = random.between(1, 6);
        let context_tokens_max = random.between(8, 200);
        let whole = blocks_for(context_tokens_max);
        let vocabulary = random.between(4, 48);
        let first_end = random.between(0, vocabulary - 1);
        let mut end_tokens = vec![first_end];
        if random.chance(40) {
            end_tokens.push((first_end + 1) % vocabulary);
        }
        let columns_spare = random.pick(&[0, 0, 1, 5, 31, 64, 256]);
        let mut targets = || Targets {
            ttft: Duration::from_millis(random.pick(&[5, 50, 500, 5_000, 100_000])),
            itl: Duration::from_millis(random.pick(&[1, 3, 10, 50, 1000])),
        };
        let targets = [targets(), targets(), targets()];
        Self {
            limits: SchedulerLimits {
                sequences_max,
                queue_requests_max: random.between(1, 8),
                context_tokens_max,
                // From one sequence at a time to everybody at once.
                kv_blocks: random.between(whole, whole * sequences_max),
                end_tokens: end_tokens.into_boxed_slice(),
                queue_tokens_max: random.pick(&[50, 300, 10_000]),
                step_columns_max: (sequences_max + columns_spare) as usize,
                targets,
            },
            vocabulary,
            model: random.any(),
            turns: random.between(20, 250),
            cancels_percent: random.pick(&[0, 3, 10, 40]),
            interval_max: Duration::from_millis(random.pick(&[2, 20, 60, 200])),
            bursts_percent: random.pick(&[0, 5, 20]),
            common: (0..context_tokens_max)
                .map(|_| random.between(0, vocabulary - 1))
                .collect(),
            common_percent: random.pick(&[0, 30, 90]),
            classes: random.pick(&[
                &[Class::Interactive][..],
                &[Class::Interactive, Class::Batch],
                &[
                    Class::Batch,
                    Class::Batch,
                    Class::Standard,
                    Class::Interactive,
                ],
            ]),
            tenants: random.pick(&[1, 1, 3, 100]),
            adapters: (0..random.pick(&[0, 0, 1, 3]))
                .map(|name| Arc::new(PackedAdapter::nothing([name + 1; 32])))
                .collect(),
            deadlines_percent: random.pick(&[0, 0, 20, 100]),
            switches_percent: random.pick(&[0, 0, 2]),
        }
    }

    /// How long a request was under way in the box before the engine sees it.
    pub(crate) fn under_way(random: &mut Random) -> Duration {
        Duration::from_micros(random.pick(&[0, 0, 100, 4000]))
    }

    /// Time until somebody comes.
    pub(crate) fn interval(&self, random: &mut Random) -> Duration {
        self.interval_max * random.between(0, 1000) / 1000
    }

    /// How many come at once.
    pub(crate) fn crowd(&self, random: &mut Random) -> u32 {
        if random.chance(self.bursts_percent) {
            return random.between(2, 2 * self.limits.queue_requests_max + 1);
        }
        1
    }

    /// What somebody asks for; it passes the checks of the door.
    pub(crate) fn submission(&self, random: &mut Random, id: u64) -> Submission {
        let context = self.limits.context_tokens_max;
        let prompt_tokens_max = random.pick(&[1, 8, 40, context - 1]).min(context - 1);
        let prompt_tokens = random.between(1, prompt_tokens_max);
        let mut prompt: Vec<u32> = (0..prompt_tokens)
            .map(|_| random.between(0, self.vocabulary - 1))
            .collect();
        if random.chance(self.common_percent) {
            let common = random.between(0, prompt_tokens) as usize;
            prompt[..common].copy_from_slice(&self.common[..common]);
            if random.chance(20) {
                // All the same but the first token, on which everything depends.
                prompt[0] = random.between(0, self.vocabulary - 1);
            }
        }
        let room = context - prompt_tokens;
        // Answers are short, middling, or as long as the context lets them be.
        let tokens_cap = random.pick(&[1, 6, 30, 64, room]).min(room);
        let tokens_max = random.between(1, tokens_cap);
        let min_tokens = if random.chance(25) {
            random.between(0, tokens_max)
        } else {
            0
        };
        let unlimited = random.chance(3);
        let deadlines = random.chance(self.deadlines_percent);
        let request = GenerateRequest {
            model: None,
            prompt: Prompt::Ids(prompt.clone()),
            max_tokens: (!unlimited).then_some(tokens_max),
            min_tokens,
            ignore_eos: random.chance(25),
            sampling: self.sampling(random),
            stop: Vec::new(),
            class: random.pick(self.classes),
            deadline: deadlines.then(|| Duration::from_millis(random.between(0, 400).into())),
            tenant: Tenant(random.any() % self.tenants),
            origin: Origin {
                stream: true,
                ..Origin::default()
            },
            format: Format::Text,
            logprobs: random.chance(10).then(|| random.between(0, 20)),
        };
        let limits = RequestLimits {
            context_tokens_max: context,
            vocabulary: self.vocabulary,
        };
        request.check(&limits).expect("a legal request");
        let submission = request.submission(RequestId(id), prompt, random.any(), &limits);
        let mut submission = submission.expect("a legal request");
        if !self.adapters.is_empty() && random.chance(60) {
            let index = usize::try_from(random.any() % self.adapters.len() as u64).expect("few");
            submission.adapter = Some(self.adapters[index].clone());
        }
        submission
    }

    fn sampling(&self, random: &mut Random) -> Sampling {
        if random.chance(50) {
            return Sampling::greedy();
        }
        let mut sampling = Sampling {
            temperature: random.pick(&[0.0, 0.2, 1.0, 1.0, 3.0]),
            top_k: random.pick(&[0, 0, 1, 5]),
            top_p: random.pick(&[1.0, 1.0, 0.9, 0.3]),
            min_p: random.pick(&[0.0, 0.0, 0.1]),
            ..Sampling::default()
        };
        if random.chance(30) {
            sampling.repetition_penalty = random.real(0.8, 1.5);
            sampling.presence_penalty = random.real(-1.0, 2.0);
            sampling.frequency_penalty = random.real(-0.5, 1.0);
        }
        if random.chance(20) {
            let bias = random.pick(&[-100.0, -2.0, 3.0, 100.0]);
            sampling.logit_bias = vec![(random.between(0, self.vocabulary - 1), bias)];
            // The end of sequence itself: always as soon as allowed, or never.
            sampling.logit_bias.push((self.limits.end_tokens[0], bias));
        }
        sampling
    }
}
