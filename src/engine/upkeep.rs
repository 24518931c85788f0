//! The jobs of one partition beside worker and outbox: index runs, retention, verifying its rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::Counter;
use trailproof_topology::effect::Lane;
use trailproof_topology::key::{self, DAY_MS, day_of, days_before};

use super::pace::Pace;
use super::partition::worker_fault;
use super::threads::{Alarms, Bell, Fault, Job, Threads};
use crate::indexer::Indexer;
use crate::metrics;
use crate::store::StateStore as _;
use crate::store::rocks::RocksStore;
use crate::turns::Turns;
use crate::view::Published;
use crate::worker::{self, Progress};

/// How often the checksums of all rows are verified.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often it is looked whether that is due.
const SCRUB_LOOK: Duration = Duration::from_secs(600);

/// A MiB is verified in each of these by all partitions together: at most 100 MiB in a second.
pub const SCRUB_EVERY_MIB: Duration = Duration::from_millis(10);

/// Starts verifying a partition's rows.
///
/// # Errors
/// The operating system's.
pub fn start_scrub(
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

/// Indexing and retention: what is not on the hot path.
pub struct UpkeepJob {
    /// The partition's rows.
    pub store: Arc<RocksStore>,
    /// What queries see.
    pub published: Published,
    /// What worker and outbox know of each other.
    pub progress: Arc<Progress>,
    /// Makes its index runs.
    pub indexer: Indexer<RocksStore>,
    /// When it may make one.
    pub turns: Arc<Turns>,
    /// Tells when to stop.
    pub alarms: Alarms,
    /// Days that the view keeps.
    pub view_days: u16,
    /// The first day that is still there, as far as it is known: days since epoch.
    pub expired_before: u16,
    /// Wakes it.
    pub bell: Arc<Bell>,
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
        for table in key::DAILY {
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

#[cfg(test)]
mod tests {
    use trailproof_topology::input::Position;
    use trailproof_topology::key::{Key, SegmentId, Table};
    use trailproof_topology::query::OpenView;
    use trailproof_topology::run::tier::{TIERS, Tiers};
    use trailproof_topology::state::{Changes, Rows as _};

    use super::*;
    use crate::indexer::Backlog;
    use crate::memory_budget::MemoryBudget;
    use crate::metrics::Metrics;
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
            alarms: Threads::new(Arc::new(Metrics::new().unwrap())).alarms(),
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
