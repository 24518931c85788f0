//! What the HTTP surfaces ask of the engine.
//!
//! Every call blocks; the handlers make them on blocking threads, a bounded number at a time.
//!
//! **Invariant (I11):** a query names its trackers, all of one account, and no answer holds a trace
//! of another tracker.

use std::sync::Arc;

use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::{Millis, Offset};
use trailproof_topology::key::TrackerId;

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

/// How a filter compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Equal to one of these.
    AnyOf(Vec<String>),
    /// Begins with this.
    Prefix(String),
    /// Contains this, whatever the case of its letters.
    Contains(String),
}

/// One condition on an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The attribute.
    pub attribute: Attribute,
    /// How it compares.
    pub test: Test,
    /// Whether the traces are wanted that do *not* pass the test, those without the attribute
    /// among them. Only with [`Test::AnyOf`].
    pub negate: bool,
}

/// Which of two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The event's own time.
    Event,
    /// Stream time: when the trace arrived.
    Recorded,
}

/// Order of an answer, by stream time, then partition, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Newest,
    /// Oldest first.
    Oldest,
}

/// A trace's place in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Stream time.
    pub stream_time_ms: Millis,
    /// Partition of topic `traces`.
    pub partition: u32,
    /// Offset in it.
    pub offset: Offset,
}

/// A stretch of time: `from <= t < to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First millisecond.
    pub from_ms: Millis,
    /// One past the last millisecond.
    pub to_ms: Millis,
}

impl Period {
    /// All of time.
    pub const ALWAYS: Self = Self { from_ms: Millis::MIN, to_ms: Millis::MAX };

    /// Whether it holds `time`. The end of [`Period::ALWAYS`] counts as infinite.
    #[must_use]
    pub fn holds(&self, time_ms: Millis) -> bool {
        self.from_ms <= time_ms && (time_ms < self.to_ms || self.to_ms == Millis::MAX)
    }
}

/// Which traces are wanted; all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Trackers to look in, of one account. None: no traces.
    pub trackers: Vec<TrackerId>,
    /// Conditions on attributes.
    pub filters: Vec<Filter>,
    /// Bounds of event time.
    pub event: Period,
    /// Bounds of stream time.
    pub recorded: Period,
}

/// A page of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Which traces.
    pub selection: Selection,
    /// In which order.
    pub order: Order,
    /// Only traces behind this place, in that order.
    pub after: Option<Place>,
    /// Traces at most, 1 to 1,000.
    pub limit: usize,
    /// Whether to count all that are selected, on every page.
    pub count: bool,
}

/// One found trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Where it stands.
    pub place: Place,
    /// The stored trace.
    pub trace: Vec<u8>,
}

/// The answer to a [`PageQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The traces, in the order asked for.
    pub hits: Vec<Hit>,
    /// Whether there are traces behind the last one.
    pub more: bool,
    /// How many are selected in all, where asked for.
    pub count: Option<u64>,
}

/// The commonest values of an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facet {
    /// Values and how many selected traces have them: commonest first, ties by value.
    pub values: Vec<(String, u64)>,
    /// Distinct values there are beyond those listed.
    pub others: u64,
    /// Selected traces that lack the attribute.
    pub absent: u64,
}

/// Counts over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramQuery {
    /// Which traces.
    pub selection: Selection,
    /// Which time.
    pub axis: Axis,
    /// Start of the first bucket.
    pub from_ms: Millis,
    /// Length of a bucket, at least 1.
    pub interval_ms: Millis,
    /// Number of buckets.
    pub buckets: usize,
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
    /// Appends records to partitions of topic `traces`, all or nothing, and returns when they are
    /// durable. The partitions ascend.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DiskFull`].
    fn append(&self, records: &[(u32, Vec<&[u8]>)]) -> Result<(), Error>;

    /// The partition of topic `traces` that an account's records go to, so that resends meet.
    fn partition_of(&self, account: &str) -> u32 {
        let partitions = u64::from(self.catalog().traces_partitions.max(1));
        (xxhash_rust::xxh3::xxh3_64(account.as_bytes()) % partitions) as u32
    }

    /// The catalog in force.
    fn catalog(&self) -> Arc<Catalog>;

    /// Finds traces.
    ///
    /// # Errors
    /// [`Error::BadQuery`], [`Error::Unavailable`], [`Error::Damaged`].
    fn traces(&self, query: &PageQuery) -> Result<Page, Error>;

    /// Counts the values of an attribute; lists at most `limit`.
    ///
    /// # Errors
    /// As [`Backend::traces`].
    fn facet(
        &self,
        selection: &Selection,
        attribute: Attribute,
        limit: usize,
    ) -> Result<Facet, Error>;

    /// Counts traces per bucket.
    ///
    /// # Errors
    /// As [`Backend::traces`].
    fn histogram(&self, query: &HistogramQuery) -> Result<Vec<u64>, Error>;

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
