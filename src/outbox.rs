//! The outbox: the fourth hop. Delivers committed effects, in order within each lane.
//!
//! A lane's rows are read from the store behind its committed position. Objects are put, those of
//! at most [`Limits::puts`] effects at once, and of one chain in order; then the records of the
//! rows that are done, and the lanes' new positions, are appended to the log in one transaction.
//! Rows behind a committed position are dropped.
//!
//! Crash anywhere: the rows come back (from the store, or by replay), objects are found where they
//! are, with the same content, and the records were appended together with the position or not at
//! all.
//!
//! **Invariant (I9):** a put never overwrites. Other content under a key stops the lane.

pub mod deliver;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trailproof_topology::effect::{Effect, LANES, Lane, OutRecord};
use trailproof_topology::key::{Key, Table, outbox};
use trailproof_topology::state::{Changes, Rows};

use crate::codec::Damaged;
use crate::log::{self, Publisher, Retry};
use crate::object::{self, ObjectStore};
use crate::store::{self, StateStore};
use crate::turns::Turns;
use crate::worker::Progress;

use deliver::deliver;

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error("the log failed")]
    Log(#[from] log::Error),
    /// The state store failed.
    #[error("the state store failed")]
    Store(#[from] store::Error),
    /// The object store failed.
    #[error("the object store failed")]
    Object(#[from] object::Error),
    /// A key holds other content than the log gives: an alarm, and nothing was overwritten.
    #[error("object {bucket}/{object} exists with other content; it was not overwritten. {advice}")]
    Conflict {
        /// Its bucket.
        bucket: String,
        /// Its key.
        object: String,
        /// What to do.
        advice: &'static str,
    },
    /// A row or chunk is damaged.
    #[error("the state store is damaged: {0}")]
    Damaged(String),
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged.0)
    }
}

impl Error {
    /// When the step may be made again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Log(error) => error.retry(),
            Self::Store(store::Error::Unavailable(_)) | Self::Object(_) | Self::Conflict { .. } => {
                Retry::Later
            }
            Self::Store(_) | Self::Damaged(_) => Retry::Never,
        }
    }
}

/// Bounds of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Effects of a lane in one step.
    pub effects: usize,
    /// Bytes of effect rows of a lane in one step, beyond its first row.
    pub bytes: usize,
    /// Puts at the same time; 1 makes them on the caller's thread.
    pub puts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { effects: 512, bytes: 8 << 20, puts: 4 }
    }
}

/// What a step delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Effects.
    pub effects: usize,
    /// Trace files that are new in the store.
    pub files: usize,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// Digests that are new in the store, or what lies beside them.
    pub digests: usize,
    /// Records appended.
    pub records: usize,
}

/// How far an outbox may still go. Shared with whoever ends it.
#[derive(Debug, Default)]
pub struct Gate {
    ending: AtomicBool,
    shut: AtomicBool,
}

impl Gate {
    /// Lets the outbox finish what it is at, and take up nothing more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Lets it publish nothing more: the partition may have another owner.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.end();
    }

    fn is_open(&self) -> bool {
        !self.ending.load(Ordering::Acquire)
    }

    fn may_publish(&self) -> Result<(), Error> {
        if self.shut.load(Ordering::Acquire) {
            return Err(log::Error::Fenced("the partition".to_owned()).into());
        }
        Ok(())
    }
}

/// The outbox of one partition.
pub struct Outbox<P, T> {
    /// Held to ask and to publish, not while objects are put.
    publisher: Mutex<P>,
    store: T,
    objects: Arc<dyn ObjectStore>,
    progress: Arc<Progress>,
    limits: Limits,
    gate: Arc<Gate>,
    turns: Option<Arc<Turns>>,
    /// By lane: the sequence below which its rows are dropped, as far as this outbox knows.
    forgotten: [AtomicU64; LANES],
}

