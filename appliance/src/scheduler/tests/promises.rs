//! What is promised and kept, on a made-up machine whose steps take 10 ms and 1 ms for each column.

use super::*;
use crate::request::{Class, Tenant};
use crate::sampler::splitmix;

struct Machine {
    s: Scheduler,
    plan: StepPlan,
    now: Duration,
    /// What ended, and when each had its first token.
    ended: Vec<(u64, Outcome)>,
    first_tokens: Vec<(u64, Duration)>,
    accepted: Vec<(u64, Duration)>,
}

impl Machine {
    fn new(limits: SchedulerLimits) -> Self {
        let mut machine = Self {
            plan: StepPlan::new(limits.step_columns_max),
            s: Scheduler::new(limits),
            now: ms(0),
            ended: Vec::new(),
            first_tokens: Vec::new(),
            accepted: Vec::new(),
        };
        for columns in [1, 2, 4, 8, 16, 32, 64].repeat(20) {
            machine.s.handle_step(ms(0), columns, Self::cost(columns));
        }
        machine
    }

    fn cost(columns: usize) -> Duration {
        ms(10 + u64::try_from(columns).unwrap())
    }

    /// Takes it, or says when to come back.
    fn submit(&mut self, submission: Box<Submission>) -> Result<(), Outcome> {
        let before = self.ended.len();
        submit(&mut self.s, self.now, submission);
        self.hear();
        self.ended
            .get(before)
            .map_or(Ok(()), |&(_, outcome)| Err(outcome))
    }

    fn hear(&mut self) {
        while let Some(event) = self.s.poll_event() {
            match event {
                Event::Ended {
                    outcome,
                    submission,
                    ..
                } => {
                    self.ended.push((submission.id.0, outcome));
                }
                Event::Token { id, .. } if !self.first_tokens.iter().any(|&(of, _)| of == id.0) => {
                    self.first_tokens.push((id.0, self.now));
                }
                Event::Accepted {
                    id, first_token_in, ..
                } => {
                    self.accepted.push((id.0, self.now + first_token_in));
                }
                _ => {}
            }
        }
    }

    /// Runs a step; false where there is none.
    fn step(&mut self) -> bool {
        self.s.plan(self.now, &mut self.plan);
        let columns = self.plan.columns().len();
        if columns == 0 {
            self.hear();
            return false;
        }
        self.now += Self::cost(columns);
        draw(&mut self.s, &self.plan, self.now, 2);
        self.s.handle_step(self.now, columns, Self::cost(columns));
        self.s.assert_whole();
        self.hear();
        true
    }

    fn run(&mut self) {
        while self.step() {}
    }

    fn first_token(&self, id: u64) -> Duration {
        self.first_tokens
            .iter()
            .find(|&&(of, _)| of == id)
            .expect("it had one")
            .1
    }

    fn forecast(&self, id: u64) -> Duration {
        self.accepted
            .iter()
            .find(|&&(of, _)| of == id)
            .expect("it was taken")
            .1
    }
}

fn class(class: Class, mut submission: Box<Submission>) -> Box<Submission> {
    submission.class = class;
    submission
}

fn roomy(sequences: u32) -> SchedulerLimits {
    SchedulerLimits {
        context_tokens_max: 1024,
        ..limits(sequences, 64, 32 * sequences)
    }
}

#[test]
fn a_forecast_is_what_happens() {
    let mut m = Machine::new(roomy(3));
    for (id, prompt_tokens) in (1..=8).zip((70..).step_by(10)) {
        let _ = m.submit(class(Class::Standard, submission(id, prompt_tokens, 40)));
        m.step();
    }
    m.run();
    assert_eq!(m.accepted.len(), 8, "{:?}", m.ended);
    for id in 1..=8 {
        let (said, was) = (m.forecast(id), m.first_token(id));
        // Those that come later fill the step in which it has its last columns.
        assert!(
            was + ms(5) >= said && was <= said + ms(75),
            "{id}: {said:?} was said, {was:?} it was"
        );
    }
}

