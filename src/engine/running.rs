//! A partition that runs: its rows, its threads, and whether it has caught up with its log.
//!
//! **Invariant:** queries see a partition only once it holds what the log held when it was opened.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use trailproof_topology::digest_stage::DigestSetup;
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use super::gapped::Gapped;
use super::partition::{self, Parts, RecordParts, outbox_fault, worker_fault};
use super::slot::{Context, Slot};
use super::threads::{Fault, Threads};
use crate::applied;
use crate::log::broker::ReadLimits;
use crate::log::{self, Retry};
use crate::outbox::{Limits, Outbox};
use crate::store::rocks::RocksStore;
use crate::store::{self, StateStore as _};
use crate::view::{Published, Viewed};
use crate::worker::{self, Progress};

/// How often a partition is looked at while it is being restored.
const RESTORING_LOOK: Duration = Duration::from_millis(20);

/// How often it is looked at later.
const LOOK: Duration = Duration::from_millis(500);

/// Looks at the same position after which the log itself is asked for more.
const STILL_LOOKS: u32 = 25;

/// A partition that runs.
pub(super) struct Running {
    pub(super) threads: Arc<Threads>,
    pub(super) progress: Arc<Progress>,
    /// The end of the log when it was opened: the partition is restored once it has come there.
    pub(super) target: Offset,
    store: Arc<RocksStore>,
    published: Published,
}

impl Running {
    /// Opens the rows, reads the lanes, checks that log and rows belong together, and starts the
    /// threads.
    pub(super) fn start(slot: &Slot, context: &Context) -> Result<Self, Fault> {
        let (topic, partition) = slot.input;
        let store = open_store(slot, context)?;
        let publisher = context.broker.publisher(slot.owner()).map_err(log_fault)?;
        let progress = Arc::new(Progress::default());
        let objects = Arc::clone(&context.objects);
        let limits = Limits::default();
        let outbox =
            Outbox::open(publisher, Arc::clone(&store), objects, Arc::clone(&progress), limits)
                .map_err(|error| outbox_fault(&error))?
                .with_gate(slot.gate())
                .with_turns(Arc::clone(&context.put_turns));
        let gap = applied::check(
            &store.snapshot(),
            &*context.broker,
            slot.input,
            (progress.committed(), progress.settled(progress.committed())),
            &context.accept_gaps,
        )
        .map_err(|error| worker_fault(&error))?;
        let target = context.broker.bounds(topic, partition).map_err(log_fault)?.end;
        let running = Self {
            threads: Arc::new(Threads::new(Arc::clone(&context.metrics))),
            progress: Arc::clone(&progress),
            target,
            store: Arc::clone(&store),
            published: Published::default(),
        };
        let catalogs = context.history.lookup();
        let log = context.broker.reader(topic, partition).map_err(log_fault)?;
        let log = match gap {
            None => log,
            Some(gap) => {
                tracing::warn!(job = slot.name, %gap, "goes on behind an accepted gap");
                Box::new(Gapped { inner: log, gap })
            }
        };
        let scrub_pace = Arc::clone(&context.scrub_pace);
        let flush_failure = Arc::clone(&context.flush_failure);
        let parts =
            Parts { partition, store, catalogs, log, outbox, progress, flush_failure, scrub_pace };
        let started = running.start_jobs(topic, parts, context);
        if let Err(error) = started {
            slot.end_gate();
            running.threads.stop();
            let text = format!("cannot start a thread: {error}");
            return Err(Fault { retry: Retry::Later, restart: false, text });
        }
        Ok(running)
    }

    fn start_jobs(&self, topic: Topic, parts: Parts, context: &Context) -> std::io::Result<()> {
        if topic == Topic::Files {
            let signer = Arc::clone(&context.signer);
            let setup = DigestSetup { partition: parts.partition, signer };
            return partition::start_digest(parts, setup, &self.threads);
        }
        let record = RecordParts {
            topic_id: context.history.topic_id(),
            shares: context.shares,
            workbenches: Arc::clone(&context.workbenches),
            index_turns: Arc::clone(&context.index_turns),
            published: self.published.clone(),
            view_days: context.view_days,
        };
        partition::start_record(parts, record, &self.threads)
    }

    /// Looks after the partition until it is to stop, another owner took it, its log changed, or
    /// its rows turned out to be damaged: opened again, they are set aside and rebuilt from the
    /// log.
    pub(super) fn attend(&self, slot: &Slot, context: &Context) {
        let mut seen = (0, 0);
        let mut restored = false;
        loop {
            if !restored && self.is_restored(slot, context, &mut seen) {
                restored = true;
                let (topic, partition) = slot.input;
                if topic == Topic::Traces {
                    let (store, published) = (Arc::clone(&self.store), self.published.clone());
                    context.view.insert(Viewed { partition, store, published });
                }
                slot.note_restored(true);
            }
            let look = if restored { LOOK } else { RESTORING_LOOK };
            if slot.wait_stop(look) || self.threads.needs_restart() {
                return;
            }
            if self.store.is_damaged() {
                tracing::error!(job = slot.name, "the state is damaged; it is opened anew");
                return;
            }
        }
    }

    /// Whether everything is applied that the log held at the start. `seen` is the position at the
    /// last look, and how often it was seen before.
    fn is_restored(&self, slot: &Slot, context: &Context, seen: &mut (Offset, u32)) -> bool {
        let applied = self.progress.applied();
        if !self.progress.is_loaded() {
            return false;
        }
        if applied >= self.target {
            return true;
        }
        // The last offsets may hold no record, so no position ever passes them.
        *seen = if seen.0 == applied { (applied, seen.1 + 1) } else { (applied, 0) };
        let (topic, partition) = slot.input;
        let limits = ReadLimits { records: 1, bytes: 1 };
        seen.1 % STILL_LOOKS == STILL_LOOKS - 1
            && context
                .broker
                .read(topic, partition, applied, limits)
                .is_ok_and(|records| records.is_empty())
    }

    /// Stops the threads after their step, and closes the rows.
    pub(super) fn end(self, slot: &Slot, context: &Context) {
        let (topic, partition) = slot.input;
        if topic == Topic::Traces {
            context.view.remove(partition);
        }
        // Its outbox waits for no turn and begins no put any more, whoever asked it to end.
        slot.end_gate();
        self.threads.stop();
    }
}

fn open_store(slot: &Slot, context: &Context) -> Result<Arc<RocksStore>, Fault> {
    let path = context.state.join(&slot.name);
    let (store, set_aside) = RocksStore::open_or_set_aside(&path, &context.store_options)
        .map_err(|error| store_fault(&error))?;
    if let Some(aside) = set_aside {
        tracing::error!(
            state = %path.display(), aside = %aside.display(),
            "state was damaged; it was set aside and is rebuilt from the log"
        );
        context.set_aside.lock().unwrap_or_else(PoisonError::into_inner).push(aside);
    }
    Ok(Arc::new(store))
}

fn store_fault(error: &store::Error) -> Fault {
    // A query may still read what was just closed, so a lock is worth another try.
    let retry = match error {
        store::Error::Unavailable(_) | store::Error::Locked(_) => Retry::Later,
        store::Error::Corrupt(_) => Retry::Never,
    };
    Fault::new(retry, error)
}

fn log_fault(error: log::Error) -> Fault {
    worker_fault(&worker::Error::Log(error))
}
