//! Bodies as data: what they mean, or why they are refused.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

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
            format!("{:?}: {}", asked.delivery, lines.join(" "))
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
    fields
        .iter()
        .map(|field| {
            let body = format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], {field}}}"#);
            let shown = show(Endpoint::Chat, &body);
            let plain = show(
                Endpoint::Chat,
                r#"{"messages": [{"role": "user", "content": "hi"}]}"#,
            );
            format!(
                "{field} => {}\n",
                if shown == plain { "accepted" } else { &shown }
            )
        })
        .collect()
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
        &expect![[r#""#]],
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
        &expect![[r#""#]],
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
        r#""user": "u""#,
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
    expect![[r#""#]].assert_eq(&with(&[
        r#""n": 2"#,
        r#""logprobs": true"#,
        r#""top_logprobs": 3"#,
        r#""tools": [{"type": "function"}]"#,
        r#""tool_choice": {"type": "function"}"#,
        r#""response_format": {"type": "json_object"}"#,
        r#""response_format": {"type": "text", "strict": true}"#,
        r#""modalities": ["text", "audio"]"#,
        r#""store": true"#,
        r#""service_tier": "flex""#,
        r#""reasoning_effort": "low""#,
    ]));
}

#[test]
fn values_and_names_that_are_wrong() {
    expect![[r#""#]].assert_eq(&with(&[
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
        ],
        &expect![[r#""#]],
    );
}
