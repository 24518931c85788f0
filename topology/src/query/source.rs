//! Sources: where the traces of a query lie in one partition.

use std::sync::Arc;

use crate::columns::Columns;
use crate::input::{Millis, Offset};
use crate::key::{self, SegmentId, Table, TrackerId, day_of};
use crate::parts::Linked;
use crate::query::answer::Bounds;
use crate::query::{OpenView, Query};
use crate::run::reader::Run;
use crate::run::{ChunkId, Read, Readable, whole};
use crate::stage::LoadError;

/// Most columns rows that one query reads in one partition.
pub const ROWS_MAX: usize = 8_192;

/// What a query sees of one partition.
#[derive(Debug)]
pub struct Partition<'a, R> {
    /// Its number.
    pub number: u32,
    /// A snapshot of its rows.
    pub rows: &'a R,
    /// Its open chunks, as of the same commit.
    pub open: &'a OpenView,
    /// The first day whose rows may be read, in days since 1970-01-01 UTC.
    pub days_from: u16,
}

impl<R> Clone for Partition<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Partition<'_, R> {}

/// Traces of one tracker, in offset order, in blocks.
#[derive(Debug)]
pub enum Source<'a, R> {
    /// A part of an open chunk.
    Part(&'a SegmentId, &'a Arc<Linked>, Extent),
    /// A closed chunk that is in no run yet, with the attributes that the query asks about.
    Row(ChunkId, Box<Columns>, Extent),
    /// A run.
    Run(Run<'a, R>),
}

/// What the traces of a block have at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offsets.
    pub offsets: (Offset, Offset),
    /// Stream times.
    pub stream_ms: (Millis, Millis),
    /// Event times.
    pub time_ms: (Millis, Millis),
}

impl Extent {
    fn of(columns: &Columns) -> Option<Self> {
        let ends = |list: &[i64]| Some((*list.first()?, *list.last()?));
        Some(Self {
            offsets: (*columns.offsets.first()?, *columns.offsets.last()?),
            stream_ms: ends(&columns.stream_times_ms)?,
            time_ms: (*columns.times_ms.iter().min()?, *columns.times_ms.iter().max()?),
        })
    }
}

impl<'a, R: Readable> Source<'a, R> {
    /// How many blocks there are: one, but for runs.
    #[must_use]
    pub fn blocks(&self) -> usize {
        match self {
            Self::Part(..) | Self::Row(..) => 1,
            Self::Run(run) => run.header.zones.len(),
        }
    }

    /// Traces of a block.
    #[must_use]
    pub fn block_len(&self, block: usize) -> usize {
        match self {
            Self::Run(run) => run.header.block_len(block),
            _ => self.columns().map_or(0, Columns::len),
        }
    }

    /// The extent of a block.
    #[must_use]
    pub fn extent(&self, block: usize) -> Extent {
        match self {
            Self::Part(_, _, extent) | Self::Row(_, _, extent) => *extent,
            Self::Run(run) => {
                let (header, zone) = (&run.header, &run.header.zones[block]);
                Extent {
                    offsets: (zone.first_offset, header.offset_bound(block)),
                    stream_ms: (zone.stream_min_ms, header.stream_bound_ms(block)),
                    time_ms: (zone.time_min_ms, zone.time_max_ms),
                }
            }
        }
    }

    /// The columns of a source that is no run.
    #[must_use]
    pub fn columns(&self) -> Option<&Columns> {
        match self {
            Self::Part(_, part, _) => Some(part.columns()),
            Self::Row(_, columns, _) => Some(columns),
            Self::Run(_) => None,
        }
    }
}

