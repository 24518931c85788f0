//! Turns: how much of the same heavy work is done at one time.
//!
//! Applying a batch takes some ten MiB and as much of the processor's cache as there is; so does
//! making an index run. So the partitions of an instance take turns at each: memory does not grow
//! with the number of partitions, and what one batch brought into the cache is not thrown out
//! before it is used. Files on their way to the object store take turns by their size.
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
    all: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    /// Turns that nobody has.
    free: usize,
    /// Who waits, in order: one for each thread at most.
    waiting: VecDeque<u64>,
    /// The next ticket.
    next: u64,
}

/// One turn or several; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    count: usize,
}

impl Turns {
    /// So many turns, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let all = count.max(1);
        let queue = Queue { free: all, waiting: VecDeque::new(), next: 0 };
        Self { all, queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// Waits for a turn as long as `go_on` says so, which is asked before a turn is given and every
    /// 20 ms.
    #[must_use]
    pub fn take(&self, go_on: &dyn Fn() -> bool) -> Option<Turn<'_>> {
        self.take_many(1, go_on)
    }

    /// The same of `count` turns at once, or of all there are where that is fewer.
    #[must_use]
    pub fn take_many(&self, count: usize, go_on: &dyn Fn() -> bool) -> Option<Turn<'_>> {
        let count = count.min(self.all);
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        loop {
            if !go_on() {
                queue.waiting.retain(|other| *other != ticket);
                self.changed.notify_all();
                return None;
            }
            if queue.free >= count && queue.waiting.front() == Some(&ticket) {
                break;
            }
            let waited = self.changed.wait_timeout(queue, LOOK);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.pop_front();
        queue.free -= count;
        self.changed.notify_all();
        Some(Turn { turns: self, count })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.queue().free += self.count;
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Says yes so many times, then no.
    fn looks(count: usize) -> impl Fn() -> bool {
        let left = std::cell::Cell::new(count);
        move || left.replace(left.get().saturating_sub(1)) > 0
    }

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
    fn who_needs_many_waits_for_them_before_those_who_came_later() {
        let turns = Turns::new(3);
        let one = turns.take(&|| true).expect("it is free");
        assert!(turns.take_many(3, &looks(2)).is_none());
        std::thread::scope(|scope| {
            let all =
                scope.spawn(|| turns.take_many(9, &|| true).expect("it waits for ever").count);
            while turns.queue().waiting.is_empty() {
                std::thread::yield_now();
            }
            assert!(turns.take(&looks(2)).is_none(), "it is another's turn");
            drop(one);
            assert_eq!(all.join().expect("it does not panic"), 3);
        });
        assert_eq!(turns.queue().free, 3);
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let turns = Turns::new(1);
        let turn = turns.take(&|| true).expect("it is free");
        assert!(turns.take(&looks(2)).is_none());
        drop(turn);
        assert!(turns.take(&|| false).is_none(), "who is to stop gets none");
        assert!(turns.take(&looks(500)).is_some());
        assert!(turns.queue().waiting.is_empty());
    }
}
