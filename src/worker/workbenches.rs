//! The workbenches of an instance: as many as batches may be applied at one time.
//!
//! **Invariant (I10):** who works has a turn, so there are never more workbenches than turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use trailproof_topology::workbench::Workbench;

use crate::turns::{Turn, Turns};

/// Workbenches that the workers of many partitions take turns at.
#[derive(Debug)]
pub struct Workbenches {
    turns: Turns,
    idle: Mutex<Vec<Workbench>>,
}

impl Workbenches {
    /// So many workbenches, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { turns: Turns::new(count), idle: Mutex::default() }
    }

    /// Waits for a turn and takes a workbench. [`Workbenches::give`] it back before the turn ends;
    /// one that is not given back is made anew.
    pub(super) fn take(&self) -> (Option<Turn<'_>>, Workbench) {
        let turn = self.turns.take(&|| true);
        let bench = self.idle().pop();
        (turn, bench.unwrap_or_default())
    }

    /// Takes a workbench back, which must be clear.
    pub(super) fn give(&self, bench: Workbench) {
        assert!(bench.is_clear(), "I1: what a batch filed is left on its workbench");
        self.idle().push(bench);
    }

    /// How many nobody works at, and that were used before.
    #[cfg(test)]
    pub(super) fn idle_len(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Workbench>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
