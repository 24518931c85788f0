//! The engine: broker, stores, workers and outboxes of one instance, put together.
//!
//! The broker assigns partitions. For each one of `traces` there is a record worker, its outbox and
//! its indexer; for each one of `files` a digest worker and its outbox. Each runs on a thread of
//! its own and takes one step at a time; they share nothing but rows, lane positions and wake-ups.
//! Partitions come and go while others run; embedded, all come at the start and stay.
//!
//! **Invariant:** a loop that cannot go on says so in [`Engine::problems`] and stops; it never
//! skips a record, never ends the process by itself, and holds up no other partition.
//!
//! Read next: [`catalogs`] for how a catalog comes into force, `assignment`, `slot` and `running`
//! for the life of a partition, [`threads`] for the loops.

mod assignment;
pub mod backend;
pub mod catalogs;
mod gapped;
pub mod pace;
pub mod partition;
mod pending;
mod running;
pub mod shares;
mod slot;
pub mod threads;
pub mod upkeep;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::sign::Sign;

use crate::applied::Gap;
use crate::config::cores;
use crate::log::broker::{Broker, Membership, Partitions};
use crate::memory_budget::MemoryBudget;
use crate::metrics::Metrics;
use crate::object::ObjectStore;
use crate::store::rocks::{self, RocksStore};
use crate::turns::Turns;
use crate::view::View;
use crate::worker::Workbenches;
use crate::{log, store};

use assignment::Assignment;
use pace::Pace;
use shares::Shares;
use slot::Context;
pub use slot::Restoring;
use threads::{Bell, Fault, Job, Threads};
use upkeep::SCRUB_EVERY_MIB;

/// How often versions of the catalog are looked for that another instance brought into force.
const CATALOG_LOOK: Duration = Duration::from_secs(5);

/// Turns of putting trace files: about 16 MiB of them, by an estimate from their text, are on their
/// way for all partitions, or one file that is larger.
const PUT_TURNS: usize = 32;

/// How long the partitions may take to stop at the end.
const STOP_BUDGET: Duration = Duration::from_secs(60);

