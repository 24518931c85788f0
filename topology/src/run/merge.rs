//! Making a run: from columns, or from smaller runs. Both are the same merge.
//!
//! The sources' traces are put in offset order once, as a plan; within a source they are in that
//! order already, so for every attribute each source is read forward once, and its codes go where
//! the plan says. Memory is the plan with its ordinals, 12 bytes a trace, and of one attribute
//! dictionary and codes, or hashes.

use crate::attribute::{ATTRIBUTES, Attribute};
use crate::columns::{Columns, value_hash};
use crate::input::{Millis, Offset};
use crate::pack;
use crate::run::dictionary::{self, Writer};
use crate::run::place::Places;
use crate::run::reader::{Run, encode_bucket};
use crate::run::union::{Remap, Union};
use crate::run::uses::{self, Use};
use crate::run::{
    BLOCK, ChunkId, Header, NO_ATTRIBUTE, Read, Readable, RunId, Section, Shape, TRACES_MAX,
    VALUES_MAX, Zone, bucket_of, whole,
};
use crate::state::Changes;

/// Most sources of one merge: the plan has a byte for them.
pub const SOURCES_MAX: usize = 256;

/// What a run is made from.
#[derive(Debug)]
pub enum Source<'a, R> {
    /// Columns of a closed chunk.
    Columns(ChunkId, Box<Columns>),
    /// A smaller run.
    Run(Run<'a, R>),
}

impl<R: Readable> Source<'_, R> {
    /// Traces in the source.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Columns(_, columns) => columns.len(),
            Self::Run(run) => run.header.count,
        }
    }

    fn times(&self, section: Section, block: usize, numbers: &mut Vec<i64>) -> Read<(), R> {
        match self {
            Self::Columns(_, columns) if section == Section::StreamTimes => {
                numbers.extend_from_slice(&columns.stream_times_ms);
                Ok(())
            }
            Self::Columns(_, columns) => {
                numbers.extend_from_slice(&columns.times_ms);
                Ok(())
            }
            Self::Run(run) => run.times(section, block, numbers),
        }
    }

    fn is_hashed(&self, attribute: Attribute) -> bool {
        match self {
            Self::Columns(..) => attribute == Attribute::TraceId,
            Self::Run(run) => run.shape(attribute) == Shape::Hashes,
        }
    }

    /// Visits the values of a dictionary in order of their codes, from 1 on, until `visit` returns
    /// false.
    fn visit_values(
        &self,
        attribute: Attribute,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Read<(), R> {
        match self {
            Self::Columns(_, columns) => {
                let _stopped = !columns.attributes[attribute as usize].values().all(visit);
                Ok(())
            }
            Self::Run(run) => {
                dictionary::visit_from(run, attribute, b"", &mut |value| visit(value.bytes))
            }
        }
    }

    /// Visits the codes of an attribute, which has so many values, each with the ordinal of its
    /// trace.
    fn visit_codes(
        &self,
        attribute: Attribute,
        values: usize,
        mut ordinals: &[u32],
        visit: &mut impl FnMut(u32, u16),
    ) -> Read<(), R> {
        let (mut buffer, mut block) = (Vec::new(), 0);
        while !ordinals.is_empty() {
            let codes = match self {
                Self::Columns(_, columns) => {
                    let codes = &columns.attributes[attribute as usize].codes;
                    let same = codes.len() == ordinals.len();
                    whole(same.then_some(()), "a source has more traces than codes")?;
                    codes
                }
                Self::Run(run) => {
                    buffer.clear();
                    buffer.reserve(BLOCK);
                    run.codes(attribute, block, &mut buffer)?;
                    &buffer
                }
            };
            let known = codes.iter().max().is_some_and(|most| usize::from(*most) <= values);
            whole(known.then_some(()), "codes do not fit their dictionary")?;
            let (own, rest) = ordinals.split_at(codes.len().min(ordinals.len()));
            own.iter().zip(codes).for_each(|(ordinal, code)| visit(*ordinal, *code));
            (ordinals, block) = (rest, block + 1);
        }
        Ok(())
    }
}

