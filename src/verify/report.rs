//! What verification found: verdicts, chains, sums; as JSON and for people.
//!
//! Source: `docs/formats.md`, "Verify".

use std::io::{self, Write};

use serde::Serialize;
use trailproof_topology::digest::{Coverage, Digest};
use trailproof_topology::input::{Millis, Offset};
use trailproof_topology::names::rfc3339;

/// Findings that are kept; more are only counted.
pub(super) const FINDINGS_MAX: usize = 10_000;

/// What is wrong with an object or a chain. The names are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The content or the metadata are not what a signed digest says.
    Changed,
    /// A signed digest names it, and it is not there.
    Missing,
    /// It is there, and no digest names it.
    Unlisted,
    /// The newest digests of a chain are gone.
    TruncatedTail,
    /// A tracker has files and no chain, or a known chain is gone.
    WipedChain,
    /// Validly signed, but not what the next digest was chained to.
    ReSignedPast,
    /// A second starting digest where the chain should go on.
    ReStartedChain,
    /// Two signed continuations of one chain.
    Fork,
    /// Offsets or times between two digests that neither covers, or both.
    CoverageGap,
    /// A digest that says it belongs elsewhere.
    WrongLocation,
    /// Signed by a key that is not trusted.
    UnknownKey,
    /// The content is proven otherwise, but its signature does not hold.
    BadSignature,
    /// Signed counts that do not add up.
    Unbalanced,
    /// An interval that begins before the one before it ended.
    ClockRegression,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Unlisted => "unlisted",
            Self::TruncatedTail => "truncated-tail",
            Self::WipedChain => "wiped-chain",
            Self::ReSignedPast => "re-signed-past",
            Self::ReStartedChain => "re-started-chain",
            Self::Fork => "fork",
            Self::CoverageGap => "coverage-gap",
            Self::WrongLocation => "wrong-location",
            Self::UnknownKey => "unknown-key",
            Self::BadSignature => "bad-signature",
            Self::Unbalanced => "unbalanced",
            Self::ClockRegression => "clock-regression",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind.
    pub verdict: Verdict,
    /// Bucket and key of the object, or the chain.
    pub object: String,
    /// What was seen, for people.
    pub text: String,
}

/// One chain that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// Installation, account, tracker.
    pub origin: String,
    /// The tracker's id, `_ledger` for the ledger.
    pub tracker: String,
    /// Digests that hold.
    pub digests: u64,
    /// Place of the newest digest.
    pub sequence: u64,
    /// RFC 6962 root over the digests, lower-case hex; empty where digests are missing.
    pub root: String,
    /// Start of the oldest interval.
    pub from_ms: Millis,
    /// End of the newest interval.
    pub until_ms: Millis,
    /// Whether the newest is an ending digest.
    pub ended: bool,
    /// Trace files listed.
    pub files: u64,
    /// Counts over the whole chain.
    pub sums: Sums,
    /// Records that were gone before they were read, as the signed ledger says; in order.
    pub explicit_gaps: Vec<ExplicitGap>,
}

/// Records of a partition that retention took before they were read, and that a digest accounts
/// for. Nothing was tampered with; but this many records were never seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExplicitGap {
    /// Bucket and key of the digest.
    pub object: String,
    /// Partition of topic `traces`.
    pub partition: u32,
    /// They lie at or behind this offset.
    pub from: Offset,
    /// They lie before this offset.
    pub to: Offset,
    /// How many.
    pub lost: u64,
}

/// Counts over the digests of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Offsets covered, over all partitions.
    pub offsets: u64,
    /// Records of the account; in the ledger of all accounts.
    #[serde(rename = "in")]
    pub received: u64,
    /// Traces filed.
    pub filed: u64,
    /// Resends.
    pub duplicate: u64,
    /// Traces not selected.
    pub unselected: u64,
    /// Dead letters; in the ledger those of no account.
    pub dead_lettered: u64,
    /// Ticks, in the ledger.
    pub ticks: u64,
    /// Catalog marks, in the ledger.
    pub marks: u64,
    /// Offsets that hold no record, in the ledger.
    pub absent: u64,
    /// Records that were gone before they were read, in the ledger.
    pub lost: u64,
}

impl Sums {
    /// Adds a digest.
    pub(super) fn add(&mut self, digest: &Digest) {
        for coverage in &digest.coverage {
            self.offsets += coverage.to().saturating_sub(coverage.from());
            match coverage {
                Coverage::Tracker(counts) => {
                    self.received += counts.received;
                    self.filed += counts.filed;
                    self.duplicate += counts.duplicate;
                    self.unselected += counts.unselected;
                    self.dead_lettered += counts.dead_lettered;
                }
                Coverage::Ledger(counts) => {
                    self.received += counts.accounts_in;
                    self.dead_lettered += counts.dead_lettered;
                    self.ticks += counts.ticks;
                    self.marks += counts.marks;
                    self.absent += counts.absent;
                    self.lost += counts.lost;
                }
            }
        }
    }
}

