//! One run: safety under faults, then liveness without, then the comparison.

use std::collections::BTreeSet;
use std::sync::Arc;

use trailproof::log::Kind;
use trailproof_topology::catalog::{Catalog, CatalogMark};
use trailproof_topology::digest_stage::DigestStage;
use trailproof_topology::effect::{Lane, Topic};
use trailproof_topology::input::Millis;
use trailproof_topology::record::RecordStage;

use super::checks::Checker;
use super::compare;
use super::hub::{Hub, Inner};
use super::node::{Checked, Node, Owner};
use super::plant::Plant;
use super::random::Random;
use super::traces::Meant;
use super::world::{self, START_MS, World};

/// Rounds of the liveness phase after which a run that has not drained is stuck.
const ROUNDS_MAX: usize = 400;

/// The longest interval of any catalog.
const INTERVAL_MAX_MS: Millis = 60_000;

/// A run under way.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) hub: Arc<Hub>,
    pub(crate) nodes: Vec<Box<dyn Node>>,
    /// Owners that were replaced and do not know it.
    zombies: Vec<Box<dyn Node>>,
    pub(crate) checker: Checker,
}

/// Runs a seed; the marks it hit.
pub(crate) fn seed(seed: u64, plant: Plant) -> Result<BTreeSet<&'static str>, String> {
    let mut run = Run::new(seed, plant);
    let outcome = run.whole();
    let mut inner = run.hub.lock();
    outcome.map(|()| std::mem::take(&mut inner.marks))
}

impl Run {
    pub(crate) fn new(seed: u64, plant: Plant) -> Self {
        let mut world = World::new(seed);
        let hub = world.hub(plant);
        let nodes = nodes(&world, &hub, world.batch_bytes);
        Self { world, hub, nodes, zombies: Vec::new(), checker: Checker::default() }
    }

    /// All three phases.
    pub(crate) fn whole(&mut self) -> Checked {
        self.safety()?;
        let until_ms = self.liveness()?;
        compare::all(self, until_ms)
    }

    fn safety(&mut self) -> Checked {
        if self.world.random.one_in(4) {
            self.produce();
            self.hub.mark("records before the first catalog");
        }
        self.world.announce(&self.hub);
        let steps_max = self.world.records * 8;
        let mut steps = 0;
        while self.world.records > 0 && steps < steps_max {
            steps += 1;
            self.act()?;
            self.checker.step(&self.hub)?;
        }
        Ok(())
    }

    /// One act of the world.
    fn act(&mut self) -> Checked {
        let roll = self.world.random.below(1_000);
        if roll < self.world.trouble {
            return self.trouble();
        }
        match self.world.random.below(20) {
            0..5 => self.produce(),
            5..7 => self.pass_time(),
            7 if self.world.changes > 0 && self.world.random.one_in(4) => {
                self.world.change(&self.hub);
            }
            8 => self.pick().flush(),
            9 if self.world.random.one_in(3) => {
                let node = self.world.random.below(self.nodes.len() as u64) as usize;
                self.nodes[node].index()?;
            }
            10..15 => self.work()?,
            _ => self.deliver()?,
        }
        Ok(())
    }

    fn pick(&mut self) -> &mut Box<dyn Node> {
        let at = self.world.random.below(self.nodes.len() as u64) as usize;
        &mut self.nodes[at]
    }

    fn work(&mut self) -> Checked {
        if !self.zombies.is_empty() && self.world.random.one_in(3) {
            let at = self.world.random.below(self.zombies.len() as u64) as usize;
            if self.zombies[at].work()? {
                self.hub.mark("a zombie works");
            }
            return Ok(());
        }
        self.pick().work().map(|_| ())
    }

