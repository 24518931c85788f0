//! The open intervals of the digest stage: files and counts that no digest has listed yet.
//!
//! Every record is kept as it came, under the end of its interval, so that the rows of a finished
//! interval go with one range deletion and a restart reads back exactly what is open.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, tracker_key};
use crate::digest::{Coverage, LedgerCoverage, LogFile, TrackerCoverage};
use crate::files::{AccountCounts, Closed, File, FilesRecord};
use crate::input::{Millis, Offset};
use crate::invariant;
use crate::key::TrackerId;

/// How far a `traces` partition is known. Its row, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boundary {
    /// One past the last offset of the finished stretches.
    pub(crate) to: Offset,
    /// Stream time that the partition has reached.
    pub(crate) until_ms: Millis,
    /// One past the last offset that a digest covers.
    pub(crate) digested_to: Offset,
    /// A stretch whose last record has not come yet: its end, and the records told so far.
    pub(crate) open: Option<(Offset, u64)>,
    /// The interval of the stretch that is being told, by its end.
    pub(crate) interval_ms: Option<Millis>,
    /// The interval of the last finished stretch.
    pub(crate) last_interval_ms: Millis,
}

/// Counts of one account in one partition.
#[derive(Clone, Debug, Default)]
struct Sums {
    received: u64,
    duplicate: u64,
    dead_lettered: u64,
    conflicts: u64,
    filed: BTreeMap<TrackerId, u64>,
}

/// What came in for one interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interval {
    files: BTreeMap<TrackerId, Vec<File>>,
    accounts: BTreeMap<(String, u32), Sums>,
    partitions: BTreeMap<u32, LedgerCoverage>,
}

/// The end of the interval that `time_ms` lies in.
pub(crate) fn interval_end(time_ms: Millis, interval_ms: Millis) -> Millis {
    let interval_ms = interval_ms.max(1);
    time_ms.max(0).div_euclid(interval_ms).saturating_add(1).saturating_mul(interval_ms)
}

/// Refuses a record that cannot be true, before anything is kept of it.
pub(crate) fn check(
    record: &FilesRecord,
    catalog: &Catalog,
    boundaries: &BTreeMap<u32, Boundary>,
    ledger: bool,
) -> Result<(), String> {
    let partition = match record {
        FilesRecord::File(file) => file.partition,
        FilesRecord::Closed(closed) => closed.partition,
    };
    if partition >= catalog.traces_partitions {
        return Err(format!("traces has no partition {partition}"));
    }
    let boundary = boundaries.get(&partition).cloned().unwrap_or_default();
    match record {
        FilesRecord::File(file) => check_file(file, &boundary),
        FilesRecord::Closed(closed) => check_closed(closed, &boundary, ledger),
    }
}

