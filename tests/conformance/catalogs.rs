//! How a catalog comes into force, on the embedded log: marks, forged marks, half-done starts.

use std::sync::Arc;

use tempfile::TempDir;
use trailproof::engine::catalogs::{self, CatalogHistory};
use trailproof::log::broker::Broker;
use trailproof::log::embedded::{EmbeddedLog, Options, PartitionAppend, RecordBatchBuilder};
use trailproof::memory_budget::MemoryBudget;
use trailproof_topology::catalog::{Catalog, CatalogMark};
use trailproof_topology::effect::Topic;

const TOPICS: [(Topic, u32); 3] = [(Topic::Traces, 2), (Topic::Files, 2), (Topic::Catalog, 1)];

fn open() -> (EmbeddedLog, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(Arc::new(|| 1_000), MemoryBudget::new(8 << 20, 8 << 20));
    (EmbeddedLog::open(folder.path(), &TOPICS, options).unwrap(), folder)
}

fn catalog() -> Catalog {
    let text = include_str!("../../schemas/examples/catalog/valid/dev.json");
    let catalog = serde_json::from_str(text).unwrap();
    Catalog { traces_partitions: 2, files_partitions: 2, ..catalog }
}

fn bring_into_force(log: &EmbeddedLog, wanted: &Catalog) -> Arc<CatalogHistory> {
    let broker: Arc<dyn Broker> = Arc::new(log.clone());
    Arc::new(catalogs::bring_into_force(&broker, wanted).unwrap())
}

fn append(log: &EmbeddedLog, topic: Topic, headers: &[(&str, &str)], value: &[u8]) {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let headers: Vec<(String, String)> = headers.iter().map(owned).collect();
    let mut builder = RecordBatchBuilder::new();
    builder.push_record(b"", &headers, value);
    let records = builder.finish();
    log.append(vec![PartitionAppend { topic, partition: 0, records }]).unwrap();
}

/// The marks of every partition of `traces` and `files`.
fn marks(log: &EmbeddedLog) -> Vec<Vec<CatalogMark>> {
    let mut all = Vec::new();
    for topic in [Topic::Traces, Topic::Files] {
        for partition in 0..2 {
            let records = log.read(topic, partition, 0, 100, 1 << 20).unwrap();
            let marks = records.iter().map(|record| CatalogMark::parse(&record.value).unwrap());
            all.push(marks.collect());
        }
    }
    all
}

#[test]
fn a_version_is_marked_once_and_found_by_its_mark() {
    let (log, _folder) = open();
    for _ in 0..3 {
        let history = bring_into_force(&log, &catalog());
        let marks = marks(&log);
        assert!(marks.iter().all(|own| own.len() == 1 && own[0] == marks[0][0]), "{marks:?}");
        let lookup = history.lookup();
        assert_eq!(lookup(&marks[0][0]).unwrap().unwrap().version, 1);
        assert_eq!(lookup(&marks[0][0]).unwrap(), Some(history.newest()));
    }
    // Another region, another version.
    let changed = Catalog { region: "north".to_owned(), ..catalog() };
    let history = bring_into_force(&log, &changed);
    let marks = marks(&log);
    assert!(marks.iter().all(|own| own.len() == 2));
    assert_eq!(history.lookup()(&marks[1][1]).unwrap().unwrap().region, "north");
    assert_eq!(history.lookup()(&marks[1][0]).unwrap().unwrap().region, "local");
}

#[test]
fn a_mark_written_before_its_version_is_never_honoured() {
    let (log, _folder) = open();
    let history = bring_into_force(&log, &catalog());
    // The forger knows what the next version will say, but for its random number.
    let next = Catalog { version: 2, region: "north".to_owned(), ..catalog() };
    let forged = CatalogMark::of(2, &serde_json::to_vec(&next).unwrap());
    append(&log, Topic::Traces, &[("trailproof", "catalog")], forged.encode().as_bytes());
    assert_eq!(history.lookup()(&forged).unwrap(), None);
    let history = bring_into_force(&log, &next);
    assert_eq!(history.newest().version, 2);
    assert_eq!(history.lookup()(&forged).unwrap(), None);
    let last = *marks(&log)[0].last().unwrap();
    assert_eq!(history.lookup()(&last).unwrap(), Some(history.newest()));
}

#[test]
fn a_version_whose_marks_a_crash_prevented_is_marked_at_the_next_start() {
    let (log, _folder) = open();
    let record = serde_json::to_vec(&Catalog { version: 1, ..catalog() }).unwrap();
    append(&log, Topic::Catalog, &[("trailproof-topic-id", "abc")], &record);
    for _ in 0..2 {
        let history = bring_into_force(&log, &catalog());
        assert_eq!(&*history.topic_id(), "abc");
        let marks = marks(&log);
        assert!(marks.iter().all(|own| *own == [CatalogMark::of(1, &record)]), "{marks:?}");
        assert_eq!(history.lookup()(&marks[3][0]).unwrap(), Some(history.newest()));
    }
}
