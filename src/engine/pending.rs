//! How much of each lane waits, told to the metrics.

use std::sync::Arc;

use trailproof_topology::effect::{LANES, Lane};

use crate::metrics::{self, Metrics};

/// What one outbox has told of what waits. It is taken back when the outbox goes: the partition's
/// next owner tells it.
pub(super) struct Pending {
    metrics: Arc<Metrics>,
    /// Whether its objects are trace files.
    files: bool,
    told: [u64; LANES],
}

impl Pending {
    pub(super) fn new(metrics: Arc<Metrics>, files: bool) -> Self {
        Self { metrics, files, told: [0; LANES] }
    }

    /// Tells the effects of each lane that wait now.
    pub(super) fn tell(&mut self, now: [u64; LANES]) {
        for (lane, name) in [(Lane::Objects, "objects"), (Lane::Notify, "notify")] {
            let (before, after) = (self.told[lane as usize], now[lane as usize]);
            let change = after as f64 - before as f64;
            self.metrics.gauge(metrics::DELIVERY_PENDING, &[("lane", name)]).increment(change);
            if self.files && lane == Lane::Objects {
                self.metrics.gauge(metrics::FILES_PENDING, &[]).increment(change);
            }
        }
        self.told = now;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.tell([0; LANES]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_added_up_and_taken_back() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let mut one = Pending::new(Arc::clone(&metrics), true);
        let mut other = Pending::new(Arc::clone(&metrics), false);
        one.tell([3, 1]);
        other.tell([2, 0]);
        one.tell([4, 0]);
        let text = metrics.render();
        assert!(text.contains("\ntrailproof_files_pending 4\n"), "{text}");
        let line = "\ntrailproof_delivery_pending{lane=\"objects\"} 6\n";
        assert!(text.contains(line), "{text}");
        drop(one);
        assert!(metrics.render().contains("\ntrailproof_files_pending 0\n"));
    }
}
