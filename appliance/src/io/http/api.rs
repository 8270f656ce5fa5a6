//! Routes, status codes and error bodies.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::answer::{self, Head};
use super::backend::{Answer as _, Backend, Heard};
use super::entry;
use super::openai::{self, Delivery, Endpoint};
use crate::access::Grant;
use crate::io::access::Door;
use crate::io::gateway::{ServedModel, no_model};
use crate::io::ota::runner::Order;
use crate::limits::PROMPT_BYTES_MAX;
use crate::request::{GenerateRequest, Refusal, RefusalKind, Timings};

/// Longest body that is read without a place.
const SHORT_BODY_BYTES: u64 = 64 * 1024;
/// Longer bodies that are read at once; more wait. With the next line this bounds their memory.
pub const BODIES_MAX: usize = 8;
/// Largest body: JSON may need two bytes for one of the prompt before the prompt's own limit speaks.
pub const BODY_BYTES_MAX: usize = 2 * PROMPT_BYTES_MAX + 64 * 1024;
/// A body that takes longer is an attack or a dead line.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Of a request: milliseconds from arrival after which its answer is worthless.
const DEADLINE: HeaderName = HeaderName::from_static("x-deadline-ms");
/// Of an answer: milliseconds after which its first token was forecast when it was taken.
const FORECAST: HeaderName = HeaderName::from_static("x-forecast-ttft-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client that is repeated to it.
const REQUEST_ID_BYTES_MAX: usize = 128;

struct Api<B> {
    backend: B,
    /// Ids of answers: a number of this process, scrambled by its random keys.
    ids: RandomState,
    next_id: AtomicU64,
    /// Places of bodies that are being read: [`BODIES_MAX`].
    bodies: Semaphore,
}

type Shared<B> = State<Arc<Api<B>>>;

/// The API over any backend, for those whom the door lets in.
pub fn router<B: Backend>(backend: B, door: Door) -> Router {
    let api = Arc::new(Api {
        backend,
        ids: RandomState::new(),
        next_id: AtomicU64::new(0),
        bodies: Semaphore::new(BODIES_MAX),
    });
    Router::new()
        .route("/v1/chat/completions", post(chat::<B>))
        .route("/v1/completions", post(completions::<B>))
        .route("/v1/feedback", post(feedback::<B>))
        .route("/v1/models", get(models::<B>))
        .route("/v1/models/{*id}", get(model::<B>))
        .route(
            "/health",
            get(|| async { reply(StatusCode::OK, &json!({"status": "up"})) }),
        )
        .route("/ready", get(ready::<B>))
        .route("/status", get(status::<B>))
        .route("/models", get(releases::<B>))
        .route("/models/{order}", post(release_order::<B>))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(door, entry::enter))
        .layer(middleware::from_fn_with_state(
            api.clone(),
            with_request_id::<B>,
        ))
        .with_state(api)
}

async fn chat<B: Backend>(State(api): Shared<B>, request: Request) -> Response {
    api.generate(Endpoint::Chat, request).await
}

async fn completions<B: Backend>(State(api): Shared<B>, request: Request) -> Response {
    api.generate(Endpoint::Completions, request).await
}

