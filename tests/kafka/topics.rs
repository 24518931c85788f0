//! Topics are made as they must be, and refused as they must not.

use std::sync::Arc;

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use trailproof::clock;
use trailproof::log::Error;
use trailproof::log::broker::{Broker, ReadLimits};
use trailproof::log::kafka::{KafkaLog, Options};
use trailproof::metrics::Metrics;
use trailproof_topology::effect::Topic;

use crate::support::{Server, admin, connect, options, shared, until, wait};

fn create(server: &Server, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(new, |topic, (key, value)| topic.set(key, value));
    wait(admin(server).create_topics([&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
}

/// Why a connection is refused.
fn refusal(options: &Options) -> String {
    until("refusal", || {
        let metrics = Arc::new(Metrics::new().unwrap());
        match KafkaLog::connect(options.clone(), clock::system(), metrics) {
            Err(Error::Refused(why)) => Some(why),
            Err(Error::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it connects"),
        }
    })
}

#[test]
fn what_is_missing_is_made_and_then_accepted() {
    let (server, _guard) = shared();
    let mut options = options(server);
    let log = connect(&options);
    assert_eq!(log.partitions(Topic::Traces), 2);
    assert_eq!(log.partitions(Topic::Catalog), 1);
    assert!(log.description().contains(&server.address()));
    options.traces_partitions = 0;
    assert_eq!(connect(&options).partitions(Topic::Traces), 2, "it takes what it finds");
    options.traces_partitions = 3;
    let why = refusal(&options);
    assert!(why.contains("has 2 partitions where 3 are configured"), "{why}");
}

#[test]
fn a_topic_that_breaks_a_promise_is_refused_with_what_mends_it() {
    let (server, _guard) = shared();
    let good = [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")];
    for (topic, broken, mended) in [
        (Topic::Traces, ("message.timestamp.type", "CreateTime"), "LogAppendTime"),
        (Topic::Traces, ("retention.ms", "604800000"), "1209600000"),
        (Topic::Traces, ("retention.bytes", "1000000"), "-1"),
        (Topic::Files, ("retention.ms", "604800000"), "-1"),
        (Topic::Catalog, ("cleanup.policy", "compact"), "delete"),
        (Topic::Traces, ("max.message.bytes", "1049087"), "16777216"),
        (Topic::DeadLetters, ("max.message.bytes", "1000"), "25165824"),
        (Topic::Traces, ("unclean.leader.election.enable", "true"), "false"),
    ] {
        let options = options(server);
        let name = options.topic(topic);
        let settings: Vec<_> =
            good.into_iter().filter(|one| one.0 != broken.0).chain([broken]).collect();
        let partitions = if topic == Topic::Traces { 2 } else { 1 };
        create(server, &name, partitions, &settings);
        let why = refusal(&options);
        let (key, found) = broken;
        assert!(why.contains(&format!("topic {name} has {key}={found}")), "{why}");
        assert!(
            why.contains(&format!("--entity-name {name} --add-config {key}={mended}")),
            "{why}"
        );
    }
}

#[test]
fn options_that_break_exactly_once_are_refused() {
    let (server, _guard) = shared();
    let mut options = options(server);
    options.passed.insert("acks".to_owned(), "1".to_owned());
    let why = refusal(&options);
    assert!(why.contains("kafka.acks"), "{why}");
}

#[test]
fn what_is_no_partition_or_too_large_is_refused() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    assert!(matches!(log.append(&[(2, vec![b"a"])]), Err(Error::Refused(_))));
    let large = vec![b'a'; 16 << 20];
    assert!(matches!(log.append(&[(0, vec![&large])]), Err(Error::Refused(_))));
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 0..0);
    assert!(matches!(log.bounds(Topic::Traces, 2), Err(Error::Refused(_))));
    // As Kafka's own producers place it: murmur2, without the sign, modulo.
    assert_eq!(
        log.partition_of(Topic::Traces, b"foobar"),
        (-790_332_482_i32 & i32::MAX) as u32 % 2
    );
}

/// An element of a body over HTTP may have 12 MiB, be it a trace or a dead letter to be.
#[test]
fn a_topic_takes_any_element_or_says_which_it_does_not_take() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    let large: Vec<u8> = (0..12_u32 << 20).map(|at| (at.wrapping_mul(at) >> 11) as u8).collect();
    log.append(&[(0, vec![b"small", &large])]).unwrap();
    let limits = ReadLimits { records: 2, bytes: 32 << 20 };
    let records = log.read(Topic::Traces, 0, 0, limits).unwrap();
    assert_eq!(records[1].value, large);
    // A topic that somebody else made, for traces alone.
    let options = options(server);
    let name = options.topic(Topic::Traces);
    let good = [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")];
    let settings = [good[0], good[1], ("max.message.bytes", "1049088")];
    create(server, &name, 2, &settings);
    let log = connect(&options);
    assert_eq!(log.record_bytes_max(), 1 << 20);
    log.append(&[(0, vec![&large[..1 << 20]])]).unwrap();
    let why = log.append(&[(0, vec![&large[..=1 << 20]])]).unwrap_err().to_string();
    assert!(why.contains("has 1048577 bytes"), "{why}");
    assert!(why.contains(&format!("topic {name} takes 1048576: raise its max.message")), "{why}");
    assert_eq!(log.bounds(Topic::Traces, 0).unwrap(), 0..1);
}
