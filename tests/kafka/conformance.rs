//! The suite of the log port, on Kafka.

use std::ops::Range;
use std::sync::RwLockReadGuard;
use std::time::Duration;

use trailproof::log::broker::{Broker, Owner};
use trailproof::log::kafka::{KafkaLog, KafkaPublisher};
use trailproof::log::{Error, Log, RecordBatch};
use trailproof_topology::effect::Topic;

use crate::log::{Factory, suite};
use crate::support::{Server, admin, connect, options, shared, until, wait};

struct Kafka {
    log: KafkaLog,
    _guard: RwLockReadGuard<'static, ()>,
}

/// The suite takes an empty poll for the end: this one waits before it says so.
pub(crate) struct Patient(Box<dyn Log + Send>);

impl Log for Patient {
    fn poll(&mut self, from: u64, bytes_max: usize, batch: &mut RecordBatch) -> Result<(), Error> {
        for _ in 0..5 {
            self.0.poll(from, bytes_max, batch)?;
            if !batch.is_empty() {
                break;
            }
            self.0.wait(from, Duration::from_millis(300));
        }
        Ok(())
    }

    fn wait(&mut self, from: u64, timeout: Duration) {
        // The end of the partition ends a wait early.
        let began = std::time::Instant::now();
        self.0.wait(from, timeout.saturating_sub(began.elapsed()));
    }

    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.0.tick()
    }
}

impl Factory for Kafka {
    type Reader = Patient;
    type Publisher = KafkaPublisher;

    const HOLES: bool = true;

    fn reader(&self, topic: Topic, partition: u32) -> Patient {
        Patient(self.log.reader(topic, partition).unwrap())
    }

    fn publisher(&self, owner: &str) -> KafkaPublisher {
        let number = owner.rsplit('/').next().unwrap().parse().unwrap();
        self.log.kafka_publisher(Owner::Record(number)).unwrap()
    }

    fn end(&self, partition: u32) -> u64 {
        // A record and its transaction's marker, which the broker writes after the answer.
        until("marker", || {
            let Range { end, .. } = self.log.bounds(Topic::Traces, partition).unwrap();
            (end >= 2).then_some(end)
        })
    }

    fn set_clock(&self, _now_ms: i64) -> bool {
        false
    }
}

/// Makes topic `notifications` with three partitions before the log finds it missing.
fn three_notifications(server: &Server, name: &str) {
    use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
    let topic = NewTopic::new(name, 3, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime")
        .set("max.message.bytes", "25165824");
    wait(admin(server).create_topics([&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
}

#[test]
fn it_keeps_the_promises_of_the_port() {
    suite(|| {
        let (server, guard) = shared();
        let options = options(server);
        three_notifications(server, &options.topic(Topic::Notifications));
        Kafka { log: connect(&options), _guard: guard }
    });
}
