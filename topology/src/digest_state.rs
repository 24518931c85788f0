//! The rows of the digest stage: where they lie and how they are read back.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | position, catalog | single | as in every stage |
//! | chain | tracker, 16 bytes; the ledger 16 zeros | JSON |
//! | pending | interval end, offset in `files` | the record as it came |
//! | boundary | `traces` partition | JSON |
//! | boundary | `u32::MAX` | the schedule, JSON |
//!
//! **Invariant:** a row is written when what it says changes; none is rewritten per record but the
//! boundary of the one partition that the record is about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::digest_chain::Chain;
use crate::digest_window::{Boundary, Interval};
use crate::files::FilesRecord;
use crate::input::{Millis, Offset, Position};
use crate::key::{self, Key, Table, TrackerId};
use crate::stage::{Damage, LoadError};
use crate::state::Rows;

/// Which interval comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    /// Start of the interval that has no digests yet; `None` before the first catalog.
    pub(crate) next_start_ms: Option<Millis>,
    /// Whether an interval before it has.
    pub(crate) digested: bool,
    /// Trackers that make files without verification, as [`crate::digest::unverified_id`] names
    /// them, and those that did since then, with the time when that ended.
    #[serde(default)]
    pub(crate) unverified: BTreeMap<String, Option<Millis>>,
}

impl Schedule {
    /// Follows the catalog, which has these trackers without verification from `now_ms` on.
    pub(crate) fn leave_unverified(&mut self, trackers: &BTreeSet<String>, now_ms: Millis) {
        for (tracker, until_ms) in &mut self.unverified {
            if !trackers.contains(tracker) {
                until_ms.get_or_insert(now_ms);
            }
        }
        self.unverified.extend(trackers.iter().map(|tracker| (tracker.clone(), None)));
    }

    /// The interval up to `end_ms` has its digests.
    pub(crate) fn advance(&mut self, end_ms: Millis) {
        (self.next_start_ms, self.digested) = (Some(end_ms), true);
        self.unverified.retain(|_, until_ms| until_ms.is_none_or(|until_ms| until_ms >= end_ms));
    }
}

/// Everything the stage keeps.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) position: Position,
    pub(crate) catalog: Option<Arc<Catalog>>,
    pub(crate) schedule: Schedule,
    pub(crate) chains: BTreeMap<TrackerId, Chain>,
    pub(crate) boundaries: BTreeMap<u32, Boundary>,
    pub(crate) open: BTreeMap<Millis, Interval>,
}

/// The key of a chain.
pub(crate) fn chain(tracker: &TrackerId) -> Vec<u8> {
    Key::of(Table::Chain).raw(tracker).done()
}

/// The key of a record that no digest has listed.
pub(crate) fn pending(interval_end_ms: Millis, offset: Offset) -> Vec<u8> {
    Key::of(Table::Pending).u64(interval_end_ms.max(0).unsigned_abs()).u64(offset).done()
}

/// The range of the records up to an interval's end.
pub(crate) fn pending_until(end_ms: Millis) -> (Vec<u8>, Vec<u8>) {
    let next = end_ms.max(0).unsigned_abs().saturating_add(1);
    (Key::of(Table::Pending).done(), Key::of(Table::Pending).u64(next).done())
}

/// The key of a `traces` partition's boundary.
pub(crate) fn boundary(partition: u32) -> Vec<u8> {
    Key::of(Table::Boundary).u32(partition).done()
}

/// The key of the schedule.
pub(crate) fn schedule() -> Vec<u8> {
    boundary(u32::MAX)
}

/// A JSON row.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("rows have string keys, so they always serialise")
}

/// Reads back everything.
pub(crate) fn load<R: Rows>(rows: &R) -> Result<Loaded, LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let mut loaded = Loaded::default();
    if let Some(row) = rows.get(&key::single(Table::Position)).map_err(LoadError::Store)? {
        loaded.position = Position::decode(&row).ok_or_else(|| damage("position", &row))?;
    }
    if let Some(row) = rows.get(&key::single(Table::Catalog)).map_err(LoadError::Store)? {
        let catalog = serde_json::from_slice(&row).map_err(|_| damage("catalog", &row))?;
        loaded.catalog = Some(Arc::new(catalog));
    }
    visit(rows, Table::Chain, "chain", |key, row| {
        let tracker = key.try_into().ok()?;
        loaded.chains.insert(tracker, Chain::decode(row)?);
        Some(())
    })?;
    visit(rows, Table::Boundary, "boundary", |key, row| {
        let partition = u32::from_be_bytes(key.try_into().ok()?);
        if partition == u32::MAX {
            loaded.schedule = serde_json::from_slice(row).ok()?;
        } else {
            loaded.boundaries.insert(partition, serde_json::from_slice(row).ok()?);
        }
        Some(())
    })?;
    visit(rows, Table::Pending, "pending", |key, row| {
        let end = u64::from_be_bytes(key.get(..8)?.try_into().ok()?);
        let record = FilesRecord::decode(row).ok()?;
        loaded.open.entry(Millis::try_from(end).ok()?).or_default().add(record);
        Some(())
    })?;
    Ok(loaded)
}

/// Visits the rows of a table, keys without the table's byte, until one cannot be read.
fn visit<R: Rows>(
    rows: &R,
    table: Table,
    name: &'static str,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), LoadError<R::Error>>
where
    R::Error: std::error::Error + 'static,
{
    let (from, to) = key::whole(table);
    let mut damaged = None;
    rows.scan(&from, &to, &mut |key, row| {
        if take(&key[1..], row).is_none() {
            damaged = Some(damage(name, key));
        }
        damaged.is_none()
    })
    .map_err(LoadError::Store)?;
    damaged.map_or(Ok(()), |damage| Err(damage.into()))
}

fn damage(table: &'static str, bytes: &[u8]) -> Damage {
    let start = &bytes[..bytes.len().min(40)];
    Damage::new(table, format!("cannot read {}", data_encoding::HEXLOWER.encode(start)))
}
