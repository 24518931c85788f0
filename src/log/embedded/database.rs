//! The database under the embedded log: its keys, how it is opened, and what is in it.
//!
//! | key | value |
//! | --- | --- |
//! | `0 'f'` | format, 1 |
//! | `0 'p' topic` | partitions of the topic, big-endian 32 bits |
//! | `0 's' topic partition` | after a trim: start, last append time, 64 bits each |
//! | `0 'l' owner` | lane positions of a publisher, 64 bits each |
//! | `1 + topic, partition, base offset` | a row of records |
//!
//! Recovery: `TolerateCorruptedTailRecords`. A torn tail holds only what nobody was told is
//! durable, so it is cut; damage before the tail makes the open fail. RocksDB's default would
//! instead drop everything behind the damage and say nothing. The manifest remembers the size of
//! each synced WAL, so a log file that is missing or short is found too.
//!
//! **Invariant:** offsets of a partition have no hole between its start and its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use rocksdb::{BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, LogLevel, WriteBatch};
use trailproof_topology::effect::{LANES, Topic};
use trailproof_topology::input::{Millis, Offset};

use super::row::RowView;
use super::{Layout, Options};
use crate::fault::{Fault, fault, headless};
use crate::log::Error;

const FORMAT: u8 = 1;
/// Owner of the engine's own lanes: text of at most this many bytes.
pub(super) const OWNER_BYTES_MAX: usize = 64;

/// Where a partition stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// First offset there is.
    pub(super) start: Offset,
    /// One past the last durable offset.
    pub(super) end: Offset,
    /// Append time of the last record.
    pub(super) time_ms: Millis,
}

/// Committed lane positions by owner.
pub(super) type Lanes = BTreeMap<String, [u64; LANES]>;

/// The key of the row that begins at `base`.
pub(super) fn row_key(topic: Topic, partition: u32, base: Offset) -> [u8; 13] {
    let mut key = [0; 13];
    key[0] = 1 + topic as u8;
    key[1..5].copy_from_slice(&partition.to_be_bytes());
    key[5..].copy_from_slice(&base.to_be_bytes());
    key
}

/// The base offset of a row, by its key.
pub(super) fn base_of(key: &[u8]) -> Option<Offset> {
    Some(Offset::from_be_bytes(key.get(5..13)?.try_into().ok()?))
}

fn meta_key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = vec![0, kind];
    key.extend_from_slice(rest);
    key
}

pub(super) fn start_key(topic: Topic, partition: u32) -> Vec<u8> {
    meta_key(b's', &row_key(topic, partition, 0)[..5])
}

pub(super) fn lanes_key(owner: &str) -> Vec<u8> {
    meta_key(b'l', owner.as_bytes())
}

/// Numbers of a meta row, big-endian.
pub(super) fn encode_words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn decode_words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut words = [0; N];
    if bytes.len() != 8 * N {
        return None;
    }
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_be_bytes(chunk.try_into().ok()?);
    }
    Some(words)
}

/// Opens the database.
pub(super) fn open(path: &Path, options: &Options) -> Result<DB, Error> {
    let headless = headless(path)
        .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
    if let Some(why) = headless {
        return Err(damaged(path, &why));
    }
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(options.memory.cache());
    table.set_cache_index_and_filter_blocks(true);
    table.set_block_size(16 << 10);
    table.set_format_version(5);
    let mut db = rocksdb::Options::default();
    db.create_if_missing(true);
    db.set_block_based_table_factory(&table);
    // Rows are compressed before they come here.
    db.set_compression_type(DBCompressionType::None);
    db.set_write_buffer_size(options.write_buffer_bytes);
    db.set_max_write_buffer_number(2);
    db.set_target_file_size_base(64 << 20);
    db.set_max_bytes_for_level_base(256 << 20);
    db.set_max_open_files(options.open_files_max);
    db.set_max_background_jobs(2);
    db.set_paranoid_checks(true);
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    DB::open(&db, path).map_err(|error| classify(path, &error))
}

/// Says what an error of RocksDB means for the log at `path`.
pub(super) fn classify(path: &Path, error: &rocksdb::Error) -> Error {
    match fault(error) {
        Fault::Locked => Error::Fenced(format!(
            "the log in {}; stop that process, or choose another data folder",
            path.display()
        )),
        Fault::DiskFull => Error::DiskFull(format!(
            "the disk of {} is full; the log goes on by itself when there is space",
            path.display()
        )),
        Fault::Damaged => damaged(path, error.as_ref()),
        Fault::Other => Error::Unavailable(format!("{}: {error}", path.display())),
    }
}