/// What an engine is made of.
pub struct Settings {
    /// The log.
    pub broker: Arc<dyn Broker>,
    /// Folder of the partitions' state.
    pub state: PathBuf,
    /// The catalog's content; its version and partitions are set here.
    pub catalog: Catalog,
    /// Days that the view keeps.
    pub view_days: u16,
    /// Records that are gone before they were applied, and are given up.
    pub accept_gaps: Vec<Gap>,
    /// Block cache and write buffers of all databases.
    pub memory: MemoryBudget,
    /// Where trace files and digests go.
    pub objects: Arc<dyn ObjectStore>,
    /// Signs digests.
    pub signer: Arc<dyn Sign>,
    /// Where figures are told.
    pub metrics: Arc<Metrics>,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error("cannot use the log")]
    Log(#[from] log::Error),
    /// The operating system refused a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// A running engine. Dropped, it stops: nothing is sealed, everything committed is flushed.
pub struct Engine {
    context: Arc<Context>,
    assignment: Arc<Assignment>,
    membership: Mutex<Option<Box<dyn Membership>>>,
    background: Threads,
}

impl Engine {
    /// Brings the catalog into force and joins the group. What is assigned then starts by itself:
    /// a partition that cannot start is tried again, and shows in [`Engine::problems`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(settings: Settings) -> Result<Self, Error> {
        let broker = settings.broker;
        let history = Arc::new(catalogs::bring_into_force(&broker, &settings.catalog)?);
        let inputs = broker.partitions(Topic::Traces) + broker.partitions(Topic::Files);
        let context = Arc::new(Context {
            broker: Arc::clone(&broker),
            history,
            view: View::new(Vec::new()),
            state: settings.state,
            store_options: rocks::Options::new(settings.memory, inputs as usize),
            shares: Shares::of(broker.partitions(Topic::Traces)),
            workbenches: Arc::new(Workbenches::new(cores() + 1)),
            index_turns: Arc::new(Turns::new(cores() / 2)),
            put_turns: Arc::new(Turns::new(PUT_TURNS)),
            scrub_pace: Arc::new(Pace::new(SCRUB_EVERY_MIB)),
            view_days: settings.view_days,
            accept_gaps: settings.accept_gaps,
            objects: settings.objects,
            signer: settings.signer,
            metrics: Arc::clone(&settings.metrics),
            set_aside: Mutex::default(),
            flush_failure: Arc::default(),
        });
        let background = Threads::new(settings.metrics);
        let bell = background.bell();
        let job = CatalogJob { history: Arc::clone(&context.history), bell };
        background.start("catalog".to_owned(), job).map_err(Error::Thread)?;
        let assignment = Arc::new(Assignment::new(Arc::clone(&context)));
        let membership = broker.join(Arc::clone(&assignment) as Arc<dyn Partitions>)?;
        let membership = Mutex::new(Some(membership));
        Ok(Self { context, assignment, membership, background })
    }

    /// Waits until every assigned partition is restored or has a problem, at the longest
    /// `timeout`.
    pub fn wait_settled(&self, timeout: Duration) {
        self.assignment.wait_settled(timeout);
    }

    /// The log, for producers and operators.
    #[must_use]
    pub fn broker(&self) -> &dyn Broker {
        &*self.context.broker
    }

    /// The catalog in force, as far as it was read.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.context.history.newest()
    }

    /// The view over the `traces` partitions that are here and restored.
    #[must_use]
    pub fn view(&self) -> &View<RocksStore> {
        &self.context.view
    }

    /// The assigned partitions that do not hold yet what the log held when they were opened.
    #[must_use]
    pub fn restoring(&self) -> Vec<Restoring> {
        self.assignment.restoring()
    }

    /// What does not work at the moment, by the name of the loop.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        let group = membership.as_ref().and_then(|membership| membership.problem());
        drop(membership);
        let group = group.map(|text| ("group".to_owned(), text));
        let mut problems: Vec<_> = group.into_iter().collect();
        problems.extend(self.background.problems());
        problems.extend(self.assignment.problems());
        problems
    }

    /// Folders of damaged state that were set aside since the start.
    #[must_use]
    pub fn set_aside(&self) -> Vec<PathBuf> {
        self.context.set_aside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records of each assigned `traces` partition that are in the log and not in the view yet, by
    /// number of the partition. A log's own marks at its end are counted too.
    ///
    /// # Errors
    /// The log's.
    pub fn lag(&self) -> Result<Vec<(u32, u64)>, log::Error> {
        let applied = self.assignment.applied();
        let partitions: Vec<u32> = applied.iter().map(|(partition, _)| *partition).collect();
        let ends = self.broker().ends(Topic::Traces, &partitions)?;
        let lag = |(one, end): (&(u32, Offset), &Offset)| (one.0, end.saturating_sub(one.1));
        Ok(applied.iter().zip(&ends).map(lag).collect())
    }

    /// Leaves the group, stops the threads after their step and flushes the state. Seals nothing.
    ///
    /// # Errors
    /// The first flush that failed; the log has the records all the same.
    pub fn stop(self) -> Result<(), store::Error> {
        self.end();
        let failure =
            self.context.flush_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    /// Leaves the group: what is still here is revoked, so that others can go on with it at once.
    pub fn leave(&self) {
        let membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(membership);
    }

    fn end(&self) {
        self.leave();
        if !self.assignment.end(STOP_BUDGET) {
            tracing::error!("a partition has not stopped; the log has its records all the same");
        }
        self.background.stop();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads versions of the catalog that other instances brought into force.
struct CatalogJob {
    history: Arc<catalogs::CatalogHistory>,
    bell: Arc<Bell>,
}

impl Job for CatalogJob {
    fn step(&mut self) -> Result<bool, Fault> {
        self.history.refresh().map_err(|error| Fault::new(error.retry(), &error))?;
        Ok(false)
    }

    fn wait(&mut self, _timeout: Duration) {
        self.bell.wait(CATALOG_LOOK);
    }
}
