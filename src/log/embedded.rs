//! The embedded log: every topic and partition in one RocksDB database inside the process.
//!
//! Producers pack and compress records on their own threads ([`RecordBatchBuilder`]); one writer
//! thread drains a bounded queue, gives offsets and append times, and syncs a whole group of
//! appends at once. A producer is answered, and a reader sees a record, once it is on disk.
//!
//! After any failed write the log takes nothing more until it has reopened its database, so it
//! always goes on from what the disk holds. Reading goes on meanwhile.
//!
//! **Invariant:** offsets of a partition have no hole; append times never fall; an append is
//! wholly there or not at all, over all its topics.

mod broker;
mod database;
mod publisher;
mod reader;
mod row;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use rocksdb::DB;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use self::database::{Head, Lanes};
pub use self::publisher::OwnedPublisher;
pub use self::reader::PartitionLog;
pub use self::row::{Packed, RECORD_BYTES_MAX, RecordBatchBuilder};
use self::writer::{Queue, Work};
use super::Error;
use crate::clock::Clock;
use crate::memory_budget::MemoryBudget;

/// The greatest append, as stored: its rows go through memory at once.
pub const APPEND_BYTES_MAX: usize = 64 << 20;

/// How a log is run.
#[derive(Clone)]
pub struct Options {
    /// Where append times come from. It may jump; they do not.
    pub clock: Clock,
    /// Shared block cache.
    pub memory: MemoryBudget,
    /// Bytes that may wait for the writer; at the bound producers block.
    pub queue_bytes_max: usize,
    /// Appends that may wait for the writer; at the bound producers block.
    pub queue_appends_max: usize,
    /// Bytes of a memtable; there are at most two. Also about what a restart replays.
    pub write_buffer_bytes: usize,
    /// Files that RocksDB keeps open.
    pub open_files_max: i32,
}

impl Options {
    /// The defaults: a queue of 32 MiB or 4,096 appends, write buffers of 16 MiB, 128 open files.
    #[must_use]
    pub fn new(clock: Clock, memory: MemoryBudget) -> Self {
        Self {
            clock,
            memory,
            queue_bytes_max: 32 << 20,
            queue_appends_max: 4_096,
            write_buffer_bytes: 16 << 20,
            open_files_max: 128,
        }
    }
}

/// Which topics there are, with how many partitions.
#[derive(Clone, Debug)]
struct Layout {
    /// Topic, partitions, index of its first partition.
    topics: Vec<(Topic, u32, usize)>,
}

impl Layout {
    fn new(topics: &[(Topic, u32)]) -> Self {
        let mut first = 0;
        let topics = topics
            .iter()
            .map(|(topic, partitions)| {
                let entry = (*topic, *partitions, first);
                first += *partitions as usize;
                entry
            })
            .collect();
        Self { topics }
    }

    fn topics(&self) -> impl Iterator<Item = (Topic, u32)> {
        self.topics.iter().map(|(topic, partitions, _)| (*topic, *partitions))
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.topics().find(|(known, _)| *known == topic).map_or(0, |(_, partitions)| partitions)
    }

    /// Number of a partition among those of all topics.
    fn index(&self, topic: Topic, partition: u32) -> Result<usize, Error> {
        self.topics
            .iter()
            .find(|(known, partitions, _)| *known == topic && partition < *partitions)
            .map(|(_, _, first)| first + partition as usize)
            .ok_or_else(|| {
                Error::Refused(format!("the log has no partition {}/{partition}", topic.name()))
            })
    }
}

/// What readers and publishers may know: only what is durable.
#[derive(Debug, Default)]
struct Durable {
    heads: Vec<Head>,
    lanes: Lanes,
    /// Why the log takes no appends, while it does not.
    failed: Option<String>,
}

struct Shared {
    path: PathBuf,
    options: Options,
    layout: Layout,
    /// Absent only between closing a failed database and opening it again.
    db: RwLock<Option<DB>>,
    durable: Mutex<Durable>,
    /// Signalled when a partition grows.
    grown: Condvar,
    queue: Mutex<Queue>,
    /// Signalled when the queue has work, or is closed.
    filled: Condvar,
    /// Signalled when the queue has room.
    drained: Condvar,
}

/// Locks; a panic of another holder leaves whole values behind, so its poison is ignored.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Owns the writer thread: the last handle closes the log.
struct Owner {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        locked(&self.shared.queue).closed = true;
        self.shared.filled.notify_all();
        self.shared.drained.notify_all();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already said so; there is nothing to add here.
            let _ = writer.join();
        }
    }
}

