//! One run by a script: the same records, times and catalogs every time, whatever crashes.
//!
//! What producers send depends on nothing that the engine does, and workers go to the end of their
//! partition before time passes or the catalog changes. So a run that crashed anywhere must end in
//! the bytes of the run that did not.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use trailproof::log::Kind;
use trailproof_topology::catalog::{Catalog, Compression};
use trailproof_topology::effect::{Lane, Topic};
use trailproof_topology::input::Millis;

use super::compare;
use super::hub::{Faults, Rates};
use super::node::Checked;
use super::objects::Place;
use super::plant::Plant;
use super::random::Random;
use super::replay;
use super::run::{Run, nodes};
use super::traces::{Meant, Producer};
use super::world::{self, START_MS};

/// Rounds after which a script that has not settled is stuck.
const ROUNDS_MAX: usize = 300;

/// Text that may be open: so little that chunks close early and the tail is written anew.
const OPEN_BYTES_MAX: usize = 1_500;

/// Puts of a thousand that fail.
const PUT_FAILURES: u64 = 150;

/// A crash of the process at a call of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// Which call, 1 for the first.
    pub(crate) call: u64,
    /// Whether the call has its effect before the process dies.
    pub(crate) after: bool,
    /// Whether what no store has synced is lost with it.
    pub(crate) loses: bool,
}

/// What a run leaves behind.
#[derive(Debug, PartialEq)]
pub(crate) struct Ended {
    /// Uncompressed content of every object.
    contents: BTreeMap<Place, Vec<u8>>,
    /// What left for good, in order by partition.
    out: Vec<String>,
    /// Topic `files` by its partition and by the partition of `traces` that it tells of.
    files: BTreeMap<(usize, u64), Vec<Value>>,
    /// Rows by node, as far as they do not depend on where batches end.
    rows: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// A run by the script.
pub(crate) struct Script {
    pub(crate) run: Run,
    random: Random,
    losses: VecDeque<bool>,
    /// Crashes that have happened.
    pub(crate) crashed: usize,
}

impl Script {
    /// The script whose crashes are enumerated.
    pub(crate) fn new(crashes: &[Crash]) -> Self {
        Self::of(catalog(), crashes)
    }

    /// A script that begins with this catalog.
    pub(crate) fn of(catalog: Catalog, crashes: &[Crash]) -> Self {
        let mut run = Run::new(3, Plant::None);
        run.world.catalog = catalog;
        run.world.producer = Producer::new(2, 120, true);
        run.world.batch_bytes = 1 << 20;
        run.hub = run.world.hub(Plant::None);
        run.nodes = nodes(&run.world, &run.hub, run.world.batch_bytes);
        {
            let mut inner = run.hub.lock();
            (inner.clamped, inner.holes) = (true, false);
            inner.open_bytes_max = OPEN_BYTES_MAX;
            inner.commits_per_flush = 3;
            inner.faults = Faults {
                random: Random(0xc4a5),
                rates: Rates { put: PUT_FAILURES, ..Rates::default() },
                on: true,
                calls: 0,
                crash_at: crashes.iter().map(|crash| (crash.call, crash.after)).collect(),
                crashed: false,
            };
        }
        let losses = crashes.iter().map(|crash| crash.loses).collect();
        Self { run, random: Random(11), losses, crashed: 0 }
    }

    /// Runs the script and compares with the oracle and with a replay; what is left behind.
    pub(crate) fn whole(&mut self) -> Result<Ended, String> {
        self.announce();
        for cycle in 0..5 {
            self.cycle(cycle)?;
            if cycle == 1 || cycle == 3 {
                self.settle()?;
                self.change(|catalog| next_catalog(catalog, cycle));
            }
        }
        self.settle()?;
        let calls = self.calls();
        self.end()?;
        self.run.hub.lock().faults.calls = calls;
        Ok(self.ended())
    }

