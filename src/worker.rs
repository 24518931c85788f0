//! The worker: three of the four hops of a record, one batch a step.
//!
//! `step` polls a batch of one partition piece by piece, applies each piece to the stage while it
//! is in the processor's cache, and commits rows, effects and position of all in one write (I1).
//! When the store holds enough that is not durable, a savepoint of the stage goes into the rows
//! and the store is flushed. Delivery is the outbox's; both share [`Progress`].
//!
//! **Invariant (I10):** a worker stops polling while the outbox is behind by its bound. A commit
//! that fails is made again, unchanged, before anything else.

mod progress;
#[cfg(test)]
mod tests;
mod workbenches;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use trailproof_topology::catalog::{Catalog, CatalogMark};
use trailproof_topology::input::{Body, Input, Millis, Offset};
use trailproof_topology::invariant;
use trailproof_topology::key::{self, Table};
use trailproof_topology::stage::{Batch, LoadError, Stage};
use trailproof_topology::state::Changes;

use crate::applied::Applied;
use crate::log::{self, Kind, Log, Polled, RecordBatch};
use crate::store::{self, StateStore};

pub use progress::Progress;
pub use workbenches::Workbenches;

/// Bytes of records that one batch takes at most, beyond its last append.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes of records that one poll asks for: a piece of a batch, small enough to stay in the cache
/// between being copied out of the log and being filed.
pub const POLL_BYTES_MAX: usize = 512 << 10;

/// Effects of one lane that may wait for delivery; past it the worker stops polling.
pub const BACKLOG_MAX: u64 = 200_000;

/// How long applied records may wait for a savepoint: a restart begins with the last one, and a
/// topic does not keep for ever what comes after it.
pub const SAVEPOINT_MS: Millis = 600_000;

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error("the log failed")]
    Log(#[from] log::Error),
    /// The state store failed.
    #[error("the state store failed")]
    Store(#[from] store::Error),
}

impl From<LoadError<store::Error>> for Error {
    fn from(error: LoadError<store::Error>) -> Self {
        Self::Store(match error {
            LoadError::Store(error) => error,
            LoadError::Damage(damage) => store::Error::Corrupt(damage.to_string()),
        })
    }
}

impl Error {
    /// When the step may be made again.
    #[must_use]
    pub fn retry(&self) -> log::Retry {
        match self {
            Self::Log(error) => error.retry(),
            Self::Store(store::Error::Unavailable(_)) => log::Retry::Later,
            Self::Store(store::Error::Corrupt(_) | store::Error::Locked(_)) => log::Retry::Never,
        }
    }

    /// Whether the rows are damaged, so that the store must be set aside and built again.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Store(store::Error::Corrupt(_)))
    }
}

/// Finds the version of the catalog that a mark names, by version and hash; `None` where the log
/// has none, an error where that is not known.
pub type Catalogs =
    Arc<dyn Fn(&CatalogMark) -> Result<Option<Arc<Catalog>>, log::Error> + Send + Sync>;

/// A piece's marks, by offset: the version that each names, and its content where it was found.
type Marked = BTreeMap<Offset, (u64, Option<Arc<Catalog>>)>;

/// Told of each commit, and of the stage that made it.
pub type Committed<'a, S> = dyn FnMut(&mut S, &Changes) + 'a;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Applied and committed this many records of this many bytes.
    Applied {
        /// Records.
        records: usize,
        /// Bytes of their values.
        bytes: usize,
    },
    /// The partition was idle past a boundary: a tick was appended.
    Ticked,
    /// Nothing to do.
    Idle,
    /// The outbox is behind by its bound; nothing was polled.
    Blocked,
}

/// What a step took out of the log and applied.
#[derive(Default)]
struct Taken {
    records: usize,
    bytes: usize,
    /// The last record; `None` where there were only gaps.
    last: Option<Applied>,
}

