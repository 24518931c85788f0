//! Column families: which table lives where, and how each is tuned.
//!
//! **Invariant:** the only place that looks at the table byte of a key for routing. Moving a table
//! to another family needs a new format number of the store.

use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options as RocksOptions,
};
use trailproof_topology::key::Table;

use super::Options;

/// Values from here on go to blob files; smaller ones stay in their tables.
const BLOB_BYTES_MIN: u64 = 1 << 10;
const BLOB_FILE_BYTES: u64 = 64 << 20;
const TABLE_FILE_BYTES: u64 = 32 << 20;
const LEVEL_BASE_BYTES: u64 = 128 << 20;
const BLOCK_BYTES: usize = 16 << 10;
/// Flushed tables of the queue that wait for each other before they are compacted: hardly any of
/// their rows is left by then.
const QUEUE_TABLES: usize = 12;
/// The same of frames, of which there is little but keys: few tables are to be searched for them.
const FRAMES_TABLES: usize = 4;
/// The same of columns and runs, at least: each time, all that their first level holds is written
/// again. Small ones, as where many stores share the write buffers, wait for more.
const TABLES_MIN: usize = 4;
/// The same, at most: who looks for a row looks into each of them.
const TABLES_MAX: usize = 12;
/// What the write buffers of as many as wait hold, more or less.
const WAITING_BYTES: usize = 96 << 20;

/// What memtables take from memory at a time.
const ARENA_BYTES_MIN: usize = 4 << 10;
const ARENA_BYTES_MAX: usize = 256 << 10;

/// A column family, numbered as in [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Default = 0,
    Frames = 1,
    Queue = 2,
    Runs = 3,
}

pub(super) const FAMILIES: [Family; 4] =
    [Family::Default, Family::Frames, Family::Queue, Family::Runs];

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Frames => "frames",
            Self::Queue => "queue",
            Self::Runs => "runs",
        }
    }

    /// The family of a key's table. An empty key belongs to the default family.
    pub(super) fn of_key(key: &[u8]) -> Self {
        const FRAMES: u8 = Table::Chunk as u8;
        const RUN: u8 = Table::Run as u8;
        const TAIL: u8 = Table::Tail as u8;
        const WINDOW: u8 = Table::Window as u8;
        const OUTBOX: u8 = Table::Outbox as u8;
        match key.first() {
            Some(&FRAMES) => Self::Frames,
            Some(&RUN) => Self::Runs,
            Some(&(TAIL | WINDOW | OUTBOX)) => Self::Queue,
            _ => Self::Default,
        }
    }

    /// Flushed tables that wait for each other before they are compacted.
    fn tables(self, write_buffer_bytes: usize) -> usize {
        match self {
            Self::Queue => QUEUE_TABLES,
            Self::Frames => FRAMES_TABLES,
            Self::Default | Self::Runs => {
                (WAITING_BYTES / write_buffer_bytes.max(1)).clamp(TABLES_MIN, TABLES_MAX)
            }
        }
    }

    pub(super) fn descriptor(self, options: &Options) -> ColumnFamilyDescriptor {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(options.memory.cache());
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_block_size(BLOCK_BYTES);
        table.set_format_version(5);
        table.set_bloom_filter(10.0, false);
        let mut family = RocksOptions::default();
        family.set_block_based_table_factory(&table);
        // After a full disk RocksDB waits for this much space; see [`NEVER_FULL`].
        family.set_write_buffer_size((options.write_buffer_bytes / 2).max(64 << 10));
        // By itself it would be as much as a large write buffer deserves.
        let block = (options.write_buffer_bytes / 32).clamp(ARENA_BYTES_MIN, ARENA_BYTES_MAX);
        family.set_arena_block_size(block);
        family.set_max_write_buffer_number(2);
        family.set_target_file_size_base(TABLE_FILE_BYTES);
        family.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
        let tables = self.tables(options.write_buffer_bytes) as i32;
        family.set_level_zero_file_num_compaction_trigger(tables);
        family.set_level_zero_slowdown_writes_trigger(tables + 16);
        family.set_level_zero_stop_writes_trigger(tables + 32);
        // Frames, packed tails and hashes: there is nothing left to gain.
        family.set_compression_type(DBCompressionType::None);
        if matches!(self, Self::Default | Self::Runs) {
            // What has just been flushed is mostly columns and small runs, which soon go; and the
            // first level is written again with every dozen flushes or fewer.
            family.set_compression_per_level(&[
                DBCompressionType::None,
                DBCompressionType::None,
                DBCompressionType::Lz4,
            ]);
        }
        if self == Self::Frames {
            family.set_enable_blob_files(true);
            family.set_min_blob_size(BLOB_BYTES_MIN);
            family.set_blob_file_size(BLOB_FILE_BYTES);
            family.set_blob_compression_type(DBCompressionType::None);
            // Whole days expire; collecting garbage before that writes more than it frees.
            family.set_enable_blob_gc(false);
        }
        ColumnFamilyDescriptor::new(self.name(), family)
    }
}

