//! Tiers: when columns become a run, and small runs a larger one.
//!
//! Columns rows of a tracker and day wait until there are [`Tiers::rows_min`]; then the oldest
//! become a run of level 0. [`Tiers::fan_in`] runs of one level become one of the next, as long as
//! it holds at most [`TRACES_MAX`] traces; a run over half of that is left alone. Full chunks hold
//! about 330 traces, so 16 runs of level 0 make one of a million: a trace is indexed twice, and a
//! tracker's day has few runs.

use crate::columns::Columns;
use crate::input::Millis;
use crate::key::{self, Table, TrackerId};
use crate::run::merge::{Merge, Source};
use crate::run::reader::Run;
use crate::run::{ChunkId, Read, Readable, TRACES_MAX, whole};
use crate::stage::LoadError;
use crate::state::Changes;

/// When rows become a run, and runs a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiers {
    /// Columns rows that make a run of level 0.
    pub rows_min: usize,
    /// Runs of one level that make one of the next.
    pub fan_in: usize,
}

/// The tiers of a server. Any others give the same answers.
pub const TIERS: Tiers = Tiers { rows_min: 192, fan_in: 16 };

/// Most columns rows that one step takes in.
pub const ROWS_MAX: usize = 256;

/// Most traces of the columns rows that one step takes in.
const ROWS_TRACES_MAX: usize = 128 * 1024;

/// Does what is to be done next for a tracker's day: makes a run of columns or merges runs. Says
/// whether there was anything. Each set of changes is to be committed before the next is asked for;
/// what it changes is visible to queries with the last one, all at once.
///
/// # Errors
/// The store's, a damaged row, or what `sink` returns.
pub fn step<R: Readable>(
    rows: &R,
    day: u16,
    tracker: &TrackerId,
    tiers: Tiers,
    sink: &mut dyn FnMut(Changes) -> Read<(), R>,
) -> Read<bool, R> {
    let runs = Run::all_of(rows, day, tracker)?;
    let columns_from_ms = runs.iter().map(|run| run.header.columns_from_ms).max();
    if let Some((sources, columns_from_ms)) =
        waiting(rows, day, tracker, columns_from_ms, tiers.rows_min)?
    {
        write(day, 0, columns_from_ms, &sources, sink)?;
        return Ok(true);
    }
    let Some((level, chosen)) = tier(runs, tiers.fan_in) else { return Ok(false) };
    let columns_from_ms = chosen.iter().map(|run| run.header.columns_from_ms).max().unwrap_or(0);
    let sources: Vec<_> = chosen.into_iter().map(Source::Run).collect();
    write(day, level + 1, columns_from_ms, &sources, sink)?;
    Ok(true)
}

/// The oldest columns rows, and the cycle from which on there may be more; `None` where there are
/// fewer than `rows_min`.
#[expect(clippy::type_complexity, reason = "named nowhere else")]
fn waiting<'a, R: Readable>(
    rows: &'a R,
    day: u16,
    tracker: &TrackerId,
    columns_from_ms: Option<Millis>,
    rows_min: usize,
) -> Read<Option<(Vec<Source<'a, R>>, Millis)>, R> {
    let (mut from, to) = key::tracker_day(Table::Columns, day, tracker);
    from.extend_from_slice(&columns_from_ms.unwrap_or(0).max(0).to_be_bytes());
    let (mut sources, mut traces, mut next_ms, mut intact) = (Vec::new(), 0, None, true);
    rows.scan(&from, &to, &mut |key, row| {
        let Some(chunk) = ChunkId::parse(key) else {
            intact = false;
            return false;
        };
        if sources.len() == ROWS_MAX || traces >= ROWS_TRACES_MAX {
            next_ms = Some(chunk.segment.cycle_ms);
            return false;
        }
        let Some(columns) = Columns::decode(row) else {
            intact = false;
            return false;
        };
        traces += columns.len();
        next_ms = Some(chunk.segment.cycle_ms);
        sources.push(Source::Columns(chunk, Box::new(columns)));
        true
    })
    .map_err(LoadError::Store)?;
    whole(intact.then_some(()), "a columns row does not decode")?;
    let enough = sources.len() >= rows_min.max(1) && traces > 0;
    Ok(next_ms.filter(|_| enough).map(|next_ms| (sources, next_ms)))
}

/// The runs to merge next, and their level.
fn tier<R: Readable>(runs: Vec<Run<'_, R>>, fan_in: usize) -> Option<(u8, Vec<Run<'_, R>>)> {
    let small = |run: &Run<'_, R>| run.header.count <= TRACES_MAX / 2;
    let level = (0..u8::MAX).take(64).find(|level| {
        let of_level = |run: &&Run<'_, R>| run.header.id.level == *level && small(run);
        runs.iter().filter(of_level).count() >= fan_in
    })?;
    let mut traces = 0;
    let chosen = runs
        .into_iter()
        .filter(|run| run.header.id.level == level && small(run))
        .take(fan_in)
        .take_while(|run| {
            traces += run.header.count;
            traces <= TRACES_MAX
        })
        .collect();
    Some((level, chosen))
}

fn write<R: Readable>(
    day: u16,
    level: u8,
    columns_from_ms: Millis,
    sources: &[Source<'_, R>],
    sink: &mut dyn FnMut(Changes) -> Read<(), R>,
) -> Read<(), R> {
    let mut merge = Merge::plan(day, level, columns_from_ms, sources)?;
    merge.write(sink)?;
    let mut changes = Changes::default();
    changes.put(merge.header().id.header(), merge.header().encode());
    for source in sources {
        match source {
            Source::Columns(chunk, _) => changes.delete(chunk.key(Table::Columns)),
            Source::Run(run) => {
                changes.delete(run.header.id.header());
                let (from, to) = run.header.id.data();
                changes.delete_range(from, to);
            }
        }
    }
    sink(changes)
}
