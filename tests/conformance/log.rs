//! What every adapter of the log port promises.

use std::time::{Duration, Instant};

use trailproof::log::{Error, Kind, Log, Publisher, RecordBatch, Retry};
use trailproof_topology::effect::{OutRecord, Topic};

/// A log of topic `traces` with two partitions and `notifications` with three.
pub(crate) trait Factory {
    type Reader: Log;
    type Publisher: Publisher;

    /// Whether an append takes offsets that hold no record.
    const HOLES: bool = false;

    fn reader(&self, topic: Topic, partition: u32) -> Self::Reader;
    fn publisher(&self, owner: &str) -> Self::Publisher;
    /// One past the last offset that a partition of `traces` holds.
    fn end(&self, partition: u32) -> u64;
    /// Sets the log's clock; `false` where nobody can.
    fn set_clock(&self, now_ms: i64) -> bool;
}

pub(crate) fn record(topic: Topic, partition: Option<u32>, key: &str, value: &str) -> OutRecord {
    OutRecord { topic, partition, key: key.into(), headers: Vec::new(), value: value.into() }
}

fn traces(partition: u32, values: &[&str]) -> Vec<OutRecord> {
    values.iter().map(|value| record(Topic::Traces, Some(partition), "", value)).collect()
}

/// Every record from `from` on, in polls of `bytes_max`.
pub(crate) fn drain(
    reader: &mut impl Log,
    from: u64,
    bytes_max: usize,
) -> Vec<(u64, i64, Kind, String)> {
    let mut all = Vec::new();
    let mut batch = RecordBatch::default();
    let mut next = from;
    loop {
        reader.poll(next, bytes_max, &mut batch).unwrap();
        if batch.is_empty() {
            return all;
        }
        for polled in batch.iter() {
            assert!(polled.offset >= next, "a repeat");
            next = polled.offset + 1;
            let value = String::from_utf8(polled.value.to_vec()).unwrap();
            all.push((polled.offset, polled.append_time_ms, polled.kind, value));
        }
    }
}

fn values(reader: &mut impl Log) -> Vec<String> {
    drain(reader, 0, 1 << 20).into_iter().map(|record| record.3).collect()
}

pub(crate) fn records_come_back_in_order_by_partition<F: Factory>(log: &F) {
    let mut publisher = log.publisher("record/0");
    publisher.publish(&traces(0, &["a", "b"]), [0, 0], 0).unwrap();
    publisher.publish(&traces(1, &["x"]), [0, 0], 0).unwrap();
    publisher.publish(&traces(0, &["c", ""]), [0, 0], 0).unwrap();
    assert_eq!(values(&mut log.reader(Topic::Traces, 0)), ["a", "b", "c", ""]);
    assert_eq!(values(&mut log.reader(Topic::Traces, 1)), ["x"]);
    let all = drain(&mut log.reader(Topic::Traces, 0), 0, 1 << 20);
    let offsets: Vec<u64> = all.iter().map(|record| record.0).collect();
    assert!(F::HOLES || offsets == [0, 1, 2, 3], "a hole: {offsets:?}");
    let tail = drain(&mut log.reader(Topic::Traces, 0), offsets[3], 1);
    assert_eq!(tail, all[3..]);
}

pub(crate) fn small_polls_make_progress_and_bound_the_batch(log: &impl Factory) {
    let mut publisher = log.publisher("record/0");
    let big = "v".repeat(10_000);
    for _ in 0..20 {
        publisher.publish(&traces(0, &[&big]), [0, 0], 0).unwrap();
    }
    let mut reader = log.reader(Topic::Traces, 0);
    let mut batch = RecordBatch::default();
    reader.poll(0, 25_000, &mut batch).unwrap();
    assert!((1..=3).contains(&batch.len()), "{} records in a poll of 25,000 bytes", batch.len());
    assert_eq!(drain(&mut reader, 0, 1).len(), 20);
}