#[test]
fn what_would_be_late_is_refused_until_the_time_that_it_is_told() {
    let mut m = Machine::new(roomy(8));
    let mut refused = None;
    for id in 1..=20 {
        if let Err(outcome) = m.submit(submission(id, 120, 4)) {
            refused = Some(outcome);
            break;
        }
    }
    let Some(Outcome::Overloaded { retry_after_ms }) = refused else {
        panic!("the box is full: {refused:?}")
    };
    let taken = m.accepted.len();
    // 50 ms steps of 40 columns: 3 steps each, and 450 ms for all.
    assert!((2..=4).contains(&taken), "{taken}");
    let back = m.now + ms(retry_after_ms);
    assert!(m.submit(submission(98, 120, 4)).is_err(), "not before");
    while m.now < back && m.step() {}
    m.now = m.now.max(back);
    assert_eq!(m.submit(submission(99, 120, 4)), Ok(()), "as it was told");
    m.run();
    assert_eq!(m.s.totals().first_tokens_late, 0);
}

#[test]
fn the_earliest_turn_goes_first_and_makes_nobody_late() {
    let mut m = Machine::new(roomy(4));
    // Two seconds alone: due in some four.
    m.submit(submission(1, 900, 4)).unwrap();
    m.step();
    m.submit(submission(2, 50, 4)).unwrap();
    m.run();
    assert!(m.first_token(2) < ms(200), "{:?}", m.first_tokens);
    assert!(m.first_token(1) > m.first_token(2));
    assert_eq!(m.s.totals().first_tokens_late, 0);
}

#[test]
fn nobody_starves_whoever_comes() {
    let mut m = Machine::new(SchedulerLimits {
        targets: [(500, 50), (5_000, 200), (3_000, 2_000)].map(|(ttft, itl)| Targets {
            ttft: ms(ttft),
            itl: ms(itl),
        }),
        ..roomy(2)
    });
    m.submit(submission(1, 50, 100)).unwrap();
    m.submit(class(Class::Batch, submission(2, 50, 4))).unwrap();
    for id in 3..400 {
        let _ = m.submit(submission(id, 50, 20));
        m.step();
        if m.first_tokens.iter().any(|&(of, _)| of == 2) {
            break;
        }
    }
    assert!(m.first_token(2) <= ms(3_000), "{:?}", m.first_token(2));
    assert!(m.ended.len() > 4, "others came meanwhile");
}

#[test]
fn batch_makes_room_and_goes_on_from_its_blocks() {
    let mut m = Machine::new(roomy(1));
    m.submit(class(Class::Batch, submission(1, 100, 60)))
        .unwrap();
    for _ in 0..20 {
        m.step();
    }
    m.submit(submission(2, 40, 4)).unwrap();
    m.run();
    let outcomes = [(2, Outcome::Length), (1, Outcome::Length)];
    assert_eq!(m.ended, outcomes, "the second came first");
    assert!(m.first_token(2) < ms(500));
    assert_eq!(m.s.totals().preempted, 1);

    // The same without another: what was computed before is not computed again, but for the last block.
    let alone = {
        let mut m = Machine::new(roomy(1));
        m.submit(class(Class::Batch, submission(1, 100, 60)))
            .unwrap();
        m.run();
        m.now
    };
    let with = m.now.saturating_sub(alone);
    assert!(
        with < ms(250),
        "{with:?} for 40 tokens, 4 steps and a block"
    );
}

#[test]
fn nobody_else_makes_room() {
    let mut m = Machine::new(roomy(1));
    m.submit(class(Class::Standard, submission(1, 20, 60)))
        .unwrap();
    m.step();
    assert!(m.submit(submission(2, 40, 4)).is_err(), "it would be late");
    m.run();
    assert_eq!(m.s.totals().preempted, 0);
}

#[test]
fn what_has_passed_its_deadline_is_dropped_and_what_will_is_refused() {
    let mut m = Machine::new(roomy(2));
    let deadline = |id, deadline| {
        let mut submission = submission(id, 20, 100);
        submission.deadline = Some(ms(deadline));
        submission
    };
    assert_eq!(
        m.submit(deadline(1, 20)),
        Err(Outcome::Deadline),
        "30 ms for its prompt alone"
    );
    // It was told to be done in time, and is held up.
    assert_eq!(m.submit(deadline(2, 2_000)), Ok(()));
    m.step();
    m.now += ms(1_900);
    m.run();
    assert_eq!(m.ended[1], (2, Outcome::Deadline));
    assert!(m.now < ms(2_050), "{:?}", m.now);
}

