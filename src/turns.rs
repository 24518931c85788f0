//! Turns: how many partitions do the same heavy work at one time.
//!
//! Applying a batch takes some ten MiB and as much of the processor's cache as there is; so does
//! making an index run. So the partitions of an instance take turns at each: memory does not grow
//! with the number of partitions, and what one batch brought into the cache is not thrown out
//! before it is used.
//!
//! **Invariant (I10):** never more turns are taken than there are, and who came first is first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often who waits asks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(20);

/// Turns of one kind of work.
#[derive(Debug)]
pub struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    /// Turns that nobody has.
    free: usize,
    /// Who waits, in order: one for each partition at most.
    waiting: VecDeque<u64>,
    /// The next ticket.
    next: u64,
}

/// A turn; it is given back when dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// So many turns, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let queue = Queue { free: count.max(1), waiting: VecDeque::new(), next: 0 };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// Waits for a turn as long as `go_on` says so, which is asked every 20 ms.
    #[must_use]
    pub fn take(&self, go_on: &dyn Fn() -> bool) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        while queue.free == 0 || queue.waiting.front() != Some(&ticket) {
            if !go_on() {
                queue.waiting.retain(|other| *other != ticket);
                self.changed.notify_all();
                return None;
            }
            let waited = self.changed.wait_timeout(queue, LOOK);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.pop_front();
        queue.free -= 1;
        self.changed.notify_all();
        Some(Turn(self))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.queue().free += 1;
        self.0.changed.notify_all();
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
                        let _turn = turns.take(&|| true).expect("it waits for ever");
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((done.into_inner(), turns.queue().free), (3_000, 2));
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let turns = Turns::new(1);
        let turn = turns.take(&|| false).expect("it is free");
        assert!(turns.take(&|| false).is_none());
        drop(turn);
        assert!(turns.take(&|| false).is_some());
        assert!(turns.queue().waiting.is_empty());
    }
}
