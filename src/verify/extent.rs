//! How far a chain reaches, and when what lies beyond its end says that the end was cut off.
//!
//! A file newer than the last digest of its tracker waits for the next one. The wait is short: all
//! chains of an installation grow together, so one that stands two intervals behind the others, or
//! behind its own files, has lost its end.

use std::collections::{BTreeMap, BTreeSet};

use trailproof_topology::digest::unverified_id;
use trailproof_topology::input::{Millis, Offset};
use trailproof_topology::names::rfc3339;

use super::State;
use super::chain::Chain;
use super::report::Verdict;

/// Bucket and name of a tracker: what the key of an object says of whose it is.
pub(super) type Whose = (String, String);

/// How far a chain reaches.
#[derive(Debug)]
pub(super) struct Extent {
    origin: String,
    installation: String,
    /// Where its digests lie.
    pub(super) places: BTreeSet<Whose>,
    /// Intervals whose digest is missing or damaged: after, up to.
    damaged: Vec<(Millis, Millis)>,
    /// Times in which the tracker was not verified, by what the chain itself says: after, up to.
    silences: Vec<(Millis, Millis)>,
    /// End of the newest digest that holds.
    end_ms: Option<Millis>,
    /// Length of its interval.
    length_ms: Millis,
    ended: bool,
    /// Partitions of which the newest digest covers nothing new, and where they stand. Their files
    /// wait for a later digest than their time says: an interval was made shorter meanwhile, or a
    /// clock went back.
    stalled: BTreeMap<u32, Offset>,
    /// The note of the newest digest, where it is not there.
    unnoted: Option<String>,
    /// Objects that say the chain should be longer.
    pub(super) beyond: u64,
    ledger: Option<Ledger>,
}

/// What the ledger says of trackers that were not verified.
#[derive(Debug, Default)]
struct Ledger {
    /// The intervals whose digests are there: after, up to. Those that meet are one.
    covered: Vec<(Millis, Millis)>,
    /// By [`unverified_id`]: the intervals in which a tracker may have made files unverified.
    unverified: BTreeMap<String, Vec<(Millis, Millis)>>,
    /// When the installation began, where that is known.
    founded_ms: Option<Millis>,
}

/// What a chain says of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A digest of that time is missing or damaged.
    Damaged,
    /// Behind the newest digest.
    Newer,
    /// The tracker was not verified then.
    Silent,
    /// A digest covers it.
    Covered,
}

impl Extent {
    /// How far a chain reaches whose digests lie in `places`.
    pub(super) fn of(chain: &Chain, places: BTreeSet<Whose>) -> Self {
        let last = chain.digests.last().map(|(_, body)| &body.digest);
        let still = last.iter().flat_map(|digest| &digest.coverage);
        let still = still.filter(|own| own.from() == own.to());
        Self {
            origin: last.map(|digest| digest.chain.origin()).unwrap_or_default(),
            installation: last.map(|own| own.chain.installation.clone()).unwrap_or_default(),
            places,
            damaged: chain.damaged.clone(),
            silences: silences(chain),
            end_ms: last.map(|digest| digest.interval_end_ms),
            length_ms: last.map_or(0, |own| own.interval_end_ms - own.interval_start_ms),
            ended: last.is_some_and(|digest| digest.digest_end),
            stalled: still.map(|own| (own.partition(), own.to())).collect(),
            unnoted: chain.unnoted.clone(),
            beyond: 0,
            ledger: last.filter(|digest| digest.chain.is_ledger()).map(|_| Ledger::of(chain)),
        }
    }

    /// What the chain says of an object whose interval or cycle ended at `end_ms`.
    pub(super) fn reach(&self, end_ms: Millis) -> Reach {
        let holds = |(from_ms, to_ms): &(Millis, Millis)| *from_ms < end_ms && end_ms <= *to_ms;
        if self.damaged.iter().any(holds) {
            Reach::Damaged
        } else if self.end_ms.is_none_or(|last_ms| last_ms < end_ms) {
            Reach::Newer
        } else if self.silences.iter().any(holds) {
            Reach::Silent
        } else {
            Reach::Covered
        }
    }

    /// Whether it is a ledger.
    pub(super) fn is_ledger(&self) -> bool {
        self.ledger.is_some()
    }

    /// Whether a tracker may have made a file of this time unverified, by this ledger, if it is
    /// that of the installation of chain `of`. `None` where it does not tell.
    pub(super) fn says_unverified(
        &self,
        of: Option<&Self>,
        (bucket, tracker): &Whose,
        end_ms: Millis,
    ) -> Option<bool> {
        let own = of.is_none_or(|of| of.installation == self.installation);
        let ledger = self.ledger.as_ref().filter(|_| own)?;
        ledger.says(&unverified_id(bucket, tracker), end_ms)
    }

