//! What no digest names, and what chains say about each other.
//!
//! A file newer than the last digest of its tracker waits for the next one. The wait is short: all
//! chains of an installation grow together, so one that stands two intervals behind, or behind its
//! own files, has lost its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use trailproof_topology::input::Millis;
use trailproof_topology::merkle::Hash;
use trailproof_topology::names::rfc3339;

use super::chain::Chain;
use super::folder::{Folder, Met, Place};
use super::head::Heads;
use super::name::{DigestName, Kind, kind};
use super::report::{ChainReport, Verdict};
use super::{State, place_hash};

/// How far ahead of the clock a file may claim to be.
const AHEAD_MS: Millis = 86_400_000;

/// Bytes of a file that is fetched though no digest says how long it is.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How far a chain reaches.
#[derive(Debug)]
pub(super) struct Extent {
    origin: String,
    /// Buckets and tracker names of its digests.
    buckets: BTreeSet<(String, String)>,
    /// Intervals whose digest is missing or damaged: after, up to.
    damaged: Vec<(Millis, Millis)>,
    /// End of the newest digest that holds.
    end_ms: Option<Millis>,
    /// Length of its interval.
    length_ms: Millis,
    ended: bool,
    /// Files that say the chain should be longer.
    beyond: u64,
}

impl Extent {
    /// How far a chain reaches.
    pub(super) fn of(chain: &Chain, buckets: BTreeSet<(String, String)>) -> Self {
        let last = chain.digests.last().map(|(_, body)| &body.digest);
        Self {
            origin: last.map(|digest| digest.chain.origin()).unwrap_or_default(),
            buckets,
            damaged: chain.damaged.clone(),
            end_ms: last.map(|digest| digest.interval_end_ms),
            length_ms: last.map_or(0, |own| own.interval_end_ms - own.interval_start_ms),
            ended: last.is_some_and(|digest| digest.digest_end),
            beyond: 0,
        }
    }

    /// End of the time in which what is not listed may still wait for its digest.
    fn patience_ms(&self) -> Millis {
        self.end_ms.unwrap_or(Millis::MIN).saturating_add(self.length_ms.saturating_mul(2))
    }
}

/// Which chains have digests in a bucket under a tracker's name.
type Index = BTreeMap<(String, String), Vec<usize>>;

/// What is to be said of an object that no digest names.
#[derive(Clone, Copy)]
enum Unnamed {
    Pending,
    AfterEnd,
    Unproven,
    Beyond,
    Unlisted,
    Wiped,
}

/// Looks at every object that no digest names.
pub(super) fn sweep(folder: &Folder<'_>, state: &mut State, now_ms: Millis) -> io::Result<()> {
    let mut extents = std::mem::take(&mut state.extents);
    let mut index = Index::new();
    for (at, extent) in extents.iter().enumerate() {
        for key in &extent.buckets {
            index.entry(key.clone()).or_default().push(at);
        }
    }
    let mut wiped: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut failed = None;
    folder.walk(&mut |met| {
        let place = match met {
            Met::Object(place) => place,
            Met::Foreign(name) => {
                let text = "is nothing that belongs here".to_owned();
                return state.find(Verdict::Unlisted, name, text);
            }
        };
        if state.named.contains(&place_hash(&place.bucket, &place.object)) {
            return;
        }
        let kind = kind(&place);
        match judge(&place, &kind, (&mut extents, &index), now_ms) {
            waits @ (Unnamed::Pending | Unnamed::AfterEnd | Unnamed::Unproven) => {
                match by_itself(folder, &place, &kind) {
                    Ok(None) => *counter(state, waits) += 1,
                    Ok(Some((verdict, text))) => {
                        state.find(verdict, place.to_string(), text.to_owned());
                    }
                    Err(error) => failed = Some(error),
                }
            }
            Unnamed::Beyond => {}
            Unnamed::Unlisted => unlisted(state, &place),
            Unnamed::Wiped => {
                if let Kind::Traces { tracker, .. } = kind {
                    *wiped.entry((place.bucket, tracker)).or_default() += 1;
                }
            }
        }
    })?;
    for ((bucket, tracker), count) in wiped {
        let text = format!(
            "{count} trace files and not one digest: the chain was wiped, or verification was \
             never on, or no digest interval has ended yet"
        );
        state.find(Verdict::WipedChain, format!("{bucket}, tracker {tracker}"), text);
    }
    state.extents = extents;
    failed.map_or(Ok(()), Err)
}

fn unlisted(state: &mut State, place: &Place) {
    let text = "no digest lists it".to_owned();
    state.find(Verdict::Unlisted, place.to_string(), text);
}

/// Where objects that are no finding are counted.
fn counter(state: &mut State, waits: Unnamed) -> &mut u64 {
    match waits {
        Unnamed::AfterEnd => &mut state.report.after_end,
        Unnamed::Unproven => &mut state.report.unproven,
        _ => &mut state.report.pending,
    }
}

