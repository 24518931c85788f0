//! The jobs of one partition: worker and outbox; its [`upkeep`](super::upkeep) beside them.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ::metrics::Histogram;
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::Lane;
use trailproof_topology::record::{RecordStage, Setup, Tally};
use trailproof_topology::stage::Stage;
use trailproof_topology::state::Changes;
use trailproof_topology::trace::Reason;

use super::pace::Pace;
use super::pending::Pending;
use super::shares::Shares;
use super::slot::FlushFailure;
use super::threads::{Bell, Fault, Job, Threads};
use super::upkeep::{UpkeepJob, start_scrub};
use crate::indexer::{Backlog, Indexer};
use crate::log::{Log, Publisher};
use crate::metrics::{self, Metrics};
use crate::outbox::{self, Delivered, Outbox};
use crate::store::rocks::RocksStore;
use crate::turns::Turns;
use crate::view::Published;
use crate::worker::{self, Catalogs, Progress, Step, Workbenches, Worker};

/// An outbox as the jobs run it.
pub type PartitionOutbox = Outbox<Box<dyn Publisher + Send>, Arc<RocksStore>>;

/// What every partition runs with.
pub struct Parts {
    /// Its number.
    pub partition: u32,
    /// Its rows.
    pub store: Arc<RocksStore>,
    /// Finds catalogs.
    pub catalogs: Catalogs,
    /// Its log.
    pub log: Box<dyn Log + Send>,
    /// Its outbox, which has read the lanes' positions.
    pub outbox: PartitionOutbox,
    /// What worker and outbox know of each other.
    pub progress: Arc<Progress>,
    /// Where the worker puts why it could not save its state at the end.
    pub flush_failure: FlushFailure,
    /// How fast all partitions verify their rows.
    pub scrub_pace: Arc<Pace>,
}

/// What a partition of topic `traces` runs with besides.
pub struct RecordParts {
    /// Identity of the topic.
    pub topic_id: Arc<str>,
    /// What it may hold in memory.
    pub shares: Shares,
    /// When it may apply a batch, and with what.
    pub workbenches: Arc<Workbenches>,
    /// When it may make index runs.
    pub index_turns: Arc<Turns>,
    /// Where the worker publishes what queries see.
    pub published: Published,
    /// Days that the view keeps.
    pub view_days: u16,
}

/// Starts worker, outbox and upkeep of a record partition.
///
/// # Errors
/// The operating system's.
pub fn start_record(parts: Parts, record: RecordParts, threads: &Threads) -> std::io::Result<()> {
    let Parts { partition, store, catalogs, log, outbox, progress, flush_failure, scrub_pace } =
        parts;
    let RecordParts { topic_id, shares, workbenches, index_turns, published, view_days } = record;
    let setup = Setup { partition, topic_id, open_bytes_max: shares.open_bytes_max };
    let worker = Worker::new(setup, log, Arc::clone(&store), catalogs, Arc::clone(&progress))
        .with_batch_bytes(shares.batch_bytes_max)
        .with_workbenches(workbenches);
    let name = format!("record-{partition}");
    let backlog = Backlog::default();
    let (lanes, mut bells) = outbox_jobs(outbox, true, &store, threads);
    let upkeep = threads.bell();
    bells.push(Arc::clone(&upkeep));
    let job = WorkerJob {
        name: name.clone(),
        worker,
        store: Arc::clone(&store),
        seconds: threads.metrics().histogram(metrics::BATCH_SECONDS, &[("stage", "record")]),
        bells,
        flush_failure,
        committed: {
            let (published, backlog) = (published.clone(), backlog.clone());
            let metrics = Arc::clone(threads.metrics());
            let partition = partition.to_string();
            let mut figures = Figures::begin(metrics, partition);
            Box::new(move |stage: &mut RecordStage, changes: &Changes| {
                published.publish(stage.publish(&published.latest()));
                backlog.committed(changes);
                figures.tell(stage.tally());
            })
        },
    };
    threads.start(name.clone(), job)?;
    for job in lanes {
        threads.start(format!("{name}-{}", job.name()), job)?;
    }
    start_scrub(&name, &store, scrub_pace, threads)?;
    let job = UpkeepJob {
        expired_before: 0,
        view_days,
        indexer: Indexer::new(Arc::clone(&store), backlog),
        turns: index_turns,
        alarms: threads.alarms(),
        store,
        published,
        progress,
        bell: upkeep,
    };
    threads.start(format!("{name}-upkeep"), job)
}

/// Starts worker and outbox of a digest partition.
///
/// # Errors
/// The operating system's.
pub fn start_digest(parts: Parts, setup: DigestSetup, threads: &Threads) -> std::io::Result<()> {
    let Parts { partition, store, catalogs, log, outbox, progress, flush_failure, scrub_pace } =
        parts;
    let name = format!("digest-{partition}");
    let worker = Worker::new(setup, log, Arc::clone(&store), catalogs, progress);
    let (lanes, bells) = outbox_jobs(outbox, false, &store, threads);
    let (alarms, of) = (threads.alarms(), format!("{name}-refused"));
    let refused = threads.metrics().counter(metrics::FILES_REFUSED, &[]);
    let job = WorkerJob {
        name: name.clone(),
        worker,
        store: Arc::clone(&store),
        seconds: threads.metrics().histogram(metrics::BATCH_SECONDS, &[("stage", "digest")]),
        bells,
        flush_failure,
        committed: Box::new(move |stage: &mut DigestStage, _: &Changes| {
            let counts = stage.take_counts();
            let Some(reason) = counts.refusal else { return };
            refused.increment(counts.refused);
            tracing::error!(count = counts.refused, reason, "a record of topic files was refused");
            alarms.ring(&of, format!("{reason}; digests leave it out"));
        }),
    };
    threads.start(name.clone(), job)?;
    for job in lanes {
        threads.start(format!("{name}-{}", job.name()), job)?;
    }
    start_scrub(&name, &store, scrub_pace, threads)
}

