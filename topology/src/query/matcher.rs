//! Matchers: a query's conditions in terms of one source.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::attribute::Attribute;
use crate::columns::{Columns, value_hash};
use crate::input::{Millis, Offset};
use crate::pack::codes_len;
use crate::query::answer::Bounds;
use crate::query::fetch::Fetcher;
use crate::query::mask::{CodeSet, Mask};
use crate::query::predicate::{Predicate, Test as By, indexed};
use crate::query::source::{Extent, Source};
use crate::run::dictionary::{self, all_blocks};
use crate::run::reader::Run;
use crate::run::{BLOCK, Read, Readable, Section, Shape, whole};
use crate::trace;

/// The ranges a trace must lie in.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    pub(super) offsets: Range<Offset>,
    pub(super) stream_ms: Range<Millis>,
    pub(super) time_ms: Range<Millis>,
}

impl Ranges {
    /// Whether any trace of the extent may lie in the ranges.
    pub(super) fn meet(&self, extent: &Extent) -> bool {
        meets(&self.offsets, extent.offsets)
            && meets(&self.stream_ms, extent.stream_ms)
            && meets(&self.time_ms, extent.time_ms)
    }

    /// Whether every trace of the extent lies in the ranges.
    pub(super) fn cover(&self, extent: &Extent) -> bool {
        covers(&self.offsets, extent.offsets)
            && covers(&self.stream_ms, extent.stream_ms)
            && covers(&self.time_ms, extent.time_ms)
    }
}

fn meets<T: PartialOrd>(range: &Range<T>, (min, max): (T, T)) -> bool {
    min < range.end && max >= range.start
}

fn covers<T: PartialOrd>(range: &Range<T>, (min, max): (T, T)) -> bool {
    min >= range.start && max < range.end
}