/// What is wrong with a trace file that no digest speaks of, by its own metadata: those prove
/// nothing, but a planted file may have none, and a damaged one differs from them.
fn by_itself(
    folder: &Folder<'_>,
    place: &Place,
    kind: &Kind,
) -> io::Result<Option<(Verdict, &'static str)>> {
    if !matches!(kind, Kind::Traces { .. }) {
        return Ok(None);
    }
    let Some(opened) = folder.object(place, FILE_BYTES_MAX)? else { return Ok(None) };
    let metadata = folder.metadata(place, &opened)?.unwrap_or_default();
    if metadata.get("format").is_none_or(|format| format != "trailproof/file/v1") {
        return Ok(Some((Verdict::Unlisted, "no digest lists it, and it has no metadata")));
    }
    let mut hasher = Sha256::new();
    io::copy(&mut opened.reader()?, &mut hasher)?;
    let hash = HEXLOWER.encode(&hasher.finalize());
    let changed = metadata.get("sha256") != Some(&hash);
    Ok(changed.then_some((Verdict::Changed, "its SHA-256 is not the one in its metadata")))
}

fn judge(
    place: &Place,
    kind: &Kind,
    (extents, index): (&mut [Extent], &Index),
    now_ms: Millis,
) -> Unnamed {
    let (tracker, end_ms) = match kind {
        Kind::Traces { tracker, cycle_end_ms } => (tracker, *cycle_end_ms),
        Kind::Digest(DigestName { tracker, end_ms, .. })
        | Kind::Note(DigestName { tracker, end_ms, .. })
        | Kind::Compatible { tracker, end_ms } => (tracker, *end_ms),
        Kind::Other => return Unnamed::Unlisted,
    };
    let key = (place.bucket.clone(), tracker.clone());
    let Some(own) = index.get(&key) else {
        let traces = matches!(kind, Kind::Traces { .. });
        return if traces { Unnamed::Wiped } else { Unnamed::Unlisted };
    };
    let damaged = |extent: &Extent| {
        extent.damaged.iter().any(|(from_ms, to_ms)| *from_ms < end_ms && end_ms <= *to_ms)
    };
    if own.iter().any(|at| damaged(&extents[*at])) {
        return Unnamed::Unproven;
    }
    let newer = |extent: &Extent| extent.end_ms.is_none_or(|last_ms| last_ms < end_ms);
    // A digest precedes its note, so a note without digest has lost it.
    let lonely = matches!(kind, Kind::Note(_));
    let Some(at) = own.iter().find(|at| newer(&extents[**at])) else {
        return Unnamed::Unlisted;
    };
    let extent = &mut extents[*at];
    if extent.ended && !lonely {
        return Unnamed::AfterEnd;
    }
    if end_ms > now_ms.saturating_add(AHEAD_MS) {
        return Unnamed::Unlisted;
    }
    if lonely || end_ms > extent.patience_ms() {
        extent.beyond += 1;
        return Unnamed::Beyond;
    }
    Unnamed::Pending
}

/// Names chains that have lost their end, by their own files and by the other chains.
pub(super) fn check_tails(state: &mut State) {
    let extents = std::mem::take(&mut state.extents);
    let newest_ms = extents.iter().filter_map(|extent| extent.end_ms).max();
    for extent in &extents {
        let (Some(end_ms), Some(newest_ms)) = (extent.end_ms, newest_ms) else { continue };
        let last = rfc3339(end_ms);
        if extent.beyond > 0 {
            let count = extent.beyond;
            let text = format!("ends at {last}, and {count} objects are of later intervals");
            state.find(Verdict::TruncatedTail, extent.origin.clone(), text);
        } else if !extent.ended && newest_ms >= extent.patience_ms() && newest_ms > end_ms {
            let text = format!("ends at {last}, other chains go on to {}", rfc3339(newest_ms));
            state.find(Verdict::TruncatedTail, extent.origin.clone(), text);
        }
    }
    state.extents = extents;
}

/// Compares a chain with the head that was kept of it.
pub(super) fn check_heads(
    state: &mut State,
    heads: Option<&Heads>,
    report: &ChainReport,
    chain: &Chain,
    roots: &[Hash],
) {
    let known = heads.iter().flat_map(|heads| &heads.heads);
    for head in known.filter(|head| head.origin == report.origin) {
        let at = usize::try_from(head.sequence).unwrap_or(usize::MAX);
        let begins_ms = chain.digests.first().map(|(_, body)| body.digest.interval_start_ms);
        let restarted =
            head.interval_end_ms.zip(begins_ms).is_some_and(|(known, new)| new >= known)
                && chain.digests.first().is_some_and(|(_, body)| body.digest.begins());
        let (verdict, text) = if restarted {
            let text = "begins after the head that was kept of it";
            (Verdict::ReStartedChain, text.to_owned())
        } else if report.sequence < head.sequence {
            let text = format!("ends at {}, its head was at {}", report.sequence, head.sequence);
            (Verdict::TruncatedTail, text)
        } else if roots.get(at).is_some_and(|root| head.root() != Some(*root)) {
            let text = format!("its root at {} is not the one that was kept", head.sequence);
            (Verdict::Fork, text)
        } else {
            continue;
        };
        state.find(verdict, report.origin.clone(), text);
    }
}

/// Names chains that are known by a head and gone.
pub(super) fn check_lost(state: &mut State, heads: Option<&Heads>) {
    for head in heads.iter().flat_map(|heads| &heads.heads) {
        if !state.report.chains.iter().any(|chain| chain.origin == head.origin) {
            let text = format!("its head was at {}, and no digest is left", head.sequence);
            state.find(Verdict::WipedChain, head.origin.clone(), text);
        }
    }
}
