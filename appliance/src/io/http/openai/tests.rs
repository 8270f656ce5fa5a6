//! Bodies as data: what they mean, or why they are refused.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;

fn show(endpoint: Endpoint, body: &str) -> String {
    match parse(endpoint, body.as_bytes()) {
        Ok(asked) => {
            // Only what differs from a request that says nothing.
            let default = format!("{:#?}", GenerateRequest::default());
            let lines = format!("{:#?}", asked.request);
            let lines: Vec<_> = lines
                .lines()
                .filter(|line| !default.lines().any(|known| known == *line))
                .map(str::trim)
                .collect();
            let choices = match asked.choices {
                1 => String::new(),
                many => format!(" ×{many}"),
            };
            format!("{:?}{choices}: {}", asked.delivery, lines.join(" "))
        }
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::BadRequest);
            format!(
                "400 {}: {}",
                refusal.param.as_deref().unwrap_or("-"),
                refusal.message
            )
        }
    }
}

fn check_all(endpoint: Endpoint, bodies: &[&str], expected: &Expect) {
    let shown: Vec<_> = bodies.iter().map(|body| show(endpoint, body)).collect();
    expected.assert_eq(&shown.join("\n"));
}

/// Adds one field to a good chat body.
fn with(fields: &[&str]) -> String {
    let plain = show(
        Endpoint::Chat,
        r#"{"messages": [{"role": "user", "content": "hi"}]}"#,
    );
    let mut lines = String::new();
    for field in fields {
        let body = format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], {field}}}"#);
        let shown = show(Endpoint::Chat, &body);
        let verdict = if shown == plain { "accepted" } else { &shown };
        writeln!(lines, "{field} => {verdict}").expect("a String takes all");
    }
    lines
}

