//! Bodies that are protobuf messages: fields are only ever added, unknown ones are skipped.
//!
//! Derived, so that no compiler is needed; `docs/protocol.md` has the same as a `.proto`.

use super::{ErrorCode, GenerateFault};

/// Bytes of a request id.
pub const REQUEST_ID_BYTES: usize = 16;
/// Most stop strings of a request.
pub const STOP_STRINGS_MAX: usize = 4;
/// Most messages of a conversation; with it the memory of a decoded Generate has a bound of its own.
pub const CHAT_MESSAGES_MAX: usize = 1024;
/// Most tokens with a bias.
pub const LOGIT_BIAS_MAX: usize = 300;
/// Most bytes of an Error's `detail`, so that the frame stays within 1024.
pub const DETAIL_BYTES_MAX: usize = 960;

/// Who is there, and what it can take. A field at its default says nothing.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Program and version, for logs.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// Server: most requests open at once on this connection.
    #[prost(uint32, tag = "2")]
    pub requests_max: u32,
    /// Server: most bytes of a Generate body.
    #[prost(uint64, tag = "3")]
    pub generate_bytes_max: u64,
    /// Server: the model it serves when a request names none.
    #[prost(string, tag = "4")]
    pub model: String,
    /// Server: most tokens of prompt and answer together.
    #[prost(uint32, tag = "5")]
    pub context_tokens_max: u32,
}

/// What to generate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Generate {
    /// The client's name for this request: 16 bytes, unique.
    #[prost(bytes = "vec", tag = "1")]
    pub request_id: Vec<u8>,
    /// Name of the model; empty is the server's choice.
    #[prost(string, tag = "2")]
    pub model: String,
    /// What to continue.
    #[prost(oneof = "Prompt", tags = "3, 4, 5")]
    pub prompt: Option<Prompt>,
    /// Most tokens to generate; absent is as many as the context has room for.
    #[prost(uint32, optional, tag = "6")]
    pub max_tokens: Option<u32>,
    /// Tokens before which the end of the sequence is not drawn.
    #[prost(uint32, tag = "7")]
    pub min_tokens: u32,
    /// Continue past the end-of-sequence token; for benchmarks.
    #[prost(bool, tag = "8")]
    pub ignore_eos: bool,
    /// How the next token is drawn; absent is the server's default.
    #[prost(message, optional, tag = "9")]
    pub sampling: Option<Sampling>,
    /// Texts that end the answer and are not part of it; at most [`STOP_STRINGS_MAX`].
    #[prost(string, repeated, tag = "10")]
    pub stop: Vec<String>,
    /// Tokens frames carry ids too.
    #[prost(bool, tag = "11")]
    pub want_token_ids: bool,
    /// Milliseconds from arrival after which the answer is worthless.
    #[prost(uint32, optional, tag = "12")]
    pub deadline_ms: Option<u32>,
    /// How long the request can wait: a [`Class`]; absent is the server's default.
    #[prost(enumeration = "Class", optional, tag = "13")]
    pub class: Option<i32>,
    /// What it is for, for the log: answers of a workload are compared with each other. At most 64 bytes.
    #[prost(string, tag = "14")]
    pub workload_id: String,
    /// The conversation that it goes on with, for the log. At most 64 bytes.
    #[prost(string, tag = "15")]
    pub conversation_id: String,
}

/// How long a request can wait. The server has targets for each: time to the first token, and between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Class {
    /// Somebody looks at the screen.
    Interactive = 0,
    /// A program waits.
    Standard = 1,
    /// Some time today: it makes room for the others, and goes on later.
    Batch = 2,
}

/// The forms in which a prompt may come.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Prompt {
    /// Plain text, tokenized without a template.
    #[prost(string, tag = "3")]
    Text(String),
    /// Token ids, used as they are.
    #[prost(message, tag = "4")]
    TokenIds(TokenIds),
    /// A conversation, rendered by the model's chat template.
    #[prost(message, tag = "5")]
    Chat(Chat),
}

/// Token ids of a prompt.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TokenIds {
    /// The ids, packed.
    #[prost(uint32, repeated, tag = "1")]
    pub ids: Vec<u32>,
}

/// A conversation; at most [`CHAT_MESSAGES_MAX`] messages.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Chat {
    /// Oldest first.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<ChatMessage>,
}

/// One message of a conversation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or what else the template knows.
    #[prost(string, tag = "1")]
    pub role: String,
    /// The text.
    #[prost(string, tag = "2")]
    pub content: String,
}

/// How the next token is drawn. What is absent is the server's default.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    #[prost(float, optional, tag = "1")]
    pub temperature: Option<f32>,
    /// Keep the k likeliest; 0 keeps all.
    #[prost(uint32, optional, tag = "2")]
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens that together reach this probability.
    #[prost(float, optional, tag = "3")]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the likeliest.
    #[prost(float, optional, tag = "4")]
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen; 1 is off.
    #[prost(float, optional, tag = "5")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from the logit of each token in the answer so far.
    #[prost(float, optional, tag = "6")]
    pub presence_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it stands in the answer so far.
    #[prost(float, optional, tag = "7")]
    pub frequency_penalty: Option<f32>,
    /// Seed of this request's generator; absent: the server draws one.
    #[prost(uint64, optional, tag = "8")]
    pub seed: Option<u64>,
    /// Added to logits; at most [`LOGIT_BIAS_MAX`].
    #[prost(message, repeated, tag = "9")]
    pub logit_bias: Vec<LogitBias>,
}

