//! OpenAI's request bodies to [`GenerateRequest`], strictly.
//!
//! A field that we would ignore is a lie to whoever set it, so every field is one of three: it has its effect; it is
//! known, has none, and may only hold the value that asks for nothing (`n: 1`, `tools: []`); or it is unknown and the
//! request is refused with the nearest name. `null` always means that the field is not there.
//!
//! The body is read in one pass, straight into its final form: no tree of values, so memory stays in proportion to
//! the body. Source: OpenAI's API reference; names that only vLLM has (`top_k`, `ignore_eos`, …) mean what they mean
//! there.

mod field;
mod format;
mod inert;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::request::{GenerateRequest, Prompt, Refusal, RefusalKind};
use field::{Bias, EndUser, Labels, Messages, PromptField, Seed, Stops, StreamOptions, Tier};
use format::ResponseFormat;

/// Which of the two endpoints a body came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
}

/// What a body asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// For the engine.
    pub request: GenerateRequest,
    /// Answers to it.
    pub choices: u32,
    /// Events as they come, or one answer at the end.
    pub delivery: Delivery,
}

/// How the answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream {
        /// A last chunk says what it cost.
        include_usage: bool,
    },
}

/// Tokens of a completion when none are asked for. Source: OpenAI's API reference, `max_tokens` of completions.
const COMPLETION_TOKENS_DEFAULT: u32 = 16;

/// Answers to one request: each is a sequence of its own.
const CHOICES_MAX: u32 = 16;

/// Reads a body. What is wrong with it names the field, or line and column where it is not even JSON.
pub fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Asked, Refusal> {
    let mut reader = Reader::new(endpoint);
    let mut json = serde_json::Deserializer::from_slice(body);
    let outcome = reader.read(&mut json).and_then(|()| json.end());
    if let Err(error) = outcome {
        return Err(reader.refusal(&error));
    }
    reader.finish()
}

/// Fields as they are met.
struct Reader {
    endpoint: Endpoint,
    /// The field being read, for errors.
    field: Option<String>,
    request: GenerateRequest,
    prompt: Option<Prompt>,
    max_completion_tokens: Option<u32>,
    choices: u32,
    stream: bool,
    stream_options: Option<StreamOptions>,
    /// Chat: whether log-probabilities are wanted, and of how many of the likeliest.
    logprobs: bool,
    top_logprobs: Option<u32>,
}

/// Fields that have an effect, of both endpoints.
const EFFECTIVE: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
    "service_tier",
    "n",
    "metadata",
    "user",
    "safety_identifier",
    "logprobs",
];

impl Reader {
    fn new(endpoint: Endpoint) -> Reader {
        Reader {
            endpoint,
            field: None,
            request: GenerateRequest::default(),
            prompt: None,
            max_completion_tokens: None,
            choices: 1,
            stream: false,
            stream_options: None,
            logprobs: false,
            top_logprobs: None,
        }
    }

    fn read<'de, D: Deserializer<'de>>(&mut self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }

