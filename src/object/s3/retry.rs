//! Tries of one call: how many, how long, with which pauses.
//!
//! While the store is down each call makes one try only, so that callers with other things to do
//! are not held up; the outbox makes the call again, for ever, with pauses of its own.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fault::Fault;
use crate::metrics::{self, Metrics};

/// Tries of one call at most.
const TRIES_MAX: u32 = 6;
/// Pause after the first try; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Makes calls again.
pub(super) struct Retries {
    /// No try begins later than this after the first.
    window: Duration,
    down: AtomicBool,
    metrics: Option<Arc<Metrics>>,
}

impl Retries {
    pub(super) fn new(window: Duration, metrics: Option<Arc<Metrics>>) -> Self {
        Self { window, down: AtomicBool::new(false), metrics }
    }

    /// Makes a request until it is answered, or the tries or the time are used up.
    pub(super) async fn ask<T, F>(&self, mut once: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begun = Instant::now();
        let tries_max = if self.down.load(Ordering::Relaxed) { 1 } else { TRIES_MAX };
        let mut tries = 0;
        loop {
            let (reason, text) = match once().await {
                Err(Fault::Again { reason, text }) => (reason, text),
                answer => {
                    self.down.store(false, Ordering::Relaxed);
                    return answer;
                }
            };
            tries += 1;
            if let Some(metrics) = &self.metrics {
                metrics.counter(metrics::OBJECT_FAULTS, &[("reason", reason)]).increment(1);
            }
            let pause = pause(tries);
            if tries >= tries_max || begun.elapsed() + pause > self.window {
                self.down.store(true, Ordering::Relaxed);
                return Err(Fault::Again { reason, text });
            }
            tracing::debug!(reason, text, tries, "a request failed and is made again");
            sleep(pause).await;
        }
    }
}

/// From half of the pause to all of it, so that instances do not come back together.
fn pause(tries: u32) -> Duration {
    let full = PAUSE_MIN.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(PAUSE_MAX);
    let random = RandomState::new().hash_one(tries) % 1_000;
    full / 2 + full.mul_f64(random as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for tries in 1..100 {
            let full = PAUSE_MIN.saturating_mul(1 << (tries - 1).min(10)).min(PAUSE_MAX);
            let pause = pause(tries);
            assert!(full / 2 <= pause && pause <= full, "{tries}: {pause:?}");
        }
    }
}
