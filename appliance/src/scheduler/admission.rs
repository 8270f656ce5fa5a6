//! Who may come, who gets a place, who makes room.

use std::time::Duration;

use super::forecast::{self, Free, Outlook, Stage};
use super::pace::PROMISED;
use super::{Event, Outcome, Request, Scheduler};
use crate::kv::blocks_for;
use crate::limits::KV_BLOCK_POSITIONS;
use crate::request::{Class, Submission, Timings, Usage};
use crate::sampler::Generator;

/// Longest wait that is suggested: past ten minutes a forecast says nothing.
const RETRY_AFTER_MS_MAX: u64 = 600_000;

/// What [`PROMISED`] is for a tenant over its share: the rest is for the others.
const PROMISED_OVER_SHARE: f64 = 0.5;

impl Scheduler {
    /// Takes a request that `arrived` some time ago, or ends it at once.
    pub fn handle_submit(&mut self, now: Duration, arrived: Duration, submission: Box<Submission>) {
        assert!(arrived <= now, "it has arrived");
        assert!(
            submission.prompt_tokens > 0 && submission.answer().is_empty(),
            "a prompt, and no answer yet"
        );
        assert!(submission.tokens_max > 0, "something to draw");
        assert!(
            submission.positions_max() <= self.limits.context_tokens_max,
            "checked when the submission was made"
        );
        assert!(
            submission.tokens.capacity() >= submission.positions_max() as usize,
            "the answer has its room"
        );
        self.tenants.handle_request(now, submission.tenant);
        let request = self.request(now, arrived, submission);
        match self.judge(now, &request) {
            Ok(first_token_in) => {
                let place = self.queue_place(&request);
                self.events.push_back(Event::Accepted {
                    id: request.submission.id,
                    queued_before: u32::try_from(place).expect("the queue is bounded"),
                    first_token_in,
                    due: request.due,
                    turn: request.turn,
                });
                if let Some(deadline) = request.deadline {
                    let next = self.next_deadline.unwrap_or(deadline);
                    self.next_deadline = Some(next.min(deadline));
                }
                self.enqueue(place, request);
            }
            Err(outcome) => {
                if let Outcome::Overloaded { retry_after_ms } = outcome {
                    self.retry_after_ms = retry_after_ms;
                }
                self.events.push_back(Event::Ended {
                    outcome,
                    usage: Usage {
                        prompt_tokens: request.submission.prompt_tokens,
                        ..Usage::default()
                    },
                    timings: Timings::default(),
                    submission: request.submission,
                });
            }
        }
    }

    fn request(&self, now: Duration, arrived: Duration, submission: Box<Submission>) -> Request {
        let class = submission.class;
        let known = self.kv.known(submission.prompt(), submission.salt());
        let deadline = submission.deadline.map(|deadline| arrived + deadline);
        let ttft = self.pace.ttft(class, submission.prompt_tokens - known);
        let due = deadline.map_or(arrived + ttft, |deadline| deadline.min(arrived + ttft));
        Request {
            turn: due + self.tenants.over(now, submission.tenant).min(ttft),
            due,
            deadline,
            generator: Generator::new(submission.seed),
            submission,
            arrived,
            started: None,
            first_token: None,
            last_token: Duration::ZERO,
            busy: [Duration::ZERO; 3],
            cached: 0,
            known,
            fed: 0,
            prompt_end: 0,
            begun: false,
            guesses: heapless::Vec::new(),
            right: 0,
        }
    }

    /// Where in the queue a request belongs.
    fn queue_place(&self, request: &Request) -> usize {
        self.queue
            .partition_point(|waits| waits.key() < request.key())
    }

    fn enqueue(&mut self, place: usize, request: Request) {
        assert!(
            self.queue.len() < self.queue.capacity(),
            "the queue is bounded"
        );
        self.queue_tokens += u64::from(request.tokens());
        self.queue.insert(place, request);
    }

