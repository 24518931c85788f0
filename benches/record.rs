//! The record stage against its floor: CPU time of the same traces, in one run.
//!
//! The floor is parse, leaf hash, Merkle tree and zstd-1, and nothing else. The stage is the real
//! worker over RocksDB with the indexer, from records in memory to committed rows.
//! `TRAILPROOF_BENCH_TRACES` sets another number of traces, `TRAILPROOF_BENCH_ACCOUNTS` (1, 1000,
//! 10000) runs one shape alone.

#[path = "common/traces.rs"]
mod traces;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use trailproof::indexer::{Backlog, Indexer};
use trailproof::log::{self, Kind, Log, Publisher, RecordBatch};
use trailproof::memory_budget::MemoryBudget;
use trailproof::object::{self, Metadata, Object, ObjectStore, Put};
use trailproof::outbox::{Limits, Outbox};
use trailproof::store::rocks::{Options, RocksStore};
use trailproof::worker::{Progress, Step, Worker};
use trailproof_topology::catalog::{
    Account, Catalog, CatalogMark, Compression, Project, Tracker, TrackerKind,
};
use trailproof_topology::effect::{LANES, Lane, OutRecord};
use trailproof_topology::input::{Millis, Offset};
use trailproof_topology::merkle::{Frontier, leaf_hash};
use trailproof_topology::record::open::OPEN_BYTES_MAX;
use trailproof_topology::record::{RecordStage, Setup};
use trailproof_topology::trace;

use traces::{Figures, Random, account, process_cpu_us};

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Records of topic traces in memory, 150,000 a second of stream time.
struct MemoryLog {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Whether the cycle's end has come: then a tick follows the traces.
    ended: Cell<bool>,
}

impl Log for &MemoryLog {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), log::Error> {
        if from == 0 {
            let mark = CatalogMark::of(1, b"").encode();
            batch.push(0, START_MS, Kind::Catalog, mark.as_bytes());
        }
        let last = self.ends.len() as u64;
        if from > last && self.ended.take() {
            batch.push(from, START_MS + CYCLE_MS, Kind::Tick, b"");
        }
        for at in from.max(1) as usize - 1..self.ends.len() {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            let time = START_MS + (at / 150) as i64;
            batch.push(at as u64 + 1, time, Kind::Data, &self.bytes[start..self.ends[at]]);
            if batch.bytes_len() >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn wait(&mut self, _: Offset, _: Duration) {}

    fn now_ms(&self) -> Millis {
        START_MS
    }

    fn tick(&mut self) -> Result<(), log::Error> {
        Ok(())
    }
}

const START_MS: i64 = 1_760_000_100_000;
const CYCLE_MS: i64 = 300_000;

fn generate(count: usize, accounts: u64) -> MemoryLog {
    let mut random = Random(accounts);
    let mut log = MemoryLog {
        bytes: Vec::with_capacity(count * 800),
        ends: Vec::new(),
        ended: Cell::new(false),
    };
    for at in 0..count {
        traces::trace(&mut random, accounts, START_MS + (at / 150) as i64, &mut log.bytes);
        log.ends.push(log.bytes.len());
    }
    log
}

fn catalog(accounts: u64, compression: Compression) -> Catalog {
    let accounts = (2..accounts + 2)
        .map(|number| Account {
            id: account(number),
            name: "acme".to_owned(),
            projects: vec![Project { id: account(1), name: "default".to_owned() }],
            trackers: vec![Tracker {
                id: format!("00000000-0000-4000-8000-{number:012x}"),
                name: "system".to_owned(),
                kind: TrackerKind::System,
                enabled: true,
                bucket: "bench".to_owned(),
                file_prefix: String::new(),
                compression,
                sort_by_service: true,
                verify: true,
                exclude_services: Vec::new(),
                data_bucket: String::new(),
                data_events: Vec::new(),
            }],
            rules: Vec::new(),
        })
        .collect();
    Catalog {
        version: 1,
        installation: "bench".to_owned(),
        region: "local".to_owned(),
        cycle_ms: CYCLE_MS,
        digest_interval_ms: 3_600_000,
        file_bytes_max: 64 << 20,
        dedup_window: 1 << 20,
        traces_partitions: 1,
        files_partitions: 1,
        accounts,
    }
}

/// CPU microseconds per trace of the floor.
fn floor(log: &MemoryLog) -> f64 {
    let before = process_cpu_us();
    let mut tree = Frontier::default();
    let mut compressor = zstd::bulk::Compressor::new(1).expect("a zstd context");
    let (mut start, mut chunk, mut packed) = (0, 0, 0);
    for end in &log.ends {
        let record = &log.bytes[start..*end];
        assert!(trace::parse(record).is_ok(), "the generator makes traces");
        tree.push(leaf_hash(record));
        if end - chunk >= 256 * 1024 {
            packed += compressor.compress(&log.bytes[chunk..*end]).expect("zstd").len();
            chunk = *end;
        }
        start = *end;
    }
    assert!(packed > 0 && tree.root() != [0; 32]);
    (process_cpu_us() - before) / log.ends.len() as f64
}

/// An object store that keeps nothing.
struct Nowhere;

impl ObjectStore for Nowhere {
    fn put(&self, _: &str, _: &str, _: &[u8], _: &Metadata) -> Result<Put, object::Error> {
        Ok(Put::Created)
    }

    fn get(&self, _: &str, _: &str) -> Result<Option<Object>, object::Error> {
        Ok(None)
    }

