//! `GET /v3/{project_id}/traces`: ListTraces of CTS, for Huawei's own clients.
//!
//! Decisions where CTS leaves a question open: `limit` over 200 is refused, because a script that
//! asks for 1,000 and gets 200 would take them for all; a `from` without `to` ends now, a `to`
//! without `from` begins an hour before it; `from` and `to` bound the time of arrival, which is
//! also the order, newest first; a project other than the default one sees only traces that name
//! it, the default one sees those that name no other.
//!
//! Source: CTS API v3, ListTraces; `docs/decisions/0012-what-cts-leaves-open.md`.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::{Account, Tracker, TrackerKind};
use trailproof_topology::input::Millis;
use trailproof_topology::key::TrackerId;
use trailproof_topology::query::{self, Cursor, Order, Predicate, Test};

use super::backend::Backend;
use super::error::{ApiError, ApiResult};
use super::params::{self, Params};
use super::{Partial, Shared, trace_json};

const LIMIT: usize = 10;
const LIMIT_MAX: u64 = 200;
const HOUR_MS: Millis = 3_600_000;
const TIME_MAX_MS: u64 = 9_999_999_999_999;

/// Filters of management traces by their parameter.
const SYSTEM_FILTERS: [Attribute; 9] = [
    Attribute::ServiceType,
    Attribute::User,
    Attribute::ResourceId,
    Attribute::ResourceName,
    Attribute::ResourceType,
    Attribute::TraceName,
    Attribute::TraceRating,
    Attribute::AccessKeyId,
    Attribute::EnterpriseProjectId,
];

/// Filters of data traces.
const DATA_FILTERS: [Attribute; 2] = [Attribute::AccessKeyId, Attribute::EnterpriseProjectId];

/// Begins a marker that is a place and no trace id: the id alone would not be certain.
const PLACE_MARK: char = '~';

