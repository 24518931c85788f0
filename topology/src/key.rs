//! Row keys: the only place that builds or reads them.
//!
//! Every key is big-endian and order-preserving; its first byte names the table. Days come first in
//! the tables of the view, so retention drops whole files and leaves no tombstones.
//!
//! **Invariant:** a table byte once assigned is never given another meaning.

use crate::input::{Millis, Offset};

/// A tracker's identity: the 16 bytes of its UUID.
pub type TrackerId = [u8; 16];

/// Milliseconds of a day.
pub const DAY_MS: Millis = 86_400_000;

/// The tables of a partition's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// One row: [`crate::input::Position`].
    Position = 1,
    /// Traces still in open chunks, by the first offset that the savepoint covers and a number.
    Tail = 2,
    /// Segments: counts and Merkle frontier as of the last closed chunk.
    Segment = 3,
    /// Closed chunks: header and zstd frame.
    Chunk = 4,
    /// Columns of closed chunks that are in no run yet.
    Columns = 5,
    /// Runs: index blocks over up to a million traces of one tracker.
    Run = 6,
    /// Effects to deliver, by lane and sequence.
    Outbox = 7,
    /// Digest stage: chain heads by tracker.
    Chain = 8,
    /// Window of resends, by the first offset of the batch that began the row, and a number.
    Window = 9,
    /// Counts of the running cycle by account.
    Count = 10,
    /// Digest stage: files waiting for their digest.
    Pending = 11,
    /// Digest stage: boundaries of input partitions.
    Boundary = 12,
    /// Sequence of a rule's notifications.
    Sequence = 13,
    /// The catalog in force, as JSON.
    Catalog = 14,
    /// Format version of the database.
    Format = 15,
    /// Fingerprint of the last applied record.
    Applied = 16,
    /// One row: the next offset as of the last savepoint.
    Savepoint = 17,
    /// Headers of runs.
    RunHeader = 18,
}

/// The tables whose rows are of one day each: their keys go on with it. In the order in which a
/// day is dropped: while the process runs, nothing names what is gone. After a crash the day is
/// dropped again.
pub const DAILY: [Table; 5] =
    [Table::RunHeader, Table::Run, Table::Columns, Table::Segment, Table::Chunk];

/// Bytes that hold nearly every key.
const KEY_BYTES: usize = 64;

/// A key under construction.
#[derive(Clone, Debug)]
pub struct Key(Vec<u8>);

impl Key {
    /// Starts a key of `table`.
    #[must_use]
    pub fn of(table: Table) -> Self {
        let mut key = Vec::with_capacity(KEY_BYTES);
        key.push(table as u8);
        Self(key)
    }

    /// Appends a big-endian 16-bit number.
    #[must_use]
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a big-endian 32-bit number.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a big-endian 64-bit number.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends one byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends bytes as they are: only for the last component, or one of fixed length.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    /// Appends text that holds no NUL, and a NUL that ends it.
    #[must_use]
    pub fn text(mut self, value: &str) -> Self {
        debug_assert!(!value.as_bytes().contains(&0), "key text holds NUL");
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self
    }

    /// The finished key.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }

    /// The range of all keys that begin with this one.
    #[must_use]
    pub fn range(self) -> (Vec<u8>, Vec<u8>) {
        let end = after_prefix(&self.0);
        (self.0, end)
    }
}

/// The smallest key greater than every key that begins with `prefix`.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; prefix.len() + 1]
}

/// The day of a time: days since 1970-01-01, 0 for anything earlier.
#[must_use]
pub fn day_of(time_ms: Millis) -> u16 {
    u16::try_from((time_ms / DAY_MS).max(0)).unwrap_or(u16::MAX)
}

/// What names a segment, in key order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId {
    /// The tracker.
    pub tracker: TrackerId,
    /// Start of the cycle.
    pub cycle_ms: Millis,
    /// The service, empty where the tracker does not sort by service. No NUL.
    pub service: String,
    /// The part: the first offset of the segment.
    pub part: Offset,
}

impl SegmentId {
    /// The key of this segment's row in `table`, one of segment, chunk and columns.
    #[must_use]
    pub fn key(&self, table: Table) -> Key {
        Key::of(table)
            .u16(day_of(self.cycle_ms))
            .raw(&self.tracker)
            .u64(self.cycle_ms.max(0).unsigned_abs())
            .text(&self.service)
            .u64(self.part)
    }

    /// Reads the segment out of a key of segment, chunk or columns; the rest of the key after it.
    #[must_use]
    pub fn parse(key: &[u8]) -> Option<(Self, &[u8])> {
        let tracker = key.get(3..19)?.try_into().ok()?;
        let cycle = u64::from_be_bytes(key.get(19..27)?.try_into().ok()?);
        let rest = key.get(27..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let service = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
        let part = u64::from_be_bytes(rest.get(end + 1..end + 9)?.try_into().ok()?);
        let id = Self { tracker, cycle_ms: i64::try_from(cycle).ok()?, service, part };
        Some((id, &rest[end + 9..]))
    }
}

/// The range of one tracker's rows of one day in `table`.
#[must_use]
pub fn tracker_day(table: Table, day: u16, tracker: &TrackerId) -> (Vec<u8>, Vec<u8>) {
    Key::of(table).u16(day).raw(tracker).range()
}

/// The range of all rows of the days before `day` in `table`.
#[must_use]
pub fn days_before(table: Table, day: u16) -> (Vec<u8>, Vec<u8>) {
    (Key::of(table).done(), Key::of(table).u16(day).done())
}

/// The range of a whole table.
#[must_use]
pub fn whole(table: Table) -> (Vec<u8>, Vec<u8>) {
    Key::of(table).range()
}

/// The key of an outbox row.
#[must_use]
pub fn outbox(lane: crate::effect::Lane, sequence: u64) -> Vec<u8> {
    Key::of(Table::Outbox).u8(lane as u8).u64(sequence).done()
}

/// The single row of `table`.
#[must_use]
pub fn single(table: Table) -> Vec<u8> {
    Key::of(table).done()
}
