//! Turns: how many partitions do memory-hungry work at one time.
//!
//! Making an index run takes some ten MiB, and a sixth of the CPU time of what it indexes. So the
//! partitions of an instance take turns at it, half as many as there are cores: memory does not
//! grow with the number of partitions, and the work keeps up.
//!
//! **Invariant (I10):** never more turns are taken than there are.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::config::cores;

/// Turns that are left.
#[derive(Debug)]
pub struct Turns {
    left: Mutex<usize>,
    back: Condvar,
}

/// A turn; it is given back when dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// So many turns, at least one.
    #[must_use]
    pub fn new(turns: usize) -> Self {
        Self { left: Mutex::new(turns.max(1)), back: Condvar::new() }
    }

    /// A turn for every two cores.
    #[must_use]
    pub fn of_cores() -> Self {
        Self::new(cores() / 2)
    }

    /// Waits for a turn. It lasts a step of the work, so the wait is short.
    #[must_use]
    pub fn take(&self) -> Turn<'_> {
        let left = self.back.wait_while(self.left(), |left| *left == 0);
        *left.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.left() += 1;
        self.0.back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_the_turns_are_taken_at_one_time_and_all_come_back() {
        let (turns, running, done) = (Turns::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let _turn = turns.take();
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((done.into_inner(), *turns.left()), (3_000, 2));
    }
}
