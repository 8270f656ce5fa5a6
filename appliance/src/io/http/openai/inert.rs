//! Fields that are known and have no effect, and the values by which they ask for none.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Endpoint;

/// Values that a field without effect may have; `null` always may.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Labels that change no answer.
    Anything,
    /// Only `null`.
    Null,
    /// One truth value.
    Is(bool),
    /// Either: it only qualifies another field that is not there.
    AnyBool,
    /// One number.
    Number(f64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// `[]`, `{}` or `""`.
    Empty,
    /// `{"type": "text"}`
    TypeText,
    /// `["text"]`
    ListOfText,
}

/// What is worth knowing of a value, in a few bytes whatever its size.
#[derive(Debug, PartialEq)]
pub(super) enum Shape {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Empty,
    /// An array that holds this one text.
    OneText(String),
    /// An object of one field, `type`.
    Type(String),
    Other,
}

use Endpoint::{Chat, Completions};

/// Field, endpoint if only one has it, rule.
const RULES: &[(&str, Option<Endpoint>, Rule)] = &[
    ("prompt_cache_key", None, Rule::Anything),
    ("prompt_cache_retention", None, Rule::Anything),
    ("store", Some(Chat), Rule::Is(false)),
    ("best_of", Some(Completions), Rule::Number(1.0)),
    ("echo", Some(Completions), Rule::Is(false)),
    ("suffix", Some(Completions), Rule::Empty),
    ("prompt_logprobs", None, Rule::Null),
    ("tools", Some(Chat), Rule::Empty),
    ("tool_choice", Some(Chat), Rule::OneOf(&["none", "auto"])),
    ("parallel_tool_calls", Some(Chat), Rule::AnyBool),
    ("functions", Some(Chat), Rule::Empty),
    ("function_call", Some(Chat), Rule::OneOf(&["none", "auto"])),
    ("response_format", Some(Completions), Rule::TypeText),
    ("modalities", Some(Chat), Rule::ListOfText),
    ("audio", Some(Chat), Rule::Null),
    ("prediction", Some(Chat), Rule::Null),
    ("reasoning_effort", Some(Chat), Rule::Null),
    ("verbosity", Some(Chat), Rule::OneOf(&["medium"])),
    ("web_search_options", Some(Chat), Rule::Null),
    // vLLM
    ("stop_token_ids", None, Rule::Empty),
    ("bad_words", None, Rule::Empty),
    ("allowed_token_ids", None, Rule::Null),
    ("include_stop_str_in_output", None, Rule::Is(false)),
    ("skip_special_tokens", None, Rule::Is(true)),
    ("spaces_between_special_tokens", None, Rule::AnyBool),
    ("use_beam_search", None, Rule::Is(false)),
    ("length_penalty", None, Rule::Number(1.0)),
    ("truncate_prompt_tokens", None, Rule::Null),
    ("add_generation_prompt", Some(Chat), Rule::Is(true)),
    ("continue_final_message", Some(Chat), Rule::Is(false)),
    ("add_special_tokens", Some(Chat), Rule::Is(false)),
    ("add_special_tokens", Some(Completions), Rule::Is(true)),
    ("chat_template", Some(Chat), Rule::Null),
    ("chat_template_kwargs", Some(Chat), Rule::Empty),
    ("guided_json", None, Rule::Null),
    ("guided_regex", None, Rule::Null),
    ("guided_choice", None, Rule::Null),
    ("guided_grammar", None, Rule::Null),
    ("structured_outputs", None, Rule::Null),
    ("priority", None, Rule::Number(0.0)),
    ("return_token_ids", None, Rule::Is(false)),
];

pub(super) fn rule(endpoint: Endpoint, name: &str) -> Option<Rule> {
    RULES
        .iter()
        .find(|(known, only, _)| *known == name && only.is_none_or(|only| only == endpoint))
        .map(|&(_, _, rule)| rule)
}

pub(super) fn names(endpoint: Endpoint) -> impl Iterator<Item = &'static str> {
    RULES
        .iter()
        .filter(move |(_, only, _)| only.is_none_or(|only| only == endpoint))
        .map(|&(name, _, _)| name)
}

impl Rule {
    /// Why a value is refused.
    pub(super) fn check(self, value: &Shape) -> Result<(), String> {
        let allowed = match (self, value) {
            (_, Shape::Null)
            | (Rule::Anything, _)
            | (Rule::AnyBool, Shape::Bool(_))
            | (Rule::Empty, Shape::Empty) => true,
            (Rule::Is(wanted), Shape::Bool(value)) => wanted == *value,
            (Rule::Number(wanted), Shape::Number(value)) => wanted.total_cmp(value).is_eq(),
            (Rule::OneOf(texts), Shape::Text(text)) => texts.contains(&text.as_str()),
            (Rule::TypeText, Shape::Type(text)) | (Rule::ListOfText, Shape::OneText(text)) => {
                text == "text"
            }
            _ => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(format!(
                "it has no effect yet: leave it out, or send {self}"
            ))
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Anything => formatter.write_str("anything"),
            Rule::Null => formatter.write_str("null"),
            Rule::Is(value) => write!(formatter, "{value}"),
            Rule::AnyBool => formatter.write_str("true or false"),
            Rule::Number(value) => write!(formatter, "{value}"),
            Rule::OneOf(texts) => write!(formatter, "\"{}\"", texts.join("\" or \"")),
            Rule::Empty => formatter.write_str("an empty value"),
            Rule::TypeText => formatter.write_str("{\"type\": \"text\"}"),
            Rule::ListOfText => formatter.write_str("[\"text\"]"),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Shape, D::Error> {
        json.deserialize_any(ShapeForm)
    }
}

struct ShapeForm;

impl<'de> Visitor<'de> for ShapeForm {
    type Value = Shape;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Number(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Number(value as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Shape, E> {
        Ok(match text.len() {
            0 => Shape::Empty,
            1..=64 => Shape::Text(text.to_owned()),
            _ => Shape::Other,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let shape = match items.next_element::<Shape>()? {
            None => return Ok(Shape::Empty),
            Some(Shape::Text(text)) => Shape::OneText(text),
            Some(_) => Shape::Other,
        };
        let mut more = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(if more { Shape::Other } else { shape })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let (mut fields, mut kind) = (0, None);
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            fields += 1;
            if name == "type" {
                kind = Some(map.next_value::<Shape>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(match (fields, kind) {
            (0, _) => Shape::Empty,
            (1, Some(Shape::Text(text))) => Shape::Type(text),
            _ => Shape::Other,
        })
    }
}
