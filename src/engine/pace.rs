//! A pace: how fast the partitions of an instance do what could crowd out who serves.
//!
//! **Invariant (I10):** all of them together are no faster than the pace, however many they are.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Gives each piece of work its moment, one after another.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    /// The next moment that is free.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// One piece of work in each `every`.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, next: Mutex::default() }
    }

    /// Takes the next moment: how long it is until then. What is not taken is not saved up.
    #[must_use]
    pub fn wait_from(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let own = next.map_or(now, |next| next.max(now));
        *next = Some(own + self.every);
        own - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_given_one_after_another_and_not_saved_up() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let pace = Pace::new(ms(10));
        let at = |now: u64| pace.wait_from(start + ms(now));
        // Three that ask at one time are as fast together as one alone.
        assert_eq!([at(0), at(0), at(0)], [ms(0), ms(10), ms(20)]);
        assert_eq!(at(25), ms(5));
        assert_eq!([at(500), at(501)], [ms(0), ms(9)]);
    }
}