fn check_file(file: &File, boundary: &Boundary) -> Result<(), String> {
    let hex = |text: &str| {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if tracker_key(&file.tracker).is_none() {
        return Err(format!("tracker {:?} is no UUID", file.tracker));
    }
    if !hex(&file.sha256) || !hex(&file.root) || !file.content_sha256.as_deref().is_none_or(hex) {
        return Err(format!("a hash of {:?} is not 64 digits of lower-case hex", file.object));
    }
    if file.bucket.is_empty() || file.object.is_empty() {
        return Err("a file without bucket or object".to_owned());
    }
    let span = file.last_offset.checked_sub(file.first_offset);
    if file.count == 0 || span.is_none_or(|span| span < file.count - 1) {
        return Err(format!("the offsets of {:?} do not fit its count", file.object));
    }
    if file.cycle_start_ms >= file.cycle_end_ms || file.first_offset < boundary.to {
        return Err(format!("{:?} is of a stretch that is finished", file.object));
    }
    Ok(())
}

fn check_closed(closed: &Closed, boundary: &Boundary, ledger: bool) -> Result<(), String> {
    let place = format!("partition {} [{}, {})", closed.partition, closed.from, closed.to);
    // The first stretch begins where the log does, which need not be 0.
    let follows = invariant::meets(boundary.to, closed.from) || boundary.is_unknown();
    if !follows || closed.to < closed.from {
        return Err(format!("{place} does not follow offset {}", boundary.to));
    }
    if closed.until_ms < boundary.until_ms || closed.cycle_start_ms > closed.until_ms {
        return Err(format!("{place} goes back in time"));
    }
    let told = match boundary.open {
        Some((to, _)) if to != closed.to => {
            return Err(format!("{place} breaks off a stretch that was not told to its end"));
        }
        open => open.map_or(0, |(_, told)| told),
    };
    let counts = closed.accounts.iter().map(|account| account.received);
    let sum = counts.chain([told]).try_fold(0u64, u64::checked_add);
    let Closed { ticks, marks, dead_lettered, absent, lost, .. } = *closed;
    let rest = [ticks, marks, dead_lettered, absent, lost];
    let all = rest.into_iter().try_fold(sum.unwrap_or(u64::MAX), u64::checked_add);
    let length = closed.to - closed.from;
    // Partition 0 hears of every account; the others only of their own.
    let whole = ledger && !closed.more;
    if all.is_none_or(|all| all > length || (whole && all != length)) {
        return Err(format!("the counts of {place} do not add up"));
    }
    if !closed.accounts.windows(2).all(|pair| pair[0].id < pair[1].id) {
        return Err(format!("the accounts of {place} are not in order"));
    }
    if let Some(account) = closed.accounts.iter().find(|account| !balances(account)) {
        return Err(format!("the counts of account {:?} in {place} do not add up", account.id));
    }
    Ok(())
}

/// Whether no tracker filed more of the account's records than there were.
fn balances(account: &AccountCounts) -> bool {
    let lost = account.duplicate.checked_add(account.dead_lettered);
    let kept = lost.and_then(|lost| account.received.checked_sub(lost));
    let ordered = account.trackers.windows(2).all(|pair| pair[0].id < pair[1].id);
    kept.is_some_and(|kept| {
        account.conflicts <= kept
            && ordered
            && account
                .trackers
                .iter()
                .all(|tracker| tracker.filed <= kept && tracker_key(&tracker.id).is_some())
    })
}

impl Boundary {
    /// The interval that a record of the next stretch belongs to, by its end: one for the whole
    /// stretch, and never an earlier one than the last stretch's.
    pub(crate) fn assign(&mut self, cycle_start_ms: Millis, interval_ms: Millis) -> Millis {
        *self.interval_ms.get_or_insert_with(|| {
            let time_ms = cycle_start_ms.max(self.until_ms);
            interval_end(time_ms, interval_ms).max(self.last_interval_ms)
        })
    }

    /// Whether no stretch of the partition has been finished.
    fn is_unknown(&self) -> bool {
        self.to == 0 && self.until_ms == 0
    }

    /// Takes in a checked record.
    pub(crate) fn advance(&mut self, closed: &Closed) {
        if self.is_unknown() {
            self.digested_to = closed.from;
        }
        let told = self.open.map_or(0, |(_, told)| told);
        if closed.more {
            let more: u64 = closed.accounts.iter().map(|account| account.received).sum();
            self.open = Some((closed.to, told + more));
        } else {
            (self.to, self.until_ms, self.open) = (closed.to, closed.until_ms, None);
            self.last_interval_ms = self.interval_ms.take().unwrap_or(self.last_interval_ms);
        }
    }
}

impl Interval {
    /// Takes in a checked record.
    pub(crate) fn add(&mut self, record: FilesRecord) {
        match record {
            FilesRecord::File(file) => {
                if let Some(tracker) = tracker_key(&file.tracker) {
                    self.files.entry(tracker).or_default().push(file);
                }
            }
            FilesRecord::Closed(closed) => self.add_closed(closed),
        }
    }

    fn add_closed(&mut self, closed: Closed) {
        let sums = self.partitions.entry(closed.partition).or_default();
        sums.to = sums.to.max(closed.to);
        sums.ticks += closed.ticks;
        sums.marks += closed.marks;
        sums.dead_lettered += closed.dead_lettered;
        sums.absent += closed.absent;
        sums.lost += closed.lost;
        for account in closed.accounts {
            sums.accounts_in += account.received;
            let counts = self.accounts.entry((account.id, closed.partition)).or_default();
            for tracker in &account.trackers {
                if let Some(id) = tracker_key(&tracker.id) {
                    *counts.filed.entry(id).or_default() += tracker.filed;
                }
            }
            counts.received += account.received;
            counts.duplicate += account.duplicate;
            counts.dead_lettered += account.dead_lettered;
            counts.conflicts += account.conflicts;
        }
    }

    /// Takes in a later interval: one digest will list both.
    pub(crate) fn merge(&mut self, later: Self) {
        for (tracker, mut files) in later.files {
            self.files.entry(tracker).or_default().append(&mut files);
        }
        for (key, counts) in later.accounts {
            let sums = self.accounts.entry(key).or_default();
            sums.received += counts.received;
            sums.duplicate += counts.duplicate;
            sums.dead_lettered += counts.dead_lettered;
            sums.conflicts += counts.conflicts;
            for (tracker, filed) in counts.filed {
                *sums.filed.entry(tracker).or_default() += filed;
            }
        }
        for (partition, counts) in later.partitions {
            let sums = self.partitions.entry(partition).or_default();
            sums.to = sums.to.max(counts.to);
            sums.ticks += counts.ticks;
            sums.marks += counts.marks;
            sums.dead_lettered += counts.dead_lettered;
            sums.accounts_in += counts.accounts_in;
            sums.absent += counts.absent;
            sums.lost += counts.lost;
        }
    }

    /// Offset that the interval reaches in a partition that stood at `from`.
    pub(crate) fn reaches(&self, partition: u32, from: Offset) -> Offset {
        self.partitions.get(&partition).map_or(from, |sums| sums.to.max(from))
    }

    /// The files of a tracker, in the order of digests.
    pub(crate) fn take_files(&mut self, tracker: &TrackerId) -> Vec<LogFile> {
        let mut files = self.files.remove(tracker).unwrap_or_default();
        files.sort_by(|left, right| {
            let key = |file: &File| (file.partition, file.first_offset);
            key(left).cmp(&key(right)).then_with(|| left.service.cmp(&right.service))
        });
        files.into_iter().map(LogFile::from).collect()
    }

    /// Whether it has files of a tracker that were made while the tracker was verified.
    pub(crate) fn has_verified(&self, tracker: &TrackerId) -> bool {
        self.files.get(tracker).is_some_and(|files| files.iter().any(|file| file.verify))
    }

    /// Files that no digest took.
    pub(crate) fn files_left(&self) -> u64 {
        self.files.values().map(|files| files.len() as u64).sum()
    }

    /// What became of an account's records, for one of its trackers, from where each partition
    /// stood.
    pub(crate) fn coverage(
        &self,
        account: &str,
        tracker: &TrackerId,
        from: &[(u32, Offset)],
    ) -> Vec<Coverage> {
        let nothing = Sums::default();
        let of = |(partition, from): &(u32, Offset)| {
            let key = (account.to_owned(), *partition);
            let counts = self.accounts.get(&key).unwrap_or(&nothing);
            let filed = counts.filed.get(tracker).copied().unwrap_or(0);
            let known = filed + counts.duplicate + counts.dead_lettered;
            let coverage = TrackerCoverage {
                partition: *partition,
                from: *from,
                to: self.reaches(*partition, *from),
                received: counts.received,
                filed,
                duplicate: counts.duplicate,
                unselected: counts.received.saturating_sub(known),
                dead_lettered: counts.dead_lettered,
                conflicts: counts.conflicts,
            };
            assert!(coverage.balances(), "I3: the counts of a digest balance");
            Coverage::Tracker(coverage)
        };
        from.iter().map(of).collect()
    }

    /// What became of all records, from where each partition stood.
    pub(crate) fn ledger(&self, from: &[(u32, Offset)]) -> Vec<Coverage> {
        let of = |(partition, from): &(u32, Offset)| {
            let sums = self.partitions.get(partition).cloned().unwrap_or_default();
            let to = self.reaches(*partition, *from);
            let coverage = LedgerCoverage { partition: *partition, from: *from, to, ..sums };
            assert!(coverage.balances(), "I3: the counts of the ledger balance");
            Coverage::Ledger(coverage)
        };
        from.iter().map(of).collect()
    }
}
