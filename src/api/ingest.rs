//! `POST /api/v1/traces`: traces in, answered when they are durable.
//!
//! Every element of the body is appended to the log, also one that is no trace: the record stage
//! keeps it as a dead letter, so the evidence and the counts are in the log. The answer says which
//! they are.
//!
//! **Invariant:** an answer of 200 means that every element is durable; with any other answer a
//! client sends the same bytes again, and the window of resends makes one of two.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::trace::{self, Reason};

use super::backend::Backend;
use super::error::{ApiError, ApiResult};
use super::split::{Form, split};
use super::{BODY_BYTES_MAX, Shared, TURN};
use crate::metrics;

/// Rejected elements that an answer lists.
const ERRORS_MAX: usize = 100;

/// What became of a body.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    /// Elements that are traces.
    accepted: u64,
    /// Elements that are not: they become dead letters.
    rejected: u64,
    /// The first of them.
    errors: Vec<Rejected>,
}

/// An element that is no trace.
#[derive(Debug, Serialize)]
struct Rejected {
    /// Its number in the body, from 0.
    index: usize,
    /// Why, from a closed set.
    reason: &'static str,
    /// What exactly.
    detail: String,
}

/// Takes traces in.
pub(super) async fn post_traces(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let form = form(&headers);
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(ApiError::too_large(BODY_BYTES_MAX));
    }
    // The body's memory is reserved before it is read, so clients wait instead of filling it.
    let kib = u32::try_from(length.unwrap_or(BODY_BYTES_MAX).div_ceil(1024)).unwrap_or(u32::MAX);
    let room = Arc::clone(&shared.ingest).acquire_many_owned(kib.max(1));
    let Ok(Ok(room)) = tokio::time::timeout(TURN, room).await else {
        return Err(ApiError::busy("too many bodies are being taken in: try again"));
    };
    let body =
        tokio::time::timeout(shared.request_timeout, axum::body::to_bytes(body, BODY_BYTES_MAX))
            .await
            .map_err(|_| ApiError::too_slow())?
            .map_err(|error| body_error(&error))?;
    let turn = Arc::clone(&shared.checks).acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else {
        return Err(ApiError::busy("too many bodies are being checked: try again"));
    };
    let worker = Arc::clone(&shared);
    let task = tokio::task::spawn_blocking(move || {
        let _room = room;
        take_in(&worker, &body, form, turn)
    });
    let outcome =
        task.await.unwrap_or_else(|_| Err(ApiError::internal("taking in failed; see the log")))?;
    Ok(json(&outcome))
}

/// An answer of 200 with this JSON body.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => ApiError::internal(error.to_string()).into_response(),
    }
}

fn form(headers: &HeaderMap) -> Form {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = named.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/json-lines"
        | "application/x-jsonlines" => Form::Lines,
        _ => Form::Guess,
    }
}

fn body_error(error: &axum::Error) -> ApiError {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if cause.to_string().contains("length limit") {
            return ApiError::too_large(BODY_BYTES_MAX);
        }
        source = cause.source();
    }
    ApiError::bad_body("the body broke off: send it again")
}

fn take_in(
    shared: &Shared,
    body: &Bytes,
    form: Form,
    turn: tokio::sync::OwnedSemaphorePermit,
) -> ApiResult<Outcome> {
    let elements = split(body, form).map_err(ApiError::bad_body)?;
    let bytes_max = shared.backend.record_bytes_max();
    let large = elements.iter().enumerate().find(|(_, element)| element.len() > bytes_max);
    if let Some((index, element)) = large {
        return Err(ApiError::element_too_large(index, element.len(), bytes_max));
    }
    let catalog = shared.backend.catalog();
    let (records, outcome) = check(&elements, &catalog, &*shared.backend);
    // Waiting for the disk needs no core.
    drop(turn);
    if !records.is_empty() {
        shared.backend.append(&records)?;
    }
    for (label, count) in [("accepted", outcome.accepted), ("rejected", outcome.rejected)] {
        let labels = [("outcome", label)];
        shared.metrics.counter(metrics::INGEST_TRACES, &labels).increment(count);
    }
    shared.metrics.counter(metrics::INGEST_BYTES, &[]).increment(body.len() as u64);
    Ok(outcome)
}

/// Records for each partition.
type Records<'a> = Vec<(u32, Vec<&'a [u8]>)>;

/// Parses each element and finds its partition: that of its account, so that resends meet.
fn check<'a>(
    elements: &[&'a [u8]],
    catalog: &Catalog,
    backend: &dyn Backend,
) -> (Records<'a>, Outcome) {
    let partition_of = |account: &str| backend.partition_of(account);
    let mut records: BTreeMap<u32, Vec<&'a [u8]>> = BTreeMap::new();
    let mut outcome = Outcome::default();
    // Neighbours mostly have the same account: the last one that is known, and its partition.
    let mut last: Option<(String, u32)> = None;
    for (index, element) in elements.iter().enumerate() {
        let (partition, rejected) = match trace::parse(element) {
            Ok(trace) => match &last {
                Some((account, partition)) if trace.account == account.as_str() => {
                    (*partition, None)
                }
                _ if catalog.account(&trace.account).is_some() => {
                    let partition = partition_of(&trace.account);
                    last = Some((trace.account.into_owned(), partition));
                    (partition, None)
                }
                _ => (partition_of(&trace.account), Some(unknown_account(&trace.account))),
            },
            Err(reject) => {
                let account = reject.account.as_deref().unwrap_or_default();
                (partition_of(account), Some((reject.reason, reject.detail)))
            }
        };
        records.entry(partition).or_default().push(element);
        match rejected {
            None => outcome.accepted += 1,
            Some((reason, detail)) => {
                outcome.rejected += 1;
                if outcome.errors.len() < ERRORS_MAX {
                    outcome.errors.push(Rejected { index, reason: reason.name(), detail });
                }
            }
        }
    }
    (records.into_iter().collect(), outcome)
}

fn unknown_account(account: &str) -> (Reason, String) {
    let shown: String = account.chars().take(64).collect();
    (Reason::UnknownAccount, format!("there is no account {shown:?}"))
}