/// A predicate in terms of one source.
#[derive(Debug)]
enum Test<'q> {
    /// The code is in the set, which so many traces meet.
    Codes { attribute: Attribute, set: CodeSet, count: u64 },
    /// The trace is one of these, which have the right hash, and its value meets the predicate.
    Keep(&'q Predicate, Vec<u32>),
    /// The trace is none of these, or its value meets the predicate all the same.
    Drop(&'q Predicate, Vec<u32>),
    /// The value in the trace itself meets the predicate.
    Each(&'q Predicate),
}

/// The tests of one source.
#[derive(Debug)]
pub(super) struct Matcher<'q> {
    tests: Vec<Test<'q>>,
    /// Blocks that may hold a match.
    pub(super) blocks: u128,
}

impl<'q> Matcher<'q> {
    /// Compiles predicates; `None` where no trace of the source can match.
    pub(super) fn of<R: Readable>(
        source: &Source<'_, R>,
        predicates: &'q [Predicate],
    ) -> Read<Option<Self>, R> {
        let mut matcher = Self { tests: Vec::new(), blocks: all_blocks(source.blocks()) };
        for predicate in predicates {
            let possible = match source {
                Source::Run(run) => matcher.add_of_run(run, predicate)?,
                Source::Part(_, part, _) => matcher.add_of_columns(part.columns(), predicate),
                Source::Row(_, columns, _) => matcher.add_of_columns(columns, predicate),
            };
            if !possible || matcher.blocks == 0 {
                return Ok(None);
            }
        }
        Ok(Some(matcher))
    }

    /// Whether every trace of the source matches.
    pub(super) fn is_trivial(&self) -> bool {
        self.tests.is_empty()
    }

    /// How many traces of the source match, where the dictionary alone says it.
    pub(super) fn known_count(&self) -> Option<u64> {
        match self.tests.as_slice() {
            [Test::Codes { count, .. }] => Some(*count),
            _ => None,
        }
    }

    /// The code of an attribute that every match has; `None` where they may differ.
    pub(super) fn only_code(&self, attribute: Attribute) -> Option<u16> {
        self.tests.iter().find_map(|test| match test {
            Test::Codes { attribute: own, set, .. } if *own == attribute => set.single(),
            _ => None,
        })
    }

    fn add_of_columns(&mut self, columns: &Columns, predicate: &'q Predicate) -> bool {
        if predicate.attribute == Attribute::TraceId {
            let By::Equals(values) = &predicate.test else { return self.add_each(predicate) };
            let hashes: Vec<u32> = values.iter().map(|value| value_hash(indexed(value))).collect();
            let ordinals: Vec<u32> = (0u32..)
                .zip(&columns.trace_ids)
                .filter(|(_, hash)| hashes.contains(hash))
                .map(|(at, _)| at)
                .collect();
            return self.add_hashed(predicate, ordinals);
        }
        let column = &columns.attributes[predicate.attribute as usize];
        let mut codes: Vec<u16> = (1..)
            .zip(column.values())
            .filter(|(_, value)| predicate.matches(Some(value)))
            .map(|(code, _)| code)
            .collect();
        if predicate.negate {
            codes.push(0);
        }
        if codes.is_empty() {
            return false;
        }
        let set = CodeSet::new(codes, false);
        let count = column.codes.iter().filter(|code| set.has(**code)).count();
        self.add_codes(predicate.attribute, set, count, columns.len())
    }

    fn add_codes(&mut self, attribute: Attribute, set: CodeSet, count: usize, of: usize) -> bool {
        if count < of {
            self.tests.push(Test::Codes { attribute, set, count: count as u64 });
        }
        count > 0
    }

    fn add_each(&mut self, predicate: &'q Predicate) -> bool {
        self.tests.push(Test::Each(predicate));
        true
    }

    /// Adds a predicate that names values, whose hashes these traces have.
    fn add_hashed(&mut self, predicate: &'q Predicate, ordinals: Vec<u32>) -> bool {
        if predicate.negate {
            self.tests.push(Test::Drop(predicate, ordinals));
            return true;
        }
        let blocks =
            ordinals.iter().fold(0, |blocks, at| blocks | 1u128 << (*at / BLOCK as u32).min(127));
        if self.blocks.count_ones() > 1 {
            self.blocks &= blocks;
        }
        let possible = !ordinals.is_empty();
        self.tests.push(Test::Keep(predicate, ordinals));
        possible
    }

    fn add_of_run<R: Readable>(
        &mut self,
        run: &Run<'_, R>,
        predicate: &'q Predicate,
    ) -> Read<bool, R> {
        let (attribute, header) = (predicate.attribute, &run.header);
        match run.shape(attribute) {
            Shape::Absent => return Ok(predicate.negate),
            Shape::Hashes => {
                let By::Equals(values) = &predicate.test else {
                    return Ok(self.add_each(predicate));
                };
                let mut ordinals = Vec::new();
                for value in values {
                    ordinals.extend(run.ordinals(attribute, value_hash(indexed(value)))?);
                }
                ordinals.sort_unstable();
                ordinals.dedup();
                return Ok(self.add_hashed(predicate, ordinals));
            }
            Shape::Dictionary { .. } => {}
        }
        let (mut codes, mut count, mut blocks) = (Vec::new(), 0, 0);
        visit_passing(run, predicate, &mut |(code, traces, within)| {
            codes.push(code);
            count += traces as usize;
            blocks |= within;
        })?;
        let others = header.count.checked_sub(count);
        let others = whole(others, "a dictionary counts more traces than its run has")?;
        if predicate.negate {
            count = others;
            blocks = all_blocks(header.zones.len());
        }
        self.blocks &= blocks;
        Ok(self.add_codes(attribute, CodeSet::new(codes, predicate.negate), count, header.count))
    }

    /// The matching traces of a block.
    pub(super) fn mask<'a, R: Readable>(
        &self,
        source: &Source<'a, R>,
        block: usize,
        ranges: &Ranges,
        fetcher: &mut Fetcher<'a, R>,
        bounds: &mut Bounds,
    ) -> Read<Mask, R> {
        let mut mask = Mask::full(source.block_len(block));
        self.prepare(block, &mut mask);
        self.test_codes(source, block, &mut mask)?;
        test_ranges(source, block, ranges, &mut mask)?;
        for test in &self.tests {
            if mask.is_empty() {
                break;
            }
            self.verify(test, source, block, &mut mask, fetcher, bounds)?;
        }
        Ok(mask)
    }

    /// Leaves only the candidates of tests that name their traces.
    fn prepare(&self, block: usize, mask: &mut Mask) {
        for test in &self.tests {
            if let Test::Keep(_, ordinals) = test {
                let mut wanted = within(ordinals, block, mask.block_len()).peekable();
                let hits: Vec<usize> = mask.iter().collect();
                for at in hits {
                    while wanted.next_if(|next| *next < at).is_some() {}
                    if wanted.peek() != Some(&at) {
                        mask.clear(at);
                    }
                }
            }
        }
    }

    fn test_codes<R: Readable>(
        &self,
        source: &Source<'_, R>,
        block: usize,
        mask: &mut Mask,
    ) -> Read<(), R> {
        for test in &self.tests {
            let Test::Codes { attribute, set, .. } = test else { continue };
            if mask.is_empty() {
                break;
            }
            match source {
                Source::Run(run) => match run.shape(*attribute) {
                    Shape::Dictionary { width, .. } if width > 0 => {
                        let row = run.codes_row(*attribute, block)?;
                        let fits = row.len() == codes_len(mask.block_len(), width);
                        whole(fits.then_some(()), "codes do not decode")?;
                        mask.keep_packed(&row, width, set);
                    }
                    _ => {}
                },
                _ => {
                    if let Some(columns) = source.columns() {
                        mask.keep_codes(&columns.attributes[*attribute as usize].codes, set);
                    }
                }
            }
        }
        Ok(())
    }

    fn verify<'a, R: Readable>(
        &self,
        test: &Test<'_>,
        source: &Source<'a, R>,
        block: usize,
        mask: &mut Mask,
        fetcher: &mut Fetcher<'a, R>,
        bounds: &mut Bounds,
    ) -> Read<(), R> {
        let (predicate, doubtful): (_, Vec<usize>) = match test {
            Test::Codes { .. } => return Ok(()),
            Test::Keep(predicate, _) | Test::Each(predicate) => (predicate, mask.iter().collect()),
            Test::Drop(predicate, ordinals) => {
                let named = within(ordinals, block, mask.block_len());
                (predicate, named.filter(|at| mask.has(*at)).collect())
            }
        };
        // The newest first: where the bound is hit, what remains is the older part.
        for at in doubtful.into_iter().rev() {
            let stays = match fetcher.trace(source, block, at)? {
                Some(stored) => meets_in(predicate, stored),
                None if matches!(test, Test::Each(_)) => {
                    bounds.unscanned += 1;
                    false
                }
                None => {
                    bounds.unverified += 1;
                    matches!(test, Test::Keep(..))
                }
            };
            if !stays {
                mask.clear(at);
            }
        }
        Ok(())
    }
}