    fn deliver(&mut self) -> Checked {
        let lane = *self.world.random.pick(&Lane::ALL);
        if !self.zombies.is_empty() && self.world.random.one_in(3) {
            let at = self.world.random.below(self.zombies.len() as u64) as usize;
            let outcome = self.zombies[at].deliver(lane);
            if !self.zombies[at].is_alive() {
                // It has learnt that it was replaced.
                self.zombies.remove(at);
            }
            return outcome.map(|_| ());
        }
        let outcome = self.pick().deliver(lane);
        outcome.map(|_| ())
    }

    /// A crash, a takeover, a lost disk.
    fn trouble(&mut self) -> Checked {
        let random = &mut self.world.random;
        let at = random.below(self.nodes.len() as u64) as usize;
        match random.below(10) {
            0 => {
                self.nodes[at].crash(0);
                self.nodes[at].lose();
                self.hub.mark("a store is lost");
            }
            1..3 => {
                let restored = random.one_in(2);
                let successor = self.nodes[at].successor(restored);
                let zombie = std::mem::replace(&mut self.nodes[at], successor);
                if zombie.is_alive() {
                    self.zombies.push(zombie);
                }
                self.hub.mark(if restored { "restored elsewhere" } else { "built elsewhere" });
                self.hub.mark("two owners");
            }
            _ => {
                // Nearly every crash loses something.
                let unsynced = self.nodes[at].unsynced() as u64;
                let lost = if random.one_in(8) { 0 } else { 1 + random.below(unsynced) };
                let kept = self.nodes[at].crash(lost as usize) as u64;
                self.hub.mark(match (unsynced, kept) {
                    (0, _) => "a crash with all synced",
                    (all, kept) if kept == all => "a crash that loses nothing",
                    (_, 0) => "a crash that loses all unsynced",
                    _ => "a crash that loses a suffix",
                });
            }
        }
        Ok(())
    }

    /// Producers send something.
    pub(crate) fn produce(&mut self) {
        let World { random, producer, records, catalog, .. } = &mut self.world;
        let partition = random.below(u64::from(catalog.traces_partitions)) as u32;
        let count = 1 + random.below(6);
        let mut inner = self.hub.lock();
        inner.now_ms += random.below(400) as Millis;
        dig(&mut inner, random, partition);
        for _ in 0..count.min((*records).max(1)) {
            *records = records.saturating_sub(1);
            if random.one_in(60) {
                forge(&mut inner, random, partition, catalog);
                continue;
            }
            if random.one_in(60) {
                inner.append(Topic::Traces, partition, Kind::Unknown, b"{}", Meant::Strange);
                inner.mark("a strange header");
                continue;
            }
            let record = producer.record(random);
            inner.append(Topic::Traces, partition, Kind::Data, &record.value, record.meant);
        }
        if random.one_in(40) {
            let partition = random.below(u64::from(catalog.files_partitions)) as u32;
            inner.append(Topic::Files, partition, Kind::Data, b"{\"type\":\"?\"}", Meant::Own);
            inner.mark("garbage in files");
        }
        inner.say(|| format!("{count} records to traces/{partition}"));
    }

    fn pass_time(&mut self) {
        let random = &mut self.world.random;
        let mut inner = self.hub.lock();
        let cycle_ms = self.world.catalog.cycle_ms;
        let next = inner.now_ms - inner.now_ms.rem_euclid(cycle_ms) + cycle_ms;
        let (to, mark) = match random.below(12) {
            0 => (next, "exactly a boundary"),
            1 => (next - 1, "just before a boundary"),
            2 => (next + 1, "just behind a boundary"),
            3 => (next + cycle_ms * random.below(3) as i64, "idle cycles"),
            4 => (inner.now_ms + 60_000 * random.below(3) as i64, "idle intervals"),
            6 => (inner.now_ms - random.below(25_000) as i64, "the clock goes back"),
            _ => (inner.now_ms + random.below(2_500) as i64, "time passes"),
        };
        inner.now_ms = to.max(START_MS - 60_000);
        inner.mark(mark);
        inner.say(|| format!("{mark}: {to}"));
    }

