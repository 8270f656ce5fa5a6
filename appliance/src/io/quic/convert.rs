//! Between frames and the box's own words.

use std::time::Duration;

use outstation_wire::frame::{self, ErrorCode, ErrorFrame, Generate};
use outstation_wire::hex::hex;

use crate::io::gateway::Forecast;
use crate::request::{
    ChatMessage, Class, FinishReason, Format, GenerateRequest, Origin, Prompt, Refusal,
    RefusalKind, Sampling, Tenant, Timings, Transport, Usage,
};

/// A request, or why it cannot be one (P-10).
pub(super) fn request(generate: Generate) -> Result<GenerateRequest, Refusal> {
    generate
        .check()
        .map_err(|fault| Refusal::plain(RefusalKind::BadRequest, fault.to_string()))?;
    let class = match generate.class() {
        frame::Class::Interactive => Class::Interactive,
        frame::Class::Standard => Class::Standard,
        frame::Class::Batch => Class::Batch,
    };
    let deadline = generate
        .deadline_ms
        .map(|ms| Duration::from_millis(ms.into()));
    Ok(GenerateRequest {
        model: (!generate.model.is_empty()).then_some(generate.model),
        prompt: prompt(generate.prompt.expect("checked")),
        max_tokens: generate.max_tokens,
        min_tokens: generate.min_tokens,
        ignore_eos: generate.ignore_eos,
        sampling: sampling(generate.sampling.unwrap_or_default()),
        stop: generate.stop,
        format: Format::Text,
        logprobs: None,
        class,
        deadline,
        // The connection knows who asks.
        tenant: Tenant::default(),
        origin: Origin {
            response_id: hex(&generate.request_id),
            workload: generate.workload_id,
            conversation: generate.conversation_id,
            // The protocol has no name for it.
            end_user: 0,
            transport: Transport::Quic,
            stream: true,
        },
    })
}

fn prompt(prompt: frame::Prompt) -> Prompt {
    match prompt {
        frame::Prompt::Text(text) => Prompt::Text(text),
        frame::Prompt::TokenIds(ids) => Prompt::Ids(ids.ids),
        frame::Prompt::Chat(chat) => {
            let message = |m: frame::ChatMessage| ChatMessage {
                role: m.role,
                content: m.content,
            };
            Prompt::Chat(chat.messages.into_iter().map(message).collect())
        }
    }
}

fn sampling(asked: frame::Sampling) -> Sampling {
    let default = Sampling::default();
    Sampling {
        temperature: asked.temperature.unwrap_or(default.temperature),
        top_k: asked.top_k.unwrap_or(default.top_k),
        top_p: asked.top_p.unwrap_or(default.top_p),
        min_p: asked.min_p.unwrap_or(default.min_p),
        repetition_penalty: asked
            .repetition_penalty
            .unwrap_or(default.repetition_penalty),
        presence_penalty: asked.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: asked.frequency_penalty.unwrap_or(default.frequency_penalty),
        seed: asked.seed,
        logit_bias: asked
            .logit_bias
            .into_iter()
            .map(|b| (b.token, b.bias))
            .collect(),
    }
}

pub(super) fn accepted(forecast: Forecast) -> frame::Accepted {
    frame::Accepted {
        first_token_us: micros(forecast.first_token_in),
        queued_before: forecast.queued_before,
    }
}

pub(super) fn done(finish: FinishReason, usage: Usage, timings: Timings) -> frame::Done {
    let finish_reason = match finish {
        FinishReason::Stop => frame::FinishReason::Stop,
        FinishReason::Length => frame::FinishReason::Length,
    };
    frame::Done {
        finish_reason: finish_reason.into(),
        usage: Some(frame::Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
        }),
        timings_us: Some(frame::TimingsMicros {
            queue: micros(timings.queue),
            prefill: micros(timings.prefill),
            decode: micros(timings.decode),
        }),
    }
}

/// P-21
pub(super) fn error(refusal: &Refusal) -> ErrorFrame {
    let (code, retryable) = match refusal.kind {
        RefusalKind::BadRequest | RefusalKind::ContextOverflow => (ErrorCode::BadRequest, false),
        RefusalKind::NoModel => (ErrorCode::NoModel, false),
        RefusalKind::Overloaded => (ErrorCode::Overloaded, true),
        RefusalKind::Deadline => (ErrorCode::Deadline, false),
        RefusalKind::Draining => (ErrorCode::Draining, true),
        RefusalKind::SlowConsumer => (ErrorCode::SlowConsumer, false),
        RefusalKind::Internal => (ErrorCode::Internal, false),
    };
    ErrorFrame {
        retry_after_ms: refusal.retry_after_ms,
        retryable,
        ..ErrorFrame::new(code, &refusal.message)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
