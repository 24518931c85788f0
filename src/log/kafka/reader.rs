//! Reading one input partition: a plain consumer of its own, placed by hand.
//!
//! The consumer is told the end of the partition, so that an idle partition is told from one whose
//! records are on their way. Offsets have holes where transactions ended; the position is then past
//! the last record that was there.
//!
//! **Invariant:** after offset `n` the consumer delivers the next committed record behind `n`, or
//! the reader is placed anew; nothing is skipped.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use trailproof_topology::effect::Topic;
use trailproof_topology::input::{Millis, Offset};

use super::Cluster;
use super::context::{Watch, unavailable};
use super::message::{append_time, kind_of, offset_of};
use crate::log::{Error, Log, REMEDY, RecordBatch};

/// Records of one poll; the bytes are the caller's bound.
const POLL_RECORDS_MAX: usize = 1 << 18;

/// Below this a batch waits for what is on its way: small batches cost more than they bring.
const FILL_BYTES: usize = 256 << 10;

/// How long a small batch waits at most.
const FILL_WAIT: Duration = Duration::from_millis(5);

/// How long a tick waits for records that are known to be on their way.
const TICK_WAIT: Duration = Duration::from_millis(20);

/// How long a broker may take to say what a partition holds.
const BOUNDS_WAIT: Duration = Duration::from_secs(5);

/// A reader of one partition.
pub(super) struct PartitionReader {
    cluster: Arc<Cluster>,
    topic: Topic,
    partition: u32,
    consumer: BaseConsumer<Watch>,
    /// Where the caller stands: what stash and consumer go on from. `None`: to be placed.
    at: Option<Offset>,
    /// What the consumer delivers next, behind the stash.
    next: Option<Offset>,
    /// A record that came while waiting, or nothing.
    stash: RecordBatch,
    /// An error that came behind records.
    trouble: Option<Error>,
    /// Whether the broker said that there is nothing more.
    at_end: bool,
    /// The last tick that was appended.
    ticked: Option<Offset>,
}

impl PartitionReader {
    /// A reader that is placed by its first poll.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: no client could be made.
    pub(super) fn new(cluster: Arc<Cluster>, topic: Topic, partition: u32) -> Result<Self, Error> {
        let consumer = cluster.consumer()?;
        Ok(Self {
            cluster,
            topic,
            partition,
            consumer,
            at: None,
            next: None,
            stash: RecordBatch::default(),
            trouble: None,
            at_end: false,
            ticked: None,
        })
    }

    /// Makes sure that the consumer delivers from `from` on.
    fn place(&mut self, from: Offset) -> Result<(), Error> {
        if self.at == Some(from) {
            return Ok(());
        }
        (self.at, self.next, self.at_end) = (None, None, false);
        self.stash.clear();
        assign(&self.consumer, self.cluster.names.of(self.topic), self.partition, from)?;
        (self.at, self.next) = (Some(from), Some(from));
        Ok(())
    }

    /// The next record for `batch`, or the stash; whether one came.
    fn receive(&mut self, timeout: Duration, batch: Option<&mut RecordBatch>) -> bool {
        // A message lives as long as its consumer's borrow, so the fields are taken apart.
        let Self { consumer, next, stash, at_end, .. } = self;
        let Some(expected) = *next else { return false };
        let error = match consumer.poll(timeout) {
            None => return false,
            Some(Ok(message)) => match take(&message, expected, batch.unwrap_or(stash)) {
                Ok(offset) => {
                    (*next, *at_end) = (Some(offset), false);
                    return true;
                }
                Err(error) => error,
            },
            Some(Err(KafkaError::PartitionEOF(_))) => {
                *at_end = true;
                return false;
            }
            Some(Err(error)) => match self.judge(&error) {
                None => return false,
                Some(error) => error,
            },
        };
        // Whatever it was, the consumer's position is no longer known.
        (self.at, self.next, self.trouble) = (None, None, Some(error));
        false
    }

    /// What an error of the consumer means; `None` where librdkafka goes on by itself.
    fn judge(&self, error: &KafkaError) -> Option<Error> {
        let at = format!("{}/{}", self.topic.name(), self.partition);
        match error.rdkafka_error_code()? {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => Some(self.out_of_range()),
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId => {
                Some(Error::Diverged(format!("{at} does not exist any more. {REMEDY}")))
            }
            Code::BadMessage | Code::BadCompression => {
                Some(Error::Corrupt(format!("{at}: {error}; restore the partition's replica")))
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
                Some(unavailable(&format!("reading {at}"), error))
            }
            _ => None,
        }
    }

    fn out_of_range(&self) -> Error {
        let wanted = self.next.unwrap_or_default();
        let held = watermarks(&self.consumer, self.cluster.names.of(self.topic), self.partition);
        outside((self.topic, self.partition), wanted, held)
    }

    /// Waits for a record, the end of the partition or trouble.
    fn await_record(&mut self, timeout: Duration) {
        let until = Instant::now() + timeout;
        while self.stash.is_empty() && self.trouble.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if self.next.is_none() || left.is_zero() {
                return;
            }
            self.receive(left, None);
        }
    }
}

