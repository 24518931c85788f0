//! `/api/v1`: traces, facets, histograms, topics and accounts.
//!
//! Source: `docs/operations.md`, "HTTP".

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use serde_json::json;
use trailproof_topology::attribute::Attribute;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Millis;
use trailproof_topology::query::answer::{Answer, Facet};
use trailproof_topology::query::{self, Axis, Cursor, Histogram, Order};

use super::Shared;
use super::backend::TopicRecord;
use super::error::{ApiError, ApiResult};
use super::filter;
use super::params::{self, Params};

const LIMIT: usize = 100;
const LIMIT_MAX: u64 = 1_000;
const FACET_LIMIT: usize = 10;
const FACET_LIMIT_MAX: u64 = 1_000;
const BUCKETS: i64 = 60;
const BUCKETS_MAX: usize = 2_000;
const DAY_MS: Millis = 86_400_000;

/// Lengths that a histogram's buckets have where none is asked for, in milliseconds.
const INTERVALS_MS: [Millis; 12] = [
    1_000,
    5_000,
    15_000,
    60_000,
    300_000,
    900_000,
    3_600_000,
    10_800_000,
    21_600_000,
    DAY_MS,
    7 * DAY_MS,
    30 * DAY_MS,
];

/// Lists traces as they are stored.
pub(super) async fn traces(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let own = ["order", "cursor", "limit", "count", "positions"];
    let selection = filter::selection(&params, &shared.backend.catalog(), &own)?;
    let order = match params::last(&params, "order") {
        None | Some("newest" | "desc") => Order::Newest,
        Some("oldest" | "asc") => Order::Oldest,
        Some(_) => return Err(ApiError::bad_query("order takes newest or oldest")),
    };
    let limit = match params::last(&params, "limit") {
        Some(text) => params::integer("limit", text, 1, LIMIT_MAX)? as usize,
        None => LIMIT,
    };
    let after = match params::last(&params, "cursor") {
        None => None,
        Some(word) => match params::read_cursor(word) {
            Some((place, own)) if own == order => Some(place),
            Some(_) => return Err(ApiError::bad_query("the cursor is of the other order")),
            None => return Err(ApiError::bad_query("the cursor is none that was given out")),
        },
    };
    let count = params::flag(&params, "count")?;
    let positions = params::flag(&params, "positions")?;
    let query = query::Query { order, cursor: after, limit, count, ..selection };
    let partial = params::partial(&params)?;
    let (page, missing) =
        shared.query_all("traces", partial, move |backend| Ok(backend.query(&query)?)).await?;
    let text = write_page(&page, (after, order), positions, &missing);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn write_page(
    page: &Answer,
    (after, order): (Option<Cursor>, Order),
    positions: bool,
    missing: &[u32],
) -> Vec<u8> {
    let bytes: usize = page.rows.iter().map(|row| row.trace.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + 256);
    out.extend_from_slice(b"{\"traces\":[");
    for (at, row) in page.rows.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&row.trace);
    }
    out.push(b']');
    if positions {
        let list: Vec<_> = page
            .rows
            .iter()
            .map(|row| {
                let Cursor { stream_time_ms, partition, offset } = row.cursor;
                json!({"partition": partition, "offset": offset, "recorded_ms": stream_time_ms})
            })
            .collect();
        out.extend_from_slice(format!(",\"positions\":{}", json!(list)).as_bytes());
    }
    if !missing.is_empty() {
        let partial = json!({ "partitions_missing": missing });
        out.extend_from_slice(format!(",\"partial\":{partial}").as_bytes());
    }
    // The place stays where nothing new was found, so a follower can ask again with it.
    let place = page.rows.last().map(|row| row.cursor).or(after);
    let meta = json!({
        "count": page.rows.len(),
        "total": page.total,
        "more": page.next.is_some(),
        "cursor": place.map(|place| params::write_cursor(&place, order)),
    });
    out.extend_from_slice(format!(",\"meta_data\":{meta}}}").as_bytes());
    out
}

/// Counts values: `field=user&field=code`.
pub(super) async fn facets(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let selection = filter::selection(&params, &shared.backend.catalog(), &["field", "limit"])?;
    let limit = match params::last(&params, "limit") {
        Some(text) => params::integer("limit", text, 1, FACET_LIMIT_MAX)? as usize,
        None => FACET_LIMIT,
    };
    let mut fields: Vec<Attribute> = vec![];
    for (_, value) in params.iter().filter(|(name, _)| name == "field") {
        for name in value.split(',') {
            let attribute = filter::attribute(name).ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                let known = Attribute::ALL.map(Attribute::name).join(", ");
                ApiError::bad_query(format!("there is no field {shown:?}; there are {known}"))
            })?;
            if !fields.contains(&attribute) {
                fields.push(attribute);
            }
        }
    }
    if fields.is_empty() {
        return Err(ApiError::bad_query("name at least one field, as in field=user"));
    }
    let partial = params::partial(&params)?;
    let query = query::Query { facets: fields, facet_values: limit, count: true, ..selection };
    let (answer, missing) =
        shared.query_all("facets", partial, move |backend| Ok(backend.query(&query)?)).await?;
    let total = answer.total.unwrap_or_default();
    let facets = answer.facets.iter().map(|facet| write_facet(facet, total));
    let body = json!({ "facets": facets.collect::<serde_json::Map<_, _>>() });
    Ok(super::ingest::json(&mark_partial(body, &missing)))
}

/// A facet of `total` traces: its name and its figures.
fn write_facet(facet: &Facet, total: u64) -> (String, serde_json::Value) {
    let values: Vec<_> = facet
        .values
        .iter()
        .map(|(value, count)| json!({"value": String::from_utf8_lossy(value), "count": count}))
        .collect();
    let others = facet.distinct.saturating_sub(values.len() as u64);
    let absent = total.saturating_sub(facet.present);
    let body = json!({"values": values, "others": others, "absent": absent});
    (facet.attribute.name().to_owned(), body)
}

