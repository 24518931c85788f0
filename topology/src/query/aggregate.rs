//! Counting: totals, facets and histograms over all matches.

use crate::attribute::Attribute;
use crate::pack::{self, GROUP};
use crate::query::answer::{Bounds, Found};
use crate::query::fetch::Fetcher;
use crate::query::mask::{Mask, Matches};
use crate::query::matcher::{Matcher, Ranges};
use crate::query::source::Source;
use crate::query::tally::Tally;
use crate::query::{Axis, Query};
use crate::run::dictionary;
use crate::run::reader::Run;
use crate::run::{Read, Readable, Section, Shape, whole};

/// Counts in one source and adds to `found`.
pub(super) fn count<'a, R: Readable>(
    query: &Query,
    source: &Source<'a, R>,
    ranges: &Ranges,
    fetcher: &mut Fetcher<'a, R>,
    found: &mut Found,
) -> Read<(), R> {
    let blocks = source.blocks();
    if !(0..blocks).any(|block| ranges.meet(&source.extent(block))) {
        return Ok(());
    }
    let Some(matcher) = Matcher::of(source, &query.predicates)? else { return Ok(()) };
    let covered = (0..blocks).all(|block| ranges.cover(&source.extent(block)));
    let mut tallies = Counts::of(query, source, &matcher);
    let by_dictionary = covered && query.histogram.is_none();
    let known = match matcher.is_trivial() {
        true => Some((0..blocks).map(|block| source.block_len(block) as u64).sum()),
        false => matcher.known_count().filter(|_| query.facets.is_empty()),
    };
    if let (true, Some(total)) = (by_dictionary, known) {
        found.total += total;
        return tallies.finish(source, true, &mut found.facets, &mut found.bounds);
    }
    let (mut matches, mut ones) = (Vec::new(), 0);
    for block in 0..blocks {
        if matcher.blocks >> block & 1 == 0 || !ranges.meet(&source.extent(block)) {
            continue;
        }
        let mask = matcher.mask(source, block, ranges, fetcher, &mut found.bounds)?;
        if mask.is_empty() {
            continue;
        }
        ones += mask.ones();
        bucket(query, source, block, &mask, &mut found.histogram)?;
        if !query.facets.is_empty() {
            matches.push((block, mask.matches()));
        }
    }
    found.total += ones as u64;
    tallies.add(source, &matches, ones)?;
    tallies.finish(source, false, &mut found.facets, &mut found.bounds)
}

/// Counts by code, for the facets of one source.
struct Counts {
    facets: Vec<Facet>,
}

/// Counts by code of one attribute.
struct Facet {
    attribute: Attribute,
    counts: Vec<u32>,
    /// The code that every match has, where the query says so.
    only: Option<u16>,
}

impl Counts {
    fn of<R: Readable>(query: &Query, source: &Source<'_, R>, matcher: &Matcher<'_>) -> Self {
        let codes = |attribute: Attribute| match source {
            Source::Run(run) => run.values(attribute) + 1,
            _ => source
                .columns()
                .map_or(1, |columns| columns.attributes[attribute as usize].values_len() + 1),
        };
        let facet = |attribute: &Attribute| Facet {
            attribute: *attribute,
            counts: vec![0; codes(*attribute)],
            only: matcher.only_code(*attribute),
        };
        Self { facets: query.facets.iter().map(facet).collect() }
    }

