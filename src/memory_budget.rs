//! The memory that all RocksDB databases of a process share.
//!
//! **Invariant:** block caches of every database opened with one budget stay together within its
//! bound, whatever the number of partitions, but for the blocks that readers hold at that moment:
//! the cache has no lock, and lets them in beyond it. So do the memtables, but for what a savepoint
//! and the commits during its flush add: stores count them here, and are flushed by who writes to
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rocksdb::Cache;

/// Block cache and write buffers, shared by cloning.
#[derive(Clone)]
pub struct MemoryBudget {
    cache: Cache,
    write_buffer_bytes: usize,
    /// What the state stores would flush, as each found when it last looked.
    unflushed_bytes: Arc<AtomicUsize>,
}

impl MemoryBudget {
    /// A budget of `cache_bytes` for blocks, index and filter blocks among them, and of
    /// `write_buffer_bytes` for the memtables of the state stores. The embedded log has its own,
    /// fixed write buffers, so that a burst there flushes no state and the reverse.
    #[must_use]
    pub fn new(cache_bytes: usize, write_buffer_bytes: usize) -> Self {
        let cache = Cache::new_hyper_clock_cache(cache_bytes, 0);
        Self { cache, write_buffer_bytes, unflushed_bytes: Arc::default() }
    }

    /// The block cache.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Bytes for the memtables of all state stores together.
    #[must_use]
    pub fn write_buffer_bytes(&self) -> usize {
        self.write_buffer_bytes
    }

    /// Notes that a store holds `bytes` where it held `before`; whether all of them together have
    /// reached their bytes.
    pub(crate) fn note_unflushed(&self, before: usize, bytes: usize) -> bool {
        let sum = &self.unflushed_bytes;
        sum.fetch_add(bytes, Ordering::AcqRel);
        sum.fetch_sub(before, Ordering::AcqRel) - before >= self.write_buffer_bytes
    }

    /// Bytes that cached blocks take now.
    #[must_use]
    pub fn cache_used_bytes(&self) -> usize {
        self.cache.get_usage()
    }
}
