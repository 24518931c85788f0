//! What no digest names: whether it may wait for one, or was added, or says that digests are gone.
//!
//! The server may be writing meanwhile. An object is put after everything that it names, and
//! digests were listed first, so an object that came since can only seem to be one too many, never
//! one too few. Where something seems so, the digests are listed once more: what has more of them
//! by now waits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use trailproof_topology::input::{Millis, Offset};

use super::extent::{Extent, Reach, Whose, check_tails, newest};
use super::folder::{Folder, Met, Metadata, Place};
use super::name::{DigestName, Kind, kind};
use super::report::Verdict;
use super::{State, place_hash};

/// How far ahead of the clock a file may claim to be.
const AHEAD_MS: Millis = 86_400_000;

/// Length of an interval that is assumed where no digest tells one: the default.
const INTERVAL_MS: Millis = 3_600_000;

/// Bytes of a file that is fetched though no digest says how long it is.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What is to be said of an object that no digest names.
#[derive(Clone, Copy)]
enum Unnamed {
    Pending,
    Uncovered,
    Unproven,
    /// Unlisted, unless it waits for a later digest than its time says.
    Covered,
    Unlisted,
    /// It is counted with its tracker, which has too few digests.
    Told,
}

/// Objects of a tracker that has not one digest.
#[derive(Clone, Copy, Debug)]
struct Orphans {
    count: u64,
    /// Ends of the oldest and of the newest cycle or interval.
    oldest_ms: Millis,
    newest_ms: Millis,
    /// Whether there is a note, which no digest precedes.
    noted: bool,
}

/// What was seen of each tracker.
struct Sight {
    extents: Vec<Extent>,
    /// Which chains have digests in a bucket under a tracker's name.
    index: BTreeMap<Whose, Vec<usize>>,
    /// The chains that are ledgers.
    ledgers: Vec<usize>,
    /// End of the newest digest of all, and the length of its interval.
    newest: Option<(Millis, Millis)>,
    orphans: BTreeMap<Whose, Orphans>,
    now_ms: Millis,
}

