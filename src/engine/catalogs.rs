//! How a catalog comes into force, in two steps: a record of topic `catalog`, which is durable
//! before anything names it; then a mark in every partition, together with a record `marked`.
//!
//! A start that finds its newest version without `marked` writes the marks again. A version that
//! is marked twice is taken once, so nothing depends on which of the two steps a crash came after.
//! Of several instances that start, each fences the one before it and reads what that one did.
//!
//! For now the catalog comes from the configuration: where its content differs from the newest
//! version in the log, it becomes the next version. The control stage takes this over.
//!
//! **Invariant (I6):** whoever reads a mark finds the version that it names, or nobody ever does:
//! a mark holds the hash of a record that was there before it, and that nobody could guess. A
//! version is absent only where the log was read to its end and had none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use trailproof_topology::catalog::{Catalog, CatalogMark};
use trailproof_topology::effect::{LANES, OutRecord, Topic};
use trailproof_topology::input::Offset;

use crate::log::broker::{Broker, Owner, ReadLimits, StoredRecord, mark};
use crate::log::{Error, Publisher};
use crate::worker::Catalogs;

/// Header of a catalog record that holds the identity of topic `traces`.
const TOPIC_ID: &str = "trailproof-topic-id";

/// Header that in topic `catalog` tells the record that says that marks are written.
const KIND: &str = "trailproof";

/// Text of header [`KIND`] of a record of topic `catalog` whose value is a version that has its
/// marks.
const MARKED: &str = "marked";

/// What is read from the catalog topic at a time.
const READ: ReadLimits = ReadLimits { records: 64, bytes: 16 << 20 };

/// Tries to bring a catalog into force while other instances do the same.
const TRIES_MAX: u32 = 20;

/// Looks for what was published, and the pause between two.
const LOOKS_MAX: u32 = 1_000;
const LOOK: Duration = Duration::from_millis(20);

/// Looks for what another instance publishes before it is done once more, at least.
const GIVE_WAY_LOOKS: u32 = 50;

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
    broker: Arc<dyn Broker>,
    read: Mutex<Read>,
}

/// What of topic `catalog` was read.
#[derive(Default)]
struct Read {
    versions: BTreeMap<u64, Version>,
    topic_id: Option<String>,
    /// The version that was marked last.
    marked: Option<u64>,
    /// The next offset to read; before the first read, 0.
    next: Offset,
}

impl CatalogHistory {
    fn locked(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version that was read.
    #[must_use]
    pub fn newest(&self) -> Arc<Catalog> {
        let read = self.locked();
        let (_, newest) = read.versions.last_key_value().expect("a history begins with a version");
        Arc::clone(&newest.catalog)
    }

    /// Identity of topic `traces`, made when its log was.
    #[must_use]
    pub fn topic_id(&self) -> Arc<str> {
        self.locked().topic_id.clone().unwrap_or_default().into()
    }

    /// Reads what other instances have added.
    ///
    /// # Errors
    /// The log's; a catalog record that cannot be read is [`Error::Corrupt`].
    pub fn refresh(&self) -> Result<(), Error> {
        self.locked().go_on(&*self.broker)
    }

    /// Finds versions for workers. One that is not known is looked for in the log first, where
    /// another instance may have put it.
    #[must_use]
    pub fn lookup(self: &Arc<Self>) -> Catalogs {
        let history = Arc::clone(self);
        Arc::new(move |mark| {
            let mut read = history.locked();
            if !read.versions.contains_key(&mark.version) {
                read.go_on(&*history.broker)?;
            }
            let found = read.versions.get(&mark.version).filter(|own| own.mark == *mark);
            Ok(found.map(|own| Arc::clone(&own.catalog)))
        })
    }
}

/// Reads the history, appends `wanted` as its next version where it differs from the newest, and
/// writes the marks of the newest version unless that is known to have been done. The numbers of
/// partitions in the catalog are those of the log.
///
/// # Errors
/// The log's; a catalog record that cannot be read is [`Error::Corrupt`]. [`Error::Fenced`] where
/// other instances keep doing the same.
pub fn bring_into_force(
    broker: &Arc<dyn Broker>,
    wanted: &Catalog,
) -> Result<CatalogHistory, Error> {
    let wanted = Catalog {
        version: 0,
        traces_partitions: broker.partitions(Topic::Traces),
        files_partitions: broker.partitions(Topic::Files),
        ..wanted.clone()
    };
    let mut read = Read::default();
    for attempt in 1.. {
        match read.bring_into_force(&**broker, &wanted) {
            // Another instance came between: what it did is in the log soon.
            Err(Error::Fenced(_)) if attempt < TRIES_MAX => {
                read.give_way(&**broker, &wanted)?;
            }
            outcome => {
                outcome?;
                break;
            }
        }
    }
    Ok(CatalogHistory { broker: Arc::clone(broker), read: Mutex::new(read) })
}

impl Read {
    fn bring_into_force(&mut self, broker: &dyn Broker, wanted: &Catalog) -> Result<(), Error> {
        self.go_on(broker)?;
        if self.next_version(wanted).is_none() && self.is_marked() {
            return Ok(());
        }
        // From here on this instance alone decides; what was decided before is read first.
        let mut publisher = broker.publisher(Owner::Catalog)?;
        self.go_on(broker)?;
        if let Some(next) = self.next_version(wanted) {
            let topic_id = self.topic_id.clone().unwrap_or_else(random_hex);
            publisher.publish(&[version_record(&next, topic_id)], [0; LANES], 0)?;
            self.wait_for(broker, next.version)?;
            tracing::info!(version = next.version, "a new catalog is in force");
        }
        self.write_marks(broker, &mut *publisher)
    }

