//! What a partition's reader sees: holes, ends, and what is no longer there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use trailproof::log::broker::{Broker, Owner};
use trailproof::log::kafka::KafkaLog;
use trailproof::log::{Error, Kind, Log, RecordBatch, Retry};
use trailproof::{clock, metrics};
use trailproof_topology::effect::Topic;

use crate::log::record;
use crate::support::{Server, admin, client, collect, connect, options, shared, until, wait};

/// The first error of polls from `from`.
fn trouble(reader: &mut dyn Log, from: u64) -> Error {
    let mut batch = RecordBatch::default();
    until("error", || match reader.poll(from, 1 << 20, &mut batch) {
        Ok(()) | Err(Error::Unavailable(_)) => None,
        Err(error) => Some(error),
    })
}

#[test]
fn holes_are_passed_over_from_every_offset() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    let mut publisher = log.publisher(Owner::Catalog).unwrap();
    for turn in 0..5 {
        // It ends the transaction that the last one left open: nobody reads past that.
        let crash = Arc::new(|step| step == trailproof::log::kafka::Step::Flushed);
        let mut doomed = log.kafka_publisher(Owner::Record(0)).unwrap().crashing(crash);
        let inside = record(Topic::Traces, Some(0), "", &format!("in {turn}"));
        publisher.publish(&[inside], [0, 0], 0).unwrap();
        let lost = record(Topic::Traces, Some(0), "", "aborted");
        trailproof::log::Publisher::publish(&mut doomed, &[lost], [1, 1], 0).unwrap_err();
        drop(doomed);
        log.append(&[(0, vec![format!("out {turn}").as_bytes()])]).unwrap();
    }
    // The last open transaction ends when its id is taken over.
    log.publisher(Owner::Record(0)).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    let all = collect(&mut *reader, 0, 10);
    let values: Vec<&str> = all.iter().map(|one| one.1.as_str()).collect();
    let expected: Vec<String> =
        (0..5).flat_map(|turn| [format!("in {turn}"), format!("out {turn}")]).collect();
    assert_eq!(values, expected);
    assert!(all[9].0 > 18, "no holes: {all:?}");
    for from in 0..all[9].0 {
        let rest: Vec<_> = all.iter().filter(|one| one.0 >= from).cloned().collect();
        assert_eq!(collect(&mut *reader, from, rest.len()), rest, "from {from}");
    }
}

#[test]
fn an_idle_partition_gets_one_tick_and_its_time() {
    let (server, _guard) = shared();
    let ahead = Arc::new(|| clock::now_ms() + 3_600_000);
    let metrics = Arc::new(metrics::Metrics::new().unwrap());
    let options = options(server);
    connect(&options);
    let log = KafkaLog::connect(options, ahead, metrics).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    let mut batch = RecordBatch::default();
    assert!(reader.now_ms() > clock::now_ms() + 3_000_000, "nothing is learnt yet");
    // As a worker does, whose boundary has passed by its own clock.
    let boundary = clock::now_ms() + 1_800_000;
    let mut next = 0;
    for _ in 0..100 {
        reader.poll(next, 1 << 20, &mut batch).unwrap();
        next = batch.iter().last().map_or(next, |one| one.offset + 1);
        if batch.is_empty() && reader.now_ms() >= boundary {
            reader.tick().unwrap();
        }
    }
    assert!((reader.now_ms() - clock::now_ms()).abs() < 60_000, "the broker's time is known");
    until("tick", || {
        reader.poll(0, 1 << 20, &mut batch).unwrap();
        let kinds: Vec<Kind> = batch.iter().map(|one| one.kind).collect();
        (!kinds.is_empty()).then(|| assert_eq!(kinds, [Kind::Tick]))
    });
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 0..1);
    assert_eq!(log.ends(Topic::Traces, &[1, 0]).unwrap(), [0, 1], "all asked at once");
    assert!(matches!(log.ends(Topic::Traces, &[0, 2]), Err(Error::Refused(_))));
}

#[test]
fn what_retention_deleted_is_out_of_range() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = connect(&options);
    log.append(&[(0, vec![b"a", b"b", b"c", b"d"])]).unwrap();
    let mut list = TopicPartitionList::new();
    let name = options.topic(Topic::Traces);
    list.add_partition_offset(&name, 0, Offset::Offset(3)).unwrap();
    wait(admin(server).delete_records(&list, &AdminOptions::new())).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    let error = trouble(&mut *reader, 1);
    assert!(matches!(error, Error::OutOfRange { wanted: 1, start: 3, end: 4, .. }), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(collect(&mut *reader, 3, 1), [(3, "d".to_owned())]);
}

fn remove(server: &Server, name: &str) {
    wait(admin(server).delete_topics(&[name], &AdminOptions::new())).unwrap()[0].clone().unwrap();
}

