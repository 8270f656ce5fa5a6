//! What the station says about a request, held against what it may say.

use std::time::Duration;

use outstation::limits::KV_BLOCK_POSITIONS;
use outstation::request::{RequestId, Submission, Timings, Usage};
use outstation::scheduler::{Event, Outcome};

use crate::truth::{Phase, Request, Truth};

/// The call that an event answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Submit(usize),
    Cancel(u64),
    Step,
}

impl Truth {
    /// Writes down a request that is about to be submitted.
    pub(crate) fn note_submit(&mut self, submission: Submission) {
        assert_eq!(
            submission.id,
            RequestId(self.requests.len() as u64),
            "ids are indexes"
        );
        self.requests.push(Request {
            submission,
            phase: Phase::Submitted,
            arrived: self.now,
            queue: Duration::ZERO,
            admitted: false,
            begun: false,
            cached: 0,
            fed: 0,
            tokens: Vec::new(),
        });
    }

    /// Takes one event of a call.
    pub(crate) fn check_event(&mut self, call: Call, event: Event) {
        match event {
            Event::Accepted { id, queued_before } => self.check_accepted(call, id, queued_before),
            Event::Started { id, queue } => self.check_started(call, id, queue),
            Event::Token { id, token } => self.check_token(call, id, token),
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
                self.requests[id].admitted = false;
                self.live.retain(|&other| other != id);
                for row in &mut self.rows {
                    row.take_if(|other| *other == id);
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
            }
        }
    }

    fn check_accepted(&mut self, call: Call, id: RequestId, queued_before: u32) {
        let id = index(id);
        assert_eq!(call, Call::Submit(id), "accepted when it is submitted");
        assert_eq!(
            self.requests[id].phase,
            Phase::Submitted,
            "request {id} is accepted first, and once"
        );
        assert_eq!(
            queued_before as usize,
            self.waiting(),
            "who waits before it"
        );
        assert!(
            queued_before < self.limits.queue_requests_max,
            "the queue is bounded"
        );
        self.requests[id].phase = Phase::Accepted;
        self.live.push(id);
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

    fn check_token(&mut self, call: Call, id: RequestId, token: u32) {
        let id = index(id);
        assert_eq!(call, Call::Step, "a step draws tokens");
        assert_eq!(self.tokens_due.pop_front(), Some(id), "whose token it is");
        let request = &mut self.requests[id];
        assert_eq!(
            request.phase,
            Phase::Started,
            "request {id} has tokens after its start, and before its end"
        );
        request.tokens.push(token);
        assert!(
            request.tokens.len() <= request.submission.tokens_max as usize,
            "request {id}: tokens_max"
        );
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
    }

    fn check_outcome(&mut self, call: Call, id: usize, outcome: Outcome) {
        let phase = self.requests[id].phase;
        assert!(
            !matches!(phase, Phase::Ended(_)),
            "request {id} ends twice: {phase:?}, then {outcome:?}"
        );
        let submission = &self.requests[id].submission;
        let tokens = self.requests[id].tokens.len();
        match outcome {
            Outcome::Overloaded { retry_after_ms } => {
                assert_eq!(call, Call::Submit(id), "refused when it is submitted");
                assert_eq!(phase, Phase::Submitted, "refused or accepted");
                assert_eq!(
                    self.waiting(),
                    self.limits.queue_requests_max as usize,
                    "refused when the queue is full"
                );
                assert!(
                    (1..=600_000).contains(&retry_after_ms),
                    "in {retry_after_ms} ms"
                );
            }
            Outcome::Cancelled => {
                assert_eq!(call, Call::Cancel(id as u64), "cancelled when asked");
                assert_ne!(phase, Phase::Submitted, "there was a place to leave");
            }
            Outcome::Stop => {
                assert_eq!(call, Call::Step, "a step draws the end");
                assert_eq!(self.tokens_due.pop_front(), Some(id), "whose end it is");
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
        assert_eq!(
            *submission, request.submission,
            "request {id} comes back as it went"
        );
        let expected = Usage {
            prompt_tokens: request.prompt_tokens(),
            completion_tokens: u32::try_from(request.tokens.len()).expect("few"),
            cached_tokens: if request.begun || !request.admitted {
                request.cached
            } else {
                usage.cached_tokens
            },
        };
        assert!(
            usage.cached_tokens.is_multiple_of(KV_BLOCK_POSITIONS)
                && usage.cached_tokens < request.prompt_tokens(),
            "request {id}: whole blocks, and not all of its prompt"
        );
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