    /// Lets another instance finish that does the same. Of two that gave way to each other, one
    /// comes back first: the pauses are random.
    fn give_way(&mut self, broker: &dyn Broker, wanted: &Catalog) -> Result<(), Error> {
        let mut jitter = [0];
        aws_lc_rs::rand::fill(&mut jitter).unwrap_or_default();
        for _ in 0..GIVE_WAY_LOOKS + u32::from(jitter[0]) {
            self.go_on(broker)?;
            if self.next_version(wanted).is_none() && self.is_marked() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Reads until a version that was published is there: on Kafka, what was committed shows a
    /// moment later.
    fn wait_for(&mut self, broker: &dyn Broker, version: u64) -> Result<(), Error> {
        for _ in 0..LOOKS_MAX {
            self.go_on(broker)?;
            if self.versions.contains_key(&version) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        Err(Error::Unavailable("the catalog that was published does not show; start again".into()))
    }

    /// `wanted` as the next version; `None` where the newest one says the same.
    fn next_version(&self, wanted: &Catalog) -> Option<Catalog> {
        let newest = self.versions.last_key_value().map(|(_, own)| &*own.catalog);
        let version = newest.map_or(0, |catalog| catalog.version);
        let same = newest == Some(&Catalog { version, ..wanted.clone() });
        (!same).then(|| Catalog { version: version + 1, ..wanted.clone() })
    }

    /// Whether the newest version has its marks.
    fn is_marked(&self) -> bool {
        self.versions.last_key_value().is_some_and(|(version, _)| self.marked == Some(*version))
    }

    /// Appends a mark to every partition unless that was done, and says in topic `catalog` that it
    /// was.
    fn write_marks(
        &mut self,
        broker: &dyn Broker,
        publisher: &mut dyn Publisher,
    ) -> Result<(), Error> {
        if self.is_marked() {
            return Ok(());
        }
        let Some((version, newest)) = self.versions.last_key_value() else { return Ok(()) };
        let mut records = Vec::new();
        for topic in [Topic::Traces, Topic::Files] {
            for partition in 0..broker.partitions(topic) {
                let value = newest.mark.encode().into_bytes();
                records.push(mark(topic, partition, "catalog", value));
            }
        }
        records.push(mark(Topic::Catalog, 0, MARKED, version.to_string().into_bytes()));
        publisher.publish(&records, [0; LANES], 0)?;
        self.go_on(broker)
    }

    /// Reads on to the end of the topic as of now.
    fn go_on(&mut self, broker: &dyn Broker) -> Result<(), Error> {
        let bounds = broker.bounds(Topic::Catalog, 0)?;
        self.next = self.next.max(bounds.start);
        while self.next < bounds.end {
            let records = broker.read(Topic::Catalog, 0, self.next, READ)?;
            let Some(last) = records.last() else { break };
            let next = last.offset + 1;
            records.iter().try_for_each(|record| self.take(record))?;
            self.next = next;
        }
        Ok(())
    }

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

/// The record of a version.
fn version_record(catalog: &Catalog, topic_id: String) -> OutRecord {
    OutRecord {
        topic: Topic::Catalog,
        partition: Some(0),
        key: Vec::new(),
        headers: vec![(TOPIC_ID.to_owned(), topic_id)],
        value: serde_json::to_vec(&VersionRecord { catalog, nonce: random_hex() })
            .expect("a catalog has string keys, so it always serialises"),
    }
}

/// A random text of 32 hex digits: two logs never derive the same trace ids, and no two records of
/// the catalog have one hash.
fn random_hex() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system gives random bytes, or nothing here is safe");
    data_encoding::HEXLOWER.encode(&bytes)
}