    /// Time until the first token of a request that can be served in time and without making others late.
    fn judge(&mut self, now: Duration, request: &Request) -> Result<Duration, Outcome> {
        let idle = self.order.is_empty() && self.queue.is_empty();
        let free = self.running.len() - self.order.len();
        let full = self.queue.len() >= self.limits.queue_requests_max as usize + free;
        let tokens = self.queue_tokens + u64::from(request.tokens());
        let crowded = tokens > self.limits.queue_tokens_max.into() && !self.queue.is_empty();
        if full || crowded {
            return Err(overloaded(self.time_to_next_start(now)));
        }
        if !self.pace.knows() {
            return Ok(Duration::ZERO);
        }
        self.play(now, Some(self.outlook(request, Stage::Waits)));
        let place = self.outlooks.partition_point(|r| r.turn <= request.turn) - 1;
        let first = self.outlooks[place].first_token.unwrap_or(Duration::MAX);
        if let Some(deadline) = request.deadline {
            let step = self.pace.step(self.order.len() + 1);
            let answer = self.answers.expected(request.submission.tokens_max);
            if first.saturating_add(step * (answer - 1)) > deadline {
                return Err(Outcome::Deadline);
            }
        }
        if idle {
            // Nobody could serve it sooner.
            return Ok(first.saturating_sub(now));
        }
        let promised = if self.tenants.over(now, request.submission.tenant).is_zero() {
            PROMISED
        } else {
            PROMISED_OVER_SHARE
        };
        let arrived = request.arrived;
        let latest = arrived + request.due.saturating_sub(arrived).mul_f64(promised);
        if first > latest {
            return Err(overloaded(first.saturating_sub(latest)));
        }
        let late = self.made_late(now, place);
        if !late.is_zero() {
            return Err(overloaded(late));
        }
        Ok(first.saturating_sub(now))
    }

    /// How late the request at a place of the outlooks makes one that would be in time without it, at most.
    fn made_late(&mut self, now: Duration, place: usize) -> Duration {
        let late = |r: &Outlook| match r.first_token {
            Some(first) if first > now => first.saturating_sub(r.due),
            _ => Duration::ZERO,
        };
        let others = (0..self.outlooks.len()).filter(|&index| index != place);
        let with: Duration = others
            .map(|index| late(&self.outlooks[index]))
            .max()
            .unwrap_or_default();
        if with.is_zero() {
            return with;
        }
        // Somebody is late. Would they be anyway?
        let sum = |outlooks: &[Outlook]| -> Duration { outlooks.iter().map(late).sum() };
        let with_all = sum(&self.outlooks).saturating_sub(late(&self.outlooks[place]));
        self.play(now, None);
        with_all.saturating_sub(sum(&self.outlooks)).min(with)
    }

    /// Time until the next of those that wait has its first token.
    fn time_to_next_start(&mut self, now: Duration) -> Duration {
        self.play(now, None);
        let waited = |r: &Outlook| r.first_token.filter(|&first| first > now);
        let next = self.outlooks.iter().filter_map(waited).min();
        next.map_or(Duration::ZERO, |next| next.saturating_sub(now))
    }

    /// Fills the outlooks, sorted by turn, and plays them forward.
    fn play(&mut self, now: Duration, mut newcomer: Option<Outlook>) {
        let mut outlooks = std::mem::take(&mut self.outlooks);
        outlooks.clear();
        let runs = self.order.iter().map(|&sequence| {
            let request = self.runs(sequence);
            let reads = request.reads();
            self.outlook(request, if reads { Stage::Reads } else { Stage::Draws })
        });
        let waits = self.queue.iter().map(|r| self.outlook(r, Stage::Waits));
        let (mut runs, mut waits) = (runs.peekable(), waits.peekable());
        loop {
            let next = match (runs.peek(), waits.peek()) {
                (Some(run), Some(wait)) if run.turn <= wait.turn => runs.next(),
                (Some(_), None) => runs.next(),
                _ => waits.next(),
            };
            if let Some(new) = newcomer.take_if(|new| next.is_none_or(|next| new.turn < next.turn))
            {
                outlooks.push(new);
            }
            let Some(next) = next else { break };
            outlooks.push(next);
        }
        let free = Free {
            places: u32::try_from(self.running.len() - self.order.len()).expect("few"),
            blocks: self.kv.blocks_free(),
        };
        forecast::play(&self.pace, now, free, &mut outlooks);
        self.outlooks = outlooks;
    }

    fn outlook(&self, request: &Request, stage: Stage) -> Outlook {
        let blocks = blocks_for(request.submission.positions_max());
        let (prompt_left, blocks) = match stage {
            Stage::Waits => (
                request.tokens() - request.known,
                blocks - blocks_for(request.known),
            ),
            _ => (request.prompt_end.saturating_sub(request.fed), blocks),
        };
        Outlook {
            turn: request.turn,
            class: request.submission.class,
            prompt_left,
            answer_left: self.answers.expected(request.answer_left_max()),
            blocks,
            stage,
            first_token: request.first_token,
            due: request.due,
            ahead: self.ahead(request),
        }
    }

