//! Coverage: what a digest says became of the records of each `traces` partition.
//!
//! **Invariant (I3, I7):** counts add up to the offsets they are of, and each digest of a chain
//! takes up every partition where the one before left it.
//!
//! Source: `docs/formats.md`, "Digests"; `schemas/digest.schema.json`.

use serde::{Deserialize, Serialize};

use crate::files::is_zero;
use crate::input::Offset;

/// What became of the records `[from, to)` of a `traces` partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Coverage {
    /// In a tracker's chain: the records of its own account.
    Tracker(TrackerCoverage),
    /// In the ledger chain: all records.
    Ledger(LedgerCoverage),
}

/// Counts of a tracker's account in a stretch of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackerCoverage {
    /// Partition of topic `traces`.
    pub partition: u32,
    /// First offset: `to` of the digest before.
    pub from: Offset,
    /// One past the last offset.
    pub to: Offset,
    /// Records of the account.
    #[serde(rename = "in")]
    pub received: u64,
    /// Of these, traces in the tracker's files.
    pub filed: u64,
    /// Resends, stored once.
    pub duplicate: u64,
    /// Traces that the tracker does not select.
    pub unselected: u64,
    /// Dead letters.
    pub dead_lettered: u64,
    /// Of the filed: the id of an earlier trace, other content.
    pub conflicts: u64,
}

/// Counts of all records in a stretch of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerCoverage {
    /// Partition of topic `traces`.
    pub partition: u32,
    /// First offset: `to` of the digest before.
    pub from: Offset,
    /// One past the last offset.
    pub to: Offset,
    /// Ticks.
    pub ticks: u64,
    /// Catalog marks.
    pub marks: u64,
    /// Dead letters that belong to no account.
    pub dead_lettered: u64,
    /// Records of accounts.
    pub accounts_in: u64,
    /// Offsets that hold no record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
    /// Offsets whose records were gone before they were read: an explicit gap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

/// Whether `next` takes up every partition where `previous` left it (I7): no gap, no overlap.
#[must_use]
pub fn coverage_meets(previous: &[Coverage], next: &[Coverage]) -> bool {
    previous.iter().all(|before| {
        let after = next.iter().find(|after| after.partition() == before.partition());
        after.is_some_and(|after| after.from() == before.to())
    })
}

impl Coverage {
    /// Partition of topic `traces`.
    #[must_use]
    pub fn partition(&self) -> u32 {
        match self {
            Self::Tracker(counts) => counts.partition,
            Self::Ledger(counts) => counts.partition,
        }
    }

    /// First offset.
    #[must_use]
    pub fn from(&self) -> Offset {
        match self {
            Self::Tracker(counts) => counts.from,
            Self::Ledger(counts) => counts.from,
        }
    }

    /// One past the last offset.
    #[must_use]
    pub fn to(&self) -> Offset {
        match self {
            Self::Tracker(counts) => counts.to,
            Self::Ledger(counts) => counts.to,
        }
    }
}

impl TrackerCoverage {
    /// in = filed + duplicate + unselected + dead-lettered, and no more than there were offsets.
    #[must_use]
    pub fn balances(&self) -> bool {
        let parts = [self.filed, self.duplicate, self.unselected, self.dead_lettered];
        let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
        sum == Some(self.received)
            && self.conflicts <= self.received
            && self.to.checked_sub(self.from).is_some_and(|length| self.received <= length)
    }
}

impl LedgerCoverage {
    /// to − from = ticks + marks + dead-lettered + records of accounts + absent + lost.
    #[must_use]
    pub fn balances(&self) -> bool {
        let Self { ticks, marks, dead_lettered, accounts_in, absent, lost, .. } = *self;
        let parts = [ticks, marks, dead_lettered, accounts_in, absent, lost];
        let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
        sum.is_some() && sum == self.to.checked_sub(self.from)
    }
}
