//! A chain from its digests: which of them hold, in what order, and what is wrong.
//!
//! **Invariant:** a digest counts only if a trusted key signed it, or the next one that counts
//! names its hash and its signature.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use trailproof_topology::digest::{Break, Coverage, coverage_meets, file_name};
use trailproof_topology::input::Millis;
use trailproof_topology::merkle::{Frontier, Hash};
use trailproof_topology::names::{day_folder, file_time};

use super::folder::Place;
use super::read::{Body, Found, Signed};
use super::report::{ChainReport, ExplicitGap, Verdict};
use crate::keys::public::PublicKeys;

/// Missing digests that are named one by one.
const NAMED_MAX: u64 = 64;

/// A chain that was put together.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The digests that hold, oldest first.
    pub(super) digests: Vec<(Place, Body)>,
    /// What is wrong, by object.
    pub(super) wrong: Vec<(Verdict, String, String)>,
    /// Intervals whose digest is missing or damaged: after, up to.
    pub(super) damaged: Vec<(Millis, Millis)>,
    /// How many digests from the first one on have no gap among them.
    pub(super) unbroken: usize,
    /// The note of the newest digest, where it is not there.
    pub(super) unnoted: Option<String>,
}

impl Chain {
    fn say(&mut self, verdict: Verdict, object: &Place, text: impl Into<String>) {
        self.wrong.push((verdict, object.to_string(), text.into()));
    }

    /// Puts together the digests of one tracker. `noted` answers with the root that a trusted key
    /// signed in the note beside a digest.
    pub(super) fn new(
        found: Vec<Found>,
        keys: &PublicKeys,
        noted: &dyn Fn(&Place) -> Option<Hash>,
    ) -> Self {
        let mut chain = Self::default();
        let there: BTreeSet<Place> = found.iter().map(|one| one.place.clone()).collect();
        let mut unread = Vec::new();
        let mut held = chain.sift(found, &mut unread, keys, noted);
        held.sort_by(|(one_place, one), (other_place, other)| {
            let key = |body: &Body| (body.digest.interval_end_ms, body.digest.sequence);
            key(one).cmp(&key(other)).then_with(|| one_place.cmp(other_place))
        });
        chain.check_order(&held, &there);
        chain.digests = held;
        chain.settle(unread);
        chain
    }

    /// Says what is wrong with digests that cannot be read, and since when each damage lasts.
    fn settle(&mut self, unread: Vec<(Place, Millis)>) {
        for (place, end_ms) in unread {
            let covered = self.digests.iter().any(|(_, body)| {
                body.digest.interval_start_ms < end_ms && end_ms <= body.digest.interval_end_ms
            });
            if covered {
                let text = "is no digest, and stands in the place of none";
                self.say(Verdict::Unlisted, &place, text);
            } else {
                self.say(Verdict::Changed, &place, "is no digest any more");
                self.damaged.push((Millis::MIN, end_ms));
            }
        }
        for (from_ms, to_ms) in &mut self.damaged {
            let ends = self.digests.iter().map(|(_, body)| body.digest.interval_end_ms);
            *from_ms = ends.filter(|end_ms| end_ms < to_ms).max().unwrap_or(Millis::MIN);
        }
    }

    /// Separates the digests that hold from those that do not.
    fn sift(
        &mut self,
        found: Vec<Found>,
        unread: &mut Vec<(Place, Millis)>,
        keys: &PublicKeys,
        noted: &dyn Fn(&Place) -> Option<Hash>,
    ) -> Vec<(Place, Body)> {
        let mut held = Vec::new();
        let mut doubtful = Vec::new();
        for Found { place, name, body } in found {
            match body {
                None => unread.push((place, name.end_ms)),
                Some(body) if !body.is_at(&place) => {
                    let claim = Place::new(&body.digest.digest_bucket, &body.digest.digest_object);
                    self.say(Verdict::WrongLocation, &place, format!("says it is {claim}"));
                    self.damaged.push((Millis::MIN, name.end_ms));
                }
                Some(body) if body.signed == Signed::Good => held.push((place, body)),
                Some(body) => doubtful.push((place, body)),
            }
        }
        // Newest first: a digest that is proven by the next one proves the one before it.
        doubtful.sort_by_key(|(_, body)| Reverse(body.digest.interval_end_ms));
        for (place, mut body) in doubtful {
            let proof = proof(&place, &body, &held, keys, noted);
            let (verdict, text) = doubt(body.signed, &proof);
            self.say(verdict, &place, text);
            match proof {
                Proof::Holds(signature) => {
                    body.signature = signature.unwrap_or_default();
                    held.push((place, body));
                }
                Proof::Differs | Proof::None => {
                    self.damaged.push((Millis::MIN, body.digest.interval_end_ms));
                }
            }
        }
        held
    }

