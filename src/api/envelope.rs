//! What surrounds every request: its id, where it may come from, how long it took, and the body of
//! an error.
//!
//! **Invariant:** every answer carries `X-Request-Id`; every error answer has both `error_code` and
//! `error_msg`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::error::ApiError;
use crate::metrics;

/// The header of the request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Wraps a request.
pub(super) async fn wrap(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers(), (shared.clock)());
    let path = request.uri().path().to_owned();
    let method = method_label(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let mut response = match from_here(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if let Some(error) = failure(&response) {
        response = write_error(&error, &path, &id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let code = response.status().as_u16().to_string();
    let labels = [("route", route.as_str()), ("method", method), ("code", &code)];
    shared.metrics.counter(metrics::HTTP_REQUESTS, &labels).increment(1);
    let seconds = start.elapsed().as_secs_f64();
    shared.metrics.histogram(metrics::HTTP_SECONDS, &labels[..1]).record(seconds);
    response
}

/// The error to write: our own, or one that axum answered with by itself.
fn failure(response: &Response) -> Option<ApiError> {
    if let Some(error) = response.extensions().get::<ApiError>() {
        return Some(error.clone());
    }
    let ours = response.headers().contains_key(header::CONTENT_TYPE);
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => Some(ApiError::method()),
        StatusCode::NOT_FOUND if !ours => Some(ApiError::not_found("there is no such path")),
        status if status.is_client_error() && !is_json(response) => {
            Some(ApiError { status, ..ApiError::bad_query("the request cannot be read") })
        }
        _ => None,
    }
}

fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"))
}

fn write_error(error: &ApiError, path: &str, id: &str) -> Response {
    let (content_type, body) = error.body(path, id);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Refuses what a web page elsewhere makes a browser here send: until authentication exists, the
/// loopback address is all that protects the traces.
fn from_here(headers: &HeaderMap) -> Result<(), ApiError> {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if named.is_some_and(|host| !is_loopback(host)) {
        let remedy = "the Host header is not a loopback address: ask 127.0.0.1, as authentication \
                      does not exist yet";
        return Err(ApiError::forbidden(remedy));
    }
    let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let host = origin.map(|text| text.split_once("://").map_or(text, |(_, host)| host));
    if host.is_some_and(|host| !is_loopback(host)) {
        return Err(ApiError::forbidden("the Origin header is not a loopback address"));
    }
    Ok(())
}

/// Whether `host`, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The client's id for the request where it is a plain word, else a new UUID of version 7.
fn request_id(headers: &HeaderMap, now_ms: i64) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if let Some(id) = given.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(plain)) {
        return id.to_owned();
    }
    let mut bytes = [0u8; 16];
    // Without random bytes the id is only as unique as the millisecond, which harms nobody.
    let _best_effort = aws_lc_rs::rand::fill(&mut bytes[6..]);
    bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    trailproof_topology::catalog::tracker_text(&bytes)
}
