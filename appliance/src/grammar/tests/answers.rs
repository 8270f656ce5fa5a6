//! A model with random weights has every reason to say something else: what it says under a form is of that form.

use std::time::Duration;

use outstation_kernels::{KvFormat, Team, isa};
use serde_json::Value;

use super::*;
use crate::engine::cpu::{self, CpuEngine, EngineSize};
use crate::kv::blocks_for;
use crate::model::Model;
use crate::request::{RequestId, Sampling, Submission};
use crate::scheduler::pace::Targets;
use crate::scheduler::{Event, Outcome, SchedulerLimits, logits_rows_max};
use crate::station::{Measures, Station, StepOutcome};

const CONTEXT: u32 = 640;
const SEQUENCES: u32 = 8;

struct Rig {
    tokenizer: Tokenizer,
    grammars: Grammars,
    station: Station<CpuEngine>,
}

/// What came of a request.
#[derive(Debug, PartialEq)]
struct Answer {
    outcome: Outcome,
    tokens: Vec<u32>,
    text: String,
}

impl Rig {
    fn new() -> Self {
        let file = crate::generate::demo(1);
        let model = Model::from_gguf(&Gguf::parse(&file).unwrap()).unwrap();
        let tokenizer = demo_tokenizer();
        let kv_blocks = SEQUENCES * blocks_for(CONTEXT);
        let limits = SchedulerLimits {
            sequences_max: SEQUENCES,
            queue_requests_max: 8,
            queue_tokens_max: 4 * CONTEXT,
            context_tokens_max: CONTEXT,
            step_columns_max: 64,
            kv_blocks,
            end_tokens: tokenizer.ends_generation().into(),
            targets: [Targets::UNHURRIED; 3],
        };
        let size = EngineSize {
            columns_max: limits.step_columns_max,
            logits_rows_max: logits_rows_max(SEQUENCES),
            kv_blocks,
            kv: KvFormat::of(isa::detect(), model.dims.head_dim),
        };
        let mut team = Team::new(1);
        let mut weights = vec![0; model.packed_bytes];
        cpu::pack(&model, &file, &mut team, &mut weights, |_| ());
        let cache = vec![0_u8; CpuEngine::cache_bytes(&model, size)];
        let (weights, cache) = (Box::new(weights), Box::new(cache));
        let engine = CpuEngine::new(model, weights, cache, isa::detect(), team, size);
        let mut station = Station::new(limits, engine);
        station.measure(Measures::Certainty);
        Self {
            grammars: Grammars::new(&tokenizer, 2 * SEQUENCES).unwrap(),
            tokenizer,
            station,
        }
    }

    fn submission(&self, id: u64, format: &Format, sampling: Sampling) -> Submission {
        let prompt = self
            .tokenizer
            .encode("tilt the antenna", Special::Plain, Bos::Omit);
        Submission {
            sampling,
            seed: id,
            grammar: self.grammars.compile(format).unwrap(),
            ..Submission::new(RequestId(id), prompt, 600)
        }
    }

    /// Runs requests together.
    fn run(&mut self, submissions: Vec<Submission>) -> Vec<Answer> {
        let mut answers: Vec<_> = submissions.iter().map(|s| (s.id, None)).collect();
        let mut now = Duration::ZERO;
        let mut clock = || {
            now += Duration::from_micros(10);
            now
        };
        for submission in submissions {
            let now = clock();
            self.station.handle_submit(now, now, Box::new(submission));
        }
        while self.station.step(&mut clock) == StepOutcome::Worked {
            while let Some(event) = self.station.poll_event() {
                let Event::Ended {
                    outcome,
                    submission,
                    ..
                } = event
                else {
                    continue;
                };
                let place = answers.iter_mut().find(|a| a.0 == submission.id);
                place.unwrap().1 = Some(Answer {
                    outcome,
                    tokens: submission.answer().to_vec(),
                    text: self.tokenizer.decode(submission.answer()),
                });
            }
        }
        answers.into_iter().map(|a| a.1.unwrap()).collect()
    }
}

/// Whether a value is what a schema says, as far as the schemas below go.
fn fits(schema: &Value, value: &Value) -> bool {
    let whole = |key: &str| schema[key].as_u64().map(|n| usize::try_from(n).unwrap());
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| fits(option, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    match schema["type"].as_str() {
        None => true,
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.as_str().is_some_and(|text| {
            let count = text.chars().count();
            (whole("minLength").unwrap_or(0)..=whole("maxLength").unwrap_or(usize::MAX))
                .contains(&count)
        }),
        // -0 is an integer, and serde's first float.
        Some("integer") => whole_number(value).is_some_and(|number| {
            schema["minimum"]
                .as_i64()
                .is_none_or(|least| number >= least)
                && schema["maximum"].as_i64().is_none_or(|most| number <= most)
        }),
        Some("number") => value.is_number(),
        Some("array") => value.as_array().is_some_and(|items| {
            items.iter().all(|item| fits(&schema["items"], item))
                && items.len() >= whole("minItems").unwrap_or(0)
                && items.len() <= whole("maxItems").unwrap_or(usize::MAX)
        }),
        Some("object") => value.as_object().is_some_and(|fields| {
            let properties = &schema["properties"];
            let required = schema["required"].as_array().into_iter().flatten();
            let closed = schema["additionalProperties"] == Value::Bool(false);
            required
                .map(|name| name.as_str().unwrap())
                .all(|name| fields.contains_key(name))
                && fields
                    .iter()
                    .all(|(name, field)| match properties.get(name) {
                        Some(schema) => fits(schema, field),
                        None => !closed,
                    })
        }),
        Some(other) => panic!("{other} is not in the schemas below"),
    }
}

fn whole_number(value: &Value) -> Option<i64> {
    let zero = value.as_f64().filter(|number| *number == 0.0).map(|_| 0);
    value.as_i64().or(zero)
}

/// Schemas all of whose answers end within the tokens that there are.
const BOUNDED: [&str; 4] = [
    r#"{"type": "object", "properties": {"site": {"type": "string", "minLength": 1, "maxLength": 8},
        "severity": {"enum": ["low", "middle", "high"]}, "tilt": {"type": "integer", "minimum": -20, "maximum": 20},
        "acked": {"type": "boolean"}}, "required": ["site", "severity", "tilt", "acked"],
        "additionalProperties": false}"#,
    r#"{"type": "array", "minItems": 1, "maxItems": 4, "items": {"anyOf": [{"type": "null"},
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99},
        "b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": false}]}}"#,
    r#"{"enum": ["north", "north-east", "east", 17, null, {"a": [1]}]}"#,
    r#"{"type": "object", "properties": {"first": {"type": "array", "maxItems": 2, "items": {"type": "array",
        "maxItems": 2, "items": {"type": "string", "maxLength": 4}}}}, "required": ["first"],
        "additionalProperties": false}"#,
];

