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
//! Kafka may lose how a transaction ended where a partition has no leader for a moment: its records
//! are then neither committed nor aborted, and go the way of the producer's next transaction there.
//! So nobody begins one before `settle` has looked.
//!
//! **Invariant:** a record whose offset is not known is never committed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientContext, TopicPartitionList};
use trailproof_topology::effect::OutRecord;
use trailproof_topology::input::Offset;

use super::context::{Health, log_line};
use super::message::{header, headers};
use super::options::{Names, Options};
use super::said::{Output, Said, note};
use crate::log::Error;

/// How long one call may wait for the coordinator.
const CALL_WAIT: Duration = Duration::from_secs(5);

/// How long taking an id over may take: the one before may be in mid-transaction.
const INIT_BUDGET: Duration = Duration::from_secs(30);

/// How long a commit or an abort is called again.
const END_BUDGET: Duration = Duration::from_secs(30);

/// Pause between two looks for reports.
const REPORT_PAUSE: Duration = Duration::from_micros(500);

/// Header of every record of a transaction: the id of the producer that wrote it.
pub(super) const PRODUCER: &str = "trailproof-producer";

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

/// What became of the records of the open transaction.
#[derive(Default)]
struct Reports {
    failed: Option<String>,
    /// Which record got which offset.
    written: Vec<(usize, Offset)>,
}

/// Takes the reports in.
struct Deliveries {
    health: Arc<Health>,
    reports: Mutex<Reports>,
}

impl Deliveries {
    fn take(&self) -> Reports {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => reports.written.push((number, offset)),
                Err(_) => _ = reports.failed.get_or_insert("written nobody knows where".to_owned()),
            },
            Err((error, _)) => _ = reports.failed.get_or_insert(error.to_string()),
        }
    }
}

/// A producer that owns its transactional id.
pub(super) struct Transactional {
    id: String,
    names: Names,
    producer: BaseProducer<Deliveries>,
    /// How long records may take to be written: as long as the coordinator lets a transaction live.
    /// librdkafka gives each of them up a little earlier, after `message.timeout.ms`.
    write_budget: Duration,
}

/// A record and its place.
pub(super) struct Placed<'a> {
    pub(super) output: Output,
    pub(super) record: &'a OutRecord,
}

/// Offsets to commit, as this member of the group.
pub(super) type Offsets = (TopicPartitionList, ConsumerGroupMetadata);

/// What one transaction is to do.
pub(super) struct Work<'a> {
    pub(super) records: &'a [Placed<'a>],
    /// The offsets to commit, if any, now that it is known where the records are.
    pub(super) offsets: &'a dyn Fn(&Said) -> Result<Option<Offsets>, Error>,
    /// Stops it, in tests.
    pub(super) crash: Option<&'a Crash>,
}

impl Transactional {
    /// Takes the id over: whoever had it is fenced, and its open transaction is ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] (later), [`Error::Refused`]: not allowed, or the options are wrong.
    pub(super) fn take_over(
        options: &Options,
        id: &str,
        health: &Arc<Health>,
    ) -> Result<Self, Error> {
        let context = Deliveries { health: Arc::clone(health), reports: Mutex::default() };
        let producer: BaseProducer<Deliveries> = options
            .transactional(id)
            .create_with_context(context)
            .map_err(|error| Error::Refused(format!("kafka: the producer of {id}: {error}")))?;
        let write_budget = options.transaction_timeout();
        let own = Self { id: id.to_owned(), names: Names::new(options), producer, write_budget };
        let until = Instant::now() + INIT_BUDGET;
        loop {
            let Err(error) = own.producer.init_transactions(CALL_WAIT) else { return Ok(own) };
            own.producer.poll(Duration::ZERO);
            if !retriable(&error) || Instant::now() >= until {
                return Err(not_taken_over(id, error.rdkafka_error_code(), &text(&error)));
            }
        }
    }

    /// Runs one transaction from beginning to end; where its records are.
    pub(super) fn run(&self, work: &Work<'_>) -> Result<Said, Trouble> {
        self.begin()?;
        self.crash(work, Step::Begun)?;
        self.send_all(work.records)?;
        self.crash(work, Step::Produced)?;
        let said = self.flush(work.records)?;
        self.crash(work, Step::Flushed)?;
        match (work.offsets)(&said) {
            Ok(None) => {}
            Ok(Some((offsets, group))) => {
                self.send_offsets(&offsets, &group)?;
                self.crash(work, Step::OffsetsSent)?;
            }
            Err(error) => return Err(self.abort(Trouble::Aborted(error.to_string()))),
        }
        self.commit()?;
        self.crash(work, Step::Committed)?;
        Ok(said)
    }

