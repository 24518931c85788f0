//! Records of topic `files`: what the record stage tells the digest stage.
//!
//! One [`File`] for each trace file that is in the object store, then one [`Closed`] when a cycle
//! of a `traces` partition has ended. A partition's records keep that order, so whoever has read a
//! `closed` record has read every file of the stretch it closes.
//!
//! **Invariant:** a record is a function of the `traces` log, but for size and SHA-256 of the
//! stored bytes, which are learnt when the object is put.
//!
//! Source: `docs/formats.md`, "Files records"; `schemas/files.schema.json`.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::Compression;
use crate::effect::SegmentFile;
use crate::input::{Millis, Offset};
use crate::key::TrackerId;

/// Accounts in one `closed` record at most; a stretch with more is told in several records.
pub const CLOSED_ACCOUNTS_MAX: usize = 2_000;

/// A record of topic `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FilesRecord {
    /// A trace file is in the object store. Record key: the tracker's id.
    File(File),
    /// A stretch of a `traces` partition is finished. Record key: empty.
    Closed(Closed),
}

/// A trace file in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Tracker, as a hyphenated lower-case UUID.
    pub tracker: String,
    /// Account that owns the tracker.
    pub account: String,
    /// Bucket of the object.
    pub bucket: String,
    /// Key of the object inside the bucket.
    pub object: String,
    /// How the file is compressed.
    pub compression: Compression,
    /// Whether its tracker was verified when it was made: then a digest lists it, whatever the
    /// clocks of two topics say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
    /// Service of the file, empty where the tracker does not sort by service.
    pub service: String,
    /// Start of the cycle.
    pub cycle_start_ms: Millis,
    /// End of the cycle, exclusive.
    pub cycle_end_ms: Millis,
    /// Partition of topic `traces`.
    pub partition: u32,
    /// Offset of the first trace.
    pub first_offset: Offset,
    /// Offset of the last trace.
    pub last_offset: Offset,
    /// Traces in the file.
    pub count: u64,
    /// Uncompressed bytes.
    pub raw_bytes: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// SHA-256 of the stored bytes, lower-case hex.
    pub sha256: String,
    /// SHA-256 of the inflated bytes, lower-case hex; of gzip files alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<String>,
    /// RFC 6962 root over the traces, lower-case hex.
    pub root: String,
    /// Smallest event time.
    pub time_min_ms: Millis,
    /// Greatest event time.
    pub time_max_ms: Millis,
}

/// A finished stretch of a `traces` partition: its records `[from, to)` all lie in one cycle.
///
/// A stretch with more than [`CLOSED_ACCOUNTS_MAX`] accounts is several records with the same
/// partition, offsets and times, one after another; each account is in one of them, the counts of
/// no account are in the last one, and all but the last say `more`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Partition of topic `traces`.
    pub partition: u32,
    /// First offset of the stretch: `to` of the one before.
    pub from: Offset,
    /// One past the last offset of the stretch.
    pub to: Offset,
    /// Start of the cycle that the stretch's records arrived in.
    pub cycle_start_ms: Millis,
    /// The cycle boundary that stream time has reached: at least the end of that cycle.
    pub until_ms: Millis,
    /// Whether another record about this stretch follows.
    #[serde(default)]
    pub more: bool,
    /// Ticks in the stretch.
    #[serde(default)]
    pub ticks: u64,
    /// Catalog marks in the stretch.
    #[serde(default)]
    pub marks: u64,
    /// Dead letters that belong to no account.
    #[serde(default)]
    pub dead_lettered: u64,
    /// Offsets that hold no record: the log's own, such as Kafka's transaction markers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
    /// Offsets whose records the log had dropped before they were read: an explicit gap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Counts of the accounts that had a record, in order of id. In partition 0 of `files` every
    /// such account; elsewhere at least those with a tracker that lives there.
    #[serde(default)]
    pub accounts: Vec<AccountCounts>,
}

/// What became of an account's records in a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountCounts {
    /// The account.
    pub id: String,
    /// Its records.
    #[serde(rename = "in")]
    pub received: u64,
    /// Resends, stored once.
    #[serde(default)]
    pub duplicate: u64,
    /// Dead letters of this account.
    #[serde(default)]
    pub dead_lettered: u64,
    /// Traces with the id of an earlier one and other content: kept, and flagged.
    #[serde(default)]
    pub conflicts: u64,
    /// Its trackers with transfer that filed something, in order of id.
    #[serde(default)]
    pub trackers: Vec<TrackerCounts>,
}

