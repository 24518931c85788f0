//! The clock of the shell's edge: request ids, query windows and `--since`, and the append times of
//! the embedded log.
//!
//! **Invariant:** nothing that leaves the engine comes from here but by the log's append times: the
//! engine's time is the log's.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use trailproof_topology::input::Millis;

/// Tells the time in milliseconds since 1970-01-01T00:00:00Z; passed in, so tests can set it.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system() -> Clock {
    Arc::new(now_ms)
}

/// The machine's time now; 0 where it is set before 1970.
#[must_use]
pub fn now_ms() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}
