//! One transactional producer, and what its errors mean.
//!
//! | librdkafka says | outcome | what follows |
//! | --- | --- | --- |
//! | done | known | |
//! | retriable, or no answer to a commit | unknown | the same call again, within a budget |
//! | requires abort | not committed | abort; later |
//! | fenced, by its epoch | another has the id, or a slow transaction was ended | [`Trouble::Fenced`] |
//! | fatal, or the budget is spent | unknown | a new producer finds out |
//!
//! **Invariant:** after [`Trouble::Aborted`] the transaction has left nothing behind; after any
//! other trouble only a new producer's `init` and the group's offsets tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientContext, TopicPartitionList};
use trailproof_topology::effect::OutRecord;

use super::context::{Health, log_line};
use super::message::headers;
use super::options::Options;
use crate::log::Error;

/// How long one call may wait for the coordinator.
const CALL_WAIT: Duration = Duration::from_secs(5);

/// How long taking an id over may take: the one before may be in mid-transaction.
const INIT_BUDGET: Duration = Duration::from_secs(30);

/// How long records may take to be written; less than the transaction's own timeout.
const FLUSH_BUDGET: Duration = Duration::from_secs(20);

/// How long a commit or an abort is called again.
const END_BUDGET: Duration = Duration::from_secs(30);

/// How long one poll for reports takes; it does not return before that.
const REPORT_POLL: Duration = Duration::from_millis(1);

/// Why a transaction did not come about.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was aborted; the producer is as good as before.
    Aborted(String),
    /// A record will never be taken; it was aborted.
    Refused(String),
    /// Its outcome may be unknown; the producer is of no use any more.
    Broken(String),
    /// As broken, and another producer may have the id now.
    Fenced(String),
}

/// Steps of a transaction, for tests that stop there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begun; nothing is sent.
    Begun,
    /// All records are handed over.
    Produced,
    /// All records are on the brokers.
    Flushed,
    /// So are the offsets.
    OffsetsSent,
    /// Committed, and nobody was told.
    Committed,
}

/// Called after each step; `true` stops there, as a crash would. For tests.
pub type Crash = Arc<dyn Fn(Step) -> bool + Send + Sync>;

/// Failed deliveries of the open transaction.
struct Deliveries {
    health: Arc<Health>,
    failed: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.failed(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error.to_string());
        }
    }
}

/// A producer that owns its transactional id.
pub(super) struct Transactional {
    producer: BaseProducer<Deliveries>,
}

/// What one transaction is to do.
pub(super) struct Work<'a> {
    /// Records with their topics' names and partitions.
    pub(super) records: &'a [(&'a str, u32, &'a OutRecord)],
    /// Offsets to commit, if any, as this member of the group.
    pub(super) offsets: Option<(TopicPartitionList, ConsumerGroupMetadata)>,
    /// Stops it, in tests.
    pub(super) crash: Option<&'a Crash>,
}

impl Transactional {
    /// Takes the id over: whoever had it is fenced, and its open transaction is ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later), [`Error::Refused`]: not allowed.
    pub(super) fn take_over(
        options: &Options,
        id: &str,
        health: &Arc<Health>,
    ) -> Result<Self, Error> {
        let context = Deliveries { health: Arc::clone(health), failed: Mutex::new(None) };
        let producer: BaseProducer<Deliveries> = options
            .transactional(id)
            .create_with_context(context)
            .map_err(|error| Error::Refused(format!("kafka: the producer of {id}: {error}")))?;
        let own = Self { producer };
        let until = Instant::now() + INIT_BUDGET;
        loop {
            let Err(error) = own.producer.init_transactions(CALL_WAIT) else { return Ok(own) };
            own.producer.poll(Duration::ZERO);
            if !retriable(&error) || Instant::now() >= until {
                let text = text(&error);
                return Err(Error::Unavailable(format!("kafka: taking over {id}: {text}")));
            }
        }
    }

    /// Runs one transaction from beginning to end.
    pub(super) fn run(&self, work: &Work<'_>) -> Result<(), Trouble> {
        *self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.producer.begin_transaction().map_err(|error| self.judge(&error))?;
        self.crash(work, Step::Begun)?;
        for (topic, partition, record) in work.records {
            self.send(topic, *partition, record)?;
        }
        self.crash(work, Step::Produced)?;
        self.flush()?;
        self.crash(work, Step::Flushed)?;
        if let Some((offsets, group)) = &work.offsets {
            self.send_offsets(offsets, group)?;
            self.crash(work, Step::OffsetsSent)?;
        }
        self.commit()?;
        self.crash(work, Step::Committed)
    }

