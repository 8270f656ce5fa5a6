//! Fields that come in more than one form.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::inert::Shape;
use crate::request::{ChatMessage, Class, Prompt};

/// `"text"`, `[ids]`, or a list with one of them.
pub(super) struct PromptField(pub(super) Prompt);

enum PromptPart {
    Id(u32),
    Whole(Prompt),
}

impl<'de> Deserialize<'de> for PromptField {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Prompt;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or an array of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Prompt, A::Error> {
                let mut ids = Vec::new();
                let mut whole = None;
                while let Some(part) = parts.next_element()? {
                    match part {
                        PromptPart::Id(id) if whole.is_none() => ids.push(id),
                        PromptPart::Whole(prompt) if whole.is_none() && ids.is_empty() => {
                            whole = Some(prompt);
                        }
                        _ => {
                            return Err(A::Error::custom(
                                "a request has one prompt here: send each in a request of its own",
                            ));
                        }
                    }
                }
                Ok(whole.unwrap_or(Prompt::Ids(ids)))
            }
        }
        json.deserialize_any(Form).map(PromptField)
    }
}

impl<'de> Deserialize<'de> for PromptPart {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = PromptPart;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a token id, a text, or an array of token ids")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<PromptPart, E> {
                let id =
                    u32::try_from(id).map_err(|_| E::custom(format!("no token id is {id}")))?;
                Ok(PromptPart::Id(id))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<PromptPart, E> {
                Err(E::custom(format!("no token id is {id}")))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptPart, E> {
                Ok(PromptPart::Whole(Prompt::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<PromptPart, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = parts.next_element()? {
                    ids.push(id);
                }
                Ok(PromptPart::Whole(Prompt::Ids(ids)))
            }
        }
        json.deserialize_any(Form)
    }
}

/// The conversation.
pub(super) struct Messages(pub(super) Vec<ChatMessage>);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let messages = Vec::<Message>::deserialize(json)?;
        Ok(Messages(
            messages.into_iter().map(|message| message.0).collect(),
        ))
    }
}

struct Message(ChatMessage);

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Message;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a message: an object with role and content")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let (mut role, mut content) = (None, None);
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*name {
                        "role" => role = Some(role_of(&map.next_value::<String>()?)?),
                        "content" => content = map.next_value::<Option<Content>>()?,
                        // What OpenAI's SDK writes back of an answer, when it is empty.
                        "tool_calls" | "annotations" | "refusal" | "audio" | "function_call"
                        | "name" | "reasoning_content" | "tool_call_id" => {
                            let shape: Shape = map.next_value()?;
                            if !matches!(shape, Shape::Null | Shape::Empty) {
                                let message =
                                    format!("a message's `{name}` has no effect yet: leave it out");
                                return Err(A::Error::custom(message));
                            }
                        }
                        _ => {
                            let shown: String = name.chars().take(64).collect();
                            let message = format!("a message has no field `{shown}`");
                            return Err(A::Error::custom(message));
                        }
                    }
                }
                let role = role.ok_or_else(|| A::Error::custom("a message has no `role`"))?;
                let content = match content {
                    Some(Content(text)) => text,
                    None if role == "assistant" => String::new(),
                    None => return Err(A::Error::custom("a message has no `content`")),
                };
                Ok(Message(ChatMessage { role, content }))
            }
        }
        json.deserialize_map(Form)
    }
}

/// `developer` is what OpenAI calls `system` since 2024; templates know only the old name.
fn role_of<E: Error>(role: &str) -> Result<String, E> {
    match role {
        "system" | "user" | "assistant" => Ok(role.to_owned()),
        "developer" => Ok("system".to_owned()),
        "tool" | "function" => Err(E::custom(
            "tools are not supported yet, so nothing answers one",
        )),
        _ => {
            let shown: String = role.chars().take(64).collect();
            Err(E::custom(format!(
                "no role is `{shown}`: system, developer, user and assistant are"
            )))
        }
    }
}

/// Text, or an array of parts that are all text.
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Content;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or an array of text parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
                Ok(Content(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut content = String::new();
                while let Some(part) = parts.next_element::<Part>()? {
                    match part.text {
                        Some(text) if part.kind == "text" => content.push_str(&text),
                        _ => {
                            let shown: String = part.kind.chars().take(64).collect();
                            let message = format!(
                                "a part of type `{shown}`: only text parts with a `text` are supported"
                            );
                            return Err(A::Error::custom(message));
                        }
                    }
                }
                Ok(Content(content))
            }
        }
        json.deserialize_any(Form)
    }
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// A string or an array of strings.
#[derive(Default)]
pub(super) struct Stops(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Stops;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, stop: &str) -> Result<Stops, E> {
                Ok(Stops(vec![stop.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut stops: A) -> Result<Stops, A::Error> {
                let mut found = Vec::new();
                while let Some(stop) = stops.next_element()? {
                    found.push(stop);
                }
                Ok(Stops(found))
            }
        }
        json.deserialize_any(Form)
    }
}

/// `{"token id": bias}`
#[derive(Default)]
pub(super) struct Bias(pub(super) Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for Bias {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Bias;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of token ids and biases")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bias, A::Error> {
                let mut biases = Vec::new();
                while let Some(id) = map.next_key::<String>()? {
                    let id = id
                        .parse()
                        .map_err(|_| A::Error::custom("a key is not a token id"))?;
                    biases.push((id, map.next_value()?));
                }
                Ok(Bias(biases))
            }
        }
        json.deserialize_map(Form)
    }
}

/// Any whole number of 64 bits; OpenAI's is signed, ours is not.
pub(super) struct Seed(pub(super) u64);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Seed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number")
            }

            fn visit_u64<E: Error>(self, seed: u64) -> Result<Seed, E> {
                Ok(Seed(seed))
            }

            fn visit_i64<E: Error>(self, seed: i64) -> Result<Seed, E> {
                Ok(Seed(seed.cast_unsigned()))
            }
        }
        json.deserialize_any(Form)
    }
}

/// OpenAI's names of how long a request can wait.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tier {
    Auto,
    Priority,
    Default,
    Flex,
}

impl Tier {
    pub(super) fn class(self) -> Class {
        match self {
            Self::Auto | Self::Priority => Class::Interactive,
            Self::Default => Class::Standard,
            Self::Flex => Class::Batch,
        }
    }
}

#[derive(Clone, Copy, Default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

impl<'de> Deserialize<'de> for StreamOptions {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = StreamOptions;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StreamOptions, A::Error> {
                let mut options = StreamOptions::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*name {
                        "include_usage" => {
                            options.include_usage =
                                map.next_value::<Option<bool>>()?.unwrap_or(false);
                        }
                        // Padding against eavesdroppers on sizes: ours adds none, and says so by the schema.
                        "include_obfuscation" => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        _ => {
                            return Err(A::Error::custom(
                                "stream_options has include_usage and nothing else",
                            ));
                        }
                    }
                }
                Ok(options)
            }
        }
        json.deserialize_map(Form)
    }
}

/// The user of an app, of whom only a hash is kept.
pub(super) struct EndUser(pub(super) u64);

impl<'de> Deserialize<'de> for EndUser {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(json)?;
        Ok(Self(crate::flag::name_hash(&name)))
    }
}

/// What `metadata` says of where a request belongs; other labels are its author's own.
#[derive(Default)]
pub(super) struct Labels {
    pub(super) workload_id: String,
    pub(super) conversation_id: String,
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Labels;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*name {
                        "workload_id" => labels.workload_id = map.next_value()?,
                        "conversation_id" => labels.conversation_id = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(labels)
            }
        }
        json.deserialize_map(Form)
    }
}
