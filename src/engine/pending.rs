//! How much of each lane waits, told to the metrics.

use std::sync::Arc;

use trailproof_topology::effect::{LANES, Lane};

use crate::metrics::{self, Metrics};

/// What was told of a lane that waits. It is taken back when the outbox goes: the partition's next
/// owner tells it.
pub(super) struct Pending {
    metrics: Arc<Metrics>,
    lane: Lane,
    /// Whether its objects are trace files.
    files: bool,
    told: u64,
}

impl Pending {
    pub(super) fn new(metrics: Arc<Metrics>, lane: Lane, files: bool) -> Self {
        Self { metrics, lane, files, told: 0 }
    }

    /// Tells how many effects wait, of the backlog of every lane.
    pub(super) fn tell(&mut self, backlog: [u64; LANES]) {
        let now = backlog[self.lane as usize];
        let change = now as f64 - self.told as f64;
        let name = match self.lane {
            Lane::Objects => "objects",
            Lane::Notify => "notify",
        };
        self.metrics.gauge(metrics::DELIVERY_PENDING, &[("lane", name)]).increment(change);
        if self.files && self.lane == Lane::Objects {
            self.metrics.gauge(metrics::FILES_PENDING, &[]).increment(change);
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
        let mut files = Pending::new(Arc::clone(&metrics), Lane::Objects, true);
        let mut digests = Pending::new(Arc::clone(&metrics), Lane::Objects, false);
        let mut notify = Pending::new(Arc::clone(&metrics), Lane::Notify, true);
        files.tell([3, 1]);
        notify.tell([3, 1]);
        digests.tell([2, 0]);
        files.tell([4, 0]);
        let text = metrics.render();
        for line in [
            "trailproof_files_pending 4",
            "trailproof_delivery_pending{lane=\"objects\"} 6",
            "trailproof_delivery_pending{lane=\"notify\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
        drop(files);
        assert!(metrics.render().contains("\ntrailproof_files_pending 0\n"));
    }
}
