//! The way back: a record stage from its rows.
//!
//! **Invariant:** a loaded stage behaves as the one that wrote the rows would have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::count::Counts;
use crate::input::{Millis, Offset, Position};
use crate::key::{Key, SegmentId, Table, TrackerId, day_of, single, whole};
use crate::merkle::leaf_hash;
use crate::pool::Pool;
use crate::record::open::OpenSegments;
use crate::record::{RecordStage, Setup, Tally};
use crate::route::Router;
use crate::segment::{Filing, OpenSegment, Summary};
use crate::stage::{Damage, LoadError};
use crate::state::Rows;
use crate::tail;
use crate::trace::{self, Reader};
use crate::window::Window;

/// The bytes of a row that is one number.
fn eight(row: &[u8], table: &'static str) -> Result<[u8; 8], Damage> {
    row.try_into().map_err(|_| Damage::new(table, "not 8 bytes"))
}

/// Loads a stage; from no rows, the stage before the first record.
pub(super) fn stage<R: Rows>(setup: Setup, rows: &R) -> Result<RecordStage, LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let position = match rows.get(&single(Table::Position)).map_err(LoadError::Store)? {
        None => Position::default(),
        Some(row) => {
            Position::decode(&row).ok_or_else(|| Damage::new("position", "wrong length"))?
        }
    };
    check_savepoint(&position, rows)?;
    let router = load_router(rows)?;
    let counts = Counts::load(rows)
        .map_err(LoadError::Store)?
        .ok_or_else(|| Damage::new("count", "a number is cut short"))?;
    let capacity = router.as_ref().map_or(1, |router| router.catalog().dedup_window);
    let mut stage = RecordStage {
        position,
        open: OpenSegments::bounded(setup.open_bytes_max),
        setup,
        counts,
        slots: vec![None; router.as_ref().map_or(0, |router| router.catalog().accounts.len())],
        window: Window::load(capacity, rows)?,
        sequences: load_sequences(rows)?,
        dirty_sequences: Vec::new(),
        batch_from: None,
        selected: Vec::new(),
        added: Vec::new(),
        tally: Tally::default(),
        reader: Reader::default(),
        router: None,
    };
    if let Some(router) = router {
        load_open(&mut stage, &router, rows)?;
        stage.router = Some(router);
    }
    Ok(stage)
}

/// Rows of another moment lack what only memory held then.
fn check_savepoint<R: Rows>(position: &Position, rows: &R) -> Result<(), LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let row = rows.get(&single(Table::Savepoint)).map_err(LoadError::Store)?;
    let next = row.map_or(Ok(0), |row| eight(&row, "savepoint").map(u64::from_be_bytes))?;
    if next == position.next_offset {
        return Ok(());
    }
    let at = position.next_offset;
    let reason = format!("the rows are those of offset {at}, the last savepoint is of {next}");
    Err(Damage::new("savepoint", reason).into())
}

fn load_router<R: Rows>(rows: &R) -> Result<Option<Router>, LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let Some(row) = rows.get(&single(Table::Catalog)).map_err(LoadError::Store)? else {
        return Ok(None);
    };
    let catalog: Catalog =
        serde_json::from_slice(&row).map_err(|error| Damage::new("catalog", error.to_string()))?;
    Ok(Some(Router::new(Arc::new(catalog))))
}

/// The key of the row that says how early cycles may begin under the catalog in force.
pub(super) fn not_before_key() -> Vec<u8> {
    Key::of(Table::Catalog).u8(0).done()
}

fn load_sequences<R: Rows>(rows: &R) -> Result<BTreeMap<String, u64>, LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let mut sequences = BTreeMap::new();
    let mut intact = true;
    let (from, to) = whole(Table::Sequence);
    rows.scan(&from, &to, &mut |key, row| {
        let rule = String::from_utf8(key[1..].to_vec());
        match (rule, row.try_into()) {
            (Ok(rule), Ok(next)) => {
                sequences.insert(rule, u64::from_be_bytes(next));
            }
            _ => intact = false,
        }
        intact
    })
    .map_err(LoadError::Store)?;
    if intact { Ok(sequences) } else { Err(Damage::new("sequence", "not 8 bytes").into()) }
}