    /// Reads the value of one field.
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let chat = self.endpoint == Endpoint::Chat;
        let sampling = &mut self.request.sampling;
        match name {
            "messages" if chat => set_some(
                &mut self.prompt,
                map.next_value::<Option<Messages>>()?
                    .map(|it| Prompt::Chat(it.0)),
            ),
            "prompt" if !chat => set_some(
                &mut self.prompt,
                map.next_value::<Option<PromptField>>()?.map(|it| it.0),
            ),
            "model" => self.request.model = map.next_value()?,
            "stream" => set(&mut self.stream, map.next_value()?),
            "stream_options" => self.stream_options = map.next_value()?,
            "max_tokens" => self.request.max_tokens = map.next_value()?,
            "max_completion_tokens" if chat => self.max_completion_tokens = map.next_value()?,
            "temperature" => set(&mut sampling.temperature, map.next_value()?),
            "top_p" => set(&mut sampling.top_p, map.next_value()?),
            "min_p" => set(&mut sampling.min_p, map.next_value()?),
            "top_k" => {
                // vLLM: -1 and 0 keep all.
                let top_k = map.next_value::<Option<i64>>()?.unwrap_or(0);
                let bad = || A::Error::custom("it must be -1, 0 or a count of tokens");
                sampling.top_k =
                    u32::try_from(if top_k == -1 { 0 } else { top_k }).map_err(|_| bad())?;
            }
            "presence_penalty" => set(&mut sampling.presence_penalty, map.next_value()?),
            "frequency_penalty" => set(&mut sampling.frequency_penalty, map.next_value()?),
            "repetition_penalty" => set(&mut sampling.repetition_penalty, map.next_value()?),
            "seed" => sampling.seed = map.next_value::<Option<Seed>>()?.map(|it| it.0),
            "logit_bias" => {
                sampling.logit_bias = map.next_value::<Option<Bias>>()?.unwrap_or_default().0;
            }
            "stop" => self.request.stop = map.next_value::<Option<Stops>>()?.unwrap_or_default().0,
            "response_format" if chat => {
                let format = map.next_value::<Option<ResponseFormat>>()?;
                self.request.format = format.map(|it| it.0).unwrap_or_default();
            }
            "min_tokens" => set(&mut self.request.min_tokens, map.next_value()?),
            "ignore_eos" => set(&mut self.request.ignore_eos, map.next_value()?),
            "n" => set(&mut self.choices, map.next_value()?),
            "logprobs" if chat => set(&mut self.logprobs, map.next_value()?),
            "top_logprobs" if chat => self.top_logprobs = map.next_value()?,
            "logprobs" => self.request.logprobs = map.next_value()?,
            "metadata" => {
                let labels = map.next_value::<Option<Labels>>()?.unwrap_or_default();
                self.request.origin.workload = labels.workload_id;
                self.request.origin.conversation = labels.conversation_id;
            }
            // The older name and the newer one of the same.
            "user" | "safety_identifier" => set(
                &mut self.request.origin.end_user,
                map.next_value::<Option<EndUser>>()?.map(|it| it.0),
            ),
            "service_tier" => set(
                &mut self.request.class,
                map.next_value::<Option<Tier>>()?.map(Tier::class),
            ),
            _ => match inert::rule(self.endpoint, name) {
                Some(rule) => rule.check(&map.next_value()?).map_err(A::Error::custom)?,
                None => return Err(A::Error::custom(self.unknown(name))),
            },
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> String {
        let own: &[&str] = match self.endpoint {
            Endpoint::Chat => &[
                "messages",
                "max_completion_tokens",
                "response_format",
                "top_logprobs",
            ],
            Endpoint::Completions => &["prompt"],
        };
        let known = EFFECTIVE
            .iter()
            .chain(own)
            .copied()
            .chain(inert::names(self.endpoint));
        let shown: String = name.chars().take(64).collect();
        let nearest = known
            .map(|known| (strsim::damerau_levenshtein(known, &shown), known))
            .min();
        match nearest {
            Some((distance, known)) if distance <= 3.max(shown.len() / 3) => {
                format!("it is not a field of this endpoint: did you mean `{known}`?")
            }
            _ => "it is not a field of this endpoint".to_owned(),
        }
    }

    /// serde's message with the place it stopped at, under the field's name.
    fn refusal(&self, error: &serde_json::Error) -> Refusal {
        let message = match &self.field {
            Some(field) if error.is_data() => format!("`{field}`: {error}"),
            _ => format!("the body is not the JSON object it should be: {error}"),
        };
        Refusal {
            param: self.field.clone().filter(|_| error.is_data()),
            ..Refusal::plain(RefusalKind::BadRequest, message)
        }
    }

    /// What only the whole body can tell.
    fn finish(mut self) -> Result<Asked, Refusal> {
        let missing = match self.endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions => "prompt",
        };
        let Some(prompt) = self.prompt.take() else {
            return Err(Refusal::bad_request(
                missing,
                format!("`{missing}` is missing"),
            ));
        };
        if matches!(&prompt, Prompt::Chat(messages) if messages.is_empty()) {
            return Err(Refusal::bad_request(
                "messages",
                "`messages` is empty".to_owned(),
            ));
        }
        if !(1..=CHOICES_MAX).contains(&self.choices) {
            let message = format!("n is {}: it must be from 1 to {CHOICES_MAX}", self.choices);
            return Err(Refusal::bad_request("n", message));
        }
        let request = &mut self.request;
        request.origin.stream = self.stream;
        request.prompt = prompt;
        if let (Some(old), Some(new)) = (request.max_tokens, self.max_completion_tokens)
            && old != new
        {
            let message = format!(
                "max_tokens is {old} and max_completion_tokens {new}: they mean the same, send one"
            );
            return Err(Refusal::bad_request("max_completion_tokens", message));
        }
        request.max_tokens = request.max_tokens.or(self.max_completion_tokens);
        if self.endpoint == Endpoint::Completions {
            request.max_tokens.get_or_insert(COMPLETION_TOKENS_DEFAULT);
        }
        if self.logprobs {
            request.logprobs = Some(self.top_logprobs.unwrap_or(0));
        } else if self.top_logprobs.is_some_and(|top| top > 0) {
            let message = "`top_logprobs` goes only with `logprobs: true`".to_owned();
            return Err(Refusal::bad_request("top_logprobs", message));
        }
        let delivery = match (self.stream, self.stream_options) {
            (false, None) => Delivery::Whole,
            (false, Some(_)) => {
                let message = "`stream_options` goes only with `stream: true`".to_owned();
                return Err(Refusal::bad_request("stream_options", message));
            }
            (true, options) => Delivery::Stream {
                include_usage: options.unwrap_or_default().include_usage,
            },
        };
        Ok(Asked {
            request: self.request,
            choices: self.choices,
            delivery,
        })
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(FieldName)? {
            self.field = Some(name.clone());
            self.field(&name, &mut map)?;
            self.field = None;
        }
        Ok(())
    }
}

/// A key of a bounded length: names are short, and errors repeat them.
struct FieldName;

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<String, D::Error> {
        let name = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(json)?;
        Ok(name.chars().take(64).collect())
    }
}

/// `null` leaves the default.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn set_some<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}