impl<P, T> Outbox<P, T>
where
    P: Publisher,
    T: std::ops::Deref<Target: StateStore>,
{
    /// Reads the lanes' committed positions and the input's; the worker must not load its stage
    /// before that.
    ///
    /// # Errors
    /// The log's.
    pub fn open(
        mut publisher: P,
        store: T,
        objects: Arc<dyn ObjectStore>,
        progress: Arc<Progress>,
        limits: Limits,
    ) -> Result<Self, Error> {
        progress.commit(publisher.committed()?);
        progress.settle(publisher.settled()?);
        let publisher = Mutex::new(publisher);
        let (gate, turns) = (Arc::default(), None);
        let forgotten = Default::default();
        Ok(Self { publisher, store, objects, progress, limits, gate, turns, forgotten })
    }

    /// Effects of each lane that wait for delivery.
    #[must_use]
    pub fn backlog(&self) -> [u64; LANES] {
        self.progress.backlog()
    }

    /// Ends when this gate says so.
    #[must_use]
    pub fn with_gate(self, gate: Arc<Gate>) -> Self {
        Self { gate, ..self }
    }

    /// Puts trace files in turns with other outboxes: one for each 512 KiB, more or less.
    #[must_use]
    pub fn with_turns(self, turns: Arc<Turns>) -> Self {
        Self { turns: Some(turns), ..self }
    }

    /// Delivers what a lane has waiting, up to the limits. Each lane may have a thread of its own,
    /// so that a store that does not answer holds up no notification; a lane must not have two.
    ///
    /// # Errors
    /// By [`Error::retry`] the step may be made again; what was delivered before the error stays
    /// delivered and is found again.
    pub fn step(&self, lane: Lane) -> Result<Delivered, Error> {
        let from = self.committed()?[lane as usize];
        let effects = self.waiting(lane, from)?;
        if effects.is_empty() {
            return Ok(Delivered::default());
        }
        let gate = &self.gate;
        let go_on = || gate.is_open();
        let puts = (self.limits.puts, self.turns.as_deref());
        let (outcomes, failure) = deliver(&*self.store, &*self.objects, &effects, puts, &go_on);
        let mut delivered = Delivered { effects: outcomes.len(), ..Delivered::default() };
        let mut records: Vec<OutRecord> = Vec::new();
        for outcome in outcomes {
            delivered.files += outcome.delivered.files;
            delivered.raw_bytes += outcome.delivered.raw_bytes;
            delivered.stored_bytes += outcome.delivered.stored_bytes;
            delivered.digests += outcome.delivered.digests;
            records.extend(outcome.records);
        }
        delivered.records = records.len();
        if delivered.effects > 0 && !self.publish(lane, from, delivered.effects, &records)? {
            return Ok(Delivered::default());
        }
        match failure {
            Some(error) if delivered.effects == 0 => Err(error),
            // What is delivered counts first; the next step meets the failure again.
            _ => Ok(delivered),
        }
    }

    fn publisher(&self) -> MutexGuard<'_, P> {
        // Who panicked held it between two calls; the log knows what became of them.
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed position of each lane.
    fn committed(&self) -> Result<[u64; LANES], Error> {
        let mut publisher = self.publisher();
        // After a failed publish only the log knows whether it happened.
        let committed = publisher.committed()?;
        self.progress.commit(committed);
        Ok(committed)
    }

    /// Appends what `effects` effects of a lane said, from `from` on, with the lane's new position.
    /// False where the lane is no longer at `from`: then nothing is appended.
    fn publish(
        &self,
        lane: Lane,
        from: u64,
        effects: usize,
        records: &[OutRecord],
    ) -> Result<bool, Error> {
        let mut publisher = self.publisher();
        // The other lane may have gone on meanwhile.
        let mut lanes = publisher.committed()?;
        if lanes[lane as usize] != from {
            return Ok(false);
        }
        lanes[lane as usize] += effects as u64;
        let settled = self.progress.settled(lanes);
        self.gate.may_publish()?;
        publisher.publish(records, lanes, settled)?;
        self.progress.commit(lanes);
        drop(publisher);
        self.forget(lane, lanes)?;
        Ok(true)
    }

    /// The lane's effects from `from` on, in order.
    fn waiting(&self, lane: Lane, from: u64) -> Result<Vec<Effect>, Error> {
        let end = Key::of(Table::Outbox).u8(lane as u8).range().1;
        let (mut effects, mut bytes, mut damaged) = (Vec::new(), 0, false);
        let mut next = from;
        self.store.snapshot().scan(&outbox(lane, from), &end, &mut |key, row| {
            bytes += row.len();
            match Effect::decode(row) {
                Some(effect) if key == outbox(lane, next) => effects.push(effect),
                _ => damaged = true,
            }
            next += 1;
            !damaged && effects.len() < self.limits.effects && bytes < self.limits.bytes
        })?;
        if damaged {
            let row = format!("the outbox row {} of lane {lane:?} is not readable", next - 1);
            return Err(Error::Damaged(row));
        }
        Ok(effects)
    }

    /// Drops the rows that are delivered.
    fn forget(&self, lane: Lane, lanes: [u64; LANES]) -> Result<(), Error> {
        let mut changes = Changes::default();
        // Only the first time from the beginning: ranges that overlap cost a store the square of
        // their number.
        let (forgotten, end) = (&self.forgotten[lane as usize], lanes[lane as usize]);
        changes.delete_range(outbox(lane, forgotten.load(Ordering::Acquire)), outbox(lane, end));
        self.store.commit(&changes)?;
        forgotten.store(end, Ordering::Release);
        Ok(())
    }
}
