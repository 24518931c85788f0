//! Any object store, with its calls counted and timed.

use std::sync::Arc;
use std::time::Instant;

use super::{Error, Found, Metadata, Object, ObjectStore, Put};
use crate::metrics::{self, Metrics};

/// A store whose calls are told to the metrics.
pub struct Measured<S> {
    store: S,
    metrics: Arc<Metrics>,
}

impl<S: ObjectStore> Measured<S> {
    /// Wraps a store.
    pub fn new(store: S, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    fn tell<T>(
        &self,
        operation: &'static str,
        outcome: impl FnOnce(&T) -> &'static str,
        call: impl FnOnce(&S) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let answer = call(&self.store);
        let outcome = match &answer {
            Ok(answer) => outcome(answer),
            Err(Error::Unavailable(_)) => "unavailable",
            Err(Error::Refused(_)) => "refused",
        };
        let labels = [("operation", operation), ("outcome", outcome)];
        self.metrics.counter(metrics::OBJECT_REQUESTS, &labels).increment(1);
        let seconds = self.metrics.histogram(metrics::OBJECT_SECONDS, &labels[..1]);
        seconds.record(begun.elapsed());
        answer
    }
}

impl<S: ObjectStore> ObjectStore for Measured<S> {
    fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<Put, Error> {
        let outcome = |put: &Put| match put {
            Put::Created => "created",
            Put::Exists => "exists",
        };
        self.tell("put", outcome, |store| store.put(bucket, key, bytes, metadata))
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, Error> {
        let outcome = |found: &Option<Object>| if found.is_some() { "found" } else { "absent" };
        self.tell("get", outcome, |store| store.get(bucket, key))
    }

    fn get_at_most(&self, bucket: &str, key: &str, bytes_max: u64) -> Result<Found, Error> {
        let outcome = |found: &Found| match found {
            Found::Absent => "absent",
            Found::Longer(_) | Found::Object(_) => "found",
        };
        self.tell("get", outcome, |store| store.get_at_most(bucket, key, bytes_max))
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<(), Error> {
        self.tell("list", |()| "found", |store| store.list(bucket, prefix, visit))
    }

    fn buckets(&self) -> Result<Vec<String>, Error> {
        self.tell("list", |_| "found", ObjectStore::buckets)
    }
}
