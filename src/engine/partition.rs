//! The jobs of one partition: worker, outbox, upkeep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{Counter, Histogram};
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::Lane;
use trailproof_topology::key::{DAY_MS, Table, day_of, days_before};
use trailproof_topology::record::{RecordStage, Setup, Tally};
use trailproof_topology::stage::Stage;
use trailproof_topology::state::Changes;
use trailproof_topology::trace::Reason;

use super::pace::Pace;
use super::pending::Pending;
use super::shares::Shares;
use super::threads::{Alarms, Bell, Fault, Job, Threads};
use crate::indexer::{Backlog, Indexer};
use crate::log::{Log, Publisher};
use crate::metrics::{self, Metrics};
use crate::outbox::{self, Delivered, Outbox};
use crate::store::StateStore as _;
use crate::store::rocks::RocksStore;
use crate::turns::Turns;
use crate::view::Published;
use crate::worker::{self, Catalogs, Progress, Step, Worker};

/// How often the checksums of all rows are verified.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often it is looked whether that is due.
const SCRUB_LOOK: Duration = Duration::from_secs(600);

/// A MiB is verified in each of these by all partitions together: at most 100 MiB in a second.
pub const SCRUB_EVERY_MIB: Duration = Duration::from_millis(10);

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
    /// How fast all partitions verify their rows.
    pub scrub_pace: Arc<Pace>,
}

