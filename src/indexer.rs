//! The indexer: turns columns into runs, off the hot path.
//!
//! The worker writes a columns row beside each chunk that it closes and tells the [`Backlog`] so.
//! The indexer of the same partition, on a thread of its own, takes rows in where enough have
//! gathered. What it writes is a cache of the chunks: the worker never reads it, and a query finds
//! every trace in a columns row or in a run, in whatever state the index is.
//!
//! **Invariant:** columns rows go in the commit in which their run becomes visible.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use trailproof_topology::key::{self, Table, TrackerId};
use trailproof_topology::run::tier::{self, Tiers};
use trailproof_topology::stage::LoadError;
use trailproof_topology::state::{Change, Changes, Rows};

use crate::store::{Error, StateStore};

/// Rows that one step looks at when the indexer takes stock of what waits.
const STOCK_ROWS_MAX: usize = 1_024;

/// Idle steps after which it takes stock again, in case somebody did not tell.
const STOCK_IDLE_STEPS: u32 = 600;

/// A day and a tracker.
type Group = (u16, TrackerId);

/// How many columns rows wait, by day and tracker. Shared by a worker and its indexer.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    rows: Arc<Mutex<BTreeMap<Group, usize>>>,
}

impl Backlog {
    /// Notes the columns rows of a commit that succeeded.
    pub fn committed(&self, changes: &Changes) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for change in &changes.list {
            if let Change::Put(key, _) = change
                && let Some(group) = group_of(key)
            {
                *rows.entry(group).or_default() += 1;
            }
        }
    }

    /// Rows that wait, over all trackers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Whether no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The group with the most rows, if they are `rows_min`.
    fn most(&self, rows_min: usize) -> Option<Group> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let (group, count) = rows.iter().max_by_key(|(_, count)| **count)?;
        (*count >= rows_min).then_some(*group)
    }

    fn set(&self, group: Group, count: usize) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 {
            rows.remove(&group);
        } else {
            rows.insert(group, count);
        }
    }
}

fn group_of(key: &[u8]) -> Option<Group> {
    if *key.first()? != Table::Columns as u8 {
        return None;
    }
    let day = u16::from_be_bytes(key.get(1..3)?.try_into().ok()?);
    Some((day, key.get(3..19)?.try_into().ok()?))
}

/// A count of the rows that wait, under way.
#[derive(Debug)]
struct Stock {
    /// The next key to look at.
    from: Vec<u8>,
    /// The group it is in, and its rows so far.
    group: Option<(Group, usize)>,
}

impl Stock {
    fn begin() -> Self {
        Self { from: key::whole(Table::Columns).0, group: None }
    }
}

/// Turns one partition's columns into runs.
#[derive(Debug)]
pub struct Indexer<S> {
    store: Arc<S>,
    backlog: Backlog,
    /// Taking stock; `None` when it is done.
    stock: Option<Stock>,
    /// A group whose runs may be due for a merge.
    merging: Option<Group>,
    idle_steps: u32,
    tiers: Tiers,
}

impl<S: StateStore> Indexer<S> {
    /// An indexer that begins by taking stock.
    #[must_use]
    pub fn new(store: Arc<S>, backlog: Backlog) -> Self {
        let (stock, merging, tiers) = (Some(Stock::begin()), None, tier::TIERS);
        Self { store, backlog, stock, merging, idle_steps: 0, tiers }
    }

    /// Takes other tiers than a server's; the answers of queries are the same.
    #[must_use]
    pub fn with_tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = tiers;
        self
    }

    /// Whether the next step may make a run, as far as is known.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.merging.is_some() || self.backlog.most(self.tiers.rows_min).is_some()
    }

    /// Does one piece of work, of at most a million traces. False: there was nothing to do; ask
    /// again after a pause.
    ///
    /// # Errors
    /// The store's, or a damaged row. The work was not done and the step may be made again.
    pub fn step(&mut self) -> Result<bool, LoadError<Error>> {
        if let Some(group) = self.merging.take().or_else(|| self.backlog.most(self.tiers.rows_min))
        {
            let worked = self.work(group)?;
            if worked {
                self.merging = Some(group);
            }
            return Ok(worked);
        }
        if self.stock.is_none() {
            self.idle_steps += 1;
            if self.idle_steps < STOCK_IDLE_STEPS {
                return Ok(false);
            }
            self.stock = Some(Stock::begin());
        }
        self.idle_steps = 0;
        self.take_stock()
    }

    fn work(&self, group: Group) -> Result<bool, LoadError<Error>> {
        let (day, tracker) = group;
        let snapshot = self.store.snapshot();
        let mut taken = 0;
        let worked = tier::step(&snapshot, day, &tracker, self.tiers, &mut |changes| {
            taken += changes
                .list
                .iter()
                .filter(|change| matches!(change, Change::Delete(key) if group_of(key).is_some()))
                .count();
            self.store.commit(&changes).map_err(LoadError::Store)
        })?;
        let mut rows = self.backlog.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = rows.get_mut(&group) {
            // Where no run could be made, what was noted is wrong: the rows have expired.
            *count = if taken > 0 {
                count.saturating_sub(taken)
            } else {
                (*count).min(self.tiers.rows_min.saturating_sub(1))
            };
        }
        Ok(worked)
    }

    /// Counts the rows of one stretch of the columns table.
    fn take_stock(&mut self) -> Result<bool, LoadError<Error>> {
        let Some(Stock { from, group: mut counted }) = self.stock.take() else { return Ok(false) };
        let (_, to) = key::whole(Table::Columns);
        let (mut seen, mut next) = (0, None);
        self.store
            .snapshot()
            .scan(&from, &to, &mut |key, _| {
                if seen == STOCK_ROWS_MAX {
                    next = Some(key.to_vec());
                    return false;
                }
                seen += 1;
                let Some(group) = group_of(key) else { return true };
                match &mut counted {
                    Some((known, count)) if *known == group => *count += 1,
                    _ => {
                        if let Some((known, count)) = counted.replace((group, 1)) {
                            self.backlog.set(known, count);
                        }
                    }
                }
                true
            })
            .map_err(LoadError::Store)?;
        match next {
            Some(from) => self.stock = Some(Stock { from, group: counted }),
            None => {
                if let Some((known, count)) = counted {
                    self.backlog.set(known, count);
                }
            }
        }
        Ok(true)
    }
}
