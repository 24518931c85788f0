//! The log on a real Apache Kafka, which the tests start and stop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "kafka/broken.rs"]
mod broken;
#[path = "kafka/conformance.rs"]
mod conformance;
#[path = "conformance/log.rs"]
mod log;
#[path = "kafka/members.rs"]
mod members;
#[path = "kafka/namesake.rs"]
mod namesake;
#[path = "kafka/reading.rs"]
mod reading;
#[path = "kafka/secured.rs"]
mod secured;
#[path = "kafka/support.rs"]
mod support;
#[path = "kafka/topics.rs"]
mod topics;
#[path = "kafka/transactions.rs"]
mod transactions;
