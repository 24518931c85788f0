//! The digest stage: from the `files` log to signed digests, one chain per tracker.
//!
//! A partition of `files` holds the chains of the trackers whose id hashes to it; partition 0 also
//! the ledger's. An interval ends for all of them at once: when every `traces` partition is known
//! to have passed its end.
//!
//! **Invariants:** I6 digests depend on the `files` log alone; I7 each names the one before it and
//! takes up the coverage where that left it; a record that cannot be true is counted and left out,
//! and never stops the process. Memory and a batch are bounded by what one interval brings and by
//! [`DIGESTS_MAX`].
//!
//! Source: `docs/formats.md`, "Digests".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::{Catalog, tracker_key};
use crate::digest::{ChainName, LEDGER_ID, unverified_id};
use crate::digest_chain::{Chain, Facts, Target};
use crate::digest_state::{self as state, Schedule};
use crate::digest_window::{Boundary, Interval, check, interval_end};
use crate::effect::Lane;
use crate::files::{FilesRecord, files_partition};
use crate::input::{Body, Input, Millis, Offset, Position};
use crate::invariant;
use crate::key::{self, Table, TrackerId};
use crate::sign::Sign;
use crate::stage::{Batch, LoadError, Stage, Wanted};
use crate::state::Rows;

/// Intervals that one record may close at most; the first then spans what is over.
pub const INTERVALS_MAX: i64 = 1_024;

/// Digests that one record may bring at most, but for one of each chain.
pub const DIGESTS_MAX: i64 = 16_384;

/// What the stage is told once.
#[derive(Clone)]
pub struct DigestSetup {
    /// Its partition of topic `files`.
    pub partition: u32,
    /// Signs digests and checkpoints.
    pub signer: Arc<dyn Sign>,
}

/// What the stage did since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestCounts {
    /// Records of trace files.
    pub files: u64,
    /// Records of finished stretches.
    pub closed: u64,
    /// Records that cannot be true, left out: each is an alarm.
    pub refused: u64,
    /// Digests written.
    pub digests: u64,
    /// Files that no digest lists because their tracker has no verification.
    pub unlisted: u64,
    /// Why the last record was refused.
    pub refusal: Option<String>,
}

/// The head of a chain, for people and for `/.well-known`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub name: ChainName,
    /// Place of the newest digest.
    pub sequence: u64,
    /// RFC 6962 root over the digests.
    pub root: crate::merkle::Hash,
    /// End of the newest digest's interval.
    pub interval_end_ms: Millis,
}

/// The stage.
pub struct DigestStage {
    setup: DigestSetup,
    position: Position,
    catalog: Option<Arc<Catalog>>,
    schedule: Schedule,
    chains: BTreeMap<TrackerId, Chain>,
    boundaries: BTreeMap<u32, Boundary>,
    /// By the end of the interval.
    open: BTreeMap<Millis, Interval>,
    counts: DigestCounts,
}

impl Stage for DigestStage {
    type Setup = DigestSetup;

    fn load<R: Rows>(setup: DigestSetup, rows: &R) -> Result<Self, LoadError<R::Error>>
    where
        R::Error: std::error::Error + 'static,
    {
        let loaded = state::load(rows)?;
        Ok(Self {
            setup,
            position: loaded.position,
            catalog: loaded.catalog,
            schedule: loaded.schedule,
            chains: loaded.chains,
            boundaries: loaded.boundaries,
            open: loaded.open,
            counts: DigestCounts::default(),
        })
    }

    fn apply(&mut self, input: &Input<'_>, batch: &mut Batch) -> Result<(), Wanted> {
        assert!(invariant::in_order(&self.position, input), "I2: records out of order");
        self.position.next_offset = input.offset + 1;
        self.position.stream_time_ms = self.position.stream_time_ms.max(input.append_time_ms);
        match input.body {
            Body::Data(value) => {
                let taken = FilesRecord::decode(value)
                    .and_then(|record| self.take(record, input.offset, value, batch));
                if let Err(reason) = taken {
                    self.refuse(input.offset, reason);
                }
            }
            Body::Tick | Body::Catalog(_, None) => {}
            Body::Catalog(version, Some(catalog)) => self.mark(version, catalog, batch),
            Body::Unknown(_) => self.refuse(input.offset, "its header is not known".to_owned()),
            // What was told there is missing: the next `closed` record does not follow and says so.
            Body::Gap { from } => self.refuse(input.offset, format!("gone since offset {from}")),
        }
        Ok(())
    }

