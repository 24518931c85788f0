//! The shared producer: traces that came in over HTTP, and ticks. Idempotent, in no transaction.
//!
//! **Invariant:** an append is answered once every record of it is on all in-sync replicas; what
//! fails or takes too long is unknown.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use trailproof_topology::input::{Millis, Offset};

use super::context::{Health, log_line, unavailable};
use super::message::{headers, offset_of};
use super::options::Options;
use crate::log::Error;

/// How long a delivery report may be late; librdkafka gives up before that.
const REPORT_WAIT: Duration = Duration::from_secs(40);

/// Pause before a full queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// What became of the records of one append.
#[derive(Debug, Default)]
struct Outcome {
    reported: usize,
    failed: Option<String>,
    last: Option<(Offset, Millis)>,
}

/// The reports of one append, as they come in.
#[derive(Debug, Default)]
pub(super) struct Reports {
    outcome: Mutex<Outcome>,
    grown: Condvar,
}

impl Reports {
    fn report(&self, result: &DeliveryResult<'_>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.reported += 1;
        match result {
            Ok(message) => {
                let time_ms = message.timestamp_ms();
                outcome.last = Some((offset_of(message), time_ms));
            }
            Err((error, _)) => outcome.failed = Some(error.to_string()),
        }
        self.grown.notify_all();
    }

    /// Waits until `count` records are reported; the last one's offset and time.
    fn wait(&self, count: usize, until: Instant) -> Result<Option<(Offset, Millis)>, Error> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        while outcome.reported < count {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Unavailable("kafka: no answer to an append".to_owned()));
            }
            let waited = self.grown.wait_timeout(outcome, left);
            outcome = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match &outcome.failed {
            Some(why) => Err(Error::Unavailable(format!("kafka: an append failed: {why}"))),
            None => Ok(outcome.last),
        }
    }
}

/// The broker's time of a delivered message.
trait TimestampMs {
    fn timestamp_ms(&self) -> Millis;
}

impl TimestampMs for rdkafka::message::BorrowedMessage<'_> {
    fn timestamp_ms(&self) -> Millis {
        use rdkafka::message::Message as _;
        self.timestamp().to_millis().unwrap_or_default()
    }
}

/// Passes reports to whoever waits for them.
struct Deliver(Arc<Health>);

impl ClientContext for Deliver {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.failed(&error, reason);
    }
}

impl ProducerContext for Deliver {
    type DeliveryOpaque = Arc<Reports>;

    fn delivery(&self, result: &DeliveryResult<'_>, reports: Arc<Reports>) {
        if result.is_ok() {
            self.0.answered();
        }
        reports.report(result);
    }
}

/// Appends without a transaction.
pub(super) struct Appender {
    producer: ThreadedProducer<Deliver>,
}

impl Appender {
    /// Makes the producer; it connects by itself.
    ///
    /// # Errors
    /// [`Error::Refused`]: librdkafka does not take the options.
    pub(super) fn new(options: &Options, health: Arc<Health>) -> Result<Self, Error> {
        let producer = options
            .producer()
            .create_with_context(Deliver(health))
            .map_err(|error| Error::Refused(format!("kafka: the producer's options: {error}")))?;
        Ok(Self { producer })
    }

    /// Appends records of one topic and waits for all of them.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: each of them is unknown.
    pub(super) fn append(&self, topic: &str, appends: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        let (reports, until) = (Arc::new(Reports::default()), Instant::now() + REPORT_WAIT);
        let mut sent = 0;
        for (partition, values) in appends {
            for value in values {
                let record = BaseRecord::with_opaque_to(topic, Arc::clone(&reports))
                    .partition(i32::try_from(*partition).unwrap_or(i32::MAX))
                    .payload(*value);
                self.send(record, until)?;
                sent += 1;
            }
        }
        reports.wait(sent, until).map(|_| ())
    }

    /// Appends a tick; its offset and the broker's time.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(super) fn tick(&self, topic: &str, partition: u32) -> Result<(Offset, Millis), Error> {
        let (reports, until) = (Arc::new(Reports::default()), Instant::now() + REPORT_WAIT);
        let mark = [("trailproof".to_owned(), "tick".to_owned())];
        let mut record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(topic, Arc::clone(&reports))
                .partition(i32::try_from(partition).unwrap_or(i32::MAX))
                .payload(&[]);
        record.headers = Some(headers(&mark));
        self.send(record, until)?;
        let last = reports.wait(1, until)?;
        last.ok_or_else(|| Error::Unavailable("kafka: a tick was not reported".to_owned()))
    }

    /// Hands a record to librdkafka, once its queue has room.
    fn send(
        &self,
        record: BaseRecord<'_, [u8], [u8], Arc<Reports>>,
        until: Instant,
    ) -> Result<(), Error> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < until =>
                {
                    record = back;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err((error, _)) => return Err(unavailable("appending", &error)),
            }
        }
    }

    /// Asks a broker for anything; whether one answered.
    pub(super) fn probe(&self, topic: &str, timeout: Duration) -> bool {
        self.producer.client().fetch_metadata(Some(topic), timeout).is_ok()
    }
}
