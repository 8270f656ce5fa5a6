//! Who may come in, before a route is looked for.
//!
//! | where | without a file of keys | with one |
//! |---|---|---|
//! | `/health`, `/ready` | everybody | everybody |
//! | `/v1/…` | everybody on this machine | whoever has a key |
//! | `/status`, `/models` | everybody on this machine | this machine, and whoever has a key |
//! | `/models/…` | everybody on this machine | this machine |

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::api::{body_of, error};
use crate::access::Grant;
use crate::io::access::Door;
use crate::request::Tenant;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Peer {
    /// Whether that is this machine.
    pub(super) fn is_here(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

/// Who asks: whom a key names; else whoever has this credential, and without one everybody.
pub(super) fn tenant(request: &Request) -> Tenant {
    if let Some(grant) = request.extensions().get::<Grant>() {
        return grant.tenant;
    }
    let key = request.headers().get(header::AUTHORIZATION);
    key.map_or(Tenant::default(), |key| {
        Tenant::of_credential(key.as_bytes())
    })
}

/// Lets a request in, or says why not.
pub(super) async fn enter(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/health" || path == "/ready" {
        return next.run(request).await;
    }
    let (for_keys, for_here) = match path {
        "/status" | "/models" => (true, true),
        _ if path.starts_with("/models/") => (false, true),
        _ => (true, !door.is_locked()),
    };
    if for_keys
        && let Some(secret) = bearer(request.headers())
        && let Some(grant) = door.grant(secret)
    {
        request.extensions_mut().insert(grant);
        return next.run(request).await;
    }
    if !for_here || !is_from_here(&request) {
        return if for_keys { no_key() } else { not_from_here() };
    }
    if !host(request.headers()).is_none_or(is_local) {
        let message = "the Host header names another machine: use 127.0.0.1, [::1] or localhost";
        let body = body_of("invalid_request_error", Some("wrong_host"), None, message);
        return error(StatusCode::MISDIRECTED_REQUEST, &body);
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// A proxy on this machine speaks for others, and says so.
fn is_from_here(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    let headers = request.headers();
    peer.is_none_or(|peer| peer.is_here())
        && !headers.contains_key(header::FORWARDED)
        && !headers.contains_key("x-forwarded-for")
}

fn no_key() -> Response {
    let message = "no key, or one that opens nothing here: send `Authorization: Bearer osk-...`; the box's operator \
                   makes keys with `outstation keys add`";
    let body = body_of(
        "authentication_error",
        Some("invalid_api_key"),
        None,
        message,
    );
    let mut response = error(StatusCode::UNAUTHORIZED, &body);
    let scheme = HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn not_from_here() -> Response {
    let message = "orders are given on the box itself: `outstation models` there";
    let body = body_of("permission_error", Some("not_local"), None, message);
    error(StatusCode::FORBIDDEN, &body)
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// Whether a `Host` is no name of somebody else's: a web page whose name was made to point at 127.0.0.1 (DNS
/// rebinding) would otherwise be of the same origin as a box that needs no credentials. A name without a dot is
/// nobody's in the public DNS: it is this machine's, or one that the local network gave it.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    !name.contains(['.', ':']) || address.parse::<IpAddr>().is_ok()
}
