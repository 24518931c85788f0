//! The embedded log: the suite of its port, and its own promises on a real disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trailproof::log::embedded::{
    EmbeddedLog, Options, OwnedPublisher, PartitionAppend, PartitionLog, RecordBatchBuilder,
};
use trailproof::log::{Error, Log, Publisher, RecordBatch};
use trailproof::memory_budget::MemoryBudget;
use trailproof_topology::effect::Topic;

use crate::log::{Factory, drain, record, suite};
use crate::tmpfs::Tmpfs;

const TOPICS: [(Topic, u32); 2] = [(Topic::Traces, 2), (Topic::Notifications, 3)];

struct Embedded {
    log: EmbeddedLog,
    clock: Arc<AtomicI64>,
    _folder: TempDir,
}

fn options(clock: &Arc<AtomicI64>) -> Options {
    let clock = Arc::clone(clock);
    let memory = MemoryBudget::new(8 << 20, 8 << 20);
    let mut options = Options::new(Arc::new(move || clock.load(Ordering::SeqCst)), memory);
    options.write_buffer_bytes = 1 << 20;
    options
}

fn open(path: &Path) -> Result<EmbeddedLog, Error> {
    EmbeddedLog::open(path, &TOPICS, options(&Arc::default()))
}

impl Embedded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1));
        let log = EmbeddedLog::open(folder.path(), &TOPICS, options(&clock)).unwrap();
        Self { log, clock, _folder: folder }
    }
}

impl Factory for Embedded {
    type Reader = PartitionLog;
    type Publisher = OwnedPublisher;

    fn reader(&self, topic: Topic, partition: u32) -> PartitionLog {
        self.log.reader(topic, partition).unwrap()
    }

    fn publisher(&self, owner: &str) -> OwnedPublisher {
        self.log.publisher(owner).unwrap()
    }

    fn end(&self, partition: u32) -> u64 {
        self.log.bounds(Topic::Traces, partition).unwrap().end
    }

    fn set_clock(&self, now_ms: i64) -> bool {
        self.clock.store(now_ms, Ordering::SeqCst);
        true
    }
}

/// An append of numbered records that do not compress well.
fn numbered(partition: u32, from: u64, count: u64, bytes: usize) -> PartitionAppend {
    let mut records = RecordBatchBuilder::new();
    for number in from..from + count {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut value = format!("{number}:");
        while value.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.push_str(&format!("{state:x}"));
        }
        records.push(value.as_bytes());
    }
    PartitionAppend { topic: Topic::Traces, partition, records: records.finish() }
}

fn numbers(log: &EmbeddedLog, partition: u32) -> Vec<u64> {
    let mut reader = log.reader(Topic::Traces, partition).unwrap();
    let start = log.bounds(Topic::Traces, partition).unwrap().start;
    let number = |value: &str| value.split(':').next().unwrap().parse().unwrap();
    drain(&mut reader, start, 1 << 20).iter().map(|record| number(&record.3)).collect()
}

#[test]
fn the_embedded_log_keeps_the_promises_of_its_port() {
    suite(Embedded::new);
}

#[test]
fn an_append_returns_its_offsets_and_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let ranges = log.append(vec![numbered(1, 0, 3, 20), numbered(0, 0, 5_000, 100)]).unwrap();
    assert_eq!(ranges, [0..3, 0..5_000]);
    let ranges = log.append(vec![numbered(0, 5_000, 1, 20), numbered(0, 5_001, 2, 20)]).unwrap();
    assert_eq!(ranges, [5_000..5_001, 5_001..5_003]);
    log.publisher("record/0").unwrap().publish(&[], [7, 8], 0).unwrap();
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 0..5_003);
    assert_eq!(numbers(&log, 0), (0..5_003).collect::<Vec<u64>>());
    assert_eq!(numbers(&log, 1), [0, 1, 2]);
    assert_eq!(log.publisher("record/0").unwrap().committed().unwrap(), [7, 8]);
}

#[test]
fn an_operator_reads_keys_headers_and_values() {
    let embedded = Embedded::new();
    embedded.set_clock(77);
    let mut out = record(Topic::Notifications, Some(2), "key", "value");
    out.headers = vec![("a".into(), "b".into()), ("c".into(), String::new())];
    let mut publisher = embedded.publisher("record/0");
    publisher.publish(&[out.clone(), out.clone(), out.clone()], [1, 0], 0).unwrap();
    let found = embedded.log.read(Topic::Notifications, 2, 1, 1, 1_000).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].offset, found[0].append_time_ms), (1, 77));
    assert_eq!((&found[0].key, &found[0].headers), (&out.key, &out.headers));
    assert_eq!(found[0].value, out.value);
    assert_eq!(embedded.log.read(Topic::Notifications, 2, 0, 100, 6).unwrap().len(), 2);
    let refused = embedded.log.read(Topic::Notifications, 3, 0, 1, 1).unwrap_err();
    assert_eq!(refused.to_string(), "the log refuses: the log has no partition notifications/3");
}

#[test]
fn trimming_drops_whole_rows_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    for from in (0..100).step_by(10) {
        log.append(vec![numbered(0, from, 10, 50)]).unwrap();
    }
    log.append(vec![numbered(1, 0, 10, 50)]).unwrap();
    log.trim(Topic::Traces, 0, 35).unwrap();
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 30..100);
    assert_eq!(numbers(&log, 0), (30..100).collect::<Vec<u64>>());
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    let error = reader.poll(29, 1, &mut RecordBatch::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "offset 29 of traces/0 is outside the log, which holds 30 to 100"
    );
    log.trim(Topic::Traces, 0, 10).unwrap();
    drop((log, reader));
    let log = open(folder.path()).unwrap();
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 30..100);
    log.trim(Topic::Traces, 0, 1_000).unwrap();
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 100..100);
    assert_eq!(log.append(vec![numbered(0, 100, 1, 50)]).unwrap()[0], 100..101);
    assert_eq!(numbers(&log, 1).len(), 10);
}

