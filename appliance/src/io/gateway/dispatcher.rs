//! One task that owns the rings to the engine: commands go in, events come out and go where they belong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringbuf::traits::{Consumer, Observer as _, Producer};
use tokio::sync::{Notify, mpsc};

use super::{Command, Forecast};
use crate::io::energy::{Energy, Haste};
use crate::io::engine_thread::{EngineHandle, ToEngine};
use crate::io::last_errors::LastErrors;
use crate::io::log::{self, Entry, Log};
use crate::logprobs::Logprobs;
use crate::request::{Lane, RequestId, Submission, Tenant, Timings, Usage};
use crate::scheduler::{Event, Outcome};
use crate::trial::{Case, CaseEnd, Window};

/// What requests saw of each model, for a trial: of the last hours, and anew after each change.
#[derive(Debug, Clone, Default)]
pub struct CaseWatch(Arc<[Mutex<Observed>; 2]>);

#[derive(Debug, Default)]
struct Observed {
    now: Window,
    before: Window,
}

/// Requests of a window before the older half is forgotten.
const WINDOW_REQUESTS_MAX: u64 = 10_000;

impl CaseWatch {
    fn observed(&self, lane: Lane) -> MutexGuard<'_, Observed> {
        let observed = self.0[lane.index()].lock();
        observed.unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen.
    pub fn window(&self, lane: Lane) -> Window {
        let observed = self.observed(lane);
        let mut window = observed.now.clone();
        window.merge(&observed.before);
        window
    }

    /// Another model has this lane, or the same is looked at anew.
    pub fn begin(&self, lane: Lane) {
        *self.observed(lane) = Observed::default();
    }

    /// What a request of this lane took is known.
    fn energy(&self, lane: Lane, mj: u64, tokens: u32) {
        self.observed(lane).now.add_energy(mj, tokens);
    }

    fn end(&self, end: &End, submission: &Submission) {
        let case_end = match end.outcome {
            // A stop string, or a client that had enough, cancels.
            Outcome::Stop | Outcome::Cancelled => CaseEnd::Stop,
            Outcome::Length => CaseEnd::Length,
            Outcome::Deadline => CaseEnd::Failed,
            // Neither is the model's doing.
            Outcome::Overloaded { .. } | Outcome::Form => return,
        };
        let tokens = end.usage.completion_tokens;
        let drawn = submission.signals.signals();
        let case = Case {
            prefill: (tokens > 0).then_some(end.timings.prefill_busy),
            itl: (tokens > 1).then(|| end.timings.decode_busy / (tokens - 1)),
            end: case_end,
            prompt_tokens: end.usage.prompt_tokens
                - end.usage.cached_tokens.min(end.usage.prompt_tokens),
            entropy: (drawn.tokens > 0).then_some(drawn.entropy_mean),
            // Its form is kept while it is made: what is left is the answer that was cut.
            invalid: submission.grammar.is_some() && end.outcome == Outcome::Length,
        };
        let mut observed = self.observed(submission.lane);
        if observed.now.requests() >= WINDOW_REQUESTS_MAX {
            observed.before = std::mem::take(&mut observed.now);
        }
        observed.now.add(&case);
    }
}

/// Who hears of requests besides their clients.
#[derive(Clone, Default)]
pub struct Watchers {
    /// Writes them down.
    pub log: Option<Log>,
    /// Measures them.
    pub energy: Option<Energy>,
    /// Compares what they see with one model and with the next.
    pub trial: Option<CaseWatch>,
    /// What the program warned of, for status.
    pub errors: LastErrors,
}

/// Owns the rings: passes commands to the engine and events to their streams.
pub struct Dispatcher {
    pub(super) engine: EngineHandle,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) routes: HashMap<RequestId, mpsc::Sender<News>>,
    pub(super) watchers: Watchers,
    /// What the log remembers of requests: until the engine ends them, whoever still listens.
    pub(super) entries: HashMap<RequestId, Box<Entry>>,
    /// Requests whose readers fell behind, and of which the engine must hear. At most as many as there are routes.
    pub(super) lost: Vec<RequestId>,
    pub(super) ended: Arc<Notify>,
}

impl Dispatcher {
    /// Runs until the last `Gateway` and `Generation` are gone, then stops the engine.
    pub async fn run(mut self) {
        let bell = self.engine.bell.clone();
        loop {
            tokio::select! {
                () = bell.notified() => self.pass_events(),
                // A full ring holds commands back until the engine, which rings the bell, has taken some.
                command = self.commands.recv(), if !self.engine.requests.is_full() => match command {
                    Some(command) => self.pass_command(command),
                    None => break,
                },
            }
        }
        self.engine.stop();
    }

