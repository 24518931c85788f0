//! The log port: partitions of records that only grow.
//!
//! A worker polls one partition with [`Log`]; what leaves the engine is appended with
//! [`Publisher`], atomically with the lane positions it makes true. [`broker`] is the whole log,
//! with all its topics. The adapters are `embedded` (RocksDB inside the process), `kafka` and the
//! simulator's.
//!
//! **Invariant:** an append that was answered is durable; one that failed is *unknown*, not absent.

pub mod broker;
pub mod embedded;
pub mod kafka;

use std::time::Duration;

use trailproof_topology::effect::{LANES, OutRecord};
use trailproof_topology::input::{Millis, Offset};

/// What to do about a topic that is not the one that the state was built from.
pub(crate) const REMEDY: &str = "Bring that topic back; or begin anew, with a new kafka.group, an \
                                 empty data folder and new buckets";

/// What went wrong at the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Passing trouble, such as a broker that is away. The call may be made again.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// The disk of the log is full. The call may be made again: it goes on once there is space.
    #[error("the log is not available: {0}")]
    DiskFull(String),
    /// The wanted offset is no longer, or not yet, in the partition.
    #[error(
        "offset {wanted} of {topic}/{partition} is outside the log, which holds {start} to {end}"
    )]
    OutOfRange {
        /// Topic name.
        topic: &'static str,
        /// Partition.
        partition: u32,
        /// The offset asked for.
        wanted: Offset,
        /// First offset there is.
        start: Offset,
        /// One past the last offset there is.
        end: Offset,
    },
    /// Stored bytes are damaged.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
    /// Another owner took over.
    #[error("another process owns {0}")]
    Fenced(String),
    /// The partition is not the one that the state was built from, or has lost what the state
    /// still needs. Going on would mix two histories, or skip records in silence.
    #[error("{0}")]
    Diverged(String),
    /// The partition changed under its reader, which cannot tell whether what it has read is still
    /// there. A new start of the partition can: it compares the last applied record.
    #[error("{0} changed while it was read; what was applied is compared with it again")]
    Changed(String),
    /// The log does not take this: no such partition, too large, other numbers of partitions.
    #[error("the log refuses: {0}")]
    Refused(String),
}

/// When a failed call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After a pause.
    Later,
    /// Not without somebody's help.
    Never,
}

impl Error {
    /// When the call may be made again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable(_) | Self::DiskFull(_) => Retry::Later,
            Self::OutOfRange { .. }
            | Self::Corrupt(_)
            | Self::Fenced(_)
            | Self::Diverged(_)
            | Self::Changed(_)
            | Self::Refused(_) => Retry::Never,
        }
    }

    /// Whether only a new start of the partition can tell how to go on: who owns it, and whether
    /// its log is still the one that its state was built from.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        matches!(self, Self::Fenced(_) | Self::Changed(_) | Self::OutOfRange { .. })
    }
}

/// What a polled record is, by its header `trailproof`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No header.
    Data,
    /// `tick`.
    Tick,
    /// `catalog`; the value is a [`trailproof_topology::catalog::CatalogMark`].
    Catalog,
    /// Anything else.
    Unknown,
    /// No record: see [`RecordBatch::push_gap`].
    Gap,
}

impl Kind {
    /// What the text of the header `trailproof` means; `None` where a record has no such header.
    #[must_use]
    pub fn of_header(text: Option<&[u8]>) -> Self {
        match text {
            None => Self::Data,
            Some(b"tick") => Self::Tick,
            Some(b"catalog") => Self::Catalog,
            Some(_) => Self::Unknown,
        }
    }
}

/// Records of one partition, packed: one buffer and where each value lies in it.
#[derive(Debug, Default)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    records: Vec<Packed>,
}

#[derive(Clone, Copy, Debug)]
struct Packed {
    offset: Offset,
    append_time_ms: Millis,
    kind: Kind,
    start: usize,
    length: usize,
}

/// One polled record.
#[derive(Clone, Copy, Debug)]
pub struct Polled<'a> {
    /// Its offset.
    pub offset: Offset,
    /// When the log appended it.
    pub append_time_ms: Millis,
    /// What it is.
    pub kind: Kind,
    /// Its value.
    pub value: &'a [u8],
}

