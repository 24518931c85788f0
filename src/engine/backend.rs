//! The engine as the HTTP surfaces see it.

use std::sync::Arc;

use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::query::answer::Answer;
use trailproof_topology::query::predicate::{Predicate, Text};
use trailproof_topology::query::{self, Cursor, Query};

use super::{Engine, Restoring};
use crate::api::backend::{
    Axis, Backend, Check, Coverage, Error, Facet, Filter, HistogramQuery, Hit, Order, Page,
    PageQuery, Place, Selection, Test, TopicPage, TopicRecord,
};
use crate::log::broker::ReadLimits;
use crate::metrics::{self, Metrics};
use crate::{log, view};

/// Bytes of values in one answer about a topic, beyond its first record.
const TOPIC_BYTES_MAX: usize = 8 << 20;

impl Backend for Engine {
    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        self.broker().append(records).map_err(of_log)
    }

    fn partition_of(&self, account: &str) -> u32 {
        self.broker().partition_of(Topic::Traces, account.as_bytes())
    }

    fn catalog(&self) -> Arc<Catalog> {
        Self::catalog(self)
    }

    fn traces(&self, query: &PageQuery) -> Result<Page, Error> {
        let answer = self.ask(&Query {
            order: match query.order {
                Order::Newest => query::Order::Newest,
                Order::Oldest => query::Order::Oldest,
            },
            cursor: query.after.map(cursor),
            limit: query.limit,
            count: query.count,
            ..select(&query.selection)?
        })?;
        let more = answer.next.is_some();
        let hits =
            answer.rows.into_iter().map(|row| Hit { place: place(row.cursor), trace: row.trace });
        Ok(Page { hits: hits.collect(), more, count: answer.total })
    }

    fn facet(
        &self,
        selection: &Selection,
        attribute: Attribute,
        limit: usize,
    ) -> Result<Facet, Error> {
        let answer = self.ask(&Query {
            facets: vec![attribute],
            facet_values: limit,
            count: true,
            limit: 0,
            ..select(selection)?
        })?;
        let total = answer.total.unwrap_or_default();
        let Some(facet) = answer.facets.into_iter().next() else { return Ok(Facet::default()) };
        let others = facet.distinct.saturating_sub(facet.values.len() as u64);
        let values = facet
            .values
            .into_iter()
            .map(|(value, count)| (String::from_utf8_lossy(&value).into_owned(), count))
            .collect();
        Ok(Facet { values, others, absent: total.saturating_sub(facet.present) })
    }

    fn histogram(&self, query: &HistogramQuery) -> Result<Vec<u64>, Error> {
        let buckets = i64::try_from(query.buckets).unwrap_or(i64::MAX);
        let end = buckets
            .checked_mul(query.interval_ms)
            .and_then(|span| query.from_ms.checked_add(span))
            .ok_or_else(|| Error::BadQuery("the histogram ends beyond all times".to_owned()))?;
        let mut wanted = Query { limit: 0, ..select(&query.selection)? };
        let (axis, range) = match query.axis {
            Axis::Event => (query::Axis::Event, &mut wanted.time_ms),
            Axis::Recorded => (query::Axis::Stream, &mut wanted.stream_ms),
        };
        *range = range.start.max(query.from_ms)..range.end.min(end);
        wanted.histogram = Some(query::Histogram { axis, width_ms: query.interval_ms });
        let start = wanted.histogram.as_ref().and_then(|one| wanted.buckets(one));
        let counts = self.ask(&wanted)?.histogram;
        let first = start.map_or(0, |(start, _)| (start - query.from_ms) / query.interval_ms);
        let mut all = vec![0; query.buckets];
        for (at, count) in (usize::try_from(first.max(0)).unwrap_or(0)..).zip(counts) {
            if let Some(bucket) = all.get_mut(at) {
                *bucket = count;
            }
        }
        Ok(all)
    }

    fn topic_records(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        max: usize,
    ) -> Result<Option<TopicPage>, Error> {
        if partition >= self.broker().partitions(topic) {
            return Ok(None);
        }
        let bounds = self.broker().bounds(topic, partition).map_err(of_log)?;
        let from = from.max(bounds.start);
        let mut page = TopicPage { start: bounds.start, end: bounds.end, ..TopicPage::default() };
        if from < bounds.end {
            let limits = ReadLimits { records: max, bytes: TOPIC_BYTES_MAX };
            let records = self.broker().read(topic, partition, from, limits).map_err(of_log)?;
            page.records = records
                .into_iter()
                .map(|record| TopicRecord {
                    offset: record.offset,
                    append_time_ms: record.append_time_ms,
                    key: record.key,
                    headers: record.headers,
                    value: record.value,
                })
                .collect();
        }
        Ok(Some(page))
    }

    fn coverage(&self) -> Coverage {
        let (here, changes) = self.view().coverage();
        let all = 0..self.broker().partitions(Topic::Traces);
        Coverage { missing: all.filter(|own| !here.contains(own)).collect(), changes }
    }

    fn ready(&self) -> Vec<Check> {
        let problems = self.problems();
        let failure = self.broker().failure();
        let restoring = self.restoring();
        let mut checks = vec![Check {
            name: "log".to_owned(),
            ok: failure.is_none(),
            detail: failure.unwrap_or_else(|| "takes appends".to_owned()),
        }];
        checks.push(Check {
            name: "engine".to_owned(),
            ok: problems.is_empty(),
            detail: match problems.first() {
                None => "all loops run".to_owned(),
                Some((job, text)) => format!("{job}: {text}"),
            },
        });
        checks.push(Check {
            name: "state".to_owned(),
            ok: restoring.is_empty(),
            detail: if restoring.is_empty() { "loaded".to_owned() } else { progress(&restoring) },
        });
        checks
    }

    fn measure(&self, metrics: &Metrics) {
        let here = self.lag().unwrap_or_default();
        for partition in 0..self.broker().partitions(Topic::Traces) {
            // What has moved away lags where it is now.
            let own = here.iter().find(|(own, _)| *own == partition);
            let lag = own.map_or(0, |(_, lag)| *lag);
            let partition = partition.to_string();
            let labels: [(&'static str, &str); 1] = [("partition", &partition)];
            metrics.gauge(metrics::INPUT_LAG, &labels).set(lag as f64);
        }
        for topic in [Topic::Traces, Topic::Files] {
            let count = self.assignment.count(topic);
            metrics.gauge(metrics::PARTITIONS, &[("topic", topic.name())]).set(count as f64);
        }
    }
}

/// How far partitions have come.
fn progress(restoring: &[Restoring]) -> String {
    let one = |own: &Restoring| format!("{} at {} of {}", own.name, own.applied, own.target);
    let list: Vec<String> = restoring.iter().map(one).collect();
    format!("being restored: {}", list.join(", "))
}

impl Engine {
    fn ask(&self, query: &Query) -> Result<Answer, Error> {
        let answer = self.view().query(query).map_err(|error| match error {
            view::Error::Refused(why) => Error::BadQuery(why),
            view::Error::Busy(_) => Error::Unavailable(error.to_string()),
            view::Error::Read { .. } => Error::Damaged(error.to_string()),
        })?;
        if answer.bounds.is_exact() {
            return Ok(answer);
        }
        let why = answer.bounds.reasons().join(", ");
        Err(Error::BadQuery(format!("the query reads too much ({why}); narrow it")))
    }
}

fn cursor(place: Place) -> Cursor {
    let Place { stream_time_ms, partition, offset } = place;
    Cursor { stream_time_ms, partition, offset }
}

fn place(cursor: Cursor) -> Place {
    let Cursor { stream_time_ms, partition, offset } = cursor;
    Place { stream_time_ms, partition, offset }
}

/// A query for what a selection names, without rows or counts.
fn select(selection: &Selection) -> Result<Query, Error> {
    let predicates = selection.filters.iter().map(predicate).collect::<Result<_, _>>()?;
    Ok(Query {
        predicates,
        stream_ms: selection.recorded.from_ms..selection.recorded.to_ms,
        time_ms: selection.event.from_ms..selection.event.to_ms,
        ..Query::newest(selection.trackers.clone(), 0)
    })
}

fn predicate(filter: &Filter) -> Result<Predicate, Error> {
    let mut predicate = Predicate::on(filter.attribute);
    match (&filter.test, filter.negate) {
        (Test::AnyOf(values), false) => predicate.any_of.clone_from(values),
        (Test::AnyOf(values), true) => predicate.none_of.clone_from(values),
        (Test::Prefix(value), false) => predicate.prefix.clone_from(value),
        (Test::Contains(value), false) => predicate.contains = Text::new(value),
        (Test::Prefix(_) | Test::Contains(_), true) => {
            let name = filter.attribute.name();
            return Err(Error::BadQuery(format!("{name}: only values can be excluded")));
        }
    }
    Ok(predicate)
}

fn of_log(error: log::Error) -> Error {
    match error {
        log::Error::Unavailable(why) if why.contains("space") => Error::DiskFull(why),
        log::Error::Unavailable(why) => Error::Unavailable(why),
        log::Error::Refused(why) => Error::BadQuery(why),
        error => Error::Damaged(error.to_string()),
    }
}
