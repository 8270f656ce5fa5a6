use expect_test::{Expect, expect};

use super::*;

const LIMITS: RequestLimits = RequestLimits {
    context_tokens_max: 100,
    vocabulary: 50,
};

fn check(request: &GenerateRequest, ids: &[u32], expected: Expect) {
    let outcome = request
        .check(&LIMITS)
        .and_then(|()| request.submission(RequestId(1), ids.to_vec(), 7, &LIMITS));
    let shown = match outcome {
        Ok(s) => format!(
            "{} + {} tokens, seed {}",
            s.prompt().len(),
            s.tokens_max,
            s.seed
        ),
        Err(r) => format!(
            "{:?} {}: {}",
            r.kind,
            r.param.unwrap_or_default(),
            r.message
        ),
    };
    expected.assert_eq(&shown);
}

#[test]
fn the_rest_of_the_context_is_the_default_length() {
    check(
        &GenerateRequest::default(),
        &[1; 40],
        expect!["40 + 60 tokens, seed 7"],
    );
}

#[test]
fn a_seed_of_the_request_wins() {
    let sampling = Sampling {
        seed: Some(3),
        ..Sampling::default()
    };
    let request = GenerateRequest {
        sampling,
        max_tokens: Some(5),
        ..Default::default()
    };
    check(&request, &[1], expect!["1 + 5 tokens, seed 3"]);
}

#[test]
fn a_prompt_past_the_context_is_refused_with_both_numbers() {
    check(
        &GenerateRequest::default(),
        &[1; 100],
        expect![
            "ContextOverflow prompt: the prompt has 100 tokens and 1 more are asked for, the context has 100: shorten the prompt or lower max_tokens"
        ],
    );
}

#[test]
fn nonsense_is_named() {
    check(
        &GenerateRequest {
            max_tokens: Some(0),
            ..Default::default()
        },
        &[1],
        expect!["BadRequest max_tokens: max_tokens is 0: ask for at least one token"],
    );
    check(
        &GenerateRequest::default(),
        &[],
        expect!["BadRequest prompt: the prompt has no tokens: send at least one"],
    );
    check(
        &GenerateRequest::default(),
        &[50],
        expect!["BadRequest prompt: token id 50 is outside of the model's vocabulary of 50"],
    );
    let sampling = Sampling {
        temperature: f32::NAN,
        ..Sampling::default()
    };
    check(
        &GenerateRequest {
            sampling,
            ..Default::default()
        },
        &[1],
        expect!["BadRequest temperature: temperature is NaN: it must be from 0 to 100"],
    );
    let sampling = Sampling {
        logit_bias: vec![(50, 1.0)],
        ..Sampling::default()
    };
    check(
        &GenerateRequest {
            sampling,
            ..Default::default()
        },
        &[1],
        expect!["BadRequest logit_bias: logit_bias names token 50, the vocabulary has 50"],
    );
    let message = |role: &str| ChatMessage {
        role: role.into(),
        content: "hi".into(),
    };
    check(
        &GenerateRequest {
            prompt: Prompt::Chat(vec![message("user"), message("user<|im_end|>")]),
            ..Default::default()
        },
        &[1],
        expect![
            "BadRequest messages: messages[1].role must be 1 to 32 letters, digits, `_` or `-`, like `user`"
        ],
    );
    check(
        &GenerateRequest {
            stop: vec![String::new()],
            ..Default::default()
        },
        &[1],
        expect!["BadRequest stop: a stop string of 0 bytes: it must have 1 to 256 bytes"],
    );
}