/// Checks the format and the numbers of partitions, and writes down what is new.
pub(super) fn check_layout(path: &Path, db: &DB, layout: &Layout) -> Result<(), Error> {
    let read = |key: &[u8]| db.get(key).map_err(|error| classify(path, &error));
    let format = meta_key(b'f', &[]);
    let mut batch = WriteBatch::default();
    match read(&format)?.as_deref() {
        None => batch.put(&format, [FORMAT]),
        Some([FORMAT]) => {}
        Some(_) => {
            return Err(Error::Refused(format!(
                "{} was written by another version of Trailproof; run that version",
                path.display()
            )));
        }
    }
    for (topic, wanted) in layout.topics() {
        let key = meta_key(b'p', &[topic as u8]);
        let stored = match read(&key)? {
            None => None,
            Some(bytes) => Some(u32::from_be_bytes(
                bytes.as_slice().try_into().map_err(|_| damaged(path, "number of partitions"))?,
            )),
        };
        if let Some(stored) = stored {
            check_partitions(path, topic, stored, wanted)?;
        }
        if stored != Some(wanted) {
            batch.put(key, wanted.to_be_bytes());
        }
    }
    if !batch.is_empty() {
        db.write(batch).map_err(|error| classify(path, &error))?;
        db.flush_wal(true).map_err(|error| classify(path, &error))?;
    }
    Ok(())
}

fn check_partitions(path: &Path, topic: Topic, stored: u32, wanted: u32) -> Result<(), Error> {
    // Where a trace or a file record lies decides bytes of files and digests.
    let fixed = matches!(topic, Topic::Traces | Topic::Files);
    if wanted == stored || (wanted > stored && !fixed) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "topic {} of {} has {stored} partitions, {wanted} are configured; set \
         `partitions = {stored}`, or begin with an empty data folder",
        topic.name(),
        path.display()
    )))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Corrupt(format!("{}: {what}; restore the folder from a backup", path.display()))
}

/// Reads where every partition stands, in the order of [`Layout::index`].
pub(super) fn heads(path: &Path, db: &DB, layout: &Layout) -> Result<Vec<Head>, Error> {
    let mut heads = Vec::new();
    for (topic, partitions) in layout.topics() {
        for partition in 0..partitions {
            heads.push(head(path, db, topic, partition)?);
        }
    }
    Ok(heads)
}

fn head(path: &Path, db: &DB, topic: Topic, partition: u32) -> Result<Head, Error> {
    let fail = |error: rocksdb::Error| classify(path, &error);
    let name = || format!("{}/{partition}", topic.name());
    let mut head = Head::default();
    if let Some(bytes) = db.get(start_key(topic, partition)).map_err(fail)? {
        let [start, time] =
            decode_words(&bytes).ok_or_else(|| damaged(path, &format!("start of {}", name())))?;
        head = Head { start, end: start, time_ms: time.cast_signed() };
    }
    let first = row_key(topic, partition, 0);
    let last = row_key(topic, partition, Offset::MAX);
    let mut rows = db.raw_iterator();
    rows.seek_for_prev(last);
    if let (Some(key), Some(value)) = (rows.key(), rows.value())
        && key >= first.as_slice()
    {
        let row = RowView::parse(value).zip(base_of(key));
        let (row, base) = row.ok_or_else(|| damaged(path, &format!("last row of {}", name())))?;
        head.end = (base + Offset::from(row.count)).max(head.start);
        head.time_ms = row.append_time_ms.max(head.time_ms);
        rows.seek(first);
        let oldest = rows.key().and_then(base_of);
        if oldest.is_none_or(|oldest| oldest > head.start) {
            return Err(damaged(path, &format!("the first records of {} are gone", name())));
        }
    }
    rows.status().map_err(fail)?;
    Ok(head)
}

/// Reads the committed lanes of every owner.
pub(super) fn lanes(path: &Path, db: &DB) -> Result<Lanes, Error> {
    let mut lanes = Lanes::new();
    let prefix = lanes_key("");
    let mut rows = db.raw_iterator();
    rows.seek(&prefix);
    while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
        let Some(owner) = key.strip_prefix(prefix.as_slice()) else { break };
        let words = decode_words(value).ok_or_else(|| damaged(path, "lane positions"))?;
        lanes.insert(String::from_utf8_lossy(owner).into_owned(), words);
        rows.next();
    }
    rows.status().map_err(|error| classify(path, &error))?;
    Ok(lanes)
}

/// Finds out whether `bytes` can be written and synced beside the database, and gives them back.
pub(super) fn probe_space(path: &Path, bytes: usize) -> std::io::Result<()> {
    let probe = path.join("space.probe");
    let block = vec![0xa5; 64 << 10];
    let written = File::create(&probe).and_then(|mut file| {
        for _ in 0..bytes.div_ceil(block.len()) {
            file.write_all(&block)?;
        }
        file.sync_data()
    });
    // Where nothing could be created, that is the error to tell.
    let removed = fs::remove_file(&probe);
    written.and(removed)
}