impl RecordBatch {
    /// Forgets the records, keeps the memory up to 24 MiB.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(24 << 20);
        self.records.clear();
    }

    /// Adds a record; offsets ascend.
    pub fn push(&mut self, offset: Offset, append_time_ms: Millis, kind: Kind, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.records.push(Packed { offset, append_time_ms, kind, start, length: value.len() });
    }

    /// Says that the records `[from, to)` are gone unread, and that the operator accepts it; only
    /// for a reader whose state [`trailproof_topology::input::Position::knows`] all that was
    /// delivered. Offsets that merely hold no record need no gap.
    pub fn push_gap(&mut self, from: Offset, to: Offset) {
        if from < to {
            self.push(to - 1, 0, Kind::Gap, &from.to_be_bytes());
        }
    }

    /// Forgets all but the first `length` records.
    pub fn truncate(&mut self, length: usize) {
        if let Some(first) = self.records.get(length) {
            self.bytes.truncate(first.start);
            self.records.truncate(length);
        }
    }

    /// Records in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all values.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The records in offset order.
    pub fn iter(&self) -> impl Iterator<Item = Polled<'_>> {
        self.records.iter().map(|packed| self.unpack(packed))
    }

    /// The last record.
    #[must_use]
    pub fn last(&self) -> Option<Polled<'_>> {
        self.records.last().map(|packed| self.unpack(packed))
    }

    fn unpack(&self, packed: &Packed) -> Polled<'_> {
        Polled {
            offset: packed.offset,
            append_time_ms: packed.append_time_ms,
            kind: packed.kind,
            value: &self.bytes[packed.start..packed.start + packed.length],
        }
    }
}

/// A reader of one partition of one topic, owned by one worker.
pub trait Log {
    /// Fills `batch` with the records from `from` on: whole appends until `bytes_max` is reached or
    /// the end. Empty at the end of the partition.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Changed`], [`Error::Corrupt`] (never),
    /// [`Error::Unavailable`] (later).
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error>;

    /// Waits until the partition holds a record at `from`, or `timeout` passes.
    fn wait(&mut self, from: Offset, timeout: Duration);

    /// The log's own time: what a record appended now would carry.
    fn now_ms(&self) -> Millis;

    /// Appends a tick to the partition.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later).
    fn tick(&mut self) -> Result<(), Error>;
}

/// Appends what the engine says to the log, exactly once.
pub trait Publisher {
    /// The committed position of each lane: the sequence of the next effect to deliver.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later), [`Error::Fenced`] (never).
    fn committed(&mut self) -> Result<[u64; LANES], Error>;

    /// The input offset that was committed with the lanes, see [`Publisher::publish`]: the input
    /// held every record below it. 0 where nothing was committed yet, and from a log that keeps
    /// none: it cannot lose its end and keep the lanes.
    ///
    /// # Errors
    /// As [`Publisher::committed`].
    fn settled(&mut self) -> Result<Offset, Error> {
        Ok(0)
    }

    /// Appends `records` and commits `lanes`, all or nothing. `settled` is the input offset below
    /// which everything said is delivered: what a consumer group's lag is counted from.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later; ask [`Publisher::committed`] what became of it),
    /// [`Error::Fenced`] (never).
    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        settled: Offset,
    ) -> Result<(), Error>;
}

impl<L: Log + ?Sized> Log for Box<L> {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        (**self).poll(from, bytes_max, batch)
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        (**self).wait(from, timeout);
    }

    fn now_ms(&self) -> Millis {
        (**self).now_ms()
    }

    fn tick(&mut self) -> Result<(), Error> {
        (**self).tick()
    }
}

impl<P: Publisher + ?Sized> Publisher for Box<P> {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        (**self).committed()
    }

    fn settled(&mut self) -> Result<Offset, Error> {
        (**self).settled()
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        settled: Offset,
    ) -> Result<(), Error> {
        (**self).publish(records, lanes, settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_forgets_its_last_records() {
        let mut batch = RecordBatch::default();
        for (offset, value) in [(3, &b"ab"[..]), (4, b""), (5, b"c"), (6, b"")] {
            batch.push(offset, 0, Kind::Data, value);
        }
        let left = |batch: &RecordBatch| {
            (batch.len(), batch.bytes_len(), batch.last().map(|last| last.offset))
        };
        for (length, expected) in [
            (9, (4, 3, Some(6))),
            (4, (4, 3, Some(6))),
            (3, (3, 3, Some(5))),
            (2, (2, 2, Some(4))),
            (0, (0, 0, None)),
        ] {
            batch.truncate(length);
            assert_eq!(left(&batch), expected);
        }
    }
}