    /// Follows the chain from digest to digest.
    fn check_order(&mut self, held: &[(Place, Body)], there: &BTreeSet<Place>) {
        let by_place: BTreeMap<&Place, usize> =
            held.iter().enumerate().map(|(at, (place, _))| (place, at)).collect();
        let mut children: BTreeMap<Place, &Place> = BTreeMap::new();
        let mut unbroken = held.len();
        for (at, (place, body)) in held.iter().enumerate() {
            let digest = &body.digest;
            if !body.balances {
                self.say(Verdict::Unbalanced, place, "its counts do not add up");
            }
            if !body.algorithm && body.signed == Signed::Good {
                self.say(Verdict::Changed, place, "its metadata name another algorithm");
            }
            let named = Place::new(&digest.previous_digest_bucket, &digest.previous_digest_object);
            if digest.begins() {
                if let Some(before) = at.checked_sub(1) {
                    let text = "is a starting digest, and the chain had begun before";
                    self.say(Verdict::ReStartedChain, place, text);
                    self.note_gap(held.get(before), body);
                    unbroken = unbroken.min(at);
                }
            } else if let Some(parent) = by_place.get(&named).copied().filter(|own| *own != at) {
                if let Some(other) = children.insert(named, place) {
                    let text = format!("continues the same digest as {other}");
                    self.say(Verdict::Fork, place, text);
                }
                if !self.check_link(&held[parent], place, body) {
                    unbroken = unbroken.min(parent);
                }
            } else {
                self.name_missing(
                    at.checked_sub(1).map(|before| &held[before]),
                    body,
                    &named,
                    there,
                );
                unbroken = unbroken.min(at);
            }
        }
        self.unbroken = unbroken;
    }

    /// Checks whether a digest follows the one that it names; whether at least that one's content
    /// is what it was chained to.
    fn check_link(
        &mut self,
        (before, previous): &(Place, Body),
        place: &Place,
        body: &Body,
    ) -> bool {
        let digest = &body.digest;
        let follows = digest.follows(&previous.link(before));
        match follows {
            Ok(()) => {}
            Err(Break::Content) => {
                let text = format!("{place} was chained to another content or signature");
                self.say(Verdict::ReSignedPast, before, text);
            }
            Err(Break::Order) => {
                let text = "names a predecessor that is not the one before it";
                self.say(Verdict::ReSignedPast, place, text);
            }
            Err(Break::Clock) => {
                let text = "its interval begins before the one before it ended";
                self.say(Verdict::ClockRegression, place, text);
            }
            Err(Break::Gap) => {
                let text = "its interval begins after the one before it ended";
                self.say(Verdict::CoverageGap, place, text);
            }
        }
        let silent = previous.digest.digest_end;
        if !silent && !coverage_meets(&previous.digest.coverage, &digest.coverage) {
            let text = "its offsets do not begin where those of the digest before it ended";
            self.say(Verdict::CoverageGap, place, text);
        }
        follows != Err(Break::Content)
    }

    fn note_gap(&mut self, before: Option<&(Place, Body)>, body: &Body) {
        let from_ms = before.map_or(Millis::MIN, |(_, own)| own.digest.interval_end_ms);
        self.damaged.push((from_ms, body.digest.interval_start_ms));
    }

    /// Names the digests between the last one that holds and `body`; not those that are `there`,
    /// of which something else is said.
    fn name_missing(
        &mut self,
        before: Option<&(Place, Body)>,
        body: &Body,
        named: &Place,
        there: &BTreeSet<Place>,
    ) {
        self.note_gap(before, body);
        let first = before.map_or(0, |(_, own)| own.digest.sequence + 1);
        let count = body.digest.sequence.saturating_sub(first);
        let text = |sequence| format!("digest {sequence} of the chain is not there");
        for back in (1..count.clamp(1, NAMED_MAX)).rev() {
            let sequence = body.digest.sequence.saturating_sub(back + 1);
            if let Some(place) = guess(before, body, back, count) {
                if !there.contains(&place) {
                    self.say(Verdict::Missing, &place, text(sequence));
                }
            } else {
                let object = format!("{} digest {sequence}", body.digest.chain.origin());
                self.wrong.push((Verdict::Missing, object, text(sequence)));
            }
        }
        if count > NAMED_MAX {
            let last = body.digest.sequence - NAMED_MAX - 1;
            let object = format!("{} digests {first} to {last}", body.digest.chain.origin());
            self.wrong.push((Verdict::Missing, object, "are not there".to_owned()));
        }
        if !there.contains(named) {
            self.say(Verdict::Missing, named, text(body.digest.sequence.saturating_sub(1)));
        }
    }