    fn finish(&mut self, batch: &mut Batch) {
        batch.changes.put(key::single(Table::Position), self.position.encode());
    }

    fn position(&self) -> &Position {
        &self.position
    }

    /// None: time passes with the `closed` records.
    fn next_boundary_ms(&self) -> Option<Millis> {
        None
    }
}

impl DigestStage {
    /// What happened since the last call.
    pub fn take_counts(&mut self) -> DigestCounts {
        std::mem::take(&mut self.counts)
    }

    /// The heads of the chains that have digests.
    pub fn heads(&self) -> impl Iterator<Item = Head> {
        self.chains.values().filter_map(|chain| {
            let last = chain.last.as_ref()?;
            Some(Head {
                name: chain.name.clone(),
                sequence: last.sequence,
                root: chain.frontier()?.root(),
                interval_end_ms: last.end_ms,
            })
        })
    }

    /// End of the last interval that has its digests; `None` before the first.
    #[must_use]
    pub fn digested_until_ms(&self) -> Option<Millis> {
        self.schedule.digested.then_some(self.schedule.next_start_ms).flatten()
    }

    fn refuse(&mut self, offset: Offset, reason: String) {
        self.counts.refused += 1;
        self.counts.refusal =
            Some(format!("record {offset} of files/{}: {reason}", self.setup.partition));
    }

    /// Takes in a `files` record.
    fn take(
        &mut self,
        record: FilesRecord,
        offset: Offset,
        value: &[u8],
        batch: &mut Batch,
    ) -> Result<(), String> {
        let catalog = self.catalog.as_ref().ok_or("no catalog is in force yet")?;
        check(&record, catalog, &self.boundaries, self.setup.partition == 0)?;
        if let FilesRecord::File(file) = &record {
            let chain = tracker_key(&file.tracker).and_then(|id| self.chains.get(&id));
            if chain.is_some_and(|chain| !invariant::own(&chain.name.account, &file.account)) {
                return Err(format!("{:?} is of another account than its tracker", file.object));
            }
        }
        let (partition, cycle_start_ms) = match &record {
            FilesRecord::File(file) => (file.partition, file.cycle_start_ms),
            FilesRecord::Closed(closed) => (closed.partition, closed.cycle_start_ms),
        };
        let boundary = self.boundaries.entry(partition).or_default();
        let before = boundary.clone();
        let interval_ms = boundary.assign(cycle_start_ms, catalog.digest_interval_ms);
        batch.changes.put(state::pending(interval_ms, offset), value.to_vec());
        let mut finished = false;
        if let FilesRecord::Closed(closed) = &record {
            boundary.advance(closed);
            finished = !closed.more;
            self.counts.closed += 1;
        } else {
            self.counts.files += 1;
        }
        if *boundary != before {
            batch.changes.put(state::boundary(partition), state::encode(boundary));
        }
        self.open.entry(interval_ms).or_default().add(record);
        if finished {
            self.close_intervals(batch);
        }
        Ok(())
    }

    /// Writes the digests of every interval that all `traces` partitions have passed.
    fn close_intervals(&mut self, batch: &mut Batch) {
        let (Some(catalog), Some(start_ms)) = (&self.catalog, self.schedule.next_start_ms) else {
            return;
        };
        let until = |partition| self.boundaries.get(&partition).map_or(0, |own| own.until_ms);
        let Some(reached_ms) = (0..catalog.traces_partitions).map(until).min() else { return };
        let interval_ms = catalog.digest_interval_ms.max(1);
        let first_ms = interval_end(start_ms, interval_ms);
        if reached_ms < first_ms {
            return;
        }
        let last_ms = reached_ms - reached_ms.rem_euclid(interval_ms);
        let wanting = self.chains.values().filter(|chain| chain.wants(last_ms)).count();
        let chains = i64::try_from(wanting).unwrap_or(i64::MAX).max(1);
        let intervals_max = (DIGESTS_MAX / chains).clamp(1, INTERVALS_MAX);
        let mut end_ms = first_ms.max(last_ms - (intervals_max - 1).saturating_mul(interval_ms));
        while end_ms <= last_ms {
            self.close_interval(end_ms, batch);
            end_ms = end_ms.saturating_add(interval_ms);
        }
    }