/// The offset that ends a key of a table byte and an offset.
fn offset_of(key: &[u8]) -> Option<Offset> {
    key.get(1..)?.try_into().map(u64::from_be_bytes).ok()
}

/// Reads the segments of the running cycle and fills their open chunks from the tail.
fn load_open<R: Rows>(
    stage: &mut RecordStage,
    router: &Router,
    rows: &R,
) -> Result<(), LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let not_before = match rows.get(&not_before_key()).map_err(LoadError::Store)? {
        None => None,
        Some(row) => Some(Millis::from_be_bytes(eight(&row, "catalog")?)),
    };
    stage.open.set_not_before(not_before);
    stage.open.begin(stage.position.stream_time_ms, router.catalog().cycle_ms);
    let start = stage.open.cycle_ms().unwrap_or_default();
    stage.open.resize(router.trackers().len());
    let mut sealed = BTreeSet::new();
    for (number, tracker) in (0..).zip(router.trackers()) {
        let (from, to) = Key::of(Table::Segment)
            .u16(day_of(start))
            .raw(&tracker.id)
            .u64(start.max(0).unsigned_abs())
            .range();
        let mut damaged = false;
        rows.scan(&from, &to, &mut |key, row| {
            match (SegmentId::parse(key), Summary::decode(row)) {
                (Some((id, _)), Some(summary)) if !summary.sealed => {
                    stage.open.restore(number, OpenSegment::resume(id, summary));
                }
                (Some((id, _)), Some(_)) => {
                    sealed.insert(id);
                }
                _ => damaged = true,
            }
            !damaged
        })
        .map_err(LoadError::Store)?;
        if damaged {
            return Err(Damage::new("segment", "cannot be read").into());
        }
    }
    load_tail(stage, router, &sealed, rows)?;
    stage.open.loaded(stage.position.next_offset);
    Ok(())
}

fn load_tail<R: Rows>(
    stage: &mut RecordStage,
    router: &Router,
    sealed: &BTreeSet<SegmentId>,
    rows: &R,
) -> Result<(), LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let numbers: BTreeMap<TrackerId, u32> =
        router.trackers().iter().zip(0..).map(|(tracker, number)| (tracker.id, number)).collect();
    let (mut intact, mut pool) = (true, Pool::default());
    let (from, to) = whole(Table::Tail);
    rows.scan(&from, &to, &mut |key, row| {
        let from = key.get(..9).and_then(offset_of);
        let refilled = from.zip(tail::unpack(row)).and_then(|(offset, plain)| {
            refill(&mut stage.open, &mut pool, &numbers, sealed, &plain)?;
            stage.open.refilled(offset, plain.len(), &mut pool);
            Some(())
        });
        intact = refilled.is_some();
        intact
    })
    .map_err(LoadError::Store)?;
    if intact { Ok(()) } else { Err(Damage::new("tail", "cannot be unpacked").into()) }
}

/// Puts one tail row's traces back; `None` where the row is damaged.
fn refill(
    open: &mut OpenSegments,
    pool: &mut Pool,
    numbers: &BTreeMap<TrackerId, u32>,
    sealed: &BTreeSet<SegmentId>,
    plain: &[u8],
) -> Option<()> {
    let mut parsed = true;
    // A segment of another cycle was sealed when its cycle ended, or when its length changed.
    let cycle_ms = open.cycle_ms();
    let running = |id: &SegmentId| Some(id.cycle_ms) == cycle_ms && !sealed.contains(id);
    tail::visit(plain, &mut |id, traces| {
        let Some(number) = numbers.get(&id.tracker).filter(|_| running(&id)) else {
            return;
        };
        for entry in traces {
            if open.is_closed(*number, &id, entry.offset) {
                continue;
            }
            let Ok(trace) = trace::parse_stored(entry.stored) else {
                parsed = false;
                return;
            };
            let filing = Filing {
                offset: entry.offset,
                stream_time_ms: entry.stream_time_ms,
                trace: &trace,
                record: entry.stored,
                added: &[],
                leaf: &leaf_hash(entry.stored),
                trace_id: None,
            };
            open.refill(*number, &id, &filing, pool);
        }
    })?;
    parsed.then_some(())
}