/// The whole outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What was verified.
    pub folder: String,
    /// Where the public keys came from.
    pub keys: String,
    /// Ids of the public keys.
    pub key_ids: Vec<String>,
    /// Whether every trace was hashed again.
    pub deep: bool,
    /// What is wrong, in order; at most 10,000.
    pub findings: Vec<Finding>,
    /// Findings over that bound.
    pub findings_omitted: u64,
    /// The chains, in order of origin.
    pub chains: Vec<ChainReport>,
    /// Digests that hold.
    pub digests: u64,
    /// Trace files that were checked.
    pub files: u64,
    /// Stored bytes that were checked.
    pub bytes: u64,
    /// Traces in the files that were checked.
    pub traces: u64,
    /// Objects newer than the last digest, waiting for theirs; and the note of a newest digest
    /// that is not there yet.
    pub pending: u64,
    /// Files that cannot be proven because their digest is missing or damaged.
    pub unproven: u64,
    /// Files written while their tracker was not verified.
    pub uncovered: u64,
    /// What the caller should know besides.
    pub notes: Vec<String>,
}

impl Report {
    /// Writes the report for people.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for gap in self.chains.iter().flat_map(|chain| &chain.explicit_gaps) {
            let ExplicitGap { object, partition, from, to, lost } = gap;
            writeln!(
                out,
                "explicit-gap      {object}: {lost} records of traces/{partition} between offsets \
                 {from} and {to} were gone before they were read, and are in no file"
            )?;
        }
        for finding in &self.findings {
            let Finding { verdict, object, text } = finding;
            writeln!(out, "{:<17} {object}: {text}", verdict.name())?;
        }
        if self.findings_omitted > 0 {
            writeln!(out, "and {} more findings", self.findings_omitted)?;
        }
        for chain in &self.chains {
            self.write_chain(chain, out)?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        writeln!(out, "keys: {} ({})", self.keys, self.key_ids.join(", "))?;
        let how = if self.deep { "stored bytes and every trace" } else { "stored bytes" };
        writeln!(
            out,
            "{} digests in {} chains, {} files with {} traces, {} bytes checked by {how}",
            self.digests,
            self.chains.len(),
            self.files,
            self.traces,
            self.bytes
        )?;
        for (count, what) in [
            (self.pending, "newer than the last digest, which will list them: not proven yet"),
            (self.unproven, "of intervals whose digest is missing or damaged: not proven"),
            (self.uncovered, "written while their tracker was not verified: not covered"),
        ] {
            if count > 0 {
                writeln!(out, "{count} objects {what}")?;
            }
        }
        let findings = self.findings.len() as u64 + self.findings_omitted;
        match (self.ok, findings) {
            (true, _) if self.digests == 0 => {
                writeln!(out, "NOTHING PROVEN: {} has no digest yet", self.folder)
            }
            (true, _) => {
                let lost: u64 = self.chains.iter().map(|chain| chain.sums.lost).sum();
                write!(out, "OK: {} is whole and unchanged", self.folder)?;
                match lost {
                    0 => writeln!(out),
                    _ => writeln!(out, ", but for {lost} records that it says were lost"),
                }
            }
            (false, 1) => writeln!(out, "FAILED: 1 finding"),
            (false, count) => writeln!(out, "FAILED: {count} findings"),
        }
    }

    fn write_chain(&self, chain: &ChainReport, out: &mut dyn Write) -> io::Result<()> {
        let sums = &chain.sums;
        writeln!(
            out,
            "chain {}: head {}{} root {}, {} to {}, {} digests, {} files",
            chain.origin,
            chain.sequence,
            if chain.ended { " (ended)" } else { "" },
            if chain.root.is_empty() { "unknown" } else { &chain.root },
            rfc3339(chain.from_ms),
            rfc3339(chain.until_ms),
            chain.digests,
            chain.files
        )?;
        if chain.tracker == trailproof_topology::digest::LEDGER {
            return writeln!(
                out,
                "  {} offsets = {} of accounts + {} dead letters + {} ticks + {} marks + {} \
                 without record + {} lost",
                sums.offsets,
                sums.received,
                sums.dead_lettered,
                sums.ticks,
                sums.marks,
                sums.absent,
                sums.lost
            );
        }
        writeln!(
            out,
            "  {} in = {} filed + {} duplicate + {} unselected + {} dead letters",
            sums.received, sums.filed, sums.duplicate, sums.unselected, sums.dead_lettered
        )
    }
}
