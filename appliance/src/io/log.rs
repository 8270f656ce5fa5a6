//! The log: what requests were and how they went, on its way to the spool.
//!
//! ```text
//! request ends ─▶ flag ─▶ content? ─▶ decode, redact ─▶ record ─▶ [ring] ─▶ disk thread
//! ```
//!
//! Numbers are kept of every request; what was said only where its tenant is named in the configuration, and then only
//! what was flagged or drawn by lot. Text is redacted before it leaves this module.

mod content;
mod recent;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outstation_wire::hex::hex;
use outstation_wire::record::{
    Body, Content, Event as EventRecord, Feedback as FeedbackRecord, Inference, Parameters,
    RECORD_BYTES_MAX, Record, Signals as SignalsRecord, Time,
};
use outstation_wire::segment::Class as Worth;
use prost::Message as _;
use serde::Serialize;
use tokio::sync::oneshot;

use super::energy::Haste;
use super::gateway::TextModel;
use super::spool_thread::Records;
use crate::config::{Durability, LogConfig};
use crate::flag::{
    Case, Consent, Content as Chosen, Finish, FlagConfig, Flagger, Signals, Verdict,
};
use crate::redact::{RULES_VERSION, Redactor};
use crate::request::{
    GenerateRequest, Prompt, Refusal, RefusalKind, Submission, Tenant, Timings, Transport, Usage,
};
use crate::sampler::splitmix;
use crate::scheduler::Outcome;

use recent::{Answer, Recent};

/// A handle that all protocols share. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    policy: Policy,
    redactor: Redactor,
    flagger: Mutex<Flagger>,
    recent: Mutex<Recent>,
    started: Instant,
    /// Drawn at start: record ids are its digests with a counter.
    nonce: [u8; 16],
    next_record: AtomicU64,
    /// Records that are being made.
    making: AtomicU64,
    /// A time that the clock cannot be before.
    unix_ms_floor: AtomicU64,
}

/// Whose words are kept, and how many of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Names of tenants that allowed it; `*` is everybody.
    pub content_tenants: Vec<String>,
    /// Share of their requests that is kept with content whatever is in it.
    pub content_share: f64,
    /// Share that is drawn by lot so that flags can be judged.
    pub random_share: f32,
    /// Version of the rules by which text is redacted.
    pub redaction_version: u32,
    /// Whether an answer is complete before its record is on the disk.
    pub durability: Durability,
}

/// What is remembered of a request until it ends.
pub struct Entry {
    request: Arc<GenerateRequest>,
    text: Arc<TextModel>,
    /// Name of what answers, and the digest of its adapter.
    model: String,
    adapter: Option<[u8; 32]>,
    arrived: Instant,
    told: Arc<Told>,
    /// Rung when the record is on the disk.
    durable: Option<oneshot::Sender<bool>>,
}

/// What its reader saw of an answer.
#[derive(Debug, Default)]
pub struct Told {
    /// Microseconds from arrival to the first piece of text.
    first_piece_us: AtomicU64,
    /// Tokens up to a stop string that ended it; 0 if none did.
    stopped_after: AtomicU32,
}

impl Told {
    /// A piece of text is shown.
    pub fn piece(&self, arrived: Instant) {
        if self.first_piece_us.load(Ordering::Relaxed) == 0 {
            let us = micros(arrived.elapsed()).max(1);
            self.first_piece_us.store(us, Ordering::Relaxed);
        }
    }

    /// A stop string ended it.
    pub fn stopped(&self, tokens: u32) {
        self.stopped_after.store(tokens, Ordering::Relaxed);
    }
}

/// How the engine ended a request.
pub struct Ended {
    /// Why.
    pub outcome: Outcome,
    /// What it cost.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// With its answer.
    pub submission: Box<Submission>,
}

/// What somebody says of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Feedback {
    /// The answer's name.
    pub response_id: String,
    /// From -1, useless, to 1, right.
    pub score: Option<f64>,
    /// In a word.
    pub label: String,
    /// Why.
    pub comment: String,
    /// What it should have said.
    pub correction: String,
}

/// Numbers for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LogStatus {
    /// The spool is open and takes records.
    pub writing: bool,
    /// Bytes of the spool, by class.
    pub spool_bytes: [u64; 3],
    /// What all classes together may take.
    pub spool_bytes_max: u64,
    /// Segments that wait to be sent, by class.
    pub spool_segments: [u64; 3],
    /// Records that became durable since start.
    pub records_durable: u64,
    /// Records that were lost since the spool was made.
    pub records_lost: u64,
    /// Cases that were flagged since start.
    pub flagged: u64,
    /// Contents that were kept since start, of those flagged or drawn by lot.
    pub contents_kept: u64,
    /// Contents that were left out since much the same had been kept.
    pub duplicates: u64,
    /// Contents that were left out since the day's allowance was spent.
    pub over_budget: u64,
}

