//! Released files over plain HTTP, for boxes without an uplink, and for caches before them: GET and HEAD, whole or one
//! range (RFC 9110, sections 13 and 14).

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use object_store::ObjectMeta;

use super::{Web, unavailable};
use crate::metrics::WayLabel;
use crate::ota::files;

/// What a request wants of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// A range that the file does not have.
    Outside,
    /// The asker has it.
    Nothing,
}

pub(super) async fn file(
    Shared(web): Shared<Arc<Web>>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let factory = &web.factory;
    let Ok(turn) = factory.fetches.clone().try_acquire_owned() else {
        let later = [(header::RETRY_AFTER, "5")];
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        return (busy, later, "too many fetch at once\n").into_response();
    };
    let found = factory
        .metrics
        .timed("look", files::look(&factory.store, &path))
        .await;
    let meta = match found {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            let quickly = [(header::CACHE_CONTROL, "no-store")];
            return (StatusCode::NOT_FOUND, quickly, "there is no such file\n").into_response();
        }
        Err(error) => return unavailable(&error),
    };
    let tag = tag(&meta);
    let (status, range) = match wanted(&headers, &meta, &tag) {
        Wanted::All => (StatusCode::OK, 0..meta.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, 0..0),
    };
    let mut answer = head(&path, &meta, &tag, status, &range);
    *answer.status_mut() = status;
    if method == Method::HEAD || range.is_empty() {
        return answer;
    }
    let opened = factory
        .metrics
        .timed("get", files::open(&factory.store, &meta, range))
        .await;
    match opened {
        Ok(pieces) => {
            let metrics = factory.metrics.clone();
            let way = WayLabel { way: "http" };
            metrics.fetches.get_or_create(&way).inc();
            let counted = pieces.inspect_ok(move |piece| {
                // The turn lasts as long as the body.
                let _ = &turn;
                metrics
                    .fetched_bytes
                    .get_or_create(&way)
                    .inc_by(piece.len() as u64);
            });
            *answer.body_mut() = Body::from_stream(counted);
            answer
        }
        Err(error) => unavailable(&error),
    }
}

fn head(
    path: &str,
    meta: &ObjectMeta,
    tag: &str,
    status: StatusCode,
    range: &Range<u64>,
) -> Response {
    let mut answer = Response::new(Body::empty());
    let mut put = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    };
    put(header::ACCEPT_RANGES, "bytes".to_owned());
    put(header::ETAG, tag.to_owned());
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    let caching = match path {
        "metadata/timestamp.json" => "no-cache",
        _ => "public, max-age=31536000, immutable",
    };
    put(header::CACHE_CONTROL, caching.to_owned());
    let json = path.ends_with("json");
    let kind = if json {
        "application/json"
    } else {
        "application/octet-stream"
    };
    put(header::CONTENT_TYPE, kind.to_owned());
    match status {
        StatusCode::RANGE_NOT_SATISFIABLE => {
            put(header::CONTENT_RANGE, format!("bytes */{}", meta.size));
            put(header::CONTENT_LENGTH, "0".to_owned());
        }
        StatusCode::NOT_MODIFIED => {}
        _ => put(
            header::CONTENT_LENGTH,
            (range.end - range.start).to_string(),
        ),
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end - 1;
        let part = format!("bytes {}-{last}/{}", range.start, meta.size);
        put(header::CONTENT_RANGE, part);
    }
    answer
}

/// What names this version of a file: what the store says, or its time and length.
fn tag(meta: &ObjectMeta) -> String {
    let fallback = || {
        format!(
            "{:x}-{:x}",
            meta.last_modified.timestamp_millis(),
            meta.size
        )
    };
    let tag = meta.e_tag.clone().unwrap_or_else(fallback);
    let inner = tag.trim_start_matches("W/").trim_matches('"');
    format!("\"{inner}\"")
}

fn wanted(headers: &HeaderMap, meta: &ObjectMeta, tag: &str) -> Wanted {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let has = |tags: &str| {
        let same = |other: &str| other.trim().trim_start_matches("W/") == tag;
        tags.trim() == "*" || tags.split(',').any(same)
    };
    if text(header::IF_NONE_MATCH).is_some_and(has) {
        return Wanted::Nothing;
    }
    // A part of another version is worth nothing.
    if text(header::IF_RANGE).is_some_and(|other| other.trim() != tag) {
        return Wanted::All;
    }
    match text(header::RANGE) {
        Some(range) => part(range, meta.size),
        None => Wanted::All,
    }
}

/// One range. What is none, and several at once, are answered with the whole file, as RFC 9110 14.2 allows.
fn part(range: &str, bytes: u64) -> Wanted {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first.trim()), number(last.trim())) {
        (Some(first), _) if first >= bytes => Wanted::Outside,
        (Some(first), None) if last.trim().is_empty() => Wanted::Part(first..bytes),
        (Some(first), Some(last)) if first <= last => {
            Wanted::Part(first..bytes.min(last.saturating_add(1)))
        }
        (None, Some(0)) if first.trim().is_empty() => Wanted::Outside,
        (None, Some(_)) if first.trim().is_empty() && bytes == 0 => Wanted::Outside,
        (None, Some(suffix)) if first.trim().is_empty() => {
            Wanted::Part(bytes.saturating_sub(suffix)..bytes)
        }
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(range: &str, expected: Expect) {
        expected.assert_eq(&format!("{:?}", part(range, 100)));
    }

    #[test]
    fn ranges_are_read_as_http_has_them() {
        check("bytes=0-9", expect!["Part(0..10)"]);
        check("bytes=10-", expect!["Part(10..100)"]);
        check("bytes=-10", expect!["Part(90..100)"]);
        check("bytes=-1000", expect!["Part(0..100)"]);
        check("bytes=90-1000", expect!["Part(90..100)"]);
        check("bytes=100-", expect!["Outside"]);
        check("bytes=-0", expect!["Outside"]);
        check("bytes=99999999999999999999999-", expect!["Outside"]);
        check("bytes=9-0", expect!["All"]);
        check("bytes=0-1,5-6", expect!["All"]);
        check("bytes=x-", expect!["All"]);
        check("lines=1-2", expect!["All"]);
        check("bytes=-", expect!["All"]);
        check("bytes=+1-2", expect!["All"]);
    }
}