/// A tenant that floods the box leaves another its half.
#[test]
fn a_flood_leaves_others_their_part() {
    let mut m = Machine::new(roomy(4));
    let mut taken = [0, 0];
    let mut asked = [0, 0];
    let mut due = [ms(0), ms(0)];
    // One asks for ten times what the box can do, the other for a third of it.
    let every = [ms(25), ms(750)];
    let mut state = 1;
    for id in 1..1500 {
        let tenant = usize::from(due[1] < due[0]);
        while m.now < due[tenant] && m.step() {}
        m.now = m.now.max(due[tenant]);
        state = splitmix(state);
        due[tenant] += every[tenant].mul_f64(0.5 + (state % 1000) as f64 / 1000.0);
        let mut submission = submission(id, 100, 10);
        submission.tenant = Tenant(tenant as u64 + 1);
        asked[tenant] += 1;
        taken[tenant] += u32::from(m.submit(submission).is_ok());
        if m.now > ms(30_000) {
            break;
        }
    }
    assert!(asked[1] >= 30, "{asked:?}");
    assert!(taken[1] * 10 >= asked[1] * 9, "{taken:?} of {asked:?}");
    assert!(
        taken[0] > taken[1],
        "what is left goes to who asks: {taken:?}"
    );
    assert!(taken[0] * 5 < asked[0], "{taken:?} of {asked:?}");
}

/// What a neighbour computed is taken also when both came at once, but not across tenants.
#[test]
fn a_prompt_that_comes_twice_is_read_once() {
    let mut m = Machine::new(SchedulerLimits {
        step_columns_max: 64,
        ..roomy(4)
    });
    let twin = |id, tenant| {
        let mut twin = submission(7, 130, 4);
        (twin.id, twin.tenant) = (RequestId(id), Tenant(tenant));
        class(Class::Standard, twin)
    };
    for (id, tenant) in [(1, 0), (2, 0), (3, 5)] {
        m.submit(twin(id, tenant)).unwrap();
    }
    let mut read = 0;
    while m.step() {
        read += m.plan.columns().len();
    }
    // 130 twice, 2 for the second of the first tenant, and three decodes each.
    assert_eq!(read, 130 + 2 + 130 + 9);
}

/// Guesses change nothing but the number of steps.
#[test]
fn an_answer_that_quotes_takes_fewer_steps() {
    let steps = |columns: usize| {
        let mut m = Machine::new(SchedulerLimits {
            step_columns_max: columns,
            ..roomy(1)
        });
        // The answer counts 0, 1, …, 15 over and over, and so did the prompt.
        let prompt: Vec<u32> = (0..48).map(|i| i % 16).collect();
        let mut submission = Submission::new(RequestId(1), prompt, 64);
        submission.ignore_eos = true;
        submit(&mut m.s, ms(0), Box::new(submission));
        let (mut steps, mut answer) = (0, Vec::new());
        loop {
            m.s.plan(m.now, &mut m.plan);
            if m.plan.columns().is_empty() {
                break;
            }
            steps += 1;
            // Columns are nearly free.
            m.now += ms(10);
            for row in 0..m.plan.logits_rows() {
                if let Some(sampled) = m.s.sampled(row) {
                    let next = (sampled.submission.tokens.last().unwrap() + 1) % 16;
                    // A surprise now and then.
                    let next = if answer.len() % 23 == 22 {
                        40
                    } else {
                        next % 40
                    };
                    let generator = sampled.generator;
                    answer.push(next);
                    m.s.handle_token(m.now, row, next, generator);
                }
            }
            m.s.handle_step(m.now, m.plan.columns().len(), ms(10));
            m.s.assert_whole();
        }
        (steps, answer)
    };
    let (without, one) = steps(1);
    let (with, other) = steps(64);
    assert_eq!(one, other);
    assert_eq!(without, 48 + 63);
    assert!(with <= 40, "{with} steps for 64 tokens");
}