    /// Counts the matches of each block, which are in order of block and `ones` in all.
    fn add<R: Readable>(
        &mut self,
        source: &Source<'_, R>,
        matches: &[(usize, Matches)],
        ones: usize,
    ) -> Read<(), R> {
        for Facet { attribute, counts, only } in &mut self.facets {
            if counts.len() == 1 {
                continue;
            }
            if let Some(count) = only.and_then(|code| counts.get_mut(usize::from(code))) {
                *count += ones as u32;
                continue;
            }
            match (source, source.columns()) {
                (Source::Run(run), _) => match run.shape(*attribute) {
                    Shape::Dictionary { width: 0, .. } => counts[1] += ones as u32,
                    Shape::Dictionary { width, .. } => {
                        count_codes(run, (*attribute, width), matches, counts)?;
                    }
                    Shape::Absent | Shape::Hashes => {}
                },
                (_, Some(columns)) => {
                    let codes = &columns.attributes[*attribute as usize].codes;
                    let matches = matches.iter().flat_map(|(_, matches)| matches.iter());
                    matches.for_each(|at| counts[usize::from(codes[at])] += 1);
                }
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Turns codes into values. `all`: every trace of the source matches, so that the dictionary
    /// has the counts.
    fn finish<R: Readable>(
        self,
        source: &Source<'_, R>,
        all: bool,
        tallies: &mut [Tally],
        bounds: &mut Bounds,
    ) -> Read<(), R> {
        for (Facet { attribute, counts, .. }, tally) in self.facets.into_iter().zip(tallies) {
            match source {
                Source::Run(run) => {
                    bounds.facets_cut |= run.shape(attribute) == Shape::Hashes;
                    finish_run(run, attribute, (!all).then_some(&counts), tally)?;
                }
                _ => {
                    let Some(columns) = source.columns() else { continue };
                    let column = &columns.attributes[attribute as usize];
                    let mut counts = counts;
                    if all {
                        column.codes.iter().for_each(|code| counts[usize::from(*code)] += 1);
                    }
                    for (value, count) in column.values().zip(&counts[1..]) {
                        if *count > 0 {
                            tally.add(value, u64::from(*count));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Counts the codes of an attribute of a run: block by block where few blocks have matches, else
/// in one pass over its rows.
fn count_codes<R: Readable>(
    run: &Run<'_, R>,
    (attribute, width): (Attribute, u8),
    matches: &[(usize, Matches)],
    counts: &mut [u32],
) -> Read<(), R> {
    let (Some((first, _)), Some((last, _))) = (matches.first(), matches.last()) else {
        return Ok(());
    };
    if matches.len() * 2 < last - first + 1 {
        for (block, matches) in matches {
            let row = run.codes_row(attribute, *block)?;
            whole(matches.count_packed(&row, width, counts), "codes do not decode")?;
        }
        return Ok(());
    }
    let (mut left, mut intact) = (matches.iter().peekable(), true);
    run.visit_codes(attribute, *first, *last, &mut |block, row| {
        if let Some((_, matches)) = left.next_if(|(wanted, _)| *wanted == block) {
            intact = matches.count_packed(row, width, counts).is_some();
        }
        intact
    })?;
    let all = intact && left.peek().is_none();
    whole(all.then_some(()), "codes do not decode, or are missing")
}

/// Adds the counts of a run's codes, or of its whole dictionary, to a tally.
fn finish_run<R: Readable>(
    run: &Run<'_, R>,
    attribute: Attribute,
    counts: Option<&Vec<u32>>,
    tally: &mut Tally,
) -> Read<(), R> {
    let mut left = match counts {
        Some(counts) => counts[1..].iter().filter(|count| **count > 0).count(),
        None => usize::MAX,
    };
    if left == 0 || !matches!(run.shape(attribute), Shape::Dictionary { .. }) {
        return Ok(());
    }
    if counts.is_none() {
        tally.reserve(run.values(attribute));
    }
    tally.rewind();
    dictionary::visit_pieces(run, attribute, b"", &mut |values| {
        let counted = values.filter_map(|value| {
            let count = match counts {
                Some(counts) => counts.get(usize::from(value.code)).copied().unwrap_or(0),
                None => value.count,
            };
            if count == 0 {
                return None;
            }
            left = left.saturating_sub(1);
            Some((value.bytes, u64::from(count)))
        });
        tally.add_all(counted);
        left > 0
    })
}

/// Counts a block's matches by bucket of time.
fn bucket<R: Readable>(
    query: &Query,
    source: &Source<'_, R>,
    block: usize,
    mask: &Mask,
    histogram: &mut [u64],
) -> Read<(), R> {
    let Some(wanted) = &query.histogram else { return Ok(()) };
    let Some((start, _)) = query.buckets(wanted) else { return Ok(()) };
    let mut buckets = Buckets { start, width: wanted.width_ms, histogram };
    let extent = source.extent(block);
    let (ends, section) = match wanted.axis {
        Axis::Stream => (extent.stream_ms, Section::StreamTimes),
        Axis::Event => (extent.time_ms, Section::Times),
    };
    if buckets.of(ends.0) == buckets.of(ends.1) {
        buckets.add(ends.0, mask.ones() as u64);
        return Ok(());
    }
    match (source, source.columns()) {
        (Source::Run(run), _) => {
            let row = run.times_row(section, block)?;
            whole(add_groups(&row, mask, &mut buckets), "times do not decode")?;
        }
        (_, Some(columns)) => {
            let times = match wanted.axis {
                Axis::Stream => &columns.stream_times_ms,
                Axis::Event => &columns.times_ms,
            };
            mask.iter().for_each(|at| buckets.add(times[at], 1));
        }
        (_, None) => {}
    }
    Ok(())
}

/// A histogram being filled.
struct Buckets<'h> {
    start: i64,
    width: i64,
    histogram: &'h mut [u64],
}

impl Buckets<'_> {
    #[inline]
    fn of(&self, time: i64) -> usize {
        usize::try_from(time.saturating_sub(self.start) / self.width).unwrap_or(0)
    }

    #[inline]
    fn add(&mut self, time: i64, count: u64) {
        let at = self.of(time);
        if let Some(bucket) = self.histogram.get_mut(at) {
            *bucket += count;
        }
    }
}

/// Counts packed times: a group whose times share a bucket is not unpacked.
fn add_groups(mut row: &[u8], mask: &Mask, buckets: &mut Buckets<'_>) -> Option<()> {
    let mut numbers = [0; GROUP];
    let mut left = mask.block_len();
    for words in mask.words().chunks(GROUP / 64) {
        let group = pack::take_group(&mut row, left)?;
        left -= group.count;
        let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
        if ones == 0 {
            continue;
        }
        if buckets.of(group.min) == buckets.of(group.bound()) {
            buckets.add(group.min, u64::from(ones));
            continue;
        }
        group.unpack(&mut numbers);
        for (at, word) in words.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                buckets.add(numbers[at * 64 + rest.trailing_zeros() as usize], 1);
                rest &= rest - 1;
            }
        }
    }
    Some(())
}
