//! The simulated state store: commits are whole and visible at once, and durable only when synced.
//!
//! A crash loses a suffix of whole commits, never a hole.

use std::sync::{Arc, Mutex, MutexGuard};

use trailproof::store::{Error, StateStore};
use trailproof_topology::key::{Table, single};
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
}

/// A view of the rows.
pub(crate) struct Snapshot(Arc<Memory>);

impl SimStore {
    pub(crate) fn new(hub: &Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { hub: Arc::clone(hub), state: Mutex::default() })
    }

    /// A store that holds what another has durable: a restored checkpoint.
    pub(crate) fn restored(&self) -> Arc<Self> {
        let durable = self.state().durable.clone();
        let current = Arc::new(durable.clone());
        let state = State { current, durable, ..State::default() };
        Arc::new(Self { hub: Arc::clone(&self.hub), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Rows as of the last commit.
    pub(crate) fn rows(&self) -> Arc<Memory> {
        Arc::clone(&self.state().current)
    }

    /// Commits that are not durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// A crash: the last `lost` of the unsynced commits are gone.
    pub(crate) fn crash(&self, lost: usize) {
        let plant = self.hub.lock().plant;
        let mut state = self.state();
        let state = &mut *state;
        let mut unsynced = std::mem::take(&mut state.unsynced);
        let kept = unsynced.len().saturating_sub(lost);
        if plant == Plant::LostMiddle && lost > 0 && kept > 0 {
            // A hole: an older commit is lost and a newer one kept.
            unsynced.remove(kept - 1);
        }
        unsynced.truncate(kept);
        for changes in &unsynced {
            state.durable.commit(changes);
        }
        state.current = Arc::new(state.durable.clone());
    }

    /// The disk is gone.
    pub(crate) fn lose(&self) {
        *self.state() = State::default();
    }
}

impl StateStore for SimStore {
    type Snapshot<'a> = Snapshot;

    fn snapshot(&self) -> Snapshot {
        Snapshot(self.rows())
    }

    fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let (verdict, plant) = {
            let mut inner = self.hub.lock();
            let rate = inner.faults.rates.commit;
            let verdict = inner.faults.verdict(rate);
            if verdict != Verdict::Go {
                inner.mark("a commit fails");
            }
            (verdict, inner.plant)
        };
        let mut state = self.state();
        let dead = self.hub.lock().faults.crashed;
        if verdict == Verdict::Go || (verdict == Verdict::Lost && dead) {
            let pieces = match plant {
                Plant::TornCommit => tear(changes),
                _ => vec![changes.clone()],
            };
            for piece in pieces {
                Arc::make_mut(&mut state.current).commit(&piece);
                state.unsynced.push(piece);
            }
        }
        if verdict == Verdict::Go {
            return Ok(());
        }
        Err(Error::Unavailable("commit".to_owned()))
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
        Ok(())
    }

    fn expire(&self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let mut changes = Changes::default();
        changes.delete_range(from.to_vec(), to.to_vec());
        self.commit(&changes)
    }
}

/// Position first, then the other rows: two writes where there should be one.
fn tear(changes: &Changes) -> Vec<Changes> {
    let position = single(Table::Position);
    let is_position = |change: &&Change| matches!(change, Change::Put(key, _) if *key == position);
    let first = changes.list.iter().filter(is_position).cloned().collect();
    let rest = changes.list.iter().filter(|change| !is_position(change)).cloned().collect();
    vec![Changes { list: first }, Changes { list: rest }]
}

impl Rows for Snapshot {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(infallible(self.0.get(key)))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        infallible(self.0.scan(from, to, visit));
        Ok(())
    }

    fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        infallible(self.0.scan_back(from, to, visit));
        Ok(())
    }
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
