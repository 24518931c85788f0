//! The last applied record: which one it was, written with each commit, and compared with the log
//! before a partition goes on.
//!
//! **Invariant:** a partition goes on only in the log that its state was built from, and where
//! that state ends; anything else is an error that says what to do, never a skipped record.

use sha2::{Digest as _, Sha256};
use trailproof_topology::effect::{LANES, Lane, Topic};
use trailproof_topology::input::{Millis, Offset, Position};
use trailproof_topology::key::{self, Table};
use trailproof_topology::state::Rows;

use crate::log::broker::{Broker, ReadLimits};
use crate::log::{self, Polled, REMEDY};
use crate::store;
use crate::worker::Error;

/// Bytes of the row: offset, append time, SHA-256.
const ROW_BYTES: usize = 8 + 8 + 32;

/// The fingerprint of an applied record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its offset.
    pub offset: Offset,
    /// When the log appended it.
    pub append_time_ms: Millis,
    /// SHA-256 of its value.
    pub sha256: [u8; 32],
}

impl Applied {
    /// The fingerprint of a polled record.
    #[must_use]
    pub fn of(record: &Polled<'_>) -> Self {
        Self::new(record.offset, record.append_time_ms, record.value)
    }

    fn new(offset: Offset, append_time_ms: Millis, value: &[u8]) -> Self {
        Self { offset, append_time_ms, sha256: Sha256::digest(value).into() }
    }

    /// The row of table `applied`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(ROW_BYTES);
        row.extend_from_slice(&self.offset.to_be_bytes());
        row.extend_from_slice(&self.append_time_ms.to_be_bytes());
        row.extend_from_slice(&self.sha256);
        row
    }

    /// Reads a row; `None` where its length is wrong.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let row: &[u8; ROW_BYTES] = row.try_into().ok()?;
        Some(Self {
            offset: Offset::from_be_bytes(row[..8].try_into().ok()?),
            append_time_ms: Millis::from_be_bytes(row[8..16].try_into().ok()?),
            sha256: row[16..].try_into().ok()?,
        })
    }
}

/// Records that are gone before they were applied, and that somebody has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub input: (Topic, u32),
    /// The first offset that is gone.
    pub from: Offset,
    /// One past the last.
    pub to: Offset,
}

impl Gap {
    /// Reads what [`Gap`]'s text is, such as `traces/3@1000..2000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, range) = text.split_once('@')?;
        let (topic, partition) = name.split_once('/')?;
        let (from, to) = range.split_once("..")?;
        let topic = [Topic::Traces, Topic::Files].into_iter().find(|own| own.name() == topic)?;
        let input = (topic, partition.parse().ok()?);
        let gap = Self { input, from: from.parse().ok()?, to: to.parse().ok()? };
        (gap.from < gap.to).then_some(gap)
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (topic, partition) = self.input;
        write!(to, "{}/{partition}@{}..{}", topic.name(), self.from, self.to)
    }
}