/// Visits the values of a dictionary that pass a predicate's test, each once: code, traces, blocks.
fn visit_passing<R: Readable>(
    run: &Run<'_, R>,
    predicate: &Predicate,
    take: &mut dyn FnMut((u16, u32, u128)),
) -> Read<(), R> {
    let (attribute, zones) = (predicate.attribute, run.header.zones.len());
    match &predicate.test {
        By::Equals(values) => {
            let values: BTreeSet<&[u8]> = values.iter().map(|value| indexed(value)).collect();
            for value in values {
                dictionary::find(run, attribute, value)?.into_iter().for_each(&mut *take);
            }
        }
        By::Begins(values) => {
            let mut prefixes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            prefixes.sort_unstable();
            // What begins with a longer one begins with the shorter one too.
            prefixes.dedup_by(|longer, kept| longer.starts_with(kept));
            for prefix in prefixes {
                dictionary::visit_from(run, attribute, prefix, &mut |value| {
                    let passes = value.bytes.starts_with(prefix);
                    if passes {
                        take((value.code, value.count, value.blocks.bits(zones)));
                    }
                    passes
                })?;
            }
        }
        By::Contains(texts) => {
            dictionary::visit_from(run, attribute, b"", &mut |value| {
                if texts.any_in(value.bytes) {
                    take((value.code, value.count, value.blocks.bits(zones)));
                }
                true
            })?;
        }
    }
    Ok(())
}

/// Whether the value in a stored trace meets a predicate.
fn meets_in(predicate: &Predicate, stored: &[u8]) -> bool {
    trace::parse_stored(stored)
        .is_ok_and(|trace| predicate.matches(trace.value(predicate.attribute).map(indexed)))
}

/// Those of a source's ordinals that lie in a block, as indexes of the block.
fn within(ordinals: &[u32], block: usize, length: usize) -> impl Iterator<Item = usize> {
    let start = block * BLOCK;
    let from = ordinals.partition_point(|at| (*at as usize) < start);
    ordinals[from..].iter().map(move |at| *at as usize - start).take_while(move |at| *at < length)
}

fn test_ranges<R: Readable>(
    source: &Source<'_, R>,
    block: usize,
    ranges: &Ranges,
    mask: &mut Mask,
) -> Read<(), R> {
    let extent = source.extent(block);
    if !covers(&ranges.offsets, extent.offsets) && !mask.is_empty() {
        let places;
        let offsets = match source {
            Source::Run(run) => {
                places = run.places(block)?;
                &places.offsets
            }
            _ => source.columns().map_or(&[][..], |columns| &columns.offsets),
        };
        let at = |bound: Offset| offsets.partition_point(|offset| *offset < bound);
        mask.keep_range(at(ranges.offsets.start)..at(ranges.offsets.end));
    }
    for (section, range, ends) in [
        (Section::StreamTimes, &ranges.stream_ms, extent.stream_ms),
        (Section::Times, &ranges.time_ms, extent.time_ms),
    ] {
        if !covers(range, ends) && !mask.is_empty() {
            let mut numbers = Vec::new();
            let numbers = match (source, source.columns()) {
                (Source::Run(run), _) => {
                    run.times(section, block, &mut numbers)?;
                    &numbers
                }
                (_, Some(columns)) if section == Section::Times => &columns.times_ms,
                (_, Some(columns)) => &columns.stream_times_ms,
                (_, None) => &numbers,
            };
            mask.keep_numbers(numbers, range);
        }
    }
    Ok(())
}
