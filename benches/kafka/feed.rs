//! Filling `traces`, and reading it back plainly.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::traces::{Random, trace};

const TOPIC: &str = "traces";

/// A producer that waits where its queue is full.
pub(crate) struct Feed {
    producer: BaseProducer<DefaultProducerContext>,
    random: Random,
    text: Vec<u8>,
    accounts: u64,
    partitions: i32,
    sent: u64,
    bytes: u64,
}

impl Feed {
    pub(crate) fn new(brokers: &str, compression: &str, accounts: u64, partitions: i32) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", compression)
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.kbytes", "131072")
            .create()
            .expect("a producer");
        Self {
            producer,
            random: Random(1),
            text: Vec::new(),
            accounts,
            partitions,
            sent: 0,
            bytes: 0,
        }
    }

    /// Sends one generated trace. Producers of many accounts key by account, as recommended.
    pub(crate) fn send(&mut self) {
        self.text.clear();
        let time_ms = 1_760_000_000_000 + self.sent as i64;
        let account = trace(&mut self.random, self.accounts, time_ms, &mut self.text);
        let text = std::mem::take(&mut self.text);
        let key = if self.accounts > 1 { account } else { self.sent };
        self.send_to((key % self.partitions as u64) as i32, &text);
        self.text = text;
    }

    /// Sends this trace into the next partition.
    pub(crate) fn send_text(&mut self, text: &[u8]) {
        self.send_to((self.sent % self.partitions as u64) as i32, text);
    }

    fn send_to(&mut self, partition: i32, text: &[u8]) {
        self.sent += 1;
        self.bytes += text.len() as u64;
        let mut record = BaseRecord::<(), [u8]>::to(TOPIC).payload(text).partition(partition);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.producer.poll(Duration::from_millis(10));
                    record = again;
                }
                Err((error, _)) => panic!("the producer refuses: {error}"),
            }
        }
        if self.sent.is_multiple_of(1_000) {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Bytes of all traces that were sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until the broker has everything.
    pub(crate) fn flush(&self) {
        self.producer.flush(Duration::from_secs(120)).expect("the broker takes it all");
    }
}

/// Reads `records` records of `traces` from the beginning, one poll after another, and nothing
/// else.
pub(crate) fn consume(brokers: &str, records: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "plain-consumer")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(TOPIC), Duration::from_secs(30)).expect("metadata");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(TOPIC, partition.id(), Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    let (mut count, mut bytes) = (0, 0);
    while count < records {
        if let Some(message) = consumer.poll(Duration::from_secs(30)) {
            let message = message.expect("a record");
            bytes += message.payload_len();
            count += 1;
        }
    }
    assert!(bytes > 0, "records have bytes");
}