/// What a partition of topic `traces` runs with besides.
pub struct RecordParts {
    /// Identity of the topic.
    pub topic_id: Arc<str>,
    /// What it may hold in memory.
    pub shares: Shares,
    /// When it may apply a batch.
    pub batch_turns: Arc<Turns>,
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
    let Parts { partition, store, catalogs, log, outbox, progress, scrub_pace } = parts;
    let RecordParts { topic_id, shares, batch_turns, index_turns, published, view_days } = record;
    let setup = Setup { partition, topic_id, open_bytes_max: shares.open_bytes_max };
    let worker = Worker::new(setup, log, Arc::clone(&store), catalogs, Arc::clone(&progress))
        .with_batch_bytes(shares.batch_bytes_max)
        .with_turns(batch_turns);
    let backlog = Backlog::default();
    let (lanes, mut bells) = outbox_jobs(outbox, true, &store, threads);
    let upkeep = threads.bell();
    bells.push(Arc::clone(&upkeep));
    let job = WorkerJob {
        worker,
        store: Arc::clone(&store),
        seconds: threads.metrics().histogram(metrics::BATCH_SECONDS, &[("stage", "record")]),
        bells,
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
    let name = format!("record-{partition}");
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

fn start_scrub(
    name: &str,
    store: &Arc<RocksStore>,
    pace: Arc<Pace>,
    threads: &Threads,
) -> std::io::Result<()> {
    let job = ScrubJob {
        pace,
        store: Arc::clone(store),
        alarms: threads.alarms(),
        bytes: threads.metrics().counter(metrics::STATE_SCRUBBED, &[]),
        bell: threads.bell(),
        done: None,
    };
    threads.start(format!("{name}-scrub"), job)
}

/// Starts worker and outbox of a digest partition.
///
/// # Errors
/// The operating system's.
pub fn start_digest(parts: Parts, setup: DigestSetup, threads: &Threads) -> std::io::Result<()> {
    let Parts { partition, store, catalogs, log, outbox, progress, scrub_pace } = parts;
    let name = format!("digest-{partition}");
    let worker = Worker::new(setup, log, Arc::clone(&store), catalogs, progress);
    let (lanes, bells) = outbox_jobs(outbox, false, &store, threads);
    let (alarms, of) = (threads.alarms(), format!("{name}-refused"));
    let refused = threads.metrics().counter(metrics::FILES_REFUSED, &[]);
    let job = WorkerJob {
        worker,
        store: Arc::clone(&store),
        seconds: threads.metrics().histogram(metrics::BATCH_SECONDS, &[("stage", "digest")]),
        bells,
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
    worker: Worker<S, Box<dyn Log + Send>, Arc<RocksStore>>,
    store: Arc<RocksStore>,
    /// Times of the steps that applied something.
    seconds: Histogram,
    bells: Vec<Arc<Bell>>,
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

/// Indexing and retention: what is not on the hot path.
struct UpkeepJob {
    store: Arc<RocksStore>,
    published: Published,
    progress: Arc<Progress>,
    indexer: Indexer<RocksStore>,
    turns: Arc<Turns>,
    alarms: Alarms,
    view_days: u16,
    expired_before: u16,
    bell: Arc<Bell>,
}

impl Job for UpkeepJob {
    fn step(&mut self) -> Result<bool, Fault> {
        // First what gives space back: on a full disk no run can be made.
        let expired = self.expire().map_err(|error| Fault::new(error.retry(), &error));
        let indexed = self.index();
        expired.and(indexed)
    }

    fn wait(&mut self, timeout: Duration) {
        self.bell.wait(timeout);
    }
}

impl UpkeepJob {
    /// Makes a run where one is due, once it is this partition's turn.
    fn index(&mut self) -> Result<bool, Fault> {
        let mut turn = None;
        if self.indexer.is_due() {
            turn = self.turns.take(&|| !self.alarms.is_stopping());
            if turn.is_none() {
                return Ok(false);
            }
        }
        let indexed = self.indexer.step().map_err(|error| {
            let error = worker::Error::from(error);
            if error.is_damage() {
                self.store.condemn(&error.to_string());
            }
            Fault::new(error.retry(), &error)
        });
        drop(turn);
        indexed
    }

    /// Drops the days that the view no longer keeps, once no file of them waits for delivery.
    fn expire(&mut self) -> Result<(), worker::Error> {
        let stream_time_ms = self.published.latest().position.stream_time_ms;
        let keep_from = day_of(stream_time_ms - i64::from(self.view_days) * DAY_MS);
        let waiting = self.progress.backlog()[Lane::Objects as usize] > 0;
        if keep_from <= self.expired_before || waiting {
            return Ok(());
        }
        // Hidden first; dropped in the step that finds no query which may still read them.
        self.published.visible.hide_before(keep_from);
        if !self.published.visible.is_left() {
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

/// Verifies the checksums of all rows, at the start and once a day, so that damage is found while
/// the log still has what mends it.
struct ScrubJob {
    pace: Arc<Pace>,
    store: Arc<RocksStore>,
    alarms: Alarms,
    bytes: Counter,
    bell: Arc<Bell>,
    done: Option<Instant>,
}

impl Job for ScrubJob {
    fn step(&mut self) -> Result<bool, Fault> {
        if self.done.is_some_and(|done| done.elapsed() < SCRUB_EVERY) {
            return Ok(false);
        }
        let (pace, bell, alarms) = (&self.pace, &self.bell, &self.alarms);
        let go_on = || {
            // After each MiB: whoever serves comes first.
            bell.wait(pace.wait_from(Instant::now()));
            !alarms.is_stopping()
        };
        // What RocksDB finds it marks; whoever attends to the partition then starts it anew.
        let bytes =
            self.store.scrub(&go_on).map_err(|error| worker_fault(&worker::Error::Store(error)))?;
        self.bytes.increment(bytes);
        self.done = Some(Instant::now());
        Ok(false)
    }

    fn wait(&mut self, _timeout: Duration) {
        self.bell.wait(SCRUB_LOOK);
    }
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

#[cfg(test)]
mod tests {
    use trailproof_topology::input::Position;
    use trailproof_topology::key::{Key, SegmentId};
    use trailproof_topology::query::OpenView;
    use trailproof_topology::run::tier::{TIERS, Tiers};
    use trailproof_topology::state::Rows as _;

    use super::*;
    use crate::memory_budget::MemoryBudget;
    use crate::store::rocks;

    fn columns_key(day: i64) -> Vec<u8> {
        let (tracker, service) = ([7; 16], String::new());
        let id = SegmentId { tracker, cycle_ms: day * DAY_MS, service, part: 0 };
        id.key(Table::Columns).u32(0).done()
    }

    /// As on a full disk: then no run can be made, and only what expires gives space back.
    #[test]
    fn old_days_expire_also_where_indexing_fails() {
        let folder = tempfile::tempdir().unwrap();
        let options = rocks::Options::new(MemoryBudget::new(8 << 20, 8 << 20), 1);
        let store = Arc::new(RocksStore::open(folder.path(), &options).unwrap());
        let old = Key::of(Table::Chunk).u16(5).done();
        let mut changes = Changes::default();
        changes.put(old.clone(), b"old".to_vec());
        changes.put(columns_key(29), b"no columns".to_vec());
        store.commit(&changes).unwrap();
        let indexer = Indexer::new(Arc::clone(&store), Backlog::default());
        let published = Published::default();
        let mut job = UpkeepJob {
            store: Arc::clone(&store),
            published: published.clone(),
            progress: Arc::default(),
            indexer: indexer.with_tiers(Tiers { rows_min: 1, ..TIERS }),
            turns: Arc::new(Turns::new(1)),
            view_days: 7,
            expired_before: 0,
            bell: Arc::default(),
        };
        // It takes stock of what waits.
        job.step().unwrap();
        assert!(store.snapshot().get(&old).unwrap().is_some());
        let position = Position { stream_time_ms: 30 * DAY_MS, ..Position::default() };
        published.publish(OpenView { position, ..OpenView::default() });
        let fault = job.step().unwrap_err();
        assert_eq!(store.snapshot().get(&old).unwrap(), None, "{}", fault.text);
    }
}
