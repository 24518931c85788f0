//! Effects: what a stage wants done to the world, complete to the last byte.
//!
//! An effect is a row of the outbox, committed with the position that caused it and delivered
//! afterwards, in order within its lane. Delivery decides nothing; the one thing learnt there is
//! size and SHA-256 of a trace file's stored bytes, which completes its `files` record.
//!
//! Source: `docs/formats.md`, "Effects". Each row is a kind byte and JSON; kind bytes are never
//! reused.

use serde::{Deserialize, Serialize};

use crate::catalog::Compression;
use crate::input::{Millis, Offset};

/// How many lanes an outbox has.
pub const LANES: usize = 2;

/// A lane: its effects are delivered in order, and no lane waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Lane {
    /// Objects, and the `files` records that follow them.
    Objects = 0,
    /// Notifications, dead letters, log streams.
    Notify = 1,
}

impl Lane {
    /// Every lane, in order of its number.
    pub const ALL: [Self; LANES] = [Self::Objects, Self::Notify];
}

/// The topics Trailproof writes and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Producers' traces, ticks and catalog marks.
    Traces,
    /// One record per trace file, and per closed stretch of a `traces` partition.
    Files,
    /// Key-event notifications, CloudEvents 1.0.
    Notifications,
    /// Records that are no trace, raw.
    DeadLetters,
    /// Signed checkpoints of the digest chains.
    Checkpoints,
    /// Every version of the catalog.
    Catalog,
}

impl Topic {
    /// Every topic, in order of its number.
    pub const ALL: [Self; 6] = [
        Self::Traces,
        Self::Files,
        Self::Notifications,
        Self::DeadLetters,
        Self::Checkpoints,
        Self::Catalog,
    ];

    /// The topic's name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Files => "files",
            Self::Notifications => "notifications",
            Self::DeadLetters => "dead-letters",
            Self::Checkpoints => "checkpoints",
            Self::Catalog => "catalog",
        }
    }
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutRecord {
    /// Where to.
    pub topic: Topic,
    /// The partition; `None` lets the key's hash choose.
    pub partition: Option<u32>,
    /// The record's key.
    #[serde(with = "base64_bytes")]
    pub key: Vec<u8>,
    /// Headers in order: name and value.
    pub headers: Vec<(String, String)>,
    /// The record's value.
    #[serde(with = "base64_bytes")]
    pub value: Vec<u8>,
}

/// A sealed segment on its way to the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFile {
    /// Tracker, as a hyphenated lower-case UUID.
    pub tracker: String,
    /// The tracker's name.
    pub tracker_name: String,
    /// Account that owns the tracker.
    pub account: String,
    /// Bucket of the object.
    pub bucket: String,
    /// Key of the object inside the bucket.
    pub object: String,
    /// How the file is compressed.
    pub compression: Compression,
    /// Whether its tracker was verified when it was made.
    #[serde(default)]
    pub verify: bool,
    /// Service of the segment, empty where the tracker does not sort by service.
    pub service: String,
    /// Start of the cycle.
    pub cycle_start_ms: Millis,
    /// End of the cycle, exclusive.
    pub cycle_end_ms: Millis,
    /// Input partition of topic `traces`.
    pub partition: u32,
    /// Offset of the first trace; also the segment's part.
    pub first_offset: Offset,
    /// Offset of the last trace.
    pub last_offset: Offset,
    /// Traces in the file.
    pub count: u64,
    /// Chunks of the segment: rows 0 to `chunks - 1`.
    pub chunks: u32,
    /// Uncompressed bytes of the file, brackets and separators included.
    pub raw_bytes: u64,
    /// Smallest event time.
    pub time_min_ms: Millis,
    /// Greatest event time.
    pub time_max_ms: Millis,
    /// RFC 6962 root over the traces, lower-case hex. The file's identity.
    pub root: String,
    /// Partition of topic `files` that its record goes to.
    pub files_partition: u32,
}

/// An object whose bytes are known: a digest, its note, a compatible digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesObject {
    /// Bucket of the object.
    pub bucket: String,
    /// Key of the object inside the bucket.
    pub object: String,
    /// The content before compression.
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
    /// Whether the stored bytes are the gzip of the content.
    pub gzip: bool,
    /// Object metadata: name and value, in order of name.
    pub metadata: Vec<(String, String)>,
}

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put a trace file, then publish its `files` record.
    Segment(Box<SegmentFile>),
    /// Put these objects.
    Objects(Vec<BytesObject>),
    /// Publish these records.
    Records(Vec<OutRecord>),
}

impl Effect {
    /// Encodes an outbox row: a kind byte, then JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Segment(file) => (1, serde_json::to_vec(file)),
            Self::Objects(objects) => (2, serde_json::to_vec(objects)),
            Self::Records(records) => (3, serde_json::to_vec(records)),
        };
        let mut row = vec![kind];
        row.extend_from_slice(&body.expect("effects have string keys, so they always serialise"));
        row
    }

    /// Decodes an outbox row; `None` where it is damaged.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let (kind, body) = row.split_first()?;
        match kind {
            1 => serde_json::from_slice(body).ok().map(Self::Segment),
            2 => serde_json::from_slice(body).ok().map(Self::Objects),
            3 => serde_json::from_slice(body).ok().map(Self::Records),
            _ => None,
        }
    }
}

mod base64_bytes {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
