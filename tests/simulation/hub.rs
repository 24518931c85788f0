//! The simulated world that all ports share: log, objects, clock, faults, marks.
//!
//! **Invariant:** single-threaded; everything that varies comes from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use trailproof::worker::Workbenches;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::input::Millis;

use super::logs::Logs;
use super::objects::Objects;
use super::plant::Plant;
use super::random::Random;

/// How often ports fail, per thousand calls; drawn per seed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) poll: u64,
    pub(crate) partial: u64,
    pub(crate) tick: u64,
    pub(crate) publish: u64,
    pub(crate) put: u64,
    pub(crate) get: u64,
    pub(crate) commit: u64,
    pub(crate) read: u64,
    /// A stranger's object lies under the key.
    pub(crate) conflict: u64,
    /// Another version's compressor has put the same content before.
    pub(crate) recompressed: u64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// It fails and nothing happened.
    Fail,
    /// It happened, and its caller hears that it failed.
    Lost,
}

/// Faults of the ports, and the count of their calls.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) random: Random,
    pub(crate) rates: Rates,
    pub(crate) on: bool,
    /// Calls of ports so far.
    pub(crate) calls: u64,
    /// Calls at which the process dies, ascending: just before what they do, or just after.
    pub(crate) crash_at: Vec<(u64, bool)>,
    /// The process is dead: every port refuses until the driver restarts it.
    pub(crate) crashed: bool,
}

impl Faults {
    /// Whether the call at hand happens.
    pub(crate) fn verdict(&mut self, permille: u64) -> Verdict {
        if self.crashed {
            return Verdict::Fail;
        }
        self.calls += 1;
        if let Some((call, after)) = self.crash_at.first().copied()
            && self.calls >= call
        {
            self.crash_at.remove(0);
            self.crashed = true;
            return if after { Verdict::Lost } else { Verdict::Fail };
        }
        if !self.on || !self.random.chance(permille) {
            return Verdict::Go;
        }
        if self.random.one_in(2) { Verdict::Lost } else { Verdict::Fail }
    }

    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.on && !self.crashed && self.random.chance(permille)
    }
}

/// Everything that is shared.
pub(crate) struct Inner {
    pub(crate) now_ms: Millis,
    /// Whether append times of a partition never fall.
    pub(crate) clamped: bool,
    /// Text bytes that a partition may have open.
    pub(crate) open_bytes_max: usize,
    /// Commits from which on a store wants to be flushed.
    pub(crate) commits_per_flush: usize,
    /// Whether the log gives offsets to records of its own.
    pub(crate) holes: bool,
    pub(crate) logs: Logs,
    pub(crate) objects: Objects,
    pub(crate) faults: Faults,
    pub(crate) catalogs: BTreeMap<u64, Arc<Catalog>>,
    pub(crate) marks: BTreeSet<&'static str>,
    pub(crate) plant: Plant,
    /// Steps, where they are traced.
    pub(crate) trace: Option<Vec<String>>,
}

/// The shared world.
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    /// All owners take turns at one.
    workbenches: Arc<Workbenches>,
}

impl Hub {
    pub(crate) fn new(inner: Inner) -> Arc<Self> {
        let workbenches = Arc::new(Workbenches::new(1));
        Arc::new(Self { inner: Mutex::new(inner), workbenches })
    }

    pub(crate) fn workbenches(&self) -> Arc<Workbenches> {
        Arc::clone(&self.workbenches)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A planted bug may panic in the midst; the run is over then.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn mark(&self, name: &'static str) {
        self.lock().marks.insert(name);
    }

    /// Notes a step where steps are traced.
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.lock().trace {
            trace.push(text());
        }
    }
}

impl Inner {
    pub(crate) fn mark(&mut self, name: &'static str) {
        self.marks.insert(name);
    }

    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(text());
        }
    }
}