/// What a tracker filed in a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerCounts {
    /// Tracker, as a hyphenated lower-case UUID.
    pub id: String,
    /// Traces in its files; none while it has no transfer.
    pub filed: u64,
    /// Files they are in.
    pub files: u64,
}

/// Whether a count that most records do not have can be left out.
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FilesRecord {
    /// The record's value: JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a files record has string keys, so it always serialises")
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(value).map_err(|error| format!("not a files record: {error}"))
    }
}

impl File {
    /// Completes a sealed segment with what was learnt when its object was put.
    #[must_use]
    pub fn delivered(
        segment: &SegmentFile,
        bytes: u64,
        sha256: String,
        content_sha256: Option<String>,
    ) -> Self {
        Self {
            tracker: segment.tracker.clone(),
            account: segment.account.clone(),
            bucket: segment.bucket.clone(),
            object: segment.object.clone(),
            compression: segment.compression,
            verify: segment.verify,
            service: segment.service.clone(),
            cycle_start_ms: segment.cycle_start_ms,
            cycle_end_ms: segment.cycle_end_ms,
            partition: segment.partition,
            first_offset: segment.first_offset,
            last_offset: segment.last_offset,
            count: segment.count,
            raw_bytes: segment.raw_bytes,
            bytes,
            sha256,
            content_sha256,
            root: segment.root.clone(),
            time_min_ms: segment.time_min_ms,
            time_max_ms: segment.time_max_ms,
        }
    }
}

impl Closed {
    /// The records that tell this stretch: one, or several of at most [`CLOSED_ACCOUNTS_MAX`]
    /// accounts.
    #[must_use]
    pub fn split(self) -> Vec<Self> {
        let Self { partition, from, to, cycle_start_ms, until_ms, .. } = self;
        let mut rest = self.accounts;
        let mut pieces = Vec::new();
        while rest.len() > CLOSED_ACCOUNTS_MAX {
            let tail = rest.split_off(CLOSED_ACCOUNTS_MAX);
            let accounts = std::mem::replace(&mut rest, tail);
            let head = Self { partition, from, to, cycle_start_ms, until_ms, ..Self::default() };
            pieces.push(Self { more: true, accounts, ..head });
        }
        pieces.push(Self { more: false, accounts: rest, ..self });
        pieces
    }
}

/// The partition of topic `files` in which a tracker's chain lives.
#[must_use]
pub fn files_partition(tracker: &TrackerId, files_partitions: u32) -> u32 {
    let partitions = u64::from(files_partitions.max(1));
    u32::try_from(xxh3_64(tracker) % partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: usize) -> AccountCounts {
        AccountCounts { id: format!("a{number:05}"), received: 1, ..AccountCounts::default() }
    }

    #[test]
    fn a_large_stretch_is_split_and_the_last_piece_has_the_rest() {
        let whole = Closed {
            partition: 3,
            from: 10,
            to: 5_022,
            cycle_start_ms: 0,
            until_ms: 300_000,
            more: false,
            ticks: 1,
            marks: 0,
            dead_lettered: 0,
            absent: 7,
            lost: 4,
            accounts: (0..5_000).map(account).collect(),
        };
        let pieces = whole.clone().split();
        assert_eq!(pieces.iter().map(|piece| piece.more).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(pieces.iter().map(|piece| piece.ticks).sum::<u64>(), 1);
        let accounts: Vec<_> = pieces.iter().flat_map(|piece| piece.accounts.clone()).collect();
        assert_eq!(accounts, whole.accounts);
        assert!(pieces.iter().all(|piece| (piece.from, piece.to) == (10, 5_022)));
    }

    #[test]
    fn records_survive_encoding() {
        let record = FilesRecord::Closed(Closed { to: 5, until_ms: 1, ..Closed::default() });
        assert_eq!(FilesRecord::decode(&record.encode()), Ok(record));
        for garbage in [&b""[..], b"{}", b"[1]", b"\xff", br#"{"type":"file"}"#] {
            assert!(FilesRecord::decode(garbage).is_err());
        }
    }
}
