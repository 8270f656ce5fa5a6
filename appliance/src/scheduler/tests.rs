use super::*;
use crate::request::Sampling;

const END: u32 = 9;

fn scheduler(sequences: u32, queue: u32, kv_blocks: u32) -> Scheduler {
    Scheduler::new(SchedulerLimits {
        sequences_max: sequences,
        queue_requests_max: queue,
        context_tokens_max: 64,
        kv_blocks,
        end_tokens: Box::new([END]),
        inter_token_target: ms(50),
    })
}

fn submission(id: u64, prompt_tokens: usize, tokens_max: u32) -> Box<Submission> {
    Box::new(Submission {
        id: RequestId(id),
        prompt: vec![1; prompt_tokens],
        tokens_max,
        tokens_min: 0,
        ignore_eos: false,
        sampling: Sampling::greedy(),
        seed: 0,
    })
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
    for row in 0..plan.logits_rows() {
        let (sequence, _) = scheduler.sampled(row);
        scheduler.handle_token(now, sequence, token);
    }
    scheduler.assert_whole();
    shown(plan)
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
    let mut s = scheduler(3, 8, 8);
    let mut plan = StepPlan::new(8);
    s.handle_submit(ms(0), submission(1, 5, 20));
    assert_eq!(step(&mut s, &mut plan, ms(0), 2), "0:5*");
    s.handle_submit(ms(1), submission(2, 20, 20));
    s.handle_submit(ms(1), submission(3, 3, 20));
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
    s.handle_submit(ms(0), submission(1, 20, 20));
    s.handle_submit(ms(0), submission(2, 20, 20));
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
fn a_full_queue_refuses_and_says_when() {
    let mut s = scheduler(1, 1, 2);
    let mut plan = StepPlan::new(8);
    s.handle_submit(ms(0), submission(1, 4, 1));
    step(&mut s, &mut plan, ms(0), 2);
    // An hour of nothing says nothing about the drain.
    step(&mut s, &mut plan, ms(1), 2);
    s.handle_submit(ms(3_600_000), submission(2, 4, 2));
    step(&mut s, &mut plan, ms(3_600_000), 2);
    s.handle_submit(ms(3_600_050), submission(3, 4, 1));
    step(&mut s, &mut plan, ms(3_600_100), 2);
    step(&mut s, &mut plan, ms(3_600_300), 2);
    let served = [
        (1, Outcome::Length, 1),
        (2, Outcome::Length, 2),
        (3, Outcome::Length, 1),
    ];
    assert_eq!(ended(&mut s), served);
    s.handle_submit(ms(3_600_400), submission(4, 4, 9));
    s.handle_submit(ms(3_600_400), submission(5, 4, 9));
    let refused = (
        5,
        Outcome::Overloaded {
            retry_after_ms: 200,
        },
        0,
    );
    assert_eq!(ended(&mut s), [refused]);
}

#[test]
fn a_cancel_frees_its_place_before_the_next_step() {
    let mut s = scheduler(1, 4, 2);
    let mut plan = StepPlan::new(4);
    s.handle_submit(ms(0), submission(1, 10, 9));
    s.handle_submit(ms(0), submission(2, 3, 9));
    s.handle_submit(ms(0), submission(3, 3, 9));
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
    assert_eq!(s.sampled(0).1.submission.id, RequestId(3));
}

#[test]
fn the_end_of_the_sequence_ends_unless_ignored_or_too_early() {
    let mut s = scheduler(2, 4, 4);
    let mut plan = StepPlan::new(8);
    s.handle_submit(ms(0), submission(1, 2, 5));
    let mut greedy_for_length = submission(2, 2, 2);
    greedy_for_length.ignore_eos = true;
    s.handle_submit(ms(0), greedy_for_length);
    step(&mut s, &mut plan, ms(0), END);
    assert_eq!(ended(&mut s), [(1, Outcome::Stop, 0)]);
    step(&mut s, &mut plan, ms(1), END);
    assert_eq!(ended(&mut s), [(2, Outcome::Length, 2)]);

    let mut at_least_one = submission(3, 2, 5);
    at_least_one.tokens_min = 1;
    s.handle_submit(ms(2), at_least_one);
    s.plan(ms(2), &mut plan);
    assert_eq!(s.sampled(0).1.forbidden, [END]);
    s.handle_token(ms(2), 0, 4);
    s.plan(ms(3), &mut plan);
    assert!(s.sampled(0).1.forbidden.is_empty());
}

#[test]
fn times_are_told_apart() {
    let mut s = scheduler(1, 4, 2);
    let mut plan = StepPlan::new(8);
    s.handle_submit(ms(5), submission(1, 12, 3));
    assert_eq!(
        s.poll_event(),
        Some(Event::Accepted {
            id: RequestId(1),
            queued_before: 0
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
            decode: ms(30)
        }
    );
}

/// What a prompt of another leaves a running stream: steps of at most the target, once the scheduler knows the machine.
#[test]
fn a_long_prompt_leaves_a_running_stream_inside_its_target() {
    let mut s = Scheduler::new(SchedulerLimits {
        sequences_max: 2,
        queue_requests_max: 2,
        context_tokens_max: 4096,
        kv_blocks: 256,
        end_tokens: Box::new([END]),
        inter_token_target: ms(50),
    });
    // A step reads weights for 10 ms, and each column costs 1 ms past eight.
    let cost = |columns: usize| ms(10 + columns.saturating_sub(8) as u64);
    let mut plan = StepPlan::new(256);
    let mut now = ms(0);
    let mut turn = |s: &mut Scheduler, now: &mut Duration| {
        s.plan(*now, &mut plan);
        let took = cost(plan.columns().len());
        *now += took;
        for row in 0..plan.logits_rows() {
            let (sequence, _) = s.sampled(row);
            s.handle_token(*now, sequence, 1);
        }
        s.handle_step(plan.columns().len(), took);
        (plan.columns().len(), took)
    };
    s.handle_submit(now, submission(1, 4, 200));
    for _ in 0..10 {
        turn(&mut s, &mut now);
    }
    s.handle_submit(now, submission(2, 3000, 4));
    let mut steps = Vec::new();
    while s
        .running
        .iter()
        .flatten()
        .any(|r| r.fed < r.prompt_tokens())
        || s.order.len() < 2
    {
        steps.push(turn(&mut s, &mut now));
    }
    let longest = steps.iter().map(|(_, took)| *took).max().unwrap();
    assert!(longest <= ms(50), "{longest:?}");
    let columns = steps.iter().map(|(columns, _)| *columns).max().unwrap();
    assert!(columns >= 30, "the time is used: {columns} of 35");
    assert!(steps.len() <= 120, "{} steps for 3000 tokens", steps.len());
}

/// A box that cannot keep its target still feeds the prompts that it took.
#[test]
fn prompts_go_on_where_decodes_alone_take_too_long() {
    let mut s = scheduler(2, 2, 8);
    let mut plan = StepPlan::new(64);
    s.handle_submit(ms(0), submission(1, 1, 40));
    let slow = |s: &mut Scheduler, plan: &mut StepPlan, now: Duration| {
        let shown = step(s, plan, now, 1);
        s.handle_step(plan.columns().len(), ms(400));
        shown
    };
    assert_eq!(slow(&mut s, &mut plan, ms(0)), "0:1*");
    s.handle_submit(ms(400), submission(2, 20, 4));
    assert_eq!(slow(&mut s, &mut plan, ms(400)), "0:1* 1:8");
    assert_eq!(slow(&mut s, &mut plan, ms(800)), "0:1* 1:8");
    assert_eq!(slow(&mut s, &mut plan, ms(1200)), "0:1* 1:4*");
}

#[test]
fn steps_of_prompts_alone_are_short_enough_to_join() {
    let mut s = scheduler(1, 1, 8);
    let mut plan = StepPlan::new(64);
    // 4 ms a column, as far as it can tell: 25 columns are two targets.
    for columns in [64, 32, 16].repeat(20) {
        s.handle_step(columns, ms(4) * u32::try_from(columns).unwrap());
    }
    s.handle_submit(ms(0), submission(1, 60, 4));
    assert_eq!(step(&mut s, &mut plan, ms(0), 1), "0:24");
}
