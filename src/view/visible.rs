//! Which days queries may read, and when the last query has left those that are to be dropped.
//!
//! Dropping days takes whole files from under the snapshots of running queries. So days are hidden
//! first, from every query that begins from then on, and dropped when no earlier one is left.
//!
//! **Invariant:** no query that can still read a day runs while that day is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The days of one partition's view. Shared by queries and the retention.
#[derive(Clone, Debug, Default)]
pub struct Visible(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    from: u16,
    pass: Arc<()>,
    /// The passes of queries that began before days were hidden.
    leaving: Vec<Weak<()>>,
}

/// What a query holds while it reads.
#[derive(Debug)]
pub struct Pass {
    /// The first day that it may read, in days since 1970-01-01 UTC.
    pub from: u16,
    _held: Arc<()>,
}

impl Visible {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A query begins.
    #[must_use]
    pub fn enter(&self) -> Pass {
        let state = self.state();
        Pass { from: state.from, _held: Arc::clone(&state.pass) }
    }

    /// Hides the days before `day` from the queries that begin from now on.
    pub fn hide_before(&self, day: u16) {
        let mut state = self.state();
        if day > state.from {
            state.from = day;
            let old = std::mem::take(&mut state.pass);
            state.leaving.push(Arc::downgrade(&old));
        }
    }

    /// Whether every query has left that may read a hidden day.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let mut state = self.state();
        state.leaving.retain(|pass| pass.strong_count() > 0);
        state.leaving.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Visible;

    #[test]
    fn a_day_is_left_when_the_last_query_that_saw_it_has_ended() {
        let visible = Visible::default();
        assert!(visible.is_left());
        let (early, other) = (visible.enter(), visible.enter());
        visible.hide_before(7);
        let late = visible.enter();
        assert_eq!((early.from, late.from), (0, 7));
        assert!(!visible.is_left());
        drop(early);
        assert!(!visible.is_left());
        visible.hide_before(9);
        drop(other);
        assert!(!visible.is_left(), "a query reads day 7");
        drop(late);
        assert!(visible.is_left());
        visible.hide_before(8);
        assert_eq!(visible.enter().from, 9, "days do not come back");
    }
}