    /// Ends what has passed its deadline.
    pub(super) fn drop_overdue(&mut self, now: Duration) {
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        let over = |r: &Request| r.deadline.is_some_and(|deadline| deadline <= now);
        while let Some(index) = self.queue.iter().position(over) {
            self.end_queued(now, index, Outcome::Deadline);
        }
        while let Some(sequence) = self
            .running
            .iter()
            .position(|r| r.as_ref().is_some_and(over))
        {
            self.end(
                now,
                u32::try_from(sequence).expect("few"),
                Outcome::Deadline,
            );
        }
        let running = self.running.iter().flatten();
        self.next_deadline = self
            .queue
            .iter()
            .chain(running)
            .filter_map(|r| r.deadline)
            .min();
    }

    /// Gives places to those whose turn is next, while they fit; batch requests with later turns make room.
    pub(super) fn admit(&mut self) {
        while let Some(head) = self.queue.front() {
            let (id, turn, class) = (head.submission.id, head.turn, head.submission.class);
            if self.start_head() {
                continue;
            }
            if class == Class::Batch || !self.room_could_be_made(turn) {
                return;
            }
            let makes_room = |&&s: &&u32| self.makes_room(s, turn);
            let Some(&victim) = self.order.iter().rev().find(makes_room) else {
                return;
            };
            self.preempt(victim);
            assert_eq!(
                self.queue.front().map(|r| r.submission.id),
                Some(id),
                "its turn is first"
            );
        }
    }

    fn makes_room(&self, sequence: u32, turn: Duration) -> bool {
        let request = self.runs(sequence);
        request.submission.class == Class::Batch && request.turn > turn
    }

    /// Whether the head would fit if all made room that would.
    fn room_could_be_made(&self, turn: Duration) -> bool {
        let head = self.queue.front().expect("the caller saw it");
        let (mut blocks, mut stay) = (self.kv.blocks_free(), 0);
        let mut tightest = self.pace.itl(head.submission.class);
        for &sequence in &self.order {
            let submission = &self.runs(sequence).submission;
            if self.makes_room(sequence, turn) {
                blocks += blocks_for(submission.positions_max());
            } else {
                stay += 1;
                tightest = tightest.min(self.pace.itl(submission.class));
            }
        }
        // The head may share some of what it needs, so this says yes too rarely rather than in vain.
        blocks >= blocks_for(head.submission.positions_max()) && self.pace.one_more(stay, tightest)
    }

    /// Gives the head of the queue a place, if there is one, with its blocks and its pace.
    fn start_head(&mut self) -> bool {
        let head = self.queue.front().expect("the caller saw it");
        let Some(place) = self.running.iter().position(Option::is_none) else {
            return false;
        };
        let all = self.running.iter().flatten().chain([head]);
        let tightest = all.map(|r| self.pace.itl(r.submission.class)).min();
        if !self
            .pace
            .one_more(self.order.len(), tightest.expect("one at least"))
        {
            return false;
        }
        let sequence = u32::try_from(place).expect("at most sequences_max");
        let (positions, salt) = (head.submission.positions_max(), head.submission.salt());
        // To find what of a long prompt is known takes time: once for each change of what is free.
        let short = Some((head.submission.id, self.kv.blocks_free()));
        if self.short == short {
            return false;
        }
        let tokens = &head.submission.tokens;
        let Some(known) = self.kv.reserve(sequence, positions, tokens, salt) else {
            self.short = short;
            return false;
        };
        let mut request = self.queue.pop_front().expect("seen above");
        self.queue_tokens -= u64::from(request.tokens());
        (request.fed, request.prompt_end) = (known, request.tokens());
        request.begun = false;
        let turn = self
            .order
            .partition_point(|&s| self.runs(s).key() < request.key());
        self.order.insert(turn, sequence);
        self.drafters[place].reset();
        self.running[place] = Some(request);
        true
    }

    /// Puts a running sequence back into the queue. Its blocks stay known while nobody needs them.
    fn preempt(&mut self, sequence: u32) {
        let mut request = self.take_place(sequence);
        request.known = request.fed / KV_BLOCK_POSITIONS * KV_BLOCK_POSITIONS;
        (request.fed, request.prompt_end) = (0, 0);
        request.guesses.clear();
        self.totals.preempted += 1;
        let place = self.queue_place(&request);
        self.enqueue(place, request);
    }
}

fn overloaded(wait: Duration) -> Outcome {
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Outcome::Overloaded {
        retry_after_ms: ms.clamp(1, RETRY_AFTER_MS_MAX),
    }
}
