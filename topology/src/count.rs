//! Counts of the running stretch: what became of each record, by account and for no account.
//!
//! When a cycle ends in a partition, these counts leave as `closed` records and begin again at
//! zero. They are the ledger that lets an auditor add up offsets (I3).
//!
//! **Invariant (I11):** an account's counts are in its own row; nothing is summed over accounts
//! here except what belongs to none.

use std::collections::BTreeMap;

use crate::catalog::tracker_text;
use crate::files::{AccountCounts, Closed, TrackerCounts};
use crate::input::{Millis, Offset};
use crate::invariant;
use crate::key::{Key, Table, TrackerId, single, whole};
use crate::stage::Batch;
use crate::state::Rows;
use crate::varint;

/// Counts of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountCount {
    /// The account's id.
    pub id: String,
    /// Its records.
    pub received: u64,
    /// Resends.
    pub duplicate: u64,
    /// Dead letters that name it.
    pub dead_lettered: u64,
    /// Same id, other content.
    pub conflicts: u64,
    /// Its trackers: traces filed, files sealed.
    pub trackers: Vec<(TrackerId, u64, u64)>,
    dirty: bool,
}

impl AccountCount {
    fn tracker(&mut self, id: &TrackerId) -> &mut (TrackerId, u64, u64) {
        let at = match self.trackers.iter().position(|(other, ..)| other == id) {
            Some(at) => at,
            None => {
                self.trackers.push((*id, 0, 0));
                self.trackers.len() - 1
            }
        };
        &mut self.trackers[at]
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(32);
        for number in [self.received, self.duplicate, self.dead_lettered, self.conflicts] {
            varint::put(&mut row, number);
        }
        for (id, filed, files) in &self.trackers {
            row.extend_from_slice(id);
            varint::put(&mut row, *filed);
            varint::put(&mut row, *files);
        }
        row
    }

    fn decode(id: String, mut row: &[u8]) -> Option<Self> {
        let rest = &mut row;
        let mut count = Self { id, received: varint::take(rest)?, ..Self::default() };
        count.duplicate = varint::take(rest)?;
        count.dead_lettered = varint::take(rest)?;
        count.conflicts = varint::take(rest)?;
        while !rest.is_empty() {
            let tracker = varint::take_bytes(rest, 16)?.try_into().ok()?;
            count.trackers.push((tracker, varint::take(rest)?, varint::take(rest)?));
        }
        Some(count)
    }
}

/// The counts of a stretch that is not closed yet.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// First offset of the stretch.
    pub from: Offset,
    /// Records in it.
    pub records: u64,
    /// Ticks in it.
    pub ticks: u64,
    /// Catalog marks in it.
    pub marks: u64,
    /// Dead letters of no account in it.
    pub dead_lettered: u64,
    /// Offsets in it that hold no record.
    pub absent: u64,
    /// Offsets in it whose records were gone before they were read.
    pub lost: u64,
    accounts: Vec<AccountCount>,
    slots: BTreeMap<String, usize>,
    dirty: Vec<usize>,
}

impl Counts {
    /// A stretch that begins at `from`.
    #[must_use]
    pub fn starting_at(from: Offset) -> Self {
        Self { from, ..Self::default() }
    }

    /// Reads the rows; `None` where one is damaged.
    ///
    /// # Errors
    /// The store's own.
    pub fn load<R: Rows>(rows: &R) -> Result<Option<Self>, R::Error> {
        let mut counts = Self::default();
        let mut intact = true;
        let (from, to) = whole(Table::Count);
        rows.scan(&from, &to, &mut |key, row| {
            intact = if key.len() == 1 { counts.decode_ledger(row) } else { counts.add(key, row) }
                .is_some();
            intact
        })?;
        Ok(intact.then_some(counts))
    }

    fn decode_ledger(&mut self, mut row: &[u8]) -> Option<()> {
        let fields = [
            &mut self.from,
            &mut self.records,
            &mut self.ticks,
            &mut self.marks,
            &mut self.dead_lettered,
        ];
        for field in fields {
            *field = varint::take(&mut row)?;
        }
        // Rows of the first release end here.
        if !row.is_empty() {
            self.absent = varint::take(&mut row)?;
            self.lost = varint::take(&mut row)?;
        }
        Some(())
    }

