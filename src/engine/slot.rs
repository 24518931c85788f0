//! One assigned partition: opened, run, stopped and closed by a thread of its own.
//!
//! **Invariant:** the rows of a partition are open in one slot at a time; what goes wrong with a
//! partition stays in its slot, where [`Slot::problems`] shows it.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;
use trailproof_topology::sign::Sign;

use super::catalogs::CatalogHistory;
use super::pace::Pace;
use super::running::Running;
use super::shares::Shares;
use super::threads::{Fault, PAUSE_MAX, PAUSE_MIN, Threads};
use crate::applied::Gap;
use crate::log::Retry;
use crate::log::broker::{Broker, Owner};
use crate::metrics::Metrics;
use crate::object::ObjectStore;
use crate::outbox::Gate;
use crate::store;
use crate::store::rocks::{self, RocksStore};
use crate::turns::Turns;
use crate::view::View;
use crate::worker::{Progress, Workbenches};

/// Pause before a partition that ended by itself is opened again. Where another owner took it, the
/// group's word that it has moved mostly comes first.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Looks at whether another owner has released the rows.
const RELEASE_LOOK: Duration = Duration::from_millis(100);

/// What all partitions of an engine share.
pub(super) struct Context {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) history: Arc<CatalogHistory>,
    /// The restored partitions of `traces`.
    pub(super) view: View<RocksStore>,
    /// Folder of the partitions' folders.
    pub(super) state: PathBuf,
    pub(super) store_options: rocks::Options,
    pub(super) shares: Shares,
    /// When a partition may apply a batch, and with what: one more than there are cores, so that
    /// none is idle while a batch waits for the log.
    pub(super) workbenches: Arc<Workbenches>,
    /// When a partition may make an index run: half as many as cores, so that it keeps up.
    pub(super) index_turns: Arc<Turns>,
    /// When partitions put trace files.
    pub(super) put_turns: Arc<Turns>,
    pub(super) scrub_pace: Arc<Pace>,
    pub(super) view_days: u16,
    pub(super) accept_gaps: Vec<Gap>,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) signer: Arc<dyn Sign>,
    pub(super) metrics: Arc<Metrics>,
    /// Folders of damaged state that were set aside.
    pub(super) set_aside: Mutex<Vec<PathBuf>>,
    pub(super) flush_failure: FlushFailure,
}

/// The first flush at closing that failed, of all partitions.
pub(super) type FlushFailure = Arc<Mutex<Option<store::Error>>>;

/// An input partition.
pub(super) type Input = (Topic, u32);

/// How far a partition has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoring {
    /// The partition's name: its topic and number.
    pub name: String,
    /// The offset below which everything is applied.
    pub applied: Offset,
    /// The end of the log when the partition was opened; 0 before that.
    pub target: Offset,
}

#[derive(Default)]
struct State {
    stop: bool,
    /// Another instance may run the partition already.
    lost: bool,
    done: bool,
    restored: bool,
    target: Offset,
    gate: Arc<Gate>,
    progress: Arc<Progress>,
    /// The threads, while it runs.
    threads: Option<Arc<Threads>>,
    problem: Option<String>,
}