fn samplings(seed: u64) -> Sampling {
    let [temperature, top_p] = [
        [0.0, 1.0],
        [0.6, 1.0],
        [1.0, 0.9],
        [1.0, 1.0],
        [3.0, 1.0],
        [100.0, 1.0],
    ][usize::try_from(seed % 6).unwrap()];
    Sampling {
        temperature,
        top_p,
        repetition_penalty: if seed % 4 == 3 { 1.3 } else { 1.0 },
        logit_bias: if seed % 5 == 4 {
            vec![(300, 100.0)]
        } else {
            Vec::new()
        },
        ..Sampling::default()
    }
}

#[test]
fn every_answer_of_a_schema_is_of_it() {
    let mut rig = Rig::new();
    for text in BOUNDED {
        let format = schema(text);
        let schema: Value = serde_json::from_str(text).unwrap();
        let mut different = std::collections::BTreeSet::new();
        for batch in 0..6 {
            let submissions = (0..SEQUENCES)
                .map(|index| u64::from(batch * SEQUENCES + index))
                .map(|id| rig.submission(id, &format, samplings(id)))
                .collect();
            for answer in rig.run(submissions) {
                let value: Value = serde_json::from_str(&answer.text)
                    .unwrap_or_else(|e| panic!("{e}: {answer:?}"));
                assert!(fits(&schema, &value), "{}", answer.text);
                assert_eq!(answer.outcome, Outcome::Stop, "{}", answer.text);
                different.insert(answer.text);
            }
        }
        assert!(different.len() > 10, "{different:?}");
    }
}

#[test]
fn every_answer_is_json_or_the_beginning_of_it() {
    let mut rig = Rig::new();
    let formats = [
        Format::Json,
        schema("{}"),
        schema(r#"{"type": "integer"}"#),
        schema(r#"{"type": "array", "items": {"type": "number"}}"#),
    ];
    let mut ended = [0; 4];
    for (format, ended) in formats.iter().zip(&mut ended) {
        for batch in 0..4 {
            let submissions = (0..SEQUENCES)
                .map(|index| u64::from(batch * SEQUENCES + index))
                .map(|id| rig.submission(id, format, samplings(id)))
                .collect();
            for answer in rig.run(submissions) {
                let read = serde_json::from_str::<Value>(&answer.text);
                match (answer.outcome, read) {
                    (Outcome::Stop, Ok(value)) => {
                        assert!(*format != Format::Json || value.is_object());
                        *ended += 1;
                    }
                    // A number is whole at any digit, and may be too large for serde.
                    (Outcome::Length, Ok(_)) => {}
                    (_, Err(error)) if error.to_string().contains("out of range") => {}
                    (Outcome::Length, Err(error)) if error.is_eof() => {}
                    (outcome, read) => panic!("{outcome:?} {read:?}: {}", answer.text),
                }
            }
        }
    }
    assert!(ended.iter().all(|&ended| ended > 0), "{ended:?}");
}

/// In a crowd nothing is guessed; alone much is, and nothing that the grammar forbids is taken.
#[test]
fn an_answer_is_the_same_alone_and_in_a_crowd() {
    let mut rig = Rig::new();
    let formats = [schema(BOUNDED[0]), schema(BOUNDED[3]), Format::Json];
    let make = |rig: &Rig, id: u64| {
        let form = &formats[usize::try_from(id % 4).unwrap().min(2)];
        let mut submission = rig.submission(id, form, samplings(id));
        if id % 4 == 3 {
            submission.grammar = None;
        }
        submission.tokens_max = 200;
        submission
    };
    for crowd in 0..4 {
        let ids: Vec<u64> = (0..u64::from(SEQUENCES))
            .map(|n| 100 + 8 * crowd + n)
            .collect();
        let together = ids.iter().map(|&id| make(&rig, id)).collect();
        let together = rig.run(together);
        for (&id, crowded) in ids.iter().zip(together) {
            let alone = make(&rig, id);
            assert_eq!(rig.run(vec![alone]), [crowded]);
        }
    }
    let totals = rig.station.totals().scheduler;
    assert!(totals.guessed_right > 20, "{totals:?}");
    assert!(totals.guessed > totals.guessed_right + 20, "{totals:?}");
}

#[test]
fn a_form_that_grows_past_the_limits_ends_with_a_word() {
    let mut rig = Rig::new();
    let format = schema(r#"{"type": "string", "pattern": "^(([a-z ]{1,50}){1,50}){1,50}$"}"#);
    let submission = rig.submission(1, &format, Sampling::default());
    let answers = rig.run(vec![submission]);
    assert_eq!(answers[0].outcome, Outcome::Form);
}
