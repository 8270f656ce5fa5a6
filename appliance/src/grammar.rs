//! Answers of a given form: which tokens may come next so that what is said is JSON, or JSON of a schema.
//!
//! ```text
//!  io side        schema ─▶ Grammars::compile ─▶ Grammar, with the tokens that may come first ─▶ Submission
//!  engine thread  Grammar::allowed ─▶ sampler draws ─▶ Grammar::accept ─▶ those that may come then, or the end
//! ```
//!
//! A token is accepted when it was drawn, whoever guessed it: the scheduler asks for each row of logits after the rows
//! before it are drawn, so the mask of a row is always that of the tokens before it, and a guess that the grammar
//! forbids is a guess that proves wrong.
//!
//! The library takes memory as it reads, which the engine thread does not do otherwise. Here it may, inside of
//! [`heap::excused`]: a mask takes microseconds, less than a hand-over to another thread and back, and `limits` bounds
//! its work and its memory. A request without a grammar never comes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use outstation_kernels::heap;
use serde_json::Value;

use crate::limits;
use crate::request::{Format, Refusal, RefusalKind};
use crate::tokenizer::Tokenizer;

/// Compiles forms for one vocabulary. Shared by all requests.
///
/// Memory: [`Grammars::bytes`], taken at start.
pub struct Grammars {
    factory: ParserFactory,
    /// Grammars that there are.
    taken: Arc<AtomicU32>,
    taken_max: u32,
}

/// The form of one answer, as far as it was said.
pub struct Grammar {
    matcher: Matcher,
    /// A bit for each token that may come.
    allowed: SimpleVob,
    /// Tokens that came.
    tokens: u32,
    place: Place,
}

/// What a token did to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to say.
    Open,
    /// Nothing may follow.
    Complete,
    /// The form cannot be followed further within the limits: the token is not part of the answer.
    Failed,
}

/// Why a form is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// All places are taken.
    #[error("{0} answers of a given form are under way, as many as there is memory for")]
    Full(u32),
    /// Not a schema, or one that the library does not follow.
    #[error("the schema cannot be followed: {0}")]
    Schema(String),
    /// Written for the library, not for us.
    #[error("the schema has `x-guidance`, which is no part of JSON Schema: leave it out")]
    Extension,
    /// Numbers whose multiples take too long.
    #[error(
        "the schema's `multipleOf` have no common multiple up to {} (of the last digit): use fewer, or smaller ones",
        limits::SCHEMA_MULTIPLE_MAX
    )]
    Multiple,
}

impl GrammarError {
    /// What is said to who asked.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Full(_) => Refusal {
                retry_after_ms: Some(RETRY_MS),
                ..Refusal::plain(
                    RefusalKind::Overloaded,
                    format!("{self}: come back in {RETRY_MS} ms"),
                )
            },
            _ => Refusal::bad_request("response_format", self.to_string()),
        }
    }
}

/// An answer or so.
const RETRY_MS: u64 = 1000;

/// Holds one of the places until it is dropped.
struct Place(Arc<AtomicU32>);