    /// Whether the newest digest says that it is the last.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the other chains went on so far behind a file that this one should have, too.
    pub(super) fn is_overdue(&self, end_ms: Millis, newest_ms: Millis) -> bool {
        end_ms.saturating_add(self.length_ms) <= newest_ms
    }

    /// End of the time in which what is not listed may still wait for its digest.
    pub(super) fn patience_ms(&self) -> Millis {
        self.end_ms.unwrap_or(Millis::MIN).saturating_add(self.length_ms.saturating_mul(2))
    }

    /// Whether a file may wait for a later digest than its time says.
    pub(super) fn may_wait(&self, partition: u32, first_offset: Offset) -> bool {
        self.stalled.get(&partition).is_some_and(|reached| *reached <= first_offset)
    }
}

impl Ledger {
    fn of(chain: &Chain) -> Self {
        let mut ledger = Self::default();
        for (_, body) in &chain.digests {
            let digest = &body.digest;
            let span = (digest.interval_start_ms, digest.interval_end_ms);
            if digest.begins() {
                ledger.founded_ms = Some(span.0);
            }
            add(&mut ledger.covered, span);
            for tracker in &digest.unverified {
                add(ledger.unverified.entry(tracker.clone()).or_default(), span);
            }
        }
        ledger
    }

    /// Whether a tracker may have made a file of this time unverified; `None` where the digest that
    /// says so is not there.
    fn says(&self, tracker: &str, end_ms: Millis) -> Option<bool> {
        let holds = |spans: &[(Millis, Millis)]| {
            spans.iter().any(|(from_ms, to_ms)| *from_ms < end_ms && end_ms <= *to_ms)
        };
        let unverified = self.unverified.get(tracker).map_or(&[][..], Vec::as_slice);
        let newest_ms = self.covered.last().map(|(_, to_ms)| *to_ms);
        if holds(unverified) || (newest_ms < Some(end_ms) && newest_ms == ends(unverified)) {
            return Some(true);
        }
        let before = self.founded_ms.is_some_and(|founded_ms| end_ms <= founded_ms);
        (before || holds(&self.covered)).then_some(false)
    }
}

fn ends(spans: &[(Millis, Millis)]) -> Option<Millis> {
    spans.last().map(|(_, to_ms)| *to_ms)
}

/// Adds a span of time; those that meet become one.
fn add(spans: &mut Vec<(Millis, Millis)>, (from_ms, to_ms): (Millis, Millis)) {
    match spans.last_mut() {
        Some(last) if last.1 == from_ms => last.1 = to_ms,
        _ => spans.push((from_ms, to_ms)),
    }
}

/// The times before a chain began, and from an ending digest to the next one.
fn silences(chain: &Chain) -> Vec<(Millis, Millis)> {
    let mut digests = chain.digests.iter().map(|(_, body)| &body.digest);
    let Some(first) = digests.next() else { return Vec::new() };
    let mut silences = Vec::new();
    if first.begins() {
        silences.push((Millis::MIN, first.interval_start_ms));
    }
    let mut before = first;
    for digest in digests {
        if before.digest_end && digest.previous_digest_end {
            silences.push((before.interval_end_ms, digest.interval_start_ms));
        }
        before = digest;
    }
    silences
}

/// The newest digest of all: its end and the length of its interval.
pub(super) fn newest(extents: &[Extent]) -> Option<(Millis, Millis)> {
    extents.iter().filter_map(|extent| Some((extent.end_ms?, extent.length_ms))).max()
}

/// Names chains that have lost their end, by their own objects and by the other chains; not those
/// that grew while they were looked at.
pub(super) fn check_tails(state: &mut State, extents: Vec<Extent>, grew: &BTreeSet<Whose>) {
    let newest_ms = newest(&extents).map(|(end_ms, _)| end_ms);
    for extent in extents {
        let (Some(end_ms), Some(newest_ms)) = (extent.end_ms, newest_ms) else { continue };
        let last = rfc3339(end_ms);
        let is_behind = newest_ms >= extent.patience_ms() && newest_ms > end_ms;
        if let Some(note) = extent.unnoted {
            if is_behind {
                state.find(Verdict::Missing, note, "the digest has no note".to_owned());
            } else {
                // It follows its digest: a crash or a copy may have come in between.
                state.report.pending += 1;
                let text = format!("{note} is not there (yet): its digest is the newest");
                state.report.notes.push(text);
            }
        }
        if !extent.places.is_disjoint(grew) {
            state.report.pending += extent.beyond;
        } else if extent.beyond > 0 {
            let count = extent.beyond;
            let text = format!("ends at {last}, and {count} objects are of later intervals");
            state.find(Verdict::TruncatedTail, extent.origin, text);
        } else if !extent.ended && is_behind {
            let text = format!("ends at {last}, other chains go on to {}", rfc3339(newest_ms));
            state.find(Verdict::TruncatedTail, extent.origin, text);
        }
    }
}