    fn crash(&self, work: &Work<'_>, step: Step) -> Result<(), Trouble> {
        match work.crash {
            Some(crash) if crash(step) => Err(Trouble::Broken(format!("stopped after {step:?}"))),
            _ => Ok(()),
        }
    }

    fn send(&self, topic: &str, partition: u32, record: &OutRecord) -> Result<(), Trouble> {
        let mut message: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .payload(&record.value);
        if !record.key.is_empty() {
            message = message.key(&record.key);
        }
        message.headers = headers(&record.headers);
        let until = Instant::now() + FLUSH_BUDGET;
        loop {
            let (error, back) = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            message = back;
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) if Instant::now() < until => {
                    self.producer.poll(REPORT_POLL);
                }
                Some(Code::MessageSizeTooLarge) => {
                    let bytes = record.value.len();
                    let why = format!(
                        "a record of {bytes} bytes for {topic} is over kafka.message.max.bytes"
                    );
                    return Err(self.abort(Trouble::Refused(why)));
                }
                _ => return Err(self.judge(&error)),
            }
        }
    }

    /// Waits until every record is on the brokers. The crate's own flush does so in steps of
    /// 100 ms.
    fn flush(&self) -> Result<(), Trouble> {
        let until = Instant::now() + FLUSH_BUDGET;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= until {
                return Err(self.abort(Trouble::Aborted("records were not written".to_owned())));
            }
            self.producer.poll(REPORT_POLL);
        }
        let failed = self.producer.context().failed.lock();
        let failed = failed.unwrap_or_else(PoisonError::into_inner).take();
        match failed {
            None => Ok(()),
            Some(why) => Err(self.fatal().unwrap_or_else(|| self.abort(Trouble::Aborted(why)))),
        }
    }

    fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Trouble> {
        let until = Instant::now() + END_BUDGET;
        loop {
            match self.producer.send_offsets_to_transaction(offsets, group, CALL_WAIT) {
                Ok(()) => return Ok(()),
                Err(error) if retriable(&error) && Instant::now() < until => {}
                Err(error) => return Err(self.judge(&error)),
            }
        }
    }

    /// Commits; an answer that does not come is asked for again.
    fn commit(&self) -> Result<(), Trouble> {
        let until = Instant::now() + END_BUDGET;
        loop {
            match self.producer.commit_transaction(CALL_WAIT) {
                Ok(()) => return Ok(()),
                Err(error) if retriable(&error) && Instant::now() < until => {}
                Err(error) if retriable(&error) => {
                    return Err(Trouble::Broken(format!(
                        "no answer to a commit: {}",
                        text(&error)
                    )));
                }
                Err(error) => return Err(self.judge(&error)),
            }
        }
    }

    /// What an error means for the transaction; one that can be aborted is.
    fn judge(&self, error: &KafkaError) -> Trouble {
        let why = text(error);
        if let Some(trouble) = self.fatal() {
            return trouble;
        }
        match error {
            KafkaError::Transaction(inner) if fences(inner.code()) => Trouble::Fenced(why),
            KafkaError::Transaction(inner) if inner.is_fatal() => Trouble::Broken(why),
            _ => self.abort(Trouble::Aborted(why)),
        }
    }

    /// The producer's fatal error, if it has one.
    fn fatal(&self) -> Option<Trouble> {
        let (code, why) = self.producer.client().fatal_error()?;
        Some(if fences(code) { Trouble::Fenced(why) } else { Trouble::Broken(why) })
    }

    /// Aborts; what is to be said after it.
    fn abort(&self, after: Trouble) -> Trouble {
        let until = Instant::now() + END_BUDGET;
        loop {
            match self.producer.abort_transaction(CALL_WAIT) {
                Ok(()) => return after,
                Err(error) if retriable(&error) && Instant::now() < until => {
                    self.producer.poll(REPORT_POLL);
                }
                Err(error) => {
                    let why = format!("{after:?}, and it cannot be aborted: {}", text(&error));
                    return self.fatal().unwrap_or(Trouble::Broken(why));
                }
            }
        }
    }
}

fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(inner) => inner.string(),
        other => other.to_string(),
    }
}

/// Whether the same call is to be made again.
fn retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(inner) => inner.is_retriable() && !inner.txn_requires_abort(),
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}

/// Whether a code says that the id has another epoch now.
fn fences(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
    )
}
