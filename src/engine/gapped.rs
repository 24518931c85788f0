//! A partition's log that begins with an accepted gap.
//!
//! **Invariant:** the gap is a batch of its own, and comes only where it begins.

use std::time::Duration;

use trailproof_topology::input::{Millis, Offset};

use crate::applied::Gap;
use crate::log::{Error, Log, RecordBatch};

/// A log, and what is gone before it.
pub(super) struct Gapped {
    pub(super) inner: Box<dyn Log + Send>,
    pub(super) gap: Gap,
}

impl Log for Gapped {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        if from != self.gap.from {
            return self.inner.poll(from, bytes_max, batch);
        }
        batch.clear();
        batch.push_gap(self.gap.from, self.gap.to);
        Ok(())
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        if from != self.gap.from {
            self.inner.wait(from, timeout);
        }
    }

    fn now_ms(&self) -> Millis {
        self.inner.now_ms()
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.inner.tick()
    }
}
