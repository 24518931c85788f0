//! How a catalog comes into force, in two steps: a record of topic `catalog`, which is durable
//! before anything names it; then a mark in every partition, together with a record `marked`.
//!
//! A start that finds its newest version without `marked` writes the marks again. A version that
//! is marked twice is taken once, so nothing depends on which of the two steps a crash came after.
//!
//! For now the catalog comes from the configuration: where its content differs from the newest
//! version in the log, it becomes the next version. The control stage takes this over.
//!
//! **Invariant (I6):** whoever reads a mark finds the version that it names, or nobody ever does:
//! a mark holds the hash of a record that was there before it, and that nobody could guess.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use trailproof_topology::catalog::{Catalog, CatalogMark};
use trailproof_topology::effect::Topic;

use crate::log::Error;
use crate::log::broker::StoredRecord;
use crate::log::embedded::{EmbeddedLog, PartitionAppend, RecordBatchBuilder};
use crate::worker::Catalogs;

/// Header of a catalog record that holds the identity of topic `traces`.
const TOPIC_ID: &str = "trailproof-topic-id";

/// Header that tells marks, and in topic `catalog` the record that says they are written.
const KIND: &str = "trailproof";

/// Text of header [`KIND`] of a record of topic `catalog` whose value is a version that has its
/// marks.
const MARKED: &str = "marked";

/// Records read from the catalog topic at a time.
const READ_RECORDS: usize = 64;

/// Bytes read from the catalog topic at a time, beyond the first record.
const READ_BYTES: usize = 16 << 20;

/// One version and the mark that names it.
#[derive(Clone)]
struct Version {
    mark: CatalogMark,
    catalog: Arc<Catalog>,
}

/// The value of a version's record.
#[derive(Serialize)]
struct VersionRecord<'a> {
    #[serde(flatten)]
    catalog: &'a Catalog,
    /// Random: nobody can write a mark before the record is there.
    nonce: String,
}

/// Every version of the catalog.
pub struct CatalogHistory {
    versions: Mutex<BTreeMap<u64, Version>>,
    topic_id: Arc<str>,
}

impl CatalogHistory {
    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Arc<Catalog> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, newest) = versions.last_key_value().expect("a history begins with a version");
        Arc::clone(&newest.catalog)
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
        Arc::new(move |mark| {
            let versions = history.versions.lock().unwrap_or_else(PoisonError::into_inner);
            let found = versions.get(&mark.version).filter(|own| own.mark == *mark);
            found.map(|own| Arc::clone(&own.catalog))
        })
    }
}

/// Reads the history, appends `wanted` as its next version where it differs from the newest, and
/// writes the marks of the newest version unless that is known to have been done.
///
/// # Errors
/// The log's; a catalog record that cannot be read is [`Error::Corrupt`].
pub fn bring_into_force(
    log: &EmbeddedLog,
    wanted: &Catalog,
    partitions: u32,
) -> Result<CatalogHistory, Error> {
    let Read { mut versions, mut topic_id, mut marked } = read(log)?;
    let newest = versions.last_key_value().map(|(_, own)| Catalog::clone(&own.catalog));
    let version = newest.as_ref().map_or(0, |catalog| catalog.version);
    let mut next = Catalog { version, traces_partitions: partitions, ..wanted.clone() };
    if newest.as_ref() != Some(&next) {
        next.version = version + 1;
        let id = topic_id.get_or_insert_with(random_hex);
        let mark = append(log, &next, id)?;
        tracing::info!(version = next.version, "a new catalog is in force");
        versions.insert(next.version, Version { mark, catalog: Arc::new(next) });
        marked = None;
    }
    if let Some((version, own)) = versions.last_key_value()
        && marked != Some(*version)
    {
        append_marks(log, &own.mark)?;
    }
    let topic_id = topic_id.unwrap_or_default().into();
    Ok(CatalogHistory { versions: Mutex::new(versions), topic_id })
}

/// What topic `catalog` holds.
#[derive(Default)]
struct Read {
    versions: BTreeMap<u64, Version>,
    topic_id: Option<String>,
    /// The version that was marked last.
    marked: Option<u64>,
}

fn read(log: &EmbeddedLog) -> Result<Read, Error> {
    let bounds = log.bounds(Topic::Catalog, 0)?;
    let mut read = Read::default();
    let mut from = bounds.start;
    while from < bounds.end {
        let records = log.read(Topic::Catalog, 0, from, READ_RECORDS, READ_BYTES)?;
        let Some(last) = records.last() else { break };
        from = last.offset + 1;
        for record in &records {
            read.take(record)?;
        }
    }
    Ok(read)
}

impl Read {
    /// Takes in a record of topic `catalog`. Of two records of one version the first one counts.
    fn take(&mut self, record: &StoredRecord) -> Result<(), Error> {
        let header = |wanted: &str| {
            let own = record.headers.iter().find(|(name, _)| name == wanted);
            own.map(|(_, text)| text.as_str())
        };
        let corrupt =
            |reason: String| Error::Corrupt(format!("catalog record {}: {reason}", record.offset));
        if header(KIND) == Some(MARKED) {
            let text = std::str::from_utf8(&record.value).ok();
            let version = text.and_then(|text| text.parse().ok());
            self.marked =
                Some(version.ok_or_else(|| corrupt("its value is no version".to_owned()))?);
            return Ok(());
        }
        let catalog: Catalog =
            serde_json::from_slice(&record.value).map_err(|error| corrupt(error.to_string()))?;
        if self.topic_id.is_none() {
            self.topic_id = header(TOPIC_ID).map(str::to_owned);
        }
        let mark = CatalogMark::of(catalog.version, &record.value);
        let version = Version { mark, catalog: Arc::new(catalog) };
        self.versions.entry(mark.version).or_insert(version);
        Ok(())
    }
}

/// Appends the record of a version; the mark that names it.
fn append(log: &EmbeddedLog, catalog: &Catalog, topic_id: &str) -> Result<CatalogMark, Error> {
    let value = serde_json::to_vec(&VersionRecord { catalog, nonce: random_hex() })
        .expect("a catalog has string keys, so it always serialises");
    let mut builder = RecordBatchBuilder::new();
    builder.push_record(b"", &[(TOPIC_ID.to_owned(), topic_id.to_owned())], &value);
    let records = builder.finish();
    log.append(vec![PartitionAppend { topic: Topic::Catalog, partition: 0, records }])?;
    Ok(CatalogMark::of(catalog.version, &value))
}

/// Appends a mark to every partition, and says in topic `catalog` that this was done.
fn append_marks(log: &EmbeddedLog, mark: &CatalogMark) -> Result<(), Error> {
    let mut builder = RecordBatchBuilder::new();
    let mut appends = Vec::new();
    let mut push = |topic, partition, kind: &str, value: String| {
        builder.push_record(b"", &[(KIND.to_owned(), kind.to_owned())], value.as_bytes());
        appends.push(PartitionAppend { topic, partition, records: builder.finish() });
    };
    for topic in [Topic::Traces, Topic::Files] {
        for partition in 0..log.partitions(topic) {
            push(topic, partition, "catalog", mark.encode());
        }
    }
    push(Topic::Catalog, 0, MARKED, mark.version.to_string());
    log.append(appends).map(|_| ())
}

/// A random text of 32 hex digits: two logs never derive the same trace ids, and no two records of
/// the catalog have one hash.
fn random_hex() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system gives random bytes, or nothing here is safe");
    data_encoding::HEXLOWER.encode(&bytes)
}
