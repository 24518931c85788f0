//! Queries: what may be asked of the view, and the state they are asked of.
//!
//! A query is answered for one partition from three kinds of source: parts of open chunks, columns
//! of closed chunks that are in no run yet, and runs. The shell asks every partition
//! ([`search::search`]) and merges the answers ([`answer`]). Every trace that is selected is in
//! exactly one source, so every answer counts it once.
//!
//! **Invariant:** nothing here guesses. Where a bound stops a scan, or a hash could not be
//! verified, the answer says so ([`answer::Bounds`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::attribute::{Attribute, Attributes};
use crate::input::{Millis, Offset, Position};
use crate::key::{SegmentId, TrackerId};
use crate::parts::Parts;

mod aggregate;
pub mod answer;
pub mod fetch;
mod list;
pub mod mask;
mod matcher;
pub mod predicate;
pub mod search;
pub mod source;
pub mod tally;

pub use predicate::{Predicate, Test};

/// Most rows of one answer.
pub const LIMIT_MAX: usize = 1_000;

/// Most trackers of one query.
pub const TRACKERS_MAX: usize = 128;

/// Most predicates of one query.
pub const PREDICATES_MAX: usize = 32;

/// Most values of one predicate.
pub const VALUES_MAX: usize = 100;

/// Most values of one facet in an answer.
pub const FACET_VALUES_MAX: usize = 1_000;

/// Most buckets of a histogram.
pub const BUCKETS_MAX: usize = 10_000;

/// A segment that has traces in an open chunk.
#[derive(Clone, Debug)]
pub struct OpenSegment {
    /// The segment.
    pub segment: Arc<SegmentId>,
    /// The parts of its open chunk.
    pub parts: Parts,
}

/// What a partition's worker holds in memory as of a commit: the open chunks of each tracker.
///
/// The worker publishes a new one after each commit and shares what did not change. A query pairs
/// it with a snapshot of the store whose position row equals `position`.
#[derive(Clone, Debug, Default)]
pub struct OpenView {
    /// The position that was committed.
    pub position: Position,
    /// Open segments by tracker, in no order: a query sorts those that it reads.
    pub trackers: Arc<BTreeMap<TrackerId, Arc<Vec<OpenSegment>>>>,
}

/// Which end of the view comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Latest stream time first.
    #[default]
    Newest,
    /// Earliest stream time first.
    Oldest,
}

/// A place in the order of all traces: by stream time, then partition, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Stream time of the trace.
    pub stream_time_ms: Millis,
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
}

/// Which of a trace's two times a histogram counts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Stream time: arrival.
    Stream,
    /// Event time.
    Event,
}

/// Counts over time. The query's range on that axis must be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The axis.
    pub axis: Axis,
    /// Width of a bucket, at least 1. Buckets are aligned to the epoch.
    pub width_ms: Millis,
}

/// A query. Traces of any of the trackers match that meet every predicate and lie in both ranges.
#[derive(Clone, Debug)]
pub struct Query {
    /// The trackers; the caller has made sure that they may be read.
    pub trackers: Vec<TrackerId>,
    /// Conditions, all of which hold.
    pub predicates: Vec<Predicate>,
    /// Stream times.
    pub stream_ms: Range<Millis>,
    /// Event times.
    pub time_ms: Range<Millis>,
    /// Which end comes first.
    pub order: Order,
    /// Rows wanted, at most [`LIMIT_MAX`]; 0 for counts alone.
    pub limit: usize,
    /// Rows begin after this place. Counts do not depend on it.
    pub cursor: Option<Cursor>,
    /// Whether all matches are counted.
    pub count: bool,
    /// Attributes whose values are counted.
    pub facets: Vec<Attribute>,
    /// Values of each facet wanted, the most frequent first.
    pub facet_values: usize,
    /// Counts over time.
    pub histogram: Option<Histogram>,
}

impl Query {
    /// A query for the newest `limit` traces of some trackers.
    #[must_use]
    pub fn newest(trackers: Vec<TrackerId>, limit: usize) -> Self {
        Self {
            trackers,
            predicates: Vec::new(),
            stream_ms: Millis::MIN..Millis::MAX,
            time_ms: Millis::MIN..Millis::MAX,
            order: Order::Newest,
            limit,
            cursor: None,
            count: false,
            facets: Vec::new(),
            facet_values: 10,
            histogram: None,
        }
    }

    /// The attributes that the answer depends on.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        let tested = self.predicates.iter().map(|predicate| predicate.attribute);
        tested.chain(self.facets.iter().copied()).collect()
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// What is out of bounds, in words for whoever asked.
    pub fn check(&self) -> Result<(), String> {
        let at_most = |name: &str, have: usize, max: usize| {
            if have > max { Err(format!("{name}: {have} is more than {max}")) } else { Ok(()) }
        };
        at_most("limit", self.limit, LIMIT_MAX)?;
        at_most("trackers", self.trackers.len(), TRACKERS_MAX)?;
        at_most("filters", self.predicates.len(), PREDICATES_MAX)?;
        at_most("facet values", self.facet_values, FACET_VALUES_MAX)?;
        at_most("facets", self.facets.len(), crate::attribute::ATTRIBUTES)?;
        for predicate in &self.predicates {
            at_most(predicate.attribute.name(), predicate.test.values(), VALUES_MAX)?;
        }
        if self.facets.contains(&Attribute::TraceId) {
            return Err("facet trace_id: every trace has its own; ask for the count".to_owned());
        }
        if let Some(histogram) = &self.histogram {
            if histogram.width_ms < 1 {
                return Err("histogram: the width of a bucket must be at least 1 ms".to_owned());
            }
            let buckets = self.buckets(histogram);
            if buckets.is_none_or(|(_, buckets)| buckets > BUCKETS_MAX) {
                return Err(format!(
                    "histogram: the range has more than {BUCKETS_MAX} buckets; narrow the range or \
                     widen the buckets"
                ));
            }
        }
        Ok(())
    }

    /// Start of the first bucket and number of buckets; `None` where they do not fit in numbers.
    #[must_use]
    pub fn buckets(&self, histogram: &Histogram) -> Option<(Millis, usize)> {
        let range = match histogram.axis {
            Axis::Stream => &self.stream_ms,
            Axis::Event => &self.time_ms,
        };
        if range.is_empty() {
            return Some((0, 0));
        }
        let width = histogram.width_ms;
        let start = range.start.div_euclid(width).checked_mul(width)?;
        let span = range.end.checked_sub(start)?;
        let buckets = usize::try_from(span.checked_add(width - 1)? / width).ok()?;
        Some((start, buckets))
    }
}
