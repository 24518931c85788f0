//! The broker port: a log with all its topics and partitions, as the engine and the HTTP surface
//! use it.
//!
//! Adapters are `embedded` (all partitions belong to this process) and `kafka` (a consumer group
//! shares them out). What the engine needs beyond one partition's [`Log`] and [`Publisher`] is here
//! and nowhere else.
//!
//! **Invariant:** a partition is assigned to an instance before it runs there, and what was revoked
//! has stopped before [`Partitions::revoked`] returns.

use std::ops::Range;
use std::sync::Arc;

use trailproof_topology::effect::{OutRecord, Topic};
use trailproof_topology::input::{Millis, Offset};

use super::{Error, Log, Publisher};

/// Records of one read, beyond which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Records, at least 1.
    pub records: usize,
    /// Bytes of values, beyond the first record.
    pub bytes: usize,
}

/// A record as an operator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended, in ms since epoch UTC.
    pub append_time_ms: Millis,
    /// Its key, mostly empty.
    pub key: Vec<u8>,
    /// Its headers in order: name and value.
    pub headers: Vec<(String, String)>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Who publishes. A new publisher of the same owner fences the one before it, wherever it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The record stage over a partition of `traces`.
    Record(u32),
    /// The digest stage over a partition of `files`.
    Digest(u32),
    /// Whoever brings a catalog into force.
    Catalog,
}

impl Owner {
    /// The name its lane positions are kept under, such as `record/0`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Record(partition) => format!("record/{partition}"),
            Self::Digest(partition) => format!("digest/{partition}"),
            Self::Catalog => "catalog".to_owned(),
        }
    }

    /// The partition whose offset it commits; the catalog's owner reads none.
    #[must_use]
    pub fn input(self) -> Option<(Topic, u32)> {
        match self {
            Self::Record(partition) => Some((Topic::Traces, partition)),
            Self::Digest(partition) => Some((Topic::Files, partition)),
            Self::Catalog => None,
        }
    }
}

/// Told which input partitions (of `traces` and `files`) this instance runs.
pub trait Partitions: Send + Sync {
    /// These are this instance's from now on. Returns soon: restoring goes on on other threads.
    fn assigned(&self, partitions: &[(Topic, u32)]);

    /// These are this instance's no more. Returns when they have stopped, at the latest after the
    /// step they are in. `lost`: another instance may run them already, so nothing more is
    /// committed.
    fn revoked(&self, partitions: &[(Topic, u32)], lost: bool);
}

/// Membership in the group that shares the partitions. Dropped, it leaves: what it still has is
/// revoked first.
pub trait Membership: Send {
    /// What is wrong with it at the moment; `None` while it is a member in good standing.
    fn problem(&self) -> Option<String>;
}

/// A log with all its topics.
pub trait Broker: Send + Sync {
    /// What it is and where, for the start-up lines: `embedded` or `kafka at host:port`.
    fn description(&self) -> String;

    /// How many partitions a topic has; 0 for a topic the log does not have.
    fn partitions(&self, topic: Topic) -> u32;

    /// The partition that a record with this key goes to.
    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32;

    /// The offsets a partition holds: `start..end`, all durable. Offsets between them may hold no
    /// record.
    ///
    /// # Errors
    /// [`Error::Refused`]: no such partition. [`Error::Unavailable`] (later).
    fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error>;

    /// Where partitions of a topic end, in their order, as [`Broker::bounds`] says.
    ///
    /// # Errors
    /// As [`Broker::bounds`].
    fn ends(&self, topic: Topic, partitions: &[u32]) -> Result<Vec<Offset>, Error> {
        partitions.iter().map(|partition| Ok(self.bounds(topic, *partition)?.end)).collect()
    }

    /// Reads committed records from offset `from` on; none at the end.
    ///
    /// # Errors
    /// As [`Log::poll`]; [`Error::Refused`]: no such partition.
    fn read(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<StoredRecord>, Error>;

    /// Bytes of the greatest record that `traces` takes.
    fn record_bytes_max(&self) -> usize;

    /// Appends traces to partitions of `traces`; returns once all are durable.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DiskFull`] (later): each of them is *unknown*, it may be in
    /// the log after all. [`Error::Refused`]: no such partition, or too large; nothing was
    /// appended.
    fn append(&self, traces: &[(u32, Vec<&[u8]>)]) -> Result<(), Error>;

    /// Why the log takes no appends at the moment; `None` while it does.
    fn failure(&self) -> Option<String>;

    /// A reader of one input partition.
    ///
    /// # Errors
    /// [`Error::Refused`]: no such partition. [`Error::Unavailable`] (later).
    fn reader(&self, topic: Topic, partition: u32) -> Result<Box<dyn Log + Send>, Error>;

    /// The publisher of `owner`; it fences any other of the same owner.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unavailable`] (later).
    fn publisher(&self, owner: Owner) -> Result<Box<dyn Publisher + Send>, Error>;

    /// Joins the group. `partitions` is called from the broker's own thread, first with what this
    /// instance is to run, then as that changes.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unavailable`] (later).
    fn join(&self, partitions: Arc<dyn Partitions>) -> Result<Box<dyn Membership>, Error>;
}

/// A record for [`Publisher::publish`] with a mark of the engine's own: header `trailproof`.
#[must_use]
pub fn mark(topic: Topic, partition: u32, kind: &str, value: Vec<u8>) -> OutRecord {
    OutRecord {
        topic,
        partition: Some(partition),
        key: Vec::new(),
        headers: vec![("trailproof".to_owned(), kind.to_owned())],
        value,
    }
}