/// What it means that a broker had nothing at `wanted`, by what the partition holds a moment later.
/// Where it holds that offset again, or nobody says, records may have been lost and others have
/// come in their place: whoever went on would read those as if they followed.
fn outside(
    (topic, partition): (Topic, u32),
    wanted: Offset,
    held: Result<Range<Offset>, Error>,
) -> Error {
    let topic = topic.name();
    match held {
        Ok(Range { start, end }) if wanted < start || wanted > end => {
            Error::OutOfRange { topic, partition, wanted, start, end }
        }
        Ok(_) | Err(_) => Error::Changed(format!("{topic}/{partition}")),
    }
}

/// Takes a message into a batch; the position behind it.
fn take(
    message: &BorrowedMessage<'_>,
    expected: Offset,
    batch: &mut RecordBatch,
) -> Result<Offset, Error> {
    let offset = offset_of(message);
    if offset < expected {
        return Ok(expected);
    }
    let time_ms = append_time(message)?;
    batch.push(offset, time_ms, kind_of(message), message.payload().unwrap_or_default());
    Ok(offset + 1)
}

/// Places a consumer at an offset of one partition, and forgets what it had fetched.
pub(super) fn assign(
    consumer: &BaseConsumer<Watch>,
    topic: &str,
    partition: u32,
    from: Offset,
) -> Result<(), Error> {
    let outside = || Error::Refused(format!("no offset {from} in {topic}/{partition}"));
    let (number, raw) = (i32::try_from(partition), i64::try_from(from));
    let (Ok(number), Ok(raw)) = (number, raw) else { return Err(outside()) };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, number, rdkafka::Offset::Offset(raw))
        .and_then(|()| consumer.assign(&list))
        .map_err(|error| unavailable(&format!("placing a reader of {topic}"), &error))
}

/// The offsets that a partition holds, up to the last stable one.
pub(super) fn watermarks(
    consumer: &BaseConsumer<Watch>,
    topic: &str,
    partition: u32,
) -> Result<Range<Offset>, Error> {
    let number = i32::try_from(partition).unwrap_or(i32::MAX);
    let (start, end) = consumer
        .fetch_watermarks(topic, number, BOUNDS_WAIT)
        .map_err(|error| unavailable(&format!("asking for the end of {topic}"), &error))?;
    Ok(start.max(0).cast_unsigned()..end.max(0).cast_unsigned())
}

impl Log for PartitionReader {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        batch.clear();
        if let Some(error) = self.trouble.take() {
            return Err(error);
        }
        self.place(from)?;
        for record in self.stash.iter() {
            batch.push(record.offset, record.append_time_ms, record.kind, record.value);
        }
        self.stash.clear();
        let full =
            |batch: &RecordBatch| batch.bytes_len() >= bytes_max || batch.len() >= POLL_RECORDS_MAX;
        while !full(batch) && self.receive(Duration::ZERO, Some(batch)) {}
        if !batch.is_empty() && batch.bytes_len() < FILL_BYTES && !self.at_end {
            let until = Instant::now() + FILL_WAIT;
            while !full(batch) && batch.bytes_len() < FILL_BYTES && !self.at_end {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() || self.next.is_none() {
                    break;
                }
                self.receive(left, Some(batch));
            }
        }
        self.at = self.next;
        if let Some(last) = batch.last() {
            self.cluster.time.seen(last.append_time_ms);
            return Ok(());
        }
        match (self.trouble.take(), self.cluster.health.trouble()) {
            (Some(error), _) => Err(error),
            (None, Some(why)) => Err(Error::Unavailable(format!("kafka: {why}"))),
            (None, None) => Ok(()),
        }
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        match self.place(from) {
            Ok(()) => self.await_record(timeout),
            Err(error) => self.trouble = Some(error),
        }
    }

    fn now_ms(&self) -> Millis {
        self.cluster.time.now_ms()
    }

    fn tick(&mut self) -> Result<(), Error> {
        if let Some(next) = self.next {
            let unread = self.ticked.is_some_and(|ticked| ticked >= next);
            if unread || !self.at_end || !self.stash.is_empty() {
                // Not idle: there are records on their way, the last tick among them.
                self.await_record(TICK_WAIT);
                return Ok(());
            }
        }
        let (offset, time_ms) =
            self.cluster.appender.tick(self.cluster.names.of(self.topic), self.partition)?;
        self.cluster.time.stamped(time_ms);
        self.ticked = Some(offset);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The broker had nothing at 7.
    fn check(held: Result<Range<Offset>, Error>, expect: &str) {
        let error = outside((Topic::Traces, 3), 7, held);
        assert_eq!(error.to_string(), expect);
        assert!(error.needs_restart(), "{error}");
    }

    #[test]
    fn an_offset_that_was_not_there_is_never_gone_on_from() {
        let outside = "offset 7 of traces/3 is outside the log, which holds";
        check(Ok(8..20), &format!("{outside} 8 to 20"));
        check(Ok(0..6), &format!("{outside} 0 to 6"));
        // Truncated to 6, and grown since: what is at 7 now is another record.
        let changed = "traces/3 changed while it was read; what was applied is compared with it \
                       again";
        for held in [0..7, 0..8, 7..8, 0..900] {
            check(Ok(held), changed);
        }
        check(Err(Error::Unavailable("no broker".to_owned())), changed);
    }
}
