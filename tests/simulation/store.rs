//! The simulated state store: commits are whole and visible at once, and durable only when flushed.
//!
//! A crash loses a suffix of whole commits, never a hole: what is left is as of some flush.

use std::sync::{Arc, Mutex, MutexGuard};

use trailproof::store::{Error, StateStore};
use trailproof_topology::key::Table;
use trailproof_topology::memory::Memory;
use trailproof_topology::state::{Change, Changes, Rows};

use super::hub::{Hub, Verdict};
use super::plant::Plant;

/// The store of one owner.
pub(crate) struct SimStore {
    hub: Arc<Hub>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Arc<Memory>,
    durable: Memory,
    unsynced: Vec<Changes>,
    /// Flushes that have begun: how many of the unsynced commits each makes durable.
    begun: Vec<usize>,
}

/// A view of the rows. Reads of the window's fail now and then: of a load, and of a look.
pub(crate) struct Snapshot {
    rows: Arc<Memory>,
    hub: Arc<Hub>,
}

impl SimStore {
    pub(crate) fn new(hub: &Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { hub: Arc::clone(hub), state: Mutex::default() })
    }

    /// A store that holds what another has durable: a restored savepoint.
    pub(crate) fn restored(&self) -> Arc<Self> {
        let durable = self.state().durable.clone();
        let current = Arc::new(durable.clone());
        let state = State { current, durable, ..State::default() };
        Arc::new(Self { hub: Arc::clone(&self.hub), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What becomes of a write, and its mark.
    fn verdict(&self, done: &'static str, fails: &'static str) -> Verdict {
        let mut inner = self.hub.lock();
        let rate = inner.faults.rates.commit;
        let verdict = inner.faults.verdict(rate);
        inner.mark(if verdict == Verdict::Go { done } else { fails });
        verdict
    }

    /// Rows as of the last commit.
    pub(crate) fn rows(&self) -> Arc<Memory> {
        Arc::clone(&self.state().current)
    }

    /// Commits that are not durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// A crash: the last `lost` of the unsynced commits are gone, and more up to a flush. Answers
    /// how many are left.
    pub(crate) fn crash(&self, lost: usize) -> usize {
        let plant = self.hub.lock().plant;
        let mut state = self.state();
        let state = &mut *state;
        let mut unsynced = std::mem::take(&mut state.unsynced);
        let most = unsynced.len().saturating_sub(lost);
        let mut kept = state.begun.iter().rfind(|begun| **begun <= most).copied().unwrap_or(0);
        state.begun.clear();
        match plant {
            // A hole: an older commit is lost and a newer one kept.
            Plant::LostMiddle if kept > 1 => {
                unsynced.remove(kept - 2);
                kept -= 1;
            }
            // It has flushed by itself, between two savepoints.
            Plant::FlushAnywhere => kept = most,
            Plant::TornFlush => {
                unsynced[..kept]
                    .iter_mut()
                    .for_each(|changes| changes.list.retain(|change| !is_queued(change)));
            }
            _ => {}
        }
        unsynced.truncate(kept);
        for changes in &unsynced {
            state.durable.commit(changes);
        }
        state.current = Arc::new(state.durable.clone());
        kept
    }

    /// The disk is gone.
    pub(crate) fn lose(&self) {
        *self.state() = State::default();
    }
}

impl StateStore for SimStore {
    type Snapshot<'a> = Snapshot;

    fn snapshot(&self) -> Snapshot {
        Snapshot { rows: self.rows(), hub: Arc::clone(&self.hub) }
    }

    fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let verdict = self.verdict("a commit", "a commit fails");
        let mut state = self.state();
        let dead = self.hub.lock().faults.crashed;
        if verdict == Verdict::Go || (verdict == Verdict::Lost && dead) {
            Arc::make_mut(&mut state.current).commit(changes);
            state.unsynced.push(changes.clone());
        }
        if verdict == Verdict::Go {
            return Ok(());
        }
        Err(Error::Unavailable("commit".to_owned()))
    }

    fn wants_flush(&self) -> bool {
        let wanted = self.hub.lock().commits_per_flush;
        let state = self.state();
        state.unsynced.len() - state.begun.last().unwrap_or(&0) >= wanted
    }

    fn begin_flush(&self) -> Result<(), Error> {
        let verdict = self.verdict("a savepoint", "a flush fails");
        let mut state = self.state();
        if verdict != Verdict::Fail {
            let commits = state.unsynced.len();
            state.begun.push(commits);
        }
        if verdict == Verdict::Go { Ok(()) } else { Err(Error::Unavailable("flush".to_owned())) }
    }

    fn flush(&self) -> Result<(), Error> {
        let verdict = self.hub.lock().faults.verdict(0);
        if verdict == Verdict::Fail {
            return Err(Error::Unavailable("flush".to_owned()));
        }
        let mut state = self.state();
        let state = &mut *state;
        for changes in state.unsynced.drain(..) {
            state.durable.commit(&changes);
        }
        state.begun.clear();
        Ok(())
    }

    fn expire(&self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let mut changes = Changes::default();
        changes.delete_range(from.to_vec(), to.to_vec());
        self.commit(&changes)
    }
}

/// Whether a change is of a table that is written at one end and dropped at the other.
fn is_queued(change: &Change) -> bool {
    let (Change::Put(key, _) | Change::Delete(key) | Change::DeleteRange(key, _)) = change;
    [Table::Tail, Table::Window, Table::Outbox].iter().any(|table| key[0] == *table as u8)
}

impl Rows for Snapshot {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if key.first() == Some(&(Table::Window as u8)) {
            let mut inner = self.hub.lock();
            let rate = inner.faults.rates.read;
            if inner.faults.verdict(rate) != Verdict::Go {
                if !inner.faults.crashed {
                    inner.mark("a read fails");
                }
                return Err(Error::Unavailable("read".to_owned()));
            }
        }
        Ok(infallible(self.rows.get(key)))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        infallible(self.rows.scan(from, to, visit));
        Ok(())
    }

    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        infallible(self.rows.scan_back(from, to, visit));
        Ok(())
    }
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
