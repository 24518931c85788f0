//! The engine: log, stores, workers and outboxes of one process, put together.
//!
//! For each partition of `traces` there is a record worker, its outbox and its indexer; for each
//! partition of `files` a digest worker and its outbox. Each runs on a thread of its own and takes
//! one step at a time; they share nothing but rows, lane positions and wake-ups.
//!
//! **Invariant:** a loop that cannot go on says so in [`Engine::problems`] and stops; it never
//! skips a record, and never ends the process by itself.
//!
//! Read next: [`catalogs`] for how a catalog comes into force, [`threads`] for the loops.

pub mod backend;
pub mod catalogs;
pub mod partition;
pub mod threads;

use std::path::PathBuf;
use std::sync::Arc;

use trailproof_topology::catalog::Catalog;
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::Topic;
use trailproof_topology::sign::Sign;

use crate::clock::Clock;
use crate::log::embedded::{self, EmbeddedLog};
use crate::memory_budget::MemoryBudget;
use crate::metrics::Metrics;
use crate::object::ObjectStore;
use crate::outbox::{self, Limits};
use crate::store::rocks::{self, RocksStore};
use crate::view::{Published, View, Viewed};
use crate::{log, store};

use catalogs::CatalogHistory;
use partition::{DigestParts, RecordParts};
use threads::Threads;

/// What an engine is made of.
pub struct Settings {
    /// Folder of log and state.
    pub data: PathBuf,
    /// Partitions of topic `traces`.
    pub partitions: u32,
    /// The catalog's content; its version and partitions are set here.
    pub catalog: Catalog,
    /// Days that the view keeps.
    pub view_days: u16,
    /// Bytes of the shared block cache.
    pub block_cache_bytes: usize,
    /// Bytes of all write buffers.
    pub write_buffer_bytes: usize,
    /// Where append times come from.
    pub clock: Clock,
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
    #[error("cannot open the log")]
    Log(#[from] log::Error),
    /// A state store failed.
    #[error("cannot open the state")]
    Store(#[from] store::Error),
    /// An outbox could not read its lanes.
    #[error("cannot open an outbox")]
    Outbox(#[source] outbox::Error),
    /// The operating system refused a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// A running engine. Dropped, it stops: nothing is sealed, everything committed is flushed.
pub struct Engine {
    log: EmbeddedLog,
    history: Arc<CatalogHistory>,
    view: View<RocksStore>,
    published: Vec<Published>,
    stores: Vec<Arc<RocksStore>>,
    threads: Threads,
    /// Folders of damaged state that were set aside at the start.
    set_aside: Vec<PathBuf>,
    memory: MemoryBudget,
}

impl Engine {
    /// Opens the folders, brings the catalog into force, starts the threads.
    ///
    /// # Errors
    /// [`Error`]; another process on the same folder among them.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        let partitions = settings.partitions.max(1);
        let files = settings.catalog.files_partitions.max(1);
        let memory = MemoryBudget::new(settings.block_cache_bytes, settings.write_buffer_bytes);
        let log = open_log(&settings, &memory, partitions, files)?;
        let history = Arc::new(catalogs::bring_into_force(&log, &settings.catalog, partitions)?);
        let stores = partitions as usize + files as usize;
        let options = rocks::Options::new(memory.clone(), stores);
        let mut engine = Self {
            log,
            history,
            view: View::new(Vec::new()),
            published: Vec::new(),
            stores: Vec::new(),
            threads: Threads::new(Arc::clone(&settings.metrics)),
            set_aside: Vec::new(),
            memory,
        };
        let mut viewed = Vec::new();
        for partition in 0..partitions {
            viewed.push(engine.start_record(&settings, partition, &options)?);
        }
        engine.published = viewed.iter().map(|one| one.published.clone()).collect();
        engine.view = View::new(viewed);
        for partition in 0..files {
            engine.start_digest(&settings, partition, &options)?;
        }
        Ok(engine)
    }

    fn open_store(
        &mut self,
        settings: &Settings,
        name: &str,
        options: &rocks::Options,
    ) -> Result<Arc<RocksStore>, Error> {
        let path = settings.data.join("state").join(name);
        let (store, set_aside) = RocksStore::open_or_set_aside(&path, options)?;
        if let Some(aside) = set_aside {
            tracing::error!(
                state = %path.display(), aside = %aside.display(),
                "state was damaged; it was set aside and is rebuilt from the log"
            );
            self.set_aside.push(aside);
        }
        let store = Arc::new(store);
        self.stores.push(Arc::clone(&store));
        Ok(store)
    }

    fn start_record(
        &mut self,
        settings: &Settings,
        partition: u32,
        options: &rocks::Options,
    ) -> Result<Viewed<RocksStore>, Error> {
        let name = format!("record-{partition}");
        let store = self.open_store(settings, &name, options)?;
        let published = Published::default();
        let viewed = Viewed { partition, store: Arc::clone(&store), published: published.clone() };
        let parts = RecordParts {
            partition,
            topic_id: self.history.topic_id(),
            store,
            published,
            catalogs: self.history.lookup(),
            log: self.log.reader(Topic::Traces, partition)?,
            publisher: self.log.publisher(&format!("record/{partition}"))?,
            objects: Arc::clone(&settings.objects),
            limits: Limits::default(),
            view_days: settings.view_days,
        };
        partition::start_record(parts, &self.threads)?;
        Ok(viewed)
    }

    fn start_digest(
        &mut self,
        settings: &Settings,
        partition: u32,
        options: &rocks::Options,
    ) -> Result<(), Error> {
        let store = self.open_store(settings, &format!("digest-{partition}"), options)?;
        let parts: DigestParts<DigestStage> = DigestParts {
            partition,
            setup: DigestSetup { partition, signer: Arc::clone(&settings.signer) },
            store,
            catalogs: self.history.lookup(),
            log: self.log.reader(Topic::Files, partition)?,
            publisher: self.log.publisher(&format!("digest/{partition}"))?,
            objects: Arc::clone(&settings.objects),
            limits: Limits::default(),
        };
        partition::start_digest(parts, &self.threads)
    }

    /// The log, for producers and operators.
    #[must_use]
    pub fn log(&self) -> &EmbeddedLog {
        &self.log
    }

    /// The catalog in force.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.history.newest()
    }

    /// The view over all `traces` partitions.
    #[must_use]
    pub fn view(&self) -> &View<RocksStore> {
        &self.view
    }

    /// Whether every partition's rows are loaded, so that queries see what was committed.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.published.iter().all(|published| published.latest().position.next_offset > 0)
    }

    /// What does not work at the moment, by the name of the loop.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        self.threads.problems()
    }

