//! Chat templates: messages to the one text that the model was trained to see.
//!
//! A template is Jinja as Hugging Face runs it (`trim_blocks`, `lstrip_blocks`, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now`, a `tojson` that writes like Python). It comes with the model, so
//! its work is bounded by fuel, and what it raises is told to the one who sent the messages.

mod json;
mod time;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::tokenizer::{Bos, Special, Tokenizer};

/// Longest template, bytes. The longest of the models we serve has 14 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;
/// Instructions of one rendering: some hundred for each message, so that a thousand of them fit many times over.
pub const FUEL_MAX: u64 = 2_000_000;

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// One turn, as templates want it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Message<'m> {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: &'m str,
    /// Text.
    pub content: &'m str,
}

/// Why there is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The model was not made for chat, or its file forgot how.
    #[error(
        "the model file has no chat template: send whole prompts to /v1/completions, or supply a template"
    )]
    Missing,
    /// Longer than any real one.
    #[error("the chat template has {bytes} bytes: {TEMPLATE_BYTES_MAX} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The template does not compile.
    #[error("the chat template is wrong in line {line}: {reason}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What minijinja says.
        reason: String,
    },
    /// The template called `raise_exception`: the messages are not what the model takes.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The template does something that does not work out for these messages.
    #[error("the chat template failed in line {line}: {reason}")]
    Failed {
        /// Line, from 1.
        line: usize,
        /// What minijinja says.
        reason: String,
    },
    /// More work than [`FUEL_MAX`].
    #[error("the chat template took more than {FUEL_MAX} steps for these messages: send fewer")]
    OutOfFuel,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of those tokens, empty where the model has none.
    pub fn new(source: Option<&str>, bos: &str, eos: &str) -> Result<ChatTemplate, TemplateError> {
        let source = source.filter(|source| !source.trim().is_empty());
        let source = source.ok_or(TemplateError::Missing)?;
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong {
                bytes: source.len(),
            });
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL_MAX));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| TemplateError::Syntax {
                line: error.line().unwrap_or(0),
                reason: reason_of(&error),
            })?;
        Ok(ChatTemplate {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// The prompt for the next answer. `unix_s` is what `strftime_now` calls now, in UTC.
    ///
    /// The text names control tokens: encode it with `Special::Parse`.
    pub fn render(&self, messages: &[Message<'_>], unix_s: u64) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template(NAME)
            .expect("added when compiled");
        let strftime_now = Value::from_function(move |format: &str| time::strftime(format, unix_s));
        template
            .render(context! {
                messages,
                strftime_now,
                bos_token => self.bos,
                eos_token => self.eos,
                add_generation_prompt => true,
                tools => (),
                documents => (),
            })
            .map_err(|error| failure(&error))
    }
}

impl ChatTemplate {
    /// Ids of [`Self::render`], where no role but the model's own can name a control token.
    pub fn prompt_ids(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message<'_>],
        unix_s: u64,
    ) -> Result<Vec<u32>, TemplateError> {
        let shielded: Vec<_> = messages
            .iter()
            .map(|message| match message.role {
                // Templates look for markers such as `</think>` in what the model said.
                "assistant" => Cow::Borrowed(message.content),
                _ => tokenizer.shield(message.content),
            })
            .collect();
        let messages: Vec<_> = messages
            .iter()
            .zip(&shielded)
            .map(|(message, content)| Message {
                role: message.role,
                content,
            })
            .collect();
        let prompt = self.render(&messages, unix_s)?;
        Ok(tokenizer.encode(&prompt, Special::Parse, Bos::Add))
    }
}

const NAME: &str = "chat_template";

/// What a template raised, carried through minijinja's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form of a minijinja filter"
)]
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    json::dumps(value, indent, ascii, separators.as_deref())
        .map(Value::from_safe_string)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "not JSON").with_source(error))
}

fn failure(error: &Error) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        if let Some(inner) = current.downcast_ref::<Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::OutOfFuel;
        }
        cause = current.source();
    }
    TemplateError::Failed {
        line: error.line().unwrap_or(0),
        reason: reason_of(error),
    }
}

fn reason_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// `{% generation %}` marks what training learns from and prints nothing: an `if` that always holds.
///
/// Source: `AssistantTracker` in huggingface/transformers `utils/chat_template_utils.py`.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        output.push_str(before);
        let close = tag.find("%}").map_or(tag.len(), |close| close + 2);
        let (tag, after) = tag.split_at(close);
        let word = tag[2..]
            .trim_start_matches(['-', '+'])
            .trim_end_matches("%}");
        match word.trim_end_matches(['-', '+']).trim() {
            "generation" => output.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => output.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => output.push_str(tag),
        }
        rest = after;
    }
    output.push_str(rest);
    output
}
