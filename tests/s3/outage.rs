//! A store that is down for long: what is to be delivered waits as rows, memory stays flat, and
//! afterwards everything arrives, in order and once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use trailproof::log::{Error, Publisher};
use trailproof::memory_budget::MemoryBudget;
use trailproof::metrics::Metrics;
use trailproof::object::ObjectStore as _;
use trailproof::object::measured::Measured;
use trailproof::object::s3::S3Store;
use trailproof::outbox::{Limits, Outbox};
use trailproof::store::StateStore as _;
use trailproof::store::rocks::{Options, RocksStore};
use trailproof::worker::Progress;
use trailproof_topology::effect::{BytesObject, Effect, LANES, Lane, OutRecord, Topic};
use trailproof_topology::input::Offset;
use trailproof_topology::key::outbox;
use trailproof_topology::state::Changes;

use crate::server::{Fault, Server};
use crate::store::Conditions;

/// Effects that wait.
const EFFECTS: u64 = 1_200;
/// Bytes of each object.
const BYTES: usize = 40_000;
/// Steps that fail while the store is down.
const STEPS: usize = 60;
/// What the process may grow by meanwhile: far less than what waits.
const GROWTH_MAX: u64 = 24 << 20;

/// A log that remembers.
#[derive(Default)]
struct Log {
    lanes: [u64; LANES],
    records: usize,
}

impl Publisher for Log {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        Ok(self.lanes)
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        _settled: Offset,
    ) -> Result<(), Error> {
        self.lanes = lanes;
        self.records += records.len();
        Ok(())
    }
}

/// Bytes that are each object's own.
fn content(number: u64) -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect()
}

fn object(number: u64) -> BytesObject {
    BytesObject {
        bucket: "cts-1".to_owned(),
        object: format!("day/{number:05}.json"),
        content: content(number),
        gzip: false,
        metadata: vec![("number".to_owned(), number.to_string())],
    }
}

fn record(number: u64) -> OutRecord {
    OutRecord {
        topic: Topic::Notifications,
        partition: Some(0),
        key: Vec::new(),
        headers: Vec::new(),
        value: number.to_be_bytes().to_vec(),
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// An outbox with rows that a worker has left, over a store on a server.
struct Office {
    outbox: Outbox<Log, Arc<RocksStore>>,
    objects: Arc<Measured<S3Store>>,
    metrics: Arc<Metrics>,
    limits: Limits,
    _folder: tempfile::TempDir,
}

impl Office {
    fn open(server: &Server, timeout: Duration, effects: u64) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = server.settings("in/here", timeout);
        let store = S3Store::open(&settings, Some(Arc::clone(&metrics))).unwrap();
        let objects = Arc::new(Measured::new(store, Arc::clone(&metrics)));
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new(MemoryBudget::new(8 << 20, 8 << 20), 1);
        let rows = Arc::new(RocksStore::open(folder.path(), &options).unwrap());
        for number in 0..effects {
            let mut changes = Changes::default();
            let put = Effect::Objects(vec![object(number)]).encode();
            changes.put(outbox(Lane::Objects, number), put);
            let notify = Effect::Records(vec![record(number)]).encode();
            changes.put(outbox(Lane::Notify, number), notify);
            rows.commit(&changes).unwrap();
        }
        let (progress, limits) = (Arc::new(Progress::default()), Limits::default());
        let outbox = Outbox::open(Log::default(), rows, objects.clone(), progress, limits).unwrap();
        Self { outbox, objects, metrics, limits, _folder: folder }
    }
}

#[test]
fn a_store_that_says_nothing_holds_up_no_notification() {
    let server = Server::start(Conditions::Kept);
    let office = Office::open(&server, Duration::from_secs(3), 600);
    server.always(Some(Fault::Hang));
    let outbox = &office.outbox;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let objects = scope.spawn(|| {
            let answer = outbox.step(Lane::Objects);
            ended.store(true, Ordering::Release);
            answer
        });
        let mut told = 0;
        while told < 600 {
            told += outbox.step(Lane::Notify).unwrap().effects;
        }
        assert!(!ended.load(Ordering::Acquire), "the put ended before the notifications did");
        assert!(objects.join().unwrap().is_err());
    });
    // Each lane's position is its own, whoever published last.
    server.always(None);
    let mut put = 0;
    while put < 600 {
        put += outbox.step(Lane::Objects).unwrap().effects;
    }
    assert_eq!(outbox.step(Lane::Notify).unwrap().effects, 0);
    assert!(server.memory.kept().overwritten.is_empty());
}

#[test]
fn an_outage_leaves_rows_waiting_and_then_they_arrive_in_order() {
    let server = Server::start(Conditions::Kept);
    let Office { outbox, objects, metrics, limits, _folder } =
        Office::open(&server, Duration::from_secs(5), EFFECTS);

    server.always(Some(Fault::Reset));
    let mut before = 0;
    for step in 0..STEPS {
        // A store that is down delays no notification.
        while outbox.step(Lane::Notify).unwrap().effects > 0 {}
        let error = outbox.step(Lane::Objects).unwrap_err();
        assert!(error.to_string().contains("object store"), "{error}");
        if step == 5 {
            before = resident_bytes();
        }
    }
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{growth} bytes more after {STEPS} steps against a closed door");
    assert!(server.memory.kept().created.len() <= 1);

    // It comes back, not yet in good health.
    server.always(None);
    for at in 0..40 {
        let fault =
            [Fault::LostAnswer, Fault::Status(503, "SlowDown"), Fault::Reset][at % 3].clone();
        server.plan(&hyper::Method::PUT, [fault]);
    }
    let mut delivered = 0;
    while delivered < EFFECTS as usize {
        // Fails as long as the tries of one put meet the planned faults only.
        delivered += outbox.step(Lane::Objects).map_or(0, |step| step.effects);
    }
    assert_eq!(server.left(), 0);
    let kept = server.memory.kept();
    assert!(kept.overwritten.is_empty());
    let own: Vec<&String> = kept.created.iter().filter(|key| key.contains("/cts-1/")).collect();
    assert_eq!(own.len() as u64, EFFECTS);
    for (at, key) in own.iter().enumerate() {
        // In order, but for those of one step: while one put waits, others may be far ahead.
        let number: usize = key[key.len() - 10..key.len() - 5].parse().unwrap();
        assert!(number.abs_diff(at) < limits.effects, "{key} came as number {at}");
    }
    drop(kept);
    for number in (0..EFFECTS).step_by(17) {
        let object = objects.get("cts-1", &format!("day/{number:05}.json")).unwrap().unwrap();
        assert_eq!(object.bytes, content(number));
    }
    let mut keys = Vec::new();
    let mut visit = |key: &str, _: u64| {
        keys.push(key.to_owned());
        true
    };
    objects.list("cts-1", "", &mut visit).unwrap();
    assert!(keys.len() as u64 == EFFECTS && keys.is_sorted());

    let text = metrics.render();
    for line in [
        "trailproof_object_requests_total{operation=\"put\",outcome=\"created\"}",
        "trailproof_object_requests_total{operation=\"put\",outcome=\"exists\"}",
        "trailproof_object_requests_total{operation=\"put\",outcome=\"unavailable\"}",
        "trailproof_object_faults_total{reason=\"connection\"}",
        "trailproof_object_faults_total{reason=\"status\"}",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}
