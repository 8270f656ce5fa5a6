//! Between protocols and engine: a request goes in, a stream of text comes out.
//!
//! Everything here runs on the io thread. One task, the dispatcher, owns the rings to the engine; handlers reach it
//! through a bounded channel. Each request that is under way holds a reserved place in that channel, so its
//! cancellation always fits.

mod beside;
mod change;
mod dispatcher;
mod generation;
mod lanes;
mod models;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outstation_kernels::heap;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::board::{Board, BoardReading};
use super::energy::{Energy, EnergyStatus};
use super::engine_thread::{EngineHandle, ToEngine};
use super::last_errors::LastError;
use super::log::{Entry, Log, LogStatus, Told};
use super::memory::resident_bytes;
use super::ota::runner::Handle;
use super::uplink::{Reach, UplinkStatus};
use crate::adapter::AdapterPool;
use crate::grammar::Grammars;
use crate::limits;
use crate::request::{
    GenerateRequest, Lane, Prompt, Refusal, RefusalKind, RequestId, RequestLimits, Submission,
    Tenant,
};
use crate::sampler::splitmix;
use crate::template::{ChatTemplate, Message};
use crate::tokenizer::{Bos, Decoder, Special, StopMatcher, Tokenizer};

pub use change::Paused;
use dispatcher::News;
pub use dispatcher::{CaseWatch, Dispatcher, Watchers};
use generation::Ending;
pub use generation::{Forecast, Generation, Piece, TokenLogprob, TokenLogprobs};
pub use lanes::Leaving;
use lanes::{Seat, Seats};
use models::Answering;
pub(super) use models::no_model;
pub use models::{LoadAdapterError, ServedModel};

/// Text side of a model: what the io thread needs of it.
pub struct TextModel {
    /// Name, context.
    pub served: ServedModel,
    /// BLAKE3 of the model's file; zeros where nothing is logged.
    pub digest: [u8; 32],
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// What can be added to it.
    pub adapters: Mutex<AdapterPool>,
    /// The one of them that answers who asks for no other, if it is there.
    pub default_adapter: Option<String>,
    /// Chat template; the error says why chats are refused.
    pub template: Result<ChatTemplate, String>,
    /// Compiles the forms that answers may have; the error says why those are refused.
    pub grammars: Result<Grammars, String>,
    /// Ceilings of a request.
    pub limits: RequestLimits,
    /// What it takes of the budget.
    pub planned_bytes: u64,
    /// What it takes of a GPU's own memory.
    pub planned_gpu_bytes: u64,
    /// What the box takes besides its models.
    pub shared_bytes: u64,
}

/// What the box is doing, for people and scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// What the engine thread says.
    #[serde(flatten)]
    pub board: BoardReading,
    /// Times that a thread which took its memory at start used the heap since READY.
    pub guarded_heap_uses: u64,
    /// Times that it did so for an answer of a given form, which is meant to be.
    pub excused_heap_uses: u64,
    /// The sum of the budget.
    pub memory_planned_bytes: u64,
    /// What the process has in memory, as the system counts it.
    pub memory_resident_bytes: Option<u64>,
    /// The log, where there is one.
    pub log: Option<LogStatus>,
    /// What the machine took, where there is a meter.
    pub energy: Option<EnergyStatus>,
    /// The way to the factory, on a box that belongs to one.
    pub uplink: Option<UplinkStatus>,
    /// When the program began, seconds since 1970 by this machine's clock.
    pub started_unix_s: u64,
    /// Seconds since then, whatever became of the clock.
    pub uptime_s: u64,
    /// Its last warnings and errors, the newest last.
    pub last_errors: Vec<LastError>,
}

/// A cheap handle that all protocols share.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// Gives a [`Gateway`] as long as somebody else has one.
#[derive(Clone)]
pub struct WeakGateway(Weak<Shared>);

impl WeakGateway {
    /// The gateway, if there still is one.
    pub fn upgrade(&self) -> Option<Gateway> {
        self.0.upgrade().map(|shared| Gateway { shared })
    }
}