/// A run in the making.
#[derive(Debug)]
pub struct Merge<'s, 'a, R> {
    sources: &'s [Source<'a, R>],
    /// Per ordinal: the offset, then 8 bits of source.
    plan: Vec<u64>,
    /// The ordinals of each source's traces, ascending, one source after another.
    ordinals: Vec<u32>,
    /// Where each source begins in `ordinals`; then its length.
    starts: Vec<usize>,
    header: Header,
}

impl<'s, 'a, R: Readable> Merge<'s, 'a, R> {
    /// Plans a run of `level` over 1 to [`SOURCES_MAX`] sources of one tracker and day, which hold
    /// together 1 to [`TRACES_MAX`] traces. `columns_from_ms`: see [`Header`].
    ///
    /// # Errors
    /// The store's, or a damaged row.
    ///
    /// # Panics
    /// Where the sources are outside these bounds.
    pub fn plan(
        day: u16,
        level: u8,
        columns_from_ms: Millis,
        sources: &'s [Source<'a, R>],
    ) -> Read<Self, R> {
        let count: usize = sources.iter().map(Source::count).sum();
        assert!(sources.len() <= SOURCES_MAX, "a run is made from at most {SOURCES_MAX} sources");
        assert!((1..=TRACES_MAX).contains(&count), "a run holds 1 to {TRACES_MAX} traces");
        let mut plan = Vec::with_capacity(count);
        let mut tracker = [0; 16];
        for (at, source) in (0u64..).zip(sources) {
            let mut add = |offsets: &[Offset]| plan.extend(offsets.iter().map(|o| (o << 8) | at));
            match source {
                Source::Columns(chunk, columns) => {
                    tracker = chunk.segment.tracker;
                    add(&columns.offsets);
                }
                Source::Run(run) => {
                    tracker = run.header.id.tracker;
                    for block in 0..run.header.zones.len() {
                        add(&run.places(block)?.offsets);
                    }
                }
            }
        }
        // Stable, because it profits from the sources being sorted.
        plan.sort();
        let (ordinals, starts) = ordinals(&plan, sources);
        let first_offset = plan[0] >> 8;
        let header = Header {
            id: RunId { day, tracker, first_offset, level },
            count,
            last_offset: plan[count - 1] >> 8,
            stream_max_ms: 0,
            columns_from_ms,
            shapes: [Shape::Absent; ATTRIBUTES],
            zones: Vec::with_capacity(count.div_ceil(BLOCK)),
        };
        Ok(Self { sources, plan, ordinals, starts, header })
    }

    /// The sources, each with the ordinals of its traces.
    fn spread(&self) -> impl Iterator<Item = (&'s Source<'a, R>, &[u32])> {
        let ordinals = self.starts.windows(2).map(|ends| &self.ordinals[ends[0]..ends[1]]);
        self.sources.iter().zip(ordinals)
    }

    /// The header; complete after [`Merge::write`].
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes all rows but the header: removes what an earlier attempt may have left, then one set
    /// of changes for the times and one for each attribute.
    ///
    /// # Errors
    /// The store's, a damaged row, or what `sink` returns.
    pub fn write(&mut self, sink: &mut dyn FnMut(Changes) -> Read<(), R>) -> Read<(), R> {
        let mut changes = Changes::default();
        let (from, to) = self.header.id.data();
        changes.delete_range(from, to);
        self.times(&mut changes)?;
        self.places(&mut changes)?;
        sink(changes)?;
        for attribute in Attribute::ALL {
            let mut changes = Changes::default();
            self.attribute(attribute, &mut changes)?;
            if !changes.list.is_empty() {
                sink(changes)?;
            }
        }
        Ok(())
    }

    fn times(&mut self, changes: &mut Changes) -> Read<(), R> {
        let id = self.header.id;
        for section in [Section::StreamTimes, Section::Times] {
            let mut feeds = vec![Feed::default(); self.sources.len()];
            let mut numbers = Vec::with_capacity(BLOCK);
            for (block, plan) in self.plan.chunks(BLOCK).enumerate() {
                numbers.clear();
                for entry in plan {
                    let at = usize::from(*entry as u8);
                    numbers
                        .push(feeds[at].next(|block, buffer| {
                            self.sources[at].times(section, block, buffer)
                        })?);
                }
                let mut row = Vec::with_capacity(numbers.len() * 3);
                pack::put_numbers(&mut row, &numbers);
                changes.put(id.section(section, NO_ATTRIBUTE).u32(block as u32).done(), row);
                let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
                if section == Section::StreamTimes {
                    self.header.stream_max_ms = last;
                    self.header.zones.push(Zone {
                        first_offset: plan[0] >> 8,
                        stream_min_ms: first,
                        time_min_ms: 0,
                        time_max_ms: 0,
                    });
                } else {
                    let zone = &mut self.header.zones[block];
                    zone.time_min_ms = numbers.iter().copied().min().unwrap_or(0);
                    zone.time_max_ms = numbers.iter().copied().max().unwrap_or(0);
                }
            }
        }
        Ok(())
    }

    fn places(&self, changes: &mut Changes) -> Read<(), R> {
        let mut feeds = vec![PlaceFeed::default(); self.sources.len()];
        for (block, plan) in self.plan.chunks(BLOCK).enumerate() {
            let mut places = Places::default();
            feeds.iter_mut().for_each(PlaceFeed::forget);
            for entry in plan {
                let at = usize::from(*entry as u8);
                places.offsets.push(entry >> 8);
                let code = feeds[at].next(&self.sources[at], &mut places.chunks)?;
                places.codes.push(code);
            }
            let id = &self.header.id;
            let key = id.section(Section::Places, NO_ATTRIBUTE).u32(block as u32).done();
            changes.put(key, places.encode());
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: Attribute, changes: &mut Changes) -> Read<(), R> {
        let mut union = Union::default();
        let mut hashed = self.sources.iter().any(|source| source.is_hashed(attribute));
        if !hashed {
            for source in self.sources {
                union.begin();
                source.visit_values(attribute, &mut |value| union.push(value))?;
            }
            hashed = union.len() > VALUES_MAX;
        }
        if hashed {
            self.header.shapes[attribute as usize] = Shape::Hashes;
            return self.hashes(attribute, changes);
        }
        union.sort();
        let values = union.len();
        let remap = union.remap();
        let mut uses = vec![Use::default(); values + 1];
        let shape = &mut self.header.shapes[attribute as usize];
        *shape = Shape::Absent;
        if values > 0 {
            let width = pack::width_of(values as u16);
            let before = changes.list.len();
            self.codes(attribute, &remap, width, &mut uses, changes)?;
            let everywhere = values == 1 && uses[1].count as usize == self.header.count;
            if everywhere {
                changes.list.truncate(before);
            }
            let width = if everywhere { 0 } else { width };
            let shape = &mut self.header.shapes[attribute as usize];
            *shape = Shape::Dictionary { values: values as u16, width };
            let zones = self.header.zones.len();
            let mut writer = Writer::new(self.header.id, attribute as u8, zones, changes);
            for (value, Use { count, blocks }) in union.values().zip(&uses[1..]) {
                writer.push(value, *count, *blocks);
            }
            writer.finish();
        }
        Ok(())
    }

    fn codes(
        &self,
        attribute: Attribute,
        remap: &Remap,
        width: u8,
        uses: &mut [Use],
        changes: &mut Changes,
    ) -> Read<(), R> {
        let mut codes = vec![0; self.header.count];
        for (at, (source, ordinals)) in self.spread().enumerate() {
            let new = remap.of(at);
            let values = new.len() - 1;
            // Without values every code is 0, and stays that.
            if values > 0 {
                source.visit_codes(attribute, values, ordinals, &mut |ordinal, code| {
                    codes[ordinal as usize] = new[usize::from(code)];
                })?;
            }
        }
        for (block, codes) in codes.chunks(BLOCK).enumerate() {
            uses::add(codes, block, uses);
            let mut row = Vec::with_capacity(pack::codes_len(codes.len(), width));
            pack::put_codes(&mut row, codes, width);
            let id = &self.header.id;
            changes.put(id.section(Section::Codes, attribute as u8).u32(block as u32).done(), row);
        }
        Ok(())
    }

    fn hashes(&self, attribute: Attribute, changes: &mut Changes) -> Read<(), R> {
        let mut all = Vec::with_capacity(self.header.count);
        let mut add =
            |hash: u32, ordinal: u32| all.push((u64::from(hash) << 32) | u64::from(ordinal));
        for (source, ordinals) in self.spread() {
            match source {
                Source::Columns(_, columns) if attribute == Attribute::TraceId => {
                    for (hash, ordinal) in columns.trace_ids.iter().zip(ordinals) {
                        if *hash != 0 {
                            add(*hash, *ordinal);
                        }
                    }
                }
                Source::Run(run) if run.shape(attribute) == Shape::Hashes => {
                    run.visit_hashes(attribute, &mut |hash, at| add(hash, ordinals[at as usize]))?;
                }
                _ => {
                    let mut hashes = vec![0];
                    source.visit_values(attribute, &mut |value| {
                        hashes.push(value_hash(value));
                        true
                    })?;
                    let values = hashes.len() - 1;
                    source.visit_codes(attribute, values, ordinals, &mut |ordinal, code| {
                        if code != 0 {
                            add(hashes[usize::from(code)], ordinal);
                        }
                    })?;
                }
            }
        }
        all.sort_unstable();
        let id = &self.header.id;
        let row_of = |entry: u64| bucket_of((entry >> 32) as u32, self.header.count);
        for hashes in all.chunk_by(|a, b| row_of(*a) == row_of(*b)) {
            let row = row_of(hashes[0]);
            let key = id.section(Section::Hashes, attribute as u8).u32(row).done();
            changes.put(key, encode_bucket(hashes, self.header.count));
        }
        Ok(())
    }
}