#[test]
fn chats() {
    check_all(
        Endpoint::Chat,
        &[
            r#"{"messages": [{"role": "user", "content": "hi"}]}"#,
            r#"{"model": "m", "stream": true, "stream_options": {"include_usage": true},
                "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                             {"role": "assistant", "content": null, "tool_calls": [], "refusal": null}],
                "max_completion_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "seed": -1,
                "stop": ["a", "b"], "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5,
                "logit_bias": {"7": -100}, "min_tokens": 2, "ignore_eos": true}"#,
        ],
        &expect![[r#"
            Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ],
            Stream { include_usage: true }: model: Some( "m", prompt: Chat( [ ChatMessage { role: "system", content: "ab", }, ChatMessage { role: "assistant", content: "", }, ], max_tokens: Some( 5, min_tokens: 2, ignore_eos: true, temperature: 0.0, top_p: 0.5, min_p: 0.1, repetition_penalty: 1.5, presence_penalty: 1.0, frequency_penalty: -1.0, seed: Some( 18446744073709551615, ), logit_bias: [ ( 7, -100.0, ), ], stop: [ "a", "b", ], stream: true,"#]],
    );
}

#[test]
fn chats_that_are_refused() {
    check_all(
        Endpoint::Chat,
        &[
            "",
            "[]",
            "{\"messages\": [\n  {\"role\" \"user\"}]}",
            r#"{"messages": []}"#,
            r#"{"messages": null}"#,
            r#"{"messages": "hi"}"#,
            r#"{"messages": [{"role": "user"}]}"#,
            r#"{"messages": [{"content": "hi"}]}"#,
            r#"{"messages": [{"role": "tool", "content": "hi"}]}"#,
            r#"{"messages": [{"role": "pirate", "content": "hi"}]}"#,
            r#"{"messages": [{"role": "user", "content": "hi", "name": "Bob"}]}"#,
            r#"{"messages": [{"role": "user", "content": "hi", "nmae": "Bob"}]}"#,
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
            r#"{"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}"#,
            r#"{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "max_completion_tokens": 5}"#,
            r#"{"messages": [{"role": "user", "content": "hi"}]} {}"#,
        ],
        &expect![[r#"
            400 -: the body is not the JSON object it should be: EOF while parsing a value at line 1 column 0
            400 -: the body is not the JSON object it should be: invalid type: sequence, expected a JSON object at line 1 column 0
            400 -: the body is not the JSON object it should be: expected `:` at line 2 column 11
            400 messages: `messages` is empty
            400 messages: `messages` is missing
            400 messages: `messages`: invalid type: string "hi", expected a sequence at line 1 column 17
            400 messages: `messages`: a message has no `content` at line 1 column 30
            400 messages: `messages`: a message has no `role` at line 1 column 31
            400 messages: `messages`: tools are not supported yet, so nothing answers one at line 1 column 29
            400 messages: `messages`: no role is `pirate`: system, developer, user and assistant are at line 1 column 31
            400 messages: `messages`: a message's `name` has no effect yet: leave it out at line 1 column 62
            400 messages: `messages`: a message has no field `nmae` at line 1 column 54
            400 messages: `messages`: a part of type `image_url`: only text parts with a `text` are supported at line 1 column 92
            400 prompt: `prompt`: it is not a field of this endpoint at line 1 column 58
            400 max_completion_tokens: max_tokens is 4 and max_completion_tokens 5: they mean the same, send one
            400 -: the body is not the JSON object it should be: trailing characters at line 1 column 51"#]],
    );
}

#[test]
fn how_long_it_can_wait_and_how_many_answers() {
    expect![[r#"
        "service_tier": "auto" => accepted
        "service_tier": "flex" => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], class: Batch,
        "service_tier": "default" => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], class: Standard,
        "service_tier": "soon" => 400 service_tier: `service_tier`: unknown variant `soon`, expected one of `auto`, `priority`, `default`, `flex` at line 1 column 72
        "n": 2 => Whole ×2: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ],
        "n": 0 => 400 n: n is 0: it must be from 1 to 16
        "n": 17 => 400 n: n is 17: it must be from 1 to 16
    "#]]
    .assert_eq(&with(&[
        r#""service_tier": "auto""#,
        r#""service_tier": "flex""#,
        r#""service_tier": "default""#,
        r#""service_tier": "soon""#,
        r#""n": 2"#,
        r#""n": 0"#,
        r#""n": 17"#,
    ]));
}

#[test]
fn of_who_asks_a_hash_is_kept() {
    expect![[r#"
        "user": "u" => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], end_user: 12638200394695180528,
        "safety_identifier": "u" => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], end_user: 12638200394695180528,
        "user": null => accepted
        "user": 7 => 400 user: `user`: invalid type: integer `7`, expected a string at line 1 column 59
    "#]].assert_eq(&with(&[
        r#""user": "u""#,
        r#""safety_identifier": "u""#,
        r#""user": null"#,
        r#""user": 7"#,
    ]));
}

#[test]
fn log_probabilities() {
    expect![[r#"
        "logprobs": true => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], logprobs: Some(
        "logprobs": true, "top_logprobs": 3 => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], logprobs: Some( 3,
        "logprobs": null, "top_logprobs": null => accepted
        "logprobs": false, "top_logprobs": 3 => 400 top_logprobs: `top_logprobs` goes only with `logprobs: true`
        "top_logprobs": 3 => 400 top_logprobs: `top_logprobs` goes only with `logprobs: true`
        "logprobs": true, "top_logprobs": -1 => 400 top_logprobs: `top_logprobs`: invalid value: integer `-1`, expected u32 at line 1 column 86
        "logprobs": 5 => 400 logprobs: `logprobs`: invalid type: integer `5`, expected a boolean at line 1 column 63
    "#]].assert_eq(&with(&[
        r#""logprobs": true"#,
        r#""logprobs": true, "top_logprobs": 3"#,
        r#""logprobs": null, "top_logprobs": null"#,
        r#""logprobs": false, "top_logprobs": 3"#,
        r#""top_logprobs": 3"#,
        r#""logprobs": true, "top_logprobs": -1"#,
        r#""logprobs": 5"#,
    ]));
    check_all(
        Endpoint::Completions,
        &[
            r#"{"prompt": "hi", "logprobs": 5}"#,
            r#"{"prompt": "hi", "logprobs": true}"#,
            r#"{"prompt": "hi", "top_logprobs": 5}"#,
        ],
        &expect![[r#"
            Whole: "hi", max_tokens: Some( 16, logprobs: Some( 5,
            400 logprobs: `logprobs`: invalid type: boolean `true`, expected u32 at line 1 column 33
            400 top_logprobs: `top_logprobs`: it is not a field of this endpoint: did you mean `logprobs`? at line 1 column 31"#]],
    );
}

#[test]
fn fields_without_effect_may_only_ask_for_none() {
    let accepted = [
        r#""n": 1"#,
        r#""logprobs": false"#,
        r#""top_logprobs": 0"#,
        r#""tools": []"#,
        r#""tools": null"#,
        r#""tool_choice": "none""#,
        r#""response_format": {"type": "text"}"#,
        r#""modalities": ["text"]"#,
        r#""prompt_cache_key": "k""#,
        r#""metadata": {"a": {"b": [1]}}"#,
        r#""store": false"#,
        r#""service_tier": "auto""#,
        r#""temperature": null"#,
        r#""stop": null"#,
        r#""logit_bias": {}"#,
        r#""max_tokens": null"#,
        r#""chat_template_kwargs": {}"#,
    ];
    let shown = with(&accepted);
    assert_eq!(
        shown.matches("=> accepted\n").count(),
        accepted.len(),
        "{shown}"
    );
    expect![[r#"
        "tools": [{"type": "function"}] => 400 tools: `tools`: it has no effect yet: leave it out, or send an empty value at line 1 column 82
        "tool_choice": {"type": "function"} => 400 tool_choice: `tool_choice`: it has no effect yet: leave it out, or send "none" or "auto" at line 1 column 86
        "modalities": ["text", "audio"] => 400 modalities: `modalities`: it has no effect yet: leave it out, or send ["text"] at line 1 column 82
        "store": true => 400 store: `store`: it has no effect yet: leave it out, or send false at line 1 column 64
        "reasoning_effort": "low" => 400 reasoning_effort: `reasoning_effort`: it has no effect yet: leave it out, or send null at line 1 column 76
    "#]].assert_eq(&with(&[
        r#""tools": [{"type": "function"}]"#,
        r#""tool_choice": {"type": "function"}"#,
        r#""modalities": ["text", "audio"]"#,
        r#""store": true"#,
        r#""reasoning_effort": "low""#,
    ]));
}

#[test]
fn forms_of_the_answer() {
    expect![[r#"
        "response_format": null => accepted
        "response_format": {"type": "json_object"} => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], format: Json,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a-1", "schema": {"type": "integer"}}} => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], format: Schema( "{\"type\": \"integer\"}",
        "response_format": {"json_schema": {"strict": true, "schema": {"a":[ 1]}, "name": "b"}, "type": "json_schema"} => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], format: Schema( "{\"a\":[ 1]}",
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "description": "d", "strict": null}} => Whole: prompt: Chat( [ ChatMessage { role: "user", content: "hi", }, ], format: Json,
        "response_format": {"type": "json_schema"} => 400 response_format: `response_format`: its `json_schema` is missing at line 1 column 92
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}} => 400 response_format: `response_format`: `json_schema.name` must be 1 to 64 letters, digits, `_` or `-` at line 1 column 122
        "response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}} => 400 response_format: `response_format`: `json_schema.name` must be 1 to 64 letters, digits, `_` or `-` at line 1 column 137
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "shcema": {}}} => 400 response_format: `response_format`: `json_schema` has no field `shcema`: it has name, description, schema and strict at line 1 column 130
        "response_format": {"type": "json_object", "json_schema": {"name": "a"}} => 400 response_format: `response_format`: `json_schema` goes only with `"type": "json_schema"` at line 1 column 122
        "response_format": {"type": "text", "strict": true} => 400 response_format: `response_format`: `response_format` has no field `strict`: it has type and json_schema at line 1 column 94
        "response_format": {"type": "grammar"} => 400 response_format: `response_format`: no type is `grammar`: text, json_object and json_schema are at line 1 column 88
        "response_format": {} => 400 response_format: `response_format`: its `type` is missing at line 1 column 71
        "response_format": "json" => 400 response_format: `response_format`: invalid type: string "json", expected an object with a `type` at line 1 column 75
    "#]].assert_eq(&with(&[
        r#""response_format": null"#,
        r#""response_format": {"type": "json_object"}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a-1", "schema": {"type": "integer"}}}"#,
        r#""response_format": {"json_schema": {"strict": true, "schema": {"a":[ 1]}, "name": "b"}, "type": "json_schema"}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "c", "description": "d", "strict": null}}"#,
        r#""response_format": {"type": "json_schema"}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"schema": {}}}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a", "shcema": {}}}"#,
        r#""response_format": {"type": "json_object", "json_schema": {"name": "a"}}"#,
        r#""response_format": {"type": "text", "strict": true}"#,
        r#""response_format": {"type": "grammar"}"#,
        r#""response_format": {}"#,
        r#""response_format": "json""#,
    ]));
}

