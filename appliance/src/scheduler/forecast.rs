//! When each request will have its first token, if nobody else comes: the planner's rules played forward.
//!
//! Everything is counted in steps that look the same: until a prompt is through or a stream ends, one step is like the
//! next, so the whole future of a queue takes a few rounds for each request in it. Prompts go by turn, as in
//! [`plan`](super::Scheduler::plan); answers are taken to be as long as answers were lately, against what was asked.

use std::time::Duration;

use super::pace::Pace;
use crate::request::Class;

/// What the forecast needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Outlook {
    /// When its turn is; lists are sorted by it.
    pub turn: Duration,
    /// How long it can wait.
    pub class: Class,
    /// Tokens to run before it draws the next.
    pub prompt_left: u32,
    /// Tokens that it will draw, as far as one can tell.
    pub answer_left: u32,
    /// Blocks that it holds, or will take.
    pub blocks: u32,
    /// Where it is.
    pub stage: Stage,
    /// When it has its first token: the answer.
    pub first_token: Option<Duration>,
    /// By when it should.
    pub due: Duration,
    /// How far it is ahead of its target between tokens.
    pub ahead: Duration,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has no place.
    Waits,
    /// It has one, and its prompt is being run.
    Reads,
    /// It draws tokens.
    Draws,
    /// It is over.
    Over,
}

/// A forecast that takes more rounds than this says nothing of those that it did not come to.
const ROUNDS_MAX: usize = 10_000;

/// What is free at first.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    /// Places.
    pub places: u32,
    /// Blocks.
    pub blocks: u32,
}

/// Plays forward until each request has had its first token.
///
/// Cost: some rounds for each request, each O(requests).
pub fn play(pace: &Pace, now: Duration, mut free: Free, requests: &mut [Outlook]) {
    let mut clock = now;
    // Each round ends a prompt, a stream, what streams are ahead, or the part of a prompt that fills whole steps.
    for _ in 0..ROUNDS_MAX {
        start(pace, &mut free, requests);
        let streams = requests.iter().filter(|r| r.stage == Stage::Draws).count();
        let columns = columns(pace, requests, streams);
        let Some(round) = Round::new(pace, requests, streams, columns) else {
            return;
        };
        let step = pace.step(streams + round.prompt_columns);
        clock += step * round.steps;
        for stream in requests.iter_mut().filter(|r| r.stage == Stage::Draws) {
            let itl = pace.itl(stream.class) * round.steps;
            stream.ahead = (stream.ahead + itl).saturating_sub(step * round.steps);
        }
        round.pass(clock, &mut free, requests);
        let told = |r: &Outlook| r.first_token.is_some() || r.stage == Stage::Over;
        if requests.iter().all(told) {
            return;
        }
    }
}

/// Gives places to those that wait, as `admit` does.
fn start(pace: &Pace, free: &mut Free, requests: &mut [Outlook]) {
    let runs = |r: &Outlook| matches!(r.stage, Stage::Reads | Stage::Draws);
    for index in 0..requests.len() {
        let head = requests[index];
        if head.stage != Stage::Waits {
            continue;
        }
        let fits = |free: &Free, requests: &[Outlook]| {
            let running = requests.iter().filter(|r| runs(r));
            let all = running.clone().chain([&head]).map(|r| pace.itl(r.class));
            let tightest = all.min().expect("one at least");
            free.places > 0
                && free.blocks >= head.blocks
                && pace.one_more(running.count(), tightest)
        };
        if head.class != Class::Batch && !fits(free, requests) {
            while let Some(victim) = requests
                .iter()
                .rposition(|r| r.class == Class::Batch && runs(r) && r.turn > head.turn)
            {
                let victim = &mut requests[victim];
                victim.stage = Stage::Waits;
                victim.prompt_left = victim.prompt_left.max(1);
                free.places += 1;
                free.blocks += victim.blocks;
                if fits(free, requests) {
                    break;
                }
            }
        }
        if !fits(free, requests) {
            return;
        }
        requests[index].stage = Stage::Reads;
        free.places -= 1;
        free.blocks -= head.blocks;
    }
}

/// Columns of prompts in the next step, beside some streams.
fn columns(pace: &Pace, requests: &[Outlook], streams: usize) -> usize {
    let draws = requests.iter().filter(|r| r.stage == Stage::Draws);
    let columns = if let Some(gap) = draws.map(|r| pace.gap(r.class, r.ahead)).min() {
        pace.columns_beside(streams, gap)
    } else {
        let first = requests.iter().find(|r| r.stage == Stage::Reads);
        first.map_or(0, |r| pace.columns_without_streams(r.class))
    };
    columns.min(pace.columns_max() - streams)
}

/// Steps that look the same.
struct Round {
    steps: u32,
    /// Columns of prompts in each.
    prompt_columns: usize,
}

