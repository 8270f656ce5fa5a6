//! What the station says about a request, held against what it may say.

use std::time::Duration;

use outstation::logprobs::Logprobs;
use outstation::request::{RequestId, Submission, Timings, Usage};
use outstation::scheduler::{Event, Outcome};

use crate::truth::{Phase, Request, Truth, step_time};

/// The call that an event answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Submit(usize),
    Cancel(u64),
    Step,
}

impl Truth {
    /// Writes down a request that is about to be submitted.
    pub(crate) fn note_submit(&mut self, arrived: Duration, submission: Submission) {
        assert_eq!(
            submission.id,
            RequestId(self.requests.len() as u64),
            "ids are indexes"
        );
        self.requests
            .push(Request::new(arrived, self.model, submission));
    }

    /// Takes one event of a call.
    pub(crate) fn check_event(&mut self, call: Call, event: Event) {
        match event {
            Event::Accepted {
                id,
                queued_before,
                due,
                turn,
                ..
            } => self.check_accepted(call, id, queued_before, (due, turn)),
            Event::Started { id, queue } => self.check_started(call, id, queue),
            Event::Token {
                id,
                token,
                logprobs,
            } => self.check_token(call, id, token, logprobs.as_ref()),
            Event::Ended {
                outcome,
                usage,
                timings,
                submission,
            } => {
                let id = index(submission.id);
                self.check_outcome(call, id, outcome);
                self.check_account(id, outcome, usage, timings, &submission);
                self.requests[id].phase = Phase::Ended(outcome);
                self.requests[id].runs = false;
                self.live.retain(|&other| other != id);
                for row in &mut self.rows {
                    row.take_if(|(other, _)| *other == id);
                }
            }
        }
    }

    /// All that was due after a call has come.
    pub(crate) fn check_answered(&self, call: Call) {
        match call {
            Call::Submit(id) => assert_ne!(
                self.requests[id].phase,
                Phase::Submitted,
                "request {id} hears at once"
            ),
            Call::Cancel(id) => assert!(
                !self.live.iter().any(|&live| live as u64 == id),
                "request {id} is cancelled and lives"
            ),
            Call::Step => {
                assert!(self.starts_due.is_empty(), "{:?}: Started", self.starts_due);
                assert!(self.tokens_due.is_empty(), "{:?}: a token", self.tokens_due);
                let overdue = |&&id: &&usize| {
                    let deadline = self.requests[id].deadline();
                    deadline.is_some_and(|deadline| deadline <= self.step_began)
                };
                assert_eq!(
                    self.live.iter().find(overdue),
                    None,
                    "it has passed its deadline"
                );
            }
        }
    }

    fn check_accepted(
        &mut self,
        call: Call,
        id: RequestId,
        queued_before: u32,
        (due, turn): (Duration, Duration),
    ) {
        let id = index(id);
        assert_eq!(call, Call::Submit(id), "accepted when it is submitted");
        let request = &self.requests[id];
        assert_eq!(
            request.phase,
            Phase::Submitted,
            "request {id} is accepted first, and once"
        );
        self.check_turn(request, due, turn);
        let waits = || self.waiting().map(|id| &self.requests[id]);
        assert_eq!(
            queued_before as usize,
            waits().filter(|r| r.turn <= turn).count(),
            "who waits before it"
        );
        let free = self.rows.len() - self.running().count();
        assert!(
            waits().count() < self.limits.queue_requests_max as usize + free,
            "requests that wait are bounded"
        );
        let tokens: u32 = waits().map(Request::tokens_now).sum();
        assert!(
            tokens == 0 || tokens + request.tokens_now() <= self.limits.queue_tokens_max,
            "tokens that wait are bounded"
        );
        let request = &mut self.requests[id];
        (request.due, request.turn) = (due, turn);
        request.phase = Phase::Accepted;
        self.live.push(id);
    }

    /// What was promised is what its class gets, and its turn is not much later: so it comes, whoever comes after it.
    fn check_turn(&self, request: &Request, due: Duration, turn: Duration) {
        let target = self.limits.targets[request.submission.class as usize].ttft;
        let alone = step_time(1) * request.prompt_tokens();
        let least = match request.deadline() {
            Some(deadline) => deadline.min(request.arrived + target),
            None => request.arrived + target,
        };
        let most = request.arrived + target.max(alone * 4);
        assert!(
            (least..=most).contains(&due),
            "due at {due:?}, of {least:?} to {most:?}"
        );
        let over_share = turn - due;
        assert!(
            over_share <= target.max(alone * 4),
            "{over_share:?} after {due:?}"
        );
    }

    fn check_started(&mut self, call: Call, id: RequestId, queue: Duration) {
        let id = index(id);
        assert_eq!(call, Call::Step, "a step starts requests");
        assert_eq!(self.starts_due.pop_front(), Some(id), "who starts");
        let request = &mut self.requests[id];
        assert_eq!(
            request.phase,
            Phase::Accepted,
            "request {id} starts after it is accepted, once"
        );
        assert_eq!(
            queue,
            self.step_began - request.arrived,
            "request {id}: its wait"
        );
        request.queue = queue;
        request.phase = Phase::Started;
    }

