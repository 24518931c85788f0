//! One owner of one partition: the real worker and the real outbox over simulated ports.

use std::cmp::Ordering;
use std::sync::Arc;

use trailproof::indexer::{Backlog, Indexer};
use trailproof::log::Retry;
use trailproof::outbox::{self, Limits, Outbox};
use trailproof::turns::Turns;
use trailproof::view::{Published, View, Viewed};
use trailproof::worker::{self, Catalogs, Progress, Step, Worker};
use trailproof_topology::digest_stage::{DigestSetup, DigestStage};
use trailproof_topology::effect::{LANES, Lane, Topic};
use trailproof_topology::input::Position;
use trailproof_topology::invariant;
use trailproof_topology::key::{Key, Table, outbox as outbox_key, single};
use trailproof_topology::query::OpenView;
use trailproof_topology::record::{RecordStage, Setup};
use trailproof_topology::run::tier::Tiers;
use trailproof_topology::sign::FakeSigner;
use trailproof_topology::stage::{LoadError, Stage};
use trailproof_topology::state::{Changes, Rows};

use super::hub::Hub;
use super::logs::{Reader, SimPublisher};
use super::objects::SimObjects;
use super::plant::{Plant, Planted};
use super::store::SimStore;
use super::{view, world};

/// A check that did not hold, in words.
pub(crate) type Checked = Result<(), String>;

/// So few columns rows and runs are taken in that a short run has merges too.
const TIERS: Tiers = Tiers { rows_min: 2, fan_in: 3 };

/// Bytes of a poll at most: small, so that a large batch is polled piece by piece.
const POLL_BYTES: usize = 2_000;

/// Effects that one outbox step of the simulator takes.
const EFFECTS: usize = 6;

/// A stage that the simulator can own.
pub(crate) trait Simulated: Stage {
    const TOPIC: Topic;
    const NAME: &'static str;

    fn setup(partition: u32, open_bytes_max: usize) -> Self::Setup;

    /// Chunks closed early, and tails rewritten.
    fn relieved(&self) -> (u64, u64) {
        (0, 0)
    }

    /// The open chunks as queries see them.
    fn view(&mut self, _before: &OpenView) -> Option<OpenView> {
        None
    }

    /// End of the last interval that has its digests.
    fn digested_until_ms(&self) -> Option<i64> {
        None
    }
}

impl Simulated for RecordStage {
    const TOPIC: Topic = Topic::Traces;
    const NAME: &'static str = "record";

    fn setup(partition: u32, open_bytes_max: usize) -> Setup {
        Setup { partition, topic_id: "topic".into(), open_bytes_max }
    }

    fn relieved(&self) -> (u64, u64) {
        (self.tally().closed_early, self.tally().tails_rewritten)
    }

    fn view(&mut self, before: &OpenView) -> Option<OpenView> {
        Some(self.publish(before))
    }
}

impl Simulated for DigestStage {
    const TOPIC: Topic = Topic::Files;
    const NAME: &'static str = "digest";

    fn setup(partition: u32, _open_bytes_max: usize) -> DigestSetup {
        DigestSetup { partition, signer: Arc::new(FakeSigner) }
    }

    fn digested_until_ms(&self) -> Option<i64> {
        self.digested_until_ms()
    }
}

type SimWorker<S> = Worker<Planted<S>, Reader, Arc<SimStore>>;

/// Worker and outbox while their process lives.
struct Alive<S: Stage> {
    worker: SimWorker<S>,
    outbox: Outbox<SimPublisher, Arc<SimStore>>,
    progress: Arc<Progress>,
    indexer: Indexer<SimStore>,
    /// What the worker tells the indexer.
    columns: Backlog,
}

/// An owner.
pub(crate) struct Owner<S: Simulated> {
    hub: Arc<Hub>,
    pub(crate) partition: u32,
    pub(crate) store: Arc<SimStore>,
    alive: Option<Alive<S>>,
    batch_bytes: usize,
    position: Option<Position>,
    pub(crate) published: Published,
    pub(crate) digested_until_ms: Option<i64>,
}