/// How long an answer waits for its record at most; then it is none.
const DURABLE_MAX: Duration = if cfg!(test) {
    Duration::from_millis(100)
} else {
    Duration::from_secs(10)
};

impl Log {
    /// A log into a spool. `seed` is random.
    ///
    /// `usual` is the flagger that goes on from before a restart, if there is one.
    pub fn new(
        records: Records,
        config: &LogConfig,
        usual: Option<Flagger>,
        started: Instant,
        nonce: [u8; 16],
    ) -> Self {
        let seed = u64::from_le_bytes(*nonce.first_chunk().expect("16 bytes"));
        let flags = FlagConfig {
            seed,
            ..config.flags()
        };
        let random_share = flags.random_share;
        let flagger = usual.unwrap_or_else(|| Flagger::new(flags));
        let policy = Policy {
            content_tenants: config.content_tenants.clone(),
            content_share: config.content_share,
            random_share,
            redaction_version: RULES_VERSION,
            durability: config.durability,
        };
        let log = Self {
            inner: Arc::new(Inner {
                records,
                redactor: Redactor::new(),
                flagger: Mutex::new(flagger),
                recent: Mutex::new(Recent::new()),
                started,
                nonce,
                next_record: AtomicU64::new(0),
                making: AtomicU64::new(0),
                unix_ms_floor: AtomicU64::new(0),
                policy,
            }),
        };
        let policy = serde_json::to_string(&log.inner.policy).expect("it is plain data");
        log.event("policy", policy);
        log
    }

    /// Bytes that a log takes, besides the spool.
    pub fn bytes(config: &LogConfig) -> u64 {
        Flagger::bytes(&config.flags()) + Recent::BYTES_MAX + REDACTOR_BYTES
    }

    /// The flagger's memory of what is usual, to be kept over a restart.
    pub fn flag_state(&self) -> Vec<u8> {
        self.flagger().save()
    }

    /// The factory told the time: the clock cannot be before it.
    pub fn handle_factory_time(&self, unix_ms: u64) {
        self.inner
            .unix_ms_floor
            .fetch_max(unix_ms, Ordering::Relaxed);
    }

    /// A request comes. What is returned is given to [`end`](Self::end), and its parts to who tells the answer.
    pub fn begin(
        &self,
        request: &Arc<GenerateRequest>,
        text: &Arc<TextModel>,
        (model, adapter): (&str, Option<[u8; 32]>),
        arrived: Instant,
    ) -> (Box<Entry>, Arc<Told>, Option<oneshot::Receiver<bool>>) {
        let told = Arc::new(Told::default());
        let (durable, receiver) = match self.inner.policy.durability {
            Durability::Async => (None, None),
            Durability::Sync => {
                let (sender, receiver) = oneshot::channel();
                (Some(sender), Some(receiver))
            }
        };
        let entry = Entry {
            request: request.clone(),
            text: text.clone(),
            model: model.to_owned(),
            adapter,
            arrived,
            told: told.clone(),
            durable,
        };
        (Box::new(entry), told, receiver)
    }

    /// A request ended. Its record is made when it is known what it took.
    pub fn end(
        &self,
        entry: Box<Entry>,
        ended: Ended,
        energy_mj: Option<impl Future<Output = Option<u64>> + Send + 'static>,
    ) {
        let log = self.clone();
        log.inner.making.fetch_add(1, Ordering::AcqRel);
        let Some(energy_mj) = energy_mj else {
            log.make(entry, ended, None);
            return;
        };
        tokio::spawn(async move {
            let energy_mj = energy_mj.await;
            log.make(entry, ended, energy_mj);
        });
    }

    /// How soon it must be known what a request took.
    pub fn haste(&self) -> Haste {
        match self.inner.policy.durability {
            Durability::Async => Haste::NextReading,
            Durability::Sync => Haste::Now,
        }
    }

    /// Makes a record on a thread of its own, since text takes its time.
    fn make(self, entry: Box<Entry>, ended: Ended, energy_mj: Option<u64>) {
        let log = self;
        let runtime = tokio::runtime::Handle::current();
        runtime.clone().spawn_blocking(move || {
            let (record, worth) = log.inner.ended(&entry, &ended, energy_mj);
            let ticket = log.write(&record, worth);
            log.inner.making.fetch_sub(1, Ordering::AcqRel);
            let Some(durable) = entry.durable else {
                return;
            };
            runtime.spawn(async move {
                let settled = match ticket {
                    Some(ticket) => log.inner.records.settle(ticket, DURABLE_MAX).await,
                    None => true, // lost, and counted
                };
                let _ = durable.send(settled);
            });
        });
    }

