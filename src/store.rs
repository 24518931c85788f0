//! The state-store port: rows of one partition, committed a batch at a time.
//!
//! The log is the write-ahead log, so a store may lose its newest commits at a crash: all of those
//! behind a flush, and nothing else. Only a flush that somebody asked for makes commits durable, so
//! who writes decides which states a crash may leave: those of a savepoint. The adapters are
//! `rocks` (RocksDB) and the simulator's.

pub mod rocks;

use trailproof_topology::state::{Changes, Rows};

/// What went wrong at a state store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Passing trouble, such as a full disk.
    #[error("the state store is not available: {0}")]
    Unavailable(String),
    /// Rows are damaged: the store is set aside and rebuilt from the log.
    #[error("the state store is damaged: {0}")]
    Corrupt(String),
    /// Another process has it open.
    #[error("the data folder is in use by another process: {0}")]
    Locked(String),
}

/// The rows of one partition.
pub trait StateStore {
    /// A consistent view of the rows.
    type Snapshot<'a>: Rows<Error = Error> + Sync
    where
        Self: 'a;

    /// The rows as of the last commit, unmoved by later ones.
    fn snapshot(&self) -> Self::Snapshot<'_>;

    /// Applies the changes, all or nothing; visible at once, durable with the next flush.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: nothing was applied. [`Error::Corrupt`]: the store is unusable.
    fn commit(&self, changes: &Changes) -> Result<(), Error>;

    /// Whether what is not durable is as much as the store should hold in memory. It goes on
    /// taking commits; whoever writes most of them is to flush soon.
    fn wants_flush(&self) -> bool;

    /// Begins to make all commits so far durable, without waiting for the end. Waits for the end
    /// of the flush before.
    ///
    /// # Errors
    /// As [`StateStore::commit`].
    fn begin_flush(&self) -> Result<(), Error>;

    /// Makes all commits so far durable.
    ///
    /// # Errors
    /// As [`StateStore::commit`].
    fn flush(&self) -> Result<(), Error>;

    /// Drops every row with `from <= key < to`, cheaply: whole files first. Not atomic with
    /// anything; for retention only.
    ///
    /// # Errors
    /// As [`StateStore::commit`].
    fn expire(&self, from: &[u8], to: &[u8]) -> Result<(), Error>;
}