/// What the driver does with an owner, whatever its stage is.
pub(crate) trait Node {
    fn name(&self) -> String;
    /// Polls, applies and commits, or ticks. Whether anything happened.
    fn work(&mut self) -> Result<bool, String>;
    /// Delivers a lane. Whether anything happened.
    fn deliver(&mut self, lane: Lane) -> Result<bool, String>;
    /// Answers how many of the unsynced commits are left.
    fn crash(&mut self, lost: usize) -> usize;
    fn unsynced(&self) -> usize;
    /// Makes durable what is applied, as a process does before it ends.
    fn flush(&mut self);
    fn lose(&self);
    /// The same partition under a new owner, from a savepoint of this one or from nothing.
    fn successor(&self, restored: bool) -> Box<dyn Node>;
    /// Turns columns into runs.
    fn index(&mut self) -> Result<bool, String>;
    fn backlog(&self) -> u64;
    fn partition(&self) -> u32;
    fn is_digest(&self) -> bool;
    fn digested_until_ms(&self) -> Option<i64>;
    fn store(&self) -> Arc<SimStore>;
    fn is_alive(&self) -> bool;
    fn view(&self) -> View<SimStore>;
}

impl<S: Simulated + 'static> Owner<S> {
    pub(crate) fn new(hub: &Arc<Hub>, partition: u32, batch_bytes: usize) -> Self {
        Self::over(hub, partition, batch_bytes, SimStore::new(hub))
    }

    fn over(hub: &Arc<Hub>, partition: u32, batch_bytes: usize, store: Arc<SimStore>) -> Self {
        Self {
            hub: Arc::clone(hub),
            partition,
            store,
            alive: None,
            batch_bytes,
            position: None,
            published: Published::default(),
            digested_until_ms: None,
        }
    }

    /// Starts the process if it is dead: lanes first, then the worker.
    fn start(&mut self) -> Result<&mut Alive<S>, outbox::Error> {
        if self.alive.is_none() {
            let owner = format!("{}/{}", S::NAME, self.partition);
            let progress = Arc::new(Progress::default());
            let plant = self.hub.lock().plant;
            let publisher = SimPublisher::new(&self.hub, &owner);
            let objects = Arc::new(SimObjects(Arc::clone(&self.hub)));
            let limits = Limits { effects: EFFECTS, puts: 1, ..Limits::default() };
            let store = Arc::clone(&self.store);
            let outbox = Outbox::open(publisher, store, objects, Arc::clone(&progress), limits)?
                .with_turns(Arc::new(Turns::new(1)));
            let (hub, topic, partition) = (Arc::clone(&self.hub), S::TOPIC, self.partition);
            let log = Reader { hub, topic, partition, name: owner };
            let open_bytes_max = self.hub.lock().open_bytes_max;
            let setup = (S::setup(self.partition, open_bytes_max), plant);
            let store = Arc::clone(&self.store);
            let columns = Backlog::default();
            let indexer = Indexer::new(Arc::clone(&store), columns.clone()).with_tiers(TIERS);
            let worker = Worker::new(setup, log, store, catalogs(&self.hub), Arc::clone(&progress))
                .with_workbenches(self.hub.workbenches())
                .with_batch_bytes(self.batch_bytes)
                .with_poll_bytes((self.batch_bytes / 4).clamp(1, POLL_BYTES));
            self.alive = Some(Alive { worker, outbox, progress, indexer, columns });
            self.position = None;
        }
        Ok(self.alive.as_mut().expect("started above"))
    }

    /// I1 and I2 after a step of the worker.
    fn check_rows(&mut self) -> Checked {
        let Some(alive) = &mut self.alive else { return Ok(()) };
        let Some(stage) = alive.worker.stage() else { return Ok(()) };
        let position = *stage.inner.position();
        let Ok(row) = self.store.rows().get(&single(Table::Position));
        let row = row.as_deref().and_then(Position::decode).unwrap_or_default();
        if !invariant::position_matches(&row, &position) {
            return Err(format!("I1: position row {row:?}, stage {position:?}"));
        }
        if let Some(before) = self.position
            && (position.stream_time_ms < before.stream_time_ms
                || position.next_offset < before.next_offset)
        {
            return Err(format!("I2: from {before:?} to {position:?}"));
        }
        self.position = Some(position);
        self.digested_until_ms = stage.inner.digested_until_ms();
        let backlog = alive.progress.backlog();
        if !backlog.into_iter().all(|waiting| invariant::within(waiting, worker::BACKLOG_MAX * 2)) {
            return Err(format!("I10: backlog {backlog:?}"));
        }
        let committed = alive.progress.committed();
        for lane in Lane::ALL {
            self.check_lane(lane, committed[lane as usize], position.lane_next[lane as usize])?;
        }
        Ok(())
    }

    /// I1: every effect that waits has its row, and none is from the future.
    fn check_lane(&self, lane: Lane, delivered: u64, next: u64) -> Checked {
        let end = Key::of(Table::Outbox).u8(lane as u8).range().1;
        let mut expected = delivered;
        let mut odd = None;
        let Ok(()) = self.store.rows().scan(&outbox_key(lane, delivered), &end, &mut |key, _| {
            if key != outbox_key(lane, expected) {
                odd = Some(expected);
            }
            expected += 1;
            odd.is_none()
        });
        match odd {
            None if expected == next.max(delivered) => Ok(()),
            _ => Err(format!("I1: {lane:?} from {delivered} to {next}, at {expected} {odd:?}")),
        }
    }
}

