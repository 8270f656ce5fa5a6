//! What a box tells the factory: records, as protobuf messages. Fields are only ever added, unknown ones are skipped.
//!
//! Names follow the OpenTelemetry conventions for generative AI (`gen_ai.*`); `docs/records.md` has the mapping and
//! the same as a `.proto`. A record is encrypted into a frame of a [`segment`](crate::segment).

use prost::Message;

/// Bytes of an encoded record. What would be longer has its content shortened first.
pub const RECORD_BYTES_MAX: usize = 512 << 10;

/// Bytes of a tenant's or workload's name.
pub const NAME_BYTES_MAX: usize = 64;

/// One entry of the log.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Unique among all boxes: 16 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// When it was made.
    #[prost(message, optional, tag = "2")]
    pub time: Option<Time>,
    /// What it tells.
    #[prost(oneof = "Body", tags = "3, 4, 5, 6")]
    pub body: Option<Body>,
}

/// When a record was made. A box without a clock of its own may be wrong about the first, never about the other two.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Time {
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub unix_ms: u64,
    /// The clock is behind the time that the factory last told, so `unix_ms` is a guess.
    #[prost(bool, tag = "2")]
    pub unix_untrusted: bool,
    /// Starts of the program since the spool was made.
    #[prost(uint64, tag = "3")]
    pub boot: u64,
    /// Milliseconds since this start.
    #[prost(uint64, tag = "4")]
    pub since_boot_ms: u64,
}

/// Kinds of records.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// A request was served, refused or broken off.
    #[prost(message, tag = "3")]
    Inference(Box<Inference>),
    /// Somebody said what they think of an answer.
    #[prost(message, tag = "4")]
    Feedback(Box<Feedback>),
    /// Records that will never arrive.
    #[prost(message, tag = "5")]
    Gap(Gap),
    /// Something changed on the box: its model, its policy, its state.
    #[prost(message, tag = "6")]
    Event(Event),
}

/// What a request was and how it went. Times are microseconds.
#[derive(Clone, PartialEq, Message)]
pub struct Inference {
    /// `gen_ai.operation.name`: `chat` or `text_completion`.
    #[prost(string, tag = "1")]
    pub operation: String,
    /// `gen_ai.response.id`.
    #[prost(string, tag = "2")]
    pub response_id: String,
    /// `gen_ai.request.model`: as asked, empty for the default.
    #[prost(string, tag = "3")]
    pub request_model: String,
    /// `gen_ai.response.model`: what answered.
    #[prost(string, tag = "4")]
    pub response_model: String,
    /// BLAKE3 of the model file: 32 bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub model_digest: Vec<u8>,
    /// Adapters that were mixed in.
    #[prost(string, repeated, tag = "6")]
    pub adapters: Vec<String>,
    /// Whose request: a name that the operator gave, or a digest of the credential.
    #[prost(string, tag = "7")]
    pub tenant: String,
    /// What it is for, as its author names it: what is compared with what.
    #[prost(string, tag = "8")]
    pub workload: String,
    /// `gen_ai.conversation.id`.
    #[prost(string, tag = "9")]
    pub conversation_id: String,
    /// `quic` or `http`.
    #[prost(string, tag = "10")]
    pub transport: String,
    /// `interactive`, `standard` or `batch`.
    #[prost(string, tag = "11")]
    pub class: String,
    /// How tokens were drawn.
    #[prost(message, optional, tag = "12")]
    pub parameters: Option<Parameters>,
    /// `gen_ai.usage.input_tokens`.
    #[prost(uint32, tag = "13")]
    pub input_tokens: u32,
    /// `gen_ai.usage.output_tokens`.
    #[prost(uint32, tag = "14")]
    pub output_tokens: u32,
    /// `gen_ai.usage.cache_read.input_tokens`.
    #[prost(uint32, tag = "15")]
    pub cached_tokens: u32,
    /// From arrival to the first step that carried it.
    #[prost(uint64, tag = "16")]
    pub queue_us: u64,
    /// From there to the first token.
    #[prost(uint64, tag = "17")]
    pub prefill_us: u64,
    /// From the first token to the last.
    #[prost(uint64, tag = "18")]
    pub decode_us: u64,
    /// `gen_ai.response.time_to_first_chunk`: from arrival to the first piece of text. 0: there was none.
    #[prost(uint64, tag = "19")]
    pub first_chunk_us: u64,
    /// Energy of the machine over the request's share of steps, where it has a meter: `docs/energy.md`.
    #[prost(uint64, optional, tag = "20")]
    pub energy_mj: Option<u64>,
    /// `gen_ai.response.finish_reasons`: `stop`, `length`, `cancelled`, `error`, `refused`.
    #[prost(string, tag = "21")]
    pub finish_reason: String,
    /// `error.type`: the code of the error, where there was one.
    #[prost(string, tag = "22")]
    pub error_type: String,
    /// How sure the model was. Absent where nothing was drawn.
    #[prost(message, optional, tag = "23")]
    pub signals: Option<Signals>,
    /// Why the case is worth a look: names of `docs/flagging.md`.
    #[prost(string, repeated, tag = "24")]
    pub flags: Vec<String>,
    /// The chance that a request like this had of being kept with its content, for estimates. 0: it was not sampled.
    #[prost(double, tag = "25")]
    pub inclusion_probability: f64,
    /// What was said, where the tenant allowed it.
    #[prost(message, optional, tag = "26")]
    pub content: Option<Content>,
    /// Why there is no content: `not_allowed`, `not_selected`, `duplicate`, `budget`; empty if there is.
    #[prost(string, tag = "27")]
    pub content_withheld: String,
}