#[test]
fn a_topic_that_was_deleted_stops_its_reader_with_what_to_do() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = connect(&options);
    log.append(&[(0, vec![b"a", b"b", b"c"])]).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    assert_eq!(collect(&mut *reader, 0, 3).len(), 3);
    remove(server, &options.topic(Topic::Traces));
    let error = trouble(&mut *reader, 3);
    assert_eq!(error.retry(), Retry::Never);
    let why = error.to_string();
    assert!(why.starts_with("traces/0 does not exist any more. Bring that topic back"), "{why}");
    assert!(why.contains("a new kafka.group, an empty data folder and new buckets"), "{why}");
}

#[test]
fn a_topic_that_was_made_anew_is_found_out() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = connect(&options);
    log.append(&[(0, vec![b"a", b"b", b"c"])]).unwrap();
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    assert_eq!(collect(&mut *reader, 0, 3).len(), 3);
    let name = options.topic(Topic::Traces);
    remove(server, &name);
    // The name is free once the broker has forgotten it.
    until("new topic", || {
        let topic = NewTopic::new(&name, 2, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("retention.ms", "-1")
            .set("max.message.bytes", "2097152");
        wait(admin(server).create_topics([&topic], &AdminOptions::new())).unwrap()[0].clone().ok()
    });
    let anew = connect(&options);
    let mut fresh = anew.reader(Topic::Traces, 0).unwrap();
    let error = trouble(&mut *fresh, 3);
    assert!(matches!(error, Error::OutOfRange { wanted: 3, start: 0, end: 0, .. }), "{error}");
    // The reader that lived through it stops too.
    let error = trouble(&mut *reader, 3);
    assert_eq!(error.retry(), Retry::Never, "{error}");
}

/// As where a log lost its end: the reader stands behind it, and when it hears so, others have come
/// in the place of what is gone.
#[test]
fn a_log_that_lost_its_end_and_grew_again_is_not_read_on() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    reader.wait(3, Duration::ZERO);
    let placed = Instant::now();
    until("time for the broker's answer", || (placed.elapsed().as_secs() >= 2).then_some(()));
    log.append(&[(0, vec![b"a", b"b", b"c", b"d", b"e"])]).unwrap();
    let mut batch = RecordBatch::default();
    let error = until("an error", || match reader.poll(3, 1 << 20, &mut batch) {
        Ok(()) => {
            assert!(batch.is_empty(), "another record than was to come is read");
            None
        }
        Err(Error::Unavailable(_)) => None,
        Err(error) => Some(error),
    });
    assert!(matches!(error, Error::Changed(_)) && error.needs_restart(), "{error}");
}

#[test]
fn a_record_of_others_is_taken_as_it_is() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = connect(&options);
    let producer: BaseProducer = client(server).create().unwrap();
    let name = options.topic(Topic::Traces);
    let tombstone: BaseRecord<'_, str, str> = BaseRecord::to(&name).partition(1).key("k");
    producer.send(tombstone).unwrap();
    let old: BaseRecord<'_, str, str> =
        BaseRecord::to(&name).partition(1).payload("v").timestamp(1);
    producer.send(old).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let mut reader = log.reader(Topic::Traces, 1).unwrap();
    assert_eq!(collect(&mut *reader, 0, 2), [(0, String::new()), (1, "v".to_owned())]);
    let mut batch = RecordBatch::default();
    until("records again", || {
        reader.poll(0, 1, &mut batch).unwrap();
        (!batch.is_empty()).then_some(())
    });
    let first = batch.iter().next().unwrap();
    assert_eq!(first.kind, Kind::Data);
    assert!((first.append_time_ms - clock::now_ms()).abs() < 60_000, "not the broker's time");
}

/// Records from before the topic was set right: their time is their producer's word.
#[test]
fn a_record_with_its_producers_time_stops_the_reader() {
    let (server, _guard) = shared();
    let options = options(server);
    let name = options.topic(Topic::Traces);
    let topic = NewTopic::new(&name, 2, TopicReplication::Fixed(1))
        .set("retention.ms", "-1")
        .set("max.message.bytes", "2097152");
    wait(admin(server).create_topics([&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    let producer: BaseProducer = client(server).create().unwrap();
    let old: BaseRecord<'_, str, str> =
        BaseRecord::to(&name).partition(0).payload("v").timestamp(1);
    producer.send(old).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let right = AlterConfig::new(ResourceSpecifier::Topic(&name))
        .set("message.timestamp.type", "LogAppendTime")
        .set("retention.ms", "-1")
        .set("max.message.bytes", "2097152");
    let altered = wait(admin(server).alter_configs([&right], &AdminOptions::new())).unwrap();
    assert!(altered[0].is_ok(), "{altered:?}");
    let log = connect(&options);
    let error = trouble(&mut *log.reader(Topic::Traces, 0).unwrap(), 0);
    assert_eq!(error.retry(), Retry::Never);
    let text = error.to_string();
    assert!(text.contains("record 0") && text.contains("kafka-delete-records.sh"), "{text}");
}
