//! `response_format`: which form the answer has. Source: OpenAI's API reference, structured outputs.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::request::Format;

/// `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {…}}`.
pub(super) struct ResponseFormat(pub(super) Format);

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Format;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with a `type`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Format, A::Error> {
                let (mut kind, mut schema) = (None, None);
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "type" => kind = Some(map.next_value::<Cow<'de, str>>()?),
                        "json_schema" => schema = map.next_value::<Option<JsonSchema>>()?,
                        _ => return Err(unknown("response_format", &name, "type and json_schema")),
                    }
                }
                let kind = kind.ok_or_else(|| A::Error::custom("its `type` is missing"))?;
                match (&*kind, schema) {
                    ("text", None) => Ok(Format::Text),
                    ("json_object", None) => Ok(Format::Json),
                    ("json_schema", Some(JsonSchema(schema))) => Ok(schema),
                    ("json_schema", None) => Err(A::Error::custom("its `json_schema` is missing")),
                    ("text" | "json_object", Some(_)) => Err(A::Error::custom(
                        "`json_schema` goes only with `\"type\": \"json_schema\"`",
                    )),
                    (kind, _) => {
                        let shown: String = kind.chars().take(64).collect();
                        Err(A::Error::custom(format!(
                            "no type is `{shown}`: text, json_object and json_schema are"
                        )))
                    }
                }
            }
        }
        json.deserialize_map(Form).map(ResponseFormat)
    }
}

/// `{"name", "description", "schema", "strict"}`. A schema is always followed, so `strict` changes nothing; without one
/// any object is right.
struct JsonSchema(Format);

impl<'de> Deserialize<'de> for JsonSchema {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = JsonSchema;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with `name` and `schema`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonSchema, A::Error> {
                let (mut named, mut format) = (false, Format::Json);
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match &*name {
                        "name" => named = is_name(&map.next_value::<Cow<'de, str>>()?),
                        "description" => {
                            map.next_value::<Option<Cow<'de, str>>>()?;
                        }
                        "strict" => {
                            map.next_value::<Option<bool>>()?;
                        }
                        // As it came: it is read where it is compiled, and not if it is too large.
                        "schema" => {
                            if let Some(schema) = map.next_value::<Option<Box<RawValue>>>()? {
                                format = Format::Schema(Box::<str>::from(schema));
                            }
                        }
                        _ => {
                            let known = "name, description, schema and strict";
                            return Err(unknown("json_schema", &name, known));
                        }
                    }
                }
                if named {
                    Ok(JsonSchema(format))
                } else {
                    Err(A::Error::custom(
                        "`json_schema.name` must be 1 to 64 letters, digits, `_` or `-`",
                    ))
                }
            }
        }
        json.deserialize_map(Form)
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

fn unknown<E: Error>(place: &str, name: &str, known: &str) -> E {
    let shown: String = name.chars().take(64).collect();
    E::custom(format!("`{place}` has no field `{shown}`: it has {known}"))
}
