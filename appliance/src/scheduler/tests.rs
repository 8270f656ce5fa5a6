use super::*;
use crate::engine::StepPlan;

mod promises;

const END: u32 = 9;

fn limits(sequences: u32, queue: u32, kv_blocks: u32) -> SchedulerLimits {
    SchedulerLimits {
        sequences_max: sequences,
        queue_requests_max: queue,
        queue_tokens_max: 10_000,
        context_tokens_max: 64,
        step_columns_max: 64,
        kv_blocks,
        end_tokens: Box::new([END]),
        targets: [(500, 50), (5_000, 200), (300_000, 2_000)].map(|(ttft, itl)| Targets {
            ttft: ms(ttft),
            itl: ms(itl),
        }),
    }
}

fn scheduler(sequences: u32, queue: u32, kv_blocks: u32) -> Scheduler {
    Scheduler::new(limits(sequences, queue, kv_blocks))
}

fn submission(id: u64, prompt_tokens: usize, tokens_max: u32) -> Box<Submission> {
    // Nothing in it repeats, so that nothing is guessed.
    let first = u32::try_from(100 * id).unwrap();
    let prompt = (first..).take(prompt_tokens).collect();
    Box::new(Submission::new(RequestId(id), prompt, tokens_max))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a plan carries, as `sequence:columns` in order, a star where logits are wanted.
fn shown(plan: &StepPlan) -> String {
    let mut out: Vec<(u32, u32, bool)> = Vec::new();
    for column in plan.columns() {
        match out.last_mut() {
            Some((s, n, l)) if *s == column.sequence => {
                *n += 1;
                *l |= column.logits;
            }
            _ => out.push((column.sequence, 1, column.logits)),
        }
    }
    out.iter()
        .map(|(s, n, l)| format!("{s}:{n}{}", if *l { "*" } else { "" }))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Plans at `now` and answers every row with `token`.
fn step(scheduler: &mut Scheduler, plan: &mut StepPlan, now: Duration, token: u32) -> String {
    scheduler.plan(now, plan);
    draw(scheduler, plan, now, token);
    scheduler.assert_whole();
    shown(plan)
}

/// Answers the first row of each sequence with `token` (a different one each time, where it is 2), and those that
/// follow right guesses with the guess.
fn draw(scheduler: &mut Scheduler, plan: &StepPlan, now: Duration, token: u32) {
    let rows = plan.columns().iter().filter(|column| column.logits);
    for (row, column) in rows.enumerate() {
        if let Some(sampled) = scheduler.sampled(row) {
            let answer = u32::try_from(sampled.submission.answer().len()).unwrap();
            let generator = sampled.generator;
            let fresh = 50_000 + 1_000 * column.sequence + answer;
            let token = if token == 2 { fresh } else { token };
            scheduler.handle_token(now, row, token, generator);
        }
    }
}

fn submit(scheduler: &mut Scheduler, now: Duration, submission: Box<Submission>) {
    scheduler.handle_submit(now, now, submission);
}

fn ended(scheduler: &mut Scheduler) -> Vec<(u64, Outcome, u32)> {
    std::iter::from_fn(|| scheduler.poll_event())
        .filter_map(|event| match event {
            Event::Ended {
                outcome,
                usage,
                submission,
                ..
            } => Some((submission.id.0, outcome, usage.completion_tokens)),
            _ => None,
        })
        .collect()
}

#[test]
fn decodes_come_first_and_prompts_fill_the_rest() {
    let mut s = Scheduler::new(SchedulerLimits {
        step_columns_max: 8,
        ..limits(3, 8, 8)
    });
    let mut plan = StepPlan::new(8);
    submit(&mut s, ms(0), submission(1, 5, 20));
    assert_eq!(step(&mut s, &mut plan, ms(0), 2), "0:5*");
    submit(&mut s, ms(1), submission(2, 20, 20));
    submit(&mut s, ms(1), submission(3, 3, 20));
    assert_eq!(step(&mut s, &mut plan, ms(1), 2), "0:1* 1:7");
    assert_eq!(step(&mut s, &mut plan, ms(2), 2), "0:1* 1:7");
    assert_eq!(step(&mut s, &mut plan, ms(3), 2), "0:1* 1:6* 2:1");
    assert_eq!(step(&mut s, &mut plan, ms(4), 2), "0:1* 1:1* 2:2*");
    assert_eq!(step(&mut s, &mut plan, ms(5), 2), "0:1* 1:1* 2:1*");
}

#[test]
fn the_worst_case_is_reserved_before_the_first_step() {
    let mut s = scheduler(4, 8, 3);
    let mut plan = StepPlan::new(64);
    submit(&mut s, ms(0), submission(1, 20, 20));
    submit(&mut s, ms(0), submission(2, 20, 20));
    assert_eq!(
        step(&mut s, &mut plan, ms(0), 2),
        "0:20*",
        "two blocks each: only one fits"
    );
    assert_eq!(s.occupancy().queued, 1);
    for _ in 0..18 {
        assert_eq!(step(&mut s, &mut plan, ms(1), 2), "0:1*");
    }
    assert_eq!(
        step(&mut s, &mut plan, ms(2), 2),
        "0:1*",
        "the twentieth token"
    );
    assert_eq!(ended(&mut s), [(1, Outcome::Length, 20)]);
    assert_eq!(
        step(&mut s, &mut plan, ms(3), 2),
        "0:20*",
        "now the second runs"
    );
}

#[test]
fn a_cancel_frees_its_place_before_the_next_step() {
    let mut s = scheduler(1, 4, 2);
    let mut plan = StepPlan::new(4);
    submit(&mut s, ms(0), submission(1, 10, 9));
    submit(&mut s, ms(0), submission(2, 3, 9));
    submit(&mut s, ms(0), submission(3, 3, 9));
    assert_eq!(
        step(&mut s, &mut plan, ms(0), 2),
        "0:4",
        "in the middle of its prompt"
    );
    s.handle_cancel(ms(1), RequestId(1));
    s.handle_cancel(ms(1), RequestId(2));
    s.handle_cancel(ms(1), RequestId(77));
    assert_eq!(
        ended(&mut s),
        [(1, Outcome::Cancelled, 0), (2, Outcome::Cancelled, 0)]
    );
    assert_eq!(step(&mut s, &mut plan, ms(2), 2), "0:3*");
    assert_eq!(s.sampled(0).unwrap().submission.id, RequestId(3));
}

#[test]
fn the_end_of_the_sequence_ends_unless_ignored_or_too_early() {
    let mut s = scheduler(2, 4, 4);
    let mut plan = StepPlan::new(8);
    submit(&mut s, ms(0), submission(1, 2, 5));
    let mut greedy_for_length = submission(2, 2, 2);
    greedy_for_length.ignore_eos = true;
    submit(&mut s, ms(0), greedy_for_length);
    step(&mut s, &mut plan, ms(0), END);
    assert_eq!(ended(&mut s), [(1, Outcome::Stop, 0)]);
    step(&mut s, &mut plan, ms(1), END);
    assert_eq!(ended(&mut s), [(2, Outcome::Length, 2)]);

    let mut at_least_one = submission(3, 2, 5);
    at_least_one.tokens_min = 1;
    submit(&mut s, ms(2), at_least_one);
    s.plan(ms(2), &mut plan);
    assert_eq!(s.sampled(0).unwrap().forbidden, [END]);
    draw(&mut s, &plan, ms(2), 4);
    s.plan(ms(3), &mut plan);
    assert!(s.sampled(0).unwrap().forbidden.is_empty());
}

#[test]
fn times_are_told_apart() {
    let mut s = scheduler(1, 4, 2);
    let mut plan = StepPlan::new(8);
    submit(&mut s, ms(5), submission(1, 12, 3));
    assert_eq!(
        s.poll_event(),
        Some(Event::Accepted {
            id: RequestId(1),
            queued_before: 0,
            first_token_in: ms(0),
            due: ms(505),
            turn: ms(505),
        })
    );
    s.plan(ms(10), &mut plan);
    assert_eq!(
        s.poll_event(),
        Some(Event::Started {
            id: RequestId(1),
            queue: ms(5)
        })
    );
    step(&mut s, &mut plan, ms(30), 2);
    step(&mut s, &mut plan, ms(40), 2);
    step(&mut s, &mut plan, ms(60), 2);
    let last = std::iter::from_fn(|| s.poll_event()).last().unwrap();
    let Event::Ended { timings, .. } = last else {
        panic!("{last:?}")
    };
    assert_eq!(
        timings,
        Timings {
            queue: ms(5),
            prefill: ms(20),
            decode: ms(30),
            ..Timings::default()
        }
    );
}

/// Time between its steps, in which another model may have run, is not the model's own.
#[test]
fn time_in_steps_is_told_apart_from_time_between_them() {
    let mut s = scheduler(1, 4, 2);
    let mut plan = StepPlan::new(8);
    submit(&mut s, ms(0), submission(1, 4, 3));
    for (from, to) in [(10, 14), (20, 25), (40, 42)] {
        s.plan(ms(from), &mut plan);
        draw(&mut s, &plan, ms(to), 2);
        s.handle_step(ms(to), plan.columns().len(), ms(to - from));
    }
    let last = std::iter::from_fn(|| s.poll_event()).last().unwrap();
    let Event::Ended { timings, .. } = last else {
        panic!("{last:?}")
    };
    assert_eq!(
        timings,
        Timings {
            queue: ms(10),
            prefill: ms(4),
            decode: ms(28),
            prefill_busy: ms(4),
            decode_busy: ms(7),
        }
    );
}

/// What a prompt of another leaves a running stream: steps of at most the target, once the scheduler knows the machine.
#[test]
fn a_long_prompt_leaves_a_running_stream_inside_its_target() {
    let mut s = Scheduler::new(SchedulerLimits {
        context_tokens_max: 4096,
        step_columns_max: 256,
        ..limits(2, 2, 256)
    });
    // A step reads weights for 10 ms, and each column costs 1 ms past eight.
    let cost = |columns: usize| ms(10 + columns.saturating_sub(8) as u64);
    let mut plan = StepPlan::new(256);
    let mut now = ms(0);
    let mut turn = |s: &mut Scheduler, now: &mut Duration| {
        s.plan(*now, &mut plan);
        let took = cost(plan.columns().len());
        *now += took;
        draw(s, &plan, *now, 2);
        s.handle_step(*now, plan.columns().len(), took);
        (plan.columns().len(), took)
    };
    submit(&mut s, now, submission(1, 4, 200));
    for _ in 0..10 {
        turn(&mut s, &mut now);
    }
    submit(&mut s, now, submission(2, 3000, 4));
    let mut steps = Vec::new();
    while s.running.iter().flatten().any(Request::reads) || s.order.len() < 2 {
        steps.push(turn(&mut s, &mut now));
    }
    let longest = steps.iter().map(|(_, took)| *took).max().unwrap();
    // It has been ahead of its target by ten tokens, so a gap may be half as long again, until that is used up.
    assert!(longest <= ms(75), "{longest:?}");
    let all: Duration = steps.iter().map(|(_, took)| *took).sum();
    assert!(
        all <= ms(50) * (u32::try_from(steps.len()).unwrap() + 10),
        "{all:?}"
    );
    let columns = steps.iter().map(|(columns, _)| *columns).max().unwrap();
    assert!(columns >= 30, "the time is used: {columns} of 35");
    assert!(steps.len() <= 120, "{} steps for 3000 tokens", steps.len());
}

/// A box that cannot keep its target still feeds the prompts that it took.
#[test]
fn prompts_go_on_where_decodes_alone_take_too_long() {
    let mut s = scheduler(2, 2, 8);
    let mut plan = StepPlan::new(64);
    submit(&mut s, ms(0), submission(1, 1, 40));
    let slow = |s: &mut Scheduler, plan: &mut StepPlan, now: Duration| {
        let shown = step(s, plan, now, 1);
        s.handle_step(now, plan.columns().len(), ms(400));
        shown
    };
    assert_eq!(slow(&mut s, &mut plan, ms(0)), "0:1*");
    submit(&mut s, ms(400), submission(2, 20, 4));
    assert_eq!(slow(&mut s, &mut plan, ms(400)), "0:1* 1:8");
    assert_eq!(slow(&mut s, &mut plan, ms(800)), "0:1* 1:8");
    assert_eq!(slow(&mut s, &mut plan, ms(1200)), "0:1* 1:4*");
}

#[test]
fn steps_of_prompts_alone_are_short_enough_to_join() {
    let mut s = scheduler(1, 1, 8);
    let mut plan = StepPlan::new(64);
    // 4 ms a column, as far as it can tell: 18 columns are a target and a half.
    for columns in [64, 32, 16, 8, 4, 2, 1].repeat(20) {
        s.handle_step(ms(0), columns, ms(4) * u32::try_from(columns).unwrap());
    }
    submit(&mut s, ms(0), submission(1, 60, 4));
    let shown = step(&mut s, &mut plan, ms(0), 1);
    assert!(["0:17", "0:18", "0:19"].contains(&&*shown), "{shown}");
}
