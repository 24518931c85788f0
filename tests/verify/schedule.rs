//! The orders in which the steps of a story may be put: lanes do not wait for each other.

use std::collections::{BTreeMap, VecDeque};

use trailproof_topology::digest::Digest;
use trailproof_topology::input::Millis;

use super::archive::{INTERVAL, Random};
use super::story::{Change, Plan, Put, Step, Story};

/// Files of a lane, and chains of a lane, that an outbox puts at the same time.
const FILES_AT_ONCE: usize = 4;
const CHAINS_AT_ONCE: usize = 2;

/// One put, and what is known once all of its step is there.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) put: Put,
    pub(crate) end_ms: Millis,
    /// The step's digest, with its last put.
    pub(crate) digest: Option<Digest>,
}

/// The steps of a story as lanes that do not wait for each other deliver them. Chains that live in
/// different lanes stay within the patience that they are given.
struct Schedule {
    lanes: Vec<VecDeque<(usize, Step)>>,
    under_way: Vec<Vec<Step>>,
    /// By chain: how far others may be ahead of each digest that is still to come, in order.
    patience_ms: BTreeMap<String, VecDeque<Millis>>,
    weights: Vec<u64>,
}

impl Schedule {
    fn of(story: Story, random: &mut Random) -> Self {
        let count = story.steps.iter().map(|step| step.lane).max().unwrap() + 1;
        let mut lanes = vec![VecDeque::new(); count];
        for (at, step) in story.steps.into_iter().enumerate() {
            lanes[step.lane].push_back((at, step));
        }
        let digests = || lanes.iter().flatten().filter_map(|(_, step)| step.digest.as_ref());
        let lengths = digests().map(|own| own.interval_end_ms - own.interval_start_ms);
        let shortest_ms = lengths.min().unwrap();
        let mut patience_ms: BTreeMap<String, VecDeque<Millis>> = BTreeMap::new();
        for digest in digests() {
            let name = digest.chain.tracker_name.clone();
            patience_ms.entry(name).or_default().push_back(digest.interval_end_ms + shortest_ms);
        }
        Self {
            under_way: vec![Vec::new(); count],
            patience_ms,
            weights: (0..count).map(|_| 1 + random.below(9) * random.below(9)).collect(),
            lanes,
        }
    }

    /// Takes up what a lane may take up.
    fn begin(&mut self, lane: usize) {
        let at_once = if lane < 2 { FILES_AT_ONCE } else { CHAINS_AT_ONCE };
        while self.under_way[lane].len() < at_once
            && let Some((at, step)) = self.lanes[lane].front()
            && self.may_begin(*at, step)
            && let Some((_, step)) = self.lanes[lane].pop_front()
        {
            self.under_way[lane].push(step);
        }
    }

    fn may_begin(&self, at: usize, step: &Step) -> bool {
        let Some(digest) = &step.digest else {
            return self.patience().all(|(_, patience_ms)| step.end_ms <= patience_ms);
        };
        let name = &digest.chain.tracker_name;
        let files_are_there = (0..2).all(|lane| {
            let next = self.lanes[lane].front();
            self.under_way[lane].is_empty() && next.is_none_or(|(next, _)| *next > at)
        });
        let mut others = self.patience().filter(|(other, _)| *other != name);
        let mut under_way = self.under_way[step.lane].iter().filter_map(|own| own.digest.as_ref());
        files_are_there
            && others.all(|(_, patience_ms)| step.end_ms < patience_ms)
            && under_way.all(|own| own.chain.tracker_name != *name)
    }

    /// How far others may be ahead of each chain that goes on.
    fn patience(&self) -> impl Iterator<Item = (&String, Millis)> {
        self.patience_ms.iter().filter_map(|(name, ends)| Some((name, *ends.front()?)))
    }

    fn next(&mut self, random: &mut Random) -> Option<Moment> {
        (0..self.lanes.len()).for_each(|lane| self.begin(lane));
        let ready = |lane: &usize| !self.under_way[*lane].is_empty();
        let lanes: Vec<usize> = (0..self.lanes.len()).filter(ready).collect();
        let total: u64 = lanes.iter().map(|lane| self.weights[*lane]).sum();
        if total == 0 {
            assert!(self.lanes.iter().all(VecDeque::is_empty), "the schedule is stuck");
            return None;
        }
        let mut at = random.below(total);
        let lane = *lanes.iter().find(|lane| {
            let here = at < self.weights[**lane];
            at = at.saturating_sub(self.weights[**lane]);
            here
        })?;
        let steps = &mut self.under_way[lane];
        let which = random.below(steps.len() as u64) as usize;
        let put = steps[which].puts.remove(0);
        let end_ms = steps[which].end_ms;
        let mut digest = None;
        if steps[which].puts.is_empty() {
            digest = steps.remove(which).digest;
        }
        if let Some(digest) = &digest
            && let Some(ends) = self.patience_ms.get_mut(&digest.chain.tracker_name)
        {
            ends.pop_front();
        }
        Some(Moment { put, end_ms, digest })
    }
}

pub(crate) const PLAIN: &[(i64, Change)] = &[];

/// Verification of a tracker goes off and comes back; one has none at first.
pub(crate) const SWITCHED: &[(i64, Change)] = &[
    (0, |catalog| catalog.accounts[2].trackers[0].verify = false),
    (2, |catalog| catalog.accounts[1].trackers[0].verify = false),
    (4, |catalog| catalog.accounts[2].trackers[0].verify = true),
    (7, |catalog| catalog.accounts[1].trackers[0].verify = true),
];

/// The interval gets shorter while one is running.
pub(crate) const SHORTENED: &[(i64, Change)] =
    &[(4, |catalog| catalog.digest_interval_ms = INTERVAL / 3)];

/// What is put, in one of the orders that there may be.
pub(crate) fn moments(seed: u64, changes: &[(i64, Change)]) -> Vec<Moment> {
    let random = &mut Random::new(seed + 1_000);
    let plan = Plan { cycles: 13, files_partitions: 2, changes: changes.to_vec() };
    let mut schedule = Schedule::of(Story::new(seed, &plan), random);
    std::iter::from_fn(|| schedule.next(random)).collect()
}

/// What is put, each step behind the one before.
pub(crate) fn in_order(seed: u64) -> Vec<Moment> {
    let plan = Plan { cycles: 13, files_partitions: 2, changes: Vec::new() };
    let moments = |step: Step| {
        let end_ms = step.end_ms;
        step.puts.into_iter().map(move |put| Moment { put, end_ms, digest: None })
    };
    Story::new(seed, &plan).steps.into_iter().flat_map(moments).collect()
}
