//! What the HTTP surfaces ask of the engine.
//!
//! Every call blocks; the handlers make them on blocking threads, a bounded number at a time.
//!
//! **Invariant (I11):** a query names its trackers, all of one account, and no answer holds a trace
//! of another tracker.

use std::sync::Arc;

use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::{Millis, Offset};
use trailproof_topology::query::Query;
use trailproof_topology::query::answer::Answer;

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Passing trouble; make the call again later. An append may have happened all the same.
    #[error("{0}")]
    Unavailable(String),
    /// The disk is full. An append may have happened all the same.
    #[error("{0}")]
    DiskFull(String),
    /// The query cannot be answered as it is.
    #[error("{0}")]
    BadQuery(String),
    /// Stored data is damaged.
    #[error("{0}")]
    Damaged(String),
}

/// A record of any topic, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    /// Its offset.
    pub offset: Offset,
    /// When the log appended it.
    pub append_time_ms: Millis,
    /// Its key.
    pub key: Vec<u8>,
    /// Its headers: name and value.
    pub headers: Vec<(String, String)>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Records of a partition, and which offsets it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPage {
    /// First offset there is.
    pub start: Offset,
    /// One past the last offset there is.
    pub end: Offset,
    /// The records, in offset order.
    pub records: Vec<TopicRecord>,
}

/// One condition of being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What is the matter, or a figure.
    pub detail: String,
}

/// Which partitions of topic `traces` queries see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Those that are not here, or not restored yet, ascending.
    pub missing: Vec<u32>,
    /// Another number where partitions came or went.
    pub changes: u64,
}

/// The engine, as the HTTP surfaces see it.
pub trait Backend: Send + Sync + 'static {
    /// Bytes of the greatest record that topic `traces` takes.
    fn record_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Appends records to partitions of topic `traces`, and returns when all are durable. The
    /// partitions ascend.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DiskFull`]: each record is *unknown*, it may have been
    /// appended; the embedded log appends all or none, Kafka any of them. [`Error::BadQuery`]: none
    /// was, one is too large.
    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error>;

    /// The partition of topic `traces` that an account's records go to, so that resends meet.
    fn partition_of(&self, account: &str) -> u32 {
        let partitions = u64::from(self.catalog().traces_partitions.max(1));
        (xxhash_rust::xxh3::xxh3_64(account.as_bytes()) % partitions) as u32
    }

    /// The catalog in force.
    fn catalog(&self) -> Arc<Catalog>;

    /// Finds traces and counts them. The answer is exact.
    ///
    /// # Errors
    /// [`Error::BadQuery`], also where it would read too much; [`Error::Unavailable`],
    /// [`Error::Damaged`].
    fn query(&self, query: &Query) -> Result<Answer, Error>;

    /// Reads up to `max` records of a partition from `from` on, or from the first one there is.
    /// `None` where there is no such partition.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Damaged`].
    fn topic_records(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        max: usize,
    ) -> Result<Option<TopicPage>, Error>;

    /// Which partitions the answers of queries are about.
    fn coverage(&self) -> Coverage {
        Coverage::default()
    }

    /// What must hold to be ready, and whether it does.
    fn ready(&self) -> Vec<Check>;

    /// Sets gauges that are only worth measuring when somebody looks.
    fn measure(&self, _metrics: &crate::metrics::Metrics) {}
}