    /// What the report says of the chain.
    pub(super) fn report(&self) -> Option<ChainReport> {
        let (_, first) = self.digests.first()?;
        let (_, last) = self.digests.last()?;
        let mut report = ChainReport {
            origin: last.digest.chain.origin(),
            tracker: last.digest.chain.tracker.clone(),
            digests: self.digests.len() as u64,
            sequence: last.digest.sequence,
            from_ms: first.digest.interval_start_ms,
            until_ms: last.digest.interval_end_ms,
            ended: last.digest.digest_end,
            ..ChainReport::default()
        };
        for (place, body) in &self.digests {
            report.sums.add(&body.digest);
            report.files += body.files;
            for coverage in &body.digest.coverage {
                if let Coverage::Ledger(counts) = coverage
                    && counts.lost > 0
                {
                    report.explicit_gaps.push(ExplicitGap {
                        object: place.to_string(),
                        partition: counts.partition,
                        from: counts.from,
                        to: counts.to,
                        lost: counts.lost,
                    });
                }
            }
        }
        Some(report)
    }
}

/// What others say of the content of a digest whose own signature does not help.
enum Proof {
    /// The next digest, which gives the signature, or a checkpoint proves it.
    Holds(Option<String>),
    /// They name another content.
    Differs,
    /// There is nothing.
    None,
}

fn proof(
    place: &Place,
    body: &Body,
    held: &[(Place, Body)],
    keys: &PublicKeys,
    noted: &dyn Fn(&Place) -> Option<Hash>,
) -> Proof {
    let next = held.iter().map(|(_, next)| &next.digest).find(|next| {
        (&next.previous_digest_bucket, &next.previous_digest_object)
            == (&place.bucket, &place.object)
    });
    if let Some(next) = next {
        let signature = &next.previous_digest_signature;
        let same = next.previous_digest_hash_value == body.hash;
        return match same && body.signed_by(keys, signature) == Some(true) {
            true => Proof::Holds(Some(signature.clone())),
            false => Proof::Differs,
        };
    }
    let Some(root) = noted(place) else { return Proof::None };
    let mut before: Vec<&Body> = held.iter().map(|(_, body)| body).collect();
    before.sort_by_key(|body| body.digest.sequence);
    let mut tree = Frontier::default();
    for leaf in before.iter().map(|body| body.leaf).chain([body.leaf]) {
        tree.push(leaf);
    }
    if tree.root() == root { Proof::Holds(None) } else { Proof::Differs }
}

/// How a digest is called whose own signature does not help.
fn doubt(signed: Signed, proof: &Proof) -> (Verdict, &'static str) {
    match (signed, proof) {
        (Signed::UnknownKey, _) => (Verdict::UnknownKey, "names a key that is not trusted"),
        (_, Proof::Differs) => {
            (Verdict::Changed, "is not the digest that the next one or its checkpoint names")
        }
        (Signed::Missing, _) => (Verdict::Missing, "its metadata are missing or have no signature"),
        (_, Proof::Holds(_)) => (
            Verdict::BadSignature,
            "its signature does not hold; the next digest or its checkpoint proves its content",
        ),
        (_, Proof::None) => {
            (Verdict::BadSignature, "its signature does not hold, and nothing proves its content")
        }
    }
}

/// Where the digest `back` + 1 places before `body` should lie, if the missing intervals are of
/// equal length.
fn guess(before: Option<&(Place, Body)>, body: &Body, back: u64, count: u64) -> Option<Place> {
    let (_, previous) = before?;
    let (from_ms, digest) = (previous.digest.interval_end_ms, &body.digest);
    let count = i64::try_from(count).ok().filter(|count| *count > 0)?;
    let span_ms = digest.interval_start_ms.checked_sub(from_ms)?;
    if span_ms <= 0 || span_ms % count != 0 {
        return None;
    }
    let length_ms = span_ms / count;
    let end_ms = digest.interval_start_ms - i64::try_from(back).ok()? * length_ms;
    let mut parts = digest.digest_object.split('/');
    let region = parts.nth(1)?;
    let name = digest.digest_object.rsplit('/').next()?;
    let own = file_name("", region, digest.interval_end_ms, &digest.chain.tracker);
    let prefix = name.strip_suffix(&own)?;
    let folder = day_folder(region, &digest.chain.tracker_name, end_ms - length_ms);
    let name = name.strip_prefix(prefix)?.replacen(
        &file_time(digest.interval_end_ms),
        &file_time(end_ms),
        1,
    );
    Some(Place::new(&digest.digest_bucket, &format!("{folder}/Digest/{prefix}{name}")))
}