    /// Waits until the records of all requests that ended are on their way to the disk.
    pub async fn made(&self) {
        while self.inner.making.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A request was refused before it came to the engine.
    pub fn refuse(&self, request: &GenerateRequest, text: &TextModel, refusal: &Refusal) {
        // What makes no sense is counted in metrics: whoever sends it could fill the disk with it.
        if matches!(
            refusal.kind,
            RefusalKind::Overloaded | RefusalKind::Deadline | RefusalKind::Draining
        ) {
            let inference = Inference {
                finish_reason: "refused".to_owned(),
                error_type: error_type(refusal.kind).to_owned(),
                content_withheld: "not_selected".to_owned(),
                ..describe(request, text, (&text.served.id, None))
            };
            self.write(
                &self.inner.record(Body::Inference(Box::new(inference))),
                Worth::P2,
            );
        }
    }

    /// Somebody says what they think. False: no answer of this name is known, or it is somebody else's.
    pub fn feedback(&self, tenant: Tenant, feedback: Feedback) -> bool {
        let inner = &self.inner;
        let known = inner.recent().find(&feedback.response_id, tenant);
        let Some(answer) = known else {
            return false;
        };
        let mut content = None;
        let negative = feedback.score.is_some_and(|score| score < 0.0);
        if negative || !feedback.correction.is_empty() {
            let verdict = self
                .flagger()
                .handle_negative_feedback(inner.started.elapsed(), answer.case);
            let keeps = verdict.is_some_and(|verdict| verdict.content.is_kept());
            content = answer
                .content
                .filter(|_| keeps || !feedback.correction.is_empty());
        }
        let allowed = inner.policy.allows(tenant);
        let redact = |text: &str| {
            let text = if allowed { text } else { "" };
            content::shorten(inner.redactor.redact(text).text, FEEDBACK_TEXT_BYTES_MAX)
        };
        let record = FeedbackRecord {
            score: feedback.score,
            label: content::shorten(feedback.label, 64),
            comment: redact(&feedback.comment),
            correction: redact(&feedback.correction),
            response_id: feedback.response_id,
            tenant: tenant.name(),
            workload: answer.workload,
            content: content.map(|content| (*content).clone()),
        };
        self.write(&inner.record(Body::Feedback(Box::new(record))), Worth::P0);
        true
    }

    /// Something changed on the box. `attributes` is a JSON object.
    pub fn event(&self, name: &str, attributes: String) {
        let event = EventRecord {
            name: name.to_owned(),
            attributes,
        };
        self.write(&self.inner.record(Body::Event(event)), Worth::P0);
    }

    /// Numbers for status.
    pub fn status(&self) -> LogStatus {
        let (numbers, open) = self.inner.records.numbers();
        let totals = self.flagger().totals();
        LogStatus {
            writing: open && !numbers.degraded,
            spool_bytes: numbers.bytes,
            spool_bytes_max: numbers.bytes_max,
            spool_segments: numbers.segments,
            records_durable: numbers.records_durable,
            records_lost: numbers.records_lost,
            flagged: totals.selected,
            contents_kept: totals.kept,
            duplicates: totals.duplicates,
            over_budget: totals.over_budget,
        }
    }

    fn write(&self, record: &Record, worth: Worth) -> Option<u64> {
        let bytes = record.encode_to_vec();
        assert!(bytes.len() <= RECORD_BYTES_MAX, "its content was shortened");
        self.inner.records.push(worth, &bytes)
    }

    fn flagger(&self) -> std::sync::MutexGuard<'_, Flagger> {
        self.inner.flagger()
    }
}

/// The redactor's automata.
const REDACTOR_BYTES: u64 = 2 << 20;

/// Bytes of a comment or correction.
const FEEDBACK_TEXT_BYTES_MAX: usize = 64 << 10;

impl Policy {
    fn allows(&self, tenant: Tenant) -> bool {
        let name = tenant.name();
        self.content_tenants
            .iter()
            .any(|allowed| allowed == "*" || *allowed == name)
    }
}