/// A number added to one token's logit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LogitBias {
    /// The token.
    #[prost(uint32, tag = "1")]
    pub token: u32,
    /// The number.
    #[prost(float, tag = "2")]
    pub bias: f32,
}

/// The request will be served.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Accepted {
    /// Microseconds until its first token, as the server forecasts.
    #[prost(uint64, tag = "1")]
    pub first_token_us: u64,
    /// Requests that wait and come before it.
    #[prost(uint32, tag = "2")]
    pub queued_before: u32,
}

/// The answer is complete.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Done {
    /// Why it ended.
    #[prost(enumeration = "FinishReason", tag = "1")]
    pub finish_reason: i32,
    /// What it cost.
    #[prost(message, optional, tag = "2")]
    pub usage: Option<Usage>,
    /// Where the time went, in the server.
    #[prost(message, optional, tag = "3")]
    pub timings_us: Option<TimingsMicros>,
}

/// Why an answer ended. [`Done::finish_reason`] gives `Unspecified` for what a newer server may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FinishReason {
    /// Not said.
    Unspecified = 0,
    /// The end of the sequence, or a stop string.
    Stop = 1,
    /// `max_tokens`, or the end of the context.
    Length = 2,
}

/// Tokens that a request cost.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Usage {
    /// Tokens of the prompt.
    #[prost(uint32, tag = "1")]
    pub prompt_tokens: u32,
    /// Tokens generated.
    #[prost(uint32, tag = "2")]
    pub completion_tokens: u32,
    /// Tokens of the prompt that needed no work.
    #[prost(uint32, tag = "3")]
    pub cached_tokens: u32,
}

/// Where a request's time went inside the server. **Units**: microseconds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TimingsMicros {
    /// Arrival to the first step that carried a token of it.
    #[prost(uint64, tag = "1")]
    pub queue: u64,
    /// That step to the first token.
    #[prost(uint64, tag = "2")]
    pub prefill: u64,
    /// First token to last.
    #[prost(uint64, tag = "3")]
    pub decode: u64,
}

/// There will be no (more) answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorFrame {
    /// An [`ErrorCode`], or one that a newer server knows (P-21).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// When to try again; absent: the server cannot say.
    #[prost(uint64, optional, tag = "2")]
    pub retry_after_ms: Option<u64>,
    /// The same request may succeed later, or elsewhere.
    #[prost(bool, tag = "3")]
    pub retryable: bool,
    /// What happened, the numbers, what to do; for people.
    #[prost(string, tag = "4")]
    pub detail: String,
}

/// The server is going down.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GoAway {
    /// Requests on streams with this id or a higher one are not served, and safe to send elsewhere (P-19).
    #[prost(uint64, tag = "1")]
    pub first_unserved_stream: u64,
    /// Milliseconds that the running ones have.
    #[prost(uint32, tag = "2")]
    pub drain_ms: u32,
}

impl Generate {
    /// Checks what every server checks before it looks at the model (P-10).
    pub fn check(&self) -> Result<(), GenerateFault> {
        if self.request_id.len() != REQUEST_ID_BYTES {
            return Err(GenerateFault::RequestId {
                bytes: self.request_id.len(),
            });
        }
        let within = |field, count: usize, count_max: usize| {
            if count <= count_max {
                return Ok(());
            }
            Err(GenerateFault::TooMany {
                field,
                count,
                count_max,
            })
        };
        match &self.prompt {
            None => return Err(GenerateFault::NoPrompt),
            Some(Prompt::Chat(chat)) => within("chat", chat.messages.len(), CHAT_MESSAGES_MAX)?,
            Some(Prompt::Text(_) | Prompt::TokenIds(_)) => {}
        }
        if let Some(class) = self.class
            && Class::try_from(class).is_err()
        {
            return Err(GenerateFault::Class { class });
        }
        within("stop", self.stop.len(), STOP_STRINGS_MAX)?;
        let bias = self.sampling.as_ref().map_or(0, |s| s.logit_bias.len());
        within("logit_bias", bias, LOGIT_BIAS_MAX)
    }
}

impl ErrorFrame {
    /// An error that is not worth a second try; `detail` is cut to [`DETAIL_BYTES_MAX`] at a character.
    pub fn new(code: ErrorCode, detail: &str) -> Self {
        let detail = &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)];
        Self {
            code: code.code(),
            retry_after_ms: None,
            retryable: false,
            detail: detail.to_owned(),
        }
    }

    /// The code, if this version knows it.
    pub fn error_code(&self) -> Option<ErrorCode> {
        ErrorCode::from_code(self.code)
    }
}
