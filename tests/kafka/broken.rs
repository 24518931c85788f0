//! A broker that dies in mid-transaction forgets how it ended. Readers must not notice.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use trailproof::log::broker::{Broker, ReadLimits};
use trailproof::log::kafka::{Crash, Options, Step};
use trailproof::log::{Error, Publisher as _};
use trailproof_topology::effect::Topic;

use crate::support::{DEADLINE, Server, alone, client, connect, options, shared, until};
use crate::transactions::{OWNER, await_heard, heard, once_after, said, say};

/// Where a transaction is when the broker dies, and whether our process lives on.
const CASES: [(Step, bool); 7] = [
    (Step::Begun, false),
    (Step::Produced, false),
    (Step::Flushed, true),
    (Step::Flushed, false),
    (Step::OffsetsSent, true),
    (Step::OffsetsSent, false),
    (Step::Committed, false),
];

/// Stops after a step, once: tells so, and waits to be let go.
fn held_after(step: Step, reached: Sender<()>, go: Receiver<()>, crash: bool) -> Crash {
    let go = Mutex::new(go);
    let wait = move || {
        reached.send(()).unwrap();
        go.lock().unwrap().recv_timeout(3 * DEADLINE).unwrap();
    };
    once_after(step, wait, crash)
}

/// Says "one", then "two" up to a step at which the broker dies; then whoever goes on says the
/// rest.
fn say_through_a_crash(
    options: &Options,
    (step, survives): (Step, bool),
    reached: Sender<()>,
    go: Receiver<()>,
) {
    let log = connect(options);
    let mut publisher = log.kafka_publisher(OWNER).unwrap();
    publisher.publish(&said("one"), [0, 1], 1).unwrap();
    let mut publisher = publisher.crashing(held_after(step, reached, go, !survives));
    let outcome = publisher.publish(&said("two"), [0, 2], 2);
    if survives {
        assert!(!matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
        say(&log, &mut publisher, &["one", "two", "three"]);
    } else {
        outcome.unwrap_err();
        drop((publisher, log));
        let heir = connect(options);
        let mut publisher = until("publisher", || heir.publisher(OWNER).ok());
        say(&heir, &mut *publisher, &["one", "two", "three"]);
    }
}

#[test]
fn a_broker_killed_in_mid_transaction_shows_everything_once() {
    let (server, _guard) = alone();
    let cases: Vec<_> = CASES.into_iter().map(|case| (case, options(server))).collect();
    std::thread::scope(|scope| {
        let (reached, all_reached) = channel();
        let let_go: Vec<Sender<()>> = cases
            .iter()
            .map(|(case, options)| {
                let (reached, (let_go, go)) = (reached.clone(), channel());
                scope.spawn(move || say_through_a_crash(options, *case, reached, go));
                let_go
            })
            .collect();
        for _ in &cases {
            all_reached.recv_timeout(DEADLINE).unwrap();
        }
        server.kill();
        server.restart();
        let_go.iter().for_each(|case| case.send(()).unwrap());
    });
    for (case, options) in &cases {
        let log = connect(options);
        assert_eq!(await_heard(&log, 3), ["one", "two", "three"], "{case:?}");
    }
}

/// A producer with the id of [`OWNER`], which does what it likes.
fn impostor(server: &Server, id: &str) -> BaseProducer {
    let producer: BaseProducer = client(server).set("transactional.id", id).create().unwrap();
    until("start", || producer.init_transactions(DEADLINE).ok());
    producer
}

fn write_open(producer: &BaseProducer, topic: &str, id: &str, value: &str) {
    producer.begin_transaction().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "ce_id", value: Some("7") })
        .insert(Header { key: "trailproof-producer", value: Some(id) });
    let record = BaseRecord::to(topic).partition(0).key("key").payload(value).headers(headers);
    producer.send(record).unwrap();
    producer.flush(DEADLINE).unwrap();
}

/// As Kafka leaves it where it lost the end of a transaction in one partition only: the group's
/// offset is committed, and the records it names are not.
#[test]
fn what_was_committed_and_cannot_be_read_is_said_again() {
    let (server, _guard) = shared();
    let options = options(server);
    let (id, name) = (format!("{}/record/0", options.group), options.topic(Topic::Notifications));
    let log = connect(&options);
    log.publisher(OWNER).unwrap().publish(&said("one"), [0, 1], 1).unwrap();
    let producer = impostor(server, &id);
    write_open(&producer, &name, &id, "two");
    producer.abort_transaction(DEADLINE).unwrap();
    let member: BaseConsumer = client(server).set("group.id", &options.group).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    let mut entry = offsets.add_partition(&options.topic(Topic::Traces), 0);
    entry.set_offset(rdkafka::Offset::Offset(2)).unwrap();
    // The first transaction has a record and a marker.
    entry.set_metadata("v2 0 2 n0@2+0");
    producer.begin_transaction().unwrap();
    let group = member.group_metadata().unwrap();
    producer.send_offsets_to_transaction(&offsets, &group, DEADLINE).unwrap();
    producer.commit_transaction(DEADLINE).unwrap();
    drop(producer);
    let mut publisher = log.publisher(OWNER).unwrap();
    assert_eq!(publisher.committed().unwrap(), [0, 2]);
    let limits = ReadLimits { records: 10, bytes: 1 << 20 };
    let records = log.read(Topic::Notifications, 0, 0, limits).unwrap();
    let again = &records[1];
    assert_eq!((&*again.key, &*again.value), (&b"key"[..], &b"two"[..]));
    assert_eq!(again.headers[0], ("ce_id".to_owned(), "7".to_owned()), "as it was");
    assert_eq!(again.headers.len(), 2, "{:?}", again.headers);
    // That is done once.
    assert_eq!(log.publisher(OWNER).unwrap().committed().unwrap(), [0, 2]);
    publisher.publish(&said("three"), [0, 3], 3).unwrap_err();
    say(&log, &mut *log.publisher(OWNER).unwrap(), &["one", "two", "three"]);
    assert_eq!(heard(&log), ["one", "two", "three"]);
}

/// Nobody reads past an open transaction, so nothing behind it is said to be out.
#[test]
fn a_transaction_of_others_holds_up_an_answer_and_is_named() {
    let (server, _guard) = shared();
    let options = options(server);
    let name = options.topic(Topic::Notifications);
    let log = connect(&options);
    let mut publisher = log.publisher(OWNER).unwrap();
    let other = impostor(server, "others");
    write_open(&other, &name, "others", "never");
    let error = publisher.publish(&said("one"), [0, 1], 1).unwrap_err();
    let why = error.to_string();
    assert!(why.contains("readers of notifications/0 do not get past offset 0"), "{why}");
    assert!(why.contains(&format!("find-hanging --topic {name} --partition 0")), "{why}");
    other.abort_transaction(DEADLINE).unwrap();
    until("lanes", || (publisher.committed().ok() == Some([0, 1])).then_some(()));
    assert_eq!(heard(&log), ["one"]);
}

/// Every record says who wrote it; it is read back by that.
#[test]
fn a_record_names_its_producer() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = Arc::new(connect(&options));
    log.publisher(OWNER).unwrap().publish(&said("one"), [0, 1], 1).unwrap();
    let limits = ReadLimits { records: 10, bytes: 1 << 20 };
    let records = log.read(Topic::Notifications, 0, 0, limits).unwrap();
    let header = ("trailproof-producer".to_owned(), format!("{}/record/0", options.group));
    assert_eq!(records[0].headers, [header]);
}