impl Inner {
    fn flagger(&self) -> std::sync::MutexGuard<'_, Flagger> {
        self.flagger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, body: Body) -> Record {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.nonce);
        let number = self.next_record.fetch_add(1, Ordering::Relaxed);
        hasher.update(&number.to_le_bytes());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = u64::try_from(unix.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Record {
            id: hasher.finalize().as_bytes()[..16].to_vec(),
            time: Some(Time {
                unix_ms,
                unix_untrusted: unix_ms < self.unix_ms_floor.load(Ordering::Relaxed),
                boot: self.records.numbers().0.boot,
                since_boot_ms: u64::try_from(self.started.elapsed().as_millis())
                    .unwrap_or(u64::MAX),
            }),
            body: Some(body),
        }
    }

    /// The record of a request that the engine ended.
    fn ended(&self, entry: &Entry, ended: &Ended, energy_mj: Option<u64>) -> (Record, Worth) {
        let Ended {
            outcome,
            usage,
            timings,
            submission,
        } = ended;
        let request = &*entry.request;
        let stopped_after = entry.told.stopped_after.load(Ordering::Relaxed);
        let tokens = match stopped_after {
            0 => submission.answer(),
            tokens => &submission.answer()[..submission.answer().len().min(tokens as usize)],
        };
        let (finish, finish_reason, error_type) =
            how(*outcome, stopped_after > 0, !tokens.is_empty());
        let signals = submission.signals.signals();
        let mut inference = Inference {
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
            queue_us: micros(timings.queue),
            prefill_us: micros(timings.prefill),
            decode_us: micros(timings.decode),
            first_chunk_us: entry.told.first_piece_us.load(Ordering::Relaxed),
            energy_mj,
            finish_reason: finish_reason.to_owned(),
            error_type: error_type.to_owned(),
            ..describe(request, &entry.text, (&entry.model, entry.adapter))
        };
        if matches!(finish, Finish::Failed) {
            "not_selected".clone_into(&mut inference.content_withheld);
            let record = self.record(Body::Inference(Box::new(inference)));
            return (record, Worth::P2);
        }
        inference.signals = signals_record(&signals);
        let output = entry
            .text
            .answer_text(tokens, &request.stop, request.min_tokens);
        let consent = if self.policy.allows(request.tenant) {
            Consent::Given
        } else {
            Consent::Withheld
        };
        let case_id = case_id(&request.origin.response_id);
        let last_said = last_said(request, submission, &entry.text);
        let content_bytes = (content::input_bytes(&request.prompt) + output.len()) as u64;
        let arrived = entry.arrived.saturating_duration_since(self.started);
        let verdict = self.flagger().handle_case(
            self.started.elapsed(),
            &Case {
                id: case_id,
                model: &usual_of(&entry.text.digest, entry.adapter),
                workload: &request.origin.workload,
                asker: splitmix(request.tenant.0) ^ request.origin.end_user,
                arrived,
                ended: arrived + timings.queue + timings.prefill + timings.decode,
                prompt: &last_said,
                answer: tokens,
                signals,
                outcome: content::outcome(finish, &request.format, &output),
                consent,
                content_bytes,
            },
        );
        inference.flags = verdict
            .flags
            .iter()
            .map(|flag| flag.name().to_owned())
            .collect();
        let (worth, withheld) = self.choose(case_id, consent, &verdict);
        let share = self.policy.content_share;
        inference.inclusion_probability = match verdict.content {
            Chosen::KeptFlagged => 1.0,
            _ => 1.0 - (1.0 - f64::from(verdict.inclusion_probability)) * (1.0 - share),
        };
        // Of who allowed it, content is remembered for a while: a complaint may ask for it.
        let content = (consent == Consent::Given)
            .then(|| Arc::new(content::make(&self.redactor, &entry.text, request, &output)));
        self.recent().push(Answer {
            response_id: request.origin.response_id.clone(),
            case: case_id,
            tenant: request.tenant,
            workload: request.origin.workload.clone(),
            content: content.clone(),
        });
        if withheld.is_empty() {
            inference.content = content.map(|content| Content::clone(&content));
        }
        withheld.clone_into(&mut inference.content_withheld);
        let record = self.record(Body::Inference(Box::new(inference)));
        (record, worth)
    }

    /// What a record is worth, and why it has no content; empty if it has.
    fn choose(&self, case: u64, consent: Consent, verdict: &Verdict) -> (Worth, &'static str) {
        if consent == Consent::Withheld {
            return (Worth::P2, "not_allowed");
        }
        if verdict.content.is_kept() {
            return (Worth::P0, "");
        }
        let lot = splitmix(case ^ CONTENT_LOT) >> 11;
        if (lot as f64) < self.policy.content_share * (1_u64 << 53) as f64 {
            return (Worth::P1, "");
        }
        let withheld = match verdict.content {
            Chosen::Duplicate => "duplicate",
            Chosen::OverBudget => "budget",
            _ => "not_selected",
        };
        (Worth::P2, withheld)
    }
}