struct Shared {
    seats: RwLock<Seats>,
    /// Requests that a share was drawn for.
    draws: AtomicU64,
    /// Held by requests on their way to the engine, and by a change of the model where one fits.
    changing: Arc<tokio::sync::RwLock<()>>,
    commands: mpsc::Sender<Command>,
    board: Arc<Board>,
    /// Requests that may be under way at once; see `commands_max`.
    places: Arc<Semaphore>,
    /// Places of forms that are being compiled.
    compiling: Arc<Semaphore>,
    next_id: AtomicU64,
    seed: u64,
    watchers: Watchers,
    /// The life of releases, on a box that follows a ring.
    releases: OnceLock<Handle>,
    /// How the factory is reached, on a box that belongs to one.
    uplink: OnceLock<Reach>,
    started: Instant,
    started_unix_s: u64,
    draining: AtomicBool,
    /// Rung when a request ends, for who waits for the drain.
    ended: Arc<Notify>,
    places_max: usize,
}

enum Command {
    Submit {
        request: ToEngine,
        id: RequestId,
        events: mpsc::Sender<News>,
        entry: Option<Box<Entry>>,
    },
    Cancel(RequestId),
    HandOver(Lane),
}

/// Requests and cancellations between gateway and engine: two for each request under way.
pub fn commands_max(requests_under_way: usize) -> usize {
    2 * requests_under_way
}

impl Gateway {
    /// Starts the dispatcher on the current runtime.
    ///
    /// `seed` makes the seeds of requests that bring none: random in production, fixed in tests.
    pub fn start(
        text: TextModel,
        engine: EngineHandle,
        requests_under_way: usize,
        seed: u64,
        watchers: Watchers,
    ) -> (Self, Dispatcher) {
        let (commands, receiver) = mpsc::channel(commands_max(requests_under_way));
        let board = engine.board.clone();
        let ended = Arc::new(Notify::new());
        let shared = Shared {
            seats: RwLock::new(Seats {
                main: Seat::new(text, Lane::First),
                beside: None,
            }),
            draws: AtomicU64::new(0),
            changing: Arc::default(),
            releases: OnceLock::new(),
            uplink: OnceLock::new(),
            started: Instant::now(),
            started_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            commands,
            board,
            places: Arc::new(Semaphore::new(requests_under_way)),
            compiling: Arc::new(Semaphore::new(limits::GRAMMARS_COMPILING_MAX as usize)),
            next_id: AtomicU64::new(1),
            seed,
            watchers: watchers.clone(),
            draining: AtomicBool::new(false),
            ended: ended.clone(),
            places_max: requests_under_way,
        };
        let dispatcher = Dispatcher {
            engine,
            commands: receiver,
            routes: HashMap::new(),
            watchers,
            entries: HashMap::new(),
            lost: Vec::new(),
            ended,
        };
        (
            Self {
                shared: Arc::new(shared),
            },
            dispatcher,
        )
    }

    /// Of the model that serves.
    fn text(&self) -> Arc<TextModel> {
        self.seats().main.text.clone()
    }

    /// Whether a token was really decoded, and new requests are taken.
    pub fn ready(&self) -> bool {
        self.shared.board.ready() && !self.draining()
    }

    /// Whether the box is going down.
    pub fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Whether the model is being changed, or about to be.
    pub fn changes_model(&self) -> bool {
        self.shared.changing.try_read().is_err()
    }

    /// Rounds of the engine's loop: they go on as long as it does.
    pub fn beats(&self) -> u64 {
        self.shared.board.beats()
    }

    /// Numbers for status.
    pub fn status(&self) -> Status {
        Status {
            board: self.shared.board.read(),
            guarded_heap_uses: heap::uses(),
            excused_heap_uses: heap::excused_uses(),
            memory_planned_bytes: self.planned_bytes(),
            memory_resident_bytes: resident_bytes(),
            log: self.log().map(Log::status),
            energy: self.shared.watchers.energy.as_ref().map(Energy::status),
            uplink: self.shared.uplink.get().map(Reach::status),
            started_unix_s: self.shared.started_unix_s,
            uptime_s: self.shared.started.elapsed().as_secs(),
            last_errors: self.shared.watchers.errors.read(),
        }
    }

    /// What the models that are loaded take, with all that they share.
    pub fn planned_bytes(&self) -> u64 {
        let seats = self.seats();
        let beside = seats.beside.as_ref();
        let beside = beside.map_or(0, |beside| beside.seat.text.planned_bytes);
        let main = &seats.main.text;
        main.shared_bytes + main.planned_bytes + beside
    }

