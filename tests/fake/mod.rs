//! A backend in memory: every trace is kept in a list and every query walks it.

use std::sync::{Arc, Mutex};

use trailproof::api::backend::{Backend, Check, Coverage, Error, TopicPage};
use trailproof::config::{Config, Layers};
use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::digest_chain::CheckpointRecord;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::key::SegmentId;
use trailproof_topology::query::answer::{Answer, Facet, Row};
use trailproof_topology::query::predicate::indexed;
use trailproof_topology::query::{Axis, Cursor, Order, Query};
use trailproof_topology::trace::parse;

/// First stream time; each record is a millisecond later than the one before.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// The fake.
pub(crate) struct Fake {
    catalog: Arc<Catalog>,
    rows: Mutex<Vec<Row>>,
    raw: Mutex<Vec<Vec<u8>>>,
    /// What appends answer instead.
    pub(crate) failure: Mutex<Option<fn() -> Error>>,
    /// The greatest record that is taken; 0: any.
    pub(crate) record_bytes_max: Mutex<usize>,
    /// Partitions that are elsewhere.
    pub(crate) missing: Mutex<Vec<u32>>,
}

impl Fake {
    /// A fake with the catalog of `--dev`, or of this configuration file.
    pub(crate) fn new(file: Option<&str>) -> Arc<Self> {
        let written = file.map(|text| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        });
        let layers = Layers {
            dev: file.is_none(),
            file: written.as_ref().map(|file| file.path().to_owned()),
            ..Layers::default()
        };
        let mut catalog = Config::load(&layers).unwrap().catalog;
        catalog.traces_partitions = 2;
        Arc::new(Self {
            catalog: Arc::new(catalog),
            rows: Mutex::default(),
            raw: Mutex::default(),
            failure: Mutex::default(),
            record_bytes_max: Mutex::default(),
            missing: Mutex::default(),
        })
    }

    /// Every appended record.
    pub(crate) fn raw(&self) -> Vec<Vec<u8>> {
        self.raw.lock().unwrap().clone()
    }

    /// The rows that a query selects, in its order, wherever it begins.
    fn selected(&self, query: &Query) -> Vec<Row> {
        let mut rows = self.rows.lock().unwrap().clone();
        rows.retain(|row| self.passes(row, query));
        if query.order == Order::Newest {
            rows.reverse();
        }
        rows
    }

    fn passes(&self, row: &Row, query: &Query) -> bool {
        let trace = parse(&row.trace).unwrap();
        let account = self.catalog.account(&trace.account).unwrap();
        let name = trace.tracker_name.as_deref().unwrap_or("system");
        let tracker = account.trackers.iter().find(|own| own.name == name);
        tracker.is_some_and(|own| query.trackers.contains(&own.key().unwrap()))
            && query.time_ms.contains(&trace.time_ms)
            && query.stream_ms.contains(&row.cursor.stream_time_ms)
            && query
                .predicates
                .iter()
                .all(|own| own.matches(trace.value(own.attribute).map(indexed)))
    }
}

fn facet(attribute: Attribute, rows: &[Row], limit: usize) -> Facet {
    let mut counts = std::collections::BTreeMap::<Vec<u8>, u64>::new();
    for row in rows {
        if let Some(value) = parse(&row.trace).unwrap().value(attribute) {
            *counts.entry(value.as_bytes().to_vec()).or_default() += 1;
        }
    }
    let (distinct, present) = (counts.len() as u64, counts.values().sum());
    let mut values: Vec<(Vec<u8>, u64)> = counts.into_iter().collect();
    values.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
    values.truncate(limit);
    Facet { attribute, values, distinct, present }
}

fn histogram(query: &Query, rows: &[Row]) -> Vec<u64> {
    let Some(wanted) = &query.histogram else { return Vec::new() };
    let (start, buckets) = query.buckets(wanted).unwrap();
    let mut counts = vec![0; buckets];
    for row in rows {
        let time = match wanted.axis {
            Axis::Event => parse(&row.trace).unwrap().time_ms,
            Axis::Stream => row.cursor.stream_time_ms,
        };
        counts[((time - start) / wanted.width_ms) as usize] += 1;
    }
    counts
}

