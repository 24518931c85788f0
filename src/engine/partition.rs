//! The jobs of one partition: worker, outbox, upkeep.

use std::sync::Arc;
use std::time::Duration;

use trailproof_topology::effect::Lane;
use trailproof_topology::key::{DAY_MS, Table, day_of, days_before};
use trailproof_topology::record::{RecordStage, Setup, Tally};
use trailproof_topology::stage::Stage;
use trailproof_topology::state::Changes;
use trailproof_topology::trace::Reason;

use super::Error;
use super::threads::{Bell, Fault, Job, Threads};
use crate::indexer::{Backlog, Indexer};
use crate::log::Log;
use crate::log::embedded::{OwnedPublisher, PartitionLog};
use crate::metrics::{self, Metrics};
use crate::object::ObjectStore;
use crate::outbox::{Delivered, Limits, Outbox};
use crate::store::StateStore as _;
use crate::store::rocks::RocksStore;
use crate::view::Published;
use crate::worker::{self, Catalogs, Progress, Step, Worker};

/// What a record partition runs with.
pub struct RecordParts {
    /// The partition of topic `traces`.
    pub partition: u32,
    /// Identity of the topic.
    pub topic_id: Arc<str>,
    /// Its rows.
    pub store: Arc<RocksStore>,
    /// Where the worker publishes what queries see.
    pub published: Published,
    /// Finds catalogs.
    pub catalogs: Catalogs,
    /// Its log.
    pub log: PartitionLog,
    /// Publishes what it says.
    pub publisher: OwnedPublisher,
    /// Takes its files.
    pub objects: Arc<dyn ObjectStore>,
    /// Bounds of its outbox.
    pub limits: Limits,
    /// Days that the view keeps.
    pub view_days: u16,
}

/// What a digest partition runs with.
pub struct DigestParts<S: Stage> {
    /// The partition of topic `files`.
    pub partition: u32,
    /// The stage's setup.
    pub setup: S::Setup,
    /// Its rows.
    pub store: Arc<RocksStore>,
    /// Finds catalogs.
    pub catalogs: Catalogs,
    /// Its log.
    pub log: PartitionLog,
    /// Publishes what it says.
    pub publisher: OwnedPublisher,
    /// Takes its digests.
    pub objects: Arc<dyn ObjectStore>,
    /// Bounds of its outbox.
    pub limits: Limits,
}

/// Starts worker, outbox and upkeep of a record partition.
///
/// # Errors
/// The outbox's, or the operating system's.
pub fn start_record(parts: RecordParts, threads: &Threads) -> Result<(), Error> {
    let RecordParts { partition, store, published, limits, .. } = parts;
    let progress = Arc::new(Progress::default());
    let outbox = Outbox::open(
        parts.publisher,
        Arc::clone(&store),
        parts.objects,
        Arc::clone(&progress),
        limits,
    )
    .map_err(Error::Outbox)?;
    let setup = Setup { partition, topic_id: parts.topic_id };
    let catalogs = parts.catalogs;
    let worker = Worker::new(setup, parts.log, Arc::clone(&store), catalogs, Arc::clone(&progress));
    let backlog = Backlog::default();
    let (delivery, upkeep) = (threads.bell(), threads.bell());
    let job = WorkerJob {
        worker,
        bells: vec![Arc::clone(&delivery), Arc::clone(&upkeep)],
        committed: {
            let (published, backlog) = (published.clone(), backlog.clone());
            let metrics = Arc::clone(threads.metrics());
            let partition = partition.to_string();
            let mut figures = Figures { metrics, partition, told: Tally::default() };
            Box::new(move |stage: &mut RecordStage, changes: &Changes| {
                published.publish(stage.publish(&published.latest()));
                backlog.committed(changes);
                figures.tell(stage.tally());
            })
        },
    };
    start(threads, format!("record-{partition}"), job)?;
    start(
        threads,
        format!("record-{partition}-outbox"),
        OutboxJob::files(outbox, delivery, threads),
    )?;
    let job = UpkeepJob {
        expired_before: 0,
        view_days: parts.view_days,
        indexer: Indexer::new(Arc::clone(&store), backlog),
        store,
        published,
        progress,
        bell: upkeep,
    };
    start(threads, format!("record-{partition}-upkeep"), job)
}

/// Starts worker and outbox of a digest partition.
///
/// # Errors
/// As [`start_record`].
pub fn start_digest<S>(parts: DigestParts<S>, threads: &Threads) -> Result<(), Error>
where
    S: Stage<Setup: Send> + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let store = parts.store;
    let outbox = Outbox::open(
        parts.publisher,
        Arc::clone(&store),
        parts.objects,
        Arc::clone(&progress),
        parts.limits,
    )
    .map_err(Error::Outbox)?;
    let worker: Worker<S, _, _> =
        Worker::new(parts.setup, parts.log, store, parts.catalogs, progress);
    let delivery = threads.bell();
    let bells = vec![Arc::clone(&delivery)];
    let job = WorkerJob { worker, bells, committed: Box::new(|_: &mut S, _: &Changes| ()) };
    start(threads, format!("digest-{}", parts.partition), job)?;
    let metrics = Arc::clone(threads.metrics());
    let job = OutboxJob { outbox, bell: delivery, metrics, objects: metrics::DIGESTS };
    start(threads, format!("digest-{}-outbox", parts.partition), job)
}

fn start(threads: &Threads, name: String, job: impl Job + 'static) -> Result<(), Error> {
    threads.start(name, job).map_err(Error::Thread)
}

type Committed<S> = Box<dyn FnMut(&mut S, &Changes) + Send>;