    fn list(
        &self,
        _: &str,
        _: &str,
        _: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), object::Error> {
        Ok(())
    }

    fn buckets(&self) -> Result<Vec<String>, object::Error> {
        Ok(Vec::new())
    }
}

/// A publisher that only counts.
#[derive(Default)]
struct Counted([u64; LANES]);

impl Publisher for Counted {
    fn committed(&mut self) -> Result<[u64; LANES], log::Error> {
        Ok(self.0)
    }

    fn publish(
        &mut self,
        _: &[OutRecord],
        lanes: [u64; LANES],
        _: Offset,
    ) -> Result<(), log::Error> {
        self.0 = lanes;
        Ok(())
    }
}

/// What a run of the stage cost for each trace.
struct Cost {
    /// CPU microseconds of worker, store and indexer.
    record_us: f64,
    /// The same with the files built.
    delivered_us: f64,
    /// Bytes of state on disk.
    disk_bytes: f64,
}

/// Runs the real worker, indexer and outbox over RocksDB.
fn stage(log: &MemoryLog, accounts: u64, compression: Compression) -> Cost {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let memory = MemoryBudget::new(64 << 20, 64 << 20);
    let options = Options::new(memory, 1);
    let store = Arc::new(RocksStore::open(folder.path(), &options).expect("a new store"));
    let catalog = Arc::new(catalog(accounts, compression));
    let open_bytes_max = OPEN_BYTES_MAX;
    let setup = Setup { partition: 0, topic_id: "bench".into(), open_bytes_max };
    let catalogs = Arc::new(move |_: &CatalogMark| Ok(Some(Arc::clone(&catalog))));
    let progress = Arc::new(Progress::default());
    let before = process_cpu_us();
    let mut worker: Worker<RecordStage, _, _> =
        Worker::new(setup, log, Arc::clone(&store), catalogs, Arc::clone(&progress));
    let backlog = Backlog::default();
    let mut indexer = Indexer::new(Arc::clone(&store), backlog.clone());
    loop {
        let step = worker.step(&mut |_, changes| backlog.committed(changes));
        match step.expect("nothing fails here") {
            Step::Applied { .. } => while indexer.step().expect("nothing fails here") {},
            _ => break,
        }
    }
    worker.save(&mut |_, changes| backlog.committed(changes)).expect("nothing fails here");
    let per_trace = |cpu_us: f64| (cpu_us - before) / log.ends.len() as f64;
    let record_us = per_trace(process_cpu_us());
    let disk_bytes = store.disk_bytes() as f64 / log.ends.len() as f64;
    log.ended.set(true);
    worker.step(&mut |_, changes| backlog.committed(changes)).expect("nothing fails here");
    let limits = Limits { puts: 1, ..Limits::default() };
    let (publisher, objects) = (Counted::default(), Arc::new(Nowhere));
    let outbox = Outbox::open(publisher, Arc::clone(&store), objects, progress, limits)
        .expect("nothing fails here");
    let mut files = 0;
    loop {
        let delivered = outbox.step(Lane::Objects).expect("nothing fails here");
        files += delivered.files;
        if delivered.effects == 0 {
            break;
        }
    }
    assert!(files > 0, "the cycle has ended");
    let delivered_us = per_trace(process_cpu_us());
    let tally = worker.stage().expect("it is loaded").tally();
    assert_eq!(tally.filed as usize, log.ends.len(), "every trace is filed once");
    Cost { record_us, delivered_us, disk_bytes }
}

fn main() {
    let wanted = std::env::var("TRAILPROOF_BENCH_TRACES").ok();
    let count: usize = wanted.and_then(|text| text.parse().ok()).unwrap_or(1_500_000);
    let mut figures = Figures::default();
    let shapes = [
        (1, "record_over_floor", (Some(1.5), Some(2.0))),
        (1_000, "record_over_floor_1000", (Some(2.3), Some(3.0))),
        (10_000, "record_over_floor_10000", (None, None)),
    ];
    let only = std::env::var("TRAILPROOF_BENCH_ACCOUNTS").ok();
    for (accounts, name, bounds) in shapes {
        if only.as_ref().is_some_and(|only| *only != accounts.to_string()) {
            continue;
        }
        let log = generate(count, accounts);
        let floor_us = floor(&log);
        let cost = stage(&log, accounts, Compression::Zstd);
        figures.add(name, cost.record_us / floor_us, "ratio", bounds, "lower");
        if accounts > 1 {
            let name = format!("record_us_per_trace_{accounts}");
            figures.add(&name, cost.record_us, "us", (None, None), "lower");
        } else {
            let bytes = log.bytes.len() as f64 / count as f64;
            figures.add("trace_bytes", bytes, "bytes", (None, None), "lower");
            figures.add("floor_us_per_trace", floor_us, "us", (None, None), "lower");
            figures.add("record_us_per_trace", cost.record_us, "us", (None, None), "lower");
            figures.add("delivered_us_per_trace", cost.delivered_us, "us", (None, None), "lower");
            let goal = (Some(160.0), None);
            figures.add("disk_bytes_per_trace", cost.disk_bytes, "bytes", goal, "lower");
            let gzip = stage(&log, accounts, Compression::Gzip);
            let ratio = gzip.delivered_us / cost.delivered_us;
            figures.add("gzip_over_zstd", ratio, "ratio", (Some(1.7), None), "lower");
        }
    }
    figures.write();
}
