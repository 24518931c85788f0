//! A queue of work for a fixed number of threads, newest first.
//!
//! **Invariant:** at most [`JOBS_MAX`] jobs are added beyond the first ones: who finds the queue
//! full does the work itself.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs that wait at most, beyond the first ones.
const JOBS_MAX: usize = 4_096;

/// Work that waits.
pub(super) struct Queue<Job> {
    inner: Mutex<Inner<Job>>,
    changed: Condvar,
    bound: usize,
}

struct Inner<Job> {
    jobs: Vec<Job>,
    running: usize,
    failed: Option<io::Error>,
}

impl<Job: Send> Queue<Job> {
    /// A queue of these jobs.
    pub(super) fn new(jobs: Vec<Job>) -> Self {
        let bound = jobs.len() + JOBS_MAX;
        let inner = Inner { jobs, running: 0, failed: None };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), bound }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<Job>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does all jobs, and those they add; the first error ends it.
    pub(super) fn run(
        &self,
        threads: usize,
        work: impl Fn(Job, &Self) -> io::Result<()> + Sync,
    ) -> io::Result<()> {
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while let Some(job) = self.take() {
                        let result = work(job, self);
                        self.done(result);
                    }
                });
            }
        });
        self.inner().failed.take().map_or(Ok(()), Err)
    }

    /// Adds jobs; `work` does those that the queue has no room for.
    pub(super) fn add(
        &self,
        jobs: impl Iterator<Item = Job>,
        work: impl Fn(Job) -> io::Result<()>,
    ) -> io::Result<()> {
        for job in jobs {
            let mut inner = self.inner();
            if inner.jobs.len() < self.bound {
                inner.jobs.push(job);
                drop(inner);
                self.changed.notify_one();
            } else {
                drop(inner);
                work(job)?;
            }
        }
        Ok(())
    }

    fn take(&self) -> Option<Job> {
        let mut inner = self.inner();
        loop {
            if inner.failed.is_some() {
                return None;
            }
            if let Some(job) = inner.jobs.pop() {
                inner.running += 1;
                return Some(job);
            }
            if inner.running == 0 {
                return None;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, result: io::Result<()>) {
        let mut inner = self.inner();
        inner.running -= 1;
        if let Err(error) = result {
            inner.failed.get_or_insert(error);
        }
        drop(inner);
        self.changed.notify_all();
    }
}