/// What every family of an open database is told, so that it flushes no memtable by itself.
pub(super) const NEVER_FULL: [(&str, &str); 1] = [("write_buffer_size", "68719476736")];

/// The options of the database as a whole.
///
/// # Errors
/// RocksDB's, where it does not know one of them.
pub(super) fn database(options: &Options) -> Result<RocksOptions, rocksdb::Error> {
    // The binding has no function for this one. What a closing database holds beyond the last
    // savepoint is of no use.
    let text = "avoid_flush_during_shutdown=true";
    let mut database = RocksOptions::default().get_options_from_string(text)?;
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    database.set_paranoid_checks(true);
    database.set_max_open_files(options.open_files_max);
    database.set_max_background_jobs(2);
    database.set_bytes_per_sync(1 << 20);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    database.set_keep_log_file_num(4);
    database.set_max_log_file_size(4 << 20);
    database.set_log_level(LogLevel::Warn);
    Ok(database)
}

/// Cuts the range `from..to` at the tables, so that each piece lies in one family, in key order.
pub(super) fn pieces(from: &[u8], to: &[u8]) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut pieces: Vec<(Family, Vec<u8>, Vec<u8>)> = Vec::new();
    let mut at = from.to_vec();
    while at.as_slice() < to {
        let family = Family::of_key(&at);
        let next_table = match at.first() {
            None => Some(vec![1]),
            Some(table) => table.checked_add(1).map(|next| vec![next]),
        };
        let end = next_table.filter(|next| next.as_slice() < to).unwrap_or_else(|| to.to_vec());
        match pieces.last_mut() {
            Some((last, _, last_end)) if *last == family => last_end.clone_from(&end),
            _ => pieces.push((family, at, end.clone())),
        }
        at = end;
    }
    pieces
}

/// A key before `to` that few keys before `to` come after.
pub(super) fn before(to: &[u8]) -> Vec<u8> {
    let mut key = to.to_vec();
    if let Some(last) = key.pop()
        && last > 0
    {
        key.push(last - 1);
        key.extend_from_slice(&[u8::MAX; 32]);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_tables_of_other_families() {
        let cut = |from: &[u8], to: &[u8]| {
            let names = |(family, from, to): (Family, Vec<u8>, Vec<u8>)| (family.name(), from, to);
            pieces(from, to).into_iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[4, 1], &[4, 2]), [("frames", vec![4, 1], vec![4, 2])]);
        assert_eq!(cut(&[4, 1], &[5]), [("frames", vec![4, 1], vec![5])]);
        assert_eq!(
            cut(&[], &[5, 9]),
            [
                ("default", vec![], vec![2]),
                ("queue", vec![2], vec![3]),
                ("default", vec![3], vec![4]),
                ("frames", vec![4], vec![5]),
                ("default", vec![5], vec![5, 9]),
            ]
        );
        assert_eq!(
            cut(&[5, 3], &[7, 1]),
            [
                ("default", vec![5, 3], vec![6]),
                ("runs", vec![6], vec![7]),
                ("queue", vec![7], vec![7, 1]),
            ]
        );
        assert!(cut(&[5], &[5]).is_empty());
        assert!(cut(&[6], &[5]).is_empty());
        assert_eq!(cut(&[0xff], &[0xff, 0xff]).len(), 1);
    }

    #[test]
    fn small_tables_of_columns_and_runs_wait_for_more_of_them() {
        for family in [Family::Default, Family::Runs] {
            let tables = [36 << 20, 24 << 20, 16 << 20, 8 << 20, 1 << 20, 0]
                .map(|write_buffer_bytes| family.tables(write_buffer_bytes));
            assert_eq!(tables, [4, 4, 6, 12, 12, 12], "{family:?}");
        }
        assert_eq!([Family::Frames, Family::Queue].map(|family| family.tables(0)), [4, 12]);
    }

    #[test]
    fn the_key_before_a_bound_is_before_it() {
        for to in [&[1u8][..], &[4, 0], &[4, 0, 0], &[4, 7], &[0xff, 0xff]] {
            assert!(before(to).as_slice() < to, "{to:?}");
        }
    }
}