/// Lists traces.
pub(super) async fn list_traces(
    State(shared): State<Arc<Shared>>,
    Path(project): Path<String>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let catalog = shared.backend.catalog();
    let account = catalog.account_of_project(&project).ok_or_else(ApiError::wrong_project)?;
    let selection = selection(&params, account, &project, (shared.clock)())?;
    let limit = match params::last(&params, "limit") {
        Some(text) => params::integer("limit", text, 1, LIMIT_MAX)? as usize,
        None => LIMIT,
    };
    let next = params::last(&params, "next").map(ToOwned::to_owned);
    let by_id = params::last(&params, "trace_id").is_some();
    let next = next.filter(|_| !by_id);
    let (text, _) = shared
        .query_all("v3", Partial::Never, move |backend| {
            let after = match &next {
                Some(marker) => Some(resolve(backend, &selection, marker)?),
                None => None,
            };
            answer(backend, &query::Query { cursor: after, limit, ..selection.clone() })
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn selection(
    params: &Params,
    account: &Account,
    project: &str,
    now_ms: Millis,
) -> ApiResult<query::Query> {
    let kind = match params::last(params, "trace_type") {
        None | Some("system") => TrackerKind::System,
        Some("data") => TrackerKind::Data,
        Some(_) => return Err(ApiError::bad_query("trace_type takes system or data")),
    };
    let name = params::last(params, "tracker_name");
    let by_id = params::last(params, "trace_id").filter(|_| kind == TrackerKind::System);
    let wanted = |tracker: &&Tracker| {
        tracker.kind == kind && (by_id.is_some() || name.is_none_or(|name| tracker.name == name))
    };
    let trackers = account.trackers.iter().filter(wanted).filter_map(Tracker::key).collect();
    let mut query = query::Query::newest(trackers, 0);
    query.predicates.extend(of_project(account, project));
    if let Some(id) = by_id {
        query.predicates.push(Predicate::is(Attribute::TraceId, id));
        return Ok(query);
    }
    let rating = params::last(params, "trace_rating").filter(|_| kind == TrackerKind::System);
    if rating.is_some_and(|rating| !["normal", "warning", "incident"].contains(&rating)) {
        return Err(ApiError::bad_query("trace_rating takes normal, warning or incident"));
    }
    let usable = if kind == TrackerKind::System { &SYSTEM_FILTERS[..] } else { &DATA_FILTERS[..] };
    let given =
        |own: &Attribute| params::last(params, own.name()).map(|value| Predicate::is(*own, value));
    query.predicates.extend(usable.iter().filter_map(given));
    query.stream_ms = window(params, now_ms)?;
    Ok(query)
}

/// Traces of one project of an account that has several; a trace that names none is the default
/// project's.
fn of_project(account: &Account, project: &str) -> Option<Predicate> {
    let attribute = Attribute::ProjectId;
    let (default, others) = account.projects.split_first()?;
    if default.id != project {
        return Some(Predicate::is(attribute, project));
    }
    let ids = || others.iter().map(|other| other.id.clone()).collect();
    (!others.is_empty()).then(|| !Predicate::new(attribute, Test::Equals(ids())))
}

/// `from` and `to`, both exclusive.
fn window(params: &Params, now_ms: Millis) -> ApiResult<Range<Millis>> {
    let bound = |name: &str| {
        params::last(params, name)
            .map(|text| params::integer(name, text, 0, TIME_MAX_MS))
            .transpose()
            .map(|bound| bound.and_then(|bound| Millis::try_from(bound).ok()))
    };
    let (from, to) = (bound("from")?, bound("to")?);
    // Without `to`, what arrived up to this very millisecond is meant.
    let to_ms = to.unwrap_or(now_ms.saturating_add(1));
    let from_ms = from.unwrap_or(to.unwrap_or(now_ms).saturating_sub(HOUR_MS));
    Ok(from_ms.saturating_add(1)..to_ms)
}

/// The place that a marker names.
fn resolve(backend: &dyn Backend, selection: &query::Query, marker: &str) -> ApiResult<Cursor> {
    let place = marker.strip_prefix(PLACE_MARK).and_then(params::read_cursor);
    if let Some((place, Order::Newest)) = place {
        return Ok(place);
    }
    places(backend, &selection.trackers, marker)?.first().copied().ok_or_else(|| {
        ApiError::bad_query(
            "next names no trace: it takes the marker of the page before, within the days that \
             are kept",
        )
    })
}

/// Up to two places of traces with this id.
fn places(backend: &dyn Backend, trackers: &[TrackerId], id: &str) -> ApiResult<Vec<Cursor>> {
    let query = query::Query {
        predicates: vec![Predicate::is(Attribute::TraceId, id)],
        ..query::Query::newest(trackers.to_vec(), 2)
    };
    Ok(backend.query(&query)?.rows.iter().map(|row| row.cursor).collect())
}

/// Asks, and writes the answer as the SDKs read it.
fn answer(backend: &dyn Backend, query: &query::Query) -> ApiResult<String> {
    if query.trackers.is_empty() {
        return Ok(r#"{"traces":[],"meta_data":{"count":0,"marker":null}}"#.to_owned());
    }
    let page = backend.query(query)?;
    let bytes: usize = page.rows.iter().map(|row| row.trace.len()).sum();
    let mut out = String::with_capacity(bytes + bytes / 8 + 128);
    out.push_str("{\"traces\":[");
    let mut last_id = None;
    for (at, row) in page.rows.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        last_id = trace_json::write(&row.trace, &mut out);
    }
    let marker = match page.next {
        Some(place) => Some(marker(backend, &query.trackers, place, last_id)?),
        None => None,
    };
    let count = page.rows.len();
    let meta = serde_json::json!({"count": count, "marker": marker});
    out.push_str(&format!("],\"meta_data\":{meta}}}"));
    Ok(out)
}

/// The id of the last trace where it is certain, else its place.
fn marker(
    backend: &dyn Backend,
    trackers: &[TrackerId],
    place: Cursor,
    id: Option<String>,
) -> ApiResult<String> {
    if let Some(id) = id
        && places(backend, trackers, &id)? == [place]
    {
        return Ok(id);
    }
    Ok(format!("{PLACE_MARK}{}", params::write_cursor(&place, Order::Newest)))
}
