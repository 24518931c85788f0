//! A stage: a deterministic machine fed with the records of one partition.
//!
//! A stage is loaded from its rows once. From then on it writes, and what it wants kept or done
//! goes into a [`Batch`]. The shell commits the batch whole; where that fails, it commits the same
//! batch again before anything else (I1).
//!
//! [`Stage::apply`] reads nothing and cannot fail half way. Where a record needs rows that are too
//! many for memory, `apply` says so before it changes anything, the stage reads them
//! ([`Stage::read`]), and the same record is applied again.
//!
//! What a stage holds in memory alone goes into the rows at a [`Stage::savepoint`], which the
//! shell takes before it makes rows durable: far fewer bytes than after every batch. So durable
//! rows are always those of a savepoint, and a stage is loaded from such rows only.

use crate::effect::{Effect, Lane};
use crate::input::{Input, Position};
use crate::key;
use crate::state::{Changes, Rows};
use crate::workbench::Workbench;

/// Rows and effects of the records applied since the last commit.
#[derive(Debug, Default)]
pub struct Batch {
    /// Row changes, in order.
    pub changes: Changes,
    /// Lane sequences below these are delivered already: such effects are not stored again.
    pub delivered: [u64; crate::effect::LANES],
    /// Effects stored by this batch.
    pub effects: u64,
    /// What it works with, until [`Stage::finish`] or [`Stage::savepoint`]: then it is clear, and
    /// may serve another batch.
    pub workbench: Workbench,
}

impl Batch {
    /// An empty batch; `delivered` are the lanes' committed positions.
    #[must_use]
    pub fn new(delivered: [u64; crate::effect::LANES]) -> Self {
        Self { delivered, ..Self::default() }
    }

    /// Stores an effect under its lane's next sequence number, unless a run before a crash has
    /// delivered it already.
    pub fn effect(&mut self, position: &mut Position, lane: Lane, effect: &Effect) {
        let next = &mut position.lane_next[lane as usize];
        if *next >= self.delivered[lane as usize] {
            self.changes.put(key::outbox(lane, *next), effect.encode());
            self.effects += 1;
        }
        *next += 1;
    }
}

/// Rows that cannot be what this stage wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {table} is damaged: {reason}")]
pub struct Damage {
    /// The table's name.
    pub table: &'static str,
    /// What does not fit.
    pub reason: String,
}

impl Damage {
    /// What does not fit in the rows of a table.
    pub(crate) fn new(table: &'static str, reason: impl Into<String>) -> Self {
        Self { table, reason: reason.into() }
    }
}

/// Why a stage could not be loaded, or read more.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E: std::error::Error + 'static> {
    /// The store failed.
    #[error("cannot read the state")]
    Store(#[source] E),
    /// A row makes no sense.
    #[error(transparent)]
    Damage(#[from] Damage),
}

/// A record was not applied, and nothing has changed: the stage must [`Stage::read`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted;

/// A stage of the topology over one input partition.
pub trait Stage: Sized {
    /// What the stage is told once: partition, topic id, signer.
    type Setup: Clone;

    /// Builds the stage from its rows as of a savepoint; from none, the stage before the first
    /// record.
    ///
    /// # Errors
    /// The store's error, or rows that do not fit together.
    fn load<R: Rows>(setup: Self::Setup, rows: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static;

    /// Applies one record. Records come in offset order, each once (I2).
    ///
    /// # Errors
    /// [`Wanted`]: the record must be applied again after a [`Stage::read`].
    fn apply(&mut self, input: &Input<'_>, batch: &mut Batch) -> Result<(), Wanted>;

    /// Reads what the last record that was not applied needs, from the rows as last committed. A
    /// stage that keeps all in memory wants nothing.
    ///
    /// # Errors
    /// The store's error, or damaged rows; then nothing has changed.
    fn read<R: Rows>(&mut self, _rows: &R) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        Ok(())
    }

    /// Applies one record, and reads before that whatever it needs.
    ///
    /// # Errors
    /// Those of [`Stage::read`]; the record is not applied.
    fn apply_reading<R: Rows>(
        &mut self,
        input: &Input<'_>,
        rows: impl Fn() -> R,
        batch: &mut Batch,
    ) -> Result<(), LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        while self.apply(input, batch).is_err() {
            self.read(&rows())?;
        }
        Ok(())
    }

    /// Ends a batch: writes what the stage holds in memory, what waits for a savepoint left out,
    /// and the position row.
    fn finish(&mut self, batch: &mut Batch);

    /// Writes, between two batches, what only memory holds since the last savepoint: with it the
    /// rows are all that [`Stage::load`] needs. A stage whose batches are whole writes nothing.
    fn savepoint(&mut self, _batch: &mut Batch) {}

    /// Where the stage stands.
    fn position(&self) -> &Position;

    /// Stream time of the next boundary at which an idle partition needs a tick.
    fn next_boundary_ms(&self) -> Option<crate::input::Millis>;
}