/// An assigned partition.
pub(super) struct Slot {
    pub(super) input: Input,
    /// Such as `record-3`: of its folder, and what its jobs' names begin with.
    pub(super) name: String,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Slot {
    /// Starts a slot. `before` still has the partition's rows; it is waited for.
    pub(super) fn start(
        context: &Arc<Context>,
        input: Input,
        before: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let (topic, partition) = input;
        let kind = if topic == Topic::Files { "digest" } else { "record" };
        let slot = Arc::new(Self {
            input,
            name: format!("{kind}-{partition}"),
            state: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name(slot.name.clone()).spawn({
            let (slot, context) = (Arc::clone(&slot), Arc::clone(context));
            move || supervise(&slot, &context, before)
        });
        match thread {
            Ok(thread) => {
                *slot.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread)
            }
            Err(error) => {
                let mut state = slot.locked();
                state.problem = Some(format!("cannot start a thread: {error}"));
                state.done = true;
            }
        }
        slot
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who publishes for it.
    pub(super) fn owner(&self) -> Owner {
        match self.input {
            (Topic::Files, partition) => Owner::Digest(partition),
            (_, partition) => Owner::Record(partition),
        }
    }

    /// Asks it to stop after the step it is in; where it is `lost`, nothing more is published.
    pub(super) fn ask_to_stop(&self, lost: bool) {
        let mut state = self.locked();
        state.stop = true;
        state.lost |= lost;
        if lost {
            state.gate.shut();
        } else {
            state.gate.end();
        }
        self.changed.notify_all();
    }

    /// Whether it was asked to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.locked().stop
    }

    /// Waits until it has stopped and closed its rows, at the longest until then; whether it has.
    pub(super) fn wait_done(&self, until: Instant) -> bool {
        let done = self.wait_for(until, |state| state.done);
        if done {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A thread that panicked has said so in its problem.
            thread.map(JoinHandle::join).transpose().ok();
        }
        done
    }

    /// Waits until it is restored or has a problem, at the longest until then.
    pub(super) fn wait_settled(&self, until: Instant) {
        self.wait_for(until, |state| state.restored || state.problem.is_some() || state.done);
    }

    /// Waits until it is asked to stop, at the longest `timeout`; whether it was.
    pub(super) fn wait_stop(&self, timeout: Duration) -> bool {
        self.wait_for(Instant::now() + timeout, |state| state.stop)
    }

    fn wait_for(&self, until: Instant, holds: impl Fn(&State) -> bool) -> bool {
        let timeout = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.locked(), timeout, |state| !holds(state));
        holds(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// A new gate for an outbox, shut already where the partition was taken away meanwhile.
    pub(super) fn gate(&self) -> Arc<Gate> {
        let mut state = self.locked();
        state.gate = Arc::default();
        match (state.lost, state.stop) {
            (true, _) => state.gate.shut(),
            (false, true) => state.gate.end(),
            (false, false) => {}
        }
        Arc::clone(&state.gate)
    }

    /// Lets the outbox take up nothing more; the next one gets a gate of its own.
    pub(super) fn end_gate(&self) {
        self.locked().gate.end();
    }

    /// Notes that it runs, and to where it is to be restored.
    pub(super) fn note_running(&self, running: &Running) {
        let mut state = self.locked();
        state.problem = None;
        state.target = running.target;
        state.progress = Arc::clone(&running.progress);
        state.threads = Some(Arc::clone(&running.threads));
    }

    /// Notes that it is restored, or has to be again.
    pub(super) fn note_restored(&self, restored: bool) {
        self.locked().restored = restored;
        self.changed.notify_all();
    }

    fn note_problem(&self, text: &str, retried: bool) {
        let mut state = self.locked();
        if state.problem.as_deref() != Some(text) {
            tracing::error!(job = self.name, error = text, retried, "a partition does not start");
            state.problem = Some(text.to_owned());
        }
        self.changed.notify_all();
    }

    /// What does not work, by the name of the job.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let state = self.locked();
        let own = state.problem.iter().map(|text| (self.name.clone(), text.clone()));
        let jobs = state.threads.iter().flat_map(|threads| threads.problems());
        own.chain(jobs).collect()
    }

    /// How far it has come; `None` once it is restored.
    pub(super) fn restoring(&self) -> Option<Restoring> {
        let state = self.locked();
        let (topic, partition) = self.input;
        (!state.restored).then(|| Restoring {
            name: format!("{}/{partition}", topic.name()),
            applied: state.progress.applied(),
            target: state.target,
        })
    }

    /// The offset below which everything is applied.
    pub(super) fn applied(&self) -> Offset {
        self.locked().progress.applied()
    }
}

/// Notes the end of the thread it lives on.
struct Done<'a>(&'a Slot);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.locked();
        state.done = true;
        state.threads = None;
        if std::thread::panicking() {
            state.problem = Some("stopped: a check failed; see the log".to_owned());
        }
        self.0.changed.notify_all();
    }
}

/// The life of a slot: tries to open the partition, runs it, closes it.
fn supervise(slot: &Slot, context: &Context, before: Option<Arc<Slot>>) {
    let _done = Done(slot);
    if let Some(before) = before {
        while !before.wait_done(Instant::now() + RELEASE_LOOK) {
            slot.note_problem("its rows are still being released", true);
            if slot.is_stopping() {
                return;
            }
        }
    }
    let mut pause = PAUSE_MIN;
    while !slot.is_stopping() {
        match Running::start(slot, context) {
            Ok(running) => {
                slot.note_running(&running);
                running.attend(slot, context);
                slot.note_restored(false);
                running.end(slot, context);
                pause = RESTART_PAUSE;
            }
            Err(Fault { retry: Retry::Never, text, restart: false }) => {
                slot.note_problem(&text, false);
                while !slot.wait_stop(PAUSE_MAX) {}
            }
            Err(fault) => slot.note_problem(&fault.text, true),
        }
        slot.wait_stop(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