/// How tokens were drawn (`gen_ai.request.*`).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Parameters {
    /// 0 is greedy.
    #[prost(float, tag = "1")]
    pub temperature: f32,
    /// 0 keeps all.
    #[prost(uint32, tag = "2")]
    pub top_k: u32,
    /// 1 keeps all.
    #[prost(float, tag = "3")]
    pub top_p: f32,
    /// 0 drops none.
    #[prost(float, tag = "4")]
    pub min_p: f32,
    /// As asked.
    #[prost(uint32, optional, tag = "5")]
    pub max_tokens: Option<u32>,
    /// As asked.
    #[prost(uint64, optional, tag = "6")]
    pub seed: Option<u64>,
    /// The answer came piece by piece.
    #[prost(bool, tag = "7")]
    pub stream: bool,
    /// 1 is off.
    #[prost(float, tag = "8")]
    pub repetition_penalty: f32,
    /// 0 is off.
    #[prost(float, tag = "9")]
    pub presence_penalty: f32,
    /// 0 is off.
    #[prost(float, tag = "10")]
    pub frequency_penalty: f32,
}

/// How sure the model was while it drew; formulas in `docs/flagging.md`. Natural logarithms.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Signals {
    /// Mean of -ln p over the drawn tokens.
    #[prost(float, tag = "1")]
    pub mean_nll: f32,
    /// Mean entropy of the distributions.
    #[prost(float, tag = "2")]
    pub entropy_mean: f32,
    /// Largest entropy.
    #[prost(float, tag = "3")]
    pub entropy_max: f32,
    /// Least mean of ln p over a window.
    #[prost(float, tag = "4")]
    pub window_confidence_min: f32,
    /// Mean of ln p over the last window.
    #[prost(float, tag = "5")]
    pub tail_confidence: f32,
    /// Fifth percentile of p1 - p2.
    #[prost(float, tag = "6")]
    pub margin_p05: f32,
    /// Share of n-grams that came before.
    #[prost(float, tag = "7")]
    pub repetition: f32,
}

/// What was said, redacted.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Content {
    /// `gen_ai.input.messages`, oldest first; a plain prompt is one message of role `prompt`.
    #[prost(message, repeated, tag = "1")]
    pub input: Vec<ContentMessage>,
    /// `gen_ai.output.messages`: the text of the answer.
    #[prost(string, tag = "2")]
    pub output: String,
    /// Version of the rules that redacted it.
    #[prost(uint32, tag = "3")]
    pub redaction_version: u32,
    /// What they found.
    #[prost(message, repeated, tag = "4")]
    pub redactions: Vec<Redaction>,
    /// Bytes that were left out for length, from the middle of the input.
    #[prost(uint64, tag = "5")]
    pub bytes_left_out: u64,
}

/// One message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContentMessage {
    /// `system`, `user`, `assistant` and so on.
    #[prost(string, tag = "1")]
    pub role: String,
    /// The text.
    #[prost(string, tag = "2")]
    pub content: String,
}

/// How often a rule found something.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Redaction {
    /// Which: names of `docs/privacy.md`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// How often.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// What somebody thinks of an answer.
#[derive(Clone, PartialEq, Message)]
pub struct Feedback {
    /// The answer's `gen_ai.response.id`.
    #[prost(string, tag = "1")]
    pub response_id: String,
    /// From -1, useless, to 1, right (`gen_ai.evaluation.score.value`).
    #[prost(double, optional, tag = "2")]
    pub score: Option<f64>,
    /// In a word (`gen_ai.evaluation.score.label`).
    #[prost(string, tag = "3")]
    pub label: String,
    /// Why, redacted (`gen_ai.evaluation.explanation`). Only where the tenant allowed content.
    #[prost(string, tag = "4")]
    pub comment: String,
    /// What it should have said, redacted. Only where the tenant allowed content.
    #[prost(string, tag = "5")]
    pub correction: String,
    /// Whose.
    #[prost(string, tag = "6")]
    pub tenant: String,
    /// What for.
    #[prost(string, tag = "7")]
    pub workload: String,
    /// What it is about, redacted, where that was kept only now. Only where the tenant allowed content.
    #[prost(message, optional, tag = "8")]
    pub content: Option<Content>,
}

/// Records that will never arrive, so that no loss is silent. What arrived nevertheless counts as arrived.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Gap {
    /// Class of the records: 0, 1 or 2.
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// First number that is missing.
    #[prost(uint64, tag = "2")]
    pub record_seq_first: u64,
    /// Last.
    #[prost(uint64, tag = "3")]
    pub record_seq_last: u64,
    /// How many are known to be missing among them.
    #[prost(uint64, tag = "4")]
    pub records: u64,
    /// Their bytes, as far as known.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    /// Why.
    #[prost(enumeration = "GapReason", tag = "6")]
    pub reason: i32,
}

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum GapReason {
    /// Made by a later version.
    Unknown = 0,
    /// Their segment made room for others.
    Evicted = 1,
    /// The quota of their class was used up, and nothing could make room.
    Quota = 2,
    /// The disk was full.
    DiskFull = 3,
    /// The disk failed.
    DiskError = 4,
    /// They came faster than the disk took them.
    Overrun = 5,
    /// Their bytes on the disk were damaged.
    Damaged = 6,
    /// The factory would not have their segment; it was set aside on the box.
    Refused = 7,
}

/// Something changed on the box.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Event {
    /// What, like `policy.changed` or `model.changed`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Details as a JSON object.
    #[prost(string, tag = "2")]
    pub attributes: String,
}