/// Looks at every object that no digest names, and at what they say of the ends of the chains.
pub(super) fn sweep(folder: &Folder<'_>, state: &mut State, now_ms: Millis) -> io::Result<()> {
    let mut sight = Sight::new(std::mem::take(&mut state.extents), now_ms);
    let mut failed = None;
    folder.walk(&mut |met| {
        let place = match met {
            Met::Object(place) => place,
            Met::Foreign(name) => {
                let text = "is nothing that belongs here".to_owned();
                return state.find(Verdict::Unlisted, name, text);
            }
        };
        if !state.named.contains(&place_hash(&place.bucket, &place.object))
            && let Err(error) = sight.look(folder, state, &place)
        {
            failed = Some(error);
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    let grew = match sight.is_suspicious() {
        true => grown(folder, &state.named)?,
        false => BTreeSet::new(),
    };
    sight.tell(state, &grew);
    Ok(())
}

/// Where there are digests that were not there at first.
fn grown(folder: &Folder<'_>, named: &HashSet<u128>) -> io::Result<BTreeSet<Whose>> {
    let mut grew = BTreeSet::new();
    folder.walk(&mut |met| {
        if let Met::Object(place) = met
            && let Kind::Digest(DigestName { tracker, .. }) = kind(&place)
            && !named.contains(&place_hash(&place.bucket, &place.object))
        {
            grew.insert((place.bucket, tracker));
        }
    })?;
    Ok(grew)
}

impl Sight {
    fn new(extents: Vec<Extent>, now_ms: Millis) -> Self {
        let mut index: BTreeMap<Whose, Vec<usize>> = BTreeMap::new();
        for (at, extent) in extents.iter().enumerate() {
            for key in &extent.places {
                index.entry(key.clone()).or_default().push(at);
            }
        }
        let ledgers = (0..extents.len()).filter(|at| extents[*at].is_ledger()).collect();
        let newest = newest(&extents);
        Self { extents, index, ledgers, newest, orphans: BTreeMap::new(), now_ms }
    }

    /// Whether a tracker may have made a file of this time unverified: the ledger of its
    /// installation knows, or where that is not known any. `None` where no ledger tells.
    fn was_unverified(&self, of: Option<usize>, whose: &Whose, end_ms: Millis) -> Option<bool> {
        let of = of.map(|at| &self.extents[at]);
        let ledgers = self.ledgers.iter().map(|at| &self.extents[*at]);
        ledgers.filter_map(|own| own.says_unverified(of, whose, end_ms)).max()
    }

    /// Looks at one object.
    fn look(&mut self, folder: &Folder<'_>, state: &mut State, place: &Place) -> io::Result<()> {
        let kind = kind(place);
        let unnamed = self.judge(place, &kind);
        let report = &mut state.report;
        let count = match unnamed {
            Unnamed::Pending | Unnamed::Covered => &mut report.pending,
            Unnamed::Uncovered => &mut report.uncovered,
            Unnamed::Unproven => &mut report.unproven,
            Unnamed::Unlisted => {
                let text = "no digest lists it".to_owned();
                state.find(Verdict::Unlisted, place.to_string(), text);
                return Ok(());
            }
            Unnamed::Told => return Ok(()),
        };
        let Kind::Traces { tracker, .. } = &kind else {
            *count += 1;
            return Ok(());
        };
        let may_wait = |partition, offset| {
            let own = self.index.get(&(place.bucket.clone(), tracker.clone()));
            let mut own = own.into_iter().flatten();
            own.any(|at| self.extents[*at].may_wait(partition, offset))
        };
        let waits: Option<&MayWait<'_>> =
            if matches!(unnamed, Unnamed::Covered) { Some(&may_wait) } else { None };
        match by_itself(folder, place, waits)? {
            None => *count += 1,
            Some((verdict, text)) => state.find(verdict, place.to_string(), text.to_owned()),
        }
        Ok(())
    }

    fn judge(&mut self, place: &Place, kind: &Kind) -> Unnamed {
        let (tracker, end_ms) = match kind {
            Kind::Traces { tracker, cycle_end_ms } => (tracker, *cycle_end_ms),
            Kind::Digest(DigestName { tracker, end_ms, .. })
            | Kind::Note(DigestName { tracker, end_ms, .. })
            | Kind::Compatible { tracker, end_ms } => (tracker, *end_ms),
            Kind::Other => return Unnamed::Unlisted,
        };
        let whose = (place.bucket.clone(), tracker.clone());
        let Some(own) = self.index.get(&whose) else { return self.orphan(whose, kind, end_ms) };
        let has = |reach| own.iter().copied().find(|at| self.extents[*at].reach(end_ms) == reach);
        if has(Reach::Damaged).is_some() {
            return Unnamed::Unproven;
        }
        if let Some(at) = has(Reach::Newer) {
            return self.newer(at, &whose, kind, end_ms);
        }
        match (kind, has(Reach::Silent)) {
            (Kind::Traces { .. }, None) => Unnamed::Covered,
            (Kind::Traces { .. }, silent) => match self.was_unverified(silent, &whose, end_ms) {
                Some(false) => Unnamed::Unlisted,
                Some(true) | None => Unnamed::Uncovered,
            },
            _ => Unnamed::Unlisted,
        }
    }

    /// An object that is newer than the last digest of its chain.
    fn newer(&mut self, at: usize, whose: &Whose, kind: &Kind, end_ms: Millis) -> Unnamed {
        let own = &self.extents[at];
        // A digest precedes its note, so a note without digest has lost it.
        let lonely = matches!(kind, Kind::Note(_));
        let ended = own.has_ended() && !lonely;
        if ended && self.was_unverified(Some(at), whose, end_ms) != Some(false) {
            return Unnamed::Uncovered;
        }
        if self.is_ahead(end_ms) {
            return Unnamed::Unlisted;
        }
        let overdue = match (ended, self.newest) {
            (true, Some((newest_ms, _))) => own.is_overdue(end_ms, newest_ms),
            _ => end_ms > own.patience_ms(),
        };
        if lonely || overdue {
            self.extents[at].beyond += 1;
            return Unnamed::Told;
        }
        Unnamed::Pending
    }

    /// An object of a tracker without digests.
    fn orphan(&mut self, whose: Whose, kind: &Kind, end_ms: Millis) -> Unnamed {
        if self.is_ahead(end_ms) {
            return Unnamed::Unlisted;
        }
        let is_file = matches!(kind, Kind::Traces { .. });
        if is_file && self.was_unverified(None, &whose, end_ms) == Some(true) {
            return Unnamed::Uncovered;
        }
        let first = Orphans { count: 0, oldest_ms: end_ms, newest_ms: end_ms, noted: false };
        let orphans = self.orphans.entry(whose).or_insert(first);
        orphans.count += 1;
        orphans.oldest_ms = orphans.oldest_ms.min(end_ms);
        orphans.newest_ms = orphans.newest_ms.max(end_ms);
        orphans.noted |= matches!(kind, Kind::Note(_));
        Unnamed::Told
    }

    /// Whether a time lies further ahead than clocks differ.
    fn is_ahead(&self, end_ms: Millis) -> bool {
        end_ms > self.now_ms.saturating_add(AHEAD_MS)
    }

    /// Whether a chain seems to lack digests.
    fn is_suspicious(&self) -> bool {
        let behind = |extent: &Extent| {
            extent.beyond > 0
                || self.newest.is_some_and(|(end_ms, _)| end_ms >= extent.patience_ms())
        };
        !self.orphans.is_empty() || self.extents.iter().any(behind)
    }

    /// Says what was seen.
    fn tell(self, state: &mut State, grew: &BTreeSet<Whose>) {
        for (key, orphans) in self.orphans {
            let (count, (bucket, tracker)) = (orphans.count, &key);
            if grew.contains(&key) || orphans.may_wait(self.newest, self.now_ms) {
                state.report.pending += count;
                let text = format!("{bucket}, tracker {tracker}: has no digest yet");
                state.report.notes.push(text);
                continue;
            }
            let text = format!(
                "{count} objects and not one digest: the chain was wiped, or, if there is no \
                 ledger to tell, never was one"
            );
            state.find(Verdict::WipedChain, format!("{bucket}, tracker {tracker}"), text);
        }
        check_tails(state, self.extents, grew);
    }
}

impl Orphans {
    /// Whether the first digest may still come, as for a chain that ended where this one begins.
    fn may_wait(&self, newest: Option<(Millis, Millis)>, now_ms: Millis) -> bool {
        let patience_ms = |begun_ms: Millis, length_ms: Millis| {
            begun_ms.saturating_add(length_ms.saturating_mul(2))
        };
        let (newest_ms, patience_ms) = match newest {
            Some((newest_ms, length_ms)) => {
                let length_ms = length_ms.max(1);
                let begun_ms = self.oldest_ms.saturating_sub(1).div_euclid(length_ms) * length_ms;
                (newest_ms, patience_ms(begun_ms, length_ms))
            }
            // Without any digest only the clock tells how late the first one is.
            None => (now_ms, patience_ms(self.oldest_ms, INTERVAL_MS)),
        };
        !self.noted && newest_ms < patience_ms && self.newest_ms <= patience_ms
    }
}

/// Whether a file of this partition and first offset may wait for a later digest than its time
/// says.
type MayWait<'a> = dyn Fn(u32, Offset) -> bool + 'a;

/// What is wrong with a trace file that no digest speaks of, by its own metadata: those prove
/// nothing, but a planted file may have none, and a damaged one differs from them.
fn by_itself(
    folder: &Folder<'_>,
    place: &Place,
    may_wait: Option<&MayWait<'_>>,
) -> io::Result<Option<(Verdict, &'static str)>> {
    let Some(opened) = folder.object(place, FILE_BYTES_MAX)? else { return Ok(None) };
    let metadata = folder.metadata(place, &opened)?.unwrap_or_default();
    let waits = may_wait.is_none_or(|may_wait| {
        claim(place, &metadata).is_some_and(|(partition, offset)| may_wait(partition, offset))
    });
    if !waits {
        return Ok(Some((Verdict::Unlisted, "no digest lists it")));
    }
    if metadata.get("format").is_none_or(|format| format != "trailproof/file/v1") {
        return Ok(Some((Verdict::Unlisted, "no digest lists it, and it has no metadata")));
    }
    let mut hasher = Sha256::new();
    io::copy(&mut opened.reader()?, &mut hasher)?;
    let hash = HEXLOWER.encode(&hasher.finalize());
    let changed = metadata.get("sha256") != Some(&hash);
    Ok(changed.then_some((Verdict::Changed, "its SHA-256 is not the one in its metadata")))
}

/// Partition and first offset that a file claims to have, where its name agrees.
fn claim(place: &Place, metadata: &Metadata) -> Option<(u32, Offset)> {
    let partition: u32 = metadata.get("partition")?.parse().ok()?;
    let offset: Offset = metadata.get("first-offset")?.parse().ok()?;
    let unique = Sha256::digest(format!("trailproof/file/v1\n{partition}/{offset}"));
    place.object.contains(&HEXLOWER.encode(&unique[..8])).then_some((partition, offset))
}
