//! Forms as data: what may be said, what is refused. `answers` has what models say under them.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

mod answers;

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use outstation_wire::gguf::Gguf;

use super::*;
use crate::sampler::splitmix;
use crate::tokenizer::{Bos, Special, Vocabulary};

fn demo_tokenizer() -> Tokenizer {
    let file = crate::generate::demo(1);
    let gguf = Gguf::parse(&file).unwrap();
    Tokenizer::new(&Vocabulary::from_gguf(&gguf).unwrap()).unwrap()
}

/// A grammar, compiled where there is stack for it.
fn compile(grammars: &Grammars, format: &Format) -> Result<Box<Grammar>, GrammarError> {
    let work = || grammars.compile(format).map(|it| it.expect("a form"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

fn schema(text: &str) -> Format {
    Format::Schema(text.into())
}

/// How far a text is read, and how that ends.
fn read(tokenizer: &Tokenizer, grammar: &mut Grammar, text: &str) -> &'static str {
    for token in tokenizer.encode(text, Special::Plain, Bos::Omit) {
        match grammar.accept(token) {
            Progress::Open => {}
            Progress::Complete => return "complete",
            Progress::Failed => return "refused",
        }
    }
    let ends = tokenizer.ends_generation();
    match grammar.matcher.is_accepting().unwrap() {
        true if ends.iter().all(|&end| grammar.allowed.get(end as usize)) => "may end",
        true => "may end, but cannot say so",
        false => {
            assert!(!ends.iter().any(|&end| grammar.allowed.get(end as usize)));
            "open"
        }
    }
}

fn check(format: &Format, texts: &[&str], expected: Expect) {
    let tokenizer = demo_tokenizer();
    let grammars = Grammars::new(&tokenizer, 1).unwrap();
    let mut lines = String::new();
    for text in texts {
        let mut grammar = compile(&grammars, format).unwrap();
        let end = read(&tokenizer, &mut grammar, text);
        writeln!(lines, "{text:?} {end}").unwrap();
    }
    expected.assert_eq(&lines);
}

#[test]
fn any_object() {
    check(
        &Format::Json,
        &[
            "",
            r#"{"a": 1}"#,
            r#"{"a": [true, null, {"b": "c\n"}]}"#,
            "{\n  \"a\": 1.5e3\n}",
            r#"{"a": 1"#,
            r#"{"a" 1}"#,
            r#"{"a": 01}"#,
            r#"{"a": nul}"#,
            "{\"a\": \"\n\"}",
            r#"{"a":  1}"#,
            "[1]",
            "Sure: {",
        ],
        expect![[r#"
            "" open
            "{\"a\": 1}" complete
            "{\"a\": [true, null, {\"b\": \"c\\n\"}]}" complete
            "{\n  \"a\": 1.5e3\n}" complete
            "{\"a\": 1" open
            "{\"a\" 1}" refused
            "{\"a\": 01}" refused
            "{\"a\": nul}" refused
            "{\"a\": \"\n\"}" refused
            "{\"a\":  1}" refused
            "[1]" refused
            "Sure: {" refused
        "#]],
    );
}

#[test]
fn what_a_schema_says() {
    check(
        &schema(
            r#"{"type": "object", "properties": {"tilt": {"type": "integer", "minimum": -9, "maximum": 9},
                "alarm": {"enum": ["low", "high"]}}, "required": ["tilt", "alarm"], "additionalProperties": false}"#,
        ),
        &[
            r#"{"tilt": -9, "alarm": "low"}"#,
            r#"{"tilt": 10"#,
            r#"{"tilt": 1, "alarm": "lower"#,
            r#"{"tilt": 1}"#,
            r#"{"alarm""#,
            r#"{"tilt": 1, "alarm": "high", "more""#,
        ],
        expect![[r#"
            "{\"tilt\": -9, \"alarm\": \"low\"}" complete
            "{\"tilt\": 10" refused
            "{\"tilt\": 1, \"alarm\": \"lower" refused
            "{\"tilt\": 1}" refused
            "{\"alarm\"" refused
            "{\"tilt\": 1, \"alarm\": \"high\", \"more\"" refused
        "#]],
    );
    check(
        &schema(r#"{"type": "integer"}"#),
        &["-", "12", "1.5"],
        expect![[r#"
            "-" open
            "12" may end
            "1.5" refused
        "#]],
    );
    check(
        &schema(
            r##"{"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}"##,
        ),
        &["[[], [[]]]", "[1"],
        expect![[r#"
            "[[], [[]]]" complete
            "[1" refused
        "#]],
    );
}

#[test]
fn schemas_that_are_refused() {
    let tokenizer = demo_tokenizer();
    let grammars = Grammars::new(&tokenizer, 1).unwrap();
    let mut lines = String::new();
    for text in [
        "true",
        "[",
        r#"{"type": "strnig"}"#,
        r#"{"not": {}}"#,
        r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#,
        r#"{"pattern": "(", "type": "string"}"#,
        r#"{"$ref": "https://example.com/schema"}"#,
        r##"{"$ref": "#"}"##,
        r#"{"x-guidance": {"lenient": true}}"#,
        r#"{"type": "integer", "minimum": 5, "maximum": 4}"#,
        r#"{"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}"#,
        r#"{"multipleOf": 1e300}"#,
        r#"{"type": "array", "prefixItems": [{"multipleOf": 0.25}, {"multipleOf": 60}]}"#,
    ] {
        let said = match compile(&grammars, &schema(text)) {
            Ok(_) => "compiles".to_owned(),
            Err(error) => {
                let refusal = error.refusal();
                assert_eq!(refusal.kind, RefusalKind::BadRequest);
                assert_eq!(refusal.param.as_deref(), Some("response_format"));
                refusal.message
            }
        };
        writeln!(lines, "{text}\n    {said}").unwrap();
    }
    expect![[r##"
        true
            the schema cannot be followed: a schema is a JSON object, like {"type": "object"}
        [
            the schema cannot be followed: EOF while parsing a list at line 1 column 1
        {"type": "strnig"}
            the schema cannot be followed: Invalid type: strnig
        {"not": {}}
            the schema cannot be followed: Unimplemented keys: ["not"]
        {"oneOf": [{"type": "integer"}, {"type": "number"}]}
            the schema cannot be followed: oneOf constraints are not supported
        {"pattern": "(", "type": "string"}
            the schema cannot be followed: regex parse error: ( ^ error: unclosed group
        {"$ref": "https://example.com/schema"}
            the schema cannot be followed: Only absolute $ref's (#/...) are supported
        {"$ref": "#"}
            the schema cannot be followed: there is nothing that it allows
        {"x-guidance": {"lenient": true}}
            the schema has `x-guidance`, which is no part of JSON Schema: leave it out
        {"type": "integer", "minimum": 5, "maximum": 4}
            the schema cannot be followed: Unsatisfiable schema: minimum (5) is greater than maximum (4)
        {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}
            the schema's `multipleOf` have no common multiple up to 1000 (of the last digit): use fewer, or smaller ones
        {"multipleOf": 1e300}
            the schema's `multipleOf` have no common multiple up to 1000 (of the last digit): use fewer, or smaller ones
        {"type": "array", "prefixItems": [{"multipleOf": 0.25}, {"multipleOf": 60}]}
            the schema's `multipleOf` have no common multiple up to 1000 (of the last digit): use fewer, or smaller ones
    "##]].assert_eq(&lines);
}

#[test]
fn numbers_and_their_multiples() {
    let multiple = |texts: &[&str]| {
        let numbers: Option<Vec<_>> = texts.iter().map(|text| decimal(text)).collect();
        common_multiple(&numbers?)
    };
    assert_eq!(multiple(&[]), Some(1));
    assert_eq!(multiple(&["0.01"]), Some(1));
    assert_eq!(multiple(&["0.010", "5"]), Some(500));
    assert_eq!(multiple(&["1.5e1", "4"]), Some(60));
    assert_eq!(multiple(&["1e-3", "1e3"]), Some(1_000_000));
    assert_eq!(multiple(&["-5"]), None);
    assert_eq!(multiple(&["1e19", "3"]), None);
    assert_eq!(multiple(&["1e-300", "1"]), None);
}

#[test]
fn there_are_so_many_places_and_each_is_given_back() {
    let grammars = Grammars::new(&demo_tokenizer(), 2).unwrap();
    let first = compile(&grammars, &Format::Json).unwrap();
    let second = first.clone();
    let full = compile(&grammars, &Format::Json).unwrap_err();
    assert_eq!(full.refusal().kind, RefusalKind::Overloaded);
    drop(first);
    compile(&grammars, &Format::Json).unwrap();
    drop(second);
    // What fails to compile keeps none.
    for _ in 0..3 {
        assert!(matches!(
            compile(&grammars, &schema("[]")),
            Err(GrammarError::Schema(_))
        ));
    }
    compile(&grammars, &Format::Json).unwrap();
}

#[test]
fn a_copy_goes_its_own_way() {
    let tokenizer = demo_tokenizer();
    let grammars = Grammars::new(&tokenizer, 4).unwrap();
    let mut one = compile(&grammars, &Format::Json).unwrap();
    assert_eq!(read(&tokenizer, &mut one, "{\"a"), "open");
    let mut other = one.clone();
    assert_eq!(one, other);
    assert_eq!(read(&tokenizer, &mut one, "\": 1}"), "complete");
    assert_ne!(one, other);
    assert_eq!(read(&tokenizer, &mut other, "b\": {}}"), "complete");
}

/// The library catches its own panics, which a release build cannot: so none may be found.
#[test]
fn hostile_schemas_are_refused_or_followed_within_the_limits() {
    let tokenizer = demo_tokenizer();
    let grammars = Grammars::new(&tokenizer, 1).unwrap();
    let mut compiled = 0;
    for seed in 0..400 {
        let text = hostile(seed);
        match compile(&grammars, &schema(&text)) {
            Ok(mut grammar) => {
                compiled += 1;
                for step in 0..60 {
                    let Some(token) = any_of(grammar.allowed(), splitmix(seed << 8 | step)) else {
                        panic!("nothing may come: {text}");
                    };
                    if grammar.accept(token) != Progress::Open {
                        break;
                    }
                }
                let error = grammar.matcher.get_error().unwrap_or_default();
                assert!(!error.contains("panic"), "{error}: {text}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains("panic"), "{error}: {text}");
            }
        }
    }
    assert!(compiled > 40, "{compiled} compile");
}

/// The deepest schema of the most bytes: arrays in arrays, and names that lead to them.
#[test]
fn the_deepest_schema_has_stack_enough() {
    let grammars = Grammars::new(&demo_tokenizer(), 1).unwrap();
    for (open, close) in [
        ("{\"anyOf\":[", "]}"),
        ("{\"items\":", "}"),
        ("{\"allOf\":[", "]}"),
    ] {
        let mut text = "{\"$ref\":\"#/$defs/0\",\"$defs\":{".to_owned();
        let mut number = 0;
        while text.len() < limits::SCHEMA_BYTES_MAX - 1200 {
            let (open, close) = (open.repeat(50), close.repeat(50));
            let next = number + 1;
            let def = format!("\"{number}\":{open}{{\"$ref\":\"#/$defs/{next}\"}}{close},");
            text.push_str(&def);
            number = next;
        }
        write!(text, "\"{number}\":{{\"type\":\"string\"}}}}}}").unwrap();
        assert!(text.len() <= limits::SCHEMA_BYTES_MAX);
        let _ = compile(&grammars, &schema(&text));
    }
}

/// One of the tokens that may come.
fn any_of(allowed: &[u32], dice: u64) -> Option<u32> {
    let tokens: Vec<u32> = (0..)
        .zip(allowed)
        .flat_map(|(word, bits)| {
            (0..32).filter_map(move |bit| (bits >> bit & 1 == 1).then_some(32 * word + bit))
        })
        .collect();
    let count = tokens.len() as u64;
    let index = usize::try_from(dice.checked_rem(count)?).unwrap();
    Some(tokens[index])
}

/// A schema of real words in wrong places.
fn hostile(seed: u64) -> String {
    let mut dice = Dice(seed);
    let kind = dice.pick("string integer object array number");
    let rest = value(0, &mut dice);
    match rest.strip_prefix('{') {
        Some(rest) if rest.len() > 1 => format!("{{\"type\":\"{kind}\",{rest}"),
        _ => format!("{{\"type\":\"{kind}\",\"items\":{rest}}}"),
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = splitmix(self.0);
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick(&mut self, words: &'static str) -> &'static str {
        let words: Vec<_> = words.split_whitespace().collect();
        words[self.roll(words.len())]
    }
}

fn value(depth: u32, dice: &mut Dice) -> String {
    match dice.roll(if depth > 4 { 1 } else { 4 }) {
        0 => dice.pick(VALUES).to_owned(),
        1 => {
            let items: Vec<_> = (0..dice.roll(3)).map(|_| value(depth + 1, dice)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let fields: Vec<_> = (0..=dice.roll(3)).map(|_| field(depth, dice)).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}

fn field(depth: u32, dice: &mut Dice) -> String {
    let key = if dice.roll(4) == 0 {
        "a"
    } else {
        dice.pick(KEYS)
    };
    // Most values are where they belong, or nothing would ever compile.
    let value = match (key, dice.roll(4)) {
        ("type", 1..) => dice.pick(TYPES).to_owned(),
        ("pattern", 1..) => dice.pick(PATTERNS).to_owned(),
        ("minimum" | "maxLength" | "minItems" | "maxItems", 1..) => dice.pick(NUMBERS).to_owned(),
        _ => value(depth + 1, dice),
    };
    format!("\"{key}\":{value}")
}

const KEYS: &str = "type properties items anyOf allOf oneOf enum const required minimum maximum multipleOf minLength \
                    maxLength pattern format minItems maxItems prefixItems additionalProperties patternProperties $ref \
                    $defs minProperties exclusiveMinimum description";
const TYPES: &str = r#""string" "integer" "number" "object" "array" "boolean" "null""#;
const NUMBERS: &str = "0 -1 3 1e9 1e-9 18446744073709551615";
const PATTERNS: &str = r#""^a+$" "(a|b){2,9}c" "^(a?){9}$" "\\d+\\b" "[^\"\\\\]*""#;
const VALUES: &str = r##""string" "integer" "array" true null 0 -1 3 1e9 1e-9 18446744073709551615 "^a+$" "(a|b){2,9}c"
    "date-time" "uuid" "#" "#/$defs/a" ["a","b"] "\ud83d\ude00" "\ud83d""##;
