//! What a Kafka message is to Trailproof: its time, its kind, its headers.
//!
//! **Invariant:** no message, whoever wrote it, makes this process panic or stop for good.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use trailproof_topology::input::{Millis, Offset};

use crate::log::broker::StoredRecord;
use crate::log::{Error, Kind};

/// Headers that are looked at; a record of ours has at most a handful.
const HEADERS_MAX: usize = 64;

/// A message's offset; librdkafka has none below 0 where a message was read.
pub(super) fn offset_of(message: &BorrowedMessage<'_>) -> Offset {
    message.offset().max(0).cast_unsigned()
}

/// When the broker appended it.
///
/// # Errors
/// [`Error::Refused`] where the topic lets producers say.
pub(super) fn append_time(message: &BorrowedMessage<'_>) -> Result<Millis, Error> {
    match message.timestamp() {
        Timestamp::LogAppendTime(time_ms) => Ok(time_ms),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => Err(Error::Refused(format!(
            "record {} of {}/{} has its producer's time; it was written before the topic had \
             message.timestamp.type=LogAppendTime. Give Trailproof a topic of its own, or delete \
             the records up to there with kafka-delete-records.sh",
            message.offset(),
            message.topic(),
            message.partition()
        ))),
    }
}

/// What its header says it is. Almost every message has none, and then this costs one call.
pub(super) fn kind_of(message: &BorrowedMessage<'_>) -> Kind {
    if message.headers().is_none_or(|headers| headers.count() == 0) {
        return Kind::Data;
    }
    let mut headers = headers_of(message).into_iter();
    let own = headers.find(|(name, _)| name == "trailproof");
    Kind::of_header(own.as_ref().map(|(_, text)| text.as_bytes()))
}

/// Its headers as text; what is no UTF-8 is shown with replacement characters.
fn headers_of(message: &BorrowedMessage<'_>) -> Vec<(String, String)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let one = |index: usize| -> (String, String) {
        // The crate panics at a name that is no UTF-8, which anybody can write.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let Header { key, value } = headers.try_get(index)?;
            let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            Some((key.to_owned(), text))
        }));
        read.ok().flatten().unwrap_or_else(|| ("\u{fffd}".to_owned(), String::new()))
    };
    (0..headers.count().min(HEADERS_MAX)).map(one).collect()
}

/// The whole of it, for an operator. A time of the producer's is shown as it is.
pub(super) fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    StoredRecord {
        offset: offset_of(message),
        append_time_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().unwrap_or_default().to_vec(),
        headers: headers_of(message),
        value: message.payload().unwrap_or_default().to_vec(),
    }
}

/// Headers to write.
pub(super) fn headers(pairs: &[(String, String)]) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(pairs.len() + 1);
    pairs.iter().fold(empty, |headers, (name, text)| headers.insert(header(name, text)))
}

/// One header to write.
pub(super) fn header<'a>(name: &'a str, text: &'a str) -> Header<'a, &'a [u8]> {
    Header { key: name, value: Some(text.as_bytes()) }
}
