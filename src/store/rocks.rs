//! The state store on RocksDB: one database per partition.
//!
//! The log is the write-ahead log, so RocksDB's own is off; atomic flush makes what is on disk
//! the state after some commit, and RocksDB flushes only when told to, so that it is the commit of
//! a savepoint. There is one exception: when a full disk has space again, RocksDB writes what it
//! holds. The store then wants a flush, so that a savepoint follows; a crash between the two, a
//! fraction of a second, costs a rebuild.
//!
//! Rows live in four column families, chosen by their table:
//!
//! | family | tables | why |
//! | --- | --- | --- |
//! | `default` | all others | small rows, most of which soon go: LZ4 from the second level on |
//! | `frames` | chunk | compressed already, large: in blob files, which no compaction rewrites |
//! | `queue` | tail, window, outbox | written at one end, dropped at the other: no rewriting |
//! | `runs` | run | the new ones lie behind the old ones, which stay: little rewriting |
//!
//! **Invariant:** damage is found at opening or at reading, and never answered with rows. A folder
//! in which it was found is marked, so the next opening sets it aside.

mod family;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rocksdb::{
    ColumnFamily, DB, FlushOptions, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use trailproof_topology::key::{self, Table};
use trailproof_topology::state::{Change, Changes, Rows};

use self::family::{FAMILIES, Family, before, pieces};
use super::{Error, StateStore};
use crate::fault::{Fault, fault, headless};
use crate::memory_budget::MemoryBudget;

/// Format of the rows; another one is rebuilt from the log.
const FORMAT: u8 = 4;
/// A file that says what damage was found in a folder; with it, the folder is not opened again.
const MARK: &str = "DAMAGED";
/// Bytes of a change in a batch beside its key and value, at most.
const CHANGE_BYTES: usize = 16;
/// Damaged folders that are kept beside a store.
const SET_ASIDE_MAX: u32 = 1_000;

/// How a store is run.
#[derive(Clone)]
pub struct Options {
    /// Block cache and write buffers, shared by all stores of the process.
    pub memory: MemoryBudget,
    /// Bytes of memtables from which on this store wants to be flushed: about what a restart
    /// replays. The sum over all stores may be more than [`MemoryBudget::write_buffer_bytes`]; once
    /// they hold that much together, a quarter of this is enough.
    pub write_buffer_bytes: usize,
    /// Files that RocksDB keeps open.
    pub open_files_max: i32,
}

impl Options {
    /// The options of one of `stores` stores that share `memory`: half more than an even part of
    /// its write buffers, because on average they are half full; a single one leaves room for what
    /// comes while it is flushed. 256 open files.
    #[must_use]
    pub fn new(memory: MemoryBudget, stores: usize) -> Self {
        let part = memory.write_buffer_bytes() / stores.max(1);
        let write_buffer_bytes = if stores > 1 { part / 2 * 3 } else { part / 4 * 3 };
        Self { memory, write_buffer_bytes, open_files_max: 256 }
    }
}

/// The rows of one partition, in a folder of its own. Share it by reference among threads.
pub struct RocksStore {
    db: DB,
    path: PathBuf,
    memory: MemoryBudget,
    write_buffer_bytes: usize,
    /// Bytes that are counted in `memory`.
    counted_bytes: AtomicUsize,
    /// Background errors of RocksDB before the last flush that began.
    errors_seen: AtomicU64,
    /// Whether damage was found since it was opened.
    damaged: AtomicBool,
}

impl RocksStore {
    /// Opens the store in folder `path`, or creates it.
    ///
    /// # Errors
    /// [`Error::Locked`]: another process has it. [`Error::Corrupt`]: see
    /// [`RocksStore::open_or_set_aside`]. [`Error::Unavailable`]: the disk.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let unavailable =
            |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
        fs::create_dir_all(path).map_err(unavailable)?;
        let marked = fs::read_to_string(path.join(MARK)).ok();
        if let Some(why) = marked.or(headless(path).map_err(unavailable)?) {
            return Err(Error::Corrupt(format!("{}: {why}", path.display())));
        }
        let families = FAMILIES.map(|family| family.descriptor(options));
        let db = family::database(options)
            .and_then(|database| DB::open_cf_descriptors(&database, path, families))
            .map_err(|error| Self::classify(path, &error))?;
        let store = Self {
            db,
            path: path.to_owned(),
            memory: options.memory.clone(),
            write_buffer_bytes: options.write_buffer_bytes,
            counted_bytes: AtomicUsize::new(0),
            errors_seen: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        };
        for family in FAMILIES {
            let set = store.db.set_options_cf(store.family(family), &family::NEVER_FULL);
            set.map_err(|error| store.failed(&error))?;
        }
        store.check_format()?;
        Ok(store)
    }