impl Clone for Place {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Grammars {
    /// Puts a vocabulary in order, some 0.3 s for 150 000 tokens. The error says why forms are refused.
    pub fn new(tokenizer: &Tokenizer, taken_max: u32) -> Result<Self, String> {
        let words = words(tokenizer)?;
        let ends = tokenizer.ends_generation();
        let end = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let vocabulary = u32::try_from(words.len()).expect("checked by the tokenizer");
        let mut trie = TokTrie::from(&TokRxInfo::new(vocabulary, end), &words);
        drop(words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(ends);
        }
        // Not canonical: a model writes a word in whatever pieces it likes.
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let apart = TEXTS.map(str::to_owned);
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &apart)
            .map_err(|e| short(&e))?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Self {
            factory,
            taken: Arc::default(),
            taken_max,
        })
    }

    /// Bytes of `new` for a vocabulary, and of all grammars that there may be.
    pub fn bytes(vocabulary: u32, taken_max: u32) -> u64 {
        u64::from(vocabulary) * TOKEN_BYTES
            + u64::from(taken_max) * limits::GRAMMAR_BYTES_MAX
            + u64::from(limits::GRAMMARS_COMPILING_MAX) * limits::GRAMMAR_COMPILE_BYTES_MAX
    }

    /// Compiles a form; text has none.
    ///
    /// Cost: a millisecond, up to a second for the largest schemas. Needs [`COMPILE_STACK_BYTES`] of stack.
    pub fn compile(&self, format: &Format) -> Result<Option<Box<Grammar>>, GrammarError> {
        let schema = match format {
            Format::Text => return Ok(None),
            Format::Json => serde_json::json!({"type": "object"}),
            Format::Schema(text) => {
                serde_json::from_str(text).map_err(|e| GrammarError::Schema(e.to_string()))?
            }
        };
        let place = self.take()?;
        let grammar = top_level(schema)?;
        let parser = self.factory.create_parser(grammar);
        let mut matcher = Matcher::new(parser);
        let first = matcher.compute_mask();
        let allowed = first.map_err(|e| GrammarError::Schema(short(&e)))?;
        Ok(Some(Box::new(Grammar {
            matcher,
            allowed,
            tokens: 0,
            place,
        })))
    }

    fn take(&self) -> Result<Place, GrammarError> {
        let more = |taken| (taken < self.taken_max).then_some(taken + 1);
        match self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(_) => Ok(Place(self.taken.clone())),
            Err(taken) => Err(GrammarError::Full(taken)),
        }
    }
}

impl Grammar {
    /// The tokens that may come next: bit `i % 32` of word `i / 32` is token `i`. What is past the end may not.
    pub fn allowed(&self) -> &[u32] {
        self.allowed.as_slice()
    }

    /// Takes the token that was drawn.
    ///
    /// Cost: some microseconds, and what `limits` allows at most. The heap, as the module says.
    pub fn accept(&mut self, token: u32) -> Progress {
        heap::excused(|| self.step(token))
    }

    fn step(&mut self, token: u32) -> Progress {
        if !self.allowed.get(token as usize) || self.matcher.consume_token(token).is_err() {
            return Progress::Failed;
        }
        self.tokens += 1;
        if self.matcher.is_stopped() {
            return Progress::Complete;
        }
        let may_end = self.matcher.is_accepting().unwrap_or(false);
        match self.matcher.compute_mask() {
            Ok(allowed) => {
                self.allowed = allowed;
                Progress::Open
            }
            // What may end and cannot go on has ended: a vocabulary without an end token cannot say it.
            Err(_) if may_end => Progress::Complete,
            Err(_) => Progress::Failed,
        }
    }
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            allowed: self.allowed.clone(),
            tokens: self.tokens,
            place: self.place.clone(),
        }
    }
}

/// As far as can be seen: as many tokens came, and the same may come next.
impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.allowed == other.allowed
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Grammar")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// What each token writes. Control tokens and ends of sequences write nothing, nor do tokens that are longer than the
/// library's tree is deep, so that none of them is ever part of an answer.
fn words(tokenizer: &Tokenizer) -> Result<Vec<Vec<u8>>, String> {
    let ends = tokenizer.ends_generation();
    let tokens = u32::try_from(tokenizer.vocab_size()).map_err(|e| e.to_string())?;
    let word = |id| match tokenizer.decode_bytes(id) {
        bytes if bytes.len() > WORD_BYTES_MAX || ends.contains(&id) => Vec::new(),
        bytes => bytes.to_vec(),
    };
    let words: Vec<Vec<u8>> = (0..tokens).map(word).collect();
    let bytes: usize = words.iter().map(Vec::len).sum();
    if bytes >= WORDS_BYTES_MAX {
        return Err(format!(
            "the vocabulary has {bytes} bytes of text, answers of a given form take {WORDS_BYTES_MAX} at most"
        ));
    }
    Ok(words)
}