/// Gathers the sources of a query in one partition.
///
/// # Errors
/// The store's, or a damaged row.
pub fn gather<'a, R: Readable>(
    query: &Query,
    partition: Partition<'a, R>,
    bounds: &mut Bounds,
) -> Read<Vec<Source<'a, R>>, R> {
    let mut sources = Vec::new();
    let days = days(query, &partition)?;
    let mut rows_left = ROWS_MAX;
    for tracker in &query.trackers {
        let open = partition.open.trackers.get(tracker);
        let mut open: Vec<_> = open.into_iter().flat_map(|segments| segments.iter()).collect();
        open.sort_unstable_by(|one, other| one.segment.service.cmp(&other.segment.service));
        for segment in open {
            let mut parts: Vec<_> = segment.parts.newest_first().collect();
            parts.reverse();
            for part in parts {
                if let Some(extent) = Extent::of(part.columns())
                    && overlaps(query, &extent)
                {
                    sources.push(Source::Part(&segment.segment, part, extent));
                }
            }
        }
        for day in days.clone() {
            let from = sources.len();
            let runs = Run::all_of(partition.rows, day, tracker)?;
            let columns_from_ms = runs.iter().map(|run| run.header.columns_from_ms).max();
            sources.extend(runs.into_iter().map(Source::Run));
            gather_rows(
                query,
                partition.rows,
                (day, tracker, columns_from_ms),
                &mut rows_left,
                &mut sources,
            )?;
            debug_assert!(from <= sources.len());
        }
    }
    bounds.rows_cut |= rows_left == 0;
    Ok(sources)
}

fn gather_rows<'a, R: Readable>(
    query: &Query,
    rows: &'a R,
    (day, tracker, columns_from_ms): (u16, &TrackerId, Option<Millis>),
    rows_left: &mut usize,
    sources: &mut Vec<Source<'a, R>>,
) -> Read<(), R> {
    if *rows_left == 0 {
        return Ok(());
    }
    let (mut from, to) = key::tracker_day(Table::Columns, day, tracker);
    if let Some(columns_from_ms) = columns_from_ms {
        // Before this cycle there are only the tombstones of rows that runs took in.
        from.extend_from_slice(&columns_from_ms.max(0).to_be_bytes());
    }
    let (mut intact, wanted) = (true, query.attributes());
    rows.scan(&from, &to, &mut |key, row| {
        let (Some(chunk), Some(columns)) = (ChunkId::parse(key), Columns::decode_of(row, wanted))
        else {
            intact = false;
            return false;
        };
        if let Some(extent) = Extent::of(&columns)
            && overlaps(query, &extent)
        {
            sources.push(Source::Row(chunk, Box::new(columns), extent));
        }
        *rows_left -= 1;
        *rows_left > 0
    })
    .map_err(LoadError::Store)?;
    whole(intact.then_some(()), "a columns row does not decode")
}

fn overlaps(query: &Query, extent: &Extent) -> bool {
    let (stream, time) = (&query.stream_ms, &query.time_ms);
    extent.stream_ms.0 < stream.end
        && extent.stream_ms.1 >= stream.start
        && extent.time_ms.0 < time.end
        && extent.time_ms.1 >= time.start
}

/// The days whose rows may hold traces of the query's stream times: a day's rows are those of the
/// cycles that begin in it, so its last traces may be of the next.
fn days<R: Readable>(
    query: &Query,
    partition: &Partition<'_, R>,
) -> Read<std::ops::RangeInclusive<u16>, R> {
    let rows = partition.rows;
    let (mut first, mut last) = (u16::MAX, 0);
    for table in [Table::Columns, Table::RunHeader] {
        let from = key::days_before(table, partition.days_from).1;
        let (_, to) = key::whole(table);
        let day = |key: &[u8]| key.get(1..3).map_or(0, |d| u16::from_be_bytes([d[0], d[1]]));
        rows.scan(&from, &to, &mut |key, _| {
            first = first.min(day(key));
            false
        })
        .map_err(LoadError::Store)?;
        rows.scan_back(&from, &to, &mut |key, _| {
            last = last.max(day(key));
            false
        })
        .map_err(LoadError::Store)?;
    }
    let wanted_first = day_of(query.stream_ms.start).saturating_sub(1);
    Ok(first.max(wanted_first)..=last.min(day_of(query.stream_ms.end)))
}