struct WorkerJob<S: Stage> {
    worker: Worker<S, PartitionLog, Arc<RocksStore>>,
    bells: Vec<Arc<Bell>>,
    committed: Committed<S>,
}

impl<S: Stage<Setup: Send> + Send> Job for WorkerJob<S> {
    fn step(&mut self) -> Result<bool, Fault> {
        let step = self
            .worker
            .step(&mut self.committed)
            .map_err(|error| Fault::new(error.retry(), &error))?;
        if matches!(step, Step::Applied { .. }) {
            self.bells.iter().for_each(|bell| bell.ring());
        }
        Ok(matches!(step, Step::Applied { .. } | Step::Ticked))
    }

    fn wait(&mut self, timeout: Duration) {
        // An idle partition must tick soon after its boundary.
        let left = self.worker.stage().and_then(|stage| stage.next_boundary_ms()).map(|boundary| {
            Duration::from_millis(boundary.saturating_sub(self.worker.log().now_ms()).max(1) as u64)
        });
        self.worker.wait(left.map_or(timeout, |left| left.min(timeout)));
    }
}

struct OutboxJob {
    outbox: Outbox<OwnedPublisher, Arc<RocksStore>>,
    bell: Arc<Bell>,
    metrics: Arc<Metrics>,
    /// What its objects are counted as.
    objects: &'static str,
}

impl Job for OutboxJob {
    fn step(&mut self) -> Result<bool, Fault> {
        let (mut more, mut fault) = (false, None);
        // A lane that fails holds up no other.
        for lane in [Lane::Notify, Lane::Objects] {
            match self.outbox.step(lane) {
                Ok(delivered) => {
                    more |= delivered.effects > 0;
                    self.count(&delivered);
                }
                Err(error) => fault = Some(Fault::new(error.retry(), &error)),
            }
        }
        fault.map_or(Ok(more), Err)
    }

    fn wait(&mut self, timeout: Duration) {
        self.bell.wait(timeout);
    }
}

impl OutboxJob {
    fn files(
        outbox: Outbox<OwnedPublisher, Arc<RocksStore>>,
        bell: Arc<Bell>,
        threads: &Threads,
    ) -> Self {
        let metrics = Arc::clone(threads.metrics());
        Self { outbox, bell, metrics, objects: metrics::FILES_SEALED }
    }

    fn count(&self, delivered: &Delivered) {
        if delivered.objects > 0 {
            let objects = delivered.objects as u64;
            self.metrics.counter(self.objects, &[]).increment(objects);
            let labels = [("stage", "stored")];
            let bytes = self.metrics.counter(metrics::FILE_BYTES, &labels);
            bytes.increment(delivered.object_bytes);
        }
    }
}

/// Indexing and retention: what is not on the hot path.
struct UpkeepJob {
    store: Arc<RocksStore>,
    published: Published,
    progress: Arc<Progress>,
    indexer: Indexer<RocksStore>,
    view_days: u16,
    expired_before: u16,
    bell: Arc<Bell>,
}

impl Job for UpkeepJob {
    fn step(&mut self) -> Result<bool, Fault> {
        let more = self.indexer.step().map_err(|error| {
            let error = worker::Error::from(error);
            Fault::new(error.retry(), &error)
        })?;
        self.expire().map_err(|error| Fault::new(error.retry(), &error))?;
        Ok(more)
    }

    fn wait(&mut self, timeout: Duration) {
        self.bell.wait(timeout);
    }
}

impl UpkeepJob {
    /// Drops the days that the view no longer keeps, once no file of them waits for delivery.
    fn expire(&mut self) -> Result<(), worker::Error> {
        let stream_time_ms = self.published.latest().position.stream_time_ms;
        let keep_from = day_of(stream_time_ms - i64::from(self.view_days) * DAY_MS);
        let waiting = self.progress.backlog()[Lane::Objects as usize] > 0;
        if keep_from <= self.expired_before || waiting {
            return Ok(());
        }
        for table in [Table::Segment, Table::Chunk, Table::Columns, Table::Run] {
            let (from, to) = days_before(table, keep_from);
            self.store.expire(&from, &to)?;
        }
        self.expired_before = keep_from;
        Ok(())
    }
}

/// Tells the metrics what a record stage did, from the difference of two tallies.
struct Figures {
    metrics: Arc<Metrics>,
    partition: String,
    told: Tally,
}

impl Figures {
    fn tell(&mut self, now: Tally) {
        // A stage that was loaded again counts from zero.
        let told = if now.records < self.told.records { Tally::default() } else { self.told };
        self.told = now;
        let partition: &[(&'static str, &str)] = &[("partition", &self.partition)];
        for (name, before, after) in [
            (metrics::INPUT_RECORDS, told.records, now.records),
            (metrics::INPUT_DUPLICATES, told.duplicates, now.duplicates),
            (metrics::INPUT_CONFLICTS, told.conflicts, now.conflicts),
            (metrics::INPUT_UNSELECTED, told.unselected, now.unselected),
        ] {
            if after > before {
                self.metrics.counter(name, partition).increment(after - before);
            }
        }
        let reasons = told.dead_letters.into_iter().zip(now.dead_letters);
        for (reason, (before, after)) in Reason::ALL.into_iter().zip(reasons) {
            if after > before {
                let labels = [("reason", reason.name())];
                let counter = self.metrics.counter(metrics::INPUT_REJECTED, &labels);
                counter.increment(after - before);
            }
        }
        if now.notifications > told.notifications {
            let new = now.notifications - told.notifications;
            self.metrics.counter(metrics::NOTIFICATIONS, &[]).increment(new);
        }
    }
}