/// The schema for the library, with whitespace that has an end: a space, or a new line and what it begins with. A model
/// that is not sure of itself would fill its answer with it.
fn top_level(mut schema: Value) -> Result<TopLevelGrammar, GrammarError> {
    let Some(fields) = schema.as_object() else {
        let wrong = "a schema is a JSON object, like {\"type\": \"object\"}";
        return Err(GrammarError::Schema(wrong.to_owned()));
    };
    if fields.contains_key("x-guidance") {
        return Err(GrammarError::Extension);
    }
    let mut multiples = Vec::new();
    find_multiples(&schema, &mut multiples).ok_or(GrammarError::Multiple)?;
    if common_multiple(&multiples).is_none_or(|multiple| multiple > limits::SCHEMA_MULTIPLE_MAX) {
        return Err(GrammarError::Multiple);
    }
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITESPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// A number as it is written: a whole number, and the digits of it that are behind the point.
type Decimal = (u64, u32);

/// All `multipleOf` in a schema; `None` if one is no number that we could handle. The depth is serde's limit at most.
fn find_multiples(value: &Value, found: &mut Vec<Decimal>) -> Option<()> {
    match value {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| find_multiples(item, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Number(number) if name == "multipleOf" => {
                        found.push(decimal(&number.to_string())?);
                    }
                    field => find_multiples(field, found)?,
                }
            }
            Some(())
        }
        _ => Some(()),
    }
}

/// Reads `1500`, `0.25` or `1.5e-7`.
fn decimal(text: &str) -> Option<Decimal> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let behind = behind.trim_end_matches('0');
    let number: u64 = format!("{whole}{behind}").parse().ok()?;
    let places = i64::try_from(behind.len()).ok()? - exponent;
    if let Ok(places) = u32::try_from(places) {
        return Some((number, places));
    }
    let zeros = u32::try_from(-places).ok()?;
    Some((number.checked_mul(10_u64.checked_pow(zeros)?)?, 0))
}

/// The least common multiple, in units of the last digit that any of them has.
fn common_multiple(numbers: &[Decimal]) -> Option<u64> {
    let places = numbers.iter().map(|number| number.1).max().unwrap_or(0);
    let mut multiple = 1_u64;
    for &(number, own) in numbers {
        let number = number.checked_mul(10_u64.checked_pow(places - own)?)?;
        if number > 0 {
            multiple = (multiple / common_divisor(multiple, number)).checked_mul(number)?;
        }
    }
    Some(multiple)
}

fn common_divisor(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// What the library says, on one line, without its state and without advice on options that nobody here can set.
fn short(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    if text.starts_with("NoExtension") {
        return "there is nothing that it allows".to_owned();
    }
    let cuts = ["\n<", ". Enable '", " without 'referencing'"];
    let ends = cuts.iter().filter_map(|cut| text.find(cut));
    let said = &text[..ends.min().unwrap_or(text.len())];
    let words: Vec<_> = said.split_whitespace().collect();
    words.join(" ").chars().take(MESSAGE_CHARS_MAX).collect()
}

/// Stack on which [`Grammars::compile`] walks the deepest schema, in a test build too.
pub const COMPILE_STACK_BYTES: usize = 64 << 20;

/// Tokens that strings are made of, set apart so that in a string only the others are looked at; the short ones, for
/// strings of a greatest length. Without them a mask takes 5 ms there, with them 0.2 ms. Each costs 80 bytes a token.
const TEXTS: [&str; 2] = [r#"[^"\\\x00-\x1F\x7F]{1,30}"#, r#"[^"\\\x00-\x1F\x7F]+"#];

const WHITESPACE: &str = r"\x20|\x0A[\x20\x09]{0,40}";

/// Of a token, in the library's trees and lists: measured with vocabularies of 32 000 to 152 000.
const TOKEN_BYTES: u64 = 320;

/// Longest token that is drawn where a form is asked for: the library's tree is 1024 deep.
const WORD_BYTES_MAX: usize = 512;

/// Bytes of all tokens: the library's tree has 2²² places.
const WORDS_BYTES_MAX: usize = 4 << 20;

const MESSAGE_CHARS_MAX: usize = 300;

const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: limits::GRAMMAR_READINGS_MAX,
    initial_lexer_fuel: limits::GRAMMAR_COMPILE_STEPS_MAX,
    step_lexer_fuel: limits::GRAMMAR_MASK_STEPS_MAX,
    step_max_items: limits::GRAMMAR_MASK_READINGS_MAX,
    max_lexer_states: limits::GRAMMAR_STATES_MAX,
    max_grammar_size: limits::GRAMMAR_SYMBOLS_MAX,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

#[cfg(test)]
mod tests;