    fn add(&mut self, key: &[u8], row: &[u8]) -> Option<()> {
        let id = String::from_utf8(key[1..].to_vec()).ok()?;
        let count = AccountCount::decode(id, row)?;
        self.slots.insert(count.id.clone(), self.accounts.len());
        self.accounts.push(count);
        Some(())
    }

    /// The number under which an account counts in this stretch.
    pub fn slot(&mut self, account: &str) -> usize {
        if let Some(slot) = self.slots.get(account) {
            return *slot;
        }
        let slot = self.accounts.len();
        self.accounts.push(AccountCount { id: account.to_owned(), ..AccountCount::default() });
        self.slots.insert(account.to_owned(), slot);
        slot
    }

    /// The counts of a slot, which will be written with the batch.
    pub fn account(&mut self, slot: usize) -> &mut AccountCount {
        let account = &mut self.accounts[slot];
        if !account.dirty {
            account.dirty = true;
            self.dirty.push(slot);
        }
        account
    }

    /// Counts a trace that a tracker filed.
    pub fn filed(&mut self, slot: usize, tracker: &TrackerId) {
        self.account(slot).tracker(tracker).1 += 1;
    }

    /// Counts a file that a tracker sealed.
    pub fn sealed(&mut self, slot: usize, tracker: &TrackerId) {
        self.account(slot).tracker(tracker).2 += 1;
    }

    /// Whether every record of the stretch up to `to` is counted once, and every offset (I3).
    #[must_use]
    pub fn balance(&self, to: Offset) -> bool {
        let accounted: u64 = self.accounts.iter().map(|account| account.received).sum();
        self.records == self.ticks + self.marks + self.dead_lettered + accounted
            && to.checked_sub(self.from) == Some(self.records + self.absent + self.lost)
    }

    /// Whether no tracker filed more of its account's records than there were (I3).
    fn trackers_balance(&self) -> bool {
        self.accounts.iter().all(|account| {
            let (resent, dead) = (account.duplicate, account.dead_lettered);
            account.trackers.iter().all(|(_, filed, _)| {
                invariant::tracker_balanced(account.received, *filed, resent, dead)
            })
        })
    }

    /// Writes what changed since the last batch.
    pub fn finish(&mut self, batch: &mut Batch) {
        for slot in self.dirty.drain(..) {
            let account = &mut self.accounts[slot];
            account.dirty = false;
            let key = Key::of(Table::Count).raw(account.id.as_bytes()).done();
            batch.changes.put(key, account.encode());
        }
        let mut row = Vec::with_capacity(32);
        let Self { from, records, ticks, marks, dead_lettered, absent, lost, .. } = *self;
        for number in [from, records, ticks, marks, dead_lettered, absent, lost] {
            varint::put(&mut row, number);
        }
        batch.changes.put(single(Table::Count), row);
    }

    /// Ends the stretch at `to` and begins the next one there.
    pub fn close(
        &mut self,
        partition: u32,
        to: Offset,
        cycle_start_ms: Millis,
        until_ms: Millis,
        batch: &mut Batch,
    ) -> Closed {
        let (start, end) = whole(Table::Count);
        batch.changes.delete_range(start, end);
        let ended = std::mem::replace(self, Self::starting_at(to));
        assert!(ended.trackers_balance(), "I3: a tracker filed more than there was");
        let accounts = ended
            .slots
            .values()
            .map(|slot| &ended.accounts[*slot])
            .filter(|account| account.received > 0)
            .map(of_account)
            .collect();
        Closed {
            partition,
            from: ended.from,
            to,
            cycle_start_ms,
            until_ms,
            more: false,
            ticks: ended.ticks,
            marks: ended.marks,
            dead_lettered: ended.dead_lettered,
            absent: ended.absent,
            lost: ended.lost,
            accounts,
        }
    }
}

fn of_account(account: &AccountCount) -> AccountCounts {
    let mut trackers: Vec<TrackerCounts> = account
        .trackers
        .iter()
        .map(|(id, filed, files)| TrackerCounts {
            id: tracker_text(id),
            filed: *filed,
            files: *files,
        })
        .collect();
    trackers.sort_by(|one, other| one.id.cmp(&other.id));
    AccountCounts {
        id: account.id.clone(),
        received: account.received,
        duplicate: account.duplicate,
        dead_lettered: account.dead_lettered,
        conflicts: account.conflicts,
        trackers,
    }
}