    /// Writes the digests of the interval up to `end_ms`.
    fn close_interval(&mut self, end_ms: Millis, batch: &mut Batch) {
        let start_ms = self.schedule.next_start_ms.unwrap_or(end_ms);
        let later = self.open.split_off(&end_ms.saturating_add(1));
        let mut interval = Interval::default();
        for (_, part) in std::mem::replace(&mut self.open, later) {
            interval.merge(part);
        }
        let from: Vec<(u32, Offset)> =
            self.boundaries.iter().map(|(at, own)| (*at, own.digested_to)).collect();
        let signer = Arc::clone(&self.setup.signer);
        for (tracker, chain) in &mut self.chains {
            if !chain.wants(end_ms) {
                if !interval.has_verified(tracker) {
                    continue;
                }
                chain.admit(start_ms);
            }
            let interval_ms = (start_ms, end_ms);
            let facts = if *tracker == LEDGER_ID {
                let unverified = self.schedule.unverified.keys().cloned().collect();
                let (coverage, files) = (interval.ledger(&from), Vec::new());
                Facts { interval_ms, coverage, files, unverified }
            } else {
                let files = interval.take_files(tracker);
                let coverage = interval.coverage(&chain.name.account, tracker, &from);
                Facts { interval_ms, coverage, files, unverified: Vec::new() }
            };
            for effect in chain.grow(facts, signer.as_ref()) {
                batch.effect(&mut self.position, Lane::Objects, &effect);
            }
            batch.changes.put(state::chain(tracker), chain.encode());
            self.counts.digests += 1;
        }
        self.counts.unlisted += interval.files_left();
        for (partition, boundary) in &mut self.boundaries {
            let to = interval.reaches(*partition, boundary.digested_to);
            if to != boundary.digested_to {
                boundary.digested_to = to;
                batch.changes.put(state::boundary(*partition), state::encode(boundary));
            }
        }
        let (lowest, end) = state::pending_until(end_ms);
        batch.changes.delete_range(lowest, end);
        self.schedule.advance(end_ms);
        batch.changes.put(state::schedule(), state::encode(&self.schedule));
    }

    /// Takes a version of the catalog into force: chains begin, end, or move.
    fn mark(&mut self, version: u64, catalog: &Arc<Catalog>, batch: &mut Batch) {
        if version <= self.position.catalog_version {
            return;
        }
        let now_ms = self.position.stream_time_ms;
        self.position.catalog_version = version;
        self.catalog = Some(Arc::clone(catalog));
        batch.changes.put(key::single(Table::Catalog), state::encode(&**catalog));
        let before = self.schedule.clone();
        if self.schedule.next_start_ms.is_none() {
            let interval_ms = catalog.digest_interval_ms.max(1);
            self.schedule.next_start_ms = Some(now_ms.max(0) - now_ms.max(0) % interval_ms);
        }
        if self.setup.partition == 0 {
            self.schedule.leave_unverified(&unverified(catalog), now_ms);
        }
        if self.schedule != before {
            batch.changes.put(state::schedule(), state::encode(&self.schedule));
        }
        let mut wanted = wanted(catalog, self.setup.partition);
        for (tracker, chain) in &mut self.chains {
            if chain.want(wanted.remove(tracker), now_ms) {
                batch.changes.put(state::chain(tracker), chain.encode());
            }
        }
        for (tracker, (name, target)) in wanted {
            let chain = Chain::new(name, target, now_ms);
            batch.changes.put(state::chain(&tracker), chain.encode());
            self.chains.insert(tracker, chain);
        }
    }
}

/// The trackers that make files under a catalog which no digest lists.
fn unverified(catalog: &Catalog) -> BTreeSet<String> {
    let trackers = catalog.accounts.iter().flat_map(|account| &account.trackers);
    let own = trackers.filter(|own| own.enabled && own.transfers() && !own.verify);
    own.map(|own| unverified_id(&own.bucket, &own.name)).collect()
}

/// The chains that a catalog wants in a partition of `files`.
fn wanted(catalog: &Catalog, partition: u32) -> BTreeMap<TrackerId, (ChainName, Target)> {
    let mut wanted = BTreeMap::new();
    for account in &catalog.accounts {
        for tracker in &account.trackers {
            let Some(id) = tracker.key() else { continue };
            let here = files_partition(&id, catalog.files_partitions) == partition;
            if here && tracker.enabled && tracker.verify && tracker.transfers() {
                let name = ChainName {
                    installation: catalog.installation.clone(),
                    account: account.id.clone(),
                    tracker: tracker.id.clone(),
                    tracker_name: tracker.name.clone(),
                };
                wanted.insert(id, (name, Target::of(catalog, account, tracker)));
            }
        }
    }
    if partition == 0 {
        let name = ChainName::ledger(&catalog.installation);
        wanted.insert(LEDGER_ID, (name, Target::ledger(catalog)));
    }
    wanted
}
