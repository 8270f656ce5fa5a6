//! A request as the box understands it, whatever protocol brought it, and what can be said about its fate.

use std::sync::Arc;
use std::time::Duration;

use crate::adapter::PackedAdapter;
use crate::flag::TokenSignals;
use crate::grammar::Grammar;
use crate::kv::Salt;
use crate::limits;

/// What one user asked for, in protocol-neutral form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateRequest {
    /// Name of the model; `None` is whatever the box serves.
    pub model: Option<String>,
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` is as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// Tokens before which the end of the sequence is not drawn and no stop string ends the answer.
    pub min_tokens: u32,
    /// Continue past the end-of-sequence token; for benchmarks.
    pub ignore_eos: bool,
    /// How the next token is drawn.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the answer has.
    pub format: Format,
    /// With each token, its log-probability and so many of the likeliest tokens with theirs.
    pub logprobs: Option<u32>,
    /// How long it can wait.
    pub class: Class,
    /// Time from arrival after which the answer is worthless.
    pub deadline: Option<Duration>,
    /// Who asks.
    pub tenant: Tenant,
    /// Where it came from and what it is for: for the log, no answer depends on it.
    pub origin: Origin,
}

/// The form of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Format {
    /// Whatever the model says.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// JSON of this schema.
    Schema(Box<str>),
}

impl Format {
    /// Checks what needs no compiler.
    fn check(&self, request: &GenerateRequest) -> Result<(), Refusal> {
        let bad = |message: String| Err(Refusal::bad_request("response_format", message));
        if let Self::Schema(schema) = self
            && schema.len() > limits::SCHEMA_BYTES_MAX
        {
            return bad(format!(
                "the schema has {} bytes, at most {} are allowed",
                schema.len(),
                limits::SCHEMA_BYTES_MAX
            ));
        }
        if *self != Self::Text && (request.ignore_eos || request.min_tokens > 0) {
            return bad(
                "ignore_eos and min_tokens do not go with a form: the form says where the answer ends"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Where a request came from and what it is for, as its author says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name of the answer, by which feedback finds it.
    pub response_id: String,
    /// What it is for: answers of a workload are compared with each other. At most 64 bytes.
    pub workload: String,
    /// The conversation that it goes on with. At most 64 bytes.
    pub conversation: String,
    /// A hash of which of the app's users asked, 0 if it is not said.
    pub end_user: u64,
    /// The protocol that brought it.
    pub transport: Transport,
    /// The answer was wanted piece by piece.
    pub stream: bool,
}

impl Origin {
    /// Checks the names that the author gave.
    pub fn check(&self) -> Result<(), Refusal> {
        let most = outstation_wire::record::NAME_BYTES_MAX;
        for (param, name) in [
            ("workload_id", &self.workload),
            ("conversation_id", &self.conversation),
        ] {
            if name.len() > most || name.chars().any(char::is_control) {
                return Err(Refusal::bad_request(
                    param,
                    format!("{param} must be at most {most} bytes of plain text"),
                ));
            }
        }
        Ok(())
    }
}

/// Protocols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// HTTP on TCP.
    #[default]
    Http,
    /// The native protocol.
    Quic,
}

/// How long a request can wait. Each class has its targets in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody looks at the screen.
    #[default]
    Interactive,
    /// A program waits.
    Standard,
    /// Some time today. It makes room for the others and goes on later.
    Batch,
}

impl Class {
    /// All, the least patient first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Batch];

    /// Its name in records, settings and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|class| class.name() == name);
        found.ok_or_else(|| format!("`{name}` is no class: interactive, standard and batch are"))
    }
}

/// Who shares beginnings of prompts, and gets a fair part of the box: 0 is everybody who did not say who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tenant(pub u64);

impl Tenant {
    /// Whoever has this credential, the same on every box.
    pub fn of_credential(credential: &[u8]) -> Self {
        let digest = blake3::derive_key("outstation tenant of a credential", credential);
        let number = u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"));
        Self(number.max(1))
    }

    /// A tenant that an operator gave a name, in keys or certificates.
    pub fn named(name: &str) -> Self {
        Self::of_credential(format!("tenant {name}").as_bytes())
    }

    /// Its name in records and in the configuration.
    pub fn name(self) -> String {
        match self.0 {
            0 => "anonymous".to_owned(),
            number => format!("t-{number:016x}"),
        }
    }

    /// Whose prompts may be pinned for all.
    pub const OPERATOR: Self = Self(crate::kv::UNSALTED);
}

/// The forms in which a prompt may come.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Plain text, tokenized without a template.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
    /// A conversation, rendered by the model's chat template.
    Chat(Vec<ChatMessage>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// How the next token is drawn from the model's distribution.
///
/// Order: logit bias, repetition penalty, presence and frequency penalty, temperature, top-k, top-p, min-p. Top-p is a
/// share of what top-k left; min-p compares with the likeliest token, so its place does not matter to top-k.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the likeliest token, ties to the lowest id.
    pub temperature: f32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of every token seen in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token in the answer so far.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it stands in the answer so far.
    pub frequency_penalty: f32,
    /// Seed of this request's generator; `None` draws one.
    pub seed: Option<u64>,
    /// Added to the logits of the tokens named.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }
}

/// Identifies a request inside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A place for a model that is loaded. There are two, so that a new one can be tried beside the one that serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lane {
    /// The one that is filled at start.
    #[default]
    First,
    /// The other one.
    Second,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A request that has been checked and tokenized: what crosses to the engine thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Its identity in events and cancellations.
    pub id: RequestId,
    /// Token ids of the prompt, never empty, and of the answer as it grows: there is room for all of it from the start.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt_tokens: u32,
    /// Most tokens to generate; at least one.
    pub tokens_max: u32,
    /// Tokens before which the end of the sequence is not drawn.
    pub tokens_min: u32,
    /// Continue past the end-of-sequence token.
    pub ignore_eos: bool,
    /// How the next token is drawn.
    pub sampling: Sampling,
    /// Seed of the generator.
    pub seed: u64,
    /// How long it can wait.
    pub class: Class,
    /// Time from arrival after which the answer is worthless.
    pub deadline: Option<Duration>,
    /// Who asks.
    pub tenant: Tenant,
    /// Which of the models that are loaded answers.
    pub lane: Lane,
    /// What is added to the base, from its first step to its last.
    pub adapter: Option<Arc<PackedAdapter>>,
    /// What its tokens said of how sure the model was, where that is measured.
    pub signals: Box<TokenSignals>,
    /// What may come next, where the answer has a form.
    pub grammar: Option<Box<Grammar>>,
    /// With each token, its log-probability and so many of the likeliest.
    pub logprobs: Option<u32>,
}

impl Submission {
    /// A greedy one with a prompt and a number of tokens; everything else is at its default.
    ///
    /// Panics without prompt or tokens.
    pub fn new(id: RequestId, mut prompt: Vec<u32>, tokens_max: u32) -> Self {
        assert!(!prompt.is_empty() && tokens_max > 0, "something to do");
        let prompt_tokens = u32::try_from(prompt.len()).expect("a prompt fits its context");
        prompt.reserve_exact(tokens_max as usize);
        Self {
            id,
            tokens: prompt,
            prompt_tokens,
            tokens_max,
            tokens_min: 0,
            ignore_eos: false,
            sampling: Sampling::greedy(),
            seed: 0,
            class: Class::default(),
            deadline: None,
            tenant: Tenant::default(),
            lane: Lane::default(),
            adapter: None,
            signals: Box::default(),
            grammar: None,
            logprobs: None,
        }
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_tokens as usize]
    }

    /// The answer so far.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt_tokens as usize..]
    }

    /// Who shares beginnings of prompts with it: those of its tenant that have its adapter.
    pub fn salt(&self) -> Salt {
        match &self.adapter {
            None => Salt::of_base(self.tenant.0),
            Some(adapter) => Salt::of_adapter(self.tenant.0, adapter.salt()),
        }
    }

    /// Positions that it may need.
    pub fn positions_max(&self) -> u32 {
        self.prompt_tokens + self.tokens_max
    }
}

/// What the model can take, against which a request is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Positions of one sequence: prompt and answer together.
    pub context_tokens_max: u32,
    /// Token ids are below this.
    pub vocabulary: u32,
}

impl GenerateRequest {
    /// Checks everything that needs no tokenizer.
    pub fn check(&self, limits: &RequestLimits) -> Result<(), Refusal> {
        let bad = |param: &str, message: String| Err(Refusal::bad_request(param, message));
        if self.max_tokens == Some(0) {
            return bad(
                "max_tokens",
                "max_tokens is 0: ask for at least one token".into(),
            );
        }
        if let Prompt::Chat(messages) = &self.prompt {
            check_roles(messages)?;
        }
        self.origin.check()?;
        self.format.check(self)?;
        if let Some(top) = self.logprobs
            && top as usize > limits::TOP_LOGPROBS_MAX
        {
            return bad(
                "top_logprobs",
                format!(
                    "{top} likeliest tokens, at most {} are allowed",
                    limits::TOP_LOGPROBS_MAX
                ),
            );
        }
        if self.stop.len() > limits::STOP_STRINGS_MAX {
            return bad(
                "stop",
                format!(
                    "{} stop strings, at most {} are allowed",
                    self.stop.len(),
                    limits::STOP_STRINGS_MAX
                ),
            );
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > limits::STOP_STRING_BYTES_MAX {
                return bad(
                    "stop",
                    format!(
                        "a stop string of {} bytes: it must have 1 to {} bytes",
                        stop.len(),
                        limits::STOP_STRING_BYTES_MAX
                    ),
                );
            }
        }
        self.sampling.check(limits)
    }

    /// Makes the submission once the prompt is tokenized.
    ///
    /// Errors: an empty prompt, ids outside the vocabulary, a prompt that leaves no room for an answer.
    pub fn submission(
        &self,
        id: RequestId,
        prompt: Vec<u32>,
        seed: u64,
        limits: &RequestLimits,
    ) -> Result<Submission, Refusal> {
        if prompt.is_empty() {
            return Err(Refusal::bad_request(
                "prompt",
                "the prompt has no tokens: send at least one".into(),
            ));
        }
        if let Some(stray) = prompt.iter().find(|&&token| token >= limits.vocabulary) {
            return Err(Refusal::bad_request(
                "prompt",
                format!(
                    "token id {stray} is outside of the model's vocabulary of {}",
                    limits.vocabulary
                ),
            ));
        }
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let wanted = self.max_tokens.unwrap_or(1);
        if prompt_tokens.saturating_add(wanted) > limits.context_tokens_max {
            return Err(Refusal::context_overflow(
                prompt_tokens,
                wanted,
                limits.context_tokens_max,
            ));
        }
        let tokens_max = self.tokens_max(limits.context_tokens_max - prompt_tokens)?;
        if self.min_tokens > tokens_max {
            return Err(Refusal::bad_request(
                "min_tokens",
                format!(
                    "min_tokens {} is more than the {tokens_max} tokens allowed",
                    self.min_tokens
                ),
            ));
        }
        Ok(Submission {
            tokens_min: self.min_tokens,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling.clone(),
            seed: self.sampling.seed.unwrap_or(seed),
            class: self.class,
            deadline: self.deadline,
            tenant: self.tenant,
            logprobs: self.logprobs,
            ..Submission::new(id, prompt, tokens_max)
        })
    }

    /// Most tokens to generate, where the context has so much room.
    fn tokens_max(&self, room: u32) -> Result<u32, Refusal> {
        let most = match self.logprobs {
            Some(top) if !self.origin.stream => limits::WHOLE_LOGPROBS_MAX / (1 + top),
            _ => u32::MAX,
        };
        match self.max_tokens {
            None => Ok(room.min(most)),
            Some(wanted) if wanted <= most => Ok(wanted),
            Some(wanted) => Err(Refusal::bad_request(
                "max_tokens",
                format!(
                    "{wanted} tokens with this many log-probabilities do not come in one piece, at most {most} do: stream \
                     the answer, or lower max_tokens or top_logprobs"
                ),
            )),
        }
    }
}

/// Templates write a role as it is, so it may not have what control tokens are made of.
fn check_roles(messages: &[ChatMessage]) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (index, message) in messages.iter().enumerate() {
        let role = &message.role;
        if role.is_empty() || role.len() > limits::ROLE_BYTES_MAX || !role.chars().all(plain) {
            return Err(Refusal::bad_request(
                "messages",
                format!(
                    "messages[{index}].role must be 1 to {} letters, digits, `_` or `-`, like `user`",
                    limits::ROLE_BYTES_MAX
                ),
            ));
        }
    }
    Ok(())
}

impl Sampling {
    fn check(&self, limits: &RequestLimits) -> Result<(), Refusal> {
        let within = |param: &str, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Refusal::bad_request(
                param,
                format!("{param} is {value}: it must be from {low} to {high}"),
            ))
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        if self.logit_bias.len() > limits::LOGIT_BIAS_MAX {
            return Err(Refusal::bad_request(
                "logit_bias",
                format!(
                    "logit_bias has {} entries, at most {} are allowed",
                    self.logit_bias.len(),
                    limits::LOGIT_BIAS_MAX
                ),
            ));
        }
        for &(token, bias) in &self.logit_bias {
            within("logit_bias", bias, -100.0, 100.0)?;
            if token >= limits.vocabulary {
                return Err(Refusal::bad_request(
                    "logit_bias",
                    format!(
                        "logit_bias names token {token}, the vocabulary has {}",
                        limits.vocabulary
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The end of the sequence, or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// Tokens that a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Tokens of the prompt that needed no work.
    pub cached_tokens: u32,
}

/// Where a request's time went, measured inside the box.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Arrival to the first step that carried a token of it.
    pub queue: Duration,
    /// That step to the first token.
    pub prefill: Duration,
    /// First token to last.
    pub decode: Duration,
    /// Of `prefill`, the time in steps of its own model. Where another is loaded beside it, that one runs in between.
    pub prefill_busy: Duration,
    /// Of `decode`, the same.
    pub decode_busy: Duration,
}

/// A request that will not be served, and what its sender can do about it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of no.
    pub kind: RefusalKind,
    /// What happened, the numbers, what to do.
    pub message: String,
    /// When to come back, where that helps.
    pub retry_after_ms: Option<u64>,
    /// The field at fault.
    pub param: Option<String>,
}

/// Kinds of refusal; each protocol maps them to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is wrong and will stay wrong.
    BadRequest,
    /// No such model here.
    NoModel,
    /// Prompt and answer do not fit the context.
    ContextOverflow,
    /// No place now; come back after `retry_after_ms`.
    Overloaded,
    /// The request's own deadline cannot be met, or has passed.
    Deadline,
    /// The box is going down; go elsewhere or come back.
    Draining,
    /// The reader did not keep up with its stream.
    SlowConsumer,
    /// Our fault.
    Internal,
}

impl Refusal {
    /// A refusal that names the field at fault.
    pub fn bad_request(param: &str, message: String) -> Self {
        Self {
            kind: RefusalKind::BadRequest,
            message,
            retry_after_ms: None,
            param: Some(param.to_owned()),
        }
    }

    /// The prompt is too long; both numbers are said.
    pub fn context_overflow(prompt_tokens: u32, wanted: u32, context_tokens_max: u32) -> Self {
        Self {
            kind: RefusalKind::ContextOverflow,
            message: format!(
                "the prompt has {prompt_tokens} tokens and {wanted} more are asked for, the context has \
                 {context_tokens_max}: shorten the prompt or lower max_tokens"
            ),
            retry_after_ms: None,
            param: Some("prompt".to_owned()),
        }
    }

    /// A refusal without a field.
    pub fn plain(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_ms: None,
            param: None,
        }
    }
}

#[cfg(test)]
mod tests;