impl Backend for Fake {
    fn record_bytes_max(&self) -> usize {
        match *self.record_bytes_max.lock().unwrap() {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        if let Some(failure) = *self.failure.lock().unwrap() {
            return Err(failure());
        }
        let mut rows = self.rows.lock().unwrap();
        for (partition, values) in records {
            for value in values {
                self.raw.lock().unwrap().push(value.to_vec());
                let known =
                    parse(value).is_ok_and(|trace| self.catalog.account(&trace.account).is_some());
                if known {
                    let offset = rows.len() as u64;
                    let stream_time_ms = START_MS + offset as i64;
                    let cursor = Cursor { stream_time_ms, partition: *partition, offset };
                    let (cycle_ms, service) = (START_MS, String::new());
                    let segment = SegmentId { tracker: [0; 16], cycle_ms, service, part: 0 };
                    rows.push(Row { cursor, segment, trace: value.to_vec() });
                }
            }
        }
        Ok(())
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    fn query(&self, query: &Query) -> Result<Answer, Error> {
        query.check().map_err(Error::BadQuery)?;
        let mut rows = self.selected(query);
        let facets = query.facets.iter();
        let mut answer = Answer {
            total: query.count.then_some(rows.len() as u64),
            facets: facets.map(|own| facet(*own, &rows, query.facet_values)).collect(),
            histogram: histogram(query, &rows),
            ..Answer::default()
        };
        rows.retain(|row| match (query.cursor, query.order) {
            (None, _) => true,
            (Some(after), Order::Newest) => row.cursor < after,
            (Some(after), Order::Oldest) => row.cursor > after,
        });
        let more = rows.len() > query.limit && query.limit > 0;
        rows.truncate(query.limit);
        answer.next = rows.last().filter(|_| more).map(|row| row.cursor);
        answer.rows = rows;
        Ok(answer)
    }

    fn topic_records(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        max: usize,
    ) -> Result<Option<TopicPage>, Error> {
        use trailproof::api::backend::TopicRecord;
        if topic == Topic::Checkpoints {
            let head = CheckpointRecord {
                version: String::new(),
                origin: "trailproof/_ledger".to_owned(),
                tracker: "_ledger".to_owned(),
                sequence: 0,
                root: String::new(),
                interval_end_ms: START_MS,
                digest_bucket: String::new(),
                digest_object: String::new(),
                digest_sha256: String::new(),
                note: "trailproof/_ledger\n1\n".to_owned(),
            };
            let value = serde_json::to_vec(&head).unwrap();
            let (key, headers) = (b"_ledger".to_vec(), vec![]);
            let record = TopicRecord { offset: 0, append_time_ms: START_MS, key, headers, value };
            return Ok(Some(TopicPage { start: 0, end: 1, records: vec![record] }));
        }
        if topic != Topic::DeadLetters || partition > 0 {
            return Ok((partition == 0).then(TopicPage::default));
        }
        let record = |(offset, value): (u64, &[u8])| TopicRecord {
            offset,
            append_time_ms: START_MS,
            key: b"key".to_vec(),
            headers: vec![("reason".to_owned(), "not_utf8".to_owned())],
            value: value.to_vec(),
        };
        let all = [(0, &b"text"[..]), (1, &b"\xff\xfe"[..])].map(record);
        let records = all.into_iter().filter(|own| own.offset >= from).take(max).collect();
        Ok(Some(TopicPage { start: 0, end: 2, records }))
    }

    fn coverage(&self) -> Coverage {
        Coverage { missing: self.missing.lock().unwrap().clone(), changes: 0 }
    }

    fn ready(&self) -> Vec<Check> {
        let ok = self.failure.lock().unwrap().is_none();
        vec![Check { name: "log".to_owned(), ok, detail: "2 partitions".to_owned() }]
    }
}
