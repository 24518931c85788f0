//! Two engines over one log and one object store, and what they leave there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trailproof::api::backend::Backend;
use trailproof::applied::Gap;
use trailproof::config::{Config, DEV_ACCOUNT, Layers};
use trailproof::engine::{Engine, Settings};
use trailproof::log::broker::StoredRecord;
use trailproof::log::embedded::{EmbeddedLog, Options};
use trailproof::memory_budget::MemoryBudget;
use trailproof::metrics::Metrics;
use trailproof::object::ObjectStore;
use trailproof::object::directory::DirectoryStore;
use trailproof_topology::catalog::Catalog;
use trailproof_topology::effect::Topic;
use trailproof_topology::files::{File, FilesRecord};
use trailproof_topology::query::Query;
use trailproof_topology::sign::FakeSigner;

use super::hub::Hub;

pub(crate) const PARTITIONS: u32 = 4;
const CYCLE_MS: i64 = 10_000;

/// A log, an object store, and folders for two instances.
pub(crate) struct World {
    pub(crate) hub: Arc<Hub>,
    pub(crate) folder: TempDir,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) catalog: Catalog,
    pub(crate) accept_gaps: Vec<Gap>,
    clock: Arc<AtomicI64>,
    made: u64,
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5)); // between polls
    }
}

/// A rule that tells of every trace.
const RULE: &str = r#"
[[accounts]]
id = "00000000000000000000000000000002"
projects = [{ id = "00000000000000000000000000000001", name = "local" }]
[[accounts.rules]]
name = "all"
all_operations = true
"#;

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
        let now = Arc::clone(&clock);
        let memory = MemoryBudget::new(8 << 20, 8 << 20);
        let options = Options::new(Arc::new(move || now.load(Ordering::SeqCst)), memory);
        let topics = Topic::ALL.map(|topic| match topic {
            Topic::Traces => (topic, PARTITIONS),
            Topic::Files => (topic, 2),
            _ => (topic, 1),
        });
        let log = EmbeddedLog::open(&folder.path().join("log"), &topics, options).unwrap();
        let file = folder.path().join("rule.toml");
        std::fs::write(&file, RULE).unwrap();
        let layers = Layers { dev: true, file: Some(file), ..Layers::default() };
        let catalog = Config::load(&layers).unwrap().catalog;
        let objects = Arc::new(DirectoryStore::open(&folder.path().join("objects")).unwrap());
        let (hub, accept_gaps) = (Hub::new(log), Vec::new());
        Self { hub, folder, objects, catalog, accept_gaps, clock, made: 0 }
    }

    /// Starts an instance that has no partition yet.
    pub(crate) fn start(&self, instance: usize) -> Engine {
        let settings = Settings {
            broker: self.hub.broker(instance),
            state: self.folder.path().join(format!("state-{instance}")),
            catalog: self.catalog.clone(),
            view_days: 7,
            accept_gaps: self.accept_gaps.clone(),
            memory: MemoryBudget::new(8 << 20, 8 << 20),
            objects: Arc::clone(&self.objects),
            signer: Arc::new(FakeSigner),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        Engine::start(settings).unwrap()
    }

    /// Appends traces to every partition; later ones arrive later.
    pub(crate) fn append(&mut self, each: u64) {
        for partition in 0..PARTITIONS {
            let values: Vec<String> = (0..each).map(|_| self.trace()).collect();
            let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            self.hub.broker(0).append(&[(partition, values)]).unwrap();
        }
        self.clock.fetch_add(700, Ordering::SeqCst);
    }

    fn trace(&mut self) -> String {
        self.made += 1;
        let time = self.clock.load(Ordering::SeqCst);
        format!(r#"{{"trace_id":"t-{}","time":{time},"domain_id":"{DEV_ACCOUNT}","#, self.made)
            + r#""service_type":"ECS","resource_type":"ecs","trace_name":"createServer","#
            + r#""trace_rating":"normal","trace_type":"ApiCall","user":{"name":"alice"}}"#
    }

    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Lets time pass, so that idle partitions tick and cycles are sealed.
    pub(crate) fn pass_cycles(&self, cycles: i64) {
        self.clock.fetch_add(cycles * CYCLE_MS, Ordering::SeqCst);
    }

    /// Every trace file that was told of.
    pub(crate) fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        for partition in 0..self.hub.log.partitions(Topic::Files) {
            for record in self.records(Topic::Files, partition) {
                // The others are marks, and stretches that are closed.
                if let Ok(FilesRecord::File(file)) = serde_json::from_slice(&record.value) {
                    files.push(file);
                }
            }
        }
        files
    }

    /// Records that were told of as lost, as partition 0 of `files` has it.
    pub(crate) fn lost(&self) -> u64 {
        let records = self.records(Topic::Files, 0);
        let closed =
            records.iter().filter_map(|record| match serde_json::from_slice(&record.value) {
                Ok(FilesRecord::Closed(closed)) => Some(closed.lost),
                _ => None,
            });
        closed.sum()
    }

    fn records(&self, topic: Topic, partition: u32) -> Vec<StoredRecord> {
        let start = self.hub.log.bounds(topic, partition).unwrap().start;
        self.hub.log.read(topic, partition, start, usize::MAX, usize::MAX).unwrap()
    }

    /// How often each trace stands in files.
    pub(crate) fn filed(&self) -> BTreeMap<String, u32> {
        let mut ids = BTreeMap::new();
        for file in self.files() {
            let object = self.objects.get(&file.bucket, &file.object).unwrap().unwrap();
            let text =
                trailproof::codec::decode(file.compression, &object.bytes, file.raw_bytes).unwrap();
            let traces: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
            assert_eq!(traces.len() as u64, file.count);
            for trace in traces {
                *ids.entry(trace["trace_id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        ids
    }

    /// How often each notification was published, by its id.
    pub(crate) fn notified(&self) -> BTreeMap<String, u32> {
        let mut ids = BTreeMap::new();
        for record in self.records(Topic::Notifications, 0) {
            let id = record.headers.into_iter().find(|(name, _)| name == "ce_id");
            *ids.entry(id.unwrap().1).or_default() += 1;
        }
        ids
    }
}

/// How many traces the partitions of an engine hold.
pub(crate) fn viewed(engine: &Engine) -> u64 {
    let account = &engine.catalog().accounts[0];
    let trackers = account.trackers.iter().filter_map(|own| own.key()).collect();
    let answer = engine.query(&Query { count: true, ..Query::newest(trackers, 1) }).unwrap();
    answer.total.unwrap()
}
