//! The brokers' time, as far as this process has learnt it.
//!
//! A delivery report says when a broker appended: that sets how far its clock is ahead of ours. A
//! record that is read says that the broker's clock had come that far: that can only raise it.
//!
//! **Invariant:** a wrong clock of this machine costs one early tick, not one a step.

use std::sync::atomic::{AtomicI64, Ordering};

use trailproof_topology::input::Millis;

use crate::clock::Clock;

/// The brokers' clock, seen from here.
pub(super) struct BrokerTime {
    local: Clock,
    ahead_ms: AtomicI64,
}

impl BrokerTime {
    /// As if both clocks agreed.
    pub(super) fn new(local: Clock) -> Self {
        Self { local, ahead_ms: AtomicI64::new(0) }
    }

    /// What a broker would stamp now.
    pub(super) fn now_ms(&self) -> Millis {
        (self.local)().saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// A broker stamped a record of ours just now.
    pub(super) fn stamped(&self, append_time_ms: Millis) {
        let ahead = append_time_ms.saturating_sub((self.local)());
        self.ahead_ms.store(ahead, Ordering::Relaxed);
    }

    /// A broker stamped this record at some time before.
    pub(super) fn seen(&self, append_time_ms: Millis) {
        let ahead = append_time_ms.saturating_sub((self.local)());
        self.ahead_ms.fetch_max(ahead, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_report_sets_the_difference_and_a_record_only_raises_it() {
        let time = BrokerTime::new(Arc::new(|| 10_000));
        assert_eq!(time.now_ms(), 10_000);
        time.seen(9_000);
        assert_eq!(time.now_ms(), 10_000, "an old record says nothing");
        time.seen(12_000);
        assert_eq!(time.now_ms(), 12_000, "the broker is at least this far");
        time.stamped(7_000);
        assert_eq!(time.now_ms(), 7_000, "our clock is ahead");
    }
}