    fn check_token(&mut self, call: Call, id: RequestId, token: u32, logprobs: Option<&Logprobs>) {
        let id = index(id);
        assert_eq!(call, Call::Step, "a step draws tokens");
        self.take_due(id);
        let request = &mut self.requests[id];
        assert_eq!(
            request.phase,
            Phase::Started,
            "request {id} has tokens after its start, and before its end"
        );
        let asked = request.submission.logprobs;
        assert_eq!(
            logprobs.is_some(),
            asked.is_some(),
            "request {id}: log-probabilities if it asked for them"
        );
        if let Some(Logprobs { drawn, top }) = logprobs {
            let falls = |pair: &[(u32, f32)]| pair[0].1 >= pair[1].1;
            assert!(top.windows(2).all(falls) && *drawn <= 0.0);
            // A small vocabulary may have fewer.
            assert!(asked.is_some_and(|most| top.len() <= most as usize));
            assert_eq!(top.is_empty(), asked == Some(0), "request {id}");
            if let Some((_, listed)) = top.iter().find(|it| it.0 == token) {
                // The drawn one's is computed back from what bias and penalties made of it.
                assert!(
                    listed == drawn || (listed - drawn).abs() < 1e-3,
                    "{listed} {drawn}"
                );
            }
        }
        request.tokens.push(token);
        request.first_token.get_or_insert(self.now);
        request.last_token = Some(self.now);
        assert!(
            request.tokens.len() <= request.submission.tokens_max as usize,
            "request {id}: tokens_max"
        );
        let last = request.tokens.len() == request.submission.tokens_max as usize;
        if self.limits.end_tokens.contains(&token) {
            assert!(
                request.submission.ignore_eos,
                "request {id}: an end of sequence ends it"
            );
            assert!(
                request.tokens.len() > request.submission.tokens_min as usize,
                "request {id}: tokens_min"
            );
        }
        match self.tokens_due.front() {
            // The guess was right, so what follows it counts.
            Some(&(next, Some(guess))) if next == id && guess == token && !last => {
                self.requests[id].fed += 1;
            }
            _ => self.forget_due(id),
        }
    }

    /// The next token that is due is one of this request.
    fn take_due(&mut self, id: usize) {
        let due = self.tokens_due.pop_front();
        assert_eq!(due.map(|(id, _)| id), Some(id), "whose token it is");
        self.draws += 1;
    }

    /// What follows a wrong guess, or an end, is not drawn.
    fn forget_due(&mut self, id: usize) {
        while self
            .tokens_due
            .front()
            .is_some_and(|&(next, guess)| next == id && guess.is_some())
        {
            self.tokens_due.pop_front();
        }
    }

    fn check_outcome(&mut self, call: Call, id: usize, outcome: Outcome) {
        let phase = self.requests[id].phase;
        assert!(
            !matches!(phase, Phase::Ended(_)),
            "request {id} ends twice: {phase:?}, then {outcome:?}"
        );
        let submission = self.requests[id].submission.clone();
        let tokens = self.requests[id].tokens.len();
        match outcome {
            Outcome::Overloaded { retry_after_ms } => {
                assert_eq!(call, Call::Submit(id), "refused when it is submitted");
                assert_eq!(phase, Phase::Submitted, "refused or accepted");
                assert!(!self.live.is_empty(), "an idle box takes what fits");
                assert!(
                    (1..=600_000).contains(&retry_after_ms),
                    "in {retry_after_ms} ms"
                );
            }
            Outcome::Deadline => {
                let deadline = self.requests[id].deadline();
                let passed = deadline.is_some_and(|deadline| deadline <= self.step_began);
                let refused = phase == Phase::Submitted && deadline.is_some();
                let right = match call {
                    Call::Submit(submitted) => refused && submitted == id,
                    Call::Step => passed && phase != Phase::Submitted,
                    Call::Cancel(_) => false,
                };
                assert!(right, "request {id} of {deadline:?} ends at {call:?}");
            }
            Outcome::Cancelled => {
                assert_eq!(call, Call::Cancel(id as u64), "cancelled when asked");
                assert_ne!(phase, Phase::Submitted, "there was a place to leave");
            }
            Outcome::Stop => {
                assert_eq!(call, Call::Step, "a step draws the end");
                self.take_due(id);
                self.forget_due(id);
                assert!(!submission.ignore_eos, "request {id}: ignore_eos");
                assert!(
                    tokens >= submission.tokens_min as usize,
                    "request {id}: tokens_min"
                );
                assert!(
                    tokens < submission.tokens_max as usize,
                    "request {id} ended by length before"
                );
            }
            Outcome::Form => panic!("nobody asks for a form here"),
            Outcome::Length => {
                assert_eq!(call, Call::Step, "a step draws the last token");
                assert_eq!(
                    tokens, submission.tokens_max as usize,
                    "request {id}: tokens_max"
                );
            }
        }
    }

    fn check_account(
        &self,
        id: usize,
        outcome: Outcome,
        usage: Usage,
        timings: Timings,
        submission: &Submission,
    ) {
        let request = &self.requests[id];
        let prompt_and_answer = [request.submission.prompt(), &request.tokens].concat();
        let expected = Submission {
            tokens: prompt_and_answer,
            ..request.submission.clone()
        };
        assert_eq!(
            *submission, expected,
            "request {id} comes back as it went, with its answer"
        );
        let expected = Usage {
            prompt_tokens: request.prompt_tokens(),
            completion_tokens: u32::try_from(request.tokens.len()).expect("few"),
            cached_tokens: request.cached,
        };
        assert_eq!(usage, expected, "request {id}: usage");
        let life = self.now - request.arrived;
        let parts = timings.queue + timings.prefill + timings.decode;
        assert!(parts <= life, "request {id}: {timings:?} of {life:?}");
        if matches!(outcome, Outcome::Stop | Outcome::Length) {
            assert_eq!(parts, life, "request {id}: {timings:?} of {life:?}");
        }
        if request.phase == Phase::Started {
            assert_eq!(timings.queue, request.queue, "request {id}: its wait");
        }
    }
}

fn index(id: RequestId) -> usize {
    usize::try_from(id.0).expect("ids are indexes")
}