/// A job for each lane, so that a lane that fails holds up no other; and the bells that wake them.
/// `files`: whether it delivers trace files.
fn outbox_jobs(
    outbox: PartitionOutbox,
    files: bool,
    store: &Arc<RocksStore>,
    threads: &Threads,
) -> (Vec<OutboxJob>, Vec<Arc<Bell>>) {
    let outbox = Arc::new(outbox);
    let job = |lane: Lane| {
        let metrics = Arc::clone(threads.metrics());
        let pending = Pending::new(Arc::clone(&metrics), lane, files);
        let (outbox, bell) = (Arc::clone(&outbox), threads.bell());
        let store = Arc::clone(store);
        OutboxJob { outbox, lane, bell, metrics, pending, store }
    };
    let jobs: Vec<OutboxJob> = Lane::ALL.into_iter().map(job).collect();
    let bells = jobs.iter().map(|job| Arc::clone(&job.bell)).collect();
    (jobs, bells)
}

type Committed<S> = Box<dyn FnMut(&mut S, &Changes) + Send>;

struct WorkerJob<S: Stage> {
    name: String,
    worker: Worker<S, Box<dyn Log + Send>, Arc<RocksStore>>,
    store: Arc<RocksStore>,
    /// Times of the steps that applied something.
    seconds: Histogram,
    bells: Vec<Arc<Bell>>,
    flush_failure: FlushFailure,
    committed: Committed<S>,
}

impl<S: Stage<Setup: Send> + Send> Job for WorkerJob<S> {
    fn step(&mut self) -> Result<bool, Fault> {
        let began = Instant::now();
        let step = self.worker.step(&mut self.committed).map_err(|error| {
            if error.is_damage() {
                self.store.condemn(&error.to_string());
            }
            worker_fault(&error)
        })?;
        if matches!(step, Step::Applied { .. }) {
            self.seconds.record(began.elapsed());
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

    fn end(&mut self) {
        // What is damaged is set aside, not written to.
        if !self.store.is_damaged()
            && let Err(error) = self.worker.save(&mut self.committed)
        {
            // The log has the records all the same: they are applied again.
            tracing::warn!(job = self.name, %error, "the state was not flushed");
            let mut failure = self.flush_failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(error);
        }
    }
}

struct OutboxJob {
    outbox: Arc<PartitionOutbox>,
    lane: Lane,
    bell: Arc<Bell>,
    metrics: Arc<Metrics>,
    pending: Pending,
    store: Arc<RocksStore>,
}

impl Job for OutboxJob {
    fn step(&mut self) -> Result<bool, Fault> {
        let step = self.outbox.step(self.lane);
        self.pending.tell(self.outbox.backlog());
        let delivered = step.map_err(|error| {
            if let outbox::Error::Damaged(why) = &error {
                self.store.condemn(why);
            }
            outbox_fault(&error)
        })?;
        self.count(&delivered);
        Ok(delivered.effects > 0)
    }

    fn wait(&mut self, timeout: Duration) {
        self.bell.wait(timeout);
    }
}

impl OutboxJob {
    /// The end of its thread's name.
    fn name(&self) -> &'static str {
        match self.lane {
            Lane::Objects => "outbox",
            Lane::Notify => "notify",
        }
    }

    fn count(&self, delivered: &Delivered) {
        if delivered.digests > 0 {
            self.metrics.counter(metrics::DIGESTS, &[]).increment(delivered.digests as u64);
        }
        if delivered.files > 0 {
            self.metrics.counter(metrics::FILES_SEALED, &[]).increment(delivered.files as u64);
            let stages = [("raw", delivered.raw_bytes), ("stored", delivered.stored_bytes)];
            for (stage, bytes) in stages {
                self.metrics.counter(metrics::FILE_BYTES, &[("stage", stage)]).increment(bytes);
            }
        }
    }
}

/// A fault of a worker's step.
pub(super) fn worker_fault(error: &worker::Error) -> Fault {
    let restart = matches!(error, worker::Error::Log(error) if error.needs_restart());
    Fault { restart, ..Fault::new(error.retry(), error) }
}

/// A fault of an outbox's step.
pub(super) fn outbox_fault(error: &outbox::Error) -> Fault {
    let restart = matches!(error, outbox::Error::Log(error) if error.needs_restart());
    Fault { restart, ..Fault::new(error.retry(), error) }
}

/// Tells the metrics what a record stage did, from the difference of two tallies.
struct Figures {
    metrics: Arc<Metrics>,
    partition: String,
    told: Tally,
}

impl Figures {
    /// Shows every counter of the partition, so that its first event is seen as an increase.
    fn begin(metrics: Arc<Metrics>, partition: String) -> Self {
        let labels: &[(&'static str, &str)] = &[("partition", &partition)];
        for name in [
            metrics::INPUT_RECORDS,
            metrics::INPUT_DUPLICATES,
            metrics::INPUT_CONFLICTS,
            metrics::INPUT_UNSELECTED,
        ] {
            metrics.counter(name, labels).increment(0);
        }
        Self { metrics, partition, told: Tally::default() }
    }

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