impl<B: Backend> Api<B> {
    fn new_id(&self) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", self.ids.hash_one(number))
    }

    async fn generate(&self, endpoint: Endpoint, request: Request) -> Response {
        let arrived = Instant::now();
        let deadline = match deadline(request.headers()) {
            Ok(deadline) => deadline,
            Err(refusal) => return refused(&refusal),
        };
        let tenant = entry::tenant(&request);
        let grant = request.extensions().get::<Grant>().cloned();
        let body = match read_body(request, &self.bodies).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let mut asked = match openai::parse(endpoint, &body) {
            Ok(asked) => asked,
            Err(refusal) => return refused(&refusal),
        };
        drop(body);
        asked.request.deadline =
            deadline.map(|deadline| deadline.saturating_sub(arrived.elapsed()));
        asked.request.tenant = tenant;
        if let Some(grant) = grant {
            asked.request.class = grant.class(asked.request.class);
        }
        let prefix = if endpoint == Endpoint::Chat {
            "chatcmpl"
        } else {
            "cmpl"
        };
        let id = format!("{prefix}-{}", self.new_id());
        asked.request.origin.response_id.clone_from(&id);
        let logprobs = asked.request.logprobs.is_some();
        let answers = match self.submit(asked.request, asked.choices).await {
            Ok(answers) => answers,
            Err(refusal) => return refused(&refusal),
        };
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let head = Head {
            endpoint,
            logprobs,
            id,
            created: since_1970.as_secs(),
            model: answers
                .first()
                .map_or_else(String::new, |answer| answer.model().to_owned()),
        };
        let forecast = answers.iter().map(B::Answer::forecast);
        let first_token_in = forecast.map(|f| f.first_token_in).min().unwrap_or_default();
        let mut response = match asked.delivery {
            Delivery::Stream { include_usage } => {
                let mut response = Response::new(answer::events(head, answers, include_usage));
                let headers = response.headers_mut();
                let stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
                headers.insert(header::CONTENT_TYPE, stream);
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
            Delivery::Whole => match answer::whole(&head, answers).await {
                Ok((body, timings)) => {
                    let mut response = reply(StatusCode::OK, &body);
                    put_timings(response.headers_mut(), &timings, arrived.elapsed());
                    response
                }
                Err(refusal) => return refused(&refusal),
            },
        };
        let first_token_ms = u64::try_from(first_token_in.as_millis()).unwrap_or(u64::MAX);
        let headers = response.headers_mut();
        headers.insert(FORECAST, HeaderValue::from(first_token_ms));
        response
    }

    /// As many answers as were asked for, or none. They share their prompt's blocks.
    async fn submit(
        &self,
        request: GenerateRequest,
        choices: u32,
    ) -> Result<Vec<B::Answer>, Refusal> {
        let mut answers = Vec::with_capacity(choices as usize);
        for index in 0..u64::from(choices) {
            let mut request = request.clone();
            let seed = &mut request.sampling.seed;
            *seed = seed.map(|seed| seed.wrapping_add(index));
            if index > 0 {
                let id = &request.origin.response_id;
                request.origin.response_id = format!("{id}-{index}");
            }
            answers.push(self.backend.submit(request).await?);
        }
        Ok(answers)
    }
}

/// The request's own deadline, from its arrival.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(DEADLINE) else {
        return Ok(None);
    };
    let ms = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    let ms = ms.ok_or_else(|| {
        let message = "x-deadline-ms must be milliseconds, like 2500".to_owned();
        Refusal::bad_request("x-deadline-ms", message)
    })?;
    Ok(Some(Duration::from_millis(ms.into())))
}

async fn feedback<B: Backend>(State(api): Shared<B>, request: Request) -> Response {
    let tenant = entry::tenant(&request);
    let body = match read_body(request, &api.bodies).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let (id, feedback) = match super::feedback::parse(&body) {
        Ok(feedback) => (feedback.response_id.clone(), feedback),
        Err(refusal) => return refused(&refusal),
    };
    let (status, code, message) = match api.backend.feedback(tenant, feedback) {
        Heard::Recorded => {
            let answer = json!({"id": id, "object": "feedback", "recorded": true});
            return reply(StatusCode::OK, &answer);
        }
        Heard::Unknown => (
            StatusCode::NOT_FOUND,
            "no_such_response",
            format!(
                "no answer {id} of yours is known here: feedback finds the last 4096, until a restart"
            ),
        ),
        Heard::NoLog => (
            StatusCode::NOT_IMPLEMENTED,
            "no_log",
            "this box keeps no log: its operator enrols it with `outstation enrol`".to_owned(),
        ),
    };
    let body = body_of("invalid_request_error", Some(code), Some("id"), &message);
    error(status, &body)
}

async fn models<B: Backend>(State(api): Shared<B>) -> Response {
    let models: Vec<_> = api.backend.models().iter().map(model_json).collect();
    reply(StatusCode::OK, &json!({"object": "list", "data": models}))
}

