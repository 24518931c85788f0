//! Listing: the first matches in the query's order, from as few blocks as possible.

use std::sync::Arc;

use crate::query::answer::{Bounds, Hit};
use crate::query::fetch::{Fetcher, Place};
use crate::query::mask::Mask;
use crate::query::matcher::{Matcher, Ranges};
use crate::query::source::Source;
use crate::query::{Order, Query};
use crate::run::{Read, Readable, Section};

/// Lists at most one hit more than the query's limit.
pub(super) fn list<'a, R: Readable>(
    query: &Query,
    sources: &[Source<'a, R>],
    ranges: &Ranges,
    fetcher: &mut Fetcher<'a, R>,
    bounds: &mut Bounds,
) -> Read<Vec<Hit>, R> {
    let mut units = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        for block in 0..source.blocks() {
            let extent = source.extent(block);
            if ranges.meet(&extent) {
                let best = match query.order {
                    Order::Newest => extent.offsets.1,
                    Order::Oldest => extent.offsets.0,
                };
                units.push((best, at, block));
            }
        }
    }
    units.sort_unstable();
    if query.order == Order::Newest {
        units.reverse();
    }
    // A source's tests are compiled when its first block comes up; most never do.
    let mut matchers: Vec<Option<Option<Matcher<'_>>>> = sources.iter().map(|_| None).collect();
    let mut hits: Vec<Hit> = Vec::new();
    let wanted = query.limit + 1;
    for (best, at, block) in units {
        let full = hits.len() == wanted;
        let beaten = hits.last().is_some_and(|last| match query.order {
            Order::Newest => last.offset > best,
            Order::Oldest => last.offset < best,
        });
        if full && beaten {
            break;
        }
        let source = &sources[at];
        let matcher = match &mut matchers[at] {
            Some(matcher) => matcher,
            empty => empty.insert(Matcher::of(source, &query.predicates)?),
        };
        let Some(matcher) = matcher else { continue };
        if matcher.blocks >> block & 1 == 0 {
            continue;
        }
        let mask = matcher.mask(source, block, ranges, fetcher, bounds)?;
        add(query.order, wanted, source, block, &mask, &mut hits)?;
    }
    Ok(hits)
}

/// Adds the first matches of a block, then keeps the first of all.
fn add<R: Readable>(
    order: Order,
    wanted: usize,
    source: &Source<'_, R>,
    block: usize,
    mask: &Mask,
    hits: &mut Vec<Hit>,
) -> Read<(), R> {
    let skipped = match order {
        Order::Newest => mask.ones().saturating_sub(wanted),
        Order::Oldest => 0,
    };
    let chosen: Vec<usize> = mask.iter().skip(skipped).take(wanted).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    match source {
        Source::Part(segment, part, _) => hits.extend(chosen.into_iter().map(|at| Hit {
            offset: part.entries[at].offset,
            stream_time_ms: part.entries[at].stream_time_ms,
            segment: (*segment).clone(),
            place: Place::Open(Arc::clone(part), at),
        })),
        Source::Row(chunk, columns, _) => hits.extend(chosen.into_iter().map(|at| Hit {
            offset: columns.offsets[at],
            stream_time_ms: columns.stream_times_ms[at],
            segment: chunk.segment.clone(),
            place: Place::Chunk(chunk.clone()),
        })),
        Source::Run(run) => {
            let places = run.places(block)?;
            let mut stream_times_ms = Vec::new();
            run.times(Section::StreamTimes, block, &mut stream_times_ms)?;
            hits.extend(chosen.into_iter().map(|at| {
                let chunk = &places.chunks[usize::from(places.codes[at])];
                Hit {
                    offset: places.offsets[at],
                    stream_time_ms: stream_times_ms[at],
                    segment: chunk.segment.clone(),
                    place: Place::Chunk(chunk.clone()),
                }
            }));
        }
    }
    hits.sort_unstable_by_key(|hit| hit.offset);
    if order == Order::Newest {
        hits.reverse();
    }
    hits.truncate(wanted);
    Ok(())
}