    /// Opens the store; a damaged one is renamed to `<path>.damaged-<n>`, and an empty one opened
    /// in its place. Answers where the damaged one is.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Unavailable`].
    pub fn open_or_set_aside(
        path: &Path,
        options: &Options,
    ) -> Result<(Self, Option<PathBuf>), Error> {
        match Self::open(path, options) {
            Err(Error::Corrupt(_)) => {
                let aside = set_aside(path)?;
                Ok((Self::open(path, options)?, Some(aside)))
            }
            opened => opened.map(|store| (store, None)),
        }
    }

    /// Reads every row and checks its checksum, without filling the cache. `go_on` is asked now
    /// and then whether to continue. Answers the bytes read.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: set the store aside. [`Error::Unavailable`]: the disk.
    pub fn scrub(&self, go_on: &dyn Fn() -> bool) -> Result<u64, Error> {
        let mut bytes = 0;
        for family in FAMILIES {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_readahead_size(1 << 20);
            let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
            rows.seek_to_first();
            while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
                let before = bytes >> 20;
                bytes += (key.len() + value.len()) as u64;
                if bytes >> 20 != before && !go_on() {
                    return Ok(bytes);
                }
                rows.next();
            }
            rows.status().map_err(|error| self.failed(&error))?;
        }
        Ok(bytes)
    }

    /// Bytes of the store's files, obsolete ones not counted.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let properties = ["rocksdb.live-sst-files-size", "rocksdb.live-blob-file-size"];
        FAMILIES
            .iter()
            .flat_map(|family| properties.map(|name| (self.family(*family), name)))
            .filter_map(|(family, name)| self.db.property_int_value_cf(family, name).ok().flatten())
            .sum()
    }

    fn check_format(&self) -> Result<(), Error> {
        let row = key::single(Table::Format);
        match self.db.get(&row).map_err(|error| self.failed(&error))?.as_deref() {
            Some([FORMAT]) => Ok(()),
            Some(other) => {
                Err(Error::Corrupt(format!("{}: rows of format {other:?}", self.path.display())))
            }
            None if self.is_empty()? => {
                let mut changes = Changes::default();
                changes.put(row, vec![FORMAT]);
                self.commit(&changes)
            }
            None => Err(Error::Corrupt(format!("{}: no format row", self.path.display()))),
        }
    }

    fn is_empty(&self) -> Result<bool, Error> {
        for family in FAMILIES {
            let mut rows = self.db.raw_iterator_cf(self.family(family));
            rows.seek_to_first();
            rows.status().map_err(|error| self.failed(&error))?;
            if rows.valid() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// Bytes of the memtables that a flush would write.
    fn unflushed_bytes(&self) -> usize {
        let held = |family: Family| {
            let name = "rocksdb.cur-size-active-mem-table";
            // Who cannot tell how much it is had better have it flushed.
            self.db.property_int_value_cf(self.family(family), name).ok().flatten()
        };
        let bytes: Option<u64> = FAMILIES.into_iter().map(held).sum();
        bytes.map_or(self.write_buffer_bytes, |bytes| bytes as usize)
    }

    /// Flushes and compactions that have failed since the store was opened. After some of them
    /// RocksDB flushes by itself what it holds.
    fn background_errors(&self) -> u64 {
        self.db.property_int_value("rocksdb.background-errors").ok().flatten().unwrap_or(0)
    }

    fn flush_with(&self, options: &FlushOptions) -> Result<(), Error> {
        // A flush asked for while RocksDB waits for space delays its recovery by a second each;
        // a write, of a row that is never there, is refused at once.
        let mut probe = WriteBatch::default();
        probe.delete(key::Key::of(Table::Format).u8(0).done());
        self.db.write_without_wal(probe).map_err(|error| self.failed(&error))?;
        let handles = FAMILIES.map(|family| self.family(family));
        let errors = self.background_errors();
        self.db.flush_cfs_opt(&handles.each_ref(), options).map_err(|error| self.failed(&error))?;
        self.errors_seen.store(errors, Ordering::Release);
        Ok(())
    }

    fn failed(&self, error: &rocksdb::Error) -> Error {
        if fault(error) == Fault::Damaged {
            self.condemn(error.as_ref());
        }
        Self::classify(&self.path, error)
    }

    /// Marks the folder: the next opening sets it aside. For rows that make no sense; what RocksDB
    /// itself finds is marked already.
    pub fn condemn(&self, why: &str) {
        self.damaged.store(true, Ordering::Release);
        // RocksDB would open the folder again and trip over the same rows. Where even the mark
        // cannot be written, the next reader of the rows finds the damage again.
        let _ = fs::write(self.path.join(MARK), why);
    }

    /// Whether damage was found since it was opened, by whoever read or checked the rows.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    fn classify(path: &Path, error: &rocksdb::Error) -> Error {
        match fault(error) {
            Fault::Locked => Error::Locked(path.display().to_string()),
            Fault::DiskFull => Error::Unavailable(format!(
                "the disk of {} is full; the store goes on by itself when there is space",
                path.display()
            )),
            Fault::Damaged => Error::Corrupt(format!("{}: {error}", path.display())),
            Fault::Other => Error::Unavailable(format!("{}: {error}", path.display())),
        }
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        self.memory.note_unflushed(self.counted_bytes.load(Ordering::Acquire), 0);
    }
}