    /// What they take of a GPU's own memory.
    pub fn planned_gpu_bytes(&self) -> u64 {
        let seats = self.seats();
        let beside = seats.beside.as_ref();
        let beside = beside.map_or(0, |beside| beside.seat.text.planned_gpu_bytes);
        seats.main.text.planned_gpu_bytes + beside
    }

    /// BLAKE3 of the model's file, where there is a log.
    pub fn model_digest(&self) -> [u8; 32] {
        self.text().digest
    }

    /// Requests that were given to the engine since start.
    pub fn requests_served(&self) -> u64 {
        self.shared.next_id.load(Ordering::Relaxed) - 1
    }

    /// A handle that keeps nothing alive.
    pub fn downgrade(&self) -> WeakGateway {
        WeakGateway(Arc::downgrade(&self.shared))
    }

    /// The log, where there is one.
    pub fn log(&self) -> Option<&Log> {
        self.shared.watchers.log.as_ref()
    }

    /// The life of releases begins.
    pub fn follow(&self, releases: Handle) {
        assert!(self.shared.releases.set(releases).is_ok(), "it begins once");
    }

    /// The life of releases, on a box that follows a ring.
    pub fn releases(&self) -> Option<&Handle> {
        self.shared.releases.get()
    }

    /// The box has an uplink.
    pub fn reach(&self, uplink: Reach) {
        assert!(self.shared.uplink.set(uplink).is_ok(), "it begins once");
    }

    /// Refuses new requests from here on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Waits until no request is under way.
    pub async fn drained(&self) {
        loop {
            let ended = self.shared.ended.notified();
            if self.shared.places.available_permits() == self.shared.places_max {
                return;
            }
            // A generation gives its place back just after its end is seen, so look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(20), ended).await;
        }
    }

    /// Checks, tokenizes and submits a request. Returns once the engine gave it a place, or refused it.
    pub async fn submit(&self, request: GenerateRequest) -> Result<Generation, Refusal> {
        let request = Arc::new(request);
        let submitted = self.submit_unlogged(&request).await;
        // What the engine refused is logged by who hears of its end.
        if let (Err(Refused::Here(refusal)), Some(log)) = (&submitted, self.log()) {
            log.refuse(&request, &self.text(), refusal);
        }
        submitted.map_err(Refused::into_refusal)
    }

    async fn submit_unlogged(&self, request: &Arc<GenerateRequest>) -> Result<Generation, Refused> {
        let arrived = Instant::now();
        let shared = &self.shared;
        if self.draining() {
            let message = "the box is going down: try another one, or this one in a minute";
            let refusal = Refusal::plain(RefusalKind::Draining, message);
            return Err(Refused::Here(Refusal {
                retry_after_ms: Some(60_000),
                ..refusal
            }));
        }
        let Ok(place) = shared.places.clone().try_acquire_owned() else {
            let refusal = overloaded(shared.board.read().retry_after_ms.max(1));
            return Err(Refused::Here(refusal));
        };
        let waiting = Instant::now();
        let changing = shared.changing.read().await;
        // Who waited for a change of the model is not late by it, unless it said when its answer is worthless.
        let since = match request.deadline {
            None => arrived + waiting.elapsed(),
            Some(_) => arrived,
        };
        let (seat, answering) = self.choose(request.model.as_deref())?;
        let text = seat.text.clone();
        request.check(&text.limits)?;
        let (prompt, place) = beside::tokenize(text.clone(), request.clone(), place).await;
        let prompt = prompt?;
        let grammar = beside::compile(&text, request, &shared.compiling).await?;
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let seed = splitmix(shared.seed ^ id.0);
        let submission = Submission {
            grammar,
            lane: seat.lane,
            adapter: answering.adapter.clone(),
            ..request.submission(id, prompt, seed, &text.limits)?
        };
        let prompt_tokens = u32::try_from(submission.prompt().len()).expect("checked");
        let buffered_max = match submission.logprobs {
            None => limits::STREAM_TOKENS_BUFFERED_MAX,
            Some(_) => limits::STREAM_LOGPROBS_BUFFERED_MAX,
        };
        let events_max = (submission.tokens_max as usize).min(buffered_max);
        let (events, receiver) = mpsc::channel(events_max + 8);
        let closed = |_| {
            Refused::Here(Refusal::plain(
                RefusalKind::Internal,
                "the engine has stopped",
            ))
        };
        let (entry, told, durable) = self.begin_log(request, &text, &answering, arrived);
        let cancel = shared
            .commands
            .clone()
            .reserve_owned()
            .await
            .map_err(closed)?;
        let command = Command::Submit {
            request: ToEngine::Submit {
                submission: Box::new(submission),
                arrived: since,
            },
            id,
            events,
            entry,
        };
        shared
            .commands
            .send(command)
            .await
            .map_err(|_| closed(mpsc::error::SendError(())))?;
        drop((changing, seat));
        let mut generation = Generation {
            model: answering.id,
            text,
            id,
            cancel: Some(cancel),
            events: receiver,
            decoder: Decoder::new(),
            stop: StopMatcher::new(&request.stop),
            prompt_tokens,
            min_tokens: request.min_tokens,
            completion_tokens: 0,
            started: None,
            first_token: None,
            queue: Duration::ZERO,
            forecast: Forecast::default(),
            ending: Ending::Open,
            mean_nll: None,
            arrived,
            told,
            durable,
            _place: place,
        };
        let placed = generation.wait_for_place().await;
        placed.map_err(Refused::ByEngine)?;
        Ok(generation)
    }