    /// Passes the last interval and compares with the oracle and with a replay.
    pub(crate) fn end(&mut self) -> Checked {
        let until_ms = self.run.liveness()?;
        compare::all(&mut self.run, until_ms)
    }

    /// The catalog comes into force.
    pub(crate) fn announce(&mut self) {
        self.run.world.announce(&self.run.hub);
    }

    /// The next version of the catalog comes into force.
    pub(crate) fn change(&mut self, how: impl FnOnce(&mut Catalog)) {
        self.run.world.catalog.version += 1;
        how(&mut self.run.world.catalog);
        self.announce();
    }

    /// Traces of account 0 in partition 0, of these services in turn.
    pub(crate) fn say(&mut self, count: usize, services: &[&'static str]) {
        let mut inner = self.run.hub.lock();
        for service in services.iter().cycle().take(count) {
            let record = self.run.world.producer.plain("account-0", service, &mut self.random);
            let (value, meant) = (record.value, record.meant);
            inner.append(Topic::Traces, 0, Kind::Data, &value, meant);
        }
    }

    /// A record of topic `files`, partition 0.
    pub(crate) fn say_files(&mut self, value: &str) {
        let mut inner = self.run.hub.lock();
        inner.append(Topic::Files, 0, Kind::Data, value.as_bytes(), Meant::Own);
    }

    /// Calls of ports so far.
    pub(crate) fn calls(&self) -> u64 {
        self.run.hub.lock().faults.calls
    }

    /// Traffic of one cycle, and its end.
    fn cycle(&mut self, number: u64) -> Checked {
        for part in 0..2 {
            for partition in 0..self.run.world.catalog.traces_partitions {
                self.produce(partition, 2 + (number + part) % 2);
                self.pass(700);
            }
            for at in 0..self.run.nodes.len() {
                self.act(|run| run.nodes[at].work().map(|_| ()))?;
            }
            if part == 0 {
                let at = number as usize % self.run.nodes.len();
                self.act(|run| {
                    run.nodes[at].flush();
                    Ok(())
                })?;
                self.act(|run| run.nodes[0].index().map(|_| ()))?;
                self.act(|run| run.nodes[0].deliver(Lane::Notify).map(|_| ()))?;
            }
        }
        self.work()?;
        self.next_cycle(number == 2);
        self.work()?;
        // Not all is delivered before the next cycle brings more.
        for at in 0..self.run.nodes.len() {
            self.act(|run| run.nodes[at].deliver(Lane::Objects).map(|_| ()))?;
            self.act(|run| run.nodes[at].deliver(Lane::Notify).map(|_| ()))?;
        }
        Ok(())
    }

    fn produce(&mut self, partition: u32, count: u64) {
        let mut inner = self.run.hub.lock();
        for _ in 0..count {
            let record = self.run.world.producer.record(&mut self.random);
            let (value, meant) = (record.value, record.meant);
            inner.append(Topic::Traces, partition, Kind::Data, &value, meant);
        }
    }

    /// Time passes, or the clock goes back.
    pub(crate) fn pass(&mut self, passes_ms: Millis) {
        self.run.hub.lock().now_ms += passes_ms;
    }

    /// It is this time now.
    pub(crate) fn go_to(&mut self, now_ms: Millis) {
        self.run.hub.lock().now_ms = now_ms;
    }

    /// Goes to the end of the running cycle, or of the next one.
    fn next_cycle(&mut self, idle: bool) {
        let cycle_ms = self.run.world.catalog.cycle_ms;
        let mut inner = self.run.hub.lock();
        let next = inner.now_ms - inner.now_ms.rem_euclid(cycle_ms) + cycle_ms;
        inner.now_ms = if idle { next + cycle_ms } else { next }.max(START_MS);
    }

    /// One act, the checks behind it, and the restart where the process died in it.
    fn act(&mut self, act: impl FnOnce(&mut Run) -> Checked) -> Result<bool, String> {
        act(&mut self.run)?;
        self.run.checker.step(&self.run.hub)?;
        if !self.run.hub.lock().faults.crashed {
            return Ok(false);
        }
        let loses = self.losses.pop_front().unwrap_or(true);
        for node in &mut self.run.nodes {
            let lost = if loses { node.unsynced() } else { 0 };
            node.crash(lost);
        }
        self.run.hub.lock().faults.crashed = false;
        self.crashed += 1;
        Ok(true)
    }

    /// The record workers go to the end of their partitions.
    pub(crate) fn work(&mut self) -> Checked {
        for _ in 0..ROUNDS_MAX {
            let mut happened = false;
            for at in 0..self.run.world.catalog.traces_partitions as usize {
                let mut worked = false;
                happened |= self.act(|run| {
                    worked = run.nodes[at].work()?;
                    Ok(())
                })?;
                happened |= worked;
            }
            if !happened {
                return Ok(());
            }
        }
        Err("the workers do not come to the end of their partitions".to_owned())
    }

    /// Everything is worked off and delivered.
    pub(crate) fn settle(&mut self) -> Checked {
        for _ in 0..ROUNDS_MAX {
            let mut happened = false;
            for at in 0..self.run.nodes.len() {
                let mut worked = false;
                happened |= self.act(|run| {
                    worked = run.nodes[at].work()?;
                    Ok(())
                })?;
                for lane in Lane::ALL {
                    happened |= self.act(|run| {
                        worked |= run.nodes[at].deliver(lane)?;
                        Ok(())
                    })?;
                }
                happened |= worked;
            }
            if !happened && self.run.nodes.iter().all(|node| node.backlog() == 0) {
                return Ok(());
            }
        }
        Err("no progress: the script does not settle".to_owned())
    }

    fn ended(&self) -> Ended {
        let mut out: Vec<String> =
            self.run.hub.lock().logs.out.iter().map(|record| format!("{record:?}")).collect();
        // Partitions are delivered in whatever order; each in its own.
        out.sort();
        Ended {
            contents: self.run.checker.contents.clone(),
            out,
            files: replay::files_by_source(&self.run.hub),
            rows: self
                .run
                .nodes
                .iter()
                .map(|node| replay::kept_rows(&node.store().rows()))
                .collect(),
        }
    }
}

/// What changes after a cycle.
fn next_catalog(catalog: &mut Catalog, cycle: u64) {
    if cycle == 1 {
        catalog.accounts[0].trackers[0].enabled = false;
        catalog.accounts[1].trackers[1].file_prefix = "p".to_owned();
        catalog.dedup_window = 4;
    } else {
        catalog.accounts[0].trackers[0].enabled = true;
        catalog.accounts[1].trackers.remove(0);
        catalog.cycle_ms = 5_000;
    }
}

/// Two accounts, four trackers of three kinds of file, two partitions of each topic.
pub(crate) fn catalog() -> Catalog {
    let mut random = Random(5);
    let mut accounts = vec![world::account(0, &mut random), world::account(1, &mut random)];
    let kinds = [Compression::Zstd, Compression::Gzip, Compression::Json, Compression::Zstd];
    let mut kinds = kinds.into_iter();
    for (number, account) in (0..).zip(&mut accounts) {
        account.trackers = world::both_trackers(number, &mut random);
        for tracker in &mut account.trackers {
            (tracker.enabled, tracker.verify) = (true, true);
            tracker.bucket = format!("cts-{}", account.id);
            tracker.compression = kinds.next().unwrap_or_default();
        }
    }
    Catalog {
        version: 1,
        installation: "test".to_owned(),
        region: "local".to_owned(),
        cycle_ms: 10_000,
        digest_interval_ms: 20_000,
        file_bytes_max: 2_000,
        dedup_window: 64,
        traces_partitions: 2,
        files_partitions: 2,
        accounts,
    }
}