pub(crate) fn an_offset_outside_the_log_is_refused(log: &impl Factory) {
    log.publisher("record/0").publish(&traces(0, &["a"]), [0, 0], 0).unwrap();
    let mut batch = RecordBatch::default();
    let mut reader = log.reader(Topic::Traces, 0);
    reader.poll(1, 100, &mut batch).unwrap();
    assert!(batch.is_empty());
    let end = log.end(0);
    let error = reader.poll(end + 1, 100, &mut batch).unwrap_err();
    let Error::OutOfRange { partition: 0, wanted, start: 0, end: held, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((wanted, held), (end + 1, end));
    assert_eq!(error.retry(), Retry::Never);
}

pub(crate) fn append_times_never_fall(log: &impl Factory) {
    let mut publisher = log.publisher("record/0");
    let mut reader = log.reader(Topic::Traces, 0);
    for now_ms in [5_000, 9_000, 2_000, 9_500] {
        let set = log.set_clock(now_ms);
        publisher.publish(&traces(0, &["a"]), [0, 0], 0).unwrap();
        let expected = now_ms.max(if now_ms == 2_000 { 9_000 } else { 0 });
        assert!(!set || reader.now_ms() == expected, "{} is not {expected}", reader.now_ms());
    }
    let times: Vec<i64> = drain(&mut reader, 0, 1 << 20).iter().map(|record| record.1).collect();
    assert_eq!(times.len(), 4);
    assert!(times.is_sorted(), "{times:?}");
    assert!(!log.set_clock(9_500) || times == [5_000, 9_000, 9_000, 9_500], "{times:?}");
}

pub(crate) fn a_tick_is_a_record_of_its_own_kind(log: &impl Factory) {
    let set = log.set_clock(7_000);
    let mut reader = log.reader(Topic::Traces, 1);
    reader.tick().unwrap();
    let headers = vec![("trailproof".to_owned(), "catalog".to_owned())];
    let mark = OutRecord { headers, ..record(Topic::Traces, Some(1), "", "3") };
    log.publisher("record/1").publish(&[mark], [0, 0], 0).unwrap();
    let all = drain(&mut reader, 0, 100);
    let (offset, time_ms, kind, value) = &all[0];
    assert_eq!((*offset, *kind, value.as_str()), (0, Kind::Tick, ""));
    assert!(!set || *time_ms == 7_000, "{time_ms}");
    assert!((reader.now_ms() - time_ms).abs() < 60_000, "the log's time is not its records'");
    assert_eq!(all[1].2, Kind::Catalog);
}

pub(crate) fn waiting_ends_when_a_record_comes(log: &impl Factory) {
    let mut reader = log.reader(Topic::Traces, 0);
    let began = Instant::now();
    reader.wait(0, Duration::from_millis(20));
    assert!(began.elapsed() >= Duration::from_millis(20), "nothing came, yet the wait ended");
    log.publisher("record/0").publish(&traces(0, &["a"]), [0, 0], 0).unwrap();
    let began = Instant::now();
    reader.wait(0, Duration::from_secs(60));
    assert!(began.elapsed() < Duration::from_secs(30), "a record is there, yet the wait went on");
}

pub(crate) fn lanes_are_committed_with_the_records(log: &impl Factory) {
    let mut publisher = log.publisher("record/0");
    assert_eq!(publisher.committed().unwrap(), [0, 0]);
    publisher.publish(&traces(0, &["a"]), [4, 2], 0).unwrap();
    publisher.publish(&[], [5, 2], 0).unwrap();
    assert_eq!(publisher.committed().unwrap(), [5, 2]);
    assert_eq!(log.publisher("record/0").committed().unwrap(), [5, 2]);
    assert_eq!(log.publisher("record/1").committed().unwrap(), [0, 0]);
    assert_eq!(values(&mut log.reader(Topic::Traces, 0)), ["a"]);
}

pub(crate) fn one_publish_reaches_many_topics(log: &impl Factory) {
    let keyed = |key| record(Topic::Notifications, None, key, key);
    let mut records = traces(0, &["t"]);
    records.extend(["k1", "k2", "k1", "k3", "k1"].map(keyed));
    log.publisher("record/0").publish(&records, [1, 1], 0).unwrap();
    assert_eq!(values(&mut log.reader(Topic::Traces, 0)), ["t"]);
    let found: Vec<Vec<String>> =
        (0..3).map(|partition| values(&mut log.reader(Topic::Notifications, partition))).collect();
    assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 5);
    let holders = found.iter().filter(|values| values.iter().any(|value| value == "k1"));
    assert_eq!(holders.count(), 1, "a key stays in one partition: {found:?}");
}

/// Runs the suite; `new` makes an empty log each time.
pub(crate) fn suite<F: Factory>(new: impl Fn() -> F) {
    records_come_back_in_order_by_partition(&new());
    small_polls_make_progress_and_bound_the_batch(&new());
    an_offset_outside_the_log_is_refused(&new());
    append_times_never_fall(&new());
    a_tick_is_a_record_of_its_own_kind(&new());
    waiting_ends_when_a_record_comes(&new());
    lanes_are_committed_with_the_records(&new());
    one_publish_reaches_many_topics(&new());
}