/// Tells indexer and queries of a commit.
fn tell<S: Simulated>(
    stage: &mut Planted<S>,
    changes: &Changes,
    columns: &Backlog,
    (published, before): (&Published, &OpenView),
) {
    columns.committed(changes);
    if let Some(view) = stage.inner.view(before) {
        published.publish(view);
    }
}

fn catalogs(hub: &Arc<Hub>) -> Catalogs {
    let hub = Arc::clone(hub);
    Arc::new(move |mark| {
        let mut inner = hub.lock();
        if inner.plant == Plant::LateCatalog && inner.faults.random.one_in(4) {
            return Ok(None);
        }
        let trusts = inner.plant == Plant::TrustMarks;
        let found = inner.catalogs.get(&mark.version);
        Ok(found.filter(|catalog| trusts || world::mark_of(catalog) == *mark).cloned())
    })
}

impl<S: Simulated + 'static> Node for Owner<S> {
    fn name(&self) -> String {
        format!("{}/{}", S::NAME, self.partition)
    }

    fn work(&mut self) -> Result<bool, String> {
        let published = self.published.clone();
        let before = published.latest();
        let Ok(alive) = self.start() else { return Ok(false) };
        let mut took = 0;
        let mut relieved = (0, 0);
        let columns = alive.columns.clone();
        let outcome = alive.worker.step(&mut |stage, changes| {
            relieved = stage.inner.relieved();
            tell(stage, changes, &columns, (&published, &before));
        });
        if let Ok(Step::Applied { records, .. }) = outcome {
            took = records;
        }
        if relieved.0 > 0 {
            self.hub.mark("an open chunk closes early");
        }
        if relieved.1 > 0 {
            self.hub.mark("the tail is written anew");
        }
        let name = self.name();
        self.hub.say(|| format!("{name} works: {outcome:?} ({took} records)"));
        match outcome {
            Ok(step) => {
                if step == Step::Blocked {
                    self.hub.mark("the worker is blocked");
                }
                self.check_rows()?;
                Ok(!matches!(step, Step::Idle | Step::Blocked))
            }
            Err(error) if error.is_damage() => Err(format!("damage: {error:?}")),
            Err(error) if error.retry() == Retry::Never => Err(format!("{name}: {error:?}")),
            Err(worker::Error::Store(_)) => {
                self.hub.mark("a commit is to be made again");
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    fn deliver(&mut self, lane: Lane) -> Result<bool, String> {
        let name = self.name();
        let Ok(alive) = self.start() else { return Ok(false) };
        let outcome = alive.outbox.step(lane);
        self.hub.say(|| format!("{name} delivers {lane:?}: {outcome:?}"));
        match outcome {
            Ok(delivered) => Ok(delivered.effects > 0),
            Err(outbox::Error::Log(trailproof::log::Error::Fenced(_))) => {
                // The shell ends a process that was fenced; it comes back as a new owner.
                self.alive = None;
                Ok(true)
            }
            Err(outbox::Error::Conflict { .. }) => {
                self.hub.mark("a conflict stops the lane");
                Ok(false)
            }
            Err(error) if error.retry() == Retry::Never => Err(format!("{name}: {error:?}")),
            Err(_) => Ok(false),
        }
    }

    fn crash(&mut self, lost: usize) -> usize {
        let name = self.name();
        self.hub.say(|| format!("{name} crashes and loses {lost} commits"));
        self.alive = None;
        let kept = self.store.crash(lost);
        self.hub.lock().objects.crash();
        kept
    }

    fn unsynced(&self) -> usize {
        self.store.unsynced()
    }

    fn flush(&mut self) {
        let (name, published) = (self.name(), self.published.clone());
        let before = published.latest();
        let Some(alive) = &mut self.alive else { return };
        let columns = alive.columns.clone();
        let outcome = alive.worker.save(&mut |stage, changes| {
            tell(stage, changes, &columns, (&published, &before));
        });
        self.hub.say(|| format!("{name} saves: {outcome:?}"));
        self.hub.mark(if outcome.is_ok() { "a state is saved" } else { "saving fails" });
    }

    fn lose(&self) {
        self.store.lose();
    }

    fn successor(&self, restored: bool) -> Box<dyn Node> {
        let store = if restored { self.store.restored() } else { SimStore::new(&self.hub) };
        Box::new(Self::over(&self.hub, self.partition, self.batch_bytes, store))
    }

    fn index(&mut self) -> Result<bool, String> {
        let before = view::runs(&self.store.rows());
        let Ok(alive) = self.start() else { return Ok(false) };
        let outcome = alive.indexer.step();
        let name = self.name();
        self.hub.say(|| format!("{name} indexes: {outcome:?}"));
        let after = view::runs(&self.store.rows());
        match after.cmp(&before) {
            Ordering::Greater => self.hub.mark("the indexer makes a run"),
            Ordering::Less => self.hub.mark("the indexer merges runs"),
            Ordering::Equal => {}
        }
        match outcome {
            Ok(worked) => Ok(worked),
            Err(LoadError::Store(_)) => Ok(false),
            Err(error) => Err(format!("the indexer: {error}")),
        }
    }

    fn backlog(&self) -> u64 {
        let waiting = |alive: &Alive<S>| alive.progress.backlog().into_iter().sum();
        self.alive.as_ref().map_or(u64::MAX, waiting)
    }

    fn partition(&self) -> u32 {
        self.partition
    }

    fn is_digest(&self) -> bool {
        S::TOPIC == Topic::Files
    }

    fn digested_until_ms(&self) -> Option<i64> {
        self.digested_until_ms
    }

    fn store(&self) -> Arc<SimStore> {
        Arc::clone(&self.store)
    }

    fn is_alive(&self) -> bool {
        self.alive.is_some()
    }

    fn view(&self) -> View<SimStore> {
        View::new(vec![Viewed {
            partition: self.partition,
            store: Arc::clone(&self.store),
            published: self.published.clone(),
        }])
    }
}

const _: () = assert!(LANES == 2, "the driver steps two lanes");