/// Records to append to one partition.
#[derive(Clone, Debug)]
pub struct PartitionAppend {
    /// Topic.
    pub topic: Topic,
    /// Partition, below the topic's number of partitions.
    pub partition: u32,
    /// The records, in order.
    pub records: Packed,
}

/// A handle of the log. Cheap to clone; the last one to go closes the log.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Owner>);

impl EmbeddedLog {
    /// Opens the log in folder `path`, or creates it, and starts its writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] if another process has it open, [`Error::Refused`] if the numbers of
    /// partitions do not fit what is stored, [`Error::Corrupt`] (never), [`Error::Unavailable`].
    pub fn open(path: &Path, topics: &[(Topic, u32)], options: Options) -> Result<Self, Error> {
        let unavailable =
            |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(unavailable)?;
        let layout = Layout::new(topics);
        let db = database::open(path, &options)?;
        database::check_layout(path, &db, &layout)?;
        let durable = Durable {
            heads: database::heads(path, &db, &layout)?,
            lanes: database::lanes(path, &db)?,
            failed: None,
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            options,
            layout,
            db: RwLock::new(Some(db)),
            durable: Mutex::new(durable),
            grown: Condvar::new(),
            queue: Mutex::new(Queue::default()),
            filled: Condvar::new(),
            drained: Condvar::new(),
        });
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(&shared)
            })
            .map_err(unavailable)?;
        Ok(Self(Arc::new(Owner { shared, writer: Some(writer) })))
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Appends to all the partitions or to none, and returns once it is on disk: the offsets
    /// given, in the order of `appends`. Blocks while the queue is full.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DiskFull`] (later): the append is *unknown*, it may be in
    /// the log after all. [`Error::Refused`]: no such partition, or too large; nothing was
    /// appended.
    pub fn append(&self, appends: Vec<PartitionAppend>) -> Result<Vec<Range<Offset>>, Error> {
        self.submit(Work::Append { appends, lanes: None })
    }

    /// Drops the rows of records before `before`; the row that holds `before` stays whole. The log
    /// remembers its new start.
    ///
    /// # Errors
    /// As [`EmbeddedLog::append`].
    pub fn trim(&self, topic: Topic, partition: u32, before: Offset) -> Result<(), Error> {
        self.shared().layout.index(topic, partition)?;
        self.submit(Work::Trim { topic, partition, before }).map(|_| ())
    }

    /// The offsets a partition holds: `start..end`, all durable.
    ///
    /// # Errors
    /// [`Error::Refused`]: no such partition.
    pub fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        let index = self.shared().layout.index(topic, partition)?;
        let head = locked(&self.shared().durable).heads[index];
        Ok(head.start..head.end)
    }

    /// How many partitions a topic has; 0 for a topic the log was not opened with.
    #[must_use]
    pub fn partitions(&self, topic: Topic) -> u32 {
        self.shared().layout.partitions(topic)
    }

    /// The partition that a record with this key goes to: xxh3 of the key, modulo.
    #[must_use]
    pub fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        let partitions = u64::from(self.partitions(topic).max(1));
        u32::try_from(xxhash_rust::xxh3::xxh3_64(key) % partitions)
            .expect("a remainder of a 32-bit number fits 32 bits")
    }

    /// Why the log takes no appends at the moment; `None` while it does.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        locked(&self.shared().durable).failed.clone()
    }

    /// A reader of one partition.
    ///
    /// # Errors
    /// [`Error::Refused`]: no such partition. [`Error::Unavailable`]: out of memory.
    pub fn reader(&self, topic: Topic, partition: u32) -> Result<PartitionLog, Error> {
        PartitionLog::new(self.clone(), topic, partition)
    }

    /// The publisher of the worker named `owner`, such as `record/0`: 1 to 64 bytes. The name is
    /// where its lane positions are kept.
    ///
    /// # Errors
    /// [`Error::Refused`]: the name is empty or too long.
    pub fn publisher(&self, owner: &str) -> Result<OwnedPublisher, Error> {
        OwnedPublisher::new(self.clone(), owner)
    }

    /// Queues work and waits for its outcome.
    fn submit(&self, work: Work) -> Result<Vec<Range<Offset>>, Error> {
        let bytes = work.check(&self.shared().layout)?;
        let outcome = writer::enqueue(self.shared(), work, bytes)?;
        outcome.recv().unwrap_or_else(|_| {
            Err(Error::Unavailable("the log's writer has stopped; restart the process".to_owned()))
        })
    }
}