    /// What the log needs from the beginning of a request on. What the box asks itself is not logged.
    fn begin_log(
        &self,
        request: &Arc<GenerateRequest>,
        text: &Arc<TextModel>,
        answering: &Answering,
        arrived: Instant,
    ) -> BegunLog {
        let log = self.log().filter(|_| request.tenant != Tenant::OPERATOR);
        let Some(log) = log else {
            return (None, None, None);
        };
        let adapter = answering.adapter.as_ref().map(|adapter| adapter.digest());
        let (entry, told, durable) = log.begin(request, text, (&answering.id, adapter), arrived);
        (Some(entry), Some(told), durable)
    }
}

/// What the log remembers, what it reads of the reader's side, and the bell of what is waited for.
type BegunLog = (
    Option<Box<Entry>>,
    Option<Arc<Told>>,
    Option<oneshot::Receiver<bool>>,
);

/// Who refused a request.
enum Refused {
    /// Nobody else heard of it.
    Here(Refusal),
    /// The engine, which ended it.
    ByEngine(Refusal),
}

impl Refused {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Here(refusal) | Self::ByEngine(refusal) => refusal,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Here(refusal)
    }
}

fn overloaded(retry_after_ms: u64) -> Refusal {
    Refusal {
        retry_after_ms: Some(retry_after_ms),
        ..Refusal::plain(
            RefusalKind::Overloaded,
            format!("the box is full: come back in {retry_after_ms} ms"),
        )
    }
}

fn deadline(message: &str) -> Refusal {
    Refusal::plain(RefusalKind::Deadline, message)
}

impl TextModel {
    /// Tokens of plain text, without what a template or a sequence's begin adds.
    pub(super) fn plain_tokens(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, Special::Plain, Bos::Omit)
    }

    /// The text of an answer as its reader had it.
    pub(super) fn answer_text(&self, tokens: &[u32], stop: &[String], min_tokens: u32) -> String {
        let mut decoder = Decoder::new();
        let mut matcher = StopMatcher::new(stop);
        let mut text = String::new();
        for (number, &token) in (1..).zip(tokens) {
            let piece = decoder.push(&self.tokenizer, token);
            if number <= min_tokens {
                text.push_str(&piece);
                continue;
            }
            let outcome = matcher.push(&piece);
            text.push_str(&outcome.emit);
            if outcome.stopped {
                return text;
            }
        }
        let held_back = matcher.push(&decoder.finish());
        text + &held_back.emit + &matcher.finish()
    }

    fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, Refusal> {
        match prompt {
            Prompt::Ids(ids) => Ok(ids.clone()),
            Prompt::Text(text) => Ok(self.tokenizer.encode(text, Special::Parse, Bos::Add)),
            Prompt::Chat(messages) => {
                let refuse = |message: String| Refusal::bad_request("messages", message);
                let template = self.template.as_ref().map_err(|why| refuse(why.clone()))?;
                let messages: Vec<_> = messages
                    .iter()
                    .map(|m| Message {
                        role: &m.role,
                        content: &m.content,
                    })
                    .collect();
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                template
                    .prompt_ids(&self.tokenizer, &messages, now.as_secs())
                    .map_err(|e| refuse(e.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
