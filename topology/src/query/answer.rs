//! Answers: what was found in one partition, and in all of them.

use crate::attribute::Attribute;
use crate::input::{Millis, Offset};
use crate::key::SegmentId;
use crate::query::fetch::Place;
use crate::query::tally::Tally;
use crate::query::{Cursor, Order, Query};

/// Where an answer is less than asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// More columns rows than one query reads: the newest traces may be missing.
    pub rows_cut: bool,
    /// Matches that rest on 32 bits of a hash, because too many chunks would have been opened.
    pub unverified: u64,
    /// Traces that were not looked at: their attribute has only hashes, and too many chunks would
    /// have been opened.
    pub unscanned: u64,
    /// A facet lacks values: an attribute has only hashes in a run, or too many values.
    pub facets_cut: bool,
    /// Rows left out because too many chunks would have been opened.
    pub unfetched: u64,
}

impl Bounds {
    /// Whether the answer is exactly what was asked for.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::default()
    }

    /// What is less than asked for, in words.
    #[must_use]
    pub fn reasons(&self) -> Vec<&'static str> {
        let reasons = [
            (self.rows_cut, "the index is behind and was not read to its end; ask again later"),
            (self.unverified > 0, "some matches were found by hash and not verified"),
            (self.unscanned > 0, "some traces were not searched for text; narrow the time range"),
            (self.facets_cut, "a facet has too many values; narrow the query"),
            (self.unfetched > 0, "some rows were not read; ask for fewer"),
        ];
        reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
    }

    /// Adds what another part of the answer lacks.
    pub fn add(&mut self, other: &Self) {
        self.rows_cut |= other.rows_cut;
        self.unverified += other.unverified;
        self.unscanned += other.unscanned;
        self.facets_cut |= other.facets_cut;
        self.unfetched += other.unfetched;
    }
}

/// A trace that was found, not yet read.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Offset in its partition.
    pub offset: Offset,
    /// Its stream time.
    pub stream_time_ms: Millis,
    /// Its segment, which names the tracker.
    pub segment: SegmentId,
    /// Where it is stored.
    pub place: Place,
}

/// What one partition has to say.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Hits in the query's order, at most one more than its limit.
    pub hits: Vec<Hit>,
    /// All matches, where the query counts.
    pub total: u64,
    /// Counts by value, a tally for each facet.
    pub facets: Vec<Tally>,
    /// Counts by bucket.
    pub histogram: Vec<u64>,
    /// Where it is less than asked for.
    pub bounds: Bounds,
}

/// A trace with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub cursor: Cursor,
    /// Its segment, which names the tracker.
    pub segment: SegmentId,
    /// The trace as stored.
    pub trace: Vec<u8>,
}

/// A facet's most frequent values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facet {
    /// The attribute.
    pub attribute: Attribute,
    /// Values and how many matching traces have them, the most frequent first.
    pub values: Vec<(Vec<u8>, u64)>,
    /// How many distinct values there are.
    pub distinct: u64,
    /// Matching traces that have a value.
    pub present: u64,
}

/// The answer to a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows, in the query's order.
    pub rows: Vec<Row>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
    /// All matches, where the query counts.
    pub total: Option<u64>,
    /// The facets, in the query's order.
    pub facets: Vec<Facet>,
    /// Counts from the first bucket on; empty where the query has no histogram.
    pub histogram: Vec<u64>,
    /// Where it is less than asked for.
    pub bounds: Bounds,
}

/// Merges what the partitions found: the answer without its rows, and the hits that become rows.
#[must_use]
pub fn merge(query: &Query, found: Vec<(u32, Found)>) -> (Answer, Vec<(Cursor, Hit)>) {
    let mut answer = Answer::default();
    let mut total = 0;
    let mut tallies: Vec<Tally> = Vec::new();
    let mut hits = Vec::new();
    for (partition, found) in found {
        total += found.total;
        answer.bounds.add(&found.bounds);
        if tallies.is_empty() {
            tallies = found.facets;
        } else {
            tallies.iter_mut().zip(&found.facets).for_each(|(all, own)| all.merge(own));
        }
        answer.histogram.resize(answer.histogram.len().max(found.histogram.len()), 0);
        for (all, own) in answer.histogram.iter_mut().zip(&found.histogram) {
            *all += own;
        }
        hits.extend(found.hits.into_iter().map(|hit| {
            let (stream_time_ms, offset) = (hit.stream_time_ms, hit.offset);
            (Cursor { stream_time_ms, partition, offset }, hit)
        }));
    }
    hits.sort_unstable_by(|(a, _), (b, _)| match query.order {
        Order::Newest => b.cmp(a),
        Order::Oldest => a.cmp(b),
    });
    if hits.len() > query.limit && query.limit > 0 {
        hits.truncate(query.limit);
        answer.next = hits.last().map(|(cursor, _)| *cursor);
    }
    answer.total = query.count.then_some(total);
    answer.facets = query
        .facets
        .iter()
        .zip(&tallies)
        .map(|(attribute, tally)| {
            answer.bounds.facets_cut |= tally.is_cut();
            Facet {
                attribute: *attribute,
                values: tally.top(query.facet_values),
                distinct: tally.len() as u64,
                present: tally.total(),
            }
        })
        .collect();
    (answer, hits)
}