/// Renames the folder of a damaged store that is not open to `<path>.damaged-<n>`, and answers the
/// new name.
///
/// # Errors
/// [`Error::Unavailable`]: the rename failed, or too many damaged folders are there already.
pub fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let free = (1..=SET_ASIDE_MAX).map(name).find(|candidate| !candidate.exists());
    let aside = free.ok_or_else(|| {
        Error::Unavailable(format!("delete the damaged folders beside {}", path.display()))
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::rename(path, &aside)
        .and_then(|()| File::open(parent.unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
    Ok(aside)
}

impl StateStore for RocksStore {
    type Snapshot<'a> = RocksSnapshot<'a>;

    fn snapshot(&self) -> RocksSnapshot<'_> {
        RocksSnapshot { store: self, snapshot: self.db.snapshot() }
    }

    fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let handles = FAMILIES.map(|family| self.family(family));
        let mut batch = WriteBatch::with_capacity_bytes(batch_bytes(changes));
        for change in &changes.list {
            match change {
                Change::Put(key, value) => {
                    batch.put_cf(handles[Family::of_key(key) as usize], key, value);
                }
                Change::Delete(key) => batch.delete_cf(handles[Family::of_key(key) as usize], key),
                Change::DeleteRange(from, to) => {
                    for (family, from, to) in pieces(from, to) {
                        batch.delete_range_cf(handles[family as usize], from, to);
                    }
                }
            }
        }
        self.db.write_without_wal(batch).map_err(|error| self.failed(&error))
    }

    fn wants_flush(&self) -> bool {
        let held = self.unflushed_bytes();
        let before = self.counted_bytes.swap(held, Ordering::AcqRel);
        let full = self.memory.note_unflushed(before, held);
        held >= self.write_buffer_bytes
            || (full && held >= self.write_buffer_bytes / 4)
            || self.background_errors() != self.errors_seen.load(Ordering::Acquire)
    }

    fn begin_flush(&self) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.flush_with(&options)
    }

    fn flush(&self) -> Result<(), Error> {
        self.flush_with(&FlushOptions::default())
    }

    fn expire(&self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        for (family, from, to) in pieces(from, to) {
            let handle = self.family(family);
            // RocksDB takes the end of this range as part of it.
            self.db
                .delete_file_in_range_cf(handle, &from, &before(&to))
                .and_then(|()| self.db.delete_range_cf_opt(handle, &from, &to, &options))
                .map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}

/// The rows as of one commit. While it lives, RocksDB keeps what it shows.
pub struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl Rows for RocksSnapshot<'_> {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.snapshot
            .get_cf(self.store.family(Family::of_key(key)), key)
            .map_err(|error| self.store.failed(&error))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        for (family, from, to) in pieces(from, to) {
            let mut rows = self.snapshot.raw_iterator_cf_opt(self.store.family(family), within(to));
            rows.seek(from);
            while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
                if !visit(key, value) {
                    return Ok(());
                }
                rows.next();
            }
            rows.status().map_err(|error| self.store.failed(&error))?;
        }
        Ok(())
    }

    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        for (family, from, to) in pieces(from, to).into_iter().rev() {
            let mut options = within(to);
            options.set_iterate_lower_bound(from);
            let mut rows = self.snapshot.raw_iterator_cf_opt(self.store.family(family), options);
            rows.seek_to_last();
            while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
                if !visit(key, value) {
                    return Ok(());
                }
                rows.prev();
            }
            rows.status().map_err(|error| self.store.failed(&error))?;
        }
        Ok(())
    }
}

/// Bytes that changes take in a batch, or a little more; it would double its memory else.
fn batch_bytes(changes: &Changes) -> usize {
    let bytes = |change: &Change| match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
        Change::DeleteRange(from, to) => from.len() + to.len(),
    };
    changes.list.iter().map(|change| bytes(change) + CHANGE_BYTES).sum::<usize>() + CHANGE_BYTES
}

fn within(to: Vec<u8>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}
