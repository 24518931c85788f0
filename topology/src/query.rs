//! Queries: what may be asked of the view, and the state they are asked of.
//!
//! A query is answered for one partition from three kinds of source: parts of open chunks, columns
//! of closed chunks that are in no run yet, and runs. The shell asks every partition and merges the
//! answers. Every trace that is selected is in exactly one source, so every answer counts it once.
//!
//! **Invariant:** nothing here guesses. Where a bound stops a scan, or a hash could not be verified,
//! the answer says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chunk::Part;
use crate::input::Position;
use crate::key::{SegmentId, TrackerId};

/// A segment that has traces in an open chunk.
#[derive(Clone, Debug)]
pub struct OpenSegment {
    /// The segment.
    pub segment: SegmentId,
    /// The parts of its open chunk, in offset order.
    pub parts: Vec<Arc<Part>>,
}

/// What a partition's worker holds in memory as of a commit: the open chunks of each tracker.
///
/// The worker publishes a new one after each commit and shares what did not change. A query pairs
/// it with a snapshot of the store whose position row equals `position`.
#[derive(Clone, Debug, Default)]
pub struct OpenView {
    /// The position that was committed.
    pub position: Position,
    /// Open segments by tracker, in order of segment.
    pub trackers: Arc<BTreeMap<TrackerId, Arc<Vec<OpenSegment>>>>,
}
