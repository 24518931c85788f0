//! Health, metrics and public keys.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use trailproof_topology::digest_chain::CheckpointRecord;
use trailproof_topology::effect::Topic;

use super::Shared;
use super::backend::{Backend, Check};
use super::error::{ApiError, ApiResult};
use super::params::{self, Params};
use crate::metrics;

/// Checkpoints looked through, and how many at a time.
const CHECKPOINTS_MAX: u64 = 20_000;
const CHECKPOINTS_PAGE: u64 = 1_000;

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
    let ready = is_ready(&checks);
    let listed: Vec<_> = checks
        .iter()
        .map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail}))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "checks": listed}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn is_ready(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.ok)
}

/// Prometheus text.
pub(super) async fn render_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let worker = Arc::clone(&shared);
    let text = tokio::task::spawn_blocking(move || {
        worker.backend.measure(&worker.metrics);
        let ready = is_ready(&worker.backend.ready());
        worker.metrics.gauge(metrics::READY, &[]).set(f64::from(u8::from(ready)));
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
    if shared.public_keys.is_empty() {
        return Err(ApiError::not_found("there are no public keys"));
    }
    let keys = shared.public_keys.clone();
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], keys).into_response())
}

/// The newest checkpoint of a chain, a signed note: `origin=` as in its first line, the ledger's
/// without it.
pub(super) async fn checkpoint(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let ledger = format!("{}/_ledger", shared.backend.catalog().installation);
    let origin = params::last(&params, "origin").unwrap_or(&ledger).to_owned();
    let note = shared.query("checkpoint", move |backend| newest(backend, &origin)).await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], note).into_response())
}

/// Looks through the newest checkpoints, newest first.
fn newest(backend: &dyn Backend, origin: &str) -> ApiResult<String> {
    let read = |from, max| {
        let page = backend.topic_records(Topic::Checkpoints, 0, from, max)?;
        page.ok_or_else(|| ApiError::not_found("there are no checkpoints"))
    };
    let mut end = read(0, 1)?.end;
    let oldest = end.saturating_sub(CHECKPOINTS_MAX);
    while end > oldest {
        let from = end.saturating_sub(CHECKPOINTS_PAGE).max(oldest);
        let page = read(from, (end - from) as usize)?;
        let records = page.records.iter().rev();
        let mut heads =
            records.filter_map(|own| serde_json::from_slice::<CheckpointRecord>(&own.value).ok());
        if let Some(head) = heads.find(|head| head.origin == origin) {
            return Ok(head.note);
        }
        end = from;
    }
    Err(ApiError::not_found("no checkpoint of this origin is among the newest; try later"))
}