/// Says in an answer which partitions it lacks.
fn mark_partial(mut body: serde_json::Value, missing: &[u32]) -> serde_json::Value {
    if !missing.is_empty() {
        body["partial"] = json!({ "partitions_missing": missing });
    }
    body
}

/// Counts over time.
pub(super) async fn histogram(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let own = ["axis", "interval"];
    let mut query = filter::selection(&params, &shared.backend.catalog(), &own)?;
    let axis = match params::last(&params, "axis") {
        None | Some("time") => Axis::Event,
        Some("recorded") => Axis::Stream,
        Some(_) => return Err(ApiError::bad_query("axis takes time or recorded")),
    };
    let period = match axis {
        Axis::Event => &mut query.time_ms,
        Axis::Stream => &mut query.stream_ms,
    };
    if period.end == Millis::MAX {
        period.end = (shared.clock)().saturating_add(1);
    }
    if period.start == Millis::MIN {
        period.start = period.end.saturating_sub(DAY_MS);
    }
    let length = period.end.saturating_sub(period.start);
    if length <= 0 {
        return Err(ApiError::bad_query("the period is empty: it ends before it begins"));
    }
    let width_ms = match params::last(&params, "interval") {
        Some(text) => {
            Millis::try_from(params::duration("interval", text)?.as_millis()).unwrap_or(Millis::MAX)
        }
        None => INTERVALS_MS
            .into_iter()
            .find(|interval| length / interval < BUCKETS)
            .unwrap_or_else(|| length / BUCKETS + 1),
    };
    let histogram = Histogram { axis, width_ms };
    let Some((from_ms, buckets)) =
        query.buckets(&histogram).filter(|(_, buckets)| *buckets <= BUCKETS_MAX)
    else {
        return Err(ApiError::bad_query(format!(
            "there are over {BUCKETS_MAX} buckets: make interval longer or the period shorter"
        )));
    };
    query.histogram = Some(histogram);
    let partial = params::partial(&params)?;
    let (answer, missing) =
        shared.query_all("histogram", partial, move |backend| Ok(backend.query(&query)?)).await?;
    let counts = answer.histogram.iter().copied().chain(std::iter::repeat(0)).take(buckets);
    let total: u64 = counts.clone().sum();
    let buckets: Vec<_> = counts
        .zip(0i64..)
        .map(|(count, at)| json!({"from": from_ms + at * width_ms, "count": count}))
        .collect();
    let body = json!({"interval_ms": width_ms, "total": total, "buckets": buckets});
    Ok(super::ingest::json(&mark_partial(body, &missing)))
}

/// Shows the records of a topic to an operator.
pub(super) async fn topic_records(
    State(shared): State<Arc<Shared>>,
    Path((topic, partition)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Response> {
    let topic = Topic::ALL.into_iter().find(|known| known.name() == topic).ok_or_else(|| {
        let known = Topic::ALL.map(Topic::name).join(", ");
        ApiError::not_found(format!("there is no such topic; there are {known}"))
    })?;
    let partition = params::integer("partition", &partition, 0, u64::from(u32::MAX))? as u32;
    let from = match params::last(&params, "from") {
        Some(text) => params::integer("from", text, 0, u64::MAX)?,
        None => 0,
    };
    let max = match params::last(&params, "limit") {
        Some(text) => params::integer("limit", text, 1, LIMIT_MAX)? as usize,
        None => LIMIT,
    };
    let body = shared
        .query("topic", move |backend| {
            let page = backend.topic_records(topic, partition, from, max)?.ok_or_else(|| {
                let name = topic.name();
                ApiError::not_found(format!("topic {name} has no partition {partition}"))
            })?;
            let next = page.records.last().map_or(from.max(page.start), |last| last.offset + 1);
            let records: Vec<_> = page.records.iter().map(write_record).collect();
            Ok(json!({"start": page.start, "end": page.end, "next": next, "records": records}))
        })
        .await?;
    Ok(super::ingest::json(&body))
}

fn write_record(record: &TopicRecord) -> serde_json::Value {
    let headers: Vec<_> =
        record.headers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut body = json!({
        "offset": record.offset,
        "time": record.append_time_ms,
        "headers": headers,
    });
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => body[name] = json!(text),
            Err(_) => body[format!("{name}_base64")] = json!(BASE64.encode(bytes)),
        }
    }
    body
}

/// Lists accounts with their projects and trackers.
pub(super) async fn accounts(State(shared): State<Arc<Shared>>) -> Response {
    let catalog = shared.backend.catalog();
    let accounts: Vec<_> = catalog
        .accounts
        .iter()
        .map(|account| {
            let trackers: Vec<_> = account
                .trackers
                .iter()
                .map(|tracker| {
                    json!({
                        "id": tracker.id,
                        "name": tracker.name,
                        "kind": tracker.kind,
                        "enabled": tracker.enabled,
                        "bucket": tracker.bucket,
                        "data_bucket": tracker.data_bucket,
                    })
                })
                .collect();
            json!({
                "id": account.id,
                "name": account.name,
                "projects": account.projects,
                "trackers": trackers,
            })
        })
        .collect();
    super::ingest::json(&json!({
        "installation": catalog.installation,
        "region": catalog.region,
        "catalog_version": catalog.version,
        "partitions": catalog.traces_partitions,
        "cycle_ms": catalog.cycle_ms,
        "digest_interval_ms": catalog.digest_interval_ms,
        "accounts": accounts,
    }))
}