    /// Faults off: everything must drain. Gives the boundary that all has reached.
    pub(crate) fn liveness(&mut self) -> Result<Millis, String> {
        self.zombies.clear();
        let until_ms = {
            let mut hub = self.hub.lock();
            let inner = &mut *hub;
            inner.faults.on = false;
            inner.faults.crash_at.clear();
            inner.faults.crashed = false;
            // Somebody moves away what does not belong there.
            for place in std::mem::take(&mut inner.objects.planted) {
                inner.objects.all.remove(&place);
            }
            let interval_ms = self.world.catalog.digest_interval_ms;
            let logs = inner.logs.traces.iter().chain(&inner.logs.files);
            let mut latest = logs.map(|log| log.time_ms).chain([inner.now_ms]).max().unwrap_or(0);
            if inner.marks.contains("the interval changes") {
                // What came in under a longer interval is listed when that would have ended.
                latest += INTERVAL_MAX_MS;
            }
            let until_ms = latest - latest.rem_euclid(interval_ms) + interval_ms;
            inner.now_ms = until_ms + 1;
            inner.say(|| "faults are off".to_owned());
            until_ms
        };
        for _ in 0..ROUNDS_MAX {
            let mut happened = false;
            for node in &mut self.nodes {
                happened |= node.work()?;
                for lane in Lane::ALL {
                    happened |= node.deliver(lane)?;
                    self.checker.step(&self.hub)?;
                }
            }
            if !happened && self.nodes.iter().all(|node| node.backlog() == 0) {
                return Ok(until_ms);
            }
        }
        Err("no progress: the backlog does not drain".to_owned())
    }
}

/// Kafka's own offsets, and what retention took before anybody read it.
fn dig(inner: &mut Inner, random: &mut Random, partition: u32) {
    let begun = !inner.logs.partition(Topic::Traces, partition).records.is_empty();
    if inner.holes && begun && random.one_in(3) {
        inner.append_nothing(Topic::Traces, partition, Meant::Absent, 1 + random.below(3));
        inner.mark("offsets without record");
    }
    if inner.holes && random.one_in(20) {
        inner.append_nothing(Topic::Traces, partition, Meant::Lost, 1 + random.below(4));
        inner.mark("an explicit gap");
    }
}

/// Anybody with write access can send headers: of a version that was, that never is, or that will
/// be and nobody knows the hash of.
fn forge(inner: &mut Inner, random: &mut Random, partition: u32, catalog: &Catalog) {
    if random.one_in(8) {
        inner.append(Topic::Traces, partition, Kind::Catalog, b"2", Meant::Strange);
        inner.mark("a mark that is none");
        return;
    }
    if random.one_in(4) {
        // A true one, twice.
        let (mark, version) = (world::mark_of(catalog), catalog.version);
        if inner.catalogs.contains_key(&version) {
            world::append_mark(inner, Topic::Traces, partition, &mark, Meant::Mark(version));
            inner.mark("a version is marked twice");
        }
        return;
    }
    let version = *random.pick(&[1, catalog.version + 1, 9_999]);
    let mark = CatalogMark { version, sha256: [7; 32] };
    // The oracle knows no version 0.
    world::append_mark(inner, Topic::Traces, partition, &mark, Meant::Mark(0));
    inner.mark("a forged mark");
}

/// An owner for each partition.
pub(crate) fn nodes(world: &World, hub: &Arc<Hub>, batch_bytes: usize) -> Vec<Box<dyn Node>> {
    let mut nodes: Vec<Box<dyn Node>> = Vec::new();
    for partition in 0..world.catalog.traces_partitions {
        nodes.push(Box::new(Owner::<RecordStage>::new(hub, partition, batch_bytes)));
    }
    for partition in 0..world.catalog.files_partitions {
        nodes.push(Box::new(Owner::<DigestStage>::new(hub, partition, batch_bytes)));
    }
    nodes
}