    /// Writes records and aborts them, and with them whatever of this id is open in their
    /// partitions; where they are.
    pub(super) fn run_aborted(&self, records: &[Placed<'_>]) -> Result<Said, Trouble> {
        self.begin()?;
        self.send_all(records)?;
        let said = self.flush(records)?;
        match self.abort(Trouble::Aborted(String::new())) {
            Trouble::Aborted(_) => Ok(said),
            trouble => Err(trouble),
        }
    }

    fn begin(&self) -> Result<(), Trouble> {
        self.producer.context().take();
        self.producer.begin_transaction().map_err(|error| self.judge(&error))
    }

    fn crash(&self, work: &Work<'_>, step: Step) -> Result<(), Trouble> {
        match work.crash {
            Some(crash) if crash(step) => Err(Trouble::Broken(format!("stopped after {step:?}"))),
            _ => Ok(()),
        }
    }

    fn send_all(&self, records: &[Placed<'_>]) -> Result<(), Trouble> {
        records.iter().enumerate().try_for_each(|(number, placed)| self.send(number, placed))
    }

    fn send(&self, number: usize, placed: &Placed<'_>) -> Result<(), Trouble> {
        let (topic, partition) = placed.output;
        let (topic, record) = (self.names.of(topic), placed.record);
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, number)
                .partition(i32::try_from(partition).unwrap_or(i32::MAX))
                .payload(&record.value);
        if !record.key.is_empty() {
            message = message.key(&record.key);
        }
        message.headers = Some(headers(&record.headers).insert(header(PRODUCER, &self.id)));
        let until = Instant::now() + self.write_budget;
        loop {
            let (error, back) = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            message = back;
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) if Instant::now() < until => {
                    self.take_reports();
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

    /// Waits until every record is on the brokers, and where. The crate's own flush does so in
    /// steps of 100 ms.
    fn flush(&self, records: &[Placed<'_>]) -> Result<Said, Trouble> {
        let until = Instant::now() + self.write_budget;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= until {
                return Err(self.abort(Trouble::Aborted("records were not written".to_owned())));
            }
            self.take_reports();
        }
        let Reports { failed, written } = self.producer.context().take();
        let unknown = || "not every record was reported".to_owned();
        let failed = failed.or_else(|| (written.len() != records.len()).then(unknown));
        if let Some(why) = failed {
            return Err(self.fatal().unwrap_or_else(|| self.abort(Trouble::Aborted(why))));
        }
        let mut said = Said::new();
        for (number, offset) in written {
            if let Some(placed) = records.get(number) {
                note(&mut said, placed.output, offset);
            }
        }
        Ok(said)
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
                    self.take_reports();
                }
                Err(error) => {
                    let why = format!("{after:?}, and it cannot be aborted: {}", text(&error));
                    return self.fatal().unwrap_or(Trouble::Broken(why));
                }
            }
        }
    }

    /// Takes the reports that are there, and leaves a moment for more. The crate's own wait of less
    /// than two milliseconds is a loop that never rests.
    fn take_reports(&self) {
        self.producer.poll(Duration::ZERO);
        std::thread::sleep(REPORT_PAUSE);
    }
}

fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(inner) => inner.string(),
        other => other.to_string(),
    }
}

/// Why an id could not be taken over.
fn not_taken_over(id: &str, code: Option<Code>, text: &str) -> Error {
    match code {
        Some(Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            Error::Refused(format!(
                "kafka: taking over {id}: {text}: allow this user Write and Describe on \
                 transactional ids that begin with the group's name"
            ))
        }
        _ => Error::Unavailable(format!("kafka: taking over {id}: {text}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_take_an_id_over_is_not_told_to_wait() {
        for code in [Code::TransactionalIdAuthorizationFailed, Code::ClusterAuthorizationFailed] {
            let refused = not_taken_over("g/record/0", Some(code), "not allowed");
            assert!(matches!(&refused, Error::Refused(why) if why.contains("g/record/0")));
        }
        for code in [None, Some(Code::OperationTimedOut), Some(Code::CoordinatorLoadInProgress)] {
            let passing = not_taken_over("g/record/0", code, "no answer");
            assert!(matches!(passing, Error::Unavailable(_)), "{passing}");
        }
    }
}
