//! Reads that are no worker's: an operator's, the catalog's history, the ends of partitions.
//!
//! **Invariant:** at most [`IDLE_MAX`] consumers wait for the next read; none is shared by two.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use trailproof_topology::effect::Topic;
use trailproof_topology::input::Offset;

use super::context::{Health, Watch, unavailable};
use super::message::stored;
use super::options::{Names, Options};
use super::reader::{assign, watermarks};
use crate::log::Error;
use crate::log::broker::{ReadLimits, StoredRecord};

/// Consumers kept for the next read.
const IDLE_MAX: usize = 2;

/// How long one read may take.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Consumers for reads of any partition.
pub(super) struct Readers {
    options: Arc<Options>,
    names: Names,
    health: Arc<Health>,
    idle: Mutex<Vec<BaseConsumer<Watch>>>,
}

impl Readers {
    pub(super) fn new(options: Arc<Options>, health: Arc<Health>) -> Self {
        Self { names: Names::new(&options), options, health, idle: Mutex::new(Vec::new()) }
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
                config
                    .create_with_context(Watch(Arc::clone(&self.health)))
                    .map_err(|error| unavailable("making a reader", &error))?
            }
        };
        let result = work(&consumer);
        // One that failed may be anywhere; another is made next time.
        if result.is_ok() && consumer.unassign().is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(consumer);
            }
        }
        result
    }

    /// The offsets that a partition holds, up to the last stable one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(super) fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        self.with(|consumer| watermarks(consumer, self.names.of(topic), partition))
    }

    /// Reads committed records from `from` on.
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
