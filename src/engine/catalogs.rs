//! How a catalog comes into force: a record of topic `catalog` and a mark in every partition, all
//! in one append.
//!
//! For now the catalog comes from the configuration: where its content differs from the newest
//! version in the log, it becomes the next version. The control stage takes this over.
//!
//! **Invariant:** every version ever in force stays readable, so a replay finds each mark's
//! content.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;

use crate::log::Error;
use crate::log::embedded::{EmbeddedLog, PartitionAppend, RecordBatchBuilder};
use crate::worker::Catalogs;

/// Header of a catalog record that holds the identity of topic `traces`.
const TOPIC_ID: &str = "trailproof-topic-id";

/// Records read from the catalog topic at a time.
const READ_RECORDS: usize = 64;

/// Bytes read from the catalog topic at a time, beyond the first record.
const READ_BYTES: usize = 16 << 20;

/// Every version of the catalog.
pub struct CatalogHistory {
    versions: Mutex<BTreeMap<u64, Arc<Catalog>>>,
    topic_id: Arc<str>,
}

impl CatalogHistory {
    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Arc<Catalog> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, newest) = versions.last_key_value().expect("a history begins with a version");
        Arc::clone(newest)
    }

    /// Identity of topic `traces`, made when its log was.
    #[must_use]
    pub fn topic_id(&self) -> Arc<str> {
        Arc::clone(&self.topic_id)
    }

    /// Finds versions for workers.
    #[must_use]
    pub fn lookup(self: &Arc<Self>) -> Catalogs {
        let history = Arc::clone(self);
        Arc::new(move |version| {
            let versions = history.versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.get(&version).cloned()
        })
    }
}

/// Reads the history, and appends `wanted` as its next version where it differs from the newest.
///
/// # Errors
/// The log's; a catalog record that cannot be read is [`Error::Corrupt`].
pub fn bring_into_force(
    log: &EmbeddedLog,
    wanted: &Catalog,
    partitions: u32,
) -> Result<CatalogHistory, Error> {
    let (mut versions, mut topic_id) = read(log)?;
    let newest = versions.last_key_value().map(|(_, catalog)| Catalog::clone(catalog));
    let version = newest.as_ref().map_or(0, |catalog| catalog.version);
    let mut next = Catalog { version, traces_partitions: partitions, ..wanted.clone() };
    if newest.as_ref() != Some(&next) {
        next.version = version + 1;
        let id = topic_id.get_or_insert_with(new_topic_id);
        append(log, &next, id)?;
        tracing::info!(version = next.version, "a new catalog is in force");
        versions.insert(next.version, Arc::new(next));
    }
    let topic_id = topic_id.unwrap_or_default().into();
    Ok(CatalogHistory { versions: Mutex::new(versions), topic_id })
}

type Versions = BTreeMap<u64, Arc<Catalog>>;

fn read(log: &EmbeddedLog) -> Result<(Versions, Option<String>), Error> {
    let bounds = log.bounds(Topic::Catalog, 0)?;
    let (mut versions, mut topic_id) = (Versions::new(), None);
    let mut from = bounds.start;
    while from < bounds.end {
        let records = log.read(Topic::Catalog, 0, from, READ_RECORDS, READ_BYTES)?;
        let Some(last) = records.last() else { break };
        from = last.offset + 1;
        for record in &records {
            let catalog: Catalog = serde_json::from_slice(&record.value).map_err(|error| {
                Error::Corrupt(format!("catalog record {}: {error}", record.offset))
            })?;
            let own = record.headers.iter().find(|(name, _)| name == TOPIC_ID);
            topic_id = topic_id.or_else(|| own.map(|(_, id)| id.clone()));
            versions.insert(catalog.version, Arc::new(catalog));
        }
    }
    Ok((versions, topic_id))
}

fn append(log: &EmbeddedLog, catalog: &Catalog, topic_id: &str) -> Result<(), Error> {
    let mut builder = RecordBatchBuilder::new();
    let value =
        serde_json::to_vec(catalog).expect("a catalog has string keys, so it always serialises");
    builder.push_record(b"", &[(TOPIC_ID.to_owned(), topic_id.to_owned())], &value);
    let records = builder.finish();
    let mut appends = vec![PartitionAppend { topic: Topic::Catalog, partition: 0, records }];
    let mark = [("trailproof".to_owned(), "catalog".to_owned())];
    for topic in [Topic::Traces, Topic::Files] {
        for partition in 0..log.partitions(topic) {
            builder.push_record(b"", &mark, catalog.version.to_string().as_bytes());
            appends.push(PartitionAppend { topic, partition, records: builder.finish() });
        }
    }
    log.append(appends).map(|_| ())
}

/// A random identity: two logs never derive the same trace ids.
fn new_topic_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system gives random bytes, or nothing here is safe");
    data_encoding::HEXLOWER.encode(&bytes)
}