#[test]
fn many_producers_share_groups_and_none_is_lost() {
    let embedded = Embedded::new();
    let log = &embedded.log;
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            scope.spawn(move || {
                for round in 0..50u64 {
                    let number = thread * 50 + round;
                    let both = vec![numbered(0, number, 1, 300), numbered(1, number, 1, 300)];
                    assert_eq!(log.append(both).unwrap().len(), 2);
                }
            });
        }
    });
    for partition in 0..2 {
        let mut found = numbers(log, partition);
        found.sort_unstable();
        assert_eq!(found, (0..400).collect::<Vec<u64>>());
    }
}

#[test]
fn a_second_owner_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let error = open(folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    drop(log);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn the_number_of_partitions_of_traces_is_fixed() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let reopen = |topics: [(Topic, u32); 2]| {
        EmbeddedLog::open(folder.path(), &topics, options(&Arc::default())).map(|_| ())
    };
    for traces in [1, 3] {
        let error = reopen([(Topic::Traces, traces), (Topic::Notifications, 3)]).unwrap_err();
        assert!(error.to_string().contains("set `partitions = 2`"), "{error}");
    }
    let error = reopen([(Topic::Traces, 2), (Topic::Notifications, 2)]).unwrap_err();
    assert!(error.to_string().contains("topic notifications"), "{error}");
    assert!(reopen([(Topic::Traces, 2), (Topic::Notifications, 4)]).is_ok());
}

/// The write-ahead logs of a folder that was left as by kill -9: oldest first.
fn copy_while_open(log: &EmbeddedLog, from: &Path) -> (TempDir, Vec<PathBuf>) {
    let copy = tempfile::tempdir().unwrap();
    assert!(log.failure().is_none());
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let mut wals: Vec<PathBuf> = fs::read_dir(copy.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|name| name == "log"))
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .collect();
    wals.sort();
    (copy, wals)
}

fn written(folder: &Path) -> EmbeddedLog {
    let log = open(folder).unwrap();
    for from in 0..100 {
        log.append(vec![numbered(0, from, 1, 2_000)]).unwrap();
    }
    log
}

#[test]
fn a_torn_tail_loses_only_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path());
    for cut in [1, 50, 5_000] {
        let (copy, wals) = copy_while_open(&log, folder.path());
        let wal = wals.last().unwrap();
        let file = fs::OpenOptions::new().write(true).open(wal).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let torn = open(copy.path()).unwrap();
        let end = torn.bounds(Topic::Traces, 0).unwrap().end;
        assert!((90..100).contains(&end), "cut by {cut}: {end} records");
        assert_eq!(numbers(&torn, 0), (0..end).collect::<Vec<u64>>());
        assert_eq!(torn.append(vec![numbered(0, end, 1, 10)]).unwrap()[0], end..end + 1);
    }
}

#[test]
fn damage_before_the_tail_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path());
    for part in [10, 2] {
        let (copy, wals) = copy_while_open(&log, folder.path());
        let wal = wals.last().unwrap();
        let mut bytes = fs::read(wal).unwrap();
        let at = bytes.len() / part;
        bytes[at] ^= 0x01;
        fs::write(wal, bytes).unwrap();
        let error = open(copy.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(&copy.path().display().to_string()), "{error}");
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let Some(disk) = Tmpfs::mount(32) else { return };
    let log = open(&disk.path().join("log")).unwrap();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut append = |log: &EmbeddedLog| {
        let result = log.append(vec![numbered(0, number, 1, 20_000), numbered(1, number, 1, 10)]);
        number += 1;
        result.map(|_| acknowledged.push(number - 1))
    };
    for round in 0..3 {
        for _ in 0..20 {
            append(&log).unwrap();
        }
        let ballast = disk.fill(300_000 * round);
        let error = (0..1_000).find_map(|_| append(&log).err()).expect("the disk is full");
        assert!(matches!(error, Error::DiskFull(_)), "{error}");
        assert!(error.to_string().contains("by itself"), "{error}");
        for _ in 0..5 {
            let again = append(&log).unwrap_err();
            assert!(matches!(again, Error::DiskFull(_)), "{again}");
        }
        // What is durable can be read while the disk is full.
        assert!(!numbers(&log, 0).is_empty());
        Tmpfs::free(&ballast);
        let began = Instant::now();
        while append(&log).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", log.failure());
            log.reader(Topic::Traces, 0).unwrap().wait(u64::MAX, Duration::from_millis(50));
        }
        let (first, second) = (numbers(&log, 0), numbers(&log, 1));
        assert_eq!(first, second, "an append is in both partitions or in none");
        assert!(first.is_sorted_by(|a, b| a < b), "each at most once");
        assert!(acknowledged_are_in(&first, &log), "an acknowledged append is gone");
    }
    let found = numbers(&log, 0);
    drop(log);
    assert_eq!(numbers(&open(&disk.path().join("log")).unwrap(), 0), found);
    assert!(acknowledged.iter().all(|number| found.contains(number)));
}

fn acknowledged_are_in(found: &[u64], log: &EmbeddedLog) -> bool {
    log.bounds(Topic::Traces, 0).unwrap().end == found.len() as u64
}
