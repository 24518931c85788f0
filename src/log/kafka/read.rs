//! Reads that are no worker's: an operator's, the catalog's history, the ends of partitions.
//!
//! **Invariant:** a consumer is used by one read at a time; a bounded number waits for the next.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use super::context::{Health, Watch, unavailable};
use super::message::stored;
use super::options::{Names, Options};
use super::reader::{assign, watermarks};
use super::said::Output;
use crate::log::Error;
use crate::log::broker::{ReadLimits, StoredRecord};

/// How long one read may take.
const READ_WAIT: Duration = Duration::from_secs(10);

/// How long the brokers may take to say where partitions end.
const ENDS_WAIT: Duration = Duration::from_secs(5);

/// What readers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// What is committed, up to the first open transaction.
    Committed,
    /// Every record, up to the end.
    Raw,
}

/// Consumers for reads of any partition.
pub(super) struct Readers {
    options: Arc<Options>,
    names: Names,
    health: Arc<Health>,
    view: View,
    /// Consumers kept for the next read.
    idle_max: usize,
    idle: Mutex<Vec<BaseConsumer<Watch>>>,
}

impl Readers {
    pub(super) fn new(options: &Arc<Options>, health: &Arc<Health>, view: View) -> Self {
        Self {
            options: Arc::clone(options),
            names: Names::new(options),
            health: Arc::clone(health),
            view,
            // The other view is looked at when a partition comes, and hardly ever else.
            idle_max: if view == View::Committed { 2 } else { 1 },
            idle: Mutex::new(Vec::new()),
        }
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&BaseConsumer<Watch>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let consumer = match idle {
            Some(consumer) => consumer,
            None => {
                let mut config = self.options.reader();
                // Somebody waits, and the end is soon reached.
                config.set("fetch.wait.max.ms", "10");
                if self.view == View::Raw {
                    config.set("isolation.level", "read_uncommitted");
                }
                config
                    .create_with_context(Watch(Arc::clone(&self.health)))
                    .map_err(|error| unavailable("making a reader", &error))?
            }
        };
        let result = work(&consumer);
        // One that failed may be anywhere; another is made next time.
        if result.is_ok() && consumer.unassign().is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.idle_max {
                idle.push(consumer);
            }
        }
        result
    }

    /// Where partitions end in this view.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(super) fn ends<'a>(
        &self,
        outputs: impl IntoIterator<Item = &'a Output>,
    ) -> Result<BTreeMap<Output, Offset>, Error> {
        self.with(|consumer| ends(consumer, &self.names, outputs))
    }

    /// The offsets that a partition holds in this view.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(super) fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        self.with(|consumer| watermarks(consumer, self.names.of(topic), partition))
    }

    /// Reads records of this view from `from` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Unavailable`].
    pub(super) fn read(
        &self,
        (topic, partition): (Topic, u32),
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.with(|consumer| {
            let held = watermarks(consumer, self.names.of(topic), partition)?;
            if from < held.start || from > held.end {
                return Err(Error::OutOfRange {
                    topic: topic.name(),
                    partition,
                    wanted: from,
                    start: held.start,
                    end: held.end,
                });
            }
            if from == held.end || limits.records == 0 {
                return Ok(Vec::new());
            }
            assign(consumer, self.names.of(topic), partition, from)?;
            drain(consumer, from, held.end, limits)
        })
    }
}

/// Where partitions end, all asked at once.
///
/// # Errors
/// [`Error::Unavailable`].
pub(super) fn ends<'a>(
    consumer: &BaseConsumer<Watch>,
    names: &Names,
    outputs: impl IntoIterator<Item = &'a Output>,
) -> Result<BTreeMap<Output, Offset>, Error> {
    let failed = |error: KafkaError| unavailable("asking for the ends of partitions", &error);
    let (mut list, mut asked) = (TopicPartitionList::new(), Vec::new());
    for output in outputs {
        let number = i32::try_from(output.1).unwrap_or(i32::MAX);
        let wanted = rdkafka::Offset::End;
        list.add_partition_offset(names.of(output.0), number, wanted).map_err(failed)?;
        asked.push(*output);
    }
    let found = consumer.offsets_for_times(list, ENDS_WAIT).map_err(failed)?;
    let mut ends = BTreeMap::new();
    for (topic, partition) in asked {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let Some(one) = found.find_partition(names.of(topic), number) else { continue };
        one.error().map_err(failed)?;
        let end = one.offset().to_raw().and_then(|raw| Offset::try_from(raw).ok());
        let end = end.ok_or_else(|| Error::Unavailable("kafka: no end of a partition".into()))?;
        ends.insert((topic, partition), end);
    }
    Ok(ends)
}

/// Everything up to `end`, a limit, or the end of the partition.
fn drain(
    consumer: &BaseConsumer<Watch>,
    from: Offset,
    end: Offset,
    limits: ReadLimits,
) -> Result<Vec<StoredRecord>, Error> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    let until = Instant::now() + READ_WAIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) => {
                let record = stored(&message);
                if record.offset < from {
                    continue;
                }
                bytes += record.value.len();
                let last = record.offset + 1 >= end;
                records.push(record);
                if last || records.len() >= limits.records || bytes >= limits.bytes {
                    return Ok(records);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(records),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AllBrokersDown | Code::BrokerTransportFailure) => {}
                _ => return Err(unavailable("reading", &error)),
            },
            None if left.is_zero() && records.is_empty() => {
                return Err(Error::Unavailable("kafka: no answer to a read".to_owned()));
            }
            None if left.is_zero() => return Ok(records),
            None => {}
        }
    }
}