/// How a request ended, in the words of flags and records.
fn how(outcome: Outcome, stopped: bool, any_tokens: bool) -> (Finish, &'static str, &'static str) {
    match outcome {
        Outcome::Stop => (Finish::Stop, "stop", ""),
        Outcome::Length => (Finish::Length, "length", ""),
        // The engine was told to stop since a stop string had come.
        Outcome::Cancelled if stopped => (Finish::Stop, "stop", ""),
        Outcome::Cancelled => (Finish::Cancelled, "cancelled", ""),
        Outcome::Overloaded { .. } => {
            let error = error_type(RefusalKind::Overloaded);
            (Finish::Failed, "refused", error)
        }
        Outcome::Form => (Finish::Failed, "error", error_type(RefusalKind::BadRequest)),
        Outcome::Deadline => {
            let reason = if any_tokens { "error" } else { "refused" };
            (Finish::Failed, reason, error_type(RefusalKind::Deadline))
        }
    }
}

fn signals_record(signals: &Signals) -> Option<SignalsRecord> {
    (signals.tokens > 0).then_some(SignalsRecord {
        mean_nll: signals.mean_nll,
        entropy_mean: signals.entropy_mean,
        entropy_max: signals.entropy_max,
        window_confidence_min: signals.window_logprob,
        tail_confidence: signals.tail_logprob,
        margin_p05: signals.margin_p05,
        repetition: signals.repetition,
    })
}

/// What makes the lots of content independent of those of flags.
const CONTENT_LOT: u64 = 0x636f_6e74_656e_7421;

/// Whose answers are compared with each other: an adapter's are not the base's.
fn usual_of(model: &[u8; 32], adapter: Option<[u8; 32]>) -> [u8; 32] {
    match adapter {
        None => *model,
        Some(adapter) => *blake3::hash(&[*model, adapter].concat()).as_bytes(),
    }
}

/// What is known of a request before it runs.
fn describe(
    request: &GenerateRequest,
    text: &TextModel,
    (model, adapter): (&str, Option<[u8; 32]>),
) -> Inference {
    let sampling = &request.sampling;
    let operation = match request.prompt {
        Prompt::Chat(_) => "chat",
        Prompt::Text(_) | Prompt::Ids(_) => "text_completion",
    };
    Inference {
        operation: operation.to_owned(),
        response_id: request.origin.response_id.clone(),
        request_model: request.model.clone().unwrap_or_default(),
        response_model: model.to_owned(),
        model_digest: text.digest.to_vec(),
        adapters: adapter.iter().map(|digest| hex(digest)).collect(),
        tenant: request.tenant.name(),
        workload: request.origin.workload.clone(),
        conversation_id: request.origin.conversation.clone(),
        transport: match request.origin.transport {
            Transport::Http => "http",
            Transport::Quic => "quic",
        }
        .to_owned(),
        class: request.class.name().to_owned(),
        parameters: Some(Parameters {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            max_tokens: request.max_tokens,
            seed: sampling.seed,
            stream: request.origin.stream,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
        }),
        ..Inference::default()
    }
}

/// The tokens that retries are told by: what the user said last, without what is the same in every prompt.
fn last_said(request: &GenerateRequest, submission: &Submission, text: &TextModel) -> Vec<u32> {
    match &request.prompt {
        Prompt::Chat(messages) => {
            let last = messages.iter().rev().find(|message| message.role == "user");
            let said = last.map_or("", |message| &message.content);
            text.plain_tokens(content::prefix(said, LAST_SAID_BYTES_MAX))
        }
        Prompt::Text(_) | Prompt::Ids(_) => submission.prompt().to_vec(),
    }
}

/// Bytes of the last message that are compared: a long one is told by its beginning.
const LAST_SAID_BYTES_MAX: usize = 8 << 10;

fn case_id(response_id: &str) -> u64 {
    let digest = blake3::hash(response_id.as_bytes());
    u64::from_le_bytes(
        *digest
            .as_bytes()
            .first_chunk()
            .expect("a digest has 32 bytes"),
    )
}

/// `error.type` of a refusal.
fn error_type(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::BadRequest => "bad_request",
        RefusalKind::ContextOverflow => "context_overflow",
        RefusalKind::NoModel => "no_model",
        RefusalKind::Overloaded => "overloaded",
        RefusalKind::Deadline => "deadline",
        RefusalKind::Draining => "draining",
        RefusalKind::SlowConsumer => "slow_consumer",
        RefusalKind::Internal => "internal",
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
