//! The loops: one step after another, with pauses where there is nothing to do or nothing works.
//!
//! **Invariant (I10):** a retry waits, from 50 ms to 5 s; a loop whose error no retry mends stops
//! and stays in the list of problems.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use trailproof_topology::invariant;

use crate::log::Retry;
use crate::metrics::{self, Metrics};

/// First pause after an error.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause between two tries.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Wakes a loop that waits for another one's work.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    /// Wakes the loop, now or when it next waits.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Waits until the bell rings or `timeout` passes.
    pub fn wait(&self, timeout: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self
            .wake
            .wait_timeout_while(rung, timeout, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// Why a step failed, as far as a loop cares.
#[derive(Debug)]
pub struct Fault {
    /// Whether trying again can help.
    pub retry: Retry,
    /// Whether only a new start can tell how to go on: another owner took over, or the log changed
    /// under its reader.
    pub restart: bool,
    /// The error and its sources, in words.
    pub text: String,
}

impl Fault {
    /// A fault from an error and its chain of sources.
    pub fn new(retry: Retry, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { retry, restart: false, text }
    }
}

/// A piece of work that goes on until the process stops.
pub trait Job: Send {
    /// Takes a step; whether there may be more to do at once.
    ///
    /// # Errors
    /// A fault, after which the job is paused or stopped.
    fn step(&mut self) -> Result<bool, Fault>;

    /// Waits for something to do, at most `timeout`.
    fn wait(&mut self, timeout: Duration);

    /// Called once behind the last step, unless it panicked.
    fn end(&mut self) {}
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    restart: AtomicBool,
    bells: Mutex<Vec<Arc<Bell>>>,
    problems: Mutex<BTreeMap<String, String>>,
    /// What went wrong once and no later step mends.
    alarms: Mutex<BTreeMap<String, String>>,
}

/// Tells what went wrong for good: it stays in the list of problems while the threads run.
#[derive(Clone)]
pub struct Alarms(Arc<Shared>);

impl Alarms {
    /// Lists an alarm under a name, in place of an earlier one.
    pub fn ring(&self, name: &str, text: String) {
        let mut alarms = self.0.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.insert(name.to_owned(), text);
    }

    /// Whether the threads are to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }
}

/// The threads of an engine.
pub struct Threads {
    shared: Arc<Shared>,
    running: Mutex<Vec<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

impl Threads {
    /// None yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { shared: Arc::new(Shared::default()), running: Mutex::new(Vec::new()), metrics }
    }

    /// Where figures are told.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A bell that also rings when the threads are to stop.
    #[must_use]
    pub fn bell(&self) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        let mut bells = self.shared.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.push(Arc::clone(&bell));
        bell
    }

    /// Starts a job on a thread named `name`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(&self, name: String, mut job: impl Job + 'static) -> std::io::Result<()> {
        let (shared, metrics) = (Arc::clone(&self.shared), Arc::clone(&self.metrics));
        let pause = self.bell();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let run = || run(&name, &mut job, &shared, &pause);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                note_panic(&shared, &metrics, &name, panic.as_ref());
            }
        })?;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// What does not work, by name of the job.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let alarms = self.shared.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let all = problems.iter().chain(alarms.iter());
        all.map(|(name, text)| (name.clone(), text.clone())).collect()
    }

    /// Where a job tells what no later step mends.
    #[must_use]
    pub fn alarms(&self) -> Alarms {
        Alarms(Arc::clone(&self.shared))
    }

    /// Whether a job ended with a fault that only a new start may mend.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.shared.restart.load(Ordering::Acquire)
    }

    /// Asks all jobs to stop after their step, and waits for them.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let bells = self.shared.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.iter().for_each(|bell| bell.ring());
        drop(bells);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in running.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

fn run(name: &str, job: &mut dyn Job, shared: &Shared, pause: &Bell) {
    let stopping = || shared.stop.load(Ordering::Acquire);
    let mut delay = PAUSE_MIN;
    while !stopping() {
        match job.step() {
            Ok(more) => {
                if delay > PAUSE_MIN {
                    tracing::info!(job = name, "works again");
                    delay = PAUSE_MIN;
                }
                shared.problems.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                if !more && !stopping() {
                    job.wait(Duration::from_millis(200));
                }
            }
            Err(fault) => {
                note(shared, name, &fault);
                if fault.retry == Retry::Never {
                    shared.restart.fetch_or(fault.restart, Ordering::AcqRel);
                    break;
                }
                pause.wait(delay);
                delay = (delay * 2).min(PAUSE_MAX);
            }
        }
    }
    job.end();
}

/// Lists a fault, and logs it when it is new.
fn note(shared: &Shared, name: &str, fault: &Fault) {
    let mut problems = shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
    let before = problems.insert(name.to_owned(), fault.text.clone());
    if before.as_ref() != Some(&fault.text) {
        let again = fault.retry == Retry::Later;
        tracing::error!(job = name, error = %fault.text, retried = again, "a step failed");
    }
}

/// Notes a panic: a broken invariant must show in readiness and figures, not only on standard
/// error.
fn note_panic(shared: &Shared, metrics: &Metrics, name: &str, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    let id = invariant::ID_ALL
        .into_iter()
        .find(|id| text.strip_prefix(id).is_some_and(|rest| rest.starts_with(':')));
    let id = id.unwrap_or(metrics::NO_INVARIANT);
    metrics.counter(metrics::INVARIANT_VIOLATIONS, &[("id", id)]).increment(1);
    let text = format!("stopped: a check failed (invariant: {id}); see the log");
    let mut problems = shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
    problems.insert(name.to_owned(), text);
}