/// The ordinals of each source's traces, and where each source begins.
fn ordinals<R: Readable>(plan: &[u64], sources: &[Source<'_, R>]) -> (Vec<u32>, Vec<usize>) {
    let mut starts = vec![0];
    for source in sources {
        starts.push(starts[starts.len() - 1] + source.count());
    }
    let (mut next, mut ordinals) = (starts.clone(), vec![0; plan.len()]);
    for (ordinal, entry) in (0u32..).zip(plan) {
        let next = &mut next[usize::from(*entry as u8)];
        ordinals[*next] = ordinal;
        *next += 1;
    }
    (ordinals, starts)
}

/// Reads the times of a source forward, a block at a time.
#[derive(Clone, Debug, Default)]
struct Feed {
    buffer: Vec<Millis>,
    at: usize,
    block: usize,
}

impl Feed {
    #[inline]
    fn next<E>(
        &mut self,
        fill: impl FnOnce(usize, &mut Vec<Millis>) -> Result<(), E>,
    ) -> Result<Millis, E> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            fill(self.block, &mut self.buffer)?;
            (self.at, self.block) = (0, self.block + 1);
        }
        let item = self.buffer[self.at];
        self.at += 1;
        Ok(item)
    }
}

/// Reads the chunks of a source's traces forward.
#[derive(Clone, Debug, Default)]
struct PlaceFeed {
    places: Places,
    /// Per chunk of `places`: one more than its index in the block being written, or 0.
    known: Vec<u16>,
    at: usize,
    block: usize,
}

impl PlaceFeed {
    /// Another block is being written: indexes start again.
    fn forget(&mut self) {
        self.known.fill(0);
    }

    fn next<R: Readable>(
        &mut self,
        source: &Source<'_, R>,
        chunks: &mut Vec<ChunkId>,
    ) -> Read<u16, R> {
        let local = match source {
            Source::Columns(..) => {
                self.known.resize(1, 0);
                0
            }
            Source::Run(run) => {
                if self.at == self.places.codes.len() {
                    self.places = run.places(self.block)?;
                    self.known = vec![0; self.places.chunks.len()];
                    (self.at, self.block) = (0, self.block + 1);
                }
                self.at += 1;
                usize::from(self.places.codes[self.at - 1])
            }
        };
        if self.known[local] == 0 {
            let chunk = match source {
                Source::Columns(chunk, _) => chunk,
                Source::Run(_) => &self.places.chunks[local],
            };
            // One chunk may come twice from two blocks of a run: the first index serves both.
            let index = chunks.iter().position(|known| known == chunk).unwrap_or_else(|| {
                chunks.push(chunk.clone());
                chunks.len() - 1
            });
            self.known[local] = index as u16 + 1;
        }
        Ok(self.known[local] - 1)
    }
}