#[test]
fn values_and_names_that_are_wrong() {
    expect![[r#"
        "temprature": 1 => 400 temprature: `temprature`: it is not a field of this endpoint: did you mean `temperature`? at line 1 column 62
        "max_token": 1 => 400 max_token: `max_token`: it is not a field of this endpoint: did you mean `max_tokens`? at line 1 column 61
        "repeat_penalty": 1 => 400 repeat_penalty: `repeat_penalty`: it is not a field of this endpoint at line 1 column 66
        "xyzzy": 1 => 400 xyzzy: `xyzzy`: it is not a field of this endpoint at line 1 column 57
        "temperature": "hot" => 400 temperature: `temperature`: invalid type: string "hot", expected f32 at line 1 column 70
        "max_tokens": -1 => 400 max_tokens: `max_tokens`: invalid value: integer `-1`, expected u32 at line 1 column 66
        "max_tokens": 1.5 => 400 max_tokens: `max_tokens`: invalid type: floating point `1.5`, expected u32 at line 1 column 67
        "max_tokens": 5000000000 => 400 max_tokens: `max_tokens`: invalid value: integer `5000000000`, expected u32 at line 1 column 74
        "top_k": -2 => 400 top_k: `top_k`: it must be -1, 0 or a count of tokens at line 1 column 62
        "stop": 1 => 400 stop: `stop`: invalid type: integer `1`, expected a string or an array of strings at line 1 column 59
        "stop": ["a", 1] => 400 stop: `stop`: invalid type: integer `1`, expected a string at line 1 column 65
        "seed": 1.5 => 400 seed: `seed`: invalid type: floating point `1.5`, expected a whole number at line 1 column 61
        "logit_bias": {"a": 1} => 400 logit_bias: `logit_bias`: a key is not a token id at line 1 column 68
        "logit_bias": [1] => 400 logit_bias: `logit_bias`: invalid type: sequence, expected an object of token ids and biases at line 1 column 64
        "stream": "yes" => 400 stream: `stream`: invalid type: string "yes", expected a boolean at line 1 column 65
        "stream_options": {"include_usage": true} => 400 stream_options: `stream_options` goes only with `stream: true`
        "stream": true, "stream_options": {"include": true} => 400 stream_options: `stream_options`: stream_options has include_usage and nothing else at line 1 column 94
        "a": 
         NaN => 400 a: `a`: it is not a field of this endpoint: did you mean `n`? at line 1 column 53
    "#]].assert_eq(&with(&[
        r#""temprature": 1"#,
        r#""max_token": 1"#,
        r#""repeat_penalty": 1"#,
        r#""xyzzy": 1"#,
        r#""temperature": "hot""#,
        r#""max_tokens": -1"#,
        r#""max_tokens": 1.5"#,
        r#""max_tokens": 5000000000"#,
        r#""top_k": -2"#,
        r#""stop": 1"#,
        r#""stop": ["a", 1]"#,
        r#""seed": 1.5"#,
        r#""logit_bias": {"a": 1}"#,
        r#""logit_bias": [1]"#,
        r#""stream": "yes""#,
        r#""stream_options": {"include_usage": true}"#,
        r#""stream": true, "stream_options": {"include": true}"#,
        "\"a\": \n NaN",
    ]));
}

