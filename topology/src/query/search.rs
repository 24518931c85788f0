//! Searching one partition.

use crate::input::Offset;
use crate::query::answer::Found;
use crate::query::fetch::Fetcher;
use crate::query::matcher::Ranges;
use crate::query::source::{Partition, gather};
use crate::query::{Cursor, Order, Query, aggregate, list};
use crate::run::{Read, Readable};

/// Most chunks that verifying the hashes of one query opens in one partition.
pub const CHUNKS_MAX: usize = 512;

/// What one partition has to say to a query. [`Query::check`] has accepted it.
///
/// # Errors
/// The store's, or a damaged row.
pub fn search<R: Readable>(query: &Query, partition: Partition<'_, R>) -> Read<Found, R> {
    let mut found = Found::default();
    let sources = gather(query, partition, &mut found.bounds)?;
    let mut fetcher = Fetcher::new(partition.rows, CHUNKS_MAX);
    if query.limit > 0 {
        let ranges = listed(query, partition.number);
        let mut bounds = found.bounds;
        found.hits = list::list(query, &sources, &ranges, &mut fetcher, &mut bounds)?;
        found.bounds = bounds;
    }
    if query.count || !query.facets.is_empty() || query.histogram.is_some() {
        found.facets = vec![Default::default(); query.facets.len()];
        let buckets = query.histogram.as_ref().and_then(|histogram| query.buckets(histogram));
        found.histogram = vec![0; buckets.map_or(0, |(_, buckets)| buckets)];
        let ranges = counted(query);
        for source in &sources {
            aggregate::count(query, source, &ranges, &mut fetcher, &mut found)?;
        }
    }
    Ok(found)
}

/// The ranges of all matches.
fn counted(query: &Query) -> Ranges {
    let (stream_ms, time_ms) = (query.stream_ms.clone(), query.time_ms.clone());
    Ranges { offsets: 0..Offset::MAX, stream_ms, time_ms }
}

/// The ranges of the matches behind the cursor, as seen from one partition.
fn listed(query: &Query, partition: u32) -> Ranges {
    let mut ranges = counted(query);
    let Some(Cursor { stream_time_ms, partition: cursor, offset }) = query.cursor else {
        return ranges;
    };
    let after = stream_time_ms.saturating_add(1);
    let stream = &mut ranges.stream_ms;
    match (query.order, partition.cmp(&cursor)) {
        (Order::Newest, std::cmp::Ordering::Equal) => ranges.offsets.end = offset,
        (Order::Newest, std::cmp::Ordering::Less) => stream.end = stream.end.min(after),
        (Order::Newest, std::cmp::Ordering::Greater) => {
            stream.end = stream.end.min(stream_time_ms);
        }
        (Order::Oldest, std::cmp::Ordering::Equal) => {
            ranges.offsets.start = offset.saturating_add(1);
        }
        (Order::Oldest, std::cmp::Ordering::Less) => stream.start = stream.start.max(after),
        (Order::Oldest, std::cmp::Ordering::Greater) => {
            stream.start = stream.start.max(stream_time_ms);
        }
    }
    ranges
}
