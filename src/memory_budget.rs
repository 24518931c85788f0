//! The memory that all RocksDB databases of a process share.
//!
//! **Invariant:** block caches of every database opened with one budget stay together within its
//! bound, whatever the number of partitions. So do the memtables, but for what a checkpoint and the
//! commits during its flush add: databases count them here, and are flushed by who writes to them.

use rocksdb::{Cache, WriteBufferManager};

/// Bytes of memtables at which RocksDB would flush by itself: never.
const NEVER_FULL_BYTES: usize = 1 << 40;

/// Block cache and write buffers, shared by cloning.
#[derive(Clone)]
pub struct MemoryBudget {
    cache: Cache,
    write_buffers: WriteBufferManager,
    write_buffer_bytes: usize,
}

impl MemoryBudget {
    /// A budget of `cache_bytes` for blocks, index and filter blocks among them, and of
    /// `write_buffer_bytes` for the memtables of the state stores. The embedded log has its own,
    /// fixed write buffers, so that a burst there flushes no state and the reverse.
    #[must_use]
    pub fn new(cache_bytes: usize, write_buffer_bytes: usize) -> Self {
        // It only counts: a manager with a bound that is reached flushes by itself.
        let write_buffers = WriteBufferManager::new_write_buffer_manager(NEVER_FULL_BYTES, false);
        Self { cache: Cache::new_lru_cache(cache_bytes), write_buffers, write_buffer_bytes }
    }

    /// The block cache.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The manager of write buffers.
    pub(crate) fn write_buffers(&self) -> &WriteBufferManager {
        &self.write_buffers
    }

    /// Bytes for the memtables of all state stores together.
    #[must_use]
    pub fn write_buffer_bytes(&self) -> usize {
        self.write_buffer_bytes
    }

    /// Whether the memtables of all state stores together have reached their bytes.
    pub(crate) fn write_buffers_are_full(&self) -> bool {
        self.write_buffers.get_usage() >= self.write_buffer_bytes
    }

    /// Bytes that cached blocks take now.
    #[must_use]
    pub fn cache_used_bytes(&self) -> usize {
        self.cache.get_usage()
    }
}