#[test]
fn completions() {
    check_all(
        Endpoint::Completions,
        &[
            r#"{"prompt": "hi"}"#,
            r#"{"prompt": [1, 2, 3], "max_tokens": 7, "echo": false, "best_of": 1, "logprobs": null}"#,
            r#"{"prompt": ["hi"]}"#,
            r#"{"prompt": [[4, 5]]}"#,
            r#"{"prompt": []}"#,
            r#"{"prompt": ["a", "b"]}"#,
            r#"{"prompt": [[1], [2]]}"#,
            r#"{"prompt": [1, "a"]}"#,
            r#"{"prompt": [-1]}"#,
            r#"{"prompt": [4294967296]}"#,
            r#"{"prompt": 7}"#,
            r#"{"max_tokens": 7}"#,
            r#"{"prompt": "hi", "logprobs": 0}"#,
            r#"{"prompt": "hi", "echo": true}"#,
            r#"{"prompt": "hi", "suffix": "x"}"#,
            r#"{"prompt": "hi", "messages": []}"#,
            r#"{"prompt": "hi", "max_completion_tokens": 5}"#,
            r#"{"prompt": "hi", "response_format": {"type": "json_object"}}"#,
        ],
        &expect![[r#"
            Whole: "hi", max_tokens: Some( 16,
            Whole: prompt: Ids( [ 1, 2, 3, ], max_tokens: Some( 7,
            Whole: "hi", max_tokens: Some( 16,
            Whole: prompt: Ids( [ 4, 5, ], max_tokens: Some( 16,
            Whole: prompt: Ids( [], max_tokens: Some( 16,
            400 prompt: `prompt`: a request has one prompt here: send each in a request of its own at line 1 column 21
            400 prompt: `prompt`: a request has one prompt here: send each in a request of its own at line 1 column 21
            400 prompt: `prompt`: a request has one prompt here: send each in a request of its own at line 1 column 19
            400 prompt: `prompt`: no token id is -1 at line 1 column 14
            400 prompt: `prompt`: no token id is 4294967296 at line 1 column 22
            400 prompt: `prompt`: invalid type: integer `7`, expected a text or an array of token ids at line 1 column 12
            400 prompt: `prompt` is missing
            Whole: "hi", max_tokens: Some( 16, logprobs: Some(
            400 echo: `echo`: it has no effect yet: leave it out, or send false at line 1 column 30
            400 suffix: `suffix`: it has no effect yet: leave it out, or send an empty value at line 1 column 31
            400 messages: `messages`: it is not a field of this endpoint at line 1 column 27
            400 max_completion_tokens: `max_completion_tokens`: it is not a field of this endpoint at line 1 column 40
            400 response_format: `response_format`: it has no effect yet: leave it out, or send {"type": "text"} at line 1 column 60"#]],
    );
}