/// Checks that the partition in the log is the one that `rows` were built from, and that nothing
/// which they lack is gone from it but what is in `accepted`: that gap is answered. `lanes` are the
/// committed positions of its publisher, and `settled` is the input offset committed with them:
/// rows that are new here know of neither, and what was published must not be taken for what comes.
///
/// # Errors
/// [`log::Error::Diverged`] (never); the log's and the store's own.
pub fn check<R: Rows<Error = store::Error>>(
    rows: &R,
    broker: &dyn Broker,
    (topic, partition): (Topic, u32),
    (lanes, settled): ([u64; LANES], Offset),
    accepted: &[Gap],
) -> Result<Option<Gap>, Error> {
    let position = position(rows)?;
    let bounds = broker.bounds(topic, partition)?;
    let name = || format!("{}/{partition}", topic.name());
    let next = position.next_offset;
    let diverged = |text: String| Err(log::Error::Diverged(text).into());
    let known = next.max(settled);
    if known > bounds.end {
        return diverged(format!(
            "topic {}, partition {partition}, was recreated or truncated: it ends at offset {}, \
             and {known} were applied. {REMEDY}",
            topic.name(),
            bounds.end
        ));
    }
    if next < bounds.start && !position.knows(lanes) {
        // What the lost records had brought is told already; a state without it tells it again.
        return diverged(format!(
            "the state of {} is behind what was published from it, and cannot be rebuilt: the log \
             begins at offset {}. Copy its folder of state from another instance; or begin anew, \
             with a new kafka.group and new buckets",
            name(),
            bounds.start
        ));
    }
    if next < bounds.start {
        let gap = Gap { input: (topic, partition), from: next, to: bounds.start };
        if accepted.contains(&gap) {
            return Ok(Some(gap));
        }
        return diverged(format!(
            "records {next} to {} of {} are gone before they were applied. Copy the folder of \
             its state from an instance that applied them; or accept the gap: \
             kafka.accept_gap = \"{gap}\"",
            bounds.start - 1,
            name(),
        ));
    }
    compare_last(rows, broker, (topic, partition), bounds.start)?;
    if let Some(lane) = forgotten(rows, &position, lanes)? {
        return diverged(format!(
            "of {} the log says that {} effects of lane {lane:?} were published, and the state \
             that more were: the group's offset is another group's, or was forgotten while nobody \
             was in the group (offsets.retention.minutes). Set kafka.group to the group it was; or \
             begin anew, with a new kafka.group, an empty data folder and new buckets",
            name(),
            lanes[lane as usize]
        ));
    }
    Ok(None)
}

/// Checks that the log holds the last applied record, unless it has passed out of it.
fn compare_last<R: Rows<Error = store::Error>>(
    rows: &R,
    broker: &dyn Broker,
    (topic, partition): (Topic, u32),
    start: Offset,
) -> Result<(), Error> {
    let Some(row) = rows.get(&key::single(Table::Applied))? else { return Ok(()) };
    let Some(applied) = Applied::decode(&row) else { return Err(damaged("applied")) };
    if applied.offset < start {
        return Ok(());
    }
    let limits = ReadLimits { records: 1, bytes: 1 };
    let found = broker.read(topic, partition, applied.offset, limits)?;
    let found = found
        .first()
        .map(|record| Applied::new(record.offset, record.append_time_ms, &record.value));
    if found == Some(applied) {
        return Ok(());
    }
    Err(log::Error::Diverged(format!(
        "topic {}, partition {partition}, was recreated or truncated: offset {} holds another \
         record than was applied. {REMEDY}",
        topic.name(),
        applied.offset
    ))
    .into())
}

/// A lane whose next effect, by the log, is one that the state has dropped as published.
fn forgotten<R: Rows<Error = store::Error>>(
    rows: &R,
    position: &Position,
    lanes: [u64; LANES],
) -> Result<Option<Lane>, Error> {
    for lane in Lane::ALL {
        let next = lanes[lane as usize];
        let known = position.lane_next[lane as usize] > next;
        if known && rows.get(&key::outbox(lane, next))?.is_none() {
            return Ok(Some(lane));
        }
    }
    Ok(None)
}

fn position<R: Rows<Error = store::Error>>(rows: &R) -> Result<Position, Error> {
    match rows.get(&key::single(Table::Position))? {
        None => Ok(Position::default()),
        Some(row) => Position::decode(&row).ok_or_else(|| damaged("position")),
    }
}

fn damaged(table: &str) -> Error {
    store::Error::Corrupt(format!("row {table} does not decode")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_written_as_it_is_read() {
        let gap = Gap { input: (Topic::Traces, 3), from: 1_000, to: 2_000 };
        assert_eq!(gap.to_string(), "traces/3@1000..2000");
        assert_eq!(Gap::parse(&gap.to_string()), Some(gap));
        for wrong in ["", "traces/3", "traces@1..2", "traces/3@2..2", "catalog/0@1..2", "a/b@c"] {
            assert_eq!(Gap::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_fingerprint_survives_its_row() {
        let applied = Applied::new(7, -1, b"value");
        assert_eq!(Applied::decode(&applied.encode()), Some(applied));
        assert_eq!(Applied::decode(&[0; 47]), None);
    }
}