impl Round {
    fn new(pace: &Pace, requests: &[Outlook], streams: usize, columns: usize) -> Option<Self> {
        let draws = |r: &&Outlook| r.stage == Stage::Draws;
        let until_end = requests.iter().filter(draws).map(|r| r.answer_left).min();
        let mut reads = requests.iter().filter(|r| r.stage == Stage::Reads);
        let prompts: usize = reads.clone().map(|r| r.prompt_left as usize).sum();
        let Some(first) = reads.next() else {
            // Who waits, waits for a stream to end.
            return until_end.map(|steps| Self {
                steps: steps.max(1),
                prompt_columns: 0,
            });
        };
        assert!(streams + columns > 0, "a step carries something");
        let columns = columns.max(1);
        let whole = first.prompt_left / u32::try_from(columns).expect("a step has few");
        // A step longer than a target uses up what the stream is ahead, and the next ones are shorter.
        let step = pace.step(streams + columns.min(prompts));
        let uses_up = requests.iter().filter(draws).filter_map(|r| {
            let over = step.saturating_sub(pace.itl(r.class));
            let steps = r.ahead.as_nanos().checked_div(over.as_nanos())?;
            Some(u32::try_from(steps).unwrap_or(u32::MAX))
        });
        let whole = whole.min(uses_up.min().unwrap_or(u32::MAX));
        Some(Self {
            steps: whole.min(until_end.unwrap_or(u32::MAX)).max(1),
            prompt_columns: columns.min(prompts),
        })
    }

    fn pass(&self, clock: Duration, free: &mut Free, requests: &mut [Outlook]) {
        let mut columns = u32::try_from(self.prompt_columns).expect("a step has few");
        for request in requests {
            match request.stage {
                Stage::Draws => {
                    request.answer_left = request.answer_left.saturating_sub(self.steps);
                }
                Stage::Reads => {
                    let fed = request.prompt_left.min(columns * self.steps);
                    request.prompt_left -= fed;
                    columns -= fed.div_ceil(self.steps).min(columns);
                    if request.prompt_left > 0 {
                        continue;
                    }
                    request.stage = Stage::Draws;
                    request.first_token.get_or_insert(clock);
                    request.answer_left = request.answer_left.saturating_sub(1);
                }
                Stage::Waits | Stage::Over => continue,
            }
            if request.answer_left == 0 {
                request.stage = Stage::Over;
                free.places += 1;
                free.blocks += request.blocks;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::pace::Targets;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// 10 ms a step and 1 ms a column.
    fn pace() -> Pace {
        let targets = Targets {
            ttft: ms(500),
            itl: ms(60),
        };
        let mut pace = Pace::new([targets; 3], 128);
        for _ in 0..40 {
            for columns in [1, 2, 4, 8, 16, 32, 64, 128] {
                pace.handle_step(columns, ms(10 + columns as u64));
            }
        }
        pace
    }

    fn waits(turn: u64, prompt: u32, answer: u32) -> Outlook {
        Outlook {
            turn: ms(turn),
            class: Class::Interactive,
            prompt_left: prompt,
            answer_left: answer,
            blocks: 4,
            stage: Stage::Waits,
            first_token: None,
            due: ms(turn + 500),
            ahead: ms(0),
        }
    }

    fn played(free: Free, mut requests: Vec<Outlook>) -> Vec<u128> {
        play(&pace(), ms(1000), free, &mut requests);
        let first = |r: &Outlook| r.first_token.expect("played to the end").as_millis() - 1000;
        requests.iter().map(first).collect()
    }

    const ROOMY: Free = Free {
        places: 8,
        blocks: 1000,
    };

    #[test]
    fn one_alone_has_its_prompt_and_nothing_else() {
        // 100 columns in a step of 110 ms.
        let [first] = played(ROOMY, vec![waits(1, 100, 10)])[..] else {
            panic!()
        };
        assert!((100..=120).contains(&first), "{first}");
    }

    #[test]
    fn prompts_go_by_turn_and_share_what_streams_leave() {
        let firsts = played(
            ROOMY,
            vec![waits(1, 20, 1000), waits(2, 350, 10), waits(3, 35, 10)],
        );
        // Beside one stream a step has 45 ms: 34 columns for prompts.
        assert!(firsts.is_sorted(), "{firsts:?}");
        assert!((60..=140).contains(&firsts[0]), "{firsts:?}");
        assert!((380..=640).contains(&firsts[1]), "{firsts:?}");
        assert!(firsts[2] - firsts[1] <= 110, "{firsts:?}");
    }

    #[test]
    fn who_finds_no_place_waits_for_an_end() {
        let mut stream = waits(0, 0, 20);
        stream.stage = Stage::Draws;
        stream.first_token = Some(ms(1000));
        let free = Free {
            places: 0,
            blocks: 1000,
        };
        let firsts = played(free, vec![stream, waits(1, 20, 10)]);
        // 20 steps of 11 ms, then 30 ms.
        assert!((235..=270).contains(&firsts[1]), "{firsts:?}");
        let free = Free {
            places: 7,
            blocks: 3,
        };
        assert_eq!(played(free, vec![stream, waits(1, 20, 10)])[1], firsts[1]);
    }

    #[test]
    fn batch_makes_room() {
        let mut stream = waits(900_000, 0, 5000);
        stream.stage = Stage::Draws;
        stream.class = Class::Batch;
        stream.first_token = Some(ms(1000));
        let free = Free {
            places: 0,
            blocks: 0,
        };
        let mut requests = vec![waits(1, 20, 10), stream];
        play(&pace(), ms(1000), free, &mut requests);
        let first = requests[0].first_token.unwrap().saturating_sub(ms(1000));
        assert!(first <= ms(40), "{first:?}");
    }
}