    fn pass_command(&mut self, command: Command) {
        let request = match command {
            Command::Submit {
                request,
                id,
                events,
                entry,
            } => {
                self.routes.insert(id, events);
                if let Some(entry) = entry {
                    self.entries.insert(id, entry);
                }
                request
            }
            Command::Cancel(id) => ToEngine::Cancel(id),
            Command::HandOver(lane) => ToEngine::HandOver(lane),
        };
        let pushed = self.engine.requests.try_push(request);
        assert!(
            pushed.is_ok(),
            "room was checked before the command was taken"
        );
        self.engine.wake();
    }

    fn pass_events(&mut self) {
        // The engine waits when the ring has less room than a step may need.
        let engine_waits = self.engine.events.vacant_len() < self.engine.events.occupied_len();
        while let Some(event) = self.engine.events.try_pop() {
            let (id, news, submission) = News::of(event);
            let last = submission.is_some();
            if let (News::Ended(end), Some(submission)) = (&news, submission) {
                self.log_end(id, *end, submission);
            }
            // The reader of a stream that is full finds its channel closed; the engine is told to stop drawing for it.
            let lost = match self.routes.get(&id) {
                Some(route) => route.try_send(news).is_err(),
                None => false,
            };
            if lost && !last {
                self.lost.push(id);
            }
            if lost || last {
                self.routes.remove(&id);
            }
            if last {
                self.ended.notify_waiters();
            }
        }
        while let Some(&id) = self.lost.last() {
            if self.engine.requests.try_push(ToEngine::Cancel(id)).is_err() {
                // The ring is full: the engine rings when it has taken some, and this is tried again.
                break;
            }
            self.lost.pop();
        }
        if engine_waits {
            self.engine.wake();
        }
    }

    fn log_end(&mut self, id: RequestId, end: End, submission: Box<Submission>) {
        // What the box asks itself is no user's.
        if let Some(trial) = &self.watchers.trial
            && submission.tenant != Tenant::OPERATOR
        {
            trial.end(&end, &submission);
        }
        let Watchers {
            log, energy, trial, ..
        } = &self.watchers;
        let tokens = end.usage.completion_tokens;
        let owed = energy.as_ref().map(|energy| energy.owed(id, tokens));
        let haste = log.as_ref().map_or(Haste::NextReading, Log::haste);
        let (trial, lane) = (trial.clone(), submission.lane);
        let owed = owed.map(|owed| async move {
            let energy_mj = owed.settle(haste).await;
            if let (Some(trial), Some(mj)) = (trial, energy_mj) {
                trial.energy(lane, mj, tokens);
            }
            energy_mj
        });
        if let (Some(log), Some(entry)) = (log, self.entries.remove(&id)) {
            let ended = log::Ended {
                outcome: end.outcome,
                usage: end.usage,
                timings: end.timings,
                submission,
            };
            log.end(entry, ended, owed);
        } else if let Some(owed) = owed {
            // Nobody writes it down, but it counts in the sums.
            tokio::spawn(owed);
        }
    }
}

/// What the reader of an answer hears.
pub(super) enum News {
    Accepted(Forecast),
    Started { queue: Duration },
    Token(u32, Option<Box<Logprobs>>),
    Ended(End),
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) usage: Usage,
    pub(super) timings: Timings,
    /// Mean of -ln p of its tokens, where that is measured.
    pub(super) mean_nll: Option<f32>,
}

impl News {
    /// Whose news an event is; of the last one also the request itself.
    fn of(event: Event) -> (RequestId, Self, Option<Box<Submission>>) {
        match event {
            Event::Accepted {
                id,
                first_token_in,
                queued_before,
                ..
            } => {
                let forecast = Forecast {
                    first_token_in,
                    queued_before,
                };
                (id, Self::Accepted(forecast), None)
            }
            Event::Started { id, queue } => (id, Self::Started { queue }, None),
            Event::Token {
                id,
                token,
                logprobs,
            } => (id, Self::Token(token, logprobs.map(Box::new)), None),
            Event::Ended {
                outcome,
                usage,
                timings,
                submission,
            } => {
                let signals = submission.signals.signals();
                let end = End {
                    outcome,
                    usage,
                    timings,
                    mean_nll: (signals.tokens > 0).then_some(signals.mean_nll),
                };
                (submission.id, Self::Ended(end), Some(submission))
            }
        }
    }
}