async fn model<B: Backend>(State(api): Shared<B>, Path(id): Path<String>) -> Response {
    let models = api.backend.models();
    match models.iter().find(|model| model.id == id) {
        Some(model) => reply(StatusCode::OK, &model_json(model)),
        None => refused(&no_model(&id, &models)),
    }
}

fn model_json(served: &ServedModel) -> Value {
    let mut model = json!({
        "id": served.id,
        "object": "model",
        "created": served.created_unix_s,
        "owned_by": "outstation",
        "max_model_len": served.context_tokens_max,
    });
    if let Some(parent) = &served.parent {
        model["parent"] = json!(parent);
    }
    model
}

async fn ready<B: Backend>(State(api): Shared<B>) -> Response {
    if api.backend.ready() {
        return reply(StatusCode::OK, &json!({"ready": true}));
    }
    let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false}));
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

async fn status<B: Backend>(State(api): Shared<B>, request: Request) -> Response {
    match serde_json::to_value(api.backend.status()) {
        Ok(mut status) => {
            if let Value::Object(fields) = &mut status {
                // Lines of the log name files and machines: they are for who is on this one.
                if request.extensions().get::<Grant>().is_some() {
                    fields.remove("last_errors");
                }
                let models = api.backend.models();
                let base = models.first().map_or(Value::Null, model_json);
                fields.insert("model".to_owned(), base);
            }
            reply(StatusCode::OK, &status)
        }
        Err(error) => refused(&Refusal::plain(RefusalKind::Internal, error.to_string())),
    }
}

async fn releases<B: Backend>(State(api): Shared<B>) -> Response {
    match api.backend.releases() {
        Some(models) => reply(StatusCode::OK, &json!(models.view())),
        None => no_ring(),
    }
}

/// What an operator wants done. A web page cannot: it would have to ask first, for the method is POST and what it sends
/// is nothing that a form sends.
async fn release_order<B: Backend>(
    State(api): Shared<B>,
    Path(order): Path<String>,
    request: Request,
) -> Response {
    let bad = |status, message: &str| {
        error(
            status,
            &body_of("invalid_request_error", None, None, message),
        )
    };
    if request.headers().contains_key(header::ORIGIN) {
        return bad(
            StatusCode::FORBIDDEN,
            "a web page may not give orders to a box",
        );
    }
    let Ok(order) = serde_json::from_value::<Order>(Value::String(order)) else {
        return bad(
            StatusCode::NOT_FOUND,
            "no such order: trial, commit, rollback, pin, unpin and confirm are",
        );
    };
    let Some(models) = api.backend.releases() else {
        return no_ring();
    };
    match models.order(order).await {
        Ok(()) => reply(StatusCode::OK, &json!({"done": true})),
        Err(why) => bad(StatusCode::CONFLICT, &why),
    }
}

fn no_ring() -> Response {
    let message = "this box follows no ring: set models.ring, and enrol it or name models.source";
    error(
        StatusCode::NOT_FOUND,
        &body_of("invalid_request_error", Some("not_found"), None, message),
    )
}

async fn no_route(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(128).collect();
    let message = format!(
        "nothing is at {path}: POST /v1/chat/completions, POST /v1/completions, POST /v1/feedback, GET /v1/models, \
         GET /health, GET /ready and GET /status are here"
    );
    error(
        StatusCode::NOT_FOUND,
        &body_of("invalid_request_error", Some("not_found"), None, &message),
    )
}

async fn no_method(request: Request) -> Response {
    let message = format!("{} is not for {}", request.method(), request.uri().path());
    let body = body_of(
        "invalid_request_error",
        Some("method_not_allowed"),
        None,
        &message,
    );
    error(StatusCode::METHOD_NOT_ALLOWED, &body)
}

