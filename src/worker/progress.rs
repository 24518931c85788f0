//! What worker and outbox of a partition know of each other.
//!
//! **Invariant:** who sees an applied offset also sees the effects that were stored up to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trailproof_topology::effect::LANES;
use trailproof_topology::input::{Offset, Position};

/// What worker and outbox of a partition know of each other.
#[derive(Debug, Default)]
pub struct Progress {
    committed: [AtomicU64; LANES],
    stored: [AtomicU64; LANES],
    applied: AtomicU64,
    settled: AtomicU64,
    loaded: AtomicBool,
}

impl Progress {
    /// The delivered position of each lane.
    #[must_use]
    pub fn committed(&self) -> [u64; LANES] {
        self.committed.each_ref().map(|lane| lane.load(Ordering::Acquire))
    }

    /// Notes what is delivered.
    pub fn commit(&self, lanes: [u64; LANES]) {
        for (own, lane) in self.committed.iter().zip(lanes) {
            own.store(lane, Ordering::Release);
        }
    }

    /// The next sequence of each lane, as of the worker's last commit.
    #[must_use]
    pub fn stored(&self) -> [u64; LANES] {
        self.stored.each_ref().map(|lane| lane.load(Ordering::Acquire))
    }

    /// The input offset below which every effect is delivered, once `lanes` are. It moves only
    /// when nothing waits, so a store that is down shows as lag.
    #[must_use]
    pub fn settled(&self, lanes: [u64; LANES]) -> Offset {
        // Read before the lanes: what is applied later may have stored more.
        let applied = self.applied.load(Ordering::Acquire);
        if self.stored().into_iter().zip(lanes).all(|(stored, lane)| lane >= stored) {
            self.settled.fetch_max(applied, Ordering::AcqRel).max(applied)
        } else {
            self.settled.load(Ordering::Acquire)
        }
    }

    /// Notes the input offset that was committed with the lanes before this worker began. It never
    /// goes back, so that the log always tells how far its input was read.
    pub fn settle(&self, offset: Offset) {
        self.settled.fetch_max(offset, Ordering::AcqRel);
    }

    pub(super) fn store(&self, position: &Position) {
        for (own, lane) in self.stored.iter().zip(position.lane_next) {
            own.store(lane, Ordering::Release);
        }
        // After the lanes: who sees this offset also sees what it stored.
        self.applied.store(position.next_offset, Ordering::Release);
        self.loaded.store(true, Ordering::Release);
    }

    /// The offset below which every record is applied and committed; 0 before the stage is loaded.
    #[must_use]
    pub fn applied(&self) -> Offset {
        self.applied.load(Ordering::Acquire)
    }

    /// Whether the worker has loaded its stage.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Effects of each lane that wait for delivery.
    #[must_use]
    pub fn backlog(&self) -> [u64; LANES] {
        let (stored, committed) = (self.stored(), self.committed());
        std::array::from_fn(|lane| stored[lane].saturating_sub(committed[lane]))
    }
}