/// The worker of one partition.
pub struct Worker<S: Stage, L, T> {
    setup: S::Setup,
    stage: Option<S>,
    log: L,
    store: T,
    catalogs: Catalogs,
    progress: Arc<Progress>,
    records: RecordBatch,
    /// An error behind the records of the last step that is for good: the log may not say it again.
    late: Option<log::Error>,
    batch_bytes_max: usize,
    poll_bytes_max: usize,
    workbenches: Arc<Workbenches>,
    /// What a commit that failed would have written.
    uncommitted: Option<Uncommitted>,
    /// Whether a savepoint is due, whatever the store wants.
    owes_savepoint: bool,
    /// The next offset at the last savepoint, and the log's time then.
    saved: (Offset, Millis),
}

/// Changes on their way into the store.
struct Uncommitted {
    changes: Changes,
    then: Then,
}

/// What follows a commit.
#[derive(Clone, Copy)]
enum Then {
    /// A batch is applied: the step that did it.
    Tell(Step),
    /// The rows are those of a savepoint: they are made durable, and that is waited for or not.
    Flush(bool),
}

impl<S, L, T> Worker<S, L, T>
where
    S: Stage,
    L: Log,
    T: std::ops::Deref<Target: StateStore>,
{
    /// A worker that will load its stage at the first step. `progress` already holds the lanes'
    /// committed positions.
    pub fn new(
        setup: S::Setup,
        log: L,
        store: T,
        catalogs: Catalogs,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            setup,
            stage: None,
            log,
            store,
            catalogs,
            progress,
            records: RecordBatch::default(),
            late: None,
            batch_bytes_max: BATCH_BYTES_MAX,
            poll_bytes_max: POLL_BYTES_MAX,
            workbenches: Arc::new(Workbenches::new(1)),
            uncommitted: None,
            owes_savepoint: false,
            saved: (0, 0),
        }
    }

    /// Takes another bound of a batch's bytes; at least one append is always taken.
    #[must_use]
    pub fn with_batch_bytes(mut self, batch_bytes_max: usize) -> Self {
        self.batch_bytes_max = batch_bytes_max;
        self
    }

    /// Takes another bound of what one poll asks for.
    #[must_use]
    pub fn with_poll_bytes(mut self, poll_bytes_max: usize) -> Self {
        self.poll_bytes_max = poll_bytes_max;
        self
    }

    /// Applies batches in turns with other workers, at the same workbenches.
    #[must_use]
    pub fn with_workbenches(mut self, workbenches: Arc<Workbenches>) -> Self {
        self.workbenches = workbenches;
        self
    }

    /// The stage, once loaded.
    pub fn stage(&mut self) -> Option<&mut S> {
        self.stage.as_mut()
    }

    /// The partition's log.
    pub fn log(&mut self) -> &mut L {
        &mut self.log
    }

    /// Waits until the partition holds something new, or `timeout` passes.
    pub fn wait(&mut self, timeout: Duration) {
        let next = self.next_offset();
        self.log.wait(next, timeout);
    }

    /// Takes one step. `committed` is called with the stage and what was committed, after a load
    /// (nothing) and after each commit of a batch.
    ///
    /// # Errors
    /// [`Error::Log`], [`Error::Store`]; by [`Error::retry`] the step may be made again.
    pub fn step(&mut self, committed: &mut Committed<'_, S>) -> Result<Step, Error> {
        if self.stage.is_none() {
            self.stage = Some(self.load(committed)?);
        }
        if let Some(uncommitted) = self.uncommitted.take() {
            let then = uncommitted.then;
            self.commit(uncommitted, committed)?;
            if let Then::Tell(step) = then {
                return Ok(step);
            }
        }
        if self.owes_savepoint || self.store.wants_flush() || self.has_waited() {
            self.savepoint(false)?;
        }
        let Some(mut stage) = self.stage.take() else { return Ok(Step::Idle) };
        let backlog = self.progress.backlog();
        if !backlog.into_iter().all(|waiting| invariant::within(waiting, BACKLOG_MAX)) {
            self.stage = Some(stage);
            return Ok(Step::Blocked);
        }
        let mut batch = Batch::new(self.progress.committed());
        // Held until the batch is committed. The log is waited for without it.
        let (workbenches, mut turn) = (Arc::clone(&self.workbenches), None);
        let mut begin = |batch: &mut Batch| {
            if turn.is_none() {
                (turn, batch.workbench) = workbenches.take();
            }
        };
        let taken = match self.take(&mut stage, &mut batch, &mut begin) {
            Ok(taken) => taken,
            Err(error) => {
                self.stage = Some(stage);
                if turn.is_some() {
                    // Nothing was applied, so nothing lies on it.
                    workbenches.give(batch.workbench);
                }
                return Err(error);
            }
        };
        if taken.records == 0 {
            let outcome = self.tick(&stage);
            self.stage = Some(stage);
            return outcome;
        }
        stage.finish(&mut batch);
        workbenches.give(batch.workbench);
        if let Some(applied) = taken.last {
            batch.changes.put(key::single(Table::Applied), applied.encode());
        }
        self.stage = Some(stage);
        let step = Step::Applied { records: taken.records, bytes: taken.bytes };
        self.commit(Uncommitted { changes: batch.changes, then: Then::Tell(step) }, committed)?;
        Ok(step)
    }

    /// Commits, and does what follows; what cannot be committed is kept for the next step.
    fn commit(
        &mut self,
        uncommitted: Uncommitted,
        committed: &mut Committed<'_, S>,
    ) -> Result<(), store::Error> {
        if let Err(error) = self.store.commit(&uncommitted.changes) {
            self.uncommitted = Some(uncommitted);
            // A store that recovers may make durable what it holds: see its adapter.
            self.owes_savepoint = true;
            return Err(error);
        }
        match uncommitted.then {
            Then::Tell(_) => {
                if let Some(stage) = &mut self.stage {
                    self.progress.store(stage.position());
                    committed(stage, &uncommitted.changes);
                }
            }
            Then::Flush(wait) => {
                if wait { self.store.flush() } else { self.store.begin_flush() }?;
                self.owes_savepoint = false;
                self.saved = (self.next_offset(), self.log.now_ms());
            }
        }
        Ok(())
    }

    /// Puts into the rows what only the stage holds, and makes them durable: waits for the end of
    /// that, or only begins it.
    fn savepoint(&mut self, wait: bool) -> Result<(), store::Error> {
        let workbenches = Arc::clone(&self.workbenches);
        let Some(stage) = &mut self.stage else { return Ok(()) };
        let (_turn, workbench) = workbenches.take();
        // Effects are stored with the batch that they belong to.
        let mut batch = Batch { workbench, ..Batch::default() };
        stage.savepoint(&mut batch);
        workbenches.give(batch.workbench);
        // Until the flush has begun.
        self.owes_savepoint = true;
        let then = Then::Flush(wait);
        self.commit(Uncommitted { changes: batch.changes, then }, &mut |_, _| {})
    }

    /// Whether something applied has waited for a savepoint for long.
    fn has_waited(&self) -> bool {
        let (offset, time_ms) = self.saved;
        self.next_offset() > offset && self.log.now_ms() >= time_ms.saturating_add(SAVEPOINT_MS)
    }

    fn next_offset(&self) -> Offset {
        self.stage.as_ref().map_or(0, |stage| stage.position().next_offset)
    }

    /// Makes everything applied durable, and waits for it. `committed` is called where a commit is
    /// made again.
    ///
    /// # Errors
    /// The store's; the log has the records all the same.
    pub fn save(&mut self, committed: &mut Committed<'_, S>) -> Result<(), store::Error> {
        if let Some(uncommitted) = self.uncommitted.take() {
            self.commit(uncommitted, committed)?;
        }
        self.savepoint(true)
    }

    /// Polls and applies one piece after another, until the batch is full or the log has no more.
    ///
    /// # Errors
    /// The log's or the store's, where nothing is applied yet; else the next step meets it.
    fn take(
        &mut self,
        stage: &mut S,
        batch: &mut Batch,
        begin: &mut dyn FnMut(&mut Batch),
    ) -> Result<Taken, Error> {
        if let Some(error) = self.late.take() {
            return Err(error.into());
        }
        let mut taken = Taken::default();
        loop {
            let next = stage.position().next_offset;
            let wanted = self.poll_bytes_max.min(self.batch_bytes_max - taken.bytes);
            self.records.clear();
            let polled = self.log.poll(next, wanted, &mut self.records);
            let marked = match polled.and_then(|()| self.marked()) {
                Ok(marked) => marked,
                Err(error) if taken.records == 0 => return Err(error.into()),
                Err(error) => {
                    self.late = Some(error).filter(|error| error.retry() == log::Retry::Never);
                    return Ok(taken);
                }
            };
            if !self.records.is_empty() {
                begin(batch);
            }
            let applied = self.apply(stage, &marked, batch);
            taken.records += self.records.len();
            taken.bytes += self.records.bytes_len();
            // A gap is no record that could be read again.
            if let Some(last) = self.records.last().filter(|last| last.kind != Kind::Gap) {
                taken.last = Some(Applied::of(&last));
            }
            match applied {
                Ok(()) => {}
                Err(error) if taken.records == 0 => return Err(error),
                Err(_) => return Ok(taken),
            }
            // What came short of what was asked for is all that there is now.
            if self.records.bytes_len() < wanted || taken.bytes >= self.batch_bytes_max {
                return Ok(taken);
            }
        }
    }

    fn load(&mut self, committed: &mut Committed<'_, S>) -> Result<S, Error> {
        let mut stage = S::load(self.setup.clone(), &self.store.snapshot())?;
        self.progress.store(stage.position());
        self.saved = (stage.position().next_offset, self.log.now_ms());
        committed(&mut stage, &Changes::default());
        Ok(stage)
    }

    fn tick(&mut self, stage: &S) -> Result<Step, Error> {
        match stage.next_boundary_ms() {
            Some(boundary) if self.log.now_ms() >= boundary => {
                self.log.tick()?;
                Ok(Step::Ticked)
            }
            _ => Ok(Step::Idle),
        }
    }

    /// Finds what a piece's marks name before any of it is applied.
    fn marked(&self) -> Result<Marked, log::Error> {
        let mut marked = Marked::new();
        for record in self.records.iter() {
            if record.kind == Kind::Catalog
                && let Some(mark) = CatalogMark::parse(record.value)
            {
                marked.insert(record.offset, (mark.version, (self.catalogs)(&mark)?));
            }
        }
        Ok(marked)
    }

    /// Applies a piece, as far as what its records need can be read from the store; the rest of it
    /// is forgotten, and polled again by the next step.
    fn apply(&mut self, stage: &mut S, marked: &Marked, batch: &mut Batch) -> Result<(), Error> {
        let (mut applied, mut outcome) = (0, Ok(()));
        for record in self.records.iter() {
            // State from before a gap would be of no use once more is gone.
            self.owes_savepoint |= record.kind == Kind::Gap;
            let append_time_ms = record.append_time_ms;
            let body = body_of(&record, marked);
            let input = Input { offset: record.offset, append_time_ms, body };
            outcome = stage.apply_reading(&input, || self.store.snapshot(), batch);
            if outcome.is_err() {
                break;
            }
            applied += 1;
        }
        self.records.truncate(applied);
        Ok(outcome?)
    }
}

fn body_of<'a>(record: &Polled<'a>, marked: &'a Marked) -> Body<'a> {
    match record.kind {
        Kind::Data => Body::Data(record.value),
        Kind::Tick => Body::Tick,
        Kind::Catalog => match marked.get(&record.offset) {
            Some((version, catalog)) => Body::Catalog(*version, catalog.as_ref()),
            None => Body::Unknown(record.value),
        },
        Kind::Unknown => Body::Unknown(record.value),
        Kind::Gap => {
            let from = record.value.try_into().map_or(record.offset, u64::from_be_bytes);
            Body::Gap { from }
        }
    }
}
