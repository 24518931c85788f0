//! Health, metrics and public keys.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use super::error::{ApiError, ApiResult};

const TEXT: &str = "text/plain; charset=utf-8";

/// The event loop turns.
pub(super) async fn livez() -> Response {
    ([(header::CONTENT_TYPE, TEXT)], "alive\n").into_response()
}

/// 200 once every check holds, with the checks as JSON.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let worker = Arc::clone(&shared);
    let checks = tokio::task::spawn_blocking(move || worker.backend.ready());
    let Ok(checks) = checks.await else {
        return ApiError::internal("the checks failed; see the log").into_response();
    };
    let ready = checks.iter().all(|check| check.ok);
    let listed: Vec<_> = checks
        .iter()
        .map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail}))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "checks": listed}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Prometheus text.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let worker = Arc::clone(&shared);
    let text = tokio::task::spawn_blocking(move || {
        worker.backend.measure(&worker.metrics);
        worker.metrics.render()
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(_) => ApiError::internal("measuring failed; see the log").into_response(),
    }
}

/// The public keys as PEM.
pub(super) async fn keys(State(shared): State<Arc<Shared>>) -> ApiResult<Response> {
    let keys = shared.backend.public_keys();
    if keys.is_empty() {
        return Err(ApiError::not_found("there are no public keys yet"));
    }
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], keys).into_response())
}