    /// Folders of damaged state that were set aside at the start.
    #[must_use]
    pub fn set_aside(&self) -> &[PathBuf] {
        &self.set_aside
    }

    /// Records of each `traces` partition that are in the log and not in the view yet.
    ///
    /// # Errors
    /// The log's.
    pub fn lag(&self) -> Result<Vec<u64>, log::Error> {
        (0..)
            .zip(&self.published)
            .map(|(partition, published)| {
                let end = self.log.bounds(Topic::Traces, partition)?.end;
                Ok(end.saturating_sub(published.latest().position.next_offset))
            })
            .collect()
    }

    /// The shared memory of the databases.
    #[must_use]
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Bytes of all state on disk.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.stores.iter().map(|store| store.disk_bytes()).sum()
    }

    /// Stops the threads after their step and flushes the state. Seals nothing.
    ///
    /// # Errors
    /// The first flush that failed; the log has the records all the same.
    pub fn stop(mut self) -> Result<(), store::Error> {
        self.threads.stop();
        self.stores.iter().try_for_each(|store| store::StateStore::flush(&**store))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.threads.stop();
    }
}

fn open_log(
    settings: &Settings,
    memory: &MemoryBudget,
    partitions: u32,
    files: u32,
) -> Result<EmbeddedLog, log::Error> {
    let topics: Vec<(Topic, u32)> = Topic::ALL
        .into_iter()
        .map(|topic| match topic {
            Topic::Traces => (topic, partitions),
            Topic::Files => (topic, files),
            _ => (topic, 1),
        })
        .collect();
    let options = embedded::Options::new(Arc::clone(&settings.clock), memory.clone());
    EmbeddedLog::open(&settings.data.join("log"), &topics, options)
}
