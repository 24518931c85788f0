//! The log on Apache Kafka: topics of a cluster, shared out by a consumer group.
//!
//! **Invariant:** positions come from the state, never from the group.

#[expect(dead_code, reason = "the clients that use it follow")]
mod options;

pub use self::options::{OptionError, Options, is_secret};
