//! What the clients' callbacks learn: log lines, and whether the brokers can be reached.
//!
//! **Invariant:** a line of librdkafka goes to the log of this process, never to standard error.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::Error;

/// Whether the brokers can be reached, as all clients of the process see it.
#[derive(Debug, Default)]
pub(super) struct Health {
    down: Mutex<Option<String>>,
    /// What the last connection that broke broke at.
    broken: Mutex<Option<String>>,
}

impl Health {
    /// Why no broker can be reached; `None` while one can.
    pub(super) fn trouble(&self) -> Option<String> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the last connection broke, such as a wrong password; for a call that knows no more than
    /// that time is up.
    pub(super) fn last_break(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_break(&self, facility: &str, line: &str) {
        if facility == "FAIL" {
            // The thread's name in front says nothing to anybody.
            let why = line.split_once("]: ").map_or(line, |(_, why)| why);
            *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        }
    }

    /// Notes that a broker answered.
    pub(super) fn answered(&self) {
        let before = self.down.lock().unwrap_or_else(PoisonError::into_inner).take();
        if before.is_some() {
            tracing::info!("a Kafka broker answers again");
        }
    }

    /// Notes an error that a client reports of itself.
    pub(super) fn failed(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication};
        if !matches!(error.rdkafka_error_code(), Some(AllBrokersDown | Authentication)) {
            tracing::debug!(%error, reason, "kafka");
            return;
        }
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if down.is_none() {
            tracing::warn!(reason, "no Kafka broker can be reached");
        }
        *down = Some(reason.to_owned());
    }
}

/// The context of every client that has no callbacks of its own.
#[derive(Clone)]
pub(super) struct Watch(pub(super) Arc<Health>);

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.note_break(facility, line);
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.failed(&error, reason);
    }
}

impl ConsumerContext for Watch {}

/// Passes a line of librdkafka on.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    // An option of consumers given to a producer is no mistake: all clients share them. And a
    // broker that is away is told of once, by `Health`.
    let quiet = ["CONFWARN", "FAIL", "ERROR", "SESSTMOUT", "REQTMOUT", "TERMINATE"];
    if quiet.contains(&facility) || level as i32 > RDKafkaLogLevel::Warning as i32 {
        tracing::debug!(facility, "librdkafka: {line}");
    } else {
        tracing::warn!(facility, "librdkafka: {line}");
    }
}

/// An error that passes, of what was being done.
pub(super) fn unavailable(what: &str, error: &KafkaError) -> Error {
    let text = match error {
        KafkaError::Transaction(inner) => inner.string(),
        other => other.to_string(),
    };
    Error::Unavailable(format!("kafka: {what}: {text}"))
}