/// Repeats the client's request id, or makes one, so that both sides' logs can be laid side by side.
async fn with_request_id<B: Backend>(
    State(api): Shared<B>,
    request: Request,
    next: Next,
) -> Response {
    let id = request.headers().get(&REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    });
    let made =
        || HeaderValue::from_str(&format!("req-{}", api.new_id())).expect("letters and digits");
    let id = id.cloned().unwrap_or_else(made);
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn read_body(request: Request, places: &Semaphore) -> Result<bytes::Bytes, Response> {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "send the body as JSON, with the header `content-type: application/json`";
        let body = body_of(
            "invalid_request_error",
            Some("unsupported_media_type"),
            None,
            message,
        );
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &body));
    }
    let too_large = || {
        let message =
            format!("the body is larger than {BODY_BYTES_MAX} bytes: send a shorter prompt");
        let body = body_of(
            "invalid_request_error",
            Some("request_too_large"),
            None,
            &message,
        );
        error(StatusCode::PAYLOAD_TOO_LARGE, &body)
    };
    // What `content-length` announces is refused before it is sent.
    if HttpBody::size_hint(request.body()).lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    // Short bodies need no place: a small question must not wait behind eight slow lines with large ones.
    let upper = HttpBody::size_hint(request.body()).upper();
    let is_short = upper.is_some_and(|bytes| bytes <= SHORT_BODY_BYTES);
    let body = async {
        let _place = if is_short {
            None
        } else {
            Some(places.acquire().await.expect("never closed"))
        };
        Limited::new(request.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
    };
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(cause)) if cause.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(cause)) => {
            let message = format!("the body broke off: {cause}");
            Err(refused(&Refusal::plain(RefusalKind::BadRequest, message)))
        }
        Err(_) => {
            let message = format!("the body was not here after {BODY_DEADLINE:?}");
            let body = body_of(
                "invalid_request_error",
                Some("request_timeout"),
                None,
                &message,
            );
            Err(error(StatusCode::REQUEST_TIMEOUT, &body))
        }
    }
}

/// HTTP status, OpenAI's error type and code of each kind of refusal.
fn codes(kind: RefusalKind) -> (StatusCode, &'static str, Option<&'static str>) {
    match kind {
        RefusalKind::BadRequest => (StatusCode::BAD_REQUEST, "invalid_request_error", None),
        RefusalKind::ContextOverflow => (
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some("context_length_exceeded"),
        ),
        RefusalKind::NoModel => (
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
        ),
        RefusalKind::Overloaded => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            Some("rate_limit_exceeded"),
        ),
        RefusalKind::Deadline => (
            StatusCode::GATEWAY_TIMEOUT,
            "server_error",
            Some("deadline_exceeded"),
        ),
        RefusalKind::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some("draining"),
        ),
        // Only ever met in the middle of a stream, after its status was sent.
        RefusalKind::SlowConsumer => (
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some("slow_consumer"),
        ),
        RefusalKind::Internal => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
        ),
    }
}

pub(super) fn error_json(refusal: &Refusal) -> Value {
    let (_, kind, code) = codes(refusal.kind);
    body_of(kind, code, refusal.param.as_deref(), &refusal.message)
}

pub(super) fn body_of(kind: &str, code: Option<&str>, param: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// A refusal before anything was sent.
fn refused(refusal: &Refusal) -> Response {
    let (status, ..) = codes(refusal.kind);
    let mut response = error(status, &error_json(refusal));
    if let Some(retry_after_ms) = refusal.retry_after_ms {
        let headers = response.headers_mut();
        headers.insert("retry-after-ms", HeaderValue::from(retry_after_ms));
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(retry_after_ms.div_ceil(1000)),
        );
    }
    response
}

pub(super) fn error(status: StatusCode, body: &Value) -> Response {
    let mut response = reply(status, body);
    let late = status == StatusCode::GATEWAY_TIMEOUT;
    if late || status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        // The SDK would try 408, 409 and 504 again by itself.
        response
            .headers_mut()
            .insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}

fn reply(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// `openai-processing-ms` for OpenAI's tools, `server-timing` (W3C) for the parts.
fn put_timings(headers: &mut HeaderMap, timings: &Timings, took: Duration) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let parts = format!(
        "queue;dur={:.3}, prefill;dur={:.3}, decode;dur={:.3}",
        ms(timings.queue),
        ms(timings.prefill),
        ms(timings.decode)
    );
    if let Ok(parts) = HeaderValue::from_str(&parts) {
        headers.insert("server-timing", parts);
    }
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    headers.insert("openai-processing-ms", HeaderValue::from(took_ms));
}
