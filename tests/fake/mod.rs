//! A backend in memory: every trace is kept in a list and every query walks it.

use std::sync::{Arc, Mutex};

use trailproof::api::backend::{
    Axis, Backend, Check, Coverage, Error, Facet, Filter, HistogramQuery, Hit, Order, Page,
    PageQuery, Place, Selection, Test, TopicPage,
};
use trailproof::config::{Config, Layers};
use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::digest_chain::CheckpointRecord;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::trace::parse;

/// First stream time; each record is a millisecond later than the one before.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// The fake.
pub(crate) struct Fake {
    catalog: Arc<Catalog>,
    hits: Mutex<Vec<Hit>>,
    raw: Mutex<Vec<Vec<u8>>>,
    /// What appends answer instead.
    pub(crate) failure: Mutex<Option<fn() -> Error>>,
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
            hits: Mutex::default(),
            raw: Mutex::default(),
            failure: Mutex::default(),
            missing: Mutex::default(),
        })
    }

    /// Every appended record.
    pub(crate) fn raw(&self) -> Vec<Vec<u8>> {
        self.raw.lock().unwrap().clone()
    }

    fn selected(&self, selection: &Selection) -> Vec<Hit> {
        let hits = self.hits.lock().unwrap();
        hits.iter().filter(|hit| self.passes(hit, selection)).cloned().collect()
    }

    fn passes(&self, hit: &Hit, selection: &Selection) -> bool {
        let trace = parse(&hit.trace).unwrap();
        let account = self.catalog.account(&trace.account).unwrap();
        let name = trace.tracker_name.as_deref().unwrap_or("system");
        let tracker = account.trackers.iter().find(|own| own.name == name);
        tracker.is_some_and(|own| selection.trackers.contains(&own.key().unwrap()))
            && selection.event.holds(trace.time_ms)
            && selection.recorded.holds(hit.place.stream_time_ms)
            && selection.filters.iter().all(|filter| test(filter, trace.value(filter.attribute)))
    }
}

fn test(filter: &Filter, value: Option<&str>) -> bool {
    let lower = |text: &str| text.to_ascii_lowercase();
    let passed = value.is_some_and(|value| match &filter.test {
        Test::AnyOf(values) => values.iter().any(|own| own == value),
        Test::Prefix(own) => value.starts_with(own),
        Test::Contains(own) => lower(value).contains(&lower(own)),
    });
    passed != filter.negate
}

impl Backend for Fake {
    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        if let Some(failure) = *self.failure.lock().unwrap() {
            return Err(failure());
        }
        let mut hits = self.hits.lock().unwrap();
        for (partition, values) in records {
            for value in values {
                self.raw.lock().unwrap().push(value.to_vec());
                let known =
                    parse(value).is_ok_and(|trace| self.catalog.account(&trace.account).is_some());
                if known {
                    let offset = hits.len() as u64;
                    let stream_time_ms = START_MS + offset as i64;
                    let place = Place { stream_time_ms, partition: *partition, offset };
                    hits.push(Hit { place, trace: value.to_vec() });
                }
            }
        }
        Ok(())
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    fn traces(&self, query: &PageQuery) -> Result<Page, Error> {
        let mut hits = self.selected(&query.selection);
        let count = query.count.then_some(hits.len() as u64);
        hits.sort_by_key(|hit| hit.place);
        if query.order == Order::Newest {
            hits.reverse();
        }
        hits.retain(|hit| match (query.after, query.order) {
            (None, _) => true,
            (Some(after), Order::Newest) => hit.place < after,
            (Some(after), Order::Oldest) => hit.place > after,
        });
        let more = hits.len() > query.limit;
        hits.truncate(query.limit);
        Ok(Page { hits, more, count })
    }

    fn facet(
        &self,
        selection: &Selection,
        attribute: Attribute,
        limit: usize,
    ) -> Result<Facet, Error> {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        let mut absent = 0;
        for hit in self.selected(selection) {
            match parse(&hit.trace).unwrap().value(attribute) {
                Some(value) => *counts.entry(value.to_owned()).or_default() += 1,
                None => absent += 1,
            }
        }
        let mut values: Vec<(String, u64)> = counts.into_iter().collect();
        values.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
        let others = values.len().saturating_sub(limit) as u64;
        values.truncate(limit);
        Ok(Facet { values, others, absent })
    }

    fn histogram(&self, query: &HistogramQuery) -> Result<Vec<u64>, Error> {
        let mut buckets = vec![0; query.buckets];
        for hit in self.selected(&query.selection) {
            let time = match query.axis {
                Axis::Event => parse(&hit.trace).unwrap().time_ms,
                Axis::Recorded => hit.place.stream_time_ms,
            };
            let at = (time - query.from_ms) / query.interval_ms;
            if let Some(count) = usize::try_from(at).ok().and_then(|at| buckets.get_mut(at)) {
                *count += 1;
            }
        }
        Ok(buckets)
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
        vec![Check { name: "log".to_owned(), ok: true, detail: "2 partitions".to_owned() }]
    }
}
